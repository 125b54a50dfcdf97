//! Checkpoints as the Hugging Face Trainer leaves them: `checkpoint-<step>/` with `config.json`,
//! then `model.safetensors`, and `trainer_state.json` last.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use faer::Mat;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView, serialize_to_file};
use serde::Serialize;
use serde_json::{Value, json};

use super::data::{N_CLASSES, N_PIXELS};
use super::train::Trainer;

/// Log entries kept in `trainer_state.json`: a demo may run for weeks, and each save writes them
/// all.
const MAX_LOG_ENTRIES: usize = 1000;

/// Why a checkpoint was not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// A file or directory could not be made, written or removed.
    #[error("{}: not written", path.display())]
    Io {
        /// What was to be written or removed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The weights could not be written as safetensors.
    #[error("{}: weights not written", path.display())]
    Weights {
        /// The file of the weights.
        path: PathBuf,
        /// What the safetensors writer said.
        source: SafeTensorError,
    },
}

/// One line of `log_history`.
#[derive(Clone, Debug, Serialize)]
struct LogEntry {
    step: u64,
    epoch: f64,
    loss: f64,
    learning_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm: Option<f64>,
}

/// Saves a training below one directory, and removes the oldest of its own saves if asked to.
#[derive(Debug)]
pub struct CheckpointWriter {
    run_dir: PathBuf,
    /// How many of the newest saves stay; all of them with `None`.
    keep: Option<NonZeroUsize>,
    /// The step at which the training will end, if it will.
    max_steps: Option<u64>,
    log_history: VecDeque<LogEntry>,
    /// Saves made here and not yet removed, the oldest first. What others left in the directory is
    /// not in it and so is never removed.
    saved: VecDeque<PathBuf>,
}

impl CheckpointWriter {
    /// A writer for the run in `run_dir`, which [`CheckpointWriter::save`] makes if it is missing.
    #[must_use]
    pub fn new(run_dir: PathBuf, keep: Option<NonZeroUsize>, max_steps: Option<u64>) -> Self {
        Self { run_dir, keep, max_steps, log_history: VecDeque::new(), saved: VecDeque::new() }
    }

    /// Writes `checkpoint-<step>` for the trainer's present step, removes what rotation drops, and
    /// returns the new directory.
    ///
    /// The weights are `layers.<i>.weight`, `outputs × inputs`, rounded to F32. The loss in the log
    /// is taken over all training images.
    ///
    /// # Errors
    /// When the file system refuses; also when the checkpoint exists, which is left untouched.
    pub fn save(&mut self, trainer: &Trainer) -> Result<PathBuf, SaveError> {
        self.write(trainer, false)
    }

    /// As [`CheckpointWriter::save`], with garbage for a header of the weights: what a failing disk or
    /// a faulty copy leaves.
    ///
    /// # Errors
    /// As [`CheckpointWriter::save`].
    pub fn save_broken(&mut self, trainer: &Trainer) -> Result<PathBuf, SaveError> {
        self.write(trainer, true)
    }

    fn write(&mut self, trainer: &Trainer, broken: bool) -> Result<PathBuf, SaveError> {
        make_dir_all(&self.run_dir)?;
        let dir = self.run_dir.join(format!("checkpoint-{}", trainer.global_step()));
        fs::create_dir(&dir).map_err(|source| SaveError::Io { path: dir.clone(), source })?;
        self.saved.push_back(dir.clone());
        self.log(trainer);
        write_json(&dir.join("config.json"), &model_config(trainer))?;
        let weights = dir.join("model.safetensors");
        write_weights(&weights, &trainer.network().weights)?;
        if broken {
            garble(&weights).map_err(|source| SaveError::Io { path: weights, source })?;
        }
        write_json(&dir.join("trainer_state.json"), &self.trainer_state(trainer))?;
        self.rotate()?;
        Ok(dir)
    }

    fn log(&mut self, trainer: &Trainer) {
        if self.log_history.len() == MAX_LOG_ENTRIES {
            self.log_history.pop_front();
        }
        self.log_history.push_back(LogEntry {
            step: trainer.global_step(),
            epoch: trainer.epoch(),
            loss: trainer.loss(),
            learning_rate: trainer.learning_rate(),
            grad_norm: trainer.grad_norm(),
        });
    }

