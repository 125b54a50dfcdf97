//! Commutator, Gram cosines and balancedness gap of a pair.

use std::f64::consts::SQRT_2;

use faer::{Mat, MatRef};

use super::dense::{Scaled, exponent, inner, max_abs, mul, pow2, ratio, real};
use super::{LinalgError, probes};

/// Largest side of a Gram that is formed (128 MiB of `f64`).
pub const GRAM_LIMIT: usize = 4096;

/// How many times cheaper the small-side identities must be to be preferred: they subtract traces,
/// the explicit commutator subtracts matrices.
const SMALL_SIDE_ADVANTAGE: f64 = 4.0;

/// Below this fraction of what was subtracted, a difference of traces has lost ten digits of
/// sixteen and the explicit Grams are used instead.
const CANCELLED: f64 = 1e-10;

/// ‖A₀‖²‖B₀‖² must exceed this fraction of ‖A‖²‖B‖²; below, one Gram is a multiple of the identity
/// up to rounding and has no orientation.
const ISOTROPIC: f64 = 1e-28;

/// Columns of the commutator formed at a time.
const BLOCK: usize = 512;

/// A writer and a reader that share the space R^m.
#[derive(Debug, Clone, Copy)]
pub struct PairMatrices<'a> {
    /// `W1`, m × n.
    pub writer: MatRef<'a, f32>,
    /// `W2`, p × m.
    pub reader: MatRef<'a, f32>,
    /// Bias on the writer's side of the conservation law: one or more columns of length m, one
    /// after the other, that count as further columns of `W1`.
    pub writer_bias: Option<&'a [f32]>,
    /// The same for the reader: further rows of `W2`.
    pub reader_bias: Option<&'a [f32]>,
}

/// What the Grams `A = W2ᵀW2` and `B = W1W1ᵀ` say of a pair; A₀, B₀ are their traceless parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GramStats {
    /// m.
    pub dim: usize,
    /// ‖AB − BA‖_F.
    pub commutator_norm: f64,
    /// χ = √2‖AB − BA‖_F/(‖A‖_F‖B‖_F), in `[0, 1]`; 0 iff simultaneously diagonalisable.
    pub commutator: Option<f64>,
    /// κ = ‖AB − BA‖_F² over its mean for a random orientation, 2m‖A₀‖²‖B₀‖²/((m − 1)(m + 2)); in
    /// `[0, (m − 1)(m + 2)/m]`, 0 commute, 1 random; `None` where a Gram is isotropic.
    pub commutator_vs_chance: Option<f64>,
    /// ⟨A, B⟩/(‖A‖_F‖B‖_F), in `[0, 1]`.
    pub gram_cosine: Option<f64>,
    /// ⟨A₀, B₀⟩/(‖A₀‖_F‖B₀‖_F), in `[-1, 1]`; random orientation 0; `None` where a Gram is
    /// isotropic.
    pub gram_correlation: Option<f64>,
    /// ‖W2W1‖_F/(‖W2‖_F‖W1‖_F), in `[0, 1]`; random √(1/m) (Elhage et al. 2021).
    pub composition: Option<f64>,
    /// ‖A − B‖_F.
    pub gap: f64,
    /// gap/(‖A‖_F + ‖B‖_F), in `[0, 1]`.
    pub gap_ratio: Option<f64>,
    /// ‖diag A − diag B‖.
    pub gap_diagonal: f64,
    /// `gap_diagonal/(‖diag A‖ + ‖diag B‖)`, in `[0, 1]`.
    pub gap_diagonal_ratio: Option<f64>,
    /// tr A − tr B.
    pub gap_trace: f64,
    /// ½ ln(tr A/tr B); `None` where either is zero.
    pub log_norm_ratio: Option<f64>,
    /// The gap ratio of the trace-normalised Grams, in `[0, 1]`.
    pub gap_shape: Option<f64>,
    /// `‖A + b_r b_rᵀ − B − b_w b_wᵀ‖_F`: the gap of the law "full".
    pub law_gap_full: Option<f64>,
    /// `‖diag(A + b_r b_rᵀ − B − b_w b_wᵀ)‖`: the gap of the law "diagonal".
    pub law_gap_diagonal: Option<f64>,
    /// The same of the traces of the rotary pairs (i, i + m/2); `None` for odd m.
    pub law_gap_rotary: Option<f64>,
    /// Standard errors where the statistics were estimated from random probes.
    pub stderr: GramStderr,
}

