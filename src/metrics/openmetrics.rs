//! OpenMetrics 1.0 text of the Prometheus data model.
//!
//! It differs from text 0.0.4 in four places: a counter's HELP and TYPE stand at the name without
//! `_total`, quotes are escaped in HELP too, `le` is a float, and the end is marked.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The exposition with its `# EOF`. Summaries and untyped families, which nothing here makes, are
/// left out.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        match family.get_field_type() {
            MetricType::GAUGE => {
                simple(&mut out, family, "gauge", "", |m| m.get_gauge().get_value());
            }
            MetricType::COUNTER => {
                simple(&mut out, family, "counter", "_total", |m| m.get_counter().get_value());
            }
            MetricType::HISTOGRAM => histogram(&mut out, family),
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    out.push_str("# EOF\n");
    out
}

/// TYPE and HELP of a family.
pub(super) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    write_all(out, format_args!("# TYPE {name} {kind}\n# HELP {name} {}\n", escape(help)));
}

fn simple(
    out: &mut String,
    family: &MetricFamily,
    kind: &str,
    suffix: &str,
    value: impl Fn(&Metric) -> f64,
) {
    let name = family.name().strip_suffix(suffix).unwrap_or(family.name());
    head(out, name, kind, family.help());
    for metric in family.get_metric() {
        write_all(out, format_args!("{name}{suffix}"));
        labels(out, metric.get_label(), None);
        write_all(out, format_args!(" {}\n", value(metric)));
    }
}

fn histogram(out: &mut String, family: &MetricFamily) {
    let name = family.name();
    head(out, name, "histogram", family.help());
    for metric in family.get_metric() {
        let histogram = metric.get_histogram();
        let pairs = metric.get_label();
        let buckets = histogram.get_bucket().iter();
        let finite = buckets.map(|b| (format!("{:?}", b.upper_bound()), b.cumulative_count()));
        let all = ("+Inf".to_owned(), histogram.get_sample_count());
        for (le, n) in finite.chain([all]) {
            write_all(out, format_args!("{name}_bucket"));
            labels(out, pairs, Some(&le));
            write_all(out, format_args!(" {n}\n"));
        }
        write_all(out, format_args!("{name}_count"));
        labels(out, pairs, None);
        write_all(out, format_args!(" {}\n{name}_sum", histogram.get_sample_count()));
        labels(out, pairs, None);
        write_all(out, format_args!(" {}\n", histogram.get_sample_sum()));
    }
}

fn labels(out: &mut String, pairs: &[LabelPair], le: Option<&str>) {
    let le = le.map(|le| ("le", le));
    let mut separator = '{';
    for (name, value) in pairs.iter().map(|pair| (pair.name(), pair.value())).chain(le) {
        write_all(out, format_args!("{separator}{name}=\"{}\"", escape(value)));
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
}

/// What stands between quotes.
pub(super) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write_all(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes every character");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_the_grammar_reserves() {
        assert_eq!(escape("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
