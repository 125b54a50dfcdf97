//! How a matrix moved between two saves.

use faer::MatRef;

use super::dense::{all_finite, mul, ratio, real};

/// `1 − ‖U_k(prev)ᵀU_k(now)‖_F²/k`, in `[0, 1]`: how far the leading k-dimensional subspace turned.
/// Both bases are dim × b with orthonormal columns, leading first. `None` where k is 0 or exceeds
/// either basis, the dimensions differ, or an entry is not finite.
#[must_use]
pub fn rotation(prev: MatRef<'_, f64>, now: MatRef<'_, f64>, k: usize) -> Option<f64> {
    if k == 0 || k > prev.ncols().min(now.ncols()) || prev.nrows() != now.nrows() {
        return None;
    }
    let (prev, now) = (prev.subcols(0, k), now.subcols(0, k));
    if !all_finite(prev) || !all_finite(now) {
        return None;
    }
    let shared = mul(prev.transpose(), now).squared_norm_l2() / real(k);
    Some((1.0 - shared).clamp(0.0, 1.0))
}

/// `‖W − W_prev‖_F/‖W_prev‖_F`, accumulated over pieces of both matrices in the same order.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UpdateRatio {
    difference: f64,
    previous: f64,
}

impl UpdateRatio {
    /// Adds the elements at the same positions of the previous and the present matrix; elements
    /// beyond the shorter slice are not read. Squares of `f32` cannot leave the range of `f64`.
    pub fn add(&mut self, prev: &[f32], now: &[f32]) {
        for (before, after) in prev.iter().zip(now) {
            let before = f64::from(*before);
            let step = f64::from(*after) - before;
            self.difference += step * step;
            self.previous += before * before;
        }
    }

    /// The ratio so far, ≥ 0; `None` where the previous matrix is zero or anything is not finite.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.difference.sqrt(), self.previous.sqrt()).filter(|r| r.is_finite())
    }
}

/// ‖now − prev‖_F/‖prev‖_F of two whole matrices in the same order; `None` where the lengths differ,
/// `prev` is zero, or anything is not finite.
#[must_use]
pub fn update_ratio(prev: &[f32], now: &[f32]) -> Option<f64> {
    let mut sum = UpdateRatio::default();
    sum.add(prev, now);
    sum.ratio().filter(|_| prev.len() == now.len())
}

#[cfg(test)]
mod tests;
