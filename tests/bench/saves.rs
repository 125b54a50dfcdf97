//! What whole saves cost, and how fast the kernels are that an analysis is made of; one JSON line a
//! result.
//!
//! `saves save CHECKPOINT...` analyses the checkpoints in order in one process, each compared with
//! the one before, at default settings. `saves kernels CHECKPOINT` measures dense products,
//! decompositions, and the reading and hashing of that checkpoint; `saves rates CHECKPOINT` those
//! alone that floors are made of.

mod clock;
mod kernels;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use weightvane::checkpoint::{self, Manifest};
use weightvane::config::{Settings, architectures};
use weightvane::diagnostics::{self, Baseline, Options, Previous, Unobserved};
use weightvane::model::{self, Rule};

type Error = Box<dyn std::error::Error>;

/// As in the program.
#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    faer::set_global_parallelism(faer::Par::Seq);
    // Cargo adds `--bench` to what a bench target is called with.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let done = match args.split_first() {
        Some((command, paths)) if command == "save" && !paths.is_empty() => save(paths),
        Some((command, [path])) if command == "kernels" => kernels::measure(Path::new(path)),
        Some((command, [path])) if command == "rates" => kernels::rates(Path::new(path)),
        _ => Err("usage: saves save CHECKPOINT... | saves kernels|rates CHECKPOINT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "saves: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What of a save the next one is compared with.
struct Kept {
    manifest: Manifest,
    baseline: Baseline,
}

/// What an analysis says of its own work.
struct Work {
    parameters: u64,
    n_matrices: usize,
    n_pairs: usize,
    n_skipped: usize,
    read_bytes: u64,
    /// Floating-point operations of the products, where the analysis counts them.
    flops: Option<u64>,
}

/// The one place that follows the library's interface.
fn analyse(
    path: &Path,
    before: Option<&Kept>,
    options: &Options,
    rules: &[Rule],
) -> Result<(Work, Kept), Error> {
    let manifest = checkpoint::open(path)?;
    let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), rules);
    let buffers = model::buffers(&manifest.tensors, &graph, rules);
    let previous =
        Previous { manifest: before.map(|b| &b.manifest), baseline: before.map(|b| &b.baseline) };
    let outcome =
        diagnostics::analyze(&manifest, &graph, &buffers, options, previous, None, &Unobserved)?;
    let work = Work {
        parameters: outcome.report.parameters,
        n_matrices: outcome.report.matrices.len(),
        n_pairs: outcome.report.pairs.len(),
        n_skipped: outcome.report.skipped.len(),
        read_bytes: outcome.read_bytes,
        flops: Some(outcome.flops),
    };
    Ok((work, Kept { manifest, baseline: outcome.baseline }))
}

fn default_options() -> Options {
    let Settings { k, rotation_k, memory_limit, exact_limit, threads, .. } = Settings::default();
    Options { k, rotation_k, memory_limit, exact_limit, threads, ..Options::default() }
}

fn save(paths: &[String]) -> Result<(), Error> {
    let (options, rules) = (default_options(), architectures::load(None)?);
    let mut before: Option<Kept> = None;
    for path in paths.iter().map(PathBuf::from) {
        // The page cache holds what the save before pushed out, so that no disk is measured.
        if let Some(kept) = &before {
            warm(&kept.manifest)?;
        }
        warm(&checkpoint::open(&path)?)?;
        forget_peak()?;
        let start = clock::Reading::now();
        let (work, kept) = analyse(&path, before.as_ref(), &options, &rules)?;
        let spent = start.elapsed();
        print(&json!({
            "checkpoint": path.display().to_string(),
            "cpu": spent.process,
            "cpu_thread": spent.thread,
            "wall": spent.wall,
            "peak_rss": peak_rss()?,
            "stored_bytes": kept.manifest.n_bytes(),
            "read_bytes": work.read_bytes,
            "flops": work.flops,
            "parameters": work.parameters,
            "matrices": work.n_matrices,
            "pairs": work.n_pairs,
            "skipped": work.n_skipped,
        }))?;
        before = Some(kept);
    }
    Ok(())
}

/// Reads the weight files into the page cache.
fn warm(manifest: &Manifest) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for file in &manifest.files {
        let mut file = File::open(&file.path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

/// Sets the peak back to what is resident now (proc(5), `clear_refs`).
fn forget_peak() -> io::Result<()> {
    std::fs::write("/proc/self/clear_refs", "5")
}

/// Peak resident memory in bytes since [`forget_peak`].
fn peak_rss() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).ok_or("no VmHWM in status")?;
    Ok(kib.parse::<u64>()? << 10)
}

fn print(value: &Value) -> io::Result<()> {
    writeln!(io::stdout(), "{value}")
}
