//! Saves as tables of times and states.

mod copies;
mod signs;

use proptest::prelude::*;

use super::*;
use crate::watch::names;
use crate::watch::save::FileStamp;

const DIRECTORY: &str = "/w/run/step-5";

/// One observation: time in ms, what the scan finds, the hints before it.
type Moment = (u64, Vec<FoundSave>, Vec<FileEvent>);

/// Plays the moments and compares what is handed out: time in ms, path, version.
fn check(moments: &[Moment], expected: &[(u64, &str, u32)]) -> Settler {
    check_with(SettleRules::default(), moments, expected)
}

fn check_with(rules: SettleRules, moments: &[Moment], expected: &[(u64, &str, u32)]) -> Settler {
    let mut settler = Settler::new(rules);
    let mut handed = Vec::new();
    let mut latest = Duration::ZERO;
    for (at, saves, hints) in moments {
        let now = Duration::from_millis(*at);
        latest = latest.max(now);
        settler.observe(now, &found(saves), hints);
        for save in settler.take_settled(now) {
            assert_eq!(save.supersedes, save.version > 1);
            handed.push((*at, save.path.display().to_string(), save.version));
        }
        let deadline = settler.next_deadline();
        assert!(deadline.is_none_or(|due| due > latest), "{deadline:?} at {at} ms would spin");
    }
    let handed: Vec<_> = handed.iter().map(|(at, path, n)| (*at, path.as_str(), *n)).collect();
    assert_eq!(handed, expected);
    settler
}

fn found(saves: &[FoundSave]) -> ScanOutcome {
    ScanOutcome { saves: saves.to_vec(), ..ScanOutcome::default() }
}

/// A file whose inode follows from its name and whose mtime is given.
fn file(name: &str, size: u64, mtime_ns: i64) -> FileStamp {
    let kind = names::kind_of(name.rsplit('/').next().unwrap()).unwrap();
    let ino = name.bytes().fold(7, |ino, byte| ino * 31 % 1_000_003 + u64::from(byte));
    FileStamp {
        name: name.to_owned(),
        kind,
        dev: 1,
        ino,
        size,
        mtime_ns,
        ctime_ns: mtime_ns,
        nlink: 1,
    }
}

fn save(path: &str, files: &[FileStamp]) -> FoundSave {
    let path = PathBuf::from(path);
    let run_path = path.parent().unwrap().to_owned();
    let name = names::escape(path.file_name().unwrap());
    let step = names::directory_step(&name).or(names::file_step(names::stem(&name)).0);
    let run = run_path.file_name().unwrap().display().to_string();
    FoundSave {
        run,
        run_path,
        path,
        step,
        in_place: step.is_none(),
        files: files.to_vec(),
        also: Vec::new(),
    }
}

fn weights(size: u64, mtime_ns: i64) -> FileStamp {
    file("model.safetensors", size, mtime_ns)
}

fn shard(idx: u64, size: u64, mtime_ns: i64) -> FileStamp {
    file(&format!("model-0000{idx}-of-00003.safetensors"), size, mtime_ns)
}

fn index(mtime_ns: i64) -> FileStamp {
    file("model.safetensors.index.json", 9, mtime_ns)
}

fn closed(path: &str) -> FileEvent {
    FileEvent::Closed(path.into())
}

fn touched(path: &str) -> FileEvent {
    FileEvent::Touched(path.into())
}

/// The same state at every one of the times.
fn steady(times: &[u64], saves: &[FoundSave]) -> Vec<Moment> {
    times.iter().map(|at| (*at, saves.to_vec(), Vec::new())).collect()
}

