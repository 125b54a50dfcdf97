//! Metrics that are written about exist, and those that exist are written about.

use std::collections::BTreeSet;

use weightvane::metrics::{CATALOG, Family, Kind, PREFIX};

use super::{files, repository};

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_word(c));
    words.filter(|word| word.starts_with(PREFIX) && *word != PREFIX).map(str::to_owned).collect()
}

/// Whether a query may name it: a family, or a part of a histogram.
fn exists(name: &str) -> bool {
    let part = |family: &Family| {
        let rest = name.strip_prefix(family.full_name().as_str())?;
        let parts = ["_bucket", "_sum", "_count"];
        Some(rest.is_empty() || family.kind == Kind::Histogram && parts.contains(&rest))
    };
    CATALOG.iter().any(|family| part(family) == Some(true))
}

#[test]
fn names_in_dashboards_rules_and_configuration_exist() {
    let text = |path: &str| std::path::Path::new(path).extension().is_none_or(|end| end != "png");
    let all = files("config", text).into_iter().chain(files("grafana", text));
    let mut unknown = Vec::new();
    for (path, text) in all {
        let foreign = names(&text).into_iter().filter(|name| !exists(name));
        unknown.extend(foreign.map(|name| format!("{}: {name}", path.display())));
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// A metric that no dashboard shows and no rule asks is one that nobody looks at.
#[test]
fn every_metric_is_shown_or_asked_by_a_rule() {
    let is_asked = |path: &str| {
        let end = std::path::Path::new(path).extension();
        end.is_some_and(|end| end == "json") || path.ends_with(".rules.yml")
    };
    let texts = files("grafana", is_asked).into_iter().chain(files("config", is_asked));
    let named: BTreeSet<String> = texts.flat_map(|(_, text)| names(&text)).collect();
    let parts = |family: &Family| {
        let bucket = if family.kind == Kind::Histogram { "_bucket" } else { "" };
        format!("{}{bucket}", family.full_name())
    };
    let missing: Vec<_> = CATALOG.iter().map(parts).filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let readme = std::fs::read_to_string(repository().join("README.md"));
    let named = names(&readme.expect("README.md is missing"));
    let unknown: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty(), "README.md names what does not exist: {unknown:#?}");
    let catalogue = CATALOG.iter().map(Family::full_name);
    let missing: Vec<_> = catalogue.filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "README.md lacks {missing:#?}");
}

#[test]
fn names_are_told_from_other_words() {
    let text = "`weightvane_alignment_mean{run=~\".+\"}` weightvane_ weightvane:rule weightvane";
    assert_eq!(names(text), BTreeSet::from(["weightvane_alignment_mean".to_owned()]));
    assert!(
        exists("weightvane_alignment_mean")
            && exists("weightvane_analysis_duration_seconds_bucket")
    );
    for name in ["weightvane_alignment", "weightvane_alignment_mean_sum", "weightvane_no"] {
        assert!(!exists(name), "{name}");
    }
}
