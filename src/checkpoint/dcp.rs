//! A distributed state of PyTorch: `.metadata` says which piece of which tensor lies where in the
//! `.distcp` files of the ranks, and every piece is a file of `torch.save` of its own in there.

mod metadata;
mod piece;
pub(super) mod safetensors;

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{OpenError, n_tensors, one_line, shown};
use super::formats::{WEIGHTS, says_other};
use super::one_file::n_elements;
use super::place::{MAX_PIECES, Place, row_major};
use super::safetensors::MAX_IN_FILE;
use super::source::{self, Stretch};
use super::stretches::Stretches;
use super::{Manifest, SourceFile, TensorInfo, Text, torch};
use metadata::{Chunk, Distributed, Under};

/// The file that says where everything lies, and is written last.
pub(super) const METADATA: &str = ".metadata";

/// What Megatron saves once for all ranks, its arguments among it; it is written before [`METADATA`].
const COMMON: &str = "common.pt";

/// Directories below a save in which trainers keep the distributed state of the model.
pub(super) const BELOW: [&str; 5] =
    ["model_and_optim", "pytorch_model_fsdp_0", "weights", "model", "distributed_checkpoint"];

/// Whether a directory of these names holds such a state.
pub(super) fn is_there(names: &[&str]) -> bool {
    names.iter().any(|name| *name == METADATA || is_of_rank(name))
        && names.iter().any(|name| name.ends_with(".distcp"))
}

