//! What a file event is allowed to say.

use std::path::PathBuf;

/// A hint that something happened below a root; it may be late, doubled or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// Events were lost, or the root itself came or went: only a scan can tell.
    Rescan,
    /// A file was created or written, or a directory was created.
    Touched(PathBuf),
    /// A writer closed the file, or a finished file or directory was renamed to this name.
    Closed(PathBuf),
    /// The file or directory was deleted or renamed away.
    Removed(PathBuf),
}
