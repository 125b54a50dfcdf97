//! Checkpoints on disk, as the Hugging Face Trainer leaves them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Result;
use crate::network::{N_BLOCKS, N_HEADS, N_TOKENS, Parameter};
use crate::setup::{Setup, Shape};
use crate::training::Training;

/// A checkpoint that goes away when nobody needs it.
#[derive(Debug)]
pub struct Saved {
    dir: TempDir,
    step: u64,
}

impl Saved {
    /// Writes the training as it is, with the first loss logged and that of now, each the mean since the
    /// save before.
    pub fn write(training: &Training, losses: [Option<f64>; 2]) -> Result<Self> {
        let saved = Self { dir: tempfile::tempdir()?, step: training.step() };
        let path = saved.path();
        fs::create_dir(&path)?;
        let setup = &training.setup;
        fs::write(path.join("config.json"), config(setup).to_string())?;
        write_weights(&path.join("model.safetensors"), &training.parameters, setup.is_bf16)?;
        fs::write(path.join("trainer_state.json"), state(training, losses).to_string())?;
        Ok(saved)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join(format!("checkpoint-{}", self.step))
    }

    pub fn step(&self) -> u64 {
        self.step
    }
}

fn config(setup: &Setup) -> Value {
    match setup.shape {
        Shape::Mlp { activation, .. } => {
            json!({"model_type": "mlp", "hidden_act": activation.name()})
        }
        Shape::Transformer { width } => json!({
            "model_type": "gpt2",
            "n_embd": width,
            "n_head": N_HEADS,
            "n_layer": N_BLOCKS,
            "n_positions": N_TOKENS,
            "activation_function": "gelu_new",
        }),
    }
}

fn state(training: &Training, losses: [Option<f64>; 2]) -> Value {
    let setup = &training.setup;
    json!({
        "global_step": training.step(),
        "max_steps": setup.n_steps(),
        "learning_rate": training.rate(),
        "optimizer": {
            "name": setup.optimizer.name(),
            "weight_decay": setup.decay,
            "momentum": setup.optimizer.momentum(),
        },
        "log_history": losses.map(|loss| json!({"loss": loss, "learning_rate": training.rate()})),
    })
}

fn write_weights(path: &Path, parameters: &[Parameter], is_bf16: bool) -> Result<()> {
    let dtype = if is_bf16 { Dtype::BF16 } else { Dtype::F32 };
    let bytes = |p: &Parameter| -> Vec<u8> {
        if is_bf16 {
            p.values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()
        } else {
            p.values.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    };
    let encoded: Vec<Vec<u8>> = parameters.iter().map(bytes).collect();
    let mut tensors = Vec::with_capacity(parameters.len());
    for (parameter, bytes) in parameters.iter().zip(&encoded) {
        tensors.push((&parameter.name, TensorView::new(dtype, parameter.shape.clone(), bytes)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(serialize_to_file(tensors, Some(metadata), path)?)
}
