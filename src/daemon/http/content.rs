//! What is served: bytes rendered once per change and swapped as a whole.

mod lists;
mod run;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use super::super::page;
use crate::metrics::{self, Exposition, RunFacts, Snapshot};
use lists::{AnomalyList, RunEntry, RunList};
pub use run::RunBodies;

/// Runs named in one event; where more have changed it says so.
const MAX_NAMED: usize = 100;

/// All bodies of one moment.
#[derive(Debug, Default)]
pub struct Content {
    /// `/metrics` in its four forms.
    pub exposition: Exposition,
    /// `/`, as HTML.
    pub page: Bytes,
    /// `/api/v1/runs`, as JSON.
    pub runs: Bytes,
    /// `/api/v1/anomalies`, as JSON.
    pub anomalies: Bytes,
    /// What is served of each run, by name.
    pub of_runs: BTreeMap<String, Arc<RunBodies>>,
    /// Whether the first scan is done.
    pub ready: bool,
    /// Whether nothing was published yet.
    pub is_loading: bool,
    /// Rises with each moment at which a page shows something else than before.
    pub version: u64,
    /// The version at which a run came or went, or the daemon's own state changed.
    list_version: u64,
    /// What the daemon says of itself, as far as it is worth an event.
    health: Vec<String>,
    /// End of the last scan, Unix seconds.
    last_scan: Option<f64>,
}

impl Content {
    /// Renders every body. What of a run has not changed since `previous` is not rendered again.
    /// `histories` is run → its numbers over all saves, as JSON.
    #[must_use]
    pub fn render(
        snapshot: &Snapshot,
        histories: &BTreeMap<String, Bytes>,
        ready: bool,
        previous: &Self,
    ) -> Self {
        let next = previous.version + 1;
        let of_runs: BTreeMap<String, Arc<RunBodies>> = snapshot
            .runs
            .iter()
            .map(|run| {
                let history = histories.get(&run.name).cloned();
                let before = previous.of_runs.get(&run.name);
                (run.name.clone(), RunBodies::render_or_keep(run, history, before, next))
            })
            .collect();
        let health = page::health(snapshot);
        let is_listed_anew =
            health != previous.health || !of_runs.keys().eq(previous.of_runs.keys());
        let has_changed = is_listed_anew || of_runs.values().any(|run| run.version == next);
        let mut runs: Vec<&RunFacts> = snapshot.runs.iter().collect();
        runs.sort_by_key(|run| &run.name);
        let anomalies = AnomalyList::of(&runs);
        let runs = RunList { runs: runs.into_iter().map(RunEntry::of).collect() };
        Self {
            exposition: metrics::render(snapshot),
            page: page::overview(snapshot).into(),
            runs: json(&runs),
            anomalies: json(&anomalies),
            of_runs,
            ready,
            is_loading: false,
            version: if has_changed { next } else { previous.version },
            list_version: if is_listed_anew { next } else { previous.list_version },
            health,
            last_scan: snapshot.daemon.as_ref().and_then(|d| d.last_scan_timestamp_seconds),
        }
    }

    /// What an open page is told: which runs have changed since `version`, with `list` whether runs
    /// have come or gone or the daemon itself has changed, and the end of the last scan.
    pub(super) fn changes_since(&self, version: u64) -> String {
        let changed = self.of_runs.iter().filter(|(_, run)| run.version > version);
        let mut runs: Vec<&String> = changed.map(|(name, _)| name).collect();
        let is_cut = runs.len() > MAX_NAMED;
        runs.truncate(MAX_NAMED);
        let changes = Changes {
            version: self.version,
            runs,
            // A page that cannot find itself in a list that is cut looks for itself.
            list: is_cut || self.list_version > version,
            last_scan: self.last_scan,
        };
        serde_json::to_string(&changes).expect("map keys are strings")
    }
}

/// Data of an event.
#[derive(Debug, Serialize)]
struct Changes<'a> {
    version: u64,
    runs: Vec<&'a String>,
    list: bool,
    last_scan: Option<f64>,
}

/// The content that is served now.
#[derive(Debug)]
pub struct Served {
    content: RwLock<Arc<Content>>,
    /// The version of the content; a stream that is behind sees the last one only.
    version: watch::Sender<u64>,
}

