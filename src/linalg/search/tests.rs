use super::super::Spectrum;
use super::super::drift::rotation;
use super::super::linear::Block;
use super::super::panels::Panels;
use super::super::testing::*;
use super::*;

const EPS: f64 = 1.0 / 8_388_608.0;
const KS: [usize; 5] = [1, 2, 4, 8, 16];

/// A random bulk with spikes that fall like a power law, as trained weights have.
fn spiky(rows: usize, cols: usize, n_spikes: usize, seed: u64) -> Weights {
    let bulk = Weights::random(rows, cols, seed);
    let spikes = rows.max(cols);
    let values: Vec<f64> =
        (1..=n_spikes).map(|i| 3.0 * real(spikes).sqrt() * real(i).powf(-0.5)).collect();
    let spikes = with_spectrum(rows, cols, &values, seed + 7);
    let data: Vec<f32> = bulk.data.iter().zip(&spikes.data).map(|(a, b)| a + b).collect();
    Weights::new(rows, cols, &data)
}

/// `w` moved by a random matrix of `relative` times its norm.
fn moved(w: &Weights, relative: f32, seed: u64) -> Weights {
    let step = Weights::random(w.rows, w.cols, seed);
    let norm = |w: &Weights| w.view().norm_l2();
    let factor = relative * norm(w) / norm(&step);
    let data: Vec<f32> = w.data.iter().zip(&step.data).map(|(a, b)| a + factor * b).collect();
    Weights::new(w.rows, w.cols, &data)
}

fn find(w: &Weights, ks: &[usize], warm: Option<&WarmStart>) -> Leading {
    find_in(&w.view(), false, ks, warm)
}

fn find_in(
    source: &dyn Panels,
    transposed: bool,
    ks: &[usize],
    warm: Option<&WarmStart>,
) -> Leading {
    let linear = Linear::new(vec![Block { source, transposed }], None, 0).unwrap();
    Leading::find(&linear, ks, EPS, warm).unwrap()
}

fn exact(w: &Weights, side: Side) -> Spectrum {
    Spectrum::compute(w.view(), side, 24, EPS).unwrap()
}

/// Values, subspaces and entropies against the full decomposition.
fn agrees(found: &Leading, w: &Weights, what: &str) {
    for side in [Side::Left, Side::Right] {
        let (exact, found) = (exact(w, side), found.spectrum(side, usize::MAX));
        for (i, value) in exact.values.iter().take(16).enumerate() {
            let off = (found.values[i] / value - 1.0).abs();
            assert!(off < 1e-4, "{what}: value {i} is off by {off:e}");
        }
        for k in KS.into_iter().filter(|&k| exact.relative_gap(k).unwrap() > RESOLVABLE_GAP) {
            let turned = rotation(exact.basis.as_ref(), found.basis.as_ref(), k).unwrap();
            let promised = found.subspace_error(k).unwrap();
            assert!(turned <= SUBSPACE_ERROR, "{what}: subspace {k} is off by {turned:e}");
            assert!(turned <= promised + 1e-6, "{what}: {turned:e} off, promised {promised:e}");
        }
        for (which, expected, estimate) in [
            ("effective rank", exact.effective_rank(), found.effective_rank()),
            ("entropy", exact.spectral_entropy(), found.spectral_entropy()),
        ] {
            let off = (estimate.unwrap() / expected.unwrap() - 1.0).abs();
            assert!(off < 0.02, "{what}: {which} is off by {off}");
        }
        assert!((found.frobenius / exact.frobenius - 1.0).abs() < 1e-6);
        assert!(!found.complete && found.numerical_rank().is_none());
    }
}

#[test]
fn a_diagonal_matrix_by_hand() {
    let mut w = Weights::filled(40, 30, 0.0);
    for i in 0..30 {
        w.data[i * 30 + i] = f32::from(30 - u8::try_from(i).unwrap());
    }
    let found = find(&w, &[1, 2, 4], None);
    for (i, expected) in [30.0, 29.0, 28.0, 27.0].into_iter().enumerate() {
        assert_close(found.values[i], expected, 1e-4);
        assert_close(f64::from(found.right[(i, i)].abs()), 1.0, 1e-4);
        assert_close(f64::from(found.left[(i, i)].abs()), 1.0, 1e-4);
    }
    assert_close(found.frobenius.powi(2), 9455.0, 1e-3);
}

#[test]
fn a_cold_search_agrees_with_the_full_decomposition_in_every_layout() {
    for (rows, cols) in [(300, 260), (260, 300), (500, 200)] {
        let w = spiky(rows, cols, 30, 3);
        let stored = Weights::from_f64(w.to_f64().transpose());
        agrees(&find(&w, &KS, None), &w, &format!("{rows} × {cols}"));
        let view = stored.view();
        agrees(&find_in(&view, true, &KS, None), &w, &format!("{rows} × {cols} stored turned"));
    }
}

#[test]
fn one_pass_follows_small_steps() {
    let before = spiky(400, 300, 30, 5);
    let start = find(&before, &KS, None).warm_start();
    for (relative, seed) in [(0.0, 1), (1e-3, 2), (1e-2, 3)] {
        let now = moved(&before, relative, seed);
        let found = find(&now, &KS, Some(&start));
        assert_eq!(found.route, Route::Warm, "step {relative}");
        agrees(&found, &now, &format!("step {relative}"));
    }
}

