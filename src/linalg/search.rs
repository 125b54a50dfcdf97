//! The search for leading singular triplets, with residuals that prove them: by block Lanczos where
//! nothing is known, else by one pass from the subspace of the save before, and by a Chebyshev filter
//! where that is not enough (Saad 2011, chapters 5 and 7).

use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::bulk::Bulk;
use super::dense::{add_gram, mirror_lower, mul, narrow, pow2, real, symmetric_eigen, widen};
use super::lanczos;
use super::leading::{Leading, Route, WarmStart};
use super::linear::Linear;
use super::residual::{SUBSPACE_ERROR, subspace_error};
use super::{LinalgError, Side, spectrum};

/// Relative gaps below this are not chased: a subspace cut there turns by a tenth of a radian when
/// the weights move by half a thousandth, and `cut_ok` says what became of it.
const RESOLVABLE_GAP: f64 = 5e-3;

/// A gap must exceed this many times the rounding noise of the stored type to be resolvable.
const CLEAR_OF_NOISE: f64 = 10.0;

/// Random vectors that join the subspace of the save before: they meet directions that were not in
/// it, and measure the second moment of what lies outside.
const PROBES: usize = 8;

/// Further columns beyond the largest k: the lower edge against which it is told apart.
const MARGIN: usize = 8;

/// The polynomial of a Chebyshev filter must not amplify by more than this, or the columns become
/// parallel in `f32`.
const MAX_AMPLIFICATION: f64 = 1e6;

/// Highest degree of the filter; beyond, starting anew is cheaper.
const MAX_DEGREE: usize = 3;

/// Columns this near to orthonormal are corrected by a series instead of an eigenproblem.
const NEARLY_ORTHONORMAL: f64 = 3e-3;

/// Values below this fraction of the largest are rounding in `f32` products.
const F32_FLOOR: f64 = 1e-6;

/// Rows of vectors that are widened at a time.
const GRAM_ROWS: usize = 1024;

/// The random vectors are the same at every save, so their error moves smoothly with the weights.
const SEED: u64 = 0x77_65_69_67_68_74;

/// Whether the subspace of dimension k of a side of `dim` dimensions can be searched: it and the
/// margin beyond it fill half of the largest Krylov space, or that space holds everything.
#[must_use]
pub fn searchable(k: usize, dim: usize) -> bool {
    let wanted = k + MARGIN.max(k / 8);
    dim <= lanczos::DIM_LIMIT || wanted <= lanczos::DIM_LIMIT / 2
}

impl Leading {
    /// The leading triplets of `w`, as many as the largest of `ks` needs, each cut of `ks` to a
    /// subspace error of a thousandth where its gap allows.
    ///
    /// # Errors
    /// [`LinalgError::Unread`], [`LinalgError::NoConvergence`].
    pub fn find(
        w: &Linear<'_>,
        ks: &[usize],
        storage_eps: f64,
        warm: Option<&WarmStart>,
    ) -> Result<Self, LinalgError> {
        let side = if w.rows() < w.cols() { Side::Left } else { Side::Right };
        let ks: Vec<usize> = ks.iter().copied().filter(|k| searchable(*k, w.dim(side))).collect();
        let search = Search::new(w, side, &ks, storage_eps)?;
        let fits = |start: &&WarmStart| {
            start.basis.shape() == (search.dim, search.wanted) && start.reached.len() == ks.len()
        };
        if let Some(start) = warm.filter(fits)
            && let Some(found) = search.from(start)?
        {
            return Ok(found);
        }
        search.cold()
    }
}

/// One pass over the matrix: Ritz triplets of a subspace.
struct Pass {
    values: Vec<f64>,
    residuals: Vec<f64>,
    /// Vectors of the searched side, and of the other.
    near: Mat<f32>,
    far: Mat<f32>,
    /// Mean of `‖(I − P)G·q‖²` over the random unit vectors outside.
    second_moment: f64,
}

/// A matrix and what is asked of it.
struct Search<'a> {
    w: &'a Linear<'a>,
    side: Side,
    ks: &'a [usize],
    dim: usize,
    /// Triplets kept.
    wanted: usize,
    /// Of the scaled matrix.
    frobenius: f64,
    noise: f64,
}

