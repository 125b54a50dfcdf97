//! Which files make up a checkpoint, and whether all of them are there.

use std::cell::Cell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeSeed;

use super::error::{OpenError, one_line, shown};
use super::index::{self, MAX_INDEX, Shards};
use super::json::{BoundedValue, mark_non_finite};
use super::safetensors::{self, Entry, Header, MAX_HEADER, MAX_TENSORS, N_LENGTH};
use super::source::{self, OpenFile, SourceError};
use super::step::{shard_of, step_in_name};
use super::trainer::{self, MAX_TRAINER_STATE};
use super::{Manifest, SourceFile, TensorInfo, natural_cmp};

/// The one name of unsharded weights in the HF layout.
const WEIGHTS: &str = "model.safetensors";
/// The one name of the list of shards in the HF layout.
const INDEX: &str = "model.safetensors.index.json";
/// Safetensors files that hold no model of their own, by the start of their names.
const NOT_WEIGHTS: [(&str, &str); 3] = [
    ("adapter_model", "the weights of an adapter"),
    ("optimizer", "the state of an optimiser"),
    ("scheduler", "the state of a scheduler"),
];
/// Largest `config.json` that is read.
const MAX_CONFIG: u64 = 4 << 20;
/// Values in a `config.json`; the label lists of ImageNet-21k need 50 thousand.
const MAX_CONFIG_VALUES: usize = 1 << 18;
/// Bytes of the headers of all shards together: an index of 4096 shards must not ask for 64 GiB.
const MAX_HEADERS: u64 = 4 * MAX_HEADER;
const EXPECTED: &str = "a .safetensors file, or a directory with model.safetensors or its index";

type Result<T, E = OpenError> = std::result::Result<T, E>;

/// Opens what `path` is; see [`super::open`].
pub(super) fn open(path: &Path) -> Result<Manifest> {
    let mut manifest = Manifest {
        path: path.to_owned(),
        name: name_of(path),
        format: "safetensors",
        ..Manifest::default()
    };
    let metadata = std::fs::metadata(path).map_err(|error| at_top(path, error.into()))?;
    let (step_name, directory) = if metadata.is_dir() {
        add_directory(&mut manifest, path)?;
        (manifest.name.clone(), Some(path.to_owned()))
    } else {
        add_named_file(&mut manifest, path)?;
        beside(path, &manifest.name)
    };
    if let Some(directory) = &directory {
        add_config(&mut manifest, &directory.join("config.json"));
        add_trainer(&mut manifest, &directory.join("trainer_state.json"))?;
    }
    manifest.tensors.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    manifest.step = step_in_name(&step_name)
        .or_else(|| manifest.trainer.as_ref().and_then(|trainer| trainer.global_step))
        .or_else(|| step_in_metadata(&manifest.files));
    // The files were looked at one after the other: only now it is known that they belong together.
    manifest.unchanged()?;
    Ok(manifest)
}

/// Where the name of a single file's step and its sidecars are: `model.safetensors` speaks for its
/// directory, any other name for itself.
fn beside(path: &Path, name: &str) -> (String, Option<PathBuf>) {
    match path.parent() {
        Some(parent) if name == WEIGHTS => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            (name_of(parent), Some(parent.to_owned()))
        }
        _ => (name.to_owned(), None),
    }
}

/// The last component, also of `.` and `..`.
fn name_of(path: &Path) -> String {
    let resolved = if path.file_name().is_none() { path.canonicalize().ok() } else { None };
    let named = resolved.as_deref().unwrap_or(path);
    named.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn add_named_file(manifest: &mut Manifest, path: &Path) -> Result<()> {
    let name = manifest.name.clone();
    if let Some(found) = not_weights(&name) {
        return Err(OpenError::NotWeights { path: path.to_owned(), found: found.to_owned() });
    }
    if path.extension() != Some(OsStr::new("safetensors")) {
        source::look(path).map_err(|error| at_top(path, error))?;
        return Err(not_a_checkpoint(path, format!("a file named {}", shown(&name))));
    }
    let (file, header) = read_header(path).map_err(|error| match error {
        OpenError::Vanished { path } => OpenError::Missing { path },
        other => other,
    })?;
    add_file(manifest, file, header)
}

fn add_directory(manifest: &mut Manifest, path: &Path) -> Result<()> {
    let listed = source::list(path).map_err(|error| at_top(path, error))?;
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
fn lone_weights<'a>(path: &Path, names: &[&'a str]) -> Result<&'a str> {
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
        (several, None) => Err(not_a_checkpoint(
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
        return not_a_checkpoint(path, "PyTorch files and no .safetensors file".to_owned());
    }
    if names.contains(&"config.json") {
        let what = "found config.json and no weights yet, expected model.safetensors".to_owned();
        return OpenError::Incomplete { path: path.to_owned(), what };
    }
    not_a_checkpoint(path, "a directory without .safetensors files".to_owned())
}

