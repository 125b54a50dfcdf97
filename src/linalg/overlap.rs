//! How far the leading subspaces of a writer and a reader coincide.

use std::f64::consts::FRAC_PI_2;

use faer::MatRef;

use super::dense::{mul, real, thin_svd};
use super::residual::SUBSPACE_ERROR;
use super::spectrum::Spectrum;

/// A cut counts as clear when its gap exceeds this many times the uncertainty of the value:
/// the subspace then turns by less than a tenth of a radian (Wedin 1972).
const CLEAR_GAPS: f64 = 10.0;

/// Overlap of the leading k-dimensional left subspace of a writer (U) and right subspace of a
/// reader (V) in R^m.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// Dimension of both subspaces.
    pub k: usize,
    /// `S_k = ‖U_kᵀV_k‖_F²/k`, the mean squared cosine of the principal angles, in `[0, 1]`; a tie
    /// cluster that the cut divides counts with a fractional weight.
    pub ratio: f64,
    /// Mean of `S_k` for independent random subspaces, k/m.
    pub chance: f64,
    /// Standard deviation of `S_k` for independent random subspaces.
    pub chance_sd: f64,
    /// `(S_k − chance)/sd`; 0 where the sd is 0, because `S_k` is then k/m whatever the weights.
    pub z: f64,
    /// `(S_k − k/m)/(1 − k/m)`, at most 1.
    pub excess: f64,
    /// Smallest principal angle, radians in `[0, π/2]` (Björck & Golub 1973, with the sine branch).
    pub angle_min: f64,
    /// Mean principal angle.
    pub angle_mean: f64,
    /// Largest principal angle.
    pub angle_max: f64,
    /// Mean squared cosine of equally ranked singular vectors, in `[0, S_k]`; means something only
    /// where `basis_ok`.
    pub basis: f64,
    /// Whether all gaps among the first k values, on both sides, stand clear of the uncertainty.
    pub basis_ok: bool,
    /// Whether the gap at k does, on both sides.
    pub cut_ok: bool,
    /// Mean of `S_k` when the coordinates of one side are permuted: keeps each side's marginals.
    pub permutation_chance: f64,
    /// Principal angles whose cos² exceeds the edge of the random (Wachter) law and its margin.
    pub n_above_chance: usize,
}

/// The k of `ks` at which both subspaces are known, ascending and without repeats:
/// 1 ≤ k ≤ min(numerical ranks), k < m, and within the values and vectors that were computed.
#[must_use]
pub fn usable_ks(writer: &Spectrum, reader: &Spectrum, ks: &[usize]) -> Vec<usize> {
    let dim = writer.rows;
    let mut usable: Vec<usize> = ks
        .iter()
        .copied()
        .filter(|k| dim == reader.cols && *k < dim && writer.resolves(*k) && reader.resolves(*k))
        .collect();
    usable.sort_unstable();
    usable.dedup();
    usable
}

/// Overlaps of a writer (left vectors) and a reader (right vectors) at the usable ones of `ks`.
/// Spectra that do not share a dimension have none.
#[must_use]
pub fn overlaps(writer: &Spectrum, reader: &Spectrum, ks: &[usize]) -> Vec<Overlap> {
    usable_ks(writer, reader, ks).into_iter().filter_map(|k| overlap(writer, reader, k)).collect()
}

