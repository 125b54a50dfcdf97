//! The analysis of one save, on a worker thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::at_rest::{expect_settled, is_unchanged_since};
use super::guard;
use super::pace::Pace;
use super::pressure::{self, Pressure};
use super::queue::Queued;
use super::warm::Warm;
use crate::checkpoint::{self, OpenError, ReadError, TrainerState};
use crate::diagnostics::{
    self, AnalyzeError, Baseline, Observer, Options, Origin, Previous, Report,
};
use crate::disk::{self, is_left_open};
use crate::model::{self, Rule};
use crate::remote::is_remote;

/// A save to analyse and what it is compared with.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Name of the run over all roots.
    pub(super) run: String,
    pub(super) run_id: u64,
    pub(super) queued: Queued,
    /// Which save it is.
    pub(super) origin: Origin,
    /// The save before, if it is still there.
    pub(super) path_before: Option<PathBuf>,
    /// Which that is.
    pub(super) previous: Option<Origin>,
    /// Its leading subspaces, if they are remembered.
    pub(super) baseline: Option<Arc<Baseline>>,
    /// Whether what the state directory keeps of the run is asked instead.
    pub(super) ask_disk: bool,
    /// Whether the next save starts from this one, so that it is kept.
    pub(super) keep: bool,
    pub(super) warm_limit: u64,
    /// Bytes a second.
    pub(super) io_limit: Option<u64>,
    /// Part of the time in which others may wait for disk or memory.
    pub(super) pressure_limit: f64,
    pub(super) rules: Arc<Vec<Rule>>,
    /// The root that it was found below.
    pub(super) root: PathBuf,
    /// Where the base models of adapters lie.
    pub(super) bases: Vec<PathBuf>,
    pub(super) options: Arc<Options>,
    pub(super) cancel: Arc<AtomicBool>,
}

/// Which save is being measured.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) run: String,
    pub(super) run_id: u64,
    pub(super) queued: Queued,
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) run: String,
    pub(super) run_id: u64,
    pub(super) queued: Queued,
    pub(super) result: Result<Analyzed, JobError>,
    /// Bytes of tensors read, also where that came to nothing.
    pub(super) read_bytes: u64,
    /// Wall time.
    pub(super) wall: Duration,
    /// CPU time of the worker and of the threads that helped it.
    pub(super) cpu: Duration,
    /// Time that it was held back because others waited for disk or memory.
    pub(super) held_back: Duration,
}

impl Done {
    /// Of a job whose worker never came back.
    pub(super) fn lost(ticket: Ticket, why: JobError) -> Self {
        let Ticket { run, run_id, queued } = ticket;
        let nothing = Duration::ZERO;
        let (wall, cpu, held_back) = (nothing, nothing, nothing);
        Self { run, run_id, queued, result: Err(why), read_bytes: 0, wall, cpu, held_back }
    }
}

/// A measured save.
#[derive(Debug)]
pub(super) struct Analyzed {
    pub(super) report: Arc<Report>,
    pub(super) baseline: Arc<Baseline>,
    pub(super) trainer: TrainerState,
    /// Step from the name, the trainer's record or the file.
    pub(super) step: Option<u64>,
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
    #[error("found no answer from the file system in {} s, expected one", .0.as_secs())]
    Silent(Duration),
}

impl JobError {
    /// Whether it is no save at all, but something whose name looks like one: an optimiser, data.
    /// Nobody has to know.
    pub(super) fn is_no_save(&self) -> bool {
        matches!(self, Self::Open(OpenError::NotWeights { .. } | OpenError::NotACheckpoint { .. }))
    }
}

impl JobError {
    /// Whether rotation took the save away, which is normal.
    pub(super) fn is_vanished(&self) -> bool {
        matches!(
            self,
            Self::Open(OpenError::Missing { .. } | OpenError::Vanished { .. })
                | Self::Read(ReadError::Vanished { .. })
        )
    }
}

impl From<AnalyzeError> for JobError {
    fn from(error: AnalyzeError) -> Self {
        match error {
            AnalyzeError::Read(error) => Self::Read(error),
            AnalyzeError::Cancelled => Self::Cancelled,
        }
    }
}

/// Longest sleep between two looks at whether the work is cancelled.
const NAP: Duration = Duration::from_millis(50);

/// What a worker has from job to job.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Where starts of searches are kept, if there is a state directory.
    pub(super) warm: Option<Warm>,
    /// The rate of reading, and what it was set to.
    pace: Option<(u64, Mutex<Pace>)>,
    /// Gives way to the training job.
    pressure: Option<Mutex<Pressure>>,
}

impl Tools {
    pub(super) fn new(warm: Option<Warm>) -> Self {
        Self { warm, pace: None, pressure: None }
    }

    fn set_pace(&mut self, limit: Option<u64>) {
        if self.pace.as_ref().map(|(rate, _)| *rate) != limit {
            let pace = |rate| (rate, Mutex::new(Pace::new(rate, clock(ClockId::Monotonic))));
            self.pace = limit.map(pace);
        }
    }

