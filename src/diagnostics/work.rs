//! The work on one checkpoint: what is open, remembered and measured so far.

use std::collections::BTreeMap;

use faer::Mat;

use super::store::{Dense, Store};
use super::{Report, Skipped};
use crate::checkpoint::{Manifest, ReadError};
use crate::linalg::{LinalgError, Side, Spectrum};
use crate::model::{Operand, View};

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

impl<'a> Analysis<'a> {
    pub(super) fn new(
        manifest: &'a Manifest,
        options: &'a Options,
        previous: Previous<'a>,
        report: Report,
    ) -> Self {
        Self {
            manifest,
            store: Store::new(manifest, options.memory_limit),
            previous_store: previous.manifest.map(|m| Store::new(m, options.memory_limit / 4)),
            options,
            previous,
            baseline: Baseline::default(),
            report,
            spectra: Vec::new(),
        }
    }

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

    /// The largest k that any overlap or rotation asks for.
    pub(super) fn k_max(&self) -> usize {
        let last = |ks: &[usize]| ks.last().copied().unwrap_or(1);
        last(&self.options.k).max(last(&self.options.rotation_k))
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
