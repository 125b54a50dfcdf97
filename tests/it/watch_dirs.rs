//! Scans and events on real directories, in the layouts that savers leave.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod layouts;
mod shards;

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use weightvane::watch::{
    FileEvent, FileKind, ScanError, ScanLimits, ScanOutcome, SettleRules, Settler, WatchMode,
    Watcher, network_file_system, scan,
};

/// Makes files (and directories for names that end in `/`) in a new root called `root`.
fn tree(paths: &[&str]) -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    fs::create_dir(&root).unwrap();
    for path in paths {
        add(&root, path);
    }
    (temp, root)
}

fn add(root: &Path, path: &str) {
    let full = root.join(path);
    if path.ends_with('/') {
        fs::create_dir_all(full).unwrap();
    } else {
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, path).unwrap();
    }
}

fn look(root: &Path) -> ScanOutcome {
    scan(root, &ScanLimits::default())
}

/// One line per save: run, step, path below the root, marks, files without their common parts.
fn lines(root: &Path, outcome: &ScanOutcome) -> Vec<String> {
    let line = |save: &weightvane::watch::FoundSave| {
        let path = save.path.strip_prefix(root).unwrap_or(&save.path).display().to_string();
        let step = save.step.map_or("-".to_owned(), |step| step.to_string());
        let files: Vec<_> = save.files.iter().map(|file| file.name.as_str()).collect();
        let marks = match (save.in_place, save.is_pending()) {
            (true, _) => " in-place",
            (_, true) => " pending",
            _ => "",
        };
        format!("{} {step} {path}{marks} [{}]", save.run, files.join(" "))
    };
    outcome.saves.iter().map(line).collect()
}

fn check(paths: &[&str], expected: &[&str]) {
    let (_temp, root) = tree(paths);
    let outcome = look(&root);
    assert!(outcome.errors.is_empty() && !outcome.truncated, "{:?}", outcome.errors);
    assert_eq!(lines(&root, &outcome), expected, "from {paths:?}");
}

#[test]
fn step_directories_belong_to_the_run_around_them() {
    check(
        &[
            "a/checkpoint-10/model.safetensors",
            "a/checkpoint-10/config.json",
            "a/checkpoint-10/trainer_state.json",
            "a/checkpoint-10/optimizer.pt",
            "a/checkpoint-10/training_args.bin",
            "a/checkpoint-10/global_step10/mp_rank_00_model_states.pt",
            "a/checkpoint-9/model-00001-of-00002.safetensors",
            "a/checkpoint-9/model.safetensors.index.json",
            "b/c/step-500/model.safetensors",
            "b/c/step-500/sharded/shard-00001-model-00001-of-00001.safetensors",
            "d/iter_0000100/model.safetensors",
            "d/epoch=3-step=1000/model.safetensors",
            "d/global_step7/model.safetensors",
        ],
        &[
            "a 9 a/checkpoint-9 [model-00001-of-00002.safetensors model.safetensors.index.json]",
            "a 10 a/checkpoint-10 [config.json model.safetensors trainer_state.json \
             global_step10/mp_rank_00_model_states.pt]",
            "b/c 500 b/c/step-500 [model.safetensors]",
            "d 7 d/global_step7 [model.safetensors]",
            "d 100 d/iter_0000100 [model.safetensors]",
            "d 1000 d/epoch=3-step=1000 [model.safetensors]",
        ],
    );
}

#[test]
fn saves_to_come_are_shown_and_foreign_formats_are_not() {
    check(
        &[
            "checkpoint-1/",
            "checkpoint-2/config.json",
            "checkpoint-3/pytorch_model.msgpack",
            "checkpoint-4/optimizer.pt",
            "checkpoint-5/rng_state.pth",
            "checkpoint-6/unet/diffusion_pytorch_model.safetensors",
            "checkpoint-7/.metadata",
            "step-8/sharded/model-00001-of-00002.safetensors",
        ],
        &[
            "root 1 checkpoint-1 pending []",
            "root 2 checkpoint-2 pending [config.json]",
            "root 8 step-8 pending []",
        ],
    );
}

#[test]
fn directories_without_a_step_are_rewritten_in_place() {
    check(
        &[
            "whole/model.safetensors",
            "whole/config.json",
            "parts/model-00001-of-00002.safetensors",
            "parts/model-00002-of-00002.safetensors",
            "parts/model.safetensors.index.json",
            "run/model.safetensors",
            "run/checkpoint-5/model.safetensors",
            "step-5-merged/model.safetensors",
        ],
        &[
            "parts - parts in-place [model-00001-of-00002.safetensors \
             model-00002-of-00002.safetensors model.safetensors.index.json]",
            "run - run in-place [model.safetensors]",
            "run 5 run/checkpoint-5 [model.safetensors]",
            "step-5-merged - step-5-merged in-place [model.safetensors]",
            "whole - whole in-place [model.safetensors config.json]",
        ],
    );
}

