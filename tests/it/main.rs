//! Integration tests, one binary.
#![expect(clippy::panic, reason = "a failed lookup is a failed test")]

mod checkpoint_files;
mod exposition;
mod golden_linalg;
mod namings;
mod physics;
mod serve;
mod support;
mod tidy;
mod truth;
mod watch_dirs;
