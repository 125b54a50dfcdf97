//! Finite matrices, their scale, and the few dense kernels everything else is made of.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatRef, Par};

use super::{LinalgError, NotFinite};

/// Rows converted to `f64` at a time: tall enough for full matrix-product speed, and a panel of a
/// 4096-wide matrix is 8 MiB.
const PANEL_ROWS: usize = 256;

/// Rows gathered together in a transposing conversion: eight `f64` fill a cache line.
const LINE: usize = 8;

/// A dimension or a count as a real number.
#[expect(clippy::cast_precision_loss, reason = "dimensions stay far below 2^53")]
pub(super) fn real(n: usize) -> f64 {
    n as f64
}

/// 2^e, exactly, for |e| ≤ 1022.
pub(super) fn pow2(e: i32) -> f64 {
    2f64.powi(e)
}

/// `numerator / denominator`, or `None` where the denominator is not positive.
pub(super) fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    (denominator > 0.0).then(|| numerator / denominator)
}

/// Exponent e with 2^e ≤ `max_abs` < 2^(e+1); 0 for a zero.
pub(super) fn exponent(max_abs: f32) -> i32 {
    if max_abs == 0.0 {
        return 0;
    }
    // Every f32, subnormal or not, is a normal f64, so the exponent field is the logarithm.
    let field = (f64::from(max_abs).to_bits() >> 52) & 0x7ff;
    i32::try_from(field).expect("an 11-bit field fits") - 1023
}

/// Largest magnitude of finite numbers.
pub(super) fn max_abs<'a>(values: impl IntoIterator<Item = &'a f32>) -> Result<f32, NotFinite> {
    let mut max = 0.0f32;
    for &x in values {
        if !x.is_finite() {
            return Err(NotFinite);
        }
        max = max.max(x.abs());
    }
    Ok(max)
}

/// Σ x² of the elements, in `f64`.
pub(super) fn sum_squares(values: &[f32]) -> f64 {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 16];
            let (chunks, rest) = values.as_chunks::<16>();
            for chunk in chunks {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(*x) * f64::from(*x);
                }
            }
            let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            lanes.iter().sum::<f64>() + rest
        },
    )
}

/// Adds x² of every element to the sum at its place.
pub(super) fn add_squares(values: &[f32], sums: &mut [f64]) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (sum, x) in sums.iter_mut().zip(values) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        },
    );
}

/// A matrix known to be finite, read as `w · 2^-exponent`, whose largest element lies in `[1, 2)`.
///
/// Squares and fourth powers of subnormal or huge weights then stay inside the range of `f64`, and
/// the solvers see numbers near 1; scaling by a power of two changes no digit.
#[derive(Clone, Copy)]
pub(super) struct Scaled<'a> {
    w: MatRef<'a, f32>,
    pub(super) exponent: i32,
}

impl<'a> Scaled<'a> {
    pub(super) fn new(w: MatRef<'a, f32>) -> Result<Self, NotFinite> {
        let along_rows =
            if w.row_stride().abs() < w.col_stride().abs() { w.transpose() } else { w };
        let mut max = 0.0f32;
        for i in 0..along_rows.nrows() {
            let row = along_rows.row(i);
            max = max.max(match row.try_as_row_major() {
                Some(row) => max_abs_slice(row.as_slice())?,
                None => max_abs(row.iter())?,
            });
        }
        Ok(Self { w, exponent: exponent(max) })
    }

    pub(super) fn rows(&self) -> usize {
        self.w.nrows()
    }

    pub(super) fn cols(&self) -> usize {
        self.w.ncols()
    }

    pub(super) fn transpose(self) -> Self {
        Self { w: self.w.transpose(), ..self }
    }

    /// The scaled matrix, whole.
    pub(super) fn to_f64(self) -> Mat<f64> {
        let mut all = Mat::zeros(self.rows(), self.cols());
        let scale = pow2(-self.exponent);
        fill(self.w, scale, &mut all);
        all
    }

