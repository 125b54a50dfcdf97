//! What `torch.save` writes: a pickle that names storages, and the storages beside it.
//!
//! In a zip archive since PyTorch 1.6, before that one pickle after another. The pickle is read as
//! data ([`super::pickle`]); of each tensor it says where in which storage it lies, and in which order.

mod archive;
mod find;
mod legacy;
mod remarks;
mod tensor;

use std::collections::HashMap;
use std::path::Path;

use find::Names;
pub(super) use find::{MAX_NAMES, named};
pub(super) use remarks::{add_optimizer, add_remarks};
pub(super) use tensor::{Found, Stated};

use super::error::OpenError;
use super::fill::Fill;
use super::pickle::{Heap, PickleError, Value};
use super::source::{self, Stretch};
use super::stretches::Stretches;
use super::zip::ZipError;
use super::{Manifest, SourceFile};

/// What a file that `torch.save` wrote says, and where its storages lie.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) heap: Heap,
    pub(super) root: Value,
    pub(super) storages: Storages,
}

/// First byte and length of every storage, by its key.
#[derive(Debug, Default)]
pub(super) struct Storages {
    places: HashMap<String, (u64, u64)>,
    /// Whether the most significant byte of an element stands first.
    is_big: bool,
}

/// Why a file is no state.
#[derive(Debug)]
pub(super) enum TorchError {
    /// It ends early; what was found and expected.
    Short(String),
    /// It contradicts itself.
    Malformed(String),
    /// It is sound as far as it was read, and holds something else.
    NotWeights(String),
    Open(OpenError),
}

impl TorchError {
    pub(super) fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        match self {
            Self::Short(what) => OpenError::Incomplete { path, what },
            Self::Malformed(reason) => OpenError::Malformed { path, reason },
            Self::NotWeights(found) => OpenError::NotWeights { path, found },
            Self::Open(error) => error,
        }
    }
}

impl From<ZipError> for TorchError {
    fn from(error: ZipError) -> Self {
        match error {
            ZipError::Short => {
                Self::Short("found no end of the zip archive, expected the whole of it".to_owned())
            }
            ZipError::Malformed(reason) => Self::Malformed(reason),
            ZipError::Open(error) => Self::Open(error),
        }
    }
}

impl From<PickleError> for TorchError {
    fn from(error: PickleError) -> Self {
        match error {
            // As a message says it: "found a file that …".
            PickleError::Refused(text) => {
                Self::NotWeights(text.strip_prefix("found ").unwrap_or(&text).to_owned())
            }
            PickleError::Short => {
                Self::Short("found a pickle that ends early, expected the whole of it".to_owned())
            }
            PickleError::Open(error) => Self::Open(error),
        }
    }
}

/// Reads what lies between two places of a file: a zip archive, or the older format.
pub(super) fn read(fill: &mut Fill<'_>, start: u64, end: u64) -> Result<Saved, TorchError> {
    let mut mark = [0; 4];
    let n_mark = usize::try_from(end.saturating_sub(start)).unwrap_or(4).min(4);
    fill(start, mark.get_mut(..n_mark).unwrap_or_default()).map_err(TorchError::Open)?;
    if mark == *b"PK\x03\x04" {
        archive::read(fill, start, end)
    } else {
        legacy::read(fill, start, end)
    }
}

/// What was saved, if that is one tensor.
pub(super) fn lone_tensor(saved: &Saved) -> Found {
    tensor_of(saved, saved.root)
}

/// The tensor that a value of a state is.
pub(super) fn tensor_of(saved: &Saved, value: Value) -> Found {
    tensor::of(&saved.heap, value, &saved.storages)
}

/// A file's identity, and what it holds.
pub(super) fn read_file(path: &Path) -> Result<(SourceFile, Saved), OpenError> {
    let identity = source::look(path).map_err(|error| OpenError::inside(path, error))?;
    let file = SourceFile { path: path.to_owned(), identity, ..SourceFile::default() };
    let saved = {
        let mut pause = |_| {};
        let files = std::slice::from_ref(&file);
        let mut stretches = Stretches::new(files, Stretch::default(), &mut pause);
        let mut fill =
            |at, buf: &mut [u8]| stretches.read_exact_at(0, buf, at).map_err(OpenError::of_read);
        let saved = read(&mut fill, 0, identity.size);
        // Only what the file still says is worth a verdict.
        stretches.end().map_err(OpenError::of_read)?;
        saved.map_err(|error| error.at(path))?
    };
    Ok((file, saved))
}

/// Adds a file of weights with its tensors, and what it says of the run.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    let (file, saved) = read_file(path)?;
    let not_weights = |found: String| OpenError::NotWeights { path: path.to_owned(), found };
    let found = find::weights(&saved).map_err(not_weights)?;
    remarks::add_places(manifest, &found);
    add_remarks(manifest, &saved);
    let index = manifest.files.len();
    let n_before = manifest.tensors.len();
    manifest.files.push(file);
    add_tensors(manifest, index, &saved, found.tensors)
        .map_err(|reason| OpenError::Malformed { path: path.to_owned(), reason })?;
    if manifest.tensors.len() == n_before {
        let why = manifest.notes.last().cloned().unwrap_or_default();
        return Err(not_weights(format!("a state without a tensor that can be read ({why})")));
    }
    Ok(())
}

/// Adds tensors that lie in one file; of several names for the same elements the first.
pub(super) fn add_tensors(
    manifest: &mut Manifest,
    file: usize,
    saved: &Saved,
    names: Names,
) -> Result<(), String> {
    let mut seen: HashMap<u128, usize> = HashMap::new();
    let mut sorted: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    sorted.sort_unstable();
    let mut neighbours = sorted.iter().zip(sorted.iter().skip(1));
    if let Some((twice, _)) = neighbours.find(|(a, b)| a == b) {
        return Err(format!("found tensor {} twice", super::error::shown(twice)));
    }
    for (name, value) in names {
        match tensor::of(&saved.heap, value, &saved.storages) {
            Found::Tensor(stated) => {
                let elements = stated.elements();
                let known = elements.and_then(|elements| seen.get(&elements));
                if let Some(first) = known.and_then(|at| manifest.tensors.get(*at)) {
                    manifest.notes.push(format!(
                        "{} left out: the same elements as {}",
                        super::error::one_line(&name),
                        super::error::one_line(&first.name)
                    ));
                    manifest.left_out.push((file, name));
                    continue;
                }
                seen.extend(elements.map(|elements| (elements, manifest.tensors.len())));
                manifest.tensors.push(stated.into_info(name, file));
            }
            Found::LeftOut(why) => {
                manifest.notes.push(format!("{} left out: {why}", super::error::one_line(&name)));
                manifest.left_out.push((file, name));
            }
            Found::Contradiction(why) => {
                return Err(format!("found tensor {} {why}", super::error::shown(&name)));
            }
            Found::NoTensor => {}
        }
    }
    Ok(())
}
