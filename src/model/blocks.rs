//! A rule's matrices as found in a checkpoint: which tensor, which rows, how many heads, and whether
//! their shapes fit one another.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::inputs::{Named, config_number};
use super::names::{fill, match_pattern};
use super::{BiasView, HeadLayout, Left, MatrixRule, Part, Role, Rule, Split, View};

/// A whole matrix of one role, as found.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) view: View,
    pub(super) bias: Option<BiasView>,
}

/// A part of a tensor and its output rows.
type PartRows = (Part, Vec<Range<usize>>);

pub(super) type Found = BTreeMap<(Option<usize>, Role), Whole>;

/// Most heads of a layer; the largest published models have 128.
const MAX_HEADS: usize = 4096;
/// Most rows of a head.
const MAX_HEAD_DIM: usize = 1 << 20;

/// Heads from `config.json`, else from the rule's usual head dimension.
pub(super) fn head_layout(
    rule: &Rule,
    tensors: &[Named<'_>],
    config: Option<&Value>,
) -> Option<HeadLayout> {
    let query_rows = first_attention_rows(rule, tensors)?;
    let stated = config_number(config, &rule.heads.query);
    let stated_dim = config_number(config, &rule.heads.head_dim);
    let (query, key_value, head_dim) = match (query_rows, stated) {
        (Rows::Fused { out, .. }, Some(query)) => {
            let key_value = config_number(config, &rule.heads.key_value).unwrap_or(query);
            let heads = query.saturating_add(key_value.saturating_mul(2));
            (query, key_value, stated_dim.unwrap_or(out / heads))
        }
        (Rows::Fused { out, query }, None) => {
            let head_dim = rule.heads.default_head_dim?;
            (query / head_dim, out.saturating_sub(query) / 2 / head_dim, head_dim)
        }
        (Rows::Separate { query: q, key: k }, Some(query)) => {
            let head_dim = stated_dim.unwrap_or(q / query);
            let key_value = config_number(config, &rule.heads.key_value);
            (query, key_value.unwrap_or_else(|| k / head_dim.max(1)), head_dim)
        }
        (Rows::Separate { query: q, key: k }, None) => {
            let head_dim = rule.heads.default_head_dim?;
            (q / head_dim, k / head_dim, head_dim)
        }
    };
    // config.json may state anything: beyond this no model exists, and products cannot overflow.
    if query > MAX_HEADS || key_value > MAX_HEADS || head_dim > MAX_HEAD_DIM {
        return None;
    }
    let rows_fit = match query_rows {
        Rows::Fused { out, .. } => (query + 2 * key_value) * head_dim == out,
        Rows::Separate { query: q, key: k } => query * head_dim == q && key_value * head_dim == k,
    };
    let sound = query > 0 && key_value > 0 && head_dim > 0 && query % key_value == 0;
    (sound && (rows_fit || stated.is_some())).then_some(HeadLayout { query, key_value, head_dim })
}

/// Output rows of a block's attention.
#[derive(Clone, Copy)]
enum Rows {
    /// All in one tensor; the queries are as many as the attention output reads.
    Fused {
        out: usize,
        query: usize,
    },
    Separate {
        query: usize,
        key: usize,
    },
}

fn first_attention_rows(rule: &Rule, tensors: &[Named<'_>]) -> Option<Rows> {
    let sides = |parts: &[Part]| {
        rule.matrices.iter().filter(|m| m.parts == parts).find_map(|m| {
            let tensor = tensors.iter().find(|t| match_pattern(&m.tensor, t.bare).is_some())?;
            tensor.sides(m.layout)
        })
    };
    let fused = sides(&[Part::Q, Part::K, Part::V]);
    match (fused, sides(&[Part::O]), sides(&[Part::Q]), sides(&[Part::K])) {
        (Some((out, _)), Some((_, query)), ..) => Some(Rows::Fused { out, query }),
        (Some((out, _)), None, ..) => Some(Rows::Fused { out, query: out / 3 }),
        (None, _, Some((query, _)), Some((key, _))) => Some(Rows::Separate { query, key }),
        _ => None,
    }
}

pub(super) fn find_matrices(
    rule: &Rule,
    tensors: &[Named<'_>],
    layout: Option<HeadLayout>,
    skipped: &mut Vec<Left>,
) -> Result<Found, String> {
    let mut found = Found::new();
    let rows = first_attention_rows(rule, tensors);
    for tensor in tensors {
        let matching = rule
            .matrices
            .iter()
            .find_map(|m| match_pattern(&m.tensor, tensor.bare).map(|place| (m, place.layer)));
        let Some((matrix, layer)) = matching else { continue };
        let Some((out, cols)) = tensor.sides(matrix.layout) else {
            skipped.push(Left {
                name: tensor.info.name.clone(),
                reason: format!(
                    "shape {:?} of type {:?}, expected a floating-point matrix",
                    tensor.info.shape, tensor.info.dtype
                ),
            });
            continue;
        };
        let bias = matrix.bias.as_deref().and_then(|p| {
            let name = layer.map_or_else(|| p.to_owned(), |l| fill(p, l));
            tensors.iter().find(|t| t.bare == name && t.is_float() && t.info.shape == [out])
        });
        for (part, rows) in split_rows(matrix, out, layout, rows).map_err(|why| {
            format!("tensor `{}` of shape {:?}: {why}", tensor.info.name, tensor.info.shape)
        })? {
            let fused = matrix.parts.len() > 1;
            let role = part.role();
            let name = if fused {
                format!("{}#{}", tensor.info.name, role.as_str())
            } else {
                tensor.info.name.clone()
            };
            let bias = bias.map(|b| BiasView { tensor: b.info.name.clone(), rows: rows.clone() });
            let view = View {
                tensor: tensor.info.name.clone(),
                layout: matrix.layout,
                rows,
                cols: std::iter::once(0..cols).collect(),
            };
            found.entry((layer, role)).or_insert(Whole { name, view, bias });
        }
    }
    Ok(found)
}

/// The rows of each part of a tensor with `out` output rows.
fn split_rows(
    matrix: &MatrixRule,
    out: usize,
    layout: Option<HeadLayout>,
    attention_rows: Option<Rows>,
) -> Result<Vec<PartRows>, String> {
    let n = matrix.parts.len();
    if n == 1 {
        return Ok(vec![(matrix.parts[0], std::iter::once(0..out).collect())]);
    }
    let attention = matrix.parts == [Part::Q, Part::K, Part::V];
    if let (true, Some(heads)) = (attention, layout) {
        let HeadLayout { query, key_value, head_dim } = heads;
        if (query + 2 * key_value) * head_dim != out {
            return Err(format!(
                "{out} output rows, expected ({query} + 2·{key_value}) heads of {head_dim}"
            ));
        }
        if matrix.split == Split::Interleaved && key_value != query {
            return Err(format!(
                "interleaved, expected as many keys as queries, found {key_value}"
            ));
        }
        if matrix.split == Split::Interleaved {
            let rows_of = |part: usize| {
                let start = move |h: usize| (h * 3 + part) * head_dim;
                (0..query).map(|h| start(h)..start(h) + head_dim).collect()
            };
            return Ok(matrix.parts.iter().enumerate().map(|(i, p)| (*p, rows_of(i))).collect());
        }
        return Ok(concatenated_qkv(query * head_dim, key_value * head_dim));
    }
    if matrix.split == Split::Interleaved {
        return Err("interleaved by heads, and the number of heads is unknown".into());
    }
    if let (true, Some(Rows::Fused { query, .. })) = (attention, attention_rows) {
        let rest = out.saturating_sub(query);
        if rest == 0 || rest % 2 != 0 {
            return Err(format!(
                "{out} output rows, expected {query} queries, then keys and values"
            ));
        }
        return Ok(concatenated_qkv(query, rest / 2));
    }
    if !out.is_multiple_of(n) {
        return Err(format!("{out} output rows do not split into {n} equal parts"));
    }
    let size = out / n;
    let rows_of = |i: usize| std::iter::once(i * size..(i + 1) * size).collect();
    Ok(matrix.parts.iter().enumerate().map(|(i, p)| (*p, rows_of(i))).collect())
}

fn concatenated_qkv(q: usize, kv: usize) -> Vec<PartRows> {
    let rows = [(Part::Q, 0..q), (Part::K, q..q + kv), (Part::V, q + kv..q + 2 * kv)];
    rows.into_iter().map(|(part, range)| (part, vec![range])).collect()
}

/// The shapes of a block must fit one another; this is what tells layouts with equal names apart.
pub(super) fn check_attention(found: &Found, layout: Option<HeadLayout>) -> Result<(), String> {
    let at = |layer: Option<usize>, role| found.get(&(layer, role)).map(|w| &w.view);
    for ((layer, role), whole) in found {
        let (name, rows, cols) = (&whole.name, whole.view.n_rows(), whole.view.n_cols());
        let expect = |what: &str, found: usize, expected: Option<usize>| match expected {
            Some(e) if e != found => Err(format!("`{name}` has {found} {what}, expected {e}")),
            _ => Ok(()),
        };
        let model_dim = at(*layer, Role::Query).map(View::n_cols);
        match role {
            Role::Query => expect("output rows", rows, layout.map(|l| l.query * l.head_dim))?,
            Role::Key | Role::Value => {
                expect("output rows", rows, layout.map(|l| l.key_value * l.head_dim))?;
                expect("input columns", cols, model_dim)?;
            }
            Role::Output => {
                expect("input columns", cols, at(*layer, Role::Query).map(View::n_rows))?;
                expect("output rows", rows, model_dim)?;
            }
            Role::Up | Role::Gate => expect("input columns", cols, model_dim)?,
            Role::Down => {
                expect("input columns", cols, at(*layer, Role::Up).map(View::n_rows))?;
                expect("output rows", rows, model_dim)?;
            }
            Role::Embed | Role::Unembed => {
                expect("columns", cols, at(Some(0), Role::Query).map(View::n_cols))?;
            }
            Role::Linear | Role::Classifier => {}
        }
    }
    Ok(())
}
