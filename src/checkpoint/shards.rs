//! A checkpoint in several files, held together by an index.

use std::path::Path;

use super::error::{OpenError, one_line, shown};
use super::formats::Container;
use super::header::{add_file, read_header};
use super::index::{self, MAX_INDEX, Shards};
use super::safetensors::MAX_HEADER;
use super::{Manifest, SourceFile};
use super::{source, torch};

/// Bytes of the headers of all shards together: an index of 4096 shards must not ask for 64 GiB.
const MAX_HEADERS: u64 = 4 * MAX_HEADER;

/// Adds the index of a directory and all its shards.
pub(super) fn add_shards(
    manifest: &mut Manifest,
    directory: &Path,
    index: &str,
    container: Container,
) -> Result<(), OpenError> {
    let path = directory.join(index);
    let (json, identity) =
        source::read_whole(&path, MAX_INDEX).map_err(|error| OpenError::inside(&path, error))?;
    let Some(json) = json else {
        let reason =
            format!("found an index of {} bytes, expected at most {MAX_INDEX}", identity.size);
        return Err(OpenError::Malformed { path, reason });
    };
    let shards = index::parse(&json, container.shard_ending()).map_err(|error| {
        let text = one_line(&error.to_string());
        if error.is_eof() {
            let what = format!("found an index that ends early, expected the whole of it: {text}");
            OpenError::Incomplete { path: path.clone(), what }
        } else {
            OpenError::Malformed {
                path: path.clone(),
                reason: format!("found a bad index: {text}"),
            }
        }
    })?;
    drop(json);
    manifest.sidecars.push(SourceFile { path: path.clone(), identity, ..SourceFile::default() });
    let mut n_headers = 0_u64;
    for name in shards.keys() {
        let shard = directory.join(name);
        let vanished = |error| match error {
            OpenError::Vanished { path } => {
                let what = format!("found no such file, expected the shard that {index} names");
                OpenError::Incomplete { path, what }
            }
            other => other,
        };
        match container {
            Container::Safetensors => {
                let (file, header) = read_header(&shard).map_err(vanished)?;
                let n_header = file.identity.size.saturating_sub(header.n_data);
                n_headers = n_headers.saturating_add(n_header);
                if n_headers > MAX_HEADERS {
                    let reason =
                        format!("found headers of more than {MAX_HEADERS} bytes, expected fewer");
                    return Err(OpenError::Malformed { path, reason });
                }
                add_file(manifest, file, header)?;
            }
            // The only other format that has an index.
            _ => torch::add(manifest, &shard).map_err(vanished)?,
        }
    }
    check_index(&path, &shards, manifest)
}

/// Whether each shard holds just the tensors that the index assigns to it. A rewrite in place leaves
/// the old index until its end, and its names are the one sign of it that needs no clock.
fn check_index(path: &Path, shards: &Shards, manifest: &Manifest) -> Result<(), OpenError> {
    let mut found: Vec<Vec<&str>> = vec![Vec::new(); manifest.files.len()];
    for tensor in &manifest.tensors {
        for file in tensor.place.files() {
            if let Some(names) = found.get_mut(file) {
                names.push(&tensor.name);
            }
        }
    }
    for (file, name) in &manifest.left_out {
        if let Some(names) = found.get_mut(*file) {
            names.push(name);
        }
    }
    for names in &mut found {
        names.sort_unstable();
    }
    let mut surplus = None;
    for ((shard, expected), found) in shards.iter().zip(&found) {
        let lacking = expected.iter().find(|name| found.binary_search(&name.as_str()).is_err());
        if let Some(name) = lacking {
            let what = format!(
                "found no tensor {} in {shard}, expected it there by the index",
                shown(name)
            );
            return Err(OpenError::Incomplete { path: path.to_owned(), what });
        }
        let extra =
            |name: &&&str| expected.binary_search_by(|other| other.as_str().cmp(name)).is_err();
        surplus = surplus.or_else(|| found.iter().find(extra).map(|name| (*name, shard)));
    }
    let Some((name, shard)) = surplus else { return Ok(()) };
    let n_places = manifest.tensors.iter().filter(|tensor| tensor.name == name).count();
    if n_places > 1 {
        let reason =
            format!("found tensor {} in {n_places} shards, expected it in one", shown(name));
        return Err(OpenError::Malformed { path: path.to_owned(), reason });
    }
    let what = format!("found tensor {} in {shard}, expected only those of the index", shown(name));
    Err(OpenError::Incomplete { path: path.to_owned(), what })
}
