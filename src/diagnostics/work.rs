//! The work on one checkpoint: what is open, remembered and measured so far.

use std::collections::BTreeMap;
use std::rc::Rc;

use faer::Mat;

use super::baseline::{Baseline, Known, Mark};
use super::observer::Observer;
use super::options::{Options, vectors_bytes};
use super::store::{Dense, Store};
use super::tasks::Content;
use super::{Report, Skipped};
use crate::checkpoint::{Manifest, ReadError};
use crate::linalg::{Leading, LinalgError, Route, Side, Spectrum, narrow};
use crate::model::{Matrix, Operand, View};

/// The save before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Previous<'a> {
    /// Its files, where they are still there: gives exact update sizes.
    pub manifest: Option<&'a Manifest>,
    /// What was kept of it.
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

/// Why one measurement is missing.
#[derive(Debug)]
pub(super) enum Missing {
    /// The save cannot be read: nothing of it counts.
    Read(ReadError),
    /// This measurement cannot be made.
    Linalg(LinalgError),
}

impl From<ReadError> for Missing {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<LinalgError> for Missing {
    fn from(error: LinalgError) -> Self {
        Self::Linalg(error)
    }
}

/// Spectra of each kind remembered while neighbouring pairs use them.
const KEPT_SPECTRA: usize = 8;

/// The work of one thread on one checkpoint.
pub(super) struct Analysis<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) store: Store<'a>,
    pub(super) previous_store: Option<Store<'a>>,
    pub(super) options: &'a Options,
    pub(super) previous: Previous<'a>,
    /// Rows of the save before, where the options are the same.
    pub(super) known: Option<&'a Known<'a>>,
    pub(super) baseline: Baseline,
    pub(super) report: Report,
    pub(super) flops: u64,
    wanted: &'a BTreeMap<String, Vec<usize>>,
    exact: Vec<(Content, Side, Rc<Spectrum>)>,
    searched: Vec<(String, Rc<Leading>)>,
}

/// A matrix's spectrum, exact or searched.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Exact(Rc<Spectrum>),
    /// With the side of its vectors, and whether the operand is the transpose of what was searched.
    Searched(Rc<Leading>, Side, bool),
}

impl Found {
    /// With at least the first `n_vectors` vectors, where there are so many.
    pub(super) fn spectrum(&self, n_vectors: usize) -> Rc<Spectrum> {
        match self {
            Self::Exact(spectrum) => Rc::clone(spectrum),
            Self::Searched(leading, side, flipped) => {
                let mut spectrum = leading.spectrum(*side, n_vectors);
                if *flipped {
                    std::mem::swap(&mut spectrum.rows, &mut spectrum.cols);
                }
                Rc::new(spectrum)
            }
        }
    }

    /// How, in words for the report.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Exact(_) => "exact",
            Self::Searched(leading, ..) => match leading.route {
                Route::Cold => "block Lanczos",
                Route::Warm => "one pass",
                Route::Filtered => "Chebyshev",
            },
        }
    }

    /// Singular values, descending.
    pub(super) fn values(&self) -> &[f64] {
        match self {
            Self::Exact(spectrum) => &spectrum.values,
            Self::Searched(leading, ..) => &leading.values,
        }
    }

    /// Leading vectors in `f32`.
    #[expect(clippy::cast_possible_truncation, reason = "deflation needs no more digits")]
    pub(super) fn basis(&self) -> Mat<f32> {
        match self {
            Self::Exact(s) => {
                Mat::from_fn(s.basis.nrows(), s.basis.ncols(), |i, j| s.basis[(i, j)] as f32)
            }
            Self::Searched(leading, Side::Left, _) => leading.left.clone(),
            Self::Searched(leading, Side::Right, _) => leading.right.clone(),
        }
    }
}

impl<'a> Analysis<'a> {
    #[expect(clippy::too_many_arguments, reason = "one for each thing a thread shares")]
    pub(super) fn new(
        manifest: &'a Manifest,
        options: &'a Options,
        previous: Previous<'a>,
        known: Option<&'a Known<'a>>,
        wanted: &'a BTreeMap<String, Vec<usize>>,
        marks: Option<&'a BTreeMap<String, Mark>>,
        observer: &'a dyn Observer,
        report: Report,
    ) -> Self {
        let budget = options.budget();
        Self {
            manifest,
            store: Store::new(manifest, budget, marks, observer),
            previous_store: previous.manifest.map(|m| Store::new(m, budget / 8, None, observer)),
            options,
            previous,
            known,
            baseline: Baseline::default(),
            report,
            flops: 0,
            wanted,
            exact: Vec::new(),
            searched: Vec::new(),
        }
    }

    /// A new measurement begins.
    pub(super) fn begin(&mut self) {
        self.store.begin();
        if let Some(previous) = &mut self.previous_store {
            previous.begin();
        }
    }

    pub(super) fn skip(&mut self, name: &str, reason: String) {
        self.report.skipped.push(Skipped { name: name.to_owned(), reason });
    }

