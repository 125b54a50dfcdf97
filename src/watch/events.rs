//! File events as hints, by inotify where it works.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode,
};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tracing::{debug, info, warn};

use super::hint::FileEvent;
use super::inbox::Inbox;
use super::names;
use super::scan::ScanLimits;
use super::shard::Shard;
use crate::disk::{self, EntryKind};
use crate::remote::is_remote;

/// Hints kept while nobody reads them; more are dropped for one [`FileEvent::Rescan`].
const MAX_HINTS: usize = 4096;

/// Directories watched at most; the kernel's limit is shared with the training job's own programs.
const MAX_WATCHES: usize = 16_384;

/// Reason for polling when the kernel refuses another watch.
const NO_WATCHES: &str = "fs.inotify.max_user_watches is used up";

/// How changes below a root become known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMode {
    /// By events, and by scans at long intervals.
    Events,
    /// By scans alone.
    Polling {
        /// Why there are no events.
        why: String,
    },
}

/// Source of hints about one root.
///
/// It never fails: without inotify it sends no hints and [`Watcher::mode`] says why. Directories are
/// watched one by one and in the reader's thread, before hints are handed out. A scan after
/// [`Watcher::wait`] therefore sees what was written into a new directory before its watch stood.
#[derive(Debug)]
pub struct Watcher {
    root: PathBuf,
    /// The root without links, as the watch needs it; hints are told below `root`.
    real_root: PathBuf,
    max_depth: usize,
    shard: Shard,
    inotify: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    mode: WatchMode,
    inbox: Arc<Inbox>,
}

impl Watcher {
    /// Watches `root` as deep as a scan with `limits` looks.
    #[must_use]
    pub fn new(root: &Path, limits: &ScanLimits) -> Self {
        let mut watcher = Self {
            root: root.to_owned(),
            real_root: root.to_owned(),
            max_depth: limits.max_depth,
            shard: limits.shard,
            inotify: None,
            watched: BTreeSet::new(),
            mode: WatchMode::Events,
            inbox: Arc::new(Inbox::new(MAX_HINTS)),
        };
        if is_remote(root) {
            watcher.mode = WatchMode::Polling { why: "object store".to_owned() };
            return watcher;
        }
        if let Some(name) = network_file_system(root) {
            info!(?root, file_system = name, "no file events here, polling");
            watcher.mode = WatchMode::Polling { why: format!("network file system {name}") };
            return watcher;
        }
        let inbox = Arc::clone(&watcher.inbox);
        let config = notify::Config::default().with_follow_symlinks(false);
        match RecommendedWatcher::new(move |event| receive(&inbox, event), config) {
            Ok(inotify) => {
                watcher.inotify = Some(inotify);
                watcher.watch_root();
            }
            Err(error) => watcher.poll(&format!("inotify cannot be started: {error}")),
        }
        watcher
    }

    /// How changes below the root become known now.
    #[must_use]
    pub fn mode(&self) -> &WatchMode {
        &self.mode
    }

    /// How often hints were lost because nobody read them or the kernel's queue was full.
    #[must_use]
    pub fn n_overflows(&self) -> u64 {
        self.inbox.n_overflows()
    }

    /// Waits for a hint, at most `timeout`, and returns all that are there; none in polling mode.
    /// Hints are gathered for a tenth of a second, while files are only being written for a second.
    ///
    /// Scan after the call: what these hints speak of is then on disk to be seen.
    pub fn wait(&mut self, timeout: Duration) -> Vec<FileEvent> {
        // While the root is missing there is nothing to be told of its return.
        if self.inotify.is_some() && self.watched.is_empty() {
            self.watch_root();
        }
        let (mut hints, failure) = self.inbox.take(timeout);
        if let Some(why) = failure {
            self.poll(&why);
        }
        if hints.contains(&FileEvent::Rescan) && self.inotify.is_some() {
            self.watched.clear();
            self.watch_root();
        }
        for hint in &mut hints {
            self.follow(hint);
        }
        if self.inotify.is_some() && self.watched.is_empty() {
            self.watch_root();
        }
        hints
    }

