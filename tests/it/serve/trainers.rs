//! Runs of the trainers that do not write safetensors, below one root: real files, laid down in the
//! order in which each trainer writes them (`tests/fixtures/traces`).

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::client::Metrics;
use super::process::{Daemon, FAST, Place};
use super::saves::{copy_save, shipped};
use crate::support::read_arrays;

/// A run, as it appears below the root, and how its trainer lays down the save of a step.
struct Run {
    name: &'static str,
    architecture: &'static str,
    write: fn(&Path, u64),
}

const RUNS: [Run; 13] = [
    Run { name: "nanogpt/ckpt", architecture: "llama", write: nanogpt },
    Run { name: "numbered", architecture: "llama", write: numbered },
    Run { name: "trainer", architecture: "llama", write: trainer },
    Run { name: "sharded", architecture: "llama", write: sharded },
    Run { name: "dcp", architecture: "llama", write: dcp },
    Run { name: "deepspeed", architecture: "llama", write: deepspeed },
    Run { name: "peft", architecture: "lora", write: peft },
    Run { name: "lightning/checkpoints", architecture: "llama", write: lightning },
    Run { name: "megatron", architecture: "megatron", write: megatron },
    Run { name: "olmo", architecture: "llama", write: olmo },
    Run { name: "npz", architecture: "llama", write: npz },
    Run { name: "gguf", architecture: "gguf-llama", write: gguf },
    Run { name: "keras", architecture: "chain", write: keras },
];

fn fixture(path: &str) -> PathBuf {
    shipped("fixtures/formats").join(path)
}

fn bytes(path: &str) -> Vec<u8> {
    fs::read(fixture(path)).unwrap()
}

/// Writes a file into its final name.
fn put(bytes: &[u8], to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::write(to, bytes).unwrap();
}

/// Writes a file under another name and renames it.
fn put_by_rename(bytes: &[u8], to: &Path) {
    let unfinished = to.with_extension("tmp");
    put(bytes, &unfinished);
    fs::rename(unfinished, to).unwrap();
}

/// One file in place, again and again, which names its run; only what it holds says which step it is.
fn nanogpt(run: &Path, step: u64) {
    let mut file = bytes("torch_nanogpt/ckpt.pt");
    // A number of two bytes behind its key, with what the pickler puts between.
    let key = position(&file, b"iter_num");
    let at = key + position(&file[key..], b"M\x2c\x01");
    file[at + 1..at + 3].copy_from_slice(&u16::try_from(step).unwrap().to_le_bytes());
    put(&file, &run.with_extension("pt"));
}

/// Files by step, the state of the optimiser beside them.
fn numbered(run: &Path, step: u64) {
    put(&bytes("torch_state_dict/ckpt.pt"), &run.join(format!("model-{step}.pt")));
    put(
        &bytes("hf4_trainer/checkpoint-10/optimizer.pt"),
        &run.join(format!("optimizer-{step}.pt")),
    );
}

/// The Trainer of transformers 4.36: a directory is filled and renamed.
fn trainer(run: &Path, step: u64) {
    let unfinished = run.join(format!("tmp-checkpoint-{step}"));
    copy_save(&fixture("hf4_trainer/checkpoint-10"), &unfinished);
    fs::rename(unfinished, run.join(format!("checkpoint-{step}"))).unwrap();
}

/// Shards of `pytorch_model.bin`, their index, the trainer's record.
fn sharded(run: &Path, step: u64) {
    let save = run.join(format!("checkpoint-{step}"));
    copy_save(&fixture("hf4_sharded"), &save);
    let others = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"];
    for name in others {
        put(&bytes(&format!("hf4_trainer/checkpoint-10/{name}")), &save.join(name));
    }
}

/// The pieces of four ranks, then the record of all of them.
fn dcp(run: &Path, step: u64) {
    let save = run.join(format!("step-{step}"));
    let from = "dcp_titan_2d/checkpoint/step-20";
    for rank in 0..4 {
        let name = format!("__{rank}_0.distcp");
        put(&bytes(&format!("{from}/{name}")), &save.join(name));
    }
    put_by_rename(&bytes(&format!("{from}/.metadata")), &save.join(".metadata"));
}

