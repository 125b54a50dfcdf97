use super::super::panels::StoredGram;
use super::super::testing::Weights;
use super::*;

/// The matrix of a [`Linear`], entry by entry.
fn literal(blocks: &[(&Weights, bool)], gain: Option<&[f32]>) -> Mat<f64> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for (w, transposed) in blocks {
        let (m, n) = if *transposed { (w.cols, w.rows) } else { (w.rows, w.cols) };
        for i in 0..m {
            let entry = |j: usize| {
                let stored = if *transposed { j * w.cols + i } else { i * w.cols + j };
                f64::from(w.data[stored]) * gain.map_or(1.0, |g| f64::from(g[j]))
            };
            rows.push((0..n).map(entry).collect());
        }
    }
    Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
}

fn close(found: &Mat<f32>, expected: &Mat<f64>, what: &str) {
    assert_eq!((found.nrows(), found.ncols()), (expected.nrows(), expected.ncols()), "{what}");
    let scale = expected.norm_max().max(1.0);
    for j in 0..found.ncols() {
        for i in 0..found.nrows() {
            let error = (f64::from(found[(i, j)]) - expected[(i, j)]).abs();
            assert!(error < 1e-5 * scale, "{what} at {i},{j}: off by {error}");
        }
    }
}

/// Every product and diagonal against the literal matrix.
fn check(blocks: &[(&Weights, bool)], gain: Option<&[f32]>) {
    let views: Vec<_> = blocks.iter().map(|(w, _)| w.view()).collect();
    let parts = views
        .iter()
        .zip(blocks)
        .map(|(view, (_, transposed))| Block { source: view, transposed: *transposed })
        .collect();
    let linear = Linear::new(parts, gain.map(<[f32]>::to_vec), 0).unwrap();
    let w = literal(blocks, gain);
    assert_eq!((linear.rows(), linear.cols()), (w.nrows(), w.ncols()));
    close(&linear.to_dense(false).unwrap(), &w, "dense");
    close(&linear.to_dense(true).unwrap(), &w.transpose().to_owned(), "dense transpose");
    for side in [Side::Left, Side::Right] {
        let toward = if side == Side::Right { w.clone() } else { w.transpose().to_owned() };
        let x = Weights::random(linear.dim(side), 5, 9);
        let x64 = x.to_f64();
        let there = &toward * &x64;
        let back = toward.transpose() * &there;
        let what = format!("{side:?} of {blocks:?}", blocks = blocks.len());
        close(&linear.across(side, x.view()).unwrap(), &there, &what);
        let both = linear.there_and_back(side, x.view()).unwrap();
        close(&both.0, &there, &what);
        close(&both.1, &back, &what);
        let gram = toward.transpose() * &toward;
        if let Some(found) = linear.gram(side).unwrap() {
            close(&found, &gram, &what);
        }
        for (i, found) in linear.gram_diagonal(side).unwrap().iter().enumerate() {
            assert!((found - gram[(i, i)]).abs() < 1e-5 * gram.norm_max(), "{what} diagonal {i}");
        }
    }
    assert!(linear.flops() > 0);
}

#[test]
fn products_of_every_layout_are_those_of_the_literal_matrix() {
    let (tall, wide, square) =
        (Weights::random(300, 7, 1), Weights::random(7, 300, 2), Weights::random(40, 7, 3));
    let gain: Vec<f32> = (0..7u16).map(|i| 1.0 + f32::from(i) / 4.0).collect();
    let long: Vec<f32> = (0..300u16).map(|i| 1.0 - f32::from(i) / 600.0).collect();
    for gain in [None, Some(gain.as_slice())] {
        check(&[(&tall, false)], gain);
        check(&[(&wide, true)], gain);
        check(&[(&tall, false), (&square, false)], gain);
        check(&[(&square, false), (&wide, true), (&tall, false)], gain);
    }
    check(&[(&wide, false)], Some(&long));
    check(&[(&tall, true)], Some(&long));
}

#[test]
fn a_gram_is_given_where_blocks_make_it() {
    let (w, v) = (Weights::random(9, 5, 4), Weights::random(5, 4, 5));
    let (w, v) = (w.view(), v.view());
    let of = |gain: bool, with_other: bool, transposed| {
        let mut blocks = vec![Block { source: &w, transposed }];
        if with_other {
            blocks.push(Block { source: &v, transposed: true });
        }
        let n = blocks[0].cols();
        Linear::new(blocks, gain.then(|| vec![0.5; n]), 0).unwrap()
    };
    for transposed in [false, true] {
        for side in [Side::Left, Side::Right] {
            assert!(of(false, false, transposed).gram(side).unwrap().is_some());
        }
        assert!(of(true, false, transposed).gram(Side::Right).unwrap().is_some());
        assert!(of(true, false, transposed).gram(Side::Left).unwrap().is_none());
    }
    assert!(of(true, true, false).gram(Side::Right).unwrap().is_some());
    assert!(of(false, true, false).gram(Side::Left).unwrap().is_none());
}

#[test]
fn a_gram_of_many_rows_is_not_copied_together() {
    let wide = Weights::random(3, 1_400_000, 1);
    assert!(StoredGram::of(&wide.view(), Side::Left).unwrap().is_none());
}

#[test]
fn blocks_that_do_not_fit_are_refused() {
    let (a, b) = (Weights::random(3, 4, 1), Weights::random(3, 5, 1));
    let (a, b) = (a.view(), b.view());
    let block = |source| Block { source, transposed: false };
    let stacked = Linear::new(vec![block(&a), block(&b)], None, 0);
    assert!(matches!(stacked, Err(LinalgError::Shape { what: "block", found: 5, expected: 4 })));
    let gained = Linear::new(vec![block(&a)], Some(vec![1.0; 3]), 0);
    assert!(matches!(gained, Err(LinalgError::Shape { what: "gain", found: 3, expected: 4 })));
}

#[test]
fn flops_count_the_products() {
    let w = Weights::random(8, 4, 1);
    let view = w.view();
    let linear = Linear::new(vec![Block { source: &view, transposed: false }], None, 0).unwrap();
    let x = Weights::random(4, 3, 2);
    linear.there_and_back(Side::Right, x.view()).unwrap();
    assert_eq!(linear.flops(), 4 * 8 * 4 * 3);
}
