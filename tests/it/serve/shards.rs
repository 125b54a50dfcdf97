//! Several daemons on one root, each with its part of the runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use weightvane::watch::Shard;

use super::commands::fails;
use super::process::{Daemon, FAST, PROGRAM, Place, run};
use super::saves::{chain, write_save};
use super::untouched::can_trace;

/// Eight runs with a save each.
fn eight_runs(place: &Place) -> Vec<String> {
    let names: Vec<String> = (0..8).map(|i| format!("team/run-{i}")).collect();
    for (name, seed) in names.iter().zip(0..) {
        write_save(&place.root.join(name).join("checkpoint-1"), &chain(2, 16, seed));
    }
    names
}

/// Those of them that belong to one of two daemons, and the others.
fn parted(names: &[String], ordinal: u32) -> (Vec<String>, Vec<String>) {
    let (shard, root) = (Shard::new(ordinal, 2).unwrap(), Path::new("/r"));
    let parts = names.iter().cloned().partition(|name| shard.has(root, &root.join(name)));
    let (mine, others): (Vec<_>, Vec<_>) = parts;
    assert!(!mine.is_empty() && !others.is_empty());
    (mine, others)
}

#[test]
fn each_run_is_measured_by_one_daemon_and_not_opened_by_the_other() {
    let place = Place::new(FAST);
    let names = eight_runs(&place);
    let traced = can_trace();
    for ordinal in [0, 1] {
        let (mine, others) = parted(&names, ordinal);
        let trace = place.dir.path().join(format!("trace-{ordinal}"));
        let mut plain = place.command();
        plain.args(["--shard", &format!("weightvane-{ordinal}"), "--total-shards", "2"]);
        let mut command = plain;
        if traced {
            let mut strace = Command::new("strace");
            strace.args(["-D", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o"]);
            strace.arg(&trace).arg(PROGRAM).args(command.get_args());
            command = strace;
        }
        let daemon = Daemon::start(command);
        let metrics = daemon.wait("all of its runs to be measured", |m| {
            mine.iter().all(|name| m.count("checkpoints_analyzed_total", name) == 1)
        });
        assert_eq!(metrics.runs(), mine);
        assert_eq!(metrics.value("shard_ordinal", &[]), Some(f64::from(ordinal)));
        assert_eq!(metrics.value("total_shards", &[]), Some(2.0));
        // What is not its own is not passed over either: it is nothing.
        let n_skipped: f64 =
            metrics.all("checkpoints_skipped_total", &[]).iter().map(|s| s.1).sum();
        assert_eq!(n_skipped.to_bits(), 0_f64.to_bits());
        for name in &others {
            let own_page = daemon.get(&format!("/api/v1/runs/{name}"));
            assert_eq!(own_page.0, 404, "{own_page:?}");
            assert!(!daemon.get("/api/v1/runs").1.contains(name.as_str()));
        }
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.end().0.code(), Some(0));
        if traced {
            let calls = fs::read_to_string(&trace).unwrap();
            let save = |name: &String| place.root.join(name).join("checkpoint-1");
            let touches = |name| calls.contains(save(name).to_str().unwrap());
            assert!(mine.iter().all(touches));
            let touched: Vec<_> = others.iter().filter(|name| touches(name)).collect();
            assert!(touched.is_empty(), "{touched:?} were looked at");
        }
    }
}

#[test]
fn what_was_recorded_of_runs_that_others_have_now_is_not_served() {
    let place = Place::new(FAST);
    let names = eight_runs(&place);
    // Plain files that share a directory are one part, whatever their runs are called.
    for file in ["model-1.safetensors", "ema-1.safetensors"] {
        fs::create_dir_all(place.root.join("plain")).unwrap();
        fs::write(place.root.join("plain").join(file), chain(2, 16, 9)).unwrap();
    }
    let state = place.dir.path().join("state");
    let start = |arguments: &[&str]| {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state).args(arguments);
        Daemon::start(command)
    };
    let all: Vec<String> =
        names.iter().cloned().chain(["plain".into(), "plain/ema".into()]).collect();
    let daemon = start(&[]);
    daemon.wait("all runs to be measured", |m| {
        all.iter().all(|name| m.count("checkpoints_analyzed_total", name) == 1)
    });
    daemon.signal(Signal::TERM);
    daemon.end();
    let root = place.root.as_path();
    for ordinal in [0, 1] {
        let shard = Shard::new(ordinal, 2).unwrap();
        let holder = |name: &str| match name {
            "plain/ema" => root.join("plain"),
            _ => root.join(name),
        };
        let mut mine = all.clone();
        mine.retain(|name| shard.has(root, &holder(name)));
        mine.sort();
        let daemon = start(&["--shard", &ordinal.to_string(), "--total-shards", "2"]);
        let mut first = daemon.metrics().runs();
        first.sort();
        assert_eq!(first, mine, "before any scan");
        daemon.wait_for("a scan", |d| (d.get("/-/ready").0 == 200).then_some(()));
        let metrics = daemon.metrics();
        let mut later = metrics.runs();
        later.sort();
        assert_eq!(later, mine);
        for name in &mine {
            assert_eq!(metrics.count("checkpoints_analyzed_total", name), 1, "{name}");
        }
        daemon.signal(Signal::TERM);
        daemon.end();
        // The past is divided in the same way, on disk and where only the history knows it.
        if ordinal == 1 {
            fs::remove_dir_all(&place.root).unwrap();
            fs::create_dir(&place.root).unwrap();
        }
        let told = past(&place.root, &state, ordinal);
        assert_eq!(told, mine, "of the past");
    }
}

/// Runs of which `backfill` tells.
fn past(root: &PathBuf, state: &PathBuf, ordinal: u32) -> Vec<String> {
    let ordinal = ordinal.to_string();
    let arguments = ["--until", "4000000000", "--total-shards", "2", "--shard", &ordinal];
    let arguments = arguments.iter().map(AsRef::as_ref);
    let state: [&std::ffi::OsStr; 2] = ["--state-dir".as_ref(), state.as_ref()];
    let start: [&std::ffi::OsStr; 2] = ["backfill".as_ref(), root.as_ref()];
    let out = run(&start.into_iter().chain(state).chain(arguments).collect::<Vec<_>>());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let name = |line: &str| {
        let rest = line.strip_prefix("weightvane_checkpoint_analyzed_timestamp_seconds{run=\"")?;
        Some(rest.split('"').next()?.to_owned())
    };
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn shards_that_make_no_sense_are_refused_in_a_line() {
    let place = Place::new("total_shards: 3\n");
    let with = |arguments: &[&str], parts: &[&str]| {
        let mut all: Vec<&std::ffi::OsStr> = vec!["watch".as_ref(), place.root.as_ref()];
        all.extend(arguments.iter().map(|argument| -> &std::ffi::OsStr { argument.as_ref() }));
        fails(&all, 2, parts);
    };
    let config = place.config.to_str().unwrap();
    with(&["--shard", "2", "--total-shards", "2"], &["shard: found 2", "which is 2"]);
    with(&["--total-shards", "2"], &["shard: found none", "which is 2"]);
    with(&["--config", config], &["shard: found none", "which is 3"]);
    with(&["--config", config, "--shard", "3"], &["shard: found 3", "which is 3"]);
    with(&["--shard", "weightvane"], &["'weightvane'", "such as weightvane-2"]);
    with(&["--total-shards", "0"], &["--total-shards", "1..=1024"]);
}
