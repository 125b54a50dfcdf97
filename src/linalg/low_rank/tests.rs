use super::super::testing::{
    Weights, assert_close, broken_matrices, odd_matrices, slow_inner, slow_mul,
    slow_singular_values, slow_transpose,
};
use super::super::{LinalgError, overlaps};
use super::*;

const EPS: [f64; 2] = [f32::EPSILON as f64; 2];

fn product(b: &Weights, a: &Weights, scale: f64) -> LowRank {
    low_rank_product(b.view(), a.view(), scale, EPS).unwrap()
}

/// The product by the definition.
fn slow_product(b: &Weights, a: &Weights, scale: f64) -> Mat<f64> {
    let product = slow_mul(&b.to_f64(), &a.to_f64());
    Mat::from_fn(product.nrows(), product.ncols(), |i, j| scale * product[(i, j)])
}

#[test]
fn a_case_by_hand() {
    // B·A = e₁·(3 0 4) + e₂·0: one value 5, times 2.
    let b = Weights::new(3, 2, &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    let a = Weights::new(2, 3, &[3.0, 0.0, 4.0, 0.0, 0.0, 0.0]);
    let LowRank { left, right } = product(&b, &a, -2.0);
    assert_close(left.values[0], 10.0, 1e-14);
    assert_close(left.frobenius, 10.0, 1e-14);
    assert_eq!((left.rows, left.cols, left.numerical_rank()), (3, 3, Some(1)));
    assert_close(left.basis[(0, 0)].abs(), 1.0, 1e-14);
    for (i, x) in [0.6, 0.0, 0.8].into_iter().enumerate() {
        assert_close(right.basis[(i, 0)].abs(), x, 1e-14);
    }
}

#[test]
fn equals_the_slow_product() {
    for (out, r, cols, seed) in [(30, 4, 20, 1), (7, 7, 40, 2), (5, 9, 6, 3), (64, 1, 3, 4)] {
        let (b, a) = (Weights::random(out, r, seed), Weights::random(r, cols, seed + 50));
        let slow = slow_product(&b, &a, 0.75);
        let LowRank { left, right } = product(&b, &a, 0.75);
        let values = slow_singular_values(&slow);
        assert_eq!((left.rows, left.cols), (out, cols));
        for (i, value) in left.values.iter().enumerate() {
            assert_close(*value, values[i], 1e-12);
        }
        assert_close(left.frobenius, slow_inner(&slow, &slow).sqrt(), 1e-12);
        // U·Σ·Vᵀ is the product: the sides belong together.
        let n = left.values.len();
        let scaled = Mat::from_fn(out, n, |i, j| left.basis[(i, j)] * left.values[j]);
        let again = slow_mul(&scaled, &slow_transpose(&right.basis));
        let error = &again - &slow;
        assert!(slow_inner(&error, &error).sqrt() < 1e-12 * (1.0 + left.frobenius));
    }
}

#[test]
fn what_stands_between_the_factors_is_of_no_account() {
    let (b, a) = (Weights::random(24, 3, 5), Weights::random(3, 18, 6));
    // Powers of two and exchanged columns round nothing.
    let g = Weights::new(3, 3, &[0.0, 4.0, 0.0, 0.0, 0.0, 0.5, 2.0, 0.0, 0.0]);
    let inverse = Weights::new(3, 3, &[0.0, 0.0, 0.5, 0.25, 0.0, 0.0, 0.0, 2.0, 0.0]);
    let turned_b = Weights::from_f64(slow_mul(&b.to_f64(), &inverse.to_f64()).as_ref());
    let turned_a = Weights::from_f64(slow_mul(&g.to_f64(), &a.to_f64()).as_ref());
    let (one, other) = (product(&b, &a, 1.0), product(&turned_b, &turned_a, 1.0));
    for (x, y) in one.left.values.iter().zip(&other.left.values) {
        assert_close(*x, *y, 1e-12);
    }
    let mut turned = other.left.clone();
    std::mem::swap(&mut turned.rows, &mut turned.cols);
    for overlap in overlaps(&one.left, &turned, &[1, 2, 3]) {
        assert_close(overlap.ratio, 1.0, 1e-10);
    }
}

#[test]
fn numbers_stay_within_their_bounds() {
    for seed in 0..20 {
        let (b, a) = (Weights::random(12, 4, seed), Weights::random(4, 9, seed + 99));
        let spectrum = product(&b, &a, 3.0).left;
        let rank = spectrum.numerical_rank().unwrap();
        assert_eq!(rank, 4);
        let within = |x: Option<f64>| x.is_some_and(|x| (1.0..=4.0 + 1e-9).contains(&x));
        assert!(within(spectrum.stable_rank()) && within(spectrum.effective_rank()));
        assert!((0.0..=1.0).contains(&spectrum.spectral_entropy().unwrap()));
        let norm = |w: &Weights| slow_singular_values(&w.to_f64())[0];
        assert!(spectrum.values[0] <= 3.0 * norm(&b) * norm(&a) * (1.0 + 1e-9));
    }
}

#[test]
fn an_adapter_at_its_start_and_other_odd_input() {
    let zero = Weights::filled(12, 4, 0.0);
    let LowRank { left, right } = product(&zero, &Weights::random(4, 9, 1), 2.0);
    assert_eq!((left.frobenius, left.numerical_rank(), left.stable_rank()), (0.0, Some(0), None));
    assert!(overlaps(&left, &right, &[1]).is_empty(), "nothing has no direction");
    for odd in odd_matrices() {
        let LowRank { left, right } = product(&odd, &Weights::random(6, 8, 2), 1e3);
        assert!(left.values.iter().all(|s| s.is_finite()) && left.frobenius.is_finite());
        assert_eq!((left.basis.nrows(), right.basis.nrows()), (5, 8));
    }
    for broken in broken_matrices() {
        let a = Weights::random(6, 8, 2);
        let refused = low_rank_product(broken.view(), a.view(), 1.0, EPS);
        assert!(matches!(refused, Err(LinalgError::NotFinite(_))));
    }
    let refused = low_rank_product(zero.view(), zero.view(), 1.0, EPS);
    assert!(matches!(refused, Err(LinalgError::Shape { found: 12, expected: 4, .. })));
}