/// Jackknife standard errors of estimated statistics; `None` where exact or undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GramStderr {
    /// Of [`GramStats::commutator`].
    pub commutator: Option<f64>,
    /// Of [`GramStats::commutator_vs_chance`].
    pub commutator_vs_chance: Option<f64>,
    /// Of [`GramStats::gram_cosine`].
    pub gram_cosine: Option<f64>,
    /// Of [`GramStats::gram_correlation`].
    pub gram_correlation: Option<f64>,
    /// Of [`GramStats::composition`].
    pub composition: Option<f64>,
    /// Of [`GramStats::gap`].
    pub gap: Option<f64>,
    /// Of [`GramStats::gap_ratio`].
    pub gap_ratio: Option<f64>,
    /// Of [`GramStats::gap_shape`].
    pub gap_shape: Option<f64>,
}

/// How the statistics are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Form A and B.
    Explicit,
    /// Traces of products of `W1ᵀW1`, `W2W2ᵀ` and `W2W1`.
    SmallSide,
    /// Random probes.
    Probes,
}

/// The pair, checked and scaled, with what every route needs exactly.
pub(super) struct Prepared<'a> {
    /// Transposed writer, n × m, so that both Grams are `WᵀW`.
    pub(super) writer: Scaled<'a>,
    pub(super) reader: Scaled<'a>,
    /// What A and B are multiplied with to stand in the common unit.
    pub(super) unit_a: f64,
    pub(super) unit_b: f64,
    /// Exponent of the common unit of gaps: they are in units of 4^exponent.
    exponent: i32,
    writer_diagonal: Vec<f64>,
    reader_diagonal: Vec<f64>,
    pub(super) trace_a: f64,
    pub(super) trace_b: f64,
    writer_bias: Vec<Vec<f64>>,
    reader_bias: Vec<Vec<f64>>,
}

/// Second moments of the scaled Grams, from which every ratio follows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    /// ‖AB − BA‖².
    pub(super) commutator: f64,
    /// ‖A‖², ‖B‖².
    pub(super) aa: f64,
    pub(super) bb: f64,
    /// ‖A₀‖², ‖B₀‖².
    pub(super) aa_traceless: f64,
    pub(super) bb_traceless: f64,
    /// ⟨A, B⟩.
    pub(super) ab: f64,
    /// ‖A − B‖² in the common unit.
    pub(super) gap: f64,
    /// ‖A/tr A − B/tr B‖², a zero Gram staying zero.
    pub(super) shape: f64,
    /// ‖A − B + bias terms‖² in the common unit.
    pub(super) law: f64,
}

/// Statistics of a pair. Exact while m ≤ [`GRAM_LIMIT`] or max(n, p) ≤ [`GRAM_LIMIT`]; beyond,
/// estimated from [`super::PROBES`] fixed random probes, with standard errors.
///
/// # Errors
/// [`LinalgError::NotFinite`] for a NaN or an infinity, [`LinalgError::Shape`] where writer rows,
/// reader columns and bias lengths do not agree.
pub fn gram_stats(pair: &PairMatrices<'_>) -> Result<GramStats, LinalgError> {
    let prepared = Prepared::new(pair)?;
    let route = route(prepared.dim(), prepared.writer.rows(), prepared.reader.rows());
    Ok(stats_by(route, &prepared))
}

/// The cheaper exact route, the explicit one unless the other is much cheaper.
fn route(m: usize, n: usize, p: usize) -> Route {
    let (mf, nf, pf) = (real(m), real(n), real(p));
    let explicit = mf * mf * (nf + pf + 2.0 * mf);
    let small_side = mf * (nf * nf + pf * pf + 2.0 * nf * pf) + 2.0 * nf * pf * (nf + pf);
    let fits = n.max(p) <= GRAM_LIMIT;
    match (m <= GRAM_LIMIT, fits) {
        (true, true) if SMALL_SIDE_ADVANTAGE * small_side <= explicit => Route::SmallSide,
        (true, _) => Route::Explicit,
        (false, true) => Route::SmallSide,
        (false, false) => Route::Probes,
    }
}

