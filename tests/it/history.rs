//! The store: what is written comes back, once, whatever happened to the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use weightvane::checkpoint::TrainerState;
use weightvane::diagnostics::Report;
use weightvane::history::{
    Anomaly, FILE, Kind, Opened, Place, Point, Record, SaveKey, SaveOutcome, Severity, Store,
    StoreError, StoredAge, StoredRun, Subject, Summary,
};

use crate::support::{measure, tests_dir};

fn counters(entries: &[(&str, &str, f64)]) -> BTreeMap<(String, String), f64> {
    let entry = |(name, label, value): &(&str, &str, f64)| {
        (((*name).to_owned(), (*label).to_owned()), *value)
    };
    entries.iter().map(entry).collect()
}

fn record(step: u64, report: Report) -> Record {
    let summary = Summary {
        alignment: BTreeMap::from([("v_o", 1.0 / 3.0), ("chain", -0.1)]),
        ln_gap: BTreeMap::from([((Some(1), "v_o"), 0.7), ((None, "chain"), -2.5)]),
        ln_commutator: BTreeMap::from([("v_o", 0.1)]),
        ln_update: Some(-6.5),
        ln_norm: Some(1.0 / 7.0),
    };
    let trainer = TrainerState {
        global_step: Some(step),
        max_steps: Some(9000),
        optimizer: Some("sgd".into()),
        weight_decay: Some(1e-3),
        momentum: Some(0.9),
        loss: Some(0.1 + 0.2),
        first_loss: Some(2.5),
        learning_rate: Some(0.1),
        grad_norm: None,
        eval: BTreeMap::from([("loss".to_owned(), 1.0 / 3.0), ("f1".to_owned(), 0.5)]),
    };
    Record {
        run_path: "/runs/a".into(),
        run_name: "a".into(),
        key: SaveKey {
            path: format!("/runs/a/checkpoint-{step}"),
            modified_ns: 1_772_283_959_123_456_789,
            size_bytes: 1 << 40,
        },
        saved_at: Some(1_772_283_959.123),
        analyzed_at: 1_772_283_960.0,
        seconds: 0.5,
        place: Place { segment: 1, step },
        age: StoredAge { segment: 1, step: Some(step), sequence: step + 7 },
        step: Some(step),
        outcome: SaveOutcome::Measured {
            report: Arc::new(report),
            trainer: Box::new(trainer),
            summary: Box::new(summary),
        },
        judged: Some(Place { segment: 1, step }),
        anomalies: Vec::new(),
        run_counters: counters(&[("analyzed", "", 1.0), ("skipped", "outrun", 2.0)]),
        daemon_counters: counters(&[("read_bytes", "", 1e12)]),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, false).unwrap().0
}

fn only_run(store: &Store) -> StoredRun {
    let mut runs = store.runs().unwrap();
    assert_eq!(runs.len(), 1);
    runs.remove(0)
}

/// Everything of a report; its JSON leaves some fields out.
fn all(report: &Report) -> String {
    let law_gaps: Vec<_> = report.pairs.iter().map(|p| p.law_gap).collect();
    format!("{report:?} {law_gaps:?} {} {}", report.nan, report.inf)
}

#[test]
fn reports_come_back_to_the_bit() {
    for fixture in
        ["it/golden/layouts/gpt2", "it/golden/layouts/llama_gqa", "it/golden/nc.safetensors"]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut report = measure(&tests_dir(fixture), &[1, 4]);
        report.step = Some(500);
        (report.nan, report.inf) = (3, 4);
        let record = record(500, report.clone());
        open(dir.path()).record(&record).unwrap();
        let run = only_run(&open(dir.path()));
        let (at, found, trainer) = run.newest.unwrap();
        assert_eq!(all(&found), all(&report), "{fixture}");
        let SaveOutcome::Measured { trainer: wanted, summary, .. } = &record.outcome else {
            unreachable!()
        };
        assert_eq!(&trainer, &**wanted);
        let save = &run.saves[at];
        assert_eq!(&save.summary, &**summary);
        assert_eq!((&save.key, save.place, save.age), (&record.key, record.place, record.age));
        assert_eq!((save.saved_at, save.step, save.seconds), (record.saved_at, Some(500), 0.5));
        assert_eq!(run.counters, record.run_counters);
        assert_eq!(open(dir.path()).daemon_counters().unwrap(), record.daemon_counters);
        assert_eq!(run.judged, [Point::new(record.place, &report, wanted)], "as it was judged");
        assert!(run.unjudged.is_empty());
    }
}

