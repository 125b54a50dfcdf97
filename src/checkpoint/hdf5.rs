//! HDF5 as far as weights need it: groups, and arrays in one piece, whose elements are then read like
//! those of any other file.
//!
//! A reader of our own, since no crate says where elements lie and keeps to bounds: of hdf5-reader
//! 0.12, one changed byte of a file of 34 KB cost 15 GB and 23 s.
//! What is written in other ways (chunks, filters, groups of very many names in the newer form) is
//! left out with the reason.

mod array;
mod bytes;
mod group;
mod object;

use std::collections::{HashMap, HashSet};

use super::TensorInfo;
use super::error::one_line;
use super::fill::Fill;
use super::one_file::{Contents, Refusal};
use bytes::{Bytes, malformed, number, u64_at};

/// First bytes of a file.
const MARK: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Objects of one file, and groups within groups.
const MAX_OBJECTS: usize = 65_536;
const MAX_DEPTH: usize = 32;
/// Bytes of a path, and of all paths.
const MAX_PATH: usize = 1024;
const MAX_PATHS: usize = 16 << 20;

/// All arrays of the HDF5 file that begins at `start` and has that size.
pub(super) fn read(fill: &mut Fill<'_>, start: u64, size: u64) -> Result<Contents, Refusal> {
    let mut bytes = Bytes::new(fill, start, size);
    let root = superblock(&mut bytes)?;
    let mut contents = Contents::default();
    let mut walk =
        Walk { groups: HashSet::new(), arrays: HashMap::new(), n_paths: 0, n_path_bytes: 0 };
    let mut n_opaque = 0_usize;
    let mut left = vec![(String::new(), root, 0_usize)];
    let mut n_objects = 0_usize;
    while let Some((path, at, depth)) = left.pop() {
        n_objects = n_objects.saturating_add(1);
        if n_objects > MAX_OBJECTS || depth > MAX_DEPTH {
            let text = format!(
                "found more than {MAX_OBJECTS} objects or {MAX_DEPTH} levels, expected fewer"
            );
            return Err(malformed(text));
        }
        if let Some(first) = walk.arrays.get(&at) {
            let why = format!("the same elements as {}", one_line(first));
            contents.left_out.push((path, why));
            continue;
        }
        if walk.groups.contains(&at) {
            continue;
        }
        let messages = object::read(&mut bytes, at)?;
        if array::is_array(&messages) {
            walk.arrays.insert(at, path.clone());
            match array::read(&bytes, &messages)? {
                Ok((array, is_opaque)) => {
                    n_opaque = n_opaque.saturating_add(usize::from(is_opaque));
                    contents.tensors.push(TensorInfo { name: path.into(), ..array });
                }
                Err(why) => contents.left_out.push((path, why)),
            }
        } else if group::is_group(&messages) {
            walk.groups.insert(at);
            let links = group::links(&mut bytes, &messages)?;
            if links.is_dense {
                let why = "its names are kept in the newer form for many, which is not read";
                contents.left_out.push((format!("{path}/"), why.to_owned()));
            }
            for (name, at) in links.found.into_iter().rev() {
                let path = walk.path(&path, &name)?;
                left.push((path, at, depth.saturating_add(1)));
            }
        }
    }
    if n_opaque > 0 {
        let note =
            format!("{n_opaque} arrays of two unnamed bytes read as BF16, as Keras writes it");
        contents.notes.push(note);
    }
    Ok(contents)
}

/// What was seen already.
struct Walk {
    groups: HashSet<u64>,
    arrays: HashMap<u64, String>,
    n_paths: usize,
    n_path_bytes: usize,
}

impl Walk {
    fn path(&mut self, group: &str, name: &str) -> Result<String, Refusal> {
        let path = if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") };
        self.n_path_bytes = self.n_path_bytes.saturating_add(path.len());
        self.n_paths = self.n_paths.saturating_add(1);
        let too_many = self.n_paths > MAX_OBJECTS || self.n_path_bytes > MAX_PATHS;
        if path.len() > MAX_PATH || too_many {
            let (n, n_bytes) = (self.n_paths, path.len());
            let text = format!("found path {n} of {n_bytes} bytes, expected fewer");
            return Err(malformed(text));
        }
        Ok(path)
    }
}

/// Checks what stands in front; the place of the root.
fn superblock(bytes: &mut Bytes<'_, '_>) -> Result<u64, Refusal> {
    let size = bytes.size;
    let short = |n: u64| Refusal::Short(format!("found {size} bytes, expected {n}"));
    if size < 48 {
        return Err(short(48));
    }
    let n_front = size.min(96);
    let front = bytes.read(0, n_front, "the front of an HDF5 file")?;
    // Blocks of the file come before its front is written.
    if front.iter().take(8).all(|byte| *byte == 0) {
        return Err(Refusal::Short("found zeros in front, expected the mark of HDF5".to_owned()));
    }
    if !front.starts_with(MARK) {
        return Err(malformed("found another mark in front, expected that of HDF5".to_owned()));
    }
    let version = front.get(8).copied().unwrap_or(u8::MAX);
    let (widths, base, end, root) = match version {
        0 => (13, 24, 40, 64),
        1 => (13, 28, 44, 68),
        2 | 3 => (9, 12, 28, 36),
        other => {
            return Err(malformed(format!("found superblock version {other}, expected 0 to 3")));
        }
    };
    if (number(&front, widths, 1), number(&front, widths.saturating_add(1), 1)) != (8, 8) {
        let found = "an HDF5 file of narrow addresses, where those of 8 bytes are read";
        return Err(Refusal::NotWeights(found.to_owned()));
    }
    if u64_at(&front, base) != 0 {
        let found = "an HDF5 file behind a block of its user's, which is not read";
        return Err(Refusal::NotWeights(found.to_owned()));
    }
    let is_open = version == 3 && front.get(11).is_some_and(|flags| flags & 1 != 0);
    if is_open {
        let text = "found the mark of a file that is being written, expected it closed";
        return Err(Refusal::Short(text.to_owned()));
    }
    let end = u64_at(&front, end);
    // While it is written, the file can be longer than its front says.
    if end != size {
        return Err(Refusal::Short(format!(
            "found {size} bytes, expected {end} by the superblock"
        )));
    }
    Ok(u64_at(&front, root))
}
