//! What residuals prove of a subspace.

use super::dense::real;

/// Largest subspace error `1 − ‖U_kᵀÛ_k‖²/k` of a published cut.
pub(super) const SUBSPACE_ERROR: f64 = 1e-3;

/// Bound, to second order, of `1 − ‖V_kᵀV̂_k‖²/k` for Ritz values with these residuals (Davis & Kahan
/// 1970): what lies outside the searched space is told apart by the distance to the last value, and
/// reaches the vectors beyond k only through them. `None` beyond the values.
pub(super) fn subspace_error(values: &[f64], residuals: &[f64], k: usize) -> Option<f64> {
    let edge = values.last()?.powi(2);
    let next = values.get(k)?.powi(2);
    let square = |i: usize| values[i].powi(2);
    let defect = |i: usize| values[i] * residuals[i];
    let largest = (0..residuals.len().min(values.len())).map(defect).fold(0.0, f64::max);
    let sum: f64 = (0..k)
        .map(|i| {
            if defect(i) == 0.0 {
                return 0.0;
            }
            let outside = defect(i) / (square(i) - edge);
            let inside = largest / (square(i) - next);
            outside.powi(2) * (1.0 + inside.powi(2))
        })
        .sum();
    Some(if sum.is_nan() { f64::INFINITY } else { sum / real(k.max(1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 3 × 3 Gram with eigenvalues near 9, 4 and 1 whose first vector couples to an unseen
    /// direction of eigenvalue at most 1 by 0.03: θ = 9, defect 3·0.01.
    #[test]
    fn a_coupling_by_hand() {
        let error = subspace_error(&[3.0, 2.0, 1.0], &[0.01, 0.0, 0.0], 1).unwrap();
        let (outside, inside) = (0.03f64 / 8.0, 0.03f64 / 5.0);
        assert!((error - outside.powi(2) * (1.0 + inside.powi(2))).abs() < 1e-18);
    }

    #[test]
    fn without_residual_there_is_no_error_and_without_gap_no_bound() {
        assert_eq!(subspace_error(&[3.0, 2.0, 1.0], &[0.0; 3], 2), Some(0.0));
        assert_eq!(subspace_error(&[1.0, 1.0, 1.0], &[1e-9; 3], 1), Some(f64::INFINITY));
        assert_eq!(subspace_error(&[3.0, 2.0], &[0.0; 2], 2), None);
        assert_eq!(subspace_error(&[], &[], 1), None);
    }
}
