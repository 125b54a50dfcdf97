//! Matrices too large to be copied: read row panel by row panel, as often as needed, and applied to
//! a few vectors at a time.

use std::cell::Cell;

use faer::linalg::matmul::matmul;
use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::dense::sum_squares;
use super::panels::{Panels, panel_rows};
use super::{LinalgError, Side};

/// A block of a [`Linear`]: a stored matrix, or its transpose.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// The stored matrix.
    pub source: &'a dyn Panels,
    /// Whether the block is its transpose.
    pub transposed: bool,
}

impl std::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} × {})", self.rows(), self.cols())
    }
}

impl Block<'_> {
    fn rows(&self) -> usize {
        if self.transposed { self.source.cols() } else { self.source.rows() }
    }

    fn cols(&self) -> usize {
        if self.transposed { self.source.rows() } else { self.source.cols() }
    }
}

/// W = 2^exponent · (blocks stacked by rows) · diag(gain), rows × cols, known by its products with
/// vectors. Products are of the scaled matrix, without 2^exponent, in `f32`.
pub struct Linear<'a> {
    blocks: Vec<Block<'a>>,
    gain: Option<Vec<f32>>,
    rows: usize,
    cols: usize,
    exponent: i32,
    flops: Cell<u64>,
}

impl std::fmt::Debug for Linear<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear({} × {}, {} blocks)", self.rows, self.cols, self.blocks.len())
    }
}

impl<'a> Linear<'a> {
    /// Stacks blocks; `gain` multiplies the columns; the blocks' values are times 2^-exponent.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] where blocks or gain do not fit.
    pub fn new(
        blocks: Vec<Block<'a>>,
        gain: Option<Vec<f32>>,
        exponent: i32,
    ) -> Result<Self, LinalgError> {
        let cols = blocks.first().map_or(0, Block::cols);
        let widths = blocks.iter().map(|b| ("block", b.cols()));
        let lengths = widths.chain(gain.iter().map(|g| ("gain", g.len())));
        for (what, found) in lengths {
            if found != cols {
                return Err(LinalgError::Shape { what, found, expected: cols });
            }
        }
        let rows = blocks.iter().map(Block::rows).sum();
        Ok(Self { blocks, gain, rows, cols, exponent, flops: Cell::new(0) })
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The power of two that products leave out.
    #[must_use]
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Floating-point operations of all products so far, a multiplication and an addition counted
    /// as two.
    #[must_use]
    pub fn flops(&self) -> u64 {
        self.flops.get()
    }

    /// Dimension of the space of `side`: rows for left vectors, columns for right ones.
    #[must_use]
    pub fn dim(&self, side: Side) -> usize {
        match side {
            Side::Left => self.rows,
            Side::Right => self.cols,
        }
    }

    /// From vectors of `side` to the other side: `W·x` for right vectors, `Wᵀ·x` for left ones.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn across(&self, side: Side, x: MatRef<'_, f32>) -> Result<Mat<f32>, LinalgError> {
        match side {
            Side::Right => self.times(x),
            Side::Left => self.transposed_times(x),
        }
    }

