//! What can go wrong, by what a caller can do about it; every text is one line.

use std::io;
use std::path::{Path, PathBuf};

use super::dtype::Dtype;
use super::source::SourceError;

/// Longest text of a foreign name or of a parser's complaint that a message carries, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Why a path could not be opened as a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing has that name: the caller named the wrong place, or came too late.
    #[error("{}: found nothing, expected a checkpoint: a directory or a file of weights", shown_path(.path))]
    Missing {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// It is there and the system refuses to read it (permissions, an I/O error); says nothing of
    /// the weights.
    #[error("{}: found no way to read it, expected read permission and a {}", shown_path(.path), medium(.path))]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is something else: another format, a pipe, a directory without weights.
    #[error("{}: found {found}, expected {expected}", shown_path(.path))]
    NotACheckpoint {
        /// The file or directory.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What would be a checkpoint.
        expected: &'static str,
    },
    /// A healthy file that holds something else than a model (an optimiser), or asks for more than data.
    #[error("{}: found {found}, expected the weights of the model itself", shown_path(.path))]
    NotWeights {
        /// The file or directory.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The file contradicts itself or its format; waiting does not help.
    #[error("{}: {reason}", shown_path(.path))]
    Malformed {
        /// The offending file.
        path: PathBuf,
        /// What was found and expected.
        reason: String,
    },
    /// Some of it is not there yet; look again later.
    #[error("{}: {what}", shown_path(.path))]
    Incomplete {
        /// The file that is short or missing.
        path: PathBuf,
        /// What was found and expected.
        what: String,
    },
    /// A file was written to or replaced while it was read; look again later.
    #[error("{}: found the file changed while it was read, expected it unchanged", shown_path(.path))]
    Changed {
        /// The file that changed.
        path: PathBuf,
    },
    /// A file was deleted while the checkpoint was read: rotation, a normal end.
    #[error("{}: found the file gone while the checkpoint was read, expected it unchanged", shown_path(.path))]
    Vanished {
        /// The file that is gone.
        path: PathBuf,
    },
}

/// Why a tensor could not be read from a checkpoint that had been opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is no longer the one whose header was read; whatever was read of it is discarded.
    #[error("{}: found the file changed since the checkpoint was opened, expected it unchanged", shown_path(.path))]
    Changed {
        /// The file that changed.
        path: PathBuf,
    },
    /// The file was deleted: rotation, a normal end.
    #[error("{}: found the file gone since the checkpoint was opened, expected it unchanged", shown_path(.path))]
    Vanished {
        /// The file that is gone.
        path: PathBuf,
    },
    /// The system refuses to read it (permissions, an I/O error).
    #[error("{}: found no way to read it, expected read permission and a {}", shown_path(.path), medium(.path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The tensor's type has no values that the diagnostics could use.
    #[error("tensor {}: found type {}, expected a float type of 8 to 64 bits", shown(.name), .dtype.name())]
    NotFloat {
        /// Name of the tensor.
        name: String,
        /// Its stored type.
        dtype: Dtype,
    },
    /// The tensor's place does not lie in this checkpoint; it came from another manifest.
    #[error("tensor {}: found a place outside of the checkpoint, expected a tensor of this manifest", shown(.name))]
    Foreign {
        /// Name of the tensor.
        name: String,
    },
    /// What is stored compressed cannot be had back.
    #[error("{}: found a broken stream at byte {offset}, expected deflate data", shown_path(.path))]
    Broken {
        /// The file.
        path: PathBuf,
        /// First byte of the stream.
        offset: u64,
    },
    /// The values do not fit into memory.
    #[error("tensor {}: found {n_elements} elements, expected no more than memory holds", shown(.name))]
    TooLarge {
        /// Name of the tensor.
        name: String,
        /// Number of elements.
        n_elements: usize,
    },
}

impl OpenError {
    /// An error of the path that was asked for.
    pub(super) fn at_top(path: &Path, error: SourceError) -> Self {
        match error {
            SourceError::Gone => Self::Missing { path: path.to_owned() },
            error => Self::inside(path, error),
        }
    }

    /// An error of a file that a look at the directory or the index promised.
    pub(super) fn inside(path: &Path, error: SourceError) -> Self {
        let path = path.to_owned();
        match error {
            SourceError::Gone => Self::Vanished { path },
            SourceError::Changed => Self::Changed { path },
            SourceError::NotAFile(found) => {
                Self::NotACheckpoint { path, found: found.to_owned(), expected: "a regular file" }
            }
            SourceError::Io(source) => Self::Unreadable { path, source },
        }
    }

    /// An error of a file whose identity was known.
    pub(super) fn of_read(error: ReadError) -> Self {
        match error {
            ReadError::Changed { path } => Self::Changed { path },
            ReadError::Vanished { path } => Self::Vanished { path },
            ReadError::Unreadable { path, source } => Self::Unreadable { path, source },
            // These speak of tensors, and none was read.
            error @ (ReadError::NotFloat { .. }
            | ReadError::Broken { .. }
            | ReadError::Foreign { .. }
            | ReadError::TooLarge { .. }) => {
                Self::Malformed { path: PathBuf::new(), reason: error.to_string() }
            }
        }
    }

    /// Something that is no checkpoint at all.
    pub(super) fn not_a_checkpoint(path: &Path, found: String) -> Self {
        let expected = "weights as safetensors, of torch.save, .npz, .gguf, .h5 or .keras, or a directory with them";
        Self::NotACheckpoint { path: path.to_owned(), found, expected }
    }
}

/// A foreign name for a message: quoted, on one line, of bounded length.
#[must_use]
pub fn shown(name: &str) -> String {
    format!("`{}`", one_line(name))
}

/// How many tensors, in words.
pub(super) fn n_tensors(n: usize) -> String {
    format!("{n} tensor{}", if n == 1 { "" } else { "s" })
}

/// A path for a message, on one line.
pub(super) fn shown_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// What a path leads to, and must work for it to be read.
fn medium(path: &Path) -> &'static str {
    if crate::remote::is_remote(path) { "store that answers" } else { "working disk" }
}

/// A foreign text on one line and of bounded length.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(MAX_SHOWN_CHARS).flat_map(escaped).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        line.push('…');
    }
    line
}

/// A foreign text for a terminal, on one line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escaped).collect()
}

/// Control characters as escapes, so that a hostile name cannot forge a line of a log.
fn escaped(c: char) -> Vec<char> {
    // Line and paragraph separators and the marks that reverse the reading order are no control
    // characters to `char`, but they are to a terminal.
    let harmful = c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if harmful { c.escape_default().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_work_is_that_which_holds_it() {
        let told = |path: &str| {
            OpenError::Unreadable { path: path.into(), source: io::Error::other("no") }.to_string()
        };
        assert!(told("/runs/a").ends_with("a working disk"));
        assert!(told("s3://bucket/a").ends_with("a store that answers"));
    }

    #[test]
    fn a_hostile_path_stays_on_one_line() {
        let path = PathBuf::from("runs/a\nlevel=error msg=\u{1b}[2J\u{202e}b");
        let text = OpenError::Missing { path }.to_string();
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.starts_with("runs/a\\nlevel"), "{text}");
    }

    #[test]
    fn a_long_name_is_cut() {
        let text = shown(&"x".repeat(5000));
        assert_eq!(text.chars().count(), MAX_SHOWN_CHARS + 3);
    }
}
