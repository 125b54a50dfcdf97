//! What is kept of a save to judge the next ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kind::{Anomaly, Kind, Severity, Subject};
use crate::checkpoint::TrainerState;
use crate::diagnostics::{MatrixReport, PairReport, Report};
use crate::model::Role;

/// A gap below this part of the Grams is the floor of its decay, no longer the decay.
const MIN_GAP_RATIO: f64 = 0.02;

/// Biases above this part of the gap decide how fast it decays, if weight decay spares them, as many
/// trainers have it: nobody says which.
const MAX_BIAS_PART: f64 = 0.25;

/// Where a save stands in its run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Times that training went back to an earlier step before it.
    pub segment: u32,
    /// Its step, or its number where it has none.
    pub step: u64,
}

/// A save as the judgement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Where it stands.
    pub place: Place,
    /// NaN and infinite weights.
    pub n_nonfinite: u64,
    /// A matrix that holds one.
    pub broken: Option<Arc<Subject>>,
    /// Matrices.
    pub matrices: Vec<MatrixPoint>,
    /// Pairs on which an alarm may rest: no residual stream and no norm layer between.
    pub pairs: Vec<PairPoint>,
    /// Kind of those pairs → mean gram correlation.
    pub alignment: BTreeMap<Arc<str>, f64>,
    /// Layer and kind → ln of the conserved gap, over the heads of a layer.
    pub gaps: Vec<(Arc<Subject>, f64)>,
    /// Training loss.
    pub loss: Option<f64>,
    /// The first that the trainer logged.
    pub first_loss: Option<f64>,
    /// All matrices together.
    pub whole: Arc<Subject>,
    /// ηλ/(1 − μ) a step for SGD with weight decay; `None` where no law of decay is known.
    pub decay_rate: Option<f64>,
}

/// One matrix of a save.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixPoint {
    /// Which.
    pub subject: Arc<Subject>,
    /// ‖W‖_F.
    pub norm: Option<f64>,
    /// ‖ΔW‖/‖W‖ since the save before.
    pub update: Option<f64>,
}

/// One pair of a save.
#[derive(Debug, Clone, PartialEq)]
pub struct PairPoint {
    /// Which.
    pub subject: Arc<Subject>,
    /// Gram correlation.
    pub alignment: Option<f64>,
    /// Commutator over its chance level, κ.
    pub commutator: Option<f64>,
}

/// What is known of the optimiser, from the trainer's record or the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Optimizer {
    /// ηλ/(1 − μ) of plain or momentum SGD.
    pub decay_rate: Option<f64>,
}

impl Optimizer {
    /// The decay of W a step, where the trainer says that it is SGD.
    #[must_use]
    pub fn of(trainer: &TrainerState) -> Self {
        let momentum = trainer.momentum.unwrap_or(0.0);
        let is_sgd = trainer.optimizer.as_deref() == Some("sgd") && (0.0..1.0).contains(&momentum);
        let product = trainer.learning_rate.zip(trainer.weight_decay);
        let rate = product.map(|(rate, decay)| rate * decay / (1.0 - momentum));
        Self { decay_rate: rate.filter(|rate| is_sgd && *rate > 0.0 && rate.is_finite()) }
    }
}

