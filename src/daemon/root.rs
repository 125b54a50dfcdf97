//! One thread a root: waits for hints, scans, settles. A root whose file system hangs holds up
//! nothing but itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Event;
use super::crew::PATIENCE;
use super::error_text;
use super::guard;
use crate::config::Settings;
use crate::disk::{self, Operations};
use crate::remote::{self, is_remote};
use crate::watch::{
    EndMark, FileEvent, FoundSave, GiveBack, PendingSave, ScanLimits, ScanOutcome, SettleRules,
    SettledSave, Settler, Shard, WatchMode, Watcher, network_file_system, scan,
};

/// Hints that come together are answered by one scan.
const GATHER: Duration = Duration::from_millis(150);
/// Least time between two scans, so that a busy directory does not keep us scanning.
const LEAST_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait at a time, so that a returned save or a stop is seen soon.
const SLICE: Duration = Duration::from_millis(500);

/// What a scan of a root found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) root: usize,
    pub(super) mode: WatchMode,
    /// Saves ready to be read.
    pub(super) settled: Vec<SettledSave>,
    /// Saves that wait.
    pub(super) pending: Vec<PendingSave>,
    /// Runs seen before whose directories are gone.
    pub(super) gone: Vec<String>,
    /// Paths of runs that were expected and are not there.
    pub(super) gone_paths: Vec<PathBuf>,
    /// Where someone said that training has ended, and whether the scan saw everything.
    pub(super) end_marks: (Vec<EndMark>, bool),
    pub(super) n_errors: u64,
    /// Whether the root itself could be listed.
    pub(super) root_seen: bool,
}

/// The waits that are set, for local and for network file systems.
struct Waits {
    quiet: Duration,
    local: (Duration, Duration),
    network: (Duration, Duration),
}

impl Waits {
    fn of(settings: &Settings) -> Self {
        Self {
            quiet: settings.quiet,
            local: (settings.settle, settings.scan_interval),
            network: (settings.settle_network, settings.scan_interval_network),
        }
    }

    /// When saves below a root are at rest, and the time between two scans of it.
    fn for_root(&self, path: &Path) -> (SettleRules, Duration) {
        let objects = is_remote(path);
        let network = objects || network_file_system(path).is_some();
        let (settle, interval) = if network { self.network } else { self.local };
        // Clients of network file systems show stamps late; what a store lists is so.
        let late = network && !objects;
        let quiet = if late { self.quiet.max(SettleRules::network().quiet) } else { self.quiet };
        let rules = if objects { SettleRules::objects() } else { SettleRules::local() };
        (SettleRules { quiet, settle, ..rules }, interval)
    }
}

impl Scanned {
    /// Of a root whose scan had a fault of our own.
    fn failed(root: usize) -> Self {
        let mode = WatchMode::Polling { why: "internal error".to_owned() };
        Self {
            root,
            mode,
            settled: Vec::new(),
            pending: Vec::new(),
            gone: Vec::new(),
            gone_paths: Vec::new(),
            end_marks: (Vec::new(), false),
            n_errors: 1,
            root_seen: false,
        }
    }
}

/// Errors of one scan that are logged; a scan that fails in the same way is not logged again.
const MAX_ERRORS_LOGGED: usize = 5;

/// How long a run of files in a shared directory may be without one before it is gone.
const FILES_GONE: Duration = Duration::from_mins(1);

/// A run that was seen.
#[derive(Debug)]
struct Known {
    /// The directory that holds its saves.
    holder: PathBuf,
    /// Whether the directory is the run's own.
    own: bool,
    seen: Duration,
}

/// What a root's thread remembers from scan to scan.
#[derive(Debug, Default)]
struct Memory {
    runs: BTreeMap<String, Known>,
    errors: Vec<String>,
    /// How long a run in an object store may be without a save before it is gone.
    patience: Duration,
    /// Scans in a row that an object store refused.
    n_refused: u32,
}

impl Memory {
    fn note(&mut self, root: &Path, seen: bool) {
        let refused = is_remote(root) && !seen;
        self.n_refused = if refused { self.n_refused.saturating_add(1) } else { 0 };
    }

    /// Time between scans: a store that refuses is asked less often, down to an eighth.
    fn back_off(&self, interval: Duration) -> Duration {
        interval * (1 << self.n_refused.min(3))
    }

