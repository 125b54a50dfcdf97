//! A bounded walk below a root that finds saves by the names of files and directories.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::names;
use super::place::Place;
use super::save::{FileKind, FileStamp, FileStat, FoundSave};

/// Bounds of one scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Directories this far below the root are still read; the root is at 0.
    pub max_depth: usize,
    /// Directory entries looked at in one scan.
    pub max_entries: usize,
}

impl Default for ScanLimits {
    /// Six levels (`user/project/runs/name/seed/checkpoint-N`) and 200 000 entries, about a second of
    /// `readdir` on a local disk.
    fn default() -> Self {
        Self { max_depth: 6, max_entries: 200_000 }
    }
}

/// What one scan found.
#[derive(Debug, Default)]
pub struct ScanOutcome {
    /// Saves by run, then step, then path.
    pub saves: Vec<FoundSave>,
    /// What could not be looked at; saves below these paths may be missing from `saves`.
    pub errors: Vec<ScanError>,
    /// Whether the scan stopped at [`ScanLimits::max_entries`].
    pub truncated: bool,
}

/// Something that a scan could not look at. A file that vanished meanwhile is not an error.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A directory could not be listed.
    #[error("directory `{}` cannot be listed", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be stated.
    #[error("file `{}` cannot be stated", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A symbolic link to a file outside the root; it is not followed.
    #[error("`{}` links out of the watched root to `{}`", path.display(), target.display())]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
}

impl ScanError {
    /// The path that could not be looked at.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. }
            | Self::File { path, .. }
            | Self::LinkOutside { path, .. } => path,
        }
    }
}

/// Finds all saves below `root`.
///
/// Directory links are not followed (the root may be one), links to files only within the root.
/// Hidden and unfinished names, FIFOs, sockets and devices are passed over; nothing is opened but
/// directories.
///
/// - A directory named by a step that directly holds weights is a save of the run that its parent is;
///   without weights, and without files of a format that is not read, it is a save to come.
/// - Any other directory with `model.safetensors`, an index or shards is one save rewritten in place.
/// - Every other weight file is a save by itself, numbered or rewritten in place; of several links to
///   one file the numbered one counts.
#[must_use]
pub fn scan(root: &Path, limits: &ScanLimits) -> ScanOutcome {
    let (real_root, place) = match Place::of(root) {
        Ok(place) => place,
        Err(source) => {
            let errors = vec![ScanError::Directory { path: root.to_owned(), source }];
            return ScanOutcome { errors, ..ScanOutcome::default() };
        }
    };
    let mut walk = Walk {
        root,
        real_root,
        place,
        entries_left: limits.max_entries,
        outcome: ScanOutcome::default(),
        plain: Vec::new(),
    };
    let mut stack = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = stack.pop() {
        let listing = walk.list(&directory);
        if walk.saves_of(&directory, &listing) == Descend::Yes && depth < limits.max_depth {
            let below = listing.directories.iter().rev();
            stack.extend(below.map(|entry| (directory.join(&entry.name), depth + 1)));
        }
    }
    let mut outcome = walk.outcome;
    outcome.saves.extend(without_links(walk.plain));
    outcome.saves.sort_by(|left, right| {
        (&left.run, left.step, &left.path).cmp(&(&right.run, right.step, &right.path))
    });
    outcome
}

#[derive(PartialEq, Eq)]
enum Descend {
    Yes,
    No,
}

/// One directory entry that is worth a look.
struct Entry {
    name: OsString,
    text: String,
}

#[derive(Default)]
struct Listing {
    files: Vec<Entry>,
    directories: Vec<Entry>,
    /// Whether a file belongs to a checkpoint format that is not read.
    has_foreign: bool,
}

struct Walk<'a> {
    root: &'a Path,
    real_root: PathBuf,
    place: Place,
    entries_left: usize,
    outcome: ScanOutcome,
    /// Saves of one plain file, still with all links to it.
    plain: Vec<FoundSave>,
}

