//! What can go wrong, by what a caller can do about it.

use std::io;

/// Why an object store did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is no object of that name.
    #[error("found no such object")]
    Missing,
    /// It is not the version that it was.
    #[error("found another version of the object, expected it unchanged")]
    Changed,
    /// The store, the way to it or the configuration refuses; one line says why and never holds a
    /// secret.
    #[error(transparent)]
    Refused(io::Error),
}

impl RemoteError {
    pub(super) fn refused(kind: io::ErrorKind, words: impl Into<String>) -> Self {
        Self::Refused(io::Error::new(kind, words.into()))
    }

    pub(super) fn invalid(words: impl Into<String>) -> Self {
        Self::refused(io::ErrorKind::InvalidInput, words)
    }
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Refused(error) => error,
            RemoteError::Missing => Self::new(io::ErrorKind::NotFound, error),
            RemoteError::Changed => Self::other(error),
        }
    }
}
