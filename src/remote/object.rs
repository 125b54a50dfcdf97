//! Reads from one version of an object, in blocks larger than what is asked for: a request costs as
//! much time as a megabyte.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::place::Place;
use super::{RemoteError, Stat, client};

/// Least that is loaded of the beginning, of the end and of what is read in order: a header, a zip
/// file's list of entries, a row of small tensors.
const SMALL: u64 = 256 << 10;
/// Least that is loaded of any other place.
const TINY: u64 = 64 << 10;
/// Most that is loaded at once.
const LARGE: u64 = 8 << 20;
/// Small blocks kept for all objects together, 16 MiB; they hold the headers and the small tensors
/// between large ones, which are read twice.
const MAX_KEPT: usize = 64;

/// A run of bytes of an object.
#[derive(Debug, Default)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }

    /// What it holds from that place on.
    fn from(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default()
    }
}

/// Small blocks of the objects read last.
static KEPT: Mutex<VecDeque<(PathBuf, Stat, Arc<Block>)>> = Mutex::new(VecDeque::new());

fn kept() -> std::sync::MutexGuard<'static, VecDeque<(PathBuf, Stat, Arc<Block>)>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One version of an object. It holds nothing open.
#[derive(Debug)]
pub struct Object {
    path: PathBuf,
    stat: Stat,
    /// The block loaded last.
    block: Arc<Block>,
    /// What will be read from front to end.
    ahead: Range<u64>,
}

impl Object {
    /// The version that the path leads to now; its beginning is loaded with it.
    ///
    /// # Errors
    /// [`RemoteError`], [`RemoteError::Missing`] where there is none.
    pub fn open(path: &Path) -> Result<Self, RemoteError> {
        let place = Place::of(path)?;
        let (stat, bytes) = match client::read(&place, 0..SMALL, None) {
            Err(RemoteError::Refused(error)) => {
                // No range of an empty object can be had.
                match client::head(&place) {
                    Ok(stat) if stat.size == 0 => (stat, Vec::new()),
                    _ => return Err(RemoteError::Refused(error)),
                }
            }
            result => result?,
        };
        let mut object = Self::of(path, stat);
        object.keep(Block { start: 0, bytes });
        Ok(object)
    }

    /// A version that was seen before. Nothing is asked of the store.
    #[must_use]
    pub fn of(path: &Path, stat: Stat) -> Self {
        Self { path: path.to_owned(), stat, block: Arc::default(), ahead: 0..0 }
    }

    /// Which version it is.
    #[must_use]
    pub fn stat(&self) -> Stat {
        self.stat
    }

    /// Says that this range will be read in order, so that it is loaded in large blocks, and no more
    /// than it.
    pub fn expect(&mut self, ahead: Range<u64>) {
        self.ahead = ahead;
    }

    /// Fills the buffer from that place.
    ///
    /// # Errors
    /// [`RemoteError::Changed`] where the path leads to another version by now, or where the object
    /// ends before.
    pub fn read_exact_at(&mut self, mut buf: &mut [u8], mut at: u64) -> Result<(), RemoteError> {
        if at.saturating_add(buf.len() as u64) > self.stat.size {
            return Err(RemoteError::Changed);
        }
        while !buf.is_empty() {
            if self.block.from(at).is_empty() {
                self.load(at, buf.len() as u64)?;
            }
            let there = self.block.from(at);
            let n = there.len().min(buf.len());
            let (Some(from), Some((to, rest))) = (there.get(..n), buf.split_at_mut_checked(n))
            else {
                return Err(RemoteError::Changed);
            };
            to.copy_from_slice(from);
            buf = rest;
            at = at.saturating_add(n as u64);
        }
        Ok(())
    }

