//! Zip archives: where the entries lie, read from the end of the file.
//!
//! Stricter than the libraries: entries that overlap, stand twice, or are called otherwise in front
//! of their data than in the directory are refused, as readers differ in what they take of them.
//! Check sums are not looked at: `torch.save` can leave them at 0.

use super::error::{OpenError, one_line};
use super::fill::Fill;

/// Entries of one archive.
const MAX_ENTRIES: u64 = 65_536;
/// Bytes of the list of entries.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Bytes of the record at the end, without its comment.
const N_END: u64 = 22;
/// Bytes of the longest comment.
const MAX_COMMENT: u64 = 65_535;
/// Flags of an entry: encrypted, a patch, encrypted otherwise.
const UNREADABLE_FLAGS: u16 = 1 | 1 << 5 | 1 << 6;
/// Flag: sizes stand behind the data, those in front of it say nothing.
const SIZES_BEHIND: u16 = 1 << 3;

/// How an entry's data is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
    Other(u16),
}

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) method: Method,
    /// First byte of its data, from the start of the file.
    pub(super) offset: u64,
    /// Bytes of its data as they are stored, and as they were.
    pub(super) n_stored: u64,
    pub(super) n_bytes: u64,
}

/// Why an archive was not read.
#[derive(Debug)]
pub(super) enum ZipError {
    /// Its end is not there.
    Short,
    /// It contradicts itself; the words say what was found and expected.
    Malformed(String),
    Open(OpenError),
}

/// The entries of the archive that fills a file from `start` to `end`, by their place.
pub(super) fn entries(fill: &mut Fill<'_>, start: u64, end: u64) -> Result<Vec<Entry>, ZipError> {
    let list = find_directory(fill, start, end)?;
    let n_bytes = usize::try_from(list.n_bytes).unwrap_or(0);
    let mut bytes = vec![0; n_bytes];
    fill(list.offset, &mut bytes).map_err(ZipError::Open)?;
    let mut found = Vec::new();
    let mut rest = bytes.as_slice();
    for _ in 0..list.n_entries {
        let (entry, after) = parse_entry(rest)?;
        found.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed(format!(
            "found {} bytes behind the list of entries, expected none",
            rest.len()
        )));
    }
    drop(bytes);
    found.sort_unstable_by_key(|(entry, _)| entry.offset);
    let mut placed = Vec::with_capacity(found.len());
    let mut free_from = start;
    for (mut entry, flags) in found {
        let header = start.saturating_add(entry.offset);
        if header < free_from {
            return Err(malformed(format!(
                "found entry {} upon another one, expected them apart",
                one_line(&entry.name)
            )));
        }
        entry.offset = data_offset(fill, &entry, flags, header, list.offset)?;
        free_from = entry.offset.saturating_add(entry.n_stored);
        if free_from > list.offset {
            return Err(malformed(format!(
                "found entry {} beyond the list of entries, expected it before",
                one_line(&entry.name)
            )));
        }
        placed.push(entry);
    }
    let mut names: Vec<&str> = placed.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    let mut neighbours = names.iter().zip(names.iter().skip(1));
    if let Some((twice, _)) = neighbours.find(|(a, b)| a == b) {
        return Err(malformed(format!("found entry {} twice", one_line(twice))));
    }
    Ok(placed)
}

fn malformed(reason: String) -> ZipError {
    ZipError::Malformed(reason)
}

/// Where the list of entries lies.
struct Directory {
    offset: u64,
    n_bytes: u64,
    n_entries: u64,
}

