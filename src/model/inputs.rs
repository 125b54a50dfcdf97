//! What a model is recognised by: tensors under their bare names and values of `config.json`.

use std::collections::HashMap;

use serde_json::Value;

use super::Storage;
use super::names::{Plain, match_pattern, strip_prefixes};
use super::storage::Folded;
use crate::checkpoint::{Dtype, TensorInfo};

/// A tensor with the name that patterns see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) bare: &'a str,
    /// Whether it is stored the other way round than its name says.
    pub(super) is_kernel: bool,
    pub(super) info: &'a TensorInfo,
}

impl Named<'_> {
    pub(super) fn is_float(&self) -> bool {
        !matches!(self.info.dtype, Dtype::Other(_))
    }

    /// How it is stored, where a rule says so of torch's tensor.
    pub(super) fn storage(&self, of_rule: Storage) -> Storage {
        if self.is_kernel { of_rule.transposed() } else { of_rule }
    }

    /// As matrices, if it is a floating-point tensor of that kind.
    pub(super) fn fold(&self, of_rule: Storage) -> Option<Folded> {
        let folded = self.storage(of_rule).fold(&self.info.shape);
        folded.filter(|_| self.is_float())
    }
}

/// All tensors of a checkpoint, as one rule sees them.
pub(super) struct Tensors<'a> {
    pub(super) all: Vec<Named<'a>>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Tensors<'a> {
    /// With the rule's prefixes off; `plain` are their names in the same order.
    pub(super) fn new(
        tensors: &'a [TensorInfo],
        plain: &'a [Plain<'a>],
        prefixes: &[String],
    ) -> Self {
        let named = |(info, plain): (&'a TensorInfo, &'a Plain<'a>)| Named {
            bare: strip_prefixes(&plain.name, prefixes),
            is_kernel: plain.is_kernel,
            info,
        };
        let all: Vec<_> = tensors.iter().zip(plain).map(named).collect();
        // Of equal names the first counts, as with every other search.
        let by_name = all.iter().enumerate().rev().map(|(at, t)| (t.bare, at)).collect();
        Self { all, by_name }
    }

    /// The tensor of that bare name.
    pub(super) fn named(&self, bare: &str) -> Option<&Named<'a>> {
        self.by_name.get(bare).map(|at| &self.all[*at])
    }

    /// Whether some tensor has a name like that.
    pub(super) fn has(&self, pattern: &str) -> bool {
        self.all.iter().any(|t| match_pattern(pattern, t.bare).is_some())
    }
}

/// A whole number in `config.json`, under the first of `keys` that is there.
pub(super) fn config_number(config: Option<&Value>, keys: &[String]) -> Option<usize> {
    config_value(config, keys)?.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

/// The value under the first of `keys` that is there and not null: at the top level or in
/// `text_config`, where multimodal models keep those of their language model. `a.b` is `b` in `a`.
pub(super) fn config_value<'a>(config: Option<&'a Value>, keys: &[String]) -> Option<&'a Value> {
    let config = config?;
    let places = [Some(config), config.get("text_config")];
    let at = |place: &'a Value, key: &str| key.split('.').try_fold(place, |at, part| at.get(part));
    keys.iter()
        .flat_map(|key| places.iter().flatten().filter_map(move |place| at(place, key)))
        .find(|value| !value.is_null())
}
