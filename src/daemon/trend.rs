//! What a run's saves say together: best alignment, saves since it improved, ridge rates. Pure.

use std::collections::BTreeMap;

use crate::checkpoint::TrainerState;
use crate::diagnostics::Report;
use crate::history::Optimizer as OptimizerLaw;
use crate::linalg::ridge_rate_ratio;
use crate::metrics::{RidgeRate, pair_means};

/// An improvement of `alignment_mean` smaller than this is noise.
const MIN_IMPROVEMENT: f64 = 0.005;
/// Saves over which the ridge rate is fitted.
const RIDGE_WINDOW: usize = 9;
/// Fewest saves for a fit.
const RIDGE_MIN_SAVES: usize = 4;
/// Least decay of ln gap, as predicted, over the window: below it the η² terms of the step identity
/// and rounding are as large as the decay.
const RIDGE_MIN_DECAY: f64 = 0.02;
/// A gap this small beside the Grams is the floor of the decay, no longer the decay.
const RIDGE_MIN_GAP_RATIO: f64 = 0.002;
/// Saves remembered of one run; of more, the oldest is forgotten.
const MAX_SAVES: usize = 20_000;

/// One save's part in the trends.
#[derive(Debug, Clone)]
struct Point {
    alignment: BTreeMap<&'static str, f64>,
    /// (layer, pair) → ln of the conserved gap over all heads.
    ln_gap: BTreeMap<(Option<usize>, &'static str), f64>,
    optimizer: Optimizer,
}

#[derive(Debug, Clone, Copy, Default)]
struct Optimizer {
    /// λη/(1 − μ) per step of plain or momentum SGD; `None` where no law of decay is known.
    rate: Option<f64>,
}

/// What of a report the trends are made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    /// Pair → mean gram correlation.
    pub(super) alignment: BTreeMap<&'static str, f64>,
    /// (layer, pair) → ln of the conserved gap over all heads.
    pub(super) ln_gap: BTreeMap<(Option<usize>, &'static str), f64>,
}

impl Summary {
    pub(super) fn of(report: &Report) -> Self {
        Self { alignment: pair_means(report), ln_gap: ln_gaps(report) }
    }
}

/// The saves of one run by step.
#[derive(Debug, Clone, Default)]
pub(super) struct Trend {
    points: BTreeMap<u64, Point>,
}

/// How long ago a pair kind's alignment improved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Improvement {
    pub(super) best: f64,
    pub(super) saves_since: u64,
    pub(super) steps_since: u64,
}

impl Trend {
    /// Adds a save, or replaces the one of the same step.
    pub(super) fn add(&mut self, step: u64, summary: Summary, trainer: &TrainerState) {
        let Summary { alignment, ln_gap } = summary;
        let optimizer = Optimizer { rate: OptimizerLaw::of(trainer).decay_rate };
        let point = Point { alignment, ln_gap, optimizer };
        self.points.insert(step, point);
        if self.points.len() > MAX_SAVES {
            self.points.pop_first();
        }
    }

    /// Training went back to `step`: what was measured from there on is another history.
    pub(super) fn resume_at(&mut self, step: u64) {
        self.points.split_off(&step);
    }

    /// Pair kind → its improvement, over all saves in order of their steps.
    pub(super) fn improvements(&self) -> BTreeMap<&'static str, Improvement> {
        let mut out: BTreeMap<&'static str, Improvement> = BTreeMap::new();
        // The value from which the next improvement counts, and its step.
        let mut marks: BTreeMap<&'static str, (f64, u64)> = BTreeMap::new();
        for (&step, point) in &self.points {
            for (&pair, &value) in &point.alignment {
                let mark = marks.entry(pair).or_insert((f64::NEG_INFINITY, step));
                let improved = value >= mark.0 + MIN_IMPROVEMENT || mark.0 == f64::NEG_INFINITY;
                if improved {
                    *mark = (value, step);
                }
                let known = out.entry(pair).or_insert(Improvement {
                    best: value,
                    saves_since: 0,
                    steps_since: 0,
                });
                known.best = known.best.max(value);
                known.saves_since = if improved { 0 } else { known.saves_since + 1 };
                known.steps_since = step.saturating_sub(mark.1);
            }
        }
        out
    }

    /// Measured over predicted decay of every conserved gap, for plain and momentum SGD with weight
    /// decay; 1 is what the step identity predicts.
    pub(super) fn ridge_rates(&self) -> Vec<RidgeRate> {
        let window: Vec<_> = self.points.iter().rev().take(RIDGE_WINDOW).collect();
        let Some((_, latest)) = window.first() else { return Vec::new() };
        let rates = latest.ln_gap.keys().filter_map(|key| {
            let ratio = self.ridge_rate(key)?;
            Some(RidgeRate { layer: key.0, pair: key.1.to_owned(), ratio })
        });
        rates.collect()
    }

    fn ridge_rate(&self, key: &(Option<usize>, &'static str)) -> Option<f64> {
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        let mut x = 0.0;
        let skip = self.points.len().saturating_sub(RIDGE_WINDOW);
        let mut before = None;
        for (&step, point) in self.points.iter().skip(skip) {
            let rate = point.optimizer.rate?;
            let steps = before.map_or(0, |b: u64| step - b);
            #[expect(clippy::cast_precision_loss, reason = "steps between saves stay below 2^52")]
            let steps_real = steps as f64;
            x += steps_real * rate;
            before = Some(step);
            xs.push(x);
            ys.push(*point.ln_gap.get(key)?);
        }
        if xs.len() < RIDGE_MIN_SAVES || 2.0 * x < RIDGE_MIN_DECAY {
            return None;
        }
        ridge_rate_ratio(&xs, &ys).map(|rate| rate.slope)
    }
}