fn find_directory(fill: &mut Fill<'_>, start: u64, end: u64) -> Result<Directory, ZipError> {
    let size = end.saturating_sub(start);
    if size < N_END {
        return Err(ZipError::Short);
    }
    // As a rule there is no comment, and no more is read than needed.
    let found = match find_end(fill, end, N_END)? {
        None => find_end(fill, end, size.min(N_END.saturating_add(MAX_COMMENT)))?,
        found => found,
    };
    let Some((record, end_at)) = found else { return Err(ZipError::Short) };
    let short = || ZipError::Short;
    let n_entries = u16_at(&record, 10).ok_or_else(short)?;
    let n_bytes = u32_at(&record, 12).ok_or_else(short)?;
    let offset = u32_at(&record, 16).ok_or_else(short)?;
    let mut list =
        Directory { offset: offset.into(), n_bytes: n_bytes.into(), n_entries: n_entries.into() };
    let mut limit = end_at;
    if let Some((wide, wide_at)) = find_wide(fill, start, end_at)? {
        let differs = |short: u64, full: u64, wide: u64| short != full && short != wide;
        if differs(list.n_entries, u16::MAX.into(), wide.n_entries)
            || differs(list.n_bytes, u32::MAX.into(), wide.n_bytes)
            || differs(list.offset, u32::MAX.into(), wide.offset)
        {
            return Err(malformed("found two end records that contradict each other".to_owned()));
        }
        (list, limit) = (wide, wide_at);
    }
    if list.n_entries > MAX_ENTRIES || list.n_bytes > MAX_DIRECTORY {
        return Err(malformed(format!(
            "found a list of {} entries and {} bytes, expected at most {MAX_ENTRIES} and {MAX_DIRECTORY}",
            list.n_entries, list.n_bytes
        )));
    }
    list.offset = list.offset.saturating_add(start);
    if list.offset.checked_add(list.n_bytes) != Some(limit) {
        return Err(malformed(format!(
            "found a list of entries at {} of {} bytes, expected it to end at {limit}",
            list.offset, list.n_bytes
        )));
    }
    Ok(list)
}

/// The last record and its place, if it lies in the last `n_tail` bytes and ends with them.
fn find_end(
    fill: &mut Fill<'_>,
    end: u64,
    n_tail: u64,
) -> Result<Option<(Vec<u8>, u64)>, ZipError> {
    let tail_at = end.saturating_sub(n_tail);
    let mut tail = vec![0; usize::try_from(n_tail).unwrap_or(0)];
    fill(tail_at, &mut tail).map_err(ZipError::Open)?;
    let n_end = usize::try_from(N_END).unwrap_or(0);
    let is_end = |at: &usize| {
        let record = tail.get(*at..).unwrap_or_default();
        let comment = u16_at(record, 20).map(usize::from);
        record.starts_with(b"PK\x05\x06")
            && comment.is_some_and(|n| n.saturating_add(n_end) == record.len())
    };
    let last = tail.len().saturating_sub(n_end);
    if let Some(at) = (0..=last).rev().find(is_end) {
        return Ok(Some((tail.split_off(at), tail_at.saturating_add(at as u64))));
    }
    let mark = tail.windows(4).rposition(|record| record == b"PK\x05\x06");
    let Some(record) = mark.and_then(|at| tail.get(at..)).filter(|_| n_tail > N_END) else {
        return Ok(None);
    };
    // What was cut in its last record is not there yet.
    let n_whole = u16_at(record, 20).map(|n_comment| n_end.saturating_add(n_comment.into()));
    if n_whole.is_none_or(|n_whole| record.len() < n_whole) {
        return Err(ZipError::Short);
    }
    Err(malformed("found bytes behind the end of the zip archive, expected none".to_owned()))
}

/// The record for large archives, which stands before the other one, and where it lies.
fn find_wide(
    fill: &mut Fill<'_>,
    start: u64,
    end_at: u64,
) -> Result<Option<(Directory, u64)>, ZipError> {
    const N_LOCATOR: u64 = 20;
    const N_RECORD: u64 = 56;
    let Some(at) = end_at.checked_sub(N_LOCATOR).filter(|at| *at >= start) else { return Ok(None) };
    let mut locator = [0; 20];
    fill(at, &mut locator).map_err(ZipError::Open)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    let place = u64_at(&locator, 8).and_then(|offset| offset.checked_add(start));
    let fits = |place: &u64| place.checked_add(N_RECORD).is_some_and(|end| end <= at);
    let Some(place) = place.filter(fits) else {
        return Err(malformed("found no record where the zip64 locator leads".to_owned()));
    };
    let mut record = [0; 56];
    fill(place, &mut record).map_err(ZipError::Open)?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(malformed("found no record where the zip64 locator leads".to_owned()));
    }
    let number = |at| u64_at(&record, at).unwrap_or(u64::MAX);
    let (n_entries, n_bytes, offset) = (number(32), number(40), number(48));
    Ok(Some((Directory { offset, n_bytes, n_entries }, place)))
}

