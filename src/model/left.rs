//! Why a tensor takes no part.

use std::borrow::Cow;
use std::collections::HashSet;

use super::inputs::{Named, Tensors};
use super::names::{leaf, match_glob};
use super::{IgnoreRule, LayerGraph, Left};
use crate::checkpoint::{Dtype, Text};

/// The reason of a matrix that nothing names; asked for by whoever looks for gaps in a rule.
pub(super) const NO_ROLE: &str = "no role: no rule names this matrix";

/// Adds a reason for every tensor that no matrix uses.
pub(super) fn with_left(
    mut graph: LayerGraph,
    tensors: &Tensors<'_>,
    ignore: &[IgnoreRule],
    misfits: Vec<(bool, String)>,
) -> LayerGraph {
    let used: HashSet<&str> = graph.matrices.iter().map(|m| m.view.tensor.as_str()).collect();
    let gains: HashSet<&str> = graph
        .pairs
        .iter()
        .filter_map(|p| p.reader.gain.as_ref().map(|g| g.tensor.as_str()))
        .collect();
    let told: HashSet<&str> = graph.skipped.iter().map(|s| s.name.as_str()).collect();
    let mut left = Vec::new();
    let mut reasons: HashSet<Text> = HashSet::new();
    for tensor in &tensors.all {
        let name = &tensor.info.name;
        if used.contains(name.as_str()) || told.contains(name.as_str()) {
            continue;
        }
        let by_rule = ignore.iter().find(|i| i.tensors.iter().any(|p| match_glob(p, tensor.bare)));
        let reason = match by_rule {
            _ if gains.contains(name.as_str()) => {
                "norm gain: folded into the readers behind it".into()
            }
            Some(rule) => Cow::Borrowed(rule.reason.as_str()),
            None => reason_by_shape(tensor),
        };
        // Few reasons are shared by many tensors.
        let reason = if let Some(known) = reasons.get(reason.as_ref()) {
            known.clone()
        } else {
            let fresh = Text::from(reason.as_ref());
            reasons.insert(fresh.clone());
            fresh
        };
        left.push(Left { name: name.clone(), reason });
    }
    let misfits = misfits
        .into_iter()
        .map(|(_, reason)| Left { name: "(architecture)".into(), reason: reason.into() });
    let mut skipped: Vec<Left> = misfits.chain(graph.skipped).collect();
    skipped.append(&mut left);
    graph.skipped = skipped;
    graph
}

fn is_norm(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["norm", "ln_", ".ln", "bn"].iter().any(|part| name.contains(part))
}

/// Last parts of names that hold what a norm has seen, in torch, Keras and Flax.
const STATISTICS: [&str; 6] =
    ["running_mean", "running_var", "moving_mean", "moving_variance", "mean", "var"];

/// Keras calls the bias of a norm beta.
fn is_bias(name: &str) -> bool {
    name.ends_with("bias") || (leaf(name) == "beta" && is_norm(name))
}

fn reason_by_shape(tensor: &Named<'_>) -> Cow<'static, str> {
    let info = tensor.info;
    match (&info.dtype, info.shape.as_slice()) {
        (Dtype::Other(dtype), _) => {
            format!("stored as {dtype}: only floating-point weights are measured").into()
        }
        (_, []) => "a scalar".into(),
        (_, shape) if shape.contains(&0) => "no elements: nothing to measure".into(),
        (_, [_, ..]) if is_bias(&info.name) => "a bias: pair numbers use weights only".into(),
        (_, [_]) if is_norm(&info.name) && STATISTICS.contains(&leaf(&info.name)) => {
            "running statistics of a norm: no subspaces".into()
        }
        (_, [_]) if is_norm(&info.name) => "norm gain: no measured reader behind it".into(),
        (_, [_]) => "a vector: no subspaces".into(),
        (_, [_, _]) => NO_ROLE.into(),
        (_, shape) => format!("{} dimensions: only matrices are measured", shape.len()).into(),
    }
}
