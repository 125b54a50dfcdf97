//! What of a run outlives a restart: from the store, and to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::kept::{Seen, absolute, modified_ns};
use super::{INTERVALS, Run, save_time};
use crate::daemon::job::Done;
use crate::daemon::queue::{Age, Queued};
use crate::diagnostics::Report;
use crate::history::{
    Anomaly, Chronicle, Kind, Place, Record, Rules, SaveKey, SaveOutcome, StoredAge, StoredRun,
    StoredSave,
};
use crate::metrics::{RunState, reason};
use crate::watch::{SettledSave, holder};

/// A save that was recorded before the start.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) age: Age,
    /// Why it was not measured.
    pub(super) error: Option<String>,
}

/// The parts of a record that are known before its job is taken in.
#[derive(Debug)]
pub(in crate::daemon) struct Draft {
    queued: Queued,
    seconds: f64,
    step: Option<u64>,
}

impl Draft {
    pub(in crate::daemon) fn of(done: &Done) -> Self {
        let step = done.result.as_ref().ok().and_then(|analyzed| analyzed.step);
        Self { queued: done.queued.clone(), seconds: done.wall.as_secs_f64(), step }
    }
}

impl Run {
    /// Takes over what was recorded of it. To be called before its first save settles.
    pub(in crate::daemon) fn restore(&mut self, stored: StoredRun, rules: &Rules) {
        let StoredRun { counters, saves, newest, judged, unjudged, open, over, .. } = stored;
        let mut counts = BTreeMap::new();
        for ((name, label), value) in &counters {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts, written as such"
            )]
            let n = *value as u64;
            match (name.as_str(), label.split_once('/')) {
                ("analyzed", _) => self.n_analyzed = n,
                ("skipped", _) => drop(self.skipped.insert(label.clone(), n)),
                ("failures", _) => drop(self.failures.insert(label.clone(), n)),
                ("fallbacks", _) => self.fallbacks = u32::try_from(n).unwrap_or(0),
                ("anomalies", Some((kind, pair))) => {
                    Kind::of(kind).and_then(|kind| counts.insert((kind, pair.into()), n));
                }
                _ => {}
            }
        }
        let passed = [reason::OUTRUN, reason::VANISHED].iter().filter_map(|r| self.skipped.get(*r));
        self.discovered = saves.len() as u64 + passed.sum::<u64>();
        self.chronicle =
            Arc::new(Chronicle::restored(judged, unjudged, (open, over), counts, rules));
        if let Some((at, report, trainer)) = newest
            && let Some(save) = saves.get(at)
        {
            self.analyzed = Some(age(save));
            self.analyzed_step = save.step;
            self.analyzed_time = save.saved_at;
            self.last_wall = Some(Duration::try_from_secs_f64(save.seconds).unwrap_or_default());
            self.last_size = Some(save.key.size_bytes);
            self.report = Some(Arc::new(report));
            self.trainer = trainer;
            self.state = RunState::Analyzed;
            self.readable = Some(true);
        }
        for save in saves {
            self.remember(save);
        }
    }

    fn remember(&mut self, save: StoredSave) {
        let age = age(&save);
        if age.segment > self.segment {
            self.segment = age.segment;
            self.resumed_at = age.step;
        }
        self.first_sequence = self.first_sequence.max(age.sequence + 1);
        if let Some(time) = save.saved_at {
            self.times.insert(age, time);
            if self.times.len() > INTERVALS + 1 {
                self.times.pop_first();
            }
        }
        if save.error.is_none() {
            if save.place.segment > self.last_place.segment {
                self.trend.resume_at(save.place.step);
            }
            self.last_place = self.last_place.max(save.place);
            self.trend.add(save.place.step, save.summary, &save.trainer);
        }
        self.known.insert(save.key, Known { age, error: save.error });
    }

    /// Whether this content of the save was recorded before the start; then it is not queued again.
    pub(in crate::daemon) fn knows(&mut self, save: &SettledSave, now: Duration) -> bool {
        let Some(key) = key(save) else { return false };
        let Some(Known { age, error }) = self.known.remove(&key) else { return false };
        self.last_news = now;
        let seen = Seen { save: save.clone() };
        self.saves.insert(age, seen);
        if self.is_newest(age) {
            self.latest = Some((Queued { age, save: save.clone() }, now));
            self.readable = Some(error.is_none());
            self.state = error.map_or(RunState::Analyzed, RunState::Unreadable);
        }
        true
    }

    /// Takes in what the store knows of a save; its report where that still has details.
    pub(in crate::daemon) fn recorded(
        &mut self,
        queued: &Queued,
        stored: &StoredSave,
        (report, has_details): (Report, bool),
    ) {
        if self.keeps(queued.age) {
            self.baseline = Some((queued.age, None));
        }
        let known = (Arc::new(report), stored.trainer.clone(), stored.summary.clone());
        self.take_in(queued, stored.step, known, has_details);
    }

    /// What is written of a save whose job was taken in, unless it may still come to something.
    pub(in crate::daemon) fn record(
        &self,
        draft: Draft,
        outcome: Option<SaveOutcome>,
        anomalies: Vec<Anomaly>,
        unix_now: f64,
        daemon_counters: BTreeMap<(String, String), f64>,
    ) -> Option<Record> {
        let Draft { queued: Queued { age, save }, seconds, step } = draft;
        Some(Record {
            run_path: absolute(&self.path),
            run_name: self.name.clone(),
            key: key(&save)?,
            saved_at: save_time(&save),
            analyzed_at: unix_now,
            seconds,
            place: Place {
                segment: age.segment + self.fallbacks,
                step: step.or(age.step).unwrap_or(age.sequence),
            },
            age: StoredAge { segment: age.segment, step: age.step, sequence: age.sequence },
            step,
            outcome: outcome?,
            judged: self.chronicle.judged(),
            anomalies,
            run_counters: self.counters(),
            daemon_counters,
        })
    }

    fn counters(&self) -> BTreeMap<(String, String), f64> {
        #[expect(clippy::cast_precision_loss, reason = "counters stay below 2^53")]
        let entry = |name: &str, label: String, n: u64| ((name.to_owned(), label), n as f64);
        let mut all = BTreeMap::from([
            entry("analyzed", String::new(), self.n_analyzed),
            entry("fallbacks", String::new(), u64::from(self.fallbacks)),
        ]);
        all.extend(self.skipped.iter().map(|(reason, n)| entry("skipped", reason.clone(), *n)));
        all.extend(self.failures.iter().map(|(reason, n)| entry("failures", reason.clone(), *n)));
        let counts = self.chronicle.counts().iter();
        let label = |(kind, pair): &(Kind, Arc<str>)| format!("{}/{pair}", kind.as_str());
        all.extend(counts.map(|(of, n)| entry("anomalies", label(of), *n)));
        all
    }
}

/// Which content of a save this is, in words that outlive a restart.
pub(in crate::daemon) fn key(save: &SettledSave) -> Option<SaveKey> {
    let size_bytes = save.files.iter().map(|f| f.size).sum();
    let path = absolute(&save.path);
    Some(SaveKey { path, modified_ns: modified_ns(save)?, size_bytes })
}

/// The directory that holds the saves of a run recorded under `recorded` and now at `path`.
pub(in crate::daemon) fn stored_in<'a>(
    recorded: &str,
    saves: &[StoredSave],
    path: &'a Path,
) -> &'a Path {
    let run = Path::new(recorded);
    let is_own = saves.first().is_none_or(|save| holder(run, Path::new(&save.key.path)) == run);
    if is_own { path } else { path.parent().unwrap_or(path) }
}

fn age(save: &StoredSave) -> Age {
    let StoredAge { segment, step, sequence } = save.age;
    Age { segment, step, sequence }
}
