use std::collections::BTreeMap;

use super::*;
use crate::metrics::RunFacts;
use crate::watch::{EndMark, FileKind, FileStamp};

const PATIENCE: Patience =
    Patience { idle_after: Duration::from_hours(1), forget_after: Duration::from_hours(1) };

fn save(step: u64, seconds: i64) -> SettledSave {
    let file = FileStamp {
        name: "model.safetensors".into(),
        kind: FileKind::Weights,
        dev: 1,
        ino: step,
        size: 10,
        mtime_ns: seconds * 1_000_000_000,
        ctime_ns: 0,
        nlink: 1,
    };
    SettledSave {
        run: "r".into(),
        run_path: "/".into(),
        path: format!("/checkpoint-{step}").into(),
        step: Some(step),
        sequence: step,
        version: 1,
        supersedes: false,
        in_place: false,
        files: vec![file],
        waited: Duration::ZERO,
    }
}

fn queued(save: SettledSave) -> Queued {
    Queued { age: Age { segment: 0, step: save.step, sequence: save.sequence }, save }
}

fn done(save: SettledSave, result: Result<Analyzed, JobError>) -> Done {
    Done {
        run: "r".into(),
        run_id: 1,
        queued: queued(save),
        result,
        read_bytes: 0,
        wall: Duration::from_secs(1),
        cpu: Duration::from_secs(1),
        held_back: Duration::ZERO,
    }
}

fn finish(run: &mut Run, done: Done) -> Option<GiveBack> {
    run.done(done, Duration::ZERO).give_back
}

fn analyzed(step: u64) -> Analyzed {
    let report = Report {
        checkpoint: format!("checkpoint-{step}"),
        step: Some(step),
        format: "safetensors",
        architecture: "chain".into(),
        parameters: 1,
        matrices: Vec::new(),
        pairs: Vec::new(),
        heads: Vec::new(),
        classifier: None,
        skipped: Vec::new(),
        nan: 0,
        inf: 0,
    };
    Analyzed {
        report: Arc::new(report),
        baseline: Arc::default(),
        trainer: TrainerState::default(),
        step: Some(step),
        cpu_elsewhere: Duration::ZERO,
    }
}

fn run() -> Run {
    Run::new(1, "r".into(), "r".into(), "/".into(), 0, Duration::ZERO)
}

fn facts(run: &Run) -> RunFacts {
    run.facts(0, PATIENCE, Duration::from_secs(1), 1000.0)
}

fn missing() -> JobError {
    JobError::Open(OpenError::Incomplete { path: "/x".into(), what: "shard 2 is missing".into() })
}

#[test]
fn the_newest_save_stays_on_the_page_while_older_ones_follow() {
    let mut run = run();
    for step in [100, 200, 300] {
        run.settled(save(step, 10 * i64::try_from(step).unwrap()), Duration::ZERO);
    }
    for step in [300, 100, 200] {
        assert_eq!(finish(&mut run, done(save(step, 0), Ok(analyzed(step)))), None);
        assert_eq!(facts(&run).analyzed_step, Some(300));
    }
    let facts = facts(&run);
    assert_eq!((facts.discovered_total, facts.analyzed_total), (3, 3));
    assert_eq!(facts.state, RunState::Analyzed);
    assert_eq!(facts.save_interval_seconds, Some(1000.0));
}

#[test]
fn the_save_before_is_the_next_lower_step() {
    let mut run = run();
    for step in [100, 200, 300] {
        run.settled(save(step, 1), Duration::ZERO);
    }
    assert_eq!(run.before(&queued(save(300, 1))).path, Some("/checkpoint-200".into()));
    assert_eq!(run.before(&queued(save(100, 1))).path, None);
    finish(&mut run, done(save(100, 1), Ok(analyzed(100))));
    assert!(run.before(&queued(save(200, 1))).baseline.is_some());
    assert!(run.before(&queued(save(300, 1))).baseline.is_none(), "the subspaces of another save");
}

