//! The thread that owns the store: it reads what was recorded, then writes what is measured. A slow or
//! full disk holds up nobody else.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use super::{Event, error_text, guard};
use crate::history::{Archive, Opened, Record, Store, StoreError, StoredRun};

/// Records on their way to the thread.
const MAX_SENT: usize = 64;

/// Records that wait for a disk that refuses; of more, the oldest is given up: after a restart its
/// save is measured again.
const MAX_WAITING: usize = 256;

/// Records that are written with the turns of the disk that one takes.
const MAX_TOGETHER: usize = 64;

/// Time between two attempts when the disk refuses.
const RETRY: Duration = Duration::from_secs(5);

/// Records between two looks at the size of the store.
const SHRINK_EVERY: usize = 20;

/// What the history may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    /// Bytes.
    pub(super) limit: u64,
    /// How long details and runs that are gone are kept.
    pub(super) age: Duration,
}

/// What was recorded before the start.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) runs: Vec<StoredRun>,
    pub(super) daemon_counters: BTreeMap<(String, String), f64>,
}

/// Writes records in order.
#[derive(Debug)]
pub(super) struct Recorder {
    sender: Option<SyncSender<Box<Record>>>,
    ok: Arc<AtomicBool>,
    /// Whether the scheduler waits for room.
    is_awaited: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts the thread, which first tells what was recorded in the directory.
    pub(super) fn start(
        dir: &Path,
        retention: Retention,
        events: SyncSender<Event>,
    ) -> std::io::Result<Self> {
        let (sender, records) = sync_channel(MAX_SENT);
        let ok = Arc::new(AtomicBool::new(true));
        let is_awaited = Arc::new(AtomicBool::new(false));
        let awaited = Arc::clone(&is_awaited);
        let mut writer = Writer {
            dir: dir.to_owned(),
            retention,
            store: None,
            suspect: false,
            waiting: VecDeque::new(),
            n_alone: 0,
            ok: Arc::clone(&ok),
            since_shrunk: 0,
        };
        let run = move || {
            let restored = guard::caught(|| writer.restore()).unwrap_or_else(|panic| {
                writer.failed(&panic);
                Restored::default()
            });
            let restored = Box::new(restored);
            if events.send(Event::Restored(restored)).is_ok() {
                let told = AtomicBool::new(true);
                let health = Arc::clone(&writer.ok);
                let written = || {
                    let is_ok = health.load(Ordering::Relaxed);
                    let has_changed = told.swap(is_ok, Ordering::Relaxed) != is_ok;
                    if awaited.swap(false, Ordering::Relaxed) || has_changed {
                        // A scheduler that has ended wants no more.
                        drop(events.try_send(Event::Recorded));
                    }
                };
                writer.run(&records, &written);
            }
        };
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(run)?;
        Ok(Self { sender: Some(sender), ok, is_awaited, thread: Some(thread) })
    }

    /// Hands a record over.
    ///
    /// # Errors
    /// Gives it back where too many are on their way; when one of them is written, the scheduler is told.
    pub(super) fn record(&self, record: Box<Record>) -> Result<(), Box<Record>> {
        let Some(sender) = &self.sender else { return Err(record) };
        // Asked first: the answer must not come before the question.
        self.is_awaited.store(true, Ordering::Relaxed);
        match sender.try_send(record) {
            Ok(()) => {
                self.is_awaited.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(TrySendError::Full(record) | TrySendError::Disconnected(record)) => Err(record),
        }
    }

    /// Whether the last write succeeded.
    pub(super) fn is_ok(&self) -> bool {
        self.ok.load(Ordering::Relaxed)
    }

    /// Waits for what is on its way, until the deadline.
    pub(super) fn finish(mut self, deadline: Instant) {
        drop(self.sender.take());
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() && thread.join().is_err() {
            warn!("the recorder has failed");
        }
    }
}

/// What the thread has.
struct Writer {
    dir: PathBuf,
    retention: Retention,
    store: Option<Store>,
    /// Whether the database refused something because it is damaged.
    suspect: bool,
    waiting: VecDeque<Box<Record>>,
    /// How many of them are written one at a time, as together they were refused.
    n_alone: usize,
    ok: Arc<AtomicBool>,
    since_shrunk: usize,
}

impl Writer {
    fn restore(&mut self) -> Restored {
        let read = |store: &Store| -> Result<Restored, StoreError> {
            Ok(Restored { runs: store.runs()?, daemon_counters: store.daemon_counters()? })
        };
        match self.store().and_then(|store| read(store)) {
            Ok(restored) => restored,
            Err(error) => {
                self.refused(&error);
                // What cannot be written may still be read.
                let read = |archive: Archive| read(archive.store());
                Archive::open(&self.dir).and_then(read).unwrap_or_default()
            }
        }
    }

