use super::super::testing::*;
use super::super::{
    Block, GramStats, PairMatrices, PairOperators, Spectrum, estimate_gram_stats, gram_stats,
};
use super::*;

/// Spectra of weights: a random bulk, one with spikes of a power law, laws alone, equal values.
#[derive(Debug, Clone, Copy)]
enum Law {
    Flat,
    Bulk,
    Spikes,
    Power,
    Low,
}

const LAWS: [Law; 5] = [Law::Flat, Law::Bulk, Law::Spikes, Law::Power, Law::Low];

impl Law {
    fn values(self, n: usize) -> Vec<f64> {
        let x = |i: usize| real(i) / real(n);
        let value = |i: usize| match self {
            Self::Flat => f64::from(u8::from(2 * i < n)),
            Self::Bulk => 1.0 - 0.9 * x(i),
            Self::Spikes => 1.0 - 0.9 * x(i) + 6.0 / real(i + 1).sqrt(),
            Self::Power => 1.0 / real(i + 1).powf(0.7),
            Self::Low => f64::from(u8::from(i < 20)),
        };
        (0..n).map(value).collect()
    }
}

/// The pair as saved: writer m × n, reader p × m.
struct Pair {
    writer: Weights,
    reader: Weights,
}

impl Pair {
    /// Unrelated, or with a reader that is the writer's transpose and a third of noise.
    fn new(law: Law, m: usize, aligned: bool, seed: u64) -> Self {
        let writer = with_spectrum(m, m, &law.values(m), seed);
        let reader = if aligned {
            drifted(&writer.transposed(), 0.3, 0, seed + 50)
        } else {
            with_spectrum(m, m, &law.values(m), seed + 50)
        };
        Self { writer, reader }
    }

    fn exact(&self) -> GramStats {
        gram_stats(&PairMatrices {
            writer: self.writer.view(),
            reader: self.reader.view(),
            writer_bias: None,
            reader_bias: None,
        })
        .unwrap()
    }

    fn estimated(&self) -> GramStats {
        let leading = |w: &Weights, side| {
            let spectrum = Spectrum::compute(w.view(), side, 64, 1e-7).unwrap();
            let basis = spectrum.basis.as_ref().subcols(0, spectrum.basis.ncols().min(64));
            (narrow(basis), spectrum.values)
        };
        let ((w, w_values), (r, r_values)) =
            (leading(&self.writer, Side::Left), leading(&self.reader, Side::Right));
        let (writer, reader) = (self.writer.view(), self.reader.view());
        let linear =
            |source| Linear::new(vec![Block { source, transposed: false }], None, 0).unwrap();
        estimate_gram_stats(&PairOperators {
            writer: &linear(&writer),
            reader: &linear(&reader),
            writer_bias: None,
            reader_bias: None,
            writer_leading: w.as_ref(),
            reader_leading: r.as_ref(),
            writer_values: &w_values,
            reader_values: &r_values,
        })
        .unwrap()
    }

    fn drifted(&self, by: f64, rank: usize, seed: u64) -> Self {
        Self {
            writer: drifted(&self.writer, by, rank, seed),
            reader: drifted(&self.reader, by, rank, seed + 1),
        }
    }
}

/// w + E with ‖E‖ = by·‖w‖, E dense (rank 0) or of the given rank.
fn drifted(w: &Weights, by: f64, rank: usize, seed: u64) -> Weights {
    let e = if rank == 0 {
        Weights::random(w.rows, w.cols, seed).to_f64()
    } else {
        mul(
            Weights::random(w.rows, rank, seed).to_f64().as_ref(),
            Weights::random(rank, w.cols, seed + 5).to_f64().as_ref(),
        )
    };
    let w = w.to_f64();
    Weights::from_f64((&w + &e * Scale(by * w.norm_l2() / e.norm_l2())).as_ref())
}

impl Weights {
    fn transposed(&self) -> Self {
        Self::from_f64(self.to_f64().transpose())
    }
}

/// What alerts look at.
fn watched(s: &GramStats) -> [f64; 2] {
    [s.gram_correlation.unwrap(), s.commutator_vs_chance.unwrap().ln()]
}

/// Smallest steps that alert: of the Gram correlation and of ln κ.
const ALERT_STEPS: [f64; 2] = [0.04, 0.30];

