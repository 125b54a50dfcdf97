//! What the names of files and directories say: steps, shards, leftovers.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// Ending of the weights that are read.
const WEIGHTS: &str = ".safetensors";

/// Words before a number that make the number a step, best first: an epoch counts only where no
/// finer count is given (`epoch=3-step=1000` is step 1000).
const STEP_WORDS: [&[&str]; 4] = [
    &["step", "steps", "globalstep"],
    &["iter", "iters", "iteration", "iterations", "ba", "batch", "update", "updates"],
    &["checkpoint", "ckpt", "chkpt"],
    &["epoch", "epochs", "ep"],
];

/// Words that name no model of their own: `model-100` and `step_100` belong to the directory's run.
const NEUTRAL_WORDS: [&str; 6] = ["model", "weights", "net", "params", "global", "state"];

/// Names that other savers use for a second link to, or a copy of, a numbered save.
const ALIASES: [&str; 4] = ["best", "last", "latest", "final"];

/// Safetensors files that hold something else than the weights of a model.
const OTHER_TENSORS: [&str; 5] =
    ["adapter_model", "optimizer", "training_args", "scheduler", "random_states"];

/// Endings of the checkpoint formats that are not read.
const FOREIGN: [&str; 11] = [
    ".bin", ".pt", ".pth", ".pkl", ".tar", ".ckpt", ".distcp", ".h5", ".keras", ".npz", ".msgpack",
];

/// A name that a saver gives to unfinished work, or that no one wants looked at.
pub(super) fn is_ignored(name: &str) -> bool {
    name.starts_with('.')
        || name.starts_with("tmp-")
        || [".tmp", "-tmp", ".incomplete", ".dirty", "-unfinished"]
            .iter()
            .any(|end| name.ends_with(end))
        || name.contains(".dirty.")
        || name.contains(".orbax-checkpoint-tmp")
}

/// Whether the name is that of a weight file, finished or being written in place.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(WEIGHTS)
        && !is_ignored(name)
        && !OTHER_TENSORS.iter().any(|other| name.starts_with(other))
}

/// Whether the name is that of an index of shards.
pub(super) fn is_index(name: &str) -> bool {
    name.ends_with(".safetensors.index.json") && !is_ignored(name)
}

/// Whether a file of this name shows that the directory is, or was, a checkpoint in a format that is
/// not read (or an adapter without its base model).
pub(super) fn is_foreign(name: &str) -> bool {
    name == ".metadata"
        || FOREIGN.iter().any(|end| name.ends_with(end))
        || (name.ends_with(WEIGHTS) && !is_weights(name) && !is_ignored(name))
}

/// Whether the stem is a usual name for a second link to a numbered save.
pub(super) fn is_alias(stem: &str) -> bool {
    words(stem).iter().any(|part| ALIASES.contains(&part.text.to_ascii_lowercase().as_str()))
}

/// One file of several: `model-00002-of-00003.safetensors`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shard<'a> {
    /// What stands before the numbers; files of one set share it.
    pub(super) set: &'a str,
    /// Number of files in the set.
    pub(super) n_shards: u64,
}

/// Reads `SET-i-of-N.safetensors`.
pub(super) fn shard(name: &str) -> Option<Shard<'_>> {
    let (rest, total) = name.strip_suffix(WEIGHTS)?.rsplit_once("-of-")?;
    let (set, idx) = rest.rsplit_once('-')?;
    number(idx)?;
    Some(Shard { set, n_shards: number(total)? })
}

/// The stem of a weight file.
pub(super) fn stem(name: &str) -> &str {
    name.strip_suffix(WEIGHTS).unwrap_or(name)
}

/// Step of a directory of one save, `None` unless its whole name is step words and numbers:
/// `checkpoint-500`, `global_step500`, `epoch=3-step=1000`, but not `gpt-2` or `step-5-merged`.
pub(super) fn directory_step(name: &str) -> Option<u64> {
    let parts = words(name);
    let step = chosen_number(&parts)?;
    let kept = rest_of(&parts, step);
    (parts[step].rank < STEP_WORDS.len() && kept.is_empty()).then_some(parts[step].number?)
}

