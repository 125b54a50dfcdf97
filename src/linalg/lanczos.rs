//! Leading eigenpairs of a Gram by block Lanczos with full re-orthogonalisation (Golub & Underwood
//! 1977) and Rayleigh–Ritz over the whole basis, in `f32`; what it finds is refined and judged by a
//! pass over the matrix itself.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dense::real;
use super::linear::Linear;
use super::{LinalgError, Side};

/// Largest Gram that is formed for the iteration: above, products with the matrix are cheaper.
const GRAM_DIM: usize = 1024;

/// Vectors applied together: to a Gram in the cache, and to a matrix in memory, where more are
/// needed for full speed.
const GRAM_BLOCK: usize = 16;
const MATRIX_BLOCK: usize = 32;

/// Dimension of the Krylov space for up to 72 vectors: the leading 64 of a 4096 × 4096 matrix with a
/// random bulk are then exact to `f32`.
const DIM: usize = 448;

/// It never grows beyond this, however many vectors are asked for.
pub(super) const DIM_LIMIT: usize = 1024;

/// Dimensions between two looks at the convergence; a look costs one dense eigenproblem.
const LOOK_EVERY: usize = 64;

/// Blocks before the first look: the quadrature of the rest of the spectrum is then good to a
/// hundredth in its entropies.
const LEAST_BLOCKS: usize = 7;

/// The start block is the same at every save.
const SEED: u64 = 0x6c_61_6e_63;

/// A column whose norm fell below this fraction of the largest of its block carries only rounding,
/// and is replaced by a random one.
const DEPENDENT: f32 = 1e-5;

/// Times that dependent columns are replaced; random ones are independent at once.
const MAX_ROUNDS: usize = 4;

/// How many vectors, and when they are good enough: asked with values and residuals in units of
/// singular values.
pub(super) struct Goal<'a> {
    pub(super) wanted: usize,
    pub(super) is_good: &'a dyn Fn(&[f64], &[f64]) -> bool,
}

/// What was found.
pub(super) struct Found {
    /// Ritz vectors, dim × wanted.
    pub(super) vectors: Mat<f32>,
    /// Quadrature of the rest of the spectrum: eigenvalues of the Gram and their weights.
    pub(super) nodes: Vec<(f64, f64)>,
    /// Whether the goal was reached.
    pub(super) converged: bool,
}

/// Iterates on the Gram of `side` until the goal is met or the space is full.
pub(super) fn leading_pairs(
    w: &Linear<'_>,
    side: Side,
    goal: &Goal<'_>,
) -> Result<Found, LinalgError> {
    let n = w.dim(side);
    let gram = if n <= GRAM_DIM { w.gram(side)? } else { None };
    let apply = |x: MatRef<'_, f32>| match &gram {
        Some(gram) => Ok(gram * x),
        None => w.gram_times(side, x),
    };
    let narrow = gram.is_some() || goal.wanted <= 2 * GRAM_BLOCK;
    let width = if narrow { GRAM_BLOCK } else { MATRIX_BLOCK };
    let dim = (DIM + goal.wanted.saturating_sub(72)).max(2 * goal.wanted).min(DIM_LIMIT).min(n);
    let wanted = goal.wanted.min(dim);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut space = Space { basis: Mat::zeros(n, dim), images: Mat::zeros(n, dim), filled: 0 };
    let mut block = random(n, width.min(dim), &mut rng);
    let mut next_look = (3 * wanted).max(LEAST_BLOCKS * width).min(dim);
    let first = block.ncols();
    loop {
        let columns = block.ncols().min(dim - space.filled);
        let fresh = space.orthogonal(block.as_ref().subcols(0, columns), &mut rng);
        let image = apply(fresh.as_ref())?;
        space.push(&fresh, &image);
        let last = space.filled == dim;
        if last || space.filled >= next_look {
            let look = space.look(wanted, first)?;
            let converged = (goal.is_good)(&look.values, &look.residuals);
            if last || converged {
                return Ok(Found { vectors: look.vectors, nodes: look.nodes, converged });
            }
            next_look = (space.filled + LOOK_EVERY).min(dim);
        }
        block = image;
    }
}

fn random(n: usize, columns: usize, rng: &mut ChaCha8Rng) -> Mat<f32> {
    Mat::from_fn(n, columns, |_, _| rng.random::<f32>() - 0.5)
}

