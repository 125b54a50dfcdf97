//! What outlives a restart.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::process::{Daemon, FAST, Place, run};
use super::saves::{copy_save, shipped};

/// Ways in which the matrices of the run were decomposed, and how many have an update size.
fn measured(daemon: &Daemon) -> (Vec<String>, usize) {
    let report: serde_json::Value =
        serde_json::from_str(&daemon.get("/api/v1/runs/run").1).unwrap();
    let found: Vec<_> = report["matrices"].as_array().unwrap().clone();
    let ways = found.iter().map(|m| m["spectrum"].as_str().unwrap().to_owned()).collect();
    (ways, found.iter().filter(|m| m["update_ratio"].as_f64().is_some_and(|r| r > 0.0)).count())
}

fn add_save(place: &Place, step: u64) {
    let name = format!("checkpoint-{step}");
    let from = shipped("it/golden/series/healthy").join(&name);
    copy_save(&from, &place.root.join("run").join(name));
}

fn kept(state: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(state.join("warm")).into_iter().flatten();
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn searches_start_after_a_restart_where_they_ended() {
    let place = Place::new(&format!("{FAST}exact_limit: 16\nk: [1, 2, 4]\nio_limit: 1MiB\n"));
    let state = place.dir.path().join("state");
    let start = || {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state);
        Daemon::start(command)
    };
    add_save(&place, 1900);
    let daemon = start();
    daemon.wait_analyzed("run", 1);
    assert!(measured(&daemon).0.contains(&"block Lanczos".to_owned()));
    daemon.wait_for("what is kept of it", |_| (kept(&state).len() == 1).then_some(()));
    let first = kept(&state);
    daemon.signal(Signal::TERM);
    daemon.end();
    // A save that came meanwhile is compared with the one before and starts from it.
    add_save(&place, 2000);
    let daemon = start();
    daemon.wait_analyzed("run", 2);
    let (ways, updates) = measured(&daemon);
    assert!(!ways.iter().any(|way| way == "block Lanczos"), "{ways:?}");
    assert_eq!(updates, ways.len());
    daemon.wait_for("the newer to be kept", |_| (kept(&state) != first).then_some(()));
    daemon.signal(Signal::TERM);
    daemon.end();
    // The newest is measured anew where the history is lost: searches start from it, and nothing is
    // told to be frozen.
    fs::remove_file(state.join("history.sqlite")).unwrap();
    let daemon = start();
    daemon.wait_analyzed("run", 2);
    let (ways, updates) = measured(&daemon);
    assert!(ways.iter().any(|way| way == "one pass"), "{ways:?}");
    assert_eq!(updates, ways.len(), "from the file of the save before");
    daemon.signal(Signal::TERM);
    daemon.end();
    fs::remove_file(state.join("history.sqlite")).unwrap();
    // What is damaged is told once and costs the start only.
    for entry in fs::read_dir(state.join("warm")).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let daemon = start();
    daemon.wait_analyzed("run", 2);
    let said = daemon.logged("kept start not usable and removed, the search begins anew");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(measured(&daemon).0.contains(&"block Lanczos".to_owned()));
}

#[test]
fn a_plan_is_printed() {
    let series = shipped("it/golden/series/healthy");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("w.yaml");
    fs::write(&config, "exact_limit: 16\nk: [1, 2, 4]\nrotation_k: [2]\n").unwrap();
    let (now, before) = (series.join("checkpoint-200"), series.join("checkpoint-100"));
    let print = |before: &Path| {
        let (now, before) = (now.as_os_str(), before.as_os_str());
        let flags = ["--plan".as_ref(), "--config".as_ref(), config.as_os_str()];
        let args = ["explain".as_ref(), now, flags[0], flags[1], flags[2]];
        let out = run(&[args.as_slice(), &["--against".as_ref(), before]].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let text = print(&before);
    for line in [
        "linear leading k≤4 64×64 2",
        "linear leading k≤9 64×64 1",
        "classifier exact 10×64 1",
        "chain probed 64 → 64 → 64 2",
        "to read 51.3 KiB, once",
        "unchanged 0 of 8 tensors since",
        "stale 8 of 8 measurements",
        "3 × pair chain",
    ] {
        assert!(text.iter().any(|l| l.starts_with(line)), "{line:?} not in {text:#?}");
    }
    let text = print(&now);
    for line in ["unchanged 8 of 8 tensors since", "stale 0 of 8 measurements"] {
        assert!(text.iter().any(|l| l.starts_with(line)), "{line:?} not in {text:#?}");
    }
    let out = run(&["explain".as_ref(), now.as_ref(), "--against".as_ref(), before.as_ref()]);
    assert_eq!(out.status.code(), Some(2), "--against belongs to --plan");
}
