//! The memory of tensors that were given up, for the next ones.

use std::sync::Arc;

use crate::checkpoint::{Memory, Raw};

/// Pieces kept: as many as a layer has sizes of matrices.
const MAX_PIECES: usize = 4;

/// Bytes kept in all.
const MAX_BYTES: usize = 24 << 20;

/// Fresh memory comes page by page from the kernel, which costs as much as to read the file into it.
#[derive(Default)]
pub(super) struct Spares {
    /// Oldest first.
    pieces: Vec<Memory>,
}

impl Spares {
    /// Keeps the memory of a tensor, if nobody else holds it.
    pub(super) fn set_aside(&mut self, raw: Arc<Raw>) {
        let Ok(raw) = Arc::try_unwrap(raw) else { return };
        self.pieces.push(raw.into_memory());
        while self.pieces.len() > MAX_PIECES || self.bytes() > MAX_BYTES {
            self.pieces.remove(0);
        }
    }

    fn bytes(&self) -> usize {
        self.pieces.iter().map(Memory::n_bytes).sum()
    }

    /// The smallest piece of so many bytes, if it is not twice as large.
    pub(super) fn take(&mut self, n_bytes: u64) -> Option<Memory> {
        let wanted = usize::try_from(n_bytes).ok()?;
        let fits = |piece: &Memory| (wanted..=wanted.saturating_mul(2)).contains(&piece.n_bytes());
        let best = self.pieces.iter().filter(|p| fits(p)).map(Memory::n_bytes).min()?;
        let at = self.pieces.iter().position(|p| fits(p) && p.n_bytes() == best)?;
        Some(self.pieces.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_piece_that_fits_is_taken_once() {
        let pieces = [3000, 1000, 1500].map(|n| Memory::new(n).unwrap());
        let mut spares = Spares { pieces: pieces.into() };
        let mut take = |n| spares.take(n).map(|memory| memory.n_bytes());
        assert_eq!(take(900), Some(1000));
        assert_eq!(take(900), Some(1500));
        assert_eq!(take(900), None, "three times what is needed");
        assert_eq!(take(4000), None, "too small");
        assert_eq!(take(2999), Some(3000));
    }
}