impl Walk<'_> {
    fn list(&mut self, directory: &Path) -> Listing {
        let mut listing = Listing::default();
        let mut unfinished = HashSet::new();
        let entries = match self.place.list(directory) {
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
            listing.has_foreign |= names::is_foreign(&text);
            if let Some(whose) = text.strip_suffix("-unfinished") {
                unfinished.insert(whose.to_owned());
            }
            if names::is_ignored(&text) {
                continue;
            }
            let Ok(file_type) = entry.file_type() else { continue };
            if file_type.is_dir() {
                listing.directories.push(Entry { name, text });
            } else if kind_of(&text).is_some() && (file_type.is_file() || file_type.is_symlink()) {
                listing.files.push(Entry { name, text });
            }
        }
        let finished = |entry: &Entry| {
            !unfinished.contains(&entry.text) && !unfinished.contains(names::stem(&entry.text))
        };
        listing.directories.retain(finished);
        listing.files.retain(finished);
        listing.directories.sort_by(|left, right| left.name.cmp(&right.name));
        listing.files.sort_by(|left, right| left.name.cmp(&right.name));
        listing
    }

    /// Records the saves that a directory is or holds.
    fn saves_of(&mut self, directory: &Path, listing: &Listing) -> Descend {
        let is_root = directory == self.root;
        let named = if is_root { &self.real_root } else { directory };
        let name = named.file_name().map(names::escape).unwrap_or_default();
        let has_weights = listing.files.iter().any(|entry| is_tensor_file(&entry.text));
        let Some(step) = names::directory_step(&name).filter(|_| has_weights || !is_root) else {
            self.unnumbered(directory, listing);
            return Descend::Yes;
        };
        let only_shards_below = listing.directories.iter().all(|entry| entry.text == "sharded");
        if has_weights || (!listing.has_foreign && only_shards_below) {
            let parent = if is_root { self.real_root.parent() } else { directory.parent() };
            let run_path = parent.unwrap_or(directory).to_owned();
            let files: Vec<_> = listing.files.iter().collect();
            let save = Whose { run_path, path: directory.to_owned(), step: Some(step) };
            if let Some(save) = self.save(save, directory, &files) {
                self.outcome.saves.push(save);
            }
        }
        Descend::No
    }

    /// Saves of a directory whose name says no step.
    fn unnumbered(&mut self, directory: &Path, listing: &Listing) {
        let (together, apart): (Vec<_>, Vec<_>) =
            listing.files.iter().filter(|entry| is_tensor_file(&entry.text)).partition(|entry| {
                let name = entry.text.as_str();
                name == "model.safetensors" || names::is_index(name) || names::shard(name).is_some()
            });
        let beside: Vec<_> =
            listing.files.iter().filter(|entry| !is_tensor_file(&entry.text)).collect();
        if let [first, more @ ..] = together.as_slice() {
            // A lone model.safetensors among other weight files is named itself: whoever reads the
            // directory would take all of them for one model.
            let is_file = more.is_empty() && !names::is_index(&first.text);
            let path = if is_file && !apart.is_empty() {
                directory.join(&first.name)
            } else {
                directory.to_owned()
            };
            let files: Vec<_> = together.iter().chain(&beside).copied().collect();
            let place = Whose { run_path: directory.to_owned(), path, step: None };
            let save = self.save(place, directory, &files);
            if is_file { self.plain.extend(save) } else { self.outcome.saves.extend(save) }
        }
        for entry in apart {
            let (step, own) = names::file_step(names::stem(&entry.text));
            let run_path = if own.is_empty() { directory.to_owned() } else { directory.join(own) };
            let place = Whose { run_path, path: directory.join(&entry.name), step };
            let files: Vec<_> = std::iter::once(entry).chain(beside.iter().copied()).collect();
            let save = self.save(place, directory, &files);
            self.plain.extend(save);
        }
    }

    /// Stats the files; `None` if one cannot be (which is recorded) or if nothing is left of it.
    fn save(&mut self, place: Whose, directory: &Path, files: &[&Entry]) -> Option<FoundSave> {
        let mut stamps = Vec::with_capacity(files.len());
        let n_tensor_files = files.iter().filter(|entry| is_tensor_file(&entry.text)).count();
        let mut n_gone = 0;
        for entry in files {
            let path = directory.join(&entry.name);
            match self.stat(&path) {
                Ok(Some(stat)) => {
                    let kind = kind_of(&entry.text)?;
                    stamps.push(FileStamp::new(entry.text.clone(), kind, stat));
                }
                Ok(None) => n_gone += usize::from(is_tensor_file(&entry.text)),
                Err(error) => {
                    self.outcome.errors.push(error);
                    return None;
                }
            }
        }
        if n_tensor_files > 0 && n_gone == n_tensor_files {
            return None;
        }
        let Whose { run_path, path, step } = place;
        let run = self.run_name(&run_path);
        Some(FoundSave { run, run_path, path, step, in_place: step.is_none(), files: stamps })
    }

    /// The stat of a regular file, links followed within the root; `None` if it vanished or is
    /// something else.
    fn stat(&self, path: &Path) -> Result<Option<FileStat>, ScanError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(ScanError::File { path: path.to_owned(), source }),
        };
        if let Place::Objects(tree) = &self.place {
            return match tree.stat(path) {
                Ok(stat) => Ok(Some(FileStat::of_object(path, stat))),
                Err(error) => failed(error.into()),
            };
        }
        let stat = match fs::symlink_metadata(path) {
            Ok(stat) => stat,
            Err(source) => return failed(source),
        };
        if !stat.is_symlink() {
            return Ok(stat.is_file().then(|| (&stat).into()));
        }
        match fs::canonicalize(path) {
            Ok(target) if !target.starts_with(&self.real_root) => {
                Err(ScanError::LinkOutside { path: path.to_owned(), target })
            }
            Ok(target) => {
                let of = |stat: fs::Metadata| stat.is_file().then(|| (&stat).into());
                fs::metadata(target).map_or_else(failed, |stat| Ok(of(stat)))
            }
            Err(source) => failed(source),
        }
    }

    fn run_name(&self, run_path: &Path) -> String {
        let below = run_path.strip_prefix(self.root).ok().filter(|below| *below != Path::new(""));
        let Some(below) = below else {
            // The root is the run, or the root is a save and its parent the run.
            let own = if run_path == self.root { &self.real_root } else { run_path };
            return own.file_name().map_or_else(|| "/".to_owned(), names::escape);
        };
        below.iter().map(names::escape).collect::<Vec<_>>().join("/")
    }

    fn failed(&mut self, directory: &Path, source: io::Error) {
        // Rotation deletes directories while we walk; only the root has to be there.
        if directory == self.root || source.kind() != io::ErrorKind::NotFound {
            let path = directory.to_owned();
            self.outcome.errors.push(ScanError::Directory { path, source });
        }
    }
}

/// Where a save is and whose it is.
struct Whose {
    run_path: PathBuf,
    path: PathBuf,
    step: Option<u64>,
}

fn kind_of(name: &str) -> Option<FileKind> {
    match name {
        "config.json" => Some(FileKind::Config),
        "trainer_state.json" => Some(FileKind::TrainerState),
        _ if names::is_index(name) => Some(FileKind::Index),
        _ if names::is_weights(name) => Some(FileKind::Weights),
        _ => None,
    }
}

fn is_tensor_file(name: &str) -> bool {
    matches!(kind_of(name), Some(FileKind::Weights | FileKind::Index))
}

/// Of all links to one file keeps the numbered name, else the one that is not `best` or `last`, else
/// the first.
fn without_links(mut saves: Vec<FoundSave>) -> Vec<FoundSave> {
    saves.sort_by_cached_key(|save| {
        let name = save.weights().next().map_or("", |file| names::stem(&file.name)).to_owned();
        (save.step.is_none(), names::is_alias(&name), save.path.clone())
    });
    let mut seen = HashSet::new();
    saves.retain(|save| {
        let first = save.weights().next().map(|file| (file.dev, file.ino));
        first.is_none_or(|inode| seen.insert(inode))
    });
    saves
}
