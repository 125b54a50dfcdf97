//! The expositions as Prometheus reads them, and the server that hands them out.

mod events;
mod http;
mod labels;
mod openmetrics;
mod sample;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use weightvane::metrics::{
    CATALOG, DaemonFacts, Family, Kind, MAX_LABEL_BYTES, RunFacts, Snapshot, process_families,
    render, render_text,
};

use openmetrics::{Sample, samples};

fn find<'a>(samples: &'a [Sample], name: &str) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.name == format!("weightvane_{name}")).collect()
}

/// Values of a family under the given labels.
fn values(text: &str, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
    let samples = samples(text);
    find(&samples, name)
        .into_iter()
        .filter(|sample| labels.iter().all(|(key, value)| sample.label(key) == Some(value)))
        .map(|sample| sample.value)
        .collect()
}

#[test]
fn golden_text() {
    let text = render_text(&sample::small());
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
    assert_eq!(lines.join("\n") + "\n", GOLDEN);
}

#[test]
fn rendering_is_deterministic_whatever_the_order_of_the_runs() {
    let snapshot = sample::full();
    let mut reversed = snapshot.clone();
    reversed.runs.reverse();
    let (first, second) = (render(&snapshot), render(&reversed));
    assert_eq!(first.text, second.text);
    assert_eq!(first.text_gzip, second.text_gzip);
    assert_eq!(first.openmetrics_gzip, second.openmetrics_gzip);
}

#[test]
fn a_full_snapshot_renders_the_catalogue_and_nothing_else() {
    let text = render_text(&sample::full());
    let rendered: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap().0.to_owned())
        .collect();
    let catalogue: BTreeSet<String> = CATALOG.iter().map(Family::full_name).collect();
    assert_eq!(rendered, catalogue);
}

#[test]
fn every_sample_has_the_labels_of_its_family_and_no_series_comes_twice() {
    let text = render_text(&sample::full());
    let mut seen = BTreeSet::new();
    for sample in samples(&text) {
        assert!(seen.insert(sample.series()), "twice: {sample:?}");
        let family = CATALOG
            .iter()
            .find(|family| {
                let name = family.full_name();
                let part = sample.name.strip_prefix(&name);
                part == Some("")
                    || family.kind == Kind::Histogram
                        && part.is_some_and(|part| ["_bucket", "_sum", "_count"].contains(&part))
            })
            .unwrap();
        for (label, value) in &sample.labels {
            assert!(family.labels.contains(&label.as_str()) || label == "le", "{sample:?}");
            assert!(!value.is_empty() && value.len() <= MAX_LABEL_BYTES, "{sample:?}");
        }
    }
}

#[test]
fn openmetrics_is_valid_and_says_the_same_as_text() {
    let mut snapshot = sample::full();
    snapshot.process = process_families();
    let exposition = render(&snapshot);
    let families = openmetrics::check(std::str::from_utf8(&exposition.openmetrics).unwrap());
    let key = |sample: Sample| {
        let (name, mut labels) = sample.series();
        for (label, value) in &mut labels {
            if label == "le" {
                *value = format!("{:?}", value.parse::<f64>().unwrap());
            }
        }
        (name, labels, sample.value.to_bits())
    };
    let open: BTreeSet<_> =
        families.into_values().flat_map(|(_, samples)| samples).map(key).collect();
    let text = std::str::from_utf8(&exposition.text).unwrap();
    let plain: BTreeSet<_> = samples(text).into_iter().map(key).collect();
    assert_eq!(open, plain);
}

#[test]
fn heads_become_a_mean_and_a_worst_and_layers_sort_as_text() {
    let text = render_text(&sample::full());
    let first = [("pair", "v_o"), ("layer", "00")];
    assert_eq!(values(&text, "gram_correlation", &first), [0.0625]);
    assert_eq!(values(&text, "gram_correlation_min", &first), [-0.125]);
    assert_eq!(values(&text, "commutator_vs_chance_max", &first), [1.125]);
    assert_eq!(values(&text, "subspace_overlap_min_ratio", &first), [-0.0625]);
    assert_eq!(values(&text, "alignment_mean", &[("pair", "up_down")]), [0.5625]);
    assert_eq!(values(&text, "commutator_max_ratio", &[("pair", "v_o")]), [1.125]);
    assert!(values(&text, "gram_correlation_min", &[("pair", "up_down")]).is_empty());
    assert_eq!(values(&text, "weight_norm", &[("layer", "11"), ("role", "up")]), [8.0]);
    let all = samples(&text);
    let norms = find(&all, "weight_norm");
    let embed = norms.iter().find(|sample| sample.label("role") == Some("embed")).unwrap();
    assert_eq!(embed.label("layer"), None);
    assert_eq!(values(&text, "frozen_matrices", &[]), [1.0]);
}

