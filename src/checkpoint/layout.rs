//! Which files make up a checkpoint, and whether all of them are there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::{OpenError, shown};
use super::header::{add_file, read_header};
use super::shards::{INDEX, add_shards};
use super::sidecar::{add_config, add_config_of_metadata, add_trainer};
use super::source;
use super::step::{shard_of, step_in_name};
use super::{Manifest, SourceFile, natural_cmp};

/// The one name of unsharded weights in the HF layout.
const WEIGHTS: &str = "model.safetensors";
/// Safetensors files that hold no model of their own, by the start of their names.
const NOT_WEIGHTS: [(&str, &str); 3] = [
    ("adapter_model", "the weights of an adapter"),
    ("optimizer", "the state of an optimiser"),
    ("scheduler", "the state of a scheduler"),
];

/// Opens what `path` is; see [`super::open`].
pub(super) fn open(path: &Path) -> Result<Manifest, OpenError> {
    let mut manifest = Manifest {
        path: path.to_owned(),
        name: name_of(path),
        format: "safetensors",
        ..Manifest::default()
    };
    let metadata =
        std::fs::metadata(path).map_err(|error| OpenError::at_top(path, error.into()))?;
    let (step_name, directory, speaks_for_directory) = if metadata.is_dir() {
        add_directory(&mut manifest, path)?;
        (manifest.name.clone(), path.to_owned(), true)
    } else {
        add_named_file(&mut manifest, path)?;
        beside(path, &manifest.name)
    };
    add_config(&mut manifest, &directory.join("config.json"));
    if manifest.config.is_none() {
        add_config_of_metadata(&mut manifest);
    }
    if speaks_for_directory {
        add_trainer(&mut manifest, &directory.join("trainer_state.json"))?;
    }
    manifest.tensors.sort_unstable_by(|a, b| natural_cmp(&a.name, &b.name));
    manifest.step = step_in_name(&step_name)
        .or_else(|| manifest.trainer.as_ref().and_then(|trainer| trainer.global_step))
        .or_else(|| step_in_metadata(&manifest.files));
    // The files were looked at one after the other: only now it is known that they belong together.
    for SourceFile { path, identity, .. } in manifest.files.iter().chain(&manifest.sidecars) {
        source::expect(path, identity).map_err(|error| OpenError::inside(path, error))?;
    }
    Ok(manifest)
}

/// What says the step of a single file, its directory, and whether it speaks for all of that:
/// `model.safetensors` does; any other name has its own step, and shares only the model's
/// description with its neighbours.
fn beside(path: &Path, name: &str) -> (String, PathBuf, bool) {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if name == WEIGHTS {
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

fn add_named_file(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    let name = manifest.name.clone();
    if let Some(found) = not_weights(&name) {
        return Err(OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() });
    }
    if path.extension() != Some(OsStr::new("safetensors")) {
        source::look(path).map_err(|error| OpenError::at_top(path, error))?;
        return Err(OpenError::not_a_checkpoint(path, format!("a file named {}", shown(&name))));
    }
    let (file, header) = read_header(path).map_err(|error| match error {
        OpenError::Vanished { path } => OpenError::Missing { path },
        other => other,
    })?;
    add_file(manifest, file, header)
}

fn add_directory(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    let listed = source::list(path).map_err(|error| OpenError::at_top(path, error))?;
    let names: Vec<&str> = listed.iter().filter_map(|name| name.to_str()).collect();
    if let Some(name) =
        names.iter().find(|name| name.starts_with(".nfs") || name.starts_with(".fuse_hidden"))
    {
        let what = format!(
            "found {}, a deleted file that is still open somewhere, expected none while reading",
            shown(name)
        );
        return Err(OpenError::Incomplete { path: path.to_owned(), what });
    }
    if names.contains(&WEIGHTS) {
        if names.contains(&INDEX) {
            manifest.notes.push(format!("{INDEX} left out, as {WEIGHTS} is there too"));
        }
        let (file, header) = read_header(&path.join(WEIGHTS))?;
        return add_file(manifest, file, header);
    }
    if names.contains(&INDEX) {
        return add_shards(manifest, path);
    }
    let name = lone_weights(path, &names)?;
    let (file, header) = read_header(&path.join(name))?;
    add_file(manifest, file, header)
}

/// The one weight file of a directory without the HF names.
fn lone_weights<'a>(path: &Path, names: &[&'a str]) -> Result<&'a str, OpenError> {
    let is_file = |name: &&&str| name.ends_with(".safetensors") && !name.starts_with('.');
    let files: Vec<&str> = names.iter().filter(is_file).copied().collect();
    let (others, weights): (Vec<&str>, Vec<&str>) =
        files.iter().partition(|name| not_weights(name).is_some());
    let shard = weights.iter().find_map(|name| shard_of(name.strip_suffix(".safetensors")?));
    match (weights.as_slice(), shard) {
        ([name], None | Some((1, 1))) => Ok(name),
        (_, Some((_, n_shards))) => {
            let what = format!(
                "found {} of {n_shards} shards and no index, expected {INDEX}",
                weights.len()
            );
            Err(OpenError::Incomplete { path: path.to_owned(), what })
        }
        ([], None) => Err(without_weights(path, names, &others)),
        (several, None) => Err(OpenError::not_a_checkpoint(
            path,
            format!("{} .safetensors files without an index", several.len()),
        )),
    }
}

/// What a directory without weights is.
fn without_weights(path: &Path, names: &[&str], others: &[&str]) -> OpenError {
    if let Some(found) = others.iter().find_map(|name| not_weights(name)) {
        return OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() };
    }
    let has_end =
        |ends: &[&str]| names.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
    if has_end(&[".bin", ".pt", ".pth", ".ckpt", ".distcp"]) {
        return OpenError::not_a_checkpoint(
            path,
            "PyTorch files and no .safetensors file".to_owned(),
        );
    }
    if names.contains(&"config.json") {
        let what = "found config.json and no weights yet, expected model.safetensors".to_owned();
        return OpenError::Incomplete { path: path.to_owned(), what };
    }
    OpenError::not_a_checkpoint(path, "a directory without .safetensors files".to_owned())
}

fn not_weights(name: &str) -> Option<&'static str> {
    NOT_WEIGHTS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, words)| *words)
}

/// `step` or `global_step` in the metadata of the first file that has one.
fn step_in_metadata(files: &[SourceFile]) -> Option<u64> {
    let stated = |file: &SourceFile| {
        ["step", "global_step"].iter().find_map(|key| file.metadata.get(*key)?.trim().parse().ok())
    };
    files.iter().find_map(stated)
}
