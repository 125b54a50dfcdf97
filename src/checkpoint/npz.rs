//! `.npz` of `NumPy`: a zip archive of arrays, stored or deflated.

mod npy;

use std::path::Path;

use super::error::{OpenError, one_line, shown};
use super::fill::Fill;
use super::inflate::{InflateError, Inflater};
use super::one_file::{self, Contents, Refusal, n_elements};
use super::place::{Coding, Deflated, Place, Stored, is_row_major, row_major};
use super::safetensors::MAX_NAME;
use super::zip::{self, Entry, Method};
use super::{Manifest, TensorInfo, Text};
use npy::{Element, Header, N_FRONT};

/// An entry may be so many times as large as it is stored: weights hardly shrink at all.
const MAX_RATIO: u64 = 64;
/// Bytes that may come out beyond that, over all entries: matrices of zeros are legal.
const SPARE: u64 = 256 << 20;
/// Bytes of all headers of an archive: each can be 64 KiB, and a stream of so many blanks is short.
const MAX_HEADERS: u64 = 64 << 20;
/// Bytes of a deflated matrix whose rows do not lie together: every stretch of its rows needs the
/// whole of it.
const MAX_ACROSS: u64 = 64 << 20;

/// Adds an archive of arrays.
pub(super) fn add(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    one_file::add(manifest, path, read)
}

/// Adds an array that is a file of its own, under the name of the file.
pub(super) fn add_array(manifest: &mut Manifest, path: &Path) -> Result<(), OpenError> {
    manifest.format = "npy";
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    one_file::add(manifest, path, |fill, size| {
        let (method, offset) = (Method::Stored, 0);
        let entry = Entry { name: name.clone(), method, offset, n_stored: size, n_bytes: size };
        let mut contents = Contents::default();
        match array(fill, &entry, &mut Left { beyond: 0, headers: MAX_HEADERS })? {
            Ok((array, _)) => contents.tensors.push(TensorInfo { name: name.into(), ..array }),
            Err(why) => contents.left_out.push((name, why)),
        }
        Ok(contents)
    })
}

fn read(fill: &mut Fill<'_>, size: u64) -> Result<Contents, Refusal> {
    let mut contents = Contents::default();
    let mut left = Left { beyond: SPARE, headers: MAX_HEADERS };
    let mut n_opaque = 0_usize;
    for entry in zip::entries(fill, 0, size)? {
        let Some(name) = entry.name.strip_suffix(".npy") else {
            let why = "expected an entry that ends with .npy".to_owned();
            contents.left_out.push((entry.name, why));
            continue;
        };
        let name = name.to_owned();
        if name.len() > MAX_NAME {
            let text = format!("found a name of {} bytes, expected at most {MAX_NAME}", name.len());
            return Err(Refusal::Malformed(text));
        }
        match array(fill, &entry, &mut left).map_err(|refusal| of_entry(refusal, &name))? {
            Ok((array, is_opaque)) => {
                n_opaque = n_opaque.saturating_add(usize::from(is_opaque));
                contents.tensors.push(TensorInfo { name: name.into(), ..array });
            }
            Err(why) => contents.left_out.push((name, why)),
        }
    }
    if n_opaque > 0 {
        contents.notes.push(format!(
            "{n_opaque} arrays of type V2 read as BF16, which NumPy has no name for"
        ));
    }
    Ok(contents)
}

/// Says of which array something is told.
fn of_entry(refusal: Refusal, name: &str) -> Refusal {
    match refusal {
        // The archive is whole, so its entries would be.
        Refusal::Short(text) | Refusal::Malformed(text) => {
            Refusal::Malformed(format!("array {}: {}", shown(name), one_line(&text)))
        }
        other => other,
    }
}

/// Bytes that may still come out of the streams of an archive.
struct Left {
    beyond: u64,
    headers: u64,
}

/// An array without its name and whether its type is a guess, or why it is left out.
type Array = Result<(TensorInfo, bool), String>;

