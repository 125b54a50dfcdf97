//! What a file is for, by its name.

use super::FileKind;
use super::markers::{is_commit, is_ignored};
use super::steps;

/// Endings of weights that are read, longer ones first.
const WEIGHTS: [&str; 12] = [
    ".safetensors",
    ".weights.h5",
    ".pth.tar",
    ".keras",
    ".distcp",
    ".ckpt",
    ".gguf",
    ".npz",
    ".pth",
    ".bin",
    ".pt",
    ".h5",
];

/// Endings of checkpoint formats that are not read.
const UNREAD: [&str; 5] = [".pkl", ".tar", ".msgpack", ".index", ".npy"];

/// Beginnings of names that never hold the weights of a model, whatever their ending; such files are
/// not opened. Most are pickles of arbitrary objects in healthy runs.
const NEVER_OPENED: [&str; 17] = [
    "optimizer",
    "optim.",
    "optim_",
    "opt_state",
    "scheduler",
    "lr_scheduler",
    "scaler",
    "sampler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "dataloader",
    "custom_checkpoint",
    "zero_to_",
    "events.",
    "distrib_optim",
];

/// The same as whole names. Of Megatron's `common.pt` the arguments are read where it lies beside the
/// record of a distributed state; it is never taken for weights.
const NEVER_OPENED_NAMES: [&str; 4] = ["meta.pt", "common.pt", "args.pt", "optim.pt"];

/// `.bin` says little: data sets have it too. These words in a name make it weights.
const BIN_WORDS: [&str; 6] = ["model", "weights", "ckpt", "checkpoint", "adapter", "consolidated"];

/// Names of weights that make up their directory, with or without others of this list: a directory
/// that holds a model in two formats is one save.
const TOGETHER: [&str; 8] = [
    "model.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model_fsdp.bin",
    "tf_model.h5",
    "model_optim_rng.pt",
    "model_rng.pt",
];

/// Small files that a saver writes after the weights.
const MARKERS: [&str; 5] = [
    "metadata.json",
    "random_states_0.pkl",
    "adapter_config.json",
    "training_metadata.json",
    "meta.pt",
];

/// Plain files of one directory that name nothing of training: of more it is a set of data.
const MAX_UNNAMED: usize = 64;

/// Whether the name is that of a weight file, finished or being written in place.
pub(in crate::watch) fn is_weights(name: &str) -> bool {
    let Some(ending) = WEIGHTS.iter().find(|end| name.ends_with(**end)) else { return false };
    match *ending {
        _ if is_ignored(name) || is_never_opened(name) => false,
        ".distcp" => rank_of(name).is_some(),
        ".bin" => BIN_WORDS.iter().any(|word| name.contains(word)),
        _ => true,
    }
}

fn is_never_opened(name: &str) -> bool {
    NEVER_OPENED.iter().any(|start| name.starts_with(start))
        || NEVER_OPENED_NAMES.contains(&name)
        || is_optimizer_shard(name)
}

/// Whether the file is `DeepSpeed`'s optimiser state of a rank: weights (the only ones, from stage
/// 3 on) where a `*_model_states.pt` lies beside it, nothing to be opened alone.
pub(in crate::watch) fn is_optimizer_shard(name: &str) -> bool {
    name.ends_with("_optim_states.pt")
}

/// Whether the name is that of an index of shards.
fn is_index(name: &str) -> bool {
    let is_of_weights = [".safetensors.index.json", ".bin.index.json"];
    is_of_weights.iter().any(|end| name.ends_with(end)) && !is_ignored(name)
}

/// What a file is for; `None` for what is not looked at.
pub(in crate::watch) fn kind_of(name: &str) -> Option<FileKind> {
    match name {
        "config.json" => Some(FileKind::Config),
        "trainer_state.json" => Some(FileKind::TrainerState),
        ".metadata" => Some(FileKind::Metadata),
        _ if MARKERS.contains(&name) || is_commit(name) => Some(FileKind::Marker),
        _ if name.ends_with(".metadata") && rank_of(name).is_some() => Some(FileKind::Metadata),
        _ if is_index(name) => Some(FileKind::Index),
        _ if is_weights(name) || is_optimizer_shard(name) => Some(FileKind::Weights),
        _ => None,
    }
}

/// What a file below an Orbax step is for, wherever it lies there.
pub(in crate::watch) fn orbax_kind(name: &str, directory: &str) -> Option<FileKind> {
    let is_chunk = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match name {
        "manifest.ocdbt" => Some(FileKind::Index),
        _ if is_commit(name) => Some(FileKind::Marker),
        _ if is_ignored(name) || name.ends_with(".__lock") => None,
        // Data of OCDBT, chunks of zarr, the one file of the old form.
        _ if directory == "d" || is_chunk || name == "checkpoint" => Some(FileKind::Weights),
        _ => None,
    }
}

/// Whether a file of this name shows that the directory is, or was, a checkpoint of which nothing is
/// left to be read, or in a format that is not read.
pub(in crate::watch) fn is_foreign(name: &str) -> bool {
    let is_read = is_weights(name) || is_ignored(name);
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    name == ".metadata" || !is_read && (ends(&UNREAD) || ends(&WEIGHTS))
}

