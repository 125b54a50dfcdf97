//! Which file is a copy of one that was handed out.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::Entry;
use crate::watch::names::{self, AliasRank};
use crate::watch::save::Content;

/// Longest time between the ends of an original and of its copy, beside that of copying.
const WINDOW: Duration = Duration::from_secs(30);

/// Slowest copying, bytes a second.
const RATE: u64 = 50_000_000;

/// Two serialisations of one state differ by what they say of themselves (where the last one went,
/// how long it took), by no more than this and a hundredth.
const MAX_DIFFERENCE: u64 = 4096;

/// Originals remembered a directory.
const MAX_ORIGINALS: usize = 64;

/// Saves that were handed out, by the directory that they share.
#[derive(Debug, Default)]
pub(super) struct Originals {
    by_home: HashMap<PathBuf, VecDeque<Original>>,
}

#[derive(Debug)]
struct Original {
    run: String,
    stem: String,
    rank: AliasRank,
    content: Content,
    size: u64,
    mtime_ns: i64,
    /// Names that were found to be this one, with the content that they had (none for links).
    copies: Vec<(PathBuf, Content)>,
}

impl Originals {
    /// Remembers a save that is handed out.
    pub(super) fn add(&mut self, entry: &Entry) {
        let Some((home, mtime_ns)) = home(entry).zip(entry.found.newest_weights_ns()) else {
            return;
        };
        let also = entry.found.also.iter().map(|path| (path.clone(), entry.content.clone()));
        let original = Original {
            run: entry.found.run.clone(),
            stem: stem_of(entry),
            rank: entry.rank,
            content: entry.content.clone(),
            size: entry.found.n_bytes(),
            mtime_ns,
            copies: also.collect(),
        };
        let originals = self.by_home.entry(home.to_owned()).or_default();
        originals.push_back(original);
        if originals.len() > MAX_ORIGINALS {
            originals.pop_front();
        }
    }

    /// Whether a file called `last`, `best`, ... is one that was handed out under another name:
    /// - it is that very file (inode, size, mtime), a link whose other name is gone; or
    /// - of the files of its directory that were handed out and rank before it (numbered and other
    ///   names before `last`, `last` before `best`) and whose names speak of the same weights (not
    ///   of an average or a recovery), take the one written nearest to it in time. It
    ///   is a copy of that if their sizes differ by no more than 4 KiB and a hundredth (Lightning
    ///   serialises twice), if no more than 30 s and the time of copying lie between them, and if
    ///   no other content of the same name was a copy of it before.
    ///
    /// What is taken for a copy wrongly is one content of `last`, written within 30 s of a numbered
    /// save of its size whose own copy was never seen.
    pub(super) fn has_copy(&mut self, entry: &Entry) -> bool {
        let found = &entry.found;
        let Some((home, mtime_ns)) = home(entry).zip(found.newest_weights_ns()) else {
            return false;
        };
        let Some(originals) = self.by_home.get_mut(home) else { return false };
        if originals.iter().any(|original| original.content == entry.content) {
            return true;
        }
        let distance = |original: &Original| original.mtime_ns.abs_diff(mtime_ns);
        let stem = stem_of(entry);
        let before = originals.iter_mut().filter(|original| {
            original.rank < entry.rank && names::may_be_copy(&stem, &original.stem)
        });
        let Some(nearest) = before.min_by_key(|original| distance(original)) else { return false };
        let size = found.n_bytes();
        let window = WINDOW + Duration::from_secs(size / RATE);
        let is_like = nearest.size.abs_diff(size) <= MAX_DIFFERENCE.min(size / 100)
            && u128::from(distance(nearest)) <= window.as_nanos();
        let before = nearest.copies.iter().find(|(path, _)| *path == found.path);
        let is_free = before.is_none_or(|(_, content)| *content == entry.content);
        if is_like && is_free && before.is_none() {
            nearest.copies.push((found.path.clone(), entry.content.clone()));
        }
        is_like && is_free
    }

    pub(super) fn forget_run(&mut self, run: &str) {
        self.by_home.retain(|_, originals| {
            originals.retain(|original| original.run != run);
            !originals.is_empty()
        });
    }
}

/// What the files of one directory are doing.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// When one came, went or changed, or anything was heard of one.
    pub(super) changed_at: Duration,
    /// The best rank of those that wait.
    pub(super) waiting: Option<AliasRank>,
}

impl Home {
    pub(super) fn changed(homes: &mut HashMap<PathBuf, Self>, home: &Path, now: Duration) {
        match homes.get_mut(home) {
            Some(home) => home.changed_at = now,
            None => drop(homes.insert(home.to_owned(), Self { changed_at: now, waiting: None })),
        }
    }
}

/// The directory that a save shares with others: not that of one which is all of a run.
pub(super) fn home(entry: &Entry) -> Option<&Path> {
    let shares = entry.is_file() || entry.found.step.is_some() || entry.rank != AliasRank::Own;
    shares.then(|| entry.found.path.parent()).flatten()
}

fn stem_of(entry: &Entry) -> String {
    let name = entry.found.path.file_name().map(names::escape).unwrap_or_default();
    names::stem(&name).to_owned()
}
