//! What is found, in which order, and with which numbers.

use std::fs;

use super::process::{FAST, Place, run};
use super::saves::{chain, copy_save, copy_series, shipped, write_save};

#[test]
fn a_series_is_measured_newest_first_with_the_numbers_of_analyze() {
    let place = Place::new(FAST);
    let n = copy_series("healthy", &place.root.join("healthy"), 0);
    assert_eq!(n, 21);
    let daemon = place.watch();
    let metrics = daemon.wait_analyzed("healthy", n);
    let steps: Vec<u64> =
        daemon.logged("analyzed save").iter().map(|f| f["step"].as_u64().unwrap()).collect();
    let ascending: Vec<u64> = (0..20).map(|i| 100 * i).collect();
    assert_eq!((steps[0], &steps[1..]), (2000, ascending.as_slice()));
    let run_label = ("run", "healthy");
    assert_eq!(metrics.value("checkpoint_analyzed_step", &[run_label]), Some(2000.0));
    assert_eq!(metrics.count("checkpoints_discovered_total", "healthy"), n);
    assert_eq!(metrics.count("checkpoint_failures_total", "healthy"), 0);
    assert_eq!(metrics.value("analysis_queue_length", &[run_label]), Some(0.0));

    let newest = shipped("it/golden/series/healthy/checkpoint-2000");
    let out = run(&["analyze".as_ref(), "--format".as_ref(), "json".as_ref(), newest.as_ref()]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let pairs = report["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 3);
    for pair in pairs {
        let layer = format!("{:02}", pair["layer"].as_u64().unwrap());
        let labels = [run_label, ("layer", layer.as_str()), ("pair", "chain")];
        let (found, wanted) = (
            metrics.value("gram_correlation", &labels).unwrap(),
            pair["gram_correlation"].as_f64().unwrap(),
        );
        assert!((found - wanted).abs() <= 1e-9, "layer {layer}: {found} is not {wanted}");
    }
}

#[test]
fn weights_that_are_not_finite_are_counted() {
    let place = Place::new(FAST);
    let n = copy_series("nan", &place.root.join("nan"), 1900);
    let daemon = place.watch();
    let metrics = daemon.wait_analyzed("nan", n);
    let labels = [("run", "nan"), ("kind", "nan")];
    assert!(metrics.value("nonfinite_weights", &labels).unwrap() > 0.0);
    assert_eq!(metrics.count("checkpoint_failures_total", "nan"), 0);
}

#[test]
fn a_file_rewritten_in_place_counts_every_content() {
    let place = Place::new(FAST);
    let daemon = place.watch();
    let dir = place.root.join("run");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("model.safetensors");
    for version in 1..=3 {
        let weights = chain(2, 16, version);
        if version == 3 {
            // Written beside it and renamed, as careful trainers do.
            let unfinished = dir.join("model.safetensors.tmp");
            fs::write(&unfinished, weights).unwrap();
            fs::rename(unfinished, &file).unwrap();
        } else {
            fs::write(&file, weights).unwrap();
        }
        daemon.wait_analyzed("run", version);
    }
    let metrics = daemon.metrics();
    assert_eq!(metrics.runs(), ["run"]);
    assert_eq!(metrics.count("checkpoints_discovered_total", "run"), 3);
}

#[test]
fn numbered_files_and_step_directories_are_series() {
    let place = Place::new(FAST);
    let daemon = place.watch();
    let plain = place.root.join("plain");
    fs::create_dir(&plain).unwrap();
    for step in [100, 200] {
        fs::write(plain.join(format!("model-{step}.safetensors")), chain(2, 16, step)).unwrap();
        let dir = place.root.join(format!("steps/step-{step}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("model.safetensors"), chain(2, 16, step + 1)).unwrap();
    }
    for run in ["plain", "steps"] {
        let metrics = daemon.wait_analyzed(run, 2);
        assert_eq!(metrics.value("checkpoint_analyzed_step", &[("run", run)]), Some(200.0));
        assert_eq!(metrics.value("checkpoint_latest_step", &[("run", run)]), Some(200.0));
    }
}

#[test]
fn runs_of_one_name_in_two_roots_stay_apart() {
    let place = Place::new(FAST);
    let other = place.dir.path().join("other");
    write_save(&place.root.join("same/checkpoint-1"), &chain(2, 16, 1));
    write_save(&other.join("same/checkpoint-2"), &chain(3, 16, 2));
    let mut command = place.command();
    command.arg(&other);
    let daemon = super::process::Daemon::start(command);
    let both = |m: &super::client::Metrics| {
        let runs = m.runs();
        runs.len() == 2 && runs.iter().all(|run| m.count("checkpoints_analyzed_total", run) == 1)
    };
    let metrics = daemon.wait("two runs", both);
    // The root named first gives the short name, whichever is scanned first.
    for (run, step) in [("same", 1.0), ("other/same", 2.0)] {
        assert_eq!(metrics.value("checkpoint_analyzed_step", &[("run", run)]), Some(step), "{run}");
    }
}

#[test]
fn a_malformed_save_is_one_failure_and_the_next_is_measured() {
    let place = Place::new(FAST);
    let mut broken = chain(2, 16, 1);
    // The length of the header stays, its text is no JSON.
    broken[8] = b'!';
    write_save(&place.root.join("run/checkpoint-1"), &broken);
    let daemon = place.watch();
    let labels = [("run", "run"), ("reason", "malformed")];
    let failed = |m: &super::client::Metrics| {
        m.value("checkpoint_failures_total", &labels).is_some_and(|v| v > 0.0)
    };
    let metrics = daemon.wait("a failure", failed);
    assert_eq!(metrics.value("checkpoint_readable", &[("run", "run")]), Some(0.0));
    write_save(&place.root.join("run/checkpoint-2"), &chain(2, 16, 2));
    let metrics = daemon.wait_analyzed("run", 1);
    assert_eq!(metrics.value("checkpoint_failures_total", &labels), Some(1.0));
    assert_eq!(metrics.count("checkpoint_failures_total", "run"), 1, "no other reason");
    assert_eq!(metrics.value("checkpoint_readable", &[("run", "run")]), Some(1.0));
}

#[test]
fn a_directory_within_a_new_directory_is_found_by_events() {
    // The next periodic scan is an hour away.
    let place = Place::new("scan_interval: 1h\nquiet: 300ms\nsettle: 2s\n");
    let daemon = place.watch();
    let metrics = daemon.wait("the first scan", |m| {
        m.value("last_scan_timestamp_seconds", &[]).unwrap_or(0.0) > 0.0
    });
    let by_events = metrics.value("watch_mode", &[("mode", "events")]);
    assert_eq!(by_events, Some(1.0), "events work on a local disk");
    // Long after the first scan: no deadline of it is left to find the save by chance.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let save = place.root.join("project/seed-1/checkpoint-10");
    copy_save(&shipped("it/golden/series/healthy/checkpoint-100"), &save);
    daemon.wait_analyzed("project/seed-1", 1);
}
