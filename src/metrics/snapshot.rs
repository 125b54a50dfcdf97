//! The plain data from which an exposition is rendered.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::proto::MetricFamily;

use super::labels::Labels;
use crate::diagnostics::Report;
use crate::history::Chronicle;
use crate::watch::Shard;

/// Why a save was not analysed; the values of the label `reason`, each exported from the start at
/// 0 because a counter that is born at 1 hides its first event from `increase()`.
pub mod reason {
    /// A newer save was there before the analysis of this one began.
    pub const OUTRUN: &str = "outrun";
    /// Deleted by the trainer's rotation before or while it was read.
    pub const VANISHED: &str = "vanished";
    /// Overwritten while it was read.
    pub const CHANGED: &str = "changed";
    /// Healthy, and no weights of a model: an optimiser, data, or more than data alone.
    pub const NOT_WEIGHTS: &str = "not_weights";
    /// Reasons of `checkpoints_skipped_total`: normal life of a training directory.
    pub const SKIPPED: &[&str] = &[OUTRUN, VANISHED, CHANGED, NOT_WEIGHTS];

    /// Quiet for long, yet parts are missing.
    pub const INCOMPLETE: &str = "incomplete";
    /// Not readable by our user, or the file system failed.
    pub const UNREADABLE: &str = "unreadable";
    /// Bytes that contradict their format.
    pub const MALFORMED: &str = "malformed";
    /// A limit on size or count was hit.
    pub const LIMIT: &str = "limit";
    /// The analysis itself failed.
    pub const INTERNAL: &str = "internal";
    /// Reasons of `checkpoint_failures_total`: someone may have to act.
    pub const FAILURES: &[&str] = &[INCOMPLETE, UNREADABLE, MALFORMED, LIMIT, INTERNAL];
}

/// All that is exported at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The daemon itself; `None` where there is no daemon, as in `weightvane analyze`.
    pub daemon: Option<DaemonFacts>,
    /// The runs, in any order; names must differ.
    pub runs: Vec<RunFacts>,
    /// `process_*`, from [`process_families`](super::process_families); left empty in a textfile,
    /// where they would collide with those of `node_exporter`.
    pub process: Vec<MetricFamily>,
    /// What every series bears besides its own labels.
    pub labels: Labels,
}

/// How a root is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchMode {
    /// File system events as hints, and scans.
    Events,
    /// Scans alone, as on network file systems.
    Polling,
}

impl WatchMode {
    /// Both, in the order of their label values.
    pub const ALL: [Self; 2] = [Self::Events, Self::Polling];

    /// Value of the label `mode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Polling => "polling",
        }
    }
}

/// Why a client of the HTTP server was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Too many connections, or no descriptor for one.
    Connections,
    /// A handshake, a header or a response took too long.
    Slow,
    /// No HTTP, or a header that is too large.
    Malformed,
    /// No handshake of TLS came about.
    Tls,
    /// A method other than GET and HEAD.
    Method,
    /// A browser asked under a foreign name.
    Host,
    /// More requests than the limit allows.
    Rate,
    /// No password, or a wrong one.
    Unauthorized,
    /// Too many passwords to check.
    Busy,
    /// Too many streams of events.
    Streams,
}

impl Rejection {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Connections,
        Self::Slow,
        Self::Malformed,
        Self::Tls,
        Self::Method,
        Self::Host,
        Self::Rate,
        Self::Unauthorized,
        Self::Busy,
        Self::Streams,
    ];

    /// Value of the label `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Tls => "tls",
            Self::Method => "method",
            Self::Host => "host",
            Self::Rate => "rate",
            Self::Unauthorized => "unauthorized",
            Self::Busy => "busy",
            Self::Streams => "streams",
        }
    }
}

