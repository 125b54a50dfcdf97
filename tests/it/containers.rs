//! Checkpoints of other packages: the same numbers as in safetensors, and what hostile files cost.

mod bombs;
mod hostile;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weightvane::checkpoint::{Manifest, OpenError, open};

use super::support::{measure, tests_dir};

/// Directory, file, format, and how many tensors of it are read and left out.
const READ: [(&str, &str, &str, usize); 10] = [
    ("npz", "save-70.npz", "npz", 3),
    ("npz_compressed", "save-70.npz", "npz", 3),
    ("gguf_f16", "save.gguf", "gguf", 0),
    ("gguf_bf16", "save.gguf", "gguf", 0),
    ("gguf_q8_0", "save.gguf", "gguf", 0),
    ("keras_weights", "save.weights.h5", "hdf5", 0),
    ("keras_bfloat16", "save.weights.h5", "hdf5", 0),
    ("keras_archive", "save.keras", "keras", 0),
    ("keras_legacy", "save.h5", "hdf5", 0),
    ("hdf5_latest", "save.h5", "hdf5", 5),
];

fn fixtures() -> PathBuf {
    tests_dir("fixtures/containers")
}

/// What `analyze` says, without what names the checkpoint itself.
fn said(path: &Path) -> Value {
    let mut report = serde_json::to_value(measure(path, &[1, 4, 16])).unwrap();
    let map = report.as_object_mut().unwrap();
    for key in ["checkpoint", "format", "step"] {
        map.remove(key);
    }
    report
}

/// Name, type, shape and values of every tensor, those of other types without values.
fn tensors(manifest: &Manifest) -> Vec<Value> {
    let values = |info| {
        let values = manifest.read(info).ok().map(|tensor| tensor.values);
        values.map(|values| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
    };
    let told = manifest.tensors.iter().map(|tensor| {
        json!([
            tensor.name.as_str(),
            tensor.dtype.name(),
            tensor.shape,
            tensor.n_bytes,
            values(tensor)
        ])
    });
    told.collect()
}

#[test]
fn the_same_weights_in_safetensors_are_the_same() {
    for (name, file, format, n_left_out) in READ {
        let directory = fixtures().join(name);
        let path = directory.join(file);
        let (found, expected) = (open(&path).unwrap(), open(&directory.join("reference")).unwrap());
        assert_eq!(found.format, format);
        assert!(found.tensors.len() >= 6, "{name}: {}", found.tensors.len());
        let (seen, wanted) = (tensors(&found), tensors(&expected));
        for (seen, wanted) in seen.iter().zip(&wanted) {
            assert_eq!(seen, wanted, "{name}");
        }
        assert_eq!(seen.len(), wanted.len(), "{name}");
        assert_eq!(found.config, expected.config, "{name}");
        let n_told = found.notes.iter().filter(|note| note.contains(" left out: ")).count();
        assert_eq!(n_told, n_left_out, "{name}: {:?}", found.notes);
        let (said, expected) = (said(&path), said(&directory.join("reference")));
        assert_eq!(said, expected, "{name}");
        assert!(said["pairs"].as_array().unwrap().len() >= 2, "{name}: {said}");
        // The directory that holds the one file is that checkpoint too.
        assert_eq!(open(&directory).unwrap().tensors, found.tensors, "{name}");
    }
}

#[test]
fn a_gguf_has_the_numbers_of_the_model_it_was_made_of() {
    let theirs = said(&tests_dir("fixtures/llama"));
    let ours = said(&fixtures().join("gguf_bf16/save.gguf"));
    let pairs = |of: &Value| {
        let of = of["pairs"].as_array().unwrap().clone();
        let with_law = of.iter().filter(|pair| pair["gap"].is_number());
        assert!(with_law.count() > 10);
        of
    };
    let (theirs, ours) = (pairs(&theirs), pairs(&ours));
    assert_eq!(theirs.len(), ours.len());
    let number = |pair: &Value, key: &str| pair[key].as_f64();
    let mut n_rotary = 0;
    for (a, b) in theirs.iter().zip(&ours) {
        assert_eq!((&a["pair"], &a["layer"], &a["head"]), (&b["pair"], &b["layer"], &b["head"]));
        n_rotary += usize::from(a["law"] == "rotary");
        for key in ["gram_correlation", "gram_cosine", "commutator", "gap", "law_gap"] {
            match (number(a, key), number(b, key)) {
                (Some(a), Some(b)) => assert!((a - b).abs() < 1e-9, "{key}: {a} {b}"),
                (a, b) => assert_eq!(a, b, "{key}"),
            }
        }
    }
    assert!(n_rotary >= 6, "{n_rotary}");
}

#[test]
fn what_is_not_read_is_told() {
    // Names as Orbax 0.12, Flax 0.12 and TensorFlow 2 write them.
    let directories: [(&[&str], &str); 5] = [
        (&["manifest.ocdbt", "_METADATA", "commit_success.txt"], "OCDBT"),
        (&["_CHECKPOINT_METADATA", "_METADATA", "_sharding"], "Orbax"),
        (&[".zarray", "0.0"], "zarr"),
        (&["ckpt-7.index", "ckpt-7.data-00000-of-00001", "checkpoint"], "TensorFlow"),
        (&["checkpoint_40.msgpack"], "Flax"),
    ];
    for (names, expected) in directories {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::NotACheckpoint { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("save the"), "{text}");
    }
    for name in ["w.msgpack", "w.onnx", "ckpt-1.index", "w.tflite"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), "x").unwrap();
        let error = open(&dir.path().join(name)).unwrap_err().to_string();
        assert!(error.contains("not read"), "{error}");
    }
}

#[test]
fn quantised_matrices_are_no_weights() {
    let error = open(&fixtures().join("gguf_q4/save.gguf")).unwrap_err();
    assert!(matches!(error, OpenError::NotWeights { .. }), "{error}");
    assert!(error.to_string().contains("of type Q4_0"), "{error}");
}
