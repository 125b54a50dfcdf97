//! Tensors and operands of one checkpoint as matrices, under a memory budget.

use std::ops::Range;
use std::sync::Arc;

use faer::MatRef;

use crate::checkpoint::{Dtype, Manifest, ReadError, Tensor};
use crate::model::{BiasView, Layout, Operand, View};

/// How far a single tensor may exceed the budget: the embedding of a model with 128 thousand tokens
/// and 4096 dimensions takes 2 GiB.
const ONE_TENSOR: u64 = 4;

/// Decoded tensors of one checkpoint, the latest used kept while they fit the budget.
#[derive(Debug)]
pub(super) struct Store<'a> {
    manifest: &'a Manifest,
    budget: u64,
    /// Oldest use first.
    kept: Vec<(String, Arc<Tensor>)>,
    read_bytes: u64,
}

impl<'a> Store<'a> {
    pub(super) fn new(manifest: &'a Manifest, budget: u64) -> Self {
        Self { manifest, budget, kept: Vec::new(), read_bytes: 0 }
    }

    /// Bytes of tensors read from files so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    pub(super) fn dtype(&self, tensor: &str) -> Option<Dtype> {
        self.manifest.find(tensor).map(|t| t.dtype)
    }

    /// Spacing of the stored type, of the coarsest tensor of the operand. Values are measured as
    /// f32, so f64 tensors are no finer than that.
    pub(super) fn storage_eps(&self, views: &[View]) -> f64 {
        let of = |v: &View| self.dtype(&v.tensor).and_then(Dtype::storage_eps);
        views.iter().filter_map(of).fold(f64::from(f32::EPSILON), f64::max)
    }

    /// Whether a tensor can be decoded: the budget is for what is kept, one tensor may exceed it
    /// [`ONE_TENSOR`] times. A sparse file can state sizes that no memory holds.
    pub(super) fn fits(&self, tensor: &str) -> bool {
        let limit = self.budget.saturating_mul(ONE_TENSOR);
        self.manifest.find(tensor).is_some_and(|t| t.n_elements() as u64 <= limit / 4)
    }

    /// Why a tensor that does not fit is left out.
    pub(super) fn limit_reason(&self) -> String {
        let mib = self.budget.saturating_mul(ONE_TENSOR) >> 20;
        format!(
            "larger than {mib} MiB decoded, {ONE_TENSOR} times memory_limit; not even NaN were looked for"
        )
    }

    /// A tensor, read or kept.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Arc<Tensor>, ReadError> {
        if let Some(at) = self.kept.iter().position(|(n, _)| n == name) {
            let entry = self.kept.remove(at);
            let tensor = Arc::clone(&entry.1);
            self.kept.push(entry);
            return Ok(tensor);
        }
        let info = self.manifest.find(name).expect("the graph names tensors of this manifest");
        let tensor = Arc::new(self.manifest.read(info)?);
        self.read_bytes += info.n_bytes;
        self.kept.push((name.to_owned(), Arc::clone(&tensor)));
        self.trim();
        Ok(tensor)
    }

    /// Gives up the tensors used longest ago until the rest fits; the latest stays.
    fn trim(&mut self) {
        let size = |t: &Tensor| t.values.len() as u64 * 4;
        let mut total: u64 = self.kept.iter().map(|(_, t)| size(t)).sum();
        let mut gone = 0;
        while total > self.budget && gone + 1 < self.kept.len() {
            total -= size(&self.kept[gone].1);
            gone += 1;
        }
        self.kept.drain(..gone);
    }

    /// A whole view as a matrix, without a copy where it is one block of one tensor.
    pub(super) fn view(&mut self, view: &View) -> Result<Dense, ReadError> {
        let tensor = self.tensor(&view.tensor)?;
        let stored = stored_shape(view, &tensor);
        if let ([rows], [cols]) = (view.rows.as_slice(), view.cols.as_slice()) {
            let block = Block { rows: rows.clone(), cols: cols.clone() };
            return Ok(Dense { data: Data::Tensor(tensor), stored, layout: view.layout, block });
        }
        let whole = whole(&tensor.values, stored, view.layout);
        let mut values = Vec::with_capacity(view.n_rows() * view.n_cols());
        copy_rows(whole, &view.rows, &view.cols, None, &mut values);
        Ok(Dense::own(values, view.n_rows(), view.n_cols()))
    }

    /// An operand as a matrix: blocks transposed, stacked, gain folded in.
    pub(super) fn operand(&mut self, operand: &Operand) -> Result<Dense, ReadError> {
        if let ([only], None) = (operand.parts.as_slice(), &operand.gain) {
            let dense = self.view(only)?;
            return Ok(if operand.transposed { dense.transposed() } else { dense });
        }
        let gain = match &operand.gain {
            None => None,
            Some(gain) => {
                let plus = if gain.one_plus { 1.0 } else { 0.0 };
                let tensor = self.tensor(&gain.tensor)?;
                Some(tensor.values.iter().map(|g| g + plus).collect::<Vec<f32>>())
            }
        };
        let (rows, cols) = operand.shape();
        let mut values = Vec::with_capacity(rows * cols);
        for part in &operand.parts {
            let dense = self.view(part)?;
            let view = if operand.transposed { dense.mat().transpose() } else { dense.mat() };
            let (all_rows, all_cols) = (0..view.nrows(), 0..cols);
            let rows = std::slice::from_ref(&all_rows);
            copy_rows(view, rows, std::slice::from_ref(&all_cols), gain.as_deref(), &mut values);
        }
        Ok(Dense::own(values, rows, cols))
    }

    /// A bias as a vector.
    pub(super) fn bias(&mut self, bias: &BiasView) -> Result<Vec<f32>, ReadError> {
        let tensor = self.tensor(&bias.tensor)?;
        let rows = bias.rows.iter().flat_map(Clone::clone);
        Ok(rows.map(|i| tensor.values[i]).collect())
    }
}

