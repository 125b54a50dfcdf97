//! Neural-collapse proxies of a classifier's weights.

use faer::{Mat, MatRef};

use super::dense::{Scaled, mul, ratio, real};

/// Classifiers with more classes than this are not measured: the K × K Gram would pass 128 MiB, and
/// a simplex needs d ≥ K − 1, which no vocabulary head has.
pub const CLASSES_LIMIT: usize = 4096;

/// A centred row below this fraction of the largest uncentred one is rounding of a zero.
const ZERO_ROW: f64 = 1e-12;

/// How near the rows of a classifier (K × d, centred on their mean) are to a simplex.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierGeometry {
    /// K.
    pub classes: usize,
    /// d.
    pub dim: usize,
    /// Coefficient of variation of the centred rows' norms, ≥ 0; 0 for a simplex.
    pub equinorm: f64,
    /// Standard deviation of the cosines between centred rows, in `[0, 1]`; 0 for a simplex.
    pub equiangle: f64,
    /// Mean of |cos + 1/(K − 1)| over pairs of centred rows; 0 for a simplex.
    pub max_angle: f64,
    /// ‖WWᵀ/‖WWᵀ‖_F − (I − 11ᵀ/K)/√(K − 1)‖_F of the centred rows, in `[0, √2]` (the NC2 metric of
    /// Zhu et al. 2021).
    pub simplex_deviation: f64,
    /// The same of the rows as they are.
    pub simplex_deviation_uncentred: f64,
    /// The centred deviation of Gaussian rows, √(2 − 2/√(1 + K/d)).
    pub chance: f64,
    /// Whether a simplex of K rows fits into R^d: d ≥ K − 1.
    pub feasible: bool,
}

/// Geometry of a classifier's rows; `None` for fewer than two or more than [`CLASSES_LIMIT`]
/// classes, a centred row of zero, or a NaN or an infinity.
#[must_use]
pub fn classifier_geometry(w: MatRef<'_, f32>) -> Option<ClassifierGeometry> {
    let (n_classes, dim) = (w.nrows(), w.ncols());
    if !(2..=CLASSES_LIMIT).contains(&n_classes) || dim == 0 {
        return None;
    }
    let w = Scaled::new(w).ok()?;
    let raw_gram = w.transpose().gram();
    let simplex_deviation_uncentred = simplex_deviation(&raw_gram)?;
    let largest = (0..n_classes).map(|i| raw_gram[(i, i)]).fold(0.0, f64::max).sqrt();
    drop(raw_gram);
    let k = real(n_classes);
    let mut rows = w.to_f64();
    for j in 0..dim {
        let column = rows.col_as_slice_mut(j);
        let mean = column.iter().sum::<f64>() / k;
        for x in column {
            *x -= mean;
        }
    }
    let norms: Vec<f64> = (0..n_classes).map(|i| rows.row(i).norm_l2()).collect();
    if norms.iter().any(|norm| *norm <= ZERO_ROW * largest) {
        return None;
    }
    let gram = mul(rows.as_ref(), rows.transpose());
    let simplex_deviation = simplex_deviation(&gram)?;
    let cosines = Moments::of(
        (0..n_classes)
            .flat_map(|j| (0..j).map(move |i| (i, j)))
            .map(|(i, j)| gram[(i, j)] / (norms[i] * norms[j])),
        -1.0 / (k - 1.0),
    );
    drop(gram);
    let lengths = Moments::of(norms.iter().copied(), 0.0);
    Some(ClassifierGeometry {
        classes: n_classes,
        dim,
        equinorm: ratio(lengths.sd, lengths.mean)?,
        equiangle: cosines.sd,
        max_angle: cosines.deviation,
        simplex_deviation,
        simplex_deviation_uncentred,
        chance: (2.0 - 2.0 / (1.0 + k / real(dim)).sqrt()).sqrt(),
        feasible: dim + 1 >= n_classes,
    })
}

/// Distance of a Gram from the simplex's, both normalised; `None` for a zero Gram.
fn simplex_deviation(gram: &Mat<f64>) -> Option<f64> {
    let k = real(gram.nrows());
    let unit = ratio(1.0, gram.norm_l2())?;
    let simplex = |i: usize, j: usize| (f64::from(u8::from(i == j)) - 1.0 / k) / (k - 1.0).sqrt();
    let squares: f64 = (0..gram.ncols())
        .map(|j| {
            (0..gram.nrows()).map(|i| (gram[(i, j)] * unit - simplex(i, j)).powi(2)).sum::<f64>()
        })
        .sum();
    Some(squares.sqrt())
}

/// Mean, standard deviation, and mean distance from a target.
struct Moments {
    mean: f64,
    sd: f64,
    deviation: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone, target: f64) -> Self {
        let n = real(values.clone().count().max(1));
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let deviation = values.map(|x| (x - target).abs()).sum::<f64>() / n;
        Self { mean, sd: variance.sqrt(), deviation }
    }
}

#[cfg(test)]
mod tests;
