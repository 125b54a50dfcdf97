//! What of a run's last save is kept for the next one: in memory as long as there is room, and on
//! disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::Run;
use crate::config::Settings;
use crate::daemon::job::Job;
use crate::daemon::path_text;
use crate::daemon::queue::{Age, Queued};
use crate::diagnostics::{Baseline, Options, Origin};
use crate::model::Rule;
use crate::remote;
use crate::watch::SettledSave;

/// A save that is there, as far as is known.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) save: SettledSave,
}

impl Seen {
    fn place(&self) -> (PathBuf, Option<i64>) {
        (self.save.path.clone(), modified_ns(&self.save))
    }
}

/// What a save is compared with and its searches start from.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Before {
    /// Path of the save before, if there is one and it is not overwritten.
    pub(in crate::daemon) path: Option<PathBuf>,
    /// Which it is.
    pub(in crate::daemon) save: Option<Origin>,
    /// Its subspaces, if they are remembered.
    pub(in crate::daemon) baseline: Option<Arc<Baseline>>,
    /// Whether they are not, but may have been kept on disk.
    pub(in crate::daemon) ask_disk: bool,
}

impl Run {
    /// The save before `save`, and its subspaces if they are remembered.
    pub(in crate::daemon) fn before(&self, queued: &Queued) -> Before {
        let known = self.baseline.as_ref();
        let held = || known.and_then(|(_, baseline)| baseline.clone());
        // Nothing was measured since the start, or what was kept of it was given up.
        let ask_disk = known.is_none_or(|(_, baseline)| baseline.is_none());
        if queued.save.in_place {
            // The weights before are overwritten, but their subspaces are remembered.
            return Before { baseline: held(), ask_disk, ..Before::default() };
        }
        // After a resume the save before is the one trained from, not the last of what was left.
        let came_before =
            |age: &Age| age.segment == queued.age.segment || age.step < queued.age.step;
        let previous = self.saves.range(..queued.age).rev().find(|(age, _)| came_before(age));
        let path = previous.map(|(_, seen)| seen.save.path.clone());
        let seen = previous.map(|(age, seen)| {
            let (path, at) = seen.place();
            (*age, path, at)
        });
        // One that was recorded before the start may be gone, but not what is kept of it.
        let recorded = self.recorded_before(queued.age, &came_before);
        let latest = seen.into_iter().chain(recorded).max_by_key(|(age, ..)| *age);
        let save = latest.as_ref().map(|(age, path, at)| self.origin(path, age.step, *at));
        let is_of = |age: &Age| latest.as_ref().is_some_and(|(before, ..)| before == age);
        if known.is_none_or(|(age, _)| is_of(age)) {
            Before { path, save, baseline: held(), ask_disk }
        } else {
            Before { path, save, ..Before::default() }
        }
    }

    /// The job that measures a save. It counts as running.
    pub(in crate::daemon) fn job(
        &mut self,
        queued: Queued,
        root: &Path,
        settings: &Settings,
        (rules, options): (&Arc<Vec<Rule>>, &Arc<Options>),
        cancel: &Arc<AtomicBool>,
    ) -> Job {
        let before = self.before(&queued);
        self.running += 1;
        Job {
            run: self.name.clone(),
            run_id: self.id,
            origin: self.origin_of(&queued.save),
            keep: self.keeps(queued.age),
            queued,
            path_before: before.path,
            previous: before.save,
            baseline: before.baseline,
            ask_disk: before.ask_disk,
            warm_limit: settings.warm_limit,
            io_limit: settings.io_limit,
            pressure_limit: settings.pressure_limit,
            rules: Arc::clone(rules),
            root: root.to_owned(),
            bases: settings.bases.clone(),
            options: Arc::clone(options),
            cancel: Arc::clone(cancel),
        }
    }

    /// Which save it is, in words that outlive a restart.
    pub(in crate::daemon) fn origin_of(&self, save: &SettledSave) -> Origin {
        self.origin(&save.path, save.step, modified_ns(save))
    }

    fn origin(&self, save: &Path, step: Option<u64>, modified_ns: Option<i64>) -> Origin {
        Origin { run: absolute(&self.path), save: absolute(save), step, modified_ns }
    }

    /// The last save before `age` that was measured before the start and not seen since.
    fn recorded_before(
        &self,
        age: Age,
        came_before: &dyn Fn(&Age) -> bool,
    ) -> Option<(Age, PathBuf, Option<i64>)> {
        let measured = self.known.iter().filter(|(_, known)| known.error.is_none());
        let before = measured.filter(|(_, known)| known.age < age && came_before(&known.age));
        let (key, known) = before.max_by_key(|(_, known)| known.age)?;
        Some((known.age, path_text::decode(&key.path), Some(key.modified_ns)))
    }

    /// Whether the next save will start from what is kept of this one.
    pub(in crate::daemon) fn keeps(&self, age: Age) -> bool {
        // That of the newest save stays for the next one; until then each serves its successor.
        let known = self.baseline.as_ref().map(|(known, _)| *known);
        known.is_none_or(|known| age >= known || self.analyzed != Some(known))
    }

    /// Bytes of what is kept of its last save, and when that was.
    fn kept_bytes(&self) -> (Duration, u64) {
        let kept = self.baseline.as_ref().and_then(|(_, kept)| kept.as_ref());
        (self.last_work, kept.map_or(0, |kept| kept.n_bytes()))
    }

    /// Gives up what is kept in memory of its last save.
    fn give_up_kept(&mut self) {
        if let Some((_, kept)) = &mut self.baseline {
            *kept = None;
        }
    }
}

/// Gives up what is kept of the runs measured longest ago, until the rest takes at most `limit`
/// bytes. That of the run measured last stays in any case.
pub(in crate::daemon) fn give_up_kept(runs: &mut BTreeMap<String, Run>, limit: u64) {
    let mut kept: Vec<_> = runs.iter().map(|(name, run)| (run.kept_bytes(), name)).collect();
    kept.sort();
    let mut total: u64 = kept.iter().map(|((_, bytes), _)| bytes).sum();
    let mut gone = Vec::new();
    for ((_, bytes), name) in kept.iter().take(kept.len().saturating_sub(1)) {
        if total <= limit {
            break;
        }
        total -= bytes;
        gone.push((*name).clone());
    }
    for name in gone {
        if let Some(run) = runs.get_mut(&name) {
            run.give_up_kept();
        }
    }
}

/// As text, whatever its bytes are. Relative roots are the same at the next start only from the same
/// directory.
pub(in crate::daemon) fn absolute(path: &Path) -> String {
    let path = remote::canonical(path)
        .or_else(|| std::path::absolute(path).ok())
        .unwrap_or_else(|| path.to_owned());
    path_text::encode(&path)
}

/// The latest modification of a save's files, nanoseconds of Unix time.
pub(in crate::daemon) fn modified_ns(save: &SettledSave) -> Option<i64> {
    save.files.iter().map(|f| f.mtime_ns).max()
}