impl Default for Served {
    /// An empty exposition, not ready.
    fn default() -> Self {
        let nothing = Content::default();
        let empty = Content::render(&Snapshot::default(), &BTreeMap::new(), false, &nothing);
        let content = Content { is_loading: true, ..empty };
        let version = watch::Sender::new(content.version);
        Self { content: RwLock::new(Arc::new(content)), version }
    }
}

impl Served {
    /// Renders and serves a snapshot and the histories of its runs. To be called from one thread;
    /// `ready` once the first scan is done. Returns run → series left out, to be added once per new
    /// report to [`DaemonFacts::series_dropped_total`](metrics::DaemonFacts::series_dropped_total).
    pub fn publish(
        &self,
        snapshot: &Snapshot,
        histories: &BTreeMap<String, Bytes>,
        ready: bool,
    ) -> BTreeMap<String, u64> {
        let content = Content::render(snapshot, histories, ready, &self.current());
        let dropped = content.exposition.dropped.clone();
        let version = content.version;
        // The lock is held for the swap of one pointer, never while rendering.
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
        self.version.send_if_modified(|known| std::mem::replace(known, version) != version);
        dropped
    }

    /// What is served at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Content> {
        Arc::clone(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of every later version.
    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut body = serde_json::to_vec(value).expect("map keys are strings or integers");
    body.push(b'\n');
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{DaemonFacts, RunState};

    fn snapshot(runs: &[(&str, u64)], scan: f64) -> Snapshot {
        let run = |&(name, step): &(&str, u64)| RunFacts {
            name: name.to_owned(),
            latest_step: Some(step),
            state: RunState::Waiting,
            ..RunFacts::default()
        };
        let daemon =
            DaemonFacts { last_scan_timestamp_seconds: Some(scan), ..DaemonFacts::default() };
        Snapshot {
            daemon: Some(daemon),
            runs: runs.iter().map(run).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_panic_while_a_page_is_drawn_costs_that_page() {
        let served = Served::default();
        served.publish(&snapshot(&[("planted", 1), ("a", 1)], 1.0), &BTreeMap::new(), true);
        let content = served.current();
        assert!(content.of_runs["planted"].page.starts_with(b"The page of this run cannot"));
        assert!(content.of_runs["a"].page.starts_with(b"<!DOCTYPE html>"));
        let metrics = String::from_utf8(content.exposition.text.to_vec()).unwrap();
        assert!(metrics.contains(r#"run="planted""#));
    }

    #[test]
    fn only_what_has_changed_is_named_and_rendered() {
        let served = Served::default();
        let publish = |runs: &[(&str, u64)], scan| {
            served.publish(&snapshot(runs, scan), &BTreeMap::new(), true);
            served.current()
        };
        let changes = |content: &Content, since| -> serde_json::Value {
            serde_json::from_str(&content.changes_since(since)).unwrap()
        };
        let first = publish(&[("a", 1), ("b\"", 1)], 1.0);
        let said = changes(&first, 0);
        assert_eq!(
            (&said["runs"], &said["list"]),
            (&serde_json::json!(["a", "b\""]), &true.into())
        );
        let again = publish(&[("a", 1), ("b\"", 1)], 2.0);
        assert_eq!(again.version, first.version, "a scan alone is no news");
        assert!(Arc::ptr_eq(&again.of_runs["a"], &first.of_runs["a"]));
        let then = publish(&[("a", 1), ("b\"", 2)], 2.0);
        let said = changes(&then, again.version);
        assert_eq!((&said["runs"], &said["list"]), (&serde_json::json!(["b\""]), &false.into()));
        assert!(Arc::ptr_eq(&then.of_runs["a"], &first.of_runs["a"]));
        let less = publish(&[("a", 1)], 2.0);
        let said = changes(&less, then.version);
        assert_eq!((&said["runs"], &said["list"]), (&serde_json::json!([]), &true.into()));
        let many: Vec<String> = (0..MAX_NAMED + 5).map(|i| i.to_string()).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|name| (name.as_str(), 1)).collect();
        let said = changes(&publish(&many, 2.0), less.version);
        assert_eq!(said["runs"].as_array().unwrap().len(), MAX_NAMED);
        assert_eq!(said["list"], true);
    }
}
