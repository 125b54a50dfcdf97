//! A report as rows, and back.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, Transaction, params_from_iter};

use super::index;
use super::words::word;
use crate::diagnostics::{
    ClassifierReport, HeadReport, MatrixReport, OverlapReport, PairReport, Report, Skipped,
};

/// Column, how it is read off, and how it is put back.
type Number<T> = (&'static str, fn(&T) -> Option<f64>, fn(&mut T, Option<f64>));

macro_rules! numbers {
    ($($column:literal => $($field:ident).+),* $(,)?) => {
        &[$(($column, |row| row.$($field).+, |row, value| row.$($field).+ = value)),*]
    };
}

const MATRIX: &[Number<MatrixReport>] = numbers![
    "frobenius_norm" => frobenius_norm,
    "spectral_norm" => spectral_norm,
    "stable_rank" => stable_rank,
    "effective_rank" => effective_rank,
    "spectral_entropy" => spectral_entropy,
    "update_ratio" => update_ratio,
    "update_ratio_stderr" => update_ratio_stderr,
    "base_ratio" => base_ratio,
];

const PAIR: &[Number<PairReport>] = numbers![
    "gram_correlation" => gram_correlation,
    "gram_cosine" => gram_cosine,
    "commutator" => commutator,
    "commutator_vs_chance" => commutator_vs_chance,
    "composition" => composition,
    "gap" => gap,
    "gap_ratio" => gap_ratio,
    "gap_diagonal_ratio" => gap_diagonal_ratio,
    "gap_shape" => gap_shape,
    "flag_correlation" => flag_correlation,
    "law_gap" => law_gap,
    "law_bias" => law_bias,
    "gram_correlation_stderr" => stderr.gram_correlation,
    "gram_cosine_stderr" => stderr.gram_cosine,
    "commutator_stderr" => stderr.commutator,
    "commutator_vs_chance_stderr" => stderr.commutator_vs_chance,
    "composition_stderr" => stderr.composition,
    "gap_ratio_stderr" => stderr.gap_ratio,
];

const HEADS: &[Number<HeadReport>] = numbers![
    "overlap_mean" => overlap_mean,
    "overlap_max" => overlap_max,
    "overlap_chance" => overlap_chance,
    "overlap_excess" => overlap_excess,
    "effective_heads" => effective_heads,
    "overlap_stderr" => overlap_stderr,
];

const CLASSIFIER: &[Number<ClassifierReport>] = numbers![
    "simplex_deviation" => simplex_deviation,
    "simplex_deviation_vs_chance" => simplex_deviation_vs_chance,
    "equinorm" => equinorm,
    "equiangle" => equiangle,
];

fn values<T>(numbers: &[Number<T>], row: &T) -> impl Iterator<Item = Value> {
    numbers
        .iter()
        .map(|(_, get, _)| get(row).map_or(Value::Null, Value::Real))
        .collect::<Vec<_>>()
        .into_iter()
}

fn put_back<T>(numbers: &[Number<T>], into: &mut T, row: &Row<'_>) -> rusqlite::Result<()> {
    for (column, _, set) in numbers {
        set(into, row.get(*column)?);
    }
    Ok(())
}

fn columns<T>(first: &[&str], numbers: &[Number<T>]) -> Vec<String> {
    let numbers = numbers.iter().map(|(column, ..)| *column);
    first.iter().copied().chain(numbers).map(str::to_owned).collect()
}

fn insert_into(table: &str, columns: &[String]) -> String {
    let places = (1..=columns.len()).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ");
    format!("INSERT INTO {table} ({}) VALUES ({places})", columns.join(", "))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn integer(n: Option<usize>) -> Value {
    n.map_or(Value::Null, |n| Value::Integer(index(n)))
}

/// Writes all rows of a save.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    save: i64,
    report: &Report,
) -> rusqlite::Result<()> {
    matrices(transaction, save, &report.matrices)?;
    pairs(transaction, save, &report.pairs)?;
    let head_columns = columns(&["save", "position", "layer", "projection", "heads"], HEADS);
    let mut insert = transaction.prepare_cached(&insert_into("heads", &head_columns))?;
    for (position, heads) in report.heads.iter().enumerate() {
        let first = [
            Value::Integer(save),
            integer(Some(position)),
            integer(Some(heads.layer)),
            text(heads.projection),
            integer(Some(heads.heads)),
        ];
        insert.execute(params_from_iter(first.into_iter().chain(values(HEADS, heads))))?;
    }
    if let Some(classifier) = &report.classifier {
        let columns = columns(&["save", "classes"], CLASSIFIER);
        let first = [Value::Integer(save), integer(Some(classifier.classes))];
        let all = first.into_iter().chain(values(CLASSIFIER, classifier));
        transaction.execute(&insert_into("classifiers", &columns), params_from_iter(all))?;
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO skipped (save, position, name, reason) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (position, skipped) in report.skipped.iter().enumerate() {
        insert.execute((save, index(position), &skipped.name, &skipped.reason))?;
    }
    Ok(())
}

fn matrices(
    transaction: &Transaction<'_>,
    save: i64,
    matrices: &[MatrixReport],
) -> rusqlite::Result<()> {
    let first = [
        "save",
        "position",
        "name",
        "layer",
        "stack",
        "expert",
        "role",
        "rows",
        "cols",
        "dtype",
        "spectrum",
        "numerical_rank",
        "nan",
        "inf",
    ];
    let mut insert =
        transaction.prepare_cached(&insert_into("matrices", &columns(&first, MATRIX)))?;
    let mut turn = transaction
        .prepare_cached("INSERT INTO rotations (save, matrix, k, ratio) VALUES (?1, ?2, ?3, ?4)")?;
    for (position, matrix) in matrices.iter().enumerate() {
        let first = [
            Value::Integer(save),
            integer(Some(position)),
            text(&matrix.name),
            integer(matrix.layer),
            matrix.stack.as_deref().map_or(Value::Null, text),
            integer(matrix.expert),
            text(&matrix.role),
            integer(Some(matrix.rows)),
            integer(Some(matrix.cols)),
            text(matrix.dtype),
            matrix.spectrum.map_or(Value::Null, text),
            integer(matrix.numerical_rank),
            Value::Integer(super::signed(matrix.nan)),
            Value::Integer(super::signed(matrix.inf)),
        ];
        insert.execute(params_from_iter(first.into_iter().chain(values(MATRIX, matrix))))?;
        for (k, ratio) in &matrix.rotation {
            turn.execute((save, index(position), index(*k), ratio))?;
        }
    }
    Ok(())
}

fn pairs(transaction: &Transaction<'_>, save: i64, pairs: &[PairReport]) -> rusqlite::Result<()> {
    let first = [
        "save",
        "position",
        "pair",
        "kind",
        "layer",
        "stack",
        "expert",
        "head",
        "head_group",
        "writer",
        "reader",
        "dim",
        "law",
        "norm_between",
    ];
    let mut insert = transaction.prepare_cached(&insert_into("pairs", &columns(&first, PAIR)))?;
    let mut overlaps = transaction.prepare_cached(
        "INSERT INTO overlaps (save, pair, k, ratio, chance, excess, z, angle_min, angle_mean, \
         angle_max, basis, cut_ok) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    for (position, pair) in pairs.iter().enumerate() {
        let first = [
            Value::Integer(save),
            integer(Some(position)),
            text(pair.pair),
            text(pair.kind),
            integer(pair.layer),
            pair.stack.as_deref().map_or(Value::Null, text),
            integer(pair.expert),
            integer(pair.head),
            integer(pair.group),
            text(&pair.writer),
            text(&pair.reader),
            integer(Some(pair.dim)),
            text(pair.law),
            Value::Integer(i64::from(pair.norm_between)),
        ];
        insert.execute(params_from_iter(first.into_iter().chain(values(PAIR, pair))))?;
        for (k, o) in &pair.overlap {
            let numbers =
                [o.ratio, o.chance, o.excess, o.z, o.angle_min, o.angle_mean, o.angle_max];
            let first = [Value::Integer(save), integer(Some(position)), integer(Some(*k))];
            let last =
                [o.basis.map_or(Value::Null, Value::Real), Value::Integer(i64::from(o.cut_ok))];
            let all = first.into_iter().chain(numbers.map(Value::Real)).chain(last);
            overlaps.execute(params_from_iter(all))?;
        }
    }
    Ok(())
}

/// Puts the rows of a save back into its report; without `whole` only matrices and pairs, and these
/// without rotations and overlaps, which is what a judgement needs.
pub(super) fn load(
    connection: &Connection,
    save: i64,
    report: &mut Report,
    whole: bool,
) -> rusqlite::Result<()> {
    report.matrices = load_matrices(connection, save)?;
    report.pairs = load_pairs(connection, save)?;
    if !whole {
        return Ok(());
    }
    let mut turns = connection.prepare_cached(
        "SELECT matrix, k, ratio FROM rotations WHERE save = ?1 ORDER BY matrix, k",
    )?;
    let mut rows = turns.query([save])?;
    while let Some(row) = rows.next()? {
        let matrix = report.matrices.get_mut(size(row, "matrix")?);
        let (k, ratio) = (size(row, "k")?, row.get("ratio")?);
        matrix.and_then(|matrix| matrix.rotation.insert(k, ratio));
    }
    let mut overlaps = connection.prepare_cached("SELECT * FROM overlaps WHERE save = ?1")?;
    let mut rows = overlaps.query([save])?;
    while let Some(row) = rows.next()? {
        let overlap = OverlapReport {
            ratio: row.get("ratio")?,
            chance: row.get("chance")?,
            excess: row.get("excess")?,
            z: row.get("z")?,
            angle_min: row.get("angle_min")?,
            angle_mean: row.get("angle_mean")?,
            angle_max: row.get("angle_max")?,
            basis: row.get("basis")?,
            cut_ok: row.get("cut_ok")?,
        };
        let k = size(row, "k")?;
        let pair = report.pairs.get_mut(size(row, "pair")?);
        pair.and_then(|pair| pair.overlap.insert(k, overlap));
    }
    report.heads = load_heads(connection, save)?;
    report.classifier = load_classifier(connection, save)?;
    let mut skipped = connection
        .prepare_cached("SELECT name, reason FROM skipped WHERE save = ?1 ORDER BY position")?;
    report.skipped = skipped
        .query_map([save], |row| Ok(Skipped { name: row.get(0)?, reason: row.get(1)? }))?
        .collect::<Result<_, _>>()?;
    Ok(())
}

fn load_matrices(connection: &Connection, save: i64) -> rusqlite::Result<Vec<MatrixReport>> {
    let mut all =
        connection.prepare_cached("SELECT * FROM matrices WHERE save = ?1 ORDER BY position")?;
    let matrix = |row: &Row<'_>| {
        let mut matrix = MatrixReport {
            name: row.get("name")?,
            layer: maybe(row, "layer")?,
            stack: row.get("stack")?,
            expert: maybe(row, "expert")?,
            role: row.get("role")?,
            rows: size(row, "rows")?,
            cols: size(row, "cols")?,
            dtype: word(&row.get::<_, String>("dtype")?),
            spectrum: row.get::<_, Option<String>>("spectrum")?.map(|way| word(&way)),
            frobenius_norm: None,
            spectral_norm: None,
            stable_rank: None,
            effective_rank: None,
            spectral_entropy: None,
            numerical_rank: maybe(row, "numerical_rank")?,
            nan: size(row, "nan")? as u64,
            inf: size(row, "inf")? as u64,
            update_ratio: None,
            update_ratio_stderr: None,
            base_ratio: None,
            rotation: BTreeMap::new(),
        };
        put_back(MATRIX, &mut matrix, row)?;
        Ok(matrix)
    };
    all.query_map([save], matrix)?.collect()
}

fn load_pairs(connection: &Connection, save: i64) -> rusqlite::Result<Vec<PairReport>> {
    let mut all =
        connection.prepare_cached("SELECT * FROM pairs WHERE save = ?1 ORDER BY position")?;
    let pair = |row: &Row<'_>| {
        let known = |column: &str| row.get::<_, String>(column).map(|text| word(&text));
        let mut pair = PairReport {
            pair: known("pair")?,
            kind: known("kind")?,
            layer: maybe(row, "layer")?,
            stack: row.get("stack")?,
            expert: maybe(row, "expert")?,
            head: maybe(row, "head")?,
            group: maybe(row, "head_group")?,
            writer: row.get("writer")?,
            reader: row.get("reader")?,
            dim: size(row, "dim")?,
            law: known("law")?,
            norm_between: row.get("norm_between")?,
            ..PairReport::default()
        };
        put_back(PAIR, &mut pair, row)?;
        Ok(pair)
    };
    all.query_map([save], pair)?.collect()
}

