//! `.metadata`: a pickle of names, shapes, pieces and their places.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::METADATA;
use crate::checkpoint::error::{OpenError, shown};
use crate::checkpoint::formats::WEIGHTS;
use crate::checkpoint::pickle::{self, Heap, Input, Kind, Limits, Value};
use crate::checkpoint::source::OpenFile;
use crate::checkpoint::torch::TorchError;
use crate::checkpoint::{Dtype, Identity, Text};

/// Bytes of the file.
const MAX_METADATA: u64 = 64 << 20;
/// Longest file name that Linux takes.
const MAX_FILE_NAME: usize = 255;
/// Pieces of all tensors, each counted as so many more as it has numbers: a record can name one any
/// number of times. The forty thousand pieces that a record has room for take half of it.
const MAX_COST: usize = 1 << 21;
const COST: usize = 16;

/// A tensor in pieces.
#[derive(Debug)]
pub(super) struct Distributed {
    /// Its name in the files of the ranks.
    pub(super) name: Text,
    /// The first of the keys that led to it in the state, if there were several.
    pub(super) under: Option<Under>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) chunks: Vec<Chunk>,
}

/// A key that leads to tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    /// One under which trainers keep a model's weights.
    Weights(&'static str),
    Other,
}

impl Under {
    fn of(key: &str) -> Self {
        WEIGHTS.into_iter().find(|known| *known == key).map_or(Self::Other, Self::Weights)
    }
}

/// A piece of a tensor.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) corner: Vec<usize>,
    pub(super) size: Vec<usize>,
    /// Plain name of the file that holds it.
    pub(super) file: Text,
    /// First byte and length of what holds it there.
    pub(super) offset: u64,
    pub(super) n_bytes: u64,
    /// Whether it is compressed or otherwise not as `torch.save` writes it.
    pub(super) is_transformed: bool,
}

/// Adds the tensors that a record speaks of.
pub(super) fn read(
    path: &Path,
    state: &mut BTreeMap<Text, Distributed>,
) -> Result<Identity, OpenError> {
    let fail = |error| OpenError::inside(path, error);
    let mut file = OpenFile::open(path).map_err(fail)?;
    let identity = file.identity;
    if identity.size > MAX_METADATA {
        let n = identity.size;
        let found = format!("a record of {n} bytes, where at most {MAX_METADATA} are read");
        return Err(OpenError::NotWeights { path: path.to_owned(), found });
    }
    let mut fill = |at, buf: &mut [u8]| {
        file.read_exact_at(buf, at).map_err(|error| OpenError::inside(path, error))
    };
    let mut input = Input::new(&mut fill, 0, identity.size);
    let read = pickle::read(&mut input, Limits::PLACES);
    file.close().map_err(fail)?;
    let (heap, root) = read.map_err(|error| TorchError::from(error).at(path))?;
    tensors(&heap, root, state)
        .map_err(|reason| OpenError::Malformed { path: path.to_owned(), reason })?;
    Ok(identity)
}

/// Where a piece lies: by a hash of the tensor's name and the corner, of which a record can name long
/// ones often.
type Places = HashMap<u128, Value>;

fn place_of(name: &str, corner: &[usize]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(name.as_bytes());
    for at in corner {
        hash.update(&(*at as u64).to_le_bytes());
    }
    hash.digest128()
}

fn tensors(
    heap: &Heap,
    root: Value,
    state: &mut BTreeMap<Text, Distributed>,
) -> Result<(), String> {
    let is_metadata = heap.object(root).is_some_and(|(kind, ..)| kind == Kind::Metadata);
    let entries = heap.field(root, "state_dict_metadata").and_then(|value| heap.dict(value));
    let stored = heap.field(root, "storage_data").and_then(|value| heap.dict(value));
    let (true, Some(entries), Some(stored)) = (is_metadata, entries, stored) else {
        return Err(format!("found no record of a distributed state, expected {METADATA}"));
    };
    let mut places = Places::new();
    for (index, info) in stored {
        let name = heap.field(*index, "fqn").and_then(|name| heap.name(name));
        let corner = heap.field(*index, "offset").and_then(|corner| heap.sizes(corner));
        if let Some((name, corner)) = name.zip(corner) {
            places.insert(place_of(name, &corner), *info);
        }
    }
    let mut keys = BTreeMap::new();
    let planned = heap.field(root, "planner_data").and_then(|value| heap.dict(value));
    for (name, path) in planned.unwrap_or_default() {
        if let (Some(name), Some([first, _, ..])) = (heap.name(*name), heap.tuple(*path)) {
            keys.extend(heap.text(*first).map(|first| (name, Under::of(first))));
        }
    }
    let mut reading = Reading { heap, places, files: BTreeSet::new(), n_left: MAX_COST };
    for (name, entry) in entries {
        let Some((Kind::TensorPlaces, ..)) = heap.object(*entry) else { continue };
        let name = heap.name(*name).ok_or("found a tensor without a name, expected one")?;
        let found = reading
            .distributed(name, *entry)
            .ok_or_else(|| format!("found no pieces of tensor {}, expected them", shown(name)))?;
        let mut found = found.map_err(|why| format!("tensor {}: {why}", shown(name)))?;
        found.under = keys.get(name).copied();
        match state.get_mut(name) {
            // Of ranks that speak for themselves, each knows its own pieces.
            Some(known) if known.shape == found.shape && known.dtype == found.dtype => {
                known.chunks.extend(found.chunks);
            }
            Some(_) => return Err(format!("found tensor {} in two shapes", shown(name))),
            None => drop(state.insert(found.name.clone(), found)),
        }
    }
    Ok(())
}

