//! The text of the files that name the last complete save.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::Walk;
use super::list::Listing;
use crate::disk;
use crate::remote::{Object, Tree};
use crate::watch::ground::Ground;
use crate::watch::names;
use crate::watch::names::FileKind;
use crate::watch::save::{FileStamp, FileStat, Pointer};

/// Longest text; a tag is some dozen bytes.
const MAX_TEXT: u64 = 64;

impl Walk<'_> {
    /// Reads the pointers of a directory that holds numbered directories. What cannot be read says
    /// nothing: the saves are then found complete by waiting.
    pub(super) fn read_pointers(&mut self, directory: &Path, listing: &Listing) {
        let has_saves =
            listing.directories.iter().any(|entry| names::directory_step(&entry.text).is_some());
        for entry in listing.pointers.iter().filter(|_| has_saves) {
            let path = directory.join(&entry.name);
            let found = match &self.ground {
                Ground::Disk => read(&path),
                Ground::Objects(tree) => read_object(tree, &path),
            };
            if let Ok((text, mtime_ns)) = found {
                let directory = directory.to_owned();
                self.outcome.pointers.push(Pointer { directory, text, mtime_ns });
            }
        }
    }
}

/// The same of an object; asked for again only when it has changed.
fn read_object(tree: &Tree, path: &Path) -> io::Result<(String, i64)> {
    let stat = tree.stat(path)?;
    if stat.size > MAX_TEXT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; usize::try_from(stat.size).unwrap_or(0)];
    Object::of(path, stat).read_exact_at(&mut bytes, 0)?;
    let stamp = FileStamp::new(String::new(), FileKind::Marker, FileStat::of_object(path, stat));
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((text.trim().to_owned(), stamp.mtime_ns))
}

/// Text and mtime of a small regular file. The descriptor is gone before this returns, and a FIFO or
/// a link is not waited for or followed.
fn read(path: &Path) -> io::Result<(String, i64)> {
    let _under_way = disk::operation();
    let file = File::from(disk::open_quietly(path, OFlags::NONBLOCK | OFlags::NOFOLLOW)?);
    let stat = file.metadata()?;
    if !stat.is_file() || stat.len() > MAX_TEXT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let stamp = FileStamp::new(String::new(), FileKind::Marker, (&stat).into());
    let mut text = String::new();
    file.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok((text.trim().to_owned(), stamp.mtime_ns))
}
