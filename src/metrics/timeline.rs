//! Samples of the past: what held from one moment of a run to the next, as OpenMetrics with
//! timestamps.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use super::aggregate;
use super::catalog::{CATALOG, Family, Id, Kind, Tier};
use super::collect::run_labels;
use super::labels::Labels;
use super::openmetrics::{escape, head};
use super::snapshot::RunFacts;

/// Longest time between two samples of a value that holds. Prometheus looks back five minutes.
pub const REPEAT: Duration = Duration::from_mins(4);

/// Values kept in memory at 16 bytes each; one that stays the same over several moments counts once.
pub const MAX_STRETCHES: usize = 8_000_000;

/// What is said of the daemon's work and not of the run: nobody knows it of the past.
const OF_THE_WORK: [Id; 4] = [Id::QueueLength, Id::Skipped, Id::Failures, Id::LastDuration];

/// Why a moment was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineError {
    /// More values than memory is set aside for.
    #[error(
        "more than {limit} values to keep, expected fewer: name a directory with fewer runs, end \
         sooner with --until, or set a lower series_limit"
    )]
    TooMany {
        /// How many are kept at most.
        limit: usize,
    },
    /// It does not lie after the moment before.
    #[error("run {run}: a moment at {at_ms} ms, expected one after {last_ms} ms")]
    Backwards {
        /// Run.
        run: String,
        /// Milliseconds since 1970.
        at_ms: i64,
        /// That of the moment before.
        last_ms: i64,
    },
}

/// From when to when the facts of one save hold, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Moment {
    from_ms: i64,
    /// The last sample lies before it, except that there is always one at `from_ms`.
    until_ms: i64,
}

/// Moments of a run, by number, over which a series has one value.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    first: u32,
    last: u32,
    value: f64,
}

/// One series.
#[derive(Debug, Default)]
struct Line {
    run: usize,
    stretches: Vec<Stretch>,
}

/// The past of all runs.
#[derive(Debug)]
pub struct Timeline {
    /// Name of a run → its number and its label.
    runs: BTreeMap<String, (usize, String)>,
    /// By number of the run.
    moments: Vec<Vec<Moment>>,
    /// By family.
    series: Vec<BTreeMap<Vec<String>, Line>>,
    series_limit: usize,
    max_stretches: usize,
    n_stretches: usize,
}

impl Timeline {
    /// Of the runs with these names, each with at most `series_limit` series at a time.
    #[must_use]
    pub fn new<'a>(names: impl Iterator<Item = &'a str>, series_limit: usize) -> Self {
        let labels = run_labels(names);
        let numbered = labels.into_iter().enumerate();
        let runs: BTreeMap<_, _> = numbered.map(|(i, (n, l))| (n.to_owned(), (i, l))).collect();
        Self {
            moments: vec![Vec::new(); runs.len()],
            runs,
            series: CATALOG.iter().map(|_| BTreeMap::new()).collect(),
            series_limit,
            max_stretches: MAX_STRETCHES,
            n_stretches: 0,
        }
    }

    /// Adds what holds of a run from `from_ms` on and before `until_ms`, and is repeated until then.
    /// Returns how many series the limit left out. A run that was not named is left out whole.
    ///
    /// # Errors
    /// When the moment does not lie after the one before, or there are too many values.
    pub fn add(
        &mut self,
        facts: &RunFacts,
        from_ms: i64,
        until_ms: i64,
    ) -> Result<usize, TimelineError> {
        let Some((run, label)) = self.runs.get(&facts.name) else { return Ok(0) };
        let too_many = || TimelineError::TooMany { limit: self.max_stretches };
        let moments = &mut self.moments[*run];
        if let Some(before) = moments.last_mut() {
            if before.from_ms >= from_ms {
                let (run, last_ms) = (facts.name.clone(), before.from_ms);
                return Err(TimelineError::Backwards { run, at_ms: from_ms, last_ms });
            }
            before.until_ms = before.until_ms.min(from_ms);
        }
        let at = u32::try_from(moments.len()).map_err(|_| too_many())?;
        moments.push(Moment { from_ms, until_ms });
        let mut values = aggregate::run_series(facts, label, true);
        let left_out = values.shrink_to(self.series_limit);
        for family in CATALOG.iter().filter(|family| is_of_the_past(family)) {
            for (labels, value) in values.take(family) {
                let line = self.series[family.id as usize].entry(labels).or_default();
                line.run = *run;
                self.n_stretches += usize::from(line.push(at, value));
            }
        }
        if self.n_stretches > self.max_stretches {
            return Err(too_many());
        }
        Ok(left_out)
    }

    /// Writes all samples as OpenMetrics 1.0 text, with the labels that Prometheus gives the series
    /// of a scrape, and those that a daemon with `labels` gives them. The same timeline gives the same
    /// bytes.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn write(
        &self,
        out: &mut dyn Write,
        (job, instance): (&str, &str),
        labels: &Labels,
    ) -> io::Result<()> {
        let target: Vec<(&str, &str)> = vec![("instance", instance), ("job", job)];
        let ours = labels.beside(&target);
        let ours = || ours.iter().map(|(name, value)| (name.as_str(), *value));
        for (family, lines) in CATALOG.iter().zip(&self.series).filter(|(_, l)| !l.is_empty()) {
            let (kind, suffix) = match family.kind {
                Kind::Counter => ("counter", "_total"),
                Kind::Gauge | Kind::Histogram => ("gauge", ""),
            };
            let full = family.full_name();
            let name = full.strip_suffix(suffix).unwrap_or(&full);
            let mut text = String::new();
            head(&mut text, name, kind, family.help);
            out.write_all(text.as_bytes())?;
            for (values, line) in lines {
                let own = family.labels.iter().copied().zip(values.iter().map(String::as_str));
                let pairs =
                    own.chain(ours()).chain(target.iter().copied()).filter(|(_, v)| !v.is_empty());
                let pairs: Vec<String> =
                    pairs.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
                let series = format!("{name}{suffix}{{{}}}", pairs.join(","));
                line.write(out, &series, &self.moments[line.run])?;
            }
        }
        out.write_all(b"# EOF\n")
    }
}

fn is_of_the_past(family: &Family) -> bool {
    family.tier != Tier::Daemon && !OF_THE_WORK.contains(&family.id)
}

impl Line {
    /// Takes the value of a moment; says whether it begins a stretch.
    fn push(&mut self, at: u32, value: f64) -> bool {
        match self.stretches.last_mut() {
            Some(s) if s.last + 1 == at && s.value.to_bits() == value.to_bits() => {
                s.last = at;
                false
            }
            _ => {
                self.stretches.push(Stretch { first: at, last: at, value });
                true
            }
        }
    }

    fn write(&self, out: &mut dyn Write, series: &str, moments: &[Moment]) -> io::Result<()> {
        let repeat = i64::try_from(REPEAT.as_millis()).unwrap_or(i64::MAX);
        for Stretch { first, last, value } in &self.stretches {
            for moment in &moments[*first as usize..=*last as usize] {
                let mut at = moment.from_ms;
                loop {
                    writeln!(out, "{series} {value} {}", Seconds(at))?;
                    at = at.saturating_add(repeat);
                    if at >= moment.until_ms {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Milliseconds, written in seconds without needless digits.
struct Seconds(i64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, ms) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        match ms % 1000 {
            0 => write!(f, "{sign}{}", ms / 1000),
            rest => write!(f, "{sign}{}.{rest:03}", ms / 1000),
        }
    }
}

#[cfg(test)]
mod tests;
