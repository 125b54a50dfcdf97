//! What outlives a restart.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::Signal;
use weightvane::history::Store;

use super::client::Metrics;
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
    let paths = entries.map(|entry| entry.unwrap().path());
    // One that is being written has another name.
    let whole = paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    whole.filter_map(|path| fs::read(path).ok()).collect()
}

#[test]
fn runs_whose_names_are_no_text_outlive_a_restart() {
    let place = Place::new(FAST);
    let names: [&[u8]; 3] = [b"m\xff", b"m\xfe", b"m\\xff"];
    for name in names {
        let run = place.root.join(OsStr::from_bytes(name));
        copy_save(
            &shipped("it/golden/series/healthy/checkpoint-1900"),
            &run.join("checkpoint-1900"),
        );
    }
    // As a scrape spells a backslash.
    let runs = [r"m\\xff", r"m\\xfe", r"m\\\\xff"];
    for start in 0..2 {
        let mut command = place.command();
        command.arg("--state-dir").arg(place.dir.path().join("state"));
        let daemon = Daemon::start(command);
        let one_each =
            |m: &Metrics| runs.iter().all(|run| m.count("checkpoints_analyzed_total", run) == 1);
        let metrics = daemon.wait("one save of each", one_each);
        assert_eq!(metrics.all("checkpoints_analyzed_total", &[]).len(), runs.len());
        daemon.wait_for("readiness", |d| (d.get("/-/ready").0 == 200).then_some(()));
        assert_eq!(daemon.metrics().all("checkpoints_analyzed_total", &[]).len(), runs.len());
        let n_measured = daemon.logged("analyzed save").len();
        assert_eq!(n_measured, if start == 0 { runs.len() } else { 0 });
        daemon.signal(Signal::TERM);
        daemon.end();
    }
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

/// A daemon with a state directory on the series `healthy`.
fn started(place: &Place, state: &Path) -> Daemon {
    let mut command = place.command();
    command.arg("--state-dir").arg(state);
    Daemon::start(command)
}

#[test]
fn a_restart_serves_what_was_measured_and_reads_no_weights() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    (0..5).for_each(|i| add_save(&place, 100 * i));
    let daemon = started(&place, &state);
    let before = daemon.wait_analyzed("run", 5);
    let report = daemon.get("/api/v1/runs/run").1;
    let history = daemon.wait_for("five saves in the history", |d| {
        Some(d.get("/api/v1/history/run").1).filter(|body| body.contains("],[400,"))
    });
    daemon.signal(Signal::TERM);
    daemon.end();
    let daemon = started(&place, &state);
    let after = daemon.wait("the restored run", |m| m.runs() == ["run"]);
    // Its saves are there at once, their layers a moment later.
    assert!(daemon.get("/api/v1/history/run").1.contains("],[400,"));
    daemon.wait_for("the same history", |d| {
        (d.get("/api/v1/history/run").1 == history).then_some(())
    });
    for name in
        ["checkpoints_analyzed_total", "gram_correlation", "alignment_best", "anomalies_total"]
    {
        assert_eq!(after.all(name, &[]), before.all(name, &[]), "{name}");
    }
    assert_eq!(daemon.get("/api/v1/runs/run").1, report);
    // All of them settle anew, and one more comes.
    add_save(&place, 500);
    let last = daemon.wait_analyzed("run", 6);
    let read = |m: &Metrics| m.value("read_bytes_total", &[]).unwrap();
    let a_save = read(&before) / 5.0;
    let newly = read(&last) - read(&before);
    assert!(newly < 2.5 * a_save, "{newly} bytes read for one save of {a_save} and the one before");
}

#[test]
fn what_was_known_is_served_though_rotation_took_the_saves() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    (0..3).for_each(|i| add_save(&place, 100 * i));
    let daemon = started(&place, &state);
    let before = daemon.wait_analyzed("run", 3);
    daemon.signal(Signal::TERM);
    daemon.end();
    for step in [0, 100, 200] {
        fs::remove_dir_all(place.root.join(format!("run/checkpoint-{step}"))).unwrap();
    }
    let daemon = started(&place, &state);
    let after = daemon.wait("the run", |m| m.runs() == ["run"]);
    for name in ["gram_correlation", "weight_norm", "checkpoint_analyzed_step", "run_active"] {
        assert!(!before.all(name, &[]).is_empty(), "{name}");
        assert_eq!(after.all(name, &[]), before.all(name, &[]), "{name}");
    }
    // The next save is the next of this run.
    add_save(&place, 300);
    let last = daemon.wait_analyzed("run", 4);
    assert_eq!(last.value("checkpoint_analyzed_step", &[("run", "run")]), Some(300.0));
    assert_eq!(last.runs(), ["run"]);
    let report = daemon.get("/api/v1/runs/run").1;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["matrices"][0]["update_ratio"].as_f64().is_some(), "from what is kept of it");
}