fn not_weights(name: &str) -> Option<&'static str> {
    NOT_WEIGHTS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, words)| *words)
}

fn add_shards(manifest: &mut Manifest, directory: &Path) -> Result<()> {
    let path = directory.join(INDEX);
    let (json, identity) =
        source::read_whole(&path, MAX_INDEX).map_err(|error| inside(&path, error))?;
    let Some(json) = json else {
        let reason =
            format!("found an index of {} bytes, expected at most {MAX_INDEX}", identity.size);
        return Err(OpenError::Malformed { path, reason });
    };
    let shards = index::parse(&json).map_err(|error| {
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
        let (file, header) = read_header(&directory.join(name)).map_err(|error| match error {
            OpenError::Vanished { path } => {
                let what = format!("found no such file, expected the shard that {INDEX} names");
                OpenError::Incomplete { path, what }
            }
            other => other,
        })?;
        n_headers = n_headers.saturating_add(file.identity.size.saturating_sub(header.n_data));
        if n_headers > MAX_HEADERS {
            let reason = format!("found headers of more than {MAX_HEADERS} bytes, expected fewer");
            return Err(OpenError::Malformed { path, reason });
        }
        add_file(manifest, file, header)?;
    }
    check_index(&path, &shards, manifest)
}

/// Whether each shard holds just the tensors that the index assigns to it. A rewrite in place leaves
/// the old index until its end, and its names are the one sign of it that needs no clock.
fn check_index(path: &Path, shards: &Shards, manifest: &Manifest) -> Result<()> {
    let mut found: Vec<Vec<&str>> = vec![Vec::new(); manifest.files.len()];
    for tensor in &manifest.tensors {
        if let Some(names) = found.get_mut(tensor.file) {
            names.push(&tensor.name);
        }
    }
    found.iter_mut().for_each(|names| names.sort_unstable());
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

/// Adds a weight file with its tensors.
fn add_file(manifest: &mut Manifest, mut file: SourceFile, header: Header) -> Result<()> {
    let index = manifest.files.len();
    let first = file.identity.size.saturating_sub(header.n_data);
    if manifest.tensors.len().saturating_add(header.tensors.len()) > MAX_TENSORS {
        let reason = "found more than 2^20 tensors, expected fewer".to_owned();
        return Err(OpenError::Malformed { path: file.path, reason });
    }
    manifest.tensors.extend(header.tensors.into_iter().map(|entry| {
        let Entry { name, dtype, shape, start, end } = entry;
        let n_bytes = end.saturating_sub(start);
        TensorInfo { name, dtype, shape, file: index, offset: first.saturating_add(start), n_bytes }
    }));
    file.metadata = header.metadata;
    manifest.files.push(file);
    Ok(())
}

/// Reads and checks the header of a weight file, and that the file is as long as it says.
fn read_header(path: &Path) -> Result<(SourceFile, Header)> {
    let fail = |error| inside(path, error);
    let mut file = OpenFile::open(path).map_err(fail)?;
    let identity = file.identity;
    let size = identity.size;
    let malformed = |reason| OpenError::Malformed { path: path.to_owned(), reason };
    let incomplete = |what| OpenError::Incomplete { path: path.to_owned(), what };
    if size < N_LENGTH {
        return Err(incomplete(format!("found {size} bytes, expected a safetensors header")));
    }
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(fail)?;
    let n_header = u64::from_le_bytes(length);
    if n_header == 0 || n_header > MAX_HEADER {
        let foreign = foreign_format(length);
        file.close().map_err(fail)?;
        return Err(foreign.map_or_else(
            || malformed(format!("found a header of {n_header} bytes, expected 1 to {MAX_HEADER}")),
            |found| not_a_checkpoint(path, found.to_owned()),
        ));
    }
    let n_before_data = N_LENGTH.saturating_add(n_header);
    if n_before_data > size {
        return Err(incomplete(format!(
            "found {size} bytes, expected a header of {n_before_data}"
        )));
    }
    let mut json = vec![0; usize::try_from(n_header).unwrap_or(0)];
    file.read_exact_at(&mut json, N_LENGTH).map_err(fail)?;
    file.close().map_err(fail)?;
    let header = safetensors::parse(&json).map_err(malformed)?;
    let expected = n_before_data.checked_add(header.n_data);
    match expected.map(|expected| size.cmp(&expected)) {
        Some(std::cmp::Ordering::Equal) => {}
        Some(std::cmp::Ordering::Greater) => {
            let n_extra = size.saturating_sub(n_before_data).saturating_sub(header.n_data);
            return Err(malformed(format!(
                "found {size} bytes, {n_extra} more than expected by the header"
            )));
        }
        _ => {
            let expected = n_before_data.saturating_add(header.n_data);
            return Err(incomplete(format!(
                "found {size} bytes, expected {expected} by the header"
            )));
        }
    }
    Ok((SourceFile { path: path.to_owned(), identity, ..SourceFile::default() }, header))
}

/// What a file is that bears the ending and another format's first bytes.
fn foreign_format(start: [u8; 8]) -> Option<&'static str> {
    match &start {
        b"version " => Some("a git-lfs pointer"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive such as torch.save writes"),
        b"\x89HDF\r\n\x1a\n" => Some("an HDF5 file"),
        [b'G', b'G', b'U', b'F', ..] => Some("a GGUF file"),
        [b'<', b'!' | b'h', ..] => Some("an HTML page"),
        _ => None,
    }
}

/// The model's description; without it the names and shapes must do.
fn add_config(manifest: &mut Manifest, path: &Path) {
    let (mut json, identity) = match source::read_whole(path, MAX_CONFIG) {
        Err(SourceError::Gone) => return,
        Ok((Some(json), identity)) => (json, identity),
        Ok((None, identity)) => {
            let text = format!(
                "config.json left out: found {} bytes, expected at most {MAX_CONFIG}",
                identity.size
            );
            return manifest.notes.push(text);
        }
        Err(error) => {
            return manifest.notes.push(format!("config.json left out: {}", words(&error)));
        }
    };
    if mark_non_finite(&mut json) > 0 {
        manifest.notes.push("config.json: numbers that are not finite read as null".to_owned());
    }
    let n_left = Cell::new(MAX_CONFIG_VALUES);
    let mut deserializer = serde_json::Deserializer::from_slice(&json);
    let config = BoundedValue(&n_left)
        .deserialize(&mut deserializer)
        .and_then(|config| deserializer.end().map(|()| config));
    match config {
        Ok(config) => {
            manifest.config = Some(config);
            manifest.sidecars.push(SourceFile {
                path: path.to_owned(),
                identity,
                ..SourceFile::default()
            });
        }
        Err(error) => {
            manifest.notes.push(format!("config.json left out: {}", one_line(&error.to_string())))
        }
    }
}

/// The trainer's record. Trainers write it last and in place, so one that ends early means that the
/// save goes on.
fn add_trainer(manifest: &mut Manifest, path: &Path) -> Result<()> {
    let (mut json, identity) = match source::read_whole(path, MAX_TRAINER_STATE) {
        Err(SourceError::Gone) => return Ok(()),
        Err(SourceError::Changed) => return Err(OpenError::Changed { path: path.to_owned() }),
        Ok((Some(json), identity)) => (json, identity),
        Ok((None, identity)) => {
            let n_bytes = identity.size;
            manifest.notes.push(format!(
                "trainer_state.json left out: found {n_bytes} bytes, expected at most {MAX_TRAINER_STATE}"
            ));
            return Ok(());
        }
        Err(error) => {
            manifest.notes.push(format!("trainer_state.json left out: {}", words(&error)));
            return Ok(());
        }
    };
    let trainer = trainer::parse(&mut json).map_err(|error| OpenError::Incomplete {
        path: path.to_owned(),
        what: format!("found no whole record, expected JSON: {}", one_line(&error.to_string())),
    })?;
    manifest.trainer = Some(trainer);
    manifest.sidecars.push(SourceFile { path: path.to_owned(), identity, ..SourceFile::default() });
    Ok(())
}

/// `step` or `global_step` in the metadata of the first file that has one.
fn step_in_metadata(files: &[SourceFile]) -> Option<u64> {
    let stated = |file: &SourceFile| {
        ["step", "global_step"].iter().find_map(|key| file.metadata.get(*key)?.trim().parse().ok())
    };
    files.iter().find_map(stated)
}

fn words(error: &SourceError) -> String {
    match error {
        SourceError::Gone => "found nothing".to_owned(),
        SourceError::NotAFile(found) => format!("found {found}, expected a regular file"),
        SourceError::Changed => "found it changed while it was read".to_owned(),
        SourceError::Io(error) => one_line(&error.to_string()),
    }
}

fn not_a_checkpoint(path: &Path, found: String) -> OpenError {
    OpenError::NotACheckpoint { path: path.to_owned(), found, expected: EXPECTED }
}

/// An error of the path that was asked for.
fn at_top(path: &Path, error: SourceError) -> OpenError {
    match error {
        SourceError::Gone => OpenError::Missing { path: path.to_owned() },
        error => inside(path, error),
    }
}

/// An error of a file that a look at the directory or the index promised.
fn inside(path: &Path, error: SourceError) -> OpenError {
    let path = path.to_owned();
    match error {
        SourceError::Gone => OpenError::Vanished { path },
        SourceError::Changed => OpenError::Changed { path },
        SourceError::NotAFile(found) => {
            OpenError::NotACheckpoint { path, found: found.to_owned(), expected: "a regular file" }
        }
        SourceError::Io(source) => OpenError::Unreadable { path, source },
    }
}