#[test]
fn plain_files_are_saves_of_their_directory_or_of_their_own_stem() {
    check(
        &[
            "model-1000.safetensors",
            "step_500.safetensors",
            "epoch=3-step=1500.safetensors",
            "ema-1000.safetensors",
            "best.safetensors",
            "model.safetensors",
            "adapter_model.safetensors",
            "optimizer-1000.safetensors",
            "config.json",
        ],
        &[
            "best - best.safetensors in-place [best.safetensors config.json]",
            "ema 1000 ema-1000.safetensors [ema-1000.safetensors config.json]",
            "root -  in-place [adapter_model.safetensors model.safetensors config.json]",
            "root 500 step_500.safetensors [step_500.safetensors config.json]",
            "root 1000 model-1000.safetensors [model-1000.safetensors config.json]",
            "root 1500 epoch=3-step=1500.safetensors [epoch=3-step=1500.safetensors config.json]",
        ],
    );
}

#[test]
fn unfinished_and_hidden_names_are_passed_over() {
    check(
        &[
            "tmp-checkpoint-5/model.safetensors",
            "step5-tmp/model.safetensors",
            "7.orbax-checkpoint-tmp/model.safetensors",
            "step-8/model.safetensors",
            "step-8-unfinished",
            "model-9.safetensors",
            "model-9-unfinished",
            ".cache/step-1/model.safetensors",
            ".tmpAb12Cd",
            "model-4.safetensors.tmp",
            "model-4.safetensors.incomplete",
            "iter_4_0_local.dirty.pt",
            "checkpoint-6/model.safetensors.tmp",
        ],
        &["root 6 checkpoint-6 pending []"],
    );
}

#[test]
fn the_root_may_be_a_run_a_save_a_link_or_missing() {
    let (temp, root) = tree(&["checkpoint-5/model.safetensors"]);
    let own = look(&root.join("checkpoint-5"));
    assert_eq!((own.saves[0].run.as_str(), own.saves[0].step), ("root", Some(5)));
    assert_eq!(own.saves[0].run_path, fs::canonicalize(&root).unwrap());
    let link = temp.path().join("link");
    symlink(&root, &link).unwrap();
    let by_link = look(&link);
    assert_eq!(lines(&link, &by_link), ["root 5 checkpoint-5 [model.safetensors]"]);
    assert!(by_link.saves[0].path.starts_with(&link), "paths are told as the root was given");
    let missing = look(&temp.path().join("none"));
    assert!(matches!(missing.errors.as_slice(), [ScanError::Directory { .. }]));
}

#[test]
fn links_are_counted_once_and_not_followed_out_of_the_root() {
    let (temp, root) = tree(&["model-5.safetensors", "runs/step-1/config.json", "blobs/abc"]);
    fs::hard_link(root.join("model-5.safetensors"), root.join("best.safetensors")).unwrap();
    symlink("model-5.safetensors", root.join("last.safetensors")).unwrap();
    symlink("gone.safetensors", root.join("model-6.safetensors")).unwrap();
    symlink("runs", root.join("again")).unwrap();
    symlink("../../blobs/abc", root.join("runs/step-1/model.safetensors")).unwrap();
    let outcome = look(&root);
    let expected = [
        "root 5 model-5.safetensors [model-5.safetensors]",
        "runs 1 runs/step-1 [config.json model.safetensors]",
    ];
    assert_eq!(lines(&root, &outcome), expected);
    assert_eq!(outcome.saves[0].files[0].nlink, 2);
    assert!(outcome.errors.is_empty());

    fs::write(temp.path().join("secret"), "x").unwrap();
    symlink("../secret", root.join("model-7.safetensors")).unwrap();
    let outcome = look(&root);
    assert!(matches!(outcome.errors.as_slice(), [ScanError::LinkOutside { .. }]));
    assert_eq!(outcome.saves.len(), 2);
}

#[test]
fn what_is_no_regular_file_is_passed_over() {
    let (_temp, root) = tree(&["step-1/model.safetensors/", "step-2/model.safetensors"]);
    let fifo = root.join("step-2/model-2.safetensors");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("model-3.safetensors")).unwrap();
    symlink("/dev/zero", root.join("model-4.safetensors")).unwrap();
    let outcome = look(&root);
    assert_eq!(lines(&root, &outcome), ["root 2 step-2 [model.safetensors]"]);
}

