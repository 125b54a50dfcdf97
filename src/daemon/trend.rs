//! What a run's saves say together: best alignment, saves since it improved, ridge rates. Pure.

use std::collections::BTreeMap;

use crate::checkpoint::TrainerState;
use crate::diagnostics::Report;
use crate::history::{
    Compared, Optimizer as OptimizerLaw, Rules, Summary, conserved_ln_gaps, deviation,
};
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
const RIDGE_MIN_DECAY: f64 = 0.1;
/// Saves remembered of one run; of more, the oldest is forgotten.
const MAX_SAVES: usize = 20_000;
/// Saves of a reference on either side of the step that is compared.
const NEAR: usize = 8;

/// One save's part in the trends.
#[derive(Debug, Clone, Default)]
struct Point {
    summary: Summary,
    /// Training loss.
    loss: Option<f64>,
    optimizer: Optimizer,
}

#[derive(Debug, Clone, Copy, Default)]
struct Optimizer {
    /// λη/(1 − μ) per step of plain or momentum SGD; `None` where no law of decay is known.
    rate: Option<f64>,
}

/// What of a report the trends are made of.
pub(super) fn summary(report: &Report) -> Summary {
    let known = |value: f64| Some(value).filter(|value| value.is_finite());
    let mut updates: Vec<f64> = report.matrices.iter().filter_map(|m| m.update_ratio).collect();
    updates.sort_by(f64::total_cmp);
    let update = updates.get(updates.len() / 2).copied();
    let squares = report.matrices.iter().filter_map(|m| m.frobenius_norm).map(|norm| norm * norm);
    Summary {
        alignment: pair_means(report),
        ln_gap: conserved_ln_gaps(report),
        ln_commutator: ln_commutators(report),
        ln_update: update.map(f64::ln).and_then(known),
        ln_norm: known(squares.sum::<f64>().ln() / 2.0),
    }
}

/// Pair → mean of ln κ over layers and heads. Of a pair that commutes to rounding nothing is said, nor
/// of layers that are left where weights are not finite.
fn ln_commutators(report: &Report) -> BTreeMap<&'static str, f64> {
    let mut sums: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
    for pair in report.pairs.iter().filter(|_| report.n_nonfinite() == 0) {
        let ln = pair.commutator_vs_chance.map(f64::ln).filter(|ln| ln.is_finite());
        if let Some(ln) = ln {
            let sum = sums.entry(pair.pair).or_default();
            *sum = (sum.0 + ln, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(pair, (sum, n))| (pair, sum / n)).collect()
}

/// The saves of one run by step.
#[derive(Debug, Clone, Default)]
pub(super) struct Trend {
    points: BTreeMap<u64, Point>,
}

/// What is compared and, where it is of pairs, which kind → robust z.
pub(super) type Deviations = BTreeMap<(Compared, &'static str), f64>;

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
        let optimizer = Optimizer { rate: OptimizerLaw::of(trainer).decay_rate };
        let point = Point { summary, loss: trainer.loss, optimizer };
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
            for (&pair, &value) in &point.summary.alignment {
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

    /// Values of a save in one respect: pair, empty for the whole, and value.
    fn values(point: &Point, compared: Compared) -> Vec<(&'static str, f64)> {
        let of_pairs =
            |map: &BTreeMap<&'static str, f64>| map.iter().map(|(p, v)| (*p, *v)).collect();
        let of_whole = |value: Option<f64>| value.map(|value| ("", value)).into_iter().collect();
        match compared {
            Compared::Alignment => of_pairs(&point.summary.alignment),
            Compared::Commutator => of_pairs(&point.summary.ln_commutator),
            Compared::Update => of_whole(point.summary.ln_update),
            Compared::Norm => of_whole(point.summary.ln_norm),
            Compared::Loss => of_whole(point.loss.map(f64::ln).filter(|ln| ln.is_finite())),
        }
    }

    /// The saves around a step in one respect, by rising steps.
    fn near(&self, step: u64, compared: Compared, pair: &str) -> Vec<(u64, f64)> {
        let before = self.points.range(..step).rev().take(NEAR);
        let near = before.chain(self.points.range(step..).take(NEAR + 1));
        let value = |(step, point): (&u64, &Point)| {
            let (_, value) = Self::values(point, compared).into_iter().find(|(p, _)| *p == pair)?;
            Some((*step, value))
        };
        let mut near: Vec<(u64, f64)> = near.filter_map(value).collect();
        near.sort_unstable_by_key(|(step, _)| *step);
        near
    }

    /// What is compared, pair → robust z of the last save against other runs at the same step.
    pub(super) fn deviations(&self, references: &[&Self], rules: &Rules) -> Deviations {
        let mut out = Deviations::new();
        let Some((&step, last)) = self.points.last_key_value() else { return out };
        for compared in Compared::ALL {
            for (pair, value) in Self::values(last, compared) {
                let curves: Vec<_> =
                    references.iter().map(|run| run.near(step, compared, pair)).collect();
                let z = deviation(&curves, step, value, compared.floor(rules));
                z.and_then(|z| out.insert((compared, pair), z));
            }
        }
        out
    }

    /// Measured over predicted decay of every conserved gap, for plain and momentum SGD with weight
    /// decay; 1 is what the step identity predicts.
    pub(super) fn ridge_rates(&self) -> Vec<RidgeRate> {
        let window: Vec<_> = self.points.iter().rev().take(RIDGE_WINDOW).collect();
        let Some((_, latest)) = window.first() else { return Vec::new() };
        let rates = latest.summary.ln_gap.keys().filter_map(|key| {
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
            ys.push(*point.summary.ln_gap.get(key)?);
        }
        if xs.len() < RIDGE_MIN_SAVES || 2.0 * x < RIDGE_MIN_DECAY {
            return None;
        }
        ridge_rate_ratio(&xs, &ys).map(|rate| rate.slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(values: &[(u64, f64)]) -> Trend {
        let points = values.iter().map(|&(step, value)| {
            let alignment = BTreeMap::from([("chain", value)]);
            let summary = Summary { alignment, ..Summary::default() };
            (step, Point { summary, ..Point::default() })
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
            let ln_gap = BTreeMap::from([(key, ln_gap)]);
            let point = Point {
                summary: Summary { ln_gap, ..Summary::default() },
                optimizer: Optimizer { rate: OptimizerLaw::of(trainer).decay_rate },
                loss: None,
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
