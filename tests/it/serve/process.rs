//! A daemon as a child process that never outlives its test.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{self, Metrics};

/// The program under test.
pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_weightvane");

/// Waits that only a failure uses up. Workers run in the idle class, so a busy machine may hold
/// them up for long.
const PATIENCE: Duration = Duration::from_secs(150);

/// Short waits, so that the tests are fast; no shorter than what a paused test writer needs.
pub(super) const FAST: &str = "scan_interval: 1s\nquiet: 300ms\nsettle: 2s\n";

/// Directories of one test.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: TempDir,
    /// The watched root.
    pub(super) root: PathBuf,
    /// A configuration file outside of it.
    pub(super) config: PathBuf,
}

impl Place {
    pub(super) fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path().join("runs"), dir.path().join("weightvane.yaml"));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(&file, config).unwrap();
        Self { dir, root, config: file }
    }

    /// `watch` on a free port.
    pub(super) fn command(&self) -> Command {
        self.command_on("127.0.0.1:0")
    }

    pub(super) fn command_on(&self, address: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("watch").arg(&self.root).arg("--config").arg(&self.config);
        command.args(["--listen", address, "--log.format", "json"]);
        command
    }

    pub(super) fn watch(&self) -> Daemon {
        Daemon::start(self.command())
    }
}

/// A started daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pub(super) address: SocketAddr,
    stdout: Lines,
    stderr: Lines,
}

impl Daemon {
    /// Starts it and waits for its first line, which names its address.
    pub(super) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = Self { child, address, stdout, stderr };
        daemon.address = daemon.wait_for("its address", |d| {
            d.stdout().iter().find_map(|line| {
                line.split("://").nth(1)?.split('/').next()?.parse::<SocketAddr>().ok()
            })
        });
        daemon
    }

    pub(super) fn stdout(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    pub(super) fn stderr(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// `fields` of the log lines (JSON) with this message.
    pub(super) fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let lines = self.stderr().into_iter().map(|l| serde_json::from_str(&l).unwrap());
        let mut lines: Vec<serde_json::Value> = lines.collect();
        lines.retain(|line| line["fields"]["message"] == message);
        lines.iter().map(|line| line["fields"].clone()).collect()
    }

    /// Polls until `look` finds something; a failure shows the log.
    pub(super) fn wait_for<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let log = || self.stderr().join("\n");
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}; log:\n{}", log());
            assert!(!self.stderr.ended(), "the daemon ended before {what}; log:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The first body of `/metrics` that is as wanted.
    pub(super) fn wait(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        self.wait_for(what, |d| Some(d.metrics()).filter(&wanted))
    }

    /// Waits until `n` saves of `run` are analysed; more are a failure.
    pub(super) fn wait_analyzed(&self, run: &str, n: u64) -> Metrics {
        let what = format!("{n} analysed saves of {run}");
        let metrics = self.wait(&what, |m| m.count("checkpoints_analyzed_total", run) >= n);
        assert_eq!(metrics.count("checkpoints_analyzed_total", run), n, "saves of {run}");
        metrics
    }

    pub(super) fn get(&self, path: &str) -> (u16, String) {
        client::get(self.address, path).unwrap()
    }

    /// What is served, once the history is read.
    pub(super) fn metrics(&self) -> Metrics {
        self.wait_for("the history to be read", |d| {
            let (status, body) = d.get("/metrics");
            assert!(matches!(status, 200 | 503), "{status}: {body}");
            (status == 200).then_some(Metrics(body))
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, without a signal.
    pub(super) fn end(mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end:\n{:?}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        };
        (status, self.stdout.all(), self.stderr.all())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of a pipe, read as they come so that the child never blocks.
#[derive(Debug)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn read(pipe: impl std::io::Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// All lines of a child that has ended.
    fn all(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// Runs a command of the program to its end.
pub(super) fn run(args: &[&OsStr]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Holds that `promtool check metrics` finds nothing in a file; without promtool nothing is checked,
/// unless `WEIGHTVANE_REQUIRE_PROMTOOL=1`.
pub(super) fn promtool_accepts(file: &Path) {
    let input = std::fs::File::open(file).unwrap();
    match Command::new("promtool").args(["check", "metrics"]).stdin(input).output() {
        Ok(out) => {
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
            assert!(out.status.success() && said.is_empty(), "promtool says: {said}");
        }
        Err(error) => {
            let required = std::env::var("WEIGHTVANE_REQUIRE_PROMTOOL").is_ok_and(|v| v == "1");
            assert!(!required, "promtool is required: {error}");
            skipped(&format!("promtool is not here: {error}"));
        }
    }
}

/// Says what was not checked, past the capture of the test runner.
#[expect(clippy::explicit_write, reason = "eprintln! is captured where the test passes")]
pub(super) fn skipped(reason: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "not checked: {reason}").unwrap();
}
