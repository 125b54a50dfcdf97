//! From the numbers in names to a running depth.

use std::collections::BTreeSet;

use super::names::{Place, match_pattern};
use super::{Stack, inputs::Tensors};

/// The blocks of a stack, in natural order.
pub(super) struct Layers {
    /// Stage and block; empty where names state the layer itself.
    blocks: Vec<(u32, u32)>,
}

impl Layers {
    pub(super) fn of(stack: &Stack, tensors: &Tensors<'_>) -> Self {
        let mut blocks = BTreeSet::new();
        let staged = stack.matrices.iter().filter(|m| m.tensor.contains("{block}"));
        for rule in staged {
            let places = tensors.all.iter().filter(|t| t.info.shape.len() > 1);
            let places = places.filter_map(|t| match_pattern(&rule.tensor, t.bare));
            blocks.extend(places.filter_map(|place| place.stage.zip(place.block)));
        }
        Self { blocks: blocks.into_iter().collect() }
    }

    /// The depth of a place: the layer that it states, or the number of its block. What belongs to a
    /// stage alone stands before the first block that is not of an earlier one.
    pub(super) fn depth(&self, place: &Place) -> Option<usize> {
        let Some(stage) = place.stage else { return Place::index(place.layer) };
        let at = (stage, place.block.unwrap_or(0));
        let depth = self.blocks.partition_point(|block| *block < at);
        Some(depth.min(self.blocks.len().saturating_sub(1)))
    }
}