impl<'a> Search<'a> {
    fn new(
        w: &'a Linear<'a>,
        side: Side,
        ks: &'a [usize],
        storage_eps: f64,
    ) -> Result<Self, LinalgError> {
        let frobenius = w.gram_diagonal(Side::Right)?.iter().sum::<f64>().sqrt();
        let noise = spectrum::noise(storage_eps, frobenius, w.rows(), w.cols());
        let dim = w.dim(side);
        let k_max = ks.iter().copied().max().unwrap_or(1);
        let wanted = (k_max + MARGIN.max(k_max / 8)).min(dim);
        Ok(Self { w, side, ks, dim, wanted, frobenius, noise })
    }

    /// From the subspace of the save before; `None` where only a cold search will do.
    fn from(&self, start: &WarmStart) -> Result<Option<Leading>, LinalgError> {
        let mut pass = self.pass(start.basis.to_f32().as_ref())?;
        let mut route = Route::Warm;
        if !self.is_good(&pass, &start.reached) {
            let Some(filtered) = self.filter(&pass)? else { return Ok(None) };
            pass = self.pass(filtered.as_ref())?;
            route = Route::Filtered;
            if !self.is_good(&pass, &start.reached) {
                return Ok(None);
            }
        }
        let moved = self.moved_bulk(&pass, &start.bulk);
        Ok(moved.map(|outside| {
            self.finish(pass, route, outside, start.bulk.clone(), start.reached.clone())
        }))
    }

    fn cold(&self) -> Result<Leading, LinalgError> {
        let goal = lanczos::Goal { wanted: self.wanted, is_good: &|v, r| self.is_met(v, r, &[]) };
        let found = lanczos::leading_pairs(self.w, self.side, &goal)?;
        let mut pass = self.pass(found.vectors.as_ref())?;
        if !self.is_good(&pass, &[]) && found.converged {
            // Products in f32 left the vectors a little short of what the iteration saw.
            if let Some(filtered) = self.filter(&pass)? {
                pass = self.pass(filtered.as_ref())?;
            }
        }
        let held: f64 = pass.values.iter().map(|s| s * s).sum();
        let trace = (self.frobenius.powi(2) - held).max(0.0);
        let count = real(self.dim - pass.values.len().min(self.dim));
        let anchor = Bulk::new(&found.nodes, count, trace, pass.second_moment)
            .scaled(pow2(self.w.exponent()));
        // Where there was no gap to chase, nothing was reached that later saves could be held to.
        let error = |k: usize| subspace_error(&pass.values, &pass.residuals, k);
        let chased = |k: &usize| self.is_chased(&pass.values, *k);
        let reached = |k: &usize| if chased(k) { error(*k).unwrap_or(0.0) } else { 0.0 };
        let reached = self.ks.iter().map(reached).collect();
        Ok(self.finish(pass, Route::Cold, anchor.clone(), anchor, reached))
    }

    /// The bulk of the anchor, brought to this save's trace and second moment; `None` where it
    /// changed so much that its shape must be looked at anew.
    fn moved_bulk(&self, pass: &Pass, anchor: &Bulk) -> Option<Bulk> {
        let unit = pow2(self.w.exponent());
        let held: f64 = pass.values.iter().map(|s| s * s).sum();
        let trace = (self.frobenius.powi(2) - held).max(0.0);
        anchor.moved_to(trace * unit * unit, pass.second_moment * unit.powi(4))
    }

    fn finish(
        &self,
        pass: Pass,
        route: Route,
        outside: Bulk,
        anchor: Bulk,
        reached: Vec<f64>,
    ) -> Leading {
        let unit = pow2(self.w.exponent());
        let (left, right) = match self.side {
            Side::Left => (pass.near, pass.far),
            Side::Right => (pass.far, pass.near),
        };
        Leading {
            rows: self.w.rows(),
            cols: self.w.cols(),
            side: self.side,
            values: pass.values.iter().map(|s| s * unit).collect(),
            residuals: pass.residuals.iter().map(|r| r * unit).collect(),
            left,
            right,
            frobenius: self.frobenius * unit,
            noise: self.noise * unit,
            route,
            outside,
            anchor,
            reached,
        }
    }

    fn is_good(&self, pass: &Pass, reached: &[f64]) -> bool {
        self.is_met(&pass.values, &pass.residuals, reached)
    }

