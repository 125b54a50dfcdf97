//! Checkpoints on disk: bytes to named tensors, by bounded positioned reads.
//!
//! Nothing of a checkpoint is executed, mapped, locked or written. Every size that a file states is
//! checked before it is believed; every read is bracketed by a look at the file's identity.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod base;
mod coded;
mod dcp;
mod decode;
mod deepspeed;
mod dtype;
mod error;
mod fill;
mod foreign;
mod formats;
mod gather;
mod gguf;
mod hdf5;
mod header;
mod index;
mod inflate;
mod json;
mod keras;
mod layout;
mod npz;
mod one_file;
mod order;
mod pickle;
mod place;
mod raw;
mod reader;
mod safetensors;
mod shards;
mod sidecar;
mod source;
mod step;
mod stretches;
mod tensor;
mod text;
mod torch;
mod trainer;
mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use base::find_base;
pub use decode::Scan;
pub use dtype::Dtype;
pub use error::{OpenError, ReadError, printable, shown};
pub use formats::{FORMATS, Format};
pub use order::natural_cmp;
pub use place::{Pieces, Place};
pub use raw::{Memory, Raw};
pub use source::Identity;
pub use step::step_in_name;
pub use tensor::Tensor;
pub use text::Text;
pub use trainer::TrainerState;

/// Opens a checkpoint: finds its weight files, reads and checks their headers and the records
/// beside them; no weights.
///
/// `path` is a file or a directory in one of the [`FORMATS`]. `config.json` and `trainer_state.json` are read from the directory, also of
/// a file that is called `model.safetensors`. Symbolic links are followed to regular files. Needs
/// memory of a few times the headers, which are bounded to 16 MiB each and 64 MiB together.
///
/// # Errors
/// [`OpenError`], by what can be done: [`OpenError::Incomplete`], [`OpenError::Changed`] and
/// [`OpenError::Vanished`] are states of a save, not faults of it.
pub fn open(path: &Path) -> Result<Manifest, OpenError> {
    layout::open(path)
}

/// One tensor of a checkpoint: where it lies, not what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name as the file states it.
    pub name: Text,
    /// Stored type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; the product is at most `2^48`.
    pub shape: Vec<usize>,
    /// Where its elements lie.
    pub place: Place,
    /// Length of its elements in bytes.
    pub n_bytes: u64,
}

/// A complete checkpoint as found on disk: names, shapes and places; no weights.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// The directory or file that is the checkpoint.
    pub path: PathBuf,
    /// Its last path component, for people.
    pub name: String,
    /// Name of its format among the [`FORMATS`].
    pub format: &'static str,
    /// The weight files with the identity they had when their headers were read.
    pub files: Vec<SourceFile>,
    /// All tensors, in natural order of their names (`layers.2` before `layers.10`).
    pub tensors: Vec<TensorInfo>,
    /// The model's `config.json`, if there is one.
    pub config: Option<serde_json::Value>,
    /// The `adapter_config.json` of an adapter, such as PEFT writes; `null` where an adapter has none.
    pub adapter: Option<serde_json::Value>,
    /// The trainer's own record, if there is one.
    pub trainer: Option<TrainerState>,
    /// Optimiser step of the save: from the name, else the trainer's record, else file metadata.
    pub step: Option<u64>,
    /// Names in the files that no tensor bears, with the index of the file: second names of the same
    /// elements, and tensors that are no arrays.
    left_out: Vec<(usize, String)>,
    /// What the weight files themselves say of the run.
    remarks: Remarks,
    /// The other files that were read (index, records), with the identity they had.
    pub sidecars: Vec<SourceFile>,
    /// What was left out and why, one line each, for people.
    pub notes: Vec<String>,
}

/// What weight files say of their run; the records beside them count more.
#[derive(Debug, Clone, Default)]
struct Remarks {
    step: Option<u64>,
    /// A description of the model, and where it was found.
    config: Option<(String, serde_json::Value)>,
    trainer: Option<TrainerState>,
}

/// One file of a checkpoint and the identity it had when it was read.
#[derive(Debug, Clone, Default)]
pub struct SourceFile {
    /// Path of the file.
    pub path: PathBuf,
    /// State of the file when it was read; its `size` is the length in bytes.
    pub identity: Identity,
    /// The strings in the header's `__metadata__`, by key.
    pub metadata: BTreeMap<String, String>,
}