/// `__0.metadata`: what a rank says of its own pieces, where none says it for all.
fn is_of_rank(name: &str) -> bool {
    let rank = name.strip_prefix("__").and_then(|rest| rest.strip_suffix(".metadata"));
    rank.is_some_and(|rank| !rank.is_empty() && rank.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Adds the model's tensors of the state in that directory.
pub(super) fn add(
    manifest: &mut Manifest,
    directory: &Path,
    names: &[&str],
) -> Result<(), OpenError> {
    let whole: Vec<&str> = names.iter().copied().filter(|name| *name == METADATA).collect();
    let of_ranks: Vec<&str> = names.iter().copied().filter(|name| is_of_rank(name)).collect();
    let records = if whole.is_empty() { of_ranks } else { whole };
    let mut state = BTreeMap::new();
    for name in records {
        let path = directory.join(name);
        let identity = metadata::read(&path, &mut state)?;
        manifest.sidecars.push(SourceFile { path, identity, ..SourceFile::default() });
    }
    let path = directory.join(METADATA);
    let malformed = |reason| OpenError::Malformed { path: path.clone(), reason };
    let n_before = state.len();
    state.retain(|name, _| !says_other(name));
    if n_before > state.len() {
        let n = n_before.saturating_sub(state.len());
        manifest.notes.push(format!("left out: {} of optimiser and trainer", n_tensors(n)));
    }
    strip_key(manifest, &mut state);
    let n_pieces = state.values().fold(0_usize, |n, tensor| n.saturating_add(tensor.chunks.len()));
    if n_pieces > MAX_PIECES {
        return Err(malformed(format!("found {n_pieces} pieces, expected at most {MAX_PIECES}")));
    }
    let files = add_files(manifest, directory, &state)?;
    let mut places = if is_safetensors(manifest)? {
        safetensors::places(manifest, &state)?
    } else {
        places(manifest, &files, &state)?
    };
    let mut n_cut = 0;
    for (name, tensor) in &state {
        let Some(pieces) = places.remove(name.as_str()) else {
            manifest.notes.push(format!("{} left out: no piece of it is stored", one_line(name)));
            continue;
        };
        match pieces {
            Ok(pieces) => {
                add_tensor(manifest, name, tensor, pieces, &mut n_cut).map_err(&malformed)?;
            }
            Err(why) => manifest.notes.push(format!("{} left out: {why}", one_line(name))),
        }
    }
    if manifest.tensors.is_empty() {
        let found = "a distributed state without tensors of a model".to_owned();
        return Err(OpenError::NotWeights { path: directory.to_owned(), found });
    }
    if names.contains(&COMMON) { add_common(manifest, &directory.join(COMMON)) } else { Ok(()) }
}

/// Takes what Megatron's common state says of the run; without it names and shapes must do.
fn add_common(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    match torch::read_file(path) {
        Ok((file, saved)) => {
            torch::add_remarks(manifest, &saved);
            if let Some((place, _)) = &mut manifest.remarks.config {
                *place = place.replace("the weight file", COMMON);
            }
            manifest.sidecars.push(file);
            Ok(())
        }
        Err(OpenError::NotWeights { found, .. } | OpenError::Malformed { reason: found, .. }) => {
            manifest.notes.push(format!("{COMMON} left out: {found}"));
            Ok(())
        }
        Err(other) => Err(other),
    }
}

/// Where trainers keep the model under a key, keeps what is under it, and takes the key off: the
/// names in a file of `torch.save` do not have it either.
fn strip_key(manifest: &mut Manifest, state: &mut BTreeMap<Text, Distributed>) {
    let is_under =
        |tensor: &Distributed, key: &'static str| tensor.under == Some(Under::Weights(key));
    let count = |key: &'static str| state.values().filter(|tensor| is_under(tensor, key)).count();
    let n_here = state.values().filter(|tensor| tensor.under.is_none()).count();
    let Some(key) = WEIGHTS.into_iter().find(|key| count(key) > n_here) else { return };
    let n_beside = state.len().saturating_sub(count(key));
    manifest.notes.push(format!("weights taken from `{key}`"));
    if n_beside > 0 {
        manifest.notes.push(format!("left out: {} beside `{key}`", n_tensors(n_beside)));
    }
    let prefix = format!("{key}.");
    let bare = |(name, tensor): (Text, Distributed)| {
        let bare = name.strip_prefix(&prefix).unwrap_or(&name).into();
        is_under(&tensor, key).then_some((bare, tensor))
    };
    *state = std::mem::take(state).into_iter().filter_map(bare).collect();
}

/// Adds the files that hold pieces; their indices by name.
fn add_files<'a>(
    manifest: &mut Manifest,
    directory: &Path,
    state: &'a BTreeMap<Text, Distributed>,
) -> Result<BTreeMap<&'a str, usize>, OpenError> {
    let mut files = BTreeMap::new();
    let chunks = || state.values().flat_map(|tensor| &tensor.chunks);
    for chunk in chunks() {
        if files.contains_key(chunk.file.as_str()) {
            continue;
        }
        let path = directory.join(chunk.file.as_str());
        let identity = source::look(&path).map_err(|error| match error {
            source::SourceError::Gone => {
                let what = format!("found no such file, expected it as {METADATA} names it");
                OpenError::Incomplete { path: path.clone(), what }
            }
            other => OpenError::inside(&path, other),
        })?;
        files.insert(chunk.file.as_str(), manifest.files.len());
        manifest.files.push(SourceFile { path, identity, ..SourceFile::default() });
    }
    for chunk in chunks() {
        let file = files.get(chunk.file.as_str()).and_then(|at| manifest.files.get(*at));
        let Some(file) = file else { continue };
        let (size, end) = (file.identity.size, chunk.offset.checked_add(chunk.n_bytes));
        if end.is_none_or(|end| end > size) {
            let end = end.unwrap_or(u64::MAX);
            let what = format!("found {size} bytes, expected at least {end} by {METADATA}");
            return Err(OpenError::Incomplete { path: file.path.clone(), what });
        }
    }
    Ok(files)
}

/// Whether the files of the ranks are safetensors: they begin with a length and a brace.
fn is_safetensors(manifest: &Manifest) -> Result<bool, OpenError> {
    if manifest.files.first().is_none_or(|file| file.identity.size < 9) {
        return Ok(false);
    }
    let mut start = [0; 9];
    let mut pause = |_| {};
    let mut stretches = Stretches::new(&manifest.files, Stretch::default(), &mut pause);
    stretches.read_exact_at(0, &mut start, 0).map_err(OpenError::of_read)?;
    stretches.end().map_err(OpenError::of_read)?;
    let [.., n6, n7, brace] = start;
    Ok((n6, n7, brace) == (0, 0, b'{'))
}

/// The pieces of a tensor, or why it is left out.
type Pieces = Result<Vec<super::place::Piece>, String>;

