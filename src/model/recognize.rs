//! Names, shapes and `config.json` to a [`LayerGraph`]: the first rule that fits, else shape chaining.

use serde_json::Value;

use super::inputs::Tensors;
use super::left::with_left;
use super::names::{Plain, are_of_flax, match_glob, plain, root, strip_prefixes};
use super::{LayerGraph, Left, Rule, build, chain, lora};
use crate::checkpoint::{TensorInfo, shown};

/// What stands before the names of the language model in one of images and text.
const LANGUAGE_MODEL: &str = "language_model.";

/// Most modules around a model whose names for it are looked behind.
const MAX_ROOTS: usize = 4;

/// Recognises a model.
///
/// Rules that name the configuration's `model_type` are tried first, then those whose required
/// tensors are there, in the order given; a rule whose shapes contradict it is passed over. Where none
/// fits and all matrices lie below one name, rules are tried with the names behind it. What no rule
/// fits falls back to chaining matrices by shape, in natural name order. Adapters are told by
/// their names, whatever model they belong to.
#[must_use]
pub fn recognize(tensors: &[TensorInfo], config: Option<&Value>, rules: &[Rule]) -> LayerGraph {
    let plain = plain_names(tensors);
    if let Some(graph) = lora::build(&Tensors::new(tensors, &plain, &[])) {
        return graph;
    }
    let mut misfits = Vec::new();
    if let Some(graph) = by_rules(tensors, &plain, config, rules, &mut misfits) {
        return graph;
    }
    let mut inner = plain.clone();
    for _ in 0..MAX_ROOTS {
        let Some(root) = cut_root(tensors, &mut inner) else { break };
        if let Some(mut graph) = by_rules(tensors, &inner, config, rules, &mut Vec::new()) {
            graph.because = format!("{}, below `{root}`", graph.because);
            return graph;
        }
    }
    if let Some(graph) = foreign_adapter(tensors) {
        return graph;
    }
    let named = Tensors::new(tensors, &plain, &[]);
    let mut graph = chain::build(&named.all, config);
    let model_type = model_type(config);
    graph.because = match (misfits.is_empty(), model_type) {
        (true, None) => "no architecture rule names these tensors; matrices chained by shape, in natural name order".into(),
        (true, Some(t)) => format!("no architecture rule for model_type {} or these tensors; matrices chained by shape, in natural name order", shown(t)),
        (false, _) => "matrices chained by shape, in natural name order, because no rule fits".into(),
    };
    with_left(graph, &named, &[], misfits)
}

fn model_type(config: Option<&Value>) -> Option<&str> {
    config.and_then(|c| c.get("model_type")).and_then(Value::as_str)
}

/// An adapter of another kind than `LoRA`: its arrays are no layers, and their shapes no neighbours.
fn foreign_adapter(tensors: &[TensorInfo]) -> Option<LayerGraph> {
    let is_of_adapter = |info: &TensorInfo| info.name.starts_with(lora::BEFORE);
    if tensors.is_empty() || !tensors.iter().all(is_of_adapter) {
        return None;
    }
    let reason = "of an adapter without lora_A and lora_B, which is not measured";
    Some(LayerGraph {
        architecture: "adapter".into(),
        because: "an adapter of another kind than LoRA, by its tensor names".into(),
        skipped: tensors
            .iter()
            .map(|t| Left { name: t.name.clone(), reason: reason.into() })
            .collect(),
        ..LayerGraph::default()
    })
}

/// The graph of the first rule that fits; whether those that do not were asked for, and why not.
fn by_rules(
    tensors: &[TensorInfo],
    plain: &[Plain<'_>],
    config: Option<&Value>,
    rules: &[Rule],
    misfits: &mut Vec<(bool, String)>,
) -> Option<LayerGraph> {
    let (whole, text) = (model_type(config), model_type(config.and_then(|c| c.get("text_config"))));
    let is_of = |rule: &Rule, t: Option<&str>| {
        t.is_some_and(|t| rule.model_types.iter().any(|known| known == t))
    };
    // A model of images and text is told by its whole, else by the language model in it.
    let model_type =
        if rules.iter().any(|rule| is_of(rule, whole)) { whole } else { text.or(whole) };
    let is_inside = model_type != whole;
    let names_it = |rule: &Rule| is_of(rule, model_type);
    let (first, then): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| names_it(rule));
    for rule in first.iter().chain(&then) {
        let listed = names_it(rule);
        let mut prefixes = rule.prefixes.clone();
        prefixes.extend((listed && is_inside).then(|| LANGUAGE_MODEL.to_owned()));
        let named = Tensors::new(tensors, plain, &prefixes);
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
                return Some(with_left(graph, &named, &rule.ignore, std::mem::take(misfits)));
            }
            Err(why) => misfits.push((listed, format!("rule `{}`: {why}", rule.name))),
        }
    }
    None
}

/// Takes wrappers and the one name before all matrices off; what that name was.
fn cut_root(tensors: &[TensorInfo], plain: &mut [Plain<'_>]) -> Option<String> {
    let is_matrix = |info: &TensorInfo| info.dtype.is_float() && info.shape.len() > 1;
    let with_info = tensors.iter().zip(&*plain).filter(|(info, _)| is_matrix(info));
    let root = root(with_info.map(|(_, plain)| strip_prefixes(&plain.name, &[])))?.to_owned();
    for plain in plain {
        let bare = strip_prefixes(&plain.name, &[]);
        plain.name = bare.strip_prefix(&root).unwrap_or(bare).to_owned().into();
    }
    Some(root)
}

fn because(rule: &Rule, listed: bool, model_type: Option<&str>) -> String {
    match (listed, model_type) {
        (true, Some(t)) => format!("rule `{}`, by model_type {}", rule.name, shown(t)),
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
    let select = |plain: &[Plain<'_>]| -> Vec<&'a str> {
        let with_plain = tensors.iter().zip(plain);
        let found = with_plain.filter(|(_, p)| is_buffer(strip_prefixes(&p.name, &rule.prefixes)));
        found.map(|(tensor, _)| tensor.name.as_str()).collect()
    };
    let mut plain = plain_names(tensors);
    let mut found = select(&plain);
    for _ in 0..MAX_ROOTS {
        if !found.is_empty() || cut_root(tensors, &mut plain).is_none() {
            break;
        }
        found = select(&plain);
    }
    found
}
