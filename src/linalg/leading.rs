//! The leading singular triplets of a matrix too large to be decomposed, and what of them the next
//! save's search starts from.

use faer::{Mat, MatRef};
use half::f16;

use super::bulk::Bulk;
use super::dense::widen;
use super::{Side, Spectrum};

/// How the triplets were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Block Lanczos from random vectors.
    Cold,
    /// One pass from the subspace of the save before.
    Warm,
    /// One pass, a Chebyshev filter, and another pass.
    Filtered,
}

/// What a save leaves for the next one's search.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmStart {
    /// Basis of the leading subspace of the smaller side, dim × l, orthonormal before it was rounded.
    pub basis: HalfBasis,
    /// Singular values outside the subspace, at the last cold search.
    pub bulk: Bulk,
    /// Subspace error at each k that the last cold search reached; more cannot be asked of a pass.
    pub reached: Vec<f64>,
}

/// Vectors in half precision. Its rounding turns a subspace by 3·10⁻⁴, a hundredth of what a search
/// proves, and the first product with the matrix takes most of that away.
#[derive(Debug, Clone, PartialEq)]
pub struct HalfBasis {
    rows: usize,
    /// Column by column.
    values: Vec<f16>,
}

impl HalfBasis {
    /// Rounds.
    #[must_use]
    pub fn new(basis: MatRef<'_, f32>) -> Self {
        let mut values = Vec::with_capacity(basis.nrows() * basis.ncols());
        for column in basis.col_iter() {
            values.extend(column.iter().map(|x| f16::from_f32(*x)));
        }
        Self { rows: basis.nrows(), values }
    }

    /// From columns of `rows` values; `None` where those are not whole.
    #[must_use]
    pub fn from_values(rows: usize, values: Vec<f16>) -> Option<Self> {
        let whole = values.is_empty() || values.len().checked_rem(rows) == Some(0);
        whole.then_some(Self { rows, values })
    }

    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.values.len().checked_div(self.rows).unwrap_or(0))
    }

    /// Column by column.
    #[must_use]
    pub fn values(&self) -> &[f16] {
        &self.values
    }

    /// As a matrix for products.
    #[must_use]
    pub fn to_f32(&self) -> Mat<f32> {
        let (rows, cols) = self.shape();
        let mut basis = Mat::zeros(rows, cols);
        if rows > 0 {
            for (column, values) in basis.col_iter_mut().zip(self.values.chunks_exact(rows)) {
                column.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_f32());
            }
        }
        basis
    }
}

/// Leading singular triplets.
#[derive(Debug, Clone)]
pub struct Leading {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) side: Side,
    /// Descending.
    pub values: Vec<f64>,
    /// `‖Wᵀuᵢ − σᵢvᵢ‖` of each, with `W·vᵢ = σᵢuᵢ`.
    pub residuals: Vec<f64>,
    /// Left vectors, rows × l.
    pub left: Mat<f32>,
    /// Right vectors, cols × l.
    pub right: Mat<f32>,
    /// ‖W‖_F.
    pub frobenius: f64,
    /// Spectral norm of the storage rounding, as [`Spectrum::noise`].
    pub noise: f64,
    /// How they were found.
    pub route: Route,
    /// Values outside, estimated for this save.
    pub(super) outside: Bulk,
    pub(super) anchor: Bulk,
    pub(super) reached: Vec<f64>,
}

impl Leading {
    /// What the next save's search starts from.
    #[must_use]
    pub fn warm_start(&self) -> WarmStart {
        let basis = if self.side == Side::Left { &self.left } else { &self.right };
        WarmStart {
            basis: HalfBasis::new(basis.as_ref()),
            bulk: self.anchor.clone(),
            reached: self.reached.clone(),
        }
    }

    /// As a spectrum with the first vectors of one side, at most so many.
    #[must_use]
    pub fn spectrum(&self, side: Side, n_vectors: usize) -> Spectrum {
        let basis = if side == Side::Left { &self.left } else { &self.right };
        let n_vectors = n_vectors.min(basis.ncols());
        let all = || self.values.iter().map(|s| (*s, 1.0)).chain(self.outside.nodes());
        Spectrum {
            rows: self.rows,
            cols: self.cols,
            values: self.values.clone(),
            complete: false,
            frobenius: self.frobenius,
            basis: widen(basis.as_ref().subcols(0, n_vectors)),
            noise: self.noise,
            residuals: self.residuals.clone(),
            estimated_entropies: Some([entropy(all(), 1), entropy(all(), 2)]),
        }
    }
}

/// Entropy of σ^power/Σσ^power over values with multiplicities; 0 where all are zero.
fn entropy(values: impl Iterator<Item = (f64, f64)> + Clone, power: i32) -> f64 {
    let total: f64 = values.clone().map(|(s, n)| n * s.powi(power)).sum();
    let part = |(s, n): (f64, f64)| {
        let p = s.powi(power) / total;
        if p > 0.0 { -n * p * p.ln() } else { 0.0 }
    };
    if total > 0.0 { values.map(part).sum() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::dense::{mul, narrow};
    use super::super::testing::{orthogonal, slow_singular_values};
    use super::*;

    #[test]
    fn half_precision_turns_a_subspace_by_no_more_than_it_says() {
        for (dim, width, seed) in [(30, 4, 1), (100, 16, 2), (300, 72, 3)] {
            let basis = orthogonal(dim, seed).subcols(0, width).to_owned();
            let half = HalfBasis::new(narrow(basis.as_ref()).as_ref());
            assert_eq!((half.shape(), half.values().len()), ((dim, width), dim * width));
            let rounded = widen(half.to_f32().as_ref());
            let within = mul(basis.as_ref(), mul(basis.transpose(), rounded.as_ref()).as_ref());
            let sine = slow_singular_values(&(rounded - within))[0];
            assert!(sine > 1e-5 && sine < 3e-4, "{dim} × {width}: {sine:e}");
        }
    }

    #[test]
    fn only_whole_columns_are_a_basis() {
        let values = |n| vec![f16::ONE; n];
        let shape = |rows, n| HalfBasis::from_values(rows, values(n)).map(|basis| basis.shape());
        assert_eq!(shape(3, 6), Some((3, 2)));
        assert_eq!(shape(3, 0), Some((3, 0)));
        assert_eq!(shape(0, 0), Some((0, 0)));
        assert_eq!(shape(3, 7), None);
        assert_eq!(shape(0, 1), None);
        let basis = HalfBasis::from_values(3, values(6)).unwrap();
        assert_eq!(basis.to_f32(), Mat::from_fn(3, 2, |_, _| 1.0));
        assert_eq!(HalfBasis::from_values(0, values(0)).unwrap().to_f32().shape(), (0, 0));
    }
}
