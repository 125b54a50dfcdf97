//! A state directory on a disk that is full or read-only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use weightvane::history::Store;

use super::client::Metrics;
use super::process::{Daemon, FAST, PROGRAM, Place, run, skipped};
use super::saves::{copy_save, shipped};

/// A small file system of its own, which goes with the test.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "state"]).arg(at).output();
        let is_mounted = mounted.is_ok_and(|out| out.status.success());
        if !is_mounted {
            skipped("a full and a read-only disk: mounting needs root");
        }
        is_mounted.then(|| Self(at.to_owned()))
    }

    fn set(&self, how: &str) {
        let options = format!("remount,{how}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(status.success(), "{how}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon that is killed after this may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn add_save(place: &Place, step: u64) {
    let name = format!("checkpoint-{step}");
    copy_save(&shipped("it/golden/series/healthy").join(&name), &place.root.join("run").join(name));
}

fn start(place: &Place, state: &Path) -> Daemon {
    let mut command = place.command();
    command.arg("--state-dir").arg(state);
    Daemon::start(command)
}

fn store_is(ok: f64) -> impl Fn(&Metrics) -> bool {
    move |m| m.value("state_store_ok", &[]) == Some(ok)
}

/// Steps recorded once the daemon has ended.
fn recorded(daemon: Daemon, state: &Path) -> Vec<Option<u64>> {
    daemon.signal(Signal::TERM);
    daemon.end();
    let (store, _) = Store::open(state, false).unwrap();
    store.runs().unwrap()[0].saves.iter().map(|save| save.step).collect()
}

#[test]
fn a_full_disk_costs_nothing_but_the_wait() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let Some(disk) = Disk::mount(&state, "1m") else { return };
    let daemon = start(&place, &disk.0);
    add_save(&place, 0);
    daemon.wait_analyzed("run", 1);
    let filler = state.join("filler");
    // All that is left; the write ends with the disk.
    let _ = fs::write(&filler, vec![1; 2 << 20]);
    for step in 1..=8 {
        add_save(&place, 100 * step);
    }
    daemon.wait_analyzed("run", 9);
    daemon.wait("the failure", store_is(0.0));
    assert_eq!(daemon.get("/metrics").0, 200);
    let said = "history cannot be written, measurements are served from memory";
    assert_eq!(daemon.logged(said).len(), 1);
    fs::remove_file(&filler).unwrap();
    daemon.wait("the recovery", store_is(1.0));
    assert_eq!(recorded(daemon, &disk.0), (0..=8).map(|i| Some(100 * i)).collect::<Vec<_>>());
}

#[test]
fn a_read_only_disk_does_not_keep_the_daemon_from_starting() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let Some(disk) = Disk::mount(&state, "4m") else { return };
    add_save(&place, 0);
    disk.set("ro");
    let daemon = start(&place, &disk.0);
    daemon.wait_analyzed("run", 1);
    daemon.wait("the failure", store_is(0.0));
    assert_eq!(daemon.logged("analyzed save").len(), 1);
    disk.set("rw");
    daemon.wait("the recovery", store_is(1.0));
    // It is ours from then on.
    let second = place.command().arg("--state-dir").arg(&state).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.code() == Some(71) && said.contains("in use"), "{said}");
    assert_eq!(recorded(daemon, &disk.0), [Some(0)]);
    // What is recorded is read, though nothing can be written.
    disk.set("ro");
    let out = run(&["history".as_ref(), state.as_ref(), "saves".as_ref()]);
    assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 2);
    let daemon = start(&place, &disk.0);
    daemon.wait("the restored run", |m| m.count("checkpoints_analyzed_total", "run") == 1);
    daemon.wait_for("the first scan", |d| (d.get("/-/ready").0 == 200).then_some(()));
    add_save(&place, 100);
    daemon.wait_analyzed("run", 2);
    assert_eq!(daemon.logged("analyzed save").len(), 1, "the new one alone");
}

#[test]
fn a_log_on_a_full_disk_ends_nobody() {
    let place = Place::new(FAST);
    add_save(&place, 0);
    let plain = place.command();
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" "$@" 9>&2 2>/dev/full"#]).arg(PROGRAM).args(plain.get_args());
    let daemon = Daemon::start(command);
    daemon.wait_analyzed("run", 1);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().0.code(), Some(0));
}