#[test]
fn odd_names_are_spelled_out() {
    let (_temp, root) = tree(&[]);
    for name in [&b"a\xff"[..], b"a\xfe", b"line\nbreak"] {
        let directory = root.join(std::ffi::OsStr::from_bytes(name)).join("step-1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("model.safetensors"), "x").unwrap();
    }
    let outcome = look(&root);
    let runs: Vec<_> = outcome.saves.iter().map(|save| save.run.as_str()).collect();
    assert_eq!(runs, ["a\\xfe", "a\\xff", "line\\nbreak"]);
    assert!(outcome.saves.iter().all(|save| save.path.is_dir()), "paths stay usable");
}

#[test]
fn depth_and_number_of_entries_are_bounded() {
    let (_temp, root) =
        tree(&["a/b/step-1/model.safetensors", "a/step-2/model.safetensors", "x-1.safetensors"]);
    let shallow = scan(&root, &ScanLimits { max_depth: 2, ..ScanLimits::default() });
    let steps: Vec<_> = shallow.saves.iter().map(|save| save.step).collect();
    assert_eq!((steps, shallow.truncated), (vec![Some(2), Some(1)], false));
    let short = scan(&root, &ScanLimits { max_entries: 3, ..ScanLimits::default() });
    assert!(short.truncated && short.saves.len() < 3);
}

#[test]
fn stamps_tell_what_stat_tells() {
    let (_temp, root) = tree(&["step-1/model.safetensors"]);
    let path = root.join("step-1/model.safetensors");
    let far = SystemTime::UNIX_EPOCH + Duration::new(2_500_000_000, 7);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(far))
        .unwrap();
    let save = look(&root).saves.remove(0);
    let stamp = save.file(FileKind::Weights).unwrap();
    assert_eq!(stamp.mtime_ns, 2_500_000_000_000_000_007);
    assert_eq!((stamp.size, save.n_bytes()), (24, 24));
}

#[test]
fn the_reference_series_are_three_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/series");
    let outcome = look(&root);
    let mut runs: Vec<_> = outcome.saves.iter().map(|save| save.run.as_str()).collect();
    runs.dedup();
    assert_eq!(runs, ["healthy", "label_shuffle", "nan"]);
    let healthy = outcome.saves.iter().filter(|save| save.run == "healthy");
    let steps: Vec<_> = healthy.filter_map(|save| save.step).collect();
    assert_eq!(steps, (0..=2000).step_by(100).collect::<Vec<u64>>());
}

/// Watcher, scan and settler driven as a daemon does.
struct Daemon {
    root: PathBuf,
    watcher: Watcher,
    settler: Settler,
    start: Instant,
    hints: Vec<FileEvent>,
}

impl Daemon {
    fn new(root: &Path) -> Self {
        let quiet = Duration::from_millis(300);
        let rules = SettleRules { quiet, settle: Duration::from_secs(40), ..SettleRules::local() };
        let watcher = Watcher::new(root, &ScanLimits::default());
        assert_eq!(*watcher.mode(), WatchMode::Events);
        let (root, settler) = (root.to_owned(), Settler::new(rules));
        Self { root, watcher, settler, start: Instant::now(), hints: Vec::new() }
    }

    /// Path and version of the next `enough` saves, or of fewer after 20 s.
    fn settled(&mut self, enough: usize) -> Vec<(PathBuf, u32)> {
        let mut settled = Vec::new();
        let give_up = self.start.elapsed() + Duration::from_secs(20);
        loop {
            let outcome = look(&self.root);
            let now = self.start.elapsed();
            self.settler.observe(now, &outcome, &self.hints);
            let ready = self.settler.take_settled(now);
            settled.extend(ready.into_iter().map(|save| (save.path, save.version)));
            if settled.len() >= enough || now > give_up {
                return settled;
            }
            let until = self.settler.next_deadline().unwrap_or(now + Duration::from_secs(5));
            self.hints = self.watcher.wait(until.saturating_sub(now));
        }
    }
}

#[test]
fn files_written_right_after_mkdir_are_not_lost() {
    let (_temp, root) = tree(&[]);
    let mut daemon = Daemon::new(&root);
    let writer = std::thread::spawn({
        let root = root.clone();
        move || {
            for step in 0..50 {
                add(&root, &format!("run/step-{step}/model.safetensors"));
                add(&root, &format!("run/step-{step}/config.json"));
            }
            // The last one has no later step to complete it, and its close may go unseen.
            add(&root, "run/step-49/trainer_state.json");
        }
    });
    let mut settled = daemon.settled(50);
    writer.join().unwrap();
    settled.sort();
    let steps = (0..50).map(|step| (root.join(format!("run/step-{step}")), 1));
    let mut expected: Vec<_> = steps.collect();
    expected.sort();
    assert_eq!(settled, expected);
}

