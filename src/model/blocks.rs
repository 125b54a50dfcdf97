//! A stack's matrices as found in a checkpoint: which tensor, which rows, how many heads, and whether
//! their shapes fit one another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::inputs::{Named, Tensors, config_number};
use super::layers::Layers;
use super::names::{Place, fill, match_pattern};
use super::split::{HeadRows, split_rows};
use super::storage::Folded;
use super::view::Window;
use super::{BiasView, HeadLayout, Left, MatrixRule, Role, Span, Spans, Split, Stack, View};
use crate::checkpoint::Text;

/// A whole matrix of one role, as found.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) name: Text,
    pub(super) role: Role,
    pub(super) view: Arc<View>,
    pub(super) bias: Option<Box<BiasView>>,
    /// The numbers in its name.
    pub(super) place: Place,
    /// Which expert of its layer.
    pub(super) expert: Option<usize>,
    /// Positions of a kernel's window, and how they stand among its columns.
    pub(super) positions: usize,
    pub(super) window: Window,
}

/// Depth, role, and which of several: the expert, or the place in a block.
pub(super) type Key = (Option<usize>, Role, Option<usize>);

pub(super) type Found = BTreeMap<Key, Whole>;

/// Most heads of a layer; the largest published models have 128.
const MAX_HEADS: usize = 4096;
/// Most rows of a head.
const MAX_HEAD_DIM: usize = 1 << 20;
/// Most experts of a layer; the largest published models have 512.
const MAX_EXPERTS: usize = 4096;
/// Most matrices of a model; the largest published one (Kimi K2) has seventy thousand. Packed experts
/// make thousands of one tensor, so that this and not the file's length bounds their memory.
pub(super) const MAX_MATRICES: usize = 80_000;

/// Heads from `config.json`, else from the stack's usual head dimension.
pub(super) fn head_layout(
    stack: &Stack,
    tensors: &Tensors<'_>,
    config: Option<&Value>,
) -> Option<HeadLayout> {
    let stated = config_number(config, &stack.heads.query);
    let layout = latent_heads(stack, tensors, stated);
    let layout = layout.or_else(|| shared_heads(stack, tensors, config, stated))?;
    let HeadLayout { query, key_value, head_dim } = layout;
    // config.json may state anything: beyond this no model exists, and products cannot overflow.
    if query > MAX_HEADS || key_value > MAX_HEADS || head_dim > MAX_HEAD_DIM {
        return None;
    }
    let is_sound = query > 0 && key_value > 0 && head_dim > 0 && query % key_value == 0;
    is_sound.then_some(layout)
}

/// Of latent attention, where queries have parts of their own size.
fn latent_heads(stack: &Stack, tensors: &Tensors<'_>, stated: Option<usize>) -> Option<HeadLayout> {
    let is_cut = |m: &&MatrixRule| m.parts.contains(&Role::Query) && !m.sizes.is_empty();
    let out = stack.matrices.iter().filter(is_cut).find_map(|m| sides(m, tensors))?.0;
    let query = stated.filter(|n| out.is_multiple_of(*n))?;
    Some(HeadLayout { query, key_value: query, head_dim: out / query })
}

fn shared_heads(
    stack: &Stack,
    tensors: &Tensors<'_>,
    config: Option<&Value>,
    stated: Option<usize>,
) -> Option<HeadLayout> {
    let rows = head_rows(stack, tensors)?;
    let stated_dim = config_number(config, &stack.heads.head_dim);
    let stated_key_value = config_number(config, &stack.heads.key_value);
    let of_width = stack.heads.default_heads.get(&rows.model).copied();
    let (query, head_dim) = match (stated, stack.heads.default_head_dim) {
        (Some(query), _) => match (rows.fused, stated_key_value, stated_dim) {
            (_, _, Some(head_dim)) => (query, head_dim),
            (Some(out), Some(key_value), None) => {
                (query, out / query.saturating_add(key_value.saturating_mul(2)))
            }
            _ => (query, rows.query / query),
        },
        (None, _) if of_width.is_some() => {
            let query = of_width.unwrap_or(1);
            (query, rows.query / query)
        }
        (None, Some(head_dim)) => (rows.query / head_dim, head_dim),
        (None, None) => return None,
    };
    let of_shape = rows.key / head_dim.max(1);
    let key_value = stated.and(stated_key_value).unwrap_or(of_shape);
    let layout = HeadLayout { query, key_value, head_dim };
    let fits = |n: usize, rows: usize| n.checked_mul(head_dim) == Some(rows);
    let rows_fit = fits(query, rows.query) && fits(key_value, rows.key);
    (rows_fit || stated.is_some()).then_some(layout)
}