#[test]
fn incomplete_is_given_back_and_a_failure_only_after_a_while() {
    let mut run = run();
    run.settled(save(100, 1), Duration::ZERO);
    for times in 1..=RETURNS_BEFORE_FAILURE + 2 {
        assert_eq!(
            finish(&mut run, done(save(100, 1), Err(missing()))),
            Some(GiveBack::Incomplete)
        );
        let failed = u64::from(times >= RETURNS_BEFORE_FAILURE);
        let facts = facts(&run);
        assert_eq!(facts.failures_total.get(reason::INCOMPLETE).copied().unwrap_or(0), failed);
        assert_eq!(facts.readable, (failed > 0).then_some(false));
        assert!(matches!(facts.state, RunState::Incomplete(text) if text.contains("shard 2")));
        run.settled(save(100, 1), Duration::ZERO);
    }
    assert_eq!(facts(&run).discovered_total, 1, "a save given back is not discovered again");
}

#[test]
fn vanished_is_normal_and_a_panic_is_counted() {
    let mut run = run();
    run.settled(save(100, 1), Duration::ZERO);
    let vanished = JobError::Open(OpenError::Vanished { path: "/checkpoint-100".into() });
    assert_eq!(finish(&mut run, done(save(100, 1), Err(vanished))), None);
    assert_eq!(facts(&run).skipped_total[reason::VANISHED], 1);
    assert!(facts(&run).failures_total.is_empty());
    run.settled(save(200, 1), Duration::ZERO);
    assert_eq!(finish(&mut run, done(save(200, 1), Err(JobError::Panic("boom".into())))), None);
    assert_eq!(facts(&run).failures_total[reason::INTERNAL], 1);
}

#[test]
fn what_is_no_save_leaves_no_trace_of_failure() {
    let no_save = || {
        let found = "the state of an optimiser".to_owned();
        JobError::Open(OpenError::NotWeights { path: "/x".into(), found })
    };
    let mut run = run();
    run.settled(save(100, 1), Duration::ZERO);
    finish(&mut run, done(save(100, 1), Ok(analyzed(100))));
    run.settled(save(200, 2), Duration::ZERO);
    assert_eq!(finish(&mut run, done(save(200, 2), Err(no_save()))), None);
    let known = facts(&run);
    assert!(known.failures_total.is_empty());
    assert_eq!(known.skipped_total, BTreeMap::from([(reason::NOT_WEIGHTS.to_owned(), 1)]));
    assert_eq!((known.latest_step, known.readable), (Some(100), Some(true)));
    assert_eq!(known.state, RunState::Analyzed);
    assert!(!run.is_none());

    let mut other = self::run();
    other.settled(save(100, 1), Duration::ZERO);
    assert!(!other.is_none());
    finish(&mut other, done(save(100, 1), Err(no_save())));
    assert!(other.is_none());
}

#[test]
fn a_run_ends_by_its_own_count_or_by_silence() {
    let mut run = run();
    run.settled(save(100, 900), Duration::ZERO);
    let active = |run: &Run, now, unix| run.active(PATIENCE, Duration::from_secs(now), unix);
    assert!(active(&run, 10, 1000.0));
    assert!(!active(&run, 3700, 1000.0), "no news for an hour");
    assert!(!active(&run, 10, 900.0 + 3700.0), "an old save found at the start");
    // One that was seen to come is news, whatever its time says.
    let came = Duration::from_mins(2);
    run.settled(save(101, 0), came);
    assert!(active(&run, 130, 1e9));
    assert!(!active(&run, 3730, 1e9));
    run.settled(SettledSave { waited: came, ..save(102, 0) }, came);
    assert!(!active(&run, 130, 1e9), "it lay there at the start");
    let mut run = self::run();
    run.settled(save(100, 900), Duration::ZERO);
    run.trainer =
        TrainerState { global_step: Some(100), max_steps: Some(100), ..TrainerState::default() };
    assert!(!active(&run, 10, 1000.0));
    assert!(!run.forgettable(PATIENCE, Duration::from_secs(10)));
    assert!(run.forgettable(PATIENCE, Duration::from_secs(7300)));
}

