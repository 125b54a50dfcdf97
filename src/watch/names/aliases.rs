//! Second names of a save.

use super::steps;

/// Words of weights that are not those that training goes on with.
const OTHER_WEIGHTS: [&str; 6] = ["recovery", "ema", "swa", "teacher", "discriminator", "target"];

/// What a name without a step is to the other files of its directory. Of several that are one
/// content the lowest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::watch) enum AliasRank {
    /// A name of its own.
    Own,
    /// `last`, `latest`, `final`: moves with every save.
    Last,
    /// `best`: a copy of one that was chosen.
    Best,
}

/// Reads a stem: `last`, `checkpoint_best`, `model_best`, `latest-rank0`. A stem with a step is a
/// name of its own whatever else it says.
pub(in crate::watch) fn alias_rank(stem: &str) -> AliasRank {
    let has = |names: &[&str]| {
        let parts = steps::words(stem);
        parts.iter().any(|part| names.contains(&part.text.to_ascii_lowercase().as_str()))
    };
    if steps::file_step(stem).0.is_some() {
        AliasRank::Own
    } else if has(&["last", "latest", "final"]) {
        AliasRank::Last
    } else if has(&["best"]) {
        AliasRank::Best
    } else {
        AliasRank::Own
    }
}

/// Whether weights called so may be those of another stem: `last` is no copy of `ema-100` or of
/// timm's `recovery-0-7`, though `last_ema` may be one of the first.
pub(in crate::watch) fn may_be_copy(copy: &str, original: &str) -> bool {
    let has = |stem: &str, other: &str| steps::words(stem).iter().any(|part| part.text == other);
    OTHER_WEIGHTS.iter().all(|other| has(copy, other) == has(original, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_by_name() {
        for stem in ["last", "checkpoint_last", "latest-rank0", "final", "Last", "last-v1"] {
            assert_eq!(alias_rank(stem), AliasRank::Last, "{stem}");
        }
        for stem in ["best", "model_best", "checkpoint_best"] {
            assert_eq!(alias_rank(stem), AliasRank::Best, "{stem}");
        }
        for stem in ["ckpt", "model", "best-epoch=3", "epoch0", "lastly", "ep0-ba1-rank0"] {
            assert_eq!(alias_rank(stem), AliasRank::Own, "{stem}");
        }
    }

    #[test]
    fn copies_are_of_the_same_weights() {
        assert!(may_be_copy("last", "epoch=0-step=5") && may_be_copy("last_ema", "ema-5"));
        assert!(!may_be_copy("last", "recovery-0-7") && !may_be_copy("best", "ema-5"));
    }
}
