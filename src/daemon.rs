//! The daemon.

pub mod demo;
pub mod http;
pub mod page;
pub mod textfile;