#[test]
fn groups_of_heads_feed_the_gap_alone() {
    let mut group = sample::pair("q_k", 0, None, 0.875);
    group.group = Some(0);
    group.gap_ratio = Some(0.125);
    let mut expert = sample::matrix("up", Some(0), None);
    expert.frobenius_norm = Some(4.0);
    let mut report = sample::report(
        vec![group, sample::pair("q_k", 0, Some(0), 0.25), sample::pair("q_k", 0, Some(1), 0.5)],
        vec![sample::matrix("up", Some(0), None), expert],
    );
    let text_of = |report| {
        let run = RunFacts { report: Some(Arc::new(report)), ..RunFacts::default() };
        render_text(&Snapshot { runs: vec![run], ..Snapshot::default() })
    };
    let text = text_of(report.clone());
    assert_eq!(values(&text, "gram_correlation", &[]), [0.375]);
    assert_eq!(values(&text, "alignment_mean", &[]), [0.375]);
    assert_eq!(values(&text, "balance_gap_ratio", &[]), [0.125]);
    assert_eq!(values(&text, "weight_norm", &[]), [6.0], "experts are averaged");
    assert!(values(&text, "frozen_matrices", &[]).is_empty(), "no save to compare with");
    report.nan = 3;
    let text = text_of(report);
    assert_eq!(values(&text, "nonfinite_weights", &[("kind", "nan")]), [3.0]);
    assert!(values(&text, "alignment_mean", &[]).is_empty(), "no mean of what is left");
    assert_eq!(values(&text, "gram_correlation", &[]), [0.375]);
}

#[test]
fn counters_are_there_from_the_start() {
    let run = RunFacts { name: "new".to_owned(), ..RunFacts::default() };
    let watched = Snapshot {
        daemon: Some(DaemonFacts::default()),
        runs: vec![run.clone()],
        ..Snapshot::default()
    };
    let text = render_text(&watched);
    assert_eq!(values(&text, "checkpoints_skipped_total", &[("reason", "outrun")]), [0.0]);
    assert_eq!(values(&text, "checkpoint_failures_total", &[("reason", "malformed")]), [0.0]);
    assert_eq!(values(&text, "run_active", &[]), [0.0]);
    assert!(values(&text, "checkpoint_latest_step", &[]).is_empty(), "unknown is absent");
    // Of a checkpoint that nobody watches nothing is said that only a daemon knows.
    let text = render_text(&Snapshot { runs: vec![run], ..Snapshot::default() });
    for name in ["run_active", "checkpoints_analyzed_total", "analysis_queue_length", "build_info"]
    {
        assert!(find(&samples(&text), name).is_empty(), "{name}");
    }
}