fn small(step: u64) -> Record {
    record(step, measure(&tests_dir("it/golden/series/healthy/checkpoint-0"), &[1]))
}

#[test]
fn a_save_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for step in [100, 200, 200, 100] {
        store.record(&small(step)).unwrap();
    }
    let mut rewritten = small(200);
    rewritten.key.modified_ns += 1;
    store.record(&rewritten).unwrap();
    let run = only_run(&store);
    assert_eq!(run.saves.iter().map(|s| s.place.step).collect::<Vec<_>>(), [100, 200, 200]);
    let failed = SaveOutcome::Failed { reason: "malformed", error: "not a header".into() };
    store.record(&Record { outcome: failed, ..small(300) }).unwrap();
    let run = only_run(&store);
    assert_eq!(run.saves.last().unwrap().error.as_deref(), Some("not a header"));
    assert_eq!(run.newest.unwrap().0, 2, "the newest that was measured");
}

#[test]
fn anomalies_end_where_they_began() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let subject =
        Subject { layer: Some(3), pair: Some("v_o".into()), head: Some(0), name: "w -> r".into() };
    let began = |kind, subject: Subject| Anomaly {
        kind,
        subject: Arc::new(subject),
        severity: Severity::Critical,
        onset_step: 100,
        segment: 1,
        before: Some(0.1),
        after: Some(-0.2),
        z: None,
        last_good_step: Some(50),
        resolved_step: None,
    };
    let spike = began(Kind::CommutatorSpike, subject);
    let frozen = began(Kind::Frozen, Subject::whole());
    let anomalies = vec![spike.clone(), frozen.clone()];
    store.record(&Record { anomalies, ..small(100) }).unwrap();
    assert_eq!(only_run(&store).open, [spike.clone(), frozen.clone()]);
    let over = Anomaly { resolved_step: Some(300), ..spike };
    store.record(&Record { anomalies: vec![over.clone()], ..small(300) }).unwrap();
    let run = only_run(&open(dir.path()));
    assert_eq!((run.open, run.over), (vec![frozen.clone()], vec![over.clone()]));
    // Saves that were judged together: what is over is told first, also of what began with it.
    let brief = Anomaly { onset_step: 400, resolved_step: None, ..over.clone() };
    let ended = Anomaly { resolved_step: Some(500), ..brief.clone() };
    let anomalies = vec![ended.clone(), brief];
    store.record(&Record { anomalies, ..small(500) }).unwrap();
    let run = only_run(&open(dir.path()));
    assert_eq!((run.open, run.over), (vec![frozen], vec![over, ended]));
}

#[test]
fn what_was_not_judged_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let judged = Some(Place { segment: 1, step: 200 });
    for step in [900, 100, 200] {
        store.record(&Record { judged, ..small(step) }).unwrap();
    }
    let run = only_run(&store);
    let steps = |points: &[Point]| points.iter().map(|p| p.place.step).collect::<Vec<_>>();
    assert_eq!((steps(&run.judged), steps(&run.unjudged)), (vec![100, 200], vec![900]));
}