#[test]
fn runs_recorded_under_one_name_are_told_apart_when_both_are_watched() {
    let place = Place::new(FAST);
    let (state, other) = (place.dir.path().join("state"), place.dir.path().join("other"));
    let healthy = shipped("it/golden/series/healthy");
    copy_save(&healthy.join("checkpoint-100"), &place.root.join("run/checkpoint-100"));
    copy_save(&healthy.join("checkpoint-200"), &other.join("run/checkpoint-200"));
    let watch = |roots: &[&Path]| {
        let mut command = std::process::Command::new(super::process::PROGRAM);
        command.arg("watch").args(roots).arg("--config").arg(&place.config);
        command
            .args(["--listen", "127.0.0.1:0", "--log.format", "json", "--state-dir"])
            .arg(&state);
        Daemon::start(command)
    };
    for root in [&place.root, &other] {
        let daemon = watch(&[root]);
        daemon.wait_analyzed("run", 1);
        daemon.signal(Signal::TERM);
        daemon.end();
    }
    let daemon = watch(&[&place.root, &other]);
    let both = daemon.wait("both", |m| m.runs() == ["other/run", "run"]);
    for (run, step) in [("run", 100.0), ("other/run", 200.0)] {
        assert_eq!(both.value("checkpoint_analyzed_step", &[("run", run)]), Some(step));
    }
    daemon.wait_for("the first scan", |d| (d.get("/-/ready").0 == 200).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let later = daemon.metrics();
    assert_eq!(later.runs(), ["other/run", "run"]);
    assert_eq!(later.value("read_bytes_total", &[]), both.value("read_bytes_total", &[]));
}

#[test]
fn a_root_that_is_a_save_is_known_after_a_restart() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    add_save(&place, 300);
    let start = || {
        let mut command = std::process::Command::new(super::process::PROGRAM);
        command.arg("watch").arg(place.root.join("run/checkpoint-300"));
        command.arg("--config").arg(&place.config).arg("--state-dir").arg(&state);
        command.args(["--listen", "127.0.0.1:0", "--log.format", "json"]);
        Daemon::start(command)
    };
    let daemon = start();
    let run = daemon.wait("its run", |m| m.runs().len() == 1).runs().remove(0);
    daemon.wait_analyzed(&run, 1);
    daemon.signal(Signal::TERM);
    daemon.end();
    let daemon = start();
    let restored = daemon.wait("its run", |m| m.count("checkpoints_analyzed_total", &run) == 1);
    daemon.wait_for("the first scan", |d| (d.get("/-/ready").0 == 200).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(daemon.metrics().runs(), restored.runs());
    assert!(daemon.logged("analyzed save").is_empty(), "nothing is measured again");
}

#[test]
fn tables_of_the_history_are_printed_while_the_daemon_runs() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    add_save(&place, 0);
    add_save(&place, 100);
    let daemon = started(&place, &state);
    daemon.wait_analyzed("run", 2);
    let print = |args: &[&str]| {
        let args = args.iter().map(AsRef::as_ref);
        let all = ["history".as_ref(), state.as_os_str()].into_iter().chain(args);
        let out = run(&all.collect::<Vec<_>>());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    };
    let saves = || print(&["saves"]).1.lines().count();
    daemon.wait_for("both saves in the history", |_| (saves() == 3).then_some(()));
    let (_, csv, _) = print(&["pairs", "--run", "run"]);
    let report: serde_json::Value =
        serde_json::from_str(&daemon.get("/api/v1/runs/run").1).unwrap();
    let wanted = report["pairs"][2]["gram_correlation"].to_string();
    let last = csv.lines().last().unwrap();
    assert!(last.starts_with("run,100,") && last.contains(&format!(",{wanted},")), "{last}");
    let (_, json, _) = print(&["matrices", "--format", "json"]);
    let rows: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2 * report["matrices"].as_array().unwrap().len());
    assert_eq!(rows[0]["step"], 0);
    assert!(json.starts_with(r#"{"run":"run","step":0,"#), "in the order of the columns");
    for table in
        ["evaluations", "summaries", "rotations", "overlaps", "heads", "classifiers", "anomalies"]
    {
        let (code, text, said) = print(&[table]);
        assert!(code == 0 && text.starts_with("run,") && said.is_empty(), "{table}: {said}");
    }
    let (code, text, said) = print(&["pairs", "--run", "none"]);
    assert!(code == 66 && text.is_empty() && said.ends_with("expected one of: run\n"), "{said}");
    let (code, _, said) = print(&["weights"]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(said.contains("found weights, expected saves, evaluations"), "{said}");
    let nowhere = place.dir.path().join("nowhere");
    let out = run(&["history".as_ref(), nowhere.as_os_str(), "saves".as_ref()]);
    assert_eq!(out.status.code(), Some(66));
}

#[test]
fn a_history_that_cannot_be_written_is_told_and_recovers() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let history = state.join("history.sqlite");
    fs::create_dir_all(&history).unwrap();
    add_save(&place, 0);
    let daemon = started(&place, &state);
    daemon.wait_analyzed("run", 1);
    let is = |wanted: f64| move |m: &Metrics| m.value("state_store_ok", &[]) == Some(wanted);
    daemon.wait("the failure", is(0.0));
    fs::remove_dir(&history).unwrap();
    daemon.wait("the recovery", is(1.0));
    let said = daemon.logged("history cannot be written, measurements are served from memory");
    assert_eq!(said.len(), 1, "{said:?}");
    daemon.signal(Signal::TERM);
    daemon.end();
    let (store, _) = Store::open(&state, false).unwrap();
    assert_eq!(store.runs().unwrap()[0].saves.len(), 1, "what waited is written");
}

#[test]
fn a_damaged_history_does_not_keep_the_daemon_from_starting() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("history.sqlite"), vec![7; 9000]).unwrap();
    add_save(&place, 0);
    let daemon = started(&place, &state);
    daemon.wait_analyzed("run", 1);
    assert_eq!(daemon.logged("history is damaged, it begins anew; the old one is kept").len(), 1);
    assert_eq!(fs::read(state.join("history.sqlite.corrupt-1")).unwrap(), vec![7; 9000]);
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
