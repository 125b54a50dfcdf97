use super::*;

fn uniform(n: usize) -> Bulk {
    let nodes: Vec<(f64, f64)> = (1..=n).map(|i| (real(i * i), 1.0)).collect();
    let trace = nodes.iter().map(|(t, _)| t).sum();
    Bulk::new(&nodes, real(n), trace, 1.0)
}

#[test]
fn weights_and_trace_are_kept_by_hand() {
    let bulk = Bulk::new(&[(4.0, 1.0), (1.0, 3.0)], 8.0, 28.0, 1.0);
    assert_eq!(bulk.weight, [6.0, 2.0]);
    // 6·1 + 2·4 = 14, and 28 is asked for.
    let root = 2f64.sqrt();
    assert!((bulk.sigma[0] - root).abs() < 1e-12 && (bulk.sigma[1] - 2.0 * root).abs() < 1e-12);
}

#[test]
fn many_nodes_are_joined_without_losing_weight_or_trace() {
    let bulk = uniform(1000);
    assert!((MAX_NODES - 2..=MAX_NODES).contains(&bulk.sigma.len()));
    assert!((bulk.weight.iter().sum::<f64>() - 1000.0).abs() < 1e-9);
    let expected: f64 = (1..=1000).map(|i| real(i * i)).sum();
    assert!((bulk.sum(2.0, 1.0) / expected - 1.0).abs() < 1e-12);
}

#[test]
fn scaling_weights_scales_the_values() {
    let bulk = uniform(20);
    let trace = bulk.sum(2.0, 1.0);
    let moved = bulk.moved_to(9.0 * trace, 81.0 * bulk.second_moment).unwrap();
    for (a, b) in moved.sigma.iter().zip(&bulk.sigma) {
        assert!((a / b - 3.0).abs() < 1e-6, "{a} for {b}");
    }
}

#[test]
fn a_more_peaked_second_moment_spreads_the_values() {
    let bulk = uniform(20);
    let trace = bulk.sum(2.0, 1.0);
    let moved = bulk.moved_to(trace, 1.05 * bulk.second_moment).unwrap();
    assert!((moved.sum(2.0, 1.0) / trace - 1.0).abs() < 1e-9);
    let ratio = moved.sum(4.0, 1.0) / bulk.sum(4.0, 1.0);
    assert!((ratio - 1.05).abs() < 1e-6, "{ratio}");
    assert!(bulk.moved_to(trace, 3.0 * bulk.second_moment).is_none());
}

#[test]
fn nothing_outside_stays_nothing() {
    let none = Bulk::new(&[], 0.0, 0.0, 0.0);
    assert_eq!(none.moved_to(0.0, 0.0), Some(none.clone()));
    assert!(none.moved_to(1.0, 1.0).is_none(), "something new outside asks for a cold search");
}