    fn set_pressure(&mut self, limit: f64) {
        let is_set = |pressure: &mut Mutex<Pressure>| {
            pressure
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .limit()
                .total_cmp(&limit)
                .is_eq()
        };
        if !self.pressure.as_mut().is_some_and(is_set) {
            self.pressure = Some(Mutex::new(Pressure::new(Path::new(pressure::PROC), limit)));
        }
    }
}

/// Stops an analysis whose result nobody waits for, and holds its reading to the rate.
struct Watched<'a> {
    cancel: &'a AtomicBool,
    pace: Option<&'a Mutex<Pace>>,
    pressure: Option<&'a Mutex<Pressure>>,
    read_bytes: AtomicU64,
    /// Microseconds.
    held_back: AtomicU64,
}

impl Watched<'_> {
    /// Sleeps for a while, or until the work is cancelled; says whether it is not.
    fn sleep(&self, span: Duration) -> bool {
        let began = Instant::now();
        while !self.cancelled() {
            let rest = span.saturating_sub(began.elapsed());
            if rest.is_zero() {
                return true;
            }
            std::thread::sleep(rest.min(NAP));
        }
        false
    }

    /// While one thread gives way the others do as well, at their next read.
    fn give_way(&self) {
        let Some(pressure) = self.pressure else { return };
        let mut pressure = pressure.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = pressure.give_way(&|span| self.sleep(span));
        let micros = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
        self.held_back.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Observer for Watched<'_> {
    fn progress(&self, _done: usize, _total: usize) {}

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn has_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.give_way();
        let Some(pace) = self.pace else { return };
        let wait = |bytes| {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            let now = clock(ClockId::Monotonic);
            pace.took(bytes, now);
            pace.wait(now)
        };
        let mut rest = wait(bytes);
        while !rest.is_zero() && !self.cancelled() {
            std::thread::sleep(rest.min(NAP));
            rest = wait(0);
        }
    }
}

/// Runs a job; a panic costs this save only.
pub(super) fn run(job: Job, tools: &mut Tools) -> Done {
    let (wall, cpu) = (clock(ClockId::Monotonic), clock(ClockId::ThreadCPUTime));
    tools.set_pace(job.io_limit);
    tools.set_pressure(job.pressure_limit);
    let watched = Watched {
        cancel: &job.cancel,
        pace: tools.pace.as_ref().map(|(_, pace)| pace),
        pressure: tools.pressure.as_ref(),
        read_bytes: AtomicU64::new(0),
        held_back: AtomicU64::new(0),
    };
    watched.give_way();
    let warm = tools.warm.as_ref();
    let result = guard::caught(|| analyze(&job, warm, &watched))
        .unwrap_or_else(|panic| Err(JobError::Panic(panic)));
    let helped = result.as_ref().map_or(Duration::ZERO, |analyzed| analyzed.cpu_elsewhere);
    let read_bytes = watched.read_bytes.into_inner();
    let held_back = Duration::from_micros(watched.held_back.into_inner());
    Done {
        run: job.run,
        run_id: job.run_id,
        queued: job.queued,
        result,
        read_bytes,
        held_back,
        wall: clock(ClockId::Monotonic).saturating_sub(wall),
        cpu: clock(ClockId::ThreadCPUTime).saturating_sub(cpu) + helped,
    }
}

fn analyze(job: &Job, warm: Option<&Warm>, observer: &Watched<'_>) -> Result<Analyzed, JobError> {
    let path = &job.queued.save.path;
    // The scan saw where links led; by now they may lead elsewhere.
    let _here = disk::current().is_none().then(|| disk::adopt(Some(Arc::default())));
    let _below = disk::confine(&job.root);
    #[cfg(test)]
    assert!(!path.ends_with("planted"), "planted");
    if let Some(path) = left_open(path) {
        return Err(OpenError::Vanished { path }.into());
    }
    let manifest = checkpoint::open(path)?;
    expect_settled(&manifest, &job.queued.save)?;
    // Rotation may have taken the save before, or a resumed training be writing over it; then there is
    // nothing to compare with.
    let before = job.path_before.as_deref().and_then(|path| checkpoint::open(path).ok());
    let modified_ns = job.previous.as_ref().and_then(|previous| previous.modified_ns);
    let before = before.filter(|before| is_unchanged_since(before, modified_ns));
    let stored = warm.filter(|_| job.ask_disk).and_then(|warm| {
        let in_place = job.queued.save.in_place;
        warm.load(job.warm_limit, &job.origin, job.previous.as_ref(), in_place, &job.options)
    });
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &job.rules);
    let buffers = model::buffers(&manifest.tensors, &graph, &job.rules);
    let baseline = job.baseline.as_deref().or(stored.as_ref());
    let previous = Previous { manifest: before.as_ref(), baseline };
    let base = diagnostics::find_base(&manifest, &graph, &job.bases, Some(&job.root));
    let (base, missing) = base.map_or_else(|missing| (None, Some(missing)), |base| (base, None));
    let mut outcome = diagnostics::analyze(
        &manifest,
        &graph,
        &buffers,
        &job.options,
        previous,
        base.as_ref(),
        observer,
    )?;
    outcome.report.skipped.extend(missing);
    Ok(Analyzed {
        report: Arc::new(outcome.report),
        baseline: Arc::new(outcome.baseline),
        step: manifest.step,
        trainer: manifest.trainer.unwrap_or_default(),
        cpu_elsewhere: outcome.cpu_elsewhere,
    })
}

