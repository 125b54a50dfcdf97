//! Commutator, Gram cosines and balancedness gap of a pair.

use faer::Mat;

use super::dense::{pow2, ratio, real};
use super::moments::{Moments, Ratios, explicit, small_side};
use super::pair::{Known, PairMatrices, PairOperators, Prepared, norm};
use super::probes::{self, Basis, GramStderr, Grams, leading_space};
use super::{Block, LinalgError, Linear, Side, Spectrum};

/// Largest side of a Gram that is formed (128 MiB of `f64`).
pub const GRAM_LIMIT: usize = 4096;

/// How many times cheaper the small-side identities must be to be preferred: they subtract traces,
/// the explicit commutator subtracts matrices.
const SMALL_SIDE_ADVANTAGE: f64 = 4.0;

/// What the Grams `A = W2ᵀW2` and `B = W1W1ᵀ` say of a pair; A₀, B₀ are their traceless parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GramStats {
    /// m.
    pub dim: usize,
    /// ‖A₀‖_F/‖A‖_F, in `[0, 1]`: 0 where the reader reads all directions alike.
    pub reader_anisotropy: f64,
    /// ‖B₀‖_F/‖B‖_F, the same of the writer.
    pub writer_anisotropy: f64,
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

/// Statistics of a pair. Exact while m ≤ [`GRAM_LIMIT`] or max(n, p) ≤ [`GRAM_LIMIT`]; beyond,
/// estimated from products as by [`estimate_gram_stats`], with standard errors.
///
/// # Errors
/// [`LinalgError::NotFinite`] for a NaN or an infinity, [`LinalgError::Shape`] where writer rows,
/// reader columns and bias lengths do not agree.
pub fn gram_stats(pair: &PairMatrices<'_>) -> Result<GramStats, LinalgError> {
    let prepared = Prepared::new(pair)?;
    let route = route(prepared.known.dim(), prepared.writer.rows(), prepared.reader.rows());
    stats_by(route, &prepared)
}

/// Statistics of a pair, and the spectra of its writer (left vectors) and reader (right vectors), for
/// overlaps up to `k_max`; the Grams are formed once for both where the shared side is the smaller one
/// of both matrices. `storage_eps` of writer and reader as for [`Spectrum::compute`].
///
/// # Errors
/// As [`gram_stats`] and [`Spectrum::compute`].
pub fn gram_stats_and_spectra(
    pair: &PairMatrices<'_>,
    k_max: usize,
    storage_eps: [f64; 2],
) -> Result<(GramStats, Spectrum, Spectrum), LinalgError> {
    let prepared = Prepared::new(pair)?;
    let (m, n, p) = (prepared.known.dim(), prepared.writer.rows(), prepared.reader.rows());
    let [writer_eps, reader_eps] = storage_eps;
    let compute_writer = || Spectrum::compute(pair.writer, Side::Left, k_max, writer_eps);
    let compute_reader = || Spectrum::compute(pair.reader, Side::Right, k_max, reader_eps);
    if m > n.min(p) || route(m, n, p) != Route::Explicit {
        return Ok((stats_by(route(m, n, p), &prepared)?, compute_writer()?, compute_reader()?));
    }
    let (a, b) = (prepared.reader.gram(), prepared.writer.gram());
    let moments = explicit(&prepared.known, &a, &b);
    let stats = unscaled(&prepared.known, &moments, GramStderr::default());
    let of = |gram: &Mat<f64>, exponent, shape, eps| {
        Spectrum::of_gram(gram.as_ref(), exponent, shape, k_max, eps)
    };
    let writer = match of(&b, prepared.writer.exponent, (m, n), writer_eps)? {
        Some(spectrum) => spectrum,
        None => compute_writer()?,
    };
    let reader = match of(&a, prepared.reader.exponent, (p, m), reader_eps)? {
        Some(spectrum) => spectrum,
        None => compute_reader()?,
    };
    Ok((stats, writer, reader))
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

fn stats_by(route: Route, pair: &Prepared<'_>) -> Result<GramStats, LinalgError> {
    match route {
        Route::Explicit => {
            let moments = explicit(&pair.known, &pair.reader.gram(), &pair.writer.gram());
            Ok(unscaled(&pair.known, &moments, GramStderr::default()))
        }
        Route::SmallSide => {
            let (moments, resolved) = small_side(pair);
            if !resolved && pair.known.dim() <= GRAM_LIMIT {
                return stats_by(Route::Explicit, pair);
            }
            Ok(unscaled(&pair.known, &moments, GramStderr::default()))
        }
        Route::Probes => {
            let block = |source| vec![Block { source, transposed: false }];
            let reader = Linear::new(block(&pair.reader), None, pair.reader.exponent)?;
            let writer = Linear::new(block(&pair.writer), None, pair.writer.exponent)?;
            let grams = Grams {
                reader: (&reader, Side::Right),
                writer: (&writer, Side::Right),
                known: &pair.known,
            };
            let [reader, writer] = grams.leading()?;
            estimated(&grams, &Basis::new(&writer, &reader))
        }
    }
}

/// Statistics of a pair from products alone, without a Gram or a copy of a matrix: four
/// applications of both Grams to 2·[`DEFLATED`](super::DEFLATED) + [`PROBES`](super::PROBES)
/// vectors, which is `8·(2·DEFLATED + PROBES)` floating-point operations an element of the pair.
///
/// Hutch++ (Meyer, Musco, Musco & Woodruff 2021) with its sketch taken from the leading singular
/// vectors: on that space everything is exact, of the rest it is estimated from random vectors that are the same
/// in every call, so that the error moves smoothly with the weights and differences between saves
/// are sharper than [`GramStats::stderr`] says of each. Diagonals, traces and what follows from
/// them are exact.
///
/// # Errors
/// [`LinalgError::Shape`] where sizes do not agree, [`LinalgError::NotFinite`] for a NaN or an
/// infinity in a bias, a leading vector or a product, [`LinalgError::Unread`].
pub fn estimate_gram_stats(pair: &PairOperators<'_>) -> Result<GramStats, LinalgError> {
    let known = Known::of_operators(pair)?;
    let grams = Grams {
        reader: (pair.reader, Side::Right),
        writer: (pair.writer, Side::Left),
        known: &known,
    };
    let leading = |vectors, values, linear: &Linear<'_>| {
        leading_space(vectors, values, linear.rows().min(linear.cols()))
    };
    let writer = leading(pair.writer_leading, pair.writer_values, pair.writer)?;
    let reader = leading(pair.reader_leading, pair.reader_values, pair.reader)?;
    estimated(&grams, &Basis::new(&writer, &reader))
}

