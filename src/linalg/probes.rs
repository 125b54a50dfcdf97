//! The moments of a pair from a few products: exact on the leading singular vectors, estimated from
//! random probes on the rest (Hutch++: Meyer, Musco, Musco & Woodruff 2021).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Scale};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dense::{all_finite, inner, mul, narrow, real, widen};
use super::moments::{Moments, Ratios};
use super::pair::Known;
use super::{LinalgError, Linear, NotFinite, Side};

/// Rademacher probes of an estimated pair.
pub const PROBES: usize = 16;

/// Dimension of the leading space of each side on which an estimated pair is exact.
pub const DEFLATED: usize = 8;

/// The same probes at every save, so that the estimation error moves smoothly with the weights.
const SEED: u64 = 0x70_72_6f_62_65;

/// The probes must not depend on the space they are projected out of.
const PROBE_STREAM: u64 = 0;
const SKETCH_STREAM: u64 = 1;
pub(super) const HEAD_STREAM: u64 = 2;

/// Random vectors are drawn into the leading space with the squares of the eigenvalues that stand
/// out: the second power of a subspace iteration.
const POWER: i32 = 2;

/// Leading eigenvalues stand out if the first exceeds the first unknown one by this fraction of
/// itself. Below, the vectors turn with the smallest change of the weights and are no use.
const STANDS_OUT: f64 = 0.5;

/// A vector that keeps less than this of its length off the basis so far is in it already: what is
/// left of it is rounding, which would be another direction at every save.
const IN_SPAN: f64 = 1e-3;

/// The same where no `f32` is involved.
const ROUNDING: f64 = 1e-9;

/// Jackknife standard errors of estimated statistics; `None` where exact or undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GramStderr {
    /// Of [`super::GramStats::commutator`].
    pub commutator: Option<f64>,
    /// Of [`super::GramStats::commutator_vs_chance`].
    pub commutator_vs_chance: Option<f64>,
    /// Of [`super::GramStats::gram_cosine`].
    pub gram_cosine: Option<f64>,
    /// Of [`super::GramStats::gram_correlation`].
    pub gram_correlation: Option<f64>,
    /// Of [`super::GramStats::composition`].
    pub composition: Option<f64>,
    /// Of [`super::GramStats::gap`].
    pub gap: Option<f64>,
    /// Of [`super::GramStats::gap_ratio`].
    pub gap_ratio: Option<f64>,
    /// Of [`super::GramStats::gap_shape`].
    pub gap_shape: Option<f64>,
}

/// Both Grams as operators; the side of each is the one the pair shares.
pub(super) struct Grams<'a> {
    pub(super) reader: (&'a Linear<'a>, Side),
    pub(super) writer: (&'a Linear<'a>, Side),
    pub(super) known: &'a Known,
}

impl Grams<'_> {
    fn a_times(&self, x: &Mat<f32>) -> Result<Mat<f32>, LinalgError> {
        self.reader.0.gram_times(self.reader.1, x.as_ref())
    }

    fn b_times(&self, x: &Mat<f32>) -> Result<Mat<f32>, LinalgError> {
        self.writer.0.gram_times(self.writer.1, x.as_ref())
    }

    /// The leading spaces of reader and writer, for who knows no vectors: two steps of a subspace
    /// iteration from fixed random vectors.
    pub(super) fn leading(&self) -> Result<[Mat<f64>; 2], LinalgError> {
        let start = narrow(signs(self.known.dim(), DEFLATED, SKETCH_STREAM).as_ref());
        let basis = |x: &Mat<f32>| orthonormal([&widen(x.as_ref())], IN_SPAN);
        let a = basis(&self.a_times(&start)?);
        let b = basis(&self.b_times(&start)?);
        Ok([basis(&self.a_times(&narrow(a.as_ref()))?), basis(&self.b_times(&narrow(b.as_ref()))?)])
    }
}

