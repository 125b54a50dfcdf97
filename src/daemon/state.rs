//! The state directory: ours alone.

use std::fs::{File, TryLockError};
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
        source: std::io::Error,
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
    /// The lock goes with the descriptor, also when the process is killed.
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing and takes it.
    ///
    /// # Errors
    /// When it cannot be written, or another daemon has it.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let unwritable = |source| StateError::Unwritable { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(unwritable)?;
        let lock = File::create(path.join("lock")).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(unwritable(source)),
        }
    }

    /// Whether it can be written now: a disk that is full or read-only refuses a new file. It is not
    /// synced, as that would wait for whatever else the disk has to write.
    #[must_use]
    pub fn is_writable(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_taken_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::take(&path).unwrap();
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
