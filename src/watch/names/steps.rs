//! The step that a name states, and the run that it belongs to.

/// Words before a number that make the number a step, best first: an epoch counts only where no
/// finer count is given (`epoch=3-step=1000` is step 1000).
const STEP_WORDS: [&[&str]; 4] = [
    &["step", "steps", "globalstep"],
    &["iter", "iters", "iteration", "iterations", "ba", "batch", "update", "updates"],
    &["checkpoint", "ckpt", "chkpt"],
    &["epoch", "epochs", "ep"],
];

/// Words that name no model of their own: `model-100` and `step_100` belong to the directory's run.
const NEUTRAL_WORDS: [&str; 9] =
    ["model", "weights", "net", "params", "global", "state", "pytorch", "local", "rank0"];

/// Ranks of words of which the last of several numbers counts: `checkpoint_3_1000` is epoch and
/// updates, `data-7-1000` anything; `iter_100_0_local` is iteration and process.
const LAST_COUNTS: [usize; 2] = [2, STEP_WORDS.len()];

/// Step of a directory of one save, `None` unless its whole name is step words and numbers:
/// `checkpoint-500`, `global_step500`, `epoch=3-step=1000`, but not `gpt-2` or `step-5-merged`.
///
/// Lightning gives directories the ending of its files.
pub(in crate::watch) fn directory_step(name: &str) -> Option<u64> {
    let parts = words(name.strip_suffix(".ckpt").unwrap_or(name));
    let step = chosen_number(&parts)?;
    let kept = rest_of(&parts, step);
    (parts[step].rank < STEP_WORDS.len() && kept.is_empty()).then_some(parts[step].number?)
}

/// Step of a plain weight file and the part of its stem that names a model of its own (empty if the
/// file belongs to its directory's run): `ema_model-100` is step 100 of `ema_model`.
///
/// timm's `recovery-EPOCH-BATCH` are saves of their own run, and the epoch is what rises.
pub(in crate::watch) fn file_step(stem: &str) -> (Option<u64>, String) {
    let parts = words(stem);
    if let [first, epoch, batch] = parts.as_slice()
        && first.text == "recovery"
        && batch.number.is_some()
    {
        return (epoch.number, first.text.to_owned());
    }
    match chosen_number(&parts) {
        Some(step) => (parts[step].number, rest_of(&parts, step)),
        None if stem == "model" => (None, String::new()),
        None => (None, stem.to_owned()),
    }
}

/// The value of a name that is nothing but a number, as Orbax names its steps.
pub(in crate::watch) fn plain_number(name: &str) -> Option<u64> {
    number(name)
}

/// Whether a stem says that its number counts something of training, or whose weights it holds.
pub(super) fn speaks_of_training(stem: &str) -> bool {
    words(stem).iter().any(|part| {
        is_step_word(part) || NEUTRAL_WORDS.contains(&part.text.to_ascii_lowercase().as_str())
    })
}

/// One part of a name between separators.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The separator before it, if any.
    separator: &'a str,
    /// The part itself.
    pub(super) text: &'a str,
    /// Its value if it is a number.
    number: Option<u64>,
    /// For a number: the rank of the word that it counts, `STEP_WORDS.len()` if that is no step word.
    rank: usize,
}

/// Splits a name at `-`, `_` and `=`, and `step500` between word and number.
pub(super) fn words(name: &str) -> Vec<Part<'_>> {
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

/// The number with the best word before it; of equals see [`LAST_COUNTS`].
fn chosen_number(parts: &[Part<'_>]) -> Option<usize> {
    let numbers = parts.iter().enumerate().filter(|(_, part)| part.number.is_some());
    numbers
        .min_by_key(|(idx, part)| {
            let order = if LAST_COUNTS.contains(&part.rank) { usize::MAX - idx } else { *idx };
            (part.rank, order)
        })
        .map(|(idx, _)| idx)
}

/// What a name says beside its step, as spelled there; empty if only neutral words are left.
fn rest_of(parts: &[Part<'_>], step: usize) -> String {
    let is_counted = |part: &Part<'_>| part.number.is_some() && part.rank < STEP_WORDS.len();
    // The value of a metric in a name (`val_loss=0.31`) changes from save to save.
    let is_decimal = |text: &str| text.contains('.') && text.parse::<f64>().is_ok();
    let is_counter = |idx: usize| {
        is_step_word(&parts[idx]) && parts.get(idx + 1).is_some_and(|next| next.number.is_some())
    };
    // Lightning's second save of one step: `epoch=0-step=5-v1`.
    let is_lightning = parts.iter().any(|part| part.separator == "=");
    let is_version = |idx: usize, part: &Part<'_>| {
        let version = part.text.strip_prefix('v').and_then(number);
        is_lightning && idx + 1 == parts.len() && version.is_some()
    };
    let kept = parts.iter().enumerate().filter(|(idx, part)| {
        let is_dropped =
            *idx == step || is_counted(part) || is_counter(*idx) || is_version(*idx, part);
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
    // An empty text is no number: `parse` refuses it.
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
        check("epoch=0-step=1000.ckpt", Some(1000));
        check("checkpoint_0", Some(0));
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
        check("ep0-ba12-rank0", Some(12), "");
        check("iter_0000100_0_local", Some(100), "");
        check("epoch=0-step=5-v1", Some(5), "");
        check("llama-v2", None, "llama-v2");
        check("recovery-3-7", Some(3), "recovery");
        check("checkpoint1", Some(1), "");
        check("m-01", Some(1), "m");
    }
}
