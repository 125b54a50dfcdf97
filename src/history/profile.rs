//! A save layer by layer, in the few numbers that are drawn over its run.

use std::collections::BTreeMap;

use crate::diagnostics::Report;

/// What is drawn of a save.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// By kind of pair, then layer.
    pub pairs: Vec<PairProfile>,
    /// By projection, then layer.
    pub heads: Vec<HeadProfile>,
}

/// One kind of pair in one layer, over its heads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairProfile {
    /// Kind of the pair.
    pub pair: &'static str,
    /// Layer of the writer; `None` outside the stack.
    pub layer: Option<usize>,
    /// Pairs whose gram correlation is known.
    pub n: u32,
    /// Their mean, in `[-1, 1]`; chance is 0.
    pub gram_correlation: Option<f64>,
    /// Mean of κ, from 0; chance is 1.
    pub commutator: Option<f64>,
    /// Its maximum.
    pub commutator_max: Option<f64>,
}

/// The heads of one projection in one layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeadProfile {
    /// `q`, `k`, `v` or `o`.
    pub projection: &'static str,
    /// Depth index.
    pub layer: usize,
    /// Mean overlap of two heads, in `[0, 1]`.
    pub overlap: Option<f64>,
    /// The same of random subspaces.
    pub chance: Option<f64>,
    /// Effective number of different heads, from 1.
    pub effective: Option<f64>,
}

/// Sum, number and maximum of what is known.
#[derive(Debug, Default)]
struct Sum {
    total: f64,
    n: u32,
    max: Option<f64>,
}

impl Sum {
    fn add(&mut self, value: Option<f64>) {
        let Some(value) = known(value) else { return };
        self.total += value;
        self.n += 1;
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.total / f64::from(self.n))
    }
}

impl Profile {
    /// Of a measured save.
    #[must_use]
    pub fn new(report: &Report) -> Self {
        let mut sums: BTreeMap<(&'static str, Option<usize>), (Sum, Sum)> = BTreeMap::new();
        // A key/value group's own entry stands beside those of its query heads.
        for pair in report.pairs.iter().filter(|pair| pair.group.is_none() || pair.head.is_some()) {
            let (gram, kappa) = sums.entry((pair.pair, pair.layer)).or_default();
            gram.add(pair.gram_correlation);
            kappa.add(pair.commutator_vs_chance);
        }
        let pairs = sums.into_iter().map(|((pair, layer), (gram, kappa))| PairProfile {
            pair,
            layer,
            n: gram.n,
            gram_correlation: gram.mean(),
            commutator: kappa.mean(),
            commutator_max: kappa.max,
        });
        let mut heads: Vec<HeadProfile> = report
            .heads
            .iter()
            .map(|heads| HeadProfile {
                projection: heads.projection,
                layer: heads.layer,
                overlap: known(heads.overlap_mean),
                chance: known(heads.overlap_chance),
                effective: known(heads.effective_heads),
            })
            .collect();
        heads.sort_by_key(|heads| (heads.projection, heads.layer));
        Self { pairs: pairs.collect(), heads }
    }

    /// Kind of pair → mean gram correlation over layers and heads.
    #[must_use]
    pub fn means(&self) -> BTreeMap<&'static str, f64> {
        let mut sums: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
        for pair in &self.pairs {
            let Some(mean) = pair.gram_correlation else { continue };
            let sum = sums.entry(pair.pair).or_default();
            *sum = (sum.0 + mean * f64::from(pair.n), sum.1 + f64::from(pair.n));
        }
        sums.into_iter().map(|(pair, (sum, n))| (pair, sum / n)).collect()
    }

    /// Kind of pair → greatest κ over layers and heads.
    #[must_use]
    pub fn maxima(&self) -> BTreeMap<&'static str, f64> {
        let mut maxima: BTreeMap<&'static str, f64> = BTreeMap::new();
        for pair in &self.pairs {
            let Some(max) = pair.commutator_max else { continue };
            maxima.entry(pair.pair).and_modify(|known| *known = known.max(max)).or_insert(max);
        }
        maxima
    }
}

/// What is a number.
pub(super) fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}
