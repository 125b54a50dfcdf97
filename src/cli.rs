//! The command line: what is typed, which command it means, and how its end is told.

mod analyze;
mod backfill;
mod confine;
mod crash;
mod demo;
mod explain;
mod failure;
mod fleet;
mod generate;
mod history;
mod logging;
mod places;
mod plan;
mod progress;
mod table;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use failure::Failure;
use fleet::{LabelArgs, ShardArgs};
use weightvane::config::{ConfigError, Confinement, Settings, WebConfig, architectures};
use weightvane::daemon::demo::fault::FaultKind;
use weightvane::diagnostics::Options;
use weightvane::model::Rule;

/// Sees, while a network trains, how its layers line up: reads checkpoints, never the job.
///
/// Exit codes: 0 done · 2 usage · 64 bad configuration · 65 malformed checkpoint · 66 missing or
/// unreadable · 70 internal error · 71 the system refuses ·
/// 75 incomplete or changing.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch directories of training runs and serve metrics
    Watch(WatchArgs),
    /// Measure one checkpoint, once
    Analyze(AnalyzeArgs),
    /// Show how a checkpoint is read: architecture, matrices, pairs, heads, what is skipped and why
    Explain(ExplainArgs),
    /// Check a configuration file, that of HTTP, or both
    CheckConfig(CheckArgs),
    /// Print a table of the history as CSV or JSON lines
    History(HistoryArgs),
    /// Write the past of all runs as OpenMetrics with timestamps, for promtool
    ///
    /// Measures every save below ROOT, in the order of training, and writes what the daemon would
    /// have exported after each, at the time of the save and repeated every 240 s until the next one.
    ///
    /// `promtool tsdb create-blocks-from openmetrics --max-block-duration=168h FILE DIR` makes blocks
    /// of it in Prometheus' data directory.
    Backfill(BackfillArgs),
    /// Train a small network here, save real checkpoints, watch them
    Demo(DemoArgs),
    /// Write manual pages and completions of bash, zsh and fish, for packages
    #[command(hide = true)]
    Generate {
        /// Directory, made if it is missing
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct CheckArgs {
    /// The file, with what it names
    file: Option<PathBuf>,
    /// TLS, passwords and more for HTTP, with its certificates
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct WatchArgs {
    /// Directories that hold runs
    #[arg(value_name = "ROOT")]
    roots: Vec<PathBuf>,
    /// A model that adapters change, or a directory that holds such under their names, such as a
    /// Hugging Face cache; may be given several times, besides `bases` in the file
    #[arg(long = "base", value_name = "PATH")]
    bases: Vec<PathBuf>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is given up at the start, held by the kernel: none, writes or all [default: writes]
    #[arg(long, value_name = "WHAT", value_parser = confinement)]
    sandbox: Option<Confinement>,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Clone, Args)]
struct ServeArgs {
    /// Address of /metrics, the page and the API [default: 127.0.0.1:10717]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// TLS, passwords and more for HTTP: a file in the format of Prometheus' exporters
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Serve on the socket that systemd hands over, instead of listening
    #[arg(long = "web.systemd-socket", conflicts_with = "listen")]
    systemd_socket: bool,
    /// Directory of this daemon's own, for what must outlive a restart; a second daemon on it is refused
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        help = "Write the metrics to this file too, for node_exporter's textfile collector"
    )]
    textfile: Option<PathBuf>,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    log: logging::LogArgs,
}

#[derive(Debug, Args)]
struct AnalyzeArgs {
    /// Checkpoint: a directory or a .safetensors file
    checkpoint: PathBuf,
    /// The save before it, for update sizes and rotations
    #[arg(long, value_name = "PREV")]
    against: Option<PathBuf>,
    /// Of an adapter, the model that it changes, or a directory that holds it under its name, such as
    /// a Hugging Face cache
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[arg(
        long,
        value_name = "FILE",
        help = "Write the metrics to this file, for node_exporter's textfile collector, instead of printing"
    )]
    textfile: Option<PathBuf>,
    #[command(flatten)]
    labels: LabelArgs,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// Prometheus text format
    Prometheus,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// Checkpoint: a directory or a .safetensors file
    checkpoint: PathBuf,
    /// Show what would be measured, how, and at which cost
    #[arg(long)]
    plan: bool,
    /// Print an architecture rule to start from, made of this checkpoint's names and shapes
    #[arg(long, conflicts_with = "plan")]
    rule_template: bool,
    /// The save before it: how many tensors are unchanged, and what must be measured anew
    #[arg(long, value_name = "PREV", requires = "plan")]
    against: Option<PathBuf>,
    /// Of an adapter, the model that it changes, or a directory that holds it under its name
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// State directory of a daemon
    state_dir: PathBuf,
    /// saves, evaluations, summaries, matrices, rotations, pairs, overlaps, heads, classifiers or
    /// anomalies
    table: String,
    /// Of this run alone
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Rows,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Names of the columns, then a line a row
    #[default]
    Csv,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Args)]