fn stats_by(route: Route, pair: &Prepared<'_>) -> GramStats {
    match route {
        Route::Explicit => pair.stats(&explicit(pair), GramStderr::default()),
        Route::SmallSide => {
            let (moments, resolved) = small_side(pair);
            if !resolved && pair.dim() <= GRAM_LIMIT {
                return stats_by(Route::Explicit, pair);
            }
            pair.stats(&moments, GramStderr::default())
        }
        Route::Probes => {
            let samples = probes::sample(pair);
            let mean = probes::mean(pair, &samples, None);
            let stderr = probes::jackknife(pair, &samples);
            pair.stats(&mean, stderr)
        }
    }
}

impl<'a> Prepared<'a> {
    fn new(pair: &PairMatrices<'a>) -> Result<Self, LinalgError> {
        let m = pair.writer.nrows();
        let expect = |what, found: usize, fits: bool| {
            if fits { Ok(()) } else { Err(LinalgError::Shape { what, found, expected: m }) }
        };
        expect("reader's input", pair.reader.ncols(), pair.reader.ncols() == m)?;
        let writer_bias = pair.writer_bias.unwrap_or_default();
        let reader_bias = pair.reader_bias.unwrap_or_default();
        let fits = |bias: &[f32]| bias.is_empty() || (m > 0 && bias.len().is_multiple_of(m));
        expect("writer's bias", writer_bias.len(), fits(writer_bias))?;
        expect("reader's bias", reader_bias.len(), fits(reader_bias))?;

        let writer = Scaled::new(pair.writer)?.transpose();
        let reader = Scaled::new(pair.reader)?;
        let mut common = writer.exponent.max(reader.exponent);
        let bias_max = max_abs(writer_bias.iter().chain(reader_bias))?;
        if bias_max > 0.0 {
            common = common.max(exponent(bias_max));
        }
        let columns = |bias: &[f32]| -> Vec<Vec<f64>> {
            let unit = pow2(-common);
            bias.chunks(m.max(1))
                .map(|c| c.iter().map(|b| f64::from(*b) * unit).collect())
                .collect()
        };
        let (reader_diagonal, writer_diagonal) = (reader.column_squares(), writer.column_squares());
        Ok(Self {
            unit_a: pow2(2 * (reader.exponent - common)),
            unit_b: pow2(2 * (writer.exponent - common)),
            exponent: common,
            trace_a: reader_diagonal.iter().sum(),
            trace_b: writer_diagonal.iter().sum(),
            writer_bias: columns(writer_bias),
            reader_bias: columns(reader_bias),
            writer,
            reader,
            writer_diagonal,
            reader_diagonal,
        })
    }

    pub(super) fn dim(&self) -> usize {
        self.reader.cols()
    }

    /// Factors that normalise the traces; 0 keeps a zero Gram zero.
    pub(super) fn shape_units(&self) -> (f64, f64) {
        (ratio(1.0, self.trace_a).unwrap_or(0.0), ratio(1.0, self.trace_b).unwrap_or(0.0))
    }

    /// Diagonal of A − B in the common unit, with or without the bias terms.
    fn diagonal_gap(&self, with_bias: bool) -> Vec<f64> {
        let squares = |bias: &[Vec<f64>], i: usize| -> f64 {
            if with_bias { bias.iter().map(|b| b[i] * b[i]).sum() } else { 0.0 }
        };
        (0..self.dim())
            .map(|i| {
                self.unit_a * self.reader_diagonal[i] - self.unit_b * self.writer_diagonal[i]
                    + squares(&self.reader_bias, i)
                    - squares(&self.writer_bias, i)
            })
            .collect()
    }

    /// What the bias terms add to ‖A − B‖², in the common unit:
    /// `2⟨A − B, R − W⟩ + ‖R − W‖²` with `R = b_r b_rᵀ`, `W = b_w b_wᵀ`.
    pub(super) fn bias_terms(&self) -> f64 {
        let signed = || {
            let reader = self.reader_bias.iter().map(|b| (1.0, b));
            reader.chain(self.writer_bias.iter().map(|b| (-1.0, b)))
        };
        signed()
            .map(|(sign, b)| {
                let column = MatRef::from_column_major_slice(b.as_slice(), b.len(), 1);
                let along_a = self.unit_a * self.reader.times(column).squared_norm_l2();
                let along_b = self.unit_b * self.writer.times(column).squared_norm_l2();
                let mutual: f64 = signed().map(|(other, c)| other * dot(b, c).powi(2)).sum();
                sign * (2.0 * (along_a - along_b) + mutual)
            })
            .sum()
    }

