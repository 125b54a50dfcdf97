//! What is measured, how, and within which means.

/// What is measured, how, and within which means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Subspace dimensions k, rising.
    pub k: Vec<usize>,
    /// Dimensions k at which the turn of the leading output subspace is measured, rising.
    pub rotation_k: Vec<usize>,
    /// Bytes of tensors kept at a time, over all threads.
    pub memory_limit: u64,
    /// Matrices whose smaller side, and pairs whose shared side, is at most this are decomposed
    /// exactly; above, leading triplets are searched and Grams probed.
    pub exact_limit: usize,
    /// Threads that share one checkpoint's work; the numbers do not depend on it.
    pub threads: usize,
    /// Seed of the sketches that update sizes come from; the same for all saves of a run.
    pub seed: u64,
}

/// Smaller sides up to this are decomposed exactly unless told otherwise.
pub const EXACT_LIMIT: usize = 512;

impl Default for Options {
    fn default() -> Self {
        Self {
            k: vec![1, 2, 4, 8, 16, 32, 64],
            rotation_k: vec![8],
            memory_limit: 1 << 30,
            exact_limit: EXACT_LIMIT,
            threads: 1,
            seed: 0,
        }
    }
}

/// No limit is taken for less than this, the least that a configuration may ask for.
const MEMORY_LEAST: u64 = 16 << 20;

/// Smallest memory limit assumed for the vectors of a search.
const VECTORS_LEAST: u64 = 1 << 24;

/// All pairs of heads cost the square of the width once a layer, less than the spectra do up to
/// twice their limit.
const HEADS_FACTOR: usize = 2;

/// Bytes of the vectors of a search for k triplets.
pub(super) fn vectors_bytes(rows: usize, cols: usize, k: usize) -> u64 {
    (rows as u64).saturating_add(cols as u64).saturating_mul(k as u64 + 16).saturating_mul(4)
}

impl Options {
    /// Whether a matrix of this shape is decomposed whole. Told by the shape and the whole memory
    /// limit, so that a matrix is measured in the same way at every save and by any number of
    /// threads.
    pub(super) fn is_exact(&self, rows: usize, cols: usize) -> bool {
        rows.min(cols) <= self.exact_limit && self.fits(rows.saturating_mul(cols))
    }

    /// Whether the Grams of a pair, or those of its outer sides, are formed: m shared dimensions,
    /// n columns of the writer, p rows of the reader.
    pub(super) fn forms_grams(&self, m: usize, n: usize, p: usize) -> bool {
        let fits = self.fits(m.saturating_mul(n.saturating_add(p)));
        fits && (m <= self.exact_limit || n.max(p) <= self.exact_limit)
    }

    /// Whether all pairs of heads are compared: heads in a space of this width, with so many values
    /// together.
    pub(super) fn compares_heads(&self, width: usize, n_values: usize) -> bool {
        width <= HEADS_FACTOR * self.exact_limit && self.fits(n_values)
    }

    /// Whether the vectors of a search for k triplets may be held.
    pub(super) fn fits_vectors(&self, rows: usize, cols: usize, k: usize) -> bool {
        let bytes = vectors_bytes(rows, cols, k.min(rows.min(cols))).saturating_mul(4);
        bytes <= self.memory_limit.max(VECTORS_LEAST)
    }

    /// Bytes of tensors that one thread keeps, its share of half of the memory limit: the rest is for
    /// vectors and for what is kept from save to save. A pair of tensors that both just fit has twice
    /// as many while it is measured.
    pub(super) fn budget(&self) -> u64 {
        self.memory_limit / self.threads.max(1) as u64 / 2
    }

    /// Whether this many values may be held decoded at once.
    pub(super) fn fits(&self, n_values: usize) -> bool {
        n_values as u64 <= self.memory_limit.max(MEMORY_LEAST) / 4
    }
}
