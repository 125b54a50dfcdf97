//! What is exported of a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Age, Patience, Run, save_time, seconds};
use crate::daemon::trend::Improvement;
use crate::metrics::{RunFacts, RunState};
use crate::watch::{PendingState, SettledSave};

/// Saves first seen within this time after the start may have lain there before it.
const START: Duration = Duration::from_mins(1);

impl Run {
    /// Whether more saves are expected: not ended by its own count or as someone said, and not idle for
    /// long.
    pub(super) fn active(&self, patience: Patience, now: Duration, unix_now: f64) -> bool {
        let counted = match (self.trainer.global_step, self.trainer.max_steps) {
            (Some(step), Some(max)) => max > 0 && step >= max,
            _ => false,
        };
        // The file's own time matters only for saves that were there at the start: a clock that jumps,
        // here or on a file server, ends no run whose saves were seen to come.
        let came = self.latest.as_ref().map(|(queued, at)| at.saturating_sub(queued.save.waited));
        let lay_there = came.is_none_or(|came| came < START);
        let time = self.latest_save().map_or(self.analyzed_time, save_time).filter(|_| lay_there);
        let age = time.map_or(0.0, |time| unix_now - time);
        let idle = now.saturating_sub(self.last_news) > patience.idle_after
            || age > patience.idle_after.as_secs_f64();
        !counted && !idle && self.ended_at().is_none()
    }

    /// What is exported.
    pub(in crate::daemon) fn facts(
        &self,
        queue_length: usize,
        patience: Patience,
        now: Duration,
        unix_now: f64,
    ) -> RunFacts {
        let improvements = self.trend.improvements();
        let each = |value: &dyn Fn(&Improvement) -> u64| {
            improvements.iter().map(|(pair, i)| ((*pair).to_owned(), value(i))).collect()
        };
        // After a restart older saves may come to rest before the newest that is recorded.
        let is_older =
            self.latest.as_ref().is_some_and(|(latest, _)| Some(latest.age) < self.analyzed);
        let latest = self.latest_save().filter(|_| !is_older);
        RunFacts {
            name: self.name.clone(),
            path: self.path.display().to_string(),
            architecture: self.report.as_ref().map(|r| r.architecture.clone()),
            optimizer: self.trainer.optimizer.clone(),
            active: self.active(patience, now, unix_now),
            ended_timestamp_seconds: self.ended_at(),
            state: self.shown_state(),
            latest_step: latest.and_then(|l| l.step).or(self.analyzed_step),
            analyzed_step: self.analyzed_step,
            latest_timestamp_seconds: latest.map_or(self.analyzed_time, save_time),
            analyzed_timestamp_seconds: self.analyzed_time,
            save_interval_seconds: median_interval(&self.times),
            readable: self.readable,
            size_bytes: latest
                .map_or(self.last_size, |l| Some(l.files.iter().map(|f| f.size).sum())),
            save_duration_seconds: latest.and_then(save_duration),
            discovered_total: self.discovered,
            analyzed_total: self.n_analyzed,
            skipped_total: self.skipped.clone(),
            failures_total: self.failures.clone(),
            queue_length: (queue_length + self.running) as u64,
            last_duration_seconds: self.last_wall.map(|w| w.as_secs_f64()),
            train_loss: self.trainer.loss,
            learning_rate: self.trainer.learning_rate,
            grad_norm: self.trainer.grad_norm,
            eval: self.trainer.eval.clone(),
            reference_deviations: self.deviations_by_name(),
            alignment_mean: BTreeMap::new(),
            alignment_best: improvements.iter().map(|(p, i)| ((*p).to_owned(), i.best)).collect(),
            alignment_saves_since_improvement: each(&|i| i.saves_since),
            alignment_steps_since_improvement: if self.analyzed_step.is_some() {
                each(&|i| i.steps_since)
            } else {
                BTreeMap::new()
            },
            ridge_rates: self.trend.ridge_rates(),
            report: self.report.clone(),
            chronicle: Arc::clone(&self.chronicle),
        }
    }

    fn deviations_by_name(&self) -> BTreeMap<(&'static str, &'static str), f64> {
        self.deviations.iter().map(|((what, pair), z)| ((what.as_str(), *pair), *z)).collect()
    }

    /// The state, with what a newer save that has not settled waits for.
    fn shown_state(&self) -> RunState {
        let newer = self
            .waiting
            .as_ref()
            .filter(|w| self.latest_save().is_none_or(|l| w.step.is_none() || w.step >= l.step));
        match (&self.state, newer.map(|w| w.state)) {
            (RunState::Analyzed, Some(PendingState::Writing | PendingState::NoWeights)) => {
                RunState::Waiting
            }
            (state, _) => state.clone(),
        }
    }
}

/// First to last change of a save's files.
fn save_duration(save: &SettledSave) -> Option<f64> {
    let times = || save.files.iter().map(|f| f.mtime_ns);
    Some(seconds(times().max()? - times().min()?))
}

fn median_interval(times: &BTreeMap<Age, f64>) -> Option<f64> {
    let times: Vec<f64> = times.values().copied().collect();
    let mut intervals: Vec<f64> =
        times.windows(2).map(|two| two[1] - two[0]).filter(|i| *i > 0.0).collect();
    intervals.sort_by(f64::total_cmp);
    let middle = intervals.len() / 2;
    match intervals.len() {
        0 => None,
        n if n % 2 == 1 => Some(intervals[middle]),
        _ => Some(f64::midpoint(intervals[middle - 1], intervals[middle])),
    }
}