    /// To the other side and back: `(W·x, WᵀW·x)` for right vectors, `(Wᵀ·x, WWᵀ·x)` for left ones;
    /// in one reading where the matrix is stored that way round.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn there_and_back(
        &self,
        side: Side,
        x: MatRef<'_, f32>,
    ) -> Result<(Mat<f32>, Mat<f32>), LinalgError> {
        match (side, self.blocks.as_slice()) {
            (Side::Right, blocks) if blocks.iter().all(|b| !b.transposed) => {
                let x = self.gained(x);
                let mut there = Mat::zeros(self.rows, x.ncols());
                let mut back = Mat::zeros(self.cols, x.ncols());
                let mut first = 0;
                for block in blocks {
                    let rows = there.as_mut().subrows_mut(first, block.rows());
                    self.fused(block.source, x.as_ref(), rows, &mut back)?;
                    first += block.rows();
                }
                Ok((there, self.gained(back.as_ref())))
            }
            (Side::Left, [only]) if only.transposed && self.gain.is_none() => {
                let mut there = Mat::zeros(self.cols, x.ncols());
                let mut back = Mat::zeros(self.rows, x.ncols());
                self.fused(only.source, x, there.as_mut(), &mut back)?;
                Ok((there, back))
            }
            (Side::Right, _) => {
                let there = self.times(x)?;
                let back = self.transposed_times(there.as_ref())?;
                Ok((there, back))
            }
            (Side::Left, _) => {
                let there = self.transposed_times(x)?;
                let back = self.times(there.as_ref())?;
                Ok((there, back))
            }
        }
    }

    /// `WᵀW·x` for right vectors, `WWᵀ·x` for left ones.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn gram_times(&self, side: Side, x: MatRef<'_, f32>) -> Result<Mat<f32>, LinalgError> {
        Ok(self.there_and_back(side, x)?.1)
    }

    /// The Gram of `side`: `WᵀW` (right) or `WWᵀ` (left), whole; `None` where the blocks have none
    /// ([`Panels::gram`]), or it is not made of theirs: on the left, of more than one block or under
    /// a gain.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn gram(&self, side: Side) -> Result<Option<Mat<f32>>, LinalgError> {
        if side == Side::Left && (self.blocks.len() != 1 || self.gain.is_some()) {
            return Ok(None);
        }
        let mut sum: Option<Mat<f32>> = None;
        for block in &self.blocks {
            let stored = if block.transposed { side.other() } else { side };
            let Some(own) = block.source.gram(stored)? else { return Ok(None) };
            self.add_flops(own.flops);
            match &mut sum {
                None => sum = Some(own.gram.as_ref().clone()),
                Some(sum) => *sum += own.gram.as_ref(),
            }
        }
        if let (Some(sum), Some(gain)) = (&mut sum, &self.gain) {
            for (j, g) in gain.iter().enumerate() {
                sum.col_as_slice_mut(j).iter_mut().zip(gain).for_each(|(x, h)| *x *= g * h);
            }
        }
        Ok(sum)
    }

    /// The scaled matrix whole, or its transpose; for small ones.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn to_dense(&self, transposed: bool) -> Result<Mat<f32>, LinalgError> {
        let (rows, cols) = if transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let mut dense = Mat::zeros(rows, cols);
        let mut first = 0;
        for block in &self.blocks {
            let whole = dense.as_mut();
            let whole = if transposed { whole.transpose_mut() } else { whole };
            let part = whole.subrows_mut(first, block.rows());
            let mut stored = if block.transposed { part.transpose_mut() } else { part };
            block.source.for_panels(panel_rows(block.source), &mut |at, panel| {
                stored.rb_mut().subrows_mut(at, panel.nrows()).copy_from(panel);
            })?;
            first += block.rows();
        }
        for (j, g) in self.gain.iter().flatten().enumerate() {
            let whole = dense.as_mut();
            let whole = if transposed { whole.transpose_mut() } else { whole };
            whole.col_mut(j).iter_mut().for_each(|x| *x *= g);
        }
        Ok(dense)
    }

    /// Squared norms of the columns (diagonal of `WᵀW`, right) or of the rows (of `WWᵀ`, left).
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn gram_diagonal(&self, side: Side) -> Result<Vec<f64>, LinalgError> {
        let mut squares = vec![0.0; self.dim(side)];
        let mut first = 0;
        for block in &self.blocks {
            let n_rows = block.rows();
            match (side, &self.gain) {
                (Side::Right, _) => {
                    let own = block.source.squares()?;
                    let own = if block.transposed { &own.rows } else { &own.cols };
                    squares.iter_mut().zip(own).for_each(|(sum, x)| *sum += x);
                }
                (Side::Left, None) => {
                    let own = block.source.squares()?;
                    let own = if block.transposed { &own.cols } else { &own.rows };
                    squares[first..first + n_rows].copy_from_slice(own);
                }
                (Side::Left, Some(gain)) => {
                    gained_rows(block, gain, &mut squares[first..first + n_rows])?;
                }
            }
            first += n_rows;
        }
        if let (Side::Right, Some(gain)) = (side, &self.gain) {
            squares.iter_mut().zip(gain).for_each(|(x, g)| *x *= f64::from(*g).powi(2));
        }
        Ok(squares)
    }

    fn times(&self, x: MatRef<'_, f32>) -> Result<Mat<f32>, LinalgError> {
        let x = self.gained(x);
        let mut product = Mat::zeros(self.rows, x.ncols());
        let mut first = 0;
        for block in &self.blocks {
            let rows = product.as_mut().subrows_mut(first, block.rows());
            self.one_way(block.source, block.transposed, x.as_ref(), rows)?;
            first += block.rows();
        }
        Ok(product)
    }

    fn transposed_times(&self, y: MatRef<'_, f32>) -> Result<Mat<f32>, LinalgError> {
        let mut product = Mat::zeros(self.cols, y.ncols());
        let mut first = 0;
        for block in &self.blocks {
            let y = y.subrows(first, block.rows());
            self.one_way(block.source, !block.transposed, y, product.as_mut())?;
            first += block.rows();
        }
        Ok(self.gained(product.as_ref()))
    }

    /// `product += S·x`, or `Sᵀ·x`.
    fn one_way(
        &self,
        source: &dyn Panels,
        transposed: bool,
        x: MatRef<'_, f32>,
        mut product: MatMut<'_, f32>,
    ) -> Result<(), LinalgError> {
        self.count(source.rows(), source.cols() * x.ncols(), 2);
        source.for_panels(panel_rows(source), &mut |first, panel| {
            let n = panel.nrows();
            if transposed {
                let part = x.subrows(first, n);
                matmul(product.rb_mut(), Accum::Add, panel.transpose(), part, 1.0, Par::Seq);
            } else {
                let rows = product.rb_mut().subrows_mut(first, n);
                matmul(rows, Accum::Add, panel, x, 1.0, Par::Seq);
            }
        })
    }

    /// `there = S·x` and `back += Sᵀ·S·x` in one reading.
    fn fused(
        &self,
        source: &dyn Panels,
        x: MatRef<'_, f32>,
        mut there: MatMut<'_, f32>,
        back: &mut Mat<f32>,
    ) -> Result<(), LinalgError> {
        self.count(source.rows(), source.cols() * x.ncols(), 4);
        source.for_panels(panel_rows(source), &mut |first, panel| {
            let mut rows = there.rb_mut().subrows_mut(first, panel.nrows());
            matmul(rows.rb_mut(), Accum::Replace, panel, x, 1.0, Par::Seq);
            matmul(back.as_mut(), Accum::Add, panel.transpose(), rows.rb(), 1.0, Par::Seq);
        })
    }

    /// diag(gain)·x.
    fn gained(&self, x: MatRef<'_, f32>) -> Mat<f32> {
        let mut x = x.to_owned();
        if let Some(gain) = &self.gain {
            for j in 0..x.ncols() {
                for (to, g) in x.col_as_slice_mut(j).iter_mut().zip(gain) {
                    *to *= g;
                }
            }
        }
        x
    }

    fn count(&self, rows: usize, per_row: usize, times: u64) {
        self.add_flops((rows as u64).saturating_mul(per_row as u64).saturating_mul(times));
    }

    fn add_flops(&self, flops: u64) {
        self.flops.set(self.flops.get().saturating_add(flops));
    }
}

/// Squared norms of a block's rows under a gain, which no sums over the stored matrix tell.
fn gained_rows(block: &Block<'_>, gain: &[f32], sums: &mut [f64]) -> Result<(), LinalgError> {
    let source = block.source;
    let mut gained = Vec::with_capacity(source.cols());
    source.for_panels(panel_rows(source), &mut |first, panel| {
        for (i, row) in panel.row_iter().enumerate() {
            gained.clear();
            if block.transposed {
                let g = gain[first + i];
                gained.extend(row.iter().map(|x| x * g));
                sums.iter_mut().zip(&gained).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
            } else {
                gained.extend(row.iter().zip(gain).map(|(x, g)| x * g));
                sums[first + i] = sum_squares(&gained);
            }
        }
    })
}

#[cfg(test)]
mod tests;
