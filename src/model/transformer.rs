//! A rule applied to a checkpoint's tensors: blocks, heads, pairs.

use std::ops::Range;

use serde_json::Value;

use super::blocks::{Found, Whole, check_attention, find_matrices, head_layout};
use super::inputs::{Named, config_value};
use super::names::fill;
use super::{
    Between, BiasView, Gain, HeadLayout, HeadSet, Law, LayerGraph, Left, Matrix, Operand, Pair,
    PairName, PairRule, Role, Rule, View,
};

/// Most pairs of a model; the largest published ones have about twenty thousand.
const MAX_PAIRS: usize = 200_000;

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
            if pairs.len() > MAX_PAIRS {
                break;
            }
            builder.pairs_of(pair_rule, layer, &mut pairs, &mut skipped);
        }
    }
    if pairs.len() > MAX_PAIRS {
        let reason = format!("more than {MAX_PAIRS} pairs: those of deeper layers are left out");
        skipped.push(Left { name: "(pairs)".into(), reason });
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
            _ => match self.single(rule, layer) {
                Ok(pair) => pairs.extend(pair),
                Err(reason) => {
                    let name = format!("{} layer {layer}", rule.pair.as_str());
                    skipped.push(Left { name, reason });
                }
            },
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

    /// The gain to fold into a reader of `dim` columns; none where the norm has none.
    ///
    /// # Errors
    /// In words, when its shape is not that of the columns.
    fn gain(&self, rule: &PairRule, layer: usize, dim: usize) -> Result<Option<Gain>, String> {
        let mut names = rule.gain.iter().map(|p| fill(p, layer));
        let found = names.find_map(|name| self.tensors.iter().find(|t| t.bare == name));
        let Some(tensor) = found else { return Ok(None) };
        if !tensor.is_float() || tensor.info.shape != [dim] {
            return Err(format!(
                "no pair: gain `{}` has shape {:?} of type {:?}, expected {dim} floats",
                tensor.info.name, tensor.info.shape, tensor.info.dtype
            ));
        }
        let one_plus = self.rule.gain_one_plus;
        Ok(Some(Gain { tensor: tensor.info.name.clone(), one_plus }))
    }

    /// Whether positions rotate a part of each head only; then the law's pairs of coordinates are
    /// not those of the whole head, and its gap is not measured.
    fn rotates_partly(&self) -> bool {
        let keys = ["partial_rotary_factor", "rotary_pct"].map(str::to_owned);
        let nested = self.config.and_then(|c| c.get("rope_parameters"));
        let stated = config_value(self.config, &keys).or_else(|| config_value(nested, &keys));
        stated.and_then(Value::as_f64).is_some_and(|part| part < 1.0)
    }

    /// Pairs of one writer and one reader a layer.
    fn single(&self, rule: &PairRule, layer: usize) -> Result<Option<Pair>, String> {
        let Some((writer, reader, reader_layer)) = self.operands(rule, layer) else {
            return Ok(None);
        };
        let between = self.between(rule, reader_layer);
        // Biases belong to the shared space of the writer only; a reader's bias lies beyond it.
        let gain = self.gain(rule, reader_layer, reader.shape().1)?;
        let reader = reader.with_bias(None).with_gain(gain);
        Ok(Some(pair(rule.pair, layer, writer, reader, between)))
    }

    /// Writer, reader and the reader's layer.
    fn operands(&self, rule: &PairRule, layer: usize) -> Option<(Operand, Operand, usize)> {
        let here = |role| self.whole(Some(layer), role);
        let plain =
            |w: &Whole| Operand::new(w.name.clone(), w.view.clone()).with_bias(w.bias.clone());
        let last = layer + 1 == self.depth;
        Some(match rule.pair {
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
        })
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
            pair.law_gap = !(between == Between::Rotary && self.rotates_partly());
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
            law_gap: true,
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
        law_gap: true,
        norm_between: between == Between::Norm,
        classes: None,
    }
}
