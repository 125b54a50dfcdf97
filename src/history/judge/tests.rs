use super::*;
use crate::history::{MatrixPoint, PairPoint, Place};

fn subject(pair: Option<&str>, name: &str) -> Arc<Subject> {
    let pair = pair.map(Into::into);
    Arc::new(Subject { layer: Some(0), pair, head: None, name: name.into() })
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn real(n: u64) -> f64 {
    n as f64
}

/// A pair and a matrix at one save.
#[derive(Clone, Copy)]
struct Values {
    alignment: f64,
    commutator: f64,
    update: f64,
    norm: f64,
}

/// A healthy save: everything moves a little, and no two saves alike.
fn healthy(i: u64) -> Values {
    let wave = real((i * 37) % 11) / 11.0;
    Values {
        alignment: 0.3 + 0.02 * real(i) + 0.002 * wave,
        commutator: 1.0 + 0.03 * wave,
        update: 0.01 * (1.0 + 0.1 * wave),
        norm: 10.0 + 0.02 * wave,
    }
}

fn point(i: u64, values: Values) -> Point {
    let pair = subject(Some("chain"), "a -> b");
    Point {
        matrices: vec![MatrixPoint {
            subject: subject(None, "a"),
            norm: Some(values.norm),
            update: Some(values.update),
        }],
        pairs: vec![PairPoint {
            subject: pair,
            alignment: Some(values.alignment),
            commutator: Some(values.commutator),
        }],
        alignment: [("chain".into(), values.alignment)].into(),
        ..Point::at(Place { segment: 0, step: 100 * i })
    }
}

fn series(n: u64) -> Vec<Point> {
    (0..n).map(|i| point(i, healthy(i))).collect()
}

/// Judges every save in turn; what began, with its end where it has one.
fn told(points: &[Point], rules: &Rules) -> Vec<Anomaly> {
    let (mut all, mut open): (Vec<Anomaly>, Vec<Anomaly>) = (Vec::new(), Vec::new());
    for n in 1..=points.len() {
        let judged = judge(&points[..n], &open, rules);
        for index in judged.ended.iter().rev() {
            let mut over = open.remove(*index);
            over.resolved_step = Some(points[n - 1].place.step);
            all.push(over);
        }
        open.extend(judged.began);
    }
    all.extend(open);
    all.sort_by_key(|a| (a.onset_step, a.kind));
    all
}

fn kinds(anomalies: &[Anomaly]) -> Vec<(Kind, u64)> {
    anomalies.iter().map(|a| (a.kind, a.onset_step)).collect()
}

#[test]
fn a_healthy_series_is_silent() {
    assert_eq!(told(&series(60), &Rules::default()), []);
    let judged = judge(&series(60), &[], &Rules::default());
    let known: Vec<_> = judged.z.keys().map(|(kind, pair)| (*kind, &**pair)).collect();
    assert_eq!(
        known,
        [
            (Kind::AlignmentDrop, "chain"),
            (Kind::CommutatorSpike, "chain"),
            (Kind::UpdateShock, ""),
            (Kind::ScaleJump, "")
        ]
    );
    assert!(judged.z.values().all(|z| z.abs() < 8.0));
    assert_eq!(judge(&[], &[], &Rules::default()), Judged::default());
}

#[test]
fn a_fall_and_a_spike_together_are_critical_and_pass_when_they_come_back() {
    let mut points = series(40);
    for (i, point) in (20..24).zip(&mut points[20..24]) {
        let Values { alignment, .. } = healthy(i);
        point.pairs[0].alignment = Some(alignment - 0.3);
        point.pairs[0].commutator = Some(3.0);
    }
    let told = told(&points, &Rules::default());
    assert_eq!(kinds(&told), [(Kind::AlignmentDrop, 2000), (Kind::CommutatorSpike, 2000)]);
    assert_eq!(told[0].severity, Severity::Warning);
    assert_eq!(told[1].severity, Severity::Critical);
    assert!(told[0].z.unwrap() < -8.0 && told[1].z.unwrap() > 8.0);
    let Values { alignment, commutator, .. } = healthy(19);
    assert_eq!(told[0].before, Some(alignment));
    assert!((told[0].after.unwrap() - (healthy(20).alignment - 0.3)).abs() < 1e-12);
    assert!((told[1].before.unwrap() - commutator).abs() < 1e-12, "κ itself, not its logarithm");
    assert!(told.iter().all(|a| a.resolved_step == Some(2400)), "{told:?}");
}

#[test]
fn of_what_follows_a_fault_nothing_is_good() {
    let mut points = series(20);
    for (i, value) in [(16, -0.5), (17, -0.5), (18, -0.9)] {
        points[i].pairs[0].alignment = Some(value);
    }
    points[18].n_nonfinite = 3;
    let rules = Rules { plateau: None, commutator_spike: None, ..Rules::default() };
    let told = told(&points, &rules);
    let drops: Vec<_> = told.iter().map(|a| (a.kind, a.onset_step, a.last_good_step)).collect();
    assert!(drops.contains(&(Kind::AlignmentDrop, 1600, Some(1500))), "{drops:?}");
    assert!(drops.contains(&(Kind::Nonfinite, 1800, Some(1500))), "not 1700: {drops:?}");
}

#[test]
fn what_stays_is_the_new_order_after_a_window() {
    let mut points = series(40);
    for (i, point) in (20..).zip(&mut points[20..]) {
        point.matrices[0].norm = Some(2.0 * healthy(i).norm);
    }
    let told = told(&points, &Rules::default());
    assert_eq!(kinds(&told), [(Kind::ScaleJump, 2000)]);
    assert_eq!(told[0].resolved_step, Some(2800));
}

#[test]
fn a_change_must_be_both_large_and_unusual() {
    let jump = |by: f64, noise: f64| {
        let mut points = series(20);
        for (i, point) in points.iter_mut().enumerate() {
            let wave = if i % 2 == 0 { noise } else { -noise };
            let fall = if i == 19 { by } else { 0.0 };
            point.pairs[0].alignment = Some(0.5 + wave - fall);
        }
        kinds(&told(&points, &Rules { plateau: None, ..Rules::default() }))
    };
    assert_eq!(jump(0.1, 0.001), [(Kind::AlignmentDrop, 1900)]);
    assert_eq!(jump(0.03, 0.001), [], "small, though far out");
    assert_eq!(jump(0.1, 0.05), [], "large, yet usual");
}

#[test]
fn saves_that_were_skipped_are_no_shock_and_a_doubled_update_is_one() {
    let mut points = series(20);
    points[17].matrices[0].update = Some(0.033);
    let rules = Rules { plateau: None, ..Rules::default() };
    let at_once = told(&points[..18], &rules);
    assert!(kinds(&at_once).contains(&(Kind::UpdateShock, 1700)));
    assert!((at_once[0].after.unwrap() - 0.033).abs() < 1e-12);
    // Three times the steps, and three times the update.
    points.drain(15..17);
    assert_eq!(kinds(&told(&points[..16], &rules)), []);
}

#[test]
fn with_little_history_only_a_great_fall_is_told() {
    for (fall, n) in [(0.1, 0), (0.2, 1)] {
        let mut points = series(4);
        points[3].pairs[0].alignment = Some(healthy(2).alignment - fall);
        let told = told(&points, &Rules::default());
        assert_eq!(told.len(), n, "{told:?}");
        assert!(told.iter().all(|a| a.kind == Kind::AlignmentDrop && a.z.is_none()));
    }
}

#[test]
fn nonfinite_weights_are_told_at_once_and_end_with_the_first_finite_save() {
    let mut points = series(5);
    for point in &mut points[2..4] {
        point.n_nonfinite = 3;
    }
    points[2].broken = Some(subject(None, "a"));
    let told = told(&points, &Rules::default());
    assert_eq!(kinds(&told), [(Kind::Nonfinite, 200)], "one, also where another matrix shows it");
    assert_eq!((&*told[0].subject.name, told[0].last_good_step), ("a", Some(100)));
    assert_eq!((told[0].after, told[0].severity), (Some(3.0), Severity::Critical));
    assert_eq!(told[0].resolved_step, Some(400));
}

fn two_matrices(updates: &[(f64, f64)]) -> Vec<Point> {
    let mut points = series(updates.len() as u64);
    for (point, (a, b)) in points.iter_mut().zip(updates) {
        let b = MatrixPoint { subject: subject(None, "b"), norm: None, update: Some(*b) };
        point.matrices[0].update = Some(*a);
        point.matrices.push(b);
    }
    points
}

#[test]
fn two_saves_without_a_change_are_frozen() {
    let told = |updates: &[(f64, f64)]| {
        let told = told(&two_matrices(updates), &Rules::default());
        let said = |a: &Anomaly| (a.subject.name.to_string(), a.onset_step, a.resolved_step);
        told.iter().filter(|a| a.kind == Kind::Frozen).map(said).collect::<Vec<_>>()
    };
    let (on, off) = (0.01, 0.0);
    let frozen = |name: &str, onset, end| (name.to_owned(), onset, end);
    assert_eq!(told(&[(on, on), (on, off), (on, on)]), [], "one save is chance");
    let partial = [(on, on), (on, off), (on, off), (on, off), (on, on)];
    assert_eq!(told(&partial), [frozen("b", 100, Some(400))]);
    let whole = [(on, on), (off, off), (off, off)];
    assert_eq!(told(&whole), [frozen("", 100, None)]);
    assert_eq!(told(&[(on, off); 6]), [], "never trained, so on purpose");
    assert_eq!(told(&[(off, off); 3]), [frozen("", 0, None)], "nothing is trained at all");
    let long = [vec![(on, on)], vec![(on, off); 2 * HORIZON]].concat();
    assert_eq!(told(&long), [frozen("b", 100, None)], "also when its last change is out of sight");
}

#[test]
fn a_plateau_is_information_and_a_warning_beside_a_flat_loss() {
    let flat = |update: f64, loss: &dyn Fn(u64) -> Option<f64>| {
        let mut points = series(12);
        for (i, point) in (0..).zip(&mut points) {
            point.alignment = [("chain".into(), 0.5 + 1e-4 * real(i % 3))].into();
            point.matrices[0].update = Some(update);
            point.loss = loss(i);
        }
        let told = told(&points, &Rules::default());
        told.iter().map(|a| (a.kind, a.onset_step, a.severity)).collect::<Vec<_>>()
    };
    let info = [(Kind::Plateau, 700, Severity::Info)];
    assert_eq!(flat(0.01, &|_| None), info);
    assert_eq!(flat(0.01, &|i| Some(3.0 - 0.1 * real(i))), info);
    assert_eq!(flat(0.01, &|_| Some(3.0)), [(Kind::Plateau, 700, Severity::Warning)]);
    assert_eq!(flat(1e-5, &|_| Some(3.0)), [], "weights at rest");
    // Three from fifteen on is learnt, from fourteen on it is not.
    let from = |first: f64| {
        let mut points = series(12);
        for (i, point) in (0..).zip(&mut points) {
            point.alignment = [("chain".into(), 0.5 + 1e-4 * real(i % 3))].into();
            point.matrices[0].update = Some(0.01);
            (point.loss, point.first_loss) = (Some(3.0), Some(first));
        }
        told(&points, &Rules::default())[0].severity
    };
    assert_eq!((from(15.1), from(14.0)), (Severity::Info, Severity::Warning));
    // The loss stops later than the alignment: then it is told once more.
    let warning = (Kind::Plateau, 1000, Severity::Warning);
    assert_eq!(flat(0.01, &|i| Some(3.0 - 0.2 * real(i.min(5)))), [info[0], warning]);
}

#[test]
fn a_gap_that_does_not_decay_is_told_where_sgd_is_known() {
    let gap = subject(Some("chain"), "");
    let stalls = |rate: Option<f64>, part: f64| {
        let mut points = series(10);
        for point in &mut points {
            let decayed = 2.0 * part * 3e-4 * real(point.place.step);
            point.gaps = vec![(Arc::clone(&gap), 1.0 - decayed)];
            point.decay_rate = rate;
        }
        let told = told(&points, &Rules::default());
        told.iter().map(|a| (a.kind, a.onset_step, a.after.unwrap())).collect::<Vec<_>>()
    };
    let told = stalls(Some(3e-4), 0.2);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1), (Kind::RidgeStall, 500));
    assert!((told[0].2 - 0.2).abs() < 1e-9);
    assert_eq!(stalls(Some(3e-4), 1.0), [], "as the law says");
    assert_eq!(stalls(None, 0.0), [], "no law");
    assert_eq!(stalls(Some(1e-5), 0.0), [], "too little decay to tell");
}

