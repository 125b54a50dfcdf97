//! Checkpoints on disk: bytes to named tensors, by bounded positioned reads.
//!
//! Nothing of a checkpoint is executed, mapped, locked or written. Every size that a file states is
//! checked before it is believed; every read is bracketed by a look at the file's identity.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::path::PathBuf;

/// How one tensor element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit float, 4 exponent bits (`float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// Any other type of the format (integers, booleans, sub-byte floats), by its name there; its
    /// tensors are listed and left out of the diagnostics.
    Other(&'static str),
}

/// One tensor of a checkpoint: where it lies, not what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name as the file states it.
    pub name: String,
    /// Stored type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; the product is at most `2^48`.
    pub shape: Vec<usize>,
    /// Index into [`Manifest::files`].
    pub file: usize,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub n_bytes: u64,
}

/// What one training run says of itself at a save (`trainer_state.json`); everything is optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainerState {
    /// Optimiser steps done at the save.
    pub global_step: Option<u64>,
    /// Planned number of steps.
    pub max_steps: Option<u64>,
    /// Name of the optimiser, lower case (`sgd`, `adamw`), where the job says it.
    pub optimizer: Option<String>,
    /// Weight decay coefficient λ.
    pub weight_decay: Option<f64>,
    /// Momentum μ of SGD.
    pub momentum: Option<f64>,
    /// Latest training loss.
    pub loss: Option<f64>,
    /// Latest learning rate η (the top-level key, else the last in `log_history`).
    pub learning_rate: Option<f64>,
    /// Latest gradient norm.
    pub grad_norm: Option<f64>,
}

/// A complete checkpoint as found on disk: names, shapes and places; no weights.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The directory or file that is the checkpoint.
    pub path: PathBuf,
    /// Its last path component, for people.
    pub name: String,
    /// Container format (`safetensors`).
    pub format: &'static str,
    /// The weight files with the identity they had when their headers were read.
    pub files: Vec<SourceFile>,
    /// All tensors, in natural order of their names (`layers.2` before `layers.10`).
    pub tensors: Vec<TensorInfo>,
    /// The model's `config.json`, if there is one.
    pub config: Option<serde_json::Value>,
    /// The trainer's own record, if there is one.
    pub trainer: Option<TrainerState>,
    /// Optimiser step of the save: from the name, else the trainer's record, else file metadata.
    pub step: Option<u64>,
}

/// One weight file and the identity it had when its header was read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path of the file.
    pub path: PathBuf,
}
