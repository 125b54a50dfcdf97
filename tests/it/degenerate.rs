//! Whole checkpoints of degenerate weights: nothing panics, nothing hangs, what is undefined is null.
#![expect(clippy::cast_precision_loss, reason = "indices and dimensions of small networks")]

use proptest::prelude::*;
use serde_json::Value;
use weightvane::diagnostics::Report;

use crate::support::{Array, Arrays, measure, write_checkpoint};

fn network(widths: &[usize], value: impl Fn(usize, usize) -> f32) -> Arrays {
    let layer = |(i, two): (usize, &[usize])| {
        let values = (0..two[0] * two[1]).map(|at| value(i, at)).collect();
        (format!("layers.{i}.weight"), Array { shape: vec![two[1], two[0]], values })
    };
    widths.windows(2).enumerate().map(layer).collect()
}

fn measured(arrays: &Arrays) -> Report {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), arrays, None);
    measure(dir.path(), &[1, 2, 4, 8])
}

/// Fails when a number that is not optional was undefined: JSON would hide it as null.
fn overlaps_are_numbers(report: &Report) {
    for pair in &report.pairs {
        for overlap in pair.overlap.values() {
            let Value::Object(fields) = serde_json::to_value(overlap).unwrap() else { panic!() };
            for (name, value) in fields {
                assert!(name == "basis" || !value.is_null(), "{name} of {}", pair.writer);
            }
        }
    }
}

#[test]
fn zero_weights_have_no_directions() {
    let report = measured(&network(&[12, 10, 8, 6], |_, _| 0.0));
    assert_eq!(report.pairs.len(), 2);
    for pair in &report.pairs {
        assert!(pair.overlap.is_empty());
        assert_eq!(pair.gap, Some(0.0));
        let undefined = [
            pair.gram_correlation,
            pair.commutator,
            pair.commutator_vs_chance,
            pair.composition,
            pair.gap_ratio,
        ];
        assert_eq!(undefined, [None; 5]);
    }
    for matrix in &report.matrices {
        assert_eq!((matrix.frobenius_norm, matrix.stable_rank), (Some(0.0), None));
    }
}

#[test]
fn constant_and_rank_one_weights_have_one_direction() {
    let constant = network(&[12, 10, 8, 6], |_, _| 0.5);
    let mut rank_one = constant.clone();
    // Outer products: each layer writes along the vector that the next one reads.
    for array in rank_one.values_mut() {
        let width = array.shape[1];
        let entry = |at: usize| ((at / width + 1) * (at % width + 1)) as f32;
        array.values = (0..array.values.len()).map(entry).collect();
    }
    for arrays in [constant, rank_one] {
        let report = measured(&arrays);
        overlaps_are_numbers(&report);
        for pair in &report.pairs {
            assert_eq!(pair.overlap.keys().copied().collect::<Vec<_>>(), [1], "rank one has k = 1");
            assert!((pair.overlap[&1].ratio - 1.0).abs() < 1e-9);
            assert!(pair.commutator.unwrap() < 1e-6);
        }
        assert_eq!(report.matrices[0].numerical_rank, Some(1));
    }
}

#[test]
fn the_orientation_of_an_isotropic_matrix_is_undefined() {
    // A rotation by 1 rad in each of four planes: orthogonal up to the rounding of f32.
    let mut arrays = network(&[8, 8, 8, 8], |i, at| ((i * 64 + at * at) as f32).sin());
    let (sin, cos) = 1_f32.sin_cos();
    let entry = |at: usize| match (at / 8, at % 8) {
        (r, c) if r == c => cos,
        (r, c) if r / 2 == c / 2 => {
            if r < c {
                -sin
            } else {
                sin
            }
        }
        _ => 0.0,
    };
    arrays.get_mut("layers.1.weight").unwrap().values = (0..64).map(entry).collect();
    let report = measured(&arrays);
    for pair in &report.pairs {
        assert_eq!((pair.gram_correlation, pair.commutator_vs_chance), (None, None));
        assert!(pair.gram_cosine.is_some() && pair.commutator.unwrap() < 1e-6);
    }
}

