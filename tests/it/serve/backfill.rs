//! The past as OpenMetrics, through the program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{Daemon, FAST, PROGRAM, Place, run};
use super::saves::{chain, copy_save, shipped, write_save};

/// The first save of these tests, long ago.
const START: u64 = 1_760_000_000;

/// Time between two saves, seconds.
const INTERVAL: u64 = 600;

const DAY: u64 = 86_400;

/// Sets the time of all files of a save.
fn stamp(save: &Path, seconds: u64) {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    for entry in fs::read_dir(save).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(time).unwrap();
    }
}

fn golden(step: u64) -> PathBuf {
    shipped("it/golden/series/healthy").join(format!("checkpoint-{step}"))
}

/// The first `n` saves of the golden series in the run `run`, ten minutes apart.
fn past_run(root: &Path, n: u64) {
    for i in 0..n {
        let to = root.join(format!("run/checkpoint-{}", 100 * i));
        copy_save(&golden(100 * i), &to);
        stamp(&to, START + INTERVAL * i);
    }
}

/// Later than any file written now.
fn in_an_hour() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now.as_secs() + 3600).to_string()
}

/// Exit code, stdout and stderr of `backfill`.
fn backfill(args: &[&OsStr]) -> (i32, String, String) {
    let out = run(&[&["backfill".as_ref()], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

/// Seconds since `START` and value of the samples of one series, named by the start of its line.
fn samples(text: &str, series: &str) -> Vec<(f64, f64)> {
    let lines = text.lines().filter(|line| line.starts_with(series));
    let sample = |line: &str| {
        let mut end =
            line.rsplit_once("} ").unwrap().1.split(' ').map(|n| n.parse::<f64>().unwrap());
        let (value, time) = (end.next().unwrap(), end.next().unwrap());
        (time - f64::from(u32::try_from(START).unwrap()), value)
    };
    lines.map(sample).collect()
}

fn steps(text: &str) -> Vec<(f64, f64)> {
    let mut steps = samples(text, "weightvane_checkpoint_analyzed_step{run=\"run\",");
    steps.dedup_by_key(|(_, step)| *step);
    steps
}

#[test]
fn every_save_is_told_of_at_its_own_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    past_run(&root, 4);
    let (code, text, said) = backfill(&[root.as_ref()]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(steps(&text), [(0.0, 0.0), (600.0, 100.0), (1200.0, 200.0), (1800.0, 300.0)]);
    // Each holds until the next, the last for one usual interval.
    let times: Vec<f64> = samples(&text, "weightvane_run_active{").iter().map(|s| s.0).collect();
    let wanted = [0, 240, 480, 600, 840, 1080, 1200, 1440, 1680, 1800, 2040, 2280];
    assert_eq!(times, wanted.map(f64::from));
    // The numbers are those of `analyze`.
    for (i, step) in [(0.0, 0), (1800.0, 300)] {
        let out =
            run(&["analyze".as_ref(), golden(step).as_ref(), "--format".as_ref(), "json".as_ref()]);
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        for layer in 0..3 {
            let series = format!(
                "weightvane_gram_correlation{{run=\"run\",layer=\"0{layer}\",pair=\"chain\""
            );
            let found = samples(&text, &series);
            let wanted = report["pairs"][layer]["gram_correlation"].as_f64().unwrap();
            let value = found.iter().find(|(time, _)| (time - i).abs() < 0.5).unwrap().1;
            assert!((value - wanted).abs() < 1e-9, "step {step}, layer {layer}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
    let labels = "instance=\"127.0.0.1:10717\",job=\"weightvane\"} ";
    assert!(text.lines().all(|line| line.starts_with("# ") || line.contains(labels)));
    // A file holds the same, and nothing is left beside it.
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("past.om");
    let (code, printed, _) = backfill(&[root.as_ref(), "--output".as_ref(), file.as_ref()]);
    assert_eq!((code, printed.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_run_without_a_save_becomes_inactive_and_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    past_run(&root, 2);
    stamp(&root.join("run/checkpoint-100"), START + 3 * DAY);
    let (code, text, _) = backfill(&[root.as_ref()]);
    assert_eq!(code, 0);
    let active = samples(&text, "weightvane_run_active{");
    let lasts = |from: u64, to: u64| {
        let (from, to) =
            (Duration::from_secs(from).as_secs_f64(), Duration::from_secs(to).as_secs_f64());
        let some: Vec<_> = active.iter().filter(|(at, _)| (from..to).contains(at)).collect();
        (some.len(), some.iter().map(|(_, active)| *active).sum::<f64>().round())
    };
    assert_eq!(lasts(0, DAY), (360, 360.0));
    assert_eq!(lasts(DAY, 2 * DAY), (360, 0.0));
    assert_eq!(lasts(2 * DAY, 3 * DAY), (0, 0.0));
    assert_eq!(lasts(3 * DAY, 4 * DAY), (360, 360.0), "and with the next save it is back");
}

#[test]
fn what_cannot_be_told_is_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    past_run(&root, 4);
    let cut = root.join("run/checkpoint-100");
    let weights = fs::read(cut.join("model.safetensors")).unwrap();
    fs::write(cut.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    stamp(&cut, START + INTERVAL);
    let (code, text, said) = backfill(&[root.as_ref()]);
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(
        said.contains("1 of 4 saves not measured") && said.contains("checkpoint-100"),
        "{said}"
    );
    // What came before holds on.
    assert_eq!(steps(&text), [(0.0, 0.0), (1200.0, 200.0), (1800.0, 300.0)]);
    let end = (START + 1799).to_string();
    let (code, text, said) = backfill(&[root.as_ref(), "--until".as_ref(), end.as_ref()]);
    assert_eq!((code, said.lines().count()), (0, 2), "{said}");
    assert!(said.contains("1 save is newer than 2025-10-09T"), "{said}");
    let times = samples(&text, "weightvane_run_active{");
    assert!(times.iter().all(|(time, _)| *time <= 1799.0), "{times:?}");
    assert!(times.last().unwrap().0 > 1679.0, "until then: {times:?}");
    // Two of one time.
    stamp(&root.join("run/checkpoint-200"), START + 3 * INTERVAL);
    let (code, text, said) = backfill(&[root.as_ref(), "--job".as_ref(), "j\"".as_ref()]);
    assert!(said.contains("1 save is not newer than one of an earlier step"), "{said}");
    assert_eq!((code, steps(&text).len()), (0, 2));
    assert!(text.contains(",job=\"j\\\"\"} "), "{text}");
}

#[test]
fn what_is_no_file_is_written_to_and_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    past_run(&root, 2);
    let (code, text, _) = backfill(&[root.as_ref(), "--output".as_ref(), "-".as_ref()]);
    assert!(code == 0 && text.ends_with("# EOF\n"));
    let (null, link) = (Path::new("/dev/null"), dir.path().join("link"));
    std::os::unix::fs::symlink(null, &link).unwrap();
    for output in [null, &link] {
        let (code, _, said) = backfill(&[root.as_ref(), "--output".as_ref(), output.as_ref()]);
        assert_eq!(code, 0, "{said}");
    }
    assert!(link.is_symlink() && !null.metadata().unwrap().is_file());
    // A link to a file is followed.
    let file = dir.path().join("past.om");
    fs::write(&file, "old").unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert_eq!(backfill(&[root.as_ref(), "--output".as_ref(), link.as_ref()]).0, 0);
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn failures_are_one_line_and_a_code() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    past_run(&root, 1);
    let at = |name: &str| dir.path().join(name);
    for (name, bytes) in
        [("bad", b"\xff\xff\xff\xff\xff\xff\xff\x7fxx".to_vec()), ("short", chain(1, 8, 1))]
    {
        let save = at(name).join("run/checkpoint-1");
        write_save(&save, &bytes[..bytes.len() - 1]);
        stamp(&save, START);
    }
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir_all(at("new")).unwrap();
    copy_save(&golden(0), &at("new/run/checkpoint-1"));
    let below = root.join("past.om");
    let (root, below, none) = (root.as_os_str(), below.as_os_str(), at("none"));
    let check = |args: &[&OsStr], code: i32, part: &str| {
        let (found, text, said) = backfill(args);
        assert_eq!((found, said.lines().count()), (code, 1), "{args:?}: {said}");
        assert!(said.contains(part) && text.is_empty(), "{args:?}: {said}");
    };
    check(&[none.as_ref()], 66, "none");
    check(&[at("empty").as_ref()], 66, "no save");
    check(&[at("bad").as_ref()], 65, "checkpoint-1");
    check(&[at("short").as_ref()], 75, "checkpoint-1");
    check(&[at("new").as_ref()], 75, "all 1 saves are newer than");
    check(&[root, "--output".as_ref(), below], 2, "lies below");
    check(&[root, "--until".as_ref(), "noon".as_ref()], 2, "noon");
    check(&[root, "--state-dir".as_ref(), none.as_ref()], 66, "history.sqlite");
    check(&[root, "--output".as_ref(), none.join("past.om").as_ref()], 71, "past.om");
    let (code, _, _) = backfill(&[at("new").as_ref(), "--until".as_ref(), in_an_hour().as_ref()]);
    assert_eq!(code, 0);
}

/// A daemon on the root with a state directory that has recorded `n` saves.
fn recorded(place: &Place, state: &Path, n: usize) -> Daemon {
    let mut command = place.command();
    command.arg("--state-dir").arg(state);
    let daemon = Daemon::start(command);
    wait_recorded(&daemon, state, n);
    daemon
}

fn wait_recorded(daemon: &Daemon, state: &Path, n: usize) {
    daemon.wait_for("the history", |_| {
        let out = run(&["history".as_ref(), state.as_ref(), "saves".as_ref()]);
        (String::from_utf8(out.stdout).unwrap().lines().count() == n + 1).then_some(())
    });
}

/// All but rotations: a daemon that starts measures the newest save first, and compares what lies
/// behind it with files and not with subspaces in f32, which differs in the seventh digit.
fn in_order(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("rotation_ratio{")).collect()
}

#[test]
fn the_history_gives_the_same_numbers_and_what_rotation_deleted() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    past_run(&place.root, 14);
    let args: [&OsStr; 3] = [place.root.as_ref(), "--config".as_ref(), place.config.as_ref()];
    let with: Vec<&OsStr> = [args.as_slice(), &["--state-dir".as_ref(), state.as_ref()]].concat();
    let measured = backfill(&args);
    let daemon = recorded(&place, &state, 14);
    let (code, text, said) = backfill(&with);
    assert_eq!((code, said.as_str()), (0, ""), "also while the daemon runs");
    assert_eq!(in_order(&text), in_order(&measured.1));
    let recorded = text;
    daemon.signal(Signal::TERM);
    daemon.end();
    // The weights are not looked at.
    let weights = place.root.join("run/checkpoint-500/model.safetensors");
    let zeros = vec![0; fs::read(&weights).unwrap().len()];
    fs::write(&weights, zeros).unwrap();
    stamp(weights.parent().unwrap(), START + 5 * INTERVAL);
    assert_eq!(backfill(&with).1, recorded);
    // What is gone is told of; only its first change was never recorded.
    for step in [0, 300, 1300] {
        fs::remove_dir_all(place.root.join(format!("run/checkpoint-{step}"))).unwrap();
    }
    let without_duration = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("checkpoint_save_duration_seconds"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (code, text, said) = backfill(&with);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(without_duration(&text), without_duration(&recorded));
    fs::remove_dir_all(place.root.join("run")).unwrap();
    assert_eq!(without_duration(&backfill(&with).1), without_duration(&recorded));
    // Of saves whose details were given up there are summaries.
    let database = rusqlite::Connection::open(state.join("history.sqlite")).unwrap();
    for table in ["matrices", "pairs", "overlaps", "rotations"] {
        let old = "(SELECT id FROM saves WHERE place < 500)";
        database.execute(&format!("DELETE FROM {table} WHERE save IN {old}"), []).unwrap();
    }
    database.execute("UPDATE saves SET has_details = 0 WHERE place < 500", []).unwrap();
    let (code, text, _) = backfill(&with);
    assert_eq!(code, 0);
    for name in ["alignment_mean", "alignment_best", "train_loss", "nonfinite_weights"] {
        let series = format!("weightvane_{name}{{");
        assert_eq!(samples(&text, &series), samples(&measured.1, &series), "{name}");
    }
    let layer = "weightvane_gram_correlation{run=\"run\",layer=\"00\"";
    let (some, all) = (samples(&text, layer), samples(&measured.1, layer));
    assert_eq!(some, all.into_iter().filter(|(at, _)| *at >= 3000.0).collect::<Vec<_>>());
}

#[test]
fn the_history_knows_when_training_went_back() {
    let place = Place::new(FAST);
    let state = place.dir.path().join("state");
    let add = |step: u64, name: u64| {
        copy_save(&golden(step), &place.root.join(format!("run/checkpoint-{name}")));
    };
    add(100, 100);
    let daemon = recorded(&place, &state, 1);
    add(200, 200);
    wait_recorded(&daemon, &state, 2);
    add(300, 300);
    wait_recorded(&daemon, &state, 3);
    let until = in_an_hour();
    let args: [&OsStr; 3] = [place.root.as_ref(), "--until".as_ref(), until.as_ref()];
    let with: Vec<&OsStr> = [args.as_slice(), &["--state-dir".as_ref(), state.as_ref()]].concat();
    assert_eq!(backfill(&with), backfill(&args), "measured one after the other, to the byte");
    add(1000, 150);
    wait_recorded(&daemon, &state, 4);
    let order = |text: &str| steps(text).into_iter().map(|(_, step)| step).collect::<Vec<_>>();
    let (code, text, said) = backfill(&with);
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(order(&text), [100.0, 200.0, 300.0, 150.0]);
    let (code, text, said) = backfill(&args);
    assert!(code == 0 && said.contains("1 save is not newer than one of an earlier"), "{said}");
    assert_eq!(order(&text), [100.0, 200.0, 300.0]);
}

#[test]
fn ctrl_c_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("runs");
    for i in 0..40 {
        let save = root.join(format!("run/checkpoint-{i}"));
        write_save(&save, &chain(3, 256, i));
        stamp(&save, START + INTERVAL * i);
    }
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("backfill").arg(&root).arg("--output").arg(out.join("past.om"));
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    // From the moment on at which it catches the signal.
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught: BTreeMap<_, _> = status.lines().filter_map(|l| l.split_once(":\t")).collect();
        u64::from_str_radix(caught["SigCgt"], 16).unwrap() & 2 != 0
    };
    while !catches() {
        assert!(started.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(75), "{said}");
    assert_eq!(said, "weightvane: interrupted, nothing is written\n");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}
