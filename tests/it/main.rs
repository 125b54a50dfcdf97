//! tests

mod watch_dirs;
