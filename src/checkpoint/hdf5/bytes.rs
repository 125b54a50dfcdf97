//! The bytes of an HDF5 file: bounded reads at any place, and numbers out of them.

use super::super::fill::Fill;
use super::super::one_file::Refusal;

/// Bytes of everything that is read beside the elements.
const MAX_READ: u64 = 64 << 20;
/// Bytes of one structure.
const MAX_BLOCK: u64 = 4 << 20;
/// Structures that are read: a file of a thousand variables has some four thousand.
const MAX_BLOCKS: u32 = 1 << 18;
/// The address of nothing.
pub(super) const NOWHERE: u64 = u64::MAX;

/// A stretch of a file that is an HDF5 file itself; places count from its start.
pub(super) struct Bytes<'a, 'b> {
    fill: &'a mut Fill<'b>,
    start: u64,
    /// Its length.
    pub(super) size: u64,
    n_left: u64,
    n_blocks_left: u32,
}

impl<'a, 'b> Bytes<'a, 'b> {
    pub(super) fn new(fill: &'a mut Fill<'b>, start: u64, size: u64) -> Self {
        Self { fill, start, size, n_left: MAX_READ, n_blocks_left: MAX_BLOCKS }
    }

    /// What lies there; `what` it is, for messages.
    pub(super) fn read(&mut self, at: u64, n: u64, what: &str) -> Result<Vec<u8>, Refusal> {
        if at.checked_add(n).is_none_or(|end| end > self.size) {
            return Err(malformed(format!(
                "found {what} of {n} bytes at {at}, expected it within {}",
                self.size
            )));
        }
        let n_left = self.n_left.checked_sub(n).zip(self.n_blocks_left.checked_sub(1));
        (self.n_left, self.n_blocks_left) = n_left.ok_or_else(|| {
            malformed(format!(
                "found more than {MAX_BLOCKS} structures or {MAX_READ} bytes of them, expected fewer"
            ))
        })?;
        let too_large =
            || malformed(format!("found {what} of {n} bytes, expected at most {MAX_BLOCK}"));
        let n = usize::try_from(n).ok().filter(|_| n <= MAX_BLOCK).ok_or_else(too_large)?;
        let mut bytes = vec![0; n];
        (self.fill)(self.start.saturating_add(at), &mut bytes)?;
        Ok(bytes)
    }

    /// The same, of something that bears a mark.
    pub(super) fn marked(&mut self, at: u64, n: u64, mark: &str) -> Result<Vec<u8>, Refusal> {
        let bytes = self.read(at, n, mark)?;
        if bytes.starts_with(mark.as_bytes()) {
            return Ok(bytes);
        }
        Err(malformed(format!("found no {mark} at {at}, expected it where the file leads")))
    }

    /// A place in the whole file.
    pub(super) fn in_file(&self, at: u64) -> u64 {
        self.start.saturating_add(at)
    }
}

pub(super) fn malformed(reason: String) -> Refusal {
    Refusal::Malformed(reason)
}

/// A number of so many bytes; 0 where there are none.
pub(super) fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let end = at.saturating_add(width);
    let bytes = bytes.get(at..end).unwrap_or_default();
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::try_from(number(bytes, at, 2)).unwrap_or(0)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at, 8)
}
