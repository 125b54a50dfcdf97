//! Singular values of a matrix, their scalars, and the leading singular vectors of one side.

use faer::{Mat, MatRef};

use super::dense::{Scaled, orthonormal, pow2, ratio, real, symmetric_eigen, thin_svd};
use super::{LinalgError, residual};

/// Small sides up to this go through a thin SVD at once. Above, the eigenvalues of the Gram are
/// cheaper (a 128 × 4096 head 3 ms), and the thin SVD is for where they lose digits.
pub const THIN_SVD_LIMIT: usize = 32;

/// Singular values closer than this fraction of the largest are one cluster, whose vectors are
/// arbitrary.
pub const TIE_TOLERANCE: f64 = 1e-6;

/// Below this fraction of the largest value a Gram, whose entries are squares, has lost half its
/// digits.
const GRAM_RESOLUTION: f64 = 1e-6;

/// Matrices up to this many elements are converted whole (32 MiB).
const WHOLE_LIMIT: usize = 1 << 22;

/// Why a spectrum could not be computed.
pub type SpectrumError = LinalgError;

/// Which singular vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Left vectors, in R^rows: what a writer writes.
    Left,
    /// Right vectors, in R^cols: what a reader reads.
    Right,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Singular values of a matrix and the leading singular vectors of one side.
#[derive(Debug, Clone)]
pub struct Spectrum {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Singular values, descending; if `complete` all of them, but for zeros that the shape of a
    /// product forces.
    pub values: Vec<f64>,
    /// Whether `values` holds all singular values that need not be zero.
    pub complete: bool,
    /// ‖W‖_F, exact also where the values are not all known.
    pub frobenius: f64,
    /// Leading singular vectors of the asked side, dim × b; b reaches to the end of the tie cluster
    /// that contains the largest k asked for.
    pub basis: Mat<f64>,
    /// Spectral norm of the rounding noise of the stored type under a Gaussian model:
    /// ε/√12 · ‖W‖_F (√rows + √cols)/√(rows·cols).
    pub noise: f64,
    /// Residuals `‖Wᵀu − σv‖` of `values` where they were found by iteration; empty where exact.
    pub residuals: Vec<f64>,
    /// Entropies of σ/Σσ and of σ²/Σσ², estimated where not all values are known.
    pub(super) estimated_entropies: Option<[f64; 2]>,
}

/// Singular values of a scaled matrix with at least as many rows as columns.
struct Parts {
    values: Vec<f64>,
    /// Right vectors, cols × at least as many as will be asked for.
    right: Mat<f64>,
    /// Left vectors, where the route gave them.
    left: Option<Mat<f64>>,
}

impl Spectrum {
    /// Singular values of `w` and its leading vectors of `side`, for overlaps up to `k_max`.
    /// `storage_eps` is the relative spacing of the stored type (2^-23 for f32, 2^-7 for bf16).
    ///
    /// # Errors
    /// [`LinalgError::NotFinite`] for a NaN or an infinity in `w`, [`LinalgError::NoConvergence`]
    /// where no decomposition converges.
    pub fn compute(
        w: MatRef<'_, f32>,
        side: Side,
        k_max: usize,
        storage_eps: f64,
    ) -> Result<Self, SpectrumError> {
        Self::compute_within(THIN_SVD_LIMIT, w, side, k_max, storage_eps)
    }

    fn compute_within(
        thin_svd_limit: usize,
        w: MatRef<'_, f32>,
        side: Side,
        k_max: usize,
        storage_eps: f64,
    ) -> Result<Self, SpectrumError> {
        let w = Scaled::new(w)?;
        let (rows, cols) = (w.rows(), w.cols());
        let unit = pow2(w.exponent);
        let frobenius = w.sum_squares().sqrt();
        let noise = noise(storage_eps, frobenius, rows, cols);

        let tall = if rows >= cols { w } else { w.transpose() };
        let wants_right = (side == Side::Right) == (rows >= cols);
        let parts = decompose(&tall, thin_svd_limit)?;
        let mut spectrum = Self {
            rows,
            cols,
            values: parts.values,
            complete: true,
            frobenius,
            basis: Mat::new(),
            noise,
            residuals: vec![],
            estimated_entropies: None,
        };
        let n_columns = spectrum.basis_len(k_max).min(parts.right.ncols());
        let right = parts.right.as_ref().subcols(0, n_columns);
        spectrum.basis = match parts.left {
            _ if wants_right => right.to_owned(),
            Some(left) => left.as_ref().subcols(0, n_columns).to_owned(),
            // Orthonormalised, because a small singular value magnifies the rounding of its vector.
            None => orthonormal(&tall.times(right)),
        };
        for value in &mut spectrum.values {
            *value *= unit;
        }
        spectrum.frobenius *= unit;
        spectrum.noise *= unit;
        Ok(spectrum)
    }