fn stored_shape(view: &View, tensor: &Tensor) -> (usize, usize) {
    match (tensor.shape.as_slice(), view.layout) {
        (&[a, b], _) => (a, b),
        _ => (1, tensor.values.len()),
    }
}

/// A stored matrix in output × input orientation.
fn whole(values: &[f32], stored: (usize, usize), layout: Layout) -> MatRef<'_, f32> {
    let mat = MatRef::from_row_major_slice(values, stored.0, stored.1);
    match layout {
        Layout::OutIn => mat,
        Layout::InOut => mat.transpose(),
    }
}

fn copy_rows(
    from: MatRef<'_, f32>,
    rows: &[Range<usize>],
    cols: &[Range<usize>],
    gain: Option<&[f32]>,
    into: &mut Vec<f32>,
) {
    for i in rows.iter().flat_map(Clone::clone) {
        for j in cols.iter().flat_map(Clone::clone) {
            into.push(from[(i, j)] * gain.map_or(1.0, |g| g[j]));
        }
    }
}

#[derive(Debug, Clone)]
enum Data {
    Tensor(Arc<Tensor>),
    Own(Arc<Vec<f32>>),
}

#[derive(Debug, Clone)]
struct Block {
    rows: Range<usize>,
    cols: Range<usize>,
}

/// A matrix: a block of a kept tensor, or values of its own.
#[derive(Debug, Clone)]
pub(super) struct Dense {
    data: Data,
    stored: (usize, usize),
    layout: Layout,
    block: Block,
}

impl Dense {
    fn own(values: Vec<f32>, rows: usize, cols: usize) -> Self {
        Self {
            data: Data::Own(Arc::new(values)),
            stored: (rows, cols),
            layout: Layout::OutIn,
            block: Block { rows: 0..rows, cols: 0..cols },
        }
    }

    fn transposed(self) -> Self {
        let layout = match self.layout {
            Layout::OutIn => Layout::InOut,
            Layout::InOut => Layout::OutIn,
        };
        let block = Block { rows: self.block.cols, cols: self.block.rows };
        Self { layout, block, ..self }
    }

    /// The matrix.
    pub(super) fn mat(&self) -> MatRef<'_, f32> {
        let values = match &self.data {
            Data::Tensor(tensor) => &tensor.values,
            Data::Own(values) => values.as_ref(),
        };
        let Block { rows, cols } = &self.block;
        let whole = whole(values, self.stored, self.layout);
        whole.submatrix(rows.start, cols.start, rows.len(), cols.len())
    }

    /// NaN and infinite elements.
    pub(super) fn non_finite(&self) -> (u64, u64) {
        if let Data::Tensor(tensor) = &self.data
            && tensor.nan == 0
            && tensor.inf == 0
            && tensor.overflow == 0
        {
            return (0, 0);
        }
        let mat = self.mat();
        let mut counts = (0, 0);
        for i in 0..mat.nrows() {
            for j in 0..mat.ncols() {
                counts.0 += u64::from(mat[(i, j)].is_nan());
                counts.1 += u64::from(mat[(i, j)].is_infinite());
            }
        }
        counts
    }
}