impl Point {
    /// A save of which nothing is known.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self {
            place,
            n_nonfinite: 0,
            broken: None,
            matrices: Vec::new(),
            pairs: Vec::new(),
            alignment: BTreeMap::new(),
            gaps: Vec::new(),
            loss: None,
            first_loss: None,
            whole: Arc::new(Subject::whole()),
            decay_rate: None,
        }
    }

    /// Of a measured save.
    #[must_use]
    pub fn new(place: Place, report: &Report, trainer: &TrainerState) -> Self {
        let matrix = |m: &MatrixReport| {
            let name = m.name.as_str().into();
            Arc::new(Subject { layer: m.layer, pair: None, head: None, name })
        };
        let broken = report.matrices.iter().find(|m| m.nan + m.inf > 0).map(matrix);
        // What an adapter adds is made of matrices that are judged themselves, and grows from nothing.
        let stored = report.matrices.iter().filter(|m| m.role != Role::LORA_UPDATE);
        let matrices = stored.map(|m| MatrixPoint {
            subject: matrix(m),
            norm: known(m.frobenius_norm),
            update: known(m.update_ratio),
        });
        let alarming = || report.pairs.iter().filter(|p| may_alarm(p));
        let pairs = alarming().map(|p| PairPoint {
            subject: subject(p),
            alignment: known(p.gram_correlation),
            commutator: known(p.commutator_vs_chance),
        });
        Self {
            place,
            n_nonfinite: report.n_nonfinite(),
            broken,
            matrices: matrices.collect(),
            pairs: pairs.collect(),
            alignment: means(alarming()),
            gaps: gaps(report),
            loss: trainer.loss,
            first_loss: trainer.first_loss,
            whole: Arc::new(Subject::whole()),
            decay_rate: Optimizer::of(trainer).decay_rate,
        }
    }

    /// Uses the subjects of the save before where they are the same: one model has thousands.
    #[must_use]
    pub fn sharing(mut self, before: &Self) -> Self {
        let share = |mine: &mut Arc<Subject>, theirs: Option<&Arc<Subject>>| {
            if let Some(theirs) = theirs.filter(|theirs| *theirs == mine) {
                *mine = Arc::clone(theirs);
            }
        };
        share(&mut self.whole, Some(&before.whole));
        for (i, matrix) in self.matrices.iter_mut().enumerate() {
            share(&mut matrix.subject, before.matrices.get(i).map(|m| &m.subject));
        }
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            share(&mut pair.subject, before.pairs.get(i).map(|p| &p.subject));
        }
        for (i, gap) in self.gaps.iter_mut().enumerate() {
            share(&mut gap.0, before.gaps.get(i).map(|g| &g.0));
        }
        self
    }

    /// An anomaly that begins with this save.
    pub(super) fn begins(&self, kind: Kind, subject: Arc<Subject>, severity: Severity) -> Anomaly {
        Anomaly {
            kind,
            subject,
            severity,
            onset_step: self.place.step,
            segment: self.place.segment,
            before: None,
            after: None,
            z: None,
            last_good_step: None,
            resolved_step: None,
        }
    }

    /// Median of the matrices' updates; `None` where none is known.
    pub(super) fn median_update(&self) -> Option<f64> {
        let mut updates: Vec<f64> = self.matrices.iter().filter_map(|m| m.update).collect();
        super::track::median(&mut updates)
    }
}

fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|x| x.is_finite())
}

fn may_alarm(pair: &PairReport) -> bool {
    let is_group = pair.group.is_some() && pair.head.is_none();
    !matches!(pair.kind, "stream" | "base") && !pair.norm_between && !is_group
}

fn subject(pair: &PairReport) -> Arc<Subject> {
    Arc::new(Subject {
        layer: pair.layer,
        pair: Some(pair.pair.into()),
        head: pair.head,
        name: format!("{} -> {}", pair.writer, pair.reader).into(),
    })
}

fn means<'a>(pairs: impl Iterator<Item = &'a PairReport>) -> BTreeMap<Arc<str>, f64> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for pair in pairs {
        if let Some(value) = known(pair.gram_correlation) {
            let sum = sums.entry(pair.pair).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(pair, (sum, n))| (pair.into(), sum / n)).collect()
}

