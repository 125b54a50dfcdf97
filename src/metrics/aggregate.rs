//! From the facts of a run to its samples: heads to layers, layers to the run.

use std::collections::BTreeMap;

use super::catalog::Id;
use super::series::{Series, flag};
use super::snapshot::{RunFacts, reason};
use crate::diagnostics::{MatrixReport, PairReport, Report};
use crate::history::{Anomaly, Chronicle, Kind, Severity};

/// Pair → mean gram correlation over layers and heads, in `[-1, 1]`; `alignment_mean`. Empty where
/// weights are not finite: the mean over the layers that are left would look better than the run is.
#[must_use]
pub fn pair_means(report: &Report) -> BTreeMap<&'static str, f64> {
    let means = of_pairs(report, |pair| pair.gram_correlation);
    means.into_iter().filter_map(|(pair, mean)| Some((pair, mean.get()?))).collect()
}

/// Pair → a number over layers and heads; nothing where weights are not finite.
fn of_pairs(
    report: &Report,
    value: impl Fn(&PairReport) -> Option<f64>,
) -> BTreeMap<&'static str, Mean> {
    let mut means: BTreeMap<&'static str, Mean> = BTreeMap::new();
    if report.n_nonfinite() == 0 {
        for pair in report.pairs.iter().filter(|pair| !is_group(pair)) {
            means.entry(pair.pair).or_default().add(value(pair));
        }
    }
    means
}

/// The pair with the lowest gram correlation among those on which alerts may rest: not between
/// the blocks of a residual stream, and no norm layer between writer and reader.
#[must_use]
pub fn worst_pair(report: &Report) -> Option<&PairReport> {
    let value = |pair: &&PairReport| pair.gram_correlation.unwrap_or(f64::NAN);
    report
        .pairs
        .iter()
        .filter(|pair| !matches!(pair.kind, "stream" | "base"))
        .filter(|pair| !pair.norm_between && !is_group(pair))
        .filter(|pair| value(pair).is_finite())
        .min_by(|a, b| value(a).total_cmp(&value(b)))
}

/// A key/value group's own entry, which stands beside those of its query heads.
fn is_group(pair: &PairReport) -> bool {
    pair.group.is_some() && pair.head.is_none()
}

/// Mean and extremes of what is known.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    n: u32,
    sum: f64,
    min: Option<f64>,
    max: Option<f64>,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        self.n += 1;
        self.sum += value;
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    fn get(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / f64::from(self.n))
    }
}

/// All samples of one run under the label `run`. Where nobody watches the run (one checkpoint,
/// measured once) nothing is said of its life: a 0 would claim that it has ended.
pub(super) fn run_series(run: &RunFacts, label: &str, watched: bool) -> Series {
    let mut series = Series::default();
    let width = layer_width(run);
    summary(run, label, &mut series);
    if watched {
        series.put(Id::RunActive, &[label], flag(run.active));
        counters(run, label, &mut series);
        anomalies(&run.chronicle, label, &mut series);
        onsets(&run.chronicle, label, width, &mut series);
    }
    for rate in &run.ridge_rates {
        let layer = layer_label(rate.layer, width);
        series.put(Id::RidgeRate, &[label, &layer, &rate.pair], rate.ratio);
    }
    if let Some(report) = &run.report {
        report_summary(report, label, &mut series);
        pairs(report, label, width, &mut series);
        matrices(report, label, width, &mut series);
        heads(report, label, width, &mut series);
    }
    series
}

