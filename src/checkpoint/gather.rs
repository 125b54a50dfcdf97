//! Elements out of pieces: any range of a tensor, in row-major order, by positioned reads.

use std::ops::Range;

use super::coded::Decoder;
use super::error::ReadError;
use super::place::{Coding, Piece, Pieces, extent};
use super::stretches::Stretches;

/// Bytes of one read; also the most that is read over to get at what is wanted.
const CHUNK: usize = 1 << 20;
/// Reading so many bytes costs no more than the call.
const CHEAP: u64 = 64 << 10;
/// Bytes of the tensor that are put together at a time where it does not fit into memory: rows of
/// a transposed tensor are read column by column, and the longer the better.
const SLAB: usize = 16 << 20;
/// Bytes of a piece that is handed on.
const HANDED: usize = 1 << 20;

/// A box of a tensor: first index and length by dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    corner: Vec<usize>,
    size: Vec<usize>,
}

impl Region {
    fn n_elements(&self) -> usize {
        self.size.iter().fold(1_usize, |n, dim| n.saturating_mul(*dim))
    }

    /// What two boxes have in common.
    fn common(&self, corner: &[usize], size: &[usize]) -> Option<Self> {
        let mut common = Self { corner: Vec::new(), size: Vec::new() };
        let sides = self.corner.iter().zip(&self.size).zip(corner.iter().zip(size));
        for ((a, n), (b, m)) in sides {
            let from = (*a).max(*b);
            let to = a.saturating_add(*n).min(b.saturating_add(*m));
            common.corner.push(from);
            common.size.push(to.checked_sub(from).filter(|n| *n > 0)?);
        }
        Some(common)
    }

    /// Two halves along a dimension.
    fn halves(&self, dim: usize) -> Option<[Self; 2]> {
        let size = self.size.get(dim)?;
        let half = size / 2;
        let mut parts = [self.clone(), self.clone()];
        let [first, second] = &mut parts;
        *first.size.get_mut(dim)? = half;
        *second.size.get_mut(dim)? = size.checked_sub(half)?;
        let corner = second.corner.get_mut(dim)?;
        *corner = corner.saturating_add(half);
        Some(parts)
    }
}

/// Puts pieces together.
pub(super) struct Gather<'a, 'b> {
    pub(super) pieces: &'a Pieces,
    /// Bytes of one element, 1 to 8.
    pub(super) width: usize,
    pub(super) stretches: &'b mut Stretches<'a>,
    pub(super) decoder: Decoder,
}

impl Gather<'_, '_> {
    /// All elements, in row-major order, into `into`, which is as long as they are.
    pub(super) fn whole(&mut self, into: &mut [u8]) -> Result<(), ReadError> {
        let frame = self.pieces.frame();
        let all = Region { corner: vec![0; frame.len()], size: frame.to_vec() };
        self.region(&all, into)
    }

    /// Hands on the elements with these row-major numbers, in order and in whole elements.
    pub(super) fn elements(
        &mut self,
        elements: Range<usize>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        let n_slab = SLAB.checked_div(self.width).unwrap_or(SLAB).max(1);
        let mut slab = Vec::new();
        for region in regions(elements, self.pieces.frame(), n_slab) {
            slab.clear();
            slab.resize(region.n_elements().saturating_mul(self.width), 0);
            self.region(&region, &mut slab)?;
            slab.chunks(HANDED / 8 * 8).for_each(&mut *each);
        }
        Ok(())
    }

    fn region(&mut self, region: &Region, into: &mut [u8]) -> Result<(), ReadError> {
        for piece in self.pieces.pieces() {
            if let Some(common) = region.common(&piece.corner, &piece.size) {
                self.announce(piece, &common);
                self.part(piece, &common, region, into)?;
            }
        }
        Ok(())
    }

    /// Says which part of the file will be read, if little beside the box lies in it.
    fn announce(&mut self, piece: &Piece, part: &Region) {
        let n_spanned = extent(&part.size, &piece.strides);
        let is_plain = matches!(piece.stored.coding, Coding::Little | Coding::Big);
        if is_plain && n_spanned <= (part.n_elements() as u64).saturating_mul(2) {
            let width = self.width as u64;
            let start = (first(piece, part) as u64).saturating_mul(width);
            let start = start.saturating_add(piece.stored.offset);
            let end = start.saturating_add(n_spanned.saturating_mul(width));
            self.stretches.expect_reads(piece.stored.file, start..end);
        }
    }