    /// From the Gram (scaled by 2^-2·exponent) of the smaller side of a rows × cols matrix, with the
    /// vectors of that side; `None` where the Gram has lost digits of the smallest values.
    pub(super) fn of_gram(
        gram: MatRef<'_, f64>,
        exponent: i32,
        (rows, cols): (usize, usize),
        k_max: usize,
        storage_eps: f64,
    ) -> Result<Option<Self>, LinalgError> {
        let Some((values, vectors)) = eigen_of_gram(gram)? else { return Ok(None) };
        let squares: f64 = gram.diagonal().column_vector().iter().sum();
        let frobenius = squares.max(0.0).sqrt() * pow2(exponent);
        let mut spectrum = Self {
            rows,
            cols,
            values: values.iter().map(|s| s * pow2(exponent)).collect(),
            complete: true,
            frobenius,
            basis: Mat::new(),
            noise: noise(storage_eps, frobenius, rows, cols),
            residuals: vec![],
            estimated_entropies: None,
        };
        let n_columns = spectrum.basis_len(k_max).min(vectors.ncols());
        spectrum.basis = vectors.as_ref().subcols(0, n_columns).to_owned();
        Ok(Some(spectrum))
    }

    /// Columns of the basis to keep: up to the end of the cluster in which `k_max` lies, and no
    /// further than the values rise above the rounding noise.
    fn basis_len(&self, k_max: usize) -> usize {
        let rank = self.n_above_noise();
        self.cluster(k_max.min(rank)).1
    }

    /// How many known values lie above rounding: σ > max(max(rows, cols)·2^-52·σ₁, 2·noise).
    pub(super) fn n_above_noise(&self) -> usize {
        let largest = self.values.first().copied().unwrap_or(0.0);
        let dim = real(self.rows.max(self.cols));
        let floor = (dim * f64::EPSILON * largest).max(2.0 * self.noise);
        self.values.iter().take_while(|s| **s > floor).count()
    }

    /// The tie cluster `lo..hi` that a cut after the k-th value divides; `(k, k)` where the cut
    /// falls between clusters. Consecutive values within [`TIE_TOLERANCE`]·σ₁ are one cluster.
    pub(super) fn cluster(&self, k: usize) -> (usize, usize) {
        let values = &self.values;
        if k == 0 || k >= values.len() {
            return (k.min(values.len()), k.min(values.len()));
        }
        let tolerance = TIE_TOLERANCE * values[0];
        let tied = |i: usize| values[i - 1] - values[i] <= tolerance;
        if !tied(k) {
            return (k, k);
        }
        let (mut lo, mut hi) = (k, k);
        while lo > 0 && tied(lo) {
            lo -= 1;
        }
        while hi < values.len() && tied(hi) {
            hi += 1;
        }
        (lo, hi)
    }

    /// Weights of the projector on the leading k-dimensional subspace: 1 below the tie cluster that
    /// the cut divides, the same fraction inside it, 0 above; they sum to k.
    pub(super) fn projector_weights(&self, k: usize) -> Vec<f64> {
        let (lo, hi) = self.cluster(k);
        let mut weights = vec![1.0; lo];
        if hi > lo {
            weights.resize(hi, real(k - lo) / real(hi - lo));
        }
        weights
    }

    /// Whether the leading k-dimensional subspace is known: k values above the noise, their vectors
    /// kept, and the end of a divided cluster in sight.
    pub(super) fn resolves(&self, k: usize) -> bool {
        let (_, hi) = self.cluster(k);
        let sees_end = self.complete || hi < self.values.len();
        (1..=self.n_above_noise()).contains(&k) && hi.max(k) <= self.basis.ncols() && sees_end
    }

    /// Bound of `1 − ‖U_kᵀÛ_k‖²/k` for the leading k vectors found; 0 where exact, `None` beyond the
    /// values known.
    pub(super) fn subspace_error(&self, k: usize) -> Option<f64> {
        if self.complete {
            return Some(0.0);
        }
        residual::subspace_error(&self.values, &self.residuals, k)
    }

    /// Uncertainty of the k-th value from rounding, and from the iteration where truncated.
    pub(super) fn uncertainty(&self, k: usize) -> f64 {
        let residual = k.checked_sub(1).and_then(|i| self.residuals.get(i)).copied();
        self.noise.max(residual.unwrap_or(0.0))
    }

    /// ‖W‖₂ = σ₁; `None` for a matrix without elements.
    #[must_use]
    pub fn spectral_norm(&self) -> Option<f64> {
        self.values.first().copied()
    }

