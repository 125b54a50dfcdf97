//! Labels that every series bears.

use std::collections::BTreeSet;

use weightvane::metrics::{Labels, Snapshot, process_families, render, render_text};

use super::openmetrics::{self, Sample, samples};
use super::sample;

fn labelled(pairs: &[(&str, &str)]) -> Snapshot {
    let mut labels = Labels::default();
    for (name, value) in pairs {
        labels.set(name, value).unwrap();
    }
    Snapshot { labels, process: process_families(), ..sample::full() }
}

#[test]
fn every_series_of_every_format_bears_them_and_no_other_changes() {
    let with = labelled(&[("job", "4711"), ("team", "a\"b\\c")]);
    let without = Snapshot { labels: Labels::default(), ..with.clone() };
    let exposition = render(&with);
    let text = std::str::from_utf8(&exposition.text).unwrap();
    let open = std::str::from_utf8(&exposition.openmetrics).unwrap();
    let open = openmetrics::check(open).into_values().flat_map(|(_, samples)| samples).collect();
    for found in [samples(text), open] {
        for sample in &found {
            assert_eq!(sample.label("job"), Some("4711"), "{sample:?}");
            assert_eq!(sample.label("team"), Some("a\"b\\c"), "{sample:?}");
        }
        assert!(found.iter().any(|sample| sample.name.starts_with("process_")));
        assert!(found.iter().any(|sample| sample.name.ends_with("_bucket")));
    }
    let bare = |mut sample: Sample| {
        sample.labels.retain(|(name, _)| name != "job" && name != "team");
        (sample.series(), sample.value.to_bits())
    };
    let stripped: BTreeSet<_> = samples(text).into_iter().map(bare).collect();
    let plain: BTreeSet<_> = samples(&render_text(&without)).into_iter().map(bare).collect();
    assert_eq!(stripped, plain);
}

#[test]
fn the_limit_of_series_counts_series_and_not_their_labels() {
    let snapshot = labelled(&[("job", "1")]);
    let without = Snapshot { labels: Labels::default(), ..snapshot.clone() };
    assert_eq!(render(&snapshot).dropped, render(&without).dropped);
    assert_eq!(
        samples(&render_text(&snapshot)).len(),
        samples(&render_text(&without)).len(),
        "none is lost",
    );
}