/// An orthonormal basis and its images under the Gram.
struct Space {
    basis: Mat<f32>,
    images: Mat<f32>,
    filled: usize,
}

/// Ritz pairs at one time.
struct Look {
    values: Vec<f64>,
    residuals: Vec<f64>,
    vectors: Mat<f32>,
    nodes: Vec<(f64, f64)>,
}

impl Space {
    fn push(&mut self, fresh: &Mat<f32>, image: &Mat<f32>) {
        let n = fresh.ncols();
        self.basis.as_mut().subcols_mut(self.filled, n).copy_from(fresh);
        self.images.as_mut().subcols_mut(self.filled, n).copy_from(image);
        self.filled += n;
    }

    /// An orthonormal version of `block`, orthogonal to the basis; dependent columns are replaced by
    /// random ones.
    fn orthogonal(&self, block: MatRef<'_, f32>, rng: &mut ChaCha8Rng) -> Mat<f32> {
        let mut block = block.to_owned();
        let largest = block.col_iter().map(|c| c.norm_l2()).fold(0.0, f32::max);
        self.project_out(&mut block);
        for round in 0..MAX_ROUNDS {
            let qr = block.qr();
            let scale = if round == 0 { largest } else { 1.0 };
            let dependent: Vec<usize> = (0..block.ncols())
                .filter(|&j| qr.thin_R()[(j, j)].abs() <= DEPENDENT * scale)
                .collect();
            block = qr.compute_thin_Q();
            // A nearly dependent residual would bring the old directions back with the scale of
            // its rounding, so the normalised columns are projected again.
            for j in &dependent {
                let fresh = random(block.nrows(), 1, rng);
                block.as_mut().subcols_mut(*j, 1).copy_from(&fresh);
            }
            self.project_out(&mut block);
            if dependent.is_empty() {
                return block.qr().compute_thin_Q();
            }
        }
        block
    }

    /// x − Q(Qᵀx), twice.
    fn project_out(&self, x: &mut Mat<f32>) {
        if self.filled == 0 {
            return;
        }
        let basis = self.basis.as_ref().subcols(0, self.filled);
        for _ in 0..2 {
            let along = basis.transpose() * &*x;
            matmul(x.as_mut(), Accum::Add, basis, along.as_ref(), -1.0, Par::Seq);
        }
    }

    /// Rayleigh–Ritz over the basis so far; `first` is the width of the random start block, whose
    /// components weigh the quadrature nodes.
    fn look(&self, wanted: usize, first: usize) -> Result<Look, LinalgError> {
        let basis = self.basis.as_ref().subcols(0, self.filled);
        let images = self.images.as_ref().subcols(0, self.filled);
        let projected = basis.transpose() * images;
        let n = self.filled;
        let symmetric = Mat::from_fn(n, n, |i, j| 0.5 * (projected[(i, j)] + projected[(j, i)]));
        let eigen = symmetric
            .self_adjoint_eigen(faer::Side::Lower)
            .map_err(|_| LinalgError::NoConvergence { rows: n, cols: n })?;
        let squares: Vec<f64> =
            eigen.S().column_vector().iter().rev().map(|l| f64::from(*l).max(0.0)).collect();
        let turns = eigen.U().reverse_cols();
        let vectors = basis * turns.subcols(0, wanted);
        let moved = images * turns.subcols(0, wanted);
        let values: Vec<f64> = squares.iter().take(wanted).map(|s| s.sqrt()).collect();
        let residuals = (0..wanted)
            .map(|i| {
                let pairs = moved.col(i).iter().zip(vectors.col(i).iter());
                let defect = pairs
                    .map(|(m, v)| (f64::from(*m) - squares[i] * f64::from(*v)).powi(2))
                    .sum::<f64>()
                    .sqrt();
                if values[i] > 0.0 { defect / values[i] } else { 0.0 }
            })
            .collect();
        let share = real(self.basis.nrows()) / real(first);
        let nodes = (wanted..n)
            .map(|j| {
                let seen = (0..first).map(|i| f64::from(turns[(i, j)]).powi(2)).sum::<f64>();
                (squares[j], share * seen)
            })
            .collect();
        Ok(Look { values, residuals, vectors, nodes })
    }
}
