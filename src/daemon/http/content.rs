//! What is served: bytes rendered once per change and swapped as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::body::Bytes;
use serde::Serialize;

use super::super::page;
use crate::diagnostics::Report;
use crate::history::Anomaly;
use crate::metrics::{self, Exposition, RunFacts, RunState, Snapshot};

/// Anomalies listed over all runs.
const MAX_ANOMALIES: usize = 2000;

/// All bodies of one moment.
#[derive(Debug, Default)]
pub struct Content {
    /// `/metrics` in its four forms.
    pub exposition: Exposition,
    /// `/`, as HTML.
    pub page: Bytes,
    /// `/api/v1/runs`, as JSON.
    pub runs: Bytes,
    /// `/api/v1/anomalies`, as JSON.
    pub anomalies: Bytes,
    /// `/api/v1/runs/{name}`: each run's newest report, and the same as JSON.
    pub reports: BTreeMap<String, (Arc<Report>, Bytes)>,
    /// Whether the first scan is done.
    pub ready: bool,
    /// Whether nothing was published yet.
    pub is_loading: bool,
}

impl Content {
    /// Renders every body. A report that `previous` holds already is not rendered again.
    #[must_use]
    pub fn render(snapshot: &Snapshot, ready: bool, previous: &Self) -> Self {
        let reports = snapshot.runs.iter().filter_map(|run| {
            let report = run.report.as_ref()?;
            let body = match previous.reports.get(&run.name) {
                Some((old, body)) if Arc::ptr_eq(old, report) => body.clone(),
                _ => json(report.as_ref()),
            };
            Some((run.name.clone(), (Arc::clone(report), body)))
        });
        let mut runs: Vec<&RunFacts> = snapshot.runs.iter().collect();
        runs.sort_by_key(|run| &run.name);
        let anomalies = AnomalyList::of(&runs);
        let runs = RunList { runs: runs.into_iter().map(RunEntry::of).collect() };
        Self {
            exposition: metrics::render(snapshot),
            page: page::render(snapshot).into(),
            runs: json(&runs),
            anomalies: json(&anomalies),
            reports: reports.collect(),
            ready,
            is_loading: false,
        }
    }
}

/// The content that is served now.
#[derive(Debug)]
pub struct Served(RwLock<Arc<Content>>);

impl Default for Served {
    /// An empty exposition, not ready.
    fn default() -> Self {
        let nothing = Content::default();
        let empty = Content::render(&Snapshot::default(), false, &nothing);
        Self(RwLock::new(Arc::new(Content { is_loading: true, ..empty })))
    }
}

impl Served {
    /// Renders and serves a snapshot. To be called from one thread; `ready` once the first scan
    /// is done. Returns run → series left out, to be added once per new report to
    /// [`DaemonFacts::series_dropped_total`](metrics::DaemonFacts::series_dropped_total).
    pub fn publish(&self, snapshot: &Snapshot, ready: bool) -> BTreeMap<String, u64> {
        let content = Content::render(snapshot, ready, &self.current());
        let dropped = content.exposition.dropped.clone();
        // The lock is held for the swap of one pointer, never while rendering.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
        dropped
    }

    /// What is served at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Content> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut body = serde_json::to_vec(value).expect("map keys are strings or integers");
    body.push(b'\n');
    body.into()
}

/// Body of `/api/v1/runs`.
#[derive(Debug, Serialize)]
struct RunList<'a> {
    runs: Vec<RunEntry<'a>>,
}

/// Body of `/api/v1/anomalies`: what is open first, then what is over, newest first.
#[derive(Debug, Serialize)]
struct AnomalyList<'a> {
    anomalies: Vec<AnomalyEntry<'a>>,
    /// Further ones that are not listed.
    left_out: usize,
}

#[derive(Debug, Serialize)]
struct AnomalyEntry<'a> {
    run: &'a str,
    open: bool,
    #[serde(flatten)]
    anomaly: &'a Anomaly,
}

impl<'a> AnomalyList<'a> {
    fn of(runs: &[&'a RunFacts]) -> Self {
        let mut open = Vec::new();
        let mut over = Vec::new();
        for run in runs {
            let entry = |open| move |anomaly| AnomalyEntry { run: &run.name, open, anomaly };
            open.extend(run.chronicle.open().iter().rev().map(entry(true)));
            over.extend(run.chronicle.over().rev().map(entry(false)));
        }
        open.append(&mut over);
        let left_out = open.len().saturating_sub(MAX_ANOMALIES);
        open.truncate(MAX_ANOMALIES);
        Self { anomalies: open, left_out }
    }
}

#[derive(Debug, Serialize)]
struct RunEntry<'a> {
    name: &'a str,
    path: &'a str,
    architecture: Option<&'a str>,
    optimizer: Option<&'a str>,
    active: bool,
    state: &'static str,
    /// Why, where the state is `incomplete` or `unreadable`.
    reason: Option<&'a str>,
    latest_step: Option<u64>,
    analyzed_step: Option<u64>,
    latest_timestamp_seconds: Option<f64>,
    analyzed_timestamp_seconds: Option<f64>,
    size_bytes: Option<u64>,
    queue_length: u64,
    alignment_mean: BTreeMap<&'static str, f64>,
    worst_pair: Option<WorstPair<'a>>,
    /// Where the full report is.
    report: Option<String>,
}

#[derive(Debug, Serialize)]
struct WorstPair<'a> {
    pair: &'static str,
    layer: Option<usize>,
    head: Option<usize>,
    writer: &'a str,
    reader: &'a str,
    gram_correlation: Option<f64>,
    commutator_vs_chance: Option<f64>,
}

impl<'a> RunEntry<'a> {
    fn of(run: &'a RunFacts) -> Self {
        let report = run.report.as_deref();
        let (state, reason) = match &run.state {
            RunState::Waiting => ("waiting", None),
            RunState::Analyzed => ("analyzed", None),
            RunState::Incomplete(reason) => ("incomplete", Some(reason.as_str())),
            RunState::Unreadable(reason) => ("unreadable", Some(reason.as_str())),
        };
        Self {
            name: &run.name,
            path: &run.path,
            architecture: run.architecture.as_deref(),
            optimizer: run.optimizer.as_deref(),
            active: run.active,
            state,
            reason,
            latest_step: run.latest_step,
            analyzed_step: run.analyzed_step,
            latest_timestamp_seconds: run.latest_timestamp_seconds,
            analyzed_timestamp_seconds: run.analyzed_timestamp_seconds,
            size_bytes: run.size_bytes,
            queue_length: run.queue_length,
            alignment_mean: report.map(metrics::pair_means).unwrap_or_default(),
            worst_pair: report.and_then(metrics::worst_pair).map(|pair| WorstPair {
                pair: pair.pair,
                layer: pair.layer,
                head: pair.head,
                writer: &pair.writer,
                reader: &pair.reader,
                gram_correlation: pair.gram_correlation,
                commutator_vs_chance: pair.commutator_vs_chance,
            }),
            report: report.map(|_| page::report_url(&run.name)),
        }
    }
}