/// The files of two ranks, then the name of the newest save.
fn deepspeed(run: &Path, step: u64) {
    let save = format!("global_step{step}");
    copy_save(&fixture("deepspeed_zero2/ckpt/global_step5"), &run.join(&save));
    put(&bytes("deepspeed_zero2/ckpt/zero_to_fp32.py"), &run.join("zero_to_fp32.py"));
    put(save.as_bytes(), &run.join("latest"));
}

/// An adapter under the Trainer; its base lies below the root, where the record says.
fn peft(run: &Path, step: u64) {
    let save = run.join(format!("checkpoint-{step}"));
    let adapter = bytes("peft_lora/adapter/adapter_model.safetensors");
    put_by_rename(&adapter, &save.join("adapter_model.safetensors"));
    put(&bytes("peft_lora/adapter/adapter_config.json"), &save.join("adapter_config.json"));
    for name in ["training_args.bin", "optimizer.pt", "trainer_state.json"] {
        put(&bytes(&format!("hf5_trainer/checkpoint-10/{name}")), &save.join(name));
    }
}

/// A new file by one rename, and `last.ckpt` as a link to it.
fn lightning(run: &Path, step: u64) {
    let name = format!("epoch=1-step={step}.ckpt");
    put_by_rename(&bytes("lightning/epoch=1-step=8.ckpt"), &run.join(&name));
    let link = run.join("last.ckpt");
    // The first save finds none.
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&name, link).unwrap();
}

/// What is common to all ranks, their pieces, two records, then the iteration of the newest save.
fn megatron(run: &Path, step: u64) {
    let (from, save) = ("megatron_torch_dist/ckpt/iter_0000100", format!("iter_{step:07}"));
    let save = run.join(save);
    for name in ["common.pt", "__0_0.distcp", "__0_1.distcp", "__1_0.distcp", "__1_1.distcp"] {
        put(&bytes(&format!("{from}/{name}")), &save.join(name));
    }
    put_by_rename(&bytes(&format!("{from}/.metadata")), &save.join(".metadata"));
    put(&bytes(&format!("{from}/metadata.json")), &save.join("metadata.json"));
    put(step.to_string().as_bytes(), &run.join("latest_checkpointed_iteration.txt"));
}

/// A directory is filled and renamed, its mark written after that.
fn olmo(run: &Path, step: u64) {
    let (unfinished, save) = (run.join(format!("step{step}-tmp")), run.join(format!("step{step}")));
    copy_save(&fixture("olmo_core/step100/model_and_optim"), &unfinished.join("model_and_optim"));
    fs::rename(unfinished, &save).unwrap();
    put(&bytes("olmo_core/step100/.metadata.json"), &save.join(".metadata.json"));
}

fn npz(run: &Path, step: u64) {
    put(&bytes("npz/ckpt.npz"), &run.join(format!("weights-{step}.npz")));
}

fn gguf(run: &Path, step: u64) {
    put(&bytes("gguf_f16/model.gguf"), &run.join(format!("model-{step}.gguf")));
}

