//! What is drawn of each run: a row for every save, written once, when the save is measured. A request
//! for the history of a run gets bytes that are there already.

mod row;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use hyper::body::Bytes;

use crate::history::{Place, Profile, Record, SaveOutcome, StoredProfile, StoredSave};
use row::{Facts, Row};

/// Bytes of the rows of one run.
const MAX_RUN_BYTES: usize = 2 << 20;

/// Bytes of all rows; the runs share them evenly.
const MAX_BYTES: usize = 16 << 20;

/// Saves at the end of a trail that are kept as long as there are older ones.
const NEWEST: usize = 64;

/// Saves of before the start, with their layers.
#[derive(Debug)]
pub(super) struct Past(Vec<(Place, Row)>);

/// Their rows, made where they are read: of a large model that takes a while.
pub(super) fn past(saves: Vec<StoredProfile>) -> Past {
    let row = |save: StoredProfile| {
        let StoredProfile { place, saved_at, loss, n_nonfinite, profile } = save;
        let facts = Facts { saved_at, loss, n_nonfinite, means: profile.means() };
        (place, Row::new(place, &facts, Some(&profile)))
    };
    Past(saves.into_iter().map(row).collect())
}

/// The trails of all runs, by name.
#[derive(Debug, Default)]
pub(super) struct Trails {
    runs: BTreeMap<String, Trail>,
}

impl Trails {
    /// Takes in a measured save.
    pub(super) fn add(&mut self, record: &Record) {
        let SaveOutcome::Measured { report, trainer, .. } = &record.outcome else { return };
        let profile = Profile::new(report);
        let facts = Facts {
            saved_at: record.saved_at,
            loss: trainer.loss,
            n_nonfinite: Some(report.n_nonfinite()),
            means: profile.means(),
        };
        let trail = self.runs.entry(record.run_name.clone()).or_default();
        trail.put(record.place, Row::new(record.place, &facts, Some(&profile)));
    }

    /// Takes over what was recorded of a run before the start, without its layers.
    pub(super) fn restore(&mut self, run: &str, saves: &[StoredSave]) {
        let trail = self.runs.entry(run.to_owned()).or_default();
        for save in saves.iter().filter(|save| save.error.is_none()) {
            let facts = Facts {
                saved_at: save.saved_at,
                loss: save.trainer.loss,
                n_nonfinite: None,
                means: save.summary.alignment.clone(),
            };
            trail.put(save.place, Row::new(save.place, &facts, None));
        }
    }

    /// Adds the layers to saves that were taken over without them. What was measured since is newer.
    pub(super) fn refine(&mut self, run: &str, past: Past) {
        let Some(trail) = self.runs.get_mut(run) else { return };
        for (place, row) in past.0 {
            if trail.rows.get(&place).is_some_and(|known| !known.has_layers) {
                trail.put(place, row);
            }
        }
    }

    pub(super) fn forget(&mut self, run: &str) {
        self.runs.remove(run);
    }

    /// Run → its history as JSON, the same bytes until something is added to it.
    pub(super) fn bodies(&mut self) -> BTreeMap<String, Bytes> {
        let limit = (MAX_BYTES / self.runs.len().max(1)).min(MAX_RUN_BYTES);
        let body = |(run, trail): (&String, &mut Trail)| {
            trail.hold_to(limit);
            (run.clone(), trail.body(run))
        };
        self.runs.iter_mut().map(body).collect()
    }
}

/// The saves of one run in the order of training, however they were measured.
#[derive(Debug, Default)]
struct Trail {
    rows: BTreeMap<Place, Row>,
    n_bytes: usize,
    /// Steps between two older saves, at least; 0 while all are kept.
    spacing: u64,
    n_thinned: u64,
    body: Option<Bytes>,
}

impl Trail {
    fn put(&mut self, place: Place, mut row: Row) {
        // One model has one list of columns.
        let before = self.rows.range(..place).next_back().or_else(|| self.rows.iter().next());
        if let Some((_, other)) = before
            && other.columns == row.columns
        {
            row.columns = Arc::clone(&other.columns);
        }
        self.n_bytes += row.n_bytes();
        if let Some(old) = self.rows.insert(place, row) {
            self.n_bytes -= old.n_bytes();
        }
        self.body = None;
    }

    /// Gives up saves until the rows take at most `limit` bytes: of the older ones those that are
    /// closest to others, so that the whole training stays in view; the newest is never given up.
    fn hold_to(&mut self, limit: usize) {
        // Some room at a time, so that not every further save costs a look at all.
        let target = limit / 4 * 3;
        if self.n_bytes <= limit {
            return;
        }
        while self.n_bytes > target && self.rows.len() > 1 {
            if self.thin() == 0 {
                let first = *self.rows.keys().next().expect("there are two");
                self.remove(first);
            }
        }
        self.body = None;
    }

    /// Gives up older saves at less than a distance, twice that of before; says how many.
    fn thin(&mut self) -> usize {
        let n_older = self.rows.len().saturating_sub(NEWEST);
        let older: Vec<Place> = self.rows.keys().take(n_older).copied().collect();
        let gap =
            |two: &[Place]| (two[0].segment == two[1].segment).then(|| two[1].step - two[0].step);
        let Some(least) = older.windows(2).filter_map(gap).min() else { return 0 };
        self.spacing = self.spacing.saturating_mul(2).max(least.saturating_mul(2));
        let mut kept: Option<Place> = None;
        let mut n_removed = 0;
        for place in older {
            let is_close = kept.is_some_and(|kept| {
                kept.segment == place.segment && place.step - kept.step < self.spacing
            });
            if is_close {
                self.remove(place);
                n_removed += 1;
            } else {
                kept = Some(place);
            }
        }
        n_removed
    }

    fn remove(&mut self, place: Place) {
        if let Some(row) = self.rows.remove(&place) {
            self.n_bytes -= row.n_bytes();
            self.n_thinned += 1;
        }
    }

    fn body(&mut self, run: &str) -> Bytes {
        if let Some(body) = &self.body {
            return body.clone();
        }
        let name = serde_json::to_string(run).expect("a text is JSON");
        let mut body = String::with_capacity(self.n_bytes + 4096);
        write!(body, "{{\"run\":{name},\"thinned\":{},\"parts\":[", self.n_thinned)
            .expect("a String takes every character");
        let mut columns: Option<&Arc<str>> = None;
        for row in self.rows.values() {
            if columns == Some(&row.columns) {
                body.push(',');
            } else {
                body.push_str(if columns.is_some() { "]},{\"columns\":" } else { "{\"columns\":" });
                body.push_str(&row.columns);
                body.push_str(",\"rows\":[");
                columns = Some(&row.columns);
            }
            body.push_str(&row.text);
        }
        body.push_str(if columns.is_some() { "]}]}\n" } else { "]}\n" });
        let body = Bytes::from(body);
        self.body = Some(body.clone());
        body
    }
}

#[cfg(test)]
mod tests;