#[test]
fn a_run_ends_by_a_mark_in_its_directory_or_above_until_it_saves_again() {
    let mut run = Run::new(1, "r".into(), "a/b".into(), "/a/b".into(), 0, Duration::ZERO);
    let mark = |directory: &str, seconds: i64| EndMark {
        directory: directory.into(),
        mtime_ns: seconds * 1_000_000_000,
    };
    let ended = |run: &Run| {
        let facts = facts(run);
        assert_eq!(facts.active, facts.ended_timestamp_seconds.is_none());
        facts.ended_timestamp_seconds
    };
    run.settled(save(100, 900), Duration::ZERO);
    run.marked(&[mark("/a/b2", 950), mark("/a/b/c", 950)], true);
    assert_eq!(ended(&run), None, "beside it and below it");
    run.marked(&[mark("/a/b", 899)], true);
    assert_eq!(ended(&run), None, "older than the save");
    run.marked(&[mark("/a/b", 900)], true);
    assert_eq!(ended(&run), Some(900.0), "right after the save");
    run.marked(&[mark("/a", 910), mark("/a/b", 905)], true);
    assert_eq!(ended(&run), Some(910.0), "above it");
    run.marked(&[], false);
    assert_eq!(ended(&run), Some(910.0), "not all was seen");
    run.settled(save(200, 950), Duration::ZERO);
    assert_eq!(ended(&run), None, "saved again");
    run.marked(&[mark("/a", 960)], true);
    assert_eq!(ended(&run), Some(960.0));
    run.marked(&[], true);
    assert_eq!(ended(&run), None, "the mark is gone");
}

#[test]
fn an_older_save_that_comes_to_rest_after_a_restart_is_not_the_newest() {
    let mut run = run();
    let newest = run.settled(save(200, 20), Duration::from_secs(1));
    finish(&mut run, Done { queued: newest, ..done(save(200, 20), Ok(analyzed(200))) });
    let older = Age { segment: 0, step: Some(100), sequence: 0 };
    run.latest = Some((Queued { age: older, save: save(100, 10) }, Duration::from_secs(2)));
    let facts = facts(&run);
    assert_eq!((facts.latest_step, facts.analyzed_step), (Some(200), Some(200)));
    assert_eq!(facts.latest_timestamp_seconds, facts.analyzed_timestamp_seconds);
}

#[test]
fn training_that_goes_back_to_an_earlier_step_is_the_newest_again() {
    let mut run = run();
    let at = Duration::from_secs;
    for (step, time) in [(100, 10), (200, 20), (300, 30)] {
        let queued = run.settled(save(step, time), at(1));
        finish(&mut run, Done { queued, ..done(save(step, time), Ok(analyzed(step))) });
    }
    assert_eq!(facts(&run).analyzed_step, Some(300));
    // Found together with the newest, or with older files: not a resume.
    assert_eq!(run.settled(SettledSave { waited: at(60), ..save(150, 40) }, at(50)).age.segment, 0);
    assert_eq!(run.settled(save(160, 5), at(50)).age.segment, 0);
    assert_eq!(facts(&run).latest_step, Some(300));
    // Resumed from 200, the save of 250 comes to rest a minute later.
    let resumed = run.settled(SettledSave { sequence: 9, ..save(250, 90) }, at(90));
    assert_eq!(resumed.age.segment, 1);
    assert_eq!(run.before(&resumed).path, Some("/checkpoint-200".into()));
    assert_eq!(facts(&run).latest_step, Some(250));
    finish(&mut run, Done { queued: resumed, ..done(save(250, 90), Ok(analyzed(250))) });
    assert_eq!(facts(&run).analyzed_step, Some(250));
    let next = run.settled(SettledSave { sequence: 10, ..save(350, 99) }, at(99));
    assert_eq!(next.age.segment, 1);
    assert_eq!(run.before(&next).path, Some("/checkpoint-250".into()));
}

