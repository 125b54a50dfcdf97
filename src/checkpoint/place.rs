//! Where a tensor's elements lie: in one run, or in pieces that have to be gathered.

use super::Dtype;

/// Pieces of all tensors of one checkpoint; a state of a thousand tensors over 256 ranks has as many.
pub(super) const MAX_PIECES: usize = 1 << 18;
/// Pairs of pieces of one tensor that are compared. Cut along one dimension, no two are side by side;
/// forty thousand in a cube of three are so some twenty million times.
const MAX_COMPARED: usize = 1 << 25;

/// Where the elements of a tensor lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One after another in row-major order and little-endian.
    Run {
        /// Index into [`Manifest::files`](super::Manifest::files).
        file: usize,
        /// First byte, from the start of the file.
        offset: u64,
    },
    /// In pieces, each stored in its own way.
    Pieces(Box<Pieces>),
}

/// The pieces of a tensor: boxes that fill a frame without overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Dimensions in which the boxes are told; their product is that of the tensor's shape. That of
    /// a tensor cut without regard to its shape is its length.
    frame: Box<[usize]>,
    pieces: Box<[Piece]>,
}

/// One box of a tensor and where its elements lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// First index of the box in every dimension of the frame.
    pub(super) corner: Box<[usize]>,
    /// Dimensions of the box.
    pub(super) size: Box<[usize]>,
    /// How many stored elements apart neighbours in that dimension are.
    pub(super) strides: Box<[usize]>,
    pub(super) stored: Stored,
}

/// A row of stored elements in a file; numbers of elements count from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Index into [`Manifest::files`](super::Manifest::files).
    pub(super) file: usize,
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) n_bytes: u64,
    pub(super) coding: Coding,
}

/// How stored elements become those of the tensor's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// They are the same.
    Little,
    /// The same, with the most significant byte first.
    Big,
    /// Blocks of 32, each a scale in binary16 before signed bytes; they are read as `F32`.
    Q8_0,
    /// One compressed stream.
    Deflated(Deflated),
}

/// A deflate stream with elements in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deflated {
    /// Bytes that come out of it, and how many of them before the first element.
    pub(super) n_bytes: u64,
    pub(super) n_before: u64,
    /// Whether the most significant byte of an element stands first.
    pub(super) is_big: bool,
}

/// Elements and bytes of a block.
pub(super) const BLOCK_Q8_0: usize = 32;
pub(super) const N_BLOCK_Q8_0: usize = 34;

impl Coding {
    /// How many elements of a type so many bytes hold.
    fn n_elements(self, n_bytes: u64, dtype: Dtype) -> u64 {
        let per_element =
            |n_bytes: u64| n_bytes.checked_div(dtype.n_bytes() as u64).unwrap_or_default();
        match self {
            Self::Little | Self::Big => per_element(n_bytes),
            Self::Q8_0 => {
                let n_blocks = n_bytes.checked_div(N_BLOCK_Q8_0 as u64).unwrap_or_default();
                n_blocks.saturating_mul(BLOCK_Q8_0 as u64)
            }
            Self::Deflated(Deflated { n_bytes, n_before, .. }) => {
                per_element(n_bytes.saturating_sub(n_before))
            }
        }
    }
}

impl Piece {
    /// What it holds of the one slice at that index of the first dimension, without that dimension.
    ///
    /// `width` is the number of bytes of a stored element.
    pub(super) fn slice(&self, index: usize, width: u64) -> Option<Self> {
        let (from, corner) = self.corner.split_first()?;
        let (n, size) = self.size.split_first()?;
        let (stride, strides) = self.strides.split_first()?;
        let at = index.checked_sub(*from).filter(|at| at < n)?;
        let Stored { file, offset, n_bytes, coding } = self.stored;
        // Elsewhere the first byte of an element is not found by counting.
        if !matches!(coding, Coding::Little | Coding::Big) {
            return None;
        }
        let skipped = (at as u64).checked_mul(*stride as u64)?.checked_mul(width)?;
        let (offset, n_bytes) = (offset.checked_add(skipped)?, n_bytes.checked_sub(skipped)?);
        Some(Self {
            corner: corner.into(),
            size: size.into(),
            strides: strides.into(),
            stored: Stored { file, offset, n_bytes, coding },
        })
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::Run { file: 0, offset: 0 }
    }
}

impl Place {
    /// A tensor in one piece, with strides.
    pub(super) fn strided(shape: &[usize], strides: &[usize], stored: Stored) -> Self {
        if stored.coding == Coding::Little && is_row_major(shape, strides) {
            return Self::Run { file: stored.file, offset: stored.offset };
        }
        let piece = Piece {
            corner: vec![0; shape.len()].into(),
            size: shape.into(),
            strides: strides.into(),
            stored,
        };
        Self::Pieces(Box::new(Pieces { frame: shape.into(), pieces: [piece].into() }))
    }