/// Differences between saves err by less than a tenth of the smallest step that alerts.
#[track_caller]
fn check_differences(law: Law, aligned: bool, by: f64, rank: usize) {
    let mut pair = Pair::new(law, 320, aligned, 1);
    let mut errors = Vec::new();
    for save in 0..3 {
        let (exact, estimated) = (watched(&pair.exact()), watched(&pair.estimated()));
        errors.push([0, 1].map(|i| estimated[i] - exact[i]));
        pair = pair.drifted(by, rank, 100 + 10 * save);
    }
    for saves in errors.windows(2) {
        for i in 0..2 {
            let off = (saves[1][i] - saves[0][i]).abs();
            let what = format!("{law:?}, aligned {aligned}, drift {by} of rank {rank}");
            assert!(off < 0.1 * ALERT_STEPS[i], "{what}: statistic {i} off by {off}");
        }
    }
}

#[test]
fn differences_between_unrelated_saves_are_sharp() {
    for law in LAWS {
        for (by, rank) in [(1e-3, 0), (3e-2, 0), (3e-2, 16)] {
            check_differences(law, false, by, rank);
        }
    }
}

#[test]
fn differences_between_aligned_saves_are_sharp() {
    for law in LAWS {
        for (by, rank) in [(1e-3, 0), (3e-2, 0), (3e-2, 16)] {
            check_differences(law, true, by, rank);
        }
    }
}

/// A reader with half or all of its entries drawn anew, or with its inputs in another order.
#[test]
fn faults_are_seen_as_in_the_exact_statistics() {
    for law in [Law::Bulk, Law::Spikes, Law::Power] {
        let healthy = Pair::new(law, 256, true, 7);
        let (exact, estimated) = (watched(&healthy.exact()), watched(&healthy.estimated()));
        let reader = healthy.reader.to_f64();
        let n = reader.ncols();
        let faults = [
            drifted(&healthy.reader, 1.0, 0, 77),
            Weights::random(n, n, 78),
            Weights::from_f64(Mat::from_fn(n, n, |i, j| reader[(i, (j + 1) % n)]).as_ref()),
        ];
        for reader in faults {
            let faulty = Pair { writer: healthy.writer.clone(), reader };
            let steps = |s: GramStats, before: [f64; 2]| [0, 1].map(|i| watched(&s)[i] - before[i]);
            let expected = steps(faulty.exact(), exact);
            let found = steps(faulty.estimated(), estimated);
            assert!(expected[0] < -ALERT_STEPS[0] && found[0] < -ALERT_STEPS[0], "{law:?}");
            assert!(expected[1] > ALERT_STEPS[1] && found[1] > ALERT_STEPS[1], "{law:?}");
            for i in 0..2 {
                assert!((found[i] - expected[i]).abs() < 0.15 * expected[i].abs(), "{law:?} {i}");
            }
        }
    }
}

/// Published standard errors are honest: nothing is further off than a few of them, and most are
/// within two.
#[test]
fn standard_errors_cover_the_exact_statistics() {
    let (mut within, mut n) = (0, 0);
    for law in LAWS {
        for seed in 0..8 {
            let pair = Pair::new(law, 128, seed % 2 == 0, 200 + seed);
            let (exact, found) = (pair.exact(), pair.estimated());
            let (e, s) = (&found.stderr, &found);
            for (name, found, error, exact) in [
                ("chi", s.commutator, e.commutator, exact.commutator),
                (
                    "kappa",
                    s.commutator_vs_chance,
                    e.commutator_vs_chance,
                    exact.commutator_vs_chance,
                ),
                ("cosine", s.gram_cosine, e.gram_cosine, exact.gram_cosine),
                ("correlation", s.gram_correlation, e.gram_correlation, exact.gram_correlation),
                ("composition", s.composition, e.composition, exact.composition),
                ("gap", Some(s.gap), e.gap, Some(exact.gap)),
                ("shape", s.gap_shape, e.gap_shape, exact.gap_shape),
            ] {
                let (found, error, exact) = (found.unwrap(), error.unwrap(), exact.unwrap());
                let off = (found - exact).abs() - 1e-6 * exact.abs();
                assert!(
                    off < 5.0 * error,
                    "{law:?} {seed} {name}: {found} ± {error}, exact {exact}"
                );
                within += usize::from(off < 2.0 * error);
                n += 1;
            }
        }
    }
    assert!(100 * within >= 85 * n, "{within} of {n} within two standard errors");
}