#[test]
fn a_damaged_database_is_moved_aside_and_made_anew() {
    let sound = tempfile::tempdir().unwrap();
    let mut store = open(sound.path());
    let report = measure(&tests_dir("it/golden/layouts/gpt2"), &[1, 4]);
    (0..30).for_each(|step| store.record(&record(step, report.clone())).unwrap());
    drop(store);
    let bytes = fs::read(sound.path().join(FILE)).unwrap();
    assert!(bytes.len() > 40 * 4096, "pages enough");
    let mut n_aside = 0;
    let mut damage = |bytes: &[u8], what: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, bytes).unwrap();
        let (mut store, opened) = Store::open(dir.path(), false).unwrap();
        if let Opened::MovedAside(aside) = opened {
            assert_eq!(fs::read(aside).unwrap(), bytes, "{what}");
            assert!(store.runs().unwrap().is_empty());
            n_aside += 1;
        }
        // Whatever was there: it takes records and is sound.
        store.record(&small(5000)).unwrap();
        assert!(store.runs().unwrap().iter().any(|run| run.newest.is_some()), "{what}");
        drop(store);
        assert_eq!(Store::open(dir.path(), false).unwrap().1, Opened::Existing, "{what}");
    };
    for cut in [1, 100, 512, 4096, 10_000, bytes.len() / 2, bytes.len() - 4096] {
        damage(&bytes[..cut], &format!("cut at {cut}"));
    }
    for page in 0..20 {
        let mut torn = bytes.clone();
        torn[page * 2 * 4096..][..4096].fill(0xff);
        damage(&torn, &format!("page {page}"));
    }
    damage(b"not a database at all, though longer than its header, which is of 100 bytes, and then some more of it", "text");
    damage(b"", "empty");
    assert!(n_aside >= 20, "{n_aside}");
}

/// SQLite checks its structure: of numbers it cannot know.
#[test]
fn a_number_that_was_not_written_is_damage() {
    let sound = tempfile::tempdir().unwrap();
    let mut store = open(sound.path());
    let mut began = small(100);
    began.run_counters.insert(("failures".into(), "limit".into()), 987_654.25);
    let anomaly = Anomaly {
        kind: Kind::Frozen,
        subject: Arc::new(Subject::whole()),
        severity: Severity::Warning,
        onset_step: 100,
        segment: 1,
        before: Some(0.123_456),
        after: None,
        z: None,
        last_good_step: None,
        resolved_step: None,
    };
    began.anomalies = vec![anomaly];
    store.record(&began).unwrap();
    store.record(&small(200)).unwrap();
    drop(store);
    let bytes = fs::read(sound.path().join(FILE)).unwrap();
    let run = only_run(&open(sound.path()));
    let SaveOutcome::Measured { report, trainer, summary } = &small(200).outcome else {
        unreachable!()
    };
    let numbers = [
        ("norm", report.matrices[0].frobenius_norm),
        ("pair", report.pairs[0].gap_ratio),
        ("evaluation", trainer.eval.get("loss").copied()),
        ("loss", trainer.loss),
        ("summary", summary.ln_norm),
        ("counter", Some(987_654.25)),
        ("anomaly", Some(0.123_456)),
    ];
    assert!(run.newest.is_some());
    for (what, number) in numbers {
        let number = number.unwrap().to_be_bytes();
        let places = bytes.windows(8).enumerate().filter(|(_, window)| *window == number);
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "{what} is not found in the file");
        for at in places {
            let dir = tempfile::tempdir().unwrap();
            let mut changed = bytes.clone();
            changed[at + 5] ^= 1;
            fs::write(dir.path().join(FILE), changed).unwrap();
            let (store, opened) = Store::open(dir.path(), false).unwrap();
            assert!(matches!(opened, Opened::MovedAside(_)), "{what} at {at}");
            assert!(store.runs().unwrap().is_empty());
        }
    }
}

#[test]
fn a_database_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    // `user_version` stands at offset 60.
    bytes[60..64].copy_from_slice(&99u32.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(dir.path(), false).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_large_database_is_looked_through_only_where_it_is_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    (0..50).for_each(|step| store.record(&small(step)).unwrap());
    drop(store);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 4096;
    bytes[end..].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    // A hole makes it large without taking room.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(300 << 20).unwrap();
    assert_eq!(Store::open(dir.path(), false).unwrap().1, Opened::Existing);
    assert!(matches!(Store::open(dir.path(), true).unwrap().1, Opened::MovedAside(_)));
}

