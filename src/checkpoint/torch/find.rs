//! Which part of what was saved is the model's weights.

use std::borrow::Cow;
use std::collections::HashSet;

use super::Saved;
use super::tensor::{self, Found};
use crate::checkpoint::error::one_line;
use crate::checkpoint::formats::{Says, WEIGHTS, says};
use crate::checkpoint::pickle::{Heap, Node, Value};

/// Containers within containers that are looked into.
const MAX_DEPTH: usize = 24;
/// Values that are looked at: a pickle can name one container any number of times.
const MAX_VISITS: usize = 1 << 20;
/// Bytes of a name that is put together.
const MAX_NAME: usize = 1024;
/// Bytes of a tensor's name, as in safetensors.
const MAX_TENSOR_NAME: usize = 4096;
/// Names, and bytes of all of them: one container under many keys makes many of few. Fewer than of
/// other files, as the pickle takes memory of its own.
pub(in crate::checkpoint) const MAX_NAMES: usize = 50_000;
const MAX_NAMES_BYTES: usize = 8 << 20;
/// Bytes of a key that are looked at in the time of one value.
const N_BYTES_OF_VISIT: usize = 128;
/// Keys that were passed over and are told; the tensors below the others are counted.
const MAX_TOLD: usize = 64;

/// Names in the order of the state, with what they name.
pub(in crate::checkpoint) type Names = Vec<(String, Value)>;

/// A model's weights in what was saved.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub(super) tensors: Names,
    /// Keys that led there.
    pub(super) under: Vec<String>,
    /// What was passed over.
    pub(super) beside: Beside,
}

/// Keys that were passed over, with the number of tensors below.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) told: Vec<(String, usize)>,
    /// Tensors below further keys.
    pub(super) n_more: usize,
}

impl Beside {
    fn add(&mut self, key: &str, n: usize) {
        if n == 0 {
            return;
        }
        if self.told.len() < MAX_TOLD {
            self.told.push((one_line(key), n));
        } else {
            self.n_more = self.n_more.saturating_add(n);
        }
    }
}

/// Finds the weights.
///
/// # Errors
/// What is there instead.
pub(super) fn weights(saved: &Saved) -> Result<Weights, String> {
    let heap = &saved.heap;
    let mut walk = Walk { saved, n_left: MAX_VISITS, n_bytes_left: MAX_NAMES_BYTES };
    let mut root = saved.root;
    let mut found = Weights::default();
    if !matches!(tensor::of(heap, root, &saved.storages), Found::NoTensor) {
        return Err("a single tensor, not a state of a model".to_owned());
    }
    if heap.dict(root).is_none() {
        return Err("no state of a model: it names nothing".to_owned());
    }
    if heap.get(root, "param_groups").is_some() && heap.get(root, "state").is_some() {
        return Err("the state of an optimiser".to_owned());
    }
    // Down to where tensors stand, along the keys that trainers use.
    let mut passed = Vec::new();
    for _ in 0..MAX_DEPTH {
        let Some(items) = heap.dict(root).filter(|_| !passed.contains(&root)) else { break };
        passed.push(root);
        // A best loss, for one, can be a tensor beside the state.
        let n_here = items.iter().filter(|(_, value)| walk.is_tensor(*value)).count();
        let of_key = |key: &&str| heap.get(root, key).filter(|v| heap.dict(*v).is_some());
        let inner = WEIGHTS.iter().filter_map(|key| of_key(key).map(|value| (*key, value)));
        let mut inner = inner.filter(|(_, value)| walk.count(*value, 0) > n_here);
        let Some((key, value)) = inner.next() else { break };
        for (other, value) in items {
            let name = key_text(heap, *other);
            if name != key {
                found.beside.add(&name, walk.count(*value, 0));
            }
        }
        found.under.push(key.to_owned());
        root = value;
    }
    for skip in [&[Says::Other, Says::Average][..], &[Says::Other]] {
        if found.tensors.is_empty() {
            let mut passed = Beside::default();
            walk.flatten(root, String::new(), (skip, 0), &mut found.tensors, &mut passed);
            if !found.tensors.is_empty() {
                let Beside { told, n_more } = passed;
                for (key, n) in &told {
                    found.beside.add(key, *n);
                }
                found.beside.n_more = found.beside.n_more.saturating_add(n_more);
            }
        }
    }
    if walk.n_left == 0 {
        return Err("a state of more than 2^20 values".to_owned());
    }
    if walk.n_bytes_left == 0 || found.tensors.len() > MAX_NAMES {
        return Err("a state of more than 50000 tensors, 8 MiB of names or 4 KiB of one".to_owned());
    }
    if found.tensors.is_empty() {
        return Err("no state of a model: it names no tensors".to_owned());
    }
    Ok(found)
}

