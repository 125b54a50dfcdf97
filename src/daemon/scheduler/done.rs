//! What a finished job comes to: it is taken in, judged, recorded, compared.

use tracing::{debug, info, warn};

use super::{KEPT_FRACTION, Scheduler, unix_now};
use crate::daemon::counters::daemon_counters;
use crate::daemon::job::{Done, JobError};
use crate::daemon::news::{declare, tell};
use crate::daemon::runs::{Draft, Run, give_up_kept};
use crate::daemon::trend::Trend;
use crate::daemon::{SaveNews, error_text};

impl Scheduler {
    pub(super) fn done(&mut self, mut done: Done) {
        let now = self.now();
        let settings = self.settings.of_run(&done.run);
        if let (Ok(analyzed), Some(declared)) =
            (&mut done.result, settings.and_then(|s| s.optimizer.as_ref()))
        {
            declare(&mut analyzed.trainer, declared);
        }
        self.facts.analysis_cpu_seconds_total += done.cpu.as_secs_f64();
        self.facts.read_bytes_total += done.read_bytes;
        self.facts.held_back_seconds_total += done.held_back.as_secs_f64();
        if done.result.is_ok() {
            self.facts.analysis_duration.observe(done.wall.as_secs_f64());
        }
        // A run that was forgotten meanwhile takes nothing, nor does a later one of its name.
        if self.runs.get(&done.run).is_none_or(|run| run.id != done.run_id) {
            return;
        }
        self.tell_of(&done);
        let is_no_save = done.result.as_ref().is_err_and(JobError::is_no_save);
        let rules = self.rules_of(&done.run).clone();
        let name = done.run.clone();
        let Some(run) = self.runs.get_mut(&name) else { return };
        let (draft, save) = (Draft::of(&done), done.queued.save.clone());
        let taken = run.done(done, now);
        if let Some(why) = taken.give_back {
            self.roots[run.root].give_back(&save, why);
        }
        if is_no_save && run.is_none() && self.queue.len(&name) == 0 {
            debug!(run = name, "nothing in it is a save: no run");
            self.drop_run(&name);
            return;
        }
        let news = run.judge(self.queue.oldest(&name), &rules);
        tell(&name, &news);
        let has_more = self.queue.len(&name) > 0;
        let (root, pins) = (run.root, run.pins(&news, has_more, &self.settings));
        self.pins.extend(pins.into_iter().map(|pin| (root, pin)));
        let anomalies = [news.ended, news.began].concat();
        let counters = daemon_counters(&self.facts);
        let record = run.record(draft, taken.outcome, anomalies, unix_now(), counters);
        if let Some(record) = record {
            self.trails.add(&record);
            if let Some(records) = &mut self.records {
                records.add(record);
            }
        }
        give_up_kept(&mut self.runs, self.settings.memory_limit / KEPT_FRACTION);
        self.compare();
    }

    /// Log and listeners.
    fn tell_of(&self, done: &Done) {
        let run = &done.run;
        match &done.result {
            Ok(analyzed) => {
                let (report, step) = (&analyzed.report, analyzed.step);
                let (pairs, skipped) = (report.pairs.len(), report.skipped.len());
                let seconds = done.wall.as_secs_f64();
                info!(run, step, pairs, skipped, seconds, "analyzed save");
                if report.n_nonfinite() > 0 {
                    let (nan, inf) = (report.nan, report.inf);
                    warn!(run, step, nan, inf, "weights are not finite");
                }
                if let Some(on_save) = &self.on_save {
                    let loss = analyzed.trainer.loss;
                    on_save(&SaveNews { run, report, loss, wall: done.wall });
                }
            }
            Err(error) => {
                let (is_no_save, is_gone) = (error.is_no_save(), error.is_vanished());
                let (path, error) = (&done.queued.save.path, error_text(error));
                // A save that stays incomplete is tried again for ever; after a while it is old news.
                let is_old = |run: &Run| run.is_old_news(&done.queued.save);
                if is_no_save {
                    info!(run, ?path, error, "no save, passed over");
                } else if is_gone {
                    info!(run, ?path, error, "save gone before it was measured");
                } else if self.runs.get(run).is_some_and(is_old) {
                    debug!(run, ?path, error, "save still not measured");
                } else {
                    warn!(run, ?path, error, "save not measured");
                }
            }
        }
    }

    /// Compares the runs that have a reference with it.
    pub(super) fn compare(&mut self) {
        let mut deviations = Vec::new();
        for (name, run) in &self.runs {
            let Some(pattern) = self.settings.reference_of(name) else { continue };
            let is_other = |other: &str| other != name && pattern.matches(other);
            let live = self.runs.iter().filter(|(other, _)| is_other(other));
            let live = live.map(|(_, other)| other.trend());
            let references: Vec<&Trend> = live.chain(self.past.matching(&is_other)).collect();
            let found = run.trend().deviations(&references, self.rules_of(name));
            deviations.push((name.clone(), found));
        }
        for (name, found) in deviations {
            if let Some(run) = self.runs.get_mut(&name) {
                run.deviations = found;
            }
        }
    }
}
