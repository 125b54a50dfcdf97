//! Made-up snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use weightvane::checkpoint::TrainerState;
use weightvane::diagnostics::{
    ClassifierReport, HeadReport, MatrixReport, OverlapReport, PairReport, Report, StderrReport,
};
use weightvane::history::{Chronicle, Place, Point, Rules};
use weightvane::metrics::{
    DaemonFacts, DurationHistogram, RidgeRate, RunFacts, RunState, Snapshot, WatchMode,
};

/// A pair whose statistics all follow from its gram correlation.
pub(super) fn pair(kind: &'static str, layer: usize, head: Option<usize>, gram: f64) -> PairReport {
    let overlap = OverlapReport {
        ratio: gram / 2.0,
        chance: 0.0625,
        excess: gram / 4.0,
        z: 3.0,
        angle_min: 0.1,
        angle_mean: 0.5,
        angle_max: 1.0,
        basis: None,
        cut_ok: true,
    };
    PairReport {
        pair: kind,
        kind: "inmodule",
        layer: Some(layer),
        stack: None,
        expert: None,
        head,
        group: None,
        writer: format!("h.{layer}.w"),
        reader: format!("h.{layer}.r"),
        dim: 64,
        law: "full",
        norm_between: false,
        gram_correlation: Some(gram),
        gram_cosine: Some(gram),
        commutator: Some(0.25),
        commutator_vs_chance: Some(1.0 - gram),
        composition: Some(0.125),
        gap: Some(2.0),
        gap_ratio: Some(0.5),
        gap_diagonal_ratio: Some(0.5),
        gap_shape: Some(0.5),
        flag_correlation: Some(0.375),
        overlap: BTreeMap::from([(4, overlap)]),
        stderr: StderrReport::default(),
        law_gap: None,
        law_bias: None,
    }
}

/// A matrix that changed by `update`.
pub(super) fn matrix(role: &str, layer: Option<usize>, update: Option<f64>) -> MatrixReport {
    MatrixReport {
        name: format!("{role}.weight"),
        layer,
        stack: None,
        expert: None,
        role: role.to_owned(),
        rows: 64,
        cols: 32,
        dtype: "F32",
        spectrum: Some("exact"),
        frobenius_norm: Some(8.0),
        spectral_norm: Some(2.0),
        stable_rank: Some(16.0),
        effective_rank: Some(24.0),
        spectral_entropy: Some(0.75),
        numerical_rank: Some(32),
        nan: 0,
        inf: 0,
        update_ratio_stderr: None,
        base_ratio: Some(0.02),
        update_ratio: update,
        rotation: BTreeMap::from([(4, update), (64, None)]),
    }
}

/// A report of these pairs and matrices.
pub(super) fn report(pairs: Vec<PairReport>, matrices: Vec<MatrixReport>) -> Report {
    Report {
        checkpoint: "checkpoint-500".to_owned(),
        step: Some(500),
        format: "safetensors",
        architecture: "gpt2".to_owned(),
        parameters: 1000,
        matrices,
        pairs,
        heads: Vec::new(),
        classifier: None,
        skipped: Vec::new(),
        nan: 0,
        inf: 0,
    }
}

/// One run with two heads in one layer, and little else.
pub(super) fn small() -> Snapshot {
    let pairs = vec![pair("v_o", 3, Some(0), 0.25), pair("v_o", 3, Some(1), 0.75)];
    let run = RunFacts {
        name: "lr \"3e-4\"".to_owned(),
        path: "/runs/a\\b".to_owned(),
        active: true,
        latest_step: Some(500),
        report: Some(Arc::new(report(pairs, vec![matrix("embed", None, None)]))),
        ..RunFacts::default()
    };
    let mut durations = DurationHistogram::default();
    durations.observe(0.5);
    let daemon = DaemonFacts {
        version: "0.1.0".to_owned(),
        watch_modes: BTreeMap::from([("/runs".to_owned(), WatchMode::Polling)]),
        analysis_duration: durations,
        ..DaemonFacts::default()
    };
    Snapshot { daemon: Some(daemon), runs: vec![run], ..Snapshot::default() }
}

