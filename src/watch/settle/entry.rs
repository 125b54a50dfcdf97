//! What the settler remembers of one save and of one run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rules::GiveBack;
use crate::watch::names;
use crate::watch::save::{Content, FileKind, FoundSave};

/// A content in its place: the same files under another run or step are another save.
pub(super) type Known = (String, Option<u64>, Content);

pub(super) fn known(found: &FoundSave, content: &Content) -> Known {
    (found.run.clone(), found.step, content.clone())
}

/// What the versions of a save are counted by: run and step, or the path if there is no step.
pub(super) type Slot = (String, Option<u64>, Option<PathBuf>);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) found: FoundSave,
    pub(super) content: Content,
    pub(super) sequence: u64,
    pub(super) seen_first: Duration,
    pub(super) changed_at: Duration,
    pub(super) seen_at: Duration,
    pub(super) scan: u64,
    /// Whether the index or the only weight file was closed since the last change.
    pub(super) closed: bool,
    /// Whether the directory was renamed to this name since the last change.
    pub(super) moved_in: bool,
    pub(super) handed: Option<Content>,
    pub(super) returned: Option<Returned>,
}

#[derive(Debug)]
pub(super) struct Returned {
    pub(super) why: GiveBack,
    pub(super) n_times: u32,
    pub(super) retry_at: Duration,
}

/// What the saves of a run say of one another, as of the last scan.
#[derive(Debug, Default)]
pub(super) struct RunState {
    pub(super) has_trainer_state: bool,
    /// Complete steps, ascending, each with the oldest weights' mtime; later the largest of these of
    /// this and all later steps.
    pub(super) complete: Vec<(u64, i64)>,
}

impl Entry {
    pub(super) fn new(now: Duration, sequence: u64, found: FoundSave, content: Content) -> Self {
        Self {
            found,
            content,
            sequence,
            seen_first: now,
            changed_at: now,
            seen_at: now,
            scan: 0,
            closed: false,
            moved_in: false,
            handed: None,
            returned: None,
        }
    }

    /// Whether there is content that has not been handed out. Fewer files of what was handed out are
    /// a deletion half done, not a new version.
    pub(super) fn is_waiting(&self) -> bool {
        self.handed.as_ref().is_none_or(|handed| {
            !self.content.iter().all(|file| handed.binary_search(file).is_ok())
        })
    }

    /// Whether nothing can be missing where files appear whole: the lone weight file is there, or all
    /// shards are for the first time.
    pub(super) fn is_whole(&self) -> bool {
        match self.found.file(FileKind::Index) {
            Some(_) => !self.found.in_place && self.handed.is_none(),
            None => self.found.weights().count() == 1,
        }
    }

    /// What was said of the files before no longer holds.
    pub(super) fn touched(&mut self) {
        self.closed = false;
        self.moved_in = false;
    }

    pub(super) fn is_tensor_file(&self, path: &Path) -> bool {
        let name = path.file_name().map(names::escape).unwrap_or_default();
        let is_tensor = |kind| matches!(kind, FileKind::Weights | FileKind::Index);
        self.found.files.iter().any(|file| file.name == name && is_tensor(file.kind))
    }

    pub(super) fn slot(&self) -> Slot {
        slot_of(&self.found.run, self.found.step, &self.found.path)
    }
}

impl RunState {
    /// Whether a later step is complete and not older than weights of this mtime. Later by number
    /// alone is not enough: a run resumed at step 500 still has the old step 1000.
    pub(super) fn is_superseded(&self, step: u64, newest_ns: i64) -> bool {
        let later = self.complete.partition_point(|(other, _)| *other <= step);
        self.complete.get(later).is_some_and(|(_, mtime)| *mtime >= newest_ns)
    }
}

/// The save that a hint's path is, or is a file of.
pub(super) fn entry_of<'a>(
    entries: &'a mut HashMap<PathBuf, Entry>,
    path: &Path,
) -> Option<&'a mut Entry> {
    let path = if entries.contains_key(path) { path } else { path.parent()? };
    entries.get_mut(path)
}

pub(super) fn slot_of(run: &str, step: Option<u64>, path: &Path) -> Slot {
    (run.to_owned(), step, step.is_none().then(|| path.to_owned()))
}

pub(super) fn is_numbered_directory(found: &FoundSave) -> bool {
    let name = found.path.file_name().map(names::escape).unwrap_or_default();
    found.step.is_some() && !names::is_weights(&name)
}