    /// Calls `each(first_row, panel)` for scaled row panels of at most `n_rows` rows.
    pub(super) fn for_panels(&self, n_rows: usize, mut each: impl FnMut(usize, MatRef<'_, f64>)) {
        let scale = pow2(-self.exponent);
        let n_rows = n_rows.max(1).min(self.rows().max(1));
        let mut values = vec![0.0; n_rows * self.cols()];
        let mut first = 0;
        while first < self.rows() {
            let n = n_rows.min(self.rows() - first);
            each(first, widened(self.w.subrows(first, n), scale, &mut values[..n * self.cols()]));
            first += n;
        }
    }

    /// ‖w·2^-e‖_F².
    pub(super) fn sum_squares(&self) -> f64 {
        let mut sum = 0.0;
        self.for_panels(PANEL_ROWS, |_, panel| sum += panel.squared_norm_l2());
        sum
    }

    /// Squared norms of the columns.
    pub(super) fn column_squares(&self) -> Vec<f64> {
        let mut squares = vec![0.0; self.cols()];
        self.for_panels(PANEL_ROWS, |_, panel| {
            if panel.col_stride() == 1 {
                for row in panel.row_iter() {
                    for (sum, x) in squares.iter_mut().zip(row.iter()) {
                        *sum += x * x;
                    }
                }
                return;
            }
            for (sum, col) in squares.iter_mut().zip(panel.col_iter()) {
                *sum += col.squared_norm_l2();
            }
        });
        squares
    }

    /// wᵀw (cols × cols), accumulated over row panels.
    pub(super) fn gram(&self) -> Mat<f64> {
        let mut gram = Mat::zeros(self.cols(), self.cols());
        self.for_panels(PANEL_ROWS, |_, panel| add_gram(&mut gram, panel));
        mirror_lower(&mut gram);
        gram
    }

    /// w·x (rows × x.cols).
    pub(super) fn times(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut product = Mat::zeros(self.rows(), x.ncols());
        self.for_panels(PANEL_ROWS, |first, panel| {
            let dst = product.as_mut().subrows_mut(first, panel.nrows());
            matmul(dst, Accum::Replace, panel, x, 1.0, Par::Seq);
        });
        product
    }

    /// wᵀ·other, over row panels of both, which have equally many rows.
    pub(super) fn transposed_times(&self, other: &Scaled<'_>) -> Mat<f64> {
        let mut product = Mat::zeros(self.cols(), other.cols());
        let scale = pow2(-other.exponent);
        self.for_panels(PANEL_ROWS, |first, panel| {
            let mut theirs = Mat::zeros(panel.nrows(), other.cols());
            fill(other.w.subrows(first, panel.nrows()), scale, &mut theirs);
            matmul(&mut product, Accum::Add, panel.transpose(), &theirs, 1.0, Par::Seq);
        });
        product
    }

    /// The square factor R of a thin QR, by stacking row panels under the R so far. For matrices
    /// with at least as many rows as columns; singular values and right vectors of w are those of R.
    pub(super) fn triangular_factor(&self) -> Mat<f64> {
        let n = self.cols();
        let mut factor = Mat::<f64>::zeros(0, n);
        self.for_panels(PANEL_ROWS.max(2 * n), |_, panel| {
            let top = factor.nrows();
            let mut stacked = Mat::zeros(top + panel.nrows(), n);
            stacked.as_mut().subrows_mut(0, top).copy_from(&factor);
            stacked.as_mut().subrows_mut(top, panel.nrows()).copy_from(panel);
            factor = stacked.qr().thin_R().to_owned();
        });
        for j in 0..n {
            for i in j + 1..factor.nrows() {
                factor[(i, j)] = 0.0;
            }
        }
        factor
    }
}

/// Converts `src · scale` into the column-major `dst` of the same shape.
fn fill(src: MatRef<'_, f32>, scale: f64, dst: &mut Mat<f64>) {
    if src.row_stride().abs() <= src.col_stride().abs() {
        for j in 0..src.ncols() {
            let col = dst.col_as_slice_mut(j);
            for (to, from) in col.iter_mut().zip(src.col(j).iter()) {
                *to = f64::from(*from) * scale;
            }
        }
        return;
    }
    let mut first = 0;
    while first < src.nrows() {
        let n = LINE.min(src.nrows() - first);
        let block = src.subrows(first, n);
        for (j, col) in block.col_iter().enumerate() {
            let line = &mut dst.col_as_slice_mut(j)[first..first + n];
            for (to, from) in line.iter_mut().zip(col.iter()) {
                *to = f64::from(*from) * scale;
            }
        }
        first += n;
    }
}

/// `src · scale` in `f64`, in the order in which the source lies: a copy across it would wait for
/// memory.
fn widened<'b>(src: MatRef<'_, f32>, scale: f64, into: &'b mut [f64]) -> MatRef<'b, f64> {
    let (rows, cols) = src.shape();
    if rows == 0 || cols == 0 {
        return MatRef::from_column_major_slice(&[], rows, cols);
    }
    if src.col_stride() == 1 {
        for (row, to) in src.row_iter().zip(into.chunks_mut(cols)) {
            match row.try_as_row_major() {
                Some(row) => widen_slice(row.as_slice(), scale, to),
                None => to.iter_mut().zip(row.iter()).for_each(|(t, x)| *t = f64::from(*x) * scale),
            }
        }
        return MatRef::from_row_major_slice(into, rows, cols);
    }
    for (col, to) in src.col_iter().zip(into.chunks_mut(rows)) {
        match col.try_as_col_major() {
            Some(col) => widen_slice(col.as_slice(), scale, to),
            None => to.iter_mut().zip(col.iter()).for_each(|(t, x)| *t = f64::from(*x) * scale),
        }
    }
    MatRef::from_column_major_slice(into, rows, cols)
}

fn widen_slice(from: &[f32], scale: f64, into: &mut [f64]) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (to, x) in into.iter_mut().zip(from) {
                *to = f64::from(*x) * scale;
            }
        },
    );
}