/// ln of the conserved gap of every pair with a law, over the heads of a layer (or over its groups,
/// where heads share keys and values: the law holds for those). Left out are gaps of at most 2 % of
/// the Grams: those are the floor of the decay, no longer the decay.
#[must_use]
pub fn conserved_ln_gaps(report: &Report) -> BTreeMap<(Option<usize>, &'static str), f64> {
    let mut squares: BTreeMap<(Option<usize>, &'static str), f64> = BTreeMap::new();
    for pair in &report.pairs {
        let above_floor = conserved_gap_ratio(pair).is_some_and(|ratio| ratio > MIN_GAP_RATIO);
        if let (Some(gap), true) = (pair.law_gap, above_floor) {
            let square = squares.entry((pair.layer, pair.pair)).or_default();
            // One head too few would look like decay: then nothing is said of the layer.
            let is_known = pair.law_bias.is_none_or(|bias| bias <= MAX_BIAS_PART * gap);
            *square += if is_known { gap * gap } else { f64::NAN };
        }
    }
    squares.retain(|_, square| *square > 0.0 && square.is_finite());
    squares.into_iter().map(|(key, square)| (key, square.ln() / 2.0)).collect()
}

/// The part of the gap that the pair's law speaks of, over the size of the Grams; in `[0, 1]`. Layers
/// with a nonlinearity between stay far apart for good while their diagonals have long become equal.
fn conserved_gap_ratio(pair: &PairReport) -> Option<f64> {
    match pair.law {
        "full" => pair.gap_ratio,
        "diagonal" => pair.gap_diagonal_ratio,
        // ‖A‖ + ‖B‖ is the gap over its ratio.
        _ => Some(pair.law_gap? * pair.gap_ratio? / pair.gap?),
    }
}

fn gaps(report: &Report) -> Vec<(Arc<Subject>, f64)> {
    let of = |((layer, pair), ln_gap): ((Option<usize>, &str), f64)| {
        let subject = Subject { layer, pair: Some(pair.into()), head: None, name: "".into() };
        (Arc::new(subject), ln_gap)
    };
    conserved_ln_gaps(report).into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(layer: usize, law_gap: f64, law_bias: Option<f64>) -> PairReport {
        PairReport {
            pair: "v_o",
            kind: "inmodule",
            layer: Some(layer),
            head: Some(0),
            law: "full",
            gap_ratio: Some(0.5),
            law_gap: Some(law_gap),
            law_bias,
            ..PairReport::default()
        }
    }

    #[test]
    fn what_an_adapter_adds_is_not_judged_besides_its_matrices() {
        let row = |role: &str| MatrixReport { role: role.into(), ..MatrixReport::default() };
        let base = PairReport { kind: "base", ..PairReport::default() };
        let report = Report {
            matrices: ["lora_a", "lora_b", "lora_update"].map(row).into(),
            pairs: vec![base],
            ..Report::default()
        };
        let point = Point::new(Place::default(), &report, &TrainerState::default());
        assert_eq!((point.matrices.len(), point.pairs.len()), (2, 0));
    }

    #[test]
    fn a_gap_is_at_its_floor_by_what_its_law_speaks_of() {
        let law = |law, law_gap| PairReport {
            law,
            gap: Some(4.0),
            gap_diagonal_ratio: Some(0.01),
            ..pair(0, law_gap, None)
        };
        let n_gaps = |pair| gaps(&Report { pairs: vec![pair], ..Report::default() }).len();
        assert_eq!(n_gaps(law("full", 1.0)), 1, "half of the Grams");
        assert_eq!(
            n_gaps(law("diagonal", 1.0)),
            0,
            "1 % of their diagonals, though half of the Grams"
        );
        assert_eq!(
            (n_gaps(law("rotary", 1.0)), n_gaps(law("rotary", 0.1))),
            (1, 0),
            "1/8 and 1/80"
        );
    }

    #[test]
    fn gaps_that_biases_decide_are_left_out() {
        let pairs = vec![
            pair(0, 3.0, None),
            pair(0, 4.0, Some(0.9)),
            pair(1, 3.0, Some(0.0)),
            pair(1, 4.0, Some(1.1)),
        ];
        let gaps = gaps(&Report { pairs, ..Report::default() });
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert_eq!(gaps[0].0.layer, Some(0));
        assert!((gaps[0].1 - 5.0_f64.ln()).abs() < 1e-12, "over the heads of a layer");
    }
}
