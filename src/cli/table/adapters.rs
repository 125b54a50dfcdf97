//! What an adapter adds, beside what it is added to.

use super::{integer, number, ratio, table};
use weightvane::diagnostics::{MatrixReport, OverlapReport, PairReport, Report};
use weightvane::model::Role;

/// Role of the rows that tell of it.
pub(super) const ROLE: &str = Role::LORA_UPDATE;
/// Kind of the pairs that compare it.
pub(super) const KIND: &str = "base";

/// The updates, a row each; empty where there are none.
pub(super) fn adapters(report: &Report) -> String {
    let updates: Vec<_> = report.matrices.iter().filter(|m| m.role == ROLE).collect();
    if updates.is_empty() {
        return String::new();
    }
    let header = [
        "module",
        "layer",
        "out×in",
        "rank",
        "norm",
        "of base",
        "effective rank",
        "k",
        "out",
        "chance",
        "in",
        "chance",
    ];
    let what = "how large is s·B·A, and does it lie in the leading k directions of the base model?";
    let row = |update| row(report, update);
    let table = table(&header, 1, updates.into_iter(), row);
    format!("\nADAPTER: {what} Random: overlap k/m.\n{table}")
}

fn row(report: &Report, update: &MatrixReport) -> Vec<String> {
    let pair = |name: &str| {
        report.pairs.iter().find(|p| p.pair == name && p.kind == KIND && p.writer == update.name)
    };
    let (out, inner) = (pair("update_out"), pair("update_in"));
    // The largest k that both sides have and that leaves room above chance.
    let ks = |pair: &PairReport| {
        pair.overlap.keys().copied().filter(|k| 2 * k <= pair.dim).max().unwrap_or(0)
    };
    let k = out.map(ks).into_iter().chain(inner.map(ks)).min().filter(|k| *k > 0);
    let at = |pair: Option<&PairReport>, value: fn(&OverlapReport) -> f64| {
        ratio(pair.and_then(|pair| pair.overlap.get(&k?)).map(value))
    };
    vec![
        update.name.strip_suffix(" (update)").unwrap_or(&update.name).to_owned(),
        integer(update.layer),
        format!("{}×{}", update.rows, update.cols),
        integer(update.numerical_rank),
        number(update.frobenius_norm),
        number(update.base_ratio),
        number(update.effective_rank),
        integer(k),
        at(out, |o| o.ratio),
        at(out, |o| o.chance),
        at(inner, |o| o.ratio),
        at(inner, |o| o.chance),
    ]
}
