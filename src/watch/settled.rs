//! A save that is ready to be read.

use std::path::PathBuf;
use std::time::Duration;

use super::save::FileStamp;

/// A save whose files have come to rest and look complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledSave {
    /// Name of its run.
    pub run: String,
    /// Path of its run.
    pub run_path: PathBuf,
    /// The directory or file to read.
    pub path: PathBuf,
    /// Step from the name; `None` for a save rewritten in place.
    pub step: Option<u64>,
    /// Order in which contents were first seen, unique; says which of two saves of one step is later.
    pub sequence: u64,
    /// 1 for the first content of this run and step (or path), then 2, 3, …
    pub version: u32,
    /// Whether an earlier version was handed out: what was said of it no longer holds.
    pub supersedes: bool,
    /// Whether the next save is written over this one.
    pub in_place: bool,
    /// Stamps that the files had when they came to rest.
    pub files: Vec<FileStamp>,
    /// Time from the first sight of this content to the hand-out.
    pub waited: Duration,
}
