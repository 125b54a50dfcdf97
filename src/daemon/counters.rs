//! Counters of the daemon itself, which go on after a restart.

use std::collections::BTreeMap;

use crate::metrics::{DaemonFacts, DurationHistogram};

/// What of the daemon's own counters goes on after a restart.
pub(super) fn daemon_counters(facts: &DaemonFacts) -> BTreeMap<(String, String), f64> {
    #[expect(clippy::cast_precision_loss, reason = "bytes and errors stay below 2^53")]
    let single = [
        ("analysis_cpu_seconds", facts.analysis_cpu_seconds_total),
        ("read_bytes", facts.read_bytes_total as f64),
        ("scan_errors", facts.scan_errors_total as f64),
    ];
    let single = single.map(|(name, value)| ((name.to_owned(), String::new()), value));
    let parts = facts.analysis_duration.parts();
    let parts = parts.into_iter().enumerate().map(|(i, n)| (("duration".into(), i.to_string()), n));
    let dropped = facts.series_dropped_total.iter();
    #[expect(clippy::cast_precision_loss, reason = "a count of series")]
    let dropped = dropped.map(|(run, n)| (("series_dropped".into(), run.clone()), *n as f64));
    single.into_iter().chain(parts).chain(dropped).collect()
}

/// The way back.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts, written as such"
)]
pub(super) fn take_daemon_counters(
    facts: &mut DaemonFacts,
    counters: &BTreeMap<(String, String), f64>,
) {
    let get = |name: &str, label: &str| counters.get(&(name.to_owned(), label.to_owned())).copied();
    facts.analysis_cpu_seconds_total += get("analysis_cpu_seconds", "").unwrap_or(0.0);
    facts.read_bytes_total += get("read_bytes", "").unwrap_or(0.0) as u64;
    facts.scan_errors_total += get("scan_errors", "").unwrap_or(0.0) as u64;
    let parts: Vec<f64> = (0..).map_while(|i: usize| get("duration", &i.to_string())).collect();
    facts.analysis_duration = DurationHistogram::from_parts(&parts).unwrap_or_default();
    for ((name, run), n) in counters {
        if name == "series_dropped" {
            facts.series_dropped_total.insert(run.clone(), *n as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_comes_back() {
        let mut facts =
            DaemonFacts { read_bytes_total: 7, scan_errors_total: 2, ..DaemonFacts::default() };
        facts.analysis_cpu_seconds_total = 1.5;
        facts.analysis_duration.observe(0.2);
        facts.series_dropped_total.insert("a".into(), 9);
        let mut again = DaemonFacts::default();
        take_daemon_counters(&mut again, &daemon_counters(&facts));
        assert_eq!(daemon_counters(&again), daemon_counters(&facts));
        assert_eq!((again.read_bytes_total, again.analysis_duration.count()), (7, 1));
        take_daemon_counters(&mut DaemonFacts::default(), &BTreeMap::new());
    }
}
