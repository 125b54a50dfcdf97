//! Runs of which someone says that they have ended.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::client::Metrics;
use super::process::{Daemon, FAST, Place};
use super::saves::{chain, write_save};

const MARK: &str = ".weightvane-ended";

fn save(root: &Path, run: &str, step: u64) {
    write_save(&root.join(run).join(format!("checkpoint-{step}")), &chain(2, 16, step));
}

/// Whether more is expected of a run; what is told of its end agrees.
fn active(metrics: &Metrics, run: &str) -> Option<bool> {
    let of = [("run", run)];
    let active = metrics.value("run_active", &of)? > 0.5;
    let ended = metrics.value("run_ended_timestamp_seconds", &of);
    assert_eq!(ended.is_some(), !active, "{run}: {active}, ended {ended:?}");
    Some(active)
}

fn wait(daemon: &Daemon, what: &str, wanted: &[(&str, bool)]) -> Metrics {
    daemon.wait(what, |m| wanted.iter().all(|(run, is)| active(m, run) == Some(*is)))
}

#[test]
fn a_mark_ends_the_runs_below_it_until_they_save_again() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let start = || {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state);
        Daemon::start(command)
    };
    for run in ["job/a", "job/b", "other"] {
        save(&place.root, run, 1);
    }
    // Files that share a directory with others have its mark.
    fs::create_dir(place.root.join("plain")).unwrap();
    fs::write(place.root.join("plain/ema-1.safetensors"), chain(2, 16, 7)).unwrap();
    let daemon = start();
    let runs = ["job/a", "job/b", "other", "plain/ema"];
    let measured =
        |m: &Metrics| runs.iter().all(|run| m.count("checkpoints_analyzed_total", run) == 1);
    daemon.wait("all runs to be measured", measured);
    wait(&daemon, "all runs", &runs.map(|run| (run, true)));

    // A link out of the root is not followed, and no scan fails of it.
    std::os::unix::fs::symlink("/etc/hostname", place.root.join("job/a/best.safetensors")).unwrap();
    fs::write(place.root.join("job/a").join(MARK), "").unwrap();
    fs::write(place.root.join("plain").join(MARK), "").unwrap();
    let ended = [("job/a", false), ("job/b", true), ("other", true), ("plain/ema", false)];
    let metrics = wait(&daemon, "two ends", &ended);
    let stamp = fs::metadata(place.root.join("job/a").join(MARK)).unwrap().modified().unwrap();
    let stamp = stamp.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let told = metrics.value("run_ended_timestamp_seconds", &[("run", "job/a")]).unwrap();
    assert!((told - stamp).abs() < 1e-3, "{told}, the mark is of {stamp}");
    assert!(daemon.get("/api/v1/runs").1.contains("\"active\":false"));

    // Above several runs it ends them all; nothing else is to be seen of it.
    fs::write(place.root.join("job").join(MARK), "").unwrap();
    let metrics =
        wait(&daemon, "the end of a job", &[("job/a", false), ("job/b", false), ("other", true)]);
    assert_eq!(metrics.runs().len(), 4);
    assert_eq!(metrics.value("scan_errors_total", &[]), Some(0.0));

    // One is started again.
    save(&place.root, "job/a", 2);
    wait(&daemon, "a run that goes on", &[("job/a", true), ("job/b", false)]);

    // It is the same after a restart.
    daemon.signal(Signal::TERM);
    daemon.end();
    let daemon = start();
    wait(&daemon, "what was before", &[("job/a", true), ("job/b", false), ("plain/ema", false)]);

    // Who takes the mark away takes it back.
    fs::remove_file(place.root.join("job").join(MARK)).unwrap();
    wait(&daemon, "what was taken back", &[("job/a", true), ("job/b", true), ("other", true)]);
}
