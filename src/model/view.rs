//! Blocks of stored tensors, and what they are stacked to.

use std::sync::Arc;

use super::spans::{Span, Spans};
use crate::checkpoint::Text;

/// Number of positions.
pub(super) fn total(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len).sum()
}

/// Positions `wanted` of the concatenation of `spans`, again as spans.
pub(super) fn sub_spans(spans: &[Span], wanted: Span) -> Spans {
    let step = wanted.step.max(1);
    let mut passed = 0usize;
    let mut out = Vec::new();
    for span in spans {
        let first = passed.saturating_sub(wanted.start).div_ceil(step);
        let behind = (passed + span.len).saturating_sub(wanted.start).div_ceil(step);
        let behind = behind.min(wanted.len);
        if first < behind {
            out.push(Span {
                start: span.start + (wanted.start + first * step - passed) * span.step,
                len: behind - first,
                step: span.step * step,
            });
        }
        passed += span.len;
    }
    out.into()
}

/// How a matrix is stored once leading and trailing dimensions are folded into two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Output × input, as `torch.nn.Linear`.
    OutIn,
    /// Input × output, as GPT-2's `Conv1D` and Keras kernels.
    InOut,
}

/// A block of a stored matrix, in the output × input frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Tensor that holds it.
    pub tensor: Text,
    /// How the tensor is stored.
    pub layout: Layout,
    /// How many of its leading dimensions make the stored rows, at least 1; the others make the
    /// stored columns.
    pub lead: usize,
    /// Output rows, in order.
    pub rows: Spans,
    /// Input columns, in order.
    pub cols: Spans,
}

impl View {
    /// Number of output rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        total(&self.rows)
    }

    /// Number of input columns.
    #[must_use]
    pub fn n_cols(&self) -> usize {
        total(&self.cols)
    }

    /// The same columns, with the rows `rows` of this view's own numbering.
    pub(super) fn with_rows(&self, rows: &[Span]) -> Self {
        let rows = rows.iter().flat_map(|span| sub_spans(&self.rows, *span).to_vec()).collect();
        Self { rows, ..self.clone() }
    }

    /// The same rows, with the columns `cols` of this view's own numbering.
    pub(super) fn with_cols(&self, cols: impl Into<Span>) -> Self {
        Self { cols: sub_spans(&self.cols, cols.into()), ..self.clone() }
    }
}

/// Which input columns of a kernel belong to one position of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// Each channel's positions stand together: O × (I·K), as torch stores kernels and flattens
    /// images.
    Inner,
    /// Each position's channels stand together: (K·I) × O, as Flax and Keras do.
    Outer,
}

impl Window {
    /// The blocks of `view`, one a position, each with one column a channel. Together they are the
    /// (O·K) × I matrix that reads the channels; the order of rows is of no account.
    pub(super) fn positions(self, view: &View, n: usize) -> Vec<Arc<View>> {
        let channels = view.n_cols() / n.max(1);
        let cols = |p: usize| match self {
            Self::Inner => Span { start: p, len: channels, step: n },
            Self::Outer => Span { start: p * channels, len: channels, step: 1 },
        };
        (0..n).map(|p| view.with_cols(cols(p)).into()).collect()
    }
}

/// A norm layer's gain, to be folded into the columns of the reader behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gain {
    /// Tensor of length m.
    pub tensor: Text,
    /// Whether the layer multiplies by 1 + gain (Gemma).
    pub one_plus: bool,
}

/// Part of a bias, whatever its dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BiasView {
    /// Tensor that holds it.
    pub tensor: Text,
    /// Elements, in order.
    pub rows: Spans,
    /// Whether what it shifts is used plus 1, so that 1 belongs to it (the `up` of GPT-OSS).
    pub plus_one: bool,
}

impl BiasView {
    /// Elements `rows` of this view's own numbering.
    pub(super) fn with_rows(&self, rows: &[Span]) -> Self {
        let rows = rows.iter().flat_map(|span| sub_spans(&self.rows, *span).to_vec()).collect();
        Self { rows, ..self.clone() }
    }
}