#[test]
fn a_renamed_directory_counts_once() {
    let old = [weights(9, 5), file("trainer_state.json", 7, 8)];
    let before = save("/w/run/step-5", &old);
    let after = save("/w/run/step-05", &old);
    let mut moments = steady(&[0, 2_000], std::slice::from_ref(&before));
    moments.extend(steady(&[3_000, 90_000], std::slice::from_ref(&after)));
    let settler = check(&moments, &[(2_000, "/w/run/step-5", 1)]);
    assert_eq!(settler.counters().renamed, 1);
    // With a moment in between at which neither name is there, and back again.
    let mut moments = steady(&[0, 2_000], std::slice::from_ref(&before));
    moments.extend(steady(&[3_000], &[]));
    moments.extend(steady(&[4_000, 40_000], &[after]));
    moments.extend(steady(&[50_000, 99_000], &[before]));
    check(&moments, &[(2_000, "/w/run/step-5", 1)]);
}

#[test]
fn a_renamed_run_and_a_renamed_step_are_saves_of_their_own() {
    let files = [weights(9, 5), file("trainer_state.json", 7, 8)];
    let named = |path: &str| save(path, &files);
    for (old, new) in [("/w/run/step-5", "/w/other/step-5"), ("/w/run/step-5", "/w/run/step-50")] {
        let mut moments = steady(&[0, 2_000], &[named(old)]);
        moments.extend(steady(&[3_000, 5_000, 90_000], &[named(new)]));
        check(&moments, &[(2_000, old, 1), (5_000, new, 1)]);
    }
}

#[test]
fn a_run_that_was_forgotten_is_found_again() {
    let files = [weights(9, 5), file("trainer_state.json", 7, 8)];
    let present = save("/w/run/step-5", &files);
    let mut settler = Settler::new(SettleRules::local());
    let at = Duration::from_secs;
    let mut seen = |now: u64, saves: Vec<FoundSave>| {
        let scan = ScanOutcome { saves, ..ScanOutcome::default() };
        settler.observe(at(now), &scan, &[]);
        let settled = settler.take_settled(at(now)).len();
        if now == 4 {
            settler.forget_run("run");
        }
        settled
    };
    let there = || vec![present.clone()];
    assert_eq!((seen(0, there()), seen(2, there())), (0, 1));
    assert_eq!((seen(4, vec![]), seen(6, there()), seen(8, there())), (0, 0, 1));
}

#[test]
fn rewritten_content_is_a_new_version_but_links_and_deletions_are_not() {
    let path = "/w/run/checkpoint-5";
    let marked = |mtime, nlink| {
        let files = [weights(9, mtime), file("trainer_state.json", 7, mtime)];
        [save(path, &files.map(|file| FileStamp { nlink, ctime_ns: mtime + 50, ..file }))]
    };
    let mut moments = steady(&[0, 2_000], &marked(1, 1));
    moments.extend(steady(&[3_000, 9_000], &marked(1, 2)));
    moments.extend(steady(&[10_000, 12_000], &marked(20, 1)));
    check(&moments, &[(2_000, path, 1), (12_000, path, 2)]);

    // Deleted shard by shard, then written anew under the same step.
    let whole = [
        shard(1, 9, 1),
        shard(2, 9, 1),
        shard(3, 9, 1),
        index(2),
        file("trainer_state.json", 7, 3),
    ];
    let mut moments = steady(&[0, 2_000], &[save(path, &whole)]);
    moments.extend(steady(&[3_000, 90_000], &[save(path, &whole[1..])]));
    moments.extend(steady(&[91_000], &[]));
    moments.extend(steady(&[92_000, 94_000], &marked(99, 1)));
    let settler = check(&moments, &[(2_000, path, 1), (94_000, path, 2)]);
    assert_eq!(settler.counters().vanished, 0);
}

#[test]
fn a_save_deleted_before_it_settles_is_dropped_and_counted() {
    let mut moments = steady(&[0, 1_000], &[save(DIRECTORY, &[weights(9, 1)])]);
    moments.extend(steady(&[2_000, 40_000], &[]));
    let settler = check(&moments, &[]);
    assert_eq!(settler.counters().vanished, 1);
    assert_eq!(settler.pending(), []);
}

