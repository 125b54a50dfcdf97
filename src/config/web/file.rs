//! Files that are read again when they change.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadFile {
    path: PathBuf,
    mark: Mark,
}

/// What differs once a file is written, replaced or let be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(found: &Metadata) -> Self {
        Self {
            place: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl ReadFile {
    /// Whether its path leads to something else now, or nowhere.
    pub(super) fn has_changed(&self) -> bool {
        std::fs::metadata(&self.path).map(|found| Mark::of(&found)).ok() != Some(self.mark)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The bytes of a file of at most `most` bytes. The mark is of what was opened, so that no change
/// between the two is missed.
pub(super) fn read(path: &Path, most: u64) -> io::Result<(Vec<u8>, ReadFile)> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("more than {most} bytes")));
    }
    Ok((bytes, ReadFile { path: path.to_owned(), mark: Mark::of(&found) }))
}