/// One side of a pair: blocks stacked by rows, each transposed first if `transposed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// Blocks; a whole matrix is one with that of the [`Matrix`](super::Matrix) itself.
    pub parts: Box<[Arc<View>]>,
    /// Whether each block is transposed before it is stacked.
    pub transposed: bool,
    /// Gain to fold into the columns, on readers of a stream.
    pub gain: Option<Box<Gain>>,
    /// Biases on the shared space, where a law needs them: one, or one a head of a group.
    pub bias: Box<[BiasView]>,
    /// What to call it.
    pub label: Text,
}

impl Operand {
    pub(super) fn new(label: impl Into<Text>, view: impl Into<Arc<View>>) -> Self {
        Self::stacked(label, vec![view.into()])
    }

    pub(super) fn stacked(label: impl Into<Text>, parts: Vec<Arc<View>>) -> Self {
        let (parts, bias) = (parts.into(), Box::default());
        Self { parts, transposed: false, gain: None, bias, label: label.into() }
    }

    pub(super) fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    pub(super) fn with_gain(mut self, gain: Option<Gain>) -> Self {
        self.gain = gain.map(Box::new);
        self
    }

    pub(super) fn with_bias(mut self, bias: Option<BiasView>) -> Self {
        self.bias = bias.into_iter().collect();
        self
    }

    /// A block without a name of its own.
    #[must_use]
    pub fn of_view(view: &View) -> Self {
        Self::new(view.tensor.clone(), view.clone())
    }

    /// Its blocks.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.parts.iter().map(AsRef::as_ref)
    }

    /// Rows and columns as an operand.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        let sides = |v: &View| {
            if self.transposed { (v.n_cols(), v.n_rows()) } else { (v.n_rows(), v.n_cols()) }
        };
        let cols = self.parts.first().map_or(0, |v| sides(v).1);
        (self.parts.iter().map(|v| sides(v).0).sum(), cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(spans: &[Span]) -> Vec<usize> {
        spans.iter().flat_map(Span::positions).collect()
    }

    /// Against the list of positions itself, for many lists and many parts of them.
    #[test]
    fn a_part_of_spans_is_that_of_their_positions() {
        let span = |start, len, step| Span { start, len, step };
        let lists: [&[Span]; 4] = [
            &[span(3, 5, 1)],
            &[span(10, 4, 1), span(2, 3, 2), span(30, 0, 1), span(40, 6, 3)],
            &[span(0, 1, 1), span(5, 1, 7), span(9, 1, 1)],
            &[],
        ];
        for spans in lists {
            let whole = all(spans);
            for start in 0..=whole.len() {
                for step in 1..4 {
                    for len in 0..=whole.len() {
                        let wanted = span(start, len, step);
                        let expected: Vec<usize> =
                            wanted.positions().filter_map(|i| whole.get(i).copied()).collect();
                        assert_eq!(
                            all(&sub_spans(spans, wanted)),
                            expected,
                            "{spans:?} {wanted:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn spans_are_written_as_ranges() {
        let text = |span: Span| format!("{span:?}");
        assert_eq!(text((2..5).into()), "2..5");
        assert_eq!(text(Span { start: 1, len: 3, step: 2 }), "1..6:2");
        assert_eq!(text(Span { start: 4, len: 0, step: 2 }), "4..4:2");
    }

    /// The kernel of 2 outputs, 3 channels and 4 positions: column of (channel, position) by hand.
    #[test]
    fn a_window_has_one_column_a_channel() {
        let view = View {
            tensor: "w".into(),
            layout: Layout::OutIn,
            lead: 1,
            rows: (0..2).into(),
            cols: (0..12).into(),
        };
        let cols = |window: Window| -> Vec<Vec<usize>> {
            window.positions(&view, 4).iter().map(|v| all(&v.cols)).collect()
        };
        assert_eq!(cols(Window::Inner), [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]);
        assert_eq!(cols(Window::Outer), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]);
    }
}
