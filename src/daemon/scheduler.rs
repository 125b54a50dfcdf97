//! The owner of the table of runs: takes in scans and finished jobs, hands out saves, renders.

mod done;
mod records;
mod scans;

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};

use super::crew::{Crew, Lost, Task, Work};
use super::error_text;
use super::http::{Served, Server};
use super::job::{Done, Ticket};
use super::names::Names;
use super::past::Past;
use super::pin::PinOrder;
use super::queue::Queue;
use super::recorder::Recorder;
use super::reread::Reader;
use super::root::{Root, Scanned};
use super::runs::{Patience, Run};
use super::settings::{fixed, options};
use super::trail::Trails;
use super::{Event, OnSave, Reload, Request, StateDir, textfile};
use crate::config::Settings;
use crate::diagnostics::Options;
use crate::metrics::{self, DaemonFacts, Snapshot};
use crate::model::Rule;
use crate::watch::Shard;
use records::Records;

/// Time for the work at hand when asked to stop; the whole stop stays below 5 s.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Time between two looks at the state directory.
const STATE_INTERVAL: Duration = Duration::from_secs(15);

/// How long nothing is served while the history is read: counters that began at 0 would look like
/// ones that were reset.
const LOADING_PATIENCE: Duration = Duration::from_secs(5);

/// What is kept of the runs' last saves may take this part of the memory limit.
const KEPT_FRACTION: u64 = 2;

/// Owner of the table of runs.
pub(super) struct Scheduler {
    started: Instant,
    settings: Settings,
    options: Arc<Options>,
    rules: Arc<Vec<Rule>>,
    facts: DaemonFacts,
    /// Whose runs are looked for.
    shard: Shard,
    roots: Vec<Root>,
    /// When each root was last listed, Unix seconds; at first the start of the daemon.
    root_scanned_at: Vec<f64>,
    /// Which roots have been scanned at least once.
    scanned: Vec<bool>,
    /// Whether each root could be listed by its last scan.
    seen: Vec<Option<bool>>,
    /// Which roots do not answer.
    silent: Vec<bool>,
    crew: Crew,
    queue: Queue,
    /// Scans that wait for those of the roots before them.
    held: Vec<Scanned>,
    runs: BTreeMap<String, Run>,
    n_runs: u64,
    names: Names,
    served: Arc<Served>,
    server: Server,
    stop: Arc<AtomicBool>,
    records: Option<Records>,
    /// Whether what was recorded before the start is known; scans wait for it.
    is_restored: bool,
    /// Runs that are gone, as references of others.
    past: Past,
    /// What is drawn of the runs.
    trails: Trails,
    /// Reads what is drawn of the time before the start, once.
    reader: Option<Reader>,
    /// Links to be made for saves that rotation must not take.
    pins: VecDeque<(usize, PinOrder)>,
    state: Option<StateDir>,
    state_checked: Option<Instant>,
    is_writable: bool,
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
    pub(super) shard: Shard,
    pub(super) crew: Crew,
    pub(super) server: Server,
    pub(super) served: Arc<Served>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) recorder: Option<Recorder>,
    pub(super) reader: Option<Reader>,
}