fn array(fill: &mut Fill<'_>, entry: &Entry, left: &mut Left) -> Result<Array, Refusal> {
    match entry.method {
        Method::Stored => {}
        Method::Deflated => {
            let n_beyond = entry.n_bytes.saturating_sub(entry.n_stored.saturating_mul(MAX_RATIO));
            let Some(beyond) = left.beyond.checked_sub(n_beyond) else {
                let Entry { n_bytes, n_stored, .. } = entry;
                return Ok(Err(format!("{n_bytes} bytes stored in {n_stored}")));
            };
            left.beyond = beyond;
        }
        Method::Other(method) => return Ok(Err(format!("compressed by method {method}"))),
    }
    let (header, n_header) = match front(fill, entry, left)? {
        Ok(front) => front,
        Err(text) => return Err(Refusal::Malformed(text)),
    };
    let (dtype, is_big, is_opaque) = match header.element {
        Element::Known { dtype, is_big, is_opaque } => (dtype, is_big, is_opaque),
        Element::LeftOut(why) => return Ok(Err(why)),
    };
    let Header { is_fortran, shape, .. } = header;
    let n_bytes = n_elements(&shape).map(|n| n.saturating_mul(dtype.bits() / 8));
    let n_data = entry.n_bytes.saturating_sub(n_header);
    let Some(n_bytes) = n_bytes.filter(|n| *n == n_data) else {
        let expected = n_bytes.map_or("fewer than 2^48 elements".to_owned(), |n| n.to_string());
        let text = format!("found {n_data} bytes of shape {shape:?}, expected {expected}");
        let is_short = n_bytes.is_some_and(|n| n_data < n);
        return Err(if is_short { Refusal::Short(text) } else { Refusal::Malformed(text) });
    };
    let strides = if is_fortran { fortran(&shape) } else { row_major(&shape) };
    let coding = if is_big { Coding::Big } else { Coding::Little };
    let stored = if entry.method == Method::Deflated {
        if !is_row_major(&shape, &strides) && n_bytes > MAX_ACROSS {
            return Ok(Err(format!("{n_bytes} bytes in Fortran order and compressed")));
        }
        let deflated = Deflated { n_bytes: entry.n_bytes, n_before: n_header, is_big };
        let (offset, n_bytes) = (entry.offset, entry.n_stored);
        Stored { file: 0, offset, n_bytes, coding: Coding::Deflated(deflated) }
    } else {
        let offset = entry.offset.saturating_add(n_header);
        Stored { file: 0, offset, n_bytes: n_data, coding }
    };
    let place = Place::strided(&shape, &strides, stored);
    let name = Text::default();
    Ok(Ok((TensorInfo { name, dtype, shape, place, n_bytes }, is_opaque)))
}

/// The header of an array and its length, or what is wrong with it.
fn front(
    fill: &mut Fill<'_>,
    entry: &Entry,
    left: &mut Left,
) -> Result<Result<(Header, u64), String>, Refusal> {
    // Its tables take 40 KiB, which an array that is stored has no use for.
    let deflated = entry.method == Method::Deflated;
    let mut inflater = deflated.then(|| Inflater::new(entry.offset, entry.n_stored));
    let mut read = |at: u64, buf: &mut [u8]| {
        let Some(inflater) = &mut inflater else {
            return fill(entry.offset.saturating_add(at), buf).map_err(Refusal::Open);
        };
        inflater.read(fill, at, buf).map_err(|error| match error {
            InflateError::Source(error) => Refusal::Open(error),
            InflateError::Broken => {
                Refusal::Malformed("found a broken stream, expected deflate data".to_owned())
            }
        })
    };
    let n_found = entry.n_bytes;
    let short = || Err(Refusal::Short(format!("found {n_found} bytes, expected a NumPy header")));
    if entry.n_bytes < N_FRONT as u64 {
        return short();
    }
    let mut bytes = vec![0; N_FRONT];
    read(0, &mut bytes)?;
    let n_header = match npy::length(&bytes) {
        Ok(n) if n as u64 <= entry.n_bytes && n >= N_FRONT => n,
        Ok(_) => return short(),
        Err(text) => return Ok(Err(text)),
    };
    let Some(headers) = left.headers.checked_sub(n_header as u64) else {
        let text = format!("found headers of more than {MAX_HEADERS} bytes, expected fewer");
        return Ok(Err(text));
    };
    left.headers = headers;
    bytes.resize(n_header, 0);
    read(N_FRONT as u64, bytes.get_mut(N_FRONT..).unwrap_or_default())?;
    Ok(npy::parse(&bytes).map(|header| (header, n_header as u64)))
}

/// The strides of a shape whose first index runs fastest.
fn fortran(shape: &[usize]) -> Vec<usize> {
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    let mut strides = row_major(&reversed);
    strides.reverse();
    strides
}
