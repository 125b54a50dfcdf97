//! Checksums of what is written. SQLite notices a structure that is broken, and takes every number for
//! the one that was written.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, Statement, Transaction, params, params_from_iter};
use xxhash_rust::xxh3::Xxh3;

use super::{StoreError, damage};

/// What a save says for as long as it is kept.
const LASTING: [&str; 3] = [
    "SELECT * FROM saves WHERE id = ?1",
    "SELECT * FROM summaries WHERE save = ?1 ORDER BY rowid",
    "SELECT * FROM evaluations WHERE save = ?1 ORDER BY metric",
];

/// What is given up first.
const DETAILS: [&str; 6] = [
    "SELECT * FROM matrices WHERE save = ?1 ORDER BY position",
    "SELECT * FROM rotations WHERE save = ?1 ORDER BY matrix, k",
    "SELECT * FROM pairs WHERE save = ?1 ORDER BY position",
    "SELECT * FROM overlaps WHERE save = ?1 ORDER BY pair, k",
    "SELECT * FROM heads WHERE save = ?1 ORDER BY position",
    "SELECT * FROM classifiers WHERE save = ?1",
];

/// Columns that are no part of what was written: the checksums, and what changes later.
const APART: [&str; 3] = ["digest", "details_digest", "has_details"];

/// Tables of which each row has one: what tells the rows apart, and which run one belongs to.
const ROWS: [(&str, &[&str], &str); 3] = [
    ("runs", &["id"], "id"),
    ("counters", &["run", "name", "label"], "run"),
    ("anomalies", &["id"], "run"),
];

/// The daemon's own counters stand under this one.
const NO_RUN: i64 = 0;

/// Columns of a statement that count.
fn columns(statement: &Statement<'_>) -> Vec<usize> {
    let names = statement.column_names().enumerate();
    names.filter(|(_, name)| !APART.contains(name)).map(|(i, _)| i).collect()
}

fn add(hash: &mut Xxh3, row: &Row<'_>, columns: &[usize]) -> rusqlite::Result<()> {
    for column in columns {
        // The kind and the length, so that no two rows look alike.
        match row.get_ref(*column)? {
            ValueRef::Null => hash.update(&[0]),
            ValueRef::Integer(value) => {
                hash.update(&[1]);
                hash.update(&value.to_le_bytes());
            }
            ValueRef::Real(value) => {
                hash.update(&[2]);
                hash.update(&value.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                hash.update(&[3]);
                hash.update(&bytes.len().to_le_bytes());
                hash.update(bytes);
            }
        }
    }
    Ok(())
}

/// SQLite's integers have a sign.
fn ended(hash: &Xxh3) -> i64 {
    hash.digest().cast_signed()
}

fn of_save(connection: &Connection, queries: &[&str], save: i64) -> rusqlite::Result<i64> {
    let mut hash = Xxh3::new();
    for query in queries {
        let mut all = connection.prepare_cached(query)?;
        let columns = columns(&all);
        let mut rows = all.query([save])?;
        while let Some(row) = rows.next()? {
            add(&mut hash, row, &columns)?;
        }
        // What belongs to which table.
        hash.update(&[4]);
    }
    Ok(ended(&hash))
}

fn of_row(row: &Row<'_>, columns: &[usize]) -> rusqlite::Result<i64> {
    let mut hash = Xxh3::new();
    add(&mut hash, row, columns)?;
    Ok(ended(&hash))
}

/// Notes the checksums of what a record wrote.
pub(super) fn seal(transaction: &Transaction<'_>, run: i64, save: i64) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE saves SET digest = ?2, details_digest = ?3 WHERE id = ?1",
        params![save, of_save(transaction, &LASTING, save)?, of_save(transaction, &DETAILS, save)?],
    )?;
    for (table, keys, owner) in ROWS {
        for run in [run, NO_RUN] {
            seal_rows(transaction, table, keys, &format!("digest IS NULL AND {owner} = {run}"))?;
        }
    }
    Ok(())
}

fn seal_rows(
    transaction: &Transaction<'_>,
    table: &str,
    keys: &[&str],
    which: &str,
) -> rusqlite::Result<()> {
    let mut all = transaction.prepare(&format!("SELECT * FROM {table} WHERE {which}"))?;
    let columns = columns(&all);
    let sealed = |row: &Row<'_>| {
        let mut values = vec![Value::Integer(of_row(row, &columns)?)];
        for key in keys {
            values.push(row.get(*key)?);
        }
        Ok(values)
    };
    let rows: Vec<Vec<Value>> = all.query_map([], sealed)?.collect::<Result<_, _>>()?;
    let keys: Vec<String> =
        keys.iter().enumerate().map(|(i, key)| format!("{key} = ?{}", i + 2)).collect();
    let update = format!("UPDATE {table} SET digest = ?1 WHERE {}", keys.join(" AND "));
    let mut update = transaction.prepare_cached(&update)?;
    for values in rows {
        update.execute(params_from_iter(values))?;
    }
    Ok(())
}

/// Looks whether everything is as it was written.
///
/// # Errors
/// Damage, where something is not, and whatever SQLite has.
pub(super) fn verify(connection: &Connection) -> Result<(), StoreError> {
    for (table, ..) in ROWS {
        let known = format!("SELECT * FROM {table} WHERE digest IS NOT NULL");
        let mut all = connection.prepare(&known)?;
        let columns = columns(&all);
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            if of_row(row, &columns)? != row.get::<_, i64>("digest")? {
                return Err(damage(&format!("{table} has a row that was not written so")));
            }
        }
    }
    let mut all =
        connection.prepare("SELECT id, digest, details_digest, has_details FROM saves")?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        let save: i64 = row.get(0)?;
        let is_other = |known: Option<i64>, queries: &[&str]| {
            known.map_or(Ok(false), |known| {
                Ok::<_, StoreError>(known != of_save(connection, queries, save)?)
            })
        };
        let details = if row.get(3)? { row.get(2)? } else { None };
        if is_other(row.get(1)?, &LASTING)? || is_other(details, &DETAILS)? {
            return Err(damage(&format!("save {save} is not what was written")));
        }
    }
    Ok(())
}