/// A basis of at most [`DEFLATED`] dimensions of the space of leading singular vectors (m × b, with
/// as many values as known of `n_values` there are).
///
/// The first eight vectors would do, but the eighth may change places with the ninth, and equal
/// values leave the vectors arbitrary: the estimation error would jump from save to save. Fixed
/// random vectors drawn into the space of all of them turn smoothly.
pub(super) fn leading_space(
    vectors: MatRef<'_, f32>,
    values: &[f64],
    n_values: usize,
) -> Result<Mat<f64>, LinalgError> {
    let b = vectors.ncols().min(values.len());
    let vectors = widen(vectors.subcols(0, b));
    if !all_finite(vectors.as_ref()) || values.iter().any(|s| !s.is_finite()) {
        return Err(NotFinite.into());
    }
    let Some(first) = values.first().filter(|s| **s > 0.0) else {
        return Ok(Mat::zeros(vectors.nrows(), 0));
    };
    let next = if b < n_values { values.get(b).or(values.last()) } else { None };
    let cut = next.map_or(0.0, |s| (s / first).powi(2));
    if 1.0 - cut < STANDS_OUT {
        return Ok(Mat::zeros(vectors.nrows(), 0));
    }
    let weight = |i: usize| ((values[i] / first).powi(2) - cut).max(0.0).powi(POWER);
    let mut drawn =
        mul(vectors.transpose(), signs(vectors.nrows(), DEFLATED, SKETCH_STREAM).as_ref());
    for j in 0..drawn.ncols() {
        for i in 0..b {
            drawn[(i, j)] *= weight(i);
        }
    }
    Ok(mul(vectors.as_ref(), orthonormal([&drawn], ROUNDING).as_ref()))
}

/// Orthonormal basis of all columns, of as many as keep `least` of their length off those before.
fn orthonormal<const N: usize>(parts: [&Mat<f64>; N], least: f64) -> Mat<f64> {
    let m = parts[0].nrows();
    let mut q = Mat::<f64>::zeros(m, 0);
    for column in parts.iter().flat_map(|p| p.col_iter()) {
        let mut v = column.as_mat().to_owned();
        let length = v.norm_l2();
        // Twice is enough (Giraud et al. 2005).
        project_out(&q, &mut v);
        project_out(&q, &mut v);
        let left = v.norm_l2();
        if left > least * length {
            q.resize_with(m, q.ncols() + 1, |i, _| v[(i, 0)] / left);
        }
    }
    q
}

/// What the products are made with: an orthonormal Q (m × q) and probes Z (m × s) orthogonal to it,
/// whose mean of `zzᵀ` is the projector `I − QQᵀ`.
pub(super) struct Basis {
    q: Mat<f64>,
    z: Mat<f64>,
    /// `[Q, Z]`.
    both: Mat<f32>,
}

impl Basis {
    /// From the leading spaces of both sides.
    pub(super) fn new(writer: &Mat<f64>, reader: &Mat<f64>) -> Self {
        let q = orthonormal([writer, reader], IN_SPAN);
        let mut z = signs(q.nrows(), PROBES, PROBE_STREAM);
        project_out(&q, &mut z);
        let mut both = Mat::zeros(q.nrows(), q.ncols() + PROBES);
        both.as_mut().subcols_mut(0, q.ncols()).copy_from(narrow(q.as_ref()));
        both.as_mut().subcols_mut(q.ncols(), PROBES).copy_from(narrow(z.as_ref()));
        Self { q, z, both }
    }

    /// Dimension of the space left to the probes.
    fn rest(&self) -> f64 {
        real(self.q.nrows() - self.q.ncols())
    }
}

/// A symmetric or skew matrix M without its trace, known by `MQ` and `MZ`.
#[derive(Clone)]
struct Split {
    /// `MQ`, m × q.
    on_basis: Mat<f64>,
    /// `QᵀMQ`.
    within: Mat<f64>,
    /// `(P M P − c P) Z` with `P = I − QQᵀ` and c such that the trace vanishes.
    on_probes: Mat<f64>,
    /// tr(P M P).
    trace: f64,
}

