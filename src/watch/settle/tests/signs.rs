//! What says that a save is complete, and what does not.

use super::*;

#[test]
fn without_a_sign_the_long_wait_decides() {
    let plain = [save("/w/run/ema.safetensors", &[file("ema.safetensors", 8, 1)])];
    let settler = check(
        &steady(&[0, 2_000, 29_999, 30_000, 90_000], &plain),
        &[(30_000, "/w/run/ema.safetensors", 1)],
    );
    assert_eq!(settler.next_deadline(), None);
}

#[test]
fn a_stale_look_settles_nothing() {
    let mut settler = Settler::new(SettleRules::default());
    settler.observe(Duration::ZERO, &found(&[save(DIRECTORY, &[weights(8, 1)])]), &[]);
    assert_eq!(settler.take_settled(Duration::from_secs(99)), []);
}

#[test]
fn shards_over_ten_seconds_count_once_after_the_index() {
    let mut moments = Vec::new();
    let mut files = vec![file("config.json", 5, 0)];
    for (idx, at) in [(1, 0), (2, 3), (3, 6)] {
        // Every shard is seen half written, then whole, with a pause longer than the quiet time.
        files.push(shard(idx, 50, at));
        moments.push((at.unsigned_abs() * 1000, vec![save(DIRECTORY, &files)], vec![]));
        *files.last_mut().unwrap() = shard(idx, 100, at + 1);
        moments.push((at.unsigned_abs() * 1000 + 300, vec![save(DIRECTORY, &files)], vec![]));
        moments.push((at.unsigned_abs() * 1000 + 2_900, vec![save(DIRECTORY, &files)], vec![]));
    }
    files.push(index(10));
    moments.extend(steady(&[10_000, 11_999, 12_000, 13_000], &[save(DIRECTORY, &files)]));
    // Written late, and neither weights nor index.
    files.push(file("trainer_state.json", 7, 14));
    moments.extend(steady(&[14_000, 17_000, 99_000], &[save(DIRECTORY, &files)]));
    check(&moments, &[(12_000, DIRECTORY, 1)]);
}

#[test]
fn an_index_older_than_a_shard_or_with_gaps_is_no_sign() {
    let stale = save(DIRECTORY, &[shard(1, 9, 5), shard(2, 9, 5), shard(3, 9, 5), index(4)]);
    check(&steady(&[0, 29_000, 30_000], &[stale]), &[(30_000, DIRECTORY, 1)]);
    let gap = save(DIRECTORY, &[shard(1, 9, 5), shard(3, 9, 5), index(6)]);
    check(&steady(&[0, 29_000, 30_000], &[gap]), &[(30_000, DIRECTORY, 1)]);
    let empty = save(DIRECTORY, &[shard(1, 9, 5), shard(2, 9, 5), shard(3, 0, 5), index(6)]);
    check(&steady(&[0, 29_000, 30_000], &[empty]), &[(30_000, DIRECTORY, 1)]);
}

#[test]
fn a_trainer_directory_waits_for_its_record() {
    let path = "/w/run/checkpoint-5";
    let model = [weights(9, 5)];
    let marked = [weights(9, 5), file("trainer_state.json", 7, 8)];
    let mut moments =
        vec![(0, vec![save(path, &model)], vec![closed(&format!("{path}/model.safetensors"))])];
    moments.extend(steady(&[20_000], &[save(path, &model)]));
    moments.extend(steady(&[25_000, 26_999, 27_000], &[save(path, &marked)]));
    check(&moments, &[(27_000, path, 1)]);

    // The record of an earlier save into the same directory says nothing of new weights.
    let old = [weights(9, 5), file("trainer_state.json", 7, 4)];
    check(&steady(&[0, 29_000, 30_000], &[save(path, &old)]), &[(30_000, path, 1)]);
    // A run that has shown a record is expected to write one for every save.
    let later = save("/w/run/step-6", &[shard(1, 9, 7), shard(2, 9, 7), shard(3, 9, 7), index(8)]);
    let run = [save(path, &marked), later];
    check(
        &steady(&[0, 2_000, 29_000, 30_000], &run),
        &[(2_000, path, 1), (30_000, "/w/run/step-6", 1)],
    );
}

