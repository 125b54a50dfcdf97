//! A strict reader of the two text formats, as far as weightvane writes them.

#![expect(clippy::panic, reason = "a broken line is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

/// A sample line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    /// Value of a label.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    /// Name and labels.
    pub(super) fn series(&self) -> (String, Vec<(String, String)>) {
        let mut labels = self.labels.clone();
        labels.sort();
        (self.name.clone(), labels)
    }
}

/// Sample lines of either format.
pub(super) fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// Parses one sample line; panics with the line where the grammar is broken.
pub(super) fn sample(line: &str) -> Sample {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = line.find(|c| !is_name(c)).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
            assert!(labels.iter().all(|(other, _)| other != label), "{label} twice: {line}");
            let (value, after) = unescape(after, line);
            labels.push((label.to_owned(), value));
            rest = &after[1..];
            match after.as_bytes()[0] {
                b',' => {}
                b'}' => break,
                _ => panic!("neither , nor }}: {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space: {line}"));
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("value or timestamp: {line}"));
    assert!(value.is_finite(), "{line}");
    Sample { name: name.to_owned(), labels, value }
}

/// The string up to its closing quote, and what follows the quote.
fn unescape<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((idx, c)) = chars.next() {
        match c {
            '"' => return (out, &text[idx + 1..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some(c @ ('"' | '\\')) => out.push(c),
                other => panic!("escape {other:?}: {line}"),
            },
            c => out.push(c),
        }
    }
    panic!("open string: {line}");
}

/// Checks an OpenMetrics 1.0 exposition and returns family → (type, samples).
pub(super) fn check(text: &str) -> BTreeMap<String, (String, Vec<Sample>)> {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut families: BTreeMap<String, (String, Vec<Sample>)> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# TYPE ") {
            let (name, kind) = meta.split_once(' ').unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            name.clone_into(&mut current);
            let fresh = families.insert(current.clone(), (kind.to_owned(), Vec::new()));
            assert!(fresh.is_none(), "family twice: {line}");
        } else if let Some(meta) = line.strip_prefix("# HELP ") {
            let (name, help) = meta.split_once(' ').unwrap();
            assert_eq!(name, current, "HELP away from its TYPE");
            assert!(families[name].1.is_empty() && helped.insert(name), "late or second: {line}");
            let quoted = format!("{help}\"");
            let (_, rest) = unescape(&quoted, line);
            assert_eq!(rest, "", "unescaped quote: {line}");
        } else {
            let sample = sample(line);
            let (kind, samples) = families.get_mut(&current).expect("TYPE before samples");
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line}"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_count", "_sum"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{suffix} in a {kind}: {line}");
            assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
            samples.push(sample);
        }
    }
    assert!(families.keys().all(|name| helped.contains(name.as_str())), "family without HELP");
    let named = families.values().flat_map(|(_, samples)| samples).map(|s| &s.name);
    let written: BTreeSet<&String> = named.collect();
    for (name, (kind, samples)) in &families {
        assert!(!samples.is_empty(), "{name} is empty");
        // A family `x` of counters owns the name `x_total`, and so on.
        assert!(kind == "gauge" || !written.contains(name), "{name} is owned twice");
        if kind == "histogram" {
            buckets(name, samples);
        }
    }
    families
}

fn buckets(name: &str, samples: &[Sample]) {
    let of = |suffix: &str| {
        samples.iter().filter(|sample| sample.name == format!("{name}{suffix}")).collect::<Vec<_>>()
    };
    let buckets = of("_bucket");
    let mut previous = (f64::NEG_INFINITY, 0.0);
    for bucket in &buckets {
        let le = bucket.label("le").unwrap();
        assert!(le.contains('.') || le == "+Inf", "le is not a canonical float: {le}");
        let next = (le.parse().unwrap(), bucket.value);
        assert!(next.0 > previous.0 && next.1 >= previous.1, "{previous:?} then {next:?}");
        previous = next;
    }
    assert_eq!(previous, (f64::INFINITY, of("_count")[0].value));
    assert_eq!(of("_sum").len(), 1);
}