impl Split {
    /// From `M·[Q, Z]` and tr M, which is subtracted.
    fn new(basis: &Basis, product: &Mat<f64>, trace: f64) -> Self {
        let n = basis.q.ncols();
        let mean = trace / real(basis.q.nrows().max(1));
        let on_basis = product.as_ref().subcols(0, n) - &basis.q * Scale(mean);
        let mut on_probes = product.as_ref().subcols(n, PROBES).to_owned();
        project_out(&basis.q, &mut on_probes);
        let within = mul(basis.q.transpose(), on_basis.as_ref());
        let inside: f64 = (0..n).map(|i| within[(i, i)]).sum();
        let c = mean - if basis.rest() > 0.0 { inside / basis.rest() } else { 0.0 };
        on_probes -= &basis.z * Scale(c);
        Self { on_basis, within, on_probes, trace: -inside }
    }

    /// `a·self + b·other`.
    fn combined(&self, a: f64, other: &Self, b: f64) -> Self {
        let sum = |x: &Mat<f64>, y: &Mat<f64>| x * Scale(a) + y * Scale(b);
        Self {
            on_basis: sum(&self.on_basis, &other.on_basis),
            within: sum(&self.within, &other.within),
            on_probes: sum(&self.on_probes, &other.on_probes),
            trace: a * self.trace + b * other.trace,
        }
    }

    /// ⟨M, N⟩, by each probe. Of `M = QQᵀM + PMQQᵀ + PMP` the first two terms are known, M being
    /// symmetric or skew, and only ⟨PMP, PNP⟩ is left to chance.
    fn inner(&self, other: &Self, rest: f64) -> [f64; PROBES] {
        let entries = |x: &Mat<f64>, y: &Mat<f64>| inner(x.as_ref(), y.as_ref());
        let traces = if rest > 0.0 { self.trace * other.trace / rest } else { 0.0 };
        let known = 2.0 * entries(&self.on_basis, &other.on_basis)
            - entries(&self.within, &other.within)
            + traces;
        std::array::from_fn(|i| {
            let (x, y) = (self.on_probes.col(i), other.on_probes.col(i));
            known + x.iter().zip(y.iter()).map(|(x, y)| x * y).sum::<f64>()
        })
    }
}

/// What each probe gives, as [`Moments`] whose means estimate the pair's.
pub(super) fn sample(grams: &Grams<'_>, basis: &Basis) -> Result<Vec<Moments>, LinalgError> {
    let known = grams.known;
    let (ax, bx) = (grams.a_times(&basis.both)?, grams.b_times(&basis.both)?);
    // Vectors are subtracted, not traces, so nearly commuting Grams keep their digits.
    let commuted = widen(grams.a_times(&bx)?.as_ref()) - widen(grams.b_times(&ax)?.as_ref());
    if !all_finite(commuted.as_ref()) {
        return Err(NotFinite.into());
    }
    let commuted = Split::new(basis, &commuted, 0.0);
    let a = Split::new(basis, &widen(ax.as_ref()), known.trace_a);
    let b = Split::new(basis, &widen(bx.as_ref()), known.trace_b);
    let gap = a.combined(known.unit_a, &b, -known.unit_b);
    let (shape_a, shape_b) = known.shape_units();
    let shape = a.combined(shape_a, &b, -shape_b);
    let (bias, bias_trace) = bias_terms(known, basis);
    let law = gap.combined(1.0, &bias, 1.0);

    let m = real(known.dim().max(1));
    let rest = basis.rest();
    let gap_trace = known.unit_a * known.trace_a - known.unit_b * known.trace_b;
    let shape_trace = shape_a * known.trace_a - shape_b * known.trace_b;
    let square = |x: &Split| x.inner(x, rest);
    let (aa, bb, ab) = (square(&a), square(&b), a.inner(&b, rest));
    let (commuted, gap, shape, law) =
        (square(&commuted), square(&gap), square(&shape), square(&law));
    let sample = |i: usize| Moments {
        commutator: commuted[i],
        aa: aa[i] + known.trace_a.powi(2) / m,
        bb: bb[i] + known.trace_b.powi(2) / m,
        aa_traceless: aa[i],
        bb_traceless: bb[i],
        ab: ab[i] + known.trace_a * known.trace_b / m,
        gap: gap[i] + gap_trace.powi(2) / m,
        shape: shape[i] + shape_trace.powi(2) / m,
        law: law[i] + (gap_trace + bias_trace).powi(2) / m,
    };
    Ok((0..PROBES).map(sample).collect())
}

