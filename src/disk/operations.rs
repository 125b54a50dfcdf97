//! What a thread, and those that help it, ask of a file system now, and for how long they have been
//! waiting. A call to a file server that is gone may never return, and no other thread can end it;
//! but others can see it, and go on without the one that waits.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::gettid;

/// Operations noted at a time: more threads than share one piece of work. What finds no place is not
/// noted, and then not missed.
const N_SLOTS: usize = 64;

/// Bits for the milliseconds at which an operation began, 34 years; the thread is above them.
const TIME_BITS: u32 = 40;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Operations>>> = const { RefCell::new(None) };
}

/// The operations under way of one piece of work.
#[derive(Debug)]
pub struct Operations {
    origin: Instant,
    /// Thread and time of an operation, 0 where there is none.
    slots: [AtomicU64; N_SLOTS],
    /// What is below it by its name must be so with all links followed.
    root: Mutex<Option<PathBuf>>,
}

impl Default for Operations {
    fn default() -> Self {
        let slots = [const { AtomicU64::new(0) }; N_SLOTS];
        Self { origin: Instant::now(), slots, root: Mutex::default() }
    }
}

impl Operations {
    /// How long the longest operation has lasted, if that is no less than `patience` and its thread
    /// waits for the file system. One that is only waiting for a core (the threads that read are in
    /// the idle class, and the job may take all cores) is not counted.
    #[must_use]
    pub fn stuck_for(&self, patience: Duration) -> Option<Duration> {
        let now = self.origin.elapsed();
        let waits = self.slots.iter().filter_map(|slot| {
            let noted = slot.load(Ordering::Relaxed);
            let since = Duration::from_millis((noted & ((1 << TIME_BITS) - 1)).checked_sub(1)?);
            let lasts = now.saturating_sub(since);
            let waits = lasts >= patience && !may_run(noted >> TIME_BITS);
            // It may have ended while its thread was looked at.
            (waits && slot.load(Ordering::Relaxed) == noted).then_some(lasts)
        });
        waits.max()
    }

    fn set_root(&self, root: Option<PathBuf>) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }

    fn begin(self: &Arc<Self>) -> Option<usize> {
        let ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let thread = u64::try_from(gettid().as_raw_nonzero().get()).unwrap_or(0);
        let note = thread << TIME_BITS | ms.saturating_add(1).min((1 << TIME_BITS) - 1);
        let free = |slot: &AtomicU64| {
            slot.compare_exchange(0, note, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        self.slots.iter().position(free)
    }
}

/// Whether a thread of this process runs or would if it had a core. proc(5): the state follows the
/// name, which is in brackets.
fn may_run(thread: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    let state = |stat: String| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('R'));
    stat.ok().and_then(state).unwrap_or(false)
}

/// While it lives, the operations of the thread that made it are noted.
#[derive(Debug)]
pub struct Here {
    before: Option<Arc<Operations>>,
}

impl Drop for Here {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// Notes what this thread asks of file systems in `operations`; `None` notes nothing.
#[must_use]
pub fn adopt(operations: Option<Arc<Operations>>) -> Here {
    Here { before: CURRENT.replace(operations) }
}

/// Where this thread's operations are noted, for a thread that helps it to [`adopt`].
#[must_use]
pub fn current() -> Option<Arc<Operations>> {
    CURRENT.with_borrow(Clone::clone)
}

/// While it lives, a thread and those that help it open nothing outside of a directory under a path
/// that is below it by its name.
#[derive(Debug)]
pub struct Confined(Option<Arc<Operations>>);

impl Drop for Confined {
    fn drop(&mut self) {
        if let Some(operations) = &self.0 {
            operations.set_root(None);
        }
    }
}

/// Confines this thread, whose operations are noted, and those that [`adopt`] its operations, to what
/// lies below `root` with all links followed.
#[must_use]
pub fn confine(root: &Path) -> Confined {
    let operations = current();
    if let Some(operations) = &operations {
        operations.set_root(Some(root.to_owned()));
    }
    Confined(operations)
}

/// The directory that this thread is confined to, if the path is below it by its name.
pub(super) fn root_of(path: &Path) -> Option<PathBuf> {
    let operations = current()?;
    let root = operations.root.lock().unwrap_or_else(PoisonError::into_inner);
    root.as_ref().filter(|root| path.starts_with(root)).cloned()
}

/// An operation under way; it ends when dropped.
#[derive(Debug)]
pub struct Operation(Option<(Arc<Operations>, usize)>);

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some((operations, slot)) = &self.0
            && let Some(slot) = operations.slots.get(*slot)
        {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

/// Notes that this thread asks something of a file system, until the value is dropped.
#[must_use]
pub fn operation() -> Operation {
    Operation(current().and_then(|operations| {
        let slot = operations.begin()?;
        Some((operations, slot))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn an_operation_that_waits_is_seen_until_it_ends_and_with_those_of_helpers() {
        let operations = Arc::new(Operations::default());
        let _here = adopt(Some(Arc::clone(&operations)));
        assert_eq!(operations.stuck_for(NOW), None);
        let (go, wait) = channel::<()>();
        let (tell, told) = channel();
        let noted = current();
        let helper = std::thread::spawn(move || {
            let _here = adopt(noted);
            let _under_way = operation();
            tell.send(()).unwrap();
            wait.recv().unwrap();
        });
        told.recv().unwrap();
        // Asleep at the latest after some moments.
        while operations.stuck_for(Duration::from_millis(1)).is_none() {
            std::thread::yield_now();
        }
        assert_eq!(operations.stuck_for(Duration::from_hours(1)), None);
        go.send(()).unwrap();
        helper.join().unwrap();
        assert_eq!(operations.stuck_for(NOW), None);
    }

    #[test]
    fn a_thread_that_only_wants_a_core_does_not_wait_for_a_disk() {
        let operations = Arc::new(Operations::default());
        let _here = adopt(Some(Arc::clone(&operations)));
        let _under_way = operation();
        // This thread runs, as it asks.
        assert_eq!(operations.stuck_for(NOW), None);
    }

    #[test]
    fn more_operations_than_places_are_no_harm_and_none_is_noted_outside() {
        assert!(operation().0.is_none(), "nobody asked for it");
        let operations = Arc::new(Operations::default());
        let here = adopt(Some(Arc::clone(&operations)));
        let all: Vec<_> = (0..N_SLOTS + 3).map(|_| operation()).collect();
        assert_eq!(all.iter().filter(|noted| noted.0.is_some()).count(), N_SLOTS);
        drop(all);
        assert!(operations.slots.iter().all(|slot| slot.load(Ordering::Relaxed) == 0));
        drop(here);
        assert!(current().is_none());
    }
}
