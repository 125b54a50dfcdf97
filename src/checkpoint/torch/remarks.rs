//! What a saved state says of its run beside the weights: step, configuration, optimiser.

use serde_json::{Map, Number, Value as Json};

use super::Saved;
use super::find::{Beside, Weights, key_text};
use crate::checkpoint::error::{n_tensors, one_line};
use crate::checkpoint::pickle::{Heap, Node, Value};
use crate::checkpoint::{Manifest, TrainerState};

/// Keys that hold the number of optimiser steps, the most telling first; an epoch is better than
/// nothing.
const STEPS: [&str; 10] = [
    "global_step",
    "global_steps",
    "iter_num",
    "iteration",
    "step",
    "steps",
    "num_updates",
    "iter",
    "n_iter",
    "epoch",
];
/// Keys that hold the description of the model, the most telling first.
const CONFIGS: [&str; 7] =
    ["model_args", "model_config", "config", "hyper_parameters", "hparams", "args", "cfg"];
/// Keys that hold the state of the optimiser.
const OPTIMIZERS: [&str; 5] =
    ["optimizer", "optimizer_state_dict", "optimizer_states", "optim", "last_optimizer_state"];
/// Values of a description.
const MAX_VALUES: usize = 1 << 16;
/// Bytes of a text that count as one value, as every mention of a text is a copy of it.
const N_BYTES_OF_VALUE: usize = 16;
/// Containers within containers of a description.
const MAX_DEPTH: usize = 16;

/// Notes where in a state the weights were found.
pub(super) fn add_places(manifest: &mut Manifest, found: &Weights) {
    if !found.under.is_empty() {
        let keys: Vec<String> = found.under.iter().map(|key| one_line(key)).collect();
        manifest.notes.push(format!("weights taken from `{}`", keys.join(".")));
    }
    let Beside { told, n_more } = &found.beside;
    if !told.is_empty() {
        let passed = told.iter().map(|(key, n)| format!("`{key}` ({})", n_tensors(*n)));
        let more = (*n_more > 0).then(|| format!("others ({})", n_tensors(*n_more)));
        let passed: Vec<String> = passed.chain(more).collect();
        manifest.notes.push(format!("left out beside them: {}", passed.join(", ")));
    }
}

/// Takes what a state says of its run beside the weights.
pub(in crate::checkpoint) fn add_remarks(manifest: &mut Manifest, saved: &Saved) {
    let heap = &saved.heap;
    let step = step(heap, saved.root);
    let remarks = &mut manifest.remarks;
    remarks.step = remarks.step.or(step);
    if remarks.config.is_none() {
        remarks.config = config(heap, saved.root)
            .map(|(key, config)| (format!("`{key}` in the weight file"), config));
    }
    if remarks.trainer.is_none() {
        remarks.trainer = trainer(heap, saved.root, step);
    }
}

fn step(heap: &Heap, root: Value) -> Option<u64> {
    let whole = |value: Value| value.size().map(|n| n as u64);
    let updates = || {
        let history = heap.tuple(heap.get(root, "optimizer_history")?)?;
        whole(heap.get(*history.last()?, "num_updates")?)
    };
    updates().or_else(|| STEPS.iter().find_map(|key| whole(heap.get(root, key)?)))
}

fn config(heap: &Heap, root: Value) -> Option<(&'static str, Json)> {
    CONFIGS.iter().find_map(|key| {
        let value = heap.get(root, key)?;
        let mut n_left = MAX_VALUES;
        let config = json(heap, value, 0, &mut n_left)?;
        let is_told = config.as_object().is_some_and(|map| !map.is_empty());
        (is_told && n_left > 0).then_some((*key, config))
    })
}

/// A value as JSON, as far as JSON has it; objects by what was set on them.
fn json(heap: &Heap, value: Value, depth: usize, n_left: &mut usize) -> Option<Json> {
    *n_left = n_left.checked_sub(1)?;
    if depth > MAX_DEPTH {
        return None;
    }
    let deeper = depth.saturating_add(1);
    Some(match value {
        Value::None => Json::Null,
        Value::Bool(yes) => Json::Bool(yes),
        Value::Int(n) => Json::Number(n.into()),
        Value::Float(x) => Number::from_f64(x).map_or(Json::Null, Json::Number),
        Value::Text(_) => {
            let text = heap.text(value)?;
            spend(n_left, text)?;
            Json::String(text.to_owned())
        }
        Value::Bytes | Value::LargeInt | Value::Global(_) => return None,
        Value::Node(_) => match heap.node(value)? {
            Node::Dict(items) => {
                let mut map = Map::new();
                for (key, value) in items {
                    let key = key_text(heap, *key);
                    spend(n_left, &key)?;
                    if let Some(value) = json(heap, *value, deeper, n_left) {
                        map.insert(key.into_owned(), value);
                    }
                }
                Json::Object(map)
            }
            Node::List(items) | Node::Tuple(items) => {
                Json::Array(items.iter().filter_map(|v| json(heap, *v, deeper, n_left)).collect())
            }
            Node::Object { state, .. } if heap.dict(*state).is_some() => {
                json(heap, *state, deeper, n_left)?
            }
            Node::Object { .. } | Node::Set | Node::Persistent(_) => return None,
        },
    })
}

/// Counts a text that is copied; none where the description is too long for it, which is then left out.
fn spend(n_left: &mut usize, text: &str) -> Option<()> {
    *n_left = n_left.saturating_sub(text.len() / N_BYTES_OF_VALUE);
    (*n_left > 0).then_some(())
}

/// The first group of parameters of the first optimiser, and a loss beside it.
fn trainer(heap: &Heap, root: Value, step: Option<u64>) -> Option<TrainerState> {
    let state = OPTIMIZERS.iter().find_map(|key| heap.get(root, key));
    let first = |value: Value| heap.tuple(value).and_then(|items| items.first().copied());
    let state = state.map(|state| first(state).unwrap_or(state));
    let loss = heap.get(root, "loss").and_then(Value::number);
    let told = state.and_then(|state| optimizer(heap, state));
    if told.is_none() && loss.is_none() {
        return None;
    }
    Some(TrainerState { global_step: step, loss, ..told.unwrap_or_default() })
}

/// Takes what the state of an optimiser says.
pub(in crate::checkpoint) fn add_optimizer(manifest: &mut Manifest, saved: &Saved, state: Value) {
    let remarks = &mut manifest.remarks;
    if remarks.trainer.is_none() {
        let told = optimizer(&saved.heap, state);
        remarks.trainer = told.map(|told| TrainerState { global_step: remarks.step, ..told });
    }
}

/// What the first group of parameters says.
fn optimizer(heap: &Heap, state: Value) -> Option<TrainerState> {
    let first = |value: Value| heap.tuple(value).and_then(|items| items.first().copied());
    let group = first(heap.get(state, "param_groups")?);
    let has = |key: &str| group.and_then(|group| heap.get(group, key));
    let finite = |key: &str| has(key).and_then(Value::number).filter(|x| x.is_finite());
    let optimizer = match (has("betas"), has("decoupled_weight_decay"), has("nesterov")) {
        (None, None, Some(_)) => Some("sgd"),
        (Some(_), Some(Value::Bool(true)), _) => Some("adamw"),
        (Some(_), Some(Value::Bool(false)), _) => Some("adam"),
        _ => None,
    };
    Some(TrainerState {
        optimizer: optimizer.map(str::to_owned),
        learning_rate: finite("lr"),
        weight_decay: finite("weight_decay"),
        momentum: finite("momentum"),
        ..TrainerState::default()
    })
}
