//! A bounded queue of hints between the event thread and the reader.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::hint::FileEvent;

/// How long hints are gathered after one that is worth a scan.
const GATHER: Duration = Duration::from_millis(100);

/// How long they are gathered while files are only being written.
const GATHER_WRITES: Duration = Duration::from_secs(1);

/// The queue. Writers never wait; what does not fit becomes one [`FileEvent::Rescan`].
#[derive(Debug)]
pub(super) struct Inbox {
    capacity: usize,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<FileEvent>,
    /// Files whose `Touched` is in the queue with no `Closed` of any file after it: a second one
    /// would say nothing new, and a save is written in thousands of writes.
    touched: HashSet<PathBuf>,
    is_urgent: bool,
    has_lost: bool,
    n_overflows: u64,
    failure: Option<String>,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), arrived: Condvar::new() }
    }

    /// Adds a hint; an urgent one ends a wait soon.
    pub(super) fn push(&self, hint: FileEvent, is_urgent: bool) {
        let mut state = self.lock();
        match &hint {
            FileEvent::Touched(path) if !state.touched.insert(path.clone()) => return,
            FileEvent::Touched(_) => {}
            _ => state.touched.clear(),
        }
        if state.queue.len() >= self.capacity {
            state.lose();
        } else if !state.has_lost {
            state.queue.push_back(hint);
            state.is_urgent |= is_urgent;
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Notes that events were lost.
    pub(super) fn lost(&self) {
        self.lock().lose();
        self.arrived.notify_one();
    }

    /// Notes that no more events can be had.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.lock();
        state.lose();
        state.failure = Some(why.to_owned());
        drop(state);
        self.arrived.notify_one();
    }

    pub(super) fn n_overflows(&self) -> u64 {
        self.lock().n_overflows
    }

    /// Waits for hints, at most `timeout`, gathers some more and takes all, oldest first; and the
    /// reason if there will be no more.
    pub(super) fn take(&self, timeout: Duration) -> (Vec<FileEvent>, Option<String>) {
        let idle = |state: &mut State| state.queue.is_empty() && !state.has_lost;
        let calm = |state: &mut State| !state.is_urgent && !state.has_lost;
        let state = self.wait_while(self.lock(), timeout, idle);
        let state = if state.queue.is_empty() {
            state
        } else {
            let state = self.wait_while(state, timeout.min(GATHER_WRITES), calm);
            self.wait_while(state, timeout.min(GATHER), |state| !state.has_lost)
        };
        let mut state = state;
        state.touched.clear();
        state.is_urgent = false;
        if std::mem::take(&mut state.has_lost) {
            state.queue.clear();
            return (vec![FileEvent::Rescan], state.failure.take());
        }
        (state.queue.drain(..).collect(), None)
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.arrived.wait_timeout_while(state, timeout, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lose(&mut self) {
        if !self.has_lost {
            self.n_overflows += 1;
        }
        self.has_lost = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(path: &str) -> FileEvent {
        FileEvent::Touched(path.into())
    }

    fn closed(path: &str) -> FileEvent {
        FileEvent::Closed(path.into())
    }

    fn check(capacity: usize, pushed: &[FileEvent], expected: &[FileEvent]) {
        let inbox = Inbox::new(capacity);
        for hint in pushed {
            inbox.push(hint.clone(), true);
        }
        assert_eq!(inbox.take(Duration::ZERO).0, expected, "{pushed:?}");
        assert_eq!(inbox.take(Duration::ZERO).0, [], "taken once");
    }

    #[test]
    fn repeated_writes_are_one_hint_until_something_is_closed() {
        let (a, b) = (touched("a"), touched("b"));
        check(9, &[a.clone(), b.clone(), a.clone(), b.clone()], &[a.clone(), b.clone()]);
        let around = [a.clone(), closed("index"), a];
        check(9, &around, &around);
    }

    #[test]
    fn a_full_queue_becomes_one_rescan() {
        let many = [closed("a"), closed("b"), closed("c"), closed("d")];
        check(3, &many, &[FileEvent::Rescan]);
        check(4, &many, &many);
    }

    #[test]
    fn a_hint_from_another_thread_ends_the_wait() {
        let inbox = Inbox::new(1);
        let hints = std::thread::scope(|scope| {
            scope.spawn(|| inbox.push(closed("a"), true));
            inbox.take(Duration::from_mins(1)).0
        });
        assert_eq!(hints, [closed("a")]);
        assert_eq!(inbox.n_overflows(), 0);
    }
}
