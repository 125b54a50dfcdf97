//! The formats that are read, in one list: what files are called, and which of them hold weights.

/// A format of checkpoints, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Format {
    /// As [`Manifest::format`](super::Manifest::format) has it.
    pub name: &'static str,
    /// Which files, and what of them, in Markdown.
    pub reads: &'static str,
    /// Who writes it.
    pub written_by: &'static str,
}

const fn format(name: &'static str, reads: &'static str, written_by: &'static str) -> Format {
    Format { name, reads, written_by }
}

/// The formats that are read.
pub const FORMATS: &[Format] = &[
    format(
        SAFETENSORS,
        "`model.safetensors`, shards with their index, any `.safetensors`; the ranks' `shard-*-model-*.safetensors`",
        "transformers, Accelerate, PEFT, diffusers, PyTorch's writer for Hugging Face",
    ),
    format(
        TORCH,
        "`.pt` `.pth` `.bin` `.ckpt` `.pth.tar` of `torch.save`, the zip archive and the older format; `pytorch_model.bin` or its shards with their index; states nested under any key, strided and shared storages, either byte order",
        "PyTorch, Lightning, nanoGPT, timm, fairseq, transformers 4, FSDP with full states",
    ),
    format(
        TORCH_DCP,
        "`.metadata` with `__r_n.distcp`, also one record a rank, and with safetensors inside; the pieces of all ranks are put together",
        "FSDP, torchtitan, OLMo-core, Megatron `torch_dist`, Lightning",
    ),
    format(
        DEEPSPEED,
        "`global_stepN/` and what `latest` names; under ZeRO-1, 2 and 3 the flat vectors in full precision are put together; parts of model parallelism are not joined",
        "DeepSpeed, alone or under transformers and Accelerate",
    ),
    format(
        MEGATRON,
        "`mp_rank_00/model_optim_rng.pt` of one rank of model parallelism",
        "Megatron-LM",
    ),
    format(
        "npz",
        "`.npz`, stored or compressed, and `.npy`, either order and byte order; objects are left out",
        "NumPy",
    ),
    format(
        "gguf",
        "`.gguf` of F32, F16, BF16, F64 and Q8_0; other types are listed",
        "llama.cpp and its converters",
    ),
    format("hdf5", "`.weights.h5` and `.h5` with arrays in one piece", "Keras 3, Keras 2, h5py"),
    format("keras", "`.keras`", "Keras 3"),
];

const SAFETENSORS: &str = "safetensors";
const TORCH: &str = "pytorch";
pub(super) const TORCH_DCP: &str = "torch-dcp";
pub(super) const DEEPSPEED: &str = "deepspeed";
pub(super) const MEGATRON: &str = "megatron";

/// What holds tensors, told by a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Safetensors,
    Torch,
    Npz,
    Gguf,
    Hdf5,
    Keras,
}

/// Names of unsharded weights in the HF layout; with `.index.json` behind, of the list of shards.
pub(super) const WHOLE: [(&str, Container); 3] = [
    ("model.safetensors", Container::Safetensors),
    ("pytorch_model.bin", Container::Torch),
    ("pytorch_model_fsdp.bin", Container::Torch),
];

/// The start of the name of an adapter's weights, which belong to a model that lies elsewhere.
pub(super) const ADAPTER: &str = "adapter_model";

/// Files that hold no model of their own, by the start of their names, and what they hold.
const NOT_WEIGHTS: [(&str, &str); 11] = [
    ("optimizer", "the state of an optimiser"),
    ("optim_states", "the state of an optimiser"),
    ("scheduler", "the state of a scheduler"),
    ("training_args", "the arguments of a trainer"),
    ("scaler", "the state of a gradient scaler"),
    ("sampler", "the state of a sampler"),
    ("dl_state_dict", "the state of a data loader"),
    ("rng_state", "the state of random generators"),
    ("random_states", "the state of random generators"),
    ("custom_checkpoint", "the state of an object of the trainer's"),
    ("meta.pt", "what a trainer says beside the weights"),
];

/// What a file holds instead of a model's weights, by its name.
pub(super) fn not_weights(name: &str) -> Option<&'static str> {
    let by_start = NOT_WEIGHTS.iter().find(|(start, _)| name.starts_with(start));
    let by_end = name.ends_with("optim_states.pt").then_some("the state of an optimiser");
    by_start.map(|(_, words)| *words).or(by_end)
}

/// Keys under which trainers keep a model's weights, the most telling first.
pub(super) const WEIGHTS: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "policy",
];

/// What a key says of all that is below it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Says {
    Nothing,
    /// State of an optimiser, or of anything else but a model.
    Other,
    /// A smoothed copy of the weights.
    Average,
}

/// What a key of a trainer's state says.
pub(super) fn says(key: &str) -> Says {
    let key = key.to_ascii_lowercase();
    let words: Vec<&str> = key.split(['_', '-', '.', '/']).collect();
    let is = |word: &str| words.contains(&word);
    let other = [
        "opt",
        "scheduler",
        "schedulers",
        "scaler",
        "amp",
        "rng",
        "callbacks",
        "loops",
        "dataloader",
    ];
    let whole = ["train_state", "trainer_state", "trainer", "extra_state"].contains(&key.as_str());
    if whole || key.contains("optim") || other.iter().any(|word| is(word)) {
        Says::Other
    } else if is("ema") || is("swa") || is("shadow") || key.ends_with("_avg") {
        Says::Average
    } else {
        Says::Nothing
    }
}

/// Whether the first two parts of a name say that it is none of a model's tensors.
pub(super) fn says_other(name: &str) -> bool {
    name.split('.').take(2).any(|key| says(key) == Says::Other)
}

impl Container {
    /// All of them, in the order in which a directory is searched for them.
    pub(super) const ALL: [Self; 6] =
        [Self::Safetensors, Self::Torch, Self::Npz, Self::Gguf, Self::Hdf5, Self::Keras];

    /// The ending of a shard.
    pub(super) fn shard_ending(self) -> &'static str {
        match self {
            Self::Safetensors => ".safetensors",
            Self::Torch => ".bin",
            Self::Npz => ".npz",
            Self::Gguf => ".gguf",
            Self::Hdf5 => ".h5",
            Self::Keras => ".keras",
        }
    }

    pub(super) fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Safetensors => &[".safetensors"],
            Self::Torch => &[".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar"],
            Self::Npz => &[".npz", ".npy"],
            Self::Gguf => &[".gguf"],
            Self::Hdf5 => &[".weights.h5", ".h5", ".hdf5"],
            Self::Keras => &[".keras"],
        }
    }

    /// The container that a file of that name would be.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let ends = |of: &Self| of.endings().iter().any(|end| name.ends_with(end));
        Self::ALL.into_iter().find(ends)
    }

    /// The name without its ending.
    pub(super) fn stem(self, name: &str) -> &str {
        self.endings().iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
    }

    /// What a format is called.
    pub(super) fn format(self) -> &'static str {
        match self {
            Self::Safetensors => SAFETENSORS,
            Self::Torch => TORCH,
            Self::Npz => "npz",
            Self::Gguf => "gguf",
            Self::Hdf5 => "hdf5",
            Self::Keras => "keras",
        }
    }

    /// The name of the whole of the weights in the HF layout.
    pub(super) fn whole(self) -> &'static str {
        WHOLE.iter().find(|(_, of)| *of == self).map_or("model.safetensors", |(name, _)| name)
    }
}
