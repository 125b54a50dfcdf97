//! A checkpoint that is a directory: which files make it up, and whether all of them are there.

use std::path::{Path, PathBuf};

use super::super::error::{OpenError, shown};
use super::super::formats::{
    ADAPTER, Container, DEEPSPEED, MEGATRON, TORCH_DCP, WHOLE, not_weights,
};
use super::super::shards::add_shards;
use super::super::step::{shard_of, step_in_name};
use super::super::{Manifest, dcp, deepspeed, foreign, source, torch};
use super::file::add_container;

/// Adds what the directory holds.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
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
    for (whole, container) in WHOLE {
        let index = format!("{whole}.index.json");
        let has_index = names.contains(&index.as_str());
        if names.contains(&whole) {
            if has_index && is_younger(&path.join(&index), &path.join(whole))? {
                manifest.notes.push(format!("{whole} left out, as {index} is younger"));
                manifest.format = container.format();
                return add_shards(manifest, path, &index, container);
            }
            if has_index {
                manifest.notes.push(format!("{index} left out, as {whole} is younger"));
            }
            return add_container(manifest, &path.join(whole), container);
        }
        if has_index {
            manifest.format = container.format();
            return add_shards(manifest, path, &index, container);
        }
    }
    if names.iter().any(|name| dcp::safetensors::is_of_rank(name)) {
        manifest.format = Container::Safetensors.format();
        return dcp::safetensors::add(manifest, path, &names);
    }
    if dcp::is_there(&names) {
        manifest.format = TORCH_DCP;
        return dcp::add(manifest, path, &names);
    }
    for below in dcp::BELOW.iter().filter(|below| names.contains(below)) {
        let path = path.join(below);
        let listed = source::list(&path).map_err(|error| OpenError::inside(&path, error))?;
        let names: Vec<&str> = listed.iter().filter_map(|name| name.to_str()).collect();
        if dcp::is_there(&names) {
            manifest.format = TORCH_DCP;
            return dcp::add(manifest, &path, &names);
        }
    }
    if let Some((path, names)) = deepspeed_save(path, &names)? {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        manifest.format = DEEPSPEED;
        return deepspeed::add(manifest, &path, &names);
    }
    if names.iter().any(|name| name.starts_with("mp_rank_")) {
        return megatron(manifest, path, &names);
    }
    let (name, container) = lone_weights(path, &names)?;
    add_container(manifest, &path.join(name), container)
}

/// Whether the first of two files was written after the second. A save into a directory that held
/// another leaves what it does not overwrite: one file over shards their index, shards the one file.
fn is_younger(first: &Path, second: &Path) -> Result<bool, OpenError> {
    let time = |path: &Path| match source::look(path) {
        Ok(identity) => Ok(identity.mtime_ns),
        Err(error) => Err(OpenError::inside(path, error)),
    };
    Ok(time(first)? > time(second)?)
}

/// The directory of a save of DeepSpeed, which may be this one or the newest below, and its names.
fn deepspeed_save(
    path: &Path,
    names: &[&str],
) -> Result<Option<(PathBuf, Vec<String>)>, OpenError> {
    if deepspeed::is_there(names) {
        return Ok(Some((path.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())));
    }
    let Some(path) = deepspeed::latest(path, names)? else { return Ok(None) };
    let listed = source::list(&path).map_err(|error| OpenError::inside(&path, error))?;
    let names: Vec<String> =
        listed.iter().filter_map(|name| Some(name.to_str()?.to_owned())).collect();
    let plain: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(deepspeed::is_there(&plain).then_some((path, names)))
}