    /// Reads a box of a piece in one go if that reads little beside it, else its halves along the
    /// dimension that stands furthest apart; so offsets rise, and runs are read whole.
    fn part(
        &mut self,
        piece: &Piece,
        part: &Region,
        region: &Region,
        into: &mut [u8],
    ) -> Result<(), ReadError> {
        let n_wanted = (part.n_elements().saturating_mul(self.width)) as u64;
        let n_spanned = extent(&part.size, &piece.strides).saturating_mul(self.width as u64);
        let cheap = n_spanned <= CHEAP
            || (n_spanned <= n_wanted.saturating_mul(2) && n_spanned <= CHUNK as u64);
        let far = piece.strides.iter().zip(&part.size).enumerate();
        let far = far.filter(|(_, (_, size))| **size > 1).max_by_key(|(_, (stride, _))| **stride);
        match far {
            Some((dim, _)) if !cheap => {
                for half in part.halves(dim).into_iter().flatten() {
                    self.part(piece, &half, region, into)?;
                }
                Ok(())
            }
            _ => self.read(piece, part, region, into),
        }
    }

    fn read(
        &mut self,
        piece: &Piece,
        part: &Region,
        region: &Region,
        into: &mut [u8],
    ) -> Result<(), ReadError> {
        let n_spanned = usize::try_from(extent(&part.size, &piece.strides)).unwrap_or(0);
        let mut bytes = vec![0; n_spanned.saturating_mul(self.width)];
        let first = first(piece, part);
        self.decoder.read(self.stretches, piece.stored, (first, self.width), &mut bytes)?;
        let from: Vec<usize> = piece.strides.to_vec();
        let to = super::place::row_major(&region.size);
        let outer = part.corner.iter().zip(&region.corner).map(|(a, b)| a.saturating_sub(*b));
        let at = outer
            .zip(&to)
            .fold(0, |sum: usize, (at, stride)| sum.saturating_add(at.saturating_mul(*stride)));
        scatter(&part.size, (&bytes, &from, 0), (into, &to, at), self.width);
        Ok(())
    }
}

/// Number of a box's first element among those stored.
fn first(piece: &Piece, part: &Region) -> usize {
    let inner = part.corner.iter().zip(&piece.corner).map(|(a, b)| a.saturating_sub(*b));
    inner
        .zip(&piece.strides)
        .fold(0, |sum: usize, (at, stride)| sum.saturating_add(at.saturating_mul(*stride)))
}

/// Copies a box of elements between two orders; the last dimension in one loop.
fn scatter(
    size: &[usize],
    (from, from_strides, from_at): (&[u8], &[usize], usize),
    (to, to_strides, to_at): (&mut [u8], &[usize], usize),
    width: usize,
) {
    let bytes_at = |at: usize| at.saturating_mul(width)..at.saturating_add(1).saturating_mul(width);
    let (Some((n, outer)), Some(f), Some(t)) =
        (size.split_first(), from_strides.first(), to_strides.first())
    else {
        if let (Some(from), Some(to)) = (from.get(bytes_at(from_at)), to.get_mut(bytes_at(to_at))) {
            to.copy_from_slice(from);
        }
        return;
    };
    if outer.is_empty() && *f == 1 && *t == 1 {
        let run = |at: usize| bytes_at(at).start..bytes_at(at.saturating_add(*n)).start;
        if let (Some(from), Some(to)) = (from.get(run(from_at)), to.get_mut(run(to_at))) {
            to.copy_from_slice(from);
        }
        return;
    }
    let rest = |strides| <[usize]>::get(strides, 1..).unwrap_or_default();
    for i in 0..*n {
        let step = |at: usize, stride: &usize| at.saturating_add(i.saturating_mul(*stride));
        scatter(
            outer,
            (from, rest(from_strides), step(from_at, f)),
            (&mut *to, rest(to_strides), step(to_at, t)),
            width,
        );
    }
}

