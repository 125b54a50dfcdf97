//! Blocks of stored tensors as matrices that are decoded panel by panel.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use faer::MatRef;

use super::observer::Observer;
use super::sums::{Place, Sums};
use crate::checkpoint::{Dtype, Manifest, Raw, ReadError, TensorInfo};
use crate::linalg::{LinalgError, Panels, Side, Squares, StoredGram};
use crate::model::{Layout, Span, Spans, View};

/// Bytes of a file read at a time for a tensor that is not kept: 16 MiB.
const FILE_BLOCK: usize = 1 << 24;

/// Bytes of a cache line: products of panels that begin inside one take up to a third longer.
const ALIGNMENT: usize = 64;

/// What reading of files has come to; shared by all that read from one store.
pub(super) struct Feed<'a> {
    /// Why a product ended early, for whoever started it.
    pub(super) failure: RefCell<Option<ReadError>>,
    /// Bytes of tensors read so far.
    pub(super) read_bytes: Cell<u64>,
    /// Told of bytes read while no file is open, and asked before each pass whether to go on.
    pub(super) observer: &'a dyn Observer,
}

impl Feed<'_> {
    /// Counts bytes that were read, and lets the observer sleep.
    pub(super) fn took(&self, bytes: u64) {
        self.read_bytes.set(self.read_bytes.get() + bytes);
        self.observer.has_read(bytes);
    }
}

/// Where the bytes of a tensor are.
#[derive(Clone)]
pub(super) enum Bytes<'a> {
    /// Kept.
    Memory(Arc<Raw>),
    /// In the file alone: more than the budget allows to keep.
    File(&'a Manifest),
}

/// A view of a tensor, in the orientation in which it is stored.
#[derive(Clone)]
pub(super) struct Stored<'a> {
    bytes: Bytes<'a>,
    feed: Rc<Feed<'a>>,
    info: &'a TensorInfo,
    /// Columns of the whole stored matrix.
    width: usize,
    rows: Spans,
    cols: Spans,
    /// Whether the matrix in output × input orientation is the transpose of what is stored.
    pub(super) transposed: bool,
    /// What values are multiplied with, a power of two.
    scale: f32,
    sums: Rc<RefCell<Sums>>,
}

impl<'a> Stored<'a> {
    pub(super) fn new(
        bytes: Bytes<'a>,
        feed: Rc<Feed<'a>>,
        info: &'a TensorInfo,
        view: &View,
        scale: f32,
        sums: Rc<RefCell<Sums>>,
    ) -> Self {
        let behind = info.shape.get(view.lead..).unwrap_or_default();
        let width = behind.iter().fold(1usize, |n, dim| n.saturating_mul(*dim));
        let (rows, cols) = (view.rows.clone(), view.cols.clone());
        let transposed = view.layout == Layout::InOut;
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        Self { bytes, feed, info, width, rows, cols, transposed, scale, sums }
    }

    /// All values, row by row as stored.
    pub(super) fn values(&self) -> Result<Vec<f32>, LinalgError> {
        let mut values = Vec::with_capacity(self.rows() * self.cols());
        self.for_slices(256, &mut |_, panel| values.extend_from_slice(panel))?;
        Ok(values)
    }

    /// Calls `each(first_row, values)` for consecutive panels of at most `n_rows` rows, row-major.
    pub(super) fn for_slices(
        &self,
        n_rows: usize,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), LinalgError> {
        let n_values = n_rows.max(1).min(self.rows()) * self.cols();
        let mut buffer = vec![0.0f32; n_values + ALIGNMENT / size_of::<f32>()];
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(buffer.len() - n_values);
        let panel = &mut buffer[start..];
        let mut first = 0;
        for span in &self.rows {
            // Blocks hold whole panels. Of rows with others between, the others are read as well.
            let panel_rows = n_rows.max(1) * span.step;
            self.for_blocks(span.start..span.end(), panel_rows, &mut |rows, bytes| {
                let mut at = 0;
                while at < rows {
                    let n = n_rows.max(1).min((rows - at).div_ceil(span.step));
                    let values = &mut panel[..n * self.cols()];
                    self.decode(&bytes[at * self.row_bytes()..], n, span.step, values);
                    each(first, values);
                    (at, first) = (at + n * span.step, first + n);
                }
            })?;
        }
        Ok(())
    }

