//! Object stores as places to read from: `s3://bucket/prefix`, `gs://…`, `az://…`.
//!
//! A synchronous face over the `object_store` crate. Paths stay [`Path`]s, so that `join`, `parent`
//! and `strip_prefix` work on them as on any other; nothing here ever writes.
//!
//! Objects are replaced whole, never in part, and every answer to a ranged read names the version
//! that it is of. So a torn read is impossible: bytes of another version than the one expected are
//! [`RemoteError::Changed`], whether or not the store honours `If-Match`.
//!
//! A bucket has at most two requests in flight and waits for none longer than two minutes; a bucket that
//! hangs holds up those who ask for it and nobody else.

mod error;
mod object;
mod place;
mod tree;

#[cfg(feature = "object-stores")]
mod client;
#[cfg(not(feature = "object-stores"))]
#[path = "remote/without.rs"]
mod client;
#[cfg(feature = "object-stores")]
mod stores;
#[cfg(feature = "object-stores")]
mod words;

use std::path::{Path, PathBuf};

pub use error::RemoteError;
pub use object::Object;
pub use place::{canonical, check, is_remote};
pub use tree::Tree;

use place::Place;

/// Which version of an object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    /// Length in bytes.
    pub size: u64,
    /// Last write, in seconds since 1970: listings and reads tell it in different precision.
    pub modified: i64,
    /// Hash of its entity tag; 0 where the store has none.
    pub tag: u64,
}

/// One name below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Last component.
    pub name: String,
    /// The object of that name; `None` for a further prefix, which stands for a directory.
    pub stat: Option<Stat>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Objects lie below it.
    Prefix,
    /// It is one.
    Object(Stat),
}

/// The object's version now.
///
/// # Errors
/// [`RemoteError::Missing`] where there is no object of that name.
pub fn head(path: &Path) -> Result<Stat, RemoteError> {
    client::head(&Place::of(path)?)
}

/// What lies directly below a prefix, in the order of names and at most `max_entries` of it. A prefix
/// with nothing below it is empty, not missing: object stores have no directories.
///
/// # Errors
/// [`RemoteError::Refused`], also where there is no such bucket.
pub fn list(path: &Path, max_entries: usize) -> Result<Vec<Entry>, RemoteError> {
    let mut entries = client::list(&Place::of(path)?, max_entries)?;
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

/// Whether there is an object of that name or one below it.
///
/// # Errors
/// [`RemoteError::Refused`].
pub fn exists(path: &Path) -> Result<bool, RemoteError> {
    match kind(path) {
        Ok(_) => Ok(true),
        Err(RemoteError::Missing) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a path leads to.
///
/// # Errors
/// [`RemoteError::Missing`] where it leads to nothing.
pub fn kind(path: &Path) -> Result<Kind, RemoteError> {
    let place = Place::of(path)?;
    if !client::list(&place, 1)?.is_empty() {
        return Ok(Kind::Prefix);
    }
    client::head(&place).map(Kind::Object)
}

/// The path of a name below a prefix, for messages.
fn shown(place: &Place) -> PathBuf {
    PathBuf::from(place.to_string())
}