/// Facts of the daemon.
#[derive(Debug, Clone, Default)]
pub struct DaemonFacts {
    /// Version of the program.
    pub version: String,
    /// What the process gave up at its start, in words.
    pub sandbox: Option<String>,
    /// Root → how it is watched.
    pub watch_modes: BTreeMap<String, WatchMode>,
    /// End of the last complete scan, Unix seconds.
    pub last_scan_timestamp_seconds: Option<f64>,
    /// Scans of a root that failed.
    pub scan_errors_total: u64,
    /// Whether the last reading of the configuration succeeded; `None` without a configuration.
    pub config_last_reload_successful: Option<bool>,
    /// Whose runs it measures.
    pub shard: Shard,
    /// Whether the state store can be written; `None` without a store.
    pub state_store_ok: Option<bool>,
    /// Wall time per analysed save.
    pub analysis_duration: DurationHistogram,
    /// CPU time of the workers, seconds.
    pub analysis_cpu_seconds_total: f64,
    /// Bytes read from checkpoints.
    pub read_bytes_total: u64,
    /// Seconds of pauses because others waited for disk or memory.
    pub held_back_seconds_total: f64,
    /// Root → whether it can be looked at.
    pub root_up: BTreeMap<String, bool>,
    /// Clients of the HTTP server that were turned away, in the order of [`Rejection::ALL`].
    pub http_rejected_total: [u64; Rejection::ALL.len()],
    /// Greatest number of series per run; `None` for
    /// [`DEFAULT_SERIES_LIMIT`](super::DEFAULT_SERIES_LIMIT).
    pub series_limit: Option<usize>,
    /// Run → series left out because of the limit, summed over analysed saves: add
    /// [`Exposition::dropped`](super::Exposition::dropped) once per new report.
    pub series_dropped_total: BTreeMap<String, u64>,
}

/// Where a run stands, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RunState {
    /// No save has been analysed yet, or a newer one is queued.
    #[default]
    Waiting,
    /// The newest save is analysed.
    Analyzed,
    /// The newest save is quiet but not whole; what is missing.
    Incomplete(String),
    /// The newest save could not be read; why.
    Unreadable(String),
}

/// Ridge rate of one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeRate {
    /// Depth index, as in the report.
    pub layer: Option<usize>,
    /// Pair kind, as in the report.
    pub pair: String,
    /// Measured decay of the conserved gap over the decay that the weight decay predicts.
    pub ratio: f64,
}

/// Facts of one run. What is unknown is `None` or not in the map, and gives no sample.
#[derive(Debug, Clone, Default)]
pub struct RunFacts {
    /// Path below the root: the label `run`.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// Architecture rule.
    pub architecture: Option<String>,
    /// Optimiser, as the trainer's files name it.
    pub optimizer: Option<String>,
    /// Whether more saves are expected.
    pub active: bool,
    /// When someone said that it had ended, Unix seconds.
    pub ended_timestamp_seconds: Option<f64>,
    /// Where the run stands.
    pub state: RunState,
    /// Step of the newest settled save.
    pub latest_step: Option<u64>,
    /// Step of the newest analysed save.
    pub analyzed_step: Option<u64>,
    /// When the newest settled save was complete, Unix seconds.
    pub latest_timestamp_seconds: Option<f64>,
    /// When the newest analysed save was complete (not when it was analysed), Unix seconds.
    pub analyzed_timestamp_seconds: Option<f64>,
    /// Median of the recent intervals between saves.
    pub save_interval_seconds: Option<f64>,
    /// Whether the newest settled save could be read.
    pub readable: Option<bool>,
    /// Size of the newest settled save.
    pub size_bytes: Option<u64>,
    /// First to last change of the newest settled save.
    pub save_duration_seconds: Option<f64>,
    /// Settled saves seen.
    pub discovered_total: u64,
    /// Saves analysed.
    pub analyzed_total: u64,
    /// Reason → saves passed over; [`reason::SKIPPED`] are exported at 0 when absent.
    pub skipped_total: BTreeMap<String, u64>,
    /// Reason → failed analyses; [`reason::FAILURES`] are exported at 0 when absent.
    pub failures_total: BTreeMap<String, u64>,
    /// Saves waiting for analysis, the running one included.
    pub queue_length: u64,
    /// Wall time of the last analysis.
    pub last_duration_seconds: Option<f64>,
    /// Training loss at the analysed step.
    pub train_loss: Option<f64>,
    /// Learning rate at the analysed step.
    pub learning_rate: Option<f64>,
    /// Gradient norm at the analysed step.
    pub grad_norm: Option<f64>,
    /// Evaluation metric → its last value at the analysed step.
    pub eval: BTreeMap<String, f64>,
    /// What is compared and pair, empty for the whole → robust z against the reference runs.
    pub reference_deviations: BTreeMap<(&'static str, &'static str), f64>,
    /// Pair → `alignment_mean` where the report has lost its pairs, as an old save's in the store.
    pub alignment_mean: BTreeMap<String, f64>,
    /// Pair → highest `alignment_mean` so far.
    pub alignment_best: BTreeMap<String, f64>,
    /// Pair → analysed saves since the best was improved.
    pub alignment_saves_since_improvement: BTreeMap<String, u64>,
    /// Pair → steps since the best was improved.
    pub alignment_steps_since_improvement: BTreeMap<String, u64>,
    /// Ridge rates, where the law and the optimiser allow them.
    pub ridge_rates: Vec<RidgeRate>,
    /// Measurements of the newest analysed save.
    pub report: Option<Arc<Report>>,
    /// What is unusual.
    pub chronicle: Arc<Chronicle>,
}

