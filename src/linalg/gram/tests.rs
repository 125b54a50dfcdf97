use std::f64::consts::SQRT_2;

use faer::Mat;
use proptest::prelude::*;

use super::super::moments::BLOCK;
use super::super::testing::*;
use super::*;

const ROUTES: [Route; 3] = [Route::Explicit, Route::SmallSide, Route::Probes];

fn pair<'a>(writer: &'a Weights, reader: &'a Weights) -> PairMatrices<'a> {
    PairMatrices {
        writer: writer.view(),
        reader: reader.view(),
        writer_bias: None,
        reader_bias: None,
    }
}

fn stats(writer: &Weights, reader: &Weights) -> GramStats {
    gram_stats(&pair(writer, reader)).unwrap()
}

fn by(route: Route, pair: &PairMatrices<'_>) -> GramStats {
    stats_by(route, &Prepared::new(pair).unwrap()).unwrap()
}

/// Everything a joint rotation leaves alone.
fn invariants(s: &GramStats) -> [Option<f64>; 9] {
    [
        s.commutator,
        s.commutator_vs_chance,
        s.gram_cosine,
        s.gram_correlation,
        s.composition,
        s.gap_shape,
        s.gap_ratio,
        s.log_norm_ratio,
        Some(s.gap),
    ]
}

#[track_caller]
fn assert_same(found: &[Option<f64>], expected: &[Option<f64>], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_some_close(*found, *expected, tolerance);
    }
}

/// A = [1 1; 1 1], B = diag(1, 0): two projectors at 45°, where the commutator is largest.
#[test]
fn two_lines_at_45_degrees_by_hand() {
    let (writer, reader) = (Weights::new(2, 1, &[1.0, 0.0]), Weights::new(1, 2, &[1.0, 1.0]));
    let pair = PairMatrices { writer_bias: Some(&[0.0, 1.0]), ..pair(&writer, &reader) };
    for route in [Route::Explicit, Route::SmallSide] {
        let s = by(route, &pair);
        assert_eq!(s.dim, 2);
        assert_close(s.commutator_norm, SQRT_2, 1e-14);
        assert_some_close(s.commutator, Some(1.0), 1e-14);
        assert_some_close(s.commutator_vs_chance, Some(2.0), 1e-14);
        assert_some_close(s.gram_cosine, Some(0.5), 1e-14);
        assert_some_close(s.gram_correlation, Some(0.0), 1e-14);
        assert_some_close(s.composition, Some(0.5f64.sqrt()), 1e-14);
        assert_close(s.gap, 3f64.sqrt(), 1e-14);
        assert_some_close(s.gap_ratio, Some(3f64.sqrt() / 3.0), 1e-14);
        assert_close(s.gap_diagonal, 1.0, 1e-14);
        assert_some_close(s.gap_diagonal_ratio, Some(1.0 / (SQRT_2 + 1.0)), 1e-14);
        assert_close(s.gap_trace, 1.0, 1e-14);
        assert_some_close(s.log_norm_ratio, Some(0.5 * 2f64.ln()), 1e-14);
        assert_some_close(s.gap_shape, Some(0.5), 1e-14);
        // With the bias e2, B + bbᵀ = I: the diagonal and the pair trace agree, the corner stays.
        assert_some_close(s.law_gap_full, Some(SQRT_2), 1e-14);
        assert_some_close(s.law_gap_diagonal, Some(0.0), 1e-14);
        assert_some_close(s.law_gap_rotary, Some(0.0), 1e-14);
        assert_eq!(s.stderr, GramStderr::default());
    }
}

