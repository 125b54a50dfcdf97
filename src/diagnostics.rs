//! From a checkpoint and its layer graph to a [`Report`].
//!
//! The serialised form of [`Report`] is the JSON contract of `weightvane analyze --format json`.
//! What cannot be said is `None` (JSON `null`), never 0 or a sentinel.

mod adapter;
mod alignment;
mod analysis;
mod baseline;
mod classifier;
mod heads;
mod observer;
mod options;
mod persist;
mod plan;
mod spares;
mod spectra;
mod store;
mod stored;
mod sums;
mod tasks;
mod work;

use std::collections::BTreeMap;

use serde::Serialize;

pub use adapter::find_base;
pub use analysis::{Outcome, analyze};
pub use baseline::{Baseline, Mark};
pub use observer::{Observer, Unobserved};
pub use options::{EXACT_LIMIT, Options};
pub use persist::{Origin, PersistError};
pub use plan::{Method, Plan, Planned};
pub use work::{AnalyzeError, Previous};

/// All measurements of one checkpoint.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Last component of the checkpoint's path.
    pub checkpoint: String,
    /// Optimiser step, if known.
    pub step: Option<u64>,
    /// Container format.
    pub format: &'static str,
    /// Name of the rule that recognised the model; `chain` for the shape-chaining fallback.
    pub architecture: String,
    /// Number of floating-point parameters.
    pub parameters: u64,
    /// Per-matrix spectra, in depth order.
    pub matrices: Vec<MatrixReport>,
    /// Per-pair alignment, in depth order.
    pub pairs: Vec<PairReport>,
    /// Redundancy of the attention heads, per layer and projection.
    pub heads: Vec<HeadReport>,
    /// Neural-collapse proxies of a classifier, if the model has one.
    pub classifier: Option<ClassifierReport>,
    /// What was not measured, and why.
    pub skipped: Vec<Skipped>,
    /// NaN in all floating-point tensors, vectors included; not part of the JSON contract.
    #[serde(skip)]
    pub nan: u64,
    /// Infinities in the same.
    #[serde(skip)]
    pub inf: u64,
}

impl Report {
    /// NaN and infinite weights, over all tensors.
    #[must_use]
    pub fn n_nonfinite(&self) -> u64 {
        self.nan + self.inf
    }

    /// Adds the rows of a later part.
    fn append(&mut self, part: Self) {
        self.matrices.extend(part.matrices);
        self.pairs.extend(part.pairs);
        self.heads.extend(part.heads);
        self.skipped.extend(part.skipped);
        self.classifier = self.classifier.take().or(part.classifier);
        self.nan += part.nan;
        self.inf += part.inf;
    }
}

/// One weight matrix, in output × input orientation.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MatrixReport {
    /// Tensor name; a part of a fused tensor is `name#part`.
    pub name: String,
    /// Depth index; `None` outside the stack of layers. Stacks are counted on, one after another.
    pub layer: Option<usize>,
    /// Which stack, where a model has several (`encoder`, `decoder`; `vision`, `text`).
    pub stack: Option<String>,
    /// Which expert of its layer.
    pub expert: Option<usize>,
    /// Role, as [`Role::as_str`](crate::model::Role::as_str) has it.
    pub role: String,
    /// Output dimension.
    pub rows: usize,
    /// Input dimension.
    pub cols: usize,
    /// Stored type, as safetensors names it.
    pub dtype: &'static str,
    /// How the spectrum was found: `exact` (all values), or the leading part by `block Lanczos`,
    /// `one pass` from the save before, or a `Chebyshev` filter; then effective rank and entropy are
    /// within 2 % and the numerical rank is not known. `None` without a spectrum.
    pub spectrum: Option<&'static str>,
    /// ‖W‖_F.
    pub frobenius_norm: Option<f64>,
    /// ‖W‖₂.
    pub spectral_norm: Option<f64>,
    /// ‖W‖_F²/‖W‖₂², in `[1, rank]`.
    pub stable_rank: Option<f64>,
    /// exp of the entropy of σ/Σσ (Roy & Vetterli 2007), in `[1, rank]`.
    pub effective_rank: Option<f64>,
    /// Entropy of σ²/Σσ² over ln min(rows, cols), in `[0, 1]`.
    pub spectral_entropy: Option<f64>,
    /// Number of singular values above the rounding noise of the stored type.
    pub numerical_rank: Option<usize>,
    /// NaN elements.
    pub nan: u64,
    /// Infinite elements.
    pub inf: u64,
    /// ‖W − `W_prev`‖_`F/‖W_prev`‖_F against the save compared with.
    pub update_ratio: Option<f64>,
    /// Standard error of `update_ratio` where it comes from sketches; `None` where exact.
    pub update_ratio_stderr: Option<f64>,
    /// Of what an adapter adds (role `lora_update`): its ‖ΔW‖_F over the ‖W‖_F of the base model.
    pub base_ratio: Option<f64>,
    /// k → 1 − ‖`U_k(prev)ᵀU_k‖²/k`: how far the leading output subspace turned, in `[0, 1]`.
    pub rotation: BTreeMap<usize, Option<f64>>,
}