/// A deleted file in the directory of a save that somebody still holds open: rotation is at work, and a
/// look at the other files could be what makes it fail.
fn left_open(save: &Path) -> Option<PathBuf> {
    if is_remote(save) {
        return None;
    }
    let mut entries = disk::list(save).ok()?.flatten();
    entries.find(|entry| is_left_open(entry.name())).map(|entry| save.join(entry.name()))
}

/// What is to be kept of a job once its result is told: writing it takes nobody's time.
pub(super) struct Keep {
    baseline: Arc<Baseline>,
    origin: Origin,
    options: Arc<Options>,
    limit: u64,
}

impl Keep {
    /// Prepared before the job is used up.
    pub(super) fn of(job: &Job) -> impl FnOnce(&Done) -> Option<Self> + use<> {
        let (keep, limit) = (job.keep, job.warm_limit);
        let (origin, options) = (job.origin.clone(), Arc::clone(&job.options));
        move |done| {
            let analyzed = done.result.as_ref().ok().filter(|_| keep)?;
            let baseline = Arc::clone(&analyzed.baseline);
            Some(Self { baseline, origin, options, limit })
        }
    }

    /// Writes it.
    pub(super) fn write(self, warm: &mut Warm) {
        warm.keep(self.limit, &self.baseline, &self.origin, &self.options);
    }
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_one_save_and_the_next_is_measured() {
        let save = |name: &str| crate::watch::SettledSave {
            run: "run".into(),
            run_path: "/run".into(),
            path: PathBuf::from("/run").join(name),
            step: None,
            sequence: 0,
            version: 1,
            supersedes: false,
            in_place: false,
            files: Vec::new(),
            waited: Duration::ZERO,
        };
        let mut tools = Tools::default();
        let mut run = |name: &str| {
            let age = super::super::queue::Age { segment: 0, step: None, sequence: 0 };
            let job = Job {
                run: "run".into(),
                run_id: 1,
                queued: Queued { age, save: save(name) },
                origin: Origin {
                    run: "/run".into(),
                    save: name.into(),
                    step: None,
                    modified_ns: None,
                },
                path_before: None,
                previous: None,
                baseline: None,
                ask_disk: false,
                keep: false,
                warm_limit: 0,
                io_limit: None,
                pressure_limit: 1.0,
                rules: Arc::default(),
                root: "/run".into(),
                bases: Vec::new(),
                options: Arc::default(),
                cancel: Arc::default(),
            };
            run(job, &mut tools).result.unwrap_err()
        };
        let error = run("planted");
        assert!(matches!(&error, JobError::Panic(text) if text == "planted"), "{error:?}");
        assert!(!error.is_no_save() && !error.is_vanished(), "it counts as a failure");
        assert!(run("nothing").is_vanished());
    }

    #[test]
    fn reading_waits_for_its_rate_and_a_cancelled_job_does_not() {
        let cancel = AtomicBool::new(false);
        let pace = Mutex::new(Pace::new(1 << 20, clock(ClockId::Monotonic)));
        let watched = Watched {
            cancel: &cancel,
            pace: Some(&pace),
            pressure: None,
            read_bytes: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        };
        let started = Instant::now();
        watched.has_read((1 << 20) + (1 << 16));
        assert!(started.elapsed() >= Duration::from_millis(60), "a sixteenth of a second");
        cancel.store(true, Ordering::Relaxed);
        let started = Instant::now();
        watched.has_read(1 << 30);
        assert!(started.elapsed() < Duration::from_secs(500), "of 1024");
        assert_eq!(watched.read_bytes.into_inner(), (1 << 20) + (1 << 16) + (1 << 30));
    }

    #[test]
    fn the_rate_follows_the_configuration_and_lasts_from_job_to_job() {
        let mut tools = Tools::default();
        let rate = |tools: &Tools| tools.pace.as_ref().map(|(rate, _)| *rate);
        for limit in [None, Some(5), Some(5), Some(7), None] {
            tools.set_pace(limit);
            assert_eq!(rate(&tools), limit);
        }
        tools.set_pace(Some(1));
        tools.pace.as_ref().unwrap().1.lock().unwrap().took(1000, clock(ClockId::Monotonic));
        tools.set_pace(Some(1));
        let wait = tools.pace.as_ref().unwrap().1.lock().unwrap().wait(clock(ClockId::Monotonic));
        assert!(!wait.is_zero(), "the debt of the job before is forgotten");
    }
}
