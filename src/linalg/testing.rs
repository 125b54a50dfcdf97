//! Test matrices and slow, literal arithmetic.

use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A row-major matrix as a checkpoint stores it.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) data: Vec<f32>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Weights {
    pub(super) fn new(rows: usize, cols: usize, data: &[f32]) -> Self {
        Self { data: data.to_vec(), rows, cols }
    }

    pub(super) fn filled(rows: usize, cols: usize, x: f32) -> Self {
        Self { data: vec![x; rows * cols], rows, cols }
    }

    /// Independent entries around 0, uniform in `[-1, 1)`.
    pub(super) fn random(rows: usize, cols: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let data = (0..rows * cols).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
        Self { data, rows, cols }
    }

    #[expect(clippy::cast_possible_truncation, reason = "checkpoints store f32")]
    pub(super) fn from_f64(m: MatRef<'_, f64>) -> Self {
        let data =
            (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)] as f32)).collect();
        Self { data, rows: m.nrows(), cols: m.ncols() }
    }

    pub(super) fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.data, self.rows, self.cols)
    }

    pub(super) fn to_f64(&self) -> Mat<f64> {
        Mat::from_fn(self.rows, self.cols, |i, j| f64::from(self.data[i * self.cols + j]))
    }

    pub(super) fn scaled(&self, by: f32) -> Self {
        Self { data: self.data.iter().map(|x| x * by).collect(), ..*self }
    }
}

/// A random orthogonal matrix.
pub(super) fn orthogonal(n: usize, seed: u64) -> Mat<f64> {
    Weights::random(n, n, seed).to_f64().qr().compute_thin_Q()
}

/// rows × cols with the given singular values and random vectors.
pub(super) fn with_spectrum(rows: usize, cols: usize, values: &[f64], seed: u64) -> Weights {
    let (u, v) = (orthogonal(rows, seed), orthogonal(cols, seed + 1000));
    let scaled = Mat::from_fn(rows, values.len(), |i, j| u[(i, j)] * values[j]);
    Weights::from_f64((scaled * v.as_ref().subcols(0, values.len()).transpose()).as_ref())
}

/// Product by the definition.
pub(super) fn slow_mul(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), b.ncols(), |i, j| (0..a.ncols()).map(|l| a[(i, l)] * b[(l, j)]).sum())
}

pub(super) fn slow_transpose(a: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.ncols(), a.nrows(), |i, j| a[(j, i)])
}

/// Σ a∘b by the definition.
pub(super) fn slow_inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let entries = |j: usize| (0..a.nrows()).map(move |i| (i, j));
    (0..a.ncols()).flat_map(entries).map(|e| a[e] * b[e]).sum()
}

/// Singular values by one-sided Jacobi rotations, descending.
pub(super) fn slow_singular_values(w: &Mat<f64>) -> Vec<f64> {
    let mut a = if w.nrows() < w.ncols() { slow_transpose(w) } else { w.clone() };
    let n = a.ncols();
    let dot = |a: &Mat<f64>, p: usize, q: usize| -> f64 {
        (0..a.nrows()).map(|i| a[(i, p)] * a[(i, q)]).sum()
    };
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                let (app, aqq, apq) = (dot(&a, p, p), dot(&a, q, q), dot(&a, p, q));
                if apq.abs() <= 1e-17 * (app * aqq).sqrt() {
                    continue;
                }
                let zeta = (aqq - app) / (2.0 * apq);
                let tan = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cos = 1.0 / tan.hypot(1.0);
                for i in 0..a.nrows() {
                    let (x, y) = (a[(i, p)], a[(i, q)]);
                    a[(i, p)] = cos * (x - tan * y);
                    a[(i, q)] = cos * (tan * x + y);
                }
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|j| dot(&a, j, j).sqrt()).collect();
    values.sort_by(|x, y| y.total_cmp(x));
    values
}

/// Asserts |found − expected| ≤ `tolerance` · max(|expected|, 1).
#[track_caller]
pub(super) fn assert_close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1.0), "found {found:e}, expected {expected:e}");
}

/// The same of two options, which must both be there.
#[track_caller]
pub(super) fn assert_some_close(found: Option<f64>, expected: Option<f64>, tolerance: f64) {
    match (found, expected) {
        (Some(found), Some(expected)) => assert_close(found, expected, tolerance),
        (found, expected) => assert_eq!(found, expected),
    }
}

/// Odd but finite matrices no entry may stumble over.
pub(super) fn odd_matrices() -> Vec<Weights> {
    let alternating = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -0.5 };
    let rank_one: Vec<f32> =
        (0..30).map(|i: usize| alternating(i / 6) * alternating(i % 6)).collect();
    vec![
        Weights::filled(5, 6, 0.0),
        Weights::filled(5, 6, 0.25),
        Weights::new(5, 6, &rank_one),
        Weights::random(5, 6, 1).scaled(1e-40),
        Weights::random(5, 6, 2).scaled(1e30),
        Weights::filled(5, 6, f32::MAX),
    ]
}

/// Matrices with a NaN or an infinity.
pub(super) fn broken_matrices() -> Vec<Weights> {
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .map(|x| {
            let mut w = Weights::random(5, 6, 3);
            w.data[17] = x;
            w
        })
        .collect()
}
