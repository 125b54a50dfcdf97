//! Tables for people.

mod adapters;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use weightvane::checkpoint::printable;
use weightvane::diagnostics::{HeadReport, MatrixReport, PairReport, Report};

/// Most rows of one table; the JSON holds all.
const MAX_ROWS: usize = 200;
/// Most tensors named under one reason.
const MAX_NAMES: usize = 3;

/// A table of a `row` for each item, whose columns from `numbers` on hold numbers. Only the rows that
/// are shown are made: a checkpoint can name a hundred thousand matrices.
pub(super) fn table<T>(
    header: &[&str],
    numbers: usize,
    mut items: impl Iterator<Item = T>,
    mut row: impl FnMut(T) -> Vec<String>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    // Names are foreign text, which must not speak to the terminal.
    let cells = |item| row(item).iter().map(|cell| printable(cell)).collect::<Vec<_>>();
    table.add_rows(items.by_ref().take(MAX_ROWS).map(cells));
    let more = items.count();
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = String::new();
    for line in table.lines() {
        text += line.trim_end();
        text.push('\n');
    }
    if more > 0 {
        let _ = writeln!(text, " … and {more} more; --format json has all");
    }
    text
}

/// A number with as many digits as mean something.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(0.0) => "0".into(),
        Some(v) if v.abs() >= 1e5 || v.abs() < 1e-3 => format!("{v:.2e}"),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.3}"),
    }
}

/// A correlation or ratio of order one: three decimals say all.
fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |v| format!("{v:.3}"))
}

pub(super) fn integer(value: Option<usize>) -> String {
    value.map_or_else(|| "–".into(), |v| v.to_string())
}

/// The report of `analyze`.
pub(super) fn report(report: &Report) -> String {
    let step = report.step.map_or_else(|| "unknown".into(), |s| s.to_string());
    let mut text = format!(
        "{}: step {step}, {}, {} parameters, {}\n",
        report.checkpoint, report.architecture, report.parameters, report.format
    );
    if report.n_nonfinite() > 0 {
        let _ = writeln!(text, "NOT FINITE: {} NaN, {} infinite values", report.nan, report.inf);
    }
    if !report.pairs.is_empty() {
        text += "\nPAIRS: does one layer write where the next reads? Random weights: gram correlation 0, commutator 1, overlap k/m.\n";
        text += &pairs(report);
    }
    text += &adapters::adapters(report);
    if !report.heads.is_empty() {
        text += "\nHEADS: how alike are the heads of a layer?\n";
        text += &heads(report);
    }
    if let Some(c) = &report.classifier {
        let _ = writeln!(
            text,
            "\nCLASSIFIER: {} classes, distance from a simplex {} ({} times that of random rows)",
            c.classes,
            number(c.simplex_deviation),
            number(c.simplex_deviation_vs_chance)
        );
    }
    if !report.matrices.is_empty() {
        text += "\nMATRICES\n";
        let stored = report.matrices.iter().filter(|m| m.role != adapters::ROLE);
        text += &matrices(stored);
    }
    text + &skipped(report.skipped.iter().map(|s| (s.name.as_str(), s.reason.as_str())))
}

/// Pairs of one kind in a layer, of heads, experts or convolutions, share a row: the mean, and the
/// extremes behind it.
fn pairs(report: &Report) -> String {
    let mut groups: BTreeMap<(Option<usize>, usize), Vec<&PairReport>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for pair in report.pairs.iter().filter(|p| p.group.is_none() && p.kind != adapters::KIND) {
        let at = order.iter().position(|n| *n == pair.pair).unwrap_or_else(|| {
            order.push(pair.pair);
            order.len() - 1
        });
        groups.entry((pair.layer, at)).or_default().push(pair);
    }
    let header = [
        "pair",
        "layer",
        "of",
        "m",
        "law",
        "gram correlation",
        "commutator/chance",
        "k",
        "overlap",
        "chance",
        "gap ratio",
        "composition",
    ];
    table(&header, 5, groups.values(), |pairs| pair_row(pairs))
}

