//! Redundancy of attention heads too large for products of all pairs, estimated from random probes.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatRef, Par, Scale};

use super::dense::{Scaled, mul, narrow, pow2, real, widen};
use super::heads::{HeadBasis, HeadOverlap, HeadSide, Sums, centred, chance};
use super::probes::{HEAD_STREAM, jackknife_error, signs};
use super::{LinalgError, Linear};

/// Rademacher probes of estimated heads, the same at every save.
pub const HEAD_PROBES: usize = 16;

/// Squares of the pivots of a head's Gram within this ratio leave its projector correct to 1e-3 in
/// `f32` products; beyond, the head goes through a QR decomposition.
const WELL_CONDITIONED: f64 = 1e-8;

/// Heads whose largest element is within this power of two of 1 are used as they are.
const NEAR_ONE: i32 = 20;

/// Jackknife standard errors of an estimated [`HeadOverlap`]; `None` where undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HeadStderr {
    /// Of [`HeadOverlap::mean`].
    pub mean: Option<f64>,
    /// Of [`HeadOverlap::excess`].
    pub excess: Option<f64>,
    /// Of [`HeadOverlap::effective_heads`].
    pub effective_heads: Option<f64>,
    /// Of [`HeadOverlap::effective_heads_centered`].
    pub effective_heads_centered: Option<f64>,
    /// Of [`HeadOverlap::gram_mean`].
    pub gram_mean: Option<f64>,
}

/// What the probes say of all heads.
struct Images {
    dim: usize,
    head_dim: usize,
    /// For each probe z: `(U_hU_hᵀ − d/D)·z` of every head h, D × H.
    projected: Vec<Mat<f32>>,
    /// `Σ_h (A_h − tr A_h/D)·z/‖A_h‖` with `A_h = W_hᵀW_h`, D × s.
    cosines: Mat<f64>,
    /// `Σ_h ‖(A_h − tr A_h/D)·z/‖A_h‖‖²` for each probe.
    own_cosines: [f64; HEAD_PROBES],
    /// `Σ_{h≠h'} tr A_h tr A_h'/(D ‖A_h‖‖A_h'‖)`.
    traces: f64,
    no_zero_head: bool,
    definite: bool,
}