    /// ‖W‖_F²/‖W‖₂², in `[1, rank]`; `None` for a zero matrix.
    #[must_use]
    pub fn stable_rank(&self) -> Option<f64> {
        ratio(self.frobenius, self.spectral_norm()?).map(|r| r * r)
    }

    /// exp of the entropy of σ/Σσ (Roy & Vetterli 2007), in `[1, rank]`; `None` for a zero matrix.
    /// Within 2 % where not all values are known.
    #[must_use]
    pub fn effective_rank(&self) -> Option<f64> {
        self.entropy(0).map(f64::exp)
    }

    /// Entropy of σ²/Σσ² over ln min(rows, cols), in `[0, 1]`; `None` for a zero matrix, a single
    /// row or column (0/0). Within 2 % where not all values are known.
    #[must_use]
    pub fn spectral_entropy(&self) -> Option<f64> {
        let whole = real(self.rows.min(self.cols)).ln();
        self.entropy(1).and_then(|h| ratio(h, whole))
    }

    /// Number of singular values above max(max(rows, cols)·2^-52·σ₁, 2·noise); `None` where not all
    /// values are known.
    #[must_use]
    pub fn numerical_rank(&self) -> Option<usize> {
        self.complete.then(|| self.n_above_noise())
    }

    /// Smallest k whose leading values hold `frac` of ‖W‖_F²; `None` for a zero matrix or where the
    /// known values do not reach.
    #[must_use]
    pub fn energy_rank(&self, frac: f64) -> Option<usize> {
        let norm = self.frobenius;
        ratio(1.0, norm)?;
        // The rounding of the sum must not ask for one value more.
        let wanted = frac * (1.0 - 1e-12);
        let mut held = 0.0;
        for (i, s) in self.values.iter().enumerate() {
            held += (s / norm).powi(2);
            if held >= wanted {
                return Some(i + 1);
            }
        }
        self.complete.then_some(self.values.len())
    }

    /// `(σ_k − σ_{k+1})/σ_k`, in `[0, 1]`, and 1 after the last value; `None` where k is 0, beyond the
    /// known values, or `σ_k` is zero.
    #[must_use]
    pub fn relative_gap(&self, k: usize) -> Option<f64> {
        let value = *self.values.get(k.checked_sub(1)?)?;
        let next = match self.values.get(k) {
            Some(next) => *next,
            None if self.complete => 0.0,
            None => return None,
        };
        ratio(value - next, value)
    }

    /// Shannon entropy of the values (0) or of their squares (1), normalised to sum 1.
    fn entropy(&self, power: usize) -> Option<f64> {
        let largest = self.spectral_norm().filter(|s| *s > 0.0)?;
        if !self.complete {
            return self.estimated_entropies.map(|entropies| entropies[power]);
        }
        let weights =
            || self.values.iter().map(|s| (s / largest).powi(if power == 0 { 1 } else { 2 }));
        let total: f64 = weights().sum();
        Some(-weights().map(|p| p / total).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>())
    }
}

/// Spectral norm of the rounding noise of the stored type.
pub(super) fn noise(storage_eps: f64, frobenius: f64, rows: usize, cols: usize) -> f64 {
    let (rows, cols) = (real(rows), real(cols));
    if frobenius > 0.0 {
        storage_eps / 12f64.sqrt() * frobenius * (rows.sqrt() + cols.sqrt()) / (rows * cols).sqrt()
    } else {
        0.0
    }
}

type ValuesAndVectors = (Vec<f64>, Mat<f64>);

/// Singular values and vectors from a Gram; `None` where the smallest value has lost its digits.
fn eigen_of_gram(gram: MatRef<'_, f64>) -> Result<Option<ValuesAndVectors>, LinalgError> {
    let (squares, vectors) = symmetric_eigen(gram)?;
    let values: Vec<f64> = squares.iter().map(|l| l.max(0.0).sqrt()).collect();
    let resolved =
        values.last().zip(values.first()).is_some_and(|(l, f)| *l >= GRAM_RESOLUTION * f);
    Ok(resolved.then_some((values, vectors)))
}

/// The route by the size of the small side.
fn decompose(tall: &Scaled<'_>, thin_svd_limit: usize) -> Result<Parts, LinalgError> {
    let small = tall.cols();
    if small > thin_svd_limit
        && let Some((values, right)) = eigen_of_gram(tall.gram().as_ref())?
    {
        return Ok(Parts { values, right, left: None });
    }
    if tall.rows() * small <= WHOLE_LIMIT {
        let svd = thin_svd(tall.to_f64().as_ref())?;
        return Ok(Parts { values: svd.values, right: svd.v, left: Some(svd.u) });
    }
    let svd = thin_svd(tall.triangular_factor().as_ref())?;
    Ok(Parts { values: svd.values, right: svd.v, left: None })
}

#[cfg(test)]
mod tests;
