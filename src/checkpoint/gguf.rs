//! GGUF, the format of llama.cpp: values by key, tensors, data.
//!
//! Read are plain floats and `Q8_0`, whose elements are exact as `F32`; other quantised types are
//! listed. Rows stay as they are stored: for some architectures llama.cpp keeps those of queries and
//! keys in rotary pairs side by side, which the architecture's rule knows.

mod header;
mod model;
mod types;

use std::path::Path;

use super::error::{OpenError, shown};
use super::fill::Fill;
use super::one_file::{self, Contents, Refusal, n_elements};
use super::place::{Coding, Place, Stored, row_major};
use super::{Dtype, Manifest, TensorInfo};
use header::{Header, Stated};
use types::Type;

/// Bytes to a multiple of which every tensor begins, where the header names no other number.
const ALIGNMENT: u64 = 32;

/// Adds a file of llama.cpp.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    one_file::add(manifest, path, read)
}

fn read(fill: &mut Fill<'_>, size: u64) -> Result<Contents, Refusal> {
    let header = header::read(fill, size)?;
    let text = |key: &str| header.values.get(key).and_then(serde_json::Value::as_str);
    if let Some(kind) = text("general.type").filter(|kind| *kind != "model") {
        return Err(Refusal::NotWeights(format!("a GGUF file of type {}", shown(kind))));
    }
    let n_parts = header.values.get("split.count").and_then(serde_json::Value::as_u64);
    if let Some(n) = n_parts.filter(|n| *n > 1) {
        let found = format!("one of {n} parts of a model, where a file that holds all is read");
        return Err(Refusal::NotWeights(found));
    }
    let config = model::config(&header.values);
    let mut contents = Contents::default();
    let placed = place(&header, size)?;
    let mut n_rounded = 0_usize;
    for (stated, (kind, offset, n_bytes)) in header.tensors.into_iter().zip(placed) {
        let Some(kind) = kind else {
            let why = format!("type {} is not known", stated.kind);
            contents.left_out.push((stated.name, why));
            continue;
        };
        n_rounded = n_rounded.saturating_add(usize::from(kind.id == types::Q8_0));
        contents.tensors.push(tensor(stated, kind, (offset, n_bytes))?);
    }
    if n_rounded > 0 {
        contents.notes.push(format!(
            "{n_rounded} tensors of Q8_0: rounded to 127ths of the largest of 32 neighbours, so small singular values are noise"
        ));
    }
    let of_kind = |kind: &Dtype| matches!(kind, Dtype::Other(_));
    let listed = contents.tensors.iter().map(|tensor| tensor.dtype).filter(of_kind);
    let mut listed: Vec<&str> = listed.map(Dtype::name).collect();
    let n_listed = listed.len();
    listed.sort_unstable();
    listed.dedup();
    let listed = listed.join(", ");
    let is_matrix = |tensor: &TensorInfo| tensor.dtype.is_float() && tensor.shape.len() > 1;
    if n_listed > 0 && !contents.tensors.iter().any(is_matrix) {
        return Err(Refusal::NotWeights(format!(
            "a GGUF file whose matrices are of type {listed}, where F32, F16, BF16 and Q8_0 are read"
        )));
    }
    if n_listed > 0 {
        contents.notes.push(format!("{n_listed} tensors of type {listed}: listed, not measured"));
    }
    contents.config = config.map(|config| ("the GGUF header".to_owned(), config));
    Ok(contents)
}

/// Type, first byte and length of every tensor, in the order of the header.
type Placed = Vec<(Option<Type>, u64, u64)>;

/// Checks that the tensors lie apart, in the file, and that the file ends where they do.
fn place(header: &Header, size: u64) -> Result<Placed, Refusal> {
    let alignment = match header.values.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let text = format!("found an alignment of {alignment}, expected a power of two");
        return Err(Refusal::Malformed(text));
    }
    let aligned = |at: u64| at.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let start = aligned(header.n_bytes);
    let mut order: Vec<usize> = (0..header.tensors.len()).collect();
    let offset_of = |at: &usize| header.tensors.get(*at).map_or(0, |tensor| tensor.offset);
    order.sort_by_key(offset_of);
    let mut placed = vec![(None, 0, 0); header.tensors.len()];
    let mut free = 0_u64;
    for (turn, at) in order.iter().enumerate() {
        let Some(tensor) = header.tensors.get(*at) else { continue };
        let Stated { name, dims, kind, offset } = tensor;
        if !offset.is_multiple_of(alignment) || *offset < free {
            return Err(Refusal::Malformed(format!(
                "found tensor {} at {offset}, expected a multiple of {alignment} from {free} on",
                shown(name)
            )));
        }
        let kind = types::numbered(*kind);
        let bytes = |kind: Type| {
            let shape: Option<Vec<usize>> = dims.iter().map(|n| usize::try_from(*n).ok()).collect();
            kind.size(dims.first().copied().unwrap_or(1), n_elements(&shape?)?)
        };
        // Of a type to come nothing is known but where the next tensor begins.
        let to_next = || {
            let next = order.get(turn.saturating_add(1)).map(offset_of);
            Some(next.unwrap_or(size.saturating_sub(start)).saturating_sub(*offset))
        };
        let n_bytes = kind.map_or_else(to_next, bytes).ok_or_else(|| {
            Refusal::Malformed(format!(
                "found tensor {} of {dims:?}, expected whole blocks of fewer than 2^48 elements",
                shown(name)
            ))
        })?;
        free = offset.saturating_add(n_bytes);
        if let Some(place) = placed.get_mut(*at) {
            *place = (kind, start.saturating_add(*offset), n_bytes);
        }
    }
    let end = start.saturating_add(free);
    if size < end {
        let text = format!("found {size} bytes, expected {end} by the header");
        return Err(Refusal::Short(text));
    }
    // The last tensor is padded like the others.
    if size > aligned(end) {
        let text = format!("found {size} bytes, expected {} by the header", aligned(end));
        return Err(Refusal::Malformed(text));
    }
    Ok(placed)
}

fn tensor(
    stated: Stated,
    kind: Type,
    (offset, n_bytes): (u64, u64),
) -> Result<TensorInfo, Refusal> {
    let Stated { name, dims, .. } = stated;
    let too_large = || Refusal::Malformed(format!("found tensor {} too large", shown(&name)));
    let shape: Option<Vec<usize>> = dims.iter().rev().map(|n| usize::try_from(*n).ok()).collect();
    let shape = shape.ok_or_else(too_large)?;
    let coding = if kind.id == types::Q8_0 { Coding::Q8_0 } else { Coding::Little };
    let stored = Stored { file: 0, offset, n_bytes, coding };
    let place = Place::strided(&shape, &row_major(&shape), stored);
    let n_bytes = match kind.dtype {
        Dtype::Other(_) => n_bytes,
        dtype => n_elements(&shape).and_then(|n| n.checked_mul(dtype.bits() / 8)).unwrap_or(0),
    };
    Ok(TensorInfo { name: name.into(), dtype: kind.dtype, shape, place, n_bytes })
}