#[expect(clippy::cast_precision_loss, reason = "steps and sizes stay below 2^53")]
fn summary(run: &RunFacts, label: &str, series: &mut Series) {
    let architecture = run.architecture.as_deref().unwrap_or_default();
    let optimizer = run.optimizer.as_deref().unwrap_or_default();
    series.put(Id::RunInfo, &[label, &run.path, architecture, optimizer], 1.0);
    for (id, value) in [
        (Id::RunEnded, run.ended_timestamp_seconds),
        (Id::LatestStep, run.latest_step.map(|step| step as f64)),
        (Id::AnalyzedStep, run.analyzed_step.map(|step| step as f64)),
        (Id::LatestTimestamp, run.latest_timestamp_seconds),
        (Id::AnalyzedTimestamp, run.analyzed_timestamp_seconds),
        (Id::SaveInterval, run.save_interval_seconds),
        (Id::Readable, run.readable.map(flag)),
        (Id::SizeBytes, run.size_bytes.map(|bytes| bytes as f64)),
        (Id::SaveDuration, run.save_duration_seconds),
        (Id::LastDuration, run.last_duration_seconds),
        (Id::TrainLoss, run.train_loss),
        (Id::LearningRate, run.learning_rate),
        (Id::GradNorm, run.grad_norm),
    ] {
        series.put_known(id, &[label], value);
    }
    for (metric, value) in &run.eval {
        series.put(Id::EvalMetric, &[label, metric], *value);
    }
    for ((metric, pair), z) in &run.reference_deviations {
        series.put(Id::ReferenceDeviation, &[label, metric, pair], *z);
    }
    for (pair, mean) in &run.alignment_mean {
        series.put(Id::AlignmentMean, &[label, pair], *mean);
    }
    for (pair, best) in &run.alignment_best {
        series.put(Id::AlignmentBest, &[label, pair], *best);
    }
    for (pair, saves) in &run.alignment_saves_since_improvement {
        series.put(Id::SavesSinceImprovement, &[label, pair], *saves as f64);
    }
    for (pair, steps) in &run.alignment_steps_since_improvement {
        series.put(Id::StepsSinceImprovement, &[label, pair], *steps as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counters stay below 2^53")]
fn counters(run: &RunFacts, label: &str, series: &mut Series) {
    series.put(Id::QueueLength, &[label], run.queue_length as f64);
    series.put(Id::Discovered, &[label], run.discovered_total as f64);
    series.put(Id::Analyzed, &[label], run.analyzed_total as f64);
    for (id, counts, known) in [
        (Id::Skipped, &run.skipped_total, reason::SKIPPED),
        (Id::Failures, &run.failures_total, reason::FAILURES),
    ] {
        for (reason, n) in counts {
            series.put(id, &[label, reason], *n as f64);
        }
        for reason in known.iter().filter(|reason| !counts.contains_key(**reason)) {
            series.put(id, &[label, reason], 0.0);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and steps stay below 2^53")]
fn anomalies(chronicle: &Chronicle, label: &str, series: &mut Series) {
    // A counter that is born at 1 hides its first event, so all begin at 0 with the first save.
    for ((kind, pair), count) in chronicle.counts() {
        series.put(Id::Anomalies, &[label, kind.as_str(), pair], *count as f64);
    }
    let mut open: BTreeMap<(Kind, Severity), u32> = BTreeMap::new();
    for (kind, _) in chronicle.counts().keys() {
        for severity in kind.severities() {
            open.entry((*kind, *severity)).or_default();
        }
    }
    for anomaly in chronicle.open() {
        *open.entry((anomaly.kind, anomaly.severity)).or_default() += 1;
    }
    for ((kind, severity), count) in open {
        series.put(Id::AnomaliesOpen, &[label, kind.as_str(), severity.as_str()], f64::from(count));
    }
    for ((kind, pair), z) in chronicle.z() {
        series.put(Id::AnomalyZscore, &[label, kind.as_str(), pair], *z);
    }
    series.put_known(Id::LastGoodStep, &[label], chronicle.last_good_step().map(|s| s as f64));
}

/// Where and when the worst open anomaly of each kind and pair began: one series each, so that a fault
/// of all layers at once is no flood, and an alert can still say where to look.
#[expect(clippy::cast_precision_loss, reason = "steps stay below 2^53")]
fn onsets(chronicle: &Chronicle, label: &str, width: usize, series: &mut Series) {
    let rank = |anomaly: &Anomaly| (anomaly.severity, anomaly.z.map_or(0.0, f64::abs));
    let mut worst: BTreeMap<(Kind, &str), &Anomaly> = BTreeMap::new();
    for anomaly in chronicle.open() {
        let pair = anomaly.subject.pair.as_deref().unwrap_or_default();
        let held = worst.entry((anomaly.kind, pair)).or_insert(anomaly);
        if rank(held) < rank(anomaly) {
            *held = anomaly;
        }
    }
    for ((kind, pair), anomaly) in worst {
        let layer = layer_label(anomaly.subject.layer, width);
        let labels = [label, kind.as_str(), pair, &layer];
        series.put(Id::AnomalyOnset, &labels, anomaly.onset_step as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of weights stay below 2^53")]
fn report_summary(report: &Report, label: &str, series: &mut Series) {
    let (mut known, mut frozen) = (0_u32, 0_u32);
    for matrix in &report.matrices {
        if let Some(ratio) = matrix.update_ratio {
            known += 1;
            // Exactly 0 is the definition: one changed bit is a change.
            frozen += u32::from(ratio.abs() <= 0.0);
        }
    }
    // Over all tensors: a NaN in a bias is one in the weights.
    series.put(Id::Nonfinite, &[label, "nan"], report.nan as f64);
    series.put(Id::Nonfinite, &[label, "inf"], report.inf as f64);
    if known > 0 {
        series.put(Id::Frozen, &[label], f64::from(frozen));
    }
    for (pair, mean) in pair_means(report) {
        series.put(Id::AlignmentMean, &[label, pair], mean);
    }
    for (pair, mean) in of_pairs(report, |pair| pair.commutator_vs_chance) {
        series.put_known(Id::CommutatorMax, &[label, pair], mean.max);
    }
    if let Some(classifier) = &report.classifier {
        series.put_known(Id::SimplexDeviation, &[label], classifier.simplex_deviation);
        let vs_chance = classifier.simplex_deviation_vs_chance;
        series.put_known(Id::SimplexDeviationVsChance, &[label], vs_chance);
    }
}

/// What is collected of one pair kind in one layer.
#[derive(Debug, Default)]
struct PairMeans {
    /// Whether the worst of several has a name of its own.
    several: bool,
    /// Entries so far.
    n: usize,
    grouped: bool,
    gram_correlation: Mean,
    commutator_vs_chance: Mean,
    commutator: Mean,
    flag_correlation: Mean,
    gap_of_heads: Mean,
    gap_of_groups: Mean,
    /// k → overlap, its chance level, and the excess.
    overlap: BTreeMap<usize, [Mean; 3]>,
}

impl PairMeans {
    fn add(&mut self, pair: &PairReport) {
        if is_group(pair) {
            self.grouped = true;
            self.gap_of_groups.add(pair.gap_ratio);
            return;
        }
        // Heads and experts are several even where a layer has one; so are a block's convolutions.
        self.several |= pair.is_one_of_many() || self.n > 0;
        self.n += 1;
        self.gram_correlation.add(pair.gram_correlation);
        self.commutator_vs_chance.add(pair.commutator_vs_chance);
        self.commutator.add(pair.commutator);
        self.flag_correlation.add(pair.flag_correlation);
        self.gap_of_heads.add(pair.gap_ratio);
        for (k, overlap) in &pair.overlap {
            let [ratio, chance, excess] = self.overlap.entry(*k).or_default();
            ratio.add(Some(overlap.ratio));
            chance.add(Some(overlap.chance));
            excess.add(Some(overlap.excess));
        }
    }

    /// Query heads that share keys and values have no conserved gap of their own; the group has.
    fn gap(&self) -> Option<f64> {
        if self.grouped { self.gap_of_groups.get() } else { self.gap_of_heads.get() }
    }
}

fn pairs(report: &Report, label: &str, width: usize, series: &mut Series) {
    let mut means: BTreeMap<(Option<usize>, &str), PairMeans> = BTreeMap::new();
    for pair in &report.pairs {
        means.entry((pair.layer, pair.pair)).or_default().add(pair);
    }
    for ((layer, pair), means) in &means {
        let layer = layer_label(*layer, width);
        let labels: [&str; 3] = [label, &layer, pair];
        series.put_known(Id::GramCorrelation, &labels, means.gram_correlation.get());
        series.put_known(Id::CommutatorVsChance, &labels, means.commutator_vs_chance.get());
        series.put_known(Id::Commutator, &labels, means.commutator.get());
        series.put_known(Id::FlagCorrelation, &labels, means.flag_correlation.get());
        series.put_known(Id::BalanceGap, &labels, means.gap());
        if means.several {
            series.put_known(Id::GramCorrelationMin, &labels, means.gram_correlation.min);
            series.put_known(Id::CommutatorVsChanceMax, &labels, means.commutator_vs_chance.max);
        }
        for (k, [ratio, chance, excess]) in &means.overlap {
            let k = k.to_string();
            let labels: [&str; 4] = [label, &layer, pair, &k];
            series.put_known(Id::Overlap, &labels, ratio.get());
            series.put_known(Id::OverlapChance, &labels, chance.get());
            series.put_known(Id::OverlapExcess, &labels, excess.get());
            if means.several {
                series.put_known(Id::OverlapMin, &labels, ratio.min);
            }
        }
    }
}

/// Families of single matrices, each with the field it shows.
type MatrixField = fn(&MatrixReport) -> Option<f64>;
const MATRIX_FIELDS: [(Id, MatrixField); 5] = [
    (Id::StableRank, |matrix| matrix.stable_rank),
    (Id::EffectiveRank, |matrix| matrix.effective_rank),
    (Id::SpectralNorm, |matrix| matrix.spectral_norm),
    (Id::WeightNorm, |matrix| matrix.frobenius_norm),
    (Id::UpdateRatio, |matrix| matrix.update_ratio),
];

fn matrices(report: &Report, label: &str, width: usize, series: &mut Series) {
    // Several matrices share a layer and a role where there are experts or convolutions.
    let mut fields: BTreeMap<(Option<usize>, &str), [Mean; MATRIX_FIELDS.len()]> = BTreeMap::new();
    let mut rotations: BTreeMap<(Option<usize>, &str, usize), Mean> = BTreeMap::new();
    let mut updates: BTreeMap<Option<usize>, Mean> = BTreeMap::new();
    for matrix in &report.matrices {
        let means = fields.entry((matrix.layer, &matrix.role)).or_default();
        for (mean, (_, field)) in means.iter_mut().zip(MATRIX_FIELDS) {
            mean.add(field(matrix));
        }
        if matrix.base_ratio.is_some() {
            updates.entry(matrix.layer).or_default().add(matrix.base_ratio);
        }
        for (k, rotation) in &matrix.rotation {
            rotations.entry((matrix.layer, &matrix.role, *k)).or_default().add(*rotation);
        }
    }
    for ((layer, role), means) in &fields {
        let layer = layer_label(*layer, width);
        for (mean, (id, _)) in means.iter().zip(MATRIX_FIELDS) {
            series.put_known(id, &[label, &layer, role], mean.get());
        }
    }
    for (layer, mean) in &updates {
        series.put_known(Id::AdapterUpdate, &[label, &layer_label(*layer, width)], mean.get());
    }
    for ((layer, role, k), mean) in &rotations {
        let layer = layer_label(*layer, width);
        series.put_known(Id::Rotation, &[label, &layer, role, &k.to_string()], mean.get());
    }
}

fn heads(report: &Report, label: &str, width: usize, series: &mut Series) {
    for heads in &report.heads {
        let layer = layer_label(Some(heads.layer), width);
        let labels: [&str; 3] = [label, &layer, heads.projection];
        series.put_known(Id::HeadOverlap, &labels, heads.overlap_mean);
        series.put_known(Id::HeadOverlapChance, &labels, heads.overlap_chance);
        series.put_known(Id::EffectiveHeads, &labels, heads.effective_heads);
    }
}

/// Digits of the largest layer, at least 2. Prometheus and Grafana sort label values as text, so
/// "2" would come after "10".
fn layer_width(run: &RunFacts) -> usize {
    let rates = run.ridge_rates.iter().filter_map(|rate| rate.layer);
    let report = run.report.as_deref();
    let pairs = report.into_iter().flat_map(|report| &report.pairs).filter_map(|pair| pair.layer);
    let matrices =
        report.into_iter().flat_map(|report| &report.matrices).filter_map(|matrix| matrix.layer);
    let heads = report.into_iter().flat_map(|report| &report.heads).map(|heads| heads.layer);
    let largest = rates.chain(pairs).chain(matrices).chain(heads).max().unwrap_or(0);
    largest.to_string().len().max(2)
}

/// The layer with leading zeros; empty, which is an absent label, outside the stack.
fn layer_label(layer: Option<usize>, width: usize) -> String {
    layer.map(|layer| format!("{layer:0width$}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::history::{Rules, Subject};

    #[test]
    fn of_a_broken_model_there_is_no_mean_of_what_is_left() {
        let pair =
            || PairReport { pair: "chain", gram_correlation: Some(0.9), ..PairReport::default() };
        let pairs = || vec![pair()];
        let broken = Report { nan: 1, pairs: pairs(), ..Report::default() };
        let sound = Report { pairs: pairs(), ..Report::default() };
        assert_eq!(pair_means(&broken), BTreeMap::new());
        assert_eq!(pair_means(&sound).len(), 1);
    }

    #[test]
    fn the_worst_open_anomaly_of_a_kind_and_pair_tells_its_layer_and_step() {
        let open = |layer, pair: &str, onset_step, z, severity| Anomaly {
            kind: Kind::CommutatorSpike,
            subject: Arc::new(Subject {
                layer,
                pair: Some(pair.into()),
                head: None,
                name: "".into(),
            }),
            severity,
            onset_step,
            segment: 0,
            before: None,
            after: None,
            z: Some(z),
            last_good_step: None,
            resolved_step: None,
        };
        let anomalies = vec![
            open(Some(7), "v_o", 100, 50.0, Severity::Warning),
            open(Some(3), "v_o", 200, -90.0, Severity::Warning),
            open(Some(12), "v_o", 300, 9.0, Severity::Critical),
            open(Some(1), "q_k", 400, 20.0, Severity::Warning),
            open(Some(2), "q_k", 500, -21.0, Severity::Warning),
        ];
        let rules = Rules::default();
        let chronicle = Chronicle::restored(
            Vec::new(),
            Vec::new(),
            (anomalies, Vec::new()),
            BTreeMap::default(),
            &rules,
        );
        let mut series = Series::default();
        onsets(&chronicle, "run", 2, &mut series);
        assert_eq!(series.len(), 2, "one of each kind and pair");
        let labels = |pair: &str, layer: &str| {
            ["run", "commutator_spike", pair, layer].map(str::to_owned).to_vec()
        };
        let wanted = BTreeMap::from([(labels("q_k", "02"), 500.0), (labels("v_o", "12"), 300.0)]);
        assert_eq!(series.of(Id::AnomalyOnset.family()), &wanted);
    }
}