fn overlap(writer: &Spectrum, reader: &Spectrum, k: usize) -> Option<Overlap> {
    let m = real(writer.rows);
    let kf = real(k);
    let (w1, w2) = (writer.projector_weights(k), reader.projector_weights(k));
    let u = writer.basis.as_ref().subcols(0, w1.len());
    let v = reader.basis.as_ref().subcols(0, w2.len());
    let cosines = mul(u.transpose(), v);

    let shared: f64 = (0..w2.len())
        .map(|j| w2[j] * (0..w1.len()).map(|i| w1[i] * cosines[(i, j)].powi(2)).sum::<f64>())
        .sum();
    let ratio = (shared / kf).min(1.0);
    let chance = kf / m;
    let spread = |w: &[f64]| w.iter().map(|w| w * w).sum::<f64>() - kf * chance;
    let variance = 2.0 * spread(&w1).max(0.0) * spread(&w2).max(0.0) / ((m - 1.0) * (m + 2.0));
    // A cluster that fills the space leaves a spread of rounding only.
    let chance_sd = if variance > 1e-24 { variance.sqrt() / kf } else { 0.0 };
    let (ones1, ones2) = (ones_energy(u, &w1), ones_energy(v, &w2));
    let permuted = chance * kf + (ones2 - kf) / (m * (m - 1.0)) * (ones1 - kf);

    let angles = principal_angles(u.subcols(0, k), v.subcols(0, k))?;
    let threshold = chance_threshold(m, kf);
    let basis = (0..k).map(|i| cosines[(i, i)].powi(2)).sum::<f64>() / kf;
    let uncertainty = |s: &Spectrum| s.uncertainty(k) / s.values[k - 1];
    let clear = CLEAR_GAPS * uncertainty(writer).max(uncertainty(reader));
    let is_clear = |i: usize| {
        [writer, reader].iter().all(|s| s.relative_gap(i).is_some_and(|gap| gap > clear))
    };
    Some(Overlap {
        k,
        ratio,
        chance,
        chance_sd,
        z: if chance_sd > 0.0 { (ratio - chance) / chance_sd } else { 0.0 },
        excess: (ratio - chance) / (1.0 - chance),
        angle_min: angles[0],
        angle_mean: angles.iter().sum::<f64>() / kf,
        angle_max: angles[k - 1],
        basis: basis.min(1.0),
        basis_ok: (1..=k).all(is_clear),
        cut_ok: is_clear(k)
            && [writer, reader]
                .iter()
                .all(|s| s.subspace_error(k).is_some_and(|e| e <= SUBSPACE_ERROR)),
        permutation_chance: permuted / kf,
        n_above_chance: angles.iter().filter(|t| t.cos().powi(2) > threshold).count(),
    })
}

/// 1ᵀP1 of the weighted projector.
fn ones_energy(basis: MatRef<'_, f64>, weights: &[f64]) -> f64 {
    basis
        .col_iter()
        .zip(weights)
        .map(|(column, weight)| weight * column.iter().sum::<f64>().powi(2))
        .sum()
}

/// Principal angles between two orthonormal bases of equal size, ascending.
///
/// The arc cosine loses small angles (its error is the square root of the rounding), so angles
/// below 45° are taken from the sine: the norm of `(I − UUᵀ)Vzᵢ`.
fn principal_angles(u: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Option<Vec<f64>> {
    let cosines = mul(u.transpose(), v);
    let svd = thin_svd(cosines.as_ref()).ok()?;
    let turned = mul(v, svd.v.as_ref());
    let within = mul(u, mul(cosines.as_ref(), svd.v.as_ref()).as_ref());
    let residual = turned - within;
    let mut angles: Vec<f64> = svd
        .values
        .iter()
        .enumerate()
        .map(|(i, cosine)| {
            let cosine = cosine.clamp(0.0, 1.0);
            let angle = if cosine * cosine >= 0.5 {
                residual.col(i).norm_l2().min(1.0).asin()
            } else {
                cosine.acos()
            };
            angle.clamp(0.0, FRAC_PI_2)
        })
        .collect();
    angles.sort_unstable_by(f64::total_cmp);
    Some(angles)
}

/// Threshold of cos² above which a principal angle of two random k-dimensional subspaces seldom
/// lies: the edge of the Wachter law, 4(k/m)(1 − k/m) and 1 from 2k ≥ m, with a finite-size margin
/// (false rate at most 1.3 % for m from 32 to 512).
fn chance_threshold(m: f64, k: f64) -> f64 {
    let fraction = k / m;
    let edge = if 2.0 * k >= m { 1.0 } else { 4.0 * fraction * (1.0 - fraction) };
    let margin = 2.0 * (edge * (1.0 - edge)).sqrt() * k.powf(-1.0 / 6.0) / m.sqrt() + 2.0 / m;
    (edge + margin).min(1.0)
}

#[cfg(test)]
mod tests;
