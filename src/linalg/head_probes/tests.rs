use super::super::testing::*;
use super::super::{Block, head_overlap};
use super::*;

fn estimate(heads: &[Weights], side: HeadSide) -> Result<(HeadOverlap, HeadStderr), LinalgError> {
    let views: Vec<_> = heads.iter().map(Weights::view).collect();
    let linear = |source| Linear::new(vec![Block { source, transposed: false }], None, 0).unwrap();
    let heads: Vec<_> = views.iter().map(|view| linear(view)).collect();
    estimate_head_overlap(&heads, side)
}

fn exact(heads: &[Weights]) -> HeadOverlap {
    let views: Vec<_> = heads.iter().map(Weights::view).collect();
    head_overlap(&views, HeadSide::Row).unwrap()
}

fn numbers(o: &HeadOverlap) -> [Option<f64>; 6] {
    [o.mean, o.max, o.excess, o.effective_heads, o.effective_heads_centered, o.gram_mean]
}

/// Heads of `width` rows that share a part of their directions and have a spectrum.
fn layer(n_heads: usize, width: usize, dim: usize, shared: f64, seed: u64) -> Vec<Weights> {
    let common = Weights::random(width, dim, seed).to_f64();
    let head = |h: u64| {
        let own = Weights::random(width, dim, seed + 1 + h).to_f64();
        let turn = Weights::random(width, width, seed + 100 + h).to_f64();
        let mixed = &common * Scale(shared) + own * Scale(1.0 - shared);
        let strength = |i: usize| 1.0 / (1.0 + real(i) / 4.0);
        let spectrum = Mat::from_fn(width, dim, |i, j| mixed[(i, j)] * strength(i));
        Weights::from_f64((turn * spectrum).as_ref())
    };
    (0..n_heads as u64).map(head).collect()
}

/// Within a few published standard errors of the exact numbers, and most within two.
#[test]
fn estimates_agree_with_the_products_of_all_pairs() {
    let (mut within, mut n) = (0, 0);
    for shared in [0.0, 0.2, 0.5] {
        for (n_heads, width, dim) in [(12, 32, 384), (6, 16, 200), (8, 40, 320)] {
            for seed in 0..3 {
                let heads = layer(n_heads, width, dim, shared, 1000 * seed);
                let exact = exact(&heads);
                let (found, error) = estimate(&heads, HeadSide::Row).unwrap();
                assert!(found.max.unwrap() > exact.max.unwrap() - 4.0 * error.mean.unwrap());
                for (name, found, error, exact) in [
                    ("mean", found.mean, error.mean, exact.mean),
                    ("excess", found.excess, error.excess, exact.excess),
                    ("heads", found.effective_heads, error.effective_heads, exact.effective_heads),
                    (
                        "centred",
                        found.effective_heads_centered,
                        error.effective_heads_centered,
                        exact.effective_heads_centered,
                    ),
                    ("gram", found.gram_mean, error.gram_mean, exact.gram_mean),
                ] {
                    let (found, error, exact) = (found.unwrap(), error.unwrap(), exact.unwrap());
                    let z = (found - exact).abs() / (error + 1e-6);
                    assert!(z < 4.0, "{name}: {found} ± {error}, exact {exact}");
                    within += usize::from(z < 2.0);
                    n += 1;
                }
            }
        }
    }
    assert!(100 * within >= 85 * n, "{within} of {n} within two standard errors");
}

/// The whole of R^4 twice, and two axes of R^64.
#[test]
fn equal_and_orthogonal_heads_by_hand() {
    let whole = Weights::from_f64(orthogonal(4, 3).as_ref());
    let (found, error) = estimate(&[whole.clone(), whole], HeadSide::Row).unwrap();
    let expected = [Some(1.0), Some(1.0), None, Some(1.0), Some(1.0), Some(1.0)];
    for (found, expected) in numbers(&found).iter().zip(expected) {
        assert_some_close(*found, expected, 1e-5);
    }
    assert!(error.mean.unwrap() < 1e-5);
    let line = |i: usize| {
        Weights::from_f64(Mat::from_fn(1, 64, |_, j| f64::from(u8::from(i == j))).as_ref())
    };
    let (found, error) = estimate(&[line(0), line(1)], HeadSide::Row).unwrap();
    // Signs never mix different coordinates.
    assert_eq!((found.mean, error.mean), (Some(0.0), Some(0.0)));
    assert_some_close(found.effective_heads, Some(2.0), 1e-12);
}