/// Whether the file, with others of its kind, makes up its directory.
pub(in crate::watch) fn is_together(name: &str) -> bool {
    TOGETHER.contains(&name)
        || is_index(name)
        || shard(name).is_some()
        || name.ends_with(".distcp")
        || name.ends_with("_model_states.pt")
        || is_optimizer_shard(name)
}

/// Whether plain files of one directory are too many to be saves of a run: features, samples.
/// Where nothing in the names speaks of training, some dozens of `.pt` or `.npz` are data, and to
/// open thousands of them would harm whoever reads them.
pub(in crate::watch) fn is_data<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let unnamed = names
        .filter(|name| !name.ends_with(".safetensors") && !steps::speaks_of_training(stem(name)));
    unnamed.take(MAX_UNNAMED + 1).count() > MAX_UNNAMED
}

/// One file of several: `model-00002-of-00003.safetensors`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::watch) struct Shard<'a> {
    /// What stands before the numbers; files of one set share it.
    pub(in crate::watch) set: &'a str,
    /// Number of files in the set.
    pub(in crate::watch) n_shards: u64,
}

/// Reads `SET-i-of-N.safetensors` and the same of `.bin`.
pub(in crate::watch) fn shard(name: &str) -> Option<Shard<'_>> {
    let stem = name.strip_suffix(".safetensors").or_else(|| name.strip_suffix(".bin"))?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (set, idx) = rest.rsplit_once('-')?;
    steps::plain_number(idx)?;
    Some(Shard { set, n_shards: steps::plain_number(total)? })
}

/// Whether a writer who closes this file may be done with its save: it is not one of several, of a
/// set, of processes, or in a part of a save that has other parts.
pub(in crate::watch) fn is_alone(name: &str) -> bool {
    let is_of_rank = rank_of(name).is_some() || name.ends_with("_states.pt");
    shard(name).is_none() && !is_of_rank && !name.contains('/')
}

/// The rank that wrote a file of a distributed checkpoint: `__3_0.distcp`, `__3.metadata`.
pub(in crate::watch) fn rank_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("__")?;
    match rest.strip_suffix(".distcp") {
        Some(numbers) => {
            let (rank, part) = numbers.split_once('_')?;
            steps::plain_number(part).and(steps::plain_number(rank))
        }
        None => steps::plain_number(rest.strip_suffix(".metadata")?),
    }
}

/// The stem of a weight file.
pub(in crate::watch) fn stem(name: &str) -> &str {
    WEIGHTS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// What a save may be called whose stem, or whole name, is known.
pub(in crate::watch) fn with_endings(stem: &str) -> impl Iterator<Item = String> {
    std::iter::once("").chain(WEIGHTS).map(move |ending| format!("{stem}{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_what_is_never_opened() {
        for name in [
            "model.safetensors",
            "adapter_model.safetensors",
            "pytorch_model-00001-of-00002.bin",
            "epoch=0-step=5.ckpt",
            "last.pth.tar",
            "latest.weights.h5",
            "m-01.keras",
            "weights.npz",
            "model.gguf",
            "__0_1.distcp",
            "mp_rank_00_model_states.pt",
            "model_optim_rng.pt",
        ] {
            assert!(is_weights(name), "{name}");
            assert!(!is_foreign(name), "{name}");
        }
        for name in [
            "optimizer_0.safetensors",
            "optimizer.pt",
            "optimizer.bin",
            "scheduler.pt",
            "scaler.pt",
            "sampler.bin",
            "sampler_1.bin",
            "rng_state.pth",
            "rng_state_0.pth",
            "random_states_0.pkl",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "training_args.bin",
            "custom_checkpoint_0.pkl",
            "meta.pt",
            "common.pt",
            "tmpAb_1.distcp",
            "model.npy",
        ] {
            assert!(!is_weights(name), "{name}");
            assert!(is_foreign(name), "{name}");
        }
        for name in [".x.safetensors", "train.bin", "zero_to_fp32.py", "events.out.tfevents.1"] {
            assert!(!is_weights(name), "{name}");
        }
        assert!(!is_foreign("config.json"));
    }

    #[test]
    fn shards_are_no_steps() {
        let name = "model-00001-of-00003.safetensors";
        assert_eq!(shard(name), Some(Shard { set: "model", n_shards: 3 }));
        assert_eq!(shard("model-1000.safetensors"), None);
        assert_eq!(shard("model-x-of-00003.safetensors"), None);
        assert_eq!(shard("pytorch_model-00001-of-00002.bin").map(|shard| shard.n_shards), Some(2));
    }

    #[test]
    fn ranks_of_distributed_files() {
        assert_eq!((rank_of("__3_0.distcp"), rank_of("__12.metadata")), (Some(3), Some(12)));
        assert_eq!((rank_of("__.metadata"), rank_of(".metadata")), (None, None));
        assert_eq!((rank_of("__x_0.distcp"), rank_of("__0_.distcp")), (None, None));
    }

    #[test]
    fn many_files_without_a_word_of_training_are_data() {
        let named = |start: &str, n: usize| (0..n).map(|i| format!("{start}{i}.pt")).collect();
        let check = |names: Vec<String>, expected| {
            assert_eq!(is_data(names.iter().map(String::as_str)), expected, "{}", names[0]);
        };
        check(named("sample_", 65), true);
        check(named("", 65), true);
        check(named("sample_", 64), false);
        check(named("epoch", 500), false);
        check(named("model-", 500), false);
    }
}