/// The folded sides of the first tensor that a rule names.
fn sides(rule: &MatrixRule, tensors: &Tensors<'_>) -> Option<(usize, usize)> {
    let named = |t: &&Named<'_>| match_pattern(&rule.tensor, t.bare).is_some();
    let folded = tensors.all.iter().filter(named).find_map(|t| t.fold(rule.layout))?;
    Some((folded.out, folded.cols))
}

/// Rows of the first attention found.
pub(super) fn head_rows(stack: &Stack, tensors: &Tensors<'_>) -> Option<HeadRows> {
    let of = |parts: &[Role]| {
        let mut rules = stack.matrices.iter().filter(|m| m.parts == parts);
        rules.find_map(|m| sides(m, tensors))
    };
    if let Some((out, model)) = of(&[Role::Query, Role::Key, Role::Value]) {
        let query = of(&[Role::Output]).map_or(out / 3, |(_, cols)| cols);
        let key = out.saturating_sub(query) / 2;
        return Some(HeadRows { query, key, model, fused: Some(out) });
    }
    let (query, model) = of(&[Role::Query])?;
    let shared = || of(&[Role::Key, Role::Value]).map(|(out, cols)| (out / 2, cols));
    let (key, _) = of(&[Role::Key]).or_else(shared)?;
    Some(HeadRows { query, key, model, fused: None })
}

/// What a search for a stack's matrices knows.
pub(super) struct Search<'a> {
    pub(super) stack: &'a Stack,
    pub(super) tensors: &'a Tensors<'a>,
    pub(super) config: Option<&'a Value>,
    pub(super) layers: &'a Layers,
    pub(super) heads: Option<HeadLayout>,
    /// Most matrices that it may find.
    pub(super) most: usize,
}

impl Search<'_> {
    /// All matrices that the stack names.
    ///
    /// # Errors
    /// In words, which tensor contradicts the rule.
    pub(super) fn all(&self, skipped: &mut Vec<Left>) -> Result<Found, String> {
        let mut found = Vec::new();
        let attention = head_rows(self.stack, self.tensors);
        for tensor in &self.tensors.all {
            let matching = || {
                let rules = self.stack.matrices.iter();
                rules.filter_map(|m| Some((m, match_pattern(&m.tensor, tensor.bare)?)))
            };
            let fitting =
                matching().find_map(|(m, place)| Some((m, place, tensor.fold(m.layout)?)));
            let Some((rule, place, folded)) = fitting else {
                // Vectors and integers have reasons of their own.
                if let Some((rule, _)) = matching().next()
                    && tensor.is_float()
                    && tensor.info.shape.len() > 1
                {
                    let (shape, wanted) = (&tensor.info.shape, tensor.storage(rule.layout));
                    let reason =
                        format!("shape {shape:?}, expected {wanted:?} without an empty side");
                    skipped.push(Left { name: tensor.info.name.clone(), reason: reason.into() });
                }
                continue;
            };
            let one = One { search: self, tensor, rule, place, folded };
            if let Some(reason) = one.cannot_be_cut() {
                skipped.push(Left { name: tensor.info.name.clone(), reason: reason.into() });
                continue;
            }
            one.add(attention, &mut found).map_err(|why| {
                format!("tensor `{}` of shape {:?}: {why}", tensor.info.name, tensor.info.shape)
            })?;
            if found.len() > self.most {
                return Err(format!("more than {MAX_MATRICES} matrices"));
            }
        }
        // Of equal keys the first counts. Built of all at once, as a tree that grows stays half empty.
        found.sort_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        let mut found: Found = found.into_iter().collect();
        drop_grouped(&mut found, skipped);
        Ok(found)
    }

    /// Sizes of parts from the configuration; `None` where one is not there.
    fn sizes(&self, rule: &MatrixRule) -> Option<Vec<usize>> {
        let of = |key: &str| config_number(self.config, &[key.to_owned()]);
        let product = |keys: &String| {
            keys.split('*').try_fold(1usize, |n, key| n.checked_mul(of(key.trim())?))
        };
        rule.sizes.iter().map(product).collect()
    }
}

