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

const FIXTURES: &str = "fixtures/formats";
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
const NUMPY: [&str; 2] = ["npz", "npy"];
const KERAS: [&str; 2] = ["keras", "keras_h5"];
/// Formats that are recognised and not read.
const NOT_READ: [&str; 2] = ["orbax", "flax"];
/// Parts of model parallelism are told, not joined.
const NOT_JOINED: &str = "megatron_legacy_tp2";

/// What is said of a save that is not read, by a part of its case and path.
const SAID: [(&str, &str); 16] = [
    ("/optimizer.", "the state of an optimiser"),
    ("/scheduler.", "the state of a scheduler"),
    ("/random_states_0.pkl", "the state of random generators"),
    ("/rng_state.pth", "the state of random generators"),
    ("/training_args.bin", "the arguments of a trainer"),
    (
        "torch_module",
        "asks for `torch.nn.modules.container.Sequential`, which no state_dict() needs",
    ),
    (
        "legacy_module",
        "asks for `torch.nn.modules.container.Sequential`, which no state_dict() needs",
    ),
    ("torch_jit", "a TorchScript program"),
    ("torch_quantised", "left out: quantised"),
    ("npz_pickled", "objects of Python"),
    ("gguf_q4_0", "matrices are of type Q4_0"),
    ("orbax_manager", "an Orbax checkpoint"),
    ("orbax_ocdbt", "an Orbax checkpoint in OCDBT"),
    ("orbax_zarr", "an Orbax checkpoint"),
    ("flax_msgpack", "a MessagePack of Flax"),
    (NOT_JOINED, "cut over 2 ranks of model parallelism, which are not joined"),
];

/// All cases: each with a path, a verdict and perhaps a reference.
fn cases() -> Vec<Value> {
    let cases = json(&tests_dir(FIXTURES).join("cases.json"));
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

/// The reference of a case, with the names that a reader gives its tensors.
fn reference(case: &Value) -> Manifest {
    let mut path = tests_dir(FIXTURES).join(text(case, "reference"));
    if text(case, "case") == "megatron_torch_dist" {
        // Megatron stacks all layers in one tensor, and a reader takes them apart.
        path.set_file_name("layers.safetensors");
    }
    let mut reference = checkpoint::open(&path).unwrap();
    let published = case["rename"]["names"].as_object().into_iter().flatten();
    let published: BTreeMap<&str, &String> =
        published.map(|(ours, theirs)| (theirs.as_str().unwrap(), ours)).collect();
    for tensor in &mut reference.tensors {
        if let Some(name) = published.get(tensor.name.as_str()) {
            tensor.name = name.as_str().into();
        }
    }
    reference.tensors.sort_by(|a, b| checkpoint::natural_cmp(&a.name, &b.name));
    reference
}

fn check_weights(case: &Value, path: &Path) {
    let name = format!("{} {}", text(case, "case"), text(case, "path"));
    let mut manifest = checkpoint::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Some(step) = case["step"].as_u64() {
        assert_eq!(manifest.step, Some(step), "{name}");
    }
    let strip = text(&case["rename"], "strip");
    for tensor in &mut manifest.tensors {
        tensor.name = tensor.name.strip_prefix(strip).unwrap_or(&tensor.name).into();
    }
    let mut reference = reference(case);
    // A second name of the same elements is told and left out, as savers of safetensors do.
    let is_second = |tensor: &str| {
        let told = format!("{tensor} left out: the same elements as");
        manifest.notes.iter().any(|note| note.starts_with(&told))
    };
    reference.tensors.retain(|tensor| !is_second(&tensor.name));
    // What describes the model is not the same everywhere: a GGUF file has it, safetensors has not.
    if reference.config.is_some() {
        manifest.config.clone_from(&reference.config);
    } else {
        reference.config.clone_from(&manifest.config);
    }
    reference.adapter.clone_from(&manifest.adapter);
    // numpy's safetensors has no complex numbers.
    let is_there = |name: &str| reference.tensors.iter().any(|tensor| tensor.name == name);
    manifest.tensors.retain(|t| !t.dtype.name().starts_with('C') || is_there(&t.name));
    let (found, expected) = (contents(&manifest), contents(&reference));
    let names = |contents: &Contents| contents.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{name}: {:?}", manifest.notes);
    for (tensor, stored) in &expected {
        assert!(found[tensor] == *stored, "{name}: {tensor} differs: {:?}", &found[tensor].1);
    }
    assert_eq!(report(&manifest), report(&reference), "{name}");
    assert!(manifest.unchanged().is_ok(), "{name}");
}

fn is_read(case: &Value) -> bool {
    let is_joined = text(case, "case") != NOT_JOINED;
    text(case, "verdict") == "weights" && !NOT_READ.contains(&text(case, "format")) && is_joined
}

/// Compares all weights of these formats, `at_least` so many.
fn check(formats: &[&str], at_least: usize) {
    let mut n = 0;
    for case in cases().iter().filter(|case| formats.contains(&text(case, "format"))) {
        if is_read(case) {
            let directory = tests_dir(FIXTURES).join(text(case, "case"));
            check_weights(case, &directory.join(text(case, "path")));
            n += 1;
        }
    }
    assert!(n >= at_least, "{n} cases compared");
}

#[test]
fn what_pytorch_and_its_frameworks_save() {
    check(&PYTORCH, 64);
}

#[test]
fn archives_of_numpy() {
    check(&NUMPY, 4);
}

#[test]
fn files_of_llama_cpp() {
    check(&["gguf"], 4);
}

#[test]
fn files_of_keras() {
    check(&KERAS, 5);
}

#[test]
fn what_is_not_read_says_what_it_is() {
    let cases = cases();
    let not_read: Vec<_> = cases.iter().filter(|case| !is_read(case)).collect();
    for case in &not_read {
        let place = format!("{}/{}", text(case, "case"), text(case, "path"));
        let error = checkpoint::open(&tests_dir(FIXTURES).join(&place)).unwrap_err();
        let is_told =
            matches!(error, OpenError::NotACheckpoint { .. } | OpenError::NotWeights { .. });
        let words = error.to_string();
        assert!(is_told && !words.contains('\n'), "{place}: {words}");
        let said = SAID.iter().find(|(part, _)| place.contains(part));
        let (_, said) = said.unwrap_or_else(|| panic!("nothing is expected to be said of {place}"));
        assert!(words.contains(said), "{place}: {words}");
    }
    assert!(not_read.len() >= 27, "{}", not_read.len());
}

/// No format of the fixtures is looked at by nobody.
#[test]
fn every_case_is_compared_or_told() {
    let compared = [&PYTORCH[..], &NUMPY, &KERAS, &["gguf"]].concat();
    let left = |case: &&Value| is_read(case) && !compared.contains(&text(case, "format"));
    assert_eq!(cases().iter().filter(left).count(), 0);
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
