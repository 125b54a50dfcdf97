//! tests

mod checkpoint_files;