/// Everything that can be known, and a neighbour with a hostile name.
pub(super) fn full() -> Snapshot {
    let hostile = RunFacts { name: "ev\"il\\\n\u{7}{x=\"1\"} 1".to_owned(), ..RunFacts::default() };
    let daemon = DaemonFacts {
        version: "0.1.0".to_owned(),
        watch_modes: BTreeMap::from([("/runs".to_owned(), WatchMode::Events)]),
        root_up: BTreeMap::from([("/runs".to_owned(), true)]),
        last_scan_timestamp_seconds: Some(1_772_283_960.0),
        config_last_reload_successful: Some(true),
        state_store_ok: Some(true),
        ..DaemonFacts::default()
    };
    Snapshot { daemon: Some(daemon), runs: vec![full_run(), hostile], ..Snapshot::default() }
}

fn full_run() -> RunFacts {
    let of_pair = |value: f64| BTreeMap::from([("v_o".to_owned(), value)]);
    let count = |n: u64| BTreeMap::from([("v_o".to_owned(), n)]);
    RunFacts {
        name: "gpt/large".to_owned(),
        path: "/runs/gpt/large".to_owned(),
        architecture: Some("gpt2".to_owned()),
        optimizer: Some("adamw".to_owned()),
        active: true,
        ended_timestamp_seconds: Some(1_772_283_970.0),
        state: RunState::Analyzed,
        latest_step: Some(12_500),
        analyzed_step: Some(12_000),
        latest_timestamp_seconds: Some(1_772_283_959.0),
        analyzed_timestamp_seconds: Some(1_772_283_659.0),
        save_interval_seconds: Some(300.0),
        readable: Some(true),
        size_bytes: Some(1 << 30),
        save_duration_seconds: Some(2.5),
        discovered_total: 25,
        analyzed_total: 24,
        skipped_total: BTreeMap::from([("outrun".to_owned(), 1)]),
        failures_total: BTreeMap::from([("malformed".to_owned(), 2)]),
        queue_length: 1,
        last_duration_seconds: Some(4.5),
        train_loss: Some(2.5),
        learning_rate: Some(3e-4),
        grad_norm: Some(1.25),
        eval: BTreeMap::from([("loss".to_owned(), 2.75)]),
        reference_deviations: BTreeMap::from([(("alignment", "v_o"), -1.5), (("norm", ""), 0.5)]),
        alignment_mean: BTreeMap::new(),
        alignment_best: of_pair(0.5),
        alignment_saves_since_improvement: count(3),
        alignment_steps_since_improvement: count(1500),
        ridge_rates: vec![RidgeRate { layer: Some(0), pair: "v_o".to_owned(), ratio: 0.875 }],
        report: Some(Arc::new(full_report())),
        chronicle: Arc::new(chronicle()),
    }
}

/// Ten quiet saves, then a fall of one head's alignment with NaN beside it.
fn chronicle() -> Chronicle {
    let mut chronicle = Chronicle::default();
    for save in 0..12u8 {
        let gram = if save == 11 { -0.5 } else { 0.25 + 0.001 * f64::from(save % 3) };
        let mut report =
            report(vec![pair("v_o", 0, Some(1), gram)], vec![matrix("up", Some(0), Some(0.5))]);
        report.nan = u64::from(save == 11);
        let place = Place { segment: 0, step: 1000 * u64::from(save) };
        chronicle.add(Point::new(place, &report, &TrainerState::default()));
        chronicle.advance(None, &Rules::default());
    }
    chronicle
}

fn full_report() -> Report {
    let mut report = report(
        vec![
            pair("v_o", 0, Some(0), 0.25),
            pair("v_o", 0, Some(1), -0.125),
            pair("up_down", 0, None, 0.5),
            pair("up_down", 11, None, 0.625),
        ],
        vec![
            matrix("up", Some(0), Some(0.0)),
            matrix("up", Some(11), Some(0.5)),
            matrix("embed", None, Some(0.25)),
        ],
    );
    report.heads = vec![HeadReport {
        layer: 0,
        projection: "q",
        heads: 2,
        overlap_mean: Some(0.5),
        overlap_max: Some(0.5),
        overlap_chance: Some(0.25),
        overlap_excess: Some(0.25),
        overlap_stderr: None,
        effective_heads: Some(1.5),
    }];
    report.classifier = Some(ClassifierReport {
        classes: 10,
        simplex_deviation: Some(0.5),
        simplex_deviation_vs_chance: Some(0.75),
        equinorm: None,
        equiangle: None,
    });
    report
}