    /// The whole tensor and the wanted columns, where its values can be used as they are stored.
    fn undecoded(&self) -> Option<(&[f32], Range<usize>)> {
        let Bytes::Memory(raw) = &self.bytes else { return None };
        let [Span { start, len, step: 1 }] = &*self.cols else { return None };
        let as_stored = cfg!(target_endian = "little")
            && self.dtype() == Dtype::F32
            && self.scale.to_bits() == 1.0f32.to_bits();
        let values = as_stored.then(|| bytemuck::try_cast_slice(raw.bytes()).ok())??;
        Some((values, *start..start + len))
    }

    /// The panels of [`Panels::for_panels`] as parts of the whole tensor.
    fn for_parts(
        &self,
        values: &[f32],
        columns: &Range<usize>,
        n_rows: usize,
        each: &mut dyn FnMut(usize, MatRef<'_, f32>),
    ) {
        let mut first = 0;
        for span in &self.rows {
            let stride = self.width * span.step;
            for at in (0..span.len).step_by(n_rows.max(1)) {
                let n = n_rows.max(1).min(span.len - at);
                let from = (span.start + at * span.step) * self.width + columns.start;
                let part = &values[from..from + (n - 1) * stride + columns.len()];
                let cols = columns.len();
                each(first, MatRef::from_row_major_slice_with_stride(part, n, cols, stride));
                first += n;
            }
        }
    }

    fn place(&self) -> Place {
        let (rows, cols) = (self.rows.clone(), self.cols.clone());
        Place { tensor: self.info.name.clone(), width: self.width, rows, cols }
    }

    fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    fn row_bytes(&self) -> usize {
        self.width * self.dtype().n_bytes()
    }

    /// Whole stored rows as bytes: all at once where they are kept, else block by block.
    fn for_blocks(
        &self,
        rows: Range<usize>,
        panel: usize,
        each: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), LinalgError> {
        let row = self.row_bytes();
        let manifest = match &self.bytes {
            Bytes::Memory(raw) => {
                each(rows.len(), &raw.bytes()[rows.start * row..rows.end * row]);
                return Ok(());
            }
            Bytes::File(manifest) => manifest,
        };
        // Whole panels, so that sums are split as they are for a tensor in memory.
        let step = (FILE_BLOCK / row.max(1) / panel).max(1) * panel;
        let mut block = Vec::with_capacity(step.min(rows.len()) * row);
        for start in rows.clone().step_by(step) {
            let n = step.min(rows.end - start);
            block.clear();
            let elements = start * self.width..(start + n) * self.width;
            let mut append = |piece: &[u8]| block.extend_from_slice(piece);
            let mut pause = |bytes| self.feed.took(bytes);
            if let Err(error) = manifest.read_elements(self.info, elements, &mut append, &mut pause)
            {
                self.feed.failure.borrow_mut().get_or_insert(error);
                return Err(LinalgError::Unread);
            }
            each(n, &block);
        }
        Ok(())
    }

    /// The wanted columns of `n` whole rows, each `step` behind the one before.
    fn decode(&self, bytes: &[u8], n: usize, step: usize, into: &mut [f32]) {
        let (size, row) = (self.dtype().n_bytes(), self.row_bytes());
        if let [all] = &*self.cols
            && *all == Span::from(0..self.width)
            && step == 1
        {
            return self.dtype().decode(&bytes[..n * row], self.scale, into);
        }
        let widest = self.cols.iter().filter(|c| c.step > 1).map(|c| c.end() - c.start).max();
        let mut between = vec![0.0; widest.unwrap_or(0)];
        let mut at = 0;
        for i in 0..n {
            for cols in &self.cols {
                let start = i * step * row;
                let from = &bytes[start + cols.start * size..start + cols.end() * size];
                let into = &mut into[at..at + cols.len];
                if cols.step == 1 {
                    self.dtype().decode(from, self.scale, into);
                } else {
                    let all = &mut between[..cols.end() - cols.start];
                    self.dtype().decode(from, self.scale, all);
                    for (value, picked) in into.iter_mut().zip(all.iter().step_by(cols.step)) {
                        *value = *picked;
                    }
                }
                at += cols.len;
            }
        }
    }
}

impl Panels for Stored<'_> {
    fn rows(&self) -> usize {
        self.rows.iter().map(|span| span.len).sum()
    }

