//! All samples of a snapshot, and the bound on their number.

use std::collections::{BTreeMap, BTreeSet};

use super::aggregate;
use super::catalog::Id;
use super::labels::{MAX_LABEL_BYTES, clean_label, cut};
use super::series::{Series, flag};
use super::snapshot::{Rejection, Snapshot, WatchMode};

/// Series per run where nothing else is configured: three times what a model of 48 layers with
/// seven pair kinds needs.
pub const DEFAULT_SERIES_LIMIT: usize = 5_000;

/// Series of all runs together. At about 300 000 a single Prometheus query over all of them takes
/// longer than people wait; runs beyond keep their summary families.
pub const TOTAL_SERIES_LIMIT: usize = 250_000;

/// All samples of a snapshot, and run → number of series left out. Beyond `total` series, normally
/// [`TOTAL_SERIES_LIMIT`], runs keep their summary families alone.
pub(super) fn collect(snapshot: &Snapshot, total: usize) -> (Series, BTreeMap<String, u64>) {
    let limit = snapshot
        .daemon
        .as_ref()
        .and_then(|daemon| daemon.series_limit)
        .unwrap_or(DEFAULT_SERIES_LIMIT);
    let mut all = Series::default();
    let mut dropped = BTreeMap::new();
    let labels = run_labels(snapshot.runs.iter().map(|run| run.name.as_str()));
    // Active runs first: when the total is reached, those that ended lose their layers.
    let mut runs: Vec<_> = snapshot.runs.iter().collect();
    runs.sort_by_key(|run| (!run.active, &run.name));
    for run in runs {
        let Some(label) = labels.get(run.name.as_str()) else { continue };
        let mut series = aggregate::run_series(run, label, snapshot.daemon.is_some());
        let room = total.saturating_sub(all.len());
        let left_out = series.shrink_to(limit.min(room));
        dropped.entry(run.name.clone()).or_insert(left_out as u64);
        all.append(series);
    }
    daemon_series(snapshot, limit, &labels, &mut all);
    (all, dropped)
}

#[expect(clippy::cast_precision_loss, reason = "counters stay below 2^53")]
fn daemon_series(
    snapshot: &Snapshot,
    limit: usize,
    labels: &BTreeMap<&str, String>,
    all: &mut Series,
) {
    let Some(daemon) = &snapshot.daemon else { return };
    all.put(Id::BuildInfo, &[&daemon.version], 1.0);
    for (root, mode) in &daemon.watch_modes {
        for each in WatchMode::ALL {
            all.put(Id::WatchMode, &[root, each.as_str()], flag(each == *mode));
        }
    }
    for (root, up) in &daemon.root_up {
        all.put(Id::RootUp, &[root], flag(*up));
    }
    all.put_known(Id::LastScanTimestamp, &[], daemon.last_scan_timestamp_seconds);
    all.put(Id::ScanErrors, &[], daemon.scan_errors_total as f64);
    all.put_known(Id::ConfigReload, &[], daemon.config_last_reload_successful.map(flag));
    all.put(Id::ShardOrdinal, &[], f64::from(daemon.shard.ordinal()));
    all.put(Id::TotalShards, &[], f64::from(daemon.shard.total()));
    all.put_known(Id::StateStoreOk, &[], daemon.state_store_ok.map(flag));
    all.histogram = Some(daemon.analysis_duration);
    all.put(Id::AnalysisCpu, &[], daemon.analysis_cpu_seconds_total);
    all.put(Id::ReadBytes, &[], daemon.read_bytes_total as f64);
    all.put(Id::HeldBack, &[], daemon.held_back_seconds_total);
    for (reason, total) in Rejection::ALL.iter().zip(daemon.http_rejected_total) {
        all.put(Id::HttpRejected, &[reason.as_str()], total as f64);
    }
    all.put(Id::SeriesLimit, &[], limit as f64);
    for (name, label) in labels {
        let total = daemon.series_dropped_total.get(*name).copied().unwrap_or(0);
        all.put(Id::SeriesDropped, &[label], total as f64);
    }
}

/// Run name → value of the label `run`, one for each. Two names that differ only in what
/// [`clean_label`] takes away get a number at the end.
pub(super) fn run_labels<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let names: BTreeSet<&str> = names.collect();
    // Names that are clean already come first, so that a hostile neighbour cannot rename them.
    let mut ordered: Vec<&str> = names.into_iter().collect();
    ordered.sort_by_key(|name| (clean_label(name) != *name, *name));
    let mut taken = BTreeSet::new();
    let mut labels = BTreeMap::new();
    for name in ordered {
        let clean = clean_label(name);
        let mut label = clean.clone();
        let mut n = 2;
        while !taken.insert(label.clone()) {
            let suffix = format!("~{n}");
            label = cut(&clean, MAX_LABEL_BYTES - suffix.len()).to_owned() + &suffix;
            n += 1;
        }
        labels.insert(name, label);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{RidgeRate, RunFacts};

    fn snapshot_of(names: &[&str]) -> Snapshot {
        let runs =
            names.iter().map(|name| RunFacts { name: (*name).to_owned(), ..RunFacts::default() });
        Snapshot { runs: runs.collect(), ..Snapshot::default() }
    }

    #[test]
    fn runs_that_look_alike_keep_different_labels() {
        let long = "x".repeat(300);
        let longer = "x".repeat(301);
        let names = ["a\u{1}", "a\u{2}", "a\u{fffd}", &long, &longer];
        let labels = run_labels(names.into_iter());
        let distinct: BTreeSet<&String> = labels.values().collect();
        assert_eq!(distinct.len(), names.len());
        assert_eq!(labels["a\u{fffd}"], "a\u{fffd}", "the clean name keeps its label");
        assert!(labels.values().all(|label| label.len() <= MAX_LABEL_BYTES));
    }

    #[test]
    fn beyond_the_total_runs_that_ended_lose_their_layers_first() {
        let mut snapshot = snapshot_of(&["a-ended", "b-active"]);
        for run in &mut snapshot.runs {
            run.active = run.name == "b-active";
            let rate = |layer| RidgeRate { layer: Some(layer), pair: "chain".into(), ratio: 1.0 };
            run.ridge_rates = (0..50).map(rate).collect();
        }
        let (all, dropped) = collect(&snapshot, TOTAL_SERIES_LIMIT);
        assert!(dropped.values().all(|n| *n == 0));
        let (_, dropped) = collect(&snapshot, all.len() - 1);
        assert_eq!((dropped["a-ended"], dropped["b-active"]), (50, 0));
    }
}
