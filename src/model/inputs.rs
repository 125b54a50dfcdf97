//! What a model is recognised by: tensors under their bare names and values of `config.json`.

use std::cell::OnceCell;

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
    /// Their places in the order of the bare names. Made when it is first asked for: most rules are
    /// passed over before.
    by_name: OnceCell<Vec<u32>>,
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
        Self { all, by_name: OnceCell::new() }
    }

    /// The tensor of that bare name.
    pub(super) fn named(&self, bare: &str) -> Option<&Named<'a>> {
        let bare_of = |at: u32| self.all.get(at as usize).map_or("", |tensor| tensor.bare);
        let order = self.by_name.get_or_init(|| {
            let n = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
            let mut order: Vec<u32> = (0..n).collect();
            // Of equal names the first counts, as with every other search.
            order.sort_unstable_by_key(|at| (bare_of(*at), *at));
            order
        });
        let place = order.partition_point(|at| bare_of(*at) < bare);
        let found = self.all.get(*order.get(place)? as usize)?;
        (found.bare == bare).then_some(found)
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