/// The items of a dictionary under the names that they have there.
pub(in crate::checkpoint) fn named(heap: &Heap, items: &[(Value, Value)]) -> Result<Names, String> {
    let many = || {
        format!(
            "found more than {MAX_NAMES} names or {MAX_NAMES_BYTES} bytes of them, expected fewer"
        )
    };
    if items.len() > MAX_NAMES {
        return Err(many());
    }
    let mut n_left = MAX_NAMES_BYTES;
    let mut names = Names::new();
    for (key, value) in items {
        let Some(name) = heap.name(*key) else { continue };
        n_left = n_left.checked_sub(name.len()).ok_or_else(many)?;
        names.push((name.to_owned(), *value));
    }
    Ok(names)
}

/// A key as a part of a name.
pub(super) fn key_text(heap: &Heap, key: Value) -> Cow<'_, str> {
    match key {
        Value::Int(n) => n.to_string().into(),
        key => heap.text(key).unwrap_or_default().into(),
    }
}

struct Walk<'a> {
    saved: &'a Saved,
    n_left: usize,
    n_bytes_left: usize,
}

impl<'a> Walk<'a> {
    fn is_tensor(&self, value: Value) -> bool {
        !matches!(tensor::of(&self.saved.heap, value, &self.saved.storages), Found::NoTensor)
    }

    /// The items of a container, lists by number; of one name the last. Bounded over all calls.
    fn items(&mut self, value: Value) -> Vec<(Cow<'a, str>, Value)> {
        let heap = &self.saved.heap;
        // Before any key is looked at, as all of them can be one long text.
        let n_bytes = |(key, _): &(Value, Value)| heap.text(*key).map_or(0, str::len);
        let keys = heap.dict(value).unwrap_or_default().iter().map(n_bytes);
        let cost = keys.fold(0_usize, |sum, n| sum.saturating_add(n / N_BYTES_OF_VISIT));
        self.n_left = self.n_left.saturating_sub(cost);
        if self.n_left == 0 {
            return Vec::new();
        }
        let items: Vec<(Cow<'a, str>, Value)> = match heap.node(value) {
            Some(Node::Dict(items)) => {
                let is_name = |key: Value| matches!(key, Value::Int(_) | Value::Text(_));
                let named = items.iter().filter(|(key, _)| is_name(*key));
                let named = named.map(|(key, value)| (key_text(heap, *key), *value));
                let mut seen = HashSet::new();
                let mut last: Vec<(Cow<'a, str>, Value)> =
                    named.rev().filter(|(key, _)| seen.insert(key.clone())).collect();
                last.reverse();
                last
            }
            Some(Node::List(items) | Node::Tuple(items)) => {
                let is_container = |value: &Value| matches!(value, Value::Node(_));
                let numbered = items.iter().enumerate().filter(|(_, value)| is_container(value));
                numbered.map(|(at, value)| (at.to_string().into(), *value)).collect()
            }
            _ => Vec::new(),
        };
        self.n_left = self.n_left.saturating_sub(items.len());
        items
    }

    /// Number of tensors in a value.
    fn count(&mut self, value: Value, depth: usize) -> usize {
        if self.is_tensor(value) {
            return 1;
        }
        if depth >= MAX_DEPTH || self.n_left == 0 {
            return 0;
        }
        let mut n = 0_usize;
        for (_, value) in self.items(value) {
            n = n.saturating_add(self.count(value, depth.saturating_add(1)));
        }
        n
    }

    /// All tensors below a value, by the keys that lead to them.
    fn flatten(
        &mut self,
        value: Value,
        name: String,
        (skip, depth): (&[Says], usize),
        tensors: &mut Names,
        passed: &mut Beside,
    ) {
        if self.is_tensor(value) {
            // A name beyond all sense ends the walk as too many bytes of names do.
            let n_bytes = if name.len() > MAX_TENSOR_NAME { usize::MAX } else { name.len() };
            self.n_bytes_left = self.n_bytes_left.saturating_sub(n_bytes);
            tensors.push((name, value));
            return;
        }
        if self.n_bytes_left == 0 || tensors.len() > MAX_NAMES {
            return;
        }
        if depth >= MAX_DEPTH || self.n_left == 0 || name.len() > MAX_NAME {
            return;
        }
        for (key, value) in self.items(value) {
            // Names of parameters may hold any word; those of parts of a state stand at the top.
            if depth < 2 && !self.is_tensor(value) && skip.contains(&says(&key)) {
                passed.add(&key, self.count(value, 0));
                continue;
            }
            let name = if name.is_empty() { key.into_owned() } else { format!("{name}.{key}") };
            self.flatten(value, name, (skip, depth.saturating_add(1)), tensors, passed);
        }
    }
}
