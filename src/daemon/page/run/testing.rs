//! Reports that only a stranger writes.

use std::sync::Arc;

use crate::diagnostics::{MatrixReport, PairReport, Report, Skipped};

/// A report with this text wherever a checkpoint's text may come to stand.
pub(in crate::daemon::page) fn hostile_report(text: &str) -> Arc<Report> {
    let matrix = MatrixReport {
        name: text.to_owned(),
        role: text.to_owned(),
        rows: 1,
        cols: 1,
        dtype: "F32",
        stack: Some(text.to_owned()),
        frobenius_norm: Some(f64::INFINITY),
        nan: u64::MAX / 4,
        inf: 1,
        ..MatrixReport::default()
    };
    let pair = PairReport {
        pair: "v_o",
        kind: "inmodule",
        layer: Some(usize::MAX),
        head: Some(0),
        writer: text.to_owned(),
        reader: text.to_owned(),
        dim: 1,
        law: "none",
        norm_between: true,
        gram_correlation: Some(f64::NAN),
        commutator_vs_chance: Some(1e300),
        ..PairReport::default()
    };
    let report = Report {
        checkpoint: text.to_owned(),
        step: Some(u64::MAX),
        format: "safetensors",
        architecture: text.to_owned(),
        matrices: vec![matrix],
        pairs: vec![pair; super::MAX_ROWS + 5],
        skipped: vec![Skipped { name: text.to_owned(), reason: text.to_owned() }],
        nan: 1,
        ..Report::default()
    };
    Arc::new(report)
}