/// Whether the directory is named as the Hugging Face trainer names its saves, whose last file is
/// `trainer_state.json`.
pub(super) fn is_trainer_directory(name: &str) -> bool {
    name.strip_prefix("checkpoint-").and_then(number).is_some()
}

/// Step of a plain weight file and the part of its stem that names a model of its own (empty if the
/// file belongs to its directory's run): `ema_model-100` is step 100 of `ema_model`.
pub(super) fn file_step(stem: &str) -> (Option<u64>, String) {
    let parts = words(stem);
    match chosen_number(&parts) {
        Some(step) => (parts[step].number, rest_of(&parts, step)),
        None if stem == "model" => (None, String::new()),
        None => (None, stem.to_owned()),
    }
}

/// A name for people and labels: bytes that are not UTF-8 and control characters are spelled out, so
/// that two names that differ stay different.
pub(super) fn escape(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// One part of a name between separators.
#[derive(Debug)]
struct Part<'a> {
    /// The separator before it, if any.
    separator: &'a str,
    /// The part itself.
    text: &'a str,
    /// Its value if it is a number.
    number: Option<u64>,
    /// For a number: the rank of the word that it counts, `STEP_WORDS.len()` if that is no step word.
    rank: usize,
}

/// Splits a name at `-`, `_` and `=`, and `step500` between word and number.
fn words(name: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rank = STEP_WORDS.len();
    let mut start = 0;
    for piece in name.split(['-', '_', '=']) {
        let separator = &name[start.max(1) - 1..start];
        start += piece.len() + 1;
        let digits = piece.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (word, value) = piece.split_at(digits);
        let joined = !word.is_empty() && !value.is_empty();
        let (word, value) =
            if joined && word_rank(word) == STEP_WORDS.len() { (piece, "") } else { (word, value) };
        if !word.is_empty() {
            rank = word_rank(word);
            parts.push(Part { separator, text: word, number: None, rank });
        }
        if !value.is_empty() {
            let separator = if word.is_empty() { separator } else { "" };
            parts.push(Part { separator, text: value, number: number(value), rank });
        }
    }
    parts
}

fn word_rank(word: &str) -> usize {
    let word = word.to_ascii_lowercase();
    STEP_WORDS.iter().position(|set| set.contains(&word.as_str())).unwrap_or(STEP_WORDS.len())
}

