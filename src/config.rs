//! User input: YAML to checked [`Settings`] and architecture rules. Nothing else reads user text.

pub mod architectures;
mod check;
mod fleet;
mod place;
mod runs;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use crate::diagnostics::EXACT_LIMIT;
use crate::history::Rules;
use crate::metrics::Labels;
pub use runs::{DeclaredOptimizer, RunSettings};
pub use web::{PasswordHash, RateLimit, Users, WebConfig};

/// Longest configuration accepted. The YAML parser is quadratic on hostile nesting.
pub const MAX_CONFIG_BYTES: u64 = 64 * 1024;

/// The commented file of defaults that is shipped, for people to start from.
pub const DEFAULTS_FILE: &str = include_str!("../config/weightvane.yaml");

/// A configuration that cannot be used; every message names file, place and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read, expected a YAML file", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is longer than [`MAX_CONFIG_BYTES`].
    #[error("{}: {found} bytes, expected at most {MAX_CONFIG_BYTES}", path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
    /// `architectures_dir` cannot be listed.
    #[error("{}: cannot be listed, expected architectures_dir to be a directory of *.yaml rules", path.display())]
    Directory {
        /// Directory.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Not YAML, an unknown key, or a value of the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was found and what was expected.
        message: String,
    },
    /// Passwords would be sent over the network in the clear.
    #[error(
        "{}: found basic_auth_users without TLS at {address}, expected tls_server_config as well, a loopback \
         address, or basic_auth_without_tls", path.display()
    )]
    Exposed {
        /// File.
        path: PathBuf,
        /// Where they would be taken.
        address: SocketAddr,
    },
    /// A value of the right type that makes no sense.
    #[error("{}:{line}: {key}: {message}", path.display())]
    Value {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Key.
        key: String,
        /// What was found and what was expected.
        message: String,
    },
}

/// When the threads that measure get a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// When nothing else wants it, and the disk last of all (`SCHED_IDLE`).
    Idle,
    /// Like any other process.
    Normal,
}

/// Whether the last good saves are kept from rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// No.
    None,
    /// By hard links to their files.
    Hardlink,
}

/// What the daemon gives up before it looks at the first file, held by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confinement {
    /// Nothing.
    None,
    /// Writing elsewhere than in its own directories, executing, opening ports.
    Writes,
    /// Reading elsewhere than beside the roots as well.
    All,
}

impl Confinement {
    /// Of its name in the configuration.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "writes" => Some(Self::Writes),
            "all" => Some(Self::All),
            _ => None,
        }
    }
}