/// An entry whose offset is that of its local header, and its flags; and what follows.
fn parse_entry(bytes: &[u8]) -> Result<((Entry, u16), &[u8]), ZipError> {
    let broken =
        || malformed("found a broken list of entries, expected one of all files inside".to_owned());
    if !bytes.starts_with(b"PK\x01\x02") {
        return Err(broken());
    }
    let short = |at| u16_at(bytes, at).ok_or_else(broken);
    let long = |at| u32_at(bytes, at).ok_or_else(broken);
    let (flags, method) = (short(8)?, short(10)?);
    let (n_name, n_extra, n_comment) = (short(28)?, short(30)?, short(32)?);
    let name_at = 46_usize;
    let extra_at = name_at.saturating_add(n_name.into());
    let comment_at = extra_at.saturating_add(n_extra.into());
    let after = comment_at.saturating_add(n_comment.into());
    let name = bytes.get(name_at..extra_at).ok_or_else(broken)?;
    let extra = bytes.get(extra_at..comment_at).ok_or_else(broken)?;
    let rest = bytes.get(after..).ok_or_else(broken)?;
    let name = std::str::from_utf8(name).map_err(|_| broken())?;
    if name.contains('\0') {
        return Err(malformed("found an entry whose name holds a zero byte".to_owned()));
    }
    if flags & UNREADABLE_FLAGS != 0 {
        let text = format!("found entry {} encrypted, expected plain data", one_line(name));
        return Err(malformed(text));
    }
    let method = match method {
        0 => Method::Stored,
        8 => Method::Deflated,
        other => Method::Other(other),
    };
    let sizes = [long(24)?, long(20)?, long(42)?];
    let [n_bytes, n_stored, offset] = widen(sizes, extra).ok_or_else(broken)?;
    if method == Method::Stored && n_bytes != n_stored {
        let text = format!("found entry {} stored in two sizes, expected one", one_line(name));
        return Err(malformed(text));
    }
    let entry = Entry { name: name.to_owned(), method, offset, n_stored, n_bytes };
    Ok(((entry, flags), rest))
}

/// Replaces those that are full by what stands in the zip64 field, in order.
fn widen(sizes: [u32; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut wide: &[u8] = &[];
    let mut rest = extra;
    while let (Some(id), Some(len)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let end = usize::from(len).checked_add(4)?;
        if id == 1 {
            wide = rest.get(4..end)?;
        }
        rest = rest.get(end..)?;
    }
    let mut out = sizes.map(u64::from);
    for (size, out) in sizes.iter().zip(&mut out) {
        if *size == u32::MAX {
            *out = u64_at(wide, 0)?;
            wide = wide.get(8..)?;
        }
    }
    Some(out)
}

/// Where the data behind a local header begins.
fn data_offset(
    fill: &mut Fill<'_>,
    entry: &Entry,
    flags: u16,
    header: u64,
    limit: u64,
) -> Result<u64, ZipError> {
    const N_HEADER: u64 = 30;
    let differs = |what: &str| {
        malformed(format!(
            "found another {what} before the data of entry {} than in the list of entries",
            one_line(&entry.name)
        ))
    };
    let n_name = entry.name.len();
    let data = header.saturating_add(N_HEADER).saturating_add(n_name as u64);
    if data > limit {
        return Err(differs("place"));
    }
    let mut bytes = vec![0; n_name.saturating_add(30)];
    fill(header, &mut bytes).map_err(ZipError::Open)?;
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(differs("mark"));
    }
    let method = match u16_at(&bytes, 8).unwrap_or_default() {
        0 => Method::Stored,
        8 => Method::Deflated,
        other => Method::Other(other),
    };
    if method != entry.method {
        return Err(differs("method"));
    }
    let same_name = u16_at(&bytes, 26).map(usize::from) == Some(n_name)
        && bytes.get(30..) == Some(entry.name.as_bytes());
    if !same_name {
        return Err(differs("name"));
    }
    let n_stored = u32_at(&bytes, 18).unwrap_or_default();
    let is_stated = flags & SIZES_BEHIND == 0 && n_stored != u32::MAX;
    if is_stated && u64::from(n_stored) != entry.n_stored {
        return Err(differs("size"));
    }
    let n_extra = u16_at(&bytes, 28).unwrap_or_default();
    Ok(data.saturating_add(n_extra.into()))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}
