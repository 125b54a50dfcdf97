//! Integration tests, one binary.

mod exposition;
mod golden_linalg;
mod physics;
mod watch_dirs;
