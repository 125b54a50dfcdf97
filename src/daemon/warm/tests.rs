use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::linalg::Sketch;

const LIMIT: u64 = 1 << 20;

fn origin(run: &str, step: u64) -> Origin {
    Origin {
        run: run.into(),
        save: format!("{run}/checkpoint-{step}"),
        step: Some(step),
        modified_ns: i64::try_from(step).ok(),
    }
}

/// A baseline whose file is somewhat larger than this many sketches of 16 KiB.
fn baseline(n: usize) -> Baseline {
    Baseline::of_sketches((0..n).map(|i| (format!("m{i}"), Sketch::new(1))))
}

fn keep(warm: &mut Warm, limit: u64, run: &str, step: u64, n: usize) {
    warm.keep(limit, &baseline(n), &origin(run, step), &Options::default());
}

/// Loads what was kept of a run for its save `step`, with `previous` as the save before.
fn load(warm: &Warm, run: &str, step: u64, previous: u64) -> Option<Baseline> {
    let previous = origin(run, previous);
    warm.load(LIMIT, &origin(run, step), Some(&previous), false, &Options::default())
}

fn files(state: &Path) -> Vec<String> {
    let entries = fs::read_dir(state.join(DIR)).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    keep(&mut Warm::open(state.path()), LIMIT, "/r", 100, 2);
    fs::write(state.path().join(DIR).join("x.unfinished"), "half").unwrap();
    let warm = Warm::open(state.path());
    assert_eq!(files(state.path()).len(), 1, "the unfinished file is gone");
    assert_eq!(load(&warm, "/r", 200, 100).unwrap().n_bytes(), baseline(2).n_bytes());
    assert!(load(&warm, "/other", 200, 100).is_none());
}

#[test]
fn only_the_save_before_is_compared_with() {
    let check = |found: &Origin, save: &Origin, previous: Option<&Origin>, in_place, wanted| {
        assert_eq!(usage(found, save, previous, in_place), wanted, "{found:?} for {save:?}");
    };
    let at = |step| origin("/r", step);
    check(&at(100), &at(200), Some(&at(100)), false, Use::Compare);
    check(&at(100), &at(300), Some(&at(200)), false, Use::Start);
    check(&at(100), &at(100), Some(&at(50)), false, Use::Start);
    check(&at(300), &at(200), Some(&at(100)), false, Use::Nothing);
    check(&at(100), &at(200), None, false, Use::Start);
    check(&origin("/q", 100), &at(200), Some(&at(100)), false, Use::Nothing);
    // Another content was written to the same path since.
    let rewritten = Origin { modified_ns: Some(7), ..at(100) };
    check(&rewritten, &at(200), Some(&at(100)), false, Use::Start);
    // Rewritten in place: the content before, but not the very same.
    let now = |modified| Origin { save: "/r".into(), step: None, modified_ns: modified, ..at(1) };
    check(&now(Some(7)), &now(Some(8)), None, true, Use::Compare);
    check(&now(Some(8)), &now(Some(8)), None, true, Use::Start);
    check(&now(Some(9)), &now(Some(8)), None, true, Use::Nothing);
}

#[test]
fn the_same_save_again_is_not_compared_with_itself() {
    let state = tempfile::tempdir().unwrap();
    let mut warm = Warm::open(state.path());
    keep(&mut warm, LIMIT, "/r", 100, 2);
    assert_eq!(load(&warm, "/r", 100, 50).unwrap().n_bytes(), 0);
}

#[test]
fn the_size_is_bounded_and_the_oldest_goes_first() {
    let state = tempfile::tempdir().unwrap();
    let mut warm = Warm::open(state.path());
    let size =
        |n| baseline(n).to_bytes(&origin("/a", 1), &Options::default()).unwrap().len() as u64;
    let limit = 3 * size(2) + 100;
    for (age, run) in [(30, "/a"), (10, "/b"), (20, "/c")] {
        keep(&mut warm, limit, run, 1, 2);
        let file = File::open(warm.path(run)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age)).unwrap();
    }
    assert_eq!(files(state.path()).len(), 3);
    // In the place of its own file it needs no room of others.
    keep(&mut warm, limit, "/a", 2, 2);
    assert_eq!(files(state.path()).len(), 3);
    keep(&mut warm, limit, "/d", 1, 2);
    let has = |run| warm.path(run).exists();
    assert_eq!(["/a", "/b", "/c", "/d"].map(has), [true, false, true, true]);
    // What is too large for all of the room is not kept, nor is its outdated file.
    let mut warm = Warm::open(state.path());
    keep(&mut warm, limit, "/a", 3, 9);
    let has = |run| warm.path(run).exists();
    assert_eq!(["/a", "/c", "/d"].map(has), [false, true, true]);
    assert!(!warm.failing);
}

#[test]
fn what_cannot_be_used_is_removed_and_the_search_begins_anew() {
    let state = tempfile::tempdir().unwrap();
    let mut warm = Warm::open(state.path());
    keep(&mut warm, LIMIT, "/r", 100, 1);
    let path = warm.path("/r");
    let whole = fs::read(&path).unwrap();
    let too_long = vec![0; usize::try_from(LIMIT).unwrap() + 1];
    for bytes in [&b"not ours"[..], &whole[..whole.len() - 1], &too_long] {
        fs::write(&path, bytes).unwrap();
        assert!(load(&warm, "/r", 200, 100).is_none());
        assert!(!path.exists());
    }
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(load(&warm, "/r", 200, 100).is_none());
    assert!(fs::symlink_metadata(&path).is_err());
}

#[test]
fn a_disk_that_refuses_costs_the_start_only() {
    let state = tempfile::tempdir().unwrap();
    fs::write(state.path().join(DIR), "no directory").unwrap();
    let mut warm = Warm::open(state.path());
    keep(&mut warm, LIMIT, "/r", 100, 1);
    assert!(warm.failing);
    fs::remove_file(state.path().join(DIR)).unwrap();
    keep(&mut warm, LIMIT, "/r", 100, 1);
    assert!(!warm.failing && load(&warm, "/r", 200, 100).is_some());
    let mode = fs::metadata(warm.path("/r")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "weights' subspaces are nobody else's");
}
