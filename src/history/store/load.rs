//! What was recorded, for a daemon that starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Row, params};

use super::words::word;
use super::{SaveKey, Store, StoreError, StoredAge, index, rows};
use crate::checkpoint::TrainerState;
use crate::diagnostics::Report;
use crate::history::judge::HORIZON;
use crate::history::kind::{Anomaly, Kind, Severity, Subject};
use crate::history::point::{Place, Point};
use crate::history::summary::Summary;

/// Saves of one run that are handed out, the newest; anomalies that are over, likewise.
const MAX_SAVES: usize = 10_000;
const MAX_OVER: usize = 100;

/// One run as it was recorded.
#[derive(Debug, Clone, Default)]
pub struct StoredRun {
    /// Absolute path.
    pub path: String,
    /// Its name then.
    pub name: String,
    /// Name and label → value.
    pub counters: BTreeMap<(String, String), f64>,
    /// In the order of their places.
    pub saves: Vec<StoredSave>,
    /// The newest measured save, as an index of `saves`, with its report and the trainer's record.
    pub newest: Option<(usize, Report, TrainerState)>,
    /// The last saves that were judged, oldest first.
    pub judged: Vec<Point>,
    /// Saves that were not judged yet.
    pub unjudged: Vec<Point>,
    /// Open anomalies in the order in which they began.
    pub open: Vec<Anomaly>,
    /// Those that are over, oldest first.
    pub over: Vec<Anomaly>,
}

/// One recorded save.
#[derive(Debug, Clone)]
pub struct StoredSave {
    id: i64,
    /// Which content.
    pub key: SaveKey,
    /// When it was complete, Unix seconds.
    pub saved_at: Option<f64>,
    /// Wall time of its analysis, seconds.
    pub seconds: f64,
    /// Its place in the judgement.
    pub place: Place,
    /// Its place in the daemon's order.
    pub age: StoredAge,
    /// Its step.
    pub step: Option<u64>,
    /// Why it was not measured, in words.
    pub error: Option<String>,
    /// The trainer's record.
    pub trainer: TrainerState,
    /// Its measurements in a few numbers.
    pub summary: Summary,
}

