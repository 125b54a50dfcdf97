//! The decay rate of a balancedness gap under weight decay.

use super::dense::real;

/// Points of one fit: slopes of all pairs are sorted, and 512 points have 130 816 of them. Longer
/// series are fitted on their last points.
pub const SLOPE_POINTS_LIMIT: usize = 512;

/// 95 % quantile of the normal law: each bound is exceeded with 5 %, the interval holds 90 %.
const QUANTILE: f64 = 1.644_853_626_951_472_2;

/// A slope with its 90 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Median of the slopes of all pairs of points.
    pub slope: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Theil–Sen slope of y over x with Sen's confidence bounds (Sen 1968, ties corrected).
///
/// `None` for slices of different lengths, anything not finite, or no two different x.
#[must_use]
pub fn theil_sen(x: &[f64], y: &[f64]) -> Option<Slope> {
    if x.len() != y.len() || x.iter().chain(y).any(|v| !v.is_finite()) {
        return None;
    }
    let first = x.len().saturating_sub(SLOPE_POINTS_LIMIT);
    let (x, y) = (&x[first..], &y[first..]);
    let mut slopes = Vec::with_capacity(x.len() * x.len().saturating_sub(1) / 2);
    for j in 1..x.len() {
        for i in 0..j {
            let slope = (y[j] - y[i]) / (x[j] - x[i]);
            if slope.is_finite() {
                slopes.push(slope);
            }
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let n = slopes.len();
    let median = *slopes.get(n / 2)?;
    let slope = if n % 2 == 0 { f64::midpoint(slopes[n / 2 - 1], median) } else { median };

    let pairs = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0) / 18.0;
    let variance = pairs(real(x.len())) - tie_sizes(x).chain(tie_sizes(y)).map(pairs).sum::<f64>();
    let half_width = QUANTILE * variance.max(0.0).sqrt();
    let high = rank(f64::midpoint(real(n), half_width)).min(n - 1);
    let low = rank(f64::midpoint(real(n), -half_width)).saturating_sub(1);
    Some(Slope { slope, low: slopes[low], high: slopes[high] })
}

/// Sizes of the groups of equal values.
fn tie_sizes(values: &[f64]) -> impl Iterator<Item = f64> {
    // The two zeros are equal values.
    let mut sorted: Vec<f64> = values.iter().map(|v| v + 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let sizes: Vec<f64> =
        sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|group| real(group.len())).collect();
    sizes.into_iter()
}

/// Nearest index; negative ones are the first.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped at 0 and below the number of slopes"
)]
fn rank(x: f64) -> usize {
    x.max(0.0).round() as usize
}

/// Measured over predicted decay rate of a gap: −slope/2 of ln gap over `x` = Σηλ (cumulated
/// learning rate times weight decay), expected 1 for gradient descent with coupled decay
/// (gap ~ exp(−2ηλt)). Bounds as in [`theil_sen`], `None` as there.
#[must_use]
pub fn ridge_rate_ratio(eta_lambda_time: &[f64], ln_gap: &[f64]) -> Option<Slope> {
    theil_sen(eta_lambda_time, ln_gap).map(|fit| Slope {
        slope: -fit.slope / 2.0,
        low: -fit.high / 2.0,
        high: -fit.low / 2.0,
    })
}

#[cfg(test)]
mod tests;
