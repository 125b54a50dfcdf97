//! CPU time and wall time.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The clocks at one moment, or the seconds between two.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// CPU time of all threads.
    pub(crate) process: f64,
    /// CPU time of this thread.
    pub(crate) thread: f64,
    /// Wall time.
    pub(crate) wall: f64,
}

impl Reading {
    pub(crate) fn now() -> Self {
        Self {
            process: seconds(clock_gettime(ClockId::ProcessCPUTime)),
            thread: seconds(clock_gettime(ClockId::ThreadCPUTime)),
            wall: seconds(clock_gettime(ClockId::Monotonic)),
        }
    }

    pub(crate) fn elapsed(self) -> Self {
        let now = Self::now();
        Self {
            process: now.process - self.process,
            thread: now.thread - self.thread,
            wall: now.wall - self.wall,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a machine's uptime in seconds is far below 2^53")]
fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