/// The conserved gap of every pair with a law, over the heads of a layer (or over its groups, where
/// heads share keys and values: the law holds for those).
fn ln_gaps(report: &Report) -> BTreeMap<(Option<usize>, &'static str), f64> {
    let mut squares: BTreeMap<(Option<usize>, &'static str), f64> = BTreeMap::new();
    for pair in &report.pairs {
        let above_floor = pair.gap_ratio.is_some_and(|r| r >= RIDGE_MIN_GAP_RATIO);
        if let (Some(gap), true) = (pair.law_gap, above_floor) {
            *squares.entry((pair.layer, pair.pair)).or_default() += gap * gap;
        }
    }
    squares.retain(|_, square| *square > 0.0 && square.is_finite());
    squares.into_iter().map(|(key, square)| (key, square.ln() / 2.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(values: &[(u64, f64)]) -> Trend {
        let points = values.iter().map(|&(step, value)| {
            let alignment = BTreeMap::from([("chain", value)]);
            (step, Point { alignment, ln_gap: BTreeMap::new(), optimizer: Optimizer::default() })
        });
        Trend { points: points.collect() }
    }

    #[test]
    fn improvements_count_saves_and_steps_since() {
        let check = |values: &[(u64, f64)], best: f64, saves_since: u64, steps_since: u64| {
            let wanted = Improvement { best, saves_since, steps_since };
            assert_eq!(trend(values).improvements()["chain"], wanted, "{values:?}");
        };
        check(&[(0, 0.1)], 0.1, 0, 0);
        check(&[(0, 0.1), (100, 0.2)], 0.2, 0, 0);
        check(&[(0, 0.5), (100, 0.2), (300, 0.3)], 0.5, 2, 300);
        // Creeping below the least improvement adds up until it is one.
        check(&[(0, 0.5), (10, 0.503), (20, 0.506)], 0.506, 0, 0);
        check(&[(0, 0.5), (10, 0.503), (20, 0.504)], 0.504, 2, 20);
    }

    fn decaying(rate_factor: f64, trainer: &TrainerState) -> Trend {
        let rate = OptimizerLaw::of(trainer).decay_rate.unwrap_or(1e-4);
        let key = (Some(0), "chain");
        let points = (0..12_u32).map(|i| {
            let step = u64::from(i) * 100;
            let ln_gap = -2.0 * rate_factor * rate * f64::from(i) * 100.0;
            let point = Point {
                alignment: BTreeMap::new(),
                ln_gap: BTreeMap::from([(key, ln_gap)]),
                optimizer: Optimizer { rate: OptimizerLaw::of(trainer).decay_rate },
            };
            (step, point)
        });
        Trend { points: points.collect() }
    }

    fn sgd() -> TrainerState {
        TrainerState {
            optimizer: Some("sgd".into()),
            learning_rate: Some(0.1),
            weight_decay: Some(1e-3),
            ..TrainerState::default()
        }
    }

    #[test]
    fn the_ridge_rate_is_one_when_the_gap_decays_as_predicted() {
        for factor in [1.0, 0.5, 0.0] {
            let rates = decaying(factor, &sgd()).ridge_rates();
            assert_eq!(rates.len(), 1);
            assert!((rates[0].ratio - factor).abs() < 1e-9, "{factor}: {}", rates[0].ratio);
        }
        let heavy = TrainerState { momentum: Some(0.9), ..sgd() };
        assert!((decaying(1.0, &heavy).ridge_rates()[0].ratio - 1.0).abs() < 1e-9);
    }

    #[test]
    fn without_sgd_or_weight_decay_there_is_no_ridge_rate() {
        let adam = TrainerState { optimizer: Some("adamw".into()), ..sgd() };
        let unknown = TrainerState { optimizer: None, ..sgd() };
        let none = TrainerState { weight_decay: Some(0.0), ..sgd() };
        let slow = TrainerState { learning_rate: Some(1e-6), ..sgd() };
        for trainer in [adam, unknown, none, slow] {
            assert!(decaying(1.0, &trainer).ridge_rates().is_empty(), "{trainer:?}");
        }
    }
}
