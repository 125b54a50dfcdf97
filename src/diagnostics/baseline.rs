//! What of a save is kept for the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use faer::Mat;

use super::options::Options;
use super::{HeadReport, MatrixReport, OverlapReport, PairReport, Report};
use crate::checkpoint::Scan;
#[cfg(test)]
use crate::linalg::Sketch;
use crate::linalg::{KeptSketch, Spectrum, WarmStart};
use crate::model::{HeadSet, Matrix, Pair};

/// A tensor as it was seen: whether it changed since can be told from its hash.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// xxh3-128 of the stored bytes.
    pub hash: u128,
    /// NaN elements.
    pub nan: u64,
    /// Infinite elements.
    pub inf: u64,
    /// Finite elements that are infinite as f32.
    pub overflow: u64,
    /// Largest finite magnitude.
    pub max_abs: f32,
}

impl Mark {
    pub(super) fn new(hash: u128, scan: Scan) -> Self {
        let Scan { nan, inf, overflow, max_abs, .. } = scan;
        Self { hash, nan, inf, overflow, max_abs }
    }

    pub(super) fn is_finite(&self) -> bool {
        self.nan + self.inf + self.overflow == 0
    }
}

/// What of a save is kept to compare the next one with, and to measure it faster.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Matrix name → its leading left singular vectors, rows × max(rotation k).
    pub(super) bases: BTreeMap<String, Mat<f32>>,
    /// Content of an operand → start of the next search.
    pub(super) warm: BTreeMap<String, WarmStart>,
    /// Matrix name → sketch of its values, and ‖W‖_F.
    pub(super) sketches: BTreeMap<String, (KeptSketch, f64)>,
    /// Weight of the base model that an adapter changes → its leading vectors.
    pub(super) base: BTreeMap<String, Arc<BaseSpace>>,
    /// Tensor → hash and counts.
    pub(super) marks: BTreeMap<String, Mark>,
    /// The measurements and what they were made with; absent after a restart.
    pub(super) measured: Option<(Arc<Report>, Made)>,
}

/// The leading vectors of a weight of the base model.
#[derive(Debug)]
pub(super) struct BaseSpace {
    /// Those on the side of its outputs, as the right vectors of the transpose.
    pub(super) left: Spectrum,
    /// Those on the side of its inputs.
    pub(super) right: Spectrum,
}

impl BaseSpace {
    /// Bytes of memory that it takes.
    pub(super) fn n_bytes(&self) -> u64 {
        let side =
            |s: &Spectrum| s.basis.nrows() * s.basis.ncols() + s.values.len() + s.residuals.len();
        8 * (side(&self.left) + side(&self.right)) as u64
    }
}

/// How the measurements of a save were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) options: Options,
    /// Hash of the layer graph: other rules or another config.json give tensors other meanings.
    pub(super) graph: u128,
}

impl Baseline {
    /// Where the search of an operand starts, if it was asked for the same subspaces.
    pub(super) fn start(&self, key: &str, options: &Options) -> Option<&WarmStart> {
        let same = |made: &Made| {
            (&made.options.k, &made.options.rotation_k) == (&options.k, &options.rotation_k)
        };
        let same = self.measured.as_ref().is_none_or(|(_, made)| same(made));
        self.warm.get(key).filter(|_| same)
    }

    /// Whether it was made of tensors with these meanings, as far as is known.
    pub(super) fn is_of(&self, graph: u128) -> bool {
        self.measured.as_ref().is_none_or(|(_, made)| made.graph == graph)
    }

    /// Adds what another thread kept.
    pub(super) fn merge(&mut self, other: Self) {
        self.bases.extend(other.bases);
        self.warm.extend(other.warm);
        self.sketches.extend(other.sketches);
        self.base.extend(other.base);
        self.marks.extend(other.marks);
    }

