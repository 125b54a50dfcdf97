//! Integration tests, one binary.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed lookup or unwrap is a failed test"
)]

mod adapters;
mod anomalies;
mod architectures;
mod checkpoint_files;
mod compare;
mod containers;
mod degenerate;
mod exposition;
mod formats;
mod fuzz;
mod golden_linalg;
mod history;
mod http;
mod kept;
mod namings;
mod package;
mod physics;
mod plan;
mod recognize;
mod replay;
mod rules;
mod serve;
mod support;
mod tidy;
mod torch_hostile;
mod truth;
mod watch_dirs;
