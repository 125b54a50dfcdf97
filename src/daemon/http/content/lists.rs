//! Lists over all runs, as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::daemon::page;
use crate::history::Anomaly;
use crate::metrics::{self, RunFacts, RunState};

/// Anomalies listed over all runs.
const MAX_ANOMALIES: usize = 2000;

/// Body of `/api/v1/runs`.
#[derive(Debug, Serialize)]
pub(super) struct RunList<'a> {
    pub(super) runs: Vec<RunEntry<'a>>,
}

/// Body of `/api/v1/anomalies`: what is open first, then what is over, newest first.
#[derive(Debug, Serialize)]
pub(super) struct AnomalyList<'a> {
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
    pub(super) fn of(runs: &[&'a RunFacts]) -> Self {
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

/// A run in a few words.
#[derive(Debug, Serialize)]
pub(super) struct RunEntry<'a> {
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
    /// Where its numbers over all saves are.
    history: String,
    /// Its page.
    page: String,
}

#[derive(Debug, Serialize)]
struct WorstPair<'a> {
    pair: &'static str,
    layer: Option<usize>,
    expert: Option<usize>,
    head: Option<usize>,
    writer: &'a str,
    reader: &'a str,
    gram_correlation: Option<f64>,
    commutator_vs_chance: Option<f64>,
}

impl<'a> RunEntry<'a> {
    pub(super) fn of(run: &'a RunFacts) -> Self {
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
                expert: pair.expert,
                head: pair.head,
                writer: &pair.writer,
                reader: &pair.reader,
                gram_correlation: pair.gram_correlation,
                commutator_vs_chance: pair.commutator_vs_chance,
            }),
            report: report.map(|_| page::report_url(&run.name)),
            history: page::history_url(&run.name),
            page: page::run_url(&run.name),
        }
    }
}
