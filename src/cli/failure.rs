//! How a command fails: one line on stderr and an exit code.

use std::error::Error;
use std::process::ExitCode;

use weightvane::checkpoint::{OpenError, ReadError};
use weightvane::config::ConfigError;
use weightvane::diagnostics::AnalyzeError;

/// Wrong usage that only the values show.
const USAGE: u8 = 2;
/// The configuration is bad.
const CONFIG: u8 = 64;
/// The checkpoint is malformed, or is none.
const MALFORMED: u8 = 65;
/// Missing or unreadable.
const UNREADABLE: u8 = 66;
/// A fault of this program.
const INTERNAL: u8 = 70;
/// The system refuses: a port in use, a disk that is full.
const SYSTEM: u8 = 71;
/// Incomplete or changing; later it may work.
const TRY_LATER: u8 = 75;

/// What to say and which code to end with.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn of(code: u8, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        // One line, whatever a library's text holds.
        Self { code, message: message.replace(['\n', '\r'], " ") }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    pub(super) fn unreadable(path: &std::path::Path, message: &str) -> Self {
        Self { code: UNREADABLE, message: format!("{}: {message}", path.display()) }
    }

    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self { code: MALFORMED, message: message.into() }
    }

    pub(super) fn try_later(message: impl Into<String>) -> Self {
        Self { code: TRY_LATER, message: message.into() }
    }

    pub(super) fn internal(message: &str) -> Self {
        Self { code: INTERNAL, message: format!("internal error: {}", message.replace('\n', " ")) }
    }

    pub(super) fn output(error: &std::io::Error) -> Self {
        Self { code: SYSTEM, message: format!("output: cannot be written: {error}") }
    }

    pub(super) fn system(what: &str, error: &dyn Error) -> Self {
        let failure = Self::of(SYSTEM, error);
        Self { message: format!("{what}: {}", failure.message), ..failure }
    }

    /// Says it on stderr.
    pub(super) fn tell(self) -> ExitCode {
        use std::io::Write as _;
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr().lock(), "weightvane: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of(CONFIG, &error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Missing { .. }
            | OpenError::Unreadable { .. }
            | OpenError::Vanished { .. } => UNREADABLE,
            OpenError::Incomplete { .. } | OpenError::Changed { .. } => TRY_LATER,
            _ => MALFORMED,
        };
        Self::of(code, &error)
    }
}

impl From<AnalyzeError> for Failure {
    fn from(error: AnalyzeError) -> Self {
        let code = match &error {
            AnalyzeError::Read(ReadError::Unreadable { .. } | ReadError::Vanished { .. }) => {
                UNREADABLE
            }
            AnalyzeError::Read(ReadError::Changed { .. }) | AnalyzeError::Cancelled => TRY_LATER,
            AnalyzeError::Read(_) => MALFORMED,
        };
        Self::of(code, &error)
    }
}
