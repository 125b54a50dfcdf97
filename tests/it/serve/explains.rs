//! What `explain` says of saves of every framework, as a newcomer reads it.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::run;
use super::saves::shipped;

/// Output and errors of `explain`.
fn explain(path: &Path, more: &[&str]) -> (String, String) {
    let mut args = vec!["explain".as_ref(), path.as_os_str()];
    args.extend(more.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    let out = run(&args);
    (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// All saves of the fixtures: entries of cases.json, directories of the others.
fn saves() -> Vec<PathBuf> {
    let formats = shipped("fixtures/formats");
    let cases: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(formats.join("cases.json")).unwrap()).unwrap();
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap().to_owned();
    let of_case = |case| formats.join(text(case, "case")).join(text(case, "path"));
    let mut saves: Vec<PathBuf> = cases.iter().map(of_case).collect();
    for others in ["fixtures/containers", "fixtures/architectures"] {
        let entries = fs::read_dir(shipped(others)).unwrap().map(|entry| entry.unwrap().path());
        saves.extend(entries.filter(|path| path.is_dir() && !path.ends_with("__pycache__")));
    }
    for adapter in ["conv", "gpt2"] {
        saves.push(shipped("fixtures/adapters").join(adapter).join("adapter"));
    }
    saves
}

/// Every matrix has a role or a reason, and what is not read is told in one line.
#[test]
fn no_save_leaves_a_newcomer_without_a_word() {
    let (mut n_read, mut n_told) = (0, 0);
    for path in saves() {
        let (said, error) = explain(&path, &[]);
        if error.is_empty() {
            assert!(!said.contains("no role"), "{}:\n{said}", path.display());
            assert!(!said.contains(" 1 tensors"), "{}:\n{said}", path.display());
            assert!(said.contains("\nPAIRS: "), "{}:\n{said}", path.display());
            n_read += 1;
            continue;
        }
        let is_told = ["found ", ", expected "].iter().all(|word| error.contains(word));
        assert!(is_told && error.lines().count() == 1 && said.is_empty(), "{error}");
        n_told += 1;
    }
    assert!(n_read >= 140 && n_told >= 28, "{n_read} and {n_told}");
}

#[test]
fn what_is_special_is_said() {
    for (path, wanted) in [
        ("formats/lightning/last.ckpt", "llama (rule `llama`, by its tensor names, below `net.`)"),
        (
            "formats/gguf_f32/model.gguf",
            "gguf-llama (rule `gguf_llama`, by model_type `gguf-llama`)",
        ),
        ("formats/megatron_torch_dist/ckpt/iter_0000100", "heads        2 of 8 rows\n"),
        ("formats/megatron_torch_dist/ckpt/iter_0000100", "taken from `args` in common.pt\n"),
        ("formats/peft_modules_to_save/adapter", "trained as a whole beside the adapters"),
        ("formats/peft_dora/adapter", "learnt norms, a number for each output"),
        ("formats/npz_orders/ckpt.npz", "no elements: nothing to measure"),
        ("architectures/keras_conv", "running statistics of a norm"),
        ("formats/hf4_trainer", "saves, as `checkpoint-10`, expected the path of one of them"),
        ("formats/lightning", "2 files of weights without an index (`"),
        ("formats/torch_module/ckpt.pt", "which no state_dict() needs"),
    ] {
        let (said, error) = explain(&shipped("fixtures").join(path), &[]);
        assert!(said.contains(wanted) || error.contains(wanted), "{path}: {error}\n{said}");
    }
    // Each adapter of a layer has a row of its own.
    let (said, _) = explain(&shipped("fixtures/formats/peft_lora/adapter"), &[]);
    assert_eq!(
        said.lines().filter(|line| line.starts_with(" lora  inmodule")).count(),
        6,
        "{said}"
    );
}

/// The rule that is offered for names which no rule knows is one, and says what is to be filled in.
#[test]
fn a_template_can_be_put_into_place_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (rules, config) = (dir.path().join("rules"), dir.path().join("weightvane.yaml"));
    fs::create_dir(&rules).unwrap();
    fs::write(&config, format!("architectures_dir: {}\n", rules.display())).unwrap();
    let (mut n, mut n_open) = (0, 0);
    for path in saves() {
        let (said, _) = explain(&path, &[]);
        if !said.contains("\narchitecture chain ") {
            continue;
        }
        let (template, _) = explain(&path, &["--rule-template"]);
        fs::write(rules.join("mine.yaml"), &template).unwrap();
        let out = run(&["check-config".as_ref(), config.as_ref()]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{}: {said}\n{template}", path.display());
        assert!(template.contains("\nmatrices: "), "{}:\n{template}", path.display());
        n += 1;
        n_open += usize::from(template.contains("# ? "));
    }
    assert!(n >= 25 && n_open >= 20, "{n} templates, {n_open} with gaps");
    let adapter = shipped("fixtures/formats/peft_lora/adapter");
    let (template, _) = explain(&adapter, &["--rule-template"]);
    assert!(template.contains("need no rule") && template.lines().count() == 1, "{template}");
}
