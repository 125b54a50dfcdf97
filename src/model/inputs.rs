//! What a model is recognised by: tensors under their bare names and values of `config.json`.

use serde_json::Value;

use super::Layout;
use crate::checkpoint::{Dtype, TensorInfo};

/// A tensor with the name that patterns see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) bare: &'a str,
    pub(super) info: &'a TensorInfo,
}

impl Named<'_> {
    pub(super) fn is_float(&self) -> bool {
        !matches!(self.info.dtype, Dtype::Other(_))
    }

    /// Output and input dimension, of a floating-point matrix.
    pub(super) fn sides(&self, layout: Layout) -> Option<(usize, usize)> {
        match (self.is_float(), self.info.shape.as_slice()) {
            (true, &[a, b]) if a > 0 && b > 0 => Some(match layout {
                Layout::OutIn => (a, b),
                Layout::InOut => (b, a),
            }),
            _ => None,
        }
    }
}

/// A whole number in `config.json`, under the first of `keys` that is there (top level or
/// `text_config`, where multimodal models keep those of their language model).
pub(super) fn config_number(config: Option<&Value>, keys: &[String]) -> Option<usize> {
    config_value(config, keys)?.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

/// The value under the first of `keys` that is there and not null.
pub(super) fn config_value<'a>(config: Option<&'a Value>, keys: &[String]) -> Option<&'a Value> {
    let config = config?;
    let places = [Some(config), config.get("text_config")];
    keys.iter()
        .flat_map(|key| places.iter().flatten().filter_map(move |at| at.get(key)))
        .find(|value| !value.is_null())
}
