//! Flags to settings to command; exit codes.

mod cli;

use std::process::ExitCode;

/// For memory, not for speed: after a save glibc's heap was 300 MiB with 60 in use.
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
