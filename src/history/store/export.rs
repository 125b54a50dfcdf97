//! Tables for people: rows with their run and step in front.

use std::path::Path;

use rusqlite::types::ValueRef;
use serde_json::Value;

use super::archive::open_to_read;
use super::{FILE, StoreError};

/// What is asked of the database for a table.
struct Table {
    name: &'static str,
    /// With `{where}` where the run is chosen.
    query: &'static str,
}

const TABLES: &[Table] = &[
    Table {
        name: "saves",
        query: "SELECT r.name AS run, s.step, s.saved_at, s.path, s.size_bytes, s.segment, s.state, \
                s.error, s.analyzed_at, s.analysis_seconds, s.architecture, s.parameters, s.nan, s.inf, \
                s.train_loss, s.learning_rate, s.grad_norm, s.optimizer, s.weight_decay, s.momentum \
                FROM saves s JOIN runs r ON r.id = s.run {where} ORDER BY r.name, s.segment, s.place",
    },
    Table {
        name: "evaluations",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.metric, t.value FROM evaluations t \
                JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place, t.metric",
    },
    Table {
        name: "summaries",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.metric, t.layer, t.pair, t.value \
                FROM summaries t JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place, t.metric, t.pair, t.layer",
    },
    Table {
        name: "matrices",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.name, t.layer, t.stack, t.expert, t.role, t.rows, t.cols, t.dtype, \
                t.spectrum, t.frobenius_norm, t.spectral_norm, t.stable_rank, t.effective_rank, \
                t.spectral_entropy, t.numerical_rank, t.nan, t.inf, t.update_ratio, \
                t.update_ratio_stderr, t.base_ratio FROM matrices t JOIN saves s ON s.id = t.save \
                JOIN runs r ON r.id = s.run {where} ORDER BY r.name, s.segment, s.place, t.position",
    },
    Table {
        name: "rotations",
        query: "SELECT r.name AS run, s.step, s.saved_at, m.name, m.layer, m.expert, m.role, t.k, t.ratio \
                FROM rotations t JOIN matrices m ON m.save = t.save AND m.position = t.matrix \
                JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place, t.matrix, t.k",
    },
    Table {
        name: "pairs",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.pair, t.kind, t.layer, t.stack, t.expert, t.head, \
                t.head_group, t.writer, t.reader, t.dim, t.law, t.norm_between, t.gram_correlation, t.gram_cosine, \
                t.commutator, t.commutator_vs_chance, t.composition, t.gap, t.gap_ratio, \
                t.gap_diagonal_ratio, t.gap_shape, t.flag_correlation, t.gram_correlation_stderr, \
                t.gram_cosine_stderr, t.commutator_stderr, t.commutator_vs_chance_stderr, \
                t.composition_stderr, t.gap_ratio_stderr FROM pairs t JOIN saves s ON s.id = t.save \
                JOIN runs r ON r.id = s.run {where} ORDER BY r.name, s.segment, s.place, t.position",
    },
    Table {
        name: "overlaps",
        query: "SELECT r.name AS run, s.step, s.saved_at, p.pair, p.layer, p.expert, p.head, \
                p.head_group, p.writer, p.reader, t.k, t.ratio, t.chance, t.excess, t.z, t.angle_min, t.angle_mean, t.angle_max, \
                t.basis, t.cut_ok FROM overlaps t JOIN pairs p ON p.save = t.save AND p.position = t.pair \
                JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place, t.pair, t.k",
    },
    Table {
        name: "heads",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.layer, t.projection, t.heads, t.overlap_mean, \
                t.overlap_max, t.overlap_chance, t.overlap_excess, t.effective_heads, t.overlap_stderr \
                FROM heads t JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place, t.position",
    },
    Table {
        name: "classifiers",
        query: "SELECT r.name AS run, s.step, s.saved_at, t.classes, t.simplex_deviation, \
                t.simplex_deviation_vs_chance, t.equinorm, t.equiangle FROM classifiers t \
                JOIN saves s ON s.id = t.save JOIN runs r ON r.id = s.run {where} \
                ORDER BY r.name, s.segment, s.place",
    },
    Table {
        name: "anomalies",
        query: "SELECT r.name AS run, t.onset_step, t.resolved_step, t.segment, t.kind, t.severity, t.pair, \
                t.layer, t.head, t.name, t.before, t.after, t.z, t.last_good_step FROM anomalies t \
                JOIN runs r ON r.id = t.run {where} ORDER BY r.name, t.segment, t.onset_step, t.id",
    },
];

/// Names of the tables that can be had.
pub fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|table| table.name)
}

/// A line of a table.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Names of the columns.
    pub columns: &'a [String],
    /// Their values; `None` in the first line, which is there for the names.
    pub values: Option<&'a [Value]>,
}

/// Hands the names of the columns and then every row of a table to `each`, of one run or of all.
/// The database is only read, also while a daemon writes it. A table that there is none of is empty.
///
/// # Errors
/// When the database is not there or cannot be read. `each` ends it by returning `false`.
pub fn export(
    dir: &Path,
    table: &str,
    run: Option<&str>,
    each: &mut dyn FnMut(Line<'_>) -> bool,
) -> Result<(), StoreError> {
    let Some(table) = TABLES.iter().find(|t| t.name == table) else { return Ok(()) };
    let connection = open_to_read(&dir.join(FILE))?;
    let chosen = table.query.replace("{where}", "WHERE ?1 IS NULL OR r.name = ?1");
    let mut query = connection.prepare(&chosen)?;
    let columns: Vec<String> = query.column_names().map(str::to_owned).collect();
    let mut go_on = each(Line { columns: &columns, values: None });
    let mut rows = query.query([run])?;
    while let Some(row) = rows.next()?.filter(|_| go_on) {
        let mut values = Vec::with_capacity(columns.len());
        for i in 0..columns.len() {
            values.push(value(row.get_ref(i)?));
        }
        go_on = each(Line { columns: &columns, values: Some(&values) });
    }
    Ok(())
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        ValueRef::Integer(n) => n.into(),
        // What JSON has no word for is not known.
        ValueRef::Real(x) => x.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
    }
}
