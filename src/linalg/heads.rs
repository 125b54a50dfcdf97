//! Redundancy of attention heads: overlaps of the subspaces they read or write.

use faer::{Mat, MatRef};

use super::dense::{Scaled, inner, mul, ratio, real, thin_svd};
use super::head_gram::{HeadProducts, head_products};
use super::{LinalgError, SpectrumError};

/// Models up to this width go head by head, in `f64` throughout.
const SMALL_DIM: usize = 256;

/// Which space of a head's matrix is its subspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadSide {
    /// Row space of `d_h × D` matrices: query, key and value heads.
    Row,
    /// Column space of `D × d_h` matrices: output heads.
    Column,
}

/// Overlaps between the d-dimensional subspaces of H heads in R^D, `d = min(d_h, D)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOverlap {
    /// H.
    pub heads: usize,
    /// D.
    pub dim: usize,
    /// d.
    pub head_dim: usize,
    /// Mean over different heads of the projection kernel `‖U_hᵀU_h'‖_F²/d`, in `[0, 1]`; `None` for
    /// one head, or where a head's matrix has not full rank and so no definite subspace.
    pub mean: Option<f64>,
    /// Its largest value; `None` as `mean`.
    pub max: Option<f64>,
    /// Its mean for random subspaces, d/D.
    pub chance: f64,
    /// Its standard deviation for random subspaces.
    pub chance_sd: f64,
    /// (mean − chance)/(1 − chance); `None` also where d = D.
    pub excess: Option<f64>,
    /// H²/‖P‖_F² of the kernel matrix P, in `[1, H]`.
    pub effective_heads: Option<f64>,
    /// The same of the chance-corrected kernel (P − chance)/(1 − chance); random heads give about H.
    pub effective_heads_centered: Option<f64>,
    /// Mean over different heads of the cosine of `WᵀW`, in `[0, 1]`; `None` for one head or a zero
    /// head.
    pub gram_mean: Option<f64>,
}

/// Orthonormal basis of a head's subspace (`D × d`) and what maps it to the matrix (`d × d_h`).
pub(super) struct HeadBasis {
    pub(super) basis: Mat<f64>,
    coordinates: Mat<f64>,
    pub(super) full_rank: bool,
}

