//! Which output rows of a fused tensor are whose.

use super::spans::Span;
use super::{HeadLayout, MatrixRule, Role, Split};

/// A part of a tensor and its output rows.
pub(super) type PartRows = (Role, Vec<Span>);

/// Output rows of a block's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadRows {
    /// Of the queries.
    pub(super) query: usize,
    /// Of the keys.
    pub(super) key: usize,
    /// Input columns of the queries.
    pub(super) model: usize,
    /// Of all in one tensor, where they are.
    pub(super) fused: Option<usize>,
}

/// The rows of each part of a tensor with `out` output rows.
///
/// # Errors
/// In words, why they do not split so.
pub(super) fn split_rows(
    rule: &MatrixRule,
    out: usize,
    heads: Option<HeadLayout>,
    attention: Option<HeadRows>,
    sizes: Option<&[usize]>,
) -> Result<Vec<PartRows>, String> {
    let parts = &rule.parts;
    let n = parts.len();
    if n == 1 {
        return Ok(vec![(parts[0], vec![(0..out).into()])]);
    }
    if !rule.sizes.is_empty() {
        let named = rule.sizes.join("`, `");
        let sizes = sizes.ok_or_else(|| format!("expected `{named}` in config.json"))?;
        return stated(rule, out, heads, sizes);
    }
    match (rule.split, heads) {
        (Split::Alternating, _) if out.is_multiple_of(n) => {
            let rows = |i| vec![Span { start: i, len: out / n, step: n }];
            Ok(parts.iter().enumerate().map(|(i, p)| (*p, rows(i))).collect())
        }
        (Split::Interleaved | Split::Grouped, None) => {
            Err("interleaved by heads, and the number of heads is unknown".into())
        }
        (Split::Interleaved | Split::Grouped, Some(heads)) => by_heads(rule, out, heads),
        _ if *parts == [Role::Query, Role::Key, Role::Value] => {
            concatenated_qkv(out, heads, attention)
        }
        _ if out.is_multiple_of(n) => Ok(in_turn(parts, &vec![out / n; n])),
        _ => Err(format!("{out} output rows do not split into {n} equal parts")),
    }
}

/// Parts of these sizes, one behind the other.
fn in_turn(parts: &[Role], sizes: &[usize]) -> Vec<PartRows> {
    let mut from = 0;
    let next = |(part, size): (&Role, &usize)| {
        from += size;
        (*part, vec![(from - size..from).into()])
    };
    parts.iter().zip(sizes).map(next).collect()
}

/// Groups of these sizes, one behind the other, and in each part behind part.
fn in_groups(parts: &[Role], sizes: &[usize], n_groups: usize) -> Vec<PartRows> {
    let each: usize = sizes.iter().sum();
    let mut rows = in_turn(parts, sizes);
    for (_, spans) in &mut rows {
        *spans = (0..n_groups).map(|g| spans[0].shifted(g * each)).collect();
    }
    rows
}

/// Queries, keys and values as the heads have them, in groups.
fn by_heads(rule: &MatrixRule, out: usize, heads: HeadLayout) -> Result<Vec<PartRows>, String> {
    let HeadLayout { query, key_value, head_dim } = heads;
    if rule.split == Split::Interleaved && key_value != query {
        return Err(format!("interleaved, expected as many keys as queries, found {key_value}"));
    }
    let size = |part: &Role| if *part == Role::Query { query / key_value } else { 1 } * head_dim;
    let sizes: Vec<usize> = rule.parts.iter().map(size).collect();
    let wanted = key_value * sizes.iter().sum::<usize>();
    if wanted != out {
        return Err(format!(
            "{out} output rows, expected {wanted} of {query} query and {key_value} key heads of {head_dim}"
        ));
    }
    Ok(in_groups(&rule.parts, &sizes, key_value))
}

/// Parts whose rows the configuration states.
fn stated(
    rule: &MatrixRule,
    out: usize,
    heads: Option<HeadLayout>,
    sizes: &[usize],
) -> Result<Vec<PartRows>, String> {
    let each = sizes.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)).unwrap_or(usize::MAX);
    if rule.split == Split::Concatenated {
        return if each == out {
            Ok(in_turn(&rule.parts, sizes))
        } else {
            Err(format!("{out} output rows, expected {sizes:?}"))
        };
    }
    let n_heads = heads.map(|h| h.query);
    match n_heads {
        Some(n) if each.checked_mul(n) == Some(out) => Ok(in_groups(&rule.parts, sizes, n)),
        Some(n) => Err(format!("{out} output rows, expected {sizes:?} for each of {n} heads")),
        None => Err("interleaved by heads, and the number of heads is unknown".into()),
    }
}