/// What a record says, while it is read.
struct Reading<'a> {
    heap: &'a Heap,
    places: Places,
    files: BTreeSet<Text>,
    n_left: usize,
}

impl Reading<'_> {
    fn distributed(&mut self, name: &str, entry: Value) -> Option<Result<Distributed, String>> {
        let heap = self.heap;
        let properties = heap.field(entry, "properties")?;
        let (Kind::TensorProperties, _, told) = heap.object(properties)? else { return None };
        let element = match heap.tuple(told) {
            Some([first, ..]) => *first,
            _ => heap.field(properties, "dtype")?,
        };
        let Value::Global(element) = element else { return None };
        let Kind::Element(dtype) = element.kind() else { return None };
        let shape = heap.sizes(heap.field(entry, "size")?)?;
        let listed = heap.tuple(heap.field(entry, "chunks")?)?;
        let cost = shape.len().saturating_mul(2).saturating_add(COST);
        let Some(n_left) = self.n_left.checked_sub(listed.len().saturating_mul(cost)) else {
            return Some(
                Err("found more pieces than can be told apart, expected fewer".to_owned()),
            );
        };
        self.n_left = n_left;
        // Most tensors have one, and a vector that grows makes room for four.
        let mut chunks: Vec<Chunk> = Vec::with_capacity(listed.len());
        for chunk in listed {
            let corner = heap.sizes(heap.field(*chunk, "offsets")?)?;
            let size = heap.sizes(heap.field(*chunk, "sizes")?)?;
            if corner.len() != shape.len() || size.len() != shape.len() {
                let text = format!(
                    "found a piece of {size:?} at {corner:?}, expected it within {shape:?}"
                );
                return Some(Err(text));
            }
            let Some(info) = self.places.get(&place_of(name, &corner)) else {
                if size.contains(&0) {
                    continue;
                }
                return Some(Err(format!(
                    "found no place of the piece at {corner:?}, expected one"
                )));
            };
            match self.chunk(*info, corner, size)? {
                Ok(chunk) => chunks.push(chunk),
                Err(why) => return Some(Err(why)),
            }
        }
        Some(Ok(Distributed { name: name.into(), under: None, dtype, shape, chunks }))
    }

    /// A piece and where it lies.
    fn chunk(
        &mut self,
        info: Value,
        corner: Vec<usize>,
        size: Vec<usize>,
    ) -> Option<Result<Chunk, String>> {
        let heap = self.heap;
        let (Kind::StorageInfo, ..) = heap.object(info)? else { return None };
        let file = heap.text(heap.field(info, "relative_path")?)?;
        // How long it is comes first: it may be as long as all texts together.
        let is_plain = !file.is_empty()
            && file.len() <= MAX_FILE_NAME
            && !file.contains(['/', '\0'])
            && !file.starts_with('.');
        if !is_plain {
            return Some(Err(format!("found file {}, expected a plain name", shown(file))));
        }
        let number = |field| heap.field(info, field).and_then(Value::size).map(|n| n as u64);
        let transforms = heap.field(info, "transform_descriptors");
        let is_transformed = transforms.is_some_and(|value| {
            value != Value::None && heap.tuple(value).is_none_or(|list| !list.is_empty())
        });
        let (offset, n_bytes) = (number("offset")?, number("length")?);
        let file = if let Some(known) = self.files.get(file) {
            known.clone()
        } else {
            let fresh = Text::from(file);
            self.files.insert(fresh.clone());
            fresh
        };
        Some(Ok(Chunk { corner, size, file, offset, n_bytes, is_transformed }))
    }
}
