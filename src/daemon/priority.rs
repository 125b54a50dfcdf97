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
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        warn!(?error, "worker keeps its priority: SCHED_IDLE refused");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_worker_thread_is_in_the_idle_class() {
        let policy = std::thread::spawn(|| {
            super::lowest();
            std::fs::read_to_string("/proc/thread-self/sched").ok().and_then(|text| {
                let line = text.lines().find(|l| l.starts_with("policy"))?;
                line.rsplit(':').next()?.trim().parse::<u32>().ok()
            })
        });
        // 5 is SCHED_IDLE. Kernels without scheduler statistics do not show it.
        if let Some(policy) = policy.join().unwrap() {
            assert_eq!(policy, 5);
        }
    }
}