fn estimated(grams: &Grams<'_>, basis: &Basis) -> Result<GramStats, LinalgError> {
    let samples = probes::sample(grams, basis)?;
    let stderr = probes::jackknife(grams.known, &samples);
    Ok(unscaled(grams.known, &probes::mean(&samples), stderr))
}

fn anisotropy(traceless_squared: f64, squared: f64) -> f64 {
    if squared > 0.0 { (traceless_squared / squared).sqrt() } else { 0.0 }
}

/// Everything said of a pair, in the units of the input.
fn unscaled(pair: &Known, moments: &Moments, stderr: GramStderr) -> GramStats {
    let ratios = Ratios::new(pair, moments);
    let unit = pow2(2 * pair.exponent);
    let diagonal = norm(&pair.diagonal_gap(false));
    let law_diagonal = pair.diagonal_gap(true);
    let half = pair.dim() / 2;
    let rotary = (pair.dim() == 2 * half).then(|| {
        norm(&(0..half).map(|i| law_diagonal[i] + law_diagonal[i + half]).collect::<Vec<_>>())
    });
    let diagonals =
        pair.unit_a * norm(&pair.reader_diagonal) + pair.unit_b * norm(&pair.writer_diagonal);
    let commutator_unit = pow2(2 * (pair.reader_exponent + pair.writer_exponent));
    let trace_ratio = ratio(pair.trace_a, pair.trace_b).filter(|r| *r > 0.0);
    let scale = f64::from(pair.reader_exponent - pair.writer_exponent);
    GramStats {
        dim: pair.dim(),
        reader_anisotropy: anisotropy(moments.aa_traceless, moments.aa),
        writer_anisotropy: anisotropy(moments.bb_traceless, moments.bb),
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
        gap_trace: (pair.unit_a * pair.trace_a - pair.unit_b * pair.trace_b) * unit,
        log_norm_ratio: trace_ratio.map(|r| 0.5 * r.ln() + scale * std::f64::consts::LN_2),
        gap_shape: ratios.gap_shape,
        law_gap_full: Some(moments.law.sqrt() * unit),
        law_gap_diagonal: Some(norm(&law_diagonal) * unit),
        law_gap_rotary: rotary.map(|r| r * unit),
        stderr,
    }
}

#[cfg(test)]
mod tests;