    fn stats(&self, moments: &Moments, stderr: GramStderr) -> GramStats {
        let ratios = Ratios::new(self, moments);
        let unit = pow2(2 * self.exponent);
        let diagonal = norm(&self.diagonal_gap(false));
        let law_diagonal = self.diagonal_gap(true);
        let half = self.dim() / 2;
        let rotary = (self.dim() == 2 * half).then(|| {
            norm(&(0..half).map(|i| law_diagonal[i] + law_diagonal[i + half]).collect::<Vec<_>>())
        });
        let diagonals =
            self.unit_a * norm(&self.reader_diagonal) + self.unit_b * norm(&self.writer_diagonal);
        let commutator_unit = pow2(2 * (self.reader.exponent + self.writer.exponent));
        let trace_ratio = ratio(self.trace_a, self.trace_b).filter(|r| *r > 0.0);
        let scale = f64::from(self.reader.exponent - self.writer.exponent);
        GramStats {
            dim: self.dim(),
            commutator_norm: moments.commutator.sqrt() * commutator_unit,
            commutator: ratios.commutator,
            commutator_vs_chance: ratios.commutator_vs_chance,
            gram_cosine: ratios.gram_cosine,
            gram_correlation: ratios.gram_correlation,
            composition: ratios.composition,
            gap: moments.gap.sqrt() * unit,
            gap_ratio: ratios.gap_ratio,
            gap_diagonal: diagonal * unit,
            gap_diagonal_ratio: ratio(diagonal, diagonals),
            gap_trace: (self.unit_a * self.trace_a - self.unit_b * self.trace_b) * unit,
            log_norm_ratio: trace_ratio.map(|r| 0.5 * r.ln() + scale * std::f64::consts::LN_2),
            gap_shape: ratios.gap_shape,
            law_gap_full: Some(moments.law.sqrt() * unit),
            law_gap_diagonal: Some(norm(&law_diagonal) * unit),
            law_gap_rotary: rotary.map(|r| r * unit),
            stderr,
        }
    }

    /// The gap of the scaled moments in the unit of the input.
    pub(super) fn unscale_gap(&self, gap: f64) -> f64 {
        gap.sqrt() * pow2(2 * self.exponent)
    }
}

/// The dimensionless statistics of [`Moments`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratios {
    pub(super) commutator: Option<f64>,
    pub(super) commutator_vs_chance: Option<f64>,
    pub(super) gram_cosine: Option<f64>,
    pub(super) gram_correlation: Option<f64>,
    pub(super) composition: Option<f64>,
    pub(super) gap_ratio: Option<f64>,
    pub(super) gap_shape: Option<f64>,
}

impl Ratios {
    pub(super) fn new(pair: &Prepared<'_>, s: &Moments) -> Self {
        let m = real(pair.dim());
        let (a, b) = (s.aa.sqrt(), s.bb.sqrt());
        let traceless = s.aa_traceless * s.bb_traceless;
        let oriented = m > 1.0 && traceless > ISOTROPIC * s.aa * s.bb;
        let chance = 2.0 * m * traceless / ((m - 1.0) * (m + 2.0));
        let centred = s.ab - pair.trace_a * pair.trace_b / m;
        let (unit_a, unit_b) = pair.shape_units();
        Self {
            commutator: ratio(SQRT_2 * s.commutator.sqrt(), a * b).map(|x| x.min(1.0)),
            commutator_vs_chance: (oriented && chance > ISOTROPIC * s.aa * s.bb)
                .then(|| s.commutator / chance),
            gram_cosine: ratio(s.ab, a * b).map(|x| x.clamp(0.0, 1.0)),
            gram_correlation: oriented.then(|| (centred / traceless.sqrt()).clamp(-1.0, 1.0)),
            composition: ratio(s.ab.max(0.0), pair.trace_a * pair.trace_b)
                .map(|x| x.sqrt().min(1.0)),
            gap_ratio: ratio(s.gap.sqrt(), pair.unit_a * a + pair.unit_b * b).map(|x| x.min(1.0)),
            gap_shape: ratio(s.shape.sqrt(), unit_a * a + unit_b * b).map(|x| x.min(1.0)),
        }
    }
}

