//! The daemon.

pub mod http;
pub mod page;
