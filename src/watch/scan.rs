//! A bounded walk below a root that finds saves by the names of files and directories.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ground::Ground;
use super::names;
use super::save::{FileStamp, FileStat, FoundSave, Pointer};
use super::shard::{Shard, holder};
use crate::disk;
use list::{Listing, Member};

mod list;
mod parts;
mod pointer;

/// Bounds of one scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Directories this far below the root are still read; the root is at 0. The parts of a save
    /// that lie in directories of their own are looked at wherever the save is.
    pub max_depth: usize,
    /// Directory entries looked at in one scan.
    pub max_entries: usize,
    /// Whose runs are looked for. Of others no file is opened, and no directory listed whose name says
    /// that it is a save.
    pub shard: Shard,
}

impl Default for ScanLimits {
    /// Six levels (`user/project/runs/name/seed/checkpoint-N`) and 200 000 entries, about a second of
    /// `readdir` on a local disk.
    fn default() -> Self {
        Self { max_depth: 6, max_entries: 200_000, shard: Shard::default() }
    }
}

/// What one scan found.
#[derive(Debug, Default)]
pub struct ScanOutcome {
    /// Saves by run, then step, then path.
    pub saves: Vec<FoundSave>,
    /// What the text files say that name the last complete save of their directory.
    pub pointers: Vec<Pointer>,
    /// Where someone said that training has ended.
    pub end_marks: Vec<EndMark>,
    /// What could not be looked at; saves below these paths may be missing from `saves`.
    pub errors: Vec<ScanError>,
    /// Whether the scan stopped at [`ScanLimits::max_entries`].
    pub truncated: bool,
}

/// A file `.weightvane-ended`: what was saved in its directory and below it before is all there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndMark {
    /// The directory that holds it.
    pub directory: PathBuf,
    /// When it was written last, ns since 1970.
    pub mtime_ns: i64,
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
    /// Whether something is missing from what was found. What is not to be looked at is not.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::LinkOutside { .. })
    }

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
/// Hidden (but for the marks of an end) and unfinished names, FIFOs, sockets and devices are passed over; nothing is opened but
/// directories, and the few bytes of a file called `latest` or `latest_checkpointed_iteration.txt`.
///
/// - A directory named by a step that holds weights, itself or in the parts that its framework makes
///   (`model_and_optim`, `mp_rank_00`, `pytorch_model_fsdp_0`, ...), is a save of the run that its
///   parent is; without weights, and without files of a format that is not read, it is a save to
///   come. A plain number is a step where the directory looks like Orbax.
/// - Any other directory with `model.safetensors`, `pytorch_model.bin`, an adapter, an index, shards
///   or parts is one save rewritten in place, in however many formats.
/// - Every other weight file is a save by itself, numbered or rewritten in place; of several links to
///   one file the numbered one counts. More than some dozens of files whose names say nothing of
///   training are data and no saves.
#[must_use]
pub fn scan(root: &Path, limits: &ScanLimits) -> ScanOutcome {
    let (real_root, ground) = match Ground::of(root) {
        Ok(ground) => ground,
        Err(source) => {
            let errors = vec![ScanError::Directory { path: root.to_owned(), source }];
            return ScanOutcome { errors, ..ScanOutcome::default() };
        }
    };
    let mut walk = Walk {
        root,
        real_root,
        ground,
        entries_left: limits.max_entries,
        shard: limits.shard,
        outcome: ScanOutcome::default(),
        plain: Vec::new(),
    };
    let mut stack = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = stack.pop() {
        let listing = walk.list(&directory, names::kind_of);
        walk.note_end(&directory, &listing);
        if walk.saves_of(&directory, &listing) == Descend::Yes && depth < limits.max_depth {
            let is_foreign = !limits.shard.has(root, &directory);
            if !is_foreign {
                walk.read_pointers(&directory, &listing);
            }
            let below = listing.directories.iter().rev();
            let below = below.filter(|entry| !names::is_part(&entry.text, &listing.text));
            let is_save = |text: &str| names::directory_step(text).is_some();
            let below = below.filter(|entry| !(is_foreign && is_save(&entry.text)));
            stack.extend(below.map(|entry| (directory.join(&entry.name), depth + 1)));
        }
    }
    let mut outcome = walk.outcome;
    // Links to one file may lie in runs of several shards: what is counted depends on none of them.
    let mut plain = without_links(walk.plain);
    plain.retain(|save| limits.shard.has(root, holder(&save.run_path, &save.path)));
    outcome.saves.extend(plain);
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

struct Walk<'a> {
    root: &'a Path,
    real_root: PathBuf,
    ground: Ground,
    entries_left: usize,
    shard: Shard,
    outcome: ScanOutcome,
    /// Saves of one plain file, still with all links to it.
    plain: Vec<FoundSave>,
}