fn keras(run: &Path, step: u64) {
    put(&bytes("keras_mlp/model.keras"), &run.join(format!("model-{step}.keras")));
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

/// A file of the common weights in which one of them is NaN.
fn with_nan(file: &str) -> Vec<u8> {
    let weights = read_arrays(&fixture("common/model.safetensors"));
    let known: Vec<u8> =
        weights["lm_head.weight"].values[..4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut bytes = bytes(file);
    let at = position(&bytes, &known);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes
}

fn all_runs() -> Vec<&'static str> {
    RUNS.iter().map(|run| run.name).chain(["common"]).collect()
}

/// Every run saves; each of the saves is measured, once, and nothing else.
fn save_and_check(place: &Place, daemon: &Daemon, step: u64, n: u64) {
    for run in &RUNS {
        (run.write)(&place.root.join(run.name), step);
    }
    for run in &RUNS {
        daemon.wait_analyzed(run.name, n);
    }
    let metrics = daemon.metrics();
    for run in &RUNS {
        let label = ("run", run.name);
        let architecture = ("architecture", run.architecture);
        let told = metrics.all("run_info", &[label]);
        assert_eq!(metrics.all("run_info", &[label, architecture]).len(), 1, "{told:?}");
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let step = Some(step as f64);
        assert_eq!(metrics.value("checkpoint_analyzed_step", &[label]), step, "{}", run.name);
        check_counts(&metrics, run.name, n);
    }
}

/// All saves were seen once, measured once, and none failed.
fn check_counts(metrics: &Metrics, run: &str, n: u64) {
    assert_eq!(metrics.count("checkpoints_discovered_total", run), n, "{run}");
    assert_eq!(metrics.count("checkpoints_analyzed_total", run), n, "{run}");
    assert_eq!(metrics.count("checkpoint_failures_total", run), 0, "{run}");
    assert_eq!(metrics.value("analysis_queue_length", &[("run", run)]), Some(0.0), "{run}");
}

/// Leaves time for several scans, in which nothing is new.
fn nothing_is_counted_again(daemon: &Daemon, n_of: impl Fn(&str) -> u64) {
    thread::sleep(Duration::from_secs(4));
    let metrics = daemon.metrics();
    let mut runs = metrics.runs();
    runs.sort();
    let mut expected = all_runs();
    expected.sort_unstable();
    assert_eq!(runs, expected);
    for run in expected {
        check_counts(&metrics, run, n_of(run));
    }
}

#[test]
fn runs_of_every_trainer_are_measured_save_by_save() {
    let place = Place::new(FAST);
    let base = place.root.join("common");
    for name in ["config.json", "model.safetensors"] {
        put(&bytes(&format!("common/{name}")), &base.join(name));
    }
    let daemon = place.watch();
    daemon.wait_analyzed("common", 1);
    save_and_check(&place, &daemon, 100, 1);
    save_and_check(&place, &daemon, 200, 2);
    nothing_is_counted_again(&daemon, |run| if run == "common" { 1 } else { 2 });

    // The base that the adapter's record names was found, and the adapter compared with it.
    let of_base = daemon.metrics().all("adapter_update_ratio", &[("run", "peft")]);
    assert!(!of_base.is_empty() && of_base.iter().all(|(_, ratio)| *ratio > 0.0), "{of_base:?}");
    let (status, report) = daemon.get("/api/v1/runs/peft");
    assert_eq!(status, 200);
    assert!(report.contains("update_out") && !report.contains("base model `common` not found"));
}

#[test]
fn a_nan_is_counted_and_a_broken_file_fails_alone() {
    let place = Place::new(FAST);
    let (numbered, npz) = (place.root.join("numbered"), place.root.join("npz"));
    let daemon = place.watch();
    put(&with_nan("torch_state_dict/ckpt.pt"), &numbered.join("model-100.pt"));
    let mut broken = bytes("npz/ckpt.npz");
    // The mark of the first array; the archive around it is whole.
    let at = position(&broken, b"NUMPY");
    broken[at] = b'n';
    put(&broken, &npz.join("weights-100.npz"));

    let metrics = daemon.wait_analyzed("numbered", 1);
    let nan = [("run", "numbered"), ("kind", "nan")];
    assert_eq!(metrics.value("nonfinite_weights", &nan), Some(1.0));
    check_counts(&metrics, "numbered", 1);
    let malformed = [("run", "npz"), ("reason", "malformed")];
    let failed = |m: &Metrics| m.value("checkpoint_failures_total", &malformed) == Some(1.0);
    let metrics = daemon.wait("a failure", failed);
    assert_eq!(metrics.value("checkpoint_readable", &[("run", "npz")]), Some(0.0));

    put(&bytes("torch_state_dict/ckpt.pt"), &numbered.join("model-200.pt"));
    put(&bytes("npz/ckpt.npz"), &npz.join("weights-200.npz"));
    let metrics = daemon.wait_analyzed("numbered", 2);
    assert_eq!(metrics.value("nonfinite_weights", &nan), Some(0.0));
    let metrics_npz = daemon.wait_analyzed("npz", 1);
    assert_eq!(metrics_npz.count("checkpoint_failures_total", "npz"), 1, "the broken one, once");
    assert_eq!(metrics_npz.value("checkpoint_readable", &[("run", "npz")]), Some(1.0));
    check_counts(&metrics, "numbered", 2);
}