    /// Whether every cut with a resolvable gap is known to [`SUBSPACE_ERROR`], or as well as the
    /// cold search knew it.
    fn is_met(&self, values: &[f64], residuals: &[f64], reached: &[f64]) -> bool {
        self.ks.iter().enumerate().filter(|(_, k)| self.is_chased(values, **k)).all(|(i, &k)| {
            let accepted = reached.get(i).map_or(0.0, |r| 2.0 * r).max(SUBSPACE_ERROR);
            subspace_error(values, residuals, k).is_some_and(|e| e <= accepted)
        })
    }

    /// Whether the gap at k is one that a search resolves.
    fn is_chased(&self, values: &[f64], k: usize) -> bool {
        let Some((value, next)) = k.checked_sub(1).and_then(|i| values.get(i)).zip(values.get(k))
        else {
            return false;
        };
        value - next > (RESOLVABLE_GAP * value).max(CLEAR_OF_NOISE * self.noise)
    }

    /// Ritz triplets of the span of `basis` and a few random vectors, improved by half a power step.
    fn pass(&self, basis: MatRef<'_, f32>) -> Result<Pass, LinalgError> {
        let n_known = basis.ncols();
        let x = with_probes(basis, PROBES.min(self.dim - n_known));
        let (there, back) = self.w.there_and_back(self.side, x.as_ref())?;
        let second_moment = outside_moment(&x, &back, n_known);

        let (squares, turn) = symmetric_eigen(gram(&there).as_ref())?;
        let floor = squares.first().map_or(0.0, |s| s.max(0.0)) * F32_FLOOR.powi(2);
        let n_found = squares.iter().take_while(|s| **s > floor && **s > 0.0).count();
        let values: Vec<f64> = squares[..n_found].iter().map(|s| s.sqrt()).collect();
        // u = Y·h/σ; Wᵀu = Z·h/σ; v = X·h, here over σ.
        let turn = Mat::from_fn(turn.nrows(), n_found, |i, j| turn[(i, j)] / values[j]);
        let turn32 = narrow(turn.as_ref());
        let image = &back * &turn32;
        let near = &x * &turn32;
        let mut residuals: Vec<f64> = (0..n_found)
            .map(|i| {
                let square = squares[i];
                let pairs = image.col(i).iter().zip(near.col(i).iter());
                let defect =
                    |(a, v): (&f32, &f32)| (f64::from(*a) - square * f64::from(*v)).powi(2);
                pairs.map(defect).sum::<f64>().sqrt()
            })
            .collect();

        // The singular triplets of Wᵀu for these orthonormal u: half a power step on.
        let (squares, more) = symmetric_eigen(gram(&image).as_ref())?;
        let n_kept = n_found.min(self.wanted);
        let mut values: Vec<f64> = squares.iter().take(n_kept).map(|s| s.max(0.0).sqrt()).collect();
        let more = more.as_ref().subcols(0, n_kept);
        let onto = Mat::from_fn(more.nrows(), n_kept, |i, j| {
            more[(i, j)] / values[j].max(f64::MIN_POSITIVE)
        });
        let near = orthonormalised(&(image * &narrow(onto.as_ref())))?;
        let far = &there * &narrow(mul(turn.as_ref(), more).as_ref());
        residuals.truncate(n_kept);
        // What was found to be zero is known, too: the end of the spectrum.
        values.resize(self.wanted, 0.0);
        residuals.resize(self.wanted, 0.0);
        Ok(Pass { values, residuals, near, far, second_moment })
    }

