//! Traces of savers that nobody recorded, in the order that their sources give.

use std::path::PathBuf;

use super::trace::{Op, Save, Trace, What};

/// Bytes of a file; two writes.
const LENGTH: u64 = 600;

/// All of them.
pub(super) fn written() -> Vec<Trace> {
    let of = |name: &str, saves: &[(String, u64)], lines: Vec<String>| trace(name, saves, &lines);
    vec![
        of("hf_trainer_deepspeed", &numbered("checkpoint-", 3), hf_trainer_deepspeed()),
        of("hf_trainer_fsdp", &numbered("checkpoint-", 3), hf_trainer_fsdp()),
        of("hf_trainer_two_formats", &numbered("checkpoint-", 3), hf_trainer_two_formats()),
        of("hf_trainer_bin_shards", &numbered("checkpoint-", 3), hf_trainer_bin_shards()),
        of("lightning_sharded", &lightning_names(".ckpt"), lightning_sharded()),
        of("nemo_directories", &lightning_names(""), nemo_directories()),
        of("orbax_commit_file", &numbered("", 3), orbax_commit_file()),
        of("composer_sharded", &numbered("ep0-ba", 3), composer_sharded()),
        of("deepspeed_rerun", &twice("global_step"), deepspeed_rerun()),
        of("megatron_rerun", &twice("iter_000000"), megatron_rerun()),
    ]
}

fn numbered(start: &str, n: u64) -> Vec<(String, u64)> {
    (1..=n).map(|step| (format!("{start}{step}"), step)).collect()
}

fn twice(start: &str) -> Vec<(String, u64)> {
    [numbered(start, 2), numbered(start, 2)].concat()
}

fn lightning_names(end: &str) -> Vec<(String, u64)> {
    (1..=3).map(|step| (format!("epoch=0-step={step}{end}"), step)).collect()
}

/// Reads lines: `file A` is made, filled and closed, `over A` the same on its inode; `rm A`,
/// `rmdir A`, `mkdir A`, `mv A B`, `saved`.
fn trace(name: &str, saves: &[(String, u64)], lines: &[String]) -> Trace {
    let mut ops = Vec::new();
    let mut save = 0;
    let mut push = |what: What| {
        let is_saved = matches!(what, What::Saved);
        ops.push(Op { t_ms: u64::try_from(ops.len()).unwrap(), save, what });
        save += usize::from(is_saved);
    };
    for line in lines {
        let mut words = line.split(' ');
        let what = words.next().unwrap();
        let mut path = || PathBuf::from(words.next().unwrap());
        match what {
            "mkdir" => push(What::MakeDirectory(path())),
            "rmdir" => push(What::RemoveDirectory(path())),
            "rm" => push(What::Unlink(path())),
            "mv" => push(What::Rename { path: path(), to: path() }),
            "saved" => push(What::Saved),
            "mark" => {
                let path = path();
                push(What::Create(path.clone()));
                push(What::Close(path));
            }
            "file" | "over" => {
                let path = path();
                match what {
                    "file" => push(What::Create(path.clone())),
                    _ => push(What::Open { path: path.clone(), truncated: true }),
                }
                for offset in [0, LENGTH] {
                    push(What::Write { path: path.clone(), offset, length: LENGTH });
                }
                push(What::Close(path));
            }
            other => panic!("{other}"),
        }
    }
    let saves = saves.iter().map(|(path, step)| Save { path: path.into(), step: Some(*step) });
    Trace { name: name.to_owned(), saves: saves.collect(), ops }
}

/// `VERB DIRECTORY/NAME` for each name.
fn each(verb: &str, directory: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{verb} {directory}/{name}")).collect()
}

fn mkdir(path: &str) -> Vec<String> {
    vec![format!("mkdir {path}")]
}

fn metadata(directory: &str) -> Vec<String> {
    vec![
        format!("file {directory}/.metadata.tmp"),
        format!("mv {directory}/.metadata.tmp {directory}/.metadata"),
    ]
}

fn saved() -> Vec<String> {
    vec!["saved".to_owned()]
}