#[test]
fn what_a_scan_could_not_see_is_neither_gone_nor_settled() {
    let mut settler = Settler::new(SettleRules::default());
    let at = Duration::from_secs;
    settler.observe(at(0), &found(&[save(DIRECTORY, &[weights(9, 1)])]), &[]);
    let source = std::io::ErrorKind::TimedOut.into();
    let errors = vec![ScanError::Directory { path: "/w/run".into(), source }];
    settler.observe(at(40), &ScanOutcome { errors, ..ScanOutcome::default() }, &[]);
    assert_eq!(settler.take_settled(at(40)), []);
    assert_eq!(settler.next_deadline(), None, "an unseen save is not due");
    settler.observe(at(41), &ScanOutcome { truncated: true, ..ScanOutcome::default() }, &[]);
    assert_eq!((settler.pending().len(), settler.counters().vanished), (1, 0));
}

#[test]
fn a_directory_without_weights_waits_and_is_looked_at_again() {
    let settler = check(&steady(&[0, 2_000], &[save(DIRECTORY, &[])]), &[]);
    assert_eq!(settler.pending()[0].state, PendingState::NoWeights);
    assert_eq!(settler.next_deadline(), Some(Duration::from_secs(4)));
    let mut moments = steady(&[0, 60_000], &[save(DIRECTORY, &[])]);
    moments.push((60_500, vec![save(DIRECTORY, &[])], vec![touched(DIRECTORY)]));
    let settler = check(&moments, &[]);
    assert_eq!(settler.next_deadline(), Some(Duration::from_millis(62_500)));
}

#[test]
fn a_clock_that_goes_back_stands() {
    let marked = [save(DIRECTORY, &[weights(9, 1), file("trainer_state.json", 7, 1)])];
    check(&steady(&[10_000, 0, 11_999, 12_000], &marked), &[(12_000, DIRECTORY, 1)]);
}

#[test]
fn given_back_it_is_tried_again_ever_later_or_when_it_has_changed() {
    let at = Duration::from_millis;
    let mut settler = Settler::new(SettleRules::default());
    let mut scan = found(&[save(DIRECTORY, &[weights(9, 1), file("trainer_state.json", 7, 1)])]);
    settler.observe(at(0), &scan, &[]);
    let mut now = 2_000;
    let mut first = None;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        settler.observe(at(now), &scan, &[]);
        let save = settler.take_settled(at(now)).remove(0);
        assert_eq!(save.version, 1, "nothing was said of it yet");
        settler.give_back(&save, at(now), GiveBack::Incomplete);
        assert_eq!(settler.pending()[0].state, PendingState::Returned(GiveBack::Incomplete));
        now += wait * 1_000;
        assert_eq!(settler.next_deadline(), Some(at(now)));
        settler.observe(at(now - 1), &scan, &[]);
        assert_eq!(settler.take_settled(at(now - 1)), []);
        first.get_or_insert(save);
    }
    settler.observe(at(now), &scan, &[]);
    let again = settler.take_settled(at(now)).remove(0);
    settler.give_back(&again, at(now), GiveBack::Changed);
    // A change ends the wait of 60 s.
    scan = found(&[save(DIRECTORY, &[weights(9, 2), file("trainer_state.json", 7, 2)])]);
    settler.observe(at(now), &scan, &[]);
    settler.observe(at(now + 2_000), &scan, &[]);
    let changed = settler.take_settled(at(now + 2_000)).remove(0);
    assert_eq!(changed.version, 1);
    // A late return of the content before does not undo the hand-out of this one.
    settler.give_back(&first.unwrap(), at(now + 3_000), GiveBack::Changed);
    settler.observe(at(now + 9_000), &scan, &[]);
    assert_eq!(settler.take_settled(at(now + 9_000)), []);
}