impl Store {
    /// All runs.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn runs(&self) -> Result<Vec<StoredRun>, StoreError> {
        let mut all = self.connection.prepare("SELECT * FROM runs ORDER BY path")?;
        let head = |row: &Row<'_>| {
            let place = maybe(row, "judged_segment")?.zip(maybe(row, "judged_step")?);
            let place = place.map(|(segment, step)| Place { segment: small(segment), step });
            let (path, name) = (row.get("path")?, row.get("name")?);
            let run = StoredRun { path, name, ..StoredRun::default() };
            Ok((row.get::<_, i64>("id")?, place, run))
        };
        let heads: Vec<_> = all.query_map([], head)?.collect::<Result<_, _>>()?;
        heads.into_iter().map(|(id, judged, run)| self.filled(id, judged, run)).collect()
    }

    /// Counters of the daemon itself.
    ///
    /// # Errors
    /// As SQLite has them.
    pub fn daemon_counters(&self) -> Result<BTreeMap<(String, String), f64>, StoreError> {
        self.counters(0)
    }

    fn filled(
        &self,
        id: i64,
        judged: Option<Place>,
        mut run: StoredRun,
    ) -> Result<StoredRun, StoreError> {
        run.counters = self.counters(id)?;
        run.saves = self.saves(id)?;
        let measured = || run.saves.iter().enumerate().filter(|(_, save)| save.error.is_none());
        let age = |save: &StoredSave| (save.age.segment, save.age.step, save.age.sequence);
        if let Some((at, save)) = measured().max_by_key(|(_, save)| age(save)) {
            let report = self.report(save.id, true)?;
            run.newest = Some((at, report, save.trainer.clone()));
        }
        for (_, save) in measured().skip(measured().count().saturating_sub(2 * HORIZON)) {
            let report = self.report(save.id, false)?;
            let point = Point::new(save.place, &report, &save.trainer);
            let is_judged = judged.is_some_and(|judged| save.place <= judged);
            let points = if is_judged { &mut run.judged } else { &mut run.unjudged };
            let point = match points.last() {
                Some(before) => point.sharing(before),
                None => point,
            };
            points.push(point);
        }
        let excess = run.judged.len().saturating_sub(HORIZON);
        run.judged.drain(..excess);
        run.open = self.anomalies(id, "resolved_step IS NULL ORDER BY id")?;
        let over = "resolved_step IS NOT NULL ORDER BY id DESC";
        run.over = self.anomalies(id, &format!("{over} LIMIT {MAX_OVER}"))?;
        run.over.reverse();
        Ok(run)
    }

    fn counters(&self, run: i64) -> Result<BTreeMap<(String, String), f64>, StoreError> {
        let mut all = self
            .connection
            .prepare_cached("SELECT name, label, value FROM counters WHERE run = ?1")?;
        let counter = |row: &Row<'_>| Ok(((row.get(0)?, row.get(1)?), row.get(2)?));
        Ok(all.query_map([run], counter)?.collect::<Result<_, _>>()?)
    }

    /// Of the saves of a run the newest, in the order of their places.
    pub(super) fn saves(&self, run: i64) -> Result<Vec<StoredSave>, StoreError> {
        let mut all = self.connection.prepare_cached(
            "SELECT * FROM saves WHERE run = ?1 ORDER BY segment DESC, place DESC, id DESC LIMIT ?2",
        )?;
        let rows = all.query_map(params![run, index(MAX_SAVES)], save)?;
        let mut saves: Vec<StoredSave> = rows.collect::<Result<_, _>>()?;
        saves.reverse();
        let at: BTreeMap<i64, usize> = saves.iter().enumerate().map(|(i, s)| (s.id, i)).collect();
        let mut all = self.connection.prepare_cached(
            "SELECT save, metric, layer, pair, value FROM summaries WHERE save IN \
             (SELECT id FROM saves WHERE run = ?1)",
        )?;
        let mut rows = all.query([run])?;
        while let Some(row) = rows.next()? {
            let Some(save) = at.get(&row.get(0)?).and_then(|i| saves.get_mut(*i)) else { continue };
            let (metric, pair): (String, String) = (row.get(1)?, row.get(3)?);
            let layer = maybe(row, "layer")?.and_then(|layer| usize::try_from(layer).ok());
            let (summary, value) = (&mut save.summary, row.get(4)?);
            match metric.as_str() {
                "alignment_mean" => drop(summary.alignment.insert(word(&pair), value)),
                "ln_commutator" => drop(summary.ln_commutator.insert(word(&pair), value)),
                "ln_gap" => drop(summary.ln_gap.insert((layer, word(&pair)), value)),
                "ln_update" => summary.ln_update = Some(value),
                "ln_norm" => summary.ln_norm = Some(value),
                _ => {}
            }
        }
        let mut all = self.connection.prepare_cached(
            "SELECT save, metric, value FROM evaluations WHERE save IN \
             (SELECT id FROM saves WHERE run = ?1)",
        )?;
        let mut rows = all.query([run])?;
        while let Some(row) = rows.next()? {
            if let Some(save) = at.get(&row.get(0)?).and_then(|i| saves.get_mut(*i)) {
                save.trainer.eval.insert(row.get(1)?, row.get(2)?);
            }
        }
        Ok(saves)
    }

    /// The report of a save; without its matrices, pairs and heads where these were given up.
    pub(super) fn report_of(&self, save: &StoredSave) -> Result<Report, StoreError> {
        self.report(save.id, true)
    }

    pub(super) fn has_details(&self, save: &StoredSave) -> Result<bool, StoreError> {
        let mut one =
            self.connection.prepare_cached("SELECT has_details FROM saves WHERE id = ?1")?;
        Ok(one.query_row([save.id], |row| row.get(0))?)
    }

    fn report(&self, save: i64, whole: bool) -> Result<Report, StoreError> {
        let head = |row: &Row<'_>| {
            let text = |column: &str| row.get::<_, Option<String>>(column);
            Ok(Report {
                checkpoint: text("checkpoint")?.unwrap_or_default(),
                step: maybe(row, "step")?,
                format: word(&text("format")?.unwrap_or_default()),
                architecture: text("architecture")?.unwrap_or_default(),
                parameters: maybe(row, "parameters")?.unwrap_or(0),
                nan: maybe(row, "nan")?.unwrap_or(0),
                inf: maybe(row, "inf")?.unwrap_or(0),
                ..Report::default()
            })
        };
        let mut one = self.connection.prepare_cached("SELECT * FROM saves WHERE id = ?1")?;
        let mut report = one.query_row([save], head)?;
        rows::load(&self.connection, save, &mut report, whole)?;
        Ok(report)
    }

    fn anomalies(&self, run: i64, which: &str) -> Result<Vec<Anomaly>, StoreError> {
        let query = format!("SELECT * FROM anomalies WHERE run = ?1 AND {which}");
        let mut all = self.connection.prepare_cached(&query)?;
        let found: Vec<Option<Anomaly>> =
            all.query_map([run], anomaly)?.collect::<Result<_, _>>()?;
        // Kinds of a later version are left out.
        Ok(found.into_iter().flatten().collect())
    }
}

