//! `weightvane demo`, from start to end.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{Daemon, PROGRAM};

/// The number after `key` in a line.
fn number(line: &str, key: &str) -> Option<f64> {
    line.split(key).nth(1)?.split_whitespace().next()?.parse().ok()
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
