//! `weightvane explain --plan`: what would be measured, how, and at which cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytesize::ByteSize;

use super::failure::Failure;
use super::table::{number, table};
use weightvane::checkpoint::{Manifest, TensorInfo};
use weightvane::diagnostics::{AnalyzeError, Method, Options, Plan, Planned};
use weightvane::model::LayerGraph;

/// Measurements of one kind and shape share a row.
type Group<'a> = (&'static str, &'a [usize], Method);

/// The plan as text, with what an adapter's base model adds to it; with the save before, also what of
/// it need not be measured again.
pub(super) fn text(
    manifest: &Manifest,
    graph: &LayerGraph,
    options: &Options,
    base: Option<&Manifest>,
    before: Option<&Manifest>,
) -> Result<String, Failure> {
    let plan = Plan::new(manifest, graph, options);
    let plan = plan.with_adapters(manifest, graph, base, options);
    let mut text = String::new();
    for (kind, title, shape) in [
        ("matrix", "MATRICES: singular values", "output × input"),
        ("pair", "PAIRS: Gram statistics and overlaps", "n → m → p"),
        ("heads", "HEADS: overlaps of all pairs", "heads × rows × columns"),
        ("classifier", "CLASSIFIER: distance from a simplex", "classes × d"),
        ("update", "UPDATES: singular values of s·B·A", "output × r × input"),
        ("base", "BASE MODEL: leading subspaces of what is changed", "output × input"),
    ] {
        text += &section(&plan, kind, title, shape);
    }
    let total = |flops: fn(&Planned) -> f64| plan.measurements.iter().map(flops).sum::<f64>();
    let _ = writeln!(
        text,
        "\nestimated    {} GFLOP with nothing known, {} GFLOP at the next save if every tensor changes",
        giga(total(|m| m.flops_cold)),
        giga(total(|m| m.flops_next))
    );
    let _ = writeln!(text, "to read      {}, once{}", size(plan.read_bytes), streamed(&plan));
    if plan.base_bytes > 0 {
        let bytes = size(plan.base_bytes);
        let _ = writeln!(
            text,
            "of the base  {bytes}, once as far as an eighth of memory_limit keeps what is found"
        );
    }
    let _ = writeln!(text, "kept         {} of weights at most", size(plan.kept_bytes));
    if let Some(before) = before {
        text += &against(&plan, manifest, before)?;
    }
    Ok(text)
}

fn section(plan: &Plan, kind: &str, title: &str, shape: &str) -> String {
    let mut groups: BTreeMap<Group<'_>, (usize, f64, f64)> = BTreeMap::new();
    let mut order: Vec<Group<'_>> = Vec::new();
    for m in plan.measurements.iter().filter(|m| m.kind == kind) {
        let key = (m.what, m.shape.as_slice(), m.method);
        let (n, cold, next) = groups.entry(key).or_insert_with(|| {
            order.push(key);
            (0, 0.0, 0.0)
        });
        (*n, *cold, *next) = (*n + 1, *cold + m.flops_cold, *next + m.flops_next);
    }
    if order.is_empty() {
        return String::new();
    }
    let between = if kind == "pair" { " → " } else { "×" };
    let row = |key| {
        let (n, cold, next) = groups[key];
        let (what, dims, method) = key;
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        let method = self::method(*method);
        vec![(*what).into(), method, dims.join(between), n.to_string(), giga(cold), giga(next)]
    };
    let header = ["what", "method", shape, "count", "GFLOP", "at the next save"];
    format!("\n{title}\n{}", table(&header, 2, order.iter(), row))
}

fn method(method: Method) -> String {
    match method {
        Method::Exact => "exact".into(),
        Method::Leading(k) => format!("leading k≤{k}"),
        Method::Formed => "Grams formed".into(),
        Method::Probed => "probed".into(),
        Method::TooLarge => "not measured: more than memory_limit".into(),
    }
}

/// What changed since the save before by the hashes of the tensors, and what is stale with it.
fn against(plan: &Plan, manifest: &Manifest, before: &Manifest) -> Result<String, Failure> {
    let floats: Vec<&TensorInfo> = manifest.tensors.iter().filter(|t| t.dtype.is_float()).collect();
    let mut changed = BTreeSet::new();
    for tensor in &floats {
        let same = before
            .find(&tensor.name)
            .filter(|then| (&then.shape, then.dtype) == (&tensor.shape, tensor.dtype));
        let hash = |m: &Manifest, t| m.hash(t, &mut |_| {}).map_err(AnalyzeError::from);
        let is_same = match same {
            Some(then) => hash(before, then)? == hash(manifest, tensor)?,
            None => false,
        };
        if !is_same {
            changed.insert(tensor.name.as_str());
        }
    }
    let unchanged = floats.len() - changed.len();
    let mut text = format!(
        "unchanged    {unchanged} of {} tensors since {}\n",
        floats.len(),
        before.path.display()
    );
    let stale = plan.stale(&changed);
    let mut by_kind: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for m in &stale {
        *by_kind.entry((m.kind, m.what)).or_default() += 1;
    }
    let _ =
        writeln!(text, "stale        {} of {} measurements", stale.len(), plan.measurements.len());
    for ((kind, what), n) in by_kind {
        let _ = writeln!(text, "             {n} × {kind} {what}");
    }
    Ok(text)
}

fn streamed(plan: &Plan) -> String {
    match plan.streamed {
        0 => String::new(),
        1 => "; 1 tensor is larger than what may be kept and is read for each pass".into(),
        n => format!("; {n} tensors are larger than what may be kept and are read for each pass"),
    }
}

fn giga(flops: f64) -> String {
    number(Some(flops / 1e9))
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}
