//! The analysis of one save, on a worker thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::queue::Queued;
use crate::checkpoint::{self, OpenError, ReadError, TrainerState};
use crate::diagnostics::{self, AnalyzeError, Baseline, Observer, Options, Previous, Report};
use crate::model::{self, Rule};

/// A save to analyse and what it is compared with.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Name of the run over all roots.
    pub(super) run: String,
    pub(super) run_id: u64,
    pub(super) queued: Queued,
    /// The save before, if it is still there.
    pub(super) previous: Option<PathBuf>,
    /// Its leading subspaces, if they are remembered.
    pub(super) baseline: Option<Arc<Baseline>>,
    pub(super) rules: Arc<Vec<Rule>>,
    pub(super) options: Arc<Options>,
    pub(super) cancel: Arc<AtomicBool>,
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) run: String,
    pub(super) run_id: u64,
    pub(super) queued: Queued,
    pub(super) result: Result<Analyzed, JobError>,
    /// Wall time.
    pub(super) wall: Duration,
    /// CPU time of the worker and of the threads that helped it.
    pub(super) cpu: Duration,
}

/// A measured save.
#[derive(Debug)]
pub(super) struct Analyzed {
    pub(super) report: Report,
    pub(super) baseline: Baseline,
    pub(super) trainer: TrainerState,
    /// Step from the name, the trainer's record or the file.
    pub(super) step: Option<u64>,
    pub(super) read_bytes: u64,
    /// CPU time of the threads that helped.
    pub(super) cpu_elsewhere: Duration,
}

/// Why a save was not measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the analysis was cancelled")]
    Cancelled,
    #[error("internal error: {0}")]
    Panic(String),
}

impl From<AnalyzeError> for JobError {
    fn from(error: AnalyzeError) -> Self {
        match error {
            AnalyzeError::Read(error) => Self::Read(error),
            AnalyzeError::Cancelled => Self::Cancelled,
        }
    }
}

/// Stops an analysis whose result nobody waits for.
struct Cancel<'a>(&'a AtomicBool);

impl Observer for Cancel<'_> {
    fn progress(&self, _done: usize, _total: usize) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a job; a panic costs this save only.
pub(super) fn run(job: Job) -> Done {
    let (wall, cpu) = (clock(ClockId::Monotonic), clock(ClockId::ThreadCPUTime));
    let result = catch_unwind(AssertUnwindSafe(|| analyze(&job)))
        .unwrap_or_else(|panic| Err(JobError::Panic(panic_text(panic.as_ref()))));
    let helped = result.as_ref().map_or(Duration::ZERO, |analyzed| analyzed.cpu_elsewhere);
    Done {
        run: job.run,
        run_id: job.run_id,
        queued: job.queued,
        result,
        wall: clock(ClockId::Monotonic).saturating_sub(wall),
        cpu: clock(ClockId::ThreadCPUTime).saturating_sub(cpu) + helped,
    }
}

fn analyze(job: &Job) -> Result<Analyzed, JobError> {
    let manifest = checkpoint::open(&job.queued.save.path)?;
    // Rotation may have taken the save before; then there is nothing to compare with.
    let before = job.previous.as_deref().and_then(|path| checkpoint::open(path).ok());
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &job.rules);
    let buffers = model::buffers(&manifest.tensors, &graph, &job.rules);
    let previous = Previous { manifest: before.as_ref(), baseline: job.baseline.as_deref() };
    let observer = Cancel(&job.cancel);
    let outcome =
        diagnostics::analyze(&manifest, &graph, &buffers, &job.options, previous, &observer)?;
    Ok(Analyzed {
        report: outcome.report,
        baseline: outcome.baseline,
        step: manifest.step,
        trainer: manifest.trainer.unwrap_or_default(),
        read_bytes: outcome.read_bytes,
        cpu_elsewhere: outcome.cpu_elsewhere,
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
