//! What a checkpoint's tensors are: roles, adjacent pairs, heads. Names, shapes and rules only; no
//! bytes, no I/O, no clock.
//!
//! Every matrix is spoken of in *output × input* orientation, however it is stored. A pair is a
//! writer `W1` (m × n), whose columns lie in the shared space R^m, and a reader `W2` (p × m), whose
//! rows lie in it.

mod attention;
mod blocks;
mod build;
mod chain;
mod check;
mod inputs;
mod layers;
mod left;
mod lora;
mod names;
mod pairs;
mod recognize;
mod role;
mod rule;
mod spans;
mod split;
mod storage;
mod template;
mod view;

use std::sync::Arc;

use crate::checkpoint::Text;

pub use lora::{Adapter, AdapterSettings, BaseNames};
pub use recognize::{buffers, recognize};
pub use role::{Between, Law, PairName, Role};
pub use rule::{HeadRule, IgnoreRule, MatrixRule, PairRule, Rule, RuleError, Split, Stack};
pub use spans::{Span, Spans};
pub use storage::Storage;
pub use template::template;
pub use view::{BiasView, Gain, Layout, Operand, View};

/// A whole weight matrix of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Tensor name, with `#part` behind it for a part of a fused tensor and `[expert]` for one expert
    /// of a packed one.
    pub name: Text,
    /// Depth index, if it stands in a stack; stacks are counted on, one after another.
    pub layer: Option<usize>,
    /// Which stack, where a model has several (`encoder`, `vision`).
    pub stack: Option<Text>,
    /// Which expert of its layer.
    pub expert: Option<usize>,
    /// What it does.
    pub role: Role,
    /// Where it lies.
    pub view: Arc<View>,
}

impl Operand {
    /// A whole matrix as an operand.
    #[must_use]
    pub fn whole(matrix: &Matrix) -> Self {
        Self::new(matrix.name.clone(), Arc::clone(&matrix.view))
    }
}

/// Two adjacent matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Which two.
    pub name: PairName,
    /// Layer of the writer.
    pub layer: Option<usize>,
    /// Which stack, where a model has several.
    pub stack: Option<Text>,
    /// Which expert of its layer.
    pub expert: Option<usize>,
    /// Query head, for a per-head pair.
    pub head: Option<usize>,
    /// Key/value group, for a pair of all query heads of a group; such a pair has Gram statistics
    /// only.
    pub group: Option<usize>,
    /// W1.
    pub writer: Operand,
    /// W2.
    pub reader: Operand,
    /// m.
    pub dim: usize,
    /// Conserved part of the gap.
    pub law: Law,
    /// Whether that part can be measured.
    pub law_gap: bool,
    /// Whether a norm stands between the two.
    pub norm_between: bool,
    /// Number of classes, if the reader is a classifier: k = K − 1 joins the overlaps.
    pub classes: Option<usize>,
}

impl Pair {
    fn new(name: PairName, writer: Operand, reader: Operand, between: Between) -> Self {
        Self {
            name,
            layer: None,
            stack: None,
            expert: None,
            head: None,
            group: None,
            dim: writer.shape().0,
            writer,
            reader,
            law: between.law(),
            law_gap: true,
            norm_between: between == Between::Norm,
            classes: None,
        }
    }
}

/// The heads of one projection of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSet {
    /// Depth index.
    pub layer: usize,
    /// `q`, `k`, `v` (row spaces) or `o` (column spaces), and the same of cross-attention.
    pub projection: Role,
    /// One block a head.
    pub heads: Vec<View>,
}

impl HeadSet {
    /// Whether heads are blocks of columns, as those of an attention output.
    #[must_use]
    pub fn is_of_columns(&self) -> bool {
        matches!(self.projection, Role::Output | Role::CrossOutput)
    }
}

/// How attention is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub query: usize,
    /// Key and value heads.
    pub key_value: usize,
    /// Rows of one head; of its queries, where values have others.
    pub head_dim: usize,
}

/// A tensor that takes no part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Tensor or pair.
    pub name: Text,
    /// Why, in words.
    pub reason: Text,
}

/// A recognised model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerGraph {
    /// Name of the model type or rule; `chain` for the fallback.
    pub architecture: String,
    /// How it was recognised, for people.
    pub because: String,
    /// Whole matrices, in depth order.
    pub matrices: Vec<Matrix>,
    /// Adjacent pairs, in depth order.
    pub pairs: Vec<Pair>,
    /// Heads to compare.
    pub heads: Vec<HeadSet>,
    /// How attention is cut, where it is known; of the first stack that has any.
    pub head_layout: Option<HeadLayout>,
    /// What adapters of low rank change of another model's weights.
    pub adapters: Vec<Adapter>,
    /// What was left out, and why.
    pub skipped: Vec<Left>,
}
