//! The owner of the table of runs: takes in scans and finished jobs, hands out saves, renders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, error, info, warn};

use super::counters::{daemon_counters, take_daemon_counters};
use super::http::{Served, Server};
use super::job::{Done, Job};
use super::names::Names;
use super::news::{declare, tell};
use super::queue::Queue;
use super::recorder::{Recorder, Restored};
use super::root::{Root, Scanned};
use super::runs::{Draft, Patience, Run, absolute, give_up_kept};
use super::settings::{fixed, options};
use super::{Event, OnSave, Reload, Request, SaveNews, StateDir, error_text, textfile};
use crate::config::Settings;
use crate::diagnostics::Options;
use crate::history::StoredRun;
use crate::metrics::{self, DaemonFacts, Snapshot};
use crate::model::Rule;
use crate::watch::SettledSave;

/// Time for the work at hand when asked to stop; the whole stop stays below 5 s.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Time between two looks at the state directory.
const STATE_INTERVAL: Duration = Duration::from_secs(15);
/// How long names wait for a slow root at the start.
const NAMING_PATIENCE: Duration = Duration::from_secs(10);

/// What is kept of the runs' last saves may take this part of the memory limit.
const KEPT_FRACTION: u64 = 2;

/// A worker takes one job at a time.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) jobs: SyncSender<Job>,
    pub(super) cancel: Arc<AtomicBool>,
}

/// Owner of the table of runs.
pub(super) struct Scheduler {
    started: Instant,
    settings: Settings,
    options: Arc<Options>,
    rules: Arc<Vec<Rule>>,
    facts: DaemonFacts,
    roots: Vec<Root>,
    /// When each root was last listed, Unix seconds; at first the start of the daemon.
    root_scanned_at: Vec<f64>,
    /// Which roots have been scanned at least once.
    scanned: Vec<bool>,
    workers: Vec<Worker>,
    idle: Vec<usize>,
    queue: Queue,
    /// Scans that wait for those of the roots before them.
    held: Vec<Scanned>,
    runs: BTreeMap<String, Run>,
    n_runs: u64,
    names: Names,
    served: Arc<Served>,
    server: Server,
    stop: Arc<AtomicBool>,
    recorder: Option<Recorder>,
    /// Whether what was recorded before the start is known; scans wait for it.
    is_restored: bool,
    /// Runs recorded before the start that were not found yet, by absolute path.
    stored: BTreeMap<String, StoredRun>,
    state: Option<StateDir>,
    state_checked: Option<Instant>,
    reload: Option<Reload>,
    on_save: Option<OnSave>,
    /// Run → measured saves for which its dropped series were counted.
    dropped_for: BTreeMap<String, u64>,
    textfile_failed: bool,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

/// The threads that a scheduler directs.
pub(super) struct Parts {
    pub(super) roots: Vec<Root>,
    pub(super) workers: Vec<Worker>,
    pub(super) server: Server,
    pub(super) served: Arc<Served>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) recorder: Option<Recorder>,
}

