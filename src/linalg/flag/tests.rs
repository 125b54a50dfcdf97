use proptest::prelude::*;

use super::super::spectrum::Side;
use super::super::testing::*;
use super::*;

const KS: [usize; 3] = [1, 2, 4];

fn correlation(writer: &Weights, reader: &Weights, ks: &[usize]) -> Option<f64> {
    let writer = Spectrum::compute(writer.view(), Side::Left, 8, 1e-7).unwrap();
    let reader = Spectrum::compute(reader.view(), Side::Right, 8, 1e-7).unwrap();
    flag_correlation(&writer, &reader, ks)
}

fn diagonal(values: [f64; 6]) -> Weights {
    Weights::from_f64(Mat::from_fn(6, 6, |i, j| if i == j { values[i] } else { 0.0 }).as_ref())
}

#[test]
fn small_laws_by_hand() {
    for (law, expected) in [
        ([[1.0, 0.0], [0.0, 3.0]], Some(1.0)),
        ([[0.0, 2.0], [1.0, 0.0]], Some(-1.0)),
        ([[1.0, 1.0], [1.0, 1.0]], Some(0.0)),
        ([[2.0, 0.0], [0.0, 1.0]], Some(1.0)),
        ([[1.0, 1.0], [0.0, 0.0]], None),
        ([[0.0, 0.0], [0.0, 0.0]], None),
        ([[f64::NAN, 0.0], [0.0, 1.0]], None),
    ] {
        let law = Mat::from_fn(2, 2, |i, j| law[i][j]);
        assert_some_close(tau_b(law.as_ref()), expected, 1e-14);
    }
    assert_eq!(tau_b(Mat::<f64>::zeros(0, 0).as_ref()), None);
}

#[test]
fn the_same_flag_is_one_and_a_reversed_one_negative() {
    let down = diagonal([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    let up = diagonal([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_some_close(correlation(&down, &down, &[1, 2, 3, 4, 5]), Some(1.0), 1e-12);
    assert_some_close(correlation(&down, &up, &[1, 2, 3, 4, 5]), Some(-1.0), 1e-12);
    // Coarse steps shrink the extremes.
    let coarse = correlation(&down, &up, &[2]).unwrap();
    assert!(-1.0 < coarse && coarse < 0.0, "{coarse}");
}

#[test]
fn joint_rotations_leave_it_alone() {
    let (w1, w2) = (Weights::random(9, 7, 1), Weights::random(6, 9, 2));
    let q = orthogonal(9, 3);
    let turned1 = Weights::from_f64((&q * w1.to_f64()).as_ref());
    let turned2 = Weights::from_f64((w2.to_f64() * q.transpose()).as_ref());
    assert_some_close(correlation(&turned1, &turned2, &KS), correlation(&w1, &w2, &KS), 1e-5);
}

/// Kendall's definition: every pair of cells.
fn slow_tau_b(p: &Mat<f64>) -> f64 {
    let total = slow_inner(p, &Mat::from_fn(p.nrows(), p.ncols(), |_, _| 1.0));
    let cells: Vec<(usize, usize)> =
        (0..p.nrows()).flat_map(|i| (0..p.ncols()).map(move |j| (i, j))).collect();
    let (mut difference, mut rows_differ, mut cols_differ) = (0.0, 0.0, 0.0);
    for &a in &cells {
        for &b in &cells {
            let mass = p[a] * p[b] / (total * total);
            let order = |x: usize, y: usize| real(usize::from(x > y)) - real(usize::from(x < y));
            difference += mass * order(a.0, b.0) * order(a.1, b.1);
            rows_differ += mass * order(a.0, b.0).powi(2);
            cols_differ += mass * order(a.1, b.1).powi(2);
        }
    }
    difference / (rows_differ * cols_differ).sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tau_b_agrees_with_all_pairs_of_cells(rows in 2usize..6, cols in 2usize..6, seed: u64) {
        let law = Weights::random(rows, cols, seed).to_f64();
        let law = Mat::from_fn(rows, cols, |i, j| law[(i, j)].abs() + 1e-3);
        let found = tau_b(law.as_ref()).unwrap();
        prop_assert!((-1.0..=1.0).contains(&found));
        prop_assert!((found - slow_tau_b(&law)).abs() < 1e-12);
    }
}

#[test]
fn odd_matrices_have_no_flag_or_a_finite_one() {
    for w in odd_matrices() {
        let reader = Weights::from_f64(w.to_f64().transpose());
        assert!(correlation(&w, &reader, &KS).is_none_or(f64::is_finite));
    }
    let zero = Weights::filled(6, 6, 0.0);
    assert_eq!(correlation(&zero, &zero, &KS), None);
    assert_eq!(correlation(&Weights::random(6, 6, 1), &Weights::random(6, 6, 2), &[]), None);
}
