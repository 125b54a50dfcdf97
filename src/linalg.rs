//! What is measured of weight matrices; pure.
//!
//! Every function takes finite `f32` matrices as strided views, accumulates in `f64`, runs on the
//! calling thread and gives the same numbers for the same input. What is undefined (0/0) is `None`.
//! A NaN or an infinity in the input is [`NotFinite`], found before any decomposition sees it.
//!
//! A pair is a writer `W1` (m × n) and a reader `W2` (p × m) sharing the space R^m, with the Grams
//! `A = W2ᵀW2` and `B = W1W1ᵀ`.

mod bulk;
mod classifier;
mod dense;
mod drift;
mod flag;
mod gram;
mod head_gram;
mod head_probes;
mod heads;
mod lanczos;
mod leading;
mod linear;
mod low_rank;
mod moments;
mod overlap;
mod pair;
mod panels;
mod probes;
mod residual;
mod ridge;
mod search;
mod sketch;
mod spectrum;
#[cfg(test)]
mod testing;

pub use bulk::Bulk;
pub use classifier::{CLASSES_LIMIT, ClassifierGeometry, classifier_geometry};
pub use dense::{narrow, widen};
pub use drift::{UpdateRatio, rotation, update_ratio};
pub use flag::{flag_correlation, tau_b};
pub use gram::{GRAM_LIMIT, GramStats, estimate_gram_stats, gram_stats, gram_stats_and_spectra};
pub use head_probes::{HEAD_PROBES, HeadStderr, estimate_head_overlap};
pub use heads::{HeadOverlap, HeadSide, head_overlap};
pub use leading::{HalfBasis, Leading, Route, WarmStart};
pub use linear::{Block, Linear};
pub use low_rank::{LowRank, low_rank_product};
pub use overlap::{Overlap, overlaps, usable_ks};
pub use pair::{PairMatrices, PairOperators};
pub use panels::{Panels, Squares, StoredGram};
pub use probes::{DEFLATED, GramStderr, PROBES};
pub use ridge::{SLOPE_POINTS_LIMIT, Slope, ridge_rate_ratio, theil_sen};
pub use search::searchable;
pub use sketch::{KeptSketch, Sketch};
pub use spectrum::{Side, Spectrum, SpectrumError, THIN_SVD_LIMIT, TIE_TOLERANCE};

/// The input holds a NaN or an infinity, so nothing can be measured of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("matrix holds a NaN or an infinity")]
pub struct NotFinite;

/// Why a matrix or pair could not be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinalgError {
    /// A NaN or an infinity in a matrix or a bias.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// No decomposition of the matrix converged, on any route.
    #[error("decomposition of a {rows} × {cols} matrix did not converge")]
    NoConvergence {
        /// Rows of the matrix decomposed.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// The matrix could not be read to its end; who reads it knows why.
    #[error("the matrix can no longer be read")]
    Unread,
    /// Two shapes that must agree do not.
    #[error("{what} has size {found}, expected {expected}")]
    Shape {
        /// Which size.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What the rest of the input asks for.
        expected: usize,
    },
}
