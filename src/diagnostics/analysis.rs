//! The order of work on one checkpoint: one pass over its depth, tensors kept while neighbours need
//! them.

use super::work::{Analysis, AnalyzeError, Baseline, Options, Previous};
use super::{Report, Skipped, alignment, classifier, heads, spectra};
use crate::checkpoint::Manifest;
use crate::model::{LayerGraph, Role};

/// Told of progress, asked whether to go on.
pub trait Observer {
    /// `done` of `total` parts are measured.
    fn progress(&self, done: usize, total: usize);
    /// Whether the result is still wanted.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that does not care.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _done: usize, _total: usize) {}
}

/// Measurements of one checkpoint and what the next one needs of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The measurements.
    pub report: Report,
    /// For the next save.
    pub baseline: Baseline,
    /// Bytes of tensors read.
    pub read_bytes: u64,
}

/// Measures a checkpoint.
///
/// A tensor with a NaN, a shape that does not fit or a decomposition that fails costs that tensor
/// and its pairs, which stand in `skipped`; the rest is measured.
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
    observer: &dyn Observer,
) -> Result<Outcome, AnalyzeError> {
    let mut analysis =
        Analysis::new(manifest, options, previous, empty_report(manifest, graph, buffers));
    let total = graph.matrices.len() + graph.pairs.len() + graph.heads.len() + 1;
    let mut done = 0;
    let mut tick = || {
        done += 1;
        observer.progress(done, total);
        if observer.cancelled() { Err(AnalyzeError::Cancelled) } else { Ok(()) }
    };
    // Depth by depth, so that a tensor's matrix, pairs and heads meet while it is in memory.
    let mut matrices = graph.matrices.iter().peekable();
    let mut pairs = graph.pairs.iter().peekable();
    let mut head_sets = graph.heads.iter().peekable();
    let depth = graph.matrices.iter().filter_map(|m| m.layer).max().map_or(0, |l| l + 1);
    for layer in 0..=depth {
        while let Some(matrix) = matrices.next_if(|m| m.layer.is_none_or(|l| l <= layer)) {
            spectra::measure(&mut analysis, matrix)?;
            tick()?;
        }
        while let Some(set) = head_sets.next_if(|h| h.layer <= layer) {
            heads::measure(&mut analysis, set)?;
            tick()?;
        }
        while let Some(pair) = pairs.next_if(|p| p.layer.is_none_or(|l| l <= layer)) {
            alignment::measure(&mut analysis, pair)?;
            tick()?;
        }
    }
    if let Some(matrix) = graph.matrices.iter().find(|m| m.role == Role::Classifier) {
        classifier::measure(&mut analysis, matrix)?;
    }
    count_the_rest(&mut analysis, manifest, graph)?;
    tick()?;
    // A second look: what changed while it was read may be torn.
    manifest.unchanged()?;
    let before = analysis.previous_store.as_ref().map_or(0, super::store::Store::read_bytes);
    let read_bytes = analysis.store.read_bytes() + before;
    Ok(Outcome { report: analysis.report, baseline: analysis.baseline, read_bytes })
}

fn empty_report(manifest: &Manifest, graph: &LayerGraph, buffers: &[&str]) -> Report {
    let is_parameter = |name: &str| !buffers.contains(&name);
    let parameters = manifest
        .tensors
        .iter()
        .filter(|t| t.dtype.is_float() && is_parameter(&t.name))
        .map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>())
        .sum();
    let skipped = graph
        .skipped
        .iter()
        .map(|left| Skipped { name: left.name.clone(), reason: left.reason.clone() })
        .collect();
    Report {
        checkpoint: manifest.name.clone(),
        step: manifest.step,
        format: manifest.format,
        architecture: graph.architecture.clone(),
        parameters,
        matrices: Vec::new(),
        pairs: Vec::new(),
        heads: Vec::new(),
        classifier: None,
        skipped,
        nan: 0,
        inf: 0,
    }
}

/// NaN and infinities in the tensors that are no matrices of the graph; those of the matrices are
/// counted already.
fn count_the_rest(
    analysis: &mut Analysis<'_>,
    manifest: &Manifest,
    graph: &LayerGraph,
) -> Result<(), AnalyzeError> {
    let used: std::collections::HashSet<&str> =
        graph.matrices.iter().map(|m| m.view.tensor.as_str()).collect();
    for info in manifest.tensors.iter().filter(|t| t.dtype.is_float()) {
        if used.contains(info.name.as_str()) {
            continue;
        }
        if !analysis.store.fits(&info.name) {
            analysis.skip(&info.name, analysis.store.limit_reason());
            continue;
        }
        let tensor = analysis.store.tensor(&info.name)?;
        let (nan, inf) = (tensor.nan, tensor.inf);
        analysis.report.nan += nan;
        analysis.report.inf += inf;
        if nan + inf > 0 {
            analysis.skip(&info.name, format!("holds {nan} NaN and {inf} infinite values"));
        }
    }
    Ok(())
}
