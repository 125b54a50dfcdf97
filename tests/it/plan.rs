//! What is planned is what is done.

use std::collections::BTreeSet;
use std::path::Path;

use weightvane::checkpoint;
use weightvane::config::architectures;
use weightvane::diagnostics::{Method, Options, Plan, Previous, StderrReport, Unobserved, analyze};
use weightvane::model;

use crate::support::tests_dir;

fn options(exact_limit: usize) -> Options {
    Options { k: vec![1, 2, 4], rotation_k: vec![2], exact_limit, ..Options::default() }
}

/// Compares the plan of a fixture with what the analysis then reports; returns the methods seen.
fn check(fixture: &Path, exact_limit: usize) -> BTreeSet<Method> {
    let save = checkpoint::open(fixture).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let options = options(exact_limit);
    let plan = Plan::new(&save, &graph, &options);
    let outcome =
        analyze(&save, &graph, &[], &options, Previous::default(), None, &Unobserved).unwrap();
    let methods = |kind: &str| -> Vec<(String, Method)> {
        let planned = plan.measurements.iter().filter(|m| m.kind == kind);
        planned.map(|m| (m.name.clone(), m.method)).collect()
    };
    let report = &outcome.report;
    let matrices = methods("matrix");
    assert_eq!(matrices.len(), report.matrices.len());
    for ((name, method), found) in matrices.iter().zip(&report.matrices) {
        assert_eq!(*name, found.name);
        let is_exact = found.spectrum == Some("exact");
        assert_eq!(*method == Method::Exact, is_exact, "{name}: {method:?}, {:?}", found.spectrum);
    }
    for pair in &report.pairs {
        let part =
            |what: &str, n: Option<usize>| n.map_or(String::new(), |n| format!(" {what} {n}"));
        let (layer, head) = (part("layer", pair.layer), part("head", pair.head));
        let title = format!("{}{layer}{head}{}", pair.pair, part("group", pair.group));
        let (_, method) = methods("pair").into_iter().find(|(name, _)| *name == title).unwrap();
        let has_error = pair.stderr != StderrReport::default();
        assert_eq!(method == Method::Probed, has_error, "{title}: {method:?}");
    }
    for heads in &report.heads {
        let title = format!("heads of {} in layer {}", heads.projection, heads.layer);
        let (_, method) = methods("heads").into_iter().find(|(name, _)| *name == title).unwrap();
        // One head has no mean, nor an error of it.
        if heads.overlap_mean.is_some() {
            let has_error = heads.overlap_stderr.is_some();
            assert_eq!(method == Method::Probed, has_error, "{title}");
        }
    }
    // Gains and biases, which are small, may be read once more.
    let (planned, read) = (plan.read_bytes, outcome.read_bytes);
    assert!(
        planned <= read && read < planned + planned / 10,
        "{read} bytes read, {planned} planned"
    );
    assert!((1..=plan.read_bytes).contains(&plan.kept_bytes));
    plan.measurements.iter().map(|m| m.method).collect()
}

#[test]
fn the_methods_planned_are_those_of_the_report() {
    let llama = tests_dir("fixtures/llama");
    assert_eq!(check(&llama, 512), BTreeSet::from([Method::Exact, Method::Formed]));
    let searched = check(&llama, 16);
    let wanted = [Method::Exact, Method::Leading(4), Method::Formed, Method::Probed];
    for method in wanted {
        assert!(searched.contains(&method), "{method:?} not in {searched:?}");
    }
    check(&tests_dir("fixtures/gpt2"), 16);
    check(&tests_dir("fixtures/mlp_layers"), 8);
}

#[test]
fn a_search_is_cheaper_the_second_time_and_exact_work_is_not() {
    let save = checkpoint::open(&tests_dir("fixtures/llama")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let plan = |limit| Plan::new(&save, &graph, &options(limit)).measurements;
    let sum = |limit: usize, cost: fn(&weightvane::diagnostics::Planned) -> f64| {
        plan(limit).iter().map(cost).sum::<f64>()
    };
    assert!(sum(16, |m| m.flops_next) < 0.9 * sum(16, |m| m.flops_cold));
    assert!((sum(512, |m| m.flops_next) / sum(512, |m| m.flops_cold) - 1.0).abs() < 1e-12);
}

#[test]
fn only_what_hangs_on_a_changed_tensor_is_stale() {
    let save = checkpoint::open(&tests_dir("fixtures/mlp_layers")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&save.tensors, save.config.as_ref(), &rules);
    let plan = Plan::new(&save, &graph, &options(512));
    let stale = |changed: &[&str]| -> Vec<String> {
        let stale = plan.stale(&changed.iter().copied().collect());
        stale.into_iter().map(|m| format!("{} {}", m.kind, m.name)).collect()
    };
    assert!(stale(&[]).is_empty());
    let first = graph.matrices[0].name.as_str();
    assert_eq!(stale(&[first]), [format!("matrix {first}"), "pair chain layer 0".into()]);
}