#[test]
fn a_resume_begins_anew() {
    let mut points = series(20);
    points[19].pairs[0].alignment = Some(0.0);
    let again: Vec<Point> = series(15)
        .into_iter()
        .map(|mut point| {
            point.place = Place { segment: 1, step: point.place.step + 1000 };
            point.pairs[0].alignment = point.pairs[0].alignment.map(|x| 1.0 - x);
            point
        })
        .collect();
    let told = told(&[points, again].concat(), &Rules { plateau: None, ..Rules::default() });
    assert_eq!(kinds(&told), [(Kind::AlignmentDrop, 1900)]);
    assert_eq!(told[0].resolved_step, Some(1000), "with the first save of the new segment");
}

#[test]
fn what_is_switched_off_is_not_told() {
    let mut points = two_matrices(&[(0.01, 0.01); 30]);
    for point in &mut points[20..] {
        point.n_nonfinite = 1;
        point.pairs[0].alignment = Some(0.0);
        point.pairs[0].commutator = Some(50.0);
        point.alignment = [("chain".into(), 0.0)].into();
        point.matrices[0] =
            MatrixPoint { norm: Some(90.0), update: Some(0.9), ..point.matrices[0].clone() };
        point.matrices[1].update = Some(0.0);
    }
    let all: BTreeSet<Kind> = told(&points, &Rules::default()).iter().map(|a| a.kind).collect();
    let wanted: BTreeSet<Kind> = Kind::ALL.into_iter().filter(|k| *k != Kind::RidgeStall).collect();
    assert_eq!(all, wanted);
    let none = Rules {
        nonfinite: false,
        frozen: false,
        alignment_drop: None,
        alignment_drop_early: None,
        commutator_spike: None,
        update_shock: None,
        scale_jump: None,
        ridge_stall: None,
        plateau: None,
    };
    assert_eq!(told(&points, &none), []);
}

#[test]
fn names_of_kinds_come_back() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of(kind.as_str()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert_eq!(Kind::of("none"), None);
}