impl Walk<'_> {
    /// Records the saves that a directory is or holds.
    fn saves_of(&mut self, directory: &Path, listing: &Listing) -> Descend {
        let is_root = directory == self.root;
        let name = &listing.text;
        if !is_root && listing.files.iter().any(|member| names::is_of_ranks(name, &member.name)) {
            return Descend::No;
        }
        let counted = names::directory_step(name);
        let mut members = listing.files.clone();
        members.extend(self.parts(directory, listing));
        drop_lone_optimizers(&mut members);
        let mut has_weights = members.iter().any(Member::has_tensors);
        let mut step = counted;
        if !has_weights && let Some(number) = counted.or_else(|| names::plain_number(name)) {
            let orbax = self.orbax(directory, listing);
            has_weights = orbax.iter().any(Member::has_tensors);
            if has_weights {
                members.extend(orbax);
                step = Some(number);
            }
        }
        // NeMo's names say more than the step: what is left names the run, as with files.
        let mut own = String::new();
        if step.is_none() && members.iter().any(|member| member.name.starts_with("weights/")) {
            (step, own) = names::file_step(name);
        }
        let Some(step) = step.filter(|_| has_weights || !is_root) else {
            self.unnumbered(directory, &members);
            return Descend::Yes;
        };
        // Being deleted, and a look inside could be what keeps that from succeeding.
        if listing.has_left_open {
            return Descend::No;
        }
        if has_weights || listing.may_get_weights() {
            let parent = if is_root { self.real_root.parent() } else { directory.parent() };
            let parent = parent.unwrap_or(directory);
            let run_path = if own.is_empty() { parent.to_owned() } else { parent.join(own) };
            let place = Place { run_path, path: directory.to_owned(), step: Some(step) };
            let members: Vec<_> = members.iter().collect();
            if self.is_ours(&place)
                && let Some(save) = self.save(place, directory, &members)
            {
                self.outcome.saves.push(save);
            }
        }
        Descend::No
    }

    /// Saves of a directory whose name says no step.
    fn unnumbered(&mut self, directory: &Path, members: &[Member]) {
        let (tensors, beside): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| member.has_tensors());
        let (together, mut apart): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|member| member.is_together());
        if names::is_data(apart.iter().map(|member| member.name.as_str())) {
            apart.clear();
        }
        if let [first, more @ ..] = together.as_slice() {
            // A lone model.safetensors among other weight files is named itself: whoever reads the
            // directory would take all of them for one model.
            let is_file = more.is_empty() && first.is_readable_alone();
            let path = if is_file && !apart.is_empty() {
                directory.join(&first.below)
            } else {
                directory.to_owned()
            };
            let files: Vec<_> = together.iter().chain(&beside).copied().collect();
            let place = Place { run_path: directory.to_owned(), path, step: None };
            if is_file || self.is_ours(&place) {
                let save = self.save(place, directory, &files);
                if is_file { self.plain.extend(save) } else { self.outcome.saves.extend(save) }
            }
        }
        for member in apart {
            let (step, mut own) = names::file_step(names::stem(&member.name));
            if own.is_empty() && step.is_none() && !together.is_empty() {
                // `model.gguf` beside `model.safetensors` is an export, not the same series.
                own.clone_from(&member.name);
            }
            let run_path = if own.is_empty() { directory.to_owned() } else { directory.join(own) };
            let place = Place { run_path, path: directory.join(&member.below), step };
            let described = beside.iter().copied().filter(|other| other.is_beside(&member.name));
            let files: Vec<_> = std::iter::once(member).chain(described).collect();
            let save = self.save(place, directory, &files);
            self.plain.extend(save);
        }
    }

    fn is_ours(&self, place: &Place) -> bool {
        self.shard.has(self.root, holder(&place.run_path, &place.path))
    }

    /// Notes that someone said that training has ended here.
    fn note_end(&mut self, directory: &Path, listing: &Listing) {
        if !listing.has_end_mark {
            return;
        }
        match self.stat(&directory.join(names::END_MARK)) {
            Ok(Some(stat)) => {
                let (directory, mtime_ns) = (directory.to_owned(), stat.mtime_ns);
                self.outcome.end_marks.push(EndMark { directory, mtime_ns });
            }
            Ok(None) => {}
            Err(error) => self.outcome.errors.push(error),
        }
    }

    /// Stats the files; `None` if one cannot be (which is recorded) or if nothing is left of it.
    fn save(&mut self, place: Place, directory: &Path, files: &[&Member]) -> Option<FoundSave> {
        let mut stamps = Vec::with_capacity(files.len());
        let n_tensor_files = files.iter().filter(|member| member.has_tensors()).count();
        let mut n_gone = 0;
        for member in files {
            let path = directory.join(&member.below);
            match self.stat(&path) {
                Ok(Some(stat)) => {
                    stamps.push(FileStamp::new(member.name.clone(), member.kind, stat));
                }
                Ok(None) => n_gone += usize::from(member.has_tensors()),
                Err(error) => {
                    self.outcome.errors.push(error);
                    return None;
                }
            }
        }
        if n_tensor_files > 0 && n_gone == n_tensor_files {
            return None;
        }
        let Place { run_path, path, step } = place;
        let run = self.run_name(&run_path);
        Some(FoundSave {
            run,
            run_path,
            path,
            step,
            in_place: step.is_none(),
            files: stamps,
            also: Vec::new(),
        })
    }

    /// The stat of a regular file, links followed within the root; `None` if it vanished or is
    /// something else.
    fn stat(&self, path: &Path) -> Result<Option<FileStat>, ScanError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(ScanError::File { path: path.to_owned(), source }),
        };
        if let Ground::Objects(tree) = &self.ground {
            return match tree.stat(path) {
                Ok(stat) => Ok(Some(FileStat::of_object(path, stat))),
                Err(error) => failed(error.into()),
            };
        }
        let _under_way = disk::operation();
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
        names::run_name(below)
    }
}

