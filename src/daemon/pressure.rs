//! Whether the machine's tasks wait for disk or memory, and giving way when they do.
//!
//! The kernel counts the time in which some task is stalled (PSI, Linux 4.20). Our own reads are in
//! that count, so a high figure alone says nothing; but what is counted while we pause is the others'.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel tells it.
pub(super) const PROC: &str = "/proc/pressure";

/// How often it is asked at most.
const INTERVAL: Duration = Duration::from_millis(500);

/// A pause in which the others are watched. The kernel brings its counts up to date every two
/// seconds, also for those who ask.
const WINDOW: Duration = Duration::from_millis(2100);

/// Longest pause at a time: under lasting pressure work goes on, one stretch of a file between two
/// pauses.
const LONGEST: Duration = Duration::from_secs(30);

/// After a pause in which nobody else waited, the pressure was ours: there is none for this long.
const TRUST: Duration = Duration::from_secs(20);

/// What the kernel says of one resource.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stall {
    /// Part of the last ten seconds in which some task waited, 0 to 1.
    recent: f64,
    /// Time in which some task waited, since the start of the machine.
    total: Duration,
}

impl Stall {
    /// From the line `some avg10=0.12 avg60=0.34 avg300=0.56 total=789`, in percent and microseconds.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let value = |key: &str| line.split(' ').find_map(|part| part.strip_prefix(key));
        let recent = value("avg10=")?.parse::<f64>().ok()? / 100.0;
        let total = Duration::from_micros(value("total=")?.parse().ok()?);
        Some(Self { recent, total })
    }
}

/// Gives way to the others.
#[derive(Debug)]
pub(super) struct Pressure {
    files: [PathBuf; 2],
    /// Part of the time in which some task may wait.
    limit: f64,
    window: Duration,
    asked: Option<Instant>,
    trusted: Option<Instant>,
}

impl Pressure {
    pub(super) fn new(dir: &Path, limit: f64) -> Self {
        let files = ["io", "memory"].map(|name| dir.join(name));
        Self { files, limit, window: WINDOW, asked: None, trusted: None }
    }

    pub(super) fn limit(&self) -> f64 {
        self.limit
    }

    /// Pauses while others wait for disk or memory, and returns for how long; `sleep` sleeps, and
    /// says whether to go on pausing. Called while no file is open and nothing is read. On kernels
    /// that do not tell, it never pauses.
    pub(super) fn give_way(&mut self, sleep: &dyn Fn(Duration) -> bool) -> Duration {
        let began = Instant::now();
        let is_recent = |at: Option<Instant>, span| at.is_some_and(|at| began - at < span);
        if is_recent(self.asked, INTERVAL) || is_recent(self.trusted, TRUST) {
            return Duration::ZERO;
        }
        self.asked = Some(began);
        if !self.stalls().iter().flatten().any(|stall| stall.recent > self.limit) {
            return Duration::ZERO;
        }
        while began.elapsed() < LONGEST {
            let before = self.stalls();
            let from = Instant::now();
            if !sleep(self.window) {
                break;
            }
            let passed = from.elapsed().as_secs_f64();
            let waited = before.iter().zip(self.stalls()).filter_map(|(before, after)| {
                Some(after?.total.saturating_sub((*before)?.total).as_secs_f64())
            });
            if waited.fold(0.0, f64::max) <= self.limit * passed {
                self.trusted = Some(Instant::now());
                break;
            }
        }
        self.asked = Some(Instant::now());
        began.elapsed()
    }

    fn stalls(&self) -> [Option<Stall>; 2] {
        let read = |file: &PathBuf| Stall::parse(&std::fs::read_to_string(file).ok()?);
        [read(&self.files[0]), read(&self.files[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;

    fn tell(dir: &Path, resource: &str, percent: f64, total_ms: u64) {
        let some =
            format!("some avg10={percent:.2} avg60=0.00 avg300=0.00 total={}", total_ms * 1000);
        let full = "full avg10=99.00 avg60=99.00 avg300=99.00 total=1";
        fs::write(dir.join(resource), format!("{some}\n{full}\n")).unwrap();
    }

    /// How often it naps where the others are stalled in the first `n_stalled` of its pauses.
    fn naps(dir: &Path, percent: f64, n_stalled: u32) -> (u32, Pressure) {
        tell(dir, "io", percent, 1000);
        tell(dir, "memory", 0.0, 5);
        let mut pressure = Pressure::new(dir, 0.2);
        let n = Cell::new(0);
        let sleep = |nap: Duration| {
            assert_eq!(nap, WINDOW);
            std::thread::sleep(Duration::from_millis(2));
            n.set(n.get() + 1);
            // All of the time of this pause, or none.
            let total = 1000 + 3000 * u64::from(n.get().min(n_stalled));
            tell(dir, "io", percent, total);
            n.get() < 50
        };
        pressure.give_way(&sleep);
        (n.get(), pressure)
    }

    #[test]
    fn it_pauses_until_the_others_do_not_wait_any_more() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(naps(dir.path(), 19.0, 9).0, 0, "below the limit");
        assert_eq!(naps(dir.path(), 60.0, 0).0, 1, "it was ours");
        assert_eq!(naps(dir.path(), 60.0, 3).0, 4);
        assert_eq!(naps(dir.path(), 60.0, 99).0, 50, "until it is told to stop");
    }

    #[test]
    fn memory_counts_as_well() {
        let dir = tempfile::tempdir().unwrap();
        tell(dir.path(), "io", 0.0, 0);
        tell(dir.path(), "memory", 50.0, 7);
        let slept = Cell::new(false);
        let sleep = |_| {
            slept.set(true);
            std::thread::sleep(Duration::from_millis(3));
            false
        };
        let mut pressure = Pressure::new(dir.path(), 0.2);
        assert!(pressure.give_way(&sleep) >= Duration::from_millis(3) && slept.get());
        // Asked again at once it does not even look.
        assert_eq!(pressure.give_way(&|_| unreachable!()), Duration::ZERO);
    }

    #[test]
    fn pressure_that_was_ours_is_not_asked_for_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut pressure) = naps(dir.path(), 60.0, 0);
        pressure.asked = None;
        assert_eq!(pressure.give_way(&|_| unreachable!()), Duration::ZERO);
    }

    #[test]
    fn a_kernel_that_does_not_tell_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none");
        let mut pressure = Pressure::new(&none, 0.2);
        assert_eq!(pressure.give_way(&|_| unreachable!()), Duration::ZERO);
        fs::write(dir.path().join("io"), "some avg10=x total=").unwrap();
        let mut pressure = Pressure::new(dir.path(), 0.2);
        assert_eq!(pressure.give_way(&|_| unreachable!()), Duration::ZERO);
        // What this very machine says can be read, if it says anything.
        if let Ok(text) = fs::read_to_string(Path::new(PROC).join("io")) {
            assert!(Stall::parse(&text).is_some(), "{text}");
        }
    }
}
