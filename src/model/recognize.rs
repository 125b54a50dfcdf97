//! Names, shapes and `config.json` to a [`LayerGraph`]: the first rule that fits, else shape chaining.

use serde_json::Value;

use super::inputs::Tensors;
use super::left::with_left;
use super::names::{Plain, are_of_flax, match_glob, plain, strip_prefixes};
use super::{LayerGraph, Rule, build, chain, lora};
use crate::checkpoint::TensorInfo;

/// Recognises a model.
///
/// Rules that name the configuration's `model_type` are tried first, then those whose required
/// tensors are there, in the order given; a rule whose shapes contradict it is passed over. What no
/// rule fits falls back to chaining matrices by shape, in natural name order. Adapters are told by
/// their names, whatever model they belong to.
#[must_use]
pub fn recognize(tensors: &[TensorInfo], config: Option<&Value>, rules: &[Rule]) -> LayerGraph {
    let model_type = config.and_then(|c| c.get("model_type")).and_then(Value::as_str);
    let names_it =
        |rule: &Rule| model_type.is_some_and(|t| rule.model_types.iter().any(|r| r == t));
    let (first, then): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| names_it(rule));
    let plain = plain_names(tensors);
    if let Some(graph) = lora::build(&Tensors::new(tensors, &plain, &[])) {
        return graph;
    }
    let mut misfits = Vec::new();
    for rule in first.iter().chain(&then) {
        let listed = names_it(rule);
        let named = Tensors::new(tensors, &plain, &rule.prefixes);
        if let Some(missing) = rule.requires.iter().find(|pattern| !named.has(pattern)) {
            if listed {
                misfits.push((true, format!("rule `{}`: no tensor `{missing}`", rule.name)));
            }
            continue;
        }
        match build::build(rule, &named, config) {
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
    let named = Tensors::new(tensors, &plain, &[]);
    let mut graph = chain::build(&named.all, config);
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

/// The names as torch would write them.
pub(super) fn plain_names(tensors: &[TensorInfo]) -> Vec<Plain<'_>> {
    let flax = are_of_flax(tensors.iter().map(|t| t.name.as_str()));
    tensors.iter().map(|t| plain(&t.name, flax)).collect()
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
    let plain = plain_names(tensors);
    let with_plain = tensors.iter().zip(&plain);
    let buffers = with_plain.filter(|(_, p)| is_buffer(strip_prefixes(&p.name, &rule.prefixes)));
    buffers.map(|(tensor, _)| tensor.name.as_str()).collect()
}
