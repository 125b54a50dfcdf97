//! What is served of one run.

use std::sync::Arc;

use hyper::body::Bytes;
use serde::Serialize;
use tracing::error;

use super::json;
use super::lists::RunEntry;
use crate::daemon::{guard, page};
use crate::diagnostics::Report;
use crate::history::Anomaly;
use crate::metrics::RunFacts;

/// Bodies of one run.
#[derive(Debug)]
pub struct RunBodies {
    /// `/runs/{name}`, as HTML.
    pub page: Bytes,
    /// `/api/v1/runs/{name}`: the newest report, and the same as JSON.
    pub report: Option<(Arc<Report>, Bytes)>,
    /// `/api/v1/history/{name}`, as JSON.
    pub history: Bytes,
    /// The content's version at which one of them last changed.
    pub version: u64,
    /// What the page was rendered from, beside the report.
    facts: Bytes,
}

/// What makes another page, beside the report.
#[derive(Serialize)]
struct Facts<'a> {
    entry: RunEntry<'a>,
    open: &'a [Anomaly],
    over: Vec<&'a Anomaly>,
    last_good_step: Option<u64>,
    discovered: u64,
    analyzed: u64,
    train_loss: Option<f64>,
    learning_rate: Option<f64>,
    save_interval: Option<f64>,
    last_duration: Option<f64>,
}

impl<'a> Facts<'a> {
    fn of(run: &'a RunFacts) -> Self {
        Self {
            entry: RunEntry::of(run),
            open: run.chronicle.open(),
            over: run.chronicle.over().collect(),
            last_good_step: run.chronicle.last_good_step(),
            discovered: run.discovered_total,
            analyzed: run.analyzed_total,
            train_loss: run.train_loss,
            learning_rate: run.learning_rate,
            save_interval: run.save_interval_seconds,
            last_duration: run.last_duration_seconds,
        }
    }
}

impl RunBodies {
    /// As [`RunBodies::render`]; a fault in it costs this run's page, which stays as it was.
    pub(super) fn render_or_keep(
        run: &RunFacts,
        history: Option<Bytes>,
        before: Option<&Arc<Self>>,
        version: u64,
    ) -> Arc<Self> {
        let rendered = guard::caught(|| Self::render(run, history, before, version));
        rendered.unwrap_or_else(|panic| {
            error!(run = run.name, panic, "internal error, the page of a run cannot be drawn");
            let nothing = || {
                let page = "The page of this run cannot be drawn; the log says why.\n".into();
                let (report, history, facts) = (None, Bytes::new(), Bytes::new());
                Arc::new(Self { page, report, history, version, facts })
            };
            before.map_or_else(nothing, Arc::clone)
        })
    }

    /// Renders what is not as it was; `version` is that of the content to which this belongs.
    pub(super) fn render(
        run: &RunFacts,
        history: Option<Bytes>,
        before: Option<&Arc<Self>>,
        version: u64,
    ) -> Arc<Self> {
        #[cfg(test)]
        assert!(run.name != "planted", "planted");
        let facts = json(&Facts::of(run));
        let nothing = || json(&serde_json::json!({"run": run.name, "thinned": 0, "parts": []}));
        let history = history.unwrap_or_else(nothing);
        let old_report = before.and_then(|before| before.report.as_ref());
        let report = run.report.as_ref().map(|report| match old_report {
            Some((old, body)) if Arc::ptr_eq(old, report) => (Arc::clone(old), body.clone()),
            _ => (Arc::clone(report), json(report.as_ref())),
        });
        if let Some(before) = before {
            let same = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr() && a.len() == b.len();
            let is_same_report = match (&before.report, &report) {
                (Some((_, old)), Some((_, new))) => same(old, new),
                (None, None) => true,
                _ => false,
            };
            let is_same_history = same(&before.history, &history) || before.history == history;
            if is_same_report && is_same_history && before.facts == facts {
                return Arc::clone(before);
            }
        }
        let page = page::run_page(run).into();
        Arc::new(Self { page, report, history, version, facts })
    }
}
