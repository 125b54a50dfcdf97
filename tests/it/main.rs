//! Tests across rooms, in one binary.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod exposition;