    /// The subspace of a pass under a Chebyshev polynomial that is small on all values below the
    /// last one; `None` where the spectrum falls too steeply for `f32`.
    fn filter(&self, pass: &Pass) -> Result<Option<Mat<f32>>, LinalgError> {
        let n_found = pass.near.ncols();
        let (Some(first), Some(last)) = (pass.values.first(), pass.values.get(n_found.max(1) - 1))
        else {
            return Ok(None);
        };
        let stretch = 2.0 * (first / last).powi(2) - 1.0;
        let amplification = |d: usize| (real(d) * stretch.max(1.0).acosh()).cosh();
        let Some(degree) = (2..=MAX_DEGREE).rev().find(|d| amplification(*d) <= MAX_AMPLIFICATION)
        else {
            return Ok(None);
        };
        let map = |x: &Mat<f32>| -> Result<Mat<f32>, LinalgError> {
            let image = self.w.gram_times(self.side, x.as_ref())?;
            Ok(combine(2.0 / last.powi(2), &image, -1.0, x))
        };
        let (mut before, mut now) = (pass.near.clone(), map(&pass.near)?);
        for _ in 1..degree {
            let next = combine(2.0, &map(&now)?, -1.0, &before);
            (before, now) = (now, next);
        }
        let orthogonal = now.qr().compute_thin_Q();
        if orthogonal.ncols() < self.wanted {
            return Ok(None);
        }
        Ok(Some(orthogonal))
    }
}

/// The basis and `n` random orthonormal vectors outside it.
fn with_probes(basis: MatRef<'_, f32>, n: usize) -> Mat<f32> {
    let known = basis.ncols();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut x = Mat::zeros(basis.nrows(), known + n);
    x.as_mut().subcols_mut(0, known).copy_from(basis);
    if n == 0 {
        return x;
    }
    let mut probes = Mat::from_fn(basis.nrows(), n, |_, _| rng.random::<f32>() - 0.5);
    for _ in 0..2 {
        let along = basis.transpose() * &probes;
        probes -= basis * &along;
        probes = probes.qr().compute_thin_Q();
    }
    x.as_mut().subcols_mut(known, n).copy_from(&probes);
    x
}

/// Mean of `‖(I − P)G·q‖²` over the random columns of x, with P the projector on the known ones.
fn outside_moment(x: &Mat<f32>, back: &Mat<f32>, known: usize) -> f64 {
    let n = x.ncols() - known;
    if n == 0 {
        return 0.0;
    }
    let basis = x.as_ref().subcols(0, known);
    let moved = back.as_ref().subcols(known, n);
    let along = basis.transpose() * moved;
    let outside = moved - basis * &along;
    widen(outside.as_ref()).squared_norm_l2() / real(n)
}

/// `XᵀX` in `f64`.
fn gram(x: &Mat<f32>) -> Mat<f64> {
    let n = x.ncols();
    let mut gram = Mat::zeros(n, n);
    for first in (0..x.nrows()).step_by(GRAM_ROWS) {
        let rows = GRAM_ROWS.min(x.nrows() - first);
        add_gram(&mut gram, widen(x.as_ref().subrows(first, rows)).as_ref());
    }
    mirror_lower(&mut gram);
    gram
}

/// Nearly orthonormal columns made orthonormal with the least change: `X(XᵀX)^(−1/2)`.
pub(super) fn orthonormalised(x: &Mat<f32>) -> Result<Mat<f32>, LinalgError> {
    let products = gram(x);
    let n = products.nrows();
    let excess = Mat::from_fn(n, n, |i, j| products[(i, j)] - f64::from(u8::from(i == j)));
    if excess.norm_l2() < NEARLY_ORTHONORMAL {
        // The series of (1 + E)^(−1/2), whose next term is below the rounding of f32.
        let square = mul(excess.as_ref(), excess.as_ref());
        let root = Mat::from_fn(n, n, |i, j| {
            f64::from(u8::from(i == j)) - 0.5 * excess[(i, j)] + 0.375 * square[(i, j)]
        });
        return Ok(x * narrow(root.as_ref()));
    }
    let (squares, turn) = symmetric_eigen(products.as_ref())?;
    if squares.last().is_some_and(|s| *s < 0.25) {
        return Ok(x.qr().compute_thin_Q());
    }
    let scaled = Mat::from_fn(turn.nrows(), turn.ncols(), |i, j| turn[(i, j)] / squares[j].sqrt());
    let root = mul(scaled.as_ref(), turn.transpose());
    Ok(x * narrow(root.as_ref()))
}

/// a·x + b·y.
#[expect(clippy::cast_possible_truncation, reason = "vectors are f32")]
fn combine(a: f64, x: &Mat<f32>, b: f64, y: &Mat<f32>) -> Mat<f32> {
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| {
        (a * f64::from(x[(i, j)]) + b * f64::from(y[(i, j)])) as f32
    })
}

#[cfg(test)]
mod tests;
