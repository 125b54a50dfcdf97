//! What is fed to each reader of foreign bytes, and what must hold whatever the bytes are: no panic, no
//! overflow, one verdict, told in one line, and of what is accepted every tensor within its file.
//!
//! Used twice: by the programs that cargo-fuzz builds, and by an ordinary test that feeds the seeds and
//! mutations of them.

mod held;
mod inputs;
mod wrap;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use weightvane::checkpoint::Manifest;

use held::opened;

/// Feeds bytes to what a target is of.
type Feed = fn(&Bench, &[u8]);

/// Every target, by its name.
pub(crate) const TARGETS: [(&str, Feed); 16] = [
    ("safetensors", safetensors),
    ("index", index),
    ("records", records),
    ("pickle", pickle),
    ("legacy", legacy),
    ("zip", zip),
    ("distributed", distributed),
    ("deepspeed", deepspeed),
    ("npy", npy),
    ("gguf", gguf),
    ("hdf5", hdf5),
    ("names", inputs::names),
    ("rules", inputs::rules),
    ("configuration", inputs::configuration),
    ("weights", inputs::weights),
    ("watch", inputs::watch),
];

/// Feeds bytes to the target of that name.
pub(crate) fn feed(target: &str, bench: &Bench, data: &[u8]) {
    let (_, feed) =
        TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    feed(bench, data);
}