/// Largest magnitude of a slice of finite numbers, by their bits: magnitudes are ordered as those.
fn max_abs_slice(values: &[f32]) -> Result<f32, NotFinite> {
    let bits = pulp::Arch::new().dispatch(
        #[inline(always)]
        || values.iter().fold(0u32, |max, x| max.max(x.to_bits() & 0x7fff_ffff)),
    );
    let max = f32::from_bits(bits);
    if max.is_finite() { Ok(max) } else { Err(NotFinite) }
}

/// Adds `panelᵀ·panel` to the lower triangle of a Gram.
pub(super) fn add_gram<T: ComplexField>(gram: &mut Mat<T>, panel: MatRef<'_, T>) {
    triangular::matmul(
        gram,
        BlockStructure::TriangularLower,
        Accum::Add,
        panel.transpose(),
        BlockStructure::Rectangular,
        panel,
        BlockStructure::Rectangular,
        T::one_impl(),
        Par::Seq,
    );
}

/// Copies the lower triangle onto the upper one.
pub(super) fn mirror_lower(g: &mut Mat<f64>) {
    for j in 0..g.ncols() {
        for i in 0..j {
            g[(i, j)] = g[(j, i)];
        }
    }
}

/// In `f64`.
#[must_use]
pub fn widen(x: MatRef<'_, f32>) -> Mat<f64> {
    let mut wide = Mat::zeros(x.nrows(), x.ncols());
    for (to, from) in wide.col_iter_mut().zip(x.col_iter()) {
        to.iter_mut().zip(from.iter()).for_each(|(to, x)| *to = f64::from(*x));
    }
    wide
}

/// In `f32`, which products take.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the narrowing is the point")]
pub fn narrow(x: MatRef<'_, f64>) -> Mat<f32> {
    let mut narrow = Mat::zeros(x.nrows(), x.ncols());
    for (to, from) in narrow.col_iter_mut().zip(x.col_iter()) {
        to.iter_mut().zip(from.iter()).for_each(|(to, x)| *to = *x as f32);
    }
    narrow
}

