//! The table of runs: what is known of each, changed by scans and finished jobs. The time is an
//! argument.

mod ended;
mod facts;
mod kept;
mod pins;
mod stored;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error_text;
use super::job::{Analyzed, Done, JobError};
use super::queue::{Age, Queued};
use super::trend::{Deviations, Trend, summary};
use crate::checkpoint::{OpenError, ReadError, TrainerState};
use crate::diagnostics::{Baseline, Report};
use crate::history::{Chronicle, News, Place, Point, Rules, SaveKey, SaveOutcome, Summary};
use crate::metrics::{RunState, reason};
use crate::watch::{GiveBack, PendingSave, SettledSave};
use kept::Seen;
pub(super) use kept::{absolute, give_up_kept, modified_ns};
use stored::Known;
pub(super) use stored::{Draft, key, stored_in};

/// Times a save is given back before it counts as a failure; with the waits between them about half
/// a minute.
const RETURNS_BEFORE_FAILURE: u32 = 5;
/// Save times remembered for the median interval.
const INTERVALS: usize = 20;
/// Saves remembered a run, to know the one before; of more, the oldest is forgotten.
const MAX_SAVES: usize = 10_000;
/// Given-back saves remembered a run.
const MAX_RETURNED: usize = 1000;

/// What a finished job comes to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Whether the save is to be given back, and why.
    pub(super) give_back: Option<GiveBack>,
    /// What is to be recorded of it.
    pub(super) outcome: Option<SaveOutcome>,
}

/// How long runs stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A run without a new save for this long is no longer active.
    pub(super) idle_after: Duration,
    /// An inactive run is dropped after this long more.
    pub(super) forget_after: Duration,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    /// Tells it from an earlier run of the same name.
    pub(super) id: u64,
    pub(super) name: String,
    /// Name below its root.
    pub(super) below: String,
    pub(super) path: PathBuf,
    pub(super) root: usize,
    /// Saves seen and not known to be gone, by age.
    saves: BTreeMap<Age, Seen>,
    /// Unix seconds of the latest saves, by age.
    times: BTreeMap<Age, f64>,
    /// Times that training went back to an earlier step, and to which it did last.
    segment: u32,
    resumed_at: Option<u64>,
    /// The newest save that settled, and when.
    latest: Option<(Queued, Duration)>,
    /// Age of the newest save that was measured.
    analyzed: Option<Age>,
    analyzed_step: Option<u64>,
    analyzed_time: Option<f64>,
    report: Option<Arc<Report>>,
    trainer: TrainerState,
    /// The last save measured and its leading subspaces, `None` where they were given up.
    baseline: Option<(Age, Option<Arc<Baseline>>)>,
    trend: Trend,
    /// What is compared, pair → z of its last save against the reference runs.
    pub(super) deviations: Deviations,
    /// Its last saves and what is unusual about them; shared with what is served.
    chronicle: Arc<Chronicle>,
    /// Saves recorded before the start that were not seen since.
    known: HashMap<SaveKey, Known>,
    /// Sequences of this start follow those recorded.
    first_sequence: u64,
    /// The last place recorded before the start.
    last_place: Place,
    /// Size of the newest measured save.
    last_size: Option<u64>,
    /// Times that a save rewritten in place fell back to an earlier step.
    fallbacks: u32,
    /// When someone said last that it had ended, Unix seconds.
    end_mark: Option<f64>,
    state: RunState,
    waiting: Option<PendingSave>,
    /// Saves given back: which content, and how often.
    returned: HashMap<PathBuf, (u64, u32)>,
    /// Saves at a worker now.
    running: usize,
    discovered: u64,
    pub(super) n_analyzed: u64,
    skipped: BTreeMap<String, u64>,
    failures: BTreeMap<String, u64>,
    readable: Option<bool>,
    last_wall: Option<Duration>,
    /// When something last happened, on the daemon's clock.
    last_news: Duration,
    /// When a save of it was last measured or given up.
    last_work: Duration,
}

