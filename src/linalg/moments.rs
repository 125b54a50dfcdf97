//! Second moments of the Grams of a pair, exactly, and the ratios that follow from them.

use std::f64::consts::SQRT_2;

use faer::Mat;

use super::dense::{inner, mul, ratio, real};
use super::pair::{Known, Prepared};

/// Below this fraction of what was subtracted, a difference of traces has lost ten digits of
/// sixteen and the explicit Grams are used instead.
const CANCELLED: f64 = 1e-10;

/// Columns of the commutator formed at a time.
pub(super) const BLOCK: usize = 512;

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
    pub(super) fn new(pair: &Known, s: &Moments) -> Self {
        let m = real(pair.dim());
        let (a, b) = (s.aa.sqrt(), s.bb.sqrt());
        let traceless = s.aa_traceless * s.bb_traceless;
        let oriented = m > 1.0 && traceless > pair.isotropic * s.aa * s.bb;
        let chance = 2.0 * m * traceless / ((m - 1.0) * (m + 2.0));
        let centred = s.ab - pair.trace_a * pair.trace_b / m;
        let (unit_a, unit_b) = pair.shape_units();
        Self {
            commutator: ratio(SQRT_2 * s.commutator.sqrt(), a * b).map(|x| x.min(1.0)),
            commutator_vs_chance: (oriented && chance > pair.isotropic * s.aa * s.bb)
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
pub(super) fn explicit(known: &Known, a: &Mat<f64>, b: &Mat<f64>) -> Moments {
    let (shape_a, shape_b) = known.shape_units();
    let (mut gap, mut shape, mut law) = (0.0, 0.0, 0.0);
    for j in 0..known.dim() {
        for i in 0..known.dim() {
            let (x, y) = (a[(i, j)], b[(i, j)]);
            let difference = known.unit_a * x - known.unit_b * y;
            gap += difference * difference;
            shape += (shape_a * x - shape_b * y).powi(2);
            let outer = |bias: &[Vec<f64>]| bias.iter().map(|v| v[i] * v[j]).sum::<f64>();
            law += (difference + outer(&known.reader_bias) - outer(&known.writer_bias)).powi(2);
        }
    }
    Moments {
        commutator: commutator_squared(a, b),
        aa: a.squared_norm_l2(),
        bb: b.squared_norm_l2(),
        aa_traceless: traceless_squared(a),
        bb_traceless: traceless_squared(b),
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
pub(super) fn small_side(pair: &Prepared<'_>) -> (Moments, bool) {
    let known = &pair.known;
    let m = real(known.dim().max(1));
    let g1 = pair.writer.transpose().gram();
    let g2 = pair.reader.transpose().gram();
    let x = pair.reader.transpose().transposed_times(&pair.writer.transpose());
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
    let (shape_a, shape_b) = known.shape_units();
    let (gap, gap_parts) = difference(known.unit_a, known.unit_b);
    let (shape, shape_parts) = difference(shape_a, shape_b);
    let commutator = (2.0 * (product - mixed)).max(0.0);
    let aa_traceless = (aa - known.trace_a * known.trace_a / m).max(0.0);
    let bb_traceless = (bb - known.trace_b * known.trace_b / m).max(0.0);
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
