//! A rule applied to a checkpoint's tensors: its stacks, one after another.

use std::collections::HashSet;

use serde_json::Value;

use super::blocks::{Found, MAX_MATRICES, Search, check_shapes, head_layout};
use super::inputs::Tensors;
use super::layers::Layers;
use super::pairs::Builder;
use super::{LayerGraph, Left, Matrix, Role, Rule, Stack};
use crate::checkpoint::Text;

/// Most pairs of a model; the largest published one (Kimi K2) has fifty-five thousand. A pair of heads
/// costs no bytes of a file, but some 700 of memory.
pub(super) const MAX_PAIRS: usize = 1 << 16;

/// Builds the graph.
///
/// # Errors
/// In words, which shape contradicts the rule.
pub(super) fn build(
    rule: &Rule,
    tensors: &Tensors<'_>,
    config: Option<&Value>,
) -> Result<LayerGraph, String> {
    let mut graph = LayerGraph { architecture: rule.name.clone(), ..LayerGraph::default() };
    let mut depth = 0;
    for stack in &rule.stacks {
        depth += add_stack(stack, tensors, config, depth, &mut graph)?;
    }
    // What several stacks share stands where the first has it.
    if rule.stacks.len() > 1 {
        let mut seen = HashSet::new();
        graph.matrices.retain(|matrix| seen.insert(matrix.name.clone()));
    }
    if graph.pairs.len() > MAX_PAIRS {
        graph.pairs.truncate(MAX_PAIRS);
        let reason = format!("more than {MAX_PAIRS} pairs: those of deeper layers are left out");
        graph.skipped.push(Left { name: "(pairs)".into(), reason: reason.into() });
    }
    if graph.matrices.is_empty() {
        return Err("none of its tensors is a floating-point matrix".into());
    }
    Ok(graph)
}

/// Adds a stack whose layers are counted from `first` on; returns how many it has.
fn add_stack(
    stack: &Stack,
    tensors: &Tensors<'_>,
    config: Option<&Value>,
    first: usize,
    graph: &mut LayerGraph,
) -> Result<usize, String> {
    let layers = Layers::of(stack, tensors);
    let heads = head_layout(stack, tensors, config);
    let most = MAX_MATRICES.saturating_sub(graph.matrices.len());
    let search = Search { stack, tensors, config, layers: &layers, heads, most };
    let found = search.all(&mut graph.skipped)?;
    check_shapes(&found, heads)?;
    if heads.is_none() && found.keys().any(|(_, role, _)| *role == Role::Output) {
        graph.skipped.push(without_heads(stack));
    }
    let depth = found.keys().filter_map(|(layer, ..)| layer.map(|l| l + 1)).max().unwrap_or(0);
    let builder = Builder { stack, tensors, config, found: &found, heads, depth };
    let n_before = graph.pairs.len();
    // At once, as a vector is held twice while it grows: one for each matrix, query and key head.
    let per_layer = heads.map_or(0, |h| h.query.saturating_add(h.key_value).saturating_mul(2));
    let most = found.len().saturating_add(depth.saturating_mul(per_layer));
    graph.pairs.reserve_exact(most.min(MAX_PAIRS + MAX_PAIRS / 4));
    for layer in 0..depth {
        for rule in &stack.pairs {
            if graph.pairs.len() <= MAX_PAIRS {
                builder.pairs_of(rule, layer, &mut graph.pairs, &mut graph.skipped);
            }
        }
    }
    let stack_name = stack.name.as_deref().map(Text::from);
    for pair in &mut graph.pairs[n_before..] {
        pair.layer = pair.layer.map(|layer| layer + first);
        pair.stack.clone_from(&stack_name);
    }
    let mut n_heads: usize = graph.heads.iter().map(|set| set.heads.len()).sum();
    for mut set in builder.head_sets() {
        n_heads += set.heads.len();
        if n_heads > MAX_PAIRS {
            let reason =
                format!("more than {MAX_PAIRS} heads: those of deeper layers are left out");
            graph.skipped.push(Left { name: "(heads)".into(), reason: reason.into() });
            break;
        }
        set.layer += first;
        graph.heads.push(set);
    }
    graph.head_layout = graph.head_layout.or(heads.filter(|_| !found.is_empty()));
    add_matrices(stack, found, first, &mut graph.matrices);
    Ok(depth)
}

fn without_heads(stack: &Stack) -> Left {
    let of_stack = stack.name.as_ref().map_or(String::new(), |name| format!(" of {name}"));
    Left {
        name: format!("(heads{of_stack})").into(),
        reason: format!(
            "number of heads unknown: expected `{}` in config.json; no v_o and q_k pairs, no head overlap",
            stack.heads.query.join("` or `")
        )
        .into(),
    }
}

/// Adds them in depth order: the embedding before the stack, what reads the stack's end behind it.
fn add_matrices(stack: &Stack, found: Found, first: usize, matrices: &mut Vec<Matrix>) {
    let stack_name = stack.name.as_deref().map(Text::from);
    let mut behind = Vec::new();
    // Those without a layer come first, then layer by layer.
    for ((layer, role, _), whole) in found {
        let matrix = Matrix {
            name: whole.name,
            layer: layer.map(|layer| layer + first),
            stack: stack_name.clone(),
            expert: whole.expert,
            role,
            view: whole.view,
        };
        if layer.is_some() || role.is_before_the_stack() {
            matrices.push(matrix);
        } else {
            behind.push(matrix);
        }
    }
    matrices.append(&mut behind);
}