#[test]
fn writers_that_stall_less_than_the_quiet_time_are_never_early() {
    // The whole size from the start, content in bursts of 1.5 s: only the mtime moves.
    let path = "/w/run/ema.safetensors";
    let at =
        |ms: u64, mtime| (ms, vec![save(path, &[file("ema.safetensors", 100, mtime)])], vec![]);
    let mut moments: Vec<Moment> =
        (0..20).map(|burst| at(u64::try_from(burst).unwrap() * 1_500, burst)).collect();
    // The same mtime all along (a coarse clock): the events still tell of writes.
    moments.extend((20..30).map(|burst| (burst * 1_500, at(0, 19).1, vec![touched(path)])));
    moments.push((44_000, at(0, 19).1, vec![closed(path)]));
    moments.extend([at(45_499, 19), at(45_500, 19), at(80_000, 19)]);
    check(&moments, &[(45_500, path, 1)]);
}

#[test]
fn a_close_is_a_sign_until_the_next_write() {
    let path = "/w/run/model-5.safetensors";
    let at =
        |ms, mtime, hints| (ms, vec![save(path, &[file("model-5.safetensors", 9, mtime)])], hints);
    check(&[at(0, 1, vec![closed(path)]), at(2_000, 1, vec![])], &[(2_000, path, 1)]);
    let reopened = [at(0, 1, vec![closed(path)]), at(1_000, 2, vec![]), at(9_000, 2, vec![])];
    check(&reopened, &[]);
    let unseen = [at(0, 1, vec![closed(path), touched(path)]), at(9_000, 1, vec![])];
    check(&unseen, &[]);
    let lost =
        [at(0, 1, vec![closed(path)]), at(1_000, 1, vec![FileEvent::Rescan]), at(9_000, 1, vec![])];
    check(&lost, &[]);
}

#[test]
fn a_directory_rewritten_in_place_needs_the_index_closed_after_its_shards() {
    let path = "/w/out";
    let (shard_1, named) = (
        format!("{path}/model-00001-of-00003.safetensors"),
        format!("{path}/model.safetensors.index.json"),
    );
    let at = |ms, mtime, hints| {
        let files = [shard(1, 9, mtime), shard(2, 9, mtime), shard(3, 9, mtime), index(mtime + 1)];
        (ms, vec![save(path, &files)], hints)
    };
    let in_order = vec![closed(&shard_1), closed(&named)];
    let index_first = vec![closed(&named), closed(&shard_1)];
    check(&[at(0, 1, vec![]), at(9_000, 1, vec![])], &[]);
    check(&[at(0, 1, in_order.clone()), at(2_000, 1, vec![])], &[(2_000, path, 1)]);
    check(&[at(0, 1, index_first), at(9_000, 1, vec![])], &[]);
    check(
        &[
            at(0, 1, in_order.clone()),
            at(2_000, 1, vec![]),
            at(5_000, 7, in_order),
            at(7_000, 7, vec![]),
        ],
        &[(2_000, path, 1), (7_000, path, 2)],
    );
}

#[test]
fn a_directory_renamed_to_its_name_is_complete() {
    let moved = [save(DIRECTORY, &[weights(9, 5)])];
    let moments = [(0, moved.to_vec(), vec![closed(DIRECTORY)]), (2_000, moved.to_vec(), vec![])];
    check(&moments, &[(2_000, DIRECTORY, 1)]);
}

#[test]
fn a_later_step_completes_an_earlier_one_unless_it_is_older() {
    let plain = |step: u64, mtime| {
        let name = format!("model-{step}.safetensors");
        save(&format!("/w/run/{name}"), &[file(&name, 9, mtime)])
    };
    let (first, second) = ("/w/run/model-500.safetensors", "/w/run/model-1000.safetensors");
    let run = [plain(500, 1), plain(1000, 2)];
    check(&steady(&[0, 2_000, 30_000], &run), &[(2_000, first, 1), (30_000, second, 1)]);
    // Resumed at 500: the step 1000 there is from the attempt before.
    let resumed = [plain(500, 3), plain(1000, 2)];
    check(&steady(&[0, 2_000, 29_000], &resumed), &[]);
    let linked = FileStamp { nlink: 2, ..file("model-7.safetensors", 9, 1) };
    check(
        &steady(&[0, 2_000], &[save("/w/run/model-7.safetensors", &[linked])]),
        &[(2_000, "/w/run/model-7.safetensors", 1)],
    );
}