/// Overlaps between the heads of one projection of one layer, all of one shape.
///
/// # Errors
/// [`LinalgError::NotFinite`] for a NaN or an infinity, [`LinalgError::Shape`] for heads of
/// different shapes, [`LinalgError::NoConvergence`] where a head's SVD does not converge.
pub fn head_overlap(
    heads: &[MatRef<'_, f32>],
    side: HeadSide,
) -> Result<HeadOverlap, SpectrumError> {
    let mut columns_of = Vec::with_capacity(heads.len());
    let (mut dim, mut width) = (0, 0);
    for (i, head) in heads.iter().enumerate() {
        let columns = if side == HeadSide::Row { head.transpose() } else { *head };
        if i == 0 {
            (dim, width) = (columns.nrows(), columns.ncols());
        }
        for (what, found, expected) in
            [("head's space", columns.nrows(), dim), ("head", columns.ncols(), width)]
        {
            if found != expected {
                return Err(LinalgError::Shape { what, found, expected });
            }
        }
        columns_of.push(columns);
    }
    if dim > SMALL_DIM
        && let Some(products) = head_products(&columns_of)?
    {
        return Ok(summary(&products, true, dim, width));
    }
    let bases =
        columns_of.into_iter().map(HeadBasis::new).collect::<Result<Vec<_>, LinalgError>>()?;
    let definite = bases.iter().all(|b| b.full_rank);
    let head_dim = dim.min(width);
    Ok(summary(&basis_products(&bases, head_dim), definite, dim, head_dim))
}

impl HeadBasis {
    pub(super) fn new(columns: MatRef<'_, f32>) -> Result<Self, LinalgError> {
        let qr = Scaled::new(columns)?.to_f64().qr();
        let (basis, coordinates) = (qr.compute_thin_Q(), qr.thin_R());
        let coordinates = Mat::from_fn(coordinates.nrows(), coordinates.ncols(), |i, j| {
            if i <= j { coordinates[(i, j)] } else { 0.0 }
        });
        let values = thin_svd(coordinates.as_ref())?.values;
        let (first, last) = (values.first().copied(), values.last().copied());
        let floor = real(columns.nrows().max(columns.ncols())) * f64::EPSILON;
        let full_rank = first.zip(last).is_some_and(|(f, l)| l > floor * f);
        Ok(Self { basis, coordinates, full_rank })
    }
}

/// Products of heads with one another through orthonormal bases, in `f64`; a cosine with a zero
/// head is NaN.
fn basis_products(bases: &[HeadBasis], head_dim: usize) -> HeadProducts {
    let (n, d) = (bases.len(), real(head_dim));
    let grams: Vec<Mat<f64>> =
        bases.iter().map(|b| mul(b.coordinates.as_ref(), b.coordinates.transpose())).collect();
    let norms: Vec<f64> = grams.iter().map(Mat::norm_l2).collect();
    let mut products = HeadProducts { kernel: Mat::identity(n, n), cosine: Mat::identity(n, n) };
    for i in 0..n {
        for j in 0..i {
            let cross = mul(bases[i].basis.transpose(), bases[j].basis.as_ref());
            products.kernel[(i, j)] = (cross.squared_norm_l2() / d).min(1.0);
            // ⟨A_i, A_j⟩ through the bases: d × d products instead of D × D ones.
            let turned = mul(mul(cross.transpose(), grams[i].as_ref()).as_ref(), cross.as_ref());
            let cosine = ratio(inner(turned.as_ref(), grams[j].as_ref()), norms[i] * norms[j]);
            products.cosine[(i, j)] = cosine.unwrap_or(f64::NAN);
        }
    }
    products
}

/// What the lower triangles of the products say of all heads.
fn summary(products: &HeadProducts, definite: bool, dim: usize, head_dim: usize) -> HeadOverlap {
    let n_heads = products.kernel.nrows();
    let h = real(n_heads);
    let chance = chance(dim, head_dim);
    let centre = |x: f64| centred(x, chance);
    let mut sums = Sums {
        squares: h,
        centred_squares: h * centre(1.0).powi(2),
        gram: Some(0.0),
        ..Sums::default()
    };
    for i in 0..n_heads {
        for j in 0..i {
            let kernel = products.kernel[(i, j)];
            sums.kernel += 2.0 * kernel;
            sums.max = sums.max.max(kernel);
            sums.squares += 2.0 * kernel * kernel;
            sums.centred_squares += 2.0 * centre(kernel).powi(2);
            sums.gram = sums.gram.map(|sum| sum + 2.0 * products.cosine[(i, j)]);
        }
    }
    // A zero head has no cosine.
    sums.gram = sums.gram.filter(|sum| sum.is_finite());
    HeadOverlap::new((n_heads, dim, head_dim), n_heads > 0 && definite, &sums)
}

impl HeadOverlap {
    /// From H, D and d, whether every head has a definite subspace, and the sums.
    pub(super) fn new(
        (n_heads, dim, head_dim): (usize, usize, usize),
        definite: bool,
        sums: &Sums,
    ) -> Self {
        let (h, d, m) = (real(n_heads), real(head_dim), real(dim));
        let chance = chance(dim, head_dim);
        let n_pairs = h * (h - 1.0);
        let mean = ratio(sums.kernel, n_pairs).filter(|_| definite);
        let variance = if dim < 2 {
            0.0
        } else {
            2.0 * d * d * (m - d).powi(2) / (m * m * (m - 1.0) * (m + 2.0))
        };
        Self {
            heads: n_heads,
            dim,
            head_dim,
            mean,
            max: mean.map(|_| sums.max),
            chance,
            chance_sd: ratio(variance.sqrt(), d).unwrap_or(0.0),
            excess: mean.and_then(|mean| ratio(mean - chance, 1.0 - chance)),
            effective_heads: ratio(h * h, sums.squares).filter(|_| definite),
            effective_heads_centered: ratio(h * h, sums.centred_squares).filter(|_| definite),
            gram_mean: sums.gram.and_then(|sum| ratio(sum, n_pairs)),
        }
    }
}

/// d/D.
pub(super) fn chance(dim: usize, head_dim: usize) -> f64 {
    ratio(real(head_dim), real(dim)).unwrap_or(0.0)
}

/// (x − chance)/(1 − chance), x where the subspace is everything.
pub(super) fn centred(x: f64, chance: f64) -> f64 {
    ratio(x - chance, 1.0 - chance).unwrap_or(x)
}

/// Sums over the entries of the kernel matrix P.
#[derive(Default)]
pub(super) struct Sums {
    /// Of P off the diagonal.
    pub(super) kernel: f64,
    /// The largest entry off the diagonal.
    pub(super) max: f64,
    /// ‖P‖_F².
    pub(super) squares: f64,
    /// The same of the chance-corrected kernel.
    pub(super) centred_squares: f64,
    /// Of the cosines of different Grams; `None` where a head is zero.
    pub(super) gram: Option<f64>,
}

#[cfg(test)]
mod tests;
