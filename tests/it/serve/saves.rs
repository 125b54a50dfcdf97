//! Saves as trainers write them.

use std::path::{Path, PathBuf};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Path of a file of `tests/`.
pub(super) fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// Copies one save, the trainer's record last.
pub(super) fn copy_save(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| {
        let name = name.to_string_lossy();
        (name == "trainer_state.json", name.ends_with(".index.json"), name.into_owned())
    });
    for name in names {
        // Read and written, not `fs::copy`: the files are new, with the writer's own times.
        std::fs::write(to.join(&name), std::fs::read(from.join(&name)).unwrap()).unwrap();
    }
}

/// Copies the saves of a golden series with at least this step; returns how many.
pub(super) fn copy_series(name: &str, to: &Path, from_step: u64) -> u64 {
    let from = shipped("it/golden/series").join(name);
    let mut n = 0;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let file_name = entry.file_name().into_string().unwrap();
        let step = file_name.strip_prefix("checkpoint-").map(|step| step.parse::<u64>().unwrap());
        if step.is_some_and(|step| step >= from_step) {
            copy_save(&entry.path(), &to.join(file_name));
            n += 1;
        }
    }
    n
}

/// Bytes of a safetensors file that holds a chain of `n` square matrices.
pub(super) fn chain(n: usize, width: usize, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let bytes = width * width * 4;
    let mut header = serde_json::Map::new();
    for layer in 0..n {
        let offsets = [layer * bytes, (layer + 1) * bytes];
        let entry =
            serde_json::json!({"dtype": "F32", "shape": [width, width], "data_offsets": offsets});
        header.insert(format!("l.{layer}.weight"), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    for _ in 0..n * width * width {
        file.extend(rng.random_range(-0.1_f32..0.1).to_le_bytes());
    }
    file
}

/// Writes a save as the Hugging Face trainer does: weights, then its record.
pub(super) fn write_save(dir: &Path, weights: &[u8]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("model.safetensors"), weights).unwrap();
    std::fs::write(dir.join("trainer_state.json"), "{}").unwrap();
}