#[test]
fn where_files_appear_whole_nobody_needs_to_see_them_closed() {
    let check = |moments: &[Moment], expected: &[(u64, &str, u32)]| {
        check_with(SettleRules::objects(), moments, expected)
    };
    // Uploads run side by side: index and record are there before the weights.
    let shards = [shard(1, 9, 5), shard(2, 9, 5), shard(3, 9, 5), index(4)];
    check(&steady(&[0, 1_999, 2_000], &[save(DIRECTORY, &shards)]), &[(2_000, DIRECTORY, 1)]);
    let path = "/w/run/checkpoint-5";
    let early = [weights(9, 5), file("trainer_state.json", 7, 4)];
    check(&steady(&[0, 2_000], &[save(path, &early)]), &[(2_000, path, 1)]);
    // Without its record, or with a gap, it is waited for as on a network.
    check(&steady(&[0, 2_000, 120_000], &[save(path, &early[..1])]), &[(120_000, path, 1)]);
    let gap = [&shards[..2], &shards[3..]].concat();
    check(&steady(&[0, 2_000, 119_999], &[save(DIRECTORY, &gap)]), &[]);
    // A lone object is replaced at once, shards one by one.
    let alone = |mtime| [save("/w/run/step-5", &[weights(9, mtime)])];
    let mut moments = steady(&[0, 2_000], &alone(5));
    moments.extend(steady(&[3_000, 5_000], &alone(9)));
    check(&moments, &[(2_000, DIRECTORY, 1), (5_000, DIRECTORY, 2)]);
    let mut half = shards.clone();
    half[0].mtime_ns = 9;
    let mut moments = steady(&[0, 2_000], &[save(DIRECTORY, &shards)]);
    moments.extend(steady(&[3_000, 5_000, 122_999], &[save(DIRECTORY, &half)]));
    check(&moments, &[(2_000, DIRECTORY, 1)]);
}

/// What an extra file of that mtime, or a pointer, does for a save whose weights are of mtime 5.
fn check_mark(path: &str, weights: &[&str], mark: (&str, i64), expected: Option<u64>) {
    let mut files: Vec<_> = weights.iter().map(|name| file(name, 9, 5)).collect();
    files.push(file(mark.0, 7, mark.1));
    let handed: Vec<_> = expected.into_iter().map(|at| (at, path, 1)).collect();
    check(&steady(&[0, 2_000, 29_000, 30_000, 90_000], &[save(path, &files)]), &handed);
}

#[test]
fn marks_of_the_frameworks_are_signs_unless_they_are_older() {
    let (soon, late) = (Some(2_000), Some(30_000));
    let dcp = ["__0_0.distcp", "__1_0.distcp"];
    check_mark("/w/run/step-5", &dcp, (".metadata", 5), soon);
    check_mark("/w/run/step-5", &dcp, (".metadata", 4), late);
    check_mark("/w/run/latest", &dcp, (".metadata", 5), soon);
    check_mark("/w/run/iter_0000005", &dcp, (".metadata", 5), late);
    check_mark("/w/run/epoch=0-step=5.ckpt", &dcp, (".metadata", 5), late);
    check_mark(
        "/w/run/iter_0000005",
        &[&dcp[..], &[".metadata"]].concat(),
        ("metadata.json", 6),
        soon,
    );
    check_mark(
        "/w/run/epoch=0-step=5.ckpt",
        &[&dcp[..], &[".metadata"]].concat(),
        ("meta.pt", 5),
        soon,
    );
    let olmo = ["model_and_optim/__0_0.distcp", "model_and_optim/.metadata"];
    check_mark("/w/run/step5", &olmo, (".metadata.json", 5), soon);
    check_mark("/w/run/checkpoint_5", &["model.safetensors"], ("random_states_0.pkl", 5), soon);
    check_mark("/w/run/final", &["adapter_model.bin"], ("adapter_config.json", 4), late);
    check_mark("/w/run/final", &["adapter_model.bin"], ("adapter_config.json", 5), soon);
    check_mark("/w/run/checkpoint-5", &["adapter_model.bin"], ("adapter_config.json", 5), late);
    let backup = "/w/run/latest.weights.h5";
    check_mark(backup, &["latest.weights.h5"], ("training_metadata.json", 5), soon);
    // The mark of an item inside an Orbax step is not that of the step.
    check_mark("/w/run/step_5", &["default/d.npz"], ("default/commit_success.txt", 6), late);
    check_mark("/w/run/step_5", &["default/d.npz"], ("commit_success.txt", 6), soon);
}