/// Everything that can be set, checked. The defaults are those of `config/weightvane.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address of `/metrics`, the page and the API.
    pub listen: SocketAddr,
    /// TLS, passwords and more for them, in the format of Prometheus' exporters.
    pub web_config_file: Option<PathBuf>,
    /// Whether passwords are taken without TLS also elsewhere than on loopback.
    pub basic_auth_without_tls: bool,
    /// Further names under which a browser may ask on loopback.
    pub allowed_hosts: Vec<String>,
    /// Directories to watch, besides those of the command line.
    pub roots: Vec<PathBuf>,
    /// Directory for what must outlive a restart.
    pub state_dir: Option<PathBuf>,
    /// File to write in `node_exporter`'s textfile format after every change.
    pub textfile: Option<PathBuf>,
    /// What is given up at the start.
    pub sandbox: Confinement,
    /// Time between scans of a local root; events only shorten it.
    pub scan_interval: Duration,
    /// Time between scans of a root on a network file system, where no events come.
    pub scan_interval_network: Duration,
    /// How long a save with a completion sign must have been quiet.
    pub quiet: Duration,
    /// How long a save without a completion sign must have been quiet.
    pub settle: Duration,
    /// The same on a network file system.
    pub settle_network: Duration,
    /// Depth of directories searched below a root.
    pub max_depth: usize,
    /// Threads that share the work on one save.
    pub threads: usize,
    /// Scheduling class of these threads.
    pub priority: Priority,
    /// Most bytes of checkpoints read in a second, `None` for as fast as the disk gives them.
    pub io_limit: Option<u64>,
    /// Part of the time in which tasks of the machine may wait for disk or memory before reading
    /// gives way to them, above 0 and at most 1; 1 never gives way.
    pub pressure_limit: f64,
    /// Bytes of weights kept at a time.
    pub memory_limit: u64,
    /// Bytes of the state directory used for the starts of the next saves' searches.
    pub warm_limit: u64,
    /// Bytes of the state directory used for the history.
    pub history_limit: u64,
    /// How long the history keeps the details of a save, and runs that are gone.
    pub history_age: Duration,
    /// Sides up to this are decomposed exactly.
    pub exact_limit: usize,
    /// Subspace dimensions k.
    pub k: Vec<usize>,
    /// Dimensions k at which the turn of a subspace between saves is measured.
    pub rotation_k: Vec<usize>,
    /// Most series of one run.
    pub series_limit: usize,
    /// How long a run without saves stays active.
    pub idle_after: Duration,
    /// How long a run whose directory is gone stays on the page.
    pub forget_after: Duration,
    /// Directory of further architecture rules.
    pub architectures_dir: Option<PathBuf>,
    /// Base models of adapters, or directories that hold such.
    pub bases: Vec<PathBuf>,
    /// Whether good saves are kept from rotation.
    pub pin: Pin,
    /// Where links to them are made.
    pub pin_dir: Option<PathBuf>,
    /// What is unusual.
    pub anomalies: Rules,
    /// Names of the runs that others are compared with.
    pub reference: Option<glob::Pattern>,
    /// Labels that every series bears.
    pub labels: Labels,
    /// Which of several daemons over the same roots this is, from 0.
    pub shard: Option<u32>,
    /// How many they are.
    pub total_shards: u32,
    /// What differs for single runs; the first entry that matches counts.
    pub runs: Vec<RunSettings>,
}

/// What the file says, before it is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wire {
    listen: Option<String>,
    web_config_file: Option<PathBuf>,
    basic_auth_without_tls: Option<bool>,
    allowed_hosts: Option<Vec<String>>,
    roots: Option<Vec<PathBuf>>,
    state_dir: Option<PathBuf>,
    textfile: Option<PathBuf>,
    sandbox: Option<Confinement>,
    scan_interval: Option<String>,
    scan_interval_network: Option<String>,
    quiet: Option<String>,
    settle: Option<String>,
    settle_network: Option<String>,
    max_depth: Option<usize>,
    threads: Option<usize>,
    priority: Option<Priority>,
    io_limit: Option<String>,
    pressure_limit: Option<f64>,
    memory_limit: Option<String>,
    warm_limit: Option<String>,
    history_limit: Option<String>,
    history_age: Option<String>,
    exact_limit: Option<usize>,
    k: Option<Vec<usize>>,
    rotation_k: Option<Vec<usize>>,
    series_limit: Option<usize>,
    idle_after: Option<String>,
    forget_after: Option<String>,
    architectures_dir: Option<PathBuf>,
    bases: Option<Vec<PathBuf>>,
    pin: Option<Pin>,
    pin_dir: Option<PathBuf>,
    reference: Option<String>,
    labels: Option<BTreeMap<String, Value>>,
    shard: Option<usize>,
    total_shards: Option<usize>,
    anomalies: Option<runs::AnomaliesWire>,
    runs: Option<Vec<runs::RunWire>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 10717)),
            web_config_file: None,
            basic_auth_without_tls: false,
            allowed_hosts: Vec::new(),
            roots: Vec::new(),
            state_dir: None,
            textfile: None,
            sandbox: Confinement::Writes,
            scan_interval: Duration::from_secs(15),
            scan_interval_network: Duration::from_mins(1),
            quiet: Duration::from_secs(2),
            settle: Duration::from_secs(30),
            settle_network: Duration::from_mins(2),
            max_depth: 6,
            threads: 1,
            priority: Priority::Idle,
            io_limit: Some(200 << 20),
            pressure_limit: 0.2,
            memory_limit: 1 << 30,
            warm_limit: 1 << 30,
            history_limit: 2 << 30,
            history_age: Duration::from_hours(24 * 90),
            exact_limit: EXACT_LIMIT,
            k: vec![1, 2, 4, 8, 16, 32, 64],
            rotation_k: vec![8],
            series_limit: 5000,
            idle_after: Duration::from_hours(24),
            forget_after: Duration::from_hours(24),
            architectures_dir: None,
            bases: Vec::new(),
            pin: Pin::None,
            pin_dir: None,
            anomalies: Rules::default(),
            reference: None,
            labels: Labels::default(),
            shard: None,
            total_shards: 1,
            runs: Vec::new(),
        }
    }
}

