//! What adapters of PEFT add, against what merging them changes in their base models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use faer::{Mat, MatRef};
use weightvane::checkpoint::{self, Manifest};
use weightvane::config::architectures;
use weightvane::diagnostics::{
    Baseline, MatrixReport, Options, Outcome, PairReport, Plan, Previous, Report, Unobserved,
    analyze, find_base,
};
use weightvane::model;

use crate::support::{read_arrays, tests_dir, write_arrays};

fn options(exact_limit: usize) -> Options {
    Options { k: vec![1, 2, 4, 8], rotation_k: vec![2], exact_limit, ..Options::default() }
}

fn measure(
    adapter: &Manifest,
    bases: &[PathBuf],
    options: &Options,
    before: Option<&Baseline>,
) -> Outcome {
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&adapter.tensors, adapter.config.as_ref(), &rules);
    let base = find_base(adapter, &graph, bases, None);
    let (base, missing) = base.map_or_else(|missing| (None, Some(missing)), |base| (base, None));
    let previous = Previous { manifest: None, baseline: before };
    let mut outcome =
        analyze(adapter, &graph, &[], options, previous, base.as_ref(), &Unobserved).unwrap();
    outcome.report.skipped.extend(missing);
    outcome
}

fn report(adapter: &Path, base: &Path) -> Report {
    let adapter = checkpoint::open(adapter).unwrap();
    measure(&adapter, &[base.to_owned()], &options(512), None).report
}

/// A tensor as it is stored, its trailing dimensions folded.
fn stored(manifest: &Manifest, name: &str) -> Mat<f64> {
    let tensor = manifest.find(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let values = manifest.read(tensor).unwrap().values;
    let rows = tensor.shape[0];
    let cols = values.len() / rows;
    Mat::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]))
}

#[expect(clippy::cast_precision_loss, reason = "sizes of small matrices")]
fn real(n: usize) -> f64 {
    n as f64
}

/// Mean squared cosine between the first k left singular vectors.
fn overlap(a: MatRef<'_, f64>, b: MatRef<'_, f64>, k: usize) -> f64 {
    let (a, b) = (a.thin_svd().unwrap(), b.thin_svd().unwrap());
    let cosines = a.U().subcols(0, k).transpose() * b.U().subcols(0, k);
    cosines.squared_norm_l2() / real(k)
}

fn close(what: &str, found: Option<f64>, expected: f64) {
    let error = found.map(|found| (found - expected).abs());
    let is_close = error.is_some_and(|error| error <= 1e-4 * expected.abs().max(1.0));
    assert!(is_close, "{what}: found {found:?}, expected {expected}");
}

/// The rows of a module's update: its own, and its pairs on the side of the outputs and the inputs.
fn rows<'r>(report: &'r Report, module: &str) -> (&'r MatrixReport, [&'r PairReport; 2]) {
    let name = format!("{module} (update)");
    let row = report.matrices.iter().find(|m| m.name == name).unwrap();
    let pair = |pair: &str| {
        let found = report.pairs.iter().find(|p| p.pair == pair && p.writer == name);
        found.unwrap_or_else(|| panic!("no {pair} of {name}: {:?}", report.skipped))
    };
    (row, ["update_out", "update_in"].map(pair))
}

/// Compares every module whose weight differs by `change` (module → stored change).
fn check(report: &Report, base: &Manifest, change: &BTreeMap<String, Mat<f64>>, in_out: bool) {
    let updates = report.matrices.iter().filter(|m| m.role == "lora_update").count();
    assert_eq!(updates, change.len());
    for (module, change) in change {
        let weight = stored(base, &format!("{module}.weight"));
        let (change, weight) = if in_out {
            (change.transpose(), weight.transpose())
        } else {
            (change.as_ref(), weight.as_ref())
        };
        let (row, [out, inner]) = rows(report, module);
        assert_eq!((row.rows, row.cols), (change.nrows(), change.ncols()), "{module}");
        close("norm", row.frobenius_norm, change.norm_l2());
        close("ratio", row.base_ratio, change.norm_l2() / weight.norm_l2());
        let values = change.singular_values().unwrap();
        close("spectral norm", row.spectral_norm, values[0]);
        close("stable rank", row.stable_rank, (change.norm_l2() / values[0]).powi(2));
        let rank = values.iter().filter(|s| **s > 1e-5 * values[0]).count();
        assert_eq!(row.numerical_rank, Some(rank), "{module}");
        for (pair, a, b) in [(out, change, weight), (inner, change.transpose(), weight.transpose())]
        {
            assert_eq!((pair.kind, pair.dim), ("base", a.nrows()));
            let ks: Vec<usize> = pair.overlap.keys().copied().collect();
            let rank = rank.min(a.nrows() - 1);
            assert_eq!(ks, [1, 2, 4, 8].into_iter().filter(|k| *k <= rank).collect::<Vec<_>>());
            for (k, found) in &pair.overlap {
                close(&format!("{module} {k}"), Some(found.ratio), overlap(a, b, *k));
                close("chance", Some(found.chance), real(*k) / real(a.nrows()));
            }
        }
    }
}

