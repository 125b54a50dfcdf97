//! `--label`: what tells the series of one job from those of others.

use std::ffi::OsStr;
use std::fs;

use rustix::process::Signal;

use super::commands::fails;
use super::process::{Daemon, FAST, Place, promtool_accepts, run};
use super::saves::{copy_series, shipped};

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn holds_everywhere(text: &str, label: &str) {
    let lines = samples(text);
    assert!(lines.len() > 50, "{text}");
    let without: Vec<_> = lines.iter().filter(|line| !line.contains(label)).collect();
    assert!(without.is_empty(), "without {label}: {without:#?}");
}

#[test]
fn a_daemon_puts_them_on_every_series_and_takes_those_of_the_file_again() {
    let place = Place::new(&format!("{FAST}labels: {{cluster: alps, job: 1}}\n"));
    copy_series("healthy", &place.root.join("healthy"), 1900);
    let textfile = place.dir.path().join("weightvane.prom");
    let mut command = place.command();
    command.args(["--label", "job=4711", "--textfile"]).arg(&textfile);
    let daemon = Daemon::start(command);
    daemon.wait_analyzed("healthy", 2);
    let live = daemon.metrics().0;
    assert!(live.contains("process_"));
    // The command line wins over the file.
    holds_everywhere(&live, "cluster=\"alps\",job=\"4711\"");
    let text = daemon.wait_for("the textfile", |_| {
        let text = fs::read_to_string(&textfile).unwrap_or_default();
        text.contains("weightvane_checkpoints_analyzed_total{run=\"healthy\",").then_some(text)
    });
    holds_everywhere(&text, "cluster=\"alps\",job=\"4711\"");
    promtool_accepts(&textfile);
    fs::write(&place.config, format!("{FAST}labels: {{cluster: daint}}\n")).unwrap();
    daemon.signal(Signal::HUP);
    let live = daemon.wait("the new label", |m| m.0.contains("cluster=\"daint\""));
    holds_everywhere(&live.0, "cluster=\"daint\",job=\"4711\"");
}

#[test]
fn analyze_and_backfill_put_them_on_every_series() {
    let save = shipped("it/golden/series/healthy/checkpoint-2000");
    let arguments: [&OsStr; 6] = [
        "analyze".as_ref(),
        save.as_ref(),
        "--format".as_ref(),
        "prometheus".as_ref(),
        "--label".as_ref(),
        "job=4711".as_ref(),
    ];
    let out = run(&arguments);
    assert!(out.status.success());
    holds_everywhere(&String::from_utf8(out.stdout).unwrap(), "job=\"4711\"");

    let place = Place::new(FAST);
    copy_series("healthy", &place.root.join("healthy"), 1900);
    let arguments: [&OsStr; 8] = [
        "backfill".as_ref(),
        place.root.as_ref(),
        "--until".as_ref(),
        "4000000000".as_ref(),
        "--label".as_ref(),
        "job=4711".as_ref(),
        "--label".as_ref(),
        "cluster=alps".as_ref(),
    ];
    let out = run(&arguments);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // As a scrape stores them: the target has a `job` of its own.
    let wanted =
        "cluster=\"alps\",exported_job=\"4711\",instance=\"127.0.0.1:10717\",job=\"weightvane\"";
    holds_everywhere(&String::from_utf8(out.stdout).unwrap(), wanted);
}

#[test]
fn what_is_no_label_is_refused_in_a_line() {
    let place = Place::new(FAST);
    let with = |labels: &[&str], parts: &[&str]| {
        let mut all: Vec<&OsStr> = vec!["watch".as_ref(), place.root.as_ref()];
        for label in labels {
            all.extend([OsStr::new("--label"), label.as_ref()]);
        }
        fails(&all, 2, parts);
    };
    with(&["job"], &["'job'", "NAME=VALUE"]);
    with(&["job="], &["label: ", "no value for `job`"]);
    with(&["a-b=c"], &["label: ", "`a-b`", "letters, digits and _"]);
    with(&["__job=c"], &["label: ", "`__job`", "begin with __"]);
    with(&["run=c"], &["label: ", "`run`", "own series"]);
    with(&["job=1", "job=2"], &["label: ", "`job` twice"]);
    let nine: Vec<String> = (0..9).map(|i| format!("l{i}=x")).collect();
    with(&nine.iter().map(String::as_str).collect::<Vec<_>>(), &["label: ", "at most"]);
}
