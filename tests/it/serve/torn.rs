//! Saves that are written while they are watched.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::process::Place;
use super::saves::shipped;

/// Pause between the shards: longer than the quiet time, so whoever takes stillness for completeness
/// reads a torn save.
const PAUSE: Duration = Duration::from_secs(3);

/// Writes three shards, then the index, then what else there is.
fn write_slowly(to: &Path, others: &[(&str, &str)]) {
    let from = shipped("fixtures/llama");
    fs::create_dir_all(to).unwrap();
    let copy = |name: &str| fs::write(to.join(name), fs::read(from.join(name)).unwrap()).unwrap();
    copy("config.json");
    for shard in 1..=3 {
        copy(&format!("model-0000{shard}-of-00003.safetensors"));
        thread::sleep(PAUSE);
    }
    copy("model.safetensors.index.json");
    for (name, text) in others {
        fs::write(to.join(name), text).unwrap();
    }
}

#[test]
fn a_save_written_shard_by_shard_is_measured_once_and_whole() {
    let place = Place::new("scan_interval: 1s\nquiet: 1s\nsettle: 30s\n");
    let daemon = place.watch();
    let (trainer, plain) =
        (place.root.join("trainer/checkpoint-100"), place.root.join("plain/step-100"));
    let writers = [
        thread::spawn(move || write_slowly(&trainer, &[("trainer_state.json", "{}")])),
        thread::spawn(move || write_slowly(&plain, &[])),
    ];
    let runs = ["trainer", "plain"];
    let mut seen_waiting = 0;
    loop {
        let metrics = daemon.metrics();
        if writers.iter().any(thread::JoinHandle::is_finished) {
            break;
        }
        seen_waiting += metrics.runs().len();
        for run in runs {
            assert_eq!(metrics.count("checkpoints_discovered_total", run), 0, "{run} half written");
            assert_eq!(metrics.count("checkpoints_analyzed_total", run), 0, "{run} half written");
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert!(seen_waiting > 0, "runs are shown while their first save is written");
    for writer in writers {
        writer.join().unwrap();
    }
    for run in runs {
        let metrics = daemon.wait_analyzed(run, 1);
        let matrices = metrics.all("weight_norm", &[("run", run), ("role", "down")]);
        assert_eq!(matrices.len(), 3, "all layers of {run}: {matrices:?}");
    }
    // Two more scans: nothing is counted again.
    thread::sleep(Duration::from_millis(2500));
    let metrics = daemon.metrics();
    for run in runs {
        assert_eq!(metrics.count("checkpoints_discovered_total", run), 1, "{run}");
        assert_eq!(metrics.count("checkpoints_analyzed_total", run), 1, "{run}");
        assert_eq!(metrics.count("checkpoints_skipped_total", run), 0, "{run}");
        assert_eq!(metrics.count("checkpoint_failures_total", run), 0, "{run}");
    }
}
