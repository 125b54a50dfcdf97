//! How the newest save was read: what `weightvane explain` says of it.

use maud::{Markup, html};

use super::super::words::{grouped, maybe, short};
use super::{MAX_ROWS, rest};
use crate::diagnostics::{MatrixReport, PairReport, Report};

pub(super) fn section(report: &Report, json: &str) -> Markup {
    html! {
        h2 { "How the checkpoint is read" }
        dl.facts {
            div { dt { "Checkpoint" } dd { code { (report.checkpoint) } } }
            div { dt { "Format" } dd { (report.format) } }
            div { dt { "Architecture" } dd { (report.architecture) } }
            div { dt { "Parameters" } dd { (grouped(report.parameters)) } }
        }
        details #matrices {
            summary { (report.matrices.len()) " matrices" }
            (matrices(report))
            (rest(report.matrices.len(), json))
        }
        details #pairs {
            summary { (report.pairs.len()) " pairs" }
            (pairs(report))
            (rest(report.pairs.len(), json))
        }
        details #skipped {
            summary { (report.skipped.len()) " skipped" }
            (skipped(report))
            (rest(report.skipped.len(), json))
        }
    }
}

fn matrices(report: &Report) -> Markup {
    let row = |matrix: &MatrixReport| {
        html! { tr {
            th.name scope="row" { (matrix.name) }
            td.number { (layer(matrix.layer)) } td { (matrix.role) }
            td.number { (matrix.rows) " × " (matrix.cols) } td { (matrix.dtype) }
            td { (matrix.spectrum.unwrap_or("–")) }
            td.number { (maybe(matrix.frobenius_norm, short)) }
            td.number { (maybe(matrix.stable_rank, short)) }
            td.number { (maybe(matrix.effective_rank, short)) }
            td.number { (maybe(matrix.update_ratio, short)) }
            td.number { @if matrix.nan + matrix.inf > 0 {
                span.state.bad { (grouped(matrix.nan + matrix.inf)) }
            } @else { "0" } }
        } }
    };
    html! { div.scroll { table {
        caption.hidden { "Matrices" }
        thead { tr {
            th scope="col" { "Tensor" } th.number scope="col" { "Layer" } th scope="col" { "Role" }
            th.number scope="col" { "Out × in" } th scope="col" { "Type" } th scope="col" { "Spectrum" }
            th.number scope="col" { "Norm" } th.number scope="col" { "Stable rank" }
            th.number scope="col" { "Effective rank" } th.number scope="col" { "Update" }
            th.number scope="col" { "NaN, infinite" }
        } }
        tbody { @for matrix in report.matrices.iter().take(MAX_ROWS) { (row(matrix)) } }
    } } }
}

fn pairs(report: &Report) -> Markup {
    let row = |pair: &PairReport| {
        html! { tr {
            th scope="row" { (pair.pair) }
            td.number { (layer(pair.layer)) } td.number { (layer(pair.head)) }
            td.name { (pair.writer) " → " (pair.reader) }
            td.number { (pair.dim) } td { (pair.law) }
            td { @if pair.norm_between { "norm" } @else { "–" } }
        } }
    };
    html! { div.scroll { table {
        caption.hidden { "Pairs" }
        thead { tr {
            th scope="col" { "Pair" } th.number scope="col" { "Layer" } th.number scope="col" { "Head" }
            th scope="col" { "Writer → reader" } th.number scope="col" { "Shared dimension" }
            th scope="col" { "Law" } th scope="col" { "Between" }
        } }
        tbody { @for pair in report.pairs.iter().take(MAX_ROWS) { (row(pair)) } }
    } } }
}

fn skipped(report: &Report) -> Markup {
    html! {
        @if report.skipped.is_empty() { p.dim { "Nothing was left out." } } @else {
            div.scroll { table {
                caption.hidden { "Skipped" }
                thead { tr { th scope="col" { "Tensor or pair" } th scope="col" { "Why" } } }
                tbody { @for skipped in report.skipped.iter().take(MAX_ROWS) { tr {
                    th.name scope="row" { (skipped.name) } td { (skipped.reason) }
                } } }
            } }
        }
    }
}

fn layer(layer: Option<usize>) -> String {
    layer.map_or("–".to_owned(), |layer| layer.to_string())
}