/// One tensor that a rule names.
struct One<'a> {
    search: &'a Search<'a>,
    tensor: &'a Named<'a>,
    rule: &'a MatrixRule,
    place: Place,
    folded: Folded,
}

impl One<'_> {
    /// Why a fused tensor stays whole though its shape is as the rule says: what the configuration
    /// would have to state.
    fn cannot_be_cut(&self) -> Option<String> {
        let by_heads = matches!(self.rule.split, Split::Interleaved | Split::Grouped);
        if by_heads && self.search.heads.is_none() {
            let keys = self.search.stack.heads.query.join("` or `");
            return Some(format!(
                "parts interleaved by heads, and the number of heads is unknown: expected `{keys}` in config.json"
            ));
        }
        let is_stated = self.rule.sizes.is_empty() || self.search.sizes(self.rule).is_some();
        (!is_stated).then(|| {
            let keys = self.rule.sizes.join("`, `");
            format!("rows of its parts unknown: expected `{keys}` in config.json")
        })
    }

    fn add(
        &self,
        attention: Option<HeadRows>,
        found: &mut Vec<(Key, Whole)>,
    ) -> Result<(), String> {
        let Folded { out, cols, experts, .. } = self.folded;
        if experts.is_some_and(|n| n > MAX_EXPERTS) {
            return Err(format!("more than {MAX_EXPERTS} experts"));
        }
        let sizes = self.search.sizes(self.rule);
        let parts = if self.is_ungated() {
            vec![(Role::Up, vec![(0..out).into()])]
        } else {
            split_rows(self.rule, out, self.search.heads, attention, sizes.as_deref())?
        };
        let layer = self.search.layers.depth(&self.place);
        let info = self.tensor.info;
        for (role, rows) in &parts {
            let fused = if parts.len() > 1 { format!("#{}", role.as_str()) } else { String::new() };
            for e in 0..experts.unwrap_or(1) {
                let packed = experts.map(|_| e);
                let expert = packed.or(Place::index(self.place.expert));
                let each = packed.map_or(String::new(), |e| format!("[{e}]"));
                let (mut rows_of, mut cols_of) = (Spans::from(rows.clone()), Spans::from(0..cols));
                // Experts stand below one another in the stored rows.
                match self.folded.layout {
                    super::Layout::OutIn => shift(&mut rows_of, e * out),
                    super::Layout::InOut => shift(&mut cols_of, e * cols),
                }
                let view = View {
                    tensor: info.name.clone(),
                    layout: self.folded.layout,
                    lead: self.folded.lead,
                    rows: rows_of,
                    cols: cols_of,
                };
                let whole = Whole {
                    name: if fused.is_empty() && each.is_empty() {
                        info.name.clone()
                    } else {
                        format!("{}{fused}{each}", info.name).into()
                    },
                    role: *role,
                    view: view.into(),
                    bias: self.bias(packed, *role, rows).map(Box::new),
                    place: self.place,
                    expert,
                    positions: self.folded.positions,
                    window: self.folded.window,
                };
                found.push(((layer, *role, expert.or(Place::index(self.place.nth))), whole));
            }
        }
        Ok(())
    }

    /// Whether what may hold a gate has as many rows as the last matrix reads, so that there is none.
    fn is_ungated(&self) -> bool {
        if self.rule.parts != [Role::Gate, Role::Up] {
            return false;
        }
        let down = self.search.stack.matrices.iter().filter(|m| m.parts == [Role::Down]);
        let read = down.flat_map(|m| m.tensor.split(" | ").map(move |name| (m, name)));
        let read = read.filter_map(|(m, name)| {
            self.search.tensors.named(&fill(name, &self.place))?.fold(m.layout)
        });
        read.into_iter().any(|folded| folded.cols == self.folded.out)
    }

    fn bias(&self, expert: Option<usize>, role: Role, rows: &[Span]) -> Option<BiasView> {
        let named = match &self.rule.bias {
            Some(pattern) => fill(pattern, &self.place),
            None => format!("{}bias", self.tensor.bare.strip_suffix("weight")?),
        };
        let n = self.folded.out.checked_mul(self.folded.experts.unwrap_or(1));
        let tensor = self.search.tensors.named(&named)?;
        if !tensor.is_float() || Some(tensor.info.n_elements()) != n {
            return None;
        }
        let mut rows = Spans::from(rows.to_vec());
        shift(&mut rows, expert.unwrap_or(0) * self.folded.out);
        let plus_one = self.rule.up_plus_one && role == Role::Up;
        Some(BiasView { tensor: tensor.info.name.clone(), rows, plus_one })
    }
}

