//! The work on one checkpoint, shared out to threads and put together again.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::Xxh3;

use super::baseline::{Baseline, Known, Made, Mark};
use super::observer::Observer;
use super::options::Options;
use super::tasks::{Task, last_uses, shares, wanted_ks};
use super::work::{Analysis, AnalyzeError, Previous};
use super::{Report, Skipped, adapter, alignment, classifier, heads, spectra};
use crate::checkpoint::Manifest;
use crate::disk;
use crate::model::LayerGraph;

/// Measurements of one checkpoint and what the next one needs of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The measurements.
    pub report: Report,
    /// For the next save.
    pub baseline: Baseline,
    /// Bytes of tensors read.
    pub read_bytes: u64,
    /// Floating-point operations of the products with large matrices.
    pub flops: u64,
    /// CPU time of the threads that were started for it, without that of the caller's.
    pub cpu_elsewhere: Duration,
}

/// Measures a checkpoint.
///
/// A tensor with a NaN, a shape that does not fit or a decomposition that fails costs that tensor
/// and its pairs, which stand in `skipped`; the rest is measured. `base` is the model that an adapter
/// changes; where it cannot be read, that costs the comparison with it.
///
/// # Errors
/// [`AnalyzeError::Read`] when the files cannot be read or have changed since the manifest was
/// made; then nothing of the save may be used. [`AnalyzeError::Cancelled`] on request.
pub fn analyze(
    manifest: &Manifest,
    graph: &LayerGraph,
    buffers: &[&str],
    options: &Options,
    previous: Previous<'_>,
    base: Option<&Manifest>,
    observer: &dyn Observer,
) -> Result<Outcome, AnalyzeError> {
    let tasks = Task::all(graph);
    let wanted = wanted_ks(graph, options);
    let fingerprint = fingerprint(graph);
    let baseline = previous.baseline.filter(|baseline| baseline.is_of(fingerprint));
    let previous = Previous { baseline, ..previous };
    let known = previous.baseline.and_then(|b| Known::new(b, options));
    let shared = Shared {
        manifest,
        options,
        previous,
        known: known.as_ref(),
        wanted: &wanted,
        total: tasks.len() + graph.adapters.len() + 1,
        done: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        observer,
    };
    let (parts, cpu_elsewhere) = shared.run(&shares(&tasks, options.threads.max(1)))?;
    let mut report = empty_report(manifest, graph, buffers);
    let mut baseline = Baseline::default();
    let (mut read_bytes, mut flops) = (0, 0);
    for part in parts.into_iter().chain(shared.adapters(graph, base)?) {
        report.append(part.report);
        baseline.merge(part.baseline);
        read_bytes += part.read_bytes;
        flops += part.flops;
    }
    let rest = shared.count_the_rest(graph, &baseline.marks, &mut report)?;
    read_bytes += rest.read_bytes;
    baseline.merge(rest.baseline);
    shared.tick()?;
    // A second look: what changed while it was read may be torn.
    manifest.unchanged()?;
    let made = Made { options: options.clone(), graph: fingerprint };
    baseline.measured = Some((Arc::new(report.clone()), made));
    Ok(Outcome { report, baseline, read_bytes, flops, cpu_elsewhere })
}

/// What the threads share.
struct Shared<'a> {
    manifest: &'a Manifest,
    options: &'a Options,
    previous: Previous<'a>,
    known: Option<&'a Known<'a>>,
    wanted: &'a BTreeMap<String, Vec<usize>>,
    total: usize,
    done: AtomicUsize,
    /// Whether a thread failed: then the work of the others is in vain.
    failed: AtomicBool,
    observer: &'a dyn Observer,
}

impl Observer for Shared<'_> {
    fn progress(&self, done: usize, total: usize) {
        self.observer.progress(done, total);
    }

    fn cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.observer.cancelled()
    }

    fn has_read(&self, bytes: u64) {
        self.observer.has_read(bytes);
    }
}

/// What one thread brings.
struct Part {
    report: Report,
    baseline: Baseline,
    read_bytes: u64,
    flops: u64,
}

