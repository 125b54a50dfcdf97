//! The bytes of a pickle, in order and in blocks.

use super::PickleError;
use crate::checkpoint::fill::Fill;

/// Bytes that are read at a time.
const BLOCK: usize = 64 << 10;

/// A stretch of a file, read from front to end.
pub(in crate::checkpoint) struct Input<'a> {
    fill: &'a mut Fill<'a>,
    /// Where in the file the next block begins, and where the stretch ends.
    next: u64,
    end: u64,
    block: Vec<u8>,
    at: usize,
}

impl<'a> Input<'a> {
    pub(in crate::checkpoint) fn new(fill: &'a mut Fill<'a>, start: u64, end: u64) -> Self {
        Self { fill, next: start, end: end.max(start), block: Vec::new(), at: 0 }
    }

    /// Where in the file the next byte lies.
    pub(in crate::checkpoint) fn position(&self) -> u64 {
        let n_left = self.block.len().saturating_sub(self.at);
        self.next.saturating_sub(n_left as u64)
    }

    /// Goes on somewhere further on.
    pub(in crate::checkpoint) fn skip_to(&mut self, place: u64) {
        self.block.clear();
        (self.at, self.next) = (0, place.min(self.end));
    }

    pub(in crate::checkpoint) fn n_left(&self) -> u64 {
        self.end.saturating_sub(self.position())
    }

    fn refill(&mut self) -> Result<(), PickleError> {
        let n_left = self.end.saturating_sub(self.next);
        let n = usize::try_from(n_left).unwrap_or(BLOCK).min(BLOCK);
        if n == 0 {
            return Err(PickleError::Short);
        }
        self.block.resize(n, 0);
        (self.fill)(self.next, &mut self.block).map_err(PickleError::Open)?;
        (self.at, self.next) = (0, self.next.saturating_add(n as u64));
        Ok(())
    }

    pub(in crate::checkpoint) fn byte(&mut self) -> Result<u8, PickleError> {
        let [byte] = self.bytes()?;
        Ok(byte)
    }

    pub(in crate::checkpoint) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            if self.at >= self.block.len() {
                self.refill()?;
            }
            *byte = self.block.get(self.at).copied().unwrap_or_default();
            self.at = self.at.saturating_add(1);
        }
        Ok(bytes)
    }

    /// Appends so many bytes to `into`, or drops them.
    pub(super) fn take(&mut self, n: u64, into: Option<&mut Vec<u8>>) -> Result<(), PickleError> {
        if n > self.n_left() {
            return Err(PickleError::Short);
        }
        let Some(into) = into else {
            self.skip_to(self.position().saturating_add(n));
            return Ok(());
        };
        let mut n_left = usize::try_from(n).unwrap_or(usize::MAX);
        // They are there, and whoever asks for them has a bound.
        into.reserve(n_left);
        while n_left > 0 {
            if self.at >= self.block.len() {
                self.refill()?;
            }
            let from = self.block.get(self.at..).unwrap_or_default();
            let from = from.get(..n_left).unwrap_or(from);
            into.extend_from_slice(from);
            self.at = self.at.saturating_add(from.len());
            n_left = n_left.saturating_sub(from.len());
        }
        Ok(())
    }

    /// Appends a line without its end, of at most so many bytes.
    pub(super) fn line(&mut self, n_most: usize) -> Result<Vec<u8>, PickleError> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                byte if line.len() < n_most => line.push(byte),
                _ => return Err(PickleError::Refused("found a name without an end".to_owned())),
            }
        }
    }
}