/// Vectors are subtracted, not traces: a commutator of 1e-5 of the product keeps its digits.
#[test]
fn nearly_commuting_pairs_do_not_cancel() {
    for law in [Law::Bulk, Law::Spikes, Law::Power] {
        let writer = with_spectrum(200, 200, &law.values(200), 3);
        let reader = drifted(&writer.transposed(), 2e-5, 0, 4);
        let pair = Pair { writer, reader };
        let (exact, found) = (pair.exact(), pair.estimated());
        let (chi, error) = (exact.commutator.unwrap(), found.stderr.commutator.unwrap());
        assert!((1e-7..1e-4).contains(&chi), "{chi}");
        assert!((found.commutator.unwrap() - chi).abs() < 4.0 * error + 0.02 * chi, "{found:?}");
        assert!((found.gap / exact.gap).ln().abs() < 0.1, "{} for {}", found.gap, exact.gap);
    }
}

/// Where the leading spaces hold all of both Grams nothing is left to chance.
#[test]
fn low_ranks_and_disjoint_supports_are_exact() {
    let apart = |offset: usize| {
        let w = Weights::random(100, 3, 5).to_f64();
        let inside = |i: usize| (offset..offset + 40).contains(&i);
        Weights::from_f64(
            Mat::from_fn(100, 3, |i, j| if inside(i) { w[(i, j)] } else { 0.0 }).as_ref(),
        )
    };
    for reader in [apart(0), apart(20), apart(50)] {
        let pair = Pair { writer: apart(0), reader: reader.transposed() };
        let (exact, found) = (pair.exact(), pair.estimated());
        for (found, exact) in [
            (found.commutator, exact.commutator),
            (found.gram_correlation, exact.gram_correlation),
            (found.gap_shape, exact.gap_shape),
        ] {
            assert_some_close(found, exact, 1e-5);
        }
    }
}

/// Biases enter the law gap alone, and scales cancel from the ratios.
#[test]
fn exponents_and_biases_are_those_of_the_matrices() {
    let pair = Pair::new(Law::Spikes, 96, true, 11);
    let (small, large) = (pair.writer.scaled(2f32.powi(-3)), pair.reader.scaled(2f32.powi(5)));
    let bias = Weights::random(1, 2 * 96, 12).scaled(10.0);
    let empty = Mat::<f32>::zeros(96, 0);
    let matrices = PairMatrices {
        writer: small.view(),
        reader: large.view(),
        writer_bias: Some(&bias.data),
        reader_bias: Some(&bias.data[30..126]),
    };
    let exact = gram_stats(&matrices).unwrap();
    let (writer, reader) = (pair.writer.view(), pair.reader.view());
    let linear = |source, exponent| {
        Linear::new(vec![Block { source, transposed: false }], None, exponent).unwrap()
    };
    let (writer, reader) = (linear(&writer, -3), linear(&reader, 5));
    let operators = PairOperators {
        writer: &writer,
        reader: &reader,
        writer_bias: matrices.writer_bias,
        reader_bias: matrices.reader_bias,
        writer_leading: empty.as_ref(),
        writer_values: &[],
        reader_leading: empty.as_ref(),
        reader_values: &[],
    };
    let found = estimate_gram_stats(&operators).unwrap();
    for (found, exact) in [
        (found.gap_trace, exact.gap_trace),
        (found.gap_diagonal, exact.gap_diagonal),
        (found.law_gap_diagonal.unwrap(), exact.law_gap_diagonal.unwrap()),
        (found.law_gap_rotary.unwrap(), exact.law_gap_rotary.unwrap()),
        (found.log_norm_ratio.unwrap(), exact.log_norm_ratio.unwrap()),
    ] {
        assert_close(found, exact, 1e-6);
    }
    for (found, exact) in [
        (found.law_gap_full.unwrap(), exact.law_gap_full.unwrap()),
        (found.gap, exact.gap),
        (found.commutator_norm, exact.commutator_norm),
    ] {
        assert!((found / exact).ln().abs() < 0.3, "{found} for {exact}");
    }
    // 8(2·8 + 16) an element is the promise; without leading vectors 8·16.
    assert_eq!(writer.flops() + reader.flops(), 8 * 16 * 2 * 96 * 96);

    let short = Mat::<f32>::zeros(95, 1);
    let found = estimate_gram_stats(&PairOperators { reader_leading: short.as_ref(), ..operators });
    let text = "reader's leading vectors has size 95, expected 96";
    assert_eq!(found.unwrap_err().to_string(), text);
    let broken = Mat::from_fn(96, 1, |_, _| f32::NAN);
    let found = estimate_gram_stats(&PairOperators {
        writer_leading: broken.as_ref(),
        writer_values: &[1.0],
        ..operators
    });
    assert!(matches!(found, Err(LinalgError::NotFinite(_))));
}
