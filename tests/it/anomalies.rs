//! Anomalies of the golden series: a healthy training and two faults.

use std::collections::BTreeSet;

use weightvane::checkpoint;
use weightvane::config::architectures;
use weightvane::diagnostics::{Options, Previous, Unobserved, analyze};
use weightvane::history::{Anomaly, Kind, Place, Point, Rules, judge};
use weightvane::model;

use crate::support::tests_dir;

/// The saves of a series as they are judged, each compared with the one before.
fn points(series: &str) -> Vec<Point> {
    let rules = architectures::built_in().unwrap();
    let mut points = Vec::new();
    let mut before = None;
    for step in (0..=2000).step_by(100) {
        let path = tests_dir(&format!("it/golden/series/{series}/checkpoint-{step}"));
        let manifest = checkpoint::open(&path).unwrap();
        let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
        let previous = Previous { manifest: before.as_ref(), baseline: None };
        let outcome =
            analyze(&manifest, &graph, &[], &Options::default(), previous, None, &Unobserved)
                .unwrap();
        let trainer = manifest.trainer.clone().unwrap_or_default();
        points.push(Point::new(Place { segment: 0, step }, &outcome.report, &trainer));
        before = Some(manifest);
    }
    points
}

/// What begins, save by save.
fn told(points: &[Point]) -> Vec<Anomaly> {
    let (mut open, mut all) = (Vec::<Anomaly>::new(), Vec::new());
    for n in 1..=points.len() {
        let judged = judge(&points[..n], &open, &Rules::default());
        for index in judged.ended.iter().rev() {
            open.remove(*index);
        }
        all.extend(judged.began.iter().cloned());
        open.extend(judged.began);
    }
    all
}

#[test]
fn a_healthy_training_has_no_anomaly_but_plateaus() {
    let told = told(&points("healthy"));
    assert!(told.iter().all(|a| a.kind == Kind::Plateau), "{told:#?}");
}

#[test]
fn shuffled_labels_are_told_at_the_first_save_after_them() {
    let told = told(&points("label_shuffle"));
    let serious: Vec<&Anomaly> = told.iter().filter(|a| a.kind != Kind::Plateau).collect();
    assert!(serious.iter().all(|a| a.onset_step >= 1500), "before the fault: {serious:#?}");
    let at_once = |kind| {
        let of_kind = serious.iter().filter(|a| a.kind == kind && a.onset_step == 1500);
        of_kind.map(|a| a.subject.layer).collect::<BTreeSet<_>>()
    };
    assert_eq!(at_once(Kind::AlignmentDrop).len(), 3, "all three pairs: {serious:#?}");
    assert!(at_once(Kind::CommutatorSpike).contains(&Some(2)), "the last pair: {serious:#?}");
}

#[test]
fn a_nan_is_told_at_once() {
    let points = points("nan");
    let told = told(&points);
    let first = points.iter().find(|p| p.n_nonfinite > 0).unwrap().place.step;
    let serious: Vec<_> =
        told.iter().filter(|a| a.kind != Kind::Plateau).map(|a| (a.kind, a.onset_step)).collect();
    assert_eq!(serious.first(), Some(&(Kind::Nonfinite, first)), "{told:#?}");
}
