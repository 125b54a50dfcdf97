//! What goes wrong in a training, and what may change without being wrong.

use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::network::{self, N_HEADS, Parameter};
use crate::setup::{Activation, Optimizer, Setup, Shape};
use crate::training::Training;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    RateSpike,
    LabelShuffle,
    Reinitialised,
    RowPermutation,
    SwappedHeads,
    ShardSwap,
    FrozenLayer,
    ZeroRate,
    Nan,
    /// Slow, and told only where a law of decay is known: reported apart.
    DecayLost,
    /// No fault: nobody should be told.
    HalvedRate,
    /// No fault either: two saves were lost.
    SkippedSaves,
}

const SPIKE: f64 = 30.0;
const SPIKE_STEPS: u64 = 20;

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::RateSpike,
        Self::LabelShuffle,
        Self::Reinitialised,
        Self::RowPermutation,
        Self::SwappedHeads,
        Self::ShardSwap,
        Self::FrozenLayer,
        Self::ZeroRate,
        Self::Nan,
        Self::DecayLost,
        Self::HalvedRate,
        Self::SkippedSaves,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RateSpike => "learning rate x30 for 20 steps",
            Self::LabelShuffle => "labels shuffled",
            Self::Reinitialised => "layer re-initialised",
            Self::RowPermutation => "rows of one side permuted",
            Self::SwappedHeads => "heads swapped in V or O",
            Self::ShardSwap => "two shards swapped",
            Self::FrozenLayer => "layer frozen",
            Self::ZeroRate => "learning rate 0",
            Self::Nan => "NaN in one weight",
            Self::DecayLost => "weight decay lost",
            Self::HalvedRate => "learning rate halved",
            Self::SkippedSaves => "two saves skipped",
        }
    }

    pub fn is_benign(self) -> bool {
        matches!(self, Self::HalvedRate | Self::SkippedSaves)
    }

    /// Whether it is to be told within two saves.
    pub fn is_sudden(self) -> bool {
        !self.is_benign() && self != Self::DecayLost
    }

    /// Saves looked at from the fault on.
    pub fn n_saves(self) -> usize {
        match self {
            Self::DecayLost => 6,
            Self::HalvedRate => 4,
            Self::SkippedSaves => 3,
            _ => 2,
        }
    }

    /// Saves that are not made before.
    pub fn n_skipped(self) -> usize {
        if self == Self::SkippedSaves { 2 } else { 0 }
    }

    pub fn applies_to(self, setup: &Setup) -> bool {
        let is_sgd = matches!(setup.optimizer, Optimizer::Sgd { .. });
        match (self, setup.shape) {
            (Self::SwappedHeads, shape) => matches!(shape, Shape::Transformer { .. }),
            (Self::DecayLost, Shape::Mlp { activation, .. }) => {
                is_sgd && activation != Activation::Gelu
            }
            (Self::DecayLost, Shape::Transformer { .. }) => false,
            _ => true,
        }
    }

    /// Does it; the layer that it happens to, where it is one.
    pub fn apply(self, training: &mut Training) -> Option<String> {
        let rng = &mut training.setup.rng(100 + self as u64);
        let spike_end = training.step() + SPIKE_STEPS;
        let change = &mut training.change;
        match self {
            Self::RateSpike => (change.rate, change.until) = (SPIKE, spike_end),
            Self::ZeroRate => (change.rate, change.until) = (0.0, u64::MAX),
            Self::HalvedRate => (change.rate, change.until) = (0.5, u64::MAX),
            Self::DecayLost => change.is_decay_lost = true,
            Self::SkippedSaves => {}
            Self::LabelShuffle => {
                change.is_shuffled = true;
                training.data.shuffle_labels(rng);
            }
            _ => return Some(self.damage(training, rng)),
        }
        None
    }

    fn damage(self, training: &mut Training, rng: &mut ChaCha8Rng) -> String {
        let at = training.pick(|parameter| self.may_hit(parameter), rng);
        let layer = layer(&training.parameters[at].name).to_owned();
        match self {
            Self::FrozenLayer => training.change.frozen = Some(layer.clone()),
            Self::Reinitialised => {
                let mut rng = ChaCha8Rng::seed_from_u64(rng.next_u64());
                let n_symbols = training.data.n_symbols();
                let mut fresh = network::start(training.setup.shape, n_symbols, &mut rng);
                training.parameters[at] = fresh.swap_remove(at);
            }
            Self::Nan => {
                let values = &mut training.parameters[at].values;
                let i = rng.random_range(0..values.len());
                values[i] = f32::NAN;
            }
            _ => self.reorder(&mut training.parameters[at], rng),
        }
        layer
    }

    fn may_hit(self, parameter: &Parameter) -> bool {
        let name = parameter.name.as_str();
        let writes_hidden = name.ends_with("mlp.c_fc.weight")
            || name.starts_with("layers.") && parameter.is_matrix() && parameter.shape[0] > 10;
        match self {
            Self::RowPermutation | Self::ShardSwap => writes_hidden,
            Self::SwappedHeads => {
                name.ends_with("attn.c_attn.weight") || name.ends_with("attn.c_proj.weight")
            }
            // An embedding is no layer, and nor is the classifier's fresh start a large change.
            _ => {
                writes_hidden
                    || parameter.is_matrix() && name.starts_with("h.") && name.ends_with(".weight")
            }
        }
    }

    fn reorder(self, parameter: &mut Parameter, rng: &mut ChaCha8Rng) {
        let (rows, cols) = (parameter.shape[0], parameter.shape[1]);
        let is_linear = parameter.name.starts_with("layers.");
        let outputs = if is_linear { rows } else { cols };
        match self {
            Self::RowPermutation => {
                let mut order: Vec<usize> = (0..outputs).collect();
                order.shuffle(rng);
                permute(parameter, is_linear, &order);
            }
            Self::ShardSwap => permute(parameter, is_linear, &turned(0, outputs, outputs / 2)),
            // Each head's block where the next one's was: O's inputs, or V's outputs.
            _ if parameter.name.ends_with("c_proj.weight") => {
                permute(parameter, true, &turned(0, rows, rows / N_HEADS));
            }
            _ => permute(parameter, false, &turned(2 * cols / 3, cols, cols / 3 / N_HEADS)),
        }
    }
}