/// [`head_overlap`](super::head_overlap) from products with [`HEAD_PROBES`] random vectors:
/// `H·(d² + 6·HEAD_PROBES·d)·D` floating-point operations instead of `H²·d²·D`. Heads are `d_h × D`
/// (row side) or `D × d_h` (column side) and small enough to be copied one at a time.
///
/// Means are unbiased, and so is ‖P‖² inside the effective number of heads, whose squares are
/// products of different probes. [`HeadOverlap::max`] is the largest of noisy numbers and so biased
/// upwards, by about three times the standard error of one pair.
///
/// # Errors
/// [`LinalgError::NotFinite`] for a NaN or an infinity, [`LinalgError::Shape`] for heads of different
/// shapes, [`LinalgError::NoConvergence`] where the SVD of an ill-conditioned head does not converge,
/// [`LinalgError::Unread`].
pub fn estimate_head_overlap(
    heads: &[Linear<'_>],
    side: HeadSide,
) -> Result<(HeadOverlap, HeadStderr), LinalgError> {
    let images = Images::new(heads, side)?;
    Ok(images.summary(heads.len()))
}

impl Images {
    fn new(heads: &[Linear<'_>], side: HeadSide) -> Result<Self, LinalgError> {
        let shape = |head: &Linear<'_>| match side {
            HeadSide::Row => (head.cols(), head.rows()),
            HeadSide::Column => (head.rows(), head.cols()),
        };
        let (dim, width) = heads.first().map_or((0, 0), shape);
        for head in heads {
            let (found_dim, found_width) = shape(head);
            for (what, found, expected) in
                [("head's space", found_dim, dim), ("head", found_width, width)]
            {
                if found != expected {
                    return Err(LinalgError::Shape { what, found, expected });
                }
            }
        }
        let z = narrow(signs(dim, HEAD_PROBES, HEAD_STREAM).as_ref());
        let mut images = Self {
            dim,
            head_dim: dim.min(width),
            projected: vec![Mat::zeros(dim, heads.len()); HEAD_PROBES],
            cosines: Mat::zeros(dim, HEAD_PROBES),
            own_cosines: [0.0; HEAD_PROBES],
            traces: 0.0,
            no_zero_head: true,
            definite: !heads.is_empty(),
        };
        let (mut sum, mut own) = (0.0, 0.0);
        for (h, head) in heads.iter().enumerate() {
            let share = images.add(h, &head.to_dense(side == HeadSide::Row)?, &z)?;
            sum += share;
            own += share * share;
        }
        images.traces = (sum * sum - own) / real(dim.max(1));
        Ok(images)
    }

    /// Adds a head (D × `d_h`); returns tr A/‖A‖.
    fn add(&mut self, h: usize, columns: &Mat<f32>, z: &Mat<f32>) -> Result<f64, LinalgError> {
        let scaled = Scaled::new(columns.as_ref())?;
        let rescaled = (scaled.exponent.abs() > NEAR_ONE).then(|| narrow(scaled.to_f64().as_ref()));
        let columns = rescaled.as_ref().unwrap_or(columns);
        let unit = if rescaled.is_some() { 0 } else { scaled.exponent };
        let gram = scaled.gram() * Scale(pow2(2 * unit));
        let along = widen(product(columns.transpose(), z.as_ref()).as_ref());
        self.project(h, columns, &gram, &along, z)?;

        let norm = gram.norm_l2();
        if norm == 0.0 {
            self.no_zero_head = false;
            return Ok(0.0);
        }
        let trace: f64 = (0..gram.nrows()).map(|i| gram[(i, i)]).sum();
        let image = widen(product(columns.as_ref(), narrow(along.as_ref()).as_ref()).as_ref());
        let mean = trace / real(self.dim);
        for k in 0..HEAD_PROBES {
            for i in 0..self.dim {
                let cosine = (image[(i, k)] - mean * f64::from(z[(i, k)])) / norm;
                self.cosines[(i, k)] += cosine;
                self.own_cosines[k] += cosine * cosine;
            }
        }
        Ok(trace / norm)
    }

    /// Fills in the projected probes of a head: `W(WᵀW)⁻¹Wᵀz` for the columns W, or `UUᵀz` with a
    /// basis U where the Gram is close to singular.
    fn project(
        &mut self,
        h: usize,
        columns: &Mat<f32>,
        gram: &Mat<f64>,
        along: &Mat<f64>,
        z: &Mat<f32>,
    ) -> Result<(), LinalgError> {
        let factor = gram.llt(faer::Side::Lower).ok().filter(|factor| {
            let pivots = (0..gram.nrows()).map(|i| factor.L()[(i, i)].powi(2));
            let (least, most) =
                pivots.fold((f64::INFINITY, 0.0f64), |(l, m), p| (l.min(p), m.max(p)));
            least > WELL_CONDITIONED * most
        });
        let projected = if let Some(factor) = factor {
            product(columns.as_ref(), narrow(factor.solve(along).as_ref()).as_ref())
        } else {
            let head = HeadBasis::new(columns.as_ref())?;
            self.definite &= head.full_rank;
            let coordinates = mul(head.basis.transpose(), widen(z.as_ref()).as_ref());
            narrow(mul(head.basis.as_ref(), coordinates.as_ref()).as_ref())
        };
        let share = narrow_one(chance(self.dim, self.head_dim));
        for (k, images) in self.projected.iter_mut().enumerate() {
            let (from, z) = (projected.col_as_slice(k), z.col_as_slice(k));
            let into = images.col_as_slice_mut(h);
            for ((to, x), z) in into.iter_mut().zip(from).zip(z) {
                *to = x - share * z;
            }
        }
        Ok(())
    }

    fn summary(&self, n_heads: usize) -> (HeadOverlap, HeadStderr) {
        let shape = (n_heads, self.dim, self.head_dim);
        let d = real(self.head_dim);
        let chance = chance(self.dim, self.head_dim);
        // By probe: unbiased estimates of the entries of the kernel matrix.
        let kernels: Vec<Mat<f64>> = self
            .projected
            .iter()
            .map(|x| {
                let products = product(x.transpose(), x.as_ref());
                let kernel = |i, j| f64::from(products[(i, j)]) / d + chance;
                Mat::from_fn(n_heads, n_heads, kernel)
            })
            .collect();
        let cosines: Vec<f64> = (0..HEAD_PROBES)
            .map(|k| self.cosines.col(k).squared_norm_l2() - self.own_cosines[k] + self.traces)
            .collect();
        let summed = |without| {
            let mut sums = sums(&kernels, shape, without);
            let kept = cosines.iter().enumerate().filter(|(k, _)| Some(*k) != without);
            let n = real(kept.clone().count().max(1));
            let mean = kept.map(|(_, c)| c).sum::<f64>() / n;
            sums.gram = self.no_zero_head.then_some(mean);
            sums
        };
        let of = |sums: &Sums| HeadOverlap::new(shape, self.definite, sums);
        let kept: Vec<HeadOverlap> = (0..HEAD_PROBES).map(|k| of(&summed(Some(k)))).collect();
        let error = |value: fn(&HeadOverlap) -> Option<f64>| {
            Some(jackknife_error(&kept.iter().map(value).collect::<Option<Vec<f64>>>()?))
        };
        let stderr = HeadStderr {
            mean: error(|o| o.mean),
            excess: error(|o| o.excess),
            effective_heads: error(|o| o.effective_heads),
            effective_heads_centered: error(|o| o.effective_heads_centered),
            gram_mean: error(|o| o.gram_mean),
        };
        (of(&bounded(&summed(None), shape)), stderr)
    }
}

/// Sums over the kernel matrix from its estimates by probe, optionally without one of them. Squares
/// are mean products of different probes, which noise does not raise.
fn sums(
    kernels: &[Mat<f64>],
    (n_heads, dim, head_dim): (usize, usize, usize),
    without: Option<usize>,
) -> Sums {
    let h = real(n_heads);
    let chance = chance(dim, head_dim);
    let kept = || kernels.iter().enumerate().filter(|(k, _)| Some(*k) != without).map(|(_, x)| x);
    let n = real(kept().count());
    let square = |sum: f64, squares: f64| (sum * sum - squares) / (n * (n - 1.0));
    let mut sums = Sums { squares: h, centred_squares: h, ..Sums::default() };
    for j in 0..n_heads {
        for i in 0..j {
            let (mut plain, mut centre) = ((0.0, 0.0), (0.0, 0.0));
            for x in kept().map(|kernel| kernel[(i, j)]) {
                let c = centred(x, chance);
                plain = (plain.0 + x, plain.1 + x * x);
                centre = (centre.0 + c, centre.1 + c * c);
            }
            sums.kernel += 2.0 * plain.0 / n;
            sums.max = sums.max.max(plain.0 / n);
            sums.squares += 2.0 * square(plain.0, plain.1);
            sums.centred_squares += 2.0 * square(centre.0, centre.1);
        }
    }
    sums
}

/// Estimates moved into the bounds of the exact numbers.
fn bounded(sums: &Sums, (n_heads, dim, head_dim): (usize, usize, usize)) -> Sums {
    let (h, d) = (real(n_heads), real(head_dim));
    let n_pairs = (h * (h - 1.0)).max(0.0);
    let least = ((2.0 * d - real(dim)) / d).max(0.0);
    Sums {
        kernel: sums.kernel.clamp(n_pairs * least, n_pairs),
        max: sums.max.clamp(least, 1.0),
        squares: sums.squares.clamp(h, h * h),
        centred_squares: sums.centred_squares.max(h),
        gram: sums.gram.map(|gram| gram.clamp(0.0, n_pairs)),
    }
}

fn product(a: MatRef<'_, f32>, b: MatRef<'_, f32>) -> Mat<f32> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    matmul(&mut product, Accum::Replace, a, b, 1.0, Par::Seq);
    product
}

#[expect(clippy::cast_possible_truncation, reason = "products take f32")]
fn narrow_one(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests;
