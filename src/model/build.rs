//! A rule applied to a checkpoint's tensors: its stacks, one after another.

use std::collections::BTreeSet;

use serde_json::Value;

use super::blocks::{Found, Search, check_shapes, head_layout};
use super::inputs::Tensors;
use super::layers::Layers;
use super::pairs::Builder;
use super::{LayerGraph, Left, Matrix, Role, Rule, Stack};

/// Most pairs of a model; the largest published ones have about fifty thousand.
pub(super) const MAX_PAIRS: usize = 200_000;

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
    let mut seen = BTreeSet::new();
    graph.matrices.retain(|matrix| seen.insert(matrix.name.clone()));
    if graph.pairs.len() > MAX_PAIRS {
        graph.pairs.truncate(MAX_PAIRS);
        let reason = format!("more than {MAX_PAIRS} pairs: those of deeper layers are left out");
        graph.skipped.push(Left { name: "(pairs)".into(), reason });
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
    let search = Search { stack, tensors, config, layers: &layers, heads };
    let found = search.all(&mut graph.skipped)?;
    check_shapes(&found, heads)?;
    if heads.is_none() && found.keys().any(|(_, role, _)| *role == Role::Output) {
        graph.skipped.push(without_heads(stack));
    }
    let depth = found.keys().filter_map(|(layer, ..)| layer.map(|l| l + 1)).max().unwrap_or(0);
    graph.matrices.extend(matrices(stack, &found, first));
    let builder = Builder { stack, tensors, config, found: &found, heads, depth };
    let (pairs, skipped) = (&mut Vec::new(), &mut graph.skipped);
    for layer in 0..depth {
        for rule in &stack.pairs {
            if graph.pairs.len() + pairs.len() <= MAX_PAIRS {
                builder.pairs_of(rule, layer, pairs, skipped);
            }
        }
    }
    for mut pair in pairs.drain(..) {
        pair.layer = pair.layer.map(|layer| layer + first);
        pair.stack.clone_from(&stack.name);
        graph.pairs.push(pair);
    }
    for mut set in builder.head_sets() {
        set.layer += first;
        graph.heads.push(set);
    }
    graph.head_layout = graph.head_layout.or(heads.filter(|_| !found.is_empty()));
    Ok(depth)
}

fn without_heads(stack: &Stack) -> Left {
    let of_stack = stack.name.as_ref().map_or(String::new(), |name| format!(" of {name}"));
    Left {
        name: format!("(heads{of_stack})"),
        reason: format!(
            "number of heads unknown: expected `{}` in config.json; no v_o and q_k pairs, no head overlap",
            stack.heads.query.join("` or `")
        ),
    }
}

/// In depth order: the embedding before the stack, what reads the stack's end behind it.
fn matrices(stack: &Stack, found: &Found, first: usize) -> Vec<Matrix> {
    let of = |((layer, role, _), whole): (&super::blocks::Key, &super::blocks::Whole)| Matrix {
        name: whole.name.clone(),
        layer: layer.map(|layer| layer + first),
        stack: stack.name.clone(),
        expert: whole.expert,
        role: *role,
        view: whole.view.clone(),
    };
    let mut matrices: Vec<Matrix> = found.iter().map(of).collect();
    matrices.sort_by_key(|m| match (m.layer, m.role) {
        (Some(layer), role) => (1, layer, role),
        (None, role) if role.is_before_the_stack() => (0, 0, role),
        (None, role) => (2, 0, role),
    });
    matrices
}
