//! Directories that go away while they are watched or read.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::client::Metrics;
use super::process::{Daemon, FAST, Place};
use super::saves::{chain, write_save};

/// Files that a process holds open although they are deleted.
fn deleted_but_open(daemon: &Daemon) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let targets = links.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().ends_with(" (deleted)")).collect()
}

#[test]
fn saves_removed_at_random_moments_do_no_harm() {
    let place = Place::new("scan_interval: 1s\nquiet: 20ms\nsettle: 1s\n");
    let daemon = place.watch();
    let run = place.root.join("run");
    let seed = 7;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // 3 MB, whose analysis takes about as long as a save stays.
    let weights = chain(3, 512, seed);
    let mut here: Vec<(Instant, PathBuf)> = Vec::new();
    let mut n_removed = 0;
    for step in 1..=30 {
        let save = run.join(format!("checkpoint-{step}"));
        write_save(&save, &weights);
        here.push((Instant::now() + Duration::from_millis(rng.random_range(100..2000)), save));
        let next = Instant::now() + Duration::from_millis(250);
        while Instant::now() < next {
            n_removed += remove_due(&mut here);
            assert_eq!(daemon.metrics().count("checkpoint_failures_total", "run"), 0);
            thread::sleep(Duration::from_millis(20));
        }
    }
    while !here.is_empty() {
        n_removed += remove_due(&mut here);
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(n_removed, 30);
    write_save(&run.join("checkpoint-31"), &weights);
    let last = |m: &Metrics| m.value("checkpoint_analyzed_step", &[("run", "run")]) == Some(31.0);
    let metrics = daemon.wait("the save that stays", last);
    assert_eq!(metrics.count("checkpoint_failures_total", "run"), 0);
    let n_vanished =
        metrics.value("checkpoints_skipped_total", &[("run", "run"), ("reason", "vanished")]);
    assert!(n_vanished > Some(0.0), "no removal met a save on its way: {n_vanished:?}");
    daemon.wait_for("the end of deleted files", |d| deleted_but_open(d).is_empty().then_some(()));
}

/// Removes what is due, in the order in which files go: weights first.
fn remove_due(here: &mut Vec<(Instant, PathBuf)>) -> usize {
    let due = here.extract_if(.., |(at, _)| *at <= Instant::now());
    due.map(|(_, save)| fs::remove_dir_all(save).unwrap()).count()
}

#[test]
fn the_series_of_a_vanished_run_end_with_the_next_scan() {
    let place = Place::new(FAST);
    for run in ["stays", "goes"] {
        write_save(&place.root.join(run).join("checkpoint-1"), &chain(2, 16, 1));
    }
    let daemon = place.watch();
    daemon.wait_analyzed("stays", 1);
    daemon.wait_analyzed("goes", 1);
    fs::remove_dir_all(place.root.join("goes")).unwrap();
    let removed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    // The first scan that ends after the removal may have begun before it, the second may not.
    let mut ends = Vec::new();
    loop {
        let metrics = daemon.metrics();
        let end = metrics.value("last_scan_timestamp_seconds", &[]).unwrap();
        if end > removed && ends.last() != Some(&end) {
            ends.push(end);
        }
        let is_gone = !metrics.0.contains("run=\"goes\"");
        if is_gone {
            assert!(!ends.is_empty(), "gone before any scan");
            break;
        }
        assert!(ends.len() < 2, "still there after {} scans", ends.len());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.metrics().runs(), ["stays"]);
    let (status, _) = daemon.get("/api/v1/runs/goes");
    assert_eq!(status, 404);
}

#[test]
fn a_renamed_run_and_a_root_that_returns_are_found_again() {
    let place = Place::new(FAST);
    for step in 1..=2 {
        write_save(&place.root.join(format!("old/checkpoint-{step}")), &chain(2, 16, step));
    }
    let daemon = place.watch();
    daemon.wait_analyzed("old", 2);
    fs::rename(place.root.join("old"), place.root.join("new")).unwrap();
    let metrics = daemon.wait_analyzed("new", 2);
    assert_eq!(metrics.value("checkpoint_analyzed_step", &[("run", "new")]), Some(2.0));
    daemon.wait("the old name gone", |m| m.runs() == ["new"]);
    // A volume that is unmounted and mounted again.
    let away = place.dir.path().join("away");
    fs::rename(&place.root, &away).unwrap();
    daemon.wait("nothing left", |m| m.runs().is_empty());
    fs::rename(&away, &place.root).unwrap();
    daemon.wait_analyzed("new", 2);
}