/// a·b.
pub(super) fn mul(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    matmul(&mut product, Accum::Replace, a, b, 1.0, Par::Seq);
    product
}

/// Σ a∘b.
pub(super) fn inner(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> f64 {
    a.col_iter()
        .zip(b.col_iter())
        .map(|(x, y)| x.iter().zip(y.iter()).map(|(x, y)| x * y).sum::<f64>())
        .sum()
}

/// Whether every element is finite.
pub(super) fn all_finite(a: MatRef<'_, f64>) -> bool {
    a.col_iter().all(|col| col.iter().all(|x| x.is_finite()))
}

/// Orthonormal basis of the span of the columns, the leading ones first.
pub(super) fn orthonormal(a: &Mat<f64>) -> Mat<f64> {
    a.qr().compute_thin_Q()
}

/// A thin singular value decomposition, values descending.
pub(super) struct Svd {
    pub(super) u: Mat<f64>,
    pub(super) values: Vec<f64>,
    pub(super) v: Mat<f64>,
}

/// Thin SVD of a finite matrix. faer's iteration can refuse ordinary input, so the transpose and
/// then the Gram of the smaller side are tried too.
pub(super) fn thin_svd(a: MatRef<'_, f64>) -> Result<Svd, LinalgError> {
    if a.nrows() == 0 || a.ncols() == 0 {
        return Ok(Svd {
            u: Mat::zeros(a.nrows(), 0),
            values: vec![],
            v: Mat::zeros(a.ncols(), 0),
        });
    }
    direct_svd(a)
        .or_else(|| direct_svd(a.transpose()).map(|t| Svd { u: t.v, values: t.values, v: t.u }))
        .or_else(|| gram_svd(a))
        .ok_or(LinalgError::NoConvergence { rows: a.nrows(), cols: a.ncols() })
}

fn direct_svd(a: MatRef<'_, f64>) -> Option<Svd> {
    let svd = a.thin_svd().ok()?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let finite = values.iter().all(|s| s.is_finite()) && all_finite(svd.U()) && all_finite(svd.V());
    finite.then(|| Svd { u: svd.U().to_owned(), values, v: svd.V().to_owned() })
}

fn gram_svd(a: MatRef<'_, f64>) -> Option<Svd> {
    if a.nrows() < a.ncols() {
        return gram_svd(a.transpose()).map(|t| Svd { u: t.v, values: t.values, v: t.u });
    }
    let (squares, v) = descending_eigen(mul(a.transpose(), a).as_ref())?;
    let values: Vec<f64> = squares.iter().map(|l| l.max(0.0).sqrt()).collect();
    let u = orthonormal(&mul(a, v.as_ref()));
    Some(Svd { u, values, v })
}

/// Eigenvalues (descending) and eigenvectors of a finite positive semi-definite matrix.
pub(super) fn symmetric_eigen(g: MatRef<'_, f64>) -> Result<(Vec<f64>, Mat<f64>), LinalgError> {
    if g.nrows() == 0 {
        return Ok((vec![], Mat::zeros(0, 0)));
    }
    // The singular vectors of a positive semi-definite matrix are its eigenvectors.
    descending_eigen(g)
        .or_else(|| direct_svd(g).map(|svd| (svd.values, svd.u)))
        .ok_or(LinalgError::NoConvergence { rows: g.nrows(), cols: g.ncols() })
}

/// faer orders eigenvalues upwards; turned round here.
fn descending_eigen(g: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let eigen = g.self_adjoint_eigen(faer::Side::Lower).ok()?;
    let values: Vec<f64> = eigen.S().column_vector().iter().rev().copied().collect();
    let vectors = eigen.U().reverse_cols().to_owned();
    (values.iter().all(|l| l.is_finite()) && all_finite(vectors.as_ref()))
        .then_some((values, vectors))
}