    fn cols(&self) -> usize {
        self.cols.iter().map(|span| span.len).sum()
    }

    fn for_panels(
        &self,
        n_rows: usize,
        each: &mut dyn FnMut(usize, MatRef<'_, f32>),
    ) -> Result<(), LinalgError> {
        let cols = self.cols();
        if self.feed.observer.cancelled() {
            // Without a failure: the next look at the observer ends the analysis.
            return Err(LinalgError::Unread);
        }
        if let Some((values, columns)) = self.undecoded() {
            self.for_parts(values, &columns, n_rows, each);
            return Ok(());
        }
        self.for_slices(n_rows, &mut |first, values| {
            let n = values.len().checked_div(cols).unwrap_or(0);
            each(first, MatRef::from_row_major_slice(values, n, cols));
        })
    }

    fn squares(&self) -> Result<Rc<Squares>, LinalgError> {
        let place = self.place();
        let known = self.sums.borrow().squares_of(&place);
        let plain = if let Some(known) = known {
            known
        } else {
            let plain = Rc::new(Squares::of(self)?.times(1.0 / f64::from(self.scale)));
            self.sums.borrow_mut().keep_squares(place, Rc::clone(&plain));
            plain
        };
        let is_plain = self.scale.to_bits() == 1.0f32.to_bits();
        Ok(if is_plain { plain } else { Rc::new(plain.times(f64::from(self.scale))) })
    }

    fn gram(&self, side: Side) -> Result<Option<StoredGram>, LinalgError> {
        let key = (self.place(), side, self.scale.to_bits());
        if let Some(gram) = self.sums.borrow_mut().gram_of(&key) {
            return Ok(Some(StoredGram { gram, flops: 0 }));
        }
        let found = StoredGram::of(self, side)?;
        if let Some(found) = &found {
            self.sums.borrow_mut().keep_gram(key, Rc::clone(&found.gram));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype::F32;
    use safetensors::tensor::TensorView;

    use super::super::observer::Unobserved;
    use super::super::store::Store;
    use super::*;
    use crate::model::Operand;

    /// A checkpoint of one tensor that counts its elements.
    fn counted(shape: &[usize]) -> (tempfile::TempDir, Manifest) {
        let dir = tempfile::tempdir().unwrap();
        let n: u16 = shape.iter().product::<usize>().try_into().unwrap();
        let bytes: Vec<u8> = (0..n).flat_map(|x| f32::from(x).to_le_bytes()).collect();
        let view = TensorView::new(F32, shape.to_vec(), &bytes).unwrap();
        let path = dir.path().join("model.safetensors");
        safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
        let manifest = crate::checkpoint::open(&path).unwrap();
        (dir, manifest)
    }

    fn span(start: usize, len: usize, step: usize) -> Span {
        Span { start, len, step }
    }

    /// The stacked parts, by both ways to bytes (kept, and from the file) and both ways to values
    /// (whole, and row by row of products with unit vectors).
    fn check(shape: &[usize], parts: &[View], wanted: &[Vec<f64>]) {
        let (_dir, manifest) = counted(shape);
        for budget in [1 << 20, 8] {
            let mut store = Store::new(&manifest, budget, None, &Unobserved);
            let operand = Operand {
                parts: parts.iter().cloned().map(Into::into).collect(),
                transposed: false,
                gain: None,
                bias: Box::default(),
                label: "w".into(),
            };
            assert_eq!(operand.shape(), (wanted.len(), wanted[0].len()));
            let dense = store.operand(&operand).unwrap();
            let mat = dense.mat();
            for (i, row) in wanted.iter().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    let found = f64::from(mat[(i, j)]);
                    assert!((found - value).abs() < 1e-9, "{shape:?} ({i}, {j}): {found}, {value}");
                }
            }
            let mut at = 0;
            for part in parts {
                let stored = store.stored(part, 1.0).unwrap();
                for n in [1, 2, 64] {
                    let mut panels = Vec::new();
                    let each = &mut |first: usize, panel: MatRef<'_, f32>| {
                        assert_eq!(first, panels.len());
                        for i in 0..panel.nrows() {
                            panels.push(panel.row(i).iter().copied().map(f64::from).collect());
                        }
                    };
                    stored.for_panels(n, each).unwrap();
                    let upright: Vec<Vec<f64>> = if stored.transposed {
                        (0..stored.cols())
                            .map(|j| panels.iter().map(|row: &Vec<f64>| row[j]).collect())
                            .collect()
                    } else {
                        panels
                    };
                    assert_eq!(upright, wanted[at..at + upright.len()], "{shape:?}, panels of {n}");
                }
                at += part.n_rows();
            }
        }
    }

