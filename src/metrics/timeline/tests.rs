use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::metrics::RidgeRate;

fn facts(name: &str, step: u64, layers: &[(usize, f64)]) -> RunFacts {
    let rate = |(layer, ratio): &(usize, f64)| RidgeRate {
        layer: Some(*layer),
        pair: "chain".into(),
        ratio: *ratio,
    };
    RunFacts {
        name: name.to_owned(),
        path: format!("/runs/{name}"),
        analyzed_step: Some(step),
        ridge_rates: layers.iter().map(rate).collect(),
        ..RunFacts::default()
    }
}

fn text(timeline: &Timeline) -> String {
    text_with(timeline, &Labels::default())
}

fn text_with(timeline: &Timeline, labels: &Labels) -> String {
    let mut out = Vec::new();
    timeline.write(&mut out, ("weightvane", "a:1"), labels).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn labels_are_those_that_a_scrape_stores() {
    let mut timeline = Timeline::new(["a"].into_iter(), 1000);
    timeline.add(&facts("a", 7, &[]), 0, 1000).unwrap();
    let mut labels = Labels::default();
    labels.set("job", "4711").unwrap();
    labels.set("cluster", "\"x\"").unwrap();
    let text = text_with(&timeline, &labels);
    let line = "weightvane_checkpoint_analyzed_step{run=\"a\",cluster=\"\\\"x\\\"\",\
                exported_job=\"4711\",instance=\"a:1\",job=\"weightvane\"} 7 0\n";
    assert!(text.contains(line), "{text}");
    parsed(&text);
}

/// Samples of a text: series → times in ms and values. Holds what a reader relies on.
fn parsed(text: &str) -> BTreeMap<String, Vec<(i64, f64)>> {
    let mut samples: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    let (mut families, mut family, mut series) = (BTreeSet::new(), String::new(), String::new());
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    for line in body.lines() {
        if let Some(head) = line.strip_prefix("# ") {
            let name = head.split(' ').nth(1).unwrap().to_owned();
            if head.starts_with("TYPE") {
                assert!(families.insert(name.clone()), "{name} twice");
                family = name;
            } else {
                assert_eq!(name, family, "HELP follows TYPE");
            }
            continue;
        }
        let (labels, rest) = line.rsplit_once("} ").unwrap();
        let name = labels.split('{').next().unwrap();
        assert_eq!(name.strip_suffix("_total").unwrap_or(name), family, "{line}");
        let (value, time) = rest.split_once(' ').unwrap();
        assert!(time.split('.').nth(1).is_none_or(|digits| digits.len() <= 3), "{line}");
        let ms = (time.parse::<f64>().unwrap() * 1000.0).round();
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
        let ms = ms as i64;
        assert!(labels == series || !samples.contains_key(labels), "{labels} is torn apart");
        labels.clone_into(&mut series);
        samples.entry(series.clone()).or_default().push((ms, value.parse().unwrap()));
    }
    for (series, points) in &samples {
        assert!(points.is_sorted_by(|a, b| a.0 < b.0), "{series}: {points:?}");
    }
    samples
}

#[test]
fn a_small_one_to_the_byte() {
    let mut timeline = Timeline::new(["q\"\\"].into_iter(), 100);
    let add = |timeline: &mut Timeline, facts: &RunFacts, from, until| {
        assert_eq!(timeline.add(facts, from, until), Ok(0));
    };
    add(&mut timeline, &facts("q\"\\", 7, &[(0, 0.5)]), 1_000_000_500, 1_000_481_000);
    let mut ended = facts("q\"\\", 9, &[]);
    ended.train_loss = Some(1.25);
    ended.analyzed_total = 3;
    add(&mut timeline, &ended, 1_000_481_000, 1_000_481_000);
    let labels =
        |more: &str| format!("{{run=\"q\\\"\\\\\"{more},instance=\"a:1\",job=\"weightvane\"}}");
    let wanted = [
        format!("weightvane_checkpoint_analyzed_step{} 7 1000000.500\n", labels("")),
        format!("weightvane_checkpoint_analyzed_step{} 7 1000240.500\n", labels("")),
        format!("weightvane_checkpoint_analyzed_step{} 7 1000480.500\n", labels("")),
        format!("weightvane_checkpoint_analyzed_step{} 9 1000481\n", labels("")),
    ];
    let text = text(&timeline);
    assert!(text.contains(&wanted.concat()), "{text}");
    let counter = "# TYPE weightvane_checkpoints_analyzed counter\n\
                   # HELP weightvane_checkpoints_analyzed Saves analysed; a standstill while \
                   discovered saves rise means analysis is stuck.\n\
                   weightvane_checkpoints_analyzed_total";
    assert!(text.contains(counter), "{text}");
    assert!(text.contains(&format!("_total{} 3 1000481\n", labels(""))), "{text}");
    // What is no longer known is not said again.
    let rates = text.lines().filter(|l| l.starts_with("weightvane_ridge_rate_ratio"));
    assert_eq!(rates.count(), 3, "{text}");
    let loss = format!("weightvane_train_loss{} 1.25 1000481\n", labels(""));
    assert!(text.contains(&loss), "{text}");
    let layer = labels(",layer=\"00\",pair=\"chain\"");
    assert!(
        text.contains(&format!("weightvane_ridge_rate_ratio{layer} 0.5 1000000.500\n")),
        "{text}"
    );
    for unknown in ["queue_length", "skipped", "failures", "last_duration", "build_info"] {
        assert!(!text.contains(unknown), "{unknown} in {text}");
    }
    assert_eq!(
        parsed(&text)[&format!("weightvane_run_active{}", labels("").trim_end_matches('}'))].len(),
        4
    );
}

#[test]
fn moments_that_go_backwards_or_are_too_many_are_refused() {
    let mut timeline = Timeline::new(["a"].into_iter(), 100);
    assert_eq!(timeline.add(&facts("a", 1, &[]), 2000, 9000), Ok(0));
    let refused = timeline.add(&facts("a", 2, &[]), 2000, 9000);
    assert!(matches!(refused, Err(TimelineError::Backwards { at_ms: 2000, last_ms: 2000, .. })));
    assert_eq!(timeline.add(&facts("unknown", 2, &[]), 2000, 9000), Ok(0));
    timeline.max_stretches = timeline.n_stretches;
    // The same values take no room, others do.
    assert_eq!(timeline.add(&facts("a", 1, &[]), 3000, 9000), Ok(0));
    let refused = timeline.add(&facts("a", 2, &[]), 4000, 9000);
    assert!(matches!(refused, Err(TimelineError::TooMany { .. })));
}

#[test]
fn the_series_limit_of_a_run_holds_at_every_moment() {
    let mut timeline = Timeline::new(["a"].into_iter(), 20);
    let layers: Vec<(usize, f64)> = (0..50).map(|layer| (layer, 1.0)).collect();
    assert_eq!(timeline.add(&facts("a", 1, &layers), 0, 1), Ok(50));
    assert!(!text(&timeline).contains("ridge_rate_ratio"));
}

proptest! {
    #[test]
    fn times_rise_gaps_are_short_and_families_stay_together(
        // Time to the next moment, and how much of it the value holds, in seconds.
        moments in proptest::collection::vec((1_i64..2000, 0_i64..2500, 0_usize..4, 0_u8..3), 1..12),
        names in proptest::collection::btree_set("[a-c\"\\\\\n]{1,3}", 1..3),
    ) {
        let mut timeline = Timeline::new(names.iter().map(String::as_str), 1000);
        let mut spans = Vec::new();
        for name in &names {
            let mut at = 1_700_000_000_123;
            for (i, (next, holds, n_layers, value)) in moments.iter().enumerate() {
                let layers: Vec<_> = (0..*n_layers).map(|l| (l, f64::from(*value))).collect();
                let step = u64::from(*value);
                timeline.add(&facts(name, step, &layers), at, at + holds * 1000).unwrap();
                let until = at + (holds * 1000).min(if i + 1 < moments.len() { next * 1000 } else { i64::MAX });
                spans.push((at, until, f64::from(*value)));
                at += next * 1000;
            }
        }
        let samples = parsed(&text(&timeline));
        let steps = samples.iter().filter(|(s, _)| s.starts_with("weightvane_checkpoint_analyzed_step"));
        let mut n_samples = 0;
        for (_, points) in steps {
            for (at, value) in points {
                let held = spans.iter().any(|(from, until, v)| from == at || (from < at && at < until && v.to_bits() == value.to_bits()));
                prop_assert!(held, "{at} {value} is in none of {spans:?}");
            }
            n_samples += points.len();
        }
        let wanted: i64 = spans.iter().map(|(from, until, _)| ((until - from - 1).max(0) / 240_000) + 1).sum();
        prop_assert_eq!(n_samples, usize::try_from(wanted).unwrap());
    }
}