fn shift(spans: &mut [Span], by: usize) {
    for span in spans {
        *span = span.shifted(by);
    }
}

/// Leaves out convolutions in groups, whose kernels are blocks of a matrix that is zero elsewhere.
fn drop_grouped(found: &mut Found, skipped: &mut Vec<Left>) {
    let channels = |whole: &Whole| whole.view.n_cols() / whole.positions.max(1);
    let keys: Vec<Key> = found.keys().filter(|key| key.1 == Role::Conv).copied().collect();
    let mut grouped = Vec::new();
    for two in keys.windows(2) {
        let (Some(writer), Some(reader)) = (found.get(&two[0]), found.get(&two[1])) else {
            continue;
        };
        let (written, read) = (writer.view.n_rows(), channels(reader));
        if two[0].0 == two[1].0 && written != read && written.is_multiple_of(read) {
            grouped.push((two[1], written / read));
        }
    }
    for (key, groups) in grouped {
        if let Some(whole) = found.remove(&key) {
            let reason = format!(
                "convolution in {groups} groups: its kernel is the blocks of a block-diagonal matrix, which has no subspaces in common with its neighbours"
            );
            skipped.push(Left { name: whole.view.tensor.clone(), reason: reason.into() });
        }
    }
}

/// The shapes of a block must fit one another; this is what tells layouts with equal names apart.
///
/// # Errors
/// In words, which matrix does not fit.
pub(super) fn check_shapes(found: &Found, heads: Option<HeadLayout>) -> Result<(), String> {
    let at = |layer, role, slot| found.get(&(layer, role, slot)).map(|w| &*w.view);
    for ((layer, role, slot), whole) in found {
        let (name, rows, cols) = (&whole.name, whole.view.n_rows(), whole.view.n_cols());
        let expect = |what: &str, found: usize, expected: Option<usize>| match expected {
            Some(e) if e != found => Err(format!("`{name}` has {found} {what}, expected {e}")),
            _ => Ok(()),
        };
        let here = |role| at(*layer, role, None);
        let latent = (here(Role::QueryLatent), here(Role::KeyValueLatent));
        let is_latent = latent.1.is_some();
        let model = model_dim(found, *layer);
        let head_rows = |n: fn(HeadLayout) -> usize| {
            heads.filter(|_| !is_latent).map(|heads| n(heads) * heads.head_dim)
        };
        match role {
            Role::Query => {
                expect("output rows", rows, head_rows(|h| h.query))?;
                expect("input columns", cols, latent.0.map(View::n_rows))?;
            }
            Role::Key | Role::Value => {
                expect("output rows", rows, head_rows(|h| h.key_value))?;
                expect("input columns", cols, latent.1.map(View::n_rows).or(model))?;
            }
            Role::Output => {
                let read = if is_latent { Role::Value } else { Role::Query };
                expect("input columns", cols, here(read).map(View::n_rows))?;
                expect("output rows", rows, model)?;
            }
            Role::CrossOutput => {
                expect("input columns", cols, here(Role::CrossQuery).map(View::n_rows))?;
                expect("output rows", rows, model)?;
            }
            Role::Up
            | Role::Gate
            | Role::Router
            | Role::CrossQuery
            | Role::KeyValueLatent
            | Role::MixerGate => expect("input columns", cols, model)?,
            Role::Down => {
                expect("input columns", cols, at(*layer, Role::Up, *slot).map(View::n_rows))?;
                expect("output rows", rows, model)?;
            }
            Role::MixerOut => expect("output rows", rows, model)?,
            Role::Embed if found.contains_key(&(None, Role::EmbedProjection, None)) => {}
            Role::Unembed if found.contains_key(&(None, Role::UnembedProjection, None)) => {}
            Role::Embed | Role::Unembed => {
                expect("columns", cols, model_dim(found, Some(0)))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Columns of what reads the stream first in a layer.
fn model_dim(found: &Found, layer: Option<usize>) -> Option<usize> {
    let roles = [Role::QueryLatent, Role::Query, Role::MixerIn];
    let mut found = roles.into_iter().filter_map(|role| found.get(&(layer, role, None)));
    found.next().map(|whole| whole.view.n_cols())
}
