//! What the readers of self-contained files have in common: one look, one verdict, one list.

use std::collections::HashSet;
use std::path::Path;

use super::error::{OpenError, n_tensors, one_line, shown};
use super::fill::Fill;
use super::formats::says_other;
use super::safetensors::MAX_TENSORS;
use super::source::{self, Stretch};
use super::stretches::Stretches;
use super::zip::ZipError;
use super::{Manifest, SourceFile, TensorInfo};

/// Notes of one kind that are told one by one; what is beyond is counted.
const MAX_TOLD: usize = 64;

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It ends early; what was found and expected.
    Short(String),
    /// It contradicts itself.
    Malformed(String),
    /// It is sound as far as it was read, and holds something else.
    NotWeights(String),
    Open(OpenError),
}

impl Refusal {
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

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<ZipError> for Refusal {
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

/// What a file holds, by what its reader found.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// With places in file 0.
    pub(super) tensors: Vec<TensorInfo>,
    /// What was left out, and why.
    pub(super) left_out: Vec<(String, String)>,
    /// What else there is to say.
    pub(super) notes: Vec<String>,
    /// A description of the model, and where it was found.
    pub(super) config: Option<(String, serde_json::Value)>,
}

/// Has a file read through `read`, which is given a way to fill buffers from it and its size, and
/// adds what it found.
pub(super) fn add(
    manifest: &mut Manifest,
    path: &Path,
    read: impl FnOnce(&mut Fill<'_>, u64) -> Result<Contents, Refusal>,
) -> Result<(), OpenError> {
    let identity = source::look(path).map_err(|error| OpenError::inside(path, error))?;
    let file = SourceFile { path: path.to_owned(), identity, ..SourceFile::default() };
    let contents = {
        let mut pause = |_| {};
        let files = std::slice::from_ref(&file);
        let mut stretches = Stretches::new(files, Stretch::default(), &mut pause);
        let mut fill =
            |at, buf: &mut [u8]| stretches.read_exact_at(0, buf, at).map_err(OpenError::of_read);
        let contents = read(&mut fill, identity.size);
        // Only what the file still says is worth a verdict.
        stretches.end().map_err(OpenError::of_read)?;
        contents.map_err(|refusal| refusal.at(path))?
    };
    let contents = without_others(contents);
    check(manifest, &contents).map_err(|refusal| refusal.at(path))?;
    let index = manifest.files.len();
    manifest.files.push(file);
    let Contents { mut tensors, left_out, notes, config } = contents;
    for tensor in &mut tensors {
        tensor.place.move_to_file(index);
    }
    manifest.tensors.append(&mut tensors);
    manifest.notes.extend(notes);
    let n_more = left_out.len().saturating_sub(MAX_TOLD);
    for (name, why) in left_out.iter().take(MAX_TOLD) {
        manifest.notes.push(format!("{} left out: {why}", one_line(name)));
    }
    if n_more > 0 {
        manifest.notes.push(format!("left out for such reasons: {n_more} more"));
    }
    manifest.left_out.extend(left_out.into_iter().map(|(name, _)| (index, name)));
    manifest.remarks.config = manifest.remarks.config.take().or(config);
    Ok(())
}

/// Leaves out what the names say is state of an optimiser or trainer.
fn without_others(mut contents: Contents) -> Contents {
    let n_before = contents.tensors.len();
    contents.tensors.retain(|tensor| !says_other(&tensor.name.replace('/', ".")));
    let n = n_before.saturating_sub(contents.tensors.len());
    if n > 0 {
        contents.notes.push(format!("left out: {} of optimiser and trainer", n_tensors(n)));
    }
    contents
}

fn check(manifest: &Manifest, contents: &Contents) -> Result<(), Refusal> {
    if manifest.tensors.len().saturating_add(contents.tensors.len()) > MAX_TENSORS {
        let reason = "found more than 2^18 tensors, expected fewer".to_owned();
        return Err(Refusal::Malformed(reason));
    }
    if contents.tensors.is_empty() {
        let why = contents.left_out.first().map(|(name, why)| format!(" ({}: {why})", shown(name)));
        return Err(Refusal::NotWeights(format!(
            "a file without a tensor of a model{}",
            why.unwrap_or_default()
        )));
    }
    let mut names: HashSet<&str> = manifest.tensors.iter().map(|t| t.name.as_str()).collect();
    match contents.tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        Some(twice) => Err(Refusal::Malformed(format!(
            "found tensor {} twice, expected each name once",
            shown(&twice.name)
        ))),
        None => Ok(()),
    }
}

/// Number of elements of a shape, if it is one that is read.
pub(super) fn n_elements(shape: &[usize]) -> Option<u64> {
    let full = shape.iter().try_fold(1_u64, |n, dim| n.checked_mul((*dim as u64).max(1)));
    let full = full.filter(|n| *n <= super::safetensors::MAX_ELEMENTS)?;
    Some(if shape.contains(&0) { 0 } else { full })
}
