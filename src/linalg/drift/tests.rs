use faer::Mat;
use proptest::prelude::*;

use super::super::testing::*;
use super::*;

fn plane(angle: f64) -> Mat<f64> {
    let entries = [[angle.cos(), 0.0], [0.0, 1.0], [angle.sin(), 0.0]];
    Mat::from_fn(3, 2, |i, j| entries[i][j])
}

#[test]
fn a_plane_turned_by_thirty_degrees_by_hand() {
    let (still, turned) = (plane(0.0), plane(std::f64::consts::FRAC_PI_6));
    assert_some_close(rotation(still.as_ref(), turned.as_ref(), 1), Some(0.25), 1e-14);
    assert_some_close(rotation(still.as_ref(), turned.as_ref(), 2), Some(0.125), 1e-14);
    assert_some_close(rotation(still.as_ref(), still.as_ref(), 2), Some(0.0), 1e-14);
}

#[test]
fn signs_and_a_turn_inside_the_subspace_are_no_rotation() {
    let basis = orthogonal(7, 1).as_ref().subcols(0, 3).to_owned();
    let inside = &basis * orthogonal(3, 2);
    assert_some_close(rotation(basis.as_ref(), inside.as_ref(), 3), Some(0.0), 1e-13);
    let q = orthogonal(7, 3);
    let other = orthogonal(7, 4).as_ref().subcols(0, 3).to_owned();
    assert_some_close(
        rotation((&q * &basis).as_ref(), (&q * &other).as_ref(), 2),
        rotation(basis.as_ref(), other.as_ref(), 2),
        1e-12,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_agree_with_their_definitions(n in 1usize..8, k in 1usize..8, seed in 0u64..1 << 40) {
        let (a, b) = (orthogonal(n, seed), orthogonal(n, seed + 1));
        let found = rotation(a.as_ref(), b.as_ref(), k);
        prop_assert_eq!(found.is_some(), k <= n);
        if let Some(found) = found {
            prop_assert!((0.0..=1.0).contains(&found));
            let leading = |m: &Mat<f64>| m.as_ref().subcols(0, k).to_owned();
            let cosines = slow_mul(&slow_transpose(&leading(&a)), &leading(&b));
            prop_assert!((found - 1.0 + slow_inner(&cosines, &cosines) / real(k)).abs() < 1e-12);
        }
        let (prev, now) = (Weights::random(n, k, seed), Weights::random(n, k, seed + 1));
        let step = now.to_f64() - prev.to_f64();
        let norm = |m: &Mat<f64>| slow_inner(m, m).sqrt();
        let expected = norm(&step) / norm(&prev.to_f64());
        let mut pieces = UpdateRatio::default();
        for (p, q) in prev.data.chunks(3).zip(now.data.chunks(3)) {
            pieces.add(p, q);
        }
        for found in [update_ratio(&prev.data, &now.data), pieces.ratio()] {
            prop_assert!((found.unwrap() / expected - 1.0).abs() < 1e-12);
        }
        // The same step on the same scale is the same ratio.
        let scaled = update_ratio(&prev.scaled(0.25).data, &now.scaled(0.25).data);
        prop_assert!((scaled.unwrap() / expected - 1.0).abs() < 1e-12);
    }
}

#[test]
fn what_has_no_rotation_or_ratio_is_none() {
    let basis = orthogonal(4, 1);
    let none =
        |a: &Mat<f64>, b: &Mat<f64>, k| assert_eq!(rotation(a.as_ref(), b.as_ref(), k), None);
    none(&basis, &basis, 0);
    none(&basis, &basis, 5);
    none(&basis, &orthogonal(5, 1), 2);
    none(&basis, &Mat::from_fn(4, 4, |_, _| f64::NAN), 2);
    none(&Mat::zeros(4, 0), &Mat::zeros(4, 0), 1);

    assert_eq!(update_ratio(&[0.0, 0.0], &[1.0, 0.0]), None);
    assert_eq!(update_ratio(&[], &[]), None);
    assert_eq!(update_ratio(&[1.0], &[1.0, 2.0]), None);
    assert_eq!(update_ratio(&[1.0, f32::NAN], &[1.0, 1.0]), None);
    assert_eq!(update_ratio(&[1.0, 1.0], &[f32::INFINITY, 1.0]), None);
    assert_eq!(update_ratio(&[3.0, 4.0], &[3.0, 4.0]), Some(0.0));
    assert_eq!(update_ratio(&[3.0, 4.0], &[3.0, 9.0]), Some(1.0));
    assert_some_close(update_ratio(&[1e-45, 0.0], &[0.0, 0.0]), Some(1.0), 1e-14);
    assert_some_close(update_ratio(&[f32::MAX], &[f32::MIN]), Some(2.0), 1e-14);
}
