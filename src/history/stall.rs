//! What no longer moves: balance that weight decay should bring, and alignment.

use std::sync::Arc;

use super::kind::{Anomaly, Kind, Rules, Severity, Subject};
use super::point::Point;
use super::track::{WINDOW, median};
use crate::linalg::{ridge_rate_ratio, theil_sen};

/// Saves over which the decay of a gap is fitted for an alarm.
const RIDGE_WINDOW: usize = 6;

/// Least decay of ln gap that the law predicts over the window: less cannot be told from nothing.
const LEAST_DECAY: f64 = 0.1;

/// Weights that move less than this a save are at rest: then so is their alignment, by right.
const AT_REST: f64 = 1e-4;

/// Largest change of the loss over the window, relative to it, that counts as none.
const FLAT_LOSS: f64 = 0.01;

/// Updates count as large from this part of the median over all saves looked at.
const LARGE_UPDATE: f64 = 0.5;

/// Gaps that do not decay as weight decay says, where the optimiser is known to be SGD: the upper
/// bound of the rate, at 95 %, is below that of the rules.
pub(super) fn ridge(points: &[&Point], rules: &Rules) -> Vec<Anomaly> {
    let Some(limit) = rules.ridge_stall else { return Vec::new() };
    let Some(window) = points.len().checked_sub(RIDGE_WINDOW).map(|at| &points[at..]) else {
        return Vec::new();
    };
    let Some(times) = decay_times(window) else { return Vec::new() };
    let predicted = 2.0 * times.last().copied().unwrap_or(0.0);
    let last = window[RIDGE_WINDOW - 1];
    let stalled = last.gaps.iter().filter_map(|(subject, _)| {
        let of = |p: &&Point| p.gaps.iter().find(|(s, _)| s == subject).map(|(_, ln_gap)| *ln_gap);
        let gaps: Vec<f64> = window.iter().map(of).collect::<Option<_>>()?;
        let rate = ridge_rate_ratio(&times, &gaps).filter(|rate| rate.high < limit)?;
        let mut anomaly = last.begins(Kind::RidgeStall, Arc::clone(subject), Severity::Warning);
        (anomaly.before, anomaly.after) = (Some(1.0), Some(rate.slope));
        Some(anomaly)
    });
    if predicted >= LEAST_DECAY { stalled.collect() } else { Vec::new() }
}

/// Σηλ from the first of these saves on; `None` where a rate is not known.
fn decay_times(points: &[&Point]) -> Option<Vec<f64>> {
    let mut time = 0.0;
    let mut times = Vec::with_capacity(points.len());
    let mut before: Option<u64> = None;
    for point in points {
        let steps = before.map_or(0, |before| point.place.step.saturating_sub(before));
        time += real(steps) * point.decay_rate?;
        before = Some(point.place.step);
        times.push(time);
    }
    Some(times)
}

/// A loss that fell to this part of the first is learnt, not stuck.
const LEARNT: f64 = 0.2;

/// Kinds of pairs whose mean alignment has no slope over a window while the weights move. Converged
/// and stalled look the same from the weights, so this is information; with a flat loss beside
/// updates that are as large as ever it is a warning, unless the loss has come down far: then it has
/// converged.
pub(super) fn plateaus(points: &[&Point], rules: &Rules) -> Vec<Anomaly> {
    let Some(limit) = rules.plateau else { return Vec::new() };
    let Some(window) = points.len().checked_sub(WINDOW).map(|at| &points[at..]) else {
        return Vec::new();
    };
    let steps: Vec<f64> = window.iter().map(|p| real(p.place.step)).collect();
    let Some(update) = median_update(window).filter(|update| *update > AT_REST) else {
        return Vec::new();
    };
    let is_large = median_update(points).is_some_and(|usual| update >= LARGE_UPDATE * usual);
    let is_stuck = is_large && is_loss_flat(&steps, window) && !is_learnt(window);
    let severity = if is_stuck { Severity::Warning } else { Severity::Info };
    let last = window[WINDOW - 1];
    let flat = last.alignment.keys().filter_map(|pair| {
        let of = |p: &&Point| p.alignment.get(pair).copied();
        let values: Vec<f64> = window.iter().map(of).collect::<Option<_>>()?;
        (change(&steps, &values)?.abs() <= limit).then(|| {
            let subject = Subject { pair: Some(Arc::clone(pair)), ..Subject::whole() };
            let mut anomaly = last.begins(Kind::Plateau, Arc::new(subject), severity);
            (anomaly.before, anomaly.after) = (values.first().copied(), values.last().copied());
            anomaly
        })
    });
    flat.collect()
}

fn median_update(points: &[&Point]) -> Option<f64> {
    let mut updates: Vec<f64> = points.iter().filter_map(|p| p.median_update()).collect();
    median(&mut updates)
}

fn is_learnt(window: &[&Point]) -> bool {
    let last = window.last().and_then(|point| point.loss.zip(point.first_loss));
    last.is_some_and(|(loss, first)| first > 0.0 && loss <= LEARNT * first)
}

fn is_loss_flat(steps: &[f64], window: &[&Point]) -> bool {
    let losses: Option<Vec<f64>> = window.iter().map(|p| p.loss).collect();
    let Some(mut losses) = losses else { return false };
    let Some(change) = change(steps, &losses) else { return false };
    median(&mut losses).is_some_and(|usual| change.abs() <= FLAT_LOSS * usual.abs())
}

/// Theil–Sen slope times the length of the window.
fn change(steps: &[f64], values: &[f64]) -> Option<f64> {
    let length = steps.last()? - steps.first()?;
    Some(theil_sen(steps, values)?.slope * length)
}

#[expect(clippy::cast_precision_loss, reason = "steps stay below 2^52")]
fn real(steps: u64) -> f64 {
    steps as f64
}
