//! What a stored matrix offers: its rows in panels, and sums over them that several products need.

use std::rc::Rc;

use faer::{Mat, MatRef};

use super::dense::{add_gram, add_squares, sum_squares};
use super::{LinalgError, Side};

/// Elements of a panel: 512 KiB of `f32`, so that it stays in the cache for the products made of it.
const PANEL_ELEMENTS: usize = 1 << 17;

/// Rows of a panel are at least this many: a product of fewer rows is bound by memory.
const MIN_PANEL_ROWS: usize = 32;

/// Rows of a panel for a Gram, whose every entry is added to once a panel.
const GRAM_ROWS: usize = 256;

/// A matrix of at most this many elements (16 MiB of `f32`) is copied to form the Gram of its rows,
/// which needs all of them at once.
const COPIED_ELEMENTS: usize = 1 << 22;

/// A stored matrix that can be read from top to bottom any number of times.
pub trait Panels {
    /// Stored rows.
    fn rows(&self) -> usize;

    /// Stored columns.
    fn cols(&self) -> usize;

    /// Calls `each(first_row, panel)` for consecutive panels of at most `n_rows` finite rows.
    ///
    /// # Errors
    /// [`LinalgError::Unread`] where the matrix can no longer be read.
    fn for_panels(
        &self,
        n_rows: usize,
        each: &mut dyn FnMut(usize, MatRef<'_, f32>),
    ) -> Result<(), LinalgError>;

    /// Squared norms of all rows and columns: computed, or remembered by who can.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    fn squares(&self) -> Result<Rc<Squares>, LinalgError> {
        Ok(Rc::new(Squares::of(self)?))
    }

    /// The Gram of the columns (`SᵀS`, right) or of the rows (`SSᵀ`, left): computed, or remembered by
    /// who can; `None` for the rows of a matrix of more than four million elements.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    fn gram(&self, side: Side) -> Result<Option<StoredGram>, LinalgError> {
        StoredGram::of(self, side)
    }
}

/// Squared norms of the rows and columns of a stored matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Squares {
    /// Of each row.
    pub rows: Vec<f64>,
    /// Of each column.
    pub cols: Vec<f64>,
}

impl Squares {
    /// In one reading.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn of<P: Panels + ?Sized>(source: &P) -> Result<Self, LinalgError> {
        let mut squares = Self { rows: vec![0.0; source.rows()], cols: vec![0.0; source.cols()] };
        let mut copy = Vec::new();
        source.for_panels(panel_rows(source), &mut |first, panel| {
            for (row, sum) in panel.row_iter().zip(&mut squares.rows[first..]) {
                let values = if let Some(values) = row.try_as_row_major() {
                    values.as_slice()
                } else {
                    copy.clear();
                    copy.extend(row.iter().copied());
                    &copy
                };
                *sum = sum_squares(values);
                add_squares(values, &mut squares.cols);
            }
        })?;
        Ok(squares)
    }

    /// Of the matrix times this factor.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        let scaled = |sums: &[f64]| sums.iter().map(|x| x * factor * factor).collect();
        Self { rows: scaled(&self.rows), cols: scaled(&self.cols) }
    }
}

/// A Gram of a stored matrix, and what it cost.
#[derive(Debug, Clone)]
pub struct StoredGram {
    /// Both triangles.
    pub gram: Rc<Mat<f32>>,
    /// Floating-point operations; 0 where it was remembered.
    pub flops: u64,
}

impl StoredGram {
    /// In one reading, as [`Panels::gram`] says.
    ///
    /// # Errors
    /// [`LinalgError::Unread`].
    pub fn of<P: Panels + ?Sized>(source: &P, side: Side) -> Result<Option<Self>, LinalgError> {
        let (rows, cols) = (source.rows(), source.cols());
        let (n, depth) = if side == Side::Right { (cols, rows) } else { (rows, cols) };
        if side == Side::Left && rows.saturating_mul(cols) > COPIED_ELEMENTS {
            return Ok(None);
        }
        let mut gram = Mat::<f32>::zeros(n, n);
        if side == Side::Right {
            let at_a_time = panel_rows(source).max(GRAM_ROWS);
            source.for_panels(at_a_time, &mut |_, panel| add_gram(&mut gram, panel))?;
        } else {
            let mut whole = Mat::<f32>::zeros(cols, rows);
            source.for_panels(panel_rows(source), &mut |first, panel| {
                let columns = whole.as_mut().subcols_mut(first, panel.nrows());
                columns.transpose_mut().copy_from(panel);
            })?;
            add_gram(&mut gram, whole.as_ref());
        }
        for j in 0..n {
            for i in j..n {
                gram[(j, i)] = gram[(i, j)];
            }
        }
        let flops = (depth as u64).saturating_mul((n * n) as u64);
        Ok(Some(Self { gram: Rc::new(gram), flops }))
    }
}

impl Panels for MatRef<'_, f32> {
    fn rows(&self) -> usize {
        self.nrows()
    }

    fn cols(&self) -> usize {
        self.ncols()
    }

    fn for_panels(
        &self,
        n_rows: usize,
        each: &mut dyn FnMut(usize, MatRef<'_, f32>),
    ) -> Result<(), LinalgError> {
        let mut first = 0;
        while first < self.nrows() {
            let n = n_rows.max(1).min(self.nrows() - first);
            each(first, self.subrows(first, n));
            first += n;
        }
        Ok(())
    }
}

/// Rows of a panel of this matrix.
pub(super) fn panel_rows<P: Panels + ?Sized>(source: &P) -> usize {
    (PANEL_ELEMENTS / source.cols().max(1)).max(MIN_PANEL_ROWS)
}
