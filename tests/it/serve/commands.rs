//! Commands that end by themselves: what they print and how they fail.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::process::{Daemon, FAST, Place, promtool_accepts, run};
use super::saves::{chain, copy_save, copy_series, shipped};

#[test]
fn the_textfile_of_a_daemon_is_a_clean_exposition() {
    let place = Place::new(FAST);
    copy_series("healthy", &place.root.join("healthy"), 1900);
    let textfile = place.dir.path().join("weightvane.prom");
    let mut command = place.command();
    command.arg("--textfile").arg(&textfile);
    let daemon = Daemon::start(command);
    daemon.wait_analyzed("healthy", 2);
    let text = daemon.wait_for("the textfile", |_| {
        let text = fs::read_to_string(&textfile).unwrap_or_default();
        text.contains("weightvane_checkpoints_analyzed_total{run=\"healthy\"} 2\n").then_some(text)
    });
    assert!(text.contains("weightvane_gram_correlation{run=\"healthy\",layer=\"00\""), "{text}");
    assert!(!text.contains("process_"), "node_exporter has process metrics of its own");
    promtool_accepts(&textfile);
    let live = place.dir.path().join("live.prom");
    fs::write(&live, daemon.metrics().0).unwrap();
    promtool_accepts(&live);
}

#[test]
fn analyze_prints_a_clean_exposition() {
    let dir = tempfile::tempdir().unwrap();
    let save = shipped("it/golden/series/healthy/checkpoint-2000");
    let out = run(&["analyze".as_ref(), "--format".as_ref(), "prometheus".as_ref(), save.as_ref()]);
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("weightvane_gram_correlation{run=\"healthy\",layer=\"02\""), "{text}");
    let (printed, written) = (dir.path().join("printed.prom"), dir.path().join("written.prom"));
    fs::write(&printed, &text).unwrap();
    promtool_accepts(&printed);
    let out = run(&["analyze".as_ref(), save.as_ref(), "--textfile".as_ref(), written.as_ref()]);
    assert!(out.status.success() && out.stdout.is_empty());
    assert_eq!(fs::read_to_string(written).unwrap(), text);
}

#[test]
fn no_checkpoint_is_written_over_by_a_textfile() {
    let dir = tempfile::tempdir().unwrap();
    let (now, before) = (dir.path().join("checkpoint-2000"), dir.path().join("checkpoint-1900"));
    for save in [&now, &before] {
        let name = save.file_name().unwrap();
        copy_save(&shipped("it/golden/series/healthy").join(name), save);
    }
    let link = dir.path().join("link.prom");
    std::os::unix::fs::symlink(before.join("trainer_state.json"), &link).unwrap();
    for file in [now.join("model.safetensors"), now.join("new.prom"), link] {
        let flags = ["analyze", "--textfile", "--against"].map(AsRef::as_ref);
        let args: [&OsStr; 6] =
            [flags[0], now.as_ref(), flags[1], file.as_ref(), flags[2], before.as_ref()];
        fails(&args, 2, &["--textfile", "only read"]);
    }
    let whole = shipped("it/golden/series/healthy/checkpoint-2000/model.safetensors");
    assert!(fs::read(now.join("model.safetensors")).unwrap() == fs::read(whole).unwrap());
    assert!(!now.join("new.prom").exists());
}

/// One line on stderr with all `parts`, nothing on stdout, and this exit code.
pub(super) fn fails(args: &[&OsStr], code: i32, parts: &[&str]) {
    let out = run(args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: {said:?} lacks {part:?}");
    }
    assert!(out.stdout.is_empty(), "{args:?}");
}

#[test]
fn failures_of_analyze_are_one_line_and_a_code() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let analyze = |path: &Path, code: i32, parts: &[&str]| {
        fails(&["analyze".as_ref(), path.as_ref()], code, parts);
    };
    let whole = chain(2, 16, 1);
    fs::write(at("trailing.safetensors"), [whole.as_slice(), b"more"].concat()).unwrap();
    analyze(&at("trailing.safetensors"), 65, &["trailing.safetensors"]);
    analyze(&at("nothing"), 66, &["nothing", "expected"]);
    fs::write(at("short.safetensors"), &whole[..whole.len() - 1]).unwrap();
    analyze(&at("short.safetensors"), 75, &["short.safetensors"]);
    copy_save(&shipped("fixtures/llama"), &at("shards"));
    fs::remove_file(at("shards/model-00002-of-00003.safetensors")).unwrap();
    analyze(&at("shards"), 75, &["model-00002-of-00003.safetensors"]);
    fs::create_dir(at("empty")).unwrap();
    analyze(&at("empty"), 65, &["empty", "expected"]);
}

#[test]
fn wrong_usage_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let (save, config) = (dir.path().join("m.safetensors"), dir.path().join("w.yaml"));
    fs::write(&save, chain(2, 16, 1)).unwrap();
    fs::write(&config, "threads: 1\nquiett: 2s\n").unwrap();
    let place = format!("{}:2", config.display());
    let with_config = ["--config".as_ref(), config.as_os_str()];
    let analyze = ["analyze".as_ref(), save.as_os_str()];
    fails(&[analyze, with_config].concat(), 64, &[&place, "quiett", "expected"]);
    fails(
        &[["watch".as_ref(), dir.path().as_os_str()], with_config].concat(),
        64,
        &[&place, "quiett"],
    );
    fails(&["check-config".as_ref(), config.as_ref()], 64, &[&place, "quiett"]);
    fails(&["watch".as_ref(), dir.path().join("none").as_ref()], 66, &["none", "expected"]);
    fails(&["watch".as_ref()], 2, &["no directory"]);
    fails(&["analyze".as_ref(), "--no-such-flag".as_ref(), save.as_ref()], 2, &["--no-such-flag"]);
    fails(&["analyze".as_ref()], 2, &["CHECKPOINT"]);
}
