//! The moments of a pair too large for any Gram, estimated from random probes (Hutchinson 1990).

use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dense::real;
use super::moments::{Moments, Ratios};
use super::pair::Prepared;

/// Rademacher probes of an estimated pair: the relative standard deviation of ‖AB − BA‖ is then at
/// most 1/(2√64) = 6 %.
pub const PROBES: usize = 64;

/// The same probes at every save, so that the estimation error moves smoothly with the weights.
const SEED: u64 = 0x70_72_6f_62_65;

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

/// What each probe gives, as [`Moments`] whose means estimate the pair's.
pub(super) fn sample(pair: &Prepared<'_>) -> Vec<Moments> {
    let m = pair.dim();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let z = Mat::from_fn(m, PROBES, |_, _| if rng.random::<bool>() { 1.0 } else { -1.0 });
    let az = pair.reader.normal_times(z.as_ref());
    let bz = pair.writer.normal_times(z.as_ref());
    // Vectors are subtracted, not traces, so nearly commuting Grams keep their digits.
    let commuted = pair.reader.normal_times(bz.as_ref()) - pair.writer.normal_times(az.as_ref());
    // The traces are known, so only the traceless parts are left to chance.
    let m = real(m.max(1));
    let a0 = az - &z * faer::Scale(pair.trace_a / m);
    let b0 = bz - &z * faer::Scale(pair.trace_b / m);
    let (shape_a, shape_b) = pair.shape_units();
    (0..PROBES)
        .map(|i| {
            let (a, b) = (a0.col(i), b0.col(i));
            let difference = |ua: f64, ub: f64| {
                let traces = ua * pair.trace_a - ub * pair.trace_b;
                let traceless =
                    a.iter().zip(b.iter()).map(|(x, y)| (ua * x - ub * y).powi(2)).sum::<f64>();
                traceless + traces * traces / m
            };
            let (aa, bb) = (a.squared_norm_l2(), b.squared_norm_l2());
            let ab = a.iter().zip(b.iter()).map(|(x, y)| x * y).sum::<f64>();
            Moments {
                commutator: commuted.col(i).squared_norm_l2(),
                aa: aa + pair.trace_a * pair.trace_a / m,
                bb: bb + pair.trace_b * pair.trace_b / m,
                aa_traceless: aa,
                bb_traceless: bb,
                ab: ab + pair.trace_a * pair.trace_b / m,
                gap: difference(pair.unit_a, pair.unit_b),
                shape: difference(shape_a, shape_b),
                law: 0.0,
            }
        })
        .collect()
}

/// Mean over the samples, with the law's bias terms, which are exact.
pub(super) fn mean(pair: &Prepared<'_>, samples: &[Moments]) -> Moments {
    let moments = means(samples, None);
    Moments { law: (moments.gap + pair.bias_terms()).max(0.0), ..moments }
}

/// Mean over the samples, optionally without one of them.
fn means(samples: &[Moments], without: Option<usize>) -> Moments {
    let mut sum = Moments::default();
    let kept = samples.iter().enumerate().filter(|(i, _)| Some(*i) != without).map(|(_, s)| s);
    let mut n = 0;
    for s in kept {
        sum.commutator += s.commutator;
        sum.aa += s.aa;
        sum.bb += s.bb;
        sum.aa_traceless += s.aa_traceless;
        sum.bb_traceless += s.bb_traceless;
        sum.ab += s.ab;
        sum.gap += s.gap;
        sum.shape += s.shape;
        n += 1;
    }
    let n = real(n.max(1));
    Moments {
        commutator: sum.commutator / n,
        aa: sum.aa / n,
        bb: sum.bb / n,
        aa_traceless: sum.aa_traceless / n,
        bb_traceless: sum.bb_traceless / n,
        ab: sum.ab / n,
        gap: sum.gap / n,
        shape: sum.shape / n,
        ..sum
    }
}

/// Standard errors by leaving out one probe at a time (Efron & Tibshirani 1993).
pub(super) fn jackknife(pair: &Prepared<'_>, samples: &[Moments]) -> GramStderr {
    let kept: Vec<(Ratios, f64)> = (0..samples.len())
        .map(|i| {
            let moments = means(samples, Some(i));
            (Ratios::new(pair, &moments), pair.unscale_gap(moments.gap))
        })
        .collect();
    let error = |value: fn(&(Ratios, f64)) -> Option<f64>| -> Option<f64> {
        let values = kept.iter().map(value).collect::<Option<Vec<f64>>>()?;
        let n = real(values.len());
        let mean = values.iter().sum::<f64>() / n;
        Some(((n - 1.0) / n * values.iter().map(|v| (v - mean).powi(2)).sum::<f64>()).sqrt())
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