fn load_heads(connection: &Connection, save: i64) -> rusqlite::Result<Vec<HeadReport>> {
    let mut all =
        connection.prepare_cached("SELECT * FROM heads WHERE save = ?1 ORDER BY position")?;
    let heads = |row: &Row<'_>| {
        let mut heads = HeadReport {
            layer: size(row, "layer")?,
            projection: word(&row.get::<_, String>("projection")?),
            heads: size(row, "heads")?,
            overlap_mean: None,
            overlap_max: None,
            overlap_chance: None,
            overlap_excess: None,
            effective_heads: None,
            overlap_stderr: None,
        };
        put_back(HEADS, &mut heads, row)?;
        Ok(heads)
    };
    all.query_map([save], heads)?.collect()
}

fn load_classifier(
    connection: &Connection,
    save: i64,
) -> rusqlite::Result<Option<ClassifierReport>> {
    let mut all = connection.prepare_cached("SELECT * FROM classifiers WHERE save = ?1")?;
    let classifier = |row: &Row<'_>| {
        let mut classifier = ClassifierReport {
            classes: size(row, "classes")?,
            simplex_deviation: None,
            simplex_deviation_vs_chance: None,
            equinorm: None,
            equiangle: None,
        };
        put_back(CLASSIFIER, &mut classifier, row)?;
        Ok(classifier)
    };
    all.query_map([save], classifier)?.next().transpose()
}

fn size(row: &Row<'_>, column: &str) -> rusqlite::Result<usize> {
    Ok(maybe(row, column)?.unwrap_or(0))
}

fn maybe(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<usize>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|n| usize::try_from(n).ok()))
}
