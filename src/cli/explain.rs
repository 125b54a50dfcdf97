//! `weightvane explain`: how a checkpoint is read.

use std::fmt::Write as _;

use super::failure::Failure;
use super::table::{integer, number, skipped, table};
use super::{ExplainArgs, bases, options, plan, print, rules, settings};
use weightvane::checkpoint::{self, Manifest, printable};
use weightvane::diagnostics::{self, Skipped};
use weightvane::model::{
    self, Adapter, AdapterSettings, BaseNames, HeadSet, LayerGraph, Matrix, Pair,
};

pub(super) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let settings = settings(args.config.as_ref())?;
    let rules = rules(&settings)?;
    let manifest = checkpoint::open(&args.checkpoint)?;
    if args.rule_template {
        return print(&model::template(&manifest.tensors, manifest.config.as_ref()));
    }
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    let bases = bases(args.base.as_ref(), &settings);
    let base = diagnostics::find_base(&manifest, &graph, &bases, manifest.path.parent());
    let before = args.against.as_deref().map(checkpoint::open).transpose()?;
    let rest = if args.plan {
        let options = options(&settings);
        let base = base.as_ref().ok().and_then(Option::as_ref);
        plan::text(&manifest, &graph, &options, base, before.as_ref())?
    } else {
        details(&graph, &adapters(&manifest, &graph, base.as_ref().ok().and_then(Option::as_ref)))
    };
    print(&(summary(&manifest, &graph) + &base_of(base) + &rest))
}

fn summary(manifest: &Manifest, graph: &LayerGraph) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what:<13}{}", printable(&value));
    };
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let files = count(manifest.files.len(), "file");
    let tensors = count(manifest.tensors.len(), "tensor");
    line("checkpoint", manifest.path.display().to_string());
    line("format", format!("{}, {files}, {tensors}", manifest.format));
    line("step", manifest.step.map_or_else(|| "unknown".into(), |s| s.to_string()));
    line("architecture", format!("{} ({})", graph.architecture, graph.because));
    if graph.architecture == "chain" && !graph.matrices.is_empty() {
        line(
            "needed",
            "more than a plain chain needs a rule: which tensor has which role ({layer} for the depth), how it is stored, where config.json states the heads, and what stands between; `weightvane explain --rule-template` prints one to start from".into(),
        );
    }
    if let Some(heads) = graph.head_layout {
        let shared = if heads.key_value == heads.query {
            String::new()
        } else {
            format!(" sharing {} key/value heads", heads.key_value)
        };
        line("heads", format!("{} of {} rows{shared}", heads.query, heads.head_dim));
    }
    if let Some(trainer) = &manifest.trainer {
        let number = |v: Option<f64>| v.map_or_else(|| "unknown".into(), |v| v.to_string());
        line(
            "trainer",
            format!(
                "optimizer {}, learning rate {}, weight decay {}, loss {}",
                trainer.optimizer.as_deref().unwrap_or("unknown"),
                number(trainer.learning_rate),
                number(trainer.weight_decay),
                number(trainer.loss)
            ),
        );
    }
    for note in &manifest.notes {
        line("note", note.clone());
    }
    text
}

/// The model that an adapter changes, or why there is none.
fn base_of(base: Result<Option<Manifest>, Skipped>) -> String {
    match base {
        Ok(None) => String::new(),
        Ok(Some(base)) => {
            let path = printable(&base.path.to_string_lossy());
            format!("{:<13}{path} ({})\n", "base model", base.format)
        }
        Err(missing) => format!("{:<13}not compared with: {}\n", missing.name, missing.reason),
    }
}

/// What both matrices of each module add to, and with which weight of the base it is compared.
fn adapters(manifest: &Manifest, graph: &LayerGraph, base: Option<&Manifest>) -> String {
    if graph.adapters.is_empty() {
        return String::new();
    }
    let settings = AdapterSettings::new(manifest.adapter.as_ref());
    let names = base.map(|base| BaseNames::new(&base.tensors));
    let row = |adapter: &Adapter| {
        let ((out, rank), input) = (adapter.b.shape(), adapter.a.shape().1);
        let weight = names.as_ref().map(|names| names.operand(adapter, settings));
        let weight = weight.map(|found| found.map_or_else(|why| why, |w| w.label.to_string()));
        let scale = settings.scale(&adapter.module, rank);
        vec![
            adapter.module.clone(),
            integer(adapter.layer),
            format!("{out}×{rank}×{input}"),
            scale.map_or_else(|why| why, |scale| number(Some(scale))),
            weight.unwrap_or_else(|| "–".into()),
        ]
    };
    let header = ["module", "layer", "out×r×in", "s", "against"];
    let title = "\nUPDATES: s·B·A of each module, its norm and its leading subspaces\n";
    title.to_owned() + &table(&header, 9, graph.adapters.iter(), row)
}

