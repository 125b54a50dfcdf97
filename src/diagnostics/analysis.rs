//! The order of work on one checkpoint: one pass over its depth, tensors kept while neighbours need
//! them.

use std::collections::BTreeMap;

use faer::Mat;

use super::store::{Dense, Store};
use super::{Report, Skipped, alignment, classifier, heads, spectra};
use crate::checkpoint::{Manifest, ReadError};
use crate::linalg::{LinalgError, Side, Spectrum};
use crate::model::{LayerGraph, Operand, Role, View};

/// What is measured, and within which memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Subspace dimensions k, rising.
    pub k: Vec<usize>,
    /// Dimensions k at which the turn of the leading output subspace is measured, rising.
    pub rotation_k: Vec<usize>,
    /// Bytes of decoded tensors kept at a time.
    pub memory_limit: u64,
}

/// What of a save is kept in memory to compare the next one with.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Matrix name → its leading left singular vectors, rows × max(rotation k).
    bases: BTreeMap<String, Mat<f64>>,
}

/// The save before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Previous<'a> {
    /// Its files, where they are still there: gives update sizes.
    pub manifest: Option<&'a Manifest>,
    /// Its leading subspaces: gives rotations.
    pub baseline: Option<&'a Baseline>,
}

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

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// A tensor could not be read, or changed while it was.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The observer asked to stop.
    #[error("analysis was cancelled")]
    Cancelled,
}

/// Spectra remembered while neighbouring pairs use them.
const KEPT_SPECTRA: usize = 8;

/// The work on one checkpoint.
pub(super) struct Analysis<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) store: Store<'a>,
    pub(super) previous_store: Option<Store<'a>>,
    pub(super) options: &'a Options,
    pub(super) previous: Previous<'a>,
    pub(super) baseline: Baseline,
    pub(super) report: Report,
    spectra: Vec<(Operand, Side, Spectrum)>,
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
    let mut analysis = Analysis {
        manifest,
        store: Store::new(manifest, options.memory_limit),
        previous_store: previous.manifest.map(|m| Store::new(m, options.memory_limit / 4)),
        options,
        previous,
        baseline: Baseline::default(),
        report: empty_report(manifest, graph, buffers),
        spectra: Vec::new(),
    };
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
    let Analysis { store, baseline, report, .. } = analysis;
    Ok(Outcome { report, baseline, read_bytes: store.read_bytes() })
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

impl Analysis<'_> {
    pub(super) fn skip(&mut self, name: &str, reason: String) {
        self.report.skipped.push(Skipped { name: name.to_owned(), reason });
    }

    /// Whether one of these is too large to be decoded; then `name` is skipped, with the reason.
    pub(super) fn too_large(&mut self, name: &str, views: &[View]) -> bool {
        let too_large = views.iter().any(|v| !self.store.fits(&v.tensor));
        if too_large {
            self.skip(name, self.store.limit_reason());
        }
        too_large
    }

    /// The largest k that any overlap asks for.
    pub(super) fn k_max(&self) -> usize {
        self.options.k.last().copied().unwrap_or(1)
    }

    /// The spectrum of an operand, computed or remembered. `k_max` beyond the usual one (classifier
    /// pairs) is computed anew.
    pub(super) fn spectrum(
        &mut self,
        operand: &Operand,
        dense: &Dense,
        side: Side,
        k_max: usize,
    ) -> Result<Spectrum, LinalgError> {
        let same = |o: &Operand| {
            o.parts == operand.parts && o.transposed == operand.transposed && o.gain == operand.gain
        };
        let usual = k_max <= self.k_max();
        if let Some((_, _, known)) =
            self.spectra.iter().find(|(o, s, _)| usual && *s == side && same(o))
        {
            return Ok(known.clone());
        }
        let eps = self.store.storage_eps(&operand.parts);
        let spectrum = Spectrum::compute(dense.mat(), side, k_max.max(self.k_max()), eps)?;
        if usual {
            if self.spectra.len() == KEPT_SPECTRA {
                self.spectra.remove(0);
            }
            self.spectra.push((operand.clone(), side, spectrum.clone()));
        }
        Ok(spectrum)
    }

    /// Keeps a matrix's leading left vectors for the next save.
    pub(super) fn keep_basis(&mut self, name: &str, spectrum: &Spectrum) {
        let wanted = self.options.rotation_k.last().copied().unwrap_or(0);
        let columns = wanted.min(spectrum.basis.ncols());
        let basis = spectrum.basis.as_ref().subcols(0, columns).to_owned();
        self.baseline.bases.insert(name.to_owned(), basis);
    }

    /// The leading left vectors that a matrix had in the save before.
    pub(super) fn previous_basis(&self, name: &str) -> Option<&Mat<f64>> {
        self.previous.baseline?.bases.get(name)
    }
}