/// Rotation of the step before, in the order of the names.
fn rotated(
    step: u64,
    directory: impl Fn(u64) -> String,
    names: &[&str],
    inner: &str,
) -> Vec<String> {
    let Some(before) = step.checked_sub(1).filter(|before| *before > 0) else { return Vec::new() };
    let directory = directory(before);
    let mut lines = each("rm", &directory, names);
    if !inner.is_empty() {
        lines.push(format!("rmdir {directory}/{inner}"));
    }
    lines.push(format!("rmdir {directory}"));
    lines
}

fn hf_trainer_deepspeed() -> Vec<String> {
    let directory = |step: u64| format!("checkpoint-{step}");
    let mut lines = Vec::new();
    for step in 1..=3 {
        let (top, inner) = (directory(step), "global_step".to_owned() + &step.to_string());
        let states = [
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "zero_pp_rank_0_mp_rank_00_model_states.pt",
            "zero_pp_rank_1_mp_rank_00_model_states.pt",
            "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        ];
        lines.extend([mkdir(&top), mkdir(&format!("{top}/{inner}"))].concat());
        lines.extend(each("file", &format!("{top}/{inner}"), &states));
        let after = ["zero_to_fp32.py", "latest", "scheduler.pt", "rng_state_0.pth"];
        lines.extend(each("file", &top, &after));
        lines.extend(each("file", &top, &["trainer_state.json"]));
        lines.extend(saved());
        if step > 1 {
            let before = step - 1;
            let inner = format!("global_step{before}");
            let below: Vec<String> = states.iter().map(|name| format!("{inner}/{name}")).collect();
            let mut gone: Vec<&str> = vec!["rng_state_0.pth", "scheduler.pt"];
            gone.extend(below.iter().map(String::as_str));
            gone.extend(["latest", "zero_to_fp32.py", "trainer_state.json"]);
            lines.extend(rotated(step, directory, &gone, &inner));
        }
    }
    lines
}

fn hf_trainer_fsdp() -> Vec<String> {
    let directory = |step: u64| format!("checkpoint-{step}");
    let mut lines = Vec::new();
    for step in 1..=3 {
        let top = directory(step);
        let inner = format!("{top}/pytorch_model_fsdp_0");
        lines.extend([mkdir(&top), mkdir(&inner)].concat());
        lines.extend(each("file", &inner, &["__0_0.distcp", "__1_0.distcp"]));
        lines.extend(metadata(&inner));
        lines.extend(each(
            "file",
            &top,
            &["scheduler.pt", "rng_state_0.pth", "trainer_state.json"],
        ));
        lines.extend(saved());
        let gone = [
            "pytorch_model_fsdp_0/__1_0.distcp",
            "pytorch_model_fsdp_0/.metadata",
            "pytorch_model_fsdp_0/__0_0.distcp",
            "scheduler.pt",
            "rng_state_0.pth",
            "trainer_state.json",
        ];
        lines.extend(rotated(step, directory, &gone, "pytorch_model_fsdp_0"));
    }
    lines
}

fn hf_trainer(names: &[&str]) -> Vec<String> {
    let directory = |step: u64| format!("checkpoint-{step}");
    let mut lines = Vec::new();
    for step in 1..=3 {
        lines.extend(mkdir(&directory(step)));
        lines.extend(each("file", &directory(step), names));
        lines.extend(saved());
        lines.extend(rotated(step, directory, names, ""));
    }
    lines
}

fn hf_trainer_two_formats() -> Vec<String> {
    hf_trainer(&[
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "optimizer.pt",
        "trainer_state.json",
    ])
}

fn hf_trainer_bin_shards() -> Vec<String> {
    hf_trainer(&[
        "config.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
    ])
}

/// As `Fabric` saves with a sharded strategy: a directory with the ending of a file.
fn lightning_sharded() -> Vec<String> {
    let directory = |step: u64| format!("epoch=0-step={step}.ckpt");
    let mut lines = Vec::new();
    for step in 1..=3 {
        let top = directory(step);
        lines.extend(mkdir(&top));
        lines.extend(each("file", &top, &["__0_0.distcp", "__1_0.distcp"]));
        lines.extend(metadata(&top));
        lines.extend(each("file", &top, &["meta.pt"]));
        lines.extend(saved());
        let gone = ["__1_0.distcp", "meta.pt", ".metadata", "__0_0.distcp"];
        lines.extend(rotated(step, directory, &gone, ""));
    }
    lines
}

/// The marker stands beside the directory while it is written and while it is deleted.
fn nemo_directories() -> Vec<String> {
    let directory = |step: u64| format!("epoch=0-step={step}");
    let files = ["__0_0.distcp", ".metadata", "common.pt", "metadata.json"];
    let mut lines = Vec::new();
    for step in 1..=3 {
        let top = directory(step);
        lines.push(format!("mark {top}-unfinished"));
        lines.extend(mkdir(&top));
        lines.extend(each("file", &top, &files));
        lines.push(format!("rm {top}-unfinished"));
        lines.extend(saved());
        if step > 1 {
            let before = directory(step - 1);
            lines.push(format!("mark {before}-unfinished"));
            lines.extend(rotated(step, directory, &files, ""));
            lines.push(format!("rm {before}-unfinished"));
        }
    }
    lines
}

/// As on object stores, where a directory cannot be renamed.
fn orbax_commit_file() -> Vec<String> {
    let directory = |step: u64| step.to_string();
    let mut lines = Vec::new();
    for step in 1..=3 {
        let top = directory(step);
        lines.extend(mkdir(&top));
        lines.extend(each("file", &top, &["_CHECKPOINT_METADATA"]));
        lines.extend(
            [mkdir(&format!("{top}/default")), mkdir(&format!("{top}/default/d"))].concat(),
        );
        let data = ["d/aa", "d/bb", "manifest.ocdbt", "_METADATA", "commit_success.txt"];
        lines.extend(each("file", &format!("{top}/default"), &data));
        lines.extend(each("over", &top, &["_CHECKPOINT_METADATA"]));
        lines.extend(each("file", &top, &["commit_success.txt"]));
        lines.extend(saved());
        if step > 1 {
            let before = directory(step - 1);
            lines.extend(each("rm", &before, &["_CHECKPOINT_METADATA", "commit_success.txt"]));
            let gone = ["commit_success.txt", "manifest.ocdbt", "_METADATA", "d/bb", "d/aa"];
            lines.extend(each("rm", &format!("{before}/default"), &gone));
            lines.extend(each("rmdir", &before, &["default/d", "default"]));
            lines.push(format!("rmdir {before}"));
        }
    }
    lines
}

fn composer_sharded() -> Vec<String> {
    let mut lines = Vec::new();
    for step in 1..=3 {
        let top = format!("ep0-ba{step}");
        lines.extend(mkdir(&top));
        lines.extend(each("file", &top, &["__0_0.distcp", "__1_0.distcp"]));
        lines.extend(metadata(&top));
        lines.extend(saved());
    }
    lines
}

/// Two runs of two steps: while the second writes step 1, `latest` names step 2 of the first.
fn deepspeed_rerun() -> Vec<String> {
    let states = ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"];
    let mut lines = Vec::new();
    for (verb, step) in [("file", 1), ("file", 2), ("over", 1), ("over", 2)] {
        let top = format!("global_step{step}");
        if verb == "file" {
            lines.extend(mkdir(&top));
        }
        lines.extend(each(verb, &top, &states));
        let verb = if verb == "file" && step == 1 { "file" } else { "over" };
        lines.push(format!("{verb} latest"));
        lines.extend(saved());
    }
    lines
}

fn megatron_rerun() -> Vec<String> {
    let mut lines = Vec::new();
    for (verb, step) in [("file", 1), ("file", 2), ("over", 1), ("over", 2)] {
        let top = format!("iter_000000{step}");
        if verb == "file" {
            lines.extend(mkdir(&top));
            lines.extend(each("mkdir", &top, &["mp_rank_00", "mp_rank_01"]));
        }
        let states = ["mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"];
        lines.extend(each(verb, &top, &states));
        let verb = if verb == "file" && step == 1 { "file" } else { "over" };
        lines.push(format!("{verb} latest_checkpointed_iteration.txt"));
        lines.extend(saved());
    }
    lines
}
