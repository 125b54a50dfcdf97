//! Integration tests, one binary.
#![expect(clippy::panic, reason = "a failed lookup is a failed test")]

mod exposition;
mod golden_linalg;
mod namings;
mod physics;
mod support;
mod truth;
