//! What the settler remembers of one save and of one run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rules::GiveBack;
use crate::watch::names::{self, AliasRank, FileKind};
use crate::watch::save::{Content, FoundSave};

/// How far below a save its files are: `step/default/ocdbt.process_0/d/file`.
const MAX_BELOW: usize = 6;

/// A content in its place: the same files under another run or step are another save.
pub(super) type Known = (String, Option<u64>, Content);

pub(super) fn known(found: &FoundSave, content: &Content) -> Known {
    (found.run.clone(), found.step, content.clone())
}

/// What the versions of a save are counted by: run and step, or the path if there is no step.
pub(super) type Slot = (String, Option<u64>, Option<PathBuf>);

/// What events have said since the last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    Nothing,
    /// The index or the only weight file was closed.
    Closed,
    /// The directory was renamed to this name, or the mark that called it unfinished was taken away.
    Finished,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) found: FoundSave,
    pub(super) content: Content,
    pub(super) sequence: u64,
    pub(super) seen_first: Duration,
    pub(super) changed_at: Duration,
    pub(super) seen_at: Duration,
    pub(super) scan: u64,
    pub(super) heard: Heard,
    /// Whether files went and none came at the last change.
    pub(super) shrunk: bool,
    /// Whether a mark went that its owner deletes before the rest.
    pub(super) deleting: bool,
    pub(super) rank: AliasRank,
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
            rank: found.alias_rank(),
            found,
            content,
            sequence,
            seen_first: now,
            changed_at: now,
            seen_at: now,
            scan: 0,
            heard: Heard::Nothing,
            shrunk: false,
            deleting: false,
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
        let has = |kind| self.found.file(kind).is_some();
        if has(FileKind::Index) {
            return !self.found.in_place && self.handed.is_none();
        }
        // Of how many files a distributed state is made, their names do not say.
        let weights: Vec<_> = self.found.weights().take(2).collect();
        !has(FileKind::Metadata) && matches!(weights.as_slice(), [only] if !only.name.contains('/'))
    }

    /// What was said of the files before no longer holds.
    pub(super) fn touched(&mut self) {
        self.heard = Heard::Nothing;
    }

    /// Takes in what a scan found in the place of what was there; returns whether the content is
    /// another one.
    pub(super) fn replace(&mut self, found: &FoundSave, content: Content) -> bool {
        let is_new = self.content != content;
        let has_news = !content.iter().all(|file| self.content.binary_search(file).is_ok());
        let (n_before, n_commits) = (self.found.n_commits(), found.n_commits());
        if has_news || n_commits > n_before {
            self.deleting = false;
        } else if n_commits < n_before {
            self.deleting = true;
        }
        if is_new {
            self.shrunk = !has_news && !content.is_empty();
            self.heard = Heard::Nothing;
        }
        self.content = content;
        self.found = found.clone();
        is_new
    }

    /// Whether the path is one of the files that make up the content.
    pub(super) fn is_content_file(&self, path: &Path) -> bool {
        let name = self.name_of(path);
        let counts =
            |kind| matches!(kind, FileKind::Weights | FileKind::Index | FileKind::Metadata);
        self.found.files.iter().any(|file| file.name == name && counts(file.kind))
    }

    /// Whether the save is one file, which is then called as the save.
    pub(super) fn is_file(&self) -> bool {
        let name = self.found.path.file_name().map(names::escape).unwrap_or_default();
        self.found.weights().any(|file| file.name == name)
    }

    /// What the stamp of a file of this path is called.
    pub(super) fn name_of(&self, path: &Path) -> String {
        match path.strip_prefix(&self.found.path) {
            Ok(below) if below != Path::new("") => {
                below.iter().map(names::escape).collect::<Vec<_>>().join("/")
            }
            _ => path.file_name().map(names::escape).unwrap_or_default(),
        }
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
    let path = path.ancestors().take(MAX_BELOW).find(|path| entries.contains_key(*path))?;
    entries.get_mut(path)
}

pub(super) fn slot_of(run: &str, step: Option<u64>, path: &Path) -> Slot {
    (run.to_owned(), step, step.is_none().then(|| path.to_owned()))
}

pub(super) fn is_numbered_directory(found: &FoundSave) -> bool {
    let name = found.path.file_name().map(names::escape).unwrap_or_default();
    found.step.is_some() && found.files.iter().all(|file| file.name != name)
}