impl Scheduler {
    pub(super) fn new(
        parts: Parts,
        settings: Settings,
        rules: Vec<Rule>,
        state: Option<StateDir>,
        (reload, on_save): (Option<Reload>, Option<OnSave>),
    ) -> Self {
        let Parts { roots, workers, server, served, stop, recorder } = parts;
        Self {
            started: Instant::now(),
            options: options(&settings),
            rules: Arc::new(rules),
            facts: DaemonFacts {
                version: env!("CARGO_PKG_VERSION").into(),
                series_limit: Some(settings.series_limit),
                config_last_reload_successful: Some(true),
                ..DaemonFacts::default()
            },
            settings,
            root_scanned_at: vec![unix_now(); roots.len()],
            scanned: vec![false; roots.len()],
            roots,
            idle: (0..workers.len()).collect(),
            workers,
            queue: Queue::default(),
            held: Vec::new(),
            runs: BTreeMap::new(),
            n_runs: 0,
            names: Names::default(),
            served,
            server,
            stop,
            is_restored: recorder.is_none(),
            stored: BTreeMap::new(),
            recorder,
            state,
            state_checked: None,
            reload,
            on_save,
            dropped_for: BTreeMap::new(),
            textfile_failed: false,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn patience(&self) -> Patience {
        Patience { idle_after: self.settings.idle_after, forget_after: self.settings.forget_after }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Scanned(scanned) => {
                self.held.push(*scanned);
                self.take_held();
            }
            Event::Done(worker, done) => {
                self.idle.push(worker);
                self.done(*done);
            }
            Event::Restored(restored) => {
                self.restored(*restored);
                self.take_held();
            }
            Event::Request(Request::Reload) => self.reload(),
            Event::Request(Request::Stop) => {}
        }
        self.dispatch();
    }

    /// Takes in scans in such an order that names do not depend on which root is faster: until all
    /// roots before it were scanned once, a root's scans wait. A root that hangs holds up the others
    /// for [`NAMING_PATIENCE`] only.
    fn take_held(&mut self) {
        let patient = self.now() < NAMING_PATIENCE;
        if patient && !self.is_restored {
            return;
        }
        loop {
            let first_missing = self.scanned.iter().position(|s| !s).unwrap_or(usize::MAX);
            let ready = |s: &Scanned| !patient || s.root <= first_missing;
            let Some(at) = self.held.iter().position(ready) else { return };
            let scanned = self.held.remove(at);
            self.scanned(scanned);
        }
    }

    fn scanned(&mut self, scanned: Scanned) {
        let now = self.now();
        let Scanned { root, mode, settled, pending, gone, n_errors, root_seen } = scanned;
        self.scanned[root] = true;
        let root_path = self.roots[root].path.clone();
        self.facts.watch_modes.insert(root_path.display().to_string(), watch_mode(&mode));
        if root_seen {
            self.root_scanned_at[root] = unix_now();
        }
        // The oldest counts: one root that hangs must show beside others that do not.
        let oldest = self.root_scanned_at.iter().copied().reduce(f64::min);
        self.facts.last_scan_timestamp_seconds = oldest;
        self.facts.scan_errors_total += n_errors;
        let pending_runs = pending.iter().map(|p| (p.run.clone(), p.run_path.clone()));
        let settled_runs = settled.iter().map(|s| (s.run.clone(), s.run_path.clone()));
        let mut here: Vec<(String, PathBuf)> = settled_runs.chain(pending_runs).collect();
        here.sort();
        here.dedup_by(|a, b| a.0 == b.0);
        for (run, path) in here {
            let known = self.runs.values().any(|r| r.root == root && r.below == run);
            if !known {
                let name = self.names.of(root, &root_path, &run, &path);
                info!(run = name, ?path, "found a run");
                self.n_runs += 1;
                let mut found = Run::new(self.n_runs, name.clone(), run, path, root, now);
                if let Some(stored) = self.stored.remove(&absolute(&found.path)) {
                    let settings = self.settings.of_run(&name);
                    found.restore(
                        stored,
                        settings.map_or(&self.settings.anomalies, |s| &s.anomalies),
                    );
                    self.dropped_for.insert(name.clone(), found.n_analyzed);
                }
                self.runs.insert(name, found);
            }
        }
        for save in settled {
            self.settled(root, save, now);
        }
        for run in self.runs.values_mut().filter(|r| r.root == root) {
            run.pending(&pending);
        }
        let patience = self.patience();
        let is_gone = |r: &Run| r.root == root && gone.contains(&r.below);
        let forgotten: Vec<String> = self
            .runs
            .values()
            .filter(|r| {
                let waits = self.queue.len(&r.name) > 0;
                is_gone(r) || !waits && r.forgettable(patience, now)
            })
            .map(|r| r.name.clone())
            .collect();
        for name in forgotten {
            info!(run = name, "run is gone");
            self.runs.remove(&name);
            self.queue.forget(&name);
            self.names.forget(&name);
            self.dropped_for.remove(&name);
            self.facts.series_dropped_total.remove(&name);
        }
    }

    /// A save came to rest: it is queued under the run's name over all roots.
    fn settled(&mut self, root: usize, save: SettledSave, now: Duration) {
        let Some(run) = self.runs.values_mut().find(|r| r.root == root && r.below == save.run)
        else {
            return;
        };
        if run.knows(&save, now) {
            debug!(run = run.name, path = ?save.path, "save was measured before");
            return;
        }
        debug!(run = run.name, path = ?save.path, "save is complete");
        let queued = run.settled(save, now);
        for _ in 0..self.queue.push(&run.name, queued) {
            run.outrun();
        }
    }

    /// Hands saves to idle workers.
    fn dispatch(&mut self) {
        while let Some(worker) = self.idle.pop() {
            let Some((name, queued)) = self.queue.pop() else {
                self.idle.push(worker);
                return;
            };
            let Some(run) = self.runs.get_mut(&name) else {
                self.idle.push(worker);
                continue;
            };
            let how = (&self.rules, &self.options);
            let job = run.job(queued, &self.settings, how, &self.workers[worker].cancel);
            if self.workers[worker].jobs.send(job).is_err() {
                error!(worker, "worker has ended");
            }
        }
    }

    fn done(&mut self, mut done: Done) {
        let now = self.now();
        let settings = self.settings.of_run(&done.run);
        if let (Ok(analyzed), Some(declared)) =
            (&mut done.result, settings.and_then(|s| s.optimizer.as_ref()))
        {
            declare(&mut analyzed.trainer, declared);
        }
        self.facts.analysis_cpu_seconds_total += done.cpu.as_secs_f64();
        self.facts.read_bytes_total += done.read_bytes;
        // A run that was forgotten meanwhile takes nothing, nor does a later one of its name.
        let Some(run) = self.runs.get_mut(&done.run).filter(|r| r.id == done.run_id) else {
            return;
        };
        match &done.result {
            Ok(analyzed) => {
                self.facts.analysis_duration.observe(done.wall.as_secs_f64());
                let report = &analyzed.report;
                info!(
                    run = run.name,
                    step = analyzed.step,
                    pairs = report.pairs.len(),
                    skipped = report.skipped.len(),
                    seconds = done.wall.as_secs_f64(),
                    "analyzed save"
                );
                if report.nan + report.inf > 0 {
                    warn!(
                        run = run.name,
                        step = analyzed.step,
                        nan = report.nan,
                        inf = report.inf,
                        "weights are not finite"
                    );
                }
                if let Some(on_save) = &self.on_save {
                    let loss = analyzed.trainer.loss;
                    on_save(&SaveNews { run: &run.name, report, loss, wall: done.wall });
                }
            }
            Err(error) => {
                let (path, error) = (&done.queued.save.path, error_text(error));
                // A save that stays incomplete is tried again for ever; after a while it is old news.
                if run.is_old_news(&done.queued.save) {
                    debug!(run = run.name, ?path, error, "save still not measured");
                } else {
                    warn!(run = run.name, ?path, error, "save not measured");
                }
            }
        }
        let save = done.queued.save.clone();
        let root = run.root;
        let draft = Draft::of(&done);
        let taken = run.done(done, now);
        if let Some(why) = taken.give_back {
            self.roots[root].give_back(&save, why);
        }
        let rules = settings.map_or(&self.settings.anomalies, |settings| &settings.anomalies);
        let news = run.judge(self.queue.oldest(&run.name), rules);
        tell(&run.name, &news);
        let anomalies = [news.ended, news.began].concat();
        let counters = daemon_counters(&self.facts);
        let record = run.record(draft, taken.outcome, anomalies, unix_now(), counters);
        if let (Some(record), Some(recorder)) = (record, &self.recorder)
            && !recorder.record(record)
        {
            debug!(run = run.name, "save not recorded, the disk is too slow");
        }
        give_up_kept(&mut self.runs, self.settings.memory_limit / KEPT_FRACTION);
    }

    /// Takes in what was recorded before the start; too late, it is of no use.
    fn restored(&mut self, restored: Restored) {
        if !self.is_restored && self.scanned.iter().all(|scanned| !scanned) {
            let of_path = |run: StoredRun| (run.path.clone(), run);
            self.stored = restored.runs.into_iter().map(of_path).collect();
            take_daemon_counters(&mut self.facts, &restored.daemon_counters);
        }
        self.is_restored = true;
    }

    fn reload(&mut self) {
        let Some(reload) = &self.reload else {
            info!("no configuration file to read again");
            return;
        };
        match reload() {
            Ok((settings, rules)) => {
                if fixed(&settings) != fixed(&self.settings) {
                    warn!(
                        "addresses, directories, threads, intervals and waits change at the next start only"
                    );
                }
                self.options = options(&settings);
                self.rules = Arc::new(rules);
                self.facts.series_limit = Some(settings.series_limit);
                self.facts.config_last_reload_successful = Some(true);
                self.settings = settings;
                info!("configuration read again");
            }
            Err(error) => {
                self.facts.config_last_reload_successful = Some(false);
                warn!(error, "configuration not read again, the last one stays in force");
            }
        }
    }

    /// Asks now and then whether the state directory can be written.
    fn check_state(&mut self) {
        let due = self.state_checked.is_none_or(|at| at.elapsed() >= STATE_INTERVAL);
        if let (Some(state), true) = (&self.state, due) {
            let is_recorded = self.recorder.as_ref().is_none_or(Recorder::is_ok);
            self.facts.state_store_ok = Some(state.is_writable() && is_recorded);
            self.state_checked = Some(Instant::now());
        }
    }

    /// Renders and serves what is known now.
    pub(super) fn publish(&mut self) {
        self.check_state();
        let (now, unix, patience) = (self.now(), unix_now(), self.patience());
        let queue = &self.queue;
        let runs = self.runs.values().map(|r| r.facts(queue.len(&r.name), patience, now, unix));
        let snapshot = Snapshot {
            daemon: Some(self.facts.clone()),
            runs: runs.collect(),
            process: metrics::process_families(),
        };
        let ready = self.scanned.iter().all(|done| *done);
        let dropped = self.served.publish(&snapshot, ready);
        for run in &snapshot.runs {
            // Counted once per measured save, however often it is rendered.
            let n_measured = self.dropped_for.insert(run.name.clone(), run.analyzed_total);
            if n_measured != Some(run.analyzed_total) {
                let n = dropped.get(&run.name).copied().unwrap_or(0);
                *self.facts.series_dropped_total.entry(run.name.clone()).or_insert(0) += n;
            }
        }
        if let Some(file) = &self.settings.textfile {
            let text = metrics::render_text(&Snapshot { process: Vec::new(), ..snapshot });
            match textfile::write(file, &text) {
                Ok(()) => self.textfile_failed = false,
                Err(error) if self.textfile_failed => debug!(%error, "textfile not written"),
                Err(error) => {
                    self.textfile_failed = true;
                    warn!(path = ?file, %error, "textfile not written");
                }
            }
        }
    }

    /// Ends: the work at hand is cancelled at its next step and waited for, then HTTP stops.
    pub(super) fn finish(self, events: &Receiver<Event>) {
        info!("stopping");
        self.stop.store(true, Ordering::Relaxed);
        for worker in &self.workers {
            worker.cancel.store(true, Ordering::Relaxed);
        }
        let mut busy = self.workers.len() - self.idle.len();
        let deadline = Instant::now() + STOP_GRACE;
        while busy > 0 {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Done(..)) => busy -= 1,
                Ok(_) => {}
                // A long decomposition cannot be interrupted; it ends with the process.
                Err(_) => break,
            }
        }
        if let Some(recorder) = self.recorder {
            recorder.finish(deadline);
        }
        self.server.stop();
        info!("stopped");
    }
}

fn watch_mode(mode: &crate::watch::WatchMode) -> metrics::WatchMode {
    match mode {
        crate::watch::WatchMode::Events => metrics::WatchMode::Events,
        crate::watch::WatchMode::Polling { .. } => metrics::WatchMode::Polling,
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