    /// A tensor of several pieces.
    ///
    /// # Errors
    /// In words, where they do not fill the frame or lie upon one another.
    pub(super) fn gathered(frame: &[usize], mut pieces: Vec<Piece>) -> Result<Self, String> {
        check_cover(frame, &mut pieces)?;
        if let [piece] = pieces.as_slice() {
            return Ok(Self::strided(frame, &piece.strides, piece.stored));
        }
        Ok(Self::Pieces(Box::new(Pieces { frame: frame.into(), pieces: pieces.into() })))
    }

    /// The same place in another file of the checkpoint.
    pub(super) fn move_to_file(&mut self, index: usize) {
        match self {
            Self::Run { file, .. } => *file = index,
            Self::Pieces(pieces) => {
                pieces.pieces.iter_mut().for_each(|piece| piece.stored.file = index);
            }
        }
    }

    /// First byte of a run, from the start of its file; 0 where there is no run.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Self::Run { offset, .. } => *offset,
            Self::Pieces(_) => 0,
        }
    }

    /// The files that hold it, by their index in [`Manifest::files`](super::Manifest::files).
    pub fn files(&self) -> impl Iterator<Item = usize> {
        let (run, pieces) = match self {
            Self::Run { file, .. } => (Some(*file), None),
            Self::Pieces(pieces) => (None, Some(pieces.pieces.iter())),
        };
        run.into_iter().chain(pieces.into_iter().flatten().map(|piece| piece.stored.file))
    }
}

impl Pieces {
    pub(super) fn frame(&self) -> &[usize] {
        &self.frame
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether every element lies in its stored row, and that in its file.
    pub(super) fn is_sound(&self, dtype: Dtype, file_size: impl Fn(usize) -> Option<u64>) -> bool {
        self.pieces.iter().all(|piece| {
            let Stored { file, offset, n_bytes, coding } = piece.stored;
            let end = offset.checked_add(n_bytes);
            let in_file = file_size(file).zip(end).is_some_and(|(size, end)| end <= size);
            let same_rank = [&piece.corner, &piece.size, &piece.strides]
                .map(|side| side.len() == self.frame.len());
            let n_stored = coding.n_elements(n_bytes, dtype);
            in_file
                && !same_rank.contains(&false)
                && extent(&piece.size, &piece.strides) <= n_stored
        })
    }
}

/// The row-major strides of a shape.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    let mut step = 1_usize;
    for (stride, dim) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.saturating_mul(*dim);
    }
    strides
}

/// Whether those strides are the row-major ones wherever they matter.
pub(super) fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    shape.contains(&0)
        || row_major(shape)
            .iter()
            .zip(strides)
            .zip(shape)
            .all(|((expected, stride), dim)| *dim == 1 || expected == stride)
}

/// How many stored elements a box spans from its first to its last; `u64::MAX` if that overflows.
pub(super) fn extent(size: &[usize], strides: &[usize]) -> u64 {
    if size.contains(&0) {
        return 0;
    }
    let far = |(dim, stride): (&usize, &usize)| {
        (*dim as u64).saturating_sub(1).checked_mul(*stride as u64)
    };
    let mut far = size.iter().zip(strides).map(far);
    let last = far.try_fold(0_u64, |sum, far| sum.checked_add(far?));
    last.and_then(|last| last.checked_add(1)).unwrap_or(u64::MAX)
}

fn volume(size: &[usize]) -> u64 {
    size.iter().fold(1_u64, |n, dim| n.saturating_mul(*dim as u64))
}

/// Sorts the pieces by their first index; drops those without elements.
fn check_cover(frame: &[usize], pieces: &mut Vec<Piece>) -> Result<(), String> {
    pieces.retain(|piece| !piece.size.contains(&0));
    let inside = |piece: &Piece| {
        piece.corner.len() == frame.len()
            && piece.size.len() == frame.len()
            && piece.corner.iter().zip(&piece.size).zip(frame).all(|((corner, size), dim)| {
                corner.checked_add(*size).is_some_and(|end| end <= *dim)
            })
    };
    if let Some(outside) = pieces.iter().find(|piece| !inside(piece)) {
        let Piece { corner, size, .. } = outside;
        return Err(format!(
            "found a piece of {size:?} at {corner:?}, expected it within {frame:?}"
        ));
    }
    let n_found = pieces.iter().fold(0_u64, |n, piece| n.saturating_add(volume(&piece.size)));
    let n_expected = volume(frame);
    if n_found != n_expected {
        return Err(format!("found pieces of {n_found} elements, expected {n_expected}"));
    }
    pieces.sort_unstable_by(|a, b| a.corner.cmp(&b.corner));
    check_apart(frame, pieces)
}