    /// Whether a measurement is missing for a reason that belongs to it alone; that is noted.
    pub(super) fn note<T>(
        &mut self,
        name: &str,
        result: Result<T, Missing>,
    ) -> Result<Option<T>, AnalyzeError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Missing::Read(error)) => Err(error.into()),
            Err(Missing::Linalg(LinalgError::Unread)) => match self.store.failure() {
                Some(error) => Err(error.into()),
                None => Err(AnalyzeError::Cancelled),
            },
            Err(Missing::Linalg(error)) => {
                self.skip(name, error.to_string());
                Ok(None)
            }
        }
    }

    /// The largest k that any overlap or rotation asks for.
    pub(super) fn k_max(&self) -> usize {
        let last = |ks: &[usize]| ks.last().copied().unwrap_or(1);
        last(&self.options.k).max(last(&self.options.rotation_k))
    }

    /// NaN and infinite values of the operand's blocks.
    pub(super) fn non_finite<'v>(
        &mut self,
        views: impl IntoIterator<Item = &'v View>,
    ) -> Result<(u64, u64), ReadError> {
        let mut sum = (0, 0);
        for view in views {
            let (nan, inf) = self.store.non_finite(view)?;
            sum = (sum.0 + nan, sum.1 + inf);
        }
        Ok(sum)
    }

    /// The spectrum of an operand, computed or remembered, with vectors of `side` for overlaps up to
    /// `k_max`.
    pub(super) fn spectrum(
        &mut self,
        operand: &Operand,
        side: Side,
        k_max: usize,
    ) -> Result<Found, Missing> {
        let (rows, cols) = operand.shape();
        let content = Content::of(operand);
        if !self.options.is_exact(rows, cols) {
            let leading = self.leading(operand, &content)?;
            let side = if content.flipped { side.other() } else { side };
            return Ok(Found::Searched(leading, side, content.flipped));
        }
        let usual = k_max <= self.k_max();
        if let Some((_, _, known)) =
            self.exact.iter().find(|(c, s, _)| usual && *s == side && *c == content)
        {
            return Ok(Found::Exact(Rc::clone(known)));
        }
        let dense = self.store.operand(operand)?;
        let spectrum = Rc::new(self.decompose(operand, &dense, side, k_max)?);
        if usual {
            if self.exact.len() == KEPT_SPECTRA {
                self.exact.remove(0);
            }
            self.exact.push((content, side, Rc::clone(&spectrum)));
        }
        Ok(Found::Exact(spectrum))
    }

    fn decompose(
        &self,
        operand: &Operand,
        dense: &Dense,
        side: Side,
        k_max: usize,
    ) -> Result<Spectrum, LinalgError> {
        let eps = self.store.storage_eps(&operand.parts);
        Spectrum::compute(dense.mat(), side, k_max.max(self.k_max()), eps)
    }

    /// Leading triplets of a large operand: remembered, followed from the save before, or searched.
    fn leading(&mut self, operand: &Operand, content: &Content) -> Result<Rc<Leading>, Missing> {
        if let Some((_, known)) = self.searched.iter().find(|(key, _)| *key == content.key) {
            return Ok(Rc::clone(known));
        }
        let ks = self.wanted.get(&content.key).cloned().unwrap_or_default();
        let (rows, cols) = operand.shape();
        let k = ks.last().copied().unwrap_or(1);
        if !self.options.fits_vectors(rows, cols, k) {
            let vectors = vectors_bytes(rows, cols, k);
            let what = "vectors of a search, in MiB over memory_limit,";
            return Err(LinalgError::Shape {
                what,
                found: usize::try_from(vectors >> 18).unwrap_or(usize::MAX),
                expected: usize::try_from(self.options.memory_limit >> 20).unwrap_or(usize::MAX),
            }
            .into());
        }
        // Searched in the orientation that the key names, so that both uses share it.
        let mut upright = operand.clone();
        upright.transposed = operand.transposed && !content.flipped;
        let eps = self.store.storage_eps(&operand.parts);
        let large = self.store.large(&upright)?;
        let linear = large.linear()?;
        let warm = self.previous.baseline.and_then(|b| b.start(&content.key, self.options));
        let leading = Rc::new(Leading::find(&linear, &ks, eps, warm)?);
        self.flops = self.flops.saturating_add(linear.flops());
        self.baseline.warm.insert(content.key.clone(), leading.warm_start());
        if self.searched.len() == KEPT_SPECTRA {
            self.searched.remove(0);
        }
        self.searched.push((content.key.clone(), Rc::clone(&leading)));
        Ok(leading)
    }

    /// Keeps a matrix's leading left vectors for the next save.
    pub(super) fn keep_basis(&mut self, name: &str, basis: &Mat<f64>) {
        let wanted = self.options.rotation_k.last().copied().unwrap_or(0);
        let columns = wanted.min(basis.ncols());
        let basis = narrow(basis.as_ref().subcols(0, columns));
        self.baseline.bases.insert(name.to_owned(), basis);
    }

    /// The leading left vectors that a matrix had in the save before.
    pub(super) fn previous_basis(&self, name: &str) -> Option<&'a Mat<f32>> {
        self.previous.baseline?.bases.get(name)
    }
}

impl Analysis<'_> {
    /// Hands the start of an operand's search on to the next save.
    pub(super) fn keep_warm(&mut self, operand: &Operand) {
        let Some(before) = self.previous.baseline else { return };
        let key = Content::of(operand).key;
        if let Some(start) = before.warm.get(&key)
            && !self.baseline.warm.contains_key(&key)
        {
            self.baseline.warm.insert(key, start.clone());
        }
    }
}

/// The leading left vectors of a matrix of the save before.
pub(super) fn leading_left(
    store: &mut Store<'_>,
    matrix: &Matrix,
    ks: &[usize],
    is_exact: bool,
) -> Result<Mat<f64>, Missing> {
    let eps = store.storage_eps(std::slice::from_ref(&matrix.view));
    if is_exact {
        let dense = store.view(&matrix.view)?;
        let k = ks.last().copied().unwrap_or(1);
        return Ok(Spectrum::compute(dense.mat(), Side::Left, k, eps)?.basis);
    }
    let large = store.large(&Operand::whole(matrix))?;
    let k = ks.last().copied().unwrap_or(1);
    Ok(Leading::find(&large.linear()?, ks, eps, None)?.spectrum(Side::Left, k).basis)
}
