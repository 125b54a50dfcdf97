//! From samples to bytes: the Prometheus data model, text 0.0.4, OpenMetrics, and both gzipped.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use prometheus::TextEncoder;
use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::catalog::{CATALOG, Family, Kind};
use super::collect::{TOTAL_SERIES_LIMIT, collect};
use super::openmetrics;
use super::series::Series;
use super::snapshot::{DurationHistogram, Snapshot};

/// Content type of [`Exposition::text`].
pub const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type of [`Exposition::openmetrics`].
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A snapshot in every form that is served. Cloning copies nothing.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// Prometheus text 0.0.4.
    pub text: Bytes,
    /// The same, gzipped.
    pub text_gzip: Bytes,
    /// OpenMetrics 1.0 text.
    pub openmetrics: Bytes,
    /// The same, gzipped.
    pub openmetrics_gzip: Bytes,
    /// Run → series left out of these bytes because of the limit; 0 for every other run.
    pub dropped: BTreeMap<String, u64>,
}

/// Renders a snapshot in every form. The same snapshot gives the same bytes.
#[must_use]
pub fn render(snapshot: &Snapshot) -> Exposition {
    let (families, dropped) = model(snapshot);
    let text = text(&families);
    let openmetrics = openmetrics::encode(&families);
    Exposition {
        text_gzip: gzip(text.as_bytes()),
        text: text.into(),
        openmetrics_gzip: gzip(openmetrics.as_bytes()),
        openmetrics: openmetrics.into(),
        dropped,
    }
}

/// Renders a snapshot as text 0.0.4 alone, as a file for `node_exporter` needs it.
#[must_use]
pub fn render_text(snapshot: &Snapshot) -> String {
    text(&model(snapshot).0)
}

/// `process_*` of this process: CPU, memory, file descriptors, threads, start time. Reads `/proc`;
/// empty where there is none.
#[must_use]
pub fn process_families() -> Vec<MetricFamily> {
    let mut families = ProcessCollector::for_self().collect();
    families.sort_by(|a, b| a.name().cmp(b.name()));
    families
}

fn model(snapshot: &Snapshot) -> (Vec<MetricFamily>, BTreeMap<String, u64>) {
    let (series, dropped) = collect(snapshot, TOTAL_SERIES_LIMIT);
    let ours = CATALOG.iter().map(|family| metric_family(family, &series));
    let all = ours.chain(snapshot.process.iter().cloned());
    let mut all: Vec<_> = all.filter(|family| !family.get_metric().is_empty()).collect();
    if !snapshot.labels.is_empty() {
        let more: Vec<_> = snapshot.labels.iter().map(|(name, value)| pair(name, value)).collect();
        for metric in all.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut pairs = metric.take_label();
            pairs.extend_from_slice(&more);
            metric.set_label(pairs);
        }
    }
    (all, dropped)
}

fn text(families: &[MetricFamily]) -> String {
    TextEncoder::new()
        .encode_to_string(families)
        .expect("families have names and samples, and a String takes every byte")
}

fn metric_family(family: &Family, series: &Series) -> MetricFamily {
    let samples = series.of(family).iter();
    let metrics: Vec<Metric> = match family.kind {
        Kind::Gauge => samples.map(|(labels, value)| gauge(family, labels, *value)).collect(),
        Kind::Counter => samples.map(|(labels, value)| counter(family, labels, *value)).collect(),
        Kind::Histogram => series.histogram.iter().map(histogram).collect(),
    };
    let mut out = MetricFamily::default();
    out.set_name(family.full_name());
    out.set_help(family.help.to_owned());
    out.set_field_type(match family.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    out.set_metric(metrics);
    out
}

fn gauge(family: &Family, labels: &[String], value: f64) -> Metric {
    let mut metric = Metric::from_label(label_pairs(family, labels));
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn counter(family: &Family, labels: &[String], value: f64) -> Metric {
    let mut metric = Metric::from_label(label_pairs(family, labels));
    let mut counter = Counter::default();
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

fn histogram(durations: &DurationHistogram) -> Metric {
    let buckets = durations.cumulative().map(|(bound, n)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(n);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.count());
    histogram.set_sample_sum(durations.sum());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric
}

fn label_pairs(family: &Family, values: &[String]) -> Vec<LabelPair> {
    let present = family.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
    present.map(|(name, value)| pair(name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn gzip(bytes: &[u8]) -> Bytes {
    // Label names repeat so much that the fastest level already reaches a tenth of the size.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
        .into()
}