/// Where files are written to be opened.
pub(crate) struct Bench(TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for files"))
    }

    /// Writes a file, in place, and the directories that it lies in.
    fn write(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.path(name);
        if fs::write(&path, data).is_err() {
            fs::create_dir_all(path.parent().expect("it has a parent"))
                .expect("directories are made");
            fs::write(&path, data).expect("files are written");
        }
        path
    }

    /// Writes what stays as it is, once.
    fn keep(&self, name: &str, make: impl Fn() -> Vec<u8>) {
        if !self.path(name).exists() {
            self.write(name, &make());
        }
    }

    /// A second name of a file.
    fn link(&self, file: &Path, name: &str) -> PathBuf {
        let path = self.path(name);
        if !path.exists() {
            fs::create_dir_all(path.parent().expect("it has a parent"))
                .expect("directories are made");
            fs::hard_link(file, &path).expect("files are linked");
        }
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A weight file, and the same as that of a rank.
fn safetensors(bench: &Bench, data: &[u8]) {
    let path = bench.write("checkpoint-7/model.safetensors", data);
    if let Some(manifest) = opened(&path) {
        others_agree(&manifest, data);
        again(bench, &manifest, data);
    }
    let shard = bench.link(&path, "ranks/shard-00001-model-00001-of-00001.safetensors");
    opened(shard.parent().expect("it has a parent"));
}

/// The crate that writes these files takes what is taken here, and sees the same tensors.
fn others_agree(manifest: &Manifest, data: &[u8]) {
    let (n_header, theirs) = safetensors::SafeTensors::read_metadata(data)
        .expect("what is accepted is a safetensors file");
    let theirs = theirs.tensors();
    assert_eq!(theirs.len(), manifest.tensors.len());
    for tensor in &manifest.tensors {
        let info = theirs[tensor.name.as_str()];
        assert_eq!(info.shape, tensor.shape, "{}", tensor.name);
        let place = (info.data_offsets.0 + n_header + 8) as u64;
        assert_eq!(place, tensor.place.offset(), "{}", tensor.name);
        let n_bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
        assert_eq!(n_bytes, tensor.n_bytes, "{}", tensor.name);
    }
}

/// Written anew from what was read, a file says the same.
fn again(bench: &Bench, manifest: &Manifest, data: &[u8]) {
    let first = manifest.files[0].identity.size - data_size(manifest);
    let entry = |tensor: &weightvane::checkpoint::TensorInfo| {
        let start = tensor.place.offset() - first;
        let value = serde_json::json!({
            "dtype": tensor.dtype.name(), "shape": tensor.shape,
            "data_offsets": [start, start + tensor.n_bytes],
        });
        (tensor.name.as_str().to_owned(), value)
    };
    let header = manifest.tensors.iter().map(entry).collect::<serde_json::Map<_, _>>();
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    let n_before = file.len() as u64;
    file.extend(&data[usize::try_from(first).expect("a place in the file")..]);
    let second = opened(&bench.write("again/model.safetensors", &file)).expect("it is taken again");
    assert_eq!(second.tensors.len(), manifest.tensors.len());
    for (a, b) in manifest.tensors.iter().zip(&second.tensors) {
        let (at_a, at_b) = (a.place.offset() - first, b.place.offset() - n_before);
        assert_eq!((&a.name, a.dtype, &a.shape, at_a), (&b.name, b.dtype, &b.shape, at_b));
    }
}

fn data_size(manifest: &Manifest) -> u64 {
    manifest.tensors.iter().map(|tensor| tensor.n_bytes).sum()
}

/// The list of shards, of both formats that have one.
fn index(bench: &Bench, data: &[u8]) {
    let list = bench.write("shards/model.safetensors.index.json", data);
    for name in ["a", "b"] {
        bench.keep(&format!("shards/{name}.safetensors"), || wrap::safetensors(&[(name, &[2, 2])]));
        bench.keep(&format!("older/{name}.bin"), || wrap::torch(&wrap::state(name)));
    }
    let older = bench.link(&list, "older/pytorch_model.bin.index.json");
    for path in [list, older] {
        opened(path.parent().expect("it has a parent"));
    }
}

/// The records beside the weights, of a model that a rule knows, and of an adapter.
fn records(bench: &Bench, data: &[u8]) {
    bench.keep("recorded/model.safetensors", || wrap::safetensors(&inputs::LLAMA));
    let text = bench.write("recorded/config.json", data);
    let directory = text.parent().expect("it has a parent");
    bench.link(&text, "recorded/trainer_state.json");
    opened(directory);
    let alone = bench.link(&text, "described/config.json");
    bench.keep("described/model.safetensors", || wrap::safetensors(&inputs::LLAMA));
    opened(alone.parent().expect("it has a parent"));
    let adapter = bench.link(&text, "adapter/adapter_config.json");
    bench.keep("adapter/adapter_model.safetensors", || {
        let module = "base_model.model.model.layers.0.self_attn.q_proj";
        let (a, b) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
        wrap::safetensors(&[(a.as_str(), &[2, 4]), (b.as_str(), &[4, 2])])
    });
    if let Some(manifest) = opened(adapter.parent().expect("it has a parent")) {
        inputs::adapter(&manifest);
    }
}

/// The pickle of a state, in an archive that is as it should be.
fn pickle(bench: &Bench, data: &[u8]) {
    opened(&bench.write("model.pt", &wrap::torch(data)));
}

/// The format before the archive: all of it.
fn legacy(bench: &Bench, data: &[u8]) {
    opened(&bench.write("old.pth", data));
}

/// An archive, as each of those who use them reads it.
fn zip(bench: &Bench, data: &[u8]) {
    let path = bench.write("arrays.npz", data);
    let others = ["archive.keras", "archive.pt"].map(|name| bench.link(&path, name));
    for path in [&path, &others[0], &others[1]] {
        opened(path);
    }
}

/// The record of a distributed state, beside two files of pieces.
fn distributed(bench: &Bench, data: &[u8]) {
    for file in ["distributed/__0_0.distcp", "distributed/__1_0.distcp"] {
        bench.keep(file, || wrap::torch(&wrap::lone_tensor()));
    }
    let record = bench.write("distributed/.metadata", data);
    opened(record.parent().expect("it has a parent"));
}

/// The states of a rank's model and of its optimiser: pickles, the first as long as the first two
/// bytes say.
fn deepspeed(bench: &Bench, data: &[u8]) {
    let Some(([low, high], rest)) = data.split_first_chunk() else { return };
    let (model, optimizer) =
        rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    let path = bench.write("global_step3/mp_rank_00_model_states.pt", &wrap::torch(model));
    let name = "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt";
    bench.write(name, &wrap::torch(optimizer));
    opened(path.parent().expect("it has a parent"));
}

/// One array of `NumPy`.
fn npy(bench: &Bench, data: &[u8]) {
    opened(&bench.write("weight.npy", data));
}

/// A file of llama.cpp.
fn gguf(bench: &Bench, data: &[u8]) {
    opened(&bench.write("model.gguf", data));
}

/// A file of Keras.
fn hdf5(bench: &Bench, data: &[u8]) {
    opened(&bench.write("model.weights.h5", data));
}
