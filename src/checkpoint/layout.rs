//! Which files make up a checkpoint, and whether all of them are there.

mod directory;
mod file;

use std::path::{Path, PathBuf};

use super::error::{OpenError, shown};
use super::formats::{ADAPTER, WHOLE};
use super::sidecar::{add_adapter, add_config, add_config_of_metadata, add_trainer};
use super::source;
use super::step::step_in_name;
use super::{Manifest, SourceFile, natural_cmp};

/// Opens what `path` is; see [`super::open`].
pub(super) fn open(path: &Path) -> Result<Manifest, OpenError> {
    let mut manifest =
        Manifest { path: path.to_owned(), name: name_of(path), ..Manifest::default() };
    let is_directory =
        source::is_directory(path).map_err(|error| OpenError::at_top(path, error))?;
    let (step_name, directory, speaks_for_directory) = if is_directory {
        directory::add(&mut manifest, path)?;
        (manifest.name.clone(), path.to_owned(), true)
    } else {
        file::add(&mut manifest, path)?;
        beside(path, &manifest.name)
    };
    if manifest.is_adapter() {
        manifest.adapter = Some(serde_json::Value::Null);
        add_adapter(&mut manifest, &directory);
    }
    add_config(&mut manifest, &directory.join("config.json"));
    if manifest.config.is_none() {
        add_config_of_metadata(&mut manifest);
    }
    if manifest.config.is_none()
        && let Some((place, config)) = manifest.remarks.config.take()
    {
        manifest.notes.push(format!("model description taken from {place}"));
        manifest.config = Some(config);
    }
    if speaks_for_directory {
        add_trainer(&mut manifest, &directory.join("trainer_state.json"))?;
    }
    manifest.trainer = manifest.trainer.or(manifest.remarks.trainer.take());
    manifest.tensors.sort_unstable_by(|a, b| natural_cmp(&a.name, &b.name));
    let mut pairs = manifest.tensors.iter().zip(manifest.tensors.iter().skip(1));
    // What is put together of several parts can give two of them one name.
    if let Some((twice, _)) = pairs.find(|(a, b)| a.name == b.name) {
        let reason = format!("found tensor {} twice, expected each name once", shown(&twice.name));
        return Err(OpenError::Malformed { path: path.to_owned(), reason });
    }
    manifest.step = step_in_name(&step_name)
        .or_else(|| manifest.trainer.as_ref().and_then(|trainer| trainer.global_step))
        .or(manifest.remarks.step)
        .or_else(|| step_in_metadata(&manifest.files));
    // The files were looked at one after the other: only now it is known that they belong together.
    for SourceFile { path, identity, .. } in manifest.files.iter().chain(&manifest.sidecars) {
        source::expect(path, identity).map_err(|error| OpenError::inside(path, error))?;
    }
    Ok(manifest)
}

impl Manifest {
    /// Whether its weights are those of an adapter, by the name of their file.
    fn is_adapter(&self) -> bool {
        let names = self.files.iter().filter_map(|file| file.path.file_name()?.to_str());
        names.into_iter().any(|name| name.starts_with(ADAPTER))
    }
}

/// What says the step of a single file, its directory, and whether it speaks for all of that:
/// `model.safetensors`, `pytorch_model.bin` and an adapter do; any other name has its own step, and shares only the model's
/// description with its neighbours.
fn beside(path: &Path, name: &str) -> (String, PathBuf, bool) {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if WHOLE.iter().any(|(whole, _)| *whole == name) || name.starts_with(ADAPTER) {
        (name_of(parent), parent.to_owned(), true)
    } else {
        (name.to_owned(), parent.to_owned(), false)
    }
}

/// The last component, also of `.` and `..`.
fn name_of(path: &Path) -> String {
    let resolved = if path.file_name().is_none() { path.canonicalize().ok() } else { None };
    let named = resolved.as_deref().unwrap_or(path);
    named.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `step` or `global_step` in the metadata of the first file that has one.
fn step_in_metadata(files: &[SourceFile]) -> Option<u64> {
    let stated = |file: &SourceFile| {
        ["step", "global_step"].iter().find_map(|key| file.metadata.get(*key)?.trim().parse().ok())
    };
    files.iter().find_map(stated)
}
