//! The entries of one directory that are worth a look.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::{ScanError, Walk};
use crate::disk::is_left_open;
use crate::watch::names::{self, FileKind};

/// A file of a save, not yet looked at.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Path below the directory of the save, for the system.
    pub(super) below: PathBuf,
    /// The same for people.
    pub(super) name: String,
    pub(super) kind: FileKind,
}

impl Member {
    /// Whether it holds tensors or says which files do.
    pub(super) fn has_tensors(&self) -> bool {
        matches!(self.kind, FileKind::Weights | FileKind::Index)
    }

    /// The name without the directories.
    pub(super) fn own_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The directory that it lies in.
    pub(super) fn home(&self) -> PathBuf {
        self.below.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Whether it is one of the files that make up a directory.
    pub(super) fn is_together(&self) -> bool {
        self.name.contains('/') || names::is_together(&self.name)
    }

    /// Whether the file can be read without its neighbours.
    pub(super) fn is_readable_alone(&self) -> bool {
        self.kind == FileKind::Weights && names::is_alone(&self.name)
    }

    /// Whether this file, which holds no tensors, belongs to a weight file of that name.
    pub(super) fn is_beside(&self, weights: &str) -> bool {
        match self.kind {
            FileKind::Config | FileKind::TrainerState => true,
            // Keras' backup of a run.
            FileKind::Marker => {
                self.name == "training_metadata.json" && weights == "latest.weights.h5"
            }
            FileKind::Weights | FileKind::Index | FileKind::Metadata => false,
        }
    }
}

/// A directory or file that is not a member.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) text: String,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a sign of its own")]
pub(super) struct Listing {
    /// The directory's own name, as people read it.
    pub(super) text: String,
    pub(super) files: Vec<Member>,
    pub(super) directories: Vec<Entry>,
    /// Text files that name a save.
    pub(super) pointers: Vec<Entry>,
    /// Whether a file belongs to a checkpoint of which nothing can be read.
    has_foreign: bool,
    /// Whether a file is one that only Orbax writes.
    pub(super) has_orbax: bool,
    /// Whether a deleted file is still held open by somebody, and so keeps its place.
    pub(super) has_left_open: bool,
    /// Whether someone said that training has ended here.
    pub(super) has_end_mark: bool,
}

impl Listing {
    /// Whether a numbered directory without weights may be a save to come.
    pub(super) fn may_get_weights(&self) -> bool {
        let is_known = |entry: &Entry| {
            let name = entry.text.as_str();
            names::is_part(name, &self.text)
                || matches!(name, "train" | "tokenizer" | "default" | "sharded")
        };
        !self.has_foreign && self.directories.iter().all(is_known)
    }
}

impl Walk<'_> {
    /// Lists a directory; `kind` says what a file of a name is for.
    pub(super) fn list(
        &mut self,
        directory: &Path,
        kind: impl Fn(&str) -> Option<FileKind>,
    ) -> Listing {
        let named = if directory == self.root { &self.real_root } else { directory };
        let text = named.file_name().map(names::escape).unwrap_or_default();
        let mut listing = Listing { text, ..Listing::default() };
        let mut unfinished = HashSet::new();
        let entries = match self.ground.list(directory) {
            Ok(entries) => entries,
            Err(source) => {
                self.failed(directory, source);
                return listing;
            }
        };
        for entry in entries {
            if self.entries_left == 0 {
                self.outcome.truncated = true;
                break;
            }
            self.entries_left -= 1;
            let entry = match entry {
                Ok(entry) => entry,
                Err(source) => {
                    self.failed(directory, source);
                    break;
                }
            };
            let (name, text) = (entry.file_name(), names::escape(&entry.file_name()));
            listing.has_left_open |= is_left_open(&name);
            listing.has_foreign |= names::is_foreign(&text);
            listing.has_orbax |= names::is_orbax_mark(&text)
                || matches!(text.as_str(), "manifest.ocdbt" | "_METADATA");
            if let Some(whose) = names::unfinished(&text) {
                unfinished.insert(whose.to_owned());
            }
            if text == names::END_MARK {
                listing.has_end_mark = entry.file_type().is_ok_and(|kind| kind.is_file());
                continue;
            }
            if names::is_ignored(&text) && !names::is_hidden_mark(&text) {
                continue;
            }
            let Ok(file_type) = entry.file_type() else { continue };
            if file_type.is_dir() {
                listing.directories.push(Entry { name, text });
            } else if let Some(kind) = kind(&text)
                && (file_type.is_file() || file_type.is_symlink())
            {
                listing.files.push(Member { below: name.into(), name: text, kind });
            } else if file_type.is_file() && names::is_pointer(&text) {
                listing.pointers.push(Entry { name, text });
            }
        }
        let finished =
            |text: &str| !unfinished.contains(text) && !unfinished.contains(names::stem(text));
        listing.directories.retain(|entry| finished(&entry.text));
        listing.files.retain(|member| finished(&member.name));
        listing.directories.sort_by(|left, right| left.name.cmp(&right.name));
        listing.files.sort_by(|left, right| left.below.cmp(&right.below));
        listing
    }

    fn failed(&mut self, directory: &Path, source: io::Error) {
        // Rotation deletes directories while we walk; only the root has to be there.
        if directory == self.root || source.kind() != io::ErrorKind::NotFound {
            let path = directory.to_owned();
            self.outcome.errors.push(ScanError::Directory { path, source });
        }
    }
}