/// Where the elements of every piece lie; file after file, from front to end.
fn places<'a>(
    manifest: &Manifest,
    files: &BTreeMap<&str, usize>,
    state: &'a BTreeMap<Text, Distributed>,
) -> Result<BTreeMap<&'a str, Pieces>, OpenError> {
    let mut order: Vec<(usize, &Chunk, &str, &Distributed)> = Vec::new();
    for (name, tensor) in state {
        for chunk in &tensor.chunks {
            let file = files.get(chunk.file.as_str()).copied().unwrap_or(usize::MAX);
            order.push((file, chunk, name, tensor));
        }
    }
    order.sort_by_key(|(file, chunk, ..)| (*file, chunk.offset));
    let mut pause = |_| {};
    let mut stretches = Stretches::new(&manifest.files, Stretch::default(), &mut pause);
    let mut places: BTreeMap<&str, Pieces> = BTreeMap::new();
    for (file, chunk, name, tensor) in order {
        let Some(source) = manifest.files.get(file) else { continue };
        let piece = piece::of(&mut stretches, file, chunk, tensor.dtype).map_err(|error| {
            let piece = format!("the piece of tensor {} there", shown(name));
            error.at(&source.path, &piece)
        })?;
        let pieces =
            places.entry(name).or_insert_with(|| Ok(Vec::with_capacity(tensor.chunks.len())));
        match (pieces, piece) {
            (Ok(pieces), Ok(piece)) => pieces.push(piece),
            (pieces @ Ok(_), Err(why)) => *pieces = Err(why),
            (Err(_), _) => {}
        }
    }
    stretches.end().map_err(OpenError::of_read)?;
    Ok(places)
}

/// Adds a tensor; one that stacks all layers of a model, as Megatron writes them, layer by layer.
/// `n_cut` counts the pieces that these are cut into: a few can state any number.
fn add_tensor(
    manifest: &mut Manifest,
    name: &Text,
    tensor: &Distributed,
    pieces: Vec<super::place::Piece>,
    n_cut: &mut usize,
) -> Result<(), String> {
    let dtype = tensor.dtype;
    let named = |why: String| format!("tensor {}: {why}", shown(name));
    if n_elements(&tensor.shape).is_none() {
        return Err(named("found more than 2^48 elements, expected fewer".to_owned()));
    }
    let n_bytes = |shape: &[usize]| {
        let n = shape.iter().fold(1_u64, |n, dim| n.saturating_mul(*dim as u64));
        n.saturating_mul(dtype.bits()) / 8
    };
    let Some((front, behind)) = stacked(name).filter(|_| tensor.shape.len() > 1) else {
        let place = Place::gathered(&tensor.shape, pieces).map_err(named)?;
        let (shape, n_bytes) = (tensor.shape.clone(), n_bytes(&tensor.shape));
        let name = name.clone();
        manifest.tensors.push(TensorInfo { name, dtype, shape, place, n_bytes });
        return Ok(());
    };
    // Proves that the pieces fill the whole before it is cut.
    Place::gathered(&tensor.shape, pieces.clone()).map_err(named)?;
    let (n_layers, shape) = tensor.shape.split_first().unwrap_or((&0, &[]));
    let n_of = |piece: &super::place::Piece| piece.size.first().copied().unwrap_or(0);
    *n_cut = pieces.iter().fold(*n_cut, |n, piece| n.saturating_add(n_of(piece)));
    if manifest.tensors.len().saturating_add(*n_layers) > MAX_IN_FILE || *n_cut > MAX_PIECES {
        return Err(named(format!(
            "found {n_layers} layers, expected at most {MAX_IN_FILE} tensors and {MAX_PIECES} pieces of all layers"
        )));
    }
    for layer in 0..*n_layers {
        let own = pieces.iter().filter_map(|piece| piece.slice(layer, dtype.bits() / 8)).collect();
        let place = Place::gathered(shape, own).map_err(named)?;
        let name = format!("{front}.{layer}.{behind}").into();
        let (shape, n_bytes) = (shape.to_vec(), n_bytes(shape));
        manifest.tensors.push(TensorInfo { name, dtype, shape, place, n_bytes });
    }
    Ok(())
}

/// What stands before and behind the number that a name of stacked layers has not.
fn stacked(name: &str) -> Option<(&str, &str)> {
    let at = name.find(".layers.")?.checked_add(".layers".len())?;
    let (front, behind) = name.split_at_checked(at)?;
    let behind = behind.strip_prefix('.')?;
    let is_numbered = behind.starts_with(|c: char| c.is_ascii_digit());
    (!is_numbered).then_some((front, behind))
}

/// The strides of a piece that is stored row by row.
fn plain(size: &[usize]) -> Box<[usize]> {
    row_major(size).into()
}
