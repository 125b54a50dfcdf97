//! The optimiser step that a save's name states.

/// Endings that are no part of the name proper.
const EXTENSIONS: [&str; 11] = [
    ".safetensors",
    ".ckpt",
    ".pth",
    ".pt",
    ".bin",
    ".keras",
    ".npz",
    ".gguf",
    ".weights.h5",
    ".h5",
    ".hdf5",
];
/// Words that a step follows, the most telling first: `epoch=3-step=1000` is step 1000.
const WORDS: [&[&str]; 4] = [
    &["step", "steps", "globalstep"],
    &["iter", "iters", "iteration", "iterations"],
    &["checkpoint", "ckpt"],
    &["model", "weights"],
];

/// The optimiser step in the last component of a checkpoint's path, if it states one.
///
/// Knows `checkpoint-500`, `step-500`, `step_500`, `step500`, `global_step500`, `iter_0000100`,
/// `model-500.safetensors` and `epoch=3-step=1000.safetensors`. The number of a shard
/// (`model-00001-of-00003.safetensors`) is no step, nor is a version (`model-1.5`).
#[must_use]
pub fn step_in_name(name: &str) -> Option<u64> {
    let lower = name.to_ascii_lowercase();
    let stem = EXTENSIONS.iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(&lower);
    let stem = without_shard(stem);
    WORDS.iter().find_map(|words| words.iter().find_map(|word| step_after(stem, word)))
}

/// Which shard of how many a file name states: `model-00001-of-00003` is `(1, 3)`.
pub(super) fn shard_of(stem: &str) -> Option<(u32, u32)> {
    let (front, count) = stem.rsplit_once("-of-")?;
    let (_, number) = front.rsplit_once('-')?;
    let parse = |text: &str| {
        let plain = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    Some((parse(number)?, parse(count)?))
}

/// The stem without `-00001-of-00003`.
fn without_shard(stem: &str) -> &str {
    if shard_of(stem).is_none() {
        return stem;
    }
    let front = stem.rsplit_once("-of-").and_then(|(front, _)| front.rsplit_once('-'));
    front.map_or(stem, |(front, _)| front)
}

/// The number behind the last whole `word` that has one.
fn step_after(stem: &str, word: &str) -> Option<u64> {
    stem.match_indices(word)
        .filter_map(|(at, _)| {
            let (before, from) = stem.split_at_checked(at)?;
            let after = from.strip_prefix(word)?;
            let whole = !before.ends_with(|c: char| c.is_alphanumeric());
            whole.then(|| leading_number(after)).flatten()
        })
        .last()
}

/// The number at the front, after at most one separator, if it ends like a word.
fn leading_number(text: &str) -> Option<u64> {
    let text = text.strip_prefix(['-', '_', '=']).unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let ends = rest.is_empty() || rest.starts_with(['-', '_', '=', ',', ' ']);
    ends.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(&str, Option<u64>)]) {
        for (name, step) in cases {
            assert_eq!(step_in_name(name), *step, "{name}");
        }
    }

    #[test]
    fn the_frameworks_names() {
        check(&[
            ("checkpoint-500", Some(500)),
            ("step-500", Some(500)),
            ("step500", Some(500)),
            ("step_500", Some(500)),
            ("Step_500", Some(500)),
            ("global_step500", Some(500)),
            ("iter_0000100", Some(100)),
            ("model-500.safetensors", Some(500)),
            ("epoch=3-step=1000.safetensors", Some(1000)),
            ("step=1000-epoch=3.ckpt", Some(1000)),
            ("run7-checkpoint-12", Some(12)),
            ("checkpoint-0", Some(0)),
            ("step-18446744073709551615", Some(u64::MAX)),
            ("model-500-00001-of-00003.safetensors", Some(500)),
        ]);
    }

    #[test]
    fn numbers_that_are_no_steps() {
        check(&[
            ("model.safetensors", None),
            ("model-00001-of-00003.safetensors", None),
            ("model-1.5", None),
            ("llama-7b", None),
            ("gpt2", None),
            ("checkpoint-final", None),
            ("checkpoint-500b", None),
            ("footstep-5", None),
            ("checkpoint--5", None),
            ("step-18446744073709551616", None),
            ("step-٣", None),
            ("", None),
            ("step", None),
            ("éstep5", None),
        ]);
    }

    #[test]
    fn shards_state_their_count() {
        assert_eq!(shard_of("model-00002-of-00003"), Some((2, 3)));
        assert_eq!(shard_of("model-2-of-3"), None);
        assert_eq!(shard_of("model"), None);
    }
}