    fn view(layout: Layout, lead: usize, rows: Span, cols: Span) -> View {
        View { tensor: "w".into(), layout, lead, rows: vec![rows].into(), cols: vec![cols].into() }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few hundred elements")]
    fn real(n: usize) -> f64 {
        n as f64
    }

    /// The kernel O × I × K read position by position: rows (k, o), columns i.
    #[test]
    fn a_kernel_is_read_at_each_position_of_its_window() {
        let (o, i, k) = (4, 3, 6);
        let parts: Vec<View> =
            (0..k).map(|p| view(Layout::OutIn, 1, span(0, o, 1), span(p, i, k))).collect();
        let element = |p: usize, row: usize, col: usize| real((row * i + col) * k + p);
        let row = |p: usize, r: usize| (0..i).map(|c| element(p, r, c)).collect();
        let wanted: Vec<Vec<f64>> =
            (0..k).flat_map(|p| (0..o).map(move |r| (p, r))).map(|(p, r)| row(p, r)).collect();
        check(&[o, i, 2, 3], &parts, &wanted);
    }

    /// Expert 1 of E × D × 2I, whose gate stands in even columns and up in odd ones.
    #[test]
    fn one_expert_of_alternating_gate_and_up_is_read_alone() {
        let (experts, d, inner) = (3, 5, 4);
        for odd in [0, 1] {
            let part = view(Layout::InOut, 2, span(odd, inner, 2), span(d, d, 1));
            let element = |r: usize, c: usize| real((d + c) * 2 * inner + 2 * r + odd);
            let wanted: Vec<Vec<f64>> =
                (0..inner).map(|r| (0..d).map(|c| element(r, c)).collect()).collect();
            check(&[experts, d, 2 * inner], &[part], &wanted);
        }
    }

    /// Even rows before odd ones: what a position rotates together stands half a head apart.
    #[test]
    fn every_other_row_is_read_without_the_ones_between() {
        let rows = |start: usize| view(Layout::OutIn, 1, span(start, 4, 2), span(1, 2, 1));
        let wanted: Vec<Vec<f64>> = [0, 2, 4, 6, 1, 3, 5, 7]
            .iter()
            .map(|r| vec![real(r * 4 + 1), real(r * 4 + 2)])
            .collect();
        check(&[9, 4], &[rows(0), rows(1)], &wanted);
    }

    #[test]
    fn bytes_of_other_experts_are_not_read_from_a_file() {
        let (_dir, manifest) = counted(&[8, 4, 4]);
        let mut store = Store::new(&manifest, 8, None, &Unobserved);
        let one = view(Layout::OutIn, 2, span(12, 4, 1), span(0, 4, 1));
        let before = store.read_bytes();
        assert_eq!(store.view(&one).unwrap().values()[0].to_bits(), 48.0f32.to_bits());
        assert_eq!(store.read_bytes() - before, 4 * 16);
    }
}