#[test]
fn a_nan_or_infinity_costs_its_matrix_and_pairs() {
    for (bad, nan, inf) in [(f32::NAN, 1, 0), (f32::INFINITY, 0, 1), (f32::NEG_INFINITY, 0, 1)] {
        let mut arrays = network(&[12, 10, 8, 6, 4], |i, at| ((i + at) as f32).sin());
        arrays.get_mut("layers.0.weight").unwrap().values[17] = bad;
        let bias = Array { shape: vec![6], values: vec![f32::NAN; 6] };
        arrays.insert("layers.2.bias".into(), bias);
        let report = measured(&arrays);
        assert_eq!((report.nan, report.inf), (nan + 6, inf));
        assert_eq!((report.matrices[0].nan, report.matrices[0].inf), (nan, inf));
        assert_eq!(report.matrices[0].spectral_norm, None);
        let layers: Vec<_> = report.pairs.iter().map(|p| p.layer).collect();
        assert_eq!(layers, [Some(1), Some(2)], "the other pairs are measured");
        assert!(
            report.skipped.iter().any(|s| s.name.contains("chain layer 0")),
            "{:?}",
            report.skipped
        );
    }
}

#[test]
fn one_by_n_and_tiny_shapes_are_measured() {
    for widths in [&[1, 1, 1][..], &[5, 1, 7], &[1, 9, 1], &[2, 2, 2], &[300, 1, 1, 300]] {
        let report = measured(&network(widths, |i, at| 0.1 + (i + 3 * at) as f32));
        overlaps_are_numbers(&report);
        assert_eq!(report.matrices.len(), widths.len() - 1, "{widths:?}");
    }
}

#[test]
fn denormal_and_huge_weights_keep_their_ratios() {
    let plain = network(&[12, 10, 8, 6], |i, at| ((7 * i + at) as f32).sin());
    let wanted = measured(&plain);
    // 2^-138 is denormal in f32; the values keep a few bits, so the ratios agree roughly.
    for (scale, tolerance) in
        [(2_f32.powi(100), 1e-9), (2_f32.powi(-100), 1e-9), (2_f32.powi(-138), 1e-2)]
    {
        let mut scaled = plain.clone();
        for array in scaled.values_mut() {
            array.values.iter_mut().for_each(|v| *v *= scale);
        }
        let report = measured(&scaled);
        overlaps_are_numbers(&report);
        for (pair, wanted) in report.pairs.iter().zip(&wanted.pairs) {
            for (found, wanted) in [
                (pair.gram_correlation, wanted.gram_correlation),
                (pair.commutator, wanted.commutator),
                (pair.gap_ratio, wanted.gap_ratio),
            ] {
                assert!((found.unwrap() - wanted.unwrap()).abs() < tolerance, "{scale}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_published_number_stays_in_its_bounds(
        widths in proptest::collection::vec(1_usize..14, 3..6),
        seed in any::<u32>(),
        sparse in 1_usize..6,
    ) {
        let value = |i: usize, at: usize| {
            let mixed = (seed as usize).wrapping_add(i * 7919 + at * 104_729).wrapping_mul(2_654_435_761) >> 8;
            if mixed.is_multiple_of(sparse) { (mixed % 2001) as f32 / 1000.0 - 1.0 } else { 0.0 }
        };
        let report = measured(&network(&widths, value));
        overlaps_are_numbers(&report);
        let within = |v: Option<f64>, low: f64, high: f64| v.is_none_or(|v| v >= low - 1e-9 && v <= high + 1e-9);
        for p in &report.pairs {
            prop_assert!(within(p.gram_correlation, -1.0, 1.0) && within(p.gram_cosine, 0.0, 1.0));
            prop_assert!(within(p.commutator, 0.0, 1.0) && within(p.composition, 0.0, 1.0));
            prop_assert!(within(p.gap_ratio, 0.0, 1.0) && within(p.gap_diagonal_ratio, 0.0, 1.0));
            prop_assert!(within(p.gap_shape, 0.0, 1.0) && within(p.flag_correlation, -1.0, 1.0));
            let m = p.dim as f64;
            prop_assert!(within(p.commutator_vs_chance, 0.0, (m - 1.0) * (m + 2.0) / m));
            for (k, o) in &p.overlap {
                let k = *k as f64;
                prop_assert!(within(Some(o.ratio), (2.0 * k - m).max(0.0) / k, 1.0));
                prop_assert!(o.angle_min <= o.angle_mean && o.angle_mean <= o.angle_max);
                prop_assert!(within(Some(o.angle_max), 0.0, std::f64::consts::FRAC_PI_2));
            }
        }
        for w in &report.matrices {
            let rank = w.rows.min(w.cols) as f64;
            prop_assert!(within(w.stable_rank, 1.0, rank) && within(w.effective_rank, 1.0, rank));
            prop_assert!(within(w.spectral_entropy, 0.0, 1.0));
        }
    }
}
