//! Good saves that are kept from rotation.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::process::{Daemon, FAST, Place};
use super::saves::{copy_save, shipped};

/// Names in a directory, sorted; none where it is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn series() -> PathBuf {
    shipped("it/golden/series/label_shuffle")
}

/// A daemon that pins into a directory.
fn start(place: &Place, pins: &Path) -> Daemon {
    let config = format!("{FAST}pin: hardlink\npin_dir: {}\n", pins.display());
    fs::write(&place.config, config).unwrap();
    place.watch()
}

#[test]
fn the_last_good_save_outlives_rotation() {
    let place = Place::new("");
    let (run, pins) = (place.root.join("run"), place.dir.path().join("pins"));
    let daemon = start(&place, &pins);
    for (n, step) in (1..).zip((500..=1600).step_by(100)) {
        let name = format!("checkpoint-{step}");
        copy_save(&series().join(&name), &run.join(&name));
        fs::write(run.join(&name).join("optimizer.pt"), "moments").unwrap();
        let before = fs::metadata(run.join(&name)).unwrap();
        daemon.wait_analyzed("run", n);
        let home = pins.join("run");
        if step < 1500 {
            let wanted = format!("step-{step}");
            let linked = |_: &Daemon| names(&home.join("newest")).contains(&wanted).then_some(());
            daemon.wait_for("the link", linked);
            let after = fs::metadata(run.join(&name)).unwrap();
            assert_eq!(
                (before.mtime_nsec(), before.ctime_nsec()),
                (after.mtime_nsec(), after.ctime_nsec())
            );
        }
        // Rotation: one save is left.
        if step > 500 {
            fs::remove_dir_all(run.join(format!("checkpoint-{}", step - 100))).unwrap();
        }
    }
    let home = pins.join("run");
    daemon
        .wait_for("the kept save", |_| (names(&home.join("kept")) == ["step-1400"]).then_some(()));
    let good = home.join("kept/step-1400/checkpoint-1400");
    assert_eq!(names(&good), ["model.safetensors", "optimizer.pt", "trainer_state.json"]);
    let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(bytes(&good), bytes(&series().join("checkpoint-1400")));
    assert_eq!(names(&home.join("newest")), ["step-1300"], "nothing after the fault is good");
    let said = daemon.logged("the last good save is kept from rotation");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((&said[0]["step"], said[0]["path"].as_str().is_some()), (&1400.into(), true));
    assert_eq!(daemon.logged("good saves cannot be pinned"), Vec::<serde_json::Value>::new());
    // The saves themselves count once, links or not.
    assert_eq!(daemon.metrics().count("checkpoints_discovered_total", "run"), 12);
}

#[test]
fn the_last_good_save_is_kept_from_where_it_lies_when_saves_have_piled_up() {
    let place = Place::new("");
    let pins = place.dir.path().join("pins");
    let copy = |run: &str, steps: std::ops::Range<u64>| {
        for step in steps.step_by(100) {
            let name = format!("checkpoint-{step}");
            copy_save(&series().join(&name), &place.root.join(run).join(&name));
        }
    };
    copy("a/run", 0..1701);
    copy("well", 0..1301);
    let daemon = start(&place, &pins);
    daemon.wait_analyzed("a/run", 18);
    daemon.wait_analyzed("well", 14);
    let home = pins.join("a%2Frun");
    daemon
        .wait_for("the kept save", |_| (names(&home.join("kept")) == ["step-1400"]).then_some(()));
    assert_eq!(names(&home.join("newest")), Vec::<String>::new(), "none of them is good");
    let well = pins.join("well/newest");
    let both = ["step-1200", "step-1300"];
    daemon.wait_for("the last two", |_| (names(&well) == both).then_some(()));
    assert_eq!(daemon.logged("the last good save cannot be kept"), Vec::<serde_json::Value>::new());
}

#[test]
fn what_cannot_be_pinned_is_told_once() {
    let other = Path::new("/dev/shm");
    let place = Place::new("");
    let dev = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    if dev(other).is_none() || dev(other) == dev(&place.root) {
        super::process::skipped("/dev/shm is no other file system");
        return;
    }
    let pins = tempfile::tempdir_in(other).unwrap();
    let daemon = start(&place, pins.path());
    for (n, step) in (1..).zip([0, 100, 200]) {
        let name = format!("checkpoint-{step}");
        copy_save(&series().join(&name), &place.root.join("run").join(&name));
        fs::write(place.root.join("weights.safetensors"), super::saves::chain(3, 8, n)).unwrap();
        daemon.wait_analyzed("run", n);
        daemon.wait_analyzed("weights", n);
    }
    let mut said = daemon.logged("good saves cannot be pinned");
    said.sort_by_key(|line| line["run"].to_string());
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0]["error"].as_str().unwrap().contains("another file system"), "{said:?}");
    assert!(said[1]["error"].as_str().unwrap().contains("rewritten in place"), "{said:?}");
    assert_eq!(names(&pins.path().join("run/newest")), Vec::<String>::new());
}
