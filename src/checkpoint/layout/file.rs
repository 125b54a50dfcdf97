//! A checkpoint that is one file.

use std::path::Path;

use super::super::error::{OpenError, shown};
use super::super::formats::{Container, not_weights};
use super::super::header::{add_file, read_header};
use super::super::{Manifest, TensorInfo, foreign, gguf, keras, npz, source, torch};

/// Adds what the file of that name holds.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    let name = manifest.name.clone();
    if let Some(found) = not_weights(&name) {
        return Err(OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() });
    }
    let Some(container) = Container::of_name(&name) else {
        source::look(path).map_err(|error| OpenError::at_top(path, error))?;
        if let Some((found, expected)) = foreign::file(&name) {
            let (path, found) = (path.to_owned(), found.to_owned());
            return Err(OpenError::NotACheckpoint { path, found, expected });
        }
        return Err(OpenError::not_a_checkpoint(path, format!("a file named {}", shown(&name))));
    };
    add_container(manifest, path, container).map_err(|error| match error {
        OpenError::Vanished { path } => OpenError::Missing { path },
        other => other,
    })
}

/// Adds a file of weights, in the container that its name tells.
pub(super) fn add_container(
    manifest: &mut Manifest,
    path: &Path,
    container: Container,
) -> Result<(), OpenError> {
    manifest.format = container.format();
    match container {
        Container::Safetensors => {
            let (file, header) = read_header(path)?;
            add_file(manifest, file, header)
        }
        Container::Torch => {
            torch::add(manifest, path)?;
            let is_matrix = |tensor: &TensorInfo| {
                tensor.dtype.is_float() && tensor.shape.len() > 1 && tensor.n_bytes > 0
            };
            // Anything can be saved this way; what has no matrix is not what is looked for.
            if manifest.tensors.iter().any(is_matrix) {
                return Ok(());
            }
            let why = manifest.notes.iter().find(|note| note.contains(" left out: "));
            let why = why.map(|note| format!(" ({note})")).unwrap_or_default();
            let found = format!("tensors, and no matrix of weights among them{why}");
            Err(OpenError::NotWeights { path: path.to_owned(), found })
        }
        Container::Npz if path.extension().is_some_and(|end| end == "npy") => {
            npz::add_array(manifest, path)
        }
        Container::Npz => npz::add(manifest, path),
        Container::Gguf => gguf::add(manifest, path),
        Container::Hdf5 => keras::add_hdf5(manifest, path),
        Container::Keras => keras::add(manifest, path),
    }
}
