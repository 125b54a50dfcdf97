//! Relative position of two flags of leading subspaces, as one rank correlation.

use faer::{Mat, MatRef};

use super::dense::{mul, real};
use super::overlap::usable_ks;
use super::spectrum::Spectrum;

/// Kendall's τ-b of the joint law `p/Σp` over ordered rows and columns, in `[-1, 1]`: 1 the same
/// order, 0 independent, -1 reversed. `None` where a marginal has a single value (0/0) or an entry
/// is not finite.
#[must_use]
pub fn tau_b(p: MatRef<'_, f64>) -> Option<f64> {
    let (n_rows, n_cols) = (p.nrows(), p.ncols());
    let total: f64 = p.col_iter().map(|c| c.iter().sum::<f64>()).sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    // below[(i, j)] = Σ of p over rows ≥ i and columns < j.
    let mut below = Mat::<f64>::zeros(n_rows + 1, n_cols + 1);
    for i in (0..n_rows).rev() {
        for j in 0..n_cols {
            below[(i, j + 1)] =
                p[(i, j)] / total + below[(i + 1, j + 1)] + below[(i, j)] - below[(i + 1, j)];
        }
    }
    let (mut concordant, mut discordant) = (0.0, 0.0);
    for i in 0..n_rows {
        for j in 0..n_cols {
            let mass = p[(i, j)] / total;
            concordant += mass * (below[(i + 1, n_cols)] - below[(i + 1, j + 1)]);
            discordant += mass * below[(i + 1, j)];
        }
    }
    let row_ties: f64 = (0..n_rows).map(|i| (p.row(i).iter().sum::<f64>() / total).powi(2)).sum();
    let col_ties: f64 = (0..n_cols).map(|j| (p.col(j).iter().sum::<f64>() / total).powi(2)).sum();
    let distinct = (1.0 - row_ties) * (1.0 - col_ties);
    (distinct > f64::EPSILON)
        .then(|| (2.0 * (concordant - discordant) / distinct.sqrt()).clamp(-1.0, 1.0))
}

/// τ-b of the flags of a writer (left vectors) and a reader (right vectors) with steps at the
/// usable ones of `ks`, in `[-1, 1]`; `None` where no k is usable.
///
/// The joint law is the block energies `‖U_aᵀV_b‖_F²` over the blocks between steps, with the
/// complement as last block; rows and columns sum to the block sizes. Coarse steps shrink the
/// extremes.
#[must_use]
pub fn flag_correlation(writer: &Spectrum, reader: &Spectrum, ks: &[usize]) -> Option<f64> {
    let ks = usable_ks(writer, reader, ks);
    let k_max = *ks.last()?;
    let u = writer.basis.as_ref().subcols(0, k_max);
    let v = reader.basis.as_ref().subcols(0, k_max);
    let cosines = mul(u.transpose(), v);
    let mut bounds = vec![0];
    bounds.extend(&ks);
    let n_blocks = ks.len();
    let mut blocks = Mat::zeros(n_blocks + 1, n_blocks + 1);
    for a in 0..n_blocks {
        for b in 0..n_blocks {
            let (rows, cols) = (bounds[a]..bounds[a + 1], bounds[b]..bounds[b + 1]);
            let block = cosines.as_ref().submatrix(rows.start, cols.start, rows.len(), cols.len());
            blocks[(a, b)] = block.squared_norm_l2();
        }
    }
    let size = |a: usize| real(bounds[a + 1] - bounds[a]);
    for a in 0..n_blocks {
        blocks[(a, n_blocks)] = size(a) - (0..n_blocks).map(|b| blocks[(a, b)]).sum::<f64>();
        blocks[(n_blocks, a)] = size(a) - (0..n_blocks).map(|b| blocks[(b, a)]).sum::<f64>();
    }
    let complement = real(writer.rows - k_max);
    blocks[(n_blocks, n_blocks)] =
        complement - (0..n_blocks).map(|a| blocks[(a, n_blocks)]).sum::<f64>();
    tau_b(blocks.as_ref())
}

#[cfg(test)]
mod tests;
