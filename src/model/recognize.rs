//! Names, shapes and `config.json` to a [`LayerGraph`]: the first rule that fits, else shape chaining.

use serde_json::Value;

use super::inputs::Named;
use super::names::{match_glob, match_pattern, strip_prefixes};
use super::{LayerGraph, Left, Rule, chain, transformer};
use crate::checkpoint::{Dtype, TensorInfo};

/// Recognises a model.
///
/// Rules that name the configuration's `model_type` are tried first, then those whose required
/// tensors are there, in the order given; a rule whose shapes contradict it is passed over. What no
/// rule fits falls back to chaining matrices by shape, in natural name order.
#[must_use]
pub fn recognize(tensors: &[TensorInfo], config: Option<&Value>, rules: &[Rule]) -> LayerGraph {
    let model_type = config.and_then(|c| c.get("model_type")).and_then(Value::as_str);
    let names_it =
        |rule: &Rule| model_type.is_some_and(|t| rule.model_types.iter().any(|r| r == t));
    let (first, then): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| names_it(rule));
    let mut misfits = Vec::new();
    for rule in first.iter().chain(&then) {
        let named = named(tensors, &rule.prefixes);
        let listed = names_it(rule);
        match applies(rule, &named) {
            Ok(()) => {}
            Err(missing) if listed => {
                misfits.push((true, format!("rule `{}`: no tensor `{missing}`", rule.name)));
                continue;
            }
            Err(_) => continue,
        }
        match transformer::build(rule, &named, config) {
            Ok(mut graph) => {
                graph.architecture = match model_type {
                    Some(t) if listed => t.to_owned(),
                    _ => rule.name.clone(),
                };
                graph.because = because(rule, listed, model_type);
                // That a rule which nothing asked for does not fit is no news once another does.
                misfits.retain(|(asked_for, _)| *asked_for);
                return with_left(graph, &named, &rule.ignore, misfits);
            }
            Err(why) => misfits.push((listed, format!("rule `{}`: {why}", rule.name))),
        }
    }
    let named = named(tensors, &[]);
    let mut graph = chain::build(&named, config);
    graph.because = match (misfits.is_empty(), model_type) {
        (true, None) => "no architecture rule names these tensors; matrices chained by shape, in natural name order".into(),
        (true, Some(t)) => format!("no architecture rule for model_type `{t}` or these tensors; matrices chained by shape, in natural name order"),
        (false, _) => "matrices chained by shape, in natural name order, because no rule fits".into(),
    };
    with_left(graph, &named, &[], misfits)
}

fn because(rule: &Rule, listed: bool, model_type: Option<&str>) -> String {
    match (listed, model_type) {
        (true, Some(t)) => format!("rule `{}`, by model_type `{t}` in config.json", rule.name),
        _ => format!("rule `{}`, by its tensor names", rule.name),
    }
}

fn named<'a>(tensors: &'a [TensorInfo], prefixes: &[String]) -> Vec<Named<'a>> {
    tensors.iter().map(|info| Named { bare: strip_prefixes(&info.name, prefixes), info }).collect()
}

/// The first required pattern without a tensor, as the error.
fn applies<'r>(rule: &'r Rule, named: &[Named<'_>]) -> Result<(), &'r str> {
    let there = |pattern: &str| named.iter().any(|t| match_pattern(pattern, t.bare).is_some());
    rule.requires.iter().find(|p| !there(p)).map_or(Ok(()), |p| Err(p.as_str()))
}

/// Adds a reason for every tensor that no matrix uses.
fn with_left(
    mut graph: LayerGraph,
    named: &[Named<'_>],
    ignore: &[super::IgnoreRule],
    misfits: Vec<(bool, String)>,
) -> LayerGraph {
    let used: std::collections::HashSet<&str> =
        graph.matrices.iter().map(|m| m.view.tensor.as_str()).collect();
    let gains: std::collections::HashSet<&str> = graph
        .pairs
        .iter()
        .filter_map(|p| p.reader.gain.as_ref().map(|g| g.tensor.as_str()))
        .collect();
    let told: std::collections::HashSet<String> =
        graph.skipped.iter().map(|s| s.name.clone()).collect();
    let mut left = Vec::new();
    for tensor in named {
        let name = &tensor.info.name;
        if used.contains(name.as_str()) || told.contains(name) {
            continue;
        }
        let by_rule = ignore.iter().find(|i| i.tensors.iter().any(|p| match_glob(p, tensor.bare)));
        let reason = match by_rule {
            _ if gains.contains(name.as_str()) => {
                "norm gain: folded into the readers behind it".to_owned()
            }
            Some(rule) => rule.reason.clone(),
            None => reason_by_shape(tensor),
        };
        left.push(Left { name: name.clone(), reason });
    }
    let misfits =
        misfits.into_iter().map(|(_, reason)| Left { name: "(architecture)".into(), reason });
    graph.skipped = misfits.chain(graph.skipped).chain(left).collect();
    graph
}

fn is_norm(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["norm", "ln_", ".ln"].iter().any(|part| name.contains(part))
}

fn reason_by_shape(tensor: &Named<'_>) -> String {
    let info = tensor.info;
    match (&info.dtype, info.shape.len()) {
        (Dtype::Other(dtype), _) => {
            format!("stored as {dtype}: only floating-point weights are measured")
        }
        (_, 0) => "a scalar".into(),
        (_, 1) if info.name.ends_with("bias") => "a bias: pair numbers use weights only".into(),
        (_, 1) if is_norm(&info.name) => "norm gain: no measured reader behind it".into(),
        (_, 1) => "a vector: no subspaces".into(),
        (_, 2) => "no role: no rule names this matrix".into(),
        (_, n) => format!("{n} dimensions: only matrices are measured"),
    }
}

/// Names of the tensors that hold no parameters, under the rule called `architecture`.
#[must_use]
pub fn buffers<'a>(tensors: &'a [TensorInfo], graph: &LayerGraph, rules: &[Rule]) -> Vec<&'a str> {
    let rule = rules
        .iter()
        .find(|r| r.name == graph.architecture || r.model_types.contains(&graph.architecture));
    let Some(rule) = rule else { return Vec::new() };
    let is_buffer = |bare: &str| {
        rule.ignore.iter().any(|i| i.buffer && i.tensors.iter().any(|p| match_glob(p, bare)))
    };
    named(tensors, &rule.prefixes)
        .into_iter()
        .filter(|t| is_buffer(t.bare))
        .map(|t| t.info.name.as_str())
        .collect()
}
