//! From what a pickle says of a tensor to its place.

use std::collections::HashMap;

use xxhash_rust::xxh3::Xxh3;

use super::Storages;
use crate::checkpoint::pickle::{Heap, Kind, Node, Value};
use crate::checkpoint::place::{Coding, Place, Stored, extent};
use crate::checkpoint::safetensors::{MAX_ELEMENTS, MAX_RANK};
use crate::checkpoint::{Dtype, TensorInfo};

/// A tensor may have so many times the elements of its storage: expanded ones have more, and one
/// with strides of 0 has as many as it likes.
const MAX_REPEAT: u64 = 4;
/// Fewer elements than that are no burden.
const FEW: u64 = 1 << 16;
/// Bytes of the name of a storage, which is a number.
const MAX_KEY: usize = 255;

/// What a value of a state is.
#[derive(Debug)]
pub(in crate::checkpoint) enum Found {
    Tensor(Stated),
    /// A tensor that is not read, and why.
    LeftOut(String),
    /// A tensor that cannot be; goes on after its name.
    Contradiction(String),
    NoTensor,
}

/// A tensor as a pickle states it, inside of its storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) struct Stated {
    pub(in crate::checkpoint) dtype: Dtype,
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) strides: Vec<usize>,
    /// First byte of its first element, from the start of the file.
    pub(in crate::checkpoint) offset: u64,
    /// Bytes from there to the end of the storage.
    pub(in crate::checkpoint) n_bytes: u64,
    pub(in crate::checkpoint) is_big: bool,
}

impl Stated {
    /// Hash of what two names for the same elements have in common. None of a tensor without
    /// elements: all of them lie in one place and are not the same.
    pub(super) fn elements(&self) -> Option<u128> {
        let mut hash = Xxh3::new();
        hash.update(&self.offset.to_le_bytes());
        for n in self.shape.iter().chain(&self.strides) {
            hash.update(&(*n as u64).to_le_bytes());
        }
        hash.update(self.dtype.name().as_bytes());
        (!self.shape.contains(&0)).then(|| hash.digest128())
    }

    /// How its elements are stored, in the file with that index.
    pub(in crate::checkpoint) fn stored(&self, file: usize) -> Stored {
        let coding =
            if self.is_big && self.dtype.n_bytes() > 1 { Coding::Big } else { Coding::Little };
        Stored { file, offset: self.offset, n_bytes: self.n_bytes, coding }
    }

    pub(super) fn into_info(self, name: String, file: usize) -> TensorInfo {
        let place = Place::strided(&self.shape, &self.strides, self.stored(file));
        let n_elements = n_elements(&self.shape).unwrap_or(0);
        let n_bytes = n_elements.saturating_mul(self.dtype.bits()) / 8;
        TensorInfo { name: name.into(), dtype: self.dtype, shape: self.shape, place, n_bytes }
    }
}

fn n_elements(shape: &[usize]) -> Option<u64> {
    let full = shape.iter().try_fold(1_u64, |n, dim| n.checked_mul((*dim as u64).max(1)));
    full.filter(|n| *n <= MAX_ELEMENTS).map(|n| if shape.contains(&0) { 0 } else { n })
}

/// A storage that a pickle refers to.
struct Storage<'a> {
    key: &'a str,
    /// Type of its elements; bytes where it has none.
    dtype: Option<Dtype>,
    n_elements: u64,
    /// Whether it is a part of another one.
    is_view: bool,
}

impl Storage<'_> {
    fn width(&self) -> u64 {
        self.dtype.map_or(1, |dtype| dtype.bits() / 8)
    }
}

fn storage(heap: &Heap, value: Value) -> Option<Storage<'_>> {
    let Node::Persistent(id) = heap.node(value)? else { return None };
    persistent(heap, *id)
}

fn persistent(heap: &Heap, id: Value) -> Option<Storage<'_>> {
    let [tag, class, key, _, n_elements, view @ ..] = heap.tuple(id)? else { return None };
    let Value::Global(class) = class else { return None };
    let Kind::Storage(dtype) = class.kind() else { return None };
    if heap.text(*tag) != Some("storage") {
        return None;
    }
    let is_view = view.iter().any(|value| *value != Value::None);
    let n_elements = n_elements.size()? as u64;
    let key = heap.text(*key).filter(|key| key.len() <= MAX_KEY)?;
    Some(Storage { key, dtype, n_elements, is_view })
}

/// Number of elements and their width, of every storage that a pickle refers to, by its key.
pub(super) fn storages_of(heap: &Heap) -> HashMap<&str, (u64, u64)> {
    let mut found = HashMap::new();
    for node in heap.nodes() {
        let Node::Persistent(id) = node else { continue };
        if let Some(storage) = persistent(heap, *id) {
            let width = storage.width();
            found.insert(storage.key, (storage.n_elements, width));
        }
    }
    found
}

