//! The singular values outside a known leading subspace: their shape where it was last looked at,
//! and their trace and second moment at every save.

use super::dense::real;

/// Nodes kept.
const MAX_NODES: usize = 64;

/// Beyond this exponent of change the shape is no longer that of the anchor.
const MAX_WARP: f64 = 0.2;

/// Values σ with multiplicities, as the quadrature of a density (Golub & Meurant 2010).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bulk {
    /// Values, in units of the weights.
    pub sigma: Vec<f64>,
    /// How many singular values each stands for.
    pub weight: Vec<f64>,
    /// Probe estimate of the mean of `‖(I − P)G·q‖²` for random unit vectors q outside, made with
    /// the vectors that later saves use too.
    pub second_moment: f64,
}

impl Bulk {
    /// From quadrature nodes `(σ², weight)`, normalised so that the weights sum to `count` and the
    /// squares to `trace`.
    pub(super) fn new(nodes: &[(f64, f64)], count: f64, trace: f64, second_moment: f64) -> Self {
        let mut nodes: Vec<(f64, f64)> =
            nodes.iter().map(|(t, w)| (t.max(0.0).sqrt(), w.max(0.0))).collect();
        nodes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let nodes = thinned(&nodes);
        let held: f64 = nodes.iter().map(|(_, w)| w).sum();
        let bulk = Self {
            sigma: nodes.iter().map(|(s, _)| *s).collect(),
            weight: nodes.iter().map(|(_, w)| w * count / held.max(f64::MIN_POSITIVE)).collect(),
            second_moment,
        };
        let squares = bulk.sum(2.0, 1.0);
        let factor = if squares > 0.0 { (trace / squares).sqrt() } else { 0.0 };
        Self { sigma: bulk.sigma.iter().map(|s| s * factor).collect(), ..bulk }
    }

    /// In other units.
    pub(super) fn scaled(self, unit: f64) -> Self {
        Self {
            sigma: self.sigma.iter().map(|s| s * unit).collect(),
            second_moment: self.second_moment * unit.powi(4),
            ..self
        }
    }

    /// Values and multiplicities.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (f64, f64)> + Clone {
        self.sigma.iter().copied().zip(self.weight.iter().copied())
    }

    /// `Σ weight·σ^power` with σ raised to `warp` first.
    fn sum(&self, power: f64, warp: f64) -> f64 {
        self.nodes().filter(|(s, _)| *s > 0.0).map(|(s, w)| w * s.powf(power * warp)).sum()
    }

    /// The values `a·σ^b` with the given sum of squares, and with the fourth moment changed as the
    /// probes saw it change; `None` where b is far from 1.
    pub(super) fn moved_to(&self, trace: f64, second_moment: f64) -> Option<Self> {
        let here = self.sum(2.0, 1.0);
        if trace <= 0.0 || here <= 0.0 {
            let same = trace <= 0.0 && here <= 0.0;
            return same.then(|| self.clone());
        }
        // Peakedness Σσ⁴/(Σσ²)² rises with b.
        let peak = |b: f64| self.sum(4.0, b) / self.sum(2.0, b).powi(2);
        let seen = (second_moment / trace.powi(2)) / (self.second_moment / here.powi(2));
        let wanted = peak(1.0) * if seen.is_finite() { seen } else { 1.0 };
        let (mut low, mut high) = (1.0 - MAX_WARP, 1.0 + MAX_WARP);
        let flat = peak(high) - peak(low) < 1e-9 * peak(1.0);
        if flat {
            (low, high) = (1.0, 1.0);
        } else if !(peak(low)..=peak(high)).contains(&wanted) {
            return None;
        }
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if peak(middle) < wanted { low = middle } else { high = middle }
        }
        let b = 0.5 * (low + high);
        let a = (trace / self.sum(2.0, b)).sqrt();
        let sigma = self.sigma.iter().map(|s| if *s > 0.0 { a * s.powf(b) } else { 0.0 }).collect();
        Some(Self { sigma, weight: self.weight.clone(), second_moment })
    }
}

/// Neighbouring nodes joined until at most [`MAX_NODES`] are left, each with about the same weight.
fn thinned(nodes: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if nodes.len() <= MAX_NODES {
        return nodes.to_vec();
    }
    let each = nodes.iter().map(|(_, w)| w).sum::<f64>() / real(MAX_NODES);
    let mut joined: Vec<(f64, f64)> = Vec::new();
    let (mut sum, mut weight) = (0.0, 0.0);
    for (s, w) in nodes {
        (sum, weight) = (sum + w * s, weight + w);
        if weight >= each && joined.len() + 1 < MAX_NODES {
            joined.push((sum / weight, weight));
            (sum, weight) = (0.0, 0.0);
        }
    }
    if weight > 0.0 {
        joined.push((sum / weight, weight));
    }
    joined
}

#[cfg(test)]
mod tests;
