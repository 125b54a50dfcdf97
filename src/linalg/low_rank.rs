//! The singular values and vectors of a product of two thin matrices, without forming it.

use faer::{Mat, MatRef};

use super::dense::{Scaled, mul, pow2, thin_svd};
use super::spectrum::noise;
use super::{LinalgError, Spectrum};

/// Spectra of a product s·B·A, with the vectors of either side.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// With the left vectors, in R^(rows of B).
    pub left: Spectrum,
    /// With the right vectors, in R^(columns of A).
    pub right: Spectrum,
}

/// s·B·A of B (out × r) and A (r × in), by thin QR of B and Aᵀ and the SVD of the small product of
/// their triangles: exact to rounding, in O((out + in)·r²). `storage_eps` are the relative spacings
/// of the stored types of B and of A.
///
/// # Errors
/// [`LinalgError::Shape`] where B has not as many columns as A has rows, [`LinalgError::NotFinite`]
/// for a NaN or an infinity, [`LinalgError::NoConvergence`] where the small SVD fails.
pub fn low_rank_product(
    b: MatRef<'_, f32>,
    a: MatRef<'_, f32>,
    scale: f64,
    storage_eps: [f64; 2],
) -> Result<LowRank, LinalgError> {
    if b.ncols() != a.nrows() {
        let what = "A's number of rows";
        return Err(LinalgError::Shape { what, found: a.nrows(), expected: b.ncols() });
    }
    let (rows, cols) = (b.nrows(), a.ncols());
    let (b, a) = (Scaled::new(b)?, Scaled::new(a.transpose())?);
    let (q_b, r_b) = qr(b);
    let (q_a, r_a) = qr(a);
    let svd = thin_svd(mul(r_b.as_ref(), r_a.transpose()).as_ref())?;
    let unit = pow2(b.exponent + a.exponent) * scale.abs();
    let values: Vec<f64> = svd.values.iter().map(|s| s * unit).collect();
    let frobenius = svd.values.iter().map(|s| s * s).sum::<f64>().sqrt() * unit;
    // What rounding adds to either factor is magnified by the other.
    let largest = |r: &Mat<f64>| thin_svd(r.as_ref()).map(|s| s.values.first().copied());
    let (top_b, top_a) = (largest(&r_b)?.unwrap_or(0.0), largest(&r_a)?.unwrap_or(0.0));
    let of = |eps, w: &Scaled<'_>| noise(eps, w.sum_squares().sqrt(), w.rows(), w.cols());
    let rounding = (of(storage_eps[0], &b) * top_a + of(storage_eps[1], &a) * top_b) * unit;
    // A negative scale turns the left vectors round, which spans the same.
    let spectrum = |basis: Mat<f64>| Spectrum {
        rows,
        cols,
        values: values.clone(),
        complete: true,
        frobenius,
        basis,
        noise: rounding,
        residuals: vec![],
        estimated_entropies: None,
    };
    Ok(LowRank {
        left: spectrum(mul(q_b.as_ref(), svd.u.as_ref())),
        right: spectrum(mul(q_a.as_ref(), svd.v.as_ref())),
    })
}

/// Thin Q and R of a scaled matrix.
fn qr(w: Scaled<'_>) -> (Mat<f64>, Mat<f64>) {
    let qr = w.to_f64().qr();
    (qr.compute_thin_Q(), qr.thin_R().to_owned())
}

#[cfg(test)]
mod tests;
