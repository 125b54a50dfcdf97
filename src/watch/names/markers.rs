//! Names that say how far a save is: unfinished, finished, or being deleted.

/// Beginnings and endings of names that savers give to unfinished work.
const UNFINISHED_STARTS: [&str; 3] = [".", "tmp-", "tmp_"];
const UNFINISHED_ENDS: [&str; 8] =
    [".tmp", "-tmp", "_tmp", ".incomplete", ".part", ".partial", ".dirty", UNFINISHED];

/// What `NeMo` puts beside a save while it is written, and once more while it is deleted.
const UNFINISHED: &str = "-unfinished";

/// Files that begin with a dot and yet say something.
const HIDDEN_MARKS: [&str; 2] = [".metadata", ".metadata.json"];

/// The file by which someone says that training has ended in its directory and below.
pub(in crate::watch) const END_MARK: &str = ".weightvane-ended";

/// Text files that name the last complete save.
const POINTERS: [&str; 2] = ["latest", "latest_checkpointed_iteration.txt"];

/// Marks of a committed save that its owner deletes before anything else of it.
const COMMITS: [&str; 3] = [".metadata.json", "_CHECKPOINT_METADATA", "commit_success.txt"];

/// Directories of one save that hold a part of it.
const PARTS: [&str; 3] = ["model_and_optim", "pytorch_model_fsdp_", "mp_rank_"];

/// A name that a saver gives to unfinished work, or that no one wants looked at.
pub(in crate::watch) fn is_ignored(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    UNFINISHED_STARTS.iter().any(|start| name.starts_with(start))
        || UNFINISHED_ENDS.iter().any(|end| name.ends_with(end))
        // timm writes `tmp.pth.tar` and `recovery_tmp.pth.tar`.
        || stem == "tmp"
        || stem.ends_with("_tmp")
        || name.contains(".dirty.")
        || name.contains(".orbax-checkpoint-tmp")
}

/// Whether a hidden file is part of a save all the same.
pub(in crate::watch) fn is_hidden_mark(name: &str) -> bool {
    HIDDEN_MARKS.contains(&name)
}

/// Whose save a marker calls unfinished (the marker leaves out the ending of a file).
pub(in crate::watch) fn unfinished(name: &str) -> Option<&str> {
    name.strip_suffix(UNFINISHED).filter(|whose| !whose.is_empty())
}

/// Whether the file's text names the last complete save.
pub(in crate::watch) fn is_pointer(name: &str) -> bool {
    POINTERS.contains(&name)
}

/// The step that the text of such a file names: `global_step100`, `100`.
pub(in crate::watch) fn pointed_step(text: &str) -> Option<u64> {
    text.strip_prefix("global_step").unwrap_or(text).parse().ok()
}

/// Whether the file is written when a save is committed, and is the first to be deleted.
pub(in crate::watch) fn is_commit(name: &str) -> bool {
    COMMITS.contains(&name)
}

/// Whether the file is one that only Orbax writes at the top of a step.
pub(in crate::watch) fn is_orbax_mark(name: &str) -> bool {
    matches!(name, "_CHECKPOINT_METADATA" | "commit_success.txt")
}

/// Whether a directory of this name, inside a save of that name, holds a part of the save.
///
/// `DeepSpeed` under the Hugging Face trainer puts a `global_stepN` of its own into `checkpoint-N`,
/// under Accelerate a `pytorch_model`; `NeMo` has `weights` beside `context`.
pub(in crate::watch) fn is_part(name: &str, save: &str) -> bool {
    let is_counted = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let is_numbered = |start: &str| name.strip_prefix(start).is_some_and(is_counted);
    PARTS.iter().any(|start| is_numbered(start))
        || (name == "weights" && save.contains('='))
        || (is_trainer_directory(save) && is_numbered("global_step"))
        || (save.starts_with("checkpoint")
            && (name == "pytorch_model" || is_numbered("pytorch_model_")))
}

/// Whether a directory of this name with such a file holds what the ranks wrote of a save that is put
/// together beside it, by `PyTorch`'s writer for Hugging Face. A run may be called so as well.
pub(in crate::watch) fn is_of_ranks(directory: &str, file: &str) -> bool {
    directory == "sharded" && file.starts_with("shard-")
}

/// Whether a directory of this name gets another marker after `.metadata`: Megatron's
/// `metadata.json` and tracker, Lightning's `meta.pt`. OLMo-core is known by its part.
pub(in crate::watch) fn has_late_marker(name: &str) -> bool {
    name.starts_with("iter_") || name.strip_suffix(".ckpt").is_some()
}

/// Whether the directory is named as the Hugging Face trainer names its saves, whose last file is
/// `trainer_state.json`.
pub(in crate::watch) fn is_trainer_directory(name: &str) -> bool {
    let number = name.strip_prefix("checkpoint-");
    number.is_some_and(|step| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_names() {
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
            "tmp.pth.tar",
            "recovery_tmp.pth.tar",
            "checkpoint1.pt.tmp",
        ] {
            assert!(is_ignored(name), "{name} is unfinished work");
        }
        for name in ["template.pt", "checkpoint-5", "attempt_2", "tmprun", "sharded"] {
            assert!(!is_ignored(name), "{name} is not");
        }
        assert_eq!(unfinished("epoch=0-step=1-unfinished"), Some("epoch=0-step=1"));
        assert_eq!((unfinished("-unfinished"), unfinished("x")), (None, None));
    }

    #[test]
    fn parts_of_saves() {
        for (name, save) in [
            ("model_and_optim", "step5"),
            ("mp_rank_00", "iter_0000100"),
            ("mp_rank_00_001", "iter_0000100"),
            ("pytorch_model_fsdp_0", "checkpoint-5"),
            ("global_step5", "checkpoint-5"),
            ("pytorch_model", "checkpoint_0"),
            ("weights", "model--val_loss=1.20-step=99"),
        ] {
            assert!(is_part(name, save), "{name} is a part of {save}");
        }
        for (name, save) in [
            ("global_step5", "out"),
            ("train", "step5"),
            ("weights", "run"),
            ("optimizer_0", "checkpoint-5"),
            ("mp_rank_x", "iter_0000100"),
            ("sharded", "step-5"),
        ] {
            assert!(!is_part(name, save), "{name} is no part of {save}");
        }
    }

    #[test]
    fn pointers_name_steps() {
        assert_eq!(pointed_step("global_step20"), Some(20));
        assert_eq!(pointed_step("300"), Some(300));
        assert_eq!((pointed_step("release"), pointed_step("")), (None, None));
    }
}