/// The number with the best word before it; the last of equals (`checkpoint_3_1000` is epoch and
/// updates).
fn chosen_number(parts: &[Part<'_>]) -> Option<usize> {
    let numbers = parts.iter().enumerate().filter(|(_, part)| part.number.is_some());
    numbers.min_by_key(|(idx, part)| (part.rank, usize::MAX - idx)).map(|(idx, _)| idx)
}

/// What a name says beside its step, as spelled there; empty if only neutral words are left.
fn rest_of(parts: &[Part<'_>], step: usize) -> String {
    let is_counted = |part: &Part<'_>| part.number.is_some() && part.rank < STEP_WORDS.len();
    // The value of a metric in a name (`val_loss=0.31`) changes from save to save.
    let is_decimal = |text: &str| text.contains('.') && text.parse::<f64>().is_ok();
    let is_counter = |idx: usize| {
        is_step_word(&parts[idx]) && parts.get(idx + 1).is_some_and(|next| next.number.is_some())
    };
    let kept = parts.iter().enumerate().filter(|(idx, part)| {
        let is_dropped = *idx == step || is_counted(part) || is_counter(*idx);
        !is_dropped && !part.text.is_empty() && !is_decimal(part.text)
    });
    let mut rest = String::new();
    let mut only_neutral = true;
    for (_, part) in kept {
        let word = part.text.to_ascii_lowercase();
        only_neutral &=
            part.number.is_none() && (NEUTRAL_WORDS.contains(&word.as_str()) || is_step_word(part));
        rest.push_str(part.separator);
        rest.push_str(part.text);
    }
    if only_neutral { String::new() } else { rest.trim_matches(['-', '_', '=']).to_owned() }
}

fn is_step_word(part: &Part<'_>) -> bool {
    part.number.is_none() && part.rank < STEP_WORDS.len()
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_directories() {
        let check = |name: &str, step: Option<u64>| {
            assert_eq!(directory_step(name), step, "directory {name}");
        };
        for name in ["checkpoint-500", "checkpoint_500", "step-500", "step500", "step_500"] {
            check(name, Some(500));
        }
        check("global_step500", Some(500));
        check("iter_0000500", Some(500));
        check("epoch-3", Some(3));
        check("epoch=3-step=1000", Some(1000));
        check("ep1-ba100", Some(100));
        check("Step-7", Some(7));
        check("checkpoint", None);
        check("gpt-2", None);
        check("step-5-merged", None);
        check("qwen2-7b", None);
        check("model-1000", None);
        check("1000", None);
        check("step-99999999999999999999", None);
        check("step-+5", None);
        check("", None);
        check("-", None);
    }

    #[test]
    fn steps_and_runs_of_files() {
        let check = |stem: &str, step: Option<u64>, run: &str| {
            assert_eq!(file_step(stem), (step, run.to_owned()), "file {stem}");
        };
        check("model-1000", Some(1000), "");
        check("step_500", Some(500), "");
        check("model_step500", Some(500), "");
        check("500", Some(500), "");
        check("epoch=3-step=1000", Some(1000), "");
        check("step=1000-epoch=3", Some(1000), "");
        check("checkpoint_3_1000", Some(1000), "");
        check("epoch=3-step=1000-val_loss=0.31", Some(1000), "val_loss");
        check("ema-100", Some(100), "ema");
        check("ema_model-100", Some(100), "ema_model");
        check("llama-7b-1000", Some(1000), "llama-7b");
        check("llama-7b-step-1000", Some(1000), "llama-7b");
        check("model-7-1000", Some(1000), "model-7");
        check("model", None, "");
        check("ema", None, "ema");
        check("weights", None, "weights");
        check("v2", None, "v2");
        check("日本-5", Some(5), "日本");
    }

    #[test]
    fn leftovers_and_strangers() {
        for name in [
            "tmp-checkpoint-5",
            ".tmpAb12Cd",
            "model.safetensors.tmp",
            "model.safetensors.incomplete",
            "step5-tmp",
            "5.orbax-checkpoint-tmp",
            "5.orbax-checkpoint-tmp-1700000000",
            "checkpoint-5-unfinished",
            "iter_5_0_local.dirty.pt",
        ] {
            assert!(is_ignored(name), "{name} is unfinished work");
        }
        for name in ["adapter_model.safetensors", "optimizer_0.safetensors", ".x.safetensors"] {
            assert!(!is_weights(name), "{name} is no weight file");
        }
        assert!(is_foreign("adapter_model.safetensors") && is_foreign("pytorch_model.bin"));
        assert!(!is_foreign("config.json") && !is_foreign("model.safetensors"));
    }

    #[test]
    fn shards_are_no_steps() {
        let name = "model-00001-of-00003.safetensors";
        assert_eq!(shard(name), Some(Shard { set: "model", n_shards: 3 }));
        assert_eq!(shard("model-1000.safetensors"), None);
        assert_eq!(shard("model-x-of-00003.safetensors"), None);
    }

    #[test]
    fn escaped_names_stay_different() {
        assert_eq!(escape(OsStr::from_bytes(b"a\xff\n")), "a\\xff\\n");
        assert_eq!(escape(OsStr::new("läuft")), "läuft");
    }
}