/// Where a save is and whose it is.
struct Place {
    run_path: PathBuf,
    path: PathBuf,
    step: Option<u64>,
}

/// `DeepSpeed`'s optimiser states count as weights only beside its model states.
fn drop_lone_optimizers(members: &mut Vec<Member>) {
    let is_state = |member: &Member| member.own_name().ends_with("_model_states.pt");
    let homes: HashSet<PathBuf> =
        members.iter().filter(|member| is_state(member)).map(Member::home).collect();
    members.retain(|member| {
        !names::is_optimizer_shard(member.own_name()) || homes.contains(&member.home())
    });
}

/// Of all links to one file keeps the numbered name, else the one that is not `best` or `last`, else
/// the first.
fn without_links(mut saves: Vec<FoundSave>) -> Vec<FoundSave> {
    saves.sort_by_cached_key(|save| {
        let name = save.weights().next().map_or("", |file| names::stem(&file.name)).to_owned();
        (save.step.is_none(), names::alias_rank(&name), save.path.clone())
    });
    let mut kept: Vec<FoundSave> = Vec::with_capacity(saves.len());
    let mut seen = HashMap::new();
    for save in saves {
        let first = save.weights().next().map(|file| (file.dev, file.ino));
        let at = first.and_then(|inode| match seen.entry(inode) {
            Entry::Occupied(at) => Some(*at.get()),
            Entry::Vacant(free) => {
                free.insert(kept.len());
                None
            }
        });
        match at.and_then(|at| kept.get_mut(at)) {
            Some(first) if first.path.parent() == save.path.parent() => first.also.push(save.path),
            Some(_) => {}
            None => kept.push(save),
        }
    }
    kept
}
