use proptest::prelude::*;

use super::*;

fn line(n: usize, slope: f64) -> (Vec<f64>, Vec<f64>) {
    (0..n).map(|i| (real(i), 2.0 + slope * real(i))).unzip()
}

/// Slopes of (0,0), (1,1), (2,1), (3,5): 0, 1/2, 1, 5/3, 2, 4.
#[test]
fn four_points_by_hand() {
    let fit = theil_sen(&[0.0, 1.0, 2.0, 3.0], &[0.0, 1.0, 1.0, 5.0]).unwrap();
    assert!((fit.slope - 4.0 / 3.0).abs() < 1e-15);
    // Var S = (4·3·13 − 2·1·9)/18 = 23/3, half width 1.645·2.769 = 4.55 of six slopes:
    // ranks (6 ± 4.55)/2 round to 5 and 1.
    assert_eq!((fit.low, fit.high), (0.0, 4.0));
}

#[test]
fn an_exponential_decay_gives_its_rate() {
    let (x, y) = line(12, -2.0);
    let found = ridge_rate_ratio(&x, &y).unwrap();
    assert_eq!((found.slope, found.low, found.high), (1.0, 1.0, 1.0));
    let (x, mut y) = line(12, -1.0);
    // One save gone wrong moves a least-squares slope, not this one.
    y[6] += 100.0;
    let found = ridge_rate_ratio(&x, &y).unwrap();
    assert_eq!((found.slope, found.low <= 0.5, found.high >= 0.5), (0.5, true, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_slope_is_the_median_within_its_bounds(
        points in prop::collection::vec((0i32..20, -50i32..50), 2..20),
    ) {
        let (x, y): (Vec<f64>, Vec<f64>) =
            points.iter().map(|p| (f64::from(p.0), f64::from(p.1))).unzip();
        let found = theil_sen(&x, &y);
        let mut slopes: Vec<f64> = (0..x.len())
            .flat_map(|j| (0..x.len()).map(move |i| (i, j)))
            .filter(|(i, j)| x[*j] > x[*i])
            .map(|(i, j)| (y[j] - y[i]) / (x[j] - x[i]))
            .collect();
        slopes.sort_by(f64::total_cmp);
        prop_assert_eq!(found.is_some(), !slopes.is_empty());
        if let Some(found) = found {
            let n = slopes.len();
            let median = f64::midpoint(slopes[(n - 1) / 2], slopes[n / 2]);
            prop_assert!((found.slope - median).abs() < 1e-12);
            prop_assert!(found.low <= found.slope && found.slope <= found.high);
            // Shifting both axes and mirroring y: same slope, mirrored bounds.
            let moved: Vec<f64> = x.iter().map(|v| v + 7.0).collect();
            let mirrored: Vec<f64> = y.iter().map(|v| 3.0 - v).collect();
            let mirror = theil_sen(&moved, &mirrored).unwrap();
            prop_assert!((mirror.slope + found.slope).abs() < 1e-12);
        }
    }
}

#[test]
fn what_has_no_slope_is_none() {
    assert_eq!(theil_sen(&[], &[]), None);
    assert_eq!(theil_sen(&[1.0], &[1.0]), None);
    assert_eq!(theil_sen(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(theil_sen(&[1.0, 2.0], &[1.0]), None);
    assert_eq!(theil_sen(&[1.0, 2.0], &[1.0, f64::NEG_INFINITY]), None);
    assert_eq!(ridge_rate_ratio(&[1.0, f64::NAN], &[1.0, 2.0]), None);
    let constant = theil_sen(&[1.0, 2.0, 3.0], &[5.0; 3]).unwrap();
    assert_eq!((constant.slope, constant.low, constant.high), (0.0, 0.0, 0.0));
}

#[test]
fn a_long_series_is_fitted_on_its_end() {
    let (x, mut y) = line(SLOPE_POINTS_LIMIT + 400, 3.0);
    y[..400].fill(1e6);
    let found = theil_sen(&x, &y).unwrap();
    assert!((found.slope - 3.0).abs() < 1e-12);
}