#[test]
fn hostile_names_stay_inside_their_label() {
    let text = render_text(&sample::full());
    let samples = samples(&text);
    let runs: BTreeSet<&str> = samples.iter().filter_map(|sample| sample.label("run")).collect();
    let expected = ["ev\"il\\\u{fffd}\u{fffd}{x=\"1\"} 1", "gpt/large"];
    assert_eq!(runs.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_vanished_run_leaves_no_series() {
    let mut snapshot = sample::full();
    snapshot.runs.retain(|run| run.name != "gpt/large");
    let exposition = render(&snapshot);
    for body in [&exposition.text, &exposition.openmetrics] {
        assert!(!std::str::from_utf8(body).unwrap().contains("gpt/large"));
    }
}

#[test]
fn beyond_the_limit_layer_families_go_and_are_counted() {
    let mut snapshot = sample::full();
    let series = |text: &str| {
        samples(text)
            .into_iter()
            .filter(|sample| sample.label("run") == Some("gpt/large"))
            .filter(|sample| sample.name != "weightvane_series_dropped_total")
            .count()
    };
    let all = series(&render_text(&snapshot));
    snapshot.daemon.as_mut().unwrap().series_limit = Some(all - 1);
    let exposition = render(&snapshot);
    let text = std::str::from_utf8(&exposition.text).unwrap();
    let dropped = usize::try_from(exposition.dropped["gpt/large"]).unwrap();
    assert_eq!(series(text) + dropped, all);
    assert!(values(text, "subspace_rotation_ratio", &[]).is_empty());
    assert!(!values(text, "gram_correlation", &[]).is_empty());
    assert_eq!(values(text, "series_limit", &[]).len(), 1);
    snapshot.daemon.as_mut().unwrap().series_limit = Some(0);
    assert!(!values(&render_text(&snapshot), "alignment_mean", &[]).is_empty());
}

#[test]
fn promtool_finds_nothing() {
    let mut snapshot = sample::full();
    snapshot.process = process_families();
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("WEIGHTVANE_REQUIRE_PROMTOOL").is_ok_and(|v| v == "1");
            assert!(!required, "promtool is required: {error}");
            writeln!(std::io::stderr(), "promtool is not here, not checked: {error}").unwrap();
            return;
        }
    };
    child.stdin.take().unwrap().write_all(render_text(&snapshot).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Without the HELP lines, which are the catalogue's.
const GOLDEN: &str = r#"# TYPE weightvane_build_info gauge
weightvane_build_info{version="0.1.0"} 1
# TYPE weightvane_watch_mode gauge
weightvane_watch_mode{root="/runs",mode="events"} 0
weightvane_watch_mode{root="/runs",mode="polling"} 1
# TYPE weightvane_scan_errors_total counter
weightvane_scan_errors_total 0
# TYPE weightvane_shard_ordinal gauge
weightvane_shard_ordinal 0
# TYPE weightvane_total_shards gauge
weightvane_total_shards 1
# TYPE weightvane_analysis_duration_seconds histogram
weightvane_analysis_duration_seconds_bucket{le="0.1"} 0
weightvane_analysis_duration_seconds_bucket{le="0.3"} 0
weightvane_analysis_duration_seconds_bucket{le="1"} 1
weightvane_analysis_duration_seconds_bucket{le="3"} 1
weightvane_analysis_duration_seconds_bucket{le="10"} 1
weightvane_analysis_duration_seconds_bucket{le="30"} 1
weightvane_analysis_duration_seconds_bucket{le="100"} 1
weightvane_analysis_duration_seconds_bucket{le="300"} 1
weightvane_analysis_duration_seconds_bucket{le="1000"} 1
weightvane_analysis_duration_seconds_bucket{le="3000"} 1
weightvane_analysis_duration_seconds_bucket{le="+Inf"} 1
weightvane_analysis_duration_seconds_sum 0.5
weightvane_analysis_duration_seconds_count 1
# TYPE weightvane_analysis_cpu_seconds_total counter
weightvane_analysis_cpu_seconds_total 0
# TYPE weightvane_read_bytes_total counter
weightvane_read_bytes_total 0
# TYPE weightvane_held_back_seconds_total counter
weightvane_held_back_seconds_total 0
# TYPE weightvane_http_rejected_total counter
weightvane_http_rejected_total{reason="busy"} 0
weightvane_http_rejected_total{reason="connections"} 0
weightvane_http_rejected_total{reason="host"} 0
weightvane_http_rejected_total{reason="malformed"} 0
weightvane_http_rejected_total{reason="method"} 0
weightvane_http_rejected_total{reason="rate"} 0
weightvane_http_rejected_total{reason="slow"} 0
weightvane_http_rejected_total{reason="streams"} 0
weightvane_http_rejected_total{reason="tls"} 0
weightvane_http_rejected_total{reason="unauthorized"} 0
# TYPE weightvane_series_limit gauge
weightvane_series_limit 5000
# TYPE weightvane_series_dropped_total counter
weightvane_series_dropped_total{run="lr \"3e-4\""} 0
# TYPE weightvane_run_info gauge
weightvane_run_info{run="lr \"3e-4\"",path="/runs/a\\b"} 1
# TYPE weightvane_run_active gauge
weightvane_run_active{run="lr \"3e-4\""} 1
# TYPE weightvane_checkpoint_latest_step gauge
weightvane_checkpoint_latest_step{run="lr \"3e-4\""} 500
# TYPE weightvane_checkpoints_discovered_total counter
weightvane_checkpoints_discovered_total{run="lr \"3e-4\""} 0
# TYPE weightvane_checkpoints_analyzed_total counter
weightvane_checkpoints_analyzed_total{run="lr \"3e-4\""} 0
# TYPE weightvane_checkpoints_skipped_total counter
weightvane_checkpoints_skipped_total{run="lr \"3e-4\"",reason="changed"} 0
weightvane_checkpoints_skipped_total{run="lr \"3e-4\"",reason="not_weights"} 0
weightvane_checkpoints_skipped_total{run="lr \"3e-4\"",reason="outrun"} 0
weightvane_checkpoints_skipped_total{run="lr \"3e-4\"",reason="vanished"} 0
# TYPE weightvane_checkpoint_failures_total counter
weightvane_checkpoint_failures_total{run="lr \"3e-4\"",reason="incomplete"} 0
weightvane_checkpoint_failures_total{run="lr \"3e-4\"",reason="internal"} 0
weightvane_checkpoint_failures_total{run="lr \"3e-4\"",reason="limit"} 0
weightvane_checkpoint_failures_total{run="lr \"3e-4\"",reason="malformed"} 0
weightvane_checkpoint_failures_total{run="lr \"3e-4\"",reason="unreadable"} 0
# TYPE weightvane_analysis_queue_length gauge
weightvane_analysis_queue_length{run="lr \"3e-4\""} 0
# TYPE weightvane_nonfinite_weights gauge
weightvane_nonfinite_weights{run="lr \"3e-4\"",kind="inf"} 0
weightvane_nonfinite_weights{run="lr \"3e-4\"",kind="nan"} 0
# TYPE weightvane_alignment_mean gauge
weightvane_alignment_mean{run="lr \"3e-4\"",pair="v_o"} 0.5
# TYPE weightvane_commutator_max_ratio gauge
weightvane_commutator_max_ratio{run="lr \"3e-4\"",pair="v_o"} 0.75
# TYPE weightvane_gram_correlation gauge
weightvane_gram_correlation{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.5
# TYPE weightvane_gram_correlation_min gauge
weightvane_gram_correlation_min{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.25
# TYPE weightvane_commutator_vs_chance gauge
weightvane_commutator_vs_chance{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.5
# TYPE weightvane_commutator_vs_chance_max gauge
weightvane_commutator_vs_chance_max{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.75
# TYPE weightvane_balance_gap_ratio gauge
weightvane_balance_gap_ratio{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.5
# TYPE weightvane_weight_norm gauge
weightvane_weight_norm{run="lr \"3e-4\"",role="embed"} 8
# TYPE weightvane_spectral_norm gauge
weightvane_spectral_norm{run="lr \"3e-4\"",role="embed"} 2
# TYPE weightvane_adapter_update_ratio gauge
weightvane_adapter_update_ratio{run="lr \"3e-4\""} 0.02
# TYPE weightvane_stable_rank gauge
weightvane_stable_rank{run="lr \"3e-4\"",role="embed"} 16
# TYPE weightvane_subspace_overlap_excess_ratio gauge
weightvane_subspace_overlap_excess_ratio{run="lr \"3e-4\"",layer="03",pair="v_o",k="4"} 0.125
# TYPE weightvane_subspace_overlap_ratio gauge
weightvane_subspace_overlap_ratio{run="lr \"3e-4\"",layer="03",pair="v_o",k="4"} 0.25
# TYPE weightvane_subspace_overlap_chance_ratio gauge
weightvane_subspace_overlap_chance_ratio{run="lr \"3e-4\"",layer="03",pair="v_o",k="4"} 0.0625
# TYPE weightvane_subspace_overlap_min_ratio gauge
weightvane_subspace_overlap_min_ratio{run="lr \"3e-4\"",layer="03",pair="v_o",k="4"} 0.125
# TYPE weightvane_commutator_ratio gauge
weightvane_commutator_ratio{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.25
# TYPE weightvane_flag_correlation gauge
weightvane_flag_correlation{run="lr \"3e-4\"",layer="03",pair="v_o"} 0.375
# TYPE weightvane_effective_rank gauge
weightvane_effective_rank{run="lr \"3e-4\"",role="embed"} 24
"#;
