//! Checkpoints of other frameworks that are not read: what they are, and what would be read instead.

/// What was found, and what a user can do.
pub(super) type Foreign = (&'static str, &'static str);

const OF_JAX: &str =
    "weights that are read: save the parameters with safetensors.flax.save_file or numpy.savez too";
const OF_KERAS: &str = "weights that are read: save the model as .keras or .weights.h5 too";
const OF_TORCH: &str = "weights that are read: save them as safetensors too";

/// Files that tell what a directory is.
const IN_DIRECTORIES: [(&str, Foreign); 9] = [
    ("manifest.ocdbt", ("an Orbax checkpoint in OCDBT, which is not read", OF_JAX)),
    ("_CHECKPOINT_METADATA", ("an Orbax checkpoint, which is not read", OF_JAX)),
    ("_METADATA", ("an Orbax checkpoint, which is not read", OF_JAX)),
    ("_sharding", ("an Orbax checkpoint, which is not read", OF_JAX)),
    (".zarray", ("an array in zarr, which is not read", OF_JAX)),
    (".zgroup", ("arrays in zarr, which is not read", OF_JAX)),
    ("zarr.json", ("arrays in zarr 3, which is not read", OF_JAX)),
    ("saved_model.pb", ("a SavedModel of TensorFlow, which is not read", OF_KERAS)),
    ("commit_success.txt", ("an Orbax checkpoint, which is not read", OF_JAX)),
];

/// Endings that tell what a file is.
const FILES: [(&str, Foreign); 5] = [
    (".msgpack", ("a MessagePack of Flax, which is not read", OF_JAX)),
    (".index", ("a checkpoint of TensorFlow, which is not read", OF_KERAS)),
    (".onnx", ("an ONNX model, which is not read", OF_TORCH)),
    (".tflite", ("a TensorFlow Lite model, which is not read", OF_KERAS)),
    (".pkl", ("a pickle of objects, which is not read", OF_TORCH)),
];

/// What a directory with these names is.
pub(super) fn directory(names: &[&str]) -> Option<Foreign> {
    let by_name = IN_DIRECTORIES.iter().find(|(name, _)| names.contains(name));
    let by_name = by_name.map(|(_, foreign)| *foreign);
    by_name.or_else(|| names.iter().find_map(|name| file(name)))
}

/// What a file of that name is.
pub(super) fn file(name: &str) -> Option<Foreign> {
    // `ckpt-7.data-00000-of-00002`, the values to the index.
    if name.contains(".data-") && name.contains("-of-") {
        return Some(("a checkpoint of TensorFlow, which is not read", OF_KERAS));
    }
    FILES.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, foreign)| *foreign)
}
