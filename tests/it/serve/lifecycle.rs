//! Start, readiness, reload and end.

use std::fs;
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client;
use super::process::{Daemon, FAST, Place};
use super::saves::{chain, write_save};

/// Promised time from SIGTERM to the end.
const STOP: Duration = Duration::from_secs(5);

fn stop(daemon: Daemon, signal: Signal) {
    let start = Instant::now();
    daemon.signal(signal);
    let (status, _, log) = daemon.end();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(took < STOP, "took {took:?}");
}

#[test]
fn sigterm_and_ctrl_c_end_an_idle_daemon() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new(FAST);
        stop(place.watch(), signal);
    }
}

#[test]
fn sigterm_ends_a_daemon_in_the_middle_of_an_analysis() {
    let place = Place::new(FAST);
    let daemon = place.watch();
    write_save(&place.root.join("run/checkpoint-1"), &chain(8, 1024, 1));
    let at_work = daemon.wait("the analysis to start", |m| {
        m.count("checkpoints_discovered_total", "run") == 1
            && m.value("analysis_queue_length", &[("run", "run")]) == Some(1.0)
    });
    assert_eq!(at_work.count("checkpoints_analyzed_total", "run"), 0);
    stop(daemon, Signal::TERM);
}

#[test]
fn a_broken_configuration_is_not_taken_over() {
    let place = Place::new(FAST);
    let daemon = place.watch();
    let reloaded = |value: f64| {
        daemon.wait(&format!("reload {value}"), |m| {
            m.value("config_last_reload_successful", &[]) == Some(value)
        });
    };
    reloaded(1.0);
    fs::write(&place.config, "quiet: soon\n").unwrap();
    daemon.signal(Signal::HUP);
    reloaded(0.0);
    write_save(&place.root.join("run/checkpoint-1"), &chain(2, 16, 1));
    daemon.wait_analyzed("run", 1);
    fs::write(&place.config, FAST).unwrap();
    daemon.signal(Signal::HUP);
    reloaded(1.0);
    stop(daemon, Signal::TERM);
}

/// One line on stderr that says all of `parts`, and a failure.
fn refused(out: &Output, parts: &[&str]) {
    refused_with(71, out, parts);
}

fn refused_with(code: i32, out: &Output, parts: &[&str]) {
    let said = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("weightvane: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
    assert!(out.stdout.is_empty());
}

#[test]
fn a_second_daemon_on_a_state_directory_is_refused() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let command = || {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state);
        command
    };
    let first = Daemon::start(command());
    refused(&command().output().unwrap(), &["in use", state.to_str().unwrap()]);
    stop(first, Signal::TERM);
    stop(Daemon::start(command()), Signal::TERM);
}

#[test]
fn nothing_is_written_below_a_watched_directory() {
    let place = Place::new(FAST);
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(&place.root, &link).unwrap();
    let below = [place.root.clone(), place.root.join("new/state"), link.join("state")];
    for (flag, what) in [("--state-dir", "state_dir"), ("--textfile", "textfile")] {
        for path in &below {
            let out = place.command().arg(flag).arg(path).output().unwrap();
            refused_with(2, &out, &[what, "below the watched directory", "outside"]);
        }
    }
    assert_eq!(fs::read_dir(&place.root).unwrap().count(), 0);
}

#[test]
fn a_port_in_use_is_told_in_one_line() {
    let place = Place::new(FAST);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&place.command_on(&address).output().unwrap(), &[&address, "in use"]);
}

#[test]
fn ready_after_the_first_scan_and_pages_tell_the_run() {
    let place = Place::new(FAST);
    write_save(&place.root.join("a-run/checkpoint-1"), &chain(2, 16, 1));
    // Enough to scan that the first answer comes before the end of the scan.
    for i in 0..8000 {
        fs::create_dir(place.root.join(format!("d{i}"))).unwrap();
    }
    let daemon = place.watch();
    let status = || client::get(daemon.address, "/-/ready").unwrap().0;
    assert_eq!(status(), 503, "before the first scan");
    assert_eq!(daemon.get("/-/healthy").0, 200, "alive before the first scan");
    daemon.wait_for("readiness", |_| (status() == 200).then_some(()));
    daemon.wait_analyzed("a-run", 1);
    assert_eq!(status(), 200);
    let (status, page) = daemon.get("/");
    assert!(status == 200 && page.contains("a-run"), "{status}: {page}");
    let (status, runs) = daemon.get("/api/v1/runs");
    assert_eq!(status, 200);
    let runs: serde_json::Value = serde_json::from_str(&runs).unwrap();
    assert!(runs.to_string().contains("a-run"), "{runs}");
    assert_eq!(daemon.get("/api/v1/runs/a-run").0, 200);
}