#[test]
fn a_new_content_at_the_same_path_starts_anew() {
    let mut run = run();
    let malformed =
        || JobError::Open(OpenError::Malformed { path: "/x".into(), reason: "bad".into() });
    let version = |sequence| SettledSave { sequence, ..save(100, 1) };
    for sequence in 1..=3 {
        run.settled(version(sequence), Duration::ZERO);
        finish(&mut run, done(version(sequence), Err(malformed())));
        let facts = facts(&run);
        assert_eq!(facts.discovered_total, sequence);
        assert_eq!(facts.failures_total[reason::MALFORMED], sequence);
    }
}

#[test]
fn a_run_whose_backlog_is_measured_is_not_forgotten() {
    let mut run = run();
    let at = Duration::from_secs;
    run.settled(save(100, 1), at(0));
    run.running += 1;
    assert!(!run.forgettable(PATIENCE, at(100_000)), "at a worker");
    run.done(done(save(100, 1), Ok(analyzed(100))), at(100_000));
    assert!(!run.forgettable(PATIENCE, at(107_000)));
    assert!(run.forgettable(PATIENCE, at(107_300)));
}

#[test]
fn what_was_given_up_is_asked_for_where_it_would_have_been_used() {
    let mut run = run();
    for step in [100, 200, 300] {
        run.settled(save(step, 1), Duration::ZERO);
    }
    let asks = |run: &Run, step| {
        let before = run.before(&queued(save(step, 1)));
        (before.baseline.is_some(), before.ask_disk, before.save.and_then(|s| s.step))
    };
    // Nothing was measured since the start.
    assert_eq!(asks(&run, 300), (false, true, Some(200)));
    finish(&mut run, done(save(100, 1), Ok(analyzed(100))));
    assert_eq!(asks(&run, 200), (true, false, Some(100)));
    assert_eq!(asks(&run, 300), (false, false, Some(200)), "the subspaces of another save");
    let mut runs = BTreeMap::from([("a".to_owned(), run)]);
    give_up_kept(&mut runs, 0);
    assert!(asks(&runs["a"], 200).0, "that of the run measured last stays");
    let mut later = self::run();
    let mut kept = analyzed(100);
    kept.baseline = Arc::new(Baseline::default());
    later.done(done(save(100, 1), Ok(kept)), Duration::from_secs(1));
    runs.insert("b".to_owned(), later);
    give_up_kept(&mut runs, u64::MAX);
    assert!(asks(&runs["a"], 200).0, "there is room");
}

#[test]
fn an_origin_tells_a_content_from_the_one_before_it() {
    let mut run = run();
    run.settled(save(100, 7), Duration::ZERO);
    let before = run.before(&queued(save(200, 9))).save;
    assert_eq!(before, Some(run.origin_of(&save(100, 7))));
    assert_ne!(before, Some(run.origin_of(&save(100, 8))));
    let in_place = SettledSave { in_place: true, step: None, ..save(200, 9) };
    let before = run.before(&queued(in_place));
    assert!(before.path.is_none() && before.save.is_none() && before.ask_disk);
}

#[test]
fn the_newest_save_is_the_one_that_is_kept() {
    let mut run = run();
    let age = |step| queued(save(step, 1)).age;
    for step in [100, 200, 300] {
        run.settled(save(step, 1), Duration::ZERO);
    }
    assert!(run.keeps(age(300)));
    finish(&mut run, done(save(300, 1), Ok(analyzed(300))));
    assert!(!run.keeps(age(100)) && run.keeps(age(300)));
}