/// Moments from the explicit Grams.
fn explicit(pair: &Prepared<'_>) -> Moments {
    let a = pair.reader.gram();
    let b = pair.writer.gram();
    let (shape_a, shape_b) = pair.shape_units();
    let (mut gap, mut shape, mut law) = (0.0, 0.0, 0.0);
    for j in 0..pair.dim() {
        for i in 0..pair.dim() {
            let (x, y) = (a[(i, j)], b[(i, j)]);
            let difference = pair.unit_a * x - pair.unit_b * y;
            gap += difference * difference;
            shape += (shape_a * x - shape_b * y).powi(2);
            let outer = |bias: &[Vec<f64>]| bias.iter().map(|v| v[i] * v[j]).sum::<f64>();
            law += (difference + outer(&pair.reader_bias) - outer(&pair.writer_bias)).powi(2);
        }
    }
    Moments {
        commutator: commutator_squared(&a, &b),
        aa: a.squared_norm_l2(),
        bb: b.squared_norm_l2(),
        aa_traceless: traceless_squared(&a),
        bb_traceless: traceless_squared(&b),
        ab: inner(a.as_ref(), b.as_ref()),
        gap,
        shape,
        law,
    }
}

/// ‖AB − BA‖_F² of symmetric matrices, block by block: matrices are subtracted, not traces, so a
/// commutator of 1e-8 of the product is still seen; equal matrices give exactly 0.
fn commutator_squared(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let m = a.nrows();
    let mut sum = 0.0;
    let starts: Vec<usize> = (0..m).step_by(BLOCK).collect();
    for &i in &starts {
        let height = BLOCK.min(m - i);
        for &j in starts.iter().filter(|j| **j >= i) {
            let width = BLOCK.min(m - j);
            let ab = mul(a.as_ref().subrows(i, height), b.as_ref().subcols(j, width));
            let ba = mul(b.as_ref().subrows(i, height), a.as_ref().subcols(j, width));
            let squares = (ab - ba).squared_norm_l2();
            sum += if i == j { squares } else { 2.0 * squares };
        }
    }
    sum
}

/// ‖A − (tr A/m) I‖_F².
fn traceless_squared(a: &Mat<f64>) -> f64 {
    let m = a.nrows();
    let mean = (0..m).map(|i| a[(i, i)]).sum::<f64>() / real(m.max(1));
    let entry = |i: usize, j: usize| if i == j { a[(i, j)] - mean } else { a[(i, j)] };
    (0..m).map(|j| (0..m).map(|i| entry(i, j).powi(2)).sum::<f64>()).sum()
}

/// Moments from the Grams of the outer sides, and whether no difference of traces cancelled:
/// `‖AB‖² = ⟨W2W2ᵀX, XW1ᵀW1⟩` and `tr(ABAB) = ‖XXᵀ‖²` with `X = W2W1`.
fn small_side(pair: &Prepared<'_>) -> (Moments, bool) {
    let m = real(pair.dim().max(1));
    let g1 = pair.writer.transpose().gram();
    let g2 = pair.reader.transpose().gram();
    let x = pair.reader.times(pair.writer.transpose().to_f64().as_ref());
    let product =
        inner(mul(g2.as_ref(), x.as_ref()).as_ref(), mul(x.as_ref(), g1.as_ref()).as_ref());
    let mixed = if x.nrows() <= x.ncols() {
        mul(x.as_ref(), x.transpose()).squared_norm_l2()
    } else {
        mul(x.transpose(), x.as_ref()).squared_norm_l2()
    };
    let (aa, bb, ab) = (g2.squared_norm_l2(), g1.squared_norm_l2(), x.squared_norm_l2());
    let difference = |ua: f64, ub: f64| {
        let parts = ua * ua * aa + ub * ub * bb;
        ((parts - 2.0 * ua * ub * ab).max(0.0), parts)
    };
    let (shape_a, shape_b) = pair.shape_units();
    let (gap, gap_parts) = difference(pair.unit_a, pair.unit_b);
    let (shape, shape_parts) = difference(shape_a, shape_b);
    let commutator = (2.0 * (product - mixed)).max(0.0);
    let aa_traceless = (aa - pair.trace_a * pair.trace_a / m).max(0.0);
    let bb_traceless = (bb - pair.trace_b * pair.trace_b / m).max(0.0);
    let law = (gap + pair.bias_terms()).max(0.0);
    let resolved = [
        (commutator, product),
        (aa_traceless, aa),
        (bb_traceless, bb),
        (gap, gap_parts),
        (shape, shape_parts),
        (law, gap_parts),
    ]
    .iter()
    .all(|(left, whole)| *left > CANCELLED * whole || *whole == 0.0);
    let moments = Moments { commutator, aa, bb, aa_traceless, bb_traceless, ab, gap, shape, law };
    (moments, resolved)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests;
