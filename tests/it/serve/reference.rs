//! Runs compared with reference runs.

use std::fs;

use rustix::process::Signal;

use super::client::Metrics;
use super::process::{Daemon, FAST, Place};
use super::saves::{copy_save, shipped};

/// z of the chain's alignment of a run.
fn z(metrics: &Metrics, run: &str) -> Option<f64> {
    let labels = [("run", run), ("metric", "alignment"), ("pair", "chain")];
    metrics.value("reference_deviation_zscore", &labels)
}

#[test]
fn a_run_is_compared_with_the_reference_at_its_step_also_when_that_is_gone() {
    let place = Place::new(&format!("{FAST}reference: base-*\n"));
    let state = place.dir.path().join("state");
    let copy = |series: &str, run: &str, steps: std::ops::Range<u64>| {
        for step in steps.step_by(100) {
            let name = format!("checkpoint-{step}");
            let from = shipped("it/golden/series").join(series).join(&name);
            copy_save(&from, &place.root.join(run).join(name));
        }
    };
    // The two series are of one training up to step 1450, where labels are shuffled in one.
    copy("healthy", "base-1", 0..2001);
    copy("label_shuffle", "odd", 0..1401);
    let start = || {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state);
        Daemon::start(command)
    };
    let daemon = start();
    daemon.wait_analyzed("base-1", 21);
    daemon.wait_analyzed("odd", 15);
    let same = daemon.wait("a comparison", |m| z(m, "odd") == Some(0.0));
    assert_eq!(z(&same, "base-1"), None, "a run is no reference of itself");
    for metric in ["commutator", "update", "norm"] {
        let labels = [("run", "odd"), ("metric", metric)];
        assert_eq!(same.all("reference_deviation_zscore", &labels).len(), 1, "{metric}");
    }
    daemon.signal(Signal::TERM);
    daemon.end();
    fs::remove_dir_all(place.root.join("base-1")).unwrap();
    copy("label_shuffle", "odd", 1500..1501);
    let daemon = start();
    daemon.wait_analyzed("odd", 16);
    let apart = daemon.wait("another", |m| z(m, "odd").is_some_and(|z| z != 0.0));
    assert!(z(&apart, "odd").is_some_and(|z| z < -8.0), "{:?}", z(&apart, "odd"));
}
