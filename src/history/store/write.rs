//! One record as rows: the run, its save, what it says together, anomalies, counters.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};

use super::{Record, SaveOutcome, digest, index, rows, signed};
use crate::checkpoint::TrainerState;
use crate::history::kind::Anomaly;
use crate::history::summary::Summary;

/// Writes a record within a transaction. A save that is there with this content is not written again,
/// nor is what came of it then: the transaction is to be given up.
pub(super) fn record(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<bool> {
    let run = run_id(transaction, record)?;
    let Some(save) = insert_save(transaction, run, record)? else { return Ok(false) };
    if let SaveOutcome::Measured { report, trainer, summary } = &record.outcome {
        rows::insert(transaction, save, report)?;
        summaries(transaction, save, summary)?;
        evaluations(transaction, save, trainer)?;
        forget_skipped(transaction, run)?;
    }
    // Where several saves were judged together, one may have begun and ended with this record.
    let (began, over): (Vec<_>, Vec<_>) =
        record.anomalies.iter().partition(|anomaly| anomaly.resolved_step.is_none());
    for anomaly in began.into_iter().chain(over) {
        put_anomaly(transaction, run, anomaly)?;
    }
    counters(transaction, run, &record.run_counters)?;
    counters(transaction, 0, &record.daemon_counters)?;
    digest::seal(transaction, run, save)?;
    Ok(true)
}

fn run_id(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<i64> {
    let architecture = match &record.outcome {
        SaveOutcome::Measured { report, .. } => Some(&report.architecture),
        SaveOutcome::Failed { .. } => None,
    };
    transaction.query_row(
        "INSERT INTO runs (path, name, architecture, judged_segment, judged_step) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (path) DO UPDATE SET name = excluded.name, \
         architecture = coalesce(excluded.architecture, architecture), \
         judged_segment = excluded.judged_segment, judged_step = excluded.judged_step, digest = NULL \
         RETURNING id",
        params![
            record.run_path,
            record.run_name,
            architecture,
            record.judged.map(|p| p.segment),
            record.judged.map(|p| signed(p.step)),
        ],
        |row| row.get(0),
    )
}

/// `None` where it is there already.
fn insert_save(
    transaction: &Transaction<'_>,
    run: i64,
    record: &Record,
) -> rusqlite::Result<Option<i64>> {
    let Record { key, place, age, .. } = record;
    let (state, error) = match &record.outcome {
        SaveOutcome::Measured { .. } => ("analyzed", None),
        SaveOutcome::Failed { reason, error } => (*reason, Some(error)),
    };
    let n = transaction.execute(
        "INSERT OR IGNORE INTO saves (run, path, modified_ns, size_bytes, saved_at, analyzed_at, \
         analysis_seconds, segment, place, age_segment, age_step, sequence, step, state, error, \
         has_details) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            run,
            key.path,
            key.modified_ns,
            signed(key.size_bytes),
            record.saved_at,
            record.analyzed_at,
            record.seconds,
            place.segment,
            signed(place.step),
            age.segment,
            age.step.map(signed),
            signed(age.sequence),
            record.step.map(signed),
            state,
            error,
            error.is_none(),
        ],
    )?;
    if n == 0 {
        return Ok(None);
    }
    let save = transaction.last_insert_rowid();
    if let SaveOutcome::Measured { report, trainer, .. } = &record.outcome {
        transaction.execute(
            "UPDATE saves SET checkpoint = ?2, format = ?3, architecture = ?4, parameters = ?5, \
             nan = ?6, inf = ?7, train_loss = ?8, learning_rate = ?9, grad_norm = ?10, \
             optimizer = ?11, weight_decay = ?12, momentum = ?13, global_step = ?14, \
             max_steps = ?15, first_loss = ?16 WHERE id = ?1",
            params![
                save,
                report.checkpoint,
                report.format,
                report.architecture,
                signed(report.parameters),
                signed(report.nan),
                signed(report.inf),
                trainer.loss,
                trainer.learning_rate,
                trainer.grad_norm,
                trainer.optimizer,
                trainer.weight_decay,
                trainer.momentum,
                trainer.global_step.map(signed),
                trainer.max_steps.map(signed),
                trainer.first_loss,
            ],
        )?;
    }
    Ok(Some(save))
}

fn summaries(transaction: &Transaction<'_>, save: i64, summary: &Summary) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO summaries (save, metric, layer, pair, value) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let Summary { alignment, ln_gap, ln_commutator, ln_update, ln_norm } = summary;
    for (metric, of_pairs) in [("alignment_mean", alignment), ("ln_commutator", ln_commutator)] {
        for (pair, value) in of_pairs {
            insert.execute(params![save, metric, None::<i64>, pair, value])?;
        }
    }
    for ((layer, pair), value) in ln_gap {
        insert.execute(params![save, "ln_gap", layer.map(index), pair, value])?;
    }
    for (metric, value) in [("ln_update", ln_update), ("ln_norm", ln_norm)] {
        if let Some(value) = value {
            insert.execute(params![save, metric, None::<i64>, "", value])?;
        }
    }
    Ok(())
}

fn evaluations(
    transaction: &Transaction<'_>,
    save: i64,
    trainer: &TrainerState,
) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO evaluations (save, metric, value) VALUES (?1, ?2, ?3)")?;
    for (metric, value) in &trainer.eval {
        insert.execute(params![save, metric, value])?;
    }
    Ok(())
}