impl Scheduler {
    pub(super) fn new(
        parts: Parts,
        settings: Settings,
        rules: Vec<Rule>,
        state: Option<StateDir>,
        (reload, on_save, sandbox): (Option<Reload>, Option<OnSave>, Option<String>),
    ) -> Self {
        let Parts { roots, shard, crew, server, served, stop, recorder, reader } = parts;
        Self {
            started: Instant::now(),
            options: options(&settings),
            rules: Arc::new(rules),
            facts: DaemonFacts {
                version: env!("CARGO_PKG_VERSION").into(),
                sandbox,
                series_limit: Some(settings.series_limit),
                shard,
                config_last_reload_successful: Some(true),
                ..DaemonFacts::default()
            },
            settings,
            shard,
            root_scanned_at: vec![unix_now(); roots.len()],
            scanned: vec![false; roots.len()],
            seen: vec![None; roots.len()],
            silent: vec![false; roots.len()],
            roots,
            crew,
            queue: Queue::default(),
            held: Vec::new(),
            runs: BTreeMap::new(),
            n_runs: 0,
            names: Names::default(),
            served,
            server,
            stop,
            is_restored: recorder.is_none(),
            past: Past::default(),
            trails: Trails::default(),
            reader,
            pins: VecDeque::new(),
            records: recorder.map(Records::new),
            state,
            state_checked: None,
            is_writable: true,
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
                // What was given up was given back: its result comes too late.
                if self.crew.done(worker) {
                    self.done(*done);
                }
            }
            Event::Pinned(worker) => drop(self.crew.done(worker)),
            Event::Restored(restored) => {
                self.restored(*restored);
                self.take_held();
            }
            Event::Reread(reread) => self.trails.refine(&reread.run, reread.past),
            Event::Request(Request::Reload) => self.reload(),
            // Room in the store is for `dispatch`.
            Event::Recorded | Event::Request(Request::Stop) => {}
        }
        self.dispatch();
    }

    /// Hands the next piece of work to the worker if it is idle.
    fn dispatch(&mut self) {
        let is_behind = self.records.as_mut().is_some_and(|records| {
            records.pass_on();
            records.is_behind()
        });
        while self.crew.is_idle() {
            // A save that is to be kept may be gone soon. Where the file system does not answer it waits: nothing
            // is measured there meanwhile, so no more come.
            let next = self.pins.iter().position(|(root, _)| !self.crew.waits_for(*root));
            if let Some((root, order)) = next.and_then(|at| self.pins.remove(at)) {
                self.crew.give(Task { root, save: None }, Work::Pin(order));
                continue;
            }
            let (runs, crew) = (&self.runs, &self.crew);
            let answers = |run: &str| runs.get(run).is_none_or(|run| !crew.waits_for(run.root));
            let next = if is_behind { None } else { self.queue.pop(answers) };
            let Some((name, queued)) = next else { return };
            let Some(run) = self.runs.get_mut(&name) else { continue };
            let ticket = Ticket { run: name, run_id: run.id, queued: queued.clone() };
            let task = Task { root: run.root, save: Some(ticket) };
            let how = (&self.rules, &self.options);
            let root = &self.roots[run.root].path;
            let job = run.job(queued, root, &self.settings, how, self.crew.cancel());
            self.crew.give(task, Work::Analyze(Box::new(job)));
        }
    }

    /// Looks after the worker and the roots: what hangs must show, and must hold up nothing else.
    pub(super) fn look(&mut self) {
        if let Some(Lost { ticket, why }) = self.crew.look() {
            if let Some(ticket) = ticket {
                self.done(Done::lost(ticket, why));
            } else {
                warn!(error = error_text(&why), "good saves cannot be pinned");
            }
            self.dispatch();
        }
        for (index, root) in self.roots.iter().enumerate() {
            let silent = root.silent_for();
            let was_silent = std::mem::replace(&mut self.silent[index], silent.is_some());
            match silent {
                Some(silent) if !was_silent => {
                    let seconds = silent.as_secs();
                    warn!(root = ?root.path, seconds, "the file system does not answer, its runs stand still");
                }
                None if was_silent => info!(root = ?root.path, "the file system answers again"),
                _ => {}
            }
        }
    }

    /// Root → whether it can be looked at, where that is known.
    fn root_up(&self) -> BTreeMap<String, bool> {
        let up = |(index, root): (usize, &Root)| {
            let silent = self.silent[index] || self.crew.waits_for(index);
            let up = if silent { Some(false) } else { self.seen[index] };
            Some((root.path.display().to_string(), up?))
        };
        self.roots.iter().enumerate().filter_map(up).collect()
    }

    fn reload(&mut self) {
        self.server.read_again();
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
                self.compare();
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
        let Some(state) = &mut self.state else { return };
        if due {
            self.is_writable = state.is_writable();
            self.state_checked = Some(Instant::now());
        }
        let is_recorded = self.records.as_ref().is_none_or(Records::is_ok);
        self.facts.state_store_ok = Some(self.is_writable && is_recorded);
    }

    /// For the service manager, in a line.
    pub(super) fn status(&self) -> String {
        let n_measured: u64 = self.runs.values().map(|run| run.n_analyzed).sum();
        let n_waiting: usize = self.runs.keys().map(|name| self.queue.len(name)).sum();
        let stale = match self.facts.config_last_reload_successful {
            Some(false) => ", the configuration was not read again",
            _ => "",
        };
        format!("{} runs, {n_measured} saves measured, {n_waiting} waiting{stale}", self.runs.len())
    }

    /// Renders and serves what is known now.
    pub(super) fn publish(&mut self) {
        self.dispatch();
        if !self.is_restored && self.now() < LOADING_PATIENCE {
            return;
        }
        self.check_state();
        self.facts.root_up = self.root_up();
        let access = self.server.access();
        self.facts.http_rejected_total = access.rejected();
        let mut facts = self.facts.clone();
        let is_current = access.is_current();
        facts.config_last_reload_successful =
            facts.config_last_reload_successful.map(|is_read| is_read && is_current);
        let (now, unix, patience) = (self.now(), unix_now(), self.patience());
        let queue = &self.queue;
        let runs = self.runs.values().map(|r| r.facts(queue.len(&r.name), patience, now, unix));
        let snapshot = Snapshot {
            daemon: Some(facts),
            runs: runs.collect(),
            process: metrics::process_families(),
            labels: self.settings.labels.clone(),
        };
        let ready = self.scanned.iter().all(|done| *done);
        let dropped = self.served.publish(&snapshot, &self.trails.bodies(), ready);
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
                    let is_confined = |what: &String| !what.starts_with("none");
                    let is_confined = self.facts.sandbox.as_ref().is_some_and(is_confined);
                    let refused = error.kind() == ErrorKind::PermissionDenied;
                    let why = (refused && is_confined).then_some(
                        "a directory that was made anew is out of the sandbox's reach until the next start",
                    );
                    warn!(path = ?file, %error, why, "textfile not written");
                }
            }
        }
    }

    /// Ends: the work at hand is cancelled at its next step and waited for, then HTTP stops.
    pub(super) fn finish(mut self, events: &Receiver<Event>) {
        info!("stopping");
        self.stop.store(true, Ordering::Relaxed);
        self.crew.stop();
        let deadline = Instant::now() + STOP_GRACE;
        while !self.crew.is_idle() {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Done(worker, _) | Event::Pinned(worker)) => drop(self.crew.done(worker)),
                Ok(_) => {}
                // A long decomposition cannot be interrupted; it ends with the process.
                Err(_) => break,
            }
        }
        if let Some(records) = self.records {
            records.finish(deadline);
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