fn pair_row(pairs: &[&PairReport]) -> Vec<String> {
    let first = pairs[0];
    // The largest k that every head has and that leaves room above chance.
    let k = first
        .overlap
        .keys()
        .copied()
        .filter(|k| 2 * k <= first.dim && pairs.iter().all(|p| p.overlap.contains_key(k)))
        .max();
    let overlap = k.and_then(|k| mean(pairs, |p| p.overlap.get(&k).map(|o| o.ratio)));
    let is_mean = pairs.len() > 1 || first.is_one_of_many();
    let name =
        if first.norm_between { format!("{} (norm)", first.pair) } else { first.pair.into() };
    vec![
        name,
        integer(first.layer),
        if is_mean { pairs.len().to_string() } else { "–".into() },
        first.dim.to_string(),
        first.law.into(),
        spread(pairs, ratio, |p| p.gram_correlation) + &error(first.stderr.gram_correlation),
        spread(pairs, number, |p| p.commutator_vs_chance)
            + &error(first.stderr.commutator_vs_chance),
        integer(k),
        ratio(overlap),
        ratio(k.and_then(|k| mean(pairs, |p| p.overlap.get(&k).map(|o| o.chance)))),
        ratio(mean(pairs, |p| p.gap_ratio)),
        ratio(mean(pairs, |p| p.composition)),
    ]
}

/// The standard error behind an estimate; nothing behind an exact number. Of per-head pairs, whose
/// mean a row shows, that of the first head.
fn error(stderr: Option<f64>) -> String {
    stderr.map_or(String::new(), |e| format!(" ± {}", number(Some(e))))
}

fn known(pairs: &[&PairReport], value: impl Fn(&PairReport) -> Option<f64>) -> Vec<f64> {
    pairs.iter().filter_map(|p| value(p)).collect()
}

fn mean(pairs: &[&PairReport], value: impl Fn(&PairReport) -> Option<f64>) -> Option<f64> {
    let values = known(pairs, value);
    let n = u32::try_from(values.len()).ok().filter(|n| *n > 0)?;
    Some(values.iter().sum::<f64>() / f64::from(n))
}

fn spread(
    pairs: &[&PairReport],
    show: fn(Option<f64>) -> String,
    value: impl Fn(&PairReport) -> Option<f64>,
) -> String {
    let values = known(pairs, &value);
    let text = show(mean(pairs, value));
    if values.len() < 2 {
        return text;
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{text} ({} … {})", show(Some(low)), show(Some(high)))
}

fn heads(report: &Report) -> String {
    let row = |h: &HeadReport| {
        vec![
            h.projection.to_string(),
            h.layer.to_string(),
            h.heads.to_string(),
            ratio(h.overlap_mean),
            ratio(h.overlap_max),
            ratio(h.overlap_chance),
            number(h.effective_heads),
        ]
    };
    let header =
        ["projection", "layer", "heads", "overlap", "largest", "chance", "effective heads"];
    table(&header, 1, report.heads.iter(), row)
}

fn matrices<'r>(matrices: impl Iterator<Item = &'r MatrixReport>) -> String {
    let row = |m: &'r MatrixReport| {
        vec![
            m.name.clone(),
            m.role.clone(),
            format!("{}×{}", m.rows, m.cols),
            m.dtype.into(),
            number(m.frobenius_norm),
            number(m.spectral_norm),
            number(m.stable_rank),
            number(m.effective_rank),
            m.spectrum.unwrap_or("–").into(),
            integer(m.numerical_rank),
            number(m.update_ratio) + &error(m.update_ratio_stderr),
        ]
    };
    let header = [
        "name",
        "role",
        "shape",
        "dtype",
        "norm",
        "spectral norm",
        "stable rank",
        "effective rank",
        "found by",
        "rank",
        "update",
    ];
    table(&header, 2, matrices, row)
}

/// What was left out, as name and reason, by reason.
pub(super) fn skipped<'s>(skipped: impl Iterator<Item = (&'s str, &'s str)>) -> String {
    let mut by_reason: Vec<(&str, Vec<&str>, usize)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (name, reason) in skipped {
        let at = *places.entry(reason).or_insert_with(|| {
            by_reason.push((reason, Vec::new(), 0));
            by_reason.len() - 1
        });
        let (_, names, n) = &mut by_reason[at];
        *n += 1;
        if names.len() < MAX_NAMES {
            names.push(name);
        }
    }
    if by_reason.is_empty() {
        return String::new();
    }
    let row = |(reason, names, n): &(&str, Vec<&str>, usize)| {
        let more = n - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        vec![format!("{}{more}", names.join(", ")), (*reason).to_owned()]
    };
    format!("\nNOT MEASURED\n{}", table(&["what", "why"], 9, by_reason.iter(), row))
}