/// `layers.1.` of `layers.1.weight`.
fn layer(name: &str) -> &str {
    name.strip_suffix("weight").unwrap_or(name)
}

/// All below `start` in place, and from there to `end` turned by `by`.
fn turned(start: usize, end: usize, by: usize) -> Vec<usize> {
    let turn = |i: usize| start + (i - start + by) % (end - start);
    (0..end).map(|i| if i < start { i } else { turn(i) }).collect()
}

/// Row (or column) i becomes what `order[i]` was.
fn permute(parameter: &mut Parameter, is_of_rows: bool, order: &[usize]) {
    let cols = parameter.shape[1];
    let old = parameter.values.clone();
    for (at, value) in parameter.values.iter_mut().enumerate() {
        let (row, col) = (at / cols, at % cols);
        *value =
            if is_of_rows { old[order[row] * cols + col] } else { old[row * cols + order[col]] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rows: usize, cols: usize, name: &str) -> Parameter {
        let values = (0..rows * cols).map(|i| i as f32).collect();
        Parameter { name: name.into(), shape: vec![rows, cols], values }
    }

    #[test]
    fn shards_and_heads_change_places_whole() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let mut up = counted(12, 2, "layers.0.weight");
        Fault::ShardSwap.reorder(&mut up, rng);
        assert_eq!(up.values[..4], [12.0, 13.0, 14.0, 15.0]);
        assert_eq!(up.values[22..], [10.0, 11.0]);
        let mut fused = counted(1, 24, "h.0.attn.c_attn.weight");
        Fault::SwappedHeads.reorder(&mut fused, rng);
        assert_eq!(fused.values[14..20], [14.0, 15.0, 18.0, 19.0, 20.0, 21.0]);
        assert_eq!(fused.values[22..], [16.0, 17.0]);
        let mut out = counted(8, 1, "h.0.attn.c_proj.weight");
        Fault::SwappedHeads.reorder(&mut out, rng);
        assert_eq!(out.values, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 1.0]);
    }

    #[test]
    fn a_permutation_loses_nothing() {
        let mut up = counted(3, 16, "h.1.mlp.c_fc.weight");
        let before = up.values.clone();
        Fault::RowPermutation.reorder(&mut up, &mut ChaCha8Rng::seed_from_u64(1));
        assert_ne!(up.values, before);
        up.values.sort_by(f32::total_cmp);
        assert_eq!(up.values, before);
    }
}