/// The tensors of a file by the modules that they are the weights of.
fn by_module(manifest: &Manifest) -> BTreeMap<String, Mat<f64>> {
    let module = |name: &str| name.strip_suffix(".weight").unwrap_or(name).to_owned();
    manifest.tensors.iter().map(|t| (module(&t.name), stored(manifest, &t.name))).collect()
}

#[test]
fn gpt2_with_stabilised_scales_a_pattern_and_an_embedding() {
    let directory = tests_dir("fixtures/adapters/gpt2");
    let base = checkpoint::open(&directory.join("base")).unwrap();
    let report = report(&directory.join("adapter"), &directory.join("base"));
    let delta = checkpoint::open(&directory.join("delta.safetensors")).unwrap();
    check(&report, &base, &by_module(&delta), true);
    assert_eq!(report.architecture, "lora");
}

#[test]
fn convolutions_and_a_classifier() {
    let directory = tests_dir("fixtures/adapters/conv");
    let base = checkpoint::open(&directory.join("base")).unwrap();
    let report = report(&directory.join("adapter"), &directory.join("base"));
    let delta = checkpoint::open(&directory.join("delta.safetensors")).unwrap();
    check(&report, &base, &by_module(&delta), false);
}

#[test]
fn llama_in_both_containers_with_patterns_and_modules_beside() {
    let formats = tests_dir("fixtures/formats");
    let base = checkpoint::open(&formats.join("common")).unwrap();
    for case in ["peft_lora", "peft_lora_bin", "peft_modules_to_save", "peft_patterns"] {
        let report = report(&formats.join(case).join("adapter"), &formats.join("common"));
        let merged = checkpoint::open(&formats.join(case).join("reference/merged.safetensors"));
        let mut change = by_module(&merged.unwrap());
        // Saved whole, so that no adapter changes it.
        change.remove("lm_head");
        for (module, merged) in &mut change {
            *merged -= stored(&base, &format!("{module}.weight"));
        }
        check(&report, &base, &change, false);
    }
}

#[test]
fn of_dora_it_is_said_that_norms_are_missing() {
    let formats = tests_dir("fixtures/formats");
    let report = report(&formats.join("peft_dora/adapter"), &formats.join("common"));
    let told = report.skipped.iter().filter(|s| s.reason.contains("DoRA")).count();
    assert_eq!(told, 6, "{:?}", report.skipped);
    assert_eq!(report.pairs.iter().filter(|p| p.kind == "base").count(), 12);
}

/// A save of the fixture's adapter, the step in its name, with B grown by `by`.
fn grown(root: &Path, step: u64, by: f32) -> Manifest {
    let from = tests_dir("fixtures/formats/peft_lora/adapter");
    let to = root.join(format!("checkpoint-{step}"));
    std::fs::create_dir_all(&to).unwrap();
    std::fs::copy(from.join("adapter_config.json"), to.join("adapter_config.json")).unwrap();
    let mut arrays = read_arrays(&from);
    for (_, b) in arrays.iter_mut().filter(|(name, _)| name.contains("lora_B")) {
        b.values.iter_mut().for_each(|x| *x *= by);
    }
    write_arrays(&to.join("adapter_model.safetensors"), &arrays);
    checkpoint::open(&to).unwrap()
}