/// `b_r b_rᵀ − b_w b_wᵀ` in the common unit, and its trace.
fn bias_terms(known: &Known, basis: &Basis) -> (Split, f64) {
    let x = widen(basis.both.as_ref());
    let mut product = Mat::zeros(x.nrows(), x.ncols());
    let mut trace = 0.0;
    for (sign, bias) in known.signed_biases() {
        let column = MatRef::from_column_major_slice(bias, bias.len(), 1);
        let along = mul(column.transpose(), x.as_ref());
        matmul(&mut product, Accum::Add, column, &along, sign, Par::Seq);
        trace += sign * column.squared_norm_l2();
    }
    (Split::new(basis, &product, trace), trace)
}

/// Mean over the samples.
pub(super) fn mean(samples: &[Moments]) -> Moments {
    means(samples, None)
}

/// Mean over the samples, optionally without one of them.
fn means(samples: &[Moments], without: Option<usize>) -> Moments {
    let kept = samples.iter().enumerate().filter(|(i, _)| Some(*i) != without).map(|(_, s)| s);
    let n = real(kept.clone().count().max(1));
    let mean = |value: fn(&Moments) -> f64| kept.clone().map(value).sum::<f64>() / n;
    Moments {
        commutator: mean(|s| s.commutator),
        aa: mean(|s| s.aa),
        bb: mean(|s| s.bb),
        aa_traceless: mean(|s| s.aa_traceless),
        bb_traceless: mean(|s| s.bb_traceless),
        ab: mean(|s| s.ab),
        gap: mean(|s| s.gap),
        shape: mean(|s| s.shape),
        law: mean(|s| s.law),
    }
}

/// Standard errors by leaving out one probe at a time (Efron & Tibshirani 1993).
pub(super) fn jackknife(known: &Known, samples: &[Moments]) -> GramStderr {
    let kept: Vec<(Ratios, f64)> = (0..samples.len())
        .map(|i| {
            let moments = means(samples, Some(i));
            (Ratios::new(known, &moments), known.unscale_gap(moments.gap))
        })
        .collect();
    let error = |value: fn(&(Ratios, f64)) -> Option<f64>| -> Option<f64> {
        let values = kept.iter().map(value).collect::<Option<Vec<f64>>>()?;
        Some(jackknife_error(&values))
    };
    GramStderr {
        commutator: error(|(r, _)| r.commutator),
        commutator_vs_chance: error(|(r, _)| r.commutator_vs_chance),
        gram_cosine: error(|(r, _)| r.gram_cosine),
        gram_correlation: error(|(r, _)| r.gram_correlation),
        composition: error(|(r, _)| r.composition),
        gap: error(|(_, gap)| Some(*gap)),
        gap_ratio: error(|(r, _)| r.gap_ratio),
        gap_shape: error(|(r, _)| r.gap_shape),
    }
}

/// Standard error of a statistic from its values without each of the probes.
pub(super) fn jackknife_error(values: &[f64]) -> f64 {
    let n = real(values.len().max(1));
    let mean = values.iter().sum::<f64>() / n;
    ((n - 1.0) / n * values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()).sqrt()
}

/// A matrix of random signs, always the same.
pub(super) fn signs(rows: usize, cols: usize, stream: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    rng.set_stream(stream);
    Mat::from_fn(rows, cols, |_, _| if rng.random::<bool>() { 1.0 } else { -1.0 })
}

/// x ← (I − QQᵀ)x.
fn project_out(q: &Mat<f64>, x: &mut Mat<f64>) {
    let along = mul(q.transpose(), x.as_ref());
    matmul(x, Accum::Add, q, &along, -1.0, Par::Seq);
}

#[cfg(test)]
mod tests;