/// The older layout of Megatron: a directory for every rank of model parallelism.
fn megatron(manifest: &mut Manifest, path: &Path, names: &[&str]) -> Result<(), OpenError> {
    let ranks: Vec<&&str> = names.iter().filter(|name| name.starts_with("mp_rank_")).collect();
    let [rank] = ranks.as_slice() else {
        let n = ranks.len();
        let found =
            format!("tensors cut over {n} ranks of model parallelism, which are not joined");
        return Err(OpenError::NotWeights { path: path.to_owned(), found });
    };
    manifest.format = MEGATRON;
    torch::add(manifest, &path.join(rank).join("model_optim_rng.pt")).map_err(|error| match error {
        OpenError::Vanished { path } => {
            let what = "found no such file, expected the state of the rank".to_owned();
            OpenError::Incomplete { path, what }
        }
        other => other,
    })
}

/// The one weight file of a directory without the HF names.
fn lone_weights<'a>(path: &Path, names: &[&'a str]) -> Result<(&'a str, Container), OpenError> {
    let mut others = None;
    let is_own = |name: &&&str| {
        Container::of_name(name).is_some()
            && !name.starts_with(['.'])
            && !name.starts_with(ADAPTER)
            && not_weights(name).is_none()
    };
    let others_there = names.iter().any(|name| is_own(&name));
    for container in Container::ALL {
        let is_file = |name: &&&str| {
            Container::of_name(name) == Some(container)
                && !name.starts_with('.')
                // Beside a model's own weights an adapter is not what was asked for.
                && (!name.starts_with(ADAPTER) || !others_there)
        };
        let (not, weights): (Vec<&str>, Vec<&str>) =
            names.iter().filter(is_file).partition(|name| not_weights(name).is_some());
        others = others.or_else(|| not.iter().find_map(|name| not_weights(name)));
        let shard = weights.iter().find_map(|name| shard_of(container.stem(name)));
        match (weights.as_slice(), shard) {
            ([name], None | Some((1, 1))) => return Ok((name, container)),
            // Its parts have no index; the first says what it is.
            ([name, ..], Some(_)) if container == Container::Gguf => return Ok((name, container)),
            (_, Some((_, n_shards))) => {
                let what = format!(
                    "found {} of {n_shards} shards and no index, expected {}.index.json",
                    weights.len(),
                    container.whole()
                );
                return Err(OpenError::Incomplete { path: path.to_owned(), what });
            }
            ([], None) => {}
            (several, None) => {
                return Err(of_several(path, several));
            }
        }
    }
    Err(without_weights(path, names, others))
}

/// Several files of weights, of which nothing says that they belong together.
fn of_several(path: &Path, names: &[&str]) -> OpenError {
    let first: Vec<String> = names.iter().take(3).map(|name| shown(name)).collect();
    let more = if names.len() > first.len() { ", …" } else { "" };
    let found =
        format!("{} files of weights without an index ({}{more})", names.len(), first.join(", "));
    let expected = "the path of one of them, or an index of shards";
    OpenError::NotACheckpoint { path: path.to_owned(), found, expected }
}

/// What a directory without weights is.
fn without_weights(path: &Path, names: &[&str], others: Option<&'static str>) -> OpenError {
    if let Some((found, expected)) = foreign::directory(names) {
        return OpenError::NotACheckpoint {
            path: path.to_owned(),
            found: found.to_owned(),
            expected,
        };
    }
    if names.iter().any(|name| name.ends_with(".distcp")) {
        let what = "found .distcp files and no .metadata yet, expected it, as it is written last";
        return OpenError::Incomplete { path: path.to_owned(), what: what.to_owned() };
    }
    if names.contains(&"config.json") && others.is_none() {
        let what = "found config.json and no weights yet, expected model.safetensors".to_owned();
        return OpenError::Incomplete { path: path.to_owned(), what };
    }
    if let Some(found) = others {
        return OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() };
    }
    let is_save = |name: &&&str| !name.contains('.') && step_in_name(name).is_some();
    if let Some(save) = names.iter().filter(is_save).max_by_key(|name| step_in_name(name)) {
        let found = format!("a directory that holds saves, as {}", shown(save));
        return OpenError::NotACheckpoint {
            path: path.to_owned(),
            found,
            expected: "the path of one of them",
        };
    }
    OpenError::not_a_checkpoint(path, "a directory without weight files".to_owned())
}