/// One adjacent pair: writer `W1` (m × n) and reader `W2` (p × m) sharing the space R^m.
#[derive(Debug, Clone, Serialize, Default)]
pub struct PairReport {
    /// Which two, as [`PairName::as_str`](crate::model::PairName::as_str) has it.
    pub pair: &'static str,
    /// `chain`, `inmodule`, `stream`, or `base` for what an adapter adds against the base model.
    pub kind: &'static str,
    /// Layer of the writer.
    pub layer: Option<usize>,
    /// Which stack, where a model has several.
    pub stack: Option<String>,
    /// Which expert of its layer.
    pub expert: Option<usize>,
    /// Query head of a per-head pair.
    pub head: Option<usize>,
    /// Key/value group of a per-group pair.
    pub group: Option<usize>,
    /// Name of the writer.
    pub writer: String,
    /// Name of the reader.
    pub reader: String,
    /// m.
    pub dim: usize,
    /// Conservation law of the balancedness gap: `full`, `diagonal`, `rotary` or `none`.
    pub law: &'static str,
    /// Whether a norm layer stands between writer and reader.
    pub norm_between: bool,
    /// Centred Gram cosine, in `[-1, 1]`; random orientation 0. The primary alert statistic.
    pub gram_correlation: Option<f64>,
    /// Gram cosine, in `[0, 1]`.
    pub gram_cosine: Option<f64>,
    /// χ = √2‖AB − BA‖_F/(‖A‖_F‖B‖_F), in `[0, 1]`.
    pub commutator: Option<f64>,
    /// κ: ‖AB − BA‖_F² over its mean for a random orientation; 0 commute, 1 random.
    pub commutator_vs_chance: Option<f64>,
    /// ‖W2 W1‖_F/(‖W2‖_F‖W1‖_F), in `[0, 1]`; random √(1/m).
    pub composition: Option<f64>,
    /// ‖A − B‖_F.
    pub gap: Option<f64>,
    /// gap/(‖A‖_F + ‖B‖_F), in `[0, 1]`.
    pub gap_ratio: Option<f64>,
    /// The same of the diagonals.
    pub gap_diagonal_ratio: Option<f64>,
    /// The same of the trace-normalised Grams.
    pub gap_shape: Option<f64>,
    /// Kendall's τ-b of the flags' joint law, in `[-1, 1]`.
    pub flag_correlation: Option<f64>,
    /// k → overlap of the leading k-dimensional subspaces.
    pub overlap: BTreeMap<usize, OverlapReport>,
    /// Standard errors of what was estimated; `None` where exact.
    pub stderr: StderrReport,
    /// The gap that the pair's law conserves, with biases where the law needs them; not part of
    /// the JSON contract, feeds the ridge-rate fit.
    #[serde(skip)]
    pub law_gap: Option<f64>,
    /// Size of what biases add to the Grams in `law_gap`; `None` without biases. Weight decay acts on
    /// them or not, as the trainer likes.
    #[serde(skip)]
    pub law_bias: Option<f64>,
}

impl PairReport {
    /// Whether it is one of several of its kind in its layer, a head or an expert, so that a layer's
    /// value is their mean.
    #[must_use]
    pub fn is_one_of_many(&self) -> bool {
        self.head.is_some() || self.expert.is_some()
    }
}

/// Standard errors of estimated pair statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StderrReport {
    /// Of `gram_correlation`.
    pub gram_correlation: Option<f64>,
    /// Of `gram_cosine`.
    pub gram_cosine: Option<f64>,
    /// Of `commutator`.
    pub commutator: Option<f64>,
    /// Of `commutator_vs_chance`.
    pub commutator_vs_chance: Option<f64>,
    /// Of `composition`.
    pub composition: Option<f64>,
    /// Of `gap_ratio`.
    pub gap_ratio: Option<f64>,
}

/// Overlap of two leading k-dimensional subspaces of R^m.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverlapReport {
    /// `S_k`: mean squared cosine of the principal angles, in `[0, 1]`.
    pub ratio: f64,
    /// Mean of `S_k` for random subspaces, k/m.
    pub chance: f64,
    /// (`S_k` − k/m)/(1 − k/m).
    pub excess: f64,
    /// (`S_k` − k/m)/sd under chance.
    pub z: f64,
    /// Smallest principal angle, radians in `[0, π/2]`.
    pub angle_min: f64,
    /// Mean principal angle.
    pub angle_mean: f64,
    /// Largest principal angle.
    pub angle_max: f64,
    /// Mean squared cosine of equally ranked singular vectors; `None` where they are not distinct.
    pub basis: Option<f64>,
    /// Whether the cut at k stands clear of the rounding noise on both sides.
    pub cut_ok: bool,
}

/// Redundancy of the heads of one projection.
#[derive(Debug, Clone, Serialize)]
pub struct HeadReport {
    /// Depth index.
    pub layer: usize,
    /// `q`, `k`, `v` or `o`, and the same of cross-attention (`cross_q`).
    pub projection: &'static str,
    /// Number of heads compared.
    pub heads: usize,
    /// Mean projection kernel between different heads, in `[0, 1]`.
    pub overlap_mean: Option<f64>,
    /// Largest projection kernel between different heads.
    pub overlap_max: Option<f64>,
    /// Mean for random subspaces, `d_h/D`.
    pub overlap_chance: Option<f64>,
    /// (mean − chance)/(1 − chance).
    pub overlap_excess: Option<f64>,
    /// H²/‖P‖_F², in `[1, H]`.
    pub effective_heads: Option<f64>,
    /// Standard error of `overlap_mean` where it was estimated; `None` where exact.
    pub overlap_stderr: Option<f64>,
}

/// Neural-collapse proxies of a classifier (K × d, rows centred).
#[derive(Debug, Clone, Serialize)]
pub struct ClassifierReport {
    /// K.
    pub classes: usize,
    /// Distance of the normalised row Gram from the simplex, in `[0, √2]`.
    pub simplex_deviation: Option<f64>,
    /// The same over its value for Gaussian rows.
    pub simplex_deviation_vs_chance: Option<f64>,
    /// Coefficient of variation of the row norms.
    pub equinorm: Option<f64>,
    /// Standard deviation of the cosines between rows.
    pub equiangle: Option<f64>,
}

/// A tensor or pair that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Tensor or pair.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}