fn save(row: &Row<'_>) -> rusqlite::Result<StoredSave> {
    Ok(StoredSave {
        id: row.get("id")?,
        key: SaveKey {
            path: row.get("path")?,
            modified_ns: row.get("modified_ns")?,
            size_bytes: maybe(row, "size_bytes")?.unwrap_or(0),
        },
        saved_at: row.get("saved_at")?,
        seconds: row.get("analysis_seconds")?,
        place: Place { segment: row.get("segment")?, step: maybe(row, "place")?.unwrap_or(0) },
        age: StoredAge {
            segment: row.get("age_segment")?,
            step: maybe(row, "age_step")?,
            sequence: maybe(row, "sequence")?.unwrap_or(0),
        },
        step: maybe(row, "step")?,
        error: row.get("error")?,
        trainer: TrainerState {
            global_step: maybe(row, "global_step")?,
            max_steps: maybe(row, "max_steps")?,
            optimizer: row.get("optimizer")?,
            weight_decay: row.get("weight_decay")?,
            momentum: row.get("momentum")?,
            loss: row.get("train_loss")?,
            first_loss: row.get("first_loss")?,
            learning_rate: row.get("learning_rate")?,
            grad_norm: row.get("grad_norm")?,
            eval: BTreeMap::new(),
        },
        summary: Summary::default(),
    })
}

fn anomaly(row: &Row<'_>) -> rusqlite::Result<Option<Anomaly>> {
    let text = |column: &str| row.get::<_, String>(column);
    let (kind, severity) = (Kind::of(&text("kind")?), Severity::of(&text("severity")?));
    let Some((kind, severity)) = kind.zip(severity) else { return Ok(None) };
    let small = |column: &str| -> rusqlite::Result<Option<usize>> {
        Ok(maybe(row, column)?.and_then(|n| usize::try_from(n).ok()))
    };
    let subject = Subject {
        layer: small("layer")?,
        pair: row.get::<_, Option<String>>("pair")?.map(Into::into),
        head: small("head")?,
        name: text("name")?.into(),
    };
    Ok(Some(Anomaly {
        kind,
        subject: Arc::new(subject),
        severity,
        onset_step: maybe(row, "onset_step")?.unwrap_or(0),
        segment: row.get("segment")?,
        before: row.get("before")?,
        after: row.get("after")?,
        z: row.get("z")?,
        last_good_step: maybe(row, "last_good_step")?,
        resolved_step: maybe(row, "resolved_step")?,
    }))
}

fn maybe(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|n| u64::try_from(n).ok()))
}

fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
