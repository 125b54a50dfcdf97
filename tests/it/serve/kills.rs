//! Kills at random times: each save is recorded once, and nobody can tell from the metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use weightvane::history::Store;

use super::client::Metrics;
use super::process::{Daemon, FAST, Place};
use super::saves::{copy_save, shipped};

const N_SAVES: u64 = 60;
const N_KILLS: usize = 100;

/// Healthy saves over and over; two in the middle hold a NaN.
fn source(i: u64) -> PathBuf {
    let (series, step) = match i {
        30 | 31 => ("nan", 2000),
        _ => ("healthy", i % 21 * 100),
    };
    shipped("it/golden/series").join(series).join(format!("checkpoint-{step}"))
}

fn start(place: &Place, state: &Path) -> Daemon {
    let mut command = place.command();
    command.arg("--state-dir").arg(state);
    Daemon::start(command)
}

/// Samples that say something of the run, not of this process or of how long it took.
fn facts(metrics: &Metrics) -> BTreeMap<String, f64> {
    let is_fact = |series: &str| {
        series.contains("run=\"run\"") && !series.contains("analysis_last_duration_seconds")
    };
    let lines = metrics.0.lines().filter(|line| is_fact(line));
    lines
        .filter_map(|l| l.rsplit_once(' ').map(|(s, v)| (s.to_owned(), v.parse().unwrap())))
        .collect()
}

#[test]
fn kills_at_random_times_lose_nothing_and_count_nothing_twice() {
    let place = Place::new(FAST);
    let run = place.root.join("run");
    let state = place.dir.path().join("state");
    let seed = 0x006b_696c_6c73;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut written = 0;
    for kill in 0..N_KILLS {
        let daemon = start(&place, &state);
        // Saves come while it lives and while it is dead.
        while written * N_KILLS as u64 <= kill as u64 * N_SAVES && written < N_SAVES {
            copy_save(&source(written), &run.join(format!("checkpoint-{}", 100 * written)));
            written += 1;
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(20..900)));
        daemon.signal(Signal::KILL);
        daemon.end();
    }
    assert_eq!(written, N_SAVES);
    let daemon = start(&place, &state);
    let done = |m: &Metrics| {
        m.count("checkpoints_analyzed_total", "run") >= N_SAVES
            && m.count("checkpoints_discovered_total", "run") >= N_SAVES
            && m.value("checkpoint_save_duration_seconds", &[("run", "run")]).is_some()
    };
    daemon.wait("all saves", done);
    daemon.signal(Signal::TERM);
    daemon.end();
    // Once more from what was recorded alone, against a daemon that was never killed.
    let daemon = start(&place, &state);
    let killed = facts(&daemon.wait("all saves", done));
    daemon.signal(Signal::TERM);
    daemon.end();
    let (store, _) = Store::open(&state, false).unwrap();
    let runs = store.runs().unwrap();
    let mut steps: Vec<Option<u64>> = runs[0].saves.iter().map(|save| save.step).collect();
    steps.dedup();
    let wanted: Vec<Option<u64>> = (0..N_SAVES).map(|i| Some(100 * i)).collect();
    assert_eq!(
        (runs.len(), runs[0].saves.len(), steps),
        (1, wanted.len(), wanted),
        "seed {seed:#x}"
    );

    let daemon = start(&place, &place.dir.path().join("undisturbed"));
    let undisturbed = facts(&daemon.wait("all saves", done));
    assert!(undisturbed.len() > 100, "{} facts", undisturbed.len());
    let mut differ = Vec::new();
    for series in killed.keys().chain(undisturbed.keys()) {
        let values = (killed.get(series), undisturbed.get(series));
        // Rotations are compared with bases in single precision or with the file.
        let same = matches!(values, (Some(a), Some(b)) if (a - b).abs() <= 1e-6 * b.abs().max(1.0));
        if !same {
            differ.push(format!("{series}: {values:?}"));
        }
    }
    assert!(differ.is_empty(), "seed {seed:#x}: {differ:#?}");
    let nonfinite = [("run", "run"), ("kind", "nonfinite")];
    assert_eq!(daemon.metrics().value("anomalies_total", &nonfinite), Some(1.0));
}
