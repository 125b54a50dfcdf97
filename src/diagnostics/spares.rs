//! The memory of tensors that were given up, for the next ones.

use std::sync::Arc;

use crate::checkpoint::Raw;

/// Pieces kept: as many as a layer has sizes of matrices.
const MAX_PIECES: usize = 4;

/// Bytes kept in all.
const MAX_BYTES: usize = 48 << 20;

/// Fresh memory comes page by page from the kernel, which costs as much as to read the file into it.
#[derive(Default)]
pub(super) struct Spares {
    /// Oldest first.
    pieces: Vec<Vec<u8>>,
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
        self.pieces.iter().map(Vec::capacity).sum()
    }

    /// The smallest piece that holds so many bytes and is not much larger, or no memory yet.
    pub(super) fn take(&mut self, n_bytes: u64) -> Vec<u8> {
        let fits = |piece: &&Vec<u8>| {
            let capacity = piece.capacity() as u64;
            capacity >= n_bytes && capacity / 2 <= n_bytes
        };
        let smallest = self.pieces.iter().filter(fits).map(Vec::capacity).min();
        let at = self.pieces.iter().position(|piece| Some(piece.capacity()) == smallest);
        at.map_or_else(Vec::new, |at| self.pieces.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(capacities: &[usize]) -> Spares {
        Spares { pieces: capacities.iter().map(|n| Vec::with_capacity(*n)).collect() }
    }

    #[test]
    fn the_smallest_piece_that_fits_is_taken_once() {
        let mut spares = with(&[3000, 1000, 1500]);
        assert_eq!(spares.take(900).capacity(), 1000);
        assert_eq!(spares.take(900).capacity(), 1500);
        assert_eq!(spares.take(900).capacity(), 0, "three times what is needed");
        assert_eq!(spares.take(4000).capacity(), 0, "too small");
        assert_eq!(spares.take(2999).capacity(), 3000);
    }
}