#[test]
fn a_database_of_version_1_is_brought_up_with_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../src/history/store/schema-1.sql")).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1; INSERT INTO runs (id, path, name) VALUES (1, '/runs/a', 'a');
         INSERT INTO saves (run, path, modified_ns, size_bytes, analyzed_at, analysis_seconds, segment,
         place, age_segment, sequence, state, has_details) VALUES (1, 's', 1, 2, 3, 4, 0, 100, 0, 0,
         'analyzed', 1);",
    )
    .unwrap();
    drop(old);
    let (mut store, opened) = Store::open(dir.path(), false).unwrap();
    assert_eq!(opened, Opened::Existing);
    let new = small(200);
    store.record(&Record { place: Place { segment: 0, step: 200 }, ..new.clone() }).unwrap();
    let run = only_run(&store);
    let SaveOutcome::Measured { trainer, .. } = new.outcome else { unreachable!() };
    assert_eq!(run.saves.iter().map(|s| s.place.step).collect::<Vec<_>>(), [100, 200]);
    assert_eq!(run.saves[1].trainer.eval, trainer.eval);
    drop(store);
    let version = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = version.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 5);
}

#[test]
fn a_record_that_can_never_be_written_is_told_from_a_disk_that_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut nan = small(100);
    let SaveOutcome::Measured { summary, .. } = &mut nan.outcome else { unreachable!() };
    summary.ln_norm = Some(f64::NAN);
    let error = store.record(&nan).unwrap_err();
    assert!(error.is_of_the_record() && !error.is_damage(), "{error}");
    assert!(store.runs().unwrap().is_empty(), "nothing of it is written");
    store.record(&small(200)).unwrap();
}

#[test]
fn what_is_old_goes_and_runs_without_a_directory_go_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let here = dir.path().to_str().unwrap();
    for step in 0..60_u32 {
        for run_path in ["/no/such/run", here] {
            let mut record = small(step.into());
            record.run_path = run_path.into();
            record.analyzed_at = 1000.0 + f64::from(step);
            store.record(&record).unwrap();
        }
    }
    assert_eq!(store.forget_before(1000.0).unwrap(), 0);
    // Of either run the first ten go, which are older, but of the last forty none.
    assert_eq!(store.forget_before(1010.0).unwrap(), 20);
    assert_eq!(store.runs().unwrap().len(), 2);
    assert_eq!(store.forget_before(2000.0).unwrap(), 20 + 60);
    let run = only_run(&store);
    assert_eq!((run.path.as_str(), run.saves.len(), run.judged.len()), (here, 60, 40));
    assert!(run.judged.iter().all(|point| !point.pairs.is_empty()));
    assert_eq!(store.shrink_to(0).unwrap(), 0, "its directory is there");
}

#[test]
fn of_old_saves_the_details_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let report = measure(&tests_dir("it/golden/layouts/gpt2"), &[1, 4]);
    let here = dir.path().to_str().unwrap();
    for step in 0..120 {
        let record = Record { run_path: here.into(), ..record(step, report.clone()) };
        store.record(&record).unwrap();
    }
    drop(store);
    let before = fs::metadata(dir.path().join(FILE)).unwrap().len();
    let mut store = open(dir.path());
    assert_eq!(store.shrink_to(u64::MAX).unwrap(), 0);
    let n = store.shrink_to(0).unwrap();
    assert_eq!(n, 80, "all but the last forty");
    let run = only_run(&store);
    assert_eq!(run.saves.len(), 120, "each is still known");
    assert!(run.saves.iter().all(|save| !save.summary.alignment.is_empty()));
    assert!(run.judged.len() == 40 && run.judged.iter().all(|p| !p.pairs.is_empty()));
    drop(store);
    let after = fs::metadata(dir.path().join(FILE)).unwrap().len();
    assert!(after * 2 < before, "{before} bytes to {after}");
}
