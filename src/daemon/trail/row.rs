//! One save as a line of JSON numbers, and what these are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use crate::history::{Place, Profile};

/// What a row takes beside its text.
const OVERHEAD: usize = 96;

/// What is known of a save as a whole.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Unix seconds.
    pub(super) saved_at: Option<f64>,
    /// Training loss.
    pub(super) loss: Option<f64>,
    /// NaN and infinite weights.
    pub(super) n_nonfinite: Option<u64>,
    /// Kind of pair → mean gram correlation.
    pub(super) means: BTreeMap<&'static str, f64>,
}

/// A save.
#[derive(Debug)]
pub(super) struct Row {
    /// What the numbers are, as a JSON list.
    pub(super) columns: Arc<str>,
    /// The numbers, as a JSON list; what is not known is null.
    pub(super) text: Box<str>,
    /// Whether the numbers of its layers are among them.
    pub(super) has_layers: bool,
}

impl Row {
    pub(super) fn new(place: Place, facts: &Facts, profile: Option<&Profile>) -> Self {
        let mut line = Line::default();
        line.text(json!({"metric": "step"}), &place.step.to_string());
        line.text(json!({"metric": "segment"}), &place.segment.to_string());
        // A double holds a millisecond of this century.
        let saved_at = facts.saved_at.filter(|at| at.is_finite()).map(|at| format!("{at:.3}"));
        line.text(json!({"metric": "saved_at"}), saved_at.as_deref().unwrap_or("null"));
        line.number(json!({"metric": "train_loss"}), facts.loss);
        let n_nonfinite = facts.n_nonfinite.map(|n| n.to_string());
        line.text(json!({"metric": "nonfinite_weights"}), n_nonfinite.as_deref().unwrap_or("null"));
        // Means and extremes of the layers that are left would look better than the run is.
        let is_finite = facts.n_nonfinite.unwrap_or(0) == 0;
        for (pair, mean) in &facts.means {
            line.number(
                json!({"metric": "alignment_mean", "pair": pair}),
                is_finite.then_some(*mean),
            );
        }
        if let Some(profile) = profile {
            line.layers(profile, is_finite);
        }
        let Line { columns, text } = line;
        Self {
            columns: format!("[{columns}]").into(),
            text: format!("[{text}]").into(),
            has_layers: profile.is_some(),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

/// Columns and their numbers, side by side.
#[derive(Debug, Default)]
struct Line {
    columns: String,
    text: String,
}

impl Line {
    /// Metrics and labels are named as in Prometheus.
    fn layers(&mut self, profile: &Profile, is_finite: bool) {
        for (pair, max) in profile.maxima() {
            let max = is_finite.then_some(max);
            self.number(json!({"metric": "commutator_max_ratio", "pair": pair}), max);
        }
        for pair in &profile.pairs {
            let column = |metric| json!({"metric": metric, "pair": pair.pair, "layer": pair.layer});
            self.number(column("gram_correlation"), pair.gram_correlation);
            self.number(column("commutator_vs_chance"), pair.commutator);
        }
        for heads in &profile.heads {
            let (projection, layer) = (heads.projection, heads.layer);
            let column =
                |metric| json!({"metric": metric, "projection": projection, "layer": layer});
            self.number(column("head_overlap_ratio"), heads.overlap);
            self.number(column("head_overlap_chance_ratio"), heads.chance);
            self.number(column("effective_heads"), heads.effective);
        }
    }

    /// Four digits, which is more than a picture shows.
    fn number(&mut self, column: serde_json::Value, value: Option<f64>) {
        let value = value.filter(|value| value.is_finite());
        let rounded = value.and_then(|value| format!("{value:.3e}").parse::<f64>().ok());
        // -0 is 0.
        let text = rounded.map(|value| json!(value + 0.0).to_string());
        self.text(column, text.as_deref().unwrap_or("null"));
    }

    #[expect(clippy::needless_pass_by_value, reason = "made where it is handed over")]
    fn text(&mut self, column: serde_json::Value, value: &str) {
        let comma = if self.text.is_empty() { "" } else { "," };
        write!(self.columns, "{comma}{column}").expect("a String takes every character");
        write!(self.text, "{comma}{value}").expect("a String takes every character");
    }
}