#[test]
fn a_rename_settles_soon_and_a_rewrite_is_a_second_version() {
    let (_temp, root) = tree(&[".tmpAb12Cd"]);
    let last = root.join("ema.safetensors");
    let mut daemon = Daemon::new(&root);
    fs::rename(root.join(".tmpAb12Cd"), &last).unwrap();
    assert_eq!(daemon.settled(1), [(last.clone(), 1)]);
    fs::write(&last, "again").unwrap();
    assert_eq!(daemon.settled(1), [(last, 2)]);
}

#[test]
fn marks_beside_a_save_are_heard() {
    let (_temp, root) = tree(&["pl/epoch=0-step=1-unfinished", "ds/global_step1/"]);
    let mut daemon = Daemon::new(&root);
    add(&root, "pl/epoch=0-step=1.ckpt");
    fs::remove_file(root.join("pl/epoch=0-step=1-unfinished")).unwrap();
    assert_eq!(daemon.settled(1), [(root.join("pl/epoch=0-step=1.ckpt"), 1)]);
    add(&root, "ds/global_step1/mp_rank_00_model_states.pt");
    std::thread::sleep(Duration::from_millis(20));
    fs::write(root.join("ds/latest"), "global_step1").unwrap();
    assert_eq!(daemon.settled(1), [(root.join("ds/global_step1"), 1)]);
    assert!(daemon.start.elapsed() < Duration::from_secs(20), "neither waited for 40 s");
}

/// All hints until `last` is among them.
fn hints_until(watcher: &mut Watcher, last: &FileEvent) -> Vec<FileEvent> {
    let (start, mut hints) = (Instant::now(), Vec::new());
    while !hints.contains(last) && start.elapsed() < Duration::from_secs(10) {
        hints.extend(watcher.wait(Duration::from_secs(1)));
    }
    hints
}

#[test]
fn hints_name_what_was_closed_moved_or_removed_and_not_what_we_read() {
    let (temp, root) = tree(&["run/model.safetensors", "run/config.json"]);
    // Hints are told below the root as it was given, be it a link.
    let link = temp.path().join("link");
    symlink(&root, &link).unwrap();
    let mut watcher = Watcher::new(&link, &ScanLimits::default());
    let model = link.join("run/model.safetensors");
    fs::read(&model).unwrap();
    look(&link);
    add(&root, "run/train.log");
    OpenOptions::new().append(true).open(&model).unwrap().write_all(b"x").unwrap();
    let expected = [FileEvent::Touched(model.clone()), FileEvent::Closed(model.clone())];
    assert_eq!(hints_until(&mut watcher, &expected[1]), expected);

    // A directory renamed into view is watched under its new name.
    fs::rename(root.join("run"), root.join("step-1")).unwrap();
    let moved = FileEvent::Closed(link.join("step-1"));
    assert!(hints_until(&mut watcher, &moved).contains(&FileEvent::Removed(link.join("run"))));
    fs::remove_file(root.join("step-1/model.safetensors")).unwrap();
    let removed = FileEvent::Removed(link.join("step-1/model.safetensors"));
    assert!(hints_until(&mut watcher, &removed).contains(&removed));
}

#[test]
fn a_root_that_comes_late_or_goes_and_returns_is_watched() {
    let (_temp, root) = tree(&[]);
    let inner = root.join("runs");
    let mut watcher = Watcher::new(&inner, &ScanLimits::default());
    assert!(matches!(watcher.mode(), WatchMode::Polling { .. }));
    let model = inner.join("model.safetensors");
    for _ in 0..2 {
        fs::create_dir(&inner).unwrap();
        watcher.wait(Duration::from_millis(1));
        assert_eq!(*watcher.mode(), WatchMode::Events);
        fs::write(&model, "x").unwrap();
        let closed = FileEvent::Closed(model.clone());
        assert!(hints_until(&mut watcher, &closed).contains(&closed));
        fs::remove_dir_all(&inner).unwrap();
        hints_until(&mut watcher, &FileEvent::Rescan);
        assert!(matches!(watcher.mode(), WatchMode::Polling { .. }));
    }
}

#[test]
fn local_file_systems_are_not_network_file_systems() {
    assert_eq!(network_file_system(Path::new("/proc")), None);
    assert_eq!(network_file_system(Path::new("/none/such")), None);
}
