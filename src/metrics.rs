//! What is known of the watched runs, as Prometheus metrics.
//!
//! The daemon fills a [`Snapshot`] of plain data; [`render`] turns it into bytes once per change,
//! and a scrape only hands those bytes out. [`CATALOG`] is the one list of names.

mod aggregate;
mod catalog;
mod collect;
mod encode;
mod labels;
mod openmetrics;
mod series;
mod snapshot;
mod timeline;

pub use aggregate::{pair_means, worst_pair};
pub use catalog::{CATALOG, Family, Id, Kind, PREFIX, Tier};
pub use collect::{DEFAULT_SERIES_LIMIT, TOTAL_SERIES_LIMIT};
pub use encode::{
    Exposition, OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE, process_families, render, render_text,
};
pub use labels::{LabelError, Labels, MAX_LABEL_BYTES, MAX_LABELS};
pub use snapshot::{
    DaemonFacts, DurationHistogram, Rejection, RidgeRate, RunFacts, RunState, Snapshot, WatchMode,
    reason,
};
pub use timeline::{MAX_STRETCHES, REPEAT, Timeline, TimelineError};
