//! `weightvane demo`, from start to end.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::client::{Metrics, get};
use super::process::{Daemon, PROGRAM};

/// The number after `key` in a line.
fn number(line: &str, key: &str) -> Option<f64> {
    line.split(key).nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Layer and pair → the values of the ridge rate that a demo shows until it ends.
fn ridge_rates(weight_decay: &str) -> BTreeMap<String, Vec<f64>> {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--seconds", "20", "--linear", "--listen", "127.0.0.1:0"]);
    command.args(["--weight-decay", weight_decay]).env("TMPDIR", temp.path());
    let daemon = Daemon::start(command);
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    while let Ok((_, body)) = get(daemon.address, "/metrics") {
        for (labels, rate) in Metrics(body).all("ridge_rate_ratio", &[("run", "linear")]) {
            rates.entry(labels).or_default().push(rate);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(daemon.end().0.code(), Some(0));
    rates
}

/// The ridge law: in a linear network under SGD the gap of every pair decays at twice ηλ a step. In the
/// first hundreds of steps gradients are so large that their squares, times η², add to it.
#[test]
fn gaps_decay_at_the_rate_that_weight_decay_sets() {
    for weight_decay in ["1e-3", "3e-3"] {
        let rates = ridge_rates(weight_decay);
        assert_eq!(rates.len(), 3, "{weight_decay}: {rates:?}");
        for (layer, rates) in rates {
            let last = rates[rates.len() - 1];
            assert!((0.98..=1.02).contains(&last), "λ = {weight_decay}, {layer}: {rates:?}");
            let sound = rates.iter().all(|rate| (0.95..=1.1).contains(rate));
            assert!(sound, "λ = {weight_decay}, {layer}: {rates:?}");
        }
    }
}

#[test]
fn a_demo_shows_alignment_rise_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--seconds", "12", "--linear", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", temp.path());
    let start = Instant::now();
    let daemon = Daemon::start(command);
    daemon.wait_for("its run on the page", |d| d.get("/").1.contains("linear").then_some(()));
    let (status, lines, log) = daemon.end();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!((Duration::from_secs(11)..Duration::from_secs(30)).contains(&took), "{took:?}");
    let saves: Vec<f64> = lines
        .iter()
        .filter(|line| line.starts_with("step "))
        .filter_map(|line| number(line, "gram correlation"))
        .collect();
    assert!(saves.len() >= 4, "{lines:#?}");
    assert!(saves[saves.len() - 1] > saves[0] + 0.1, "{saves:?}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "left in the temporary directory");
    assert!(log.is_empty(), "a quiet log: {log:?}");
}
