//! The past of all runs below a root, as the daemon would have exported it after every save: the same
//! table of runs, the same jobs, one save after the other.

mod found;
mod order;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::job::{self, JobError, Tools};
use super::news::declare;
use super::past::Past;
use super::queue::Queued;
use super::runs::{Patience, Run, modified_ns};
use super::{error_text, priority, settings};
use crate::checkpoint::{OpenError, ReadError};
use crate::config::{Priority, Settings};
use crate::diagnostics::Options;
use crate::history::{Archive, Rules, StoreError};
use crate::metrics::{RunFacts, Timeline, TimelineError};
use crate::model::Rule;
use crate::watch::{ScanError, Shard};
use found::PastRun;
use order::PastSave;

/// What is asked for.
#[derive(Debug)]
pub struct BackfillRequest {
    /// Directory that holds runs.
    pub root: PathBuf,
    /// Of which of the runs in it.
    pub shard: Shard,
    /// State directory of a daemon, whose history is used. It is only read.
    pub state_dir: Option<PathBuf>,
    /// Checked settings.
    pub settings: Settings,
    /// Architecture rules.
    pub rules: Vec<Rule>,
    /// The last moment of which anything is said, milliseconds since 1970.
    pub until_ms: i64,
    /// Set from outside to end soon.
    pub cancel: Arc<AtomicBool>,
}

/// The past, and what is missing from it.
#[derive(Debug)]
pub struct Backfill {
    /// What there is to write.
    pub timeline: Timeline,
    /// Saves in it.
    pub n_saves: usize,
    /// Those of them that the history knew.
    pub n_recorded: usize,
    /// What could not be measured or looked at.
    pub failed: Vec<FailedSave>,
    /// Saves later than the last moment.
    pub n_late: usize,
    /// Saves that are not later than one of an earlier step.
    pub n_disordered: usize,
    /// Samples left out by the limit on a run's series, repeats not counted.
    pub n_left_out: usize,
    /// Whether the root holds more than is looked at.
    pub is_truncated: bool,
}

/// A save, or a directory, that is not in the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedSave {
    /// Which.
    pub path: PathBuf,
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// Why, in one line.
    pub why: String,
}

/// What could be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing: its bytes contradict their format, or a limit was hit.
    Malformed,
    /// It is not there, or not for us.
    Unreadable,
    /// It may be whole later.
    Incomplete,
}

/// Why there is no past at all.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// The root cannot be listed.
    #[error(transparent)]
    Root(#[from] ScanError),
    /// The history cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is too much of it.
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    /// It was asked to end.
    #[error("interrupted, nothing is written")]
    Cancelled,
}

/// Reads and measures the past. `progress` is told how many saves of all are done.
///
/// # Errors
/// When the root or the history cannot be read, there is too much to keep, or it is to end.
pub fn backfill(
    request: &BackfillRequest,
    progress: &dyn Fn(usize, usize),
) -> Result<Backfill, BackfillError> {
    if request.settings.priority == Priority::Idle {
        priority::lowest();
    }
    let archive = request.state_dir.as_deref().map(Archive::open).transpose()?;
    let mut found = found::find(request, archive.as_ref())?;
    // References come first, as the others are compared with all of them.
    found.runs.sort_by_key(|run| !is_reference(&request.settings, &run.name));
    let names = found.runs.iter().map(|run| run.name.as_str());
    let mut replay = Replay {
        request,
        archive,
        rules: Arc::new(request.rules.clone()),
        options: settings::options(&request.settings),
        // Starts of searches kept on disk belong to the daemon.
        tools: Tools::new(None),
        references: Past::default(),
        progress,
        n_done: 0,
        n_all: found.runs.iter().map(|run| run.past.saves.len()).sum(),
        all: Backfill {
            timeline: Timeline::new(names, request.settings.series_limit),
            n_saves: 0,
            n_recorded: 0,
            failed: found.failed,
            n_late: found.runs.iter().map(|run| run.past.n_late).sum(),
            n_disordered: found.runs.iter().map(|run| run.past.n_disordered).sum(),
            n_left_out: 0,
            is_truncated: found.is_truncated,
        },
    };
    for (id, run) in (1..).zip(found.runs) {
        replay.run(id, run)?;
    }
    Ok(replay.all)
}

/// The work at hand.
struct Replay<'a> {
    request: &'a BackfillRequest,
    archive: Option<Archive>,
    rules: Arc<Vec<Rule>>,
    options: Arc<Options>,
    tools: Tools,
    /// Runs that others are compared with, as far as they are replayed.
    references: Past,
    progress: &'a dyn Fn(usize, usize),
    n_done: usize,
    n_all: usize,
    all: Backfill,
}