#[test]
fn rotations_permutations_and_scalings_keep_what_they_should() {
    let (w1, w2) = (Weights::random(8, 5, 1), Weights::random(11, 8, 2));
    let plain = stats(&w1, &w2);
    let q = orthogonal(8, 3);
    let turned = stats(
        &Weights::from_f64((&q * w1.to_f64() * orthogonal(5, 4)).as_ref()),
        &Weights::from_f64((w2.to_f64() * q.transpose()).as_ref()),
    );
    assert_same(&invariants(&turned), &invariants(&plain), 1e-5);
    let scaled = stats(&w1.scaled(1e-20), &w2.scaled(1e15));
    assert_same(&invariants(&scaled)[..6], &invariants(&plain)[..6], 1e-6);
    assert_some_close(scaled.gap_ratio, Some(1.0), 1e-12);

    // A joint permutation of hidden units keeps the diagonal gap too, a one-sided one does not.
    let (mut p1, mut p2) = (w1.clone(), w2.clone());
    p1.data.rotate_left(5);
    for row in p2.data.chunks_mut(8) {
        row.rotate_left(1);
    }
    let permuted = stats(&p1, &p2);
    assert_same(&invariants(&permuted), &invariants(&plain), 1e-12);
    assert_close(permuted.gap_diagonal, plain.gap_diagonal, 1e-12);
    let swapped = stats(&p1, &w2);
    assert!((swapped.gap_diagonal - plain.gap_diagonal).abs() > 1e-3);
    assert!((swapped.gram_cosine.unwrap() - plain.gram_cosine.unwrap()).abs() > 1e-3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ratios_stay_within_their_bounds(
        m in 1usize..9, n in 1usize..9, p in 1usize..9, seed in 0u64..1 << 40,
    ) {
        let (writer, reader) = (Weights::random(m, n, seed), Weights::random(p, m, seed + 1));
        for route in ROUTES {
            let s = by(route, &pair(&writer, &reader));
            for unit in [s.commutator, s.gram_cosine, s.composition, s.gap_ratio, s.gap_shape] {
                prop_assert!((0.0..=1.0).contains(&unit.unwrap()));
            }
            prop_assert!((0.0..=1.0).contains(&s.gap_diagonal_ratio.unwrap()));
            prop_assert_eq!(s.gram_correlation.is_none(), s.commutator_vs_chance.is_none());
            if let Some(cosine) = s.gram_correlation {
                prop_assert!((-1.0..=1.0).contains(&cosine));
            }
            let mf = real(m);
            if let Some(kappa) = s.commutator_vs_chance.filter(|_| route == Route::Explicit) {
                prop_assert!((0.0..=(mf - 1.0) * (mf + 2.0) / mf + 1e-6).contains(&kappa));
            }
            // Of several units; with one, every Gram is a multiple of the identity.
            prop_assert_eq!(s.gram_correlation.is_some(), m > 1);
            prop_assert_eq!(s.law_gap_rotary.is_some(), m % 2 == 0);
        }
    }
}

/// Every statistic from its definition, with loops, biases included.
#[test]
fn the_exact_routes_agree_with_the_definitions() {
    for (m, n, p) in [(6, 9, 7), (12, 3, 4), (8, 20, 2)] {
        let (w1, w2) = (Weights::random(m, n, 1), Weights::random(p, m, 2).scaled(3.0));
        let (b1, b2) = (Weights::random(1, m, 3), Weights::random(2, m, 4));
        let pair = PairMatrices {
            writer_bias: Some(&b1.data),
            reader_bias: Some(&b2.data),
            ..pair(&w1, &w2)
        };
        let square = |w: Mat<f64>| slow_mul(&slow_transpose(&w), &w);
        let (a, b) = (square(w2.to_f64()), square(slow_transpose(&w1.to_f64())));
        let k = slow_mul(&a, &b) - slow_mul(&b, &a);
        let norm = |x: &Mat<f64>| slow_inner(x, x).sqrt();
        let trace = |x: &Mat<f64>| (0..m).map(|i| x[(i, i)]).sum::<f64>();
        let mf = real(m);
        let traceless = |x: &Mat<f64>| {
            let mean = trace(x) / mf;
            Mat::from_fn(m, m, |i, j| x[(i, j)] - if i == j { mean } else { 0.0 })
        };
        let (a0, b0) = (traceless(&a), traceless(&b));
        let chance = 2.0 * mf * (norm(&a0) * norm(&b0)).powi(2) / ((mf - 1.0) * (mf + 2.0));
        let diagonal = |x: &Mat<f64>| Mat::from_fn(m, 1, |i, _| x[(i, i)]);
        let law = &a + square(b2.to_f64()) - &b - square(b1.to_f64());
        let shape = |x: &Mat<f64>| Mat::from_fn(m, m, |i, j| x[(i, j)] / trace(x));
        let pairs = Mat::from_fn(m / 2, 1, |i, _| law[(i, i)] + law[(i + m / 2, i + m / 2)]);
        for route in [Route::Explicit, Route::SmallSide] {
            let s = by(route, &pair);
            let found = [
                Some(s.commutator_norm),
                s.commutator,
                s.commutator_vs_chance,
                s.gram_cosine,
                s.gram_correlation,
                s.composition,
                Some(s.gap),
                s.gap_ratio,
                Some(s.gap_diagonal),
                s.gap_diagonal_ratio,
                Some(s.gap_trace),
                s.log_norm_ratio,
                s.gap_shape,
                s.law_gap_full,
                s.law_gap_diagonal,
                s.law_gap_rotary,
            ];
            let gap = norm(&(&a - &b));
            let gap_diagonal = norm(&(diagonal(&a) - diagonal(&b)));
            let expected = [
                norm(&k),
                SQRT_2 * norm(&k) / (norm(&a) * norm(&b)),
                norm(&k).powi(2) / chance,
                slow_inner(&a, &b) / (norm(&a) * norm(&b)),
                slow_inner(&a0, &b0) / (norm(&a0) * norm(&b0)),
                norm(&slow_mul(&w2.to_f64(), &w1.to_f64())) / (trace(&a) * trace(&b)).sqrt(),
                gap,
                gap / (norm(&a) + norm(&b)),
                gap_diagonal,
                gap_diagonal / (norm(&diagonal(&a)) + norm(&diagonal(&b))),
                trace(&a) - trace(&b),
                0.5 * (trace(&a) / trace(&b)).ln(),
                norm(&(shape(&a) - shape(&b))) / (norm(&shape(&a)) + norm(&shape(&b))),
                norm(&law),
                norm(&diagonal(&law)),
                norm(&pairs),
            ];
            assert_same(&found, &expected.map(Some), 1e-10);
        }
    }
}

/// The commutator is formed in blocks; three of them, the last one short.
#[test]
fn a_commutator_of_several_blocks_is_the_small_side_one() {
    let m = 2 * BLOCK + 30;
    let (w1, w2) = (Weights::random(m, 6, 1), Weights::random(5, m, 2));
    let pair = pair(&w1, &w2);
    let (explicit, small) = (by(Route::Explicit, &pair), by(Route::SmallSide, &pair));
    assert_same(&invariants(&small), &invariants(&explicit), 1e-9);
    assert_eq!(route(m, 6, 5), Route::SmallSide);
}

#[test]
fn the_route_follows_the_shape() {
    assert_eq!(route(768, 768, 3072), Route::Explicit);
    assert_eq!(route(3072, 64, 64), Route::SmallSide);
    assert_eq!(route(4096, 50_257, 4096), Route::Explicit);
    assert_eq!(route(11_008, 4096, 4096), Route::SmallSide);
    assert_eq!(route(28_672, 8192, 8192), Route::Probes);
}

/// Traces cancel when the Grams nearly commute; the explicit ones keep eight digits of χ.
#[test]
fn nearly_commuting_and_balanced_grams_keep_their_digits() {
    let w = Weights::random(40, 3, 5);
    let balanced = Weights::from_f64(w.to_f64().transpose());
    let found = by(Route::SmallSide, &pair(&w, &balanced));
    assert_eq!((found.commutator_norm, found.gap), (0.0, 0.0));
    assert_some_close(found.gram_correlation, Some(1.0), 1e-12);

    let mut near = balanced;
    near.data[7] *= 1.0 + 1e-6;
    let pair = pair(&w, &near);
    let (explicit, small) = (by(Route::Explicit, &pair), by(Route::SmallSide, &pair));
    assert!(explicit.commutator.unwrap() > 1e-9);
    assert_same(&invariants(&small), &invariants(&explicit), 1e-15);
}

/// Within five of their own standard errors, which are themselves of the promised size.
#[test]
fn probes_estimate_the_exact_statistics() {
    for (m, n, p, seed) in [(60, 50, 70, 1), (100, 4, 90, 2), (80, 3, 2, 3)] {
        let (w1, w2) = (Weights::random(m, n, seed), Weights::random(p, m, seed + 10));
        let bias = Weights::random(1, m, 7);
        let pair = PairMatrices { reader_bias: Some(&bias.data), ..pair(&w1, &w2) };
        let (exact, probed) = (by(Route::Explicit, &pair), by(Route::Probes, &pair));
        for (found, expected, error) in [
            (probed.commutator, exact.commutator, probed.stderr.commutator),
            (
                probed.commutator_vs_chance,
                exact.commutator_vs_chance,
                probed.stderr.commutator_vs_chance,
            ),
            (probed.gram_cosine, exact.gram_cosine, probed.stderr.gram_cosine),
            (probed.gram_correlation, exact.gram_correlation, probed.stderr.gram_correlation),
            (probed.composition, exact.composition, probed.stderr.composition),
            (Some(probed.gap), Some(exact.gap), probed.stderr.gap),
            (probed.gap_ratio, exact.gap_ratio, probed.stderr.gap_ratio),
            (probed.gap_shape, exact.gap_shape, probed.stderr.gap_shape),
        ] {
            let (found, expected, error) = (found.unwrap(), expected.unwrap(), error.unwrap());
            let off = (found - expected).abs();
            assert!(
                off <= 5.0 * error + 1e-5 * expected.abs(),
                "{found} ± {error}, exact {expected}"
            );
        }
        assert!(probed.stderr.commutator.unwrap() < 0.3 * exact.commutator.unwrap());
        assert_close(probed.gap_diagonal, exact.gap_diagonal, 1e-12);
        assert_some_close(probed.law_gap_rotary, exact.law_gap_rotary, 1e-12);
        let law = (probed.law_gap_full.unwrap() / exact.law_gap_full.unwrap()).ln().abs();
        assert!(law < 0.3, "law gap off by a factor of e^{law}");
    }
}

#[test]
fn what_is_undefined_is_none() {
    let (zero, some) = (Weights::filled(4, 4, 0.0), Weights::random(4, 4, 1));
    for route in ROUTES {
        let both = by(route, &pair(&zero, &zero));
        assert_eq!(invariants(&both)[..8], [None; 8]);
        assert_eq!((both.gap_diagonal_ratio, both.gap, both.commutator_norm), (None, 0.0, 0.0));
        for (writer, reader) in [(&zero, &some), (&some, &zero)] {
            let one = by(route, &pair(writer, reader));
            assert_eq!(one.log_norm_ratio, None);
            assert_some_close(one.gap_ratio, Some(1.0), 1e-12);
            assert_some_close(one.gap_shape, Some(1.0), 1e-12);
            assert_eq!(one.commutator, None);
        }
    }
    // An isotropic Gram has no orientation.
    let identity = Weights::from_f64(Mat::<f64>::identity(4, 4).as_ref());
    let isotropic = stats(&identity, &some);
    assert_eq!((isotropic.commutator_vs_chance, isotropic.gram_correlation), (None, None));
    assert_some_close(isotropic.commutator, Some(0.0), 1e-12);
}

#[test]
fn odd_matrices_give_finite_numbers() {
    for writer in odd_matrices() {
        for reader in odd_matrices() {
            let reader = Weights::from_f64(reader.to_f64().transpose());
            for route in ROUTES {
                let s = by(route, &pair(&writer, &reader));
                assert!(invariants(&s).iter().flatten().all(|x| x.is_finite()), "{s:?}");
                assert!(s.commutator_norm.is_finite() && s.law_gap_full.unwrap().is_finite());
            }
        }
    }
}

#[test]
fn broken_input_is_refused() {
    let good = Weights::random(6, 5, 1);
    for broken in broken_matrices() {
        let found = gram_stats(&pair(&Weights::random(6, 5, 2), &broken)).unwrap_err();
        assert!(matches!(found, LinalgError::NotFinite(_)));
        let reader = Weights::random(4, 5, 1);
        let found = gram_stats(&pair(&broken, &reader)).unwrap_err();
        assert!(matches!(found, LinalgError::NotFinite(_)));
    }
    let reader = Weights::random(3, 6, 1);
    let bias = |bias| gram_stats(&PairMatrices { writer_bias: Some(bias), ..pair(&good, &reader) });
    assert!(matches!(bias(&[f32::NAN; 6]), Err(LinalgError::NotFinite(_))));
    assert_eq!(bias(&[0.0; 7]).unwrap_err().to_string(), "writer's bias has size 7, expected 6");
    assert_eq!(
        gram_stats(&pair(&good, &good)).unwrap_err().to_string(),
        "reader's input has size 5, expected 6"
    );
}