fn details(graph: &LayerGraph, adapters: &str) -> String {
    let matrix = |m: &Matrix| {
        vec![
            m.name.to_string(),
            m.role.as_str().into(),
            integer(m.layer),
            format!("{}×{}", m.view.n_rows(), m.view.n_cols()),
        ]
    };
    let mut text = String::from("\nMATRICES (output × input)\n");
    text += &table(&["name", "role", "layer", "shape"], 2, graph.matrices.iter(), matrix);
    text += "\nPAIRS: the writer's columns and the reader's rows share m dimensions\n";
    text += &pairs(graph);
    text += adapters;
    if !graph.heads.is_empty() {
        let row = |h: &HeadSet| {
            let space = if h.is_of_columns() { "columns" } else { "rows" };
            vec![
                h.projection.as_str().into(),
                h.layer.to_string(),
                h.heads.len().to_string(),
                space.into(),
            ]
        };
        text += "\nHEADS COMPARED\n";
        text += &table(&["projection", "layer", "heads", "space"], 1, graph.heads.iter(), row);
    }
    text + &skipped(graph.skipped.iter().map(|s| (s.name.as_str(), s.reason.as_str())))
}

/// An operand by what follows the layer in its name; the matrices above have the whole.
fn short(operand: &model::Operand) -> String {
    let tail = |name: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        let after = parts.iter().rposition(number).map_or(0, |at| at + 1);
        let tail = parts.get(after..).unwrap_or_default().join(".");
        let tail = if tail == "weight" || tail.is_empty() { name.to_owned() } else { tail };
        tail.strip_suffix(".weight").unwrap_or(&tail).to_owned()
    };
    let (rows, cols) = operand.shape();
    let mut names: Vec<String> = operand.parts.iter().map(|v| tail(&v.tensor)).collect();
    names.dedup();
    // Of several tensors the last component tells them apart.
    let name = if names.len() > 1 {
        let last = |n: &String| n.rsplit('.').next().unwrap_or(n).to_owned();
        names.iter().map(last).collect::<Vec<_>>().join(" + ")
    } else {
        names.join("")
    };
    format!("{name}{} {rows}×{cols}", if operand.transposed { "ᵀ" } else { "" })
}

/// Heads and groups of one layer share a row.
fn pairs(graph: &LayerGraph) -> String {
    let mut rest = graph.pairs.as_slice();
    let rows = std::iter::from_fn(|| {
        let first = rest.first()?;
        // Several adapters of a layer are pairs of one name, and none of them is a head of another.
        let is_one_of_many = |p: &Pair| p.head.or(p.group).or(p.expert).is_some();
        let alike = |p: &&Pair| {
            (is_one_of_many(p) || std::ptr::eq(*p, first))
                && p.name == first.name
                && p.layer == first.layer
                && p.head.is_some() == first.head.is_some()
                && p.group.is_some() == first.group.is_some()
                && p.expert.is_some() == first.expert.is_some()
        };
        let n = rest.iter().take_while(alike).count();
        rest = &rest[n..];
        Some((first, n))
    });
    let header = [
        "pair",
        "kind",
        "layer",
        "each of",
        "m",
        "law",
        "norm between",
        "writer",
        "reader",
        "gain folded into the reader",
    ];
    table(&header, 99, rows, |(first, n)| pair(first, n))
}

/// The row of so many pairs, by the first of them.
fn pair(first: &Pair, n: usize) -> Vec<String> {
    let each = match (first.head, first.group) {
        _ if first.expert.is_some() => format!("{n} experts"),
        (Some(_), _) => format!("{n} heads"),
        (_, Some(_)) => format!("{n} groups"),
        _ => "–".into(),
    };
    let gain = first.reader.gain.as_ref().map_or_else(
        || "–".into(),
        |g| if g.one_plus { format!("1 + {}", g.tensor) } else { g.tensor.to_string() },
    );
    vec![
        first.name.as_str().into(),
        first.name.kind().into(),
        integer(first.layer),
        each,
        first.dim.to_string(),
        first.law.as_str().into(),
        if first.norm_between { "yes" } else { "no" }.into(),
        short(&first.writer),
        short(&first.reader),
        gain,
    ]
}
