//! A directory in which thousands of saves lie already.

use rustix::process::Signal;

use super::process::{Daemon, FAST, Place};
use super::saves::{chain, write_save};

const N_SAVES: u64 = 5000;

#[test]
fn thousands_of_saves_are_measured_newest_first_and_all_recorded() {
    // Not in the idle class, where a busy machine would hold it up for minutes.
    let place = Place::new(&format!("{FAST}priority: normal\n"));
    let state = place.dir.path().join("state");
    for step in 0..N_SAVES {
        let dir = place.root.join(format!("run/checkpoint-{step}"));
        write_save(&dir, &chain(2, 8, step));
    }
    let start = || {
        let mut command = place.command();
        command.arg("--state-dir").arg(&state);
        Daemon::start(command)
    };
    let daemon = start();
    // The page shows the newest while thousands wait behind it.
    let first = daemon.wait("the first", |m| m.count("checkpoints_analyzed_total", "run") > 0);
    let of_run = [("run", "run")];
    assert_eq!(first.value("checkpoint_analyzed_step", &of_run), Some(4999.0));
    assert!(first.value("analysis_queue_length", &of_run).unwrap() > 1000.0);
    let last = daemon.wait_analyzed("run", N_SAVES);
    let rss = last.0.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
    let rss: f64 = rss.unwrap().parse().unwrap();
    assert_eq!(last.value("checkpoint_analyzed_step", &of_run), Some(4999.0));
    assert_eq!(last.count("checkpoints_skipped_total", "run"), 0);
    assert_eq!(last.count("checkpoints_discovered_total", "run"), N_SAVES);
    assert!(rss < 256e6, "{rss} bytes");
    daemon.signal(Signal::TERM);
    daemon.end();
    // None is measured again, and none was missed.
    let daemon = start();
    daemon.wait("the restored run", |m| m.count("checkpoints_discovered_total", "run") == N_SAVES);
    let path = "/api/v1/runs";
    let waits = |d: &Daemon| d.get(path).1.contains("\"state\":\"analyzed\"").then_some(());
    daemon.wait_for("all to be known", waits);
    daemon.wait_analyzed("run", N_SAVES);
}
