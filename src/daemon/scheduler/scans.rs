//! What scans and the store say of runs: found, restored, gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, info};

use super::{Scheduler, unix_now, watch_mode};
use crate::checkpoint::step_in_name;
use crate::daemon::counters::take_daemon_counters;
use crate::daemon::path_text;
use crate::daemon::recorder::Restored;
use crate::daemon::root::{Root, Scanned};
use crate::daemon::runs::{Run, absolute, stored_in};
use crate::history::{Rules, StoredRun};
use crate::watch::{SettledSave, run_name};

/// How long names wait for a slow root at the start.
const NAMING_PATIENCE: Duration = Duration::from_secs(10);

/// How long scans wait for what was recorded before the start: what comes before it is measured
/// again.
const RESTORING_PATIENCE: Duration = Duration::from_mins(1);

impl Scheduler {
    /// Takes in scans in such an order that names do not depend on which root is faster: until all
    /// roots before it were scanned once, a root's scans wait. A root that hangs holds up the others
    /// for [`NAMING_PATIENCE`] only.
    pub(super) fn take_held(&mut self) {
        if !self.is_restored && self.now() < RESTORING_PATIENCE {
            return;
        }
        let patient = self.now() < NAMING_PATIENCE;
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
        let Scanned { root, mode, settled, pending, gone, gone_paths, .. } = scanned;
        let Scanned { end_marks, n_errors, root_seen, .. } = scanned;
        self.scanned[root] = true;
        let root_path = self.roots[root].path.display().to_string();
        self.facts.watch_modes.insert(root_path, watch_mode(&mode));
        self.seen[root] = Some(root_seen);
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
            self.found(root, run, path, now);
        }
        for save in settled {
            self.settled(root, save, now);
        }
        for run in self.runs.values_mut().filter(|r| r.root == root) {
            run.pending(&pending);
            run.marked(&end_marks.0, end_marks.1);
        }
        let patience = self.patience();
        let is_gone =
            |r: &Run| r.root == root && (gone.contains(&r.below) || gone_paths.contains(&r.path));
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
            self.forget(&name);
        }
    }

    /// A run has saves below a root: it may be new, or known from before the start by its path.
    fn found(&mut self, root: usize, below: String, path: PathBuf, now: Duration) {
        let is_it = |r: &&mut Run| r.root == root && (r.below == below || r.path == path);
        if let Some(known) = self.runs.values_mut().find(is_it) {
            known.below = below;
            return;
        }
        let name = self.names.of(root, &self.roots[root].path, &below, &path);
        info!(run = name, ?path, "found a run");
        self.n_runs += 1;
        self.runs.insert(name.clone(), Run::new(self.n_runs, name, below, path, root, now));
    }

    fn forget(&mut self, name: &str) {
        info!(run = name, "run is gone");
        if let Some(run) = self.drop_run(name) {
            self.past.keep(name, run.into_trend());
        }
    }

    /// Takes a run out of all tables.
    pub(super) fn drop_run(&mut self, name: &str) -> Option<Run> {
        let run = self.runs.remove(name);
        self.queue.forget(name);
        self.names.forget(name);
        self.trails.forget(name);
        self.dropped_for.remove(name);
        self.facts.series_dropped_total.remove(name);
        run
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

    /// Takes in what was recorded before the start: runs below the roots are served at once, as they
    /// were. Too late, it is of no use.
    pub(super) fn restored(&mut self, restored: Restored) {
        if !self.is_restored && self.scanned.iter().all(|scanned| !scanned) {
            take_daemon_counters(&mut self.facts, &restored.daemon_counters);
            // The root named first gives the short name, as with scans.
            let mut runs = restored.runs;
            runs.sort_by_key(|run| self.below_root(&run.path).map_or(usize::MAX, |(root, _)| root));
            let rereads: Vec<_> = runs.into_iter().filter_map(|run| self.restore(run)).collect();
            if let Some(read) = self.reader.take().filter(|_| !rereads.is_empty()) {
                read(rereads);
            }
            for (index, root) in self.roots.iter().enumerate() {
                let here = self.runs.values().filter(|run| run.root == index);
                root.expect(here.map(|run| run.path.clone()).collect());
            }
            self.compare();
        }
        self.is_restored = true;
    }

    /// Name and recorded path of the run, if it is below a root.
    fn restore(&mut self, stored: StoredRun) -> Option<(String, String)> {
        let rules = self.rules_of(&stored.name).clone();
        let place = self.place_of(&stored);
        let (name, root, path) = place.clone().unwrap_or((stored.name.clone(), 0, PathBuf::new()));
        self.n_runs += 1;
        // What the run is called below its root, its first scan will say.
        let mut run = Run::new(self.n_runs, name.clone(), String::new(), path, root, self.now());
        let reread = place.is_some().then(|| (name.clone(), stored.path.clone()));
        if reread.is_some() {
            self.trails.restore(&name, &stored.saves);
        }
        run.restore(stored, &rules);
        if reread.is_some() {
            self.dropped_for.insert(name.clone(), run.n_analyzed);
            self.runs.insert(name, run);
        } else {
            // It may still be what others are compared with.
            self.past.keep(&name, run.into_trend());
        }
        reread
    }

    /// Name, root and path of a recorded run that a root has: the path as a scan will give it, the name as
    /// it was, unless another run has that now.
    fn place_of(&mut self, stored: &StoredRun) -> Option<(String, usize, PathBuf)> {
        let (root, path) = self.below_root(&stored.path)?;
        // Others measure it now.
        if !self.shard.has(&self.roots[root].path, stored_in(&stored.path, &stored.saves, &path)) {
            return None;
        }
        let name = if self.names.take(&stored.name, root, &path) {
            stored.name.clone()
        } else {
            let root_path = &self.roots[root].path;
            let below = path.strip_prefix(root_path).ok().filter(|b| *b != Path::new(""));
            let own = below.map_or(path.file_name().unwrap_or_default(), Path::as_os_str);
            self.names.of(root, root_path, &run_name(Path::new(own)), &path)
        };
        Some((name, root, path))
    }

    /// The root that has the run of a recorded path, and the run's path as a scan gives it.
    fn below_root(&self, path: &str) -> Option<(usize, PathBuf)> {
        let path = &*path_text::decode(path);
        let has = |root: &Root| {
            let absolute = path_text::decode(&absolute(&root.path));
            if let Ok(below) = path.strip_prefix(&absolute) {
                let is_root = below == Path::new("");
                return Some(if is_root { root.path.clone() } else { root.path.join(below) });
            }
            // A root that is a save belongs to the run around it.
            let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
            let is_save = name.is_some_and(|name| step_in_name(&name).is_some());
            (is_save && absolute.parent() == Some(path)).then(|| path.to_owned())
        };
        self.roots.iter().enumerate().find_map(|(i, root)| Some((i, has(root)?)))
    }

    pub(super) fn rules_of(&self, run: &str) -> &Rules {
        self.settings.of_run(run).map_or(&self.settings.anomalies, |settings| &settings.anomalies)
    }
}
