//! What a caller of the settler sets and is told.

use std::path::PathBuf;
use std::time::Duration;

/// Waits and bounds of a [`Settler`](super::Settler).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleRules {
    /// For how long no stamp of a save may change, with a sign that it is complete. Longer than a
    /// writer stalls: at 20 ms a fifth of all reads were torn, at 200 ms none.
    pub quiet: Duration,
    /// The same without any sign.
    pub settle: Duration,
    /// Saves waiting at once; of more, the ones written last are kept and the others wait for a later
    /// scan.
    pub max_pending: usize,
    /// Whether a file appears whole or not at all, as objects do: nobody needs to see it closed.
    pub whole_files: bool,
}

impl SettleRules {
    /// For local file systems: 2 s and 30 s.
    #[must_use]
    pub const fn local() -> Self {
        let (quiet, settle) = (Duration::from_secs(2), Duration::from_secs(30));
        Self { quiet, settle, max_pending: 10_000, whole_files: false }
    }

    /// For network file systems, whose clients show stamps some seconds late: 10 s and 120 s.
    #[must_use]
    pub const fn network() -> Self {
        let (quiet, settle) = (Duration::from_secs(10), Duration::from_mins(2));
        Self { quiet, settle, max_pending: 10_000, whole_files: false }
    }

    /// For object stores: 2 s and 120 s.
    #[must_use]
    pub const fn objects() -> Self {
        Self { whole_files: true, settle: Self::network().settle, ..Self::local() }
    }
}

impl Default for SettleRules {
    fn default() -> Self {
        Self::local()
    }
}

/// Why a settled save was not read to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveBack {
    /// Its files end early or do not belong together.
    Incomplete,
    /// Its files changed while they were read.
    Changed,
    /// Its files could not be opened or read.
    Unreadable,
}

/// What has happened so far; every number only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettleCounters {
    /// Saves handed out, again after a return included.
    pub settled: u64,
    /// Saves given back.
    pub given_back: u64,
    /// Saves that vanished before they were handed out.
    pub vanished: u64,
    /// Times that a save was put off because [`SettleRules::max_pending`] were waiting.
    pub deferred: u64,
    /// Saves whose content had been handed out under another path.
    pub renamed: u64,
    /// Files called `last`, `best`, ... that were copies of a save that had been handed out.
    pub copies: u64,
}

/// A save that waits, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSave {
    /// Name of its run.
    pub run: String,
    /// Path of its run.
    pub run_path: PathBuf,
    /// The directory or file.
    pub path: PathBuf,
    /// Step from the name.
    pub step: Option<u64>,
    /// When its files last changed, on the caller's clock.
    pub changed_at: Duration,
    /// What it waits for.
    pub state: PendingState,
}

/// What a save waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingState {
    /// No weight file is there yet.
    NoWeights,
    /// Files are missing or still changing, or nothing says yet that they are complete.
    Writing,
    /// It looked complete, was given back for this reason, and will be tried again.
    Returned(GiveBack),
}