impl Run {
    pub(super) fn new(
        id: u64,
        name: String,
        below: String,
        path: PathBuf,
        root: usize,
        now: Duration,
    ) -> Self {
        Self {
            id,
            name,
            below,
            path,
            root,
            saves: BTreeMap::new(),
            times: BTreeMap::new(),
            segment: 0,
            resumed_at: None,
            latest: None,
            analyzed: None,
            analyzed_step: None,
            analyzed_time: None,
            report: None,
            trainer: TrainerState::default(),
            baseline: None,
            trend: Trend::default(),
            deviations: Deviations::new(),
            chronicle: Arc::default(),
            known: HashMap::new(),
            first_sequence: 0,
            last_place: Place::default(),
            last_size: None,
            fallbacks: 0,
            end_mark: None,
            state: RunState::Waiting,
            waiting: None,
            returned: HashMap::new(),
            running: 0,
            discovered: 0,
            n_analyzed: 0,
            skipped: BTreeMap::new(),
            failures: BTreeMap::new(),
            readable: None,
            last_wall: None,
            last_news: now,
            last_work: now,
        }
    }

    /// A save came to rest; says its place in the run.
    pub(super) fn settled(&mut self, save: SettledSave, now: Duration) -> Queued {
        let segment = self.segment + u32::from(self.resumes(&save, now));
        self.placed(save, segment, now)
    }

    /// Takes a save into a segment that is known, its own or the next one.
    pub(super) fn placed(&mut self, save: SettledSave, segment: u32, now: Duration) -> Queued {
        if self.times_returned(&save) == 0 {
            self.discovered += 1;
        }
        self.last_news = now;
        if let (true, Some(step)) = (segment > self.segment, save.step) {
            self.segment = segment;
            self.resumed_at = Some(step);
            self.trend.resume_at(step);
        }
        let sequence = self.first_sequence + save.sequence;
        let age = Age { segment: self.segment, step: save.step, sequence };
        self.saves.retain(|_, seen| seen.save.path != save.path);
        let seen = Seen { save: save.clone() };
        self.saves.insert(age, seen);
        if self.saves.len() > MAX_SAVES {
            self.saves.pop_first();
        }
        if let Some(time) = save_time(&save) {
            self.times.insert(age, time);
            if self.times.len() > INTERVALS + 1 {
                self.times.pop_first();
            }
        }
        let queued = Queued { age, save };
        if self.is_newest(age) {
            self.latest = Some((queued.clone(), now));
            self.state = RunState::Waiting;
        }
        queued
    }

    /// Whether training went back: a lower step, first seen after the newest one had come to rest,
    /// with younger files (files are compared with one another, never with the clock). Saves found
    /// together, at the start or in a copied directory, are in the order of their steps.
    fn resumes(&self, save: &SettledSave, now: Duration) -> bool {
        let Some((latest, settled_at)) = &self.latest else { return false };
        save.step < latest.save.step
            && save.step.is_some()
            && now.saturating_sub(save.waited) > *settled_at
            && save_time(save) > save_time(&latest.save)
    }

    fn is_newest(&self, age: Age) -> bool {
        self.latest.as_ref().is_none_or(|(latest, _)| latest.age <= age)
    }

    /// The saves that wait in this run, the newest counting.
    pub(super) fn pending(&mut self, pending: &[PendingSave]) {
        let mine = pending.iter().filter(|p| p.run == self.below);
        self.waiting = mine.max_by_key(|p| (p.step, p.changed_at)).cloned();
    }

    /// Pushed out of a full queue, or by a newer version of itself.
    pub(super) fn outrun(&mut self) {
        bump(&mut self.skipped, reason::OUTRUN);
    }