fn concatenated_qkv(
    out: usize,
    heads: Option<HeadLayout>,
    attention: Option<HeadRows>,
) -> Result<Vec<PartRows>, String> {
    let parts = [Role::Query, Role::Key, Role::Value];
    if let Some(HeadLayout { query, key_value, head_dim }) = heads {
        if (query + 2 * key_value) * head_dim != out {
            return Err(format!(
                "{out} output rows, expected ({query} + 2·{key_value}) heads of {head_dim}"
            ));
        }
        let (q, kv) = (query * head_dim, key_value * head_dim);
        return Ok(in_turn(&parts, &[q, kv, kv]));
    }
    // Without heads, the queries are as many rows as the attention output reads.
    let query = attention.map_or(out / 3, |rows| rows.query);
    let rest = out.saturating_sub(query);
    if rest == 0 || !rest.is_multiple_of(2) {
        return Err(format!("{out} output rows, expected {query} queries, then keys and values"));
    }
    Ok(in_turn(&parts, &[query, rest / 2, rest / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Storage;

    fn rule(parts: &[Role], split: Split, sizes: usize) -> MatrixRule {
        MatrixRule {
            tensor: "w.{layer}".into(),
            parts: parts.to_vec(),
            layout: Storage::OutIn,
            split,
            sizes: vec!["n".into(); sizes],
            bias: None,
            up_plus_one: false,
        }
    }

    /// Which part each row belongs to, as letters.
    fn rows(found: &[PartRows], out: usize) -> String {
        let mut rows = vec!['.'; out];
        for (i, (_, spans)) in found.iter().enumerate() {
            for at in spans.iter().flat_map(Span::positions) {
                assert_eq!(rows[at], '.', "row {at} stands in two parts");
                rows[at] = char::from(b"abcde"[i]);
            }
        }
        rows.into_iter().collect()
    }

    const QKV: [Role; 3] = [Role::Query, Role::Key, Role::Value];

    #[test]
    fn parts_lie_as_frameworks_put_them() {
        let heads = |query, key_value| Some(HeadLayout { query, key_value, head_dim: 1 });
        let gate = [Role::Gate, Role::Up];
        for (parts, split, heads, out, wanted) in [
            (&QKV[..], Split::Concatenated, heads(4, 2), 8, "aaaabbcc"),
            (&QKV, Split::Concatenated, None, 6, "aabbcc"),
            (&QKV, Split::Interleaved, heads(2, 2), 6, "abcabc"),
            (&QKV, Split::Grouped, heads(4, 2), 8, "aabcaabc"),
            (&QKV, Split::Grouped, heads(3, 1), 5, "aaabc"),
            (&QKV[1..], Split::Interleaved, heads(2, 2), 4, "abab"),
            (&gate, Split::Concatenated, None, 6, "aaabbb"),
            (&gate, Split::Alternating, None, 6, "ababab"),
        ] {
            let found = split_rows(&rule(parts, split, 0), out, heads, None, None).unwrap();
            assert_eq!(rows(&found, out), wanted, "{split:?}");
        }
    }

    #[test]
    fn stated_sizes_are_those_of_the_whole_or_of_each_head() {
        let heads = Some(HeadLayout { query: 2, key_value: 2, head_dim: 2 });
        let parts = [Role::Key, Role::Value];
        let whole = rule(&parts, Split::Concatenated, 2);
        let each = rule(&parts, Split::Interleaved, 2);
        let split = |rule, out, heads, sizes| split_rows(rule, out, heads, None, sizes);
        assert_eq!(rows(&split(&whole, 5, None, Some(&[3, 2])).unwrap(), 5), "aaabb");
        assert_eq!(rows(&split(&each, 6, heads, Some(&[2, 1])).unwrap(), 6), "aabaab");
        for (rule, out, heads, sizes) in [
            (&whole, 5, None, None),
            (&whole, 5, None, Some(&[3, 3][..])),
            (&whole, 5, None, Some(&[usize::MAX, 6])),
            (&each, 6, None, Some(&[2, 1])),
            (&each, 7, heads, Some(&[2, 1])),
            (&each, 6, heads, Some(&[usize::MAX, 2])),
        ] {
            assert!(split(rule, out, heads, sizes).is_err(), "{sizes:?}");
        }
    }

    #[test]
    fn rows_that_do_not_split_are_said_to() {
        let heads = |query, key_value| Some(HeadLayout { query, key_value, head_dim: 1 });
        for (parts, split, heads, out) in [
            (&QKV[..], Split::Interleaved, None, 6),
            (&QKV, Split::Interleaved, heads(4, 2), 8),
            (&QKV, Split::Grouped, heads(4, 2), 9),
            (&QKV, Split::Concatenated, heads(4, 2), 9),
            (&QKV[1..], Split::Concatenated, None, 5),
            (&QKV[1..], Split::Alternating, None, 5),
        ] {
            let found = split_rows(&rule(parts, split, 0), out, heads, None, None);
            assert!(found.is_err(), "{split:?} {out}");
        }
    }
}