    /// The store, opened if it is not.
    fn store(&mut self) -> Result<&mut Store, StoreError> {
        if self.store.is_none() {
            let (store, opened) = Store::open(&self.dir, self.suspect)?;
            self.suspect = false;
            if let Opened::MovedAside(aside) = opened {
                warn!(?aside, "history is damaged, it begins anew; the old one is kept");
            }
            self.store = Some(store);
        }
        Ok(self.store.as_mut().expect("opened above"))
    }

    /// Writes what comes, and with it what has come meanwhile; then says so.
    fn run(&mut self, records: &Receiver<Box<Record>>, written: &dyn Fn()) {
        loop {
            let record = if self.waiting.is_empty() {
                records.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                records.recv_timeout(RETRY)
            };
            match record {
                Ok(record) => self.waiting.push_back(record),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.write();
                    return;
                }
            }
            self.waiting.extend(records.try_iter().take(MAX_SENT));
            let excess = self.waiting.len().saturating_sub(MAX_WAITING);
            self.waiting.drain(..excess);
            // What is being written when it panics is given up with it: it would be met again.
            if let Err(panic) = guard::caught(|| self.write()) {
                self.failed(&panic);
            }
            written();
        }
    }

    /// Writes what waits, in order, as far as the disk takes it.
    fn write(&mut self) {
        while !self.waiting.is_empty() {
            let goes_on = if self.n_alone == 0 && self.waiting.len() > 1 {
                self.write_together()
            } else {
                self.write_first()
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Writes several; which of them is refused, or makes the writer panic, is found by writing each alone.
    fn write_together(&mut self) -> bool {
        let n = self.waiting.len().min(MAX_TOGETHER);
        self.n_alone = n;
        #[cfg(test)]
        assert!(self.waiting.iter().all(|record| record.key.path != "/planted"), "planted");
        if let Err(error) = self.store() {
            self.n_alone = 0;
            self.refused(&error);
            return false;
        }
        let store = self.store.as_mut().expect("opened above");
        match store.record_all(self.waiting.iter().take(n).map(AsRef::as_ref)) {
            Ok(()) => {
                self.waiting.drain(..n);
                self.n_alone = 0;
                self.written(n);
            }
            Err(error) if error.is_of_the_record() => {}
            Err(error) => {
                self.n_alone = 0;
                self.refused(&error);
                return false;
            }
        }
        true
    }

    fn write_first(&mut self) -> bool {
        let Some(record) = self.waiting.pop_front() else { return false };
        self.n_alone = self.n_alone.saturating_sub(1);
        #[cfg(test)]
        assert!(record.key.path != "/planted", "planted");
        match self.store().and_then(|store| store.record(&record)) {
            Ok(()) => self.written(1),
            // It would be refused for ever, and all that come after it would wait.
            Err(error) if error.is_of_the_record() => {
                let (path, error) = (&record.key.path, error_text(&error));
                warn!(path, error, "save cannot be recorded, it is measured again after a restart");
            }
            Err(error) => {
                self.waiting.push_front(record);
                self.refused(&error);
                return false;
            }
        }
        true
    }

    fn written(&mut self, n: usize) {
        if !self.ok.swap(true, Ordering::Relaxed) {
            info!("history is written again");
        }
        self.shrink(n);
    }

    fn shrink(&mut self, n: usize) {
        self.since_shrunk += n;
        if self.since_shrunk < SHRINK_EVERY {
            return;
        }
        self.since_shrunk = 0;
        let Retention { limit, age } = self.retention;
        let oldest = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        let oldest = oldest.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let given_up =
            |store: &mut Store| Ok((store.forget_before(oldest)?, store.shrink_to(limit)?));
        match self.store().and_then(given_up) {
            Ok((n_old, n_large)) => {
                if n_old > 0 {
                    info!(n_saves = n_old, "details of saves older than history_age are gone");
                }
                if n_large > 0 {
                    info!(
                        n_saves = n_large,
                        "history is full, details of the oldest saves are gone"
                    );
                }
            }
            Err(error) => self.refused(&error),
        }
    }

    /// After a fault of our own: the store is opened anew, and looked at for damage first.
    fn failed(&mut self, panic: &str) {
        error!(panic, "internal error while the history was read or written");
        self.store = None;
        self.suspect = true;
        self.ok.store(false, Ordering::Relaxed);
    }

    /// Tells of a failure once; the next attempt opens the store anew, which moves a damaged one aside.
    fn refused(&mut self, error: &StoreError) {
        self.store = None;
        self.suspect |= error.is_damage();
        if self.ok.swap(false, Ordering::Relaxed) {
            let error = error_text(error);
            warn!(error, "history cannot be written, measurements are served from memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Place, SaveKey, SaveOutcome, StoredAge};

    fn record(path: &str) -> Box<Record> {
        Box::new(Record {
            run_path: "/run".into(),
            run_name: "run".into(),
            key: SaveKey { path: path.into(), modified_ns: 1, size_bytes: 1 },
            saved_at: None,
            analyzed_at: 1.0,
            seconds: 1.0,
            place: Place { segment: 0, step: 1 },
            age: StoredAge { segment: 0, step: Some(1), sequence: 1 },
            step: Some(1),
            outcome: SaveOutcome::Failed { reason: "malformed", error: "found nothing".into() },
            judged: None,
            anomalies: Vec::new(),
            run_counters: BTreeMap::new(),
            daemon_counters: BTreeMap::new(),
        })
    }

    #[test]
    fn of_several_only_those_are_lost_that_are_refused_or_make_it_panic() {
        let dir = tempfile::tempdir().unwrap();
        // NaN is NULL to SQLite, which a time may not be.
        let mut refused = record("/refused");
        refused.analyzed_at = f64::NAN;
        let all = [record("/a"), refused, record("/b"), record("/planted"), record("/c")];
        let mut writer = Writer {
            dir: dir.path().to_owned(),
            retention: Retention { limit: 1 << 30, age: Duration::from_hours(1) },
            store: None,
            suspect: false,
            waiting: VecDeque::from(all),
            n_alone: 0,
            ok: Arc::new(AtomicBool::new(true)),
            since_shrunk: 0,
        };
        while !writer.waiting.is_empty() {
            if let Err(panic) = guard::caught(|| writer.write()) {
                writer.failed(&panic);
            }
        }
        let runs = Archive::open(dir.path()).unwrap().store().runs().unwrap();
        let saves: Vec<&str> = runs[0].saves.iter().map(|save| save.key.path.as_str()).collect();
        assert_eq!(saves, ["/a", "/b", "/c"]);
    }

    #[test]
    fn a_panic_costs_the_record_that_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (events, told) = sync_channel(64);
        let retention = Retention { limit: 1 << 30, age: Duration::from_hours(1) };
        let recorder = Recorder::start(dir.path(), retention, events).unwrap();
        assert!(matches!(told.recv().unwrap(), Event::Restored(_)));
        recorder.record(record("/planted")).unwrap();
        while recorder.is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        recorder.record(record("/save")).unwrap();
        recorder.finish(Instant::now() + Duration::from_mins(1));
        let runs = Archive::open(dir.path()).unwrap().store().runs().unwrap();
        let saves: Vec<&str> = runs[0].saves.iter().map(|save| save.key.path.as_str()).collect();
        assert_eq!(saves, ["/save"]);
    }
}
