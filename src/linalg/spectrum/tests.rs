use proptest::prelude::*;

use super::super::drift::rotation;
use super::super::testing::*;
use super::*;

const EPS: f64 = 1.0 / 8_388_608.0;

/// Lowered so that a small matrix takes the Gram route.
const GRAM_ROUTE: usize = 0;

fn spectrum(w: &Weights, side: Side, k_max: usize) -> Spectrum {
    Spectrum::compute(w.view(), side, k_max, EPS).unwrap()
}

fn scalars(s: &Spectrum) -> [Option<f64>; 4] {
    [s.stable_rank(), s.effective_rank(), s.spectral_entropy(), s.relative_gap(1)]
}

#[test]
fn a_diagonal_matrix_by_hand() {
    let s = spectrum(&Weights::new(2, 3, &[3.0, 0.0, 0.0, 0.0, -4.0, 0.0]), Side::Right, 2);
    assert_close(s.frobenius, 5.0, 1e-14);
    assert_some_close(s.spectral_norm(), Some(4.0), 1e-14);
    assert_some_close(s.stable_rank(), Some(25.0 / 16.0), 1e-14);
    let (p, q) = (4.0f64 / 7.0, 3.0f64 / 7.0);
    assert_some_close(s.effective_rank(), Some(p.powf(-p) * q.powf(-q)), 1e-14);
    let (p, q) = (0.64f64, 0.36f64);
    let entropy = -(p * p.ln() + q * q.ln()) / 2f64.ln();
    assert_some_close(s.spectral_entropy(), Some(entropy), 1e-14);
    assert_eq!(s.numerical_rank(), Some(2));
    assert_eq!([0.5, 0.64, 0.65, 1.0].map(|f| s.energy_rank(f)), [1, 1, 2, 2].map(Some));
    assert_eq!([0, 1, 2, 3].map(|k| s.relative_gap(k)), [None, Some(0.25), Some(1.0), None]);
    assert_close(s.basis[(1, 0)].abs(), 1.0, 1e-14);
    assert_close(s.basis[(0, 1)].abs(), 1.0, 1e-14);
    let noise = EPS / 12f64.sqrt() * 5.0 * (2f64.sqrt() + 3f64.sqrt()) / 6f64.sqrt();
    assert_close(s.noise / noise, 1.0, 1e-14);
}