    /// Takes in a finished job.
    pub(super) fn done(&mut self, done: Done, now: Duration) -> Taken {
        // Work on a run is news: it is not forgotten while a long backlog is measured.
        self.last_work = now;
        let Done { queued, result, wall, .. } = done;
        self.running = self.running.saturating_sub(1);
        match result {
            Ok(analyzed) => {
                self.last_wall = Some(wall);
                let outcome = Some(self.measured(&queued, analyzed));
                Taken { give_back: None, outcome }
            }
            Err(error) => self.failed(&queued, &error),
        }
    }

    fn measured(&mut self, queued: &Queued, analyzed: Analyzed) -> SaveOutcome {
        let Analyzed { report, baseline, trainer, step, .. } = analyzed;
        if self.keeps(queued.age) {
            self.baseline = Some((queued.age, Some(baseline)));
        }
        let summary = summary(&report);
        let known = (Arc::clone(&report), trainer.clone(), summary.clone());
        self.take_in(queued, step, known, true);
        let (trainer, summary) = (Box::new(trainer), Box::new(summary));
        SaveOutcome::Measured { report, trainer, summary }
    }

    /// Takes in what is known of a measured save, now or from the store. It is judged only where its
    /// report has details, which the store gives up in the end.
    fn take_in(
        &mut self,
        queued: &Queued,
        step: Option<u64>,
        (report, trainer, summary): (Arc<Report>, TrainerState, Summary),
        has_details: bool,
    ) {
        let Queued { age, save } = queued;
        self.n_analyzed += 1;
        self.returned.remove(&save.path);
        // A save rewritten in place without a step of its own is counted.
        let at = step.unwrap_or(age.sequence);
        // A restart in the same place falls back as well; the step stands inside the save.
        if save.in_place && step.is_some() && step < self.analyzed_step {
            self.trend.resume_at(at);
            self.fallbacks += 1;
        }
        if has_details {
            let place = Place { segment: age.segment + self.fallbacks, step: at };
            Arc::make_mut(&mut self.chronicle).add(Point::new(place, &report, &trainer));
        }
        if age.segment == self.segment || self.resumed_at.is_none_or(|resumed| at < resumed) {
            self.trend.add(at, summary, &trainer);
        }
        if self.analyzed.is_none_or(|known| known <= *age) {
            self.analyzed = Some(*age);
            self.analyzed_time = save_time(save);
            self.analyzed_step = step;
            self.report = Some(report);
            self.trainer = trainer;
            if self.is_newest(*age) {
                self.state = RunState::Analyzed;
                self.readable = Some(true);
            }
        }
    }

    /// Judges what was measured, as far as no earlier save waits in the queue.
    pub(super) fn judge(&mut self, oldest_waiting: Option<Age>, rules: &Rules) -> News {
        // Versions of one file have no step in their name; they come in order.
        let frontier = oldest_waiting
            .and_then(|age| Some(Place { segment: age.segment + self.fallbacks, step: age.step? }));
        Arc::make_mut(&mut self.chronicle).advance(frontier, rules)
    }

    /// What was found is no save: the run goes on as if it had not been there.
    fn taken_back(&mut self, queued: &Queued) {
        let path = &queued.save.path;
        self.saves.retain(|_, seen| seen.save.path != *path);
        self.times.remove(&queued.age);
        self.returned.remove(path);
        if let Some((latest, at)) = &self.latest
            && latest.age == queued.age
        {
            let before = self.saves.last_key_value();
            let before = before.map(|(age, seen)| Queued { age: *age, save: seen.save.clone() });
            self.latest = before.map(|before| (before, *at));
            let is_measured = self.analyzed.is_some();
            self.state = if is_measured { RunState::Analyzed } else { RunState::Waiting };
        }
    }

    /// Whether nothing was ever found in it that is a save, and nothing waits to be one.
    pub(super) fn is_none(&self) -> bool {
        let is_empty = self.saves.is_empty() && self.known.is_empty() && self.running == 0;
        is_empty && self.analyzed.is_none() && self.waiting.is_none()
    }

