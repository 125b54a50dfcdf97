//! Records on their way to the store: where that is slower than the analysis, the analysis waits; where
//! it hangs, it does not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::daemon::recorder::Recorder;
use crate::history::Record;

/// Records held while the store takes none; of more, the oldest is given up: after a restart its save is
/// measured again.
const MAX_HELD: usize = 256;

/// How long the analysis waits for a store that takes no record.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to the store.
#[derive(Debug)]
pub(super) struct Records {
    recorder: Recorder,
    held: VecDeque<Box<Record>>,
    /// Since when the store takes none.
    full_since: Option<Instant>,
}

impl Records {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, held: VecDeque::new(), full_since: None }
    }

    /// Hands a record over, or holds it.
    pub(super) fn add(&mut self, record: Record) {
        self.held.push_back(Box::new(record));
        self.pass_on();
        if self.held.len() > MAX_HELD {
            self.held.pop_front();
            debug!("a save is not recorded, the store does not answer");
        }
    }

    /// Hands over what is held, as far as the store takes it.
    pub(super) fn pass_on(&mut self) {
        while let Some(record) = self.held.pop_front() {
            if let Err(record) = self.recorder.record(record) {
                self.held.push_front(record);
                self.full_since.get_or_insert_with(Instant::now);
                return;
            }
        }
        self.full_since = None;
    }

    /// Whether the analysis should wait.
    pub(super) fn is_behind(&self) -> bool {
        self.full_since.is_some_and(|since| since.elapsed() < PATIENCE)
    }

    /// Whether the last write succeeded, and none is awaited in vain.
    pub(super) fn is_ok(&self) -> bool {
        self.recorder.is_ok() && self.full_since.is_none_or(|since| since.elapsed() < PATIENCE)
    }

    /// Writes what is on its way, until the deadline.
    pub(super) fn finish(mut self, deadline: Instant) {
        self.pass_on();
        while !self.held.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            self.pass_on();
        }
        self.recorder.finish(deadline);
    }
}
