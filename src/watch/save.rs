//! A save as a scan finds it: names and stamps, no content.

use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::names::{self, AliasRank, FileKind};
use crate::remote;

/// Identity and state of one file, from one `stat`.
///
/// Times are only ever compared with times of the same file system, never with a clock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Name within the directory, with `/` where it lies in a part of the save; bytes that are not UTF-8 are spelled out.
    pub name: String,
    /// What the file is for.
    pub kind: FileKind,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content, ns since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, ns since 1970.
    pub ctime_ns: i64,
    /// Number of hard links.
    pub nlink: u64,
}

/// What a look at a file tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileStat {
    dev: u64,
    ino: u64,
    size: u64,
    pub(super) mtime_ns: i64,
    ctime_ns: i64,
    nlink: u64,
}

fn nanoseconds(s: i64, ns: i64) -> i64 {
    s.saturating_mul(1_000_000_000).saturating_add(ns)
}

impl From<&Metadata> for FileStat {
    fn from(stat: &Metadata) -> Self {
        Self {
            dev: stat.dev(),
            ino: stat.ino(),
            size: stat.size(),
            mtime_ns: nanoseconds(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: nanoseconds(stat.ctime(), stat.ctime_nsec()),
            nlink: stat.nlink(),
        }
    }
}

impl FileStat {
    /// What tells the versions of an object apart stands for its inode, and its path with it: equal
    /// contents have equal tags, and yet no object is a link to another.
    pub(super) fn of_object(path: &Path, stat: remote::Stat) -> Self {
        let remote::Stat { size, modified, tag } = stat;
        let place = xxh3_64(path.as_os_str().as_encoded_bytes());
        let mtime_ns = nanoseconds(modified, 0);
        Self { dev: place, ino: tag, size, mtime_ns, ctime_ns: mtime_ns, nlink: 1 }
    }
}

impl FileStamp {
    pub(super) fn new(name: String, kind: FileKind, stat: FileStat) -> Self {
        let FileStat { dev, ino, size, mtime_ns, ctime_ns, nlink } = stat;
        Self { name, kind, dev, ino, size, mtime_ns, ctime_ns, nlink }
    }
}

/// What tells one content of a save from another: device, inode, size and mtime of its weight, index
/// and metadata files. Names are left out (a renamed directory is the same save), so are ctime and link
/// count (a later hard link or `chmod` is no new content).
pub(super) type Content = Vec<(u64, u64, u64, i64)>;

/// What a text file of a run says about its saves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The directory that holds it and the saves.
    pub directory: PathBuf,
    /// Its text: the name of a directory, or a step.
    pub text: String,
    /// Last change of the text, ns since 1970.
    pub mtime_ns: i64,
}

impl Pointer {
    /// Whether it was written after weights of this mtime and names their save or a later one.
    pub(super) fn covers(&self, save: &FoundSave, newest_ns: i64) -> bool {
        let name = save.path.file_name().map(names::escape).unwrap_or_default();
        let is_later =
            || names::pointed_step(&self.text).zip(save.step).is_some_and(|(at, own)| at >= own);
        self.mtime_ns >= newest_ns && (self.text == name || is_later())
    }
}

/// One save that a scan found, complete or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSave {
    /// Name of its run: the run's path below the root joined by `/`, or the root's own name.
    pub run: String,
    /// Path of the run; `<directory>/<stem>` where several plain files share a directory.
    pub run_path: PathBuf,
    /// The directory or file that is the save.
    pub path: PathBuf,
    /// Step from the name.
    pub step: Option<u64>,
    /// Whether the next save is written over this one.
    pub in_place: bool,
    /// Stamps of all files whose change makes a new content or whose presence says how far the save
    /// is, by name; those in parts of the save follow.
    pub files: Vec<FileStamp>,
    /// Other names of the file in the same directory that were found, links of either kind.
    pub also: Vec<PathBuf>,
}

impl FoundSave {
    /// The weight files.
    pub fn weights(&self) -> impl Iterator<Item = &FileStamp> {
        self.files.iter().filter(|file| file.kind == FileKind::Weights)
    }

    /// The first file of a kind.
    #[must_use]
    pub fn file(&self, kind: FileKind) -> Option<&FileStamp> {
        self.files.iter().find(|file| file.kind == kind)
    }

    /// Whether the directory exists but holds no weight file yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.weights().next().is_none()
    }

    /// Whether the trainer has written its own record.
    #[must_use]
    pub fn has_trainer_state(&self) -> bool {
        self.file(FileKind::TrainerState).is_some()
    }

    /// Sum of the sizes of the weight files, bytes.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.weights().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Whether a file is missing without which the save is nothing yet, however long it lies there:
    /// - a distributed checkpoint has `.metadata`, or `__r.metadata` of every rank that wrote;
    /// - OLMo-core's, which has a part `model_and_optim`, has `.metadata.json`: it is written last and
    ///   deleted first.
    pub(super) fn lacks_required(&self) -> bool {
        let is_olmo = self.files.iter().any(|file| file.name.starts_with("model_and_optim/"));
        if !is_olmo && !self.weights().any(|file| file.name.ends_with(".distcp")) {
            return false;
        }
        let marks = self.files.iter().filter(|file| file.kind != FileKind::Weights);
        let marks: HashSet<&str> = marks.map(|file| file.name.as_str()).collect();
        let lacks_metadata = |file: &FileStamp| {
            let at = file.name.rfind('/').map_or(0, |slash| slash + 1);
            let (home, name) = file.name.split_at(at);
            names::rank_of(name).is_some_and(|rank| {
                !marks.contains(format!("{home}.metadata").as_str())
                    && !marks.contains(format!("{home}__{rank}.metadata").as_str())
            })
        };
        (is_olmo && !marks.contains(".metadata.json")) || self.weights().any(lacks_metadata)
    }

    /// What its name is beside the other files of its directory.
    pub(super) fn alias_rank(&self) -> AliasRank {
        let name = self.path.file_name().map(names::escape).unwrap_or_default();
        if self.step.is_some() || !names::is_weights(&name) {
            return AliasRank::Own;
        }
        names::alias_rank(names::stem(&name))
    }

    /// How many marks of a committed save are there that are deleted before anything else.
    pub(super) fn n_commits(&self) -> usize {
        self.files.iter().filter(|file| names::is_commit(&file.name)).count()
    }

    /// Whether the names of the weight files leave no gap: at least one, none empty, and of every
    /// `SET-i-of-N` all N.
    pub(super) fn looks_complete(&self) -> bool {
        let mut missing = BTreeMap::new();
        for file in self.weights() {
            if let Some(shard) = names::shard(&file.name) {
                let left = missing.entry((shard.set, shard.n_shards)).or_insert(shard.n_shards);
                *left = left.saturating_sub(1);
            }
        }
        !self.is_pending()
            && !self.lacks_required()
            && self.weights().all(|file| file.size > 0)
            && missing.values().all(|left| *left == 0)
    }

    pub(super) fn content(&self) -> Content {
        let counts =
            |kind| matches!(kind, FileKind::Weights | FileKind::Index | FileKind::Metadata);
        let files = self.files.iter().filter(|file| counts(file.kind));
        let mut content: Content =
            files.map(|file| (file.dev, file.ino, file.size, file.mtime_ns)).collect();
        content.sort_unstable();
        content
    }

    pub(super) fn newest_weights_ns(&self) -> Option<i64> {
        self.weights().map(|file| file.mtime_ns).max()
    }

    pub(super) fn oldest_weights_ns(&self) -> Option<i64> {
        self.weights().map(|file| file.mtime_ns).min()
    }
}