#[test]
fn what_has_no_metadata_is_never_settled() {
    let dcp = ["__0_0.distcp", "__1_0.distcp"];
    check_mark("/w/run/step-5", &dcp, ("config.json", 9), None);
    check_mark("/w/run/step-5", &dcp, ("__0.metadata", 9), None);
    check_mark(
        "/w/run/step-5",
        &[&dcp[..], &["__0.metadata"]].concat(),
        ("__1.metadata", 9),
        Some(30_000),
    );
    let olmo = ["model_and_optim/__0_0.distcp"];
    check_mark("/w/run/step5", &olmo, ("model_and_optim/.metadata", 5), None);
    check_mark("/w/run/step5", &olmo, (".metadata.json", 5), None);
}

#[test]
fn a_pointer_that_is_not_older_and_names_this_or_a_later_save_is_a_sign() {
    let path = "/w/run/global_step5";
    let states = save(path, &[file("mp_rank_00_model_states.pt", 9, 5)]);
    let check = |text: &str, mtime_ns, expected: usize| {
        let mut settler = Settler::new(SettleRules::default());
        let pointer = Pointer { directory: "/w/run".into(), text: text.into(), mtime_ns };
        let pointers = vec![pointer];
        let scan = ScanOutcome { pointers, ..found(std::slice::from_ref(&states)) };
        settler.observe(Duration::ZERO, &scan, &[]);
        settler.observe(Duration::from_secs(2), &scan, &[]);
        let n = settler.take_settled(Duration::from_secs(2)).len();
        assert_eq!(n, expected, "{text} of {mtime_ns}");
    };
    check("global_step5", 5, 1);
    check("global_step6", 5, 1);
    check("6", 5, 1);
    check("global_step4", 9, 0);
    check("global_step5", 4, 0);
    check("", 9, 0);
    check("release", 9, 0);
}

#[test]
fn what_loses_the_mark_that_goes_first_is_not_handed_out_any_more() {
    let path = "/w/run/step_5";
    let mark = file("commit_success.txt", 1, 1);
    let data = [file("default/d.npz", 9, 1), file("default/e.npz", 9, 1)];
    let whole = save(path, &[&data[..], std::slice::from_ref(&mark)].concat());
    // Seen whole for less than the quiet time, then half deleted for ever.
    let mut moments = steady(&[0, 1_000], std::slice::from_ref(&whole));
    moments.extend(steady(&[2_000, 40_000], &[save(path, &data)]));
    moments.extend(steady(&[41_000, 99_000], &[save(path, &data[..1])]));
    let settler = check(&moments, &[]);
    assert_eq!(settler.next_deadline(), None, "nothing to wait for");
    // Written anew.
    let again = [file("default/d.npz", 9, 200), FileStamp { mtime_ns: 201, ..mark }];
    moments.extend(steady(&[100_000, 102_000], &[save(path, &again)]));
    check(&moments, &[(102_000, path, 1)]);
    // Without such a mark a directory that loses files is no longer taken at its word.
    let shards = [shard(1, 9, 1), shard(2, 9, 1), shard(3, 9, 1), weights(9, 1), index(2)];
    let mut moments = steady(&[0, 1_000], &[save(path, &shards)]);
    moments.extend(steady(&[1_500, 4_000, 31_000, 31_500], &[save(path, &shards[3..])]));
    check(&moments, &[(31_500, path, 1)]);
}

#[test]
fn what_was_called_unfinished_is_complete_when_it_no_longer_is() {
    let path = "/w/run/epoch=0-step=5.ckpt";
    let there = [save(path, &[file("epoch=0-step=5.ckpt", 9, 1)])];
    let told = vec![FileEvent::Removed("/w/run/epoch=0-step=5-unfinished".into())];
    check(&[(0, there.to_vec(), told), (2_000, there.to_vec(), vec![])], &[(2_000, path, 1)]);
    let other = vec![FileEvent::Removed("/w/run/epoch=0-step=4-unfinished".into())];
    check(&[(0, there.to_vec(), other), (2_000, there.to_vec(), vec![])], &[]);
}
