//! Log lines on stderr.

use clap::{Args, ValueEnum};

/// How to log.
#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    /// Least severe level: error, warn, info, debug or trace
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    level: tracing::Level,
    /// Form of the lines
    #[arg(long = "log.format", value_name = "FORMAT", value_enum, default_value_t)]
    format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Text for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging with the least severe level no lower than warnings, unless a level was asked
/// for: a program that talks to a person on stdout keeps its log short.
pub(super) fn start_quietly(args: &LogArgs) {
    let level = if args.level == tracing::Level::INFO { tracing::Level::WARN } else { args.level };
    start(&LogArgs { level, format: args.format });
}

/// Starts logging; later calls do nothing.
pub(super) fn start(args: &LogArgs) {
    use std::io::IsTerminal as _;
    use tracing_subscriber::fmt;
    let filter = tracing_subscriber::EnvFilter::new(format!("weightvane={}", args.level));
    let base = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A line that cannot be written, on a disk that is full, would be told on stderr, and that would panic.
    let base = base.log_internal_errors(false);
    // An error means that a subscriber is set already, which is what was wanted.
    let _ = match args.format {
        LogFormat::Text => base.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => base.json().try_init(),
    };
}