impl Settings {
    /// What is set for the run of this name alone.
    #[must_use]
    pub fn of_run(&self, name: &str) -> Option<&RunSettings> {
        self.runs.iter().find(|run| run.pattern.matches(name))
    }

    /// Names of the runs that the run of this name is compared with.
    #[must_use]
    pub fn reference_of(&self, name: &str) -> Option<&glob::Pattern> {
        self.of_run(name).and_then(|run| run.reference.as_ref()).or(self.reference.as_ref())
    }

    /// Where links to good saves are to be, if anywhere.
    #[must_use]
    pub fn pin_dir(&self) -> Option<&Path> {
        self.pin_dir.as_deref().filter(|_| self.pin == Pin::Hardlink)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], for the first thing wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read_bounded(path)?)
    }

    /// Checks the text of a configuration; `path` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`], for the first thing wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let wire: Option<Wire> =
            serde_yaml::from_str(text).map_err(|e| syntax_error(path, text, &e))?;
        check::checked(wire.unwrap_or_default(), &place::Place { path, text })
    }
}

/// The text of a file of at most [`MAX_CONFIG_BYTES`].
fn read_bounded(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(read_error)?;
    let found = file.metadata().map_err(read_error)?.len();
    if found > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned(), found });
    }
    let mut text = String::new();
    // The file may grow between the two calls, so the read is bounded as well.
    file.take(MAX_CONFIG_BYTES).read_to_string(&mut text).map_err(read_error)?;
    Ok(text)
}

/// A parser's message, with the line put where people look for it and in words of the file, not of
/// the program.
fn syntax_error(path: &Path, text: &str, error: &serde_yaml::Error) -> ConfigError {
    let said = error.to_string();
    let mut message = said.split(" at line ").next().unwrap_or(&said).to_owned();
    for (ours, theirs) in [
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected a sequence", "expected a list"),
    ] {
        message = message.replace(ours, theirs);
    }
    if let Some((before, name)) = message.split_once("expected struct ") {
        let after = name.split_once(' ').map(|(_, after)| format!(" {after}")).unwrap_or_default();
        message = format!("{before}expected lines of `key: value`{after}");
    }
    // The parser places a duplicate where the mapping begins.
    let duplicate = message.contains("duplicate").then(|| second_of_a_key(text)).flatten();
    let line = duplicate.or(error.location().map(|at| at.line())).unwrap_or(1);
    ConfigError::Syntax { path: path.to_owned(), line, message }
}

/// The line, from 1, on which a top-level key stands for the second time.
fn second_of_a_key(text: &str) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    let key = |line: &str| {
        let top_level = line.starts_with(|c: char| c.is_ascii_alphabetic());
        line.split_once(':').filter(|_| top_level).map(|(key, _)| key.trim().to_owned())
    };
    text.lines().position(|line| key(line).is_some_and(|key| !seen.insert(key))).map(|at| at + 1)
}
