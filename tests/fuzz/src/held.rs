//! What holds of every checkpoint, whatever its bytes are.

use std::path::Path;

use weightvane::checkpoint::{
    Manifest, OpenError, Place, ReadError, TensorInfo, natural_cmp, open,
};
use weightvane::config::architectures;
use weightvane::diagnostics::{Options, Plan};
use weightvane::model::{self, LayerGraph, Pair, Rule};

/// Elements of one tensor that are read, and of all of a checkpoint.
const MAX_READ: usize = 1 << 14;
const MAX_READ_OF_ALL: usize = 1 << 17;
/// Elements of a tensor, as the readers bound them.
const MAX_ELEMENTS: usize = 1 << 48;
/// Bytes of a message, without its path.
const MAX_MESSAGE: usize = 4096;

/// The rules that are built in.
pub(crate) fn built_in() -> &'static [Rule] {
    static RULES: std::sync::LazyLock<Vec<Rule>> =
        std::sync::LazyLock::new(|| architectures::built_in().expect("built-in rules parse"));
    &RULES
}

/// Opens a checkpoint twice and checks all that must hold of it.
pub(crate) fn opened(path: &Path) -> Option<Manifest> {
    let (first, second) = (open(path), open(path));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(said(&first), said(&second), "the same bytes, told twice");
            sound(&first);
            Some(first)
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.to_string(), second.to_string(), "the same bytes, refused twice");
            refused(&first);
            None
        }
        (first, second) => panic!("opened {} and then {}", first.is_ok(), second.is_ok()),
    }
}

/// All that a manifest says.
fn said(manifest: &Manifest) -> String {
    let Manifest { format, tensors, config, adapter, trainer, step, notes, files, .. } = manifest;
    format!("{format} {tensors:?} {config:?} {adapter:?} {trainer:?} {step:?} {notes:?} {files:?}")
}

/// A refusal is one line, and blames neither disk nor writer: nobody touches these files.
fn refused(error: &OpenError) {
    let text = error.to_string();
    assert!(text.contains("found") && text.len() < MAX_MESSAGE, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let is_of_disk = matches!(
        error,
        OpenError::Unreadable { .. } | OpenError::Changed { .. } | OpenError::Vanished { .. }
    );
    assert!(!is_of_disk, "{error:?}");
}

/// What a checkpoint that was opened says fits its files and itself.
fn sound(manifest: &Manifest) {
    let tensors = &manifest.tensors;
    let rises = |two: &[TensorInfo]| natural_cmp(&two[0].name, &two[1].name).is_lt();
    assert!(tensors.windows(2).all(rises), "names rise and stand once: {tensors:?}");
    for file in &manifest.files {
        let n_found = std::fs::metadata(&file.path).expect("a file of a checkpoint is there").len();
        assert_eq!(file.identity.size, n_found);
    }
    let mut n_left = MAX_READ_OF_ALL;
    for tensor in tensors {
        inside(manifest, tensor);
        assert_eq!(manifest.find(&tensor.name), Some(tensor));
        if tensor.dtype.is_float() && tensor.n_elements() <= MAX_READ.min(n_left) {
            n_left -= tensor.n_elements();
            match manifest.read(tensor) {
                Ok(read) => assert_eq!(read.values.len(), tensor.n_elements()),
                Err(ReadError::Broken { .. }) => {}
                Err(error) => panic!("{tensor:?}: {error}"),
            }
        }
    }
    for note in &manifest.notes {
        assert!(note.len() < MAX_MESSAGE * 4, "{note}");
    }
    let graph = recognised(tensors, manifest.config.as_ref(), built_in());
    drop(Plan::new(manifest, &graph, &Options::default()));
    let _ = model::template(tensors, manifest.config.as_ref());
}

/// A tensor lies within its file, and is as long as shape and type ask for.
fn inside(manifest: &Manifest, tensor: &TensorInfo) {
    let TensorInfo { shape, dtype, place, n_bytes, .. } = tensor;
    let n = shape.iter().try_fold(1_usize, |n, dim| n.checked_mul((*dim).max(1)));
    assert!(n.is_some_and(|n| n <= MAX_ELEMENTS) && shape.len() <= 64, "{tensor:?}");
    if dtype.is_float() {
        assert_eq!(*n_bytes, tensor.n_elements() as u64 * dtype.bits() / 8, "{tensor:?}");
    }
    for file in place.files() {
        assert!(file < manifest.files.len(), "{tensor:?}");
    }
    if let Place::Run { file, offset } = place {
        let size = manifest.files[*file].identity.size;
        assert!(
            offset.checked_add(*n_bytes).is_some_and(|end| end <= size),
            "{tensor:?} of {size}"
        );
    }
}

/// Recognises the model of these tensors twice and checks what comes of it.
pub(crate) fn recognised(
    tensors: &[TensorInfo],
    config: Option<&serde_json::Value>,
    rules: &[Rule],
) -> LayerGraph {
    let graph = model::recognize(tensors, config, rules);
    assert_eq!(graph, model::recognize(tensors, config, rules), "the same tensors, told twice");
    let names: std::collections::BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    for pair in &graph.pairs {
        fits(pair, &names);
    }
    for matrix in &graph.matrices {
        assert!(names.contains(matrix.view.tensor.as_str()), "{matrix:?}");
    }
    let _ = model::buffers(tensors, &graph, rules);
    graph
}

/// What two matrices share, they both have.
fn fits(pair: &Pair, names: &std::collections::BTreeSet<&str>) {
    assert_eq!(pair.writer.shape().0, pair.dim, "{pair:?}");
    assert_eq!(pair.reader.shape().1, pair.dim, "{pair:?}");
    for view in pair.writer.parts.iter().chain(&pair.reader.parts) {
        assert!(names.contains(view.tensor.as_str()), "{pair:?}");
    }
}