/// What that value is.
pub(in crate::checkpoint) fn of(heap: &Heap, value: Value, storages: &Storages) -> Found {
    let Some((kind, args, _)) = heap.object(value) else { return Found::NoTensor };
    match (kind, args) {
        (Kind::Tensor | Kind::TensorOfType, [storage, offset, size, strides, more @ ..]) => {
            let typed = match (kind, more.get(2)) {
                (Kind::Tensor, _) => None,
                (_, Some(Value::Global(global))) => match global.kind() {
                    Kind::Element(dtype) => Some(dtype),
                    _ => return unknown_type(),
                },
                _ => return unknown_type(),
            };
            stated(heap, [*storage, *offset, *size, *strides], typed, storages)
        }
        // One wrapping is usual, two would be odd, and a loop has no end.
        (Kind::Parameter, [inner, ..]) => match heap.object(*inner) {
            Some((Kind::Tensor | Kind::TensorOfType, ..)) => of(heap, *inner, storages),
            _ => Found::LeftOut("found a parameter that is no array".to_owned()),
        },
        (Kind::TensorOfClass, [Value::Global(function), _, inner, ..]) => {
            match (function.kind(), heap.tuple(*inner)) {
                (Kind::Tensor, Some([storage, offset, size, strides, ..])) => {
                    stated(heap, [*storage, *offset, *size, *strides], None, storages)
                }
                _ => Found::LeftOut("found a tensor of a class of its own".to_owned()),
            }
        }
        (Kind::Tensor | Kind::TensorOfType | Kind::Parameter | Kind::TensorOfClass, _) => {
            Found::Contradiction("without its parts, expected storage, offset, size".to_owned())
        }
        (Kind::OtherTensor, _) => {
            Found::LeftOut("quantised, sparse, or without values of its own".to_owned())
        }
        _ => Found::NoTensor,
    }
}

fn unknown_type() -> Found {
    Found::LeftOut("found a type of elements that is not known".to_owned())
}

fn stated(
    heap: &Heap,
    [in_storage, offset, size, strides]: [Value; 4],
    typed: Option<Dtype>,
    storages: &Storages,
) -> Found {
    let broken = |text: &str| Found::Contradiction(text.to_owned());
    let Some(storage) = storage(heap, in_storage) else {
        return broken("without a storage, expected one");
    };
    let Some(offset) = offset.size() else { return broken("without an offset, expected one") };
    // Asked first: a list of any length costs nothing to name, and something to copy.
    let rank = |value| heap.tuple(value).map_or(0, <[_]>::len);
    if rank(size) != rank(strides) || rank(size) > MAX_RANK {
        return broken(&format!("of {} dimensions, expected at most {MAX_RANK}", rank(size)));
    }
    let (Some(shape), Some(strides)) = (heap.sizes(size), heap.sizes(strides)) else {
        return broken("without size and strides, expected whole numbers");
    };
    if storage.is_view {
        return Found::LeftOut("in a part of another storage".to_owned());
    }
    let Some(&(start, n_stored)) = storages.places.get(storage.key) else {
        return broken("in a storage that is not there, expected it");
    };
    if storage.n_elements.checked_mul(storage.width()) != Some(n_stored) {
        return broken(&format!(
            "in a storage of {n_stored} bytes, expected {} elements of {}",
            storage.n_elements,
            storage.width()
        ));
    }
    let dtype = typed.or(storage.dtype).unwrap_or(Dtype::Other("U8"));
    let width = dtype.bits() / 8;
    let (Some(n), true) = (n_elements(&shape), width > 0) else {
        return broken("of more than 2^48 elements, expected fewer");
    };
    let skipped = (offset as u64).checked_mul(width).filter(|skipped| *skipped <= n_stored);
    let Some(skipped) = skipped else { return broken("beyond its storage, expected it inside") };
    let n_bytes = n_stored.saturating_sub(skipped);
    let spanned = extent(&shape, &strides).checked_mul(width);
    if spanned.is_none_or(|spanned| spanned > n_bytes) {
        return broken("beyond its storage, expected it inside");
    }
    if n > FEW && n > n_stored.saturating_mul(MAX_REPEAT).checked_div(width).unwrap_or(0) {
        return Found::LeftOut(format!("{n} elements repeat those of a smaller storage"));
    }
    let offset = start.saturating_add(skipped);
    Found::Tensor(Stated { dtype, shape, strides, offset, n_bytes, is_big: storages.is_big })
}