struct BackfillArgs {
    /// Directory that holds runs, as `watch` has it
    root: PathBuf,
    /// Write to this file, as a whole or not at all [default: stdout]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// State directory of a daemon: what it recorded is not measured again, and saves that are gone
    /// are told of as well. It is only read, also while the daemon runs
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Label `job`: that of the scrape, or the past does not join the live series
    #[arg(long, value_name = "NAME", default_value = "weightvane")]
    job: String,
    /// Label `instance`: that of the scrape, normally its target
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10717")]
    instance: String,
    /// End of the past: RFC 3339 in UTC, or Unix seconds [default: three hours ago, as what is newer
    /// lies in the block that Prometheus is writing]
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    labels: LabelArgs,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct DemoArgs {
    /// End after this many seconds [default: until Ctrl-C]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    #[arg(long, help = "Train a linear network instead of a ReLU one")]
    linear: bool,
    /// Weight decay λ: how fast layers balance, 2ηλ a step with η = 0.16
    #[arg(long, value_name = "LAMBDA", default_value_t = 1e-3, value_parser = decay)]
    weight_decay: f64,
    /// Seconds between two saves
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = demo_seconds)]
    save_interval: Duration,
    /// Plant a fault, to see the alerts: nan, lr-spike, frozen, hang, unreadable or stall
    #[arg(long, value_name = "KIND", value_parser = fault)]
    fault: Option<FaultKind>,
    /// When it begins; some anomalies are told from ten saves on
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "fault")]
    fault_after: u64,
    /// How long it lasts; after nan and lr-spike the weights from before are put back
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = demo_seconds, requires = "fault")]
    fault_seconds: Duration,
    /// Only train, with saves into DIR, to be watched by a daemon of your own
    #[arg(long, value_name = "DIR", conflicts_with_all = ["listen", "web_config_file", "systemd_socket", "state_dir", "textfile"])]
    train_into: Option<PathBuf>,
    #[command(flatten)]
    serve: ServeArgs,
}

fn demo_seconds(text: &str) -> Result<Duration, String> {
    let found = text.parse::<f64>().ok().filter(|value| (0.1..=86_400.0).contains(value));
    found.map(Duration::from_secs_f64).ok_or_else(|| "expected 0.1 to 86400 seconds".to_owned())
}

fn confinement(text: &str) -> Result<Confinement, String> {
    Confinement::of(text).ok_or_else(|| "expected none, writes or all".to_owned())
}

fn fault(text: &str) -> Result<FaultKind, String> {
    FaultKind::of(text).ok_or_else(|| {
        let kinds = FaultKind::ALL.map(FaultKind::as_str);
        format!("expected one of {}", kinds.join(", "))
    })
}

/// From 0, where the gaps of a linear network stand still, to where nothing is learnt.
fn decay(text: &str) -> Result<f64, String> {
    let found = text.parse::<f64>().ok().filter(|value| (0.0..=0.1).contains(value));
    found.ok_or_else(|| "expected a number from 0 to 0.1".to_owned())
}

/// Runs what is typed and tells how it ended.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) if said.exit_code() == 0 || is_help(&said) => said.exit(),
        Err(wrong) => return Failure::usage(in_one_line(&wrong)).tell(),
    };
    crash::tell_in_one_line();
    let result = crash::caught(|| match cli.command {
        Command::Watch(args) => watch::run(args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::CheckConfig(args) => check_config(&args),
        Command::History(args) => history::run(&args),
        Command::Backfill(args) => backfill::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Generate { dir } => generate::run(&dir),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

fn is_help(said: &clap::Error) -> bool {
    said.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap says of a wrong command line, without the usage that follows: one line, as every
/// failure.
fn in_one_line(wrong: &clap::Error) -> String {
    let text = wrong.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> =
        lines.filter(|l| !l.is_empty() && !l.starts_with("For more information")).collect();
    let line = lines.join(" ");
    format!("{} (see --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

fn check_config(args: &CheckArgs) -> Result<(), Failure> {
    let mut web = args.web_config_file.clone();
    if let Some(file) = &args.file {
        let settings = Settings::load(file)?;
        let rules = rules(&settings)?;
        print(&format!("{}: valid; {} architecture rules\n", file.display(), rules.len()))?;
        web = web.or(settings.web_config_file);
    }
    let Some(file) = web else { return Ok(()) };
    let config = WebConfig::load(&file)?;
    let tls = if config.tls.is_some() { "TLS" } else { "no TLS" };
    print(&format!("{}: valid; {tls}, {} users\n", file.display(), config.users.len()))?;
    config.remarks.iter().try_for_each(|remark| print(&format!("  {remark}\n")))
}

/// The settings of a file, or the defaults.
fn settings(config: Option<&PathBuf>) -> Result<Settings, ConfigError> {
    config.map_or_else(|| Ok(Settings::default()), |path| Settings::load(path))
}

fn rules(settings: &Settings) -> Result<Vec<Rule>, ConfigError> {
    architectures::load(settings.architectures_dir.as_deref())
}

/// Where the base models of adapters lie.
fn bases(given: Option<&PathBuf>, settings: &Settings) -> Vec<PathBuf> {
    given.into_iter().chain(&settings.bases).cloned().collect()
}

fn options(settings: &Settings) -> Options {
    Options {
        k: settings.k.clone(),
        rotation_k: settings.rotation_k.clone(),
        memory_limit: settings.memory_limit,
        exact_limit: settings.exact_limit,
        threads: settings.threads,
        ..Options::default()
    }
}

/// Prints to stdout. A closed pipe (`| head`) is a normal end.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::output(&e)),
        _ => Ok(()),
    }
}
