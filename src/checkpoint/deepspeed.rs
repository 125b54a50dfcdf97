//! What DeepSpeed writes: the model's states of every rank, and with ZeRO the weights in full
//! precision as flat vectors, cut over the ranks without regard to tensors.
//!
//! The flat vectors lie with the optimiser, and are what the optimiser works on; under ZeRO-3 there
//! is no other place of the weights. Names and shapes stand with the model, in the order of the
//! vectors. The rules of cutting and padding are those of DeepSpeed's own `zero_to_fp32.py`.

mod flat;
mod ranks;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::error::{OpenError, one_line, shown};
use super::one_file::n_elements;
use super::pickle::{Heap, Node, Value};
use super::place::{MAX_PIECES, Place};
use super::source::{self, SourceError};
use super::torch::{self, Found, MAX_NAMES, Saved, named};
use super::{Dtype, Manifest, SourceFile, TensorInfo, Text};
use flat::{Flat, Vectors};

/// The file beside the directories of saves that names the newest; written last.
const LATEST: &str = "latest";
/// Bytes of a name of a save.
const MAX_TAG: u64 = 255;
/// How the file of a rank's optimiser ends.
const OPTIMIZER: &str = "_optim_states.pt";
/// How the file of a rank's model ends.
const MODEL: &str = "_model_states.pt";

/// Names and shapes of parameters, in the order of the flat vectors.
type Shapes = Vec<(String, Vec<usize>)>;

/// Whether a directory of these names is such a save.
pub(super) fn is_there(names: &[&str]) -> bool {
    names.iter().any(|name| name.ends_with(MODEL))
}

/// The save that `latest` names, of a directory that holds one or is the trainer's own.
pub(super) fn latest(directory: &Path, names: &[&str]) -> Result<Option<PathBuf>, OpenError> {
    if !names.contains(&LATEST) {
        return Ok(None);
    }
    let path = directory.join(LATEST);
    let (text, _) = match source::read_whole(&path, MAX_TAG) {
        Err(SourceError::Gone) => return Ok(None),
        other => other.map_err(|error| OpenError::inside(&path, error))?,
    };
    let text = text.unwrap_or_default();
    let tag = std::str::from_utf8(&text).unwrap_or_default().trim();
    // It is empty for a moment, as it is written in place.
    if tag.is_empty() {
        let what = "found no name of a save, expected one".to_owned();
        return Err(OpenError::Incomplete { path, what });
    }
    let is_plain = !tag.contains(['/', '\0']) && !tag.starts_with('.');
    if !is_plain || !names.contains(&tag) {
        return Ok(None);
    }
    Ok(Some(directory.join(tag)))
}

/// Adds the save in that directory.
pub(super) fn add(
    manifest: &mut Manifest,
    directory: &Path,
    names: &[&str],
) -> Result<(), OpenError> {
    let models = ranks::of(names, MODEL);
    let parallel = models.iter().map(|rank| rank.model).max().unwrap_or(0);
    if parallel > 0 {
        let n = parallel.saturating_add(1);
        let found =
            format!("tensors cut over {n} ranks of model parallelism, which are not joined");
        return Err(OpenError::NotWeights { path: directory.to_owned(), found });
    }
    let Some(first) = models.first() else {
        return Err(OpenError::not_a_checkpoint(directory, "no states of a model".to_owned()));
    };
    let path = directory.join(first.name);
    let (file, saved) = torch::read_file(&path)?;
    torch::add_remarks(manifest, &saved);
    let optimizers = ranks::of(names, OPTIMIZER);
    if optimizers.is_empty() {
        let index = manifest.files.len();
        manifest.files.push(file);
        let module = module(&saved).ok_or_else(|| no_module(&path))?;
        return module
            .and_then(|module| torch::add_tensors(manifest, index, &saved, module))
            .map_err(|reason| OpenError::Malformed { path, reason });
    }
    let vectors = Vectors::read(manifest, directory, &optimizers)?;
    let malformed = |reason: String| OpenError::Malformed { path: path.clone(), reason };
    let shapes = shapes(&saved).map_err(malformed)?;
    let places = if vectors.stage < 3 {
        vectors.whole(&shapes)
    } else {
        vectors.cut(&shapes.into_iter().flatten().collect::<Shapes>())
    };
    let mut n_pieces = 0_usize;
    for (name, shape, pieces) in places.map_err(malformed)? {
        n_pieces = n_pieces.saturating_add(pieces.len());
        if n_pieces > MAX_PIECES {
            return Err(malformed(format!("found more than {MAX_PIECES} pieces, expected fewer")));
        }
        let n_elements = shape.iter().fold(1_usize, |n, dim| n.saturating_mul(*dim));
        let place = Place::gathered(&[n_elements], pieces)
            .map_err(|why| malformed(format!("tensor {}: {why}", shown(&name))))?;
        let n_bytes = (n_elements as u64).saturating_mul(4);
        let name = name.into();
        manifest.tensors.push(TensorInfo { name, dtype: Dtype::F32, shape, place, n_bytes });
    }
    manifest.notes.push(format!(
        "ZeRO-{} of {} ranks: weights put together from the flat vectors in full precision",
        vectors.stage, vectors.n_ranks
    ));
    add_rest(manifest, directory, &models, (file, saved), vectors.stage)
}

