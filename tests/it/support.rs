//! What several tests need: measuring a directory, comparing numbers, rewriting checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use weightvane::checkpoint;
use weightvane::config::architectures;
use weightvane::diagnostics::{Options, Previous, Report, Unobserved, analyze};
use weightvane::model;

/// A path below `tests/`.
pub(crate) fn tests_dir(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(below)
}

/// The measurements of a checkpoint at these k.
pub(crate) fn measure(path: &Path, ks: &[usize]) -> Report {
    let manifest = checkpoint::open(path).expect("the fixture opens");
    let rules = architectures::built_in().expect("built-in rules parse");
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    let buffers = model::buffers(&manifest.tensors, &graph, &rules);
    let options = Options {
        k: ks.to_vec(),
        rotation_k: vec![8],
        memory_limit: 1 << 28,
        ..Options::default()
    };
    analyze(&manifest, &graph, &buffers, &options, Previous::default(), None, &Unobserved)
        .expect("the fixture is measured")
        .report
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("it is JSON")
}

/// Compares numbers within a tolerance, collects what differs and counts what was compared.
#[derive(Debug)]
pub(crate) struct Comparison {
    tolerance: f64,
    compared: usize,
    different: Vec<String>,
}

impl Comparison {
    pub(crate) fn new(tolerance: f64) -> Self {
        Self { tolerance, compared: 0, different: Vec::new() }
    }

    /// Relative to the expected value, absolute near zero for quantities of order one. `null` and
    /// a missing value are the same: undefined.
    pub(crate) fn number(&mut self, what: &str, found: Option<f64>, expected: &Value) {
        self.compared += 1;
        let same = match (found, expected.as_f64()) {
            (Some(f), Some(e)) => (f - e).abs() <= self.tolerance * e.abs().max(1.0),
            (None, None) => expected.is_null(),
            _ => false,
        };
        if !same {
            self.different.push(format!("{what}: {found:?}, expected {expected}"));
        }
    }

    /// Fails with what differs, or when fewer than `at_least` numbers were compared.
    pub(crate) fn finish(self, at_least: usize) {
        let shown = self.different.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.different.is_empty(), "{} numbers differ:\n{shown}", self.different.len());
        assert!(self.compared >= at_least, "only {} numbers compared", self.compared);
    }
}

/// A matrix or vector of f32 values to be written again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Array {
    /// A matrix with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let [rows, cols] = self.shape[..] else { return self.clone() };
        let at = |i: usize| self.values[(i % rows) * cols + i / rows];
        Self { shape: vec![cols, rows], values: (0..rows * cols).map(at).collect() }
    }

    /// Rows `range` of a matrix, or elements of a vector.
    pub(crate) fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let width: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Self { shape, values: self.values[range.start * width..range.end * width].to_vec() }
    }

    /// These, one below the other.
    pub(crate) fn stacked(parts: &[Self]) -> Self {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|p| p.shape[0]).sum();
        Self { shape, values: parts.iter().flat_map(|p| p.values.clone()).collect() }
    }
}

/// Named tensors.
pub(crate) type Arrays = BTreeMap<String, Array>;

/// All float tensors of a checkpoint.
pub(crate) fn read_arrays(path: &Path) -> Arrays {
    let manifest = checkpoint::open(path).expect("the fixture opens");
    let read = |info| {
        let tensor = manifest.read(info).expect("the tensor is read");
        (info.name.to_string(), Array { shape: tensor.shape, values: tensor.values })
    };
    manifest.tensors.iter().map(read).collect()
}

/// Writes `model.safetensors` (F32) and, if given, `config.json` into a directory.
pub(crate) fn write_checkpoint(dir: &Path, arrays: &Arrays, config: Option<&Value>) {
    write_arrays(&dir.join("model.safetensors"), arrays);
    if let Some(config) = config {
        std::fs::write(dir.join("config.json"), config.to_string()).expect("the file is written");
    }
}

/// Writes these in F32 as a safetensors file, and the directory that holds it.
pub(crate) fn write_arrays(path: &Path, arrays: &Arrays) {
    let bytes = |a: &Array| a.values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = arrays.iter().map(|(n, a)| (n, a.shape.clone(), bytes(a))).collect();
    let view = |shape: &Vec<usize>, bytes| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).expect("shape and bytes agree")
    };
    let tensors = data.iter().map(|(name, shape, bytes)| ((*name).clone(), view(shape, bytes)));
    let file = safetensors::serialize(tensors, None).expect("the tensors serialise");
    std::fs::create_dir_all(path.parent().expect("a file lies in a directory"))
        .expect("the directory is made");
    std::fs::write(path, file).expect("the file is written");
}