    /// Takes in the runs seen now, each with the directory that holds its saves and whether that is
    /// the run's own; returns those seen before that are gone.
    ///
    /// A run without a save may be between two (some trainers delete before they write), so its
    /// directory counts, and only if the file system says plainly that it is not there. A run of
    /// files that shares its directory is gone after [`FILES_GONE`]. An object store has no
    /// directories: there a run without a save is gone after a few scans.
    fn gone(
        &mut self,
        seen: BTreeMap<String, (PathBuf, bool)>,
        truncated: bool,
        now: Duration,
    ) -> Vec<String> {
        for (run, (holder, own)) in seen {
            self.runs.insert(run, Known { holder, own, seen: now });
        }
        if truncated {
            return Vec::new();
        }
        let absent = |(run, known): (&String, &Known)| {
            let unseen = now.saturating_sub(known.seen);
            if is_remote(&known.holder) {
                return (unseen > self.patience).then(|| run.clone());
            }
            let missing = known.seen != now && matches!(exists(&known.holder), Ok(false));
            let files_gone = !known.own && unseen > FILES_GONE;
            (missing || files_gone).then(|| run.clone())
        };
        let gone: Vec<String> = self.runs.iter().filter_map(absent).collect();
        for run in &gone {
            self.runs.remove(run);
        }
        gone
    }
}

/// Run → the directory that holds its saves, and whether it is the run's own.
fn holders(saves: &[FoundSave]) -> BTreeMap<String, (PathBuf, bool)> {
    let holder = |save: &FoundSave| {
        if save.path.starts_with(&save.run_path) {
            (save.run_path.clone(), true)
        } else {
            (save.path.parent().unwrap_or(&save.path).to_owned(), false)
        }
    };
    saves.iter().map(|save| (save.run.clone(), holder(save))).collect()
}

/// Whether anything has that name, on disk or in an object store.
fn exists(path: &Path) -> std::io::Result<bool> {
    if is_remote(path) {
        return Ok(remote::exists(path)?);
    }
    let _under_way = disk::operation();
    path.try_exists()
}

/// A watched root.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    settler: Arc<Mutex<Settler>>,
    /// Paths of runs known from before the start that no scan has found yet.
    expected: Arc<Mutex<Vec<PathBuf>>>,
    /// What its thread asks of the file system.
    operations: Arc<Operations>,
    started: Instant,
}

impl Root {
    /// Starts watching `path`; every scan is sent to `events`.
    pub(super) fn start(
        index: usize,
        path: PathBuf,
        (settings, shard): (&Settings, Shard),
        events: SyncSender<Event>,
        stop: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let limits = ScanLimits { max_depth: settings.max_depth, shard, ..ScanLimits::default() };
        let root = Self {
            path,
            settler: Arc::new(Mutex::new(Settler::new(SettleRules::local()))),
            expected: Arc::default(),
            operations: Arc::default(),
            started: Instant::now(),
        };
        let (watched, waits) = (root.clone(), Waits::of(settings));
        std::thread::Builder::new().name(format!("root-{index}")).spawn(move || {
            let _here = disk::adopt(Some(Arc::clone(&watched.operations)));
            let watch = || {
                // Asked here, as it may be long in answering.
                let (rules, interval) = waits.for_root(&watched.path);
                *watched.settler() = Settler::new(rules);
                watched.watch(index, limits, interval, &events, &stop);
            };
            // What was seen may be half taken in; it is found again, and what was measured is known.
            let mend = |panic: String| {
                error!(root = ?watched.path, panic, "internal error, the root is watched anew");
                // The scheduler may have ended.
                drop(events.send(Event::Scanned(Box::new(Scanned::failed(index)))));
                watched.rest(waits.local.1, &stop);
            };
            guard::again(watch, mend);
        })?;
        Ok(root)
    }

