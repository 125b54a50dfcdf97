//! Samples by family, without duplicates.

use std::collections::BTreeMap;

use super::catalog::{CATALOG, Family, Id, Tier};
use super::labels::clean_label;
use super::snapshot::DurationHistogram;

/// Samples of all families: label values, in the order of the family's label names, to the value.
/// An empty label value is an absent label, as Prometheus has it.
#[derive(Debug, Clone)]
pub(super) struct Series {
    samples: Vec<BTreeMap<Vec<String>, f64>>,
    pub(super) histogram: Option<DurationHistogram>,
}

impl Default for Series {
    fn default() -> Self {
        Self { samples: vec![BTreeMap::new(); CATALOG.len()], histogram: None }
    }
}

impl Series {
    /// Adds a sample. Of two samples with the same labels the first stays; what is not finite is
    /// left out, because an absent series is the honest form of "unknown".
    pub(super) fn put(&mut self, id: Id, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), id.family().labels.len(), "{}", id.family().name);
        if value.is_finite() {
            let labels = labels.iter().map(|label| clean_label(label)).collect();
            self.samples[id as usize].entry(labels).or_insert(value);
        }
    }

    /// As [`put`](Self::put), of what may be unknown.
    pub(super) fn put_known(&mut self, id: Id, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.put(id, labels, value);
        }
    }

    /// Samples of one family in the order of their labels.
    pub(super) fn of(&self, family: &Family) -> &BTreeMap<Vec<String>, f64> {
        &self.samples[family.id as usize]
    }

    /// Samples of one family, which are taken out.
    pub(super) fn take(&mut self, family: &Family) -> BTreeMap<Vec<String>, f64> {
        std::mem::take(&mut self.samples[family.id as usize])
    }

    pub(super) fn len(&self) -> usize {
        self.samples.iter().map(BTreeMap::len).sum()
    }

    /// Leaves out whole layer families, from the end of the catalogue, until at most `limit`
    /// series remain or no layer family is left. Returns the number of series left out.
    pub(super) fn shrink_to(&mut self, limit: usize) -> usize {
        let before = self.len();
        let mut left = before;
        for family in CATALOG.iter().rev().filter(|family| family.tier == Tier::Layer) {
            if left <= limit {
                break;
            }
            left -= std::mem::take(&mut self.samples[family.id as usize]).len();
        }
        before - left
    }

    pub(super) fn append(&mut self, other: Self) {
        for (mine, theirs) in self.samples.iter_mut().zip(other.samples) {
            for (labels, value) in theirs {
                mine.entry(labels).or_insert(value);
            }
        }
    }
}

/// 1 for true, 0 for false.
pub(super) fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_leaves_out_the_last_layer_families_first_and_never_the_summary() {
        let mut series = Series::default();
        series.put(Id::RunActive, &["r"], 1.0);
        for layer in ["00", "01"] {
            series.put(Id::GramCorrelation, &["r", layer, "v_o"], 0.5);
            series.put(Id::Rotation, &["r", layer, "up", "8"], 0.5);
        }
        assert_eq!(series.shrink_to(5), 0);
        assert_eq!(series.shrink_to(4), 2);
        assert!(series.of(Id::Rotation.family()).is_empty());
        assert_eq!(series.of(Id::GramCorrelation.family()).len(), 2);
        assert_eq!(series.shrink_to(0), 2);
        assert_eq!(series.len(), 1);
    }

    #[test]
    fn what_is_not_finite_or_a_duplicate_gives_no_sample() {
        let mut series = Series::default();
        series.put(Id::TrainLoss, &["a"], f64::NAN);
        series.put(Id::TrainLoss, &["b"], f64::INFINITY);
        series.put(Id::TrainLoss, &["c"], 1.0);
        series.put(Id::TrainLoss, &["c"], 2.0);
        let samples = series.of(Id::TrainLoss.family());
        assert_eq!(samples.iter().collect::<Vec<_>>(), [(&vec!["c".to_owned()], &1.0)]);
    }
}