/// What was not measured is the same for every save of a run, most often, and long.
fn forget_skipped(transaction: &Transaction<'_>, run: i64) -> rusqlite::Result<()> {
    let newest = "SELECT id FROM saves WHERE run = ?1 ORDER BY segment DESC, place DESC LIMIT 1";
    let newest: i64 = transaction.query_row(newest, [run], |row| row.get(0))?;
    // Where an older save is measured late, its own rows are the ones to go.
    transaction.execute(
        "DELETE FROM skipped WHERE save <> ?1 AND save IN (SELECT id FROM saves WHERE run = ?2)",
        [newest, run],
    )?;
    Ok(())
}

fn put_anomaly(transaction: &Transaction<'_>, run: i64, anomaly: &Anomaly) -> rusqlite::Result<()> {
    let Anomaly { kind, subject, severity, .. } = anomaly;
    let (layer, head) = (subject.layer.map(index), subject.head.map(index));
    if anomaly.resolved_step.is_some() {
        let n = transaction.execute(
            "UPDATE anomalies SET resolved_step = ?1, digest = NULL WHERE run = ?2 AND kind = ?3 AND layer IS ?4 \
             AND pair IS ?5 AND head IS ?6 AND name = ?7 AND segment = ?8 AND onset_step = ?9",
            params![
                anomaly.resolved_step.map(signed),
                run,
                kind.as_str(),
                layer,
                subject.pair.as_deref(),
                head,
                &*subject.name,
                anomaly.segment,
                signed(anomaly.onset_step),
            ],
        )?;
        if n > 0 {
            return Ok(());
        }
    }
    transaction.execute(
        "INSERT INTO anomalies (run, kind, severity, layer, pair, head, name, segment, onset_step, \
         before, after, z, last_good_step, resolved_step) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            run,
            kind.as_str(),
            severity.as_str(),
            layer,
            subject.pair.as_deref(),
            head,
            &*subject.name,
            anomaly.segment,
            signed(anomaly.onset_step),
            anomaly.before,
            anomaly.after,
            anomaly.z,
            anomaly.last_good_step.map(signed),
            anomaly.resolved_step.map(signed),
        ],
    )?;
    Ok(())
}

fn counters(
    transaction: &Transaction<'_>,
    run: i64,
    values: &BTreeMap<(String, String), f64>,
) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO counters (run, name, label, value) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for ((name, label), value) in values {
        put.execute(params![run, name, label, value])?;
    }
    Ok(())
}
