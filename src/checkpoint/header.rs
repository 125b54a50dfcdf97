//! The header of a weight file on disk.

use std::cmp::Ordering;
use std::path::Path;

use super::error::OpenError;
use super::place::Place;
use super::safetensors::{self, Header, MAX_HEADER, MAX_TENSORS, N_LENGTH};
use super::source::OpenFile;
use super::{Manifest, SourceFile};

/// Reads and checks the header of a weight file, and that the file is as long as it says.
pub(super) fn read_header(path: &Path) -> Result<(SourceFile, Header), OpenError> {
    let fail = |error| OpenError::inside(path, error);
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
            |found| OpenError::not_a_checkpoint(path, found.to_owned()),
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
        Some(Ordering::Equal) => {}
        Some(Ordering::Greater) => {
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

/// Adds a weight file with its tensors.
pub(super) fn add_file(
    manifest: &mut Manifest,
    mut file: SourceFile,
    header: Header,
) -> Result<(), OpenError> {
    let index = manifest.files.len();
    let first = file.identity.size.saturating_sub(header.n_data);
    if manifest.tensors.len().saturating_add(header.tensors.len()) > MAX_TENSORS {
        let reason = "found more than 2^18 tensors, expected fewer".to_owned();
        return Err(OpenError::Malformed { path: file.path, reason });
    }
    // In place, as a copy of the largest header takes 30 MiB.
    let mut tensors = header.tensors;
    for tensor in &mut tensors {
        let offset = first.saturating_add(tensor.place.offset());
        tensor.place = Place::Run { file: index, offset };
    }
    if manifest.tensors.is_empty() {
        manifest.tensors = tensors;
    } else {
        manifest.tensors.append(&mut tensors);
    }
    file.metadata = header.metadata;
    manifest.files.push(file);
    Ok(())
}