    /// How long the file system has not answered, if that is too long.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.operations.stuck_for(PATIENCE)
    }

    /// Gives back a save that could not be read to the end.
    pub(super) fn give_back(&self, save: &SettledSave, why: GiveBack) {
        let now = self.now();
        self.settler().give_back(save, now, why);
    }

    /// Runs at these paths were there before the start: a scan is to say if they are gone.
    pub(super) fn expect(&self, paths: Vec<PathBuf>) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).extend(paths);
    }

    /// Of the runs expected, those that are gone: not found by this scan, and nothing at their path,
    /// which for a run of files in a shared directory is so between two of them as well.
    fn missing(&self, outcome: &ScanOutcome, now: Duration) -> Vec<PathBuf> {
        // A look at a disk that hangs must not hold the lock.
        let expected = || self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let mut awaited = std::mem::take(&mut *expected());
        awaited.retain(|path| !outcome.saves.iter().any(|save| save.run_path == *path));
        let mut missing = Vec::new();
        if !outcome.truncated && now > FILES_GONE {
            missing = awaited.extract_if(.., |path| matches!(exists(path), Ok(false))).collect();
        }
        expected().append(&mut awaited);
        missing
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for so long, or until all is to stop.
    fn rest(&self, time: Duration, stop: &AtomicBool) {
        let until = self.now().saturating_add(time);
        while self.now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(SLICE.min(until.saturating_sub(self.now())));
        }
    }

    fn settler(&self) -> MutexGuard<'_, Settler> {
        self.settler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(
        &self,
        index: usize,
        limits: ScanLimits,
        interval: Duration,
        events: &SyncSender<Event>,
        stop: &AtomicBool,
    ) {
        let mut watcher = Watcher::new(&self.path, &limits);
        let mut hints = Vec::new();
        let mut memory = Memory { patience: interval * 4, ..Memory::default() };
        let mut last_scan: Option<Duration> = None;
        while !stop.load(Ordering::Relaxed) {
            let interval = memory.back_off(interval);
            if let Some(wait) = self.until_due(last_scan, interval, hints.is_empty()) {
                hints.extend(watcher.wait(wait));
                continue;
            }
            // New directories are watched in `wait`; what it returns a scan can see.
            hints.extend(watcher.wait(Duration::ZERO));
            last_scan = Some(self.now());
            let scanned =
                self.scan(index, &limits, &watcher, &std::mem::take(&mut hints), &mut memory);
            memory.note(&self.path, scanned.root_seen);
            if events.send(Event::Scanned(Box::new(scanned))).is_err() {
                return;
            }
        }
    }

    /// How long to wait before the next scan; `None` when it is due.
    fn until_due(
        &self,
        last: Option<Duration>,
        interval: Duration,
        quiet: bool,
    ) -> Option<Duration> {
        let last = last?;
        let deadline = self.settler().next_deadline().unwrap_or(Duration::MAX);
        let regular = if quiet { last + interval } else { last + LEAST_INTERVAL.max(GATHER) };
        let due = regular.min(deadline.max(last + LEAST_INTERVAL));
        let wait = due.saturating_sub(self.now());
        (!wait.is_zero()).then(|| wait.min(SLICE))
    }

    fn scan(
        &self,
        index: usize,
        limits: &ScanLimits,
        watcher: &Watcher,
        hints: &[FileEvent],
        memory: &mut Memory,
    ) -> Scanned {
        #[cfg(test)]
        assert!(!self.path.join(".planted").exists(), "planted");
        let outcome = scan(&self.path, limits);
        let errors: Vec<String> = outcome.errors.iter().map(|e| error_text(e)).collect();
        if errors != memory.errors {
            for error in errors.iter().take(MAX_ERRORS_LOGGED) {
                warn!(root = ?self.path, error, "part of a root cannot be scanned");
            }
            memory.errors = errors;
        }
        let now = self.now();
        // All looks at the disk come before the lock, which the scheduler takes as well.
        // What a store refuses to list is not gone.
        let partial = outcome.truncated || (is_remote(&self.path) && !outcome.errors.is_empty());
        let gone = memory.gone(holders(&outcome.saves), partial, now);
        let gone_paths = self.missing(&outcome, now);
        let n_errors = outcome.errors.iter().filter(|error| error.is_failure()).count() as u64;
        let mut settler = self.settler();
        settler.observe(now, &outcome, hints);
        let settled = settler.take_settled(now);
        let pending = settler.pending();
        // What comes back under the name of a run that went is found for the first time.
        for run in &gone {
            settler.forget_run(run);
        }
        drop(settler);
        Scanned {
            root: index,
            mode: watcher.mode().clone(),
            settled,
            pending,
            gone,
            gone_paths,
            end_marks: (outcome.end_marks, !outcome.truncated && n_errors == 0),
            root_seen: !outcome.errors.iter().any(|e| e.path() == self.path),
            n_errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_runs_expected_those_are_gone_that_are_nowhere_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str| dir.path().join(name);
        for name in ["a", "b/checkpoint-1"] {
            std::fs::create_dir_all(run(name)).unwrap();
        }
        let save = run("b/checkpoint-1/model.safetensors");
        std::fs::write(save, [0; 16]).unwrap();
        let root = Root {
            path: dir.path().to_owned(),
            settler: Arc::new(Mutex::new(Settler::new(SettleRules::local()))),
            expected: Arc::default(),
            operations: Arc::default(),
            started: Instant::now(),
        };
        root.expect(vec![run("a"), run("b"), run("c"), run("ema")]);
        let outcome = scan(dir.path(), &ScanLimits::default());
        assert!(root.missing(&outcome, Duration::from_secs(5)).is_empty());
        let later = FILES_GONE + Duration::from_secs(1);
        let truncated = ScanOutcome { truncated: true, ..ScanOutcome::default() };
        assert!(root.missing(&truncated, later).is_empty(), "not all was seen");
        assert_eq!(root.missing(&outcome, later), [run("c"), run("ema")]);
        std::fs::remove_dir(run("a")).unwrap();
        assert_eq!(root.missing(&outcome, later), [run("a")]);
        assert!(root.missing(&outcome, later).is_empty(), "b was found");
    }

    #[test]
    fn a_panic_of_a_scan_is_told_and_the_root_is_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let planted = dir.path().join(".planted");
        std::fs::write(&planted, "").unwrap();
        let (events, scans) = std::sync::mpsc::sync_channel(64);
        let stop = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_millis(1);
        let settings = Settings { scan_interval: interval, ..Settings::default() };
        let how = (&settings, Shard::default());
        Root::start(3, dir.path().to_owned(), how, events, Arc::clone(&stop)).unwrap();
        let next = || match scans.recv_timeout(Duration::from_mins(1)).unwrap() {
            Event::Scanned(scanned) => (scanned.root, scanned.n_errors, scanned.root_seen),
            other => panic!("{other:?}"),
        };
        assert_eq!([next(), next()], [(3, 1, false); 2], "as often as it happens");
        std::fs::remove_file(&planted).unwrap();
        while next() != (3, 0, true) {}
        stop.store(true, Ordering::Relaxed);
    }

    #[test]
    fn a_run_is_gone_when_its_directory_is_or_its_files_are_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("run");
        std::fs::create_dir(&own).unwrap();
        let at = Duration::from_secs;
        let mut memory = Memory::default();
        let both = || {
            let files = ("ema".to_owned(), (dir.path().to_owned(), false));
            BTreeMap::from([("run".to_owned(), (own.clone(), true)), files])
        };
        assert!(memory.gone(both(), false, at(1)).is_empty());
        // Between two saves neither has one; the directories are there.
        assert!(memory.gone(BTreeMap::new(), false, at(16)).is_empty());
        std::fs::remove_dir(&own).unwrap();
        assert!(memory.gone(BTreeMap::new(), true, at(70)).is_empty(), "not all was seen");
        assert_eq!(memory.gone(BTreeMap::new(), false, at(71)), ["ema", "run"]);
        assert!(memory.gone(BTreeMap::new(), false, at(90)).is_empty(), "told once");
    }

    #[test]
    fn in_an_object_store_a_run_is_gone_after_a_few_scans_without_a_save() {
        let root = Path::new("s3://bucket/runs");
        let at = Duration::from_secs;
        let mut memory = Memory { patience: at(240), ..Memory::default() };
        let seen = || BTreeMap::from([("run".to_owned(), (root.join("run"), true))]);
        assert!(memory.gone(seen(), false, at(1)).is_empty());
        assert!(memory.gone(BTreeMap::new(), false, at(241)).is_empty());
        assert_eq!(memory.gone(BTreeMap::new(), false, at(242)), ["run"]);
    }

    #[test]
    fn a_store_that_refuses_is_asked_less_often() {
        let (mut memory, minute) = (Memory::default(), Duration::from_mins(1));
        let mut intervals = Vec::new();
        for seen in [false, false, false, false, true] {
            memory.note(Path::new("s3://bucket"), seen);
            intervals.push(memory.back_off(minute).as_secs() / 60);
        }
        memory.note(Path::new("/disk"), false);
        intervals.push(memory.back_off(minute).as_secs() / 60);
        assert_eq!(intervals, [2, 4, 8, 8, 1, 1]);
    }
}