/// Durations in fixed buckets, from a toy model to one of many gigabytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DurationHistogram {
    counts: [u64; Self::BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl DurationHistogram {
    /// Upper bounds in seconds; the last bucket, +Inf, is implied.
    pub const BOUNDS: [f64; 10] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];

    /// Adds one duration; what is not a finite number ≥ 0 is ignored.
    pub fn observe(&mut self, seconds: f64) {
        if !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        self.count += 1;
        self.sum += seconds;
        if let Some(idx) = Self::BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.counts[idx] += 1;
        }
    }

    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Its parts as counters, which may be kept: each bucket's own number, then count and sum.
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    #[must_use]
    pub fn parts(&self) -> Vec<f64> {
        let counts = self.counts.iter().map(|n| *n as f64);
        counts.chain([self.count as f64, self.sum]).collect()
    }

    /// From its parts; `None` where these are not a histogram's.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts, written as such"
    )]
    #[must_use]
    pub fn from_parts(parts: &[f64]) -> Option<Self> {
        let sound = parts.iter().all(|x| x.is_finite() && *x >= 0.0);
        let (counts, [count, sum]) = parts.split_last_chunk::<2>().filter(|_| sound)?;
        let counts: [u64; Self::BOUNDS.len()] =
            counts.iter().map(|n| *n as u64).collect::<Vec<_>>().try_into().ok()?;
        Some(Self { counts, count: *count as u64, sum: *sum })
    }

    /// Upper bounds with the number of durations not above them.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        Self::BOUNDS.into_iter().zip(self.counts).scan(0, |below, (bound, n)| {
            *below += n;
            Some((bound, *below))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_inclusive() {
        let mut durations = DurationHistogram::default();
        for seconds in [0.1, 0.2, 5000.0, f64::NAN, -1.0] {
            durations.observe(seconds);
        }
        let buckets: Vec<(f64, u64)> = durations.cumulative().collect();
        assert_eq!(buckets[0], (0.1, 1));
        assert_eq!(buckets[1], (0.3, 2));
        assert_eq!(buckets[9], (3000.0, 2));
        assert_eq!(durations.count(), 3);
        assert!((durations.sum() - 5000.3).abs() < 1e-9);
        let parts = durations.parts();
        assert_eq!(DurationHistogram::from_parts(&parts), Some(durations));
        assert_eq!(DurationHistogram::from_parts(&parts[1..]), None);
        assert_eq!(DurationHistogram::from_parts(&[]), None);
    }
}