    fn failed(&mut self, queued: &Queued, error: &JobError) -> Taken {
        if error.is_no_save() {
            bump(&mut self.skipped, reason::NOT_WEIGHTS);
            self.taken_back(queued);
            return Taken::default();
        }
        let newest = self.is_newest(queued.age);
        let save = &queued.save;
        let text = error_text(error);
        let (counter, back) = match error {
            JobError::Cancelled => return Taken::default(),
            error if error.is_vanished() => {
                bump(&mut self.skipped, reason::VANISHED);
                self.saves.retain(|_, seen| seen.save.path != save.path);
                self.returned.remove(&save.path);
                return Taken::default();
            }
            JobError::Open(OpenError::Changed { .. })
            | JobError::Read(ReadError::Changed { .. }) => {
                bump(&mut self.skipped, reason::CHANGED);
                return Taken { give_back: Some(GiveBack::Changed), outcome: None };
            }
            JobError::Open(OpenError::Incomplete { .. }) => {
                (reason::INCOMPLETE, Some(GiveBack::Incomplete))
            }
            JobError::Open(OpenError::Unreadable { .. })
            | JobError::Read(ReadError::Unreadable { .. })
            | JobError::Silent(_) => (reason::UNREADABLE, Some(GiveBack::Unreadable)),
            JobError::Read(ReadError::TooLarge { .. }) => (reason::LIMIT, None),
            JobError::Open(_) | JobError::Read(_) => (reason::MALFORMED, None),
            JobError::Panic(_) => (reason::INTERNAL, None),
        };
        let times = self.times_returned(save) + 1;
        self.returned.insert(save.path.clone(), (save.sequence, times));
        // What will not change by waiting counts at once, what may, once, after a while.
        let counts = back.is_none() || times == RETURNS_BEFORE_FAILURE;
        if counts {
            bump(&mut self.failures, counter);
        }
        if self.returned.len() > MAX_RETURNED {
            let other = self.returned.keys().find(|path| **path != save.path).cloned();
            other.and_then(|path| self.returned.remove(&path));
        }
        if newest {
            self.state = match back {
                Some(GiveBack::Incomplete) => RunState::Incomplete(text.clone()),
                _ => RunState::Unreadable(text.clone()),
            };
            if counts {
                self.readable = Some(false);
            }
        }
        // What waiting may change is asked again after a restart.
        let outcome =
            back.is_none().then_some(SaveOutcome::Failed { reason: counter, error: text });
        Taken { give_back: back, outcome }
    }

    /// What its saves say together.
    pub(super) fn trend(&self) -> &Trend {
        &self.trend
    }

    /// The same of a run that is no longer there.
    pub(super) fn into_trend(self) -> Trend {
        self.trend
    }

    fn latest_save(&self) -> Option<&SettledSave> {
        self.latest.as_ref().map(|(latest, _)| &latest.save)
    }

    /// Whether a save was given back so often that it was counted as a failure.
    pub(super) fn is_old_news(&self, save: &SettledSave) -> bool {
        self.times_returned(save) >= RETURNS_BEFORE_FAILURE
    }

    /// How often this content of a save was given back.
    fn times_returned(&self, save: &SettledSave) -> u32 {
        let known = self.returned.get(&save.path).filter(|(content, _)| *content == save.sequence);
        known.map_or(0, |(_, times)| *times)
    }

    /// Whether the run ended so long ago that it is dropped.
    pub(super) fn forgettable(&self, patience: Patience, now: Duration) -> bool {
        let limit = patience.idle_after.saturating_add(patience.forget_after);
        self.running == 0 && now.saturating_sub(self.last_news.max(self.last_work)) > limit
    }
}

fn bump(counters: &mut BTreeMap<String, u64>, reason: &str) {
    *counters.entry(reason.to_owned()).or_insert(0) += 1;
}

/// When a save was complete by its own files, Unix seconds.
fn save_time(save: &SettledSave) -> Option<f64> {
    modified_ns(save).map(seconds)
}

#[expect(clippy::cast_precision_loss, reason = "a microsecond is precise enough")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;
