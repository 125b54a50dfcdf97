//! The pairs of a save, layer by layer.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::super::words::{maybe, short, signed};
use super::{MAX_ROWS, rest};
use crate::diagnostics::{PairReport, Report};

/// Columns of overlaps.
const MAX_K: usize = 7;

/// Pairs of one kind in one layer.
type Row<'a> = ((&'static str, Option<usize>), Vec<&'a PairReport>);

/// Kind and layer → pairs, kinds in the order of the report. A key/value group's own entry is left
/// out beside those of its heads.
fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut kinds: Vec<&'static str> = Vec::new();
    let mut rows: BTreeMap<(usize, Option<usize>), Vec<&PairReport>> = BTreeMap::new();
    for pair in report.pairs.iter().filter(|pair| pair.group.is_none() || pair.head.is_some()) {
        let kind = kinds.iter().position(|kind| *kind == pair.pair).unwrap_or_else(|| {
            kinds.push(pair.pair);
            kinds.len() - 1
        });
        rows.entry((kind, pair.layer)).or_default().push(pair);
    }
    rows.into_iter().map(|((kind, layer), pairs)| ((kinds[kind], layer), pairs)).collect()
}

pub(super) fn table(report: &Report, json: &str) -> Markup {
    let rows = rows(report);
    let all: BTreeSet<usize> =
        report.pairs.iter().flat_map(|p| p.overlap.keys().copied()).collect();
    let ks: Vec<usize> = all.into_iter().take(MAX_K).collect();
    let has_many = report.pairs.iter().any(PairReport::is_one_of_many);
    html! {
        div.scroll {
            table.pairs {
                caption.hidden { "Alignment by pair and layer" }
                thead { tr {
                    th scope="col" { "Pair" } th.number scope="col" { "Layer" }
                    th.number scope="col" { "Gram correlation" }
                    @if has_many { th.number scope="col" { "Lowest" } }
                    th.number scope="col" { "κ" }
                    @if has_many { th.number scope="col" { "Highest" } }
                    @for k in &ks { th.number scope="col" { "Overlap at " (k) } }
                } }
                tbody { @for row in rows.iter().take(MAX_ROWS) { (line(row, &ks, has_many)) } }
            }
        }
        (rest(rows.len(), json))
    }
}

fn line(((kind, layer), pairs): &Row<'_>, ks: &[usize], has_many: bool) -> Markup {
    let gram = known(pairs, |pair| pair.gram_correlation);
    let kappa = known(pairs, |pair| pair.commutator_vs_chance);
    let are_many = pairs.iter().any(|pair| pair.is_one_of_many());
    let lowest = gram.iter().copied().reduce(f64::min).filter(|_| are_many);
    let highest = kappa.iter().copied().reduce(f64::max).filter(|_| are_many);
    html! {
        tr {
            th scope="row" { (kind) }
            td.number { (layer.map_or("–".to_owned(), |layer| layer.to_string())) }
            td.number { (maybe(mean(&gram), signed)) }
            @if has_many { td.number.dim { (maybe(lowest, signed)) } }
            td.number { (maybe(mean(&kappa), short)) }
            @if has_many { td.number.dim { (maybe(highest, short)) } }
            @for k in ks { (overlap(pairs, *k)) }
        }
    }
}

/// The overlap at k beside its chance.
fn overlap(pairs: &[&PairReport], k: usize) -> Markup {
    let of = |get: fn(&crate::diagnostics::OverlapReport) -> f64| {
        mean(&known(pairs, |pair| pair.overlap.get(&k).map(get)))
    };
    let is_clear = pairs.iter().filter_map(|pair| pair.overlap.get(&k)).all(|o| o.cut_ok);
    html! {
        td.number {
            @match of(|overlap| overlap.ratio) {
                Some(ratio) => {
                    span.dim[!is_clear] { (format!("{ratio:.3}")) }
                    span.dim.small { " / " (maybe(of(|overlap| overlap.chance), |x| format!("{x:.3}"))) }
                }
                None => "–",
            }
        }
    }
}

fn known(pairs: &[&PairReport], get: impl Fn(&PairReport) -> Option<f64>) -> Vec<f64> {
    pairs.iter().filter_map(|pair| get(pair)).filter(|value| value.is_finite()).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "heads are few")]
    let n = values.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)
}
