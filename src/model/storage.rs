//! How shapes of any number of dimensions are matrices.

use serde::Deserialize;

use super::view::{Layout, Window};

/// How a tensor stores its matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// Output × input, as `torch.nn.Linear`.
    OutIn,
    /// Input × output, as GPT-2's `Conv1D` and Keras kernels.
    InOut,
    /// Output × input × window, the kernel of a convolution in one, two or three dimensions (torch).
    Oihw,
    /// Window × input × output, the same of Flax and Keras.
    Hwio,
    /// Expert × output × input.
    PackedOutIn,
    /// Expert × input × output.
    PackedInOut,
    /// Input × head × rows of a head (Flax and Keras attention).
    InHeadDim,
    /// Head × rows of a head × output: the attention output of the same.
    HeadDimOut,
}

/// A tensor's shape as one matrix, or as many as there are experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folded {
    /// How the folded matrix is stored.
    pub(super) layout: Layout,
    /// Leading dimensions that make its stored rows.
    pub(super) lead: usize,
    /// Experts, each with a run of stored rows of its own.
    pub(super) experts: Option<usize>,
    /// Output rows, of one expert.
    pub(super) out: usize,
    /// Input columns, of one expert; those of a kernel are as many as channels times positions.
    pub(super) cols: usize,
    /// Positions of a kernel's window, and how they stand; 1 for all else.
    pub(super) positions: usize,
    pub(super) window: Window,
}

impl Storage {
    /// The same of a tensor stored the other way round, as Flax and Keras store torch's.
    pub(super) fn transposed(self) -> Self {
        match self {
            Self::OutIn => Self::InOut,
            Self::InOut => Self::OutIn,
            Self::Oihw => Self::Hwio,
            Self::Hwio => Self::Oihw,
            Self::PackedOutIn => Self::PackedInOut,
            Self::PackedInOut => Self::PackedOutIn,
            same @ (Self::InHeadDim | Self::HeadDimOut) => same,
        }
    }

    /// A shape as matrices; `None` where it has another number of dimensions or an empty one.
    pub(super) fn fold(self, shape: &[usize]) -> Option<Folded> {
        if shape.contains(&0) {
            return None;
        }
        let product = |dims: &[usize]| dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let plain = |layout, lead, out, cols| Folded {
            layout,
            lead,
            experts: None,
            out,
            cols,
            positions: 1,
            window: Window::Inner,
        };
        Some(match (self, shape) {
            (Self::OutIn, &[out, cols]) => plain(Layout::OutIn, 1, out, cols),
            (Self::InOut, &[cols, out]) => plain(Layout::InOut, 1, out, cols),
            (Self::Oihw, [out, channels, window @ ..]) if (1..=3).contains(&window.len()) => {
                let positions = product(window)?;
                let cols = channels.checked_mul(positions)?;
                Folded { positions, ..plain(Layout::OutIn, 1, *out, cols) }
            }
            (Self::Hwio, [window @ .., channels, out]) if (1..=3).contains(&window.len()) => {
                let positions = product(window)?;
                let cols = channels.checked_mul(positions)?;
                let folded = plain(Layout::InOut, window.len() + 1, *out, cols);
                Folded { positions, window: Window::Outer, ..folded }
            }
            (Self::PackedOutIn, &[experts, out, cols]) => {
                Folded { experts: Some(experts), ..plain(Layout::OutIn, 2, out, cols) }
            }
            (Self::PackedInOut, &[experts, cols, out]) => {
                Folded { experts: Some(experts), ..plain(Layout::InOut, 2, out, cols) }
            }
            (Self::InHeadDim, &[cols, heads, dim]) => {
                plain(Layout::InOut, 1, heads.checked_mul(dim)?, cols)
            }
            (Self::HeadDimOut, &[heads, dim, out]) => {
                plain(Layout::InOut, 2, out, heads.checked_mul(dim)?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fold_to_output_by_input() {
        use Layout::{InOut, OutIn};
        for (storage, shape, layout, lead, sides, positions) in [
            (Storage::OutIn, &[5, 7][..], OutIn, 1, (5, 7), 1),
            (Storage::InOut, &[5, 7], InOut, 1, (7, 5), 1),
            (Storage::Oihw, &[5, 7, 3], OutIn, 1, (5, 21), 3),
            (Storage::Oihw, &[5, 7, 3, 2], OutIn, 1, (5, 42), 6),
            (Storage::Hwio, &[3, 2, 7, 5], InOut, 3, (5, 42), 6),
            (Storage::PackedOutIn, &[4, 5, 7], OutIn, 2, (5, 7), 1),
            (Storage::PackedInOut, &[4, 5, 7], InOut, 2, (7, 5), 1),
            (Storage::InHeadDim, &[7, 2, 3], InOut, 1, (6, 7), 1),
            (Storage::HeadDimOut, &[2, 3, 7], InOut, 2, (7, 6), 1),
        ] {
            let folded = storage.fold(shape).unwrap();
            assert_eq!((folded.layout, folded.lead), (layout, lead), "{storage:?}");
            assert_eq!(((folded.out, folded.cols), folded.positions), (sides, positions));
            let n: usize = shape.iter().product();
            assert_eq!(n, folded.out * folded.cols * folded.experts.unwrap_or(1), "{storage:?}");
        }
    }

    #[test]
    fn other_shapes_are_no_matrices() {
        let empty: [&[usize]; 4] = [&[], &[3], &[0, 3], &[2, 0, 3]];
        for shape in empty {
            for storage in [Storage::OutIn, Storage::Oihw, Storage::Hwio, Storage::PackedOutIn] {
                assert_eq!(storage.fold(shape), None, "{storage:?} {shape:?}");
            }
        }
        assert_eq!(Storage::OutIn.fold(&[2, 3, 4]), None);
        assert_eq!(Storage::Oihw.fold(&[2, 3]), None, "no window");
        assert_eq!(Storage::Oihw.fold(&[2, 3, 1, 1, 1, 1]), None);
        assert_eq!(Storage::InHeadDim.fold(&[2, usize::MAX, 3]), None, "no product");
        assert_eq!(Storage::Oihw.fold(&[2, usize::MAX, 3]), None);
    }
}