/// Adds buffers and frozen parameters, which no flat vector holds; under ZeRO-1 and 2 the model's
/// own state has them whole.
fn add_rest(
    manifest: &mut Manifest,
    directory: &Path,
    models: &[ranks::Rank<'_>],
    (file, saved): (SourceFile, Saved),
    stage: usize,
) -> Result<(), OpenError> {
    let heap = &saved.heap;
    let path = file.path.clone();
    let index = manifest.files.len();
    manifest.files.push(file);
    let malformed = |reason| OpenError::Malformed { path: path.clone(), reason };
    let placed: BTreeSet<Text> = manifest.tensors.iter().map(|t| t.name.clone()).collect();
    let module = module(&saved).unwrap_or(Ok(Vec::new())).map_err(malformed)?;
    let names = heap.get(saved.root, "buffer_names").and_then(|names| heap.tuple(names));
    let buffers: HashSet<&str> =
        names.unwrap_or_default().iter().take(MAX_NAMES).filter_map(|n| heap.name(*n)).collect();
    let shared = heap.get(saved.root, "shared_params").and_then(|names| heap.dict(names));
    let second: HashSet<&str> = shared
        .unwrap_or_default()
        .iter()
        .take(MAX_NAMES)
        .filter_map(|(n, _)| heap.name(*n))
        .collect();
    let mut rest = Vec::new();
    for (name, value) in module {
        if second.contains(name.as_str()) {
            manifest.notes.push(format!("{} left out: shared with another", one_line(&name)));
            manifest.left_out.push((index, name));
        } else if buffers.contains(name.as_str()) || (stage < 3 && !placed.contains(name.as_str()))
        {
            rest.push((name, value));
        }
    }
    let fragments = heap.get(saved.root, "frozen_param_fragments");
    let fragments = fragments.and_then(|value| heap.dict(value)).unwrap_or_default();
    torch::add_tensors(manifest, index, &saved, rest).map_err(malformed)?;
    if stage < 3 || fragments.is_empty() {
        return Ok(());
    }
    let shapes = heap.get(saved.root, "frozen_param_shapes");
    let shapes = shapes.map(|shapes| shapes_under(heap, shapes)).transpose().map_err(malformed)?;
    let mut vectors: BTreeMap<String, Vec<Flat>> = BTreeMap::new();
    let mut add_fragments = |saved: &Saved, index: usize| {
        let found = saved.heap.get(saved.root, "frozen_param_fragments");
        let found = found.and_then(|value| saved.heap.dict(value)).unwrap_or_default();
        for (name, value) in named(&saved.heap, found).map_err(malformed)? {
            if let Found::Tensor(stated) = torch::tensor_of(saved, value) {
                vectors.entry(name).or_default().push(Flat { file: index, stated });
            }
        }
        Ok::<(), OpenError>(())
    };
    add_fragments(&saved, index)?;
    for rank in models.iter().skip(1) {
        let (file, saved) = torch::read_file(&directory.join(rank.name))?;
        add_fragments(&saved, manifest.files.len())?;
        manifest.files.push(file);
    }
    for (name, shape) in shapes.unwrap_or_default() {
        let ranks = vectors.remove(&name).unwrap_or_default();
        let tensor = flat::frozen(&shape, &ranks)
            .and_then(|(dtype, pieces, n)| Ok((dtype, Place::gathered(&[n], pieces)?, n)));
        let (dtype, place, n) = tensor.map_err(|why| OpenError::Malformed {
            path: path.clone(),
            reason: format!("tensor {}: {why}", shown(&name)),
        })?;
        let n_bytes = (n as u64).saturating_mul(dtype.bits()) / 8;
        let name = name.into();
        manifest.tensors.push(TensorInfo { name, dtype, shape, place, n_bytes });
    }
    Ok(())
}

/// The model's own state.
fn module(saved: &Saved) -> Option<Result<Vec<(String, Value)>, String>> {
    let heap = &saved.heap;
    let module = heap.dict(heap.get(saved.root, "module")?)?;
    Some(named(heap, module))
}

fn no_module(path: &Path) -> OpenError {
    let found = "states of a rank without those of its model".to_owned();
    OpenError::NotWeights { path: path.to_owned(), found }
}

/// Names and shapes of the parameters of every group.
fn shapes(saved: &Saved) -> Result<Vec<Shapes>, String> {
    let heap = &saved.heap;
    let stated = heap.get(saved.root, "param_shapes");
    let groups = match stated.and_then(|value| heap.node(value)) {
        Some(Node::List(groups)) => groups.clone(),
        Some(Node::Dict(_)) => stated.into_iter().collect(),
        _ => return Err("found no shapes of parameters, expected param_shapes".to_owned()),
    };
    let mut n_names = 0_usize;
    let mut shapes = Vec::new();
    for group in groups {
        let group = shapes_under(heap, group)?;
        n_names = n_names.saturating_add(group.len());
        if n_names > MAX_NAMES {
            return Err(format!(
                "found shapes of more than {MAX_NAMES} parameters, expected fewer"
            ));
        }
        shapes.push(group);
    }
    let mut seen = HashSet::new();
    match shapes.iter().flatten().find(|(name, _)| !seen.insert(name.as_str())) {
        Some((twice, _)) => {
            Err(format!("found the shape of {} twice, expected it once", shown(twice)))
        }
        None => Ok(shapes),
    }
}

fn shapes_under(heap: &Heap, value: Value) -> Result<Shapes, String> {
    let none = || "found a shape that is none, expected whole numbers".to_owned();
    let items = named(heap, heap.dict(value).ok_or_else(none)?)?;
    let shape = |(name, shape): (String, Value)| {
        let shape = heap.sizes(shape).filter(|shape| n_elements(shape).is_some());
        Ok((name, shape.ok_or_else(none)?))
    };
    items.into_iter().map(shape).collect()
}