#[test]
fn transposing_scaling_and_rotating_change_no_scalar() {
    let w = Weights::random(9, 14, 5);
    let expected = scalars(&spectrum(&w, Side::Left, 3));
    let rotated = Weights::from_f64((orthogonal(9, 6) * w.to_f64()).as_ref());
    let transposed = Weights::from_f64(w.to_f64().transpose());
    for other in [transposed, w.scaled(3.0), w.scaled(-1e-20), rotated] {
        for (found, expected) in scalars(&spectrum(&other, Side::Left, 3)).iter().zip(expected) {
            assert_some_close(*found, expected, 1e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn scalars_stay_within_their_bounds(rows in 1usize..9, cols in 1usize..9, seed: u64) {
        let s = spectrum(&Weights::random(rows, cols, seed), Side::Left, 4);
        let size = real(rows.min(cols)) + 1e-9;
        let rank = real(s.numerical_rank().unwrap());
        prop_assert!((1.0..=size).contains(&rank));
        prop_assert!((1.0 - 1e-9..=size).contains(&s.stable_rank().unwrap()));
        prop_assert!((1.0 - 1e-9..=size).contains(&s.effective_rank().unwrap()));
        prop_assert_eq!(s.spectral_entropy().is_none(), rows.min(cols) == 1);
        prop_assert!(s.spectral_entropy().is_none_or(|h| (0.0..=1.0 + 1e-9).contains(&h)));
        prop_assert!(s.values.is_sorted_by(|a, b| a >= b));
        let gram = s.basis.transpose() * &s.basis;
        for j in 0..gram.ncols() {
            for i in 0..gram.nrows() {
                prop_assert!((gram[(i, j)] - f64::from(u8::from(i == j))).abs() < 1e-10);
            }
        }
    }
}

/// Values against Jacobi rotations, on every exact route.
#[test]
fn values_agree_with_jacobi_rotations() {
    for (rows, cols, seed) in [(12, 7, 1), (7, 12, 2), (20, 20, 3)] {
        let w = Weights::random(rows, cols, seed);
        let slow = slow_singular_values(&w.to_f64());
        let total: f64 = slow.iter().sum();
        let entropy: f64 = slow.iter().map(|s| -(s / total) * (s / total).ln()).sum();
        for limits in [THIN_SVD_LIMIT, GRAM_ROUTE] {
            let s = Spectrum::compute_within(limits, w.view(), Side::Left, 4, EPS).unwrap();
            assert!(s.complete);
            assert_eq!(s.values.len(), slow.len());
            for (found, expected) in s.values.iter().zip(&slow) {
                assert_close(*found, *expected, 1e-11);
            }
            assert_some_close(s.effective_rank(), Some(entropy.exp()), 1e-11);
        }
    }
}

/// The Gram route hands a matrix it cannot resolve to the SVD, also by stacked QR panels.
#[test]
fn tiny_values_survive_every_route() {
    let values = [3.0, 1.0, 1e-3, 1e-7];
    let w = with_spectrum(40, 12, &values, 7);
    let exact = spectrum(&w, Side::Left, 2);
    let gram = Spectrum::compute_within(GRAM_ROUTE, w.view(), Side::Left, 2, EPS).unwrap();
    let factor = Scaled::new(w.view()).unwrap().triangular_factor();
    let unit = pow2(Scaled::new(w.view()).unwrap().exponent);
    let stacked = thin_svd(factor.as_ref()).unwrap().values;
    let slow = slow_singular_values(&w.to_f64());
    for (i, expected) in slow.iter().enumerate() {
        for found in [exact.values[i], gram.values[i], stacked[i] * unit] {
            assert!((found - expected).abs() < 1e-14, "{found:e} against {expected:e}");
        }
    }
}

#[test]
fn both_sides_of_every_route_span_the_same_subspaces() {
    let values: Vec<f64> = (0..30).map(|i| 4.0 * 0.8f64.powi(i)).collect();
    for (rows, cols) in [(90, 120), (120, 90)] {
        let w = with_spectrum(rows, cols, &values, 11);
        for side in [Side::Left, Side::Right] {
            let exact = spectrum(&w, side, 8);
            assert_eq!(exact.basis.nrows(), if side == Side::Left { rows } else { cols });
            for limits in [THIN_SVD_LIMIT, GRAM_ROUTE] {
                let s = Spectrum::compute_within(limits, w.view(), side, 8, EPS).unwrap();
                for k in 1..=8 {
                    assert_close(s.values[k - 1], exact.values[k - 1], 1e-11);
                    let turned = rotation(exact.basis.as_ref(), s.basis.as_ref(), k).unwrap();
                    assert!(turned < 1e-12, "{rows} × {cols}, {side:?}, k = {k}: {turned:e}");
                }
                assert_close(s.frobenius, exact.frobenius, 1e-14);
            }
        }
    }
}

#[test]
fn the_basis_reaches_to_the_end_of_a_tie_cluster() {
    let w = with_spectrum(20, 10, &[5.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.5], 19);
    let s = spectrum(&w, Side::Left, 3);
    assert_eq!(s.cluster(3), (1, 5));
    assert_eq!(s.projector_weights(3), [1.0, 0.5, 0.5, 0.5, 0.5]);
    assert_eq!(s.basis.ncols(), 5);
    assert_eq!(spectrum(&w, Side::Left, 1).basis.ncols(), 1);
    assert_eq!(s.numerical_rank(), Some(7));
}

#[test]
fn odd_matrices_have_a_spectrum_on_every_route() {
    let mut odd = odd_matrices();
    odd.extend([Weights::random(1, 9, 1), Weights::random(9, 1, 2), Weights::filled(0, 4, 0.0)]);
    for w in odd {
        for limits in [THIN_SVD_LIMIT, GRAM_ROUTE] {
            for side in [Side::Left, Side::Right] {
                let s = Spectrum::compute_within(limits, w.view(), side, 3, EPS).unwrap();
                assert!(s.values.iter().all(|v| v.is_finite()) && s.frobenius.is_finite());
                let is_zero = w.data.iter().all(|x| *x == 0.0);
                assert_eq!(s.stable_rank().is_none(), is_zero);
                assert_eq!(s.basis.ncols() == 0, is_zero);
            }
        }
    }
    let tiny = spectrum(&Weights::random(5, 6, 1).scaled(1e-40), Side::Left, 3);
    assert_some_close(
        tiny.stable_rank(),
        spectrum(&Weights::random(5, 6, 1), Side::Left, 3).stable_rank(),
        1e-3,
    );
    assert_eq!(tiny.numerical_rank(), Some(5));
}

#[test]
fn a_broken_matrix_is_refused() {
    for w in broken_matrices() {
        for limits in [THIN_SVD_LIMIT, GRAM_ROUTE] {
            let found = Spectrum::compute_within(limits, w.view(), Side::Left, 3, EPS);
            assert_eq!(found.unwrap_err().to_string(), "matrix holds a NaN or an infinity");
        }
    }
}