    /// Loads a block that begins at `at`, inside the object, and holds at least one byte.
    fn load(&mut self, at: u64, n_wanted: u64) -> Result<(), RemoteError> {
        let is_it = |(path, stat, block): &&(PathBuf, Stat, Arc<Block>)| {
            *path == self.path && *stat == self.stat && !block.from(at).is_empty()
        };
        if let Some((_, _, block)) = kept().iter().find(is_it) {
            self.block = Arc::clone(block);
            return Ok(());
        }
        let range = self.block_at(at, n_wanted);
        let start = range.start;
        let (_, bytes) = client::read(&Place::of(&self.path)?, range, Some(&self.stat))?;
        let block = Block { start, bytes };
        if block.from(at).is_empty() {
            return Err(RemoteError::Changed);
        }
        self.keep(block);
        Ok(())
    }

    /// What to load where `n_wanted` bytes from `at` on are asked for.
    fn block_at(&self, at: u64, n_wanted: u64) -> Range<u64> {
        let size = self.stat.size;
        let tail = size.saturating_sub(SMALL);
        let n_block = if self.ahead.contains(&at) {
            self.ahead.end.saturating_sub(at).clamp(SMALL, LARGE)
        } else if at > tail {
            // Ends are read from the back.
            return tail..size;
        } else if at == self.block.end() && at > 0 {
            // Read from front to end, though nobody said so.
            (self.block.bytes.len() as u64).saturating_mul(2).clamp(SMALL, LARGE)
        } else {
            n_wanted.clamp(TINY, LARGE)
        };
        at..at.saturating_add(n_block).min(size)
    }

    fn keep(&mut self, block: Block) {
        let is_small = block.bytes.len() as u64 <= SMALL;
        self.block = Arc::new(block);
        if is_small {
            let mut kept = kept();
            kept.truncate(MAX_KEPT.saturating_sub(1));
            kept.push_front((self.path.clone(), self.stat, Arc::clone(&self.block)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_knows_what_it_holds() {
        let block = Block { start: 10, bytes: vec![1, 2, 3] };
        assert_eq!(block.end(), 13);
        for (at, held) in [(9, 0), (10, 3), (12, 1), (13, 0), (u64::MAX, 0)] {
            assert_eq!(block.from(at).len(), held, "{at}");
        }
    }

    #[test]
    fn blocks_are_as_large_as_reading_goes_on() {
        let stat = Stat { size: 100 << 20, modified: 0, tag: 0 };
        let mut object = Object::of(Path::new("s3://b/y"), stat);
        assert_eq!(object.block_at(1 << 20, 30), 1 << 20..(1 << 20) + TINY);
        assert_eq!(object.block_at(stat.size - 22, 22), stat.size - SMALL..stat.size);
        object.block = Arc::new(Block { start: 0, bytes: vec![0; 1 << 20] });
        assert_eq!(object.block_at(1 << 20, 30), 1 << 20..3 << 20);
        object.expect(1 << 20..(20 << 20) + 5);
        assert_eq!(object.block_at(1 << 20, 30), 1 << 20..9 << 20);
        assert_eq!(object.block_at(17 << 20, 30), 17 << 20..(20 << 20) + 5);
        object.expect(5..10);
        assert_eq!(object.block_at(5, 5), 5..5 + SMALL);
        let whole = Object::of(Path::new("s3://b/y"), Stat { size: 9, ..stat });
        assert_eq!(whole.block_at(5, 2), 0..9);
    }

    #[test]
    fn what_lies_beyond_the_end_is_another_version() {
        let stat = Stat { size: 8, modified: 0, tag: 1 };
        let mut object = Object::of(Path::new("s3://b/x"), stat);
        object.keep(Block { start: 0, bytes: (0..8).collect() });
        let mut two = [0; 2];
        object.read_exact_at(&mut two, 6).unwrap();
        assert_eq!(two, [6, 7]);
        let beyond = object.read_exact_at(&mut two, 7);
        assert!(matches!(beyond, Err(RemoteError::Changed)));
        // Another object of the same version finds it, of another version does not.
        let find = |stat| kept().iter().any(|(path, s, _)| path.ends_with("x") && *s == stat);
        assert!(find(stat) && !find(Stat { tag: 2, ..stat }));
    }
}
