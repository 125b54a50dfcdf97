//! A rule applied to a checkpoint's tensors: blocks, heads, pairs.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::names::{fill, match_pattern};
use super::recognize::{Named, config_number, config_value};
use super::{
    Between, BiasView, Gain, HeadLayout, HeadSet, Law, LayerGraph, Left, Matrix, MatrixRule,
    Operand, Pair, PairName, PairRule, Part, Role, Rule, Split, View,
};

/// A whole matrix of one role, as found.
#[derive(Debug, Clone)]
struct Whole {
    name: String,
    view: View,
    bias: Option<BiasView>,
}

/// A part of a tensor and its output rows.
type PartRows = (Part, Vec<Range<usize>>);

type Found = BTreeMap<(Option<usize>, Role), Whole>;

/// Builds the graph.
///
/// # Errors
/// In words, which shape contradicts the rule.
pub(super) fn build(
    rule: &Rule,
    tensors: &[Named<'_>],
    config: Option<&Value>,
) -> Result<LayerGraph, String> {
    let mut skipped = Vec::new();
    let layout = head_layout(rule, tensors, config);
    let found = find_matrices(rule, tensors, layout, &mut skipped)?;
    check_attention(&found, layout)?;
    if layout.is_none() && found.keys().any(|(_, role)| *role == Role::Output) {
        skipped.push(Left {
            name: "(heads)".into(),
            reason: format!(
                "number of heads unknown: expected `{}` in config.json; no v_o and q_k pairs, no head overlap",
                rule.heads.query.join("` or `")
            ),
        });
    }
    let mut matrices: Vec<Matrix> = found
        .iter()
        .map(|((layer, role), whole)| Matrix {
            name: whole.name.clone(),
            layer: *layer,
            role: *role,
            view: whole.view.clone(),
        })
        .collect();
    // Depth order: the embedding before the stack, what reads the stack's end behind it.
    matrices.sort_by_key(|m| match (m.layer, m.role) {
        (Some(layer), role) => (1, layer, role),
        (None, Role::Embed) => (0, 0, Role::Embed),
        (None, role) => (2, 0, role),
    });
    let depth = found.keys().filter_map(|(layer, _)| layer.map(|l| l + 1)).max().unwrap_or(0);
    let builder = Builder { rule, tensors, config, found: &found, layout, depth };
    let mut pairs = Vec::new();
    for layer in 0..depth {
        for pair_rule in &rule.pairs {
            builder.pairs_of(pair_rule, layer, &mut pairs, &mut skipped);
        }
    }
    Ok(LayerGraph {
        architecture: rule.name.clone(),
        because: String::new(),
        matrices,
        pairs,
        heads: builder.head_sets(),
        head_layout: layout,
        skipped,
    })
}

/// Heads from `config.json`, else from the rule's usual head dimension.
fn head_layout(rule: &Rule, tensors: &[Named<'_>], config: Option<&Value>) -> Option<HeadLayout> {
    let query_rows = first_attention_rows(rule, tensors)?;
    let stated = config_number(config, &rule.heads.query);
    let stated_dim = config_number(config, &rule.heads.head_dim);
    let (query, key_value, head_dim) = match (query_rows, stated) {
        (Rows::Fused { out, .. }, Some(query)) => {
            let key_value = config_number(config, &rule.heads.key_value).unwrap_or(query);
            (query, key_value, stated_dim.unwrap_or(out / (query + 2 * key_value)))
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

fn find_matrices(
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
            tensors.iter().find(|t| t.bare == name && t.info.shape == [out])
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
fn check_attention(found: &Found, layout: Option<HeadLayout>) -> Result<(), String> {
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

struct Builder<'a> {
    rule: &'a Rule,
    tensors: &'a [Named<'a>],
    config: Option<&'a Value>,
    found: &'a Found,
    layout: Option<HeadLayout>,
    depth: usize,
}

impl Builder<'_> {
    fn whole(&self, layer: Option<usize>, role: Role) -> Option<&Whole> {
        self.found.get(&(layer, role))
    }

    fn pairs_of(
        &self,
        rule: &PairRule,
        layer: usize,
        pairs: &mut Vec<Pair>,
        skipped: &mut Vec<Left>,
    ) {
        let unless = rule.unless.iter().cloned().collect::<Vec<_>>();
        if config_value(self.config, &unless).and_then(Value::as_bool) == Some(true) {
            if layer == 0 {
                skipped.push(Left {
                    name: format!("({})", rule.pair.as_str()),
                    reason: format!("not adjacent: `{}` is true in config.json", unless.join("")),
                });
            }
            return;
        }
        match rule.pair {
            PairName::ValueOutput => self.value_output(rule, layer, pairs),
            PairName::QueryKey => self.query_key(rule, layer, pairs),
            _ => pairs.extend(self.single(rule, layer)),
        }
    }

    /// What stands between, with the activation and the q/k norms looked up.
    fn between(&self, rule: &PairRule, layer: usize) -> Between {
        let normed = rule.norm_if.as_deref().map(|p| fill(p, layer));
        if normed.is_some_and(|name| self.tensors.iter().any(|t| t.bare == name)) {
            return Between::Norm;
        }
        if rule.between != Between::Activation {
            return rule.between;
        }
        let stated = config_value(self.config, &self.rule.activation).and_then(Value::as_str);
        let named = stated.or(self.rule.default_activation.as_deref());
        named.map_or(Between::Nonlinear, Between::of_activation)
    }

    fn gain(&self, rule: &PairRule, layer: usize) -> Option<Gain> {
        let one_plus = self.rule.gain_one_plus;
        rule.gain.iter().map(|p| fill(p, layer)).find_map(|name| {
            let tensor = self.tensors.iter().find(|t| t.bare == name && t.is_float())?;
            Some(Gain { tensor: tensor.info.name.clone(), one_plus })
        })
    }

    /// Pairs of one writer and one reader a layer.
    fn single(&self, rule: &PairRule, layer: usize) -> Option<Pair> {
        let here = |role| self.whole(Some(layer), role);
        let plain =
            |w: &Whole| Operand::new(w.name.clone(), w.view.clone()).with_bias(w.bias.clone());
        let last = layer + 1 == self.depth;
        let (writer, reader, reader_layer) = match rule.pair {
            PairName::UpDown => (plain(here(Role::Up)?), plain(here(Role::Down)?), layer),
            PairName::GateDown => (plain(here(Role::Gate)?), plain(here(Role::Down)?), layer),
            PairName::OUp => (plain(here(Role::Output)?), plain(here(Role::Up)?), layer),
            PairName::DownQkv if !last => {
                (plain(here(Role::Down)?), self.qkv(layer + 1)?, layer + 1)
            }
            PairName::EmbedQkv if layer == 0 => {
                (plain(self.whole(None, Role::Embed)?).transposed(), self.qkv(0)?, 0)
            }
            PairName::DownUnembed if last => {
                let unembed =
                    self.whole(None, Role::Unembed).or_else(|| self.whole(None, Role::Embed))?;
                (plain(here(Role::Down)?), plain(unembed), layer)
            }
            _ => return None,
        };
        let between = self.between(rule, reader_layer);
        // Biases belong to the shared space of the writer only; a reader's bias lies beyond it.
        let reader = reader.with_bias(None).with_gain(self.gain(rule, reader_layer));
        Some(pair(rule.pair, layer, writer, reader, between))
    }

    /// All rows that read the stream at a block's attention.
    fn qkv(&self, layer: usize) -> Option<Operand> {
        let of = |role| self.whole(Some(layer), role);
        let (q, k, v) = (of(Role::Query)?, of(Role::Key)?, of(Role::Value)?);
        let mut parts = vec![q.view.clone(), k.view.clone(), v.view.clone()];
        let fused = parts.iter().all(|p| p.tensor == parts[0].tensor);
        let label = if fused {
            parts[0].tensor.clone()
        } else {
            parts.iter().map(|p| p.tensor.as_str()).collect::<Vec<_>>().join(" + ")
        };
        let mut operand = Operand::new(label, parts.remove(0));
        operand.parts.append(&mut parts);
        Some(operand)
    }

    fn value_output(&self, rule: &PairRule, layer: usize, pairs: &mut Vec<Pair>) {
        let of = |role| self.whole(Some(layer), role);
        let (Some(v), Some(o), Some(heads)) = (of(Role::Value), of(Role::Output), self.layout)
        else {
            return;
        };
        // f is invariant under W_V → gW_V, b_V → g b_V, W_O → W_O g⁻¹, so the conserved Gram of the
        // writer holds the value bias as one more column.
        let value = |g: usize| {
            let rows = head_rows(g, heads.head_dim);
            Operand::new(format!("{}[{g}]", v.name), v.view.with_rows(rows.clone()))
                .with_bias(bias_rows(v, rows))
        };
        let output = |h: usize| o.view.with_cols(head_rows(h, heads.head_dim));
        let group_law = self.between(rule, layer).law();
        self.per_head(rule.pair, layer, (&o.name, group_law), (&value, &output), false, pairs);
    }

    fn query_key(&self, rule: &PairRule, layer: usize, pairs: &mut Vec<Pair>) {
        let of = |role| self.whole(Some(layer), role);
        let (Some(q), Some(k), Some(heads)) = (of(Role::Query), of(Role::Key), self.layout) else {
            return;
        };
        let key = |g: usize| {
            let rows = head_rows(g, heads.head_dim);
            Operand::new(format!("{}[{g}]", k.name), k.view.with_rows(rows.clone()))
                .with_bias(bias_rows(k, rows))
        };
        let query = |h: usize| q.view.with_rows(head_rows(h, heads.head_dim));
        let before = pairs.len();
        let between = self.between(rule, layer);
        self.per_head(rule.pair, layer, (&q.name, between.law()), (&key, &query), true, pairs);
        for pair in &mut pairs[before..] {
            pair.norm_between = between == Between::Norm;
            let per_group = heads.query / heads.key_value;
            let members = match (pair.head, pair.group) {
                (Some(h), _) => h..h + 1,
                (None, Some(g)) => g * per_group..(g + 1) * per_group,
                (None, None) => 0..0,
            };
            let bias = |h| bias_rows(q, head_rows(h, heads.head_dim));
            pair.reader.bias = members.filter_map(bias).collect();
        }
    }

    /// One pair a query head and, where heads share keys and values, one a group.
    fn per_head(
        &self,
        name: PairName,
        layer: usize,
        (reader_name, law): (&str, Law),
        (writer, reader): (&dyn Fn(usize) -> Operand, &dyn Fn(usize) -> View),
        transposed: bool,
        pairs: &mut Vec<Pair>,
    ) {
        let Some(heads) = self.layout else { return };
        let per_group = heads.query / heads.key_value;
        let base = |writer: Operand, reader: Operand| Pair {
            name,
            layer: Some(layer),
            head: None,
            group: None,
            dim: writer.shape().0,
            writer,
            reader,
            law,
            norm_between: false,
            classes: None,
        };
        for h in 0..heads.query {
            let mut reads = Operand::new(format!("{reader_name}[{h}]"), reader(h));
            reads.transposed = transposed;
            let mut pair = base(writer(h / per_group), reads);
            pair.head = Some(h);
            if per_group > 1 {
                pair.law = Law::None;
            }
            pairs.push(pair);
        }
        if per_group == 1 {
            return;
        }
        for g in 0..heads.key_value {
            let members = g * per_group..(g + 1) * per_group;
            let label = format!("{reader_name}[{}..{}]", members.start, members.end);
            let mut reads = Operand::new(label, reader(members.start));
            reads.parts = members.map(reader).collect();
            reads.transposed = transposed;
            let mut pair = base(writer(g), reads);
            pair.group = Some(g);
            pairs.push(pair);
        }
    }

    fn head_sets(&self) -> Vec<HeadSet> {
        let Some(heads) = self.layout else { return Vec::new() };
        let mut sets = Vec::new();
        for layer in 0..self.depth {
            for projection in [Role::Query, Role::Key, Role::Value, Role::Output] {
                let Some(whole) = self.whole(Some(layer), projection) else { continue };
                let n = match projection {
                    Role::Key | Role::Value => heads.key_value,
                    _ => heads.query,
                };
                let block = |h: usize| match projection {
                    Role::Output => whole.view.with_cols(head_rows(h, heads.head_dim)),
                    _ => whole.view.with_rows(head_rows(h, heads.head_dim)),
                };
                sets.push(HeadSet { layer, projection, heads: (0..n).map(block).collect() });
            }
        }
        sets
    }
}

fn bias_rows(whole: &Whole, rows: Range<usize>) -> Option<BiasView> {
    whole
        .bias
        .as_ref()
        .map(|b| BiasView { tensor: b.tensor.clone(), rows: super::sub_ranges(&b.rows, rows) })
}

fn head_rows(head: usize, head_dim: usize) -> Range<usize> {
    head * head_dim..(head + 1) * head_dim
}

fn pair(name: PairName, layer: usize, writer: Operand, reader: Operand, between: Between) -> Pair {
    Pair {
        name,
        layer: Some(if name == PairName::EmbedQkv { 0 } else { layer }),
        head: None,
        group: None,
        dim: writer.shape().0,
        writer,
        reader,
        law: between.law(),
        norm_between: between == Between::Norm,
        classes: None,
    }
}