    /// Bytes of memory that it takes, to about a tenth.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        let entry = |name: &String| name.len() + ENTRY_BYTES;
        let bases = self.bases.iter().map(|(n, b)| entry(n) + 4 * b.nrows() * b.ncols());
        let warm = self.warm.iter().map(|(n, w)| {
            let numbers = w.bulk.sigma.len() + w.bulk.weight.len() + w.reached.len();
            entry(n) + size_of_val(w.basis.values()) + 8 * numbers
        });
        let sketches = self.sketches.iter().map(|(n, (s, _))| entry(n) + s.n_bytes());
        let marks = self.marks.keys().map(|n| entry(n) + size_of::<Mark>());
        let kept: usize = bases.chain(warm).chain(sketches).chain(marks).sum();
        let rows = self.measured.as_ref().map_or(0, |(report, _)| report_bytes(report));
        let base: u64 = self.base.values().map(|space| space.n_bytes()).sum();
        (kept + rows) as u64 + base
    }

    /// The starts of searches alone, without anything that a later save is compared with.
    #[must_use]
    pub fn starts_only(self) -> Self {
        Self { warm: self.warm, base: self.base, marks: self.marks, ..Self::default() }
    }
}

/// What a map and a vector take beside their content.
const ENTRY_BYTES: usize = 64;

fn report_bytes(report: &Report) -> usize {
    let pair = |p: &PairReport| {
        let overlaps = p.overlap.len() * (size_of::<OverlapReport>() + ENTRY_BYTES);
        let stack = p.stack.as_ref().map_or(0, String::len);
        size_of::<PairReport>() + p.writer.len() + p.reader.len() + stack + overlaps
    };
    let matrix = |m: &MatrixReport| {
        let stack = m.stack.as_ref().map_or(0, String::len);
        size_of::<MatrixReport>() + m.name.len() + stack + m.rotation.len() * ENTRY_BYTES
    };
    report.pairs.iter().map(pair).sum::<usize>()
        + report.matrices.iter().map(matrix).sum::<usize>()
        + report.heads.len() * size_of::<HeadReport>()
}

type PairKey<'a> = (&'a str, Option<usize>, Option<usize>, Option<usize>, &'a str, &'a str);

/// Rows of the save before, by what they measure.
#[derive(Debug, Default)]
pub(super) struct Known<'a> {
    matrices: HashMap<&'a str, &'a MatrixReport>,
    pairs: HashMap<PairKey<'a>, &'a PairReport>,
    heads: HashMap<(usize, &'a str), &'a HeadReport>,
}

impl<'a> Known<'a> {
    /// The rows, if they were measured in the same way.
    pub(super) fn new(baseline: &'a Baseline, options: &Options) -> Option<Self> {
        let (report, made) = baseline.measured.as_ref()?;
        // The threads that share the work change no number; all else may.
        let same = Options { threads: 0, ..made.options.clone() }
            == Options { threads: 0, ..options.clone() };
        same.then(|| Self {
            matrices: report.matrices.iter().map(|m| (m.name.as_str(), m)).collect(),
            pairs: report
                .pairs
                .iter()
                .map(|p| {
                    ((p.pair, p.layer, p.head, p.group, p.writer.as_str(), p.reader.as_str()), p)
                })
                .collect(),
            heads: report.heads.iter().map(|h| ((h.layer, h.projection), h)).collect(),
        })
    }

    pub(super) fn matrix(&self, matrix: &Matrix) -> Option<&'a MatrixReport> {
        let shape = (matrix.view.n_rows(), matrix.view.n_cols());
        let known = self.matrices.get(matrix.name.as_str()).copied();
        // A row without a spectrum that is not explained by its values is tried again.
        let explained = |m: &&MatrixReport| m.spectrum.is_some() || m.nan + m.inf > 0;
        known.filter(explained).filter(|m| (m.rows, m.cols) == shape)
    }

    pub(super) fn pair(&self, pair: &Pair) -> Option<&'a PairReport> {
        let name = pair.name.as_str();
        let (writer, reader) = (pair.writer.label.as_str(), pair.reader.label.as_str());
        let key = (name, pair.layer, pair.head, pair.group, writer, reader);
        self.pairs.get(&key).copied().filter(|p| p.dim == pair.dim)
    }

    pub(super) fn heads(&self, set: &HeadSet) -> Option<&'a HeadReport> {
        let known = self.heads.get(&(set.layer, set.projection.as_str())).copied();
        known.filter(|h| h.heads == set.heads.len())
    }
}

#[cfg(test)]
impl Baseline {
    /// One that holds these sketches alone.
    pub(crate) fn of_sketches(sketches: impl Iterator<Item = (String, Sketch)>) -> Self {
        Self { sketches: sketches.map(|(n, s)| (n, (s.into(), 1.0))).collect(), ..Self::default() }
    }
}
