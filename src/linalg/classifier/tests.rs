use proptest::prelude::*;

use super::super::testing::*;
use super::*;

fn geometry(w: &Weights) -> ClassifierGeometry {
    classifier_geometry(w.view()).unwrap()
}

fn numbers(g: &ClassifierGeometry) -> [f64; 4] {
    [g.equinorm, g.equiangle, g.max_angle, g.simplex_deviation]
}

/// Rows e1, e2, e3 are a simplex once centred; rows 1, 0, -2 on a line are not.
#[test]
fn three_classes_by_hand() {
    let simplex = Weights::new(3, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let g = geometry(&simplex);
    for number in numbers(&g) {
        assert_close(number, 0.0, 1e-7);
    }
    // I/√3 against (I − 11ᵀ/3)/√2: 2 − 2·⟨,⟩ with ⟨,⟩ = 2/√6.
    let uncentred = (2.0 - 4.0 / 6f64.sqrt()).sqrt();
    assert_close(g.simplex_deviation_uncentred, uncentred, 1e-12);
    assert_close(g.chance, (2.0 - SQRT_2_F).sqrt(), 1e-12);
    assert!(g.feasible);

    // Centred 4/3, 1/3, -5/3; norms' mean 10/9 and variance 26/81; cosines 1, -1, -1.
    let line = geometry(&Weights::new(3, 1, &[1.0, 0.0, -2.0]));
    assert_close(line.equinorm, 26f64.sqrt() / 10.0, 1e-7);
    assert_close(line.equiangle, 8f64.sqrt() / 3.0, 1e-7);
    assert_close(line.max_angle, (1.5 + 0.5 + 0.5) / 3.0, 1e-7);
    assert!(!line.feasible);
}

const SQRT_2_F: f64 = std::f64::consts::SQRT_2;

#[test]
fn rotating_shifting_and_scaling_leave_it_alone() {
    let w = Weights::random(6, 9, 1);
    let plain = numbers(&geometry(&w));
    let turned = Weights::from_f64((w.to_f64() * orthogonal(9, 2)).as_ref()).scaled(1e-25);
    let mut shifted = w.clone();
    for x in &mut shifted.data {
        *x += 2.0;
    }
    let mut permuted = w.clone();
    permuted.data.rotate_left(9);
    for other in [turned, shifted, permuted] {
        for (found, expected) in numbers(&geometry(&other)).iter().zip(plain) {
            assert_close(*found, expected, 1e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_stay_within_their_bounds(classes in 2usize..9, dim in 1usize..9, seed: u64) {
        let g = geometry(&Weights::random(classes, dim, seed));
        let sqrt2 = SQRT_2_F + 1e-9;
        prop_assert!(g.equinorm >= 0.0);
        prop_assert!((0.0..=1.0 + 1e-9).contains(&g.equiangle));
        prop_assert!((0.0..=2.0).contains(&g.max_angle));
        prop_assert!((0.0..=sqrt2).contains(&g.simplex_deviation));
        prop_assert!((0.0..=sqrt2).contains(&g.simplex_deviation_uncentred));
        prop_assert!((0.0..=sqrt2).contains(&g.chance));
        prop_assert_eq!(g.feasible, dim + 1 >= classes);
    }
}

#[test]
fn numbers_agree_with_the_definitions() {
    let w = Weights::random(5, 7, 3);
    let raw = w.to_f64();
    let centred =
        Mat::from_fn(5, 7, |i, j| raw[(i, j)] - (0..5).map(|l| raw[(l, j)]).sum::<f64>() / 5.0);
    let gram = slow_mul(&centred, &slow_transpose(&centred));
    let norm = slow_inner(&gram, &gram).sqrt();
    let difference =
        Mat::from_fn(5, 5, |i, j| gram[(i, j)] / norm - (f64::from(u8::from(i == j)) - 0.2) / 2.0);
    let norms: Vec<f64> = (0..5).map(|i| gram[(i, i)].sqrt()).collect();
    let mean = norms.iter().sum::<f64>() / 5.0;
    let variance = norms.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 5.0;
    let mut cosines = vec![];
    for i in 0..5 {
        for j in (0..5).filter(|j| *j != i) {
            cosines.push(gram[(i, j)] / (norms[i] * norms[j]));
        }
    }
    let cosine = cosines.iter().sum::<f64>() / 20.0;
    let spread = cosines.iter().map(|c| (c - cosine).powi(2)).sum::<f64>() / 20.0;
    let expected = [
        variance.sqrt() / mean,
        spread.sqrt(),
        cosines.iter().map(|c| (c + 0.25).abs()).sum::<f64>() / 20.0,
        slow_inner(&difference, &difference).sqrt(),
    ];
    for (found, expected) in numbers(&geometry(&w)).iter().zip(expected) {
        assert_close(*found, expected, 1e-12);
    }
}

#[test]
fn what_has_no_geometry_is_none() {
    let none = |w: &Weights| assert_eq!(classifier_geometry(w.view()), None);
    none(&Weights::random(1, 5, 1));
    none(&Weights::random(0, 5, 1));
    none(&Weights::random(5, 0, 1));
    none(&Weights::filled(4, 5, 0.0));
    // Equal rows centre to zero, up to the rounding of the mean.
    none(&Weights::filled(7, 5, 0.1));
    none(&Weights::random(CLASSES_LIMIT + 1, 1, 1));
    for broken in broken_matrices() {
        none(&broken);
    }
    for odd in odd_matrices() {
        if let Some(g) = classifier_geometry(odd.view()) {
            assert!(numbers(&g).iter().all(|x| x.is_finite()));
        }
    }
}