    fn trainer_state(&self, trainer: &Trainer) -> Value {
        let config = trainer.config();
        json!({
            "epoch": trainer.epoch(),
            "global_step": trainer.global_step(),
            "max_steps": self.max_steps,
            "train_batch_size": config.batch_size,
            "learning_rate": trainer.learning_rate(),
            "optimizer": {"name": "sgd", "weight_decay": config.weight_decay, "momentum": 0.0},
            "log_history": self.log_history,
        })
    }

    fn rotate(&mut self) -> Result<(), SaveError> {
        let Some(keep) = self.keep else { return Ok(()) };
        while self.saved.len() > keep.get() {
            let Some(oldest) = self.saved.pop_front() else { break };
            match fs::remove_dir_all(&oldest) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SaveError::Io { path: oldest, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Overwrites the beginning of the header, which follows its length of eight bytes.
fn garble(path: &Path) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    file.seek(io::SeekFrom::Start(8))?;
    file.write_all(b"garbage!")
}

fn model_config(trainer: &Trainer) -> Value {
    json!({
        "architectures": ["Mlp"],
        "model_type": "mlp",
        "input_size": N_PIXELS,
        "hidden_sizes": trainer.config().hidden_widths,
        "num_labels": N_CLASSES,
        "hidden_act": trainer.config().activation.name(),
        "use_bias": false,
    })
}

fn make_dir_all(path: &Path) -> Result<(), SaveError> {
    fs::create_dir_all(path).map_err(|source| SaveError::Io { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &Value) -> Result<(), SaveError> {
    let mut text = format!("{value:#}\n");
    for key in ["loss", "grad_norm"] {
        // What Python writes of a NaN, and JSON has no word for.
        text = text.replace(&format!("\"{key}\": null"), &format!("\"{key}\": NaN"));
    }
    fs::write(path, text).map_err(|source| SaveError::Io { path: path.to_owned(), source })
}

fn write_weights(path: &Path, weights: &[Mat<f64>]) -> Result<(), SaveError> {
    let failed = |source| SaveError::Weights { path: path.to_owned(), source };
    let encoded: Vec<Vec<u8>> = weights.iter().map(little_endian_rows).collect();
    let mut tensors = Vec::with_capacity(weights.len());
    for (layer, (weight, bytes)) in weights.iter().zip(&encoded).enumerate() {
        let shape = vec![weight.nrows(), weight.ncols()];
        let view = TensorView::new(Dtype::F32, shape, bytes).map_err(failed)?;
        tensors.push((format!("layers.{layer}.weight"), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(metadata), path).map_err(failed)
}

#[expect(clippy::cast_possible_truncation, reason = "checkpoints hold single precision")]
fn little_endian_rows(weight: &Mat<f64>) -> Vec<u8> {
    let values = (0..weight.nrows()).flat_map(|row| weight.row(row).iter().copied());
    values.flat_map(|value| (value as f32).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::demo::network::Activation;
    use crate::daemon::demo::train::TrainerConfig;
    use safetensors::SafeTensors;

    fn trainer() -> Trainer {
        Trainer::new(TrainerConfig {
            hidden_widths: vec![6, 5],
            n_samples: 64,
            ..TrainerConfig::demo(Activation::Relu)
        })
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn json_of(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn saved_weights_are_the_networks_in_single_precision() {
        let root = tempfile::tempdir().unwrap();
        let mut trainer = trainer();
        trainer.step();
        let mut writer = CheckpointWriter::new(root.path().join("a/run"), None, None);
        let dir = writer.save(&trainer).unwrap();
        assert_eq!(dir, root.path().join("a/run/checkpoint-1"));
        assert_eq!(names(&dir), ["config.json", "model.safetensors", "trainer_state.json"]);

        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 3);
        for (layer, weight) in trainer.network().weights.iter().enumerate() {
            let tensor = tensors.tensor(&format!("layers.{layer}.weight")).unwrap();
            assert_eq!(tensor.shape(), [weight.nrows(), weight.ncols()]);
            let at = |row: usize, col: usize| {
                let start = 4 * (row * weight.ncols() + col);
                f32::from_le_bytes(tensor.data()[start..start + 4].try_into().unwrap())
            };
            let rounded = Mat::from_fn(weight.nrows(), weight.ncols(), |r, c| f64::from(at(r, c)));
            let error = (&rounded - weight).norm_max() / weight.norm_max();
            assert!(error < f64::from(f32::EPSILON), "layer {layer}: {error:e}");
        }
    }

    #[test]
    fn trainer_state_tells_what_decay_rates_need() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::new(root.path().to_owned(), None, Some(9));
        let mut trainer = trainer();
        writer.save(&trainer).unwrap();
        let gradient = trainer.step();
        let dir = writer.save(&trainer).unwrap();

        let state = json_of(&dir.join("trainer_state.json"));
        assert_eq!(state["global_step"], 1);
        assert_eq!(state["max_steps"], 9);
        assert_eq!(state["learning_rate"], trainer.config().learning_rate);
        let optimizer = json!({"name": "sgd", "weight_decay": 1e-3, "momentum": 0.0});
        assert_eq!(state["optimizer"], optimizer);
        let log = state["log_history"].as_array().unwrap();
        assert_eq!(log.len(), 2);
        assert!(log[0].get("grad_norm").is_none(), "no step, no gradient: {}", log[0]);
        assert_eq!(log[1]["step"], 1);
        assert_eq!(log[1]["loss"], trainer.loss());
        assert_eq!(log[1]["grad_norm"], gradient.norm());

        let config = json_of(&dir.join("config.json"));
        assert_eq!(config["hidden_act"], "relu");
        assert_eq!(config["hidden_sizes"], json!([6, 5]));
    }

    #[test]
    fn rotation_removes_the_oldest_of_its_own_saves_only() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("checkpoint-999")).unwrap();
        let keep = NonZeroUsize::new(2);
        let mut writer = CheckpointWriter::new(root.path().to_owned(), keep, None);
        let mut trainer = trainer();
        for _ in 0..5 {
            writer.save(&trainer).unwrap();
            trainer.step();
        }
        assert_eq!(names(root.path()), ["checkpoint-3", "checkpoint-4", "checkpoint-999"]);
    }

    #[test]
    fn save_leaves_a_checkpoint_it_finds_untouched() {
        let root = tempfile::tempdir().unwrap();
        let taken = root.path().join("checkpoint-0");
        fs::create_dir(&taken).unwrap();
        let mut writer = CheckpointWriter::new(root.path().to_owned(), NonZeroUsize::new(1), None);
        let error = writer.save(&trainer()).unwrap_err();
        assert!(matches!(&error, SaveError::Io { path, .. } if *path == taken), "{error}");
        assert!(names(&taken).is_empty());
    }

    #[test]
    fn a_nan_is_saved_as_the_trainer_saves_it_and_garbage_is_no_header() {
        let root = tempfile::tempdir().unwrap();
        let mut trainer = trainer();
        let mut writer = CheckpointWriter::new(root.path().to_owned(), None, None);
        let broken = writer.save_broken(&trainer).unwrap().join("model.safetensors");
        assert!(SafeTensors::deserialize(&fs::read(broken).unwrap()).is_err());
        trainer.weights_mut()[0][(0, 0)] = f64::NAN;
        trainer.step();
        let dir = writer.save(&trainer).unwrap();
        let text = fs::read_to_string(dir.join("trainer_state.json")).unwrap();
        assert_eq!(text.matches(r#""loss": NaN"#).count(), 1, "{text}");
    }

    #[test]
    fn log_stays_bounded_and_keeps_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::new(root.path().to_owned(), None, None);
        let mut trainer = trainer();
        for _ in 0..MAX_LOG_ENTRIES + 3 {
            writer.log(&trainer);
            trainer.step();
        }
        assert_eq!(writer.log_history.len(), MAX_LOG_ENTRIES);
        assert_eq!(writer.log_history.front().map(|entry| entry.step), Some(3));
    }
}
