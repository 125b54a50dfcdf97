//! tests

mod golden_linalg;
