//! What a scan walks through: directories on disk, or the keys of an object store.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{self, EntryKind};
use crate::remote::{self, Tree};

/// Where a root lies.
pub(super) enum Ground {
    Disk,
    /// All that lay below the root when the scan began.
    Objects(Tree),
}

/// One name in a directory.
pub(super) enum Found {
    Disk(disk::Entry),
    Object(remote::Entry),
}

/// What has that name.
pub(super) enum FoundType {
    Disk(EntryKind),
    Prefix,
    Object,
}

impl Ground {
    /// The root without links, and what it is.
    pub(super) fn of(root: &Path) -> io::Result<(PathBuf, Self)> {
        if remote::is_remote(root) {
            return Ok((root.to_owned(), Self::Objects(Tree::below(root)?)));
        }
        let _under_way = disk::operation();
        Ok((fs::canonicalize(root)?, Self::Disk))
    }

    pub(super) fn list(
        &self,
        directory: &Path,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<Found>>>> {
        Ok(match self {
            Self::Disk => Box::new(disk::list(directory)?.map(|entry| entry.map(Found::Disk))),
            Self::Objects(tree) => {
                Box::new(tree.list(directory)?.into_iter().map(|entry| Ok(Found::Object(entry))))
            }
        })
    }
}

impl Found {
    pub(super) fn file_name(&self) -> OsString {
        match self {
            Self::Disk(entry) => entry.name().to_owned(),
            Self::Object(entry) => entry.name.clone().into(),
        }
    }

    pub(super) fn file_type(&self) -> io::Result<FoundType> {
        Ok(match self {
            Self::Disk(entry) => FoundType::Disk(entry.kind()?),
            Self::Object(entry) if entry.stat.is_none() => FoundType::Prefix,
            Self::Object(_) => FoundType::Object,
        })
    }
}

impl FoundType {
    pub(super) fn is_dir(&self) -> bool {
        match self {
            Self::Disk(kind) => *kind == EntryKind::Directory,
            Self::Prefix => true,
            Self::Object => false,
        }
    }

    pub(super) fn is_file(&self) -> bool {
        match self {
            Self::Disk(kind) => *kind == EntryKind::File,
            Self::Prefix => false,
            Self::Object => true,
        }
    }

    pub(super) fn is_symlink(&self) -> bool {
        matches!(self, Self::Disk(EntryKind::Link))
    }
}
