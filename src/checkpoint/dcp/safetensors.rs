//! Distributed states whose files are safetensors: every rank's file holds its own pieces under the
//! tensors' names, and says in its metadata where in the tensors they begin.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Distributed, Pieces};
use crate::checkpoint::error::{OpenError, one_line, shown};
use crate::checkpoint::header::read_header;
use crate::checkpoint::one_file::n_elements;
use crate::checkpoint::place::{Coding, Piece, Place, Stored, row_major};
use crate::checkpoint::{Manifest, SourceFile, TensorInfo, Text};

/// The key of the metadata that says where pieces begin.
const SHARDING: &str = "DCP_SHARDING_INFO";

/// Whether a file of that name is a rank's, as the writer for Hugging Face names them.
pub(in crate::checkpoint) fn is_of_rank(name: &str) -> bool {
    name.starts_with("shard-") && name.contains("-model-") && name.ends_with(".safetensors")
}

#[derive(Deserialize)]
struct Start {
    saved_offsets: Vec<usize>,
}

/// A file and its tensors, each with the piece that it is of the whole.
fn pieces(path: &Path, file: usize) -> Result<(SourceFile, Vec<(TensorInfo, Piece)>), OpenError> {
    let (source, header) = read_header(path)?;
    let first = source.identity.size.saturating_sub(header.n_data);
    let malformed = |reason: String| OpenError::Malformed { path: path.to_owned(), reason };
    let starts: BTreeMap<String, Start> = match header.metadata.get(SHARDING) {
        Some(text) => serde_json::from_str(text).map_err(|error| {
            malformed(format!("found a bad {SHARDING}: {}", one_line(&error.to_string())))
        })?,
        None => BTreeMap::new(),
    };
    let piece = |tensor: TensorInfo| {
        let corner = starts.get(tensor.name.as_str()).map(|start| start.saved_offsets.clone());
        let corner = corner.unwrap_or_else(|| vec![0; tensor.shape.len()]);
        let stored = Stored {
            file,
            offset: first.saturating_add(tensor.place.offset()),
            n_bytes: tensor.n_bytes,
            coding: Coding::Little,
        };
        let strides = row_major(&tensor.shape).into();
        let size = tensor.shape.clone().into();
        let piece = Piece { corner: corner.into(), size, strides, stored };
        (tensor, piece)
    };
    Ok((source, header.tensors.into_iter().map(piece).collect()))
}

/// The pieces of all tensors of a state that `.metadata` describes, if its files are safetensors.
pub(super) fn places<'a>(
    manifest: &Manifest,
    state: &'a BTreeMap<Text, Distributed>,
) -> Result<BTreeMap<&'a str, Pieces>, OpenError> {
    let mut places: BTreeMap<&str, Pieces> = BTreeMap::new();
    let in_files: BTreeMap<&str, (&str, &Distributed)> =
        state.iter().map(|(name, of)| (of.name.as_str(), (name.as_str(), of))).collect();
    for (file, source) in manifest.files.iter().enumerate() {
        for (tensor, piece) in pieces(&source.path, file)?.1 {
            let Some((name, known)) = in_files.get(tensor.name.as_str()) else { continue };
            if tensor.dtype != known.dtype {
                let reason = format!(
                    "found tensor {} of {}, expected {}",
                    shown(name),
                    tensor.dtype.name(),
                    known.dtype.name()
                );
                return Err(OpenError::Malformed { path: source.path.clone(), reason });
            }
            let pieces = places.entry(name).or_insert_with(|| Ok(Vec::new()));
            if let Ok(pieces) = pieces {
                pieces.push(piece);
            }
        }
    }
    Ok(places)
}

/// Adds the tensors of ranks' files that no record describes: their shapes are those of all pieces
/// together.
pub(in crate::checkpoint) fn add(
    manifest: &mut Manifest,
    directory: &Path,
    names: &[&str],
) -> Result<(), OpenError> {
    let mut found: BTreeMap<Text, (TensorInfo, Vec<Piece>)> = BTreeMap::new();
    for name in names.iter().filter(|name| is_of_rank(name)) {
        let path = directory.join(name);
        let (source, pieces) = pieces(&path, manifest.files.len())?;
        manifest.files.push(source);
        for (tensor, piece) in pieces {
            let name = tensor.name.clone();
            found.entry(name).or_insert_with(|| (tensor, Vec::new())).1.push(piece);
        }
    }
    for (name, (mut tensor, pieces)) in found {
        let mut shape = vec![0_usize; tensor.shape.len()];
        for piece in &pieces {
            for ((dim, corner), size) in shape.iter_mut().zip(&piece.corner).zip(&piece.size) {
                *dim = (*dim).max(corner.saturating_add(*size));
            }
        }
        if n_elements(&shape).is_none() {
            let reason =
                format!("found tensor {} of more than 2^48 elements, expected fewer", shown(&name));
            return Err(OpenError::Malformed { path: directory.to_owned(), reason });
        }
        // A rank that has not written yet, or that never will.
        let place = Place::gathered(&shape, pieces).map_err(|why| OpenError::Incomplete {
            path: directory.to_owned(),
            what: format!("tensor {}: {why}", shown(&name)),
        })?;
        let n = shape.iter().fold(1_u64, |n, dim| n.saturating_mul(*dim as u64));
        tensor.n_bytes = n.saturating_mul(tensor.dtype.bits()) / 8;
        (tensor.place, tensor.shape) = (place, shape);
        manifest.tensors.push(tensor);
    }
    Ok(())
}