/// Whether no two pieces lie upon one another. Only those are compared that stand side by side in the
/// dimension in which fewest do: along it a tensor is cut.
fn check_apart(frame: &[usize], pieces: &[Piece]) -> Result<(), String> {
    let side = |piece: &Piece, dim: usize| match (piece.corner.get(dim), piece.size.get(dim)) {
        (Some(corner), Some(size)) => (*corner, corner.saturating_add(*size)),
        _ => (0, usize::MAX),
    };
    let n_beside = |dim: usize| {
        let (mut starts, mut ends): (Vec<usize>, Vec<usize>) =
            pieces.iter().map(|piece| side(piece, dim)).unzip();
        starts.sort_unstable();
        ends.sort_unstable();
        let (mut n, mut n_ended) = (0_usize, 0_usize);
        for (n_begun, start) in starts.iter().enumerate() {
            while ends.get(n_ended).is_some_and(|end| end <= start) {
                n_ended = n_ended.saturating_add(1);
            }
            n = n.saturating_add(n_begun.saturating_sub(n_ended));
        }
        n
    };
    let Some((n, dim)) = (0..frame.len()).map(|dim| (n_beside(dim), dim)).min() else {
        return Ok(());
    };
    if n > MAX_COMPARED {
        let n_pieces = pieces.len();
        return Err(format!("found {n_pieces} pieces across one another, expected them in a row"));
    }
    let meet = |a: &Piece, b: &Piece| {
        let sides = a.corner.iter().zip(&a.size).zip(b.corner.iter().zip(&b.size));
        sides.into_iter().all(|((ac, an), (bc, bn))| {
            *ac < bc.saturating_add(*bn) && *bc < ac.saturating_add(*an)
        })
    };
    let mut order: Vec<&Piece> = pieces.iter().collect();
    order.sort_by_key(|piece| side(piece, dim).0);
    for (at, piece) in order.iter().enumerate() {
        // Those that begin behind its end cannot meet it, nor can any later.
        let (_, end) = side(piece, dim);
        let later = order.iter().skip(at.saturating_add(1));
        let near = later.take_while(|other| side(other, dim).0 < end);
        if let Some(other) = near.into_iter().find(|other| meet(piece, other)) {
            return Err(format!(
                "found pieces at {:?} and {:?} upon one another, expected them apart",
                piece.corner, other.corner
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(corner: &[usize], size: &[usize]) -> Piece {
        let stored = Stored { file: 0, offset: 0, n_bytes: 1 << 20, coding: Coding::Little };
        Piece { corner: corner.into(), size: size.into(), strides: row_major(size).into(), stored }
    }

    #[test]
    fn pieces_fill_their_frame_once() {
        let check = |pieces: &[(&[usize], &[usize])], expected: &str| {
            let pieces = pieces.iter().map(|(corner, size)| piece(corner, size)).collect();
            match Place::gathered(&[4, 6], pieces) {
                Ok(_) => assert_eq!(expected, ""),
                Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{why}"),
            }
        };
        check(&[(&[0, 0], &[4, 6])], "");
        check(
            &[(&[0, 3], &[4, 3]), (&[0, 0], &[2, 3]), (&[2, 0], &[2, 3]), (&[4, 0], &[0, 6])],
            "",
        );
        check(&[(&[0, 0], &[4, 5])], "20 elements, expected 24");
        check(&[(&[0, 0], &[4, 7])], "within [4, 6]");
        check(&[(&[0, 0], &[4])], "within [4, 6]");
        check(&[(&[0, 0], &[4, 3]), (&[0, 2], &[4, 3])], "upon one another");
        check(&[(&[usize::MAX, 0], &[2, 6])], "within [4, 6]");
        assert!(Place::gathered(&[], vec![piece(&[], &[])]).is_ok(), "a scalar");
    }

    #[test]
    fn only_other_orders_are_pieces() {
        let stored = piece(&[0], &[1]).stored;
        assert_eq!(Place::strided(&[3, 1, 4], &[4, 99, 1], stored), Place::default());
        assert!(matches!(Place::strided(&[3, 4], &[1, 3], stored), Place::Pieces(_)));
        let big = Stored { coding: Coding::Big, ..stored };
        assert!(matches!(Place::strided(&[3, 4], &[4, 1], big), Place::Pieces(_)));
        assert_eq!(extent(&[3, 4], &[1, 3]), 12);
        assert_eq!(extent(&[3, 0], &[usize::MAX, 3]), 0);
        assert_eq!(extent(&[3, 2], &[usize::MAX, 3]), u64::MAX);
    }
}
