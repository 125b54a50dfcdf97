//! How sure a share is.

/// Upper end of the one-sided 95 % interval of Clopper and Pearson for a share of which `hits` of `n`
/// were seen: the share at which so few would be seen once in twenty times. With no hits it is close
/// to 3/n.
pub fn upper(hits: usize, n: usize) -> f64 {
    if hits >= n {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(hits, n, middle) > 0.05 { low = middle } else { high = middle }
    }
    high
}

/// Chance of at most `hits` of `n` at this share.
fn at_most(hits: usize, n: usize, share: f64) -> f64 {
    let mut ln_term = n as f64 * (1.0 - share).ln();
    let mut sum = ln_term.exp();
    for i in 1..=hits {
        ln_term += ((n + 1 - i) as f64 / i as f64).ln() + share.ln() - (1.0 - share).ln();
        sum += ln_term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_the_tables() {
        assert!((upper(0, 1000) - 0.002_991).abs() < 1e-6, "{}", upper(0, 1000));
        assert!((upper(1, 20) - 0.216_1).abs() < 1e-4, "{}", upper(1, 20));
        assert!((upper(5, 50) - 0.199_1).abs() < 1e-3, "{}", upper(5, 50));
        assert!((upper(20, 20) - 1.0).abs() < 1e-12);
    }
}
