//! The order in which people count layers.

use std::cmp::Ordering;

/// Natural order of tensor names: runs of ASCII digits compare as numbers of any length, all else
/// by bytes (`layers.2` before `layers.10`); names that differ only in leading zeros fall back to
/// plain order, so it is a total order and `Equal` means equal.
#[must_use]
pub fn natural_cmp(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let (Some((l, l_rest)), Some((r, r_rest))) = (left.split_first(), right.split_first())
        else {
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        };
        let order = if l.is_ascii_digit() && r.is_ascii_digit() {
            let (l_number, l_after) = split_number(left);
            let (r_number, r_after) = split_number(right);
            (left, right) = (l_after, r_after);
            l_number.len().cmp(&r_number.len()).then_with(|| l_number.cmp(r_number))
        } else {
            (left, right) = (l_rest, r_rest);
            l.cmp(r)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits at the front without leading zeros, and the rest.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let n_digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(n_digits);
    let n_zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    (digits.split_at(n_zeros).1, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layers_are_counted_not_spelled() {
        let mut names = ["l.10.a", "l.2.b", "l.2.a", "l.x", "l.02.a", "l", "l.2", "L.9"];
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, ["L.9", "l", "l.2", "l.02.a", "l.2.a", "l.2.b", "l.10.a", "l.x"]);
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(mut names in prop::collection::vec("[01 2a.-]{0,6}", 3)) {
            let cmp = |i: usize, j: usize| natural_cmp(&names[i], &names[j]);
            prop_assert_eq!(cmp(0, 1), cmp(1, 0).reverse());
            prop_assert_eq!(cmp(0, 1).is_eq(), names[0] == names[1]);
            names.sort_by(|a, b| natural_cmp(a, b));
            prop_assert!(natural_cmp(&names[0], &names[2]).is_le());
        }
    }
}
