//! Leading eigenpairs of a Gram `wᵀw` too large to decompose, by block Lanczos with full
//! re-orthogonalisation (Golub & Underwood 1977) and Rayleigh–Ritz over the whole basis.

use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::LinalgError;
use super::dense::{Scaled, mul, symmetric_eigen};

/// Vectors applied together: wide enough for matrix-product speed, narrow enough that 28 blocks
/// make a basis of 448.
const BLOCK: usize = 16;

/// Blocks between two looks at the convergence; a look costs one dense eigenproblem of the basis.
const CHECK_EVERY: usize = 4;

/// Residual, relative to the largest eigenvalue, below which iterating on gains nothing: the
/// vectors are then exact to `f32`.
const CONVERGED: f64 = 1e-10;

/// The start block is the same at every save, so its error moves smoothly with the weights.
const SEED: u64 = 0x77_65_69_67_68_74;

/// A new column whose norm fell below this fraction of its own on orthogonalisation carries only
/// rounding, and is replaced by a random one.
const DEPENDENT: f64 = 1e-8;

/// Leading Ritz pairs of `wᵀw`, descending.
pub(super) struct RitzPairs {
    /// Ritz values.
    pub(super) values: Vec<f64>,
    /// Ritz vectors, cols × number of values.
    pub(super) vectors: Mat<f64>,
    /// ‖wᵀw·y − θy‖ of each pair.
    pub(super) residuals: Vec<f64>,
}

/// The `wanted` leading eigenpairs of `wᵀw` from a Krylov space of at most `dim` dimensions.
pub(super) fn leading_pairs(
    w: &Scaled<'_>,
    wanted: usize,
    dim: usize,
) -> Result<RitzPairs, LinalgError> {
    let n = w.cols();
    let dim = dim.min(n);
    let wanted = wanted.min(dim);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut basis = Mat::zeros(n, dim);
    let mut images = Mat::zeros(n, dim);
    let mut block = Mat::from_fn(n, BLOCK.min(dim), |_, _| rng.random::<f64>() - 0.5);
    let mut filled = 0;
    let mut n_blocks = 0;
    loop {
        let width = block.ncols().min(dim - filled);
        append(&mut basis, filled, block.as_ref().subcols(0, width), &mut rng);
        let image = w.normal_times(basis.as_ref().subcols(filled, width));
        images.as_mut().subcols_mut(filled, width).copy_from(&image);
        filled += width;
        n_blocks += 1;
        let last = filled == dim;
        if last || (n_blocks % CHECK_EVERY == 0 && filled > wanted) {
            let pairs = ritz(
                basis.as_ref().subcols(0, filled),
                images.as_ref().subcols(0, filled),
                wanted,
            )?;
            let top = pairs.values.first().copied().unwrap_or(0.0);
            if last || pairs.residuals.iter().all(|r| *r <= CONVERGED * top) {
                return Ok(pairs);
            }
        }
        block = image;
    }
}

/// Writes an orthonormal version of `block` into columns `filled..` of `basis`, orthogonal to the
/// columns before; dependent columns are replaced by random ones.
fn append(basis: &mut Mat<f64>, filled: usize, block: MatRef<'_, f64>, rng: &mut ChaCha8Rng) {
    let mut block = block.to_owned();
    project_out(basis.as_ref().subcols(0, filled), &mut block);
    for j in 0..block.ncols() {
        let mut column = block.as_ref().subcols(j, 1).to_owned();
        loop {
            let before = column.norm_l2();
            // Twice is enough, and again after normalising: a nearly dependent residual would
            // otherwise bring the old directions back with the scale of its rounding.
            project_out(basis.as_ref().subcols(0, filled + j), &mut column);
            let after = column.norm_l2();
            if before > 0.0 && after > DEPENDENT * before {
                column *= faer::Scale(1.0 / after);
                project_out(basis.as_ref().subcols(0, filled + j), &mut column);
                let norm = column.norm_l2();
                column *= faer::Scale(1.0 / norm);
                break;
            }
            column = Mat::from_fn(basis.nrows(), 1, |_, _| rng.random::<f64>() - 0.5);
        }
        basis.as_mut().subcols_mut(filled + j, 1).copy_from(&column);
    }
}

/// x − Q(Qᵀx), twice.
fn project_out(q: MatRef<'_, f64>, x: &mut Mat<f64>) {
    if q.ncols() == 0 {
        return;
    }
    for _ in 0..2 {
        let along = mul(q.transpose(), x.as_ref());
        *x -= mul(q, along.as_ref());
    }
}

/// Rayleigh–Ritz over an orthonormal basis with images `wᵀw·basis`.
fn ritz(
    basis: MatRef<'_, f64>,
    images: MatRef<'_, f64>,
    wanted: usize,
) -> Result<RitzPairs, LinalgError> {
    let projected = mul(basis.transpose(), images);
    let symmetric = Mat::from_fn(projected.nrows(), projected.ncols(), |i, j| {
        0.5 * (projected[(i, j)] + projected[(j, i)])
    });
    let (mut values, inner) = symmetric_eigen(symmetric.as_ref())?;
    let wanted = wanted.min(values.len());
    values.truncate(wanted);
    let inner = inner.as_ref().subcols(0, wanted);
    let vectors = mul(basis, inner);
    let moved = mul(images, inner);
    let residuals = values
        .iter()
        .enumerate()
        .map(|(i, theta)| {
            let (moved, vector) = (moved.col(i), vectors.col(i));
            moved
                .iter()
                .zip(vector.iter())
                .map(|(m, v)| (m - theta * v).powi(2))
                .sum::<f64>()
                .sqrt()
        })
        .collect();
    Ok(RitzPairs { values, vectors, residuals })
}