#[test]
fn the_base_is_read_once_and_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let file = "model.safetensors";
    let from = tests_dir("fixtures/formats/common");
    std::fs::copy(from.join(file), base.join(file)).unwrap();
    for exact_limit in [512, 1] {
        let options = options(exact_limit);
        let bases = [base.clone()];
        let one = measure(&grown(dir.path(), 1, 1.0), &bases, &options, None);
        let two = measure(&grown(dir.path(), 2, 2.0), &bases, &options, Some(&one.baseline));
        let alone = measure(&grown(dir.path(), 2, 2.0), &bases, &options, None);
        let without = |step, by, before: Option<&Baseline>| {
            measure(&grown(dir.path(), step, by), &[], &options, before).read_bytes
        };
        // Six weights of the base, in f32: those of queries, values and the end of the MLP.
        let of_base = one.read_bytes - without(1, 1.0, None);
        assert_eq!(of_base, 2 * 4 * (16 * 16 + 16 * 16 + 16 * 24), "exact up to {exact_limit}");
        assert_eq!(two.read_bytes, without(2, 2.0, Some(&one.baseline)));
        // Where an eighth of the memory limit has no room for its vectors, it is read again.
        let tight = Options { memory_limit: 1 << 10, ..options.clone() };
        let first = measure(&grown(dir.path(), 1, 1.0), &bases, &tight, None);
        let second = measure(&grown(dir.path(), 2, 2.0), &bases, &tight, Some(&first.baseline));
        let alone_without = measure(&grown(dir.path(), 2, 2.0), &[], &tight, Some(&first.baseline));
        assert!(second.read_bytes >= alone_without.read_bytes + of_base);
        for (first, second) in one.report.matrices.iter().zip(&two.report.matrices) {
            let ratio = first.base_ratio.zip(second.base_ratio);
            assert_eq!(ratio.is_some(), first.role == "lora_update");
            if let Some((first, second)) = ratio {
                close("growth", Some(second / first), 2.0);
            }
        }
        let bits = |o: &Outcome| {
            let rows = o.report.pairs.iter().filter(|p| p.kind == "base");
            serde_json::to_string(&rows.collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(bits(&two), bits(&alone));
        let turns = two.report.matrices.iter().filter(|m| m.role == "lora_update");
        for row in turns {
            close("turn", row.rotation[&2], 0.0);
        }
        // Another base in its place is read anew.
        let mut other = read_arrays(&from.join(file));
        for array in other.values_mut() {
            array.values.reverse();
        }
        write_arrays(&base.join("new"), &other);
        std::fs::rename(base.join("new"), base.join(file)).unwrap();
        let three = measure(&grown(dir.path(), 3, 2.0), &bases, &options, Some(&two.baseline));
        assert_ne!(bits(&three), bits(&two));
        std::fs::copy(from.join(file), base.join(file)).unwrap();
    }
}

#[test]
fn a_base_that_is_missing_or_broken_costs_the_comparison_alone() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = grown(dir.path(), 1, 1.0);
    let told = |bases: &[PathBuf]| {
        let report = measure(&adapter, bases, &options(512), None).report;
        assert_eq!(report.pairs.iter().filter(|p| p.pair == "lora").count(), 6);
        assert_eq!(report.matrices.iter().filter(|m| m.role == "lora_update").count(), 6);
        assert!(report.pairs.iter().all(|p| p.kind != "base"));
        let told = report.skipped.iter().map(|s| format!("{}: {}", s.name, s.reason));
        told.collect::<Vec<_>>().join("\n")
    };
    assert!(told(&[]).contains("base model: base model `common` not found"), "{}", told(&[]));
    let base = dir.path().join("common");
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("model.safetensors"), b"no header").unwrap();
    let bases = [dir.path().to_owned()];
    assert!(told(&bases).contains("base model: "), "{}", told(&bases));
    let mut broken = read_arrays(&tests_dir("fixtures/formats/common/model.safetensors"));
    for array in broken.values_mut() {
        array.values[0] = f32::NAN;
    }
    write_arrays(&base.join("model.safetensors"), &broken);
    assert!(told(&bases).contains("not finite"), "{}", told(&bases));
    // A model of another width.
    let other = tests_dir("fixtures/adapters/gpt2/base");
    std::fs::copy(other.join("model.safetensors"), base.join("model.safetensors")).unwrap();
    assert!(told(&bases).contains("has no weight of that module"), "{}", told(&bases));
}

#[test]
fn an_adapter_at_its_start_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = grown(dir.path(), 1, 0.0);
    let base = tests_dir("fixtures/formats/common");
    let report = measure(&adapter, &[base], &options(512), None).report;
    for row in report.matrices.iter().filter(|m| m.role == "lora_update") {
        assert_eq!((row.frobenius_norm, row.base_ratio), (Some(0.0), Some(0.0)));
        assert_eq!((row.stable_rank, row.numerical_rank), (None, Some(0)));
    }
    let pairs = || report.pairs.iter().filter(|p| p.kind == "base");
    assert!(pairs().count() == 12 && pairs().all(|p| p.overlap.is_empty()));
}

#[test]
fn the_plan_names_every_update_and_what_is_read_of_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = grown(dir.path(), 1, 1.0);
    let base = tests_dir("fixtures/formats/common");
    let graph = model::recognize(&adapter.tensors, None, &[]);
    let options = options(512);
    let opened = checkpoint::open(&base).unwrap();
    let plan = Plan::new(&adapter, &graph, &options);
    let plan = plan.with_adapters(&adapter, &graph, Some(&opened), &options);
    let names = |kind: &str| {
        let of_kind = plan.measurements.iter().filter(|m| m.kind == kind);
        of_kind.map(|m| m.name.clone()).collect::<Vec<_>>()
    };
    let outcome = measure(&adapter, &[base], &options, None);
    let updates = outcome.report.matrices.iter().filter(|m| m.role == "lora_update");
    assert_eq!(names("update"), updates.map(|m| m.name.clone()).collect::<Vec<_>>());
    let outs = outcome.report.pairs.iter().filter(|p| p.pair == "update_out");
    assert_eq!(names("base"), outs.map(|p| p.reader.clone()).collect::<Vec<_>>());
    let without = measure(&adapter, &[], &options, None);
    assert_eq!(plan.base_bytes, outcome.read_bytes - without.read_bytes);
}

#[test]
fn where_the_base_changes_as_well_nothing_is_said_of_what_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = grown(dir.path(), 1, 1.0);
    let record = adapter.adapter.as_mut().unwrap();
    record["init_lora_weights"] = "pissa".into();
    let base = tests_dir("fixtures/formats/common");
    let report = measure(&adapter, &[base], &options(512), None).report;
    assert!(report.pairs.iter().all(|p| p.pair == "lora"));
    assert!(report.matrices.iter().all(|m| m.role != "lora_update"));
    assert_eq!(report.skipped.iter().filter(|s| s.reason.contains("pissa changes")).count(), 6);
}