#[test]
fn what_leaves_the_subspaces_leaves_the_numbers() {
    let heads = layer(5, 12, 96, 0.4, 5);
    let plain = numbers(&estimate(&heads, HeadSide::Row).unwrap().0);
    let columns: Vec<_> = heads.iter().map(|h| Weights::from_f64(h.to_f64().transpose())).collect();
    assert_eq!(numbers(&estimate(&columns, HeadSide::Column).unwrap().0), plain);

    let scales = [1.0, 3.0, 0.125, 1e-20, 1e15];
    let scaled: Vec<_> = heads.iter().zip(scales).map(|(h, by)| h.scaled(by)).collect();
    for (found, expected) in numbers(&estimate(&scaled, HeadSide::Row).unwrap().0).iter().zip(plain)
    {
        assert_some_close(*found, expected, 1e-4);
    }
    // Another basis of each subspace: all but the Grams.
    let shear = Mat::from_fn(12, 12, |i, j| if i == j { 1.0 } else { 0.3 / real(1 + i + 2 * j) });
    let other: Vec<_> =
        heads.iter().map(|h| Weights::from_f64((&shear * h.to_f64()).as_ref())).collect();
    let found = numbers(&estimate(&other, HeadSide::Row).unwrap().0);
    for (found, expected) in found.iter().zip(plain).take(5) {
        assert_some_close(*found, expected, 1e-3);
    }
}

/// A small change of the weights changes the estimate as the exact number, far below its error.
#[test]
fn differences_between_saves_are_sharp() {
    let heads = layer(8, 32, 256, 0.3, 9);
    let later: Vec<_> = heads
        .iter()
        .enumerate()
        .map(|(i, h)| {
            let (w, e) = (h.to_f64(), Weights::random(32, 256, 300 + i as u64).to_f64());
            let by = 0.03 * w.norm_l2() / e.norm_l2();
            Weights::from_f64((w + e * Scale(by)).as_ref())
        })
        .collect();
    let step = |before: HeadOverlap, after: HeadOverlap| after.mean.unwrap() - before.mean.unwrap();
    let expected = step(exact(&heads), exact(&later));
    let (before, error) = estimate(&heads, HeadSide::Row).unwrap();
    let found = step(before, estimate(&later, HeadSide::Row).unwrap().0);
    assert!((found - expected).abs() < 0.002, "{found} for {expected}, {error:?}");
}

#[test]
fn odd_heads_are_none_or_finite_and_broken_ones_refused() {
    let good = Weights::random(5, 6, 4);
    for odd in odd_matrices() {
        let heads = [good.clone(), odd.clone()];
        let (found, exact) = (estimate(&heads, HeadSide::Row).unwrap().0, exact(&heads));
        let of = |o: &HeadOverlap| numbers(o).map(|x| x.is_some());
        assert!(numbers(&found).iter().flatten().all(|x| x.is_finite()));
        assert_eq!(of(&found), of(&exact), "{odd:?}");
    }
    let (one, error) = estimate(std::slice::from_ref(&good), HeadSide::Row).unwrap();
    assert_eq!((one.mean, one.gram_mean, error.mean), (None, None, None));
    assert_some_close(one.effective_heads, Some(1.0), 1e-12);
    assert_eq!(estimate(&[], HeadSide::Row).unwrap().0.effective_heads, None);
    for broken in broken_matrices() {
        let found = estimate(&[good.clone(), broken], HeadSide::Row);
        assert!(matches!(found, Err(LinalgError::NotFinite(_))));
    }
    let found = estimate(&[good, Weights::random(4, 6, 1)], HeadSide::Row);
    assert_eq!(found.unwrap_err().to_string(), "head has size 4, expected 5");
}