#[test]
fn of_too_many_the_newest_wait_and_the_others_follow() {
    let rules = SettleRules { max_pending: 2, ..SettleRules::default() };
    let saves: Vec<_> = (1..=4)
        .map(|step| {
            let files = [weights(9, step), file("trainer_state.json", 7, 9)];
            let mut found = save(&format!("/w/run/step-{step}"), &files);
            found.files[0].ino = u64::try_from(step).unwrap();
            found
        })
        .collect();
    let settler = check_with(
        rules,
        &steady(&[0, 2_000, 3_000, 5_000], &saves),
        &[
            (2_000, "/w/run/step-3", 1),
            (2_000, "/w/run/step-4", 1),
            (5_000, "/w/run/step-1", 1),
            (5_000, "/w/run/step-2", 1),
        ],
    );
    assert_eq!(settler.counters().deferred, 4);
}

#[test]
fn saves_of_a_forgotten_run_are_found_for_the_first_time_again() {
    let marked = [save(DIRECTORY, &[weights(9, 1), file("trainer_state.json", 7, 1)])];
    let mut settler = check(&steady(&[0, 2_000], &marked), &[(2_000, DIRECTORY, 1)]);
    settler.forget_run(&marked[0].run);
    settler.observe(Duration::from_secs(3), &found(&marked), &[]);
    settler.observe(Duration::from_secs(5), &found(&marked), &[]);
    assert_eq!(settler.take_settled(Duration::from_secs(5))[0].version, 1);
}

#[test]
fn five_thousand_existing_saves_come_out_once_each() {
    // Quadratic work would be 25 million entry visits a scan, twenty times over: minutes.
    let saves: Vec<_> = (0..5_000)
        .map(|step| {
            let mut found = save(&format!("/w/run/step-{step}"), &[weights(9, step)]);
            found.files[0].ino = u64::try_from(step).unwrap();
            found
        })
        .collect();
    let mut settler = Settler::new(SettleRules::default());
    let mut n_handed = 0;
    for at in (0..40).step_by(2).map(Duration::from_secs) {
        let hints: Vec<_> =
            saves.iter().map(|save| FileEvent::Removed(save.path.clone())).collect();
        settler.observe(at, &found(&saves), &hints);
        n_handed += settler.take_settled(at).len();
        let expected = if at < Duration::from_secs(2) { 0 } else { 4_999 };
        assert_eq!(n_handed, expected + usize::from(at >= Duration::from_secs(30)));
    }
}

proptest! {
    /// Whatever a writer does: nothing is handed out that changed within the quiet time, and no
    /// content twice.
    #[test]
    fn nothing_early_and_nothing_twice(
        moves in proptest::collection::vec((0..3_000_u64, 0..4_i64, 0..3_u8, any::<bool>()), 1..60),
    ) {
        let path = "/w/run/model-5.safetensors";
        let mut settler = Settler::new(SettleRules::default());
        let (mut now, mut mtime, mut still_since) = (0, 0, None);
        let mut seen = std::collections::HashSet::new();
        for (wait, change, hint, is_there) in moves {
            now += wait;
            // mtimes never come back: a new content has a new stamp.
            mtime += change / 3;
            let state = is_there.then_some(mtime);
            if still_since.is_none_or(|(_, last)| last != state) {
                still_since = Some((now, state));
            }
            let hints = match hint {
                0 => vec![],
                1 => vec![closed(path)],
                _ => {
                    still_since = Some((now, state));
                    vec![touched(path)]
                }
            };
            let saves: Vec<_> =
                state.iter().map(|at| save(path, &[file("model-5.safetensors", 9, *at)])).collect();
            settler.observe(Duration::from_millis(now), &found(&saves), &hints);
            for save in settler.take_settled(Duration::from_millis(now)) {
                prop_assert!(still_since.is_some_and(|(since, _)| now - since >= 2_000));
                prop_assert!(seen.insert(save.files[0].mtime_ns));
            }
        }
    }
}
