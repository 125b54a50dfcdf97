use proptest::prelude::*;

use super::super::testing::*;
use super::*;

fn overlap(heads: &[Weights], side: HeadSide) -> HeadOverlap {
    let views: Vec<_> = heads.iter().map(Weights::view).collect();
    head_overlap(&views, side).unwrap()
}

fn numbers(o: &HeadOverlap) -> [Option<f64>; 6] {
    [o.mean, o.max, o.excess, o.effective_heads, o.effective_heads_centered, o.gram_mean]
}

/// Three planes of R^4: span(e1, e2) twice and span(e2, e3).
#[test]
fn three_planes_by_hand() {
    let heads = [
        Weights::new(2, 4, &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
        Weights::new(2, 4, &[0.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]),
        Weights::new(2, 4, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    ];
    let o = overlap(&heads, HeadSide::Row);
    assert_eq!((o.heads, o.dim, o.head_dim), (3, 4, 2));
    // Kernels 1, ½, ½; squares of all nine entries: 3 + 2·1.5 = 6.
    assert_close(o.chance, 0.5, 1e-15);
    assert_close(o.chance_sd, (8.0f64 * 4.0 / 288.0).sqrt() / 2.0, 1e-12);
    let expected = [2.0 / 3.0, 1.0, 1.0 / 3.0, 1.5, 9.0 / 5.0, 2.0 / 3.0];
    for (found, expected) in numbers(&o).iter().zip(expected) {
        assert_some_close(*found, Some(expected), 1e-12);
    }
    let columns = heads.map(|h| Weights::from_f64(h.to_f64().transpose()));
    assert_eq!(overlap(&columns, HeadSide::Column), o);
}

#[test]
fn rotations_and_scalings_leave_it_alone() {
    let heads = [1, 2, 3].map(|seed| Weights::random(3, 8, seed));
    let plain = numbers(&overlap(&heads, HeadSide::Row));
    let q = orthogonal(8, 9);
    let turned = heads
        .each_ref()
        .map(|h| Weights::from_f64((orthogonal(3, 5) * h.to_f64() * &q).as_ref()).scaled(1e-12));
    for (found, expected) in numbers(&overlap(&turned, HeadSide::Row)).iter().zip(plain) {
        assert_some_close(*found, expected, 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn overlaps_stay_within_their_bounds(
        n_heads in 1usize..6, width in 1usize..5, dim in 1usize..8, seed in 0u64..1 << 40,
    ) {
        let heads: Vec<_> = (0..n_heads as u64)
            .map(|i| Weights::random(width, dim, seed + i))
            .collect();
        let o = overlap(&heads, HeadSide::Row);
        let h = real(n_heads);
        prop_assert!((1.0 - 1e-9..=h + 1e-9).contains(&o.effective_heads.unwrap()));
        prop_assert_eq!(o.mean.is_some(), n_heads > 1);
        if let (Some(mean), Some(max), Some(gram)) = (o.mean, o.max, o.gram_mean) {
            let least = (2.0 * real(o.head_dim) - real(dim)).max(0.0) / real(o.head_dim);
            prop_assert!(least - 1e-9 <= mean && mean <= max + 1e-9 && max <= 1.0);
            prop_assert!((0.0..=1.0 + 1e-9).contains(&gram));
        }
        prop_assert_eq!(o.excess.is_some(), n_heads > 1 && width < dim);
    }
}

/// Kernels from projectors W⁺W of 2-row heads, inverted by Cramer's rule; cosines from D × D Grams.
#[test]
fn kernels_agree_with_projectors() {
    let heads = [1, 2, 3, 4].map(|seed| Weights::random(2, 7, seed));
    let projector = |w: &Mat<f64>| {
        let g = slow_mul(w, &slow_transpose(w));
        let determinant = g[(0, 0)] * g[(1, 1)] - g[(0, 1)] * g[(1, 0)];
        let inverse = Mat::from_fn(2, 2, |i, j| {
            if i == j { g[(1 - i, 1 - j)] / determinant } else { -g[(i, j)] / determinant }
        });
        slow_mul(&slow_transpose(w), &slow_mul(&inverse, w))
    };
    let projectors = heads.each_ref().map(|h| projector(&h.to_f64()));
    let grams = heads.each_ref().map(|h| slow_mul(&slow_transpose(&h.to_f64()), &h.to_f64()));
    let (mut kernel, mut cosine, mut squares) = (0.0, 0.0, 4.0);
    for i in 0..4 {
        for j in (0..4).filter(|j| *j != i) {
            let pk = slow_inner(&projectors[i], &projectors[j]) / 2.0;
            kernel += pk / 12.0;
            squares += pk * pk;
            let norms = slow_inner(&grams[i], &grams[i]) * slow_inner(&grams[j], &grams[j]);
            cosine += slow_inner(&grams[i], &grams[j]) / norms.sqrt() / 12.0;
        }
    }
    let o = overlap(&heads, HeadSide::Row);
    assert_some_close(o.mean, Some(kernel), 1e-12);
    assert_some_close(o.gram_mean, Some(cosine), 1e-12);
    assert_some_close(o.effective_heads, Some(16.0 / squares), 1e-12);
}

#[test]
fn odd_heads_are_none_or_finite_and_broken_ones_refused() {
    let good = Weights::random(5, 6, 4);
    for odd in odd_matrices() {
        let o = overlap(&[good.clone(), odd.clone()], HeadSide::Row);
        assert!(numbers(&o).iter().flatten().all(|x| x.is_finite()));
        let is_zero = odd.data.iter().all(|x| *x == 0.0);
        assert_eq!(o.gram_mean.is_none(), is_zero);
        assert!(!is_zero || numbers(&o) == [None; 6]);
    }
    // Rank one in a space of five has no definite five-dimensional subspace.
    assert_eq!(overlap(&[good.clone(), Weights::filled(5, 6, 0.5)], HeadSide::Row).mean, None);
    assert_eq!(overlap(&[], HeadSide::Row).effective_heads, None);
    for broken in broken_matrices() {
        let found = head_overlap(&[good.view(), broken.view()], HeadSide::Row);
        assert!(matches!(found, Err(LinalgError::NotFinite(_))));
    }
    let found = head_overlap(&[good.view(), Weights::random(4, 6, 1).view()], HeadSide::Row);
    assert_eq!(found.unwrap_err().to_string(), "head has size 4, expected 5");
}

/// The products formed at once agree with those head by head, for both orientations and any scale;
/// ill-conditioned heads are left to the slower way.
#[test]
fn products_formed_at_once_are_those_head_by_head() {
    for (seed, scale) in [(1, 1.0), (2, 1e-30)] {
        let heads: Vec<Weights> =
            (0..5).map(|h| Weights::random(300, 20, seed * 10 + h).scaled(scale)).collect();
        let views: Vec<_> = heads.iter().map(Weights::view).collect();
        let fast = head_products(&views).unwrap().expect("well-conditioned heads");
        let bases: Vec<_> = views.iter().map(|v| HeadBasis::new(*v).unwrap()).collect();
        let slow = basis_products(&bases, 20);
        for (i, j) in (0..5).flat_map(|i| (0..i).map(move |j| (i, j))) {
            assert_close(fast.kernel[(i, j)], slow.kernel[(i, j)], 1e-6);
            assert_close(fast.cosine[(i, j)], slow.cosine[(i, j)], 1e-6);
        }
        let turned: Vec<_> = views.iter().map(|v| v.transpose()).collect();
        let rows = head_overlap(&turned, HeadSide::Row).unwrap();
        assert_eq!(rows, head_overlap(&views, HeadSide::Column).unwrap());
    }
    let mut flat = Weights::random(300, 20, 3);
    for row in flat.data.chunks_mut(20) {
        row[0] = 1e-4 * row[0] + row[1];
    }
    let other = Weights::random(300, 20, 4);
    assert!(head_products(&[flat.view(), other.view()]).unwrap().is_none());
}
