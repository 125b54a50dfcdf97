use std::f64::consts::FRAC_PI_6;

use faer::Mat;
use proptest::prelude::*;

use super::super::spectrum::Side;
use super::super::testing::*;
use super::*;

const EPS: f64 = 1.0 / 8_388_608.0;

fn compare(writer: &Weights, reader: &Weights, ks: &[usize]) -> Vec<Overlap> {
    let k_max = ks.iter().copied().max().unwrap_or(1);
    let writer = Spectrum::compute(writer.view(), Side::Left, k_max, EPS).unwrap();
    let reader = Spectrum::compute(reader.view(), Side::Right, k_max, EPS).unwrap();
    overlaps(&writer, &reader, ks)
}

/// Writer with left vectors e1, e2; reader with right vectors e1 turned by `angle` to e3, and e2.
#[expect(clippy::cast_possible_truncation, reason = "checkpoints store f32")]
fn tilted(angle: f64) -> (Weights, Weights) {
    let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
    (
        Weights::new(3, 2, &[4.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
        Weights::new(2, 3, &[2.0 * cos, 0.0, 2.0 * sin, 0.0, 1.0, 0.0]),
    )
}

#[test]
fn planes_at_thirty_degrees_by_hand() {
    let (writer, reader) = tilted(FRAC_PI_6);
    let found = compare(&writer, &reader, &[2, 1, 2, 0, 3, 99]);
    assert_eq!(found.iter().map(|o| o.k).collect::<Vec<_>>(), [1, 2]);
    let (one, two) = (found[0], found[1]);
    assert_close(one.ratio, 0.75, 1e-6);
    assert_close(one.chance, 1.0 / 3.0, 1e-15);
    // m = 3, k = 1: sd = √2 (2/3)/√(2·5).
    assert_close(one.chance_sd, (8.0f64 / 90.0).sqrt(), 1e-12);
    assert_close(one.excess, 0.625, 1e-6);
    assert_close(one.z, (0.75 - 1.0 / 3.0) / (8.0f64 / 90.0).sqrt(), 1e-6);
    assert_close(one.angle_min, FRAC_PI_6, 1e-6);
    assert_close(two.ratio, 0.875, 1e-6);
    assert_close(two.angle_min, 0.0, 1e-7);
    assert_close(two.angle_mean, FRAC_PI_6 / 2.0, 1e-6);
    assert_close(two.angle_max, FRAC_PI_6, 1e-6);
    assert_close(two.basis, 0.875, 1e-6);
    assert!(one.cut_ok && two.cut_ok && two.basis_ok);
    // P = e1e1ᵀ: 1ᵀP1 = 1 = k on the writer's side, so permuting leaves k/m.
    assert_close(one.permutation_chance, 1.0 / 3.0, 1e-12);
}

/// The arc cosine alone returns 0 or 1.5e-8 here.
#[test]
fn a_small_angle_keeps_its_digits() {
    for angle in [1e-4, 1e-9] {
        let (writer, reader) = tilted(angle);
        let found = compare(&writer, &reader, &[1])[0];
        assert!((found.angle_max / angle - 1.0).abs() < 1e-6, "{:e}", found.angle_max);
    }
}

#[test]
fn a_cluster_that_fills_the_space_is_at_chance() {
    let [a, b] = [1, 2].map(|seed| Weights::from_f64(orthogonal(6, seed).as_ref()));
    for o in compare(&a, &b, &[1, 2, 5]) {
        assert_close(o.ratio, o.chance, 1e-12);
        assert!(!o.cut_ok && !o.basis_ok);
        assert_close(o.z, 0.0, 1e-12);
    }
}

#[test]
fn joint_and_outer_rotations_leave_overlaps_alone() {
    let (w1, w2) = (Weights::random(10, 7, 1), Weights::random(8, 10, 2));
    let q = orthogonal(10, 3);
    let turned = (
        Weights::from_f64((&q * w1.to_f64() * orthogonal(7, 4)).as_ref()).scaled(5.0),
        Weights::from_f64((orthogonal(8, 5) * w2.to_f64() * q.transpose()).as_ref()).scaled(0.1),
    );
    let plain = compare(&w1, &w2, &[1, 3, 5]);
    for (a, b) in plain.iter().zip(compare(&turned.0, &turned.1, &[1, 3, 5])) {
        assert_close(b.ratio, a.ratio, 1e-5);
        assert_close(b.angle_mean, a.angle_mean, 1e-5);
        assert_close(b.basis, a.basis, 1e-5);
    }
    // A permutation of one side alone is what the overlap is there to see.
    let mut swapped = w1.clone();
    swapped.data.rotate_left(7);
    assert!((compare(&swapped, &w2, &[3])[0].ratio - plain[1].ratio).abs() > 1e-3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn overlaps_stay_within_their_bounds(
        m in 2usize..9, n in 1usize..9, p in 1usize..9, seed in 0u64..1 << 40,
    ) {
        let (writer, reader) = (Weights::random(m, n, seed), Weights::random(p, m, seed + 1));
        for o in compare(&writer, &reader, &[1, 2, 3, 4, 5, 6, 7, 8]) {
            prop_assert!(o.k < m && o.k <= n.min(p));
            let (k, m) = (real(o.k), real(m));
            let least = (2.0 * k - m).max(0.0) / k;
            prop_assert!((least - 1e-9..=1.0).contains(&o.ratio));
            prop_assert!(o.excess <= 1.0 + 1e-12);
            prop_assert!((0.0..=FRAC_PI_2).contains(&o.angle_min));
            prop_assert!(o.angle_min <= o.angle_mean + 1e-12);
            prop_assert!(o.angle_mean <= o.angle_max + 1e-12 && o.angle_max <= FRAC_PI_2);
            prop_assert!((0.0..=o.ratio + 1e-9).contains(&o.basis));
            prop_assert!(o.n_above_chance <= o.k);
        }
    }
}

/// tr(PQ)/k with the projectors written out, and the mean over all permutations of them.
#[test]
fn ratio_and_permutation_chance_agree_with_projectors() {
    let (w1, w2) = (Weights::random(4, 4, 8), Weights::random(4, 4, 9));
    let writer = Spectrum::compute(w1.view(), Side::Left, 3, EPS).unwrap();
    let reader = Spectrum::compute(w2.view(), Side::Right, 3, EPS).unwrap();
    for o in overlaps(&writer, &reader, &[1, 2, 3]) {
        let projector = |basis: &Mat<f64>| {
            let leading = basis.as_ref().subcols(0, o.k).to_owned();
            slow_mul(&leading, &slow_transpose(&leading))
        };
        let (p, q) = (projector(&writer.basis), projector(&reader.basis));
        let k = real(o.k);
        assert_close(o.ratio, slow_inner(&p, &q) / k, 1e-12);
        let (mut sum, mut count) = (0.0, 0.0);
        for code in 0..256 {
            let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
            if (0..4).all(|i| order.contains(&i)) {
                let moved = Mat::from_fn(4, 4, |i, j| q[(order[i], order[j])]);
                sum += slow_inner(&p, &moved) / k;
                count += 1.0;
            }
        }
        assert_close(count, 24.0, 0.0);
        assert_close(o.permutation_chance, sum / count, 1e-12);
    }
}

#[test]
fn odd_matrices_have_only_the_overlaps_of_their_rank() {
    for writer in odd_matrices() {
        for reader in odd_matrices() {
            let reader = Weights::from_f64(reader.to_f64().transpose());
            for o in compare(&writer, &reader, &[1, 2, 4]) {
                assert!(o.ratio.is_finite() && o.angle_max.is_finite());
            }
        }
    }
    let zero = Weights::filled(6, 5, 0.0);
    assert!(compare(&zero, &Weights::random(5, 6, 1), &[1, 2]).is_empty());
    let constant = Weights::filled(6, 5, 1.0);
    assert_eq!(compare(&constant, &Weights::random(5, 6, 1), &[1, 2]).len(), 1);
    // A shared dimension of 1 has no subspace to compare, different dimensions none in common.
    assert!(compare(&Weights::filled(1, 5, 1.0), &Weights::filled(3, 1, 1.0), &[1]).is_empty());
    assert!(compare(&Weights::random(6, 5, 1), &Weights::random(5, 7, 1), &[1]).is_empty());
}