impl Shared<'_> {
    fn tick(&self) -> Result<(), AnalyzeError> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress(done, self.total);
        if self.cancelled() { Err(AnalyzeError::Cancelled) } else { Ok(()) }
    }

    fn marks(&self) -> Option<&BTreeMap<String, Mark>> {
        self.previous.baseline.map(|b| &b.marks)
    }

    /// Every share on a thread of its own, the first on this one; their parts in order, and the CPU
    /// time of the others.
    fn run(&self, shares: &[&[Task<'_>]]) -> Result<(Vec<Part>, Duration), AnalyzeError> {
        let Some((first, others)) = shares.split_first() else { return Ok(Default::default()) };
        // What the others wait for is noted where this one's is.
        let operations = disk::current();
        std::thread::scope(|scope| {
            let operations = &operations;
            let timed = |share| {
                let part = self.measure(share);
                self.failed.fetch_or(part.is_err(), Ordering::Relaxed);
                (part, clock_gettime(ClockId::ThreadCPUTime))
            };
            // Started threads inherit the scheduling class of this one.
            let others: Vec<_> = others
                .iter()
                .map(|share| {
                    scope.spawn(move || {
                        let _here = disk::adopt(operations.clone());
                        timed(share)
                    })
                })
                .collect();
            let mut parts = vec![timed(*first).0];
            let mut elsewhere = Duration::ZERO;
            for other in others {
                // A panic of a thread is one of this job, which its caller catches.
                let (part, cpu) =
                    other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                parts.push(part);
                elsewhere += Duration::try_from(cpu).unwrap_or_default();
            }
            // The others were cancelled by the one that failed, whose error counts.
            let is_cause = |p: &Result<Part, AnalyzeError>| matches!(p, Err(error) if !matches!(error, AnalyzeError::Cancelled));
            if let Some(cause) = parts.iter().position(is_cause) {
                parts.swap(0, cause);
            }
            Ok((parts.into_iter().collect::<Result<_, _>>()?, elsewhere))
        })
    }

    fn measure(&self, tasks: &[Task<'_>]) -> Result<Part, AnalyzeError> {
        let mut analysis = Analysis::new(
            self.manifest,
            self.options,
            self.previous,
            self.known,
            self.wanted,
            self.marks(),
            self,
            Report::default(),
        );
        for (task, done_with) in tasks.iter().zip(last_uses(tasks)) {
            analysis.begin();
            match task {
                Task::Matrix(matrix) => spectra::measure(&mut analysis, matrix)?,
                Task::Heads(set) => heads::measure(&mut analysis, set)?,
                Task::Pair(pair) => alignment::measure(&mut analysis, pair)?,
                Task::Classifier(matrix) => classifier::measure(&mut analysis, matrix)?,
            }
            for tensor in done_with {
                analysis.store.release(tensor);
            }
            self.tick()?;
        }
        Ok(analysis.into())
    }

    /// What an adapter adds to its base model.
    fn adapters(
        &self,
        graph: &LayerGraph,
        base: Option<&Manifest>,
    ) -> Result<Option<Part>, AnalyzeError> {
        if graph.adapters.is_empty() {
            return Ok(None);
        }
        let mut analysis = Analysis::new(
            self.manifest,
            self.options,
            Previous { manifest: None, ..self.previous },
            None,
            self.wanted,
            None,
            self,
            Report::default(),
        );
        let of_base = adapter::measure(&mut analysis, graph, base, self, &|| self.tick())?;
        let mut part = Part::from(analysis);
        part.read_bytes += of_base;
        Ok(Some(part))
    }

    /// NaN and infinities in the tensors that are no matrices of the graph; those of the matrices
    /// are counted already.
    fn count_the_rest(
        &self,
        graph: &LayerGraph,
        seen: &BTreeMap<String, Mark>,
        report: &mut Report,
    ) -> Result<Part, AnalyzeError> {
        let used: HashSet<&str> = graph.matrices.iter().map(|m| m.view.tensor.as_str()).collect();
        let mut analysis = Analysis::new(
            self.manifest,
            self.options,
            Previous::default(),
            None,
            self.wanted,
            self.marks(),
            self,
            Report::default(),
        );
        for info in self.manifest.tensors.iter().filter(|t| t.dtype.is_float()) {
            if used.contains(info.name.as_str()) {
                continue;
            }
            // Gains and biases were met with their matrices.
            let mark = match seen.get(info.name.as_str()) {
                Some(mark) => *mark,
                None => analysis.store.mark(&info.name)?,
            };
            analysis.store.release(&info.name);
            let (nan, inf) = (mark.nan, mark.inf);
            report.nan += nan;
            report.inf += inf;
            if nan + inf > 0 {
                let reason = format!("holds {nan} NaN and {inf} infinite values");
                report.skipped.push(Skipped { name: info.name.to_string(), reason });
            }
        }
        Ok(analysis.into())
    }
}

impl From<Analysis<'_>> for Part {
    fn from(analysis: Analysis<'_>) -> Self {
        let before = analysis.previous_store.as_ref().map_or(0, super::store::Store::read_bytes);
        let read_bytes = analysis.store.read_bytes() + before;
        let mut baseline = analysis.baseline;
        baseline.marks = analysis.store.into_marks();
        Self { report: analysis.report, baseline, read_bytes, flops: analysis.flops }
    }
}

/// Hash of the graph as it is told for debugging, which is never there as a whole: it takes two KiB
/// for each matrix.
fn fingerprint(graph: &LayerGraph) -> u128 {
    struct Hashed(Xxh3);
    impl std::fmt::Write for Hashed {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut hashed = Hashed(Xxh3::new());
    // Neither the graph nor the hash ever fails.
    let _ = write!(hashed, "{graph:?}");
    hashed.0.digest128()
}

fn empty_report(manifest: &Manifest, graph: &LayerGraph, buffers: &[&str]) -> Report {
    let buffers: HashSet<&str> = buffers.iter().copied().collect();
    let is_parameter = |name: &str| !buffers.contains(name);
    let parameters = manifest
        .tensors
        .iter()
        .filter(|t| t.dtype.is_float() && is_parameter(&t.name))
        .map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>())
        .sum();
    let skipped = graph
        .skipped
        .iter()
        .map(|left| Skipped { name: left.name.to_string(), reason: left.reason.to_string() })
        .collect();
    Report {
        checkpoint: manifest.name.clone(),
        step: manifest.step,
        format: manifest.format,
        architecture: graph.architecture.clone(),
        parameters,
        skipped,
        ..Report::default()
    }
}