impl Replay<'_> {
    fn run(&mut self, id: u64, past: PastRun) -> Result<(), BackfillError> {
        let PastRun { name, below, path, past } = past;
        let mut run = Run::new(id, name, below, path, 0, Duration::ZERO);
        let there = past.saves.iter().filter(|past| past.is_there);
        let there: HashSet<_> =
            there.map(|past| (past.save.path.clone(), modified_ns(&past.save))).collect();
        // What a save has to say holds until the next one is there that says something.
        let mut open: Option<(RunFacts, i64)> = None;
        for past in past.saves {
            (self.progress)(self.n_done, self.n_all);
            self.n_done += 1;
            if self.request.cancel.load(Ordering::Relaxed) {
                return Err(BackfillError::Cancelled);
            }
            let at_ms = past.at_ms;
            if let Some(facts) = self.save(&mut run, past, &there)?
                && let Some((facts, from_ms)) = open.replace((facts, at_ms))
            {
                self.hold(facts, from_ms, at_ms)?;
            }
        }
        (self.progress)(self.n_done, self.n_all);
        if is_reference(&self.request.settings, &run.name) {
            self.references.keep(&run.name.clone(), run.into_trend());
        }
        let Some((facts, from_ms)) = open else { return Ok(()) };
        let interval = facts.save_interval_seconds.map_or(0, milliseconds);
        let next_ms = past.next_ms.unwrap_or(from_ms.saturating_add(interval));
        let end_ms = next_ms.min(self.request.until_ms.saturating_add(1));
        self.hold(facts, from_ms, end_ms)
    }

    /// Takes one save into its run; what is exported after it, unless it cannot be measured.
    fn save(
        &mut self,
        run: &mut Run,
        past: PastSave,
        there: &HashSet<(PathBuf, Option<i64>)>,
    ) -> Result<Option<RunFacts>, BackfillError> {
        let PastSave { save, segment, stored, is_there, at_ms } = past;
        let settings = &self.request.settings;
        let of_run = settings.of_run(&run.name);
        let rules: &Rules = of_run.map_or(&settings.anomalies, |s| &s.anomalies);
        let queued = run.placed(save, segment, Duration::ZERO);
        let mut alignment = BTreeMap::new();
        if let (Some(stored), Some(archive)) = (stored, &self.archive) {
            let (report, has_details) = archive.report(&stored)?;
            if !has_details {
                let named =
                    stored.summary.alignment.iter().map(|(pair, mean)| ((*pair).to_owned(), *mean));
                alignment = named.collect();
            }
            run.recorded(&queued, &stored, (report, has_details));
            self.all.n_recorded += 1;
        } else if !self.measure(run, queued, there)? {
            return Ok(None);
        }
        run.judge(None, rules);
        if let Some(pattern) = settings.reference_of(&run.name) {
            let references: Vec<_> =
                self.references.matching(&|run| pattern.matches(run)).collect();
            run.deviations = run.trend().deviations(&references, rules);
        }
        self.all.n_saves += 1;
        let mut facts = run.facts(0, self.patience(), Duration::ZERO, seconds(at_ms));
        facts.alignment_mean = alignment;
        if !is_there {
            // The store knows the last change of a save, not the first.
            facts.save_duration_seconds = None;
        }
        Ok(Some(facts))
    }

    /// Measures a save; whether that came to something.
    fn measure(
        &mut self,
        run: &mut Run,
        queued: Queued,
        there: &HashSet<(PathBuf, Option<i64>)>,
    ) -> Result<bool, BackfillError> {
        let settings = &self.request.settings;
        let how = (&self.rules, &self.options);
        let mut job = run.job(queued, &self.request.root, settings, how, &self.request.cancel);
        let before = job.previous.as_ref().and_then(|before| before.modified_ns);
        // Another save may stand at the path of the one before.
        job.path_before = job.path_before.filter(|path| there.contains(&(path.clone(), before)));
        let mut done = job::run(job, &mut self.tools);
        let declared = settings.of_run(&run.name).and_then(|s| s.optimizer.as_ref());
        match (&mut done.result, declared) {
            (Err(JobError::Cancelled), _) => return Err(BackfillError::Cancelled),
            (Err(error), _) if error.is_no_save() => {}
            (Err(error), _) => {
                let (path, kind) = (done.queued.save.path.clone(), kind_of(error));
                self.all.failed.push(FailedSave { path, kind, why: error_text(error) });
            }
            (Ok(analyzed), Some(declared)) => declare(&mut analyzed.trainer, declared),
            (Ok(_), None) => {}
        }
        let is_measured = done.result.is_ok();
        run.done(done, Duration::ZERO);
        Ok(is_measured)
    }

    /// What holds from a save on. Without a next save the daemon calls the run inactive after a while
    /// and then forgets it.
    fn hold(&mut self, facts: RunFacts, from_ms: i64, next_ms: i64) -> Result<(), BackfillError> {
        let Patience { idle_after, forget_after } = self.patience();
        let after = |wait: Duration| {
            from_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
        };
        let idle_ms = after(idle_after);
        let end_ms = next_ms.min(after(idle_after.saturating_add(forget_after)));
        self.all.n_left_out += self.all.timeline.add(&facts, from_ms, end_ms)?;
        if facts.active && idle_ms < end_ms && idle_ms > from_ms {
            let idle = RunFacts { active: false, ..facts };
            self.all.timeline.add(&idle, idle_ms, end_ms)?;
        }
        Ok(())
    }

    fn patience(&self) -> Patience {
        let Settings { idle_after, forget_after, .. } = self.request.settings;
        Patience { idle_after, forget_after }
    }
}

/// Whether any run may be compared with the one of this name.
fn is_reference(settings: &Settings, name: &str) -> bool {
    let of_runs = settings.runs.iter().filter_map(|run| run.reference.as_ref());
    of_runs.chain(&settings.reference).any(|pattern| pattern.matches(name))
}

fn kind_of(error: &JobError) -> FailureKind {
    match error {
        JobError::Open(
            OpenError::Missing { .. } | OpenError::Vanished { .. } | OpenError::Unreadable { .. },
        )
        | JobError::Read(ReadError::Vanished { .. } | ReadError::Unreadable { .. })
        | JobError::Silent(_) => FailureKind::Unreadable,
        JobError::Open(OpenError::Incomplete { .. } | OpenError::Changed { .. })
        | JobError::Read(ReadError::Changed { .. })
        | JobError::Cancelled => FailureKind::Incomplete,
        JobError::Open(_) | JobError::Read(_) | JobError::Panic(_) => FailureKind::Malformed,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "intervals between saves are far below 2^53")]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of this century are below 2^53")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}
