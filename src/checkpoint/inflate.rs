//! One deflate stream of a file, inflated from front to end.
//!
//! What lies behind is had by inflating what lies before, so reads at rising places are cheap, and
//! one that goes back starts anew.

use flate2::{Decompress, FlushDecompress, Status};

/// Stored bytes that are read at a time.
const BLOCK: u64 = 64 << 10;

/// A stream and how far it was inflated.
pub(super) struct Inflater {
    offset: u64,
    n_stored: u64,
    stream: Decompress,
    block: Vec<u8>,
    /// Bytes of the block that were inflated, and stored bytes that were read.
    used: usize,
    n_read: u64,
    /// Bytes that came out.
    at: u64,
}

/// Fills a buffer from a place in a file, or fails in its own way.
type FillOr<'a, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'a;

/// Why bytes could not be inflated.
#[derive(Debug)]
pub(super) enum InflateError<E> {
    Source(E),
    /// The stream is none, or ends early.
    Broken,
}

impl Inflater {
    pub(super) fn new(offset: u64, n_stored: u64) -> Self {
        let stream = Decompress::new(false);
        Self { offset, n_stored, stream, block: Vec::new(), used: 0, n_read: 0, at: 0 }
    }

    /// Whether it is of that stream.
    pub(super) fn is_of(&self, offset: u64, n_stored: u64) -> bool {
        (self.offset, self.n_stored) == (offset, n_stored)
    }

    /// Fills the buffer with what comes out from byte `at` on.
    pub(super) fn read<E>(
        &mut self,
        fill: &mut FillOr<'_, E>,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), InflateError<E>> {
        if at < self.at {
            *self = Self::new(self.offset, self.n_stored);
        }
        let mut aside =
            vec![0; usize::try_from(at.saturating_sub(self.at).min(BLOCK)).unwrap_or(0)];
        while self.at < at {
            let n = usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let n = n.min(aside.len());
            self.next(fill, aside.get_mut(..n).unwrap_or_default())?;
        }
        self.next(fill, into)
    }

    fn next<E>(
        &mut self,
        fill: &mut FillOr<'_, E>,
        mut into: &mut [u8],
    ) -> Result<(), InflateError<E>> {
        while !into.is_empty() {
            let n_left = self.n_stored.saturating_sub(self.n_read);
            if self.used == self.block.len() && n_left > 0 {
                let n = n_left.min(BLOCK);
                self.block.resize(usize::try_from(n).unwrap_or(0), 0);
                fill(self.offset.saturating_add(self.n_read), &mut self.block)
                    .map_err(InflateError::Source)?;
                (self.used, self.n_read) = (0, self.n_read.saturating_add(n));
            }
            let input = self.block.get(self.used..).unwrap_or_default();
            let (n_in, n_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(input, into, FlushDecompress::None);
            let status = status.map_err(|_| InflateError::Broken)?;
            let progress = |now: u64, before| usize::try_from(now.saturating_sub(before));
            let n_in = progress(self.stream.total_in(), n_in).unwrap_or(0);
            let n_out = progress(self.stream.total_out(), n_out).unwrap_or(0);
            self.used = self.used.saturating_add(n_in);
            self.at = self.at.saturating_add(n_out as u64);
            into = into.get_mut(n_out..).unwrap_or_default();
            let is_stuck = n_in == 0 && n_out == 0 && self.n_read == self.n_stored;
            if !into.is_empty() && (status == Status::StreamEnd || is_stuck) {
                return Err(InflateError::Broken);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;

    use super::*;

    /// Bytes that shrink a little, and their stream behind three others.
    fn stream() -> (Vec<u8>, Vec<u8>) {
        let byte = |i: u32| i.wrapping_mul(i).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 0x7f;
        let plain: Vec<u8> = (0..300_000_u32).map(byte).collect();
        let mut encoder = DeflateEncoder::new(vec![9, 9, 9], Compression::fast());
        encoder.write_all(&plain).unwrap();
        (plain, encoder.finish().unwrap())
    }

    #[test]
    fn any_place_in_any_order_is_what_went_in() {
        let (plain, stored) = stream();
        let n_stored = stored.len() as u64 - 3;
        assert!(n_stored > 2 * BLOCK, "several blocks");
        let mut inflater = Inflater::new(3, n_stored);
        let mut fill = |at: u64, buf: &mut [u8]| -> Result<(), ()> {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&stored[at..at + buf.len()]);
            Ok(())
        };
        for (at, n) in [(0, 10), (10, 1), (200_000, 70_000), (5, 100_000), (299_999, 1), (7, 0)] {
            let mut found = vec![0; n];
            inflater.read(&mut fill, at as u64, &mut found).unwrap();
            assert!(found == plain[at..at + n], "{n} bytes at {at}");
        }
        let mut beyond = [0; 2];
        let result = inflater.read(&mut fill, 299_999, &mut beyond);
        assert!(matches!(result, Err(InflateError::Broken)), "{result:?}");
    }

    #[test]
    fn what_is_no_stream_ends() {
        for stored in [vec![0xff; 100], vec![], stream().1[3..1000].to_vec()] {
            let mut inflater = Inflater::new(0, stored.len() as u64);
            let mut fill = |at: u64, buf: &mut [u8]| -> Result<(), ()> {
                let at = usize::try_from(at).unwrap();
                buf.copy_from_slice(&stored[at..at + buf.len()]);
                Ok(())
            };
            let result = inflater.read(&mut fill, 0, &mut vec![0; 100_000]);
            assert!(matches!(result, Err(InflateError::Broken)), "{result:?}");
        }
        let mut fail = |_: u64, _: &mut [u8]| Err("gone");
        let result = Inflater::new(0, 10).read(&mut fail, 0, &mut [0; 10]);
        assert!(matches!(result, Err(InflateError::Source("gone"))), "{result:?}");
    }
}
