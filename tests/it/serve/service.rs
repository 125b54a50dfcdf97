//! What a service manager is told, and when it hears nothing any more.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{Daemon, FAST, Place};
use super::saves::{chain, write_save};

/// Time after which the manager would give the daemon up; a sign of life is due in a quarter of it.
const LIMIT: Duration = Duration::from_secs(2);

/// Longer than any machine is busy.
const PATIENCE: Duration = Duration::from_mins(2);

/// A service manager's ear.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let path = place.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path }
    }

    fn start(&self, mut command: Command) -> Daemon {
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
        Daemon::start(command)
    }

    /// The next message, or `None` if there is none in time.
    fn next(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        let n = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..n].to_vec()).unwrap())
    }

    /// Waits for a message; what came before it.
    fn wait(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let (start, mut heard) = (Instant::now(), Vec::new());
        loop {
            assert!(start.elapsed() < PATIENCE, "waited in vain, heard {heard:?}");
            let Some(message) = self.next(Duration::from_secs(1)) else { continue };
            let is_wanted = wanted(&message);
            heard.push(message);
            if is_wanted {
                return heard;
            }
        }
    }

    /// Waits until nothing has come for twice the time after which the daemon would be given up.
    fn wait_for_silence(&self) {
        let start = Instant::now();
        while self.next(2 * LIMIT).is_some() {
            assert!(start.elapsed() < PATIENCE, "it goes on");
        }
    }
}

const ALIVE: &str = "WATCHDOG=1\n";

#[test]
fn a_service_manager_is_told_of_every_state() {
    let place = Place::new(FAST);
    let manager = Manager::new(&place);
    let daemon = manager.start(place.command());
    assert_eq!(manager.wait(|m| m.starts_with("READY=1")), ["READY=1\n"], "before anything else");
    for _ in 0..3 {
        manager.wait(|message| message == ALIVE);
    }
    write_save(&place.root.join("run/checkpoint-1"), &chain(2, 16, 1));
    manager.wait(|message| message == "STATUS=1 runs, 1 saves measured, 0 waiting\n");

    for (config, status) in
        [("quiet: soon\n", ", the configuration was not read again\n"), (FAST, "waiting\n")]
    {
        fs::write(&place.config, config).unwrap();
        daemon.signal(Signal::HUP);
        let heard = manager.wait(|message| message == "READY=1\n");
        let reloading = &heard[heard.len() - 2];
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(reloading);
        assert!(at.trim_end().parse::<u64>().unwrap() > 0);
        manager.wait(|message| message.starts_with("STATUS=") && message.ends_with(status));
    }

    daemon.signal(Signal::TERM);
    manager.wait(|message| message == "STOPPING=1\n");
    assert_eq!(daemon.end().0.code(), Some(0));
    let more = std::iter::from_fn(|| manager.next(Duration::from_millis(200))).collect::<Vec<_>>();
    assert!(more.is_empty(), "a daemon that ends says no more: {more:?}");
}

#[test]
fn a_scheduler_that_hangs_gives_no_sign_of_life_although_http_does() {
    let place = Place::new(FAST);
    let manager = Manager::new(&place);
    let textfiles = place.dir.path().join("textfiles");
    fs::create_dir(&textfiles).unwrap();
    let mut command = place.command();
    command.arg("--textfile").arg(textfiles.join("w.prom"));
    let daemon = manager.start(command);
    manager.wait(|message| message == ALIVE);
    // A pipe that nobody reads: who opens it to write waits, and that is the scheduler.
    let pipe = textfiles.join(".w.prom.tmp");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    daemon.signal(Signal::HUP);
    manager.wait_for_silence();
    assert_eq!(daemon.get("/-/healthy").0, 200);
    // And goes on when it does again.
    drop(fs::File::open(&pipe).unwrap());
    manager.wait(|message| message == ALIVE);
}

#[test]
fn a_stopped_process_gives_no_sign_of_life() {
    let place = Place::new(FAST);
    let manager = Manager::new(&place);
    let daemon = manager.start(place.command());
    manager.wait(|message| message == ALIVE);
    daemon.signal(Signal::STOP);
    manager.wait_for_silence();
    daemon.signal(Signal::CONT);
    manager.wait(|message| message == ALIVE);
}

#[test]
fn a_service_manager_that_is_gone_is_told_of_once() {
    let place = Place::new(FAST);
    let manager = Manager::new(&place);
    let daemon = manager.start(place.command());
    manager.wait(|message| message == ALIVE);
    fs::remove_file(&manager.path).unwrap();
    let what = "the service manager cannot be told";
    daemon.wait_for("the warning", |d| (!d.logged(what).is_empty()).then_some(()));
    write_save(&place.root.join("run/checkpoint-1"), &chain(2, 16, 1));
    daemon.wait_analyzed("run", 1);
    assert_eq!(daemon.logged(what).len(), 1);
}