    /// Keeps the watches in step with the directories and tells the hint's path below the root as it
    /// was given.
    fn follow(&mut self, hint: &mut FileEvent) {
        let path = match hint {
            FileEvent::Rescan => return,
            FileEvent::Touched(path) | FileEvent::Closed(path) | FileEvent::Removed(path) => {
                path.clone()
            }
        };
        if matches!(hint, FileEvent::Removed(_)) {
            let below = self.watched.range(path.clone()..).take_while(|dir| dir.starts_with(&path));
            let below: Vec<_> = below.cloned().collect();
            for dir in &below {
                self.watched.remove(dir);
            }
        } else if fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_dir()) {
            self.watch_tree(&path);
        }
        let below = path.strip_prefix(&self.real_root).map(|below| self.root.join(below));
        let told = below.unwrap_or(path);
        *hint = match hint {
            FileEvent::Touched(_) => FileEvent::Touched(told),
            FileEvent::Closed(_) => FileEvent::Closed(told),
            FileEvent::Removed(_) if told == self.root => FileEvent::Rescan,
            FileEvent::Removed(_) | FileEvent::Rescan => FileEvent::Removed(told),
        };
    }

    fn watch_root(&mut self) {
        let _under_way = disk::operation();
        match fs::canonicalize(&self.root) {
            Ok(real_root) => {
                self.real_root.clone_from(&real_root);
                self.mode = WatchMode::Events;
                self.watch_tree(&real_root);
            }
            Err(error) => {
                self.mode = WatchMode::Polling { why: format!("root cannot be resolved: {error}") };
            }
        }
    }

    /// Watches a directory and all below it that a scan would look into.
    fn watch_tree(&mut self, top: &Path) {
        let depth_of = |dir: &Path, root: &Path| {
            dir.strip_prefix(root).map_or(0, |below| below.iter().count())
        };
        let mut stack = vec![top.to_owned()];
        while let Some(dir) = stack.pop() {
            let name = dir.file_name().map(names::escape).unwrap_or_default();
            let depth = depth_of(&dir, &self.real_root);
            if depth > self.max_depth || (depth > 0 && names::is_ignored(&name)) {
                continue;
            }
            // A save of a run that others measure.
            let holder =
                dir.parent().filter(|_| depth > 0 && names::directory_step(&name).is_some());
            if holder.is_some_and(|holder| !self.shard.has(&self.real_root, holder)) {
                continue;
            }
            if !self.watch_directory(&dir) {
                continue;
            }
            // Listed after its watch stands: a directory made in between is seen either way.
            let Ok(entries) = disk::list(&dir) else { continue };
            let is_dir =
                |entry: &disk::Entry| entry.kind().is_ok_and(|kind| kind == EntryKind::Directory);
            stack.extend(entries.flatten().filter(is_dir).map(|entry| dir.join(entry.name())));
        }
    }

    /// Returns whether the directory is watched and worth listing.
    fn watch_directory(&mut self, dir: &Path) -> bool {
        let Some(inotify) = &mut self.inotify else { return false };
        if self.watched.len() >= MAX_WATCHES {
            self.poll(&format!("more than {MAX_WATCHES} directories"));
            return false;
        }
        match inotify.watch(dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(dir.to_owned());
                true
            }
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                self.poll(NO_WATCHES);
                false
            }
            Err(error) => {
                // A directory that vanished or may not be read; scans report the latter.
                debug!(path = ?dir, error = %error, "directory not watched");
                if dir == self.real_root {
                    self.mode = WatchMode::Polling { why: error.to_string() };
                }
                false
            }
        }
    }

    /// Gives all watches back, for good: half a set would hold the limit that others share and would
    /// still miss saves.
    fn poll(&mut self, why: &str) {
        warn!(root = ?self.root, why, "no file events, polling");
        self.inotify = None;
        self.watched.clear();
        self.mode = WatchMode::Polling { why: why.to_owned() };
    }
}

/// Runs in the event thread, which must never wait: the kernel's queue is bounded too.
fn receive(inbox: &Inbox, event: notify::Result<notify::Event>) {
    match event {
        Ok(event) if event.need_rescan() => inbox.lost(),
        Ok(event) => {
            // Writing goes on for as long as a save takes; only its end is worth a scan at once.
            let is_writing = matches!(
                event.kind,
                EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_))
            );
            for hint in hints_of(event) {
                inbox.push(hint, !is_writing);
            }
        }
        Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => inbox.fail(NO_WATCHES),
        Err(_) => inbox.lost(),
    }
}

/// What an event hints at. Opening and reading say nothing (we do both), nor do changes of mode or
/// owner, which the stamps of the next scan show; logs and other files of no interest are dropped
/// here, lest a chatty job fill the queue.
fn hints_of(event: notify::Event) -> Vec<FileEvent> {
    let to_hint: fn(PathBuf) -> FileEvent = match event.kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
            FileEvent::Touched
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => FileEvent::Closed,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            FileEvent::Removed
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::Any | RenameMode::Other)) => {
            return vec![FileEvent::Rescan];
        }
        // `Both` repeats a `From` and a `To`.
        _ => return Vec::new(),
    };
    let may_be_directory = matches!(
        event.kind,
        EventKind::Create(CreateKind::Folder | CreateKind::Any)
            | EventKind::Remove(RemoveKind::Folder | RemoveKind::Any | RemoveKind::Other)
            | EventKind::Modify(ModifyKind::Name(_))
    );
    let paths = event.paths.into_iter();
    paths.filter(|path| may_be_directory || is_of_interest(path)).map(to_hint).collect()
}

fn is_of_interest(path: &Path) -> bool {
    let name = path.file_name().map(names::escape).unwrap_or_default();
    let home = path.parent().and_then(Path::file_name).map(names::escape).unwrap_or_default();
    name == names::END_MARK
        || names::is_pointer(&name)
        || names::unfinished(&name).is_some()
        || names::kind_of(&name).or_else(|| names::orbax_kind(&name, &home)).is_some()
}

/// Name of the network (or user-space) file system that holds `path`, `None` on a local one or where
/// it cannot be told. Such file systems send no events for what other machines write.
///
/// Magic numbers as in `statfs(2)` and coreutils' `stat.c`; virtiofs shows the number of FUSE.
#[must_use]
pub fn network_file_system(path: &Path) -> Option<&'static str> {
    let _under_way = disk::operation();
    let magic = rustix::fs::statfs(path).ok()?.f_type;
    // The field is signed on some targets and the numbers are 32 bits wide.
    let magic = u64::try_from(magic & 0xFFFF_FFFF).ok()?;
    file_system_name(magic)
}

fn file_system_name(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "nfs",
        0x0BD0_0BD0 => "lustre",
        0x6573_5546 => "fuse",
        0xFF53_4D42 => "cifs",
        0xFE53_4D42 => "smb2",
        0x517B => "smb",
        0x00C3_6400 => "ceph",
        0x4750_4653 => "gpfs",
        0x0102_1997 => "9p",
        0x1983_0326 => "beegfs",
        0x5346_414F | 0x6B41_4653 => "afs",
        0x7375_7245 => "coda",
        0x7461_636F => "ocfs2",
        0x0116_1970 => "gfs2",
        0xAAD7_AAEA => "panfs",
        0x786F_4256 => "vboxsf",
        _ => return None,
    })
}