#[test]
fn a_large_step_costs_more_and_stays_true() {
    let before = spiky(400, 300, 30, 5);
    let start = find(&before, &KS, None).warm_start();
    for after in [moved(&before, 0.3, 2), spiky(400, 300, 30, 99)] {
        let found = find(&after, &KS, Some(&start));
        assert_ne!(found.route, Route::Warm);
        agrees(&found, &after, "large step");
    }
}

/// A direction that the save before knew nothing of.
#[test]
fn a_new_spike_outside_the_known_subspace_is_found() {
    let before = spiky(400, 300, 30, 5);
    let start = find(&before, &KS, None).warm_start();
    let spike = with_spectrum(400, 300, &[120.0], 77);
    let data: Vec<f32> = before.data.iter().zip(&spike.data).map(|(a, b)| a + b).collect();
    let now = Weights::new(400, 300, &data);
    agrees(&find(&now, &KS, Some(&start)), &now, "new spike");
}

/// Twenty saves of a training that grows spikes and decays the rest, each from the one before.
#[test]
fn entropies_stay_within_two_per_cent_over_a_training() {
    let mut w = Weights::random(320, 260, 21);
    let growing = spiky(320, 260, 20, 22);
    let mut start = find(&w, &KS, None).warm_start();
    for save in 0..20u64 {
        for (x, g) in w.data.iter_mut().zip(&growing.data) {
            *x = 0.97 * *x + 0.03 * g;
        }
        w = moved(&w, 5e-3, 100 + save);
        let found = find(&w, &KS, Some(&start));
        agrees(&found, &w, &format!("save {save} by {:?}", found.route));
        start = found.warm_start();
    }
}

/// All values of an orthogonal matrix are one cluster: no subspace of it means anything.
#[test]
fn a_flat_spectrum_resolves_nothing() {
    let w = Weights::from_f64(orthogonal(300, 17).as_ref());
    let found = find(&w, &KS, None);
    assert_close(found.values[0], 1.0, 1e-5);
    let spectrum = found.spectrum(Side::Left, 24);
    assert!(KS.iter().all(|k| spectrum.subspace_error(*k).is_none_or(|e| e > SUBSPACE_ERROR)));
}

#[test]
fn scaling_changes_no_vector() {
    let w = spiky(300, 260, 20, 9);
    let small = w.scaled(2f32.powi(-90));
    let view = w.view();
    let linear = Linear::new(vec![Block { source: &view, transposed: false }], None, -90).unwrap();
    let found = Leading::find(&linear, &KS, EPS, None).unwrap();
    assert_eq!(found.left, find(&w, &KS, None).left);
    let expected = exact(&small, Side::Left);
    for i in 0..16 {
        assert_close(found.values[i] / expected.values[i], 1.0, 1e-4);
    }
    let (e, f) =
        (expected.effective_rank().unwrap(), found.spectrum(Side::Left, 24).effective_rank());
    assert_close(f.unwrap() / e, 1.0, 0.02);
}

#[test]
fn odd_matrices_have_leading_triplets() {
    let zero = find(&Weights::filled(90, 80, 0.0), &KS, None);
    assert!(zero.values.iter().all(|s| *s == 0.0) && zero.left.ncols() == 0);
    assert_eq!(zero.spectrum(Side::Left, 24).effective_rank(), None);
    let warm = find(&Weights::filled(90, 80, 0.0), &KS, Some(&zero.warm_start()));
    assert!(warm.values.iter().all(|s| *s == 0.0));

    let three = with_spectrum(90, 80, &[5.0, 3.0, 1.0], 3);
    for start in [None, Some(find(&three, &KS, None).warm_start())] {
        let found = find(&three, &KS, start.as_ref());
        for (i, expected) in [5.0, 3.0, 1.0].into_iter().enumerate() {
            assert_close(found.values[i], expected, 1e-4);
        }
        assert!(found.values[3] < 1e-4);
        let rank = found.spectrum(Side::Right, 24).effective_rank().unwrap();
        assert_close(rank / exact(&three, Side::Left).effective_rank().unwrap(), 1.0, 0.02);
    }
    let constant = find(&Weights::filled(90, 80, 2.0), &KS, None);
    assert_close(constant.values[0], 2.0 * 7200f64.sqrt(), 1e-2);
}

#[test]
fn the_same_matrix_gives_the_same_bits() {
    let w = spiky(300, 260, 20, 9);
    let (a, b) = (find(&w, &KS, None), find(&w, &KS, None));
    assert_eq!((a.values, a.left, a.right), (b.values, b.left, b.right));
}

/// A k beyond half of the largest Krylov space is not searched, and costs no other number.
#[test]
fn a_k_out_of_reach_changes_nothing() {
    assert!(searchable(999, 1024) && searchable(400, 9000));
    assert!(!searchable(999, 2048) && !searchable(500, 1025));
    let w = spiky(1100, 1030, 20, 9);
    let with = find(&w, &[1, 4, 999], None);
    let without = find(&w, &[1, 4], None);
    assert_eq!(with.values, without.values);
    let start = with.warm_start();
    assert_eq!(find(&w, &[1, 4, 999], Some(&start)).route, Route::Warm);
}
