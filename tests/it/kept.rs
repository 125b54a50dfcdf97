//! What is kept of a save in a file serves the next one as what is kept in memory does.

use weightvane::checkpoint::{self, Manifest};
use weightvane::config::architectures;
use weightvane::diagnostics::{Baseline, Options, Origin, Outcome, Previous, Unobserved, analyze};
use weightvane::model;

use crate::support::tests_dir;

fn open(step: u64) -> Manifest {
    checkpoint::open(&tests_dir(&format!("it/golden/series/healthy/checkpoint-{step}"))).unwrap()
}

fn options() -> Options {
    Options {
        k: vec![1, 2, 4],
        rotation_k: vec![4],
        exact_limit: 16,
        seed: 7,
        ..Options::default()
    }
}

fn outcome(save: &Manifest, baseline: Option<&Baseline>) -> Outcome {
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let previous = Previous { manifest: None, baseline };
    analyze(save, &graph, &[], &options(), previous, None, &Unobserved).unwrap()
}

fn json(outcome: &Outcome) -> String {
    serde_json::to_string(&outcome.report).unwrap()
}

fn through_a_file(baseline: &Baseline) -> Baseline {
    let origin =
        Origin { run: "/r".into(), save: "/r/1".into(), step: Some(100), modified_ns: Some(1) };
    let bytes = baseline.to_bytes(&origin, &options()).unwrap();
    Baseline::from_bytes(&bytes, &options()).unwrap().0
}

#[test]
fn the_next_save_is_measured_to_the_same_bits_from_a_file() {
    let first = outcome(&open(1800), None);
    let from_memory = outcome(&open(1900), Some(&first.baseline));
    assert!(json(&first).contains("block Lanczos"));
    assert!(!json(&from_memory).contains("block Lanczos"), "a search began anew");
    assert!(from_memory.report.matrices.iter().all(|m| m.update_ratio.is_some_and(|r| r > 0.0)));
    let from_file = outcome(&open(1900), Some(&through_a_file(&first.baseline)));
    assert_eq!(json(&from_file), json(&from_memory));
    // And so on, from what was kept of that.
    let next = outcome(&open(2000), Some(&through_a_file(&from_file.baseline)));
    assert_eq!(json(&next), json(&outcome(&open(2000), Some(&from_memory.baseline))));
}

#[test]
fn starts_alone_compare_with_nothing() {
    let first = outcome(&open(1800), None);
    let again = outcome(&open(1800), Some(&first.baseline.starts_only()));
    assert!(json(&again).contains("one pass") && !json(&again).contains("block Lanczos"));
    for matrix in &again.report.matrices {
        assert_eq!(matrix.update_ratio, None, "{}", matrix.name);
        assert!(matrix.rotation.values().all(Option::is_none));
    }
}
