//! The same weights, saved by the real frameworks in every format and in safetensors, are the same
//! tensors and give the same report.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use weightvane::checkpoint::{self, Manifest, OpenError};
use weightvane::config::architectures;
use weightvane::diagnostics::{Options, Previous, Unobserved, analyze};
use weightvane::model;

use crate::support::{json, tests_dir};

/// What `PyTorch` and the frameworks upon it write.
const PYTORCH: [&str; 9] = [
    "safetensors",
    "pytorch",
    "pytorch_legacy",
    "pytorch_sharded",
    "lightning",
    "dcp",
    "deepspeed",
    "megatron",
    "peft",
];
/// Parts of model parallelism are told, not joined.
const NOT_JOINED: [&str; 1] = ["megatron_legacy_tp2"];

/// Cases of a directory of fixtures: each with a path, a verdict and perhaps a reference.
fn cases(directory: &str) -> Vec<Value> {
    let cases = json(&tests_dir(directory).join("cases.json"));
    cases.as_array().unwrap().clone()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

/// Every tensor as type, shape and stored bytes, or none where the type is not read.
type Contents = BTreeMap<String, (&'static str, Vec<usize>, Option<Vec<u8>>)>;

fn contents(manifest: &Manifest) -> Contents {
    let read = |tensor: &checkpoint::TensorInfo| {
        let raw = manifest.read_raw(tensor, None, &mut |_| {});
        let raw = tensor.dtype.is_float().then(|| raw.unwrap().bytes().to_vec());
        (tensor.name.to_string(), (tensor.dtype.name(), tensor.shape.clone(), raw))
    };
    manifest.tensors.iter().map(read).collect()
}

/// Tensors that stack all layers, layer by layer.
fn unstacked(contents: Contents) -> Contents {
    let mut apart = Contents::new();
    for (name, (dtype, shape, raw)) in contents {
        let Some((front, behind)) = name.split_once(".layers.") else {
            apart.insert(name, (dtype, shape, raw));
            continue;
        };
        let raw = raw.unwrap();
        for (layer, part) in raw.chunks(raw.len() / shape[0]).enumerate() {
            let name = format!("{front}.layers.{layer}.{behind}");
            apart.insert(name, (dtype, shape[1..].to_vec(), Some(part.to_vec())));
        }
    }
    apart
}

/// The report as JSON, without what a name or a format may change.
fn report(manifest: &Manifest) -> Value {
    let rules = architectures::built_in().unwrap();
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    let buffers = model::buffers(&manifest.tensors, &graph, &rules);
    let options = Options { k: vec![1, 2, 4, 8], ..Options::default() };
    let previous = Previous::default();
    let outcome =
        analyze(manifest, &graph, &buffers, &options, previous, None, &Unobserved).unwrap();
    let mut report = serde_json::to_value(outcome.report).unwrap();
    for key in ["checkpoint", "format", "step"] {
        report.as_object_mut().unwrap().remove(key);
    }
    report
}

fn check_weights(case: &Value, directory: &str, path: &Path) {
    let name = format!("{} {}", text(case, "case"), text(case, "path"));
    let mut manifest = checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Some(step) = case["step"].as_u64() {
        assert_eq!(manifest.step, Some(step), "{name}");
    }
    let strip = text(&case["rename"], "strip");
    for tensor in &mut manifest.tensors {
        tensor.name = tensor.name.strip_prefix(strip).unwrap_or(&tensor.name).into();
    }
    let reference = tests_dir(directory).join(text(case, "reference"));
    let mut reference = checkpoint::open(&reference).unwrap();
    // A second name of the same elements is told and left out, as savers of safetensors do.
    let is_second = |tensor: &str| {
        let told = format!("{tensor} left out: the same elements as");
        manifest.notes.iter().any(|note| note.starts_with(&told))
    };
    reference.tensors.retain(|tensor| !is_second(&tensor.name));
    manifest.config.clone_from(&reference.config);
    reference.adapter.clone_from(&manifest.adapter);
    // numpy's safetensors has no complex numbers.
    let is_there = |name: &str| reference.tensors.iter().any(|tensor| tensor.name == name);
    manifest.tensors.retain(|t| !t.dtype.name().starts_with('C') || is_there(&t.name));
    let (found, mut expected) = (contents(&manifest), contents(&reference));
    let is_stacked = text(case, "case") == "megatron_torch_dist";
    if is_stacked {
        expected = unstacked(expected);
    }
    let names = |contents: &Contents| contents.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{name}: {:?}", manifest.notes);
    for (tensor, stored) in &expected {
        assert!(found[tensor] == *stored, "{name}: {tensor} differs: {:?}", &found[tensor].1);
    }
    if !is_stacked {
        assert_eq!(report(&manifest), report(&reference), "{name}");
    }
    assert!(manifest.unchanged().is_ok(), "{name}");
}

fn check(directory: &str, formats: &[&str], at_least: usize) {
    let (mut n_weights, mut n_others) = (0, 0);
    for case in cases(directory) {
        if !formats.contains(&text(&case, "format")) || NOT_JOINED.contains(&text(&case, "case")) {
            continue;
        }
        let path = tests_dir(directory).join(text(&case, "case")).join(text(&case, "path"));
        if text(&case, "verdict") == "weights" {
            check_weights(&case, directory, &path);
            n_weights += 1;
            continue;
        }
        let error = checkpoint::open(&path).unwrap_err();
        let is_told =
            matches!(error, OpenError::NotWeights { .. } | OpenError::NotACheckpoint { .. });
        let words = error.to_string();
        assert!(is_told && !words.contains('\n'), "{}: {words}", path.display());
        n_others += 1;
    }
    assert!(n_weights >= at_least && n_others > 0, "{n_weights} and {n_others} cases");
}

#[test]
fn what_pytorch_and_its_frameworks_save() {
    check("fixtures/formats", &PYTORCH, 60);
}

#[test]
fn readme_holds_the_table_of_the_formats() {
    let row =
        |f: &checkpoint::Format| format!("| `{}` | {} | {} |\n", f.name, f.reads, f.written_by);
    let rows: String = checkpoint::FORMATS.iter().map(row).collect();
    let table = format!("| format | what is read | written by |\n|---|---|---|\n{rows}");
    let readme = std::fs::read_to_string(tests_dir("../README.md")).unwrap();
    assert!(readme.contains(&table), "README expected to hold:\n{table}");
}

#[test]
fn archives_of_numpy() {
    check("fixtures/formats", &["npz", "npy"], 3);
}

#[test]
fn what_is_not_read_says_what_it_is() {
    let formats = ["orbax", "flax"];
    let cases = cases("fixtures/formats").into_iter();
    for case in cases.filter(|case| formats.contains(&text(case, "format"))) {
        let directory = tests_dir("fixtures/formats").join(text(&case, "case"));
        let error = checkpoint::open(&directory.join(text(&case, "path"))).unwrap_err();
        let is_told =
            matches!(error, OpenError::NotACheckpoint { .. } | OpenError::NotWeights { .. });
        assert!(is_told, "{}: {error}", directory.display());
    }
}