/// A range of row-major numbers as boxes of at most about `n_most` elements, in order, each of them
/// one run in that order.
fn regions(elements: Range<usize>, frame: &[usize], n_most: usize) -> Vec<Region> {
    let mut found = Vec::new();
    let strides = super::place::row_major(frame);
    let mut at = elements.start;
    while at < elements.end {
        let left = elements.end.saturating_sub(at);
        // The outermost dimension of which whole steps fit, from where `at` stands.
        let fits = |dim: usize, stride: usize| {
            at.is_multiple_of(stride)
                && stride <= left
                && (stride <= n_most || dim.saturating_add(1) == frame.len())
        };
        let dim = strides.iter().enumerate().position(|(dim, stride)| fits(dim, *stride));
        let mut corner = Vec::with_capacity(frame.len());
        let mut rest = at;
        for stride in &strides {
            corner.push(rest.checked_div(*stride).unwrap_or(0));
            rest = rest.checked_rem(*stride).unwrap_or(0);
        }
        let mut size = vec![1; frame.len()];
        let mut n = 1;
        if let Some(dim) = dim {
            let stride = strides.get(dim).copied().unwrap_or(1).max(1);
            let here = corner.get(dim).copied().unwrap_or(0);
            let to_end = frame.get(dim).copied().unwrap_or(1).saturating_sub(here);
            let whole = |n: usize| n.checked_div(stride).unwrap_or(0);
            let steps = whole(left).min(to_end).min(whole(n_most).max(1)).max(1);
            for (inner, size) in size.iter_mut().enumerate().skip(dim) {
                *size = if inner == dim { steps } else { frame.get(inner).copied().unwrap_or(1) };
            }
            n = steps.saturating_mul(stride);
        }
        found.push(Region { corner, size });
        at = at.saturating_add(n);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_128;

    use super::super::place::{Coding, Place, Stored, row_major};
    use super::super::source::{Stretch, look};
    use super::super::{Dtype, Manifest, SourceFile, TensorInfo};
    use super::*;

    /// How a piece is stored: which dimension is innermost there, how much stands between, where,
    /// and whether bytes are swapped.
    type How = (usize, usize, usize, bool);

    /// A tensor of `u16`s as bf16, cut at `cut` along `dim`, its pieces in two files.
    fn stored(
        dir: &std::path::Path,
        frame: &[usize],
        dim: usize,
        cut: usize,
        how: [How; 2],
    ) -> (Manifest, Vec<u8>) {
        let n: usize = frame.iter().product();
        let value = |i: usize| u16::try_from(i.wrapping_mul(40_503) % 65_521).unwrap();
        let plain: Vec<u8> = (0..n).flat_map(|i| value(i).to_le_bytes()).collect();
        let strides = row_major(frame);
        let mut files = [Vec::new(), Vec::new()];
        let mut pieces = Vec::new();
        for (file, (inner, gap, lead, swap)) in how.into_iter().enumerate() {
            let (mut corner, mut size) = (vec![0; frame.len()], frame.to_vec());
            let parts = [(0, cut), (cut, frame[dim] - cut)];
            (corner[dim], size[dim]) = parts[file];
            let mut order: Vec<usize> = (0..frame.len()).collect();
            order.rotate_left(inner % frame.len());
            let mut own = vec![0; frame.len()];
            let mut step = 1 + gap;
            for d in order.iter().rev() {
                own[*d] = step;
                step = step * size[*d] + gap;
            }
            let n_stored = usize::try_from(extent(&size, &own)).unwrap();
            let mut bytes = vec![0xEE; 2 * (lead + n_stored)];
            for i in 0..size.iter().product() {
                let (mut rest, mut at, mut from) = (i, 0, 0);
                for (d, stride) in row_major(&size).iter().enumerate() {
                    let index = rest / stride;
                    rest %= stride;
                    at += (corner[d] + index) * strides[d];
                    from += index * own[d];
                }
                let coded = if swap { value(at).to_be_bytes() } else { value(at).to_le_bytes() };
                bytes[2 * (lead + from)..][..2].copy_from_slice(&coded);
            }
            files[file] = bytes;
            let coding = if swap { Coding::Big } else { Coding::Little };
            let (offset, n_bytes) = (2 * lead as u64, 2 * n_stored as u64);
            let stored = Stored { file, offset, n_bytes, coding };
            let (corner, size, strides) = (corner.into(), size.into(), own.into());
            pieces.push(Piece { corner, size, strides, stored });
        }
        let files = files.into_iter().enumerate().map(|(i, bytes)| {
            let path = dir.join(i.to_string());
            fs::write(&path, bytes).unwrap();
            let identity = look(&path).unwrap();
            SourceFile { path, identity, ..SourceFile::default() }
        });
        let tensor = TensorInfo {
            name: "w".into(),
            dtype: Dtype::BF16,
            shape: frame.to_vec(),
            place: Place::gathered(frame, pieces).unwrap(),
            n_bytes: 2 * n as u64,
        };
        (Manifest { files: files.collect(), tensors: vec![tensor], ..Manifest::default() }, plain)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_range_of_any_pieces_is_what_the_tensor_holds(
            frame in prop::collection::vec(1..9_usize, 1..4),
            scale in prop::sample::select(vec![1, 1, 40]),
            dim in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
            how in any::<[(u8, u8, u8, bool); 2]>(),
            ends in any::<[prop::sample::Index; 2]>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut frame = frame;
            frame[0] *= scale;
            let dim = dim.index(frame.len());
            let cut = cut.index(frame[dim] + 1);
            let how = how.map(|(a, b, c, swap)| (a.into(), usize::from(b % 3), c.into(), swap));
            let (manifest, plain) = stored(dir.path(), &frame, dim, cut, how);
            let tensor = &manifest.tensors[0];
            let raw = manifest.read_raw(tensor, None, &mut |_| {}).unwrap();
            prop_assert!(raw.bytes() == plain);
            let mut reader = manifest.reader(tensor).unwrap();
            reader.stretch = Stretch { n_bytes: 16, longest: Duration::from_mins(1) };
            prop_assert_eq!(reader.hash(&mut |_| {}).unwrap(), xxh3_128(&plain));
            prop_assert_eq!(raw.hash(), xxh3_128(&plain));
            let mut ends = ends.map(|end| end.index(tensor.n_elements() + 1));
            ends.sort_unstable();
            let mut bytes = Vec::<u8>::new();
            let mut each = |piece: &[u8]| bytes.extend(piece);
            reader.elements(ends[0]..ends[1], &mut each, &mut |_| {}).unwrap();
            prop_assert!(bytes == plain[2 * ends[0]..2 * ends[1]]);
        }
    }

    #[test]
    fn ranges_of_numbers_are_boxes_in_order() {
        let frame = [3, 4, 5];
        for n_most in [1, 3, 5, 7, 20, 33, 1000] {
            for start in 0..60 {
                for end in start..=60 {
                    let mut at = start;
                    for region in regions(start..end, &frame, n_most) {
                        let strides = row_major(&frame);
                        let first: usize =
                            region.corner.iter().zip(&strides).map(|(c, s)| c * s).sum();
                        assert_eq!(first, at, "{start}..{end} by {n_most}: {region:?}");
                        let last: usize = (region.corner.iter().zip(&region.size))
                            .zip(&strides)
                            .map(|((c, n), s)| (c + n - 1) * s)
                            .sum();
                        assert_eq!(last + 1 - first, region.n_elements(), "one run");
                        at += region.n_elements();
                    }
                    assert_eq!(at, end);
                }
            }
        }
    }

    #[test]
    fn a_large_transposed_matrix_is_read_in_long_runs() {
        let dir = tempfile::tempdir().unwrap();
        let how = [(1, 0, 3, false), (1, 0, 0, true)];
        let (manifest, plain) = stored(dir.path(), &[900, 1200], 1, 700, how);
        let mut n_pauses = 0;
        let mut pause = |_| n_pauses += 1;
        let tensor = &manifest.tensors[0];
        assert!(manifest.read_raw(tensor, None, &mut pause).unwrap().bytes() == plain);
        assert_eq!(n_pauses, 2, "once for each file");
        let mut bytes = Vec::<u8>::new();
        let mut each = |piece: &[u8]| bytes.extend(piece);
        manifest.read_elements(tensor, 1201..900_000, &mut each, &mut |_| {}).unwrap();
        assert!(bytes == plain[2402..1_800_000]);
    }
}
