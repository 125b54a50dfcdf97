//! Workers yield to the training job.

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tracing::warn;

/// Puts the calling thread into `SCHED_IDLE`: it runs when nothing else wants the core. The kernel
/// derives the idle I/O class from it (`task_nice_ioclass`), so disks serve it last as well.
pub(super) fn lowest() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if let Err(error) =
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle)
    {
        warn!(?error, "worker keeps its priority: SCHED_IDLE refused");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_worker_thread_is_in_the_idle_class() {
        let stat = std::thread::spawn(|| {
            super::lowest();
            std::fs::read_to_string("/proc/thread-self/stat").unwrap()
        });
        let stat = stat.join().unwrap();
        // proc(5): the scheduling policy is field 41; what follows the name in brackets begins with
        // field 3. 5 is SCHED_IDLE.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(fields[41 - 3], "5", "{stat}");
    }
}
