//! The state directory: ours alone.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or written.
    #[error("{}: cannot be written, expected a directory of this user", path.display())]
    Unwritable {
        /// Path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Another daemon uses it.
    #[error("{}: in use by another weightvane, expected a state directory of its own", path.display())]
    InUse {
        /// Path.
        path: PathBuf,
    },
}

/// A state directory that is ours while this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The lock goes with the descriptor, also when the process is killed. `None` while the disk, full
    /// or read-only, gives none: then nothing is written either.
    lock: Option<File>,
}

impl StateDir {
    /// Makes the directory if it is missing and takes it. A disk that is full or read-only now is no
    /// reason not to start.
    ///
    /// # Errors
    /// When it cannot be written for another reason, or another daemon has it.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let unwritable = |source| StateError::Unwritable { path: path.to_owned(), source };
        let lock = match locked(path) {
            Ok(lock) => Some(lock),
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) if may_pass(&error) => None,
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        };
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Whether it can be written now: a disk that is full or read-only refuses a new file. It is not
    /// synced, as that would wait for whatever else the disk has to write.
    #[must_use]
    pub fn is_writable(&mut self) -> bool {
        if self.lock.is_none() {
            self.lock = locked(&self.path).ok();
        }
        if self.lock.is_none() {
            return false;
        }
        let probe = self.path.join("probe");
        let written = std::fs::write(&probe, [b'.'; 512]);
        written.and_then(|()| std::fs::remove_file(&probe)).is_ok()
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The directory, made if it is missing, and its lock.
fn locked(path: &Path) -> Result<File, TryLockError> {
    let open = || {
        std::fs::create_dir_all(path)?;
        // A lock that is there can be had on a disk that takes no new file.
        let there = path.join("lock");
        File::create(&there).or_else(|error| File::open(&there).map_err(|_| error))
    };
    let lock = open().map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// Whether another moment may bring another answer.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_taken_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut first = StateDir::take(&path).unwrap();
        assert!(first.is_writable());
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "the lock alone");
        std::fs::create_dir(path.join("probe")).unwrap();
        assert!(!first.is_writable());
        assert!(matches!(StateDir::take(&path), Err(StateError::InUse { .. })));
        drop(first);
        assert_eq!(StateDir::take(&path).unwrap().path(), path);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let refused = StateDir::take(&dir.path().join("file"));
        assert!(matches!(refused, Err(StateError::Unwritable { .. })));
    }
}
