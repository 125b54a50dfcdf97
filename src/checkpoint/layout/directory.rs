//! A checkpoint that is a directory: which files make it up, and whether all of them are there.

use std::path::Path;

use super::super::error::{OpenError, shown};
use super::super::formats::{Container, WHOLE, not_weights};
use super::super::shards::add_shards;
use super::super::step::shard_of;
use super::super::{Manifest, dcp, foreign, source};
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
            if has_index {
                manifest.notes.push(format!("{index} left out, as {whole} is there too"));
            }
            return add_container(manifest, &path.join(whole), container);
        }
        if has_index {
            manifest.format = container.format();
            return add_shards(manifest, path, &index, container);
        }
    }
    if dcp::is_there(&names) {
        manifest.format = "torch-dcp";
        return dcp::add(manifest, path, &names);
    }
    for below in dcp::BELOW.iter().filter(|below| names.contains(below)) {
        let path = path.join(below);
        let listed = source::list(&path).map_err(|error| OpenError::inside(&path, error))?;
        let names: Vec<&str> = listed.iter().filter_map(|name| name.to_str()).collect();
        if dcp::is_there(&names) {
            manifest.format = "torch-dcp";
            return dcp::add(manifest, &path, &names);
        }
    }
    let (name, container) = lone_weights(path, &names)?;
    add_container(manifest, &path.join(name), container)
}

/// The one weight file of a directory without the HF names.
fn lone_weights<'a>(path: &Path, names: &[&'a str]) -> Result<(&'a str, Container), OpenError> {
    let mut others = None;
    for container in Container::ALL {
        let is_file =
            |name: &&&str| Container::of_name(name) == Some(container) && !name.starts_with('.');
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
                let n = several.len();
                let ending = container.endings().first().copied().unwrap_or_default();
                let found = format!("{n} {ending} files without an index");
                return Err(OpenError::not_a_checkpoint(path, found));
            }
        }
    }
    Err(without_weights(path, names, others))
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
    if names.contains(&"config.json") && others.is_none() {
        let what = "found config.json and no weights yet, expected model.safetensors".to_owned();
        return OpenError::Incomplete { path: path.to_owned(), what };
    }
    if let Some(found) = others {
        return OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() };
    }
    OpenError::not_a_checkpoint(path, "a directory without weight files".to_owned())
}
