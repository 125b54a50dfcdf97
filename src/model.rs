//! What a checkpoint's tensors are: roles, adjacent pairs, heads. Names, shapes and rules only; no
//! bytes, no I/O, no clock.
//!
//! Every matrix is spoken of in *output × input* orientation, however it is stored. A pair is a
//! writer `W1` (m × n), whose columns lie in the shared space R^m, and a reader `W2` (p × m), whose
//! rows lie in it.

mod blocks;
mod chain;
mod inputs;
mod names;
mod recognize;
mod rule;
mod transformer;

use std::ops::Range;

pub use recognize::{buffers, recognize};
pub use rule::{HeadRule, IgnoreRule, Layout, MatrixRule, PairRule, Part, Rule, RuleError, Split};

/// A block of a stored matrix, in the output × input frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Tensor that holds it.
    pub tensor: String,
    /// How the tensor is stored.
    pub layout: Layout,
    /// Output rows, in order.
    pub rows: Vec<Range<usize>>,
    /// Input columns, in order.
    pub cols: Vec<Range<usize>>,
}

impl View {
    /// Number of output rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        total(&self.rows)
    }

    /// Number of input columns.
    #[must_use]
    pub fn n_cols(&self) -> usize {
        total(&self.cols)
    }

    /// The same columns, with the rows `rows` of this view's own numbering.
    fn with_rows(&self, rows: Range<usize>) -> Self {
        Self { rows: sub_ranges(&self.rows, rows), ..self.clone() }
    }

    /// The same rows, with the columns `cols` of this view's own numbering.
    fn with_cols(&self, cols: Range<usize>) -> Self {
        Self { cols: sub_ranges(&self.cols, cols), ..self.clone() }
    }
}

fn total(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

/// Positions `wanted` of the concatenation of `ranges`, again as ranges.
fn sub_ranges(ranges: &[Range<usize>], wanted: Range<usize>) -> Vec<Range<usize>> {
    let mut passed = 0;
    let mut out = Vec::new();
    for range in ranges {
        let from = wanted.start.max(passed);
        let to = wanted.end.min(passed + range.len());
        if from < to {
            out.push(range.start + (from - passed)..range.start + (to - passed));
        }
        passed += range.len();
    }
    out
}

/// A norm layer's gain, to be folded into the columns of the reader behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gain {
    /// Tensor of length m.
    pub tensor: String,
    /// Whether the layer multiplies by 1 + gain (Gemma).
    pub one_plus: bool,
}

/// Part of a bias vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BiasView {
    /// Tensor that holds it.
    pub tensor: String,
    /// Elements, in order.
    pub rows: Vec<Range<usize>>,
}

/// One side of a pair: blocks stacked by rows, each transposed first if `transposed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// Blocks.
    pub parts: Vec<View>,
    /// Whether each block is transposed before it is stacked.
    pub transposed: bool,
    /// Gain to fold into the columns, on readers of a stream.
    pub gain: Option<Gain>,
    /// Biases on the shared space, where a law needs them: one, or one a head of a group.
    pub bias: Vec<BiasView>,
    /// What to call it.
    pub label: String,
}

impl Operand {
    fn new(label: String, view: View) -> Self {
        Self { parts: vec![view], transposed: false, gain: None, bias: Vec::new(), label }
    }

    fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }

    fn with_gain(mut self, gain: Option<Gain>) -> Self {
        self.gain = gain;
        self
    }

    fn with_bias(mut self, bias: Option<BiasView>) -> Self {
        self.bias = bias.into_iter().collect();
        self
    }

    /// A whole matrix as an operand.
    #[must_use]
    pub fn whole(matrix: &Matrix) -> Self {
        Self::new(matrix.name.clone(), matrix.view.clone())
    }

    /// A block without a name of its own.
    #[must_use]
    pub fn of_view(view: &View) -> Self {
        Self::new(view.tensor.clone(), view.clone())
    }

    /// Rows and columns as an operand.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        let sides = |v: &View| {
            if self.transposed { (v.n_cols(), v.n_rows()) } else { (v.n_rows(), v.n_cols()) }
        };
        let cols = self.parts.first().map_or(0, |v| sides(v).1);
        (self.parts.iter().map(|v| sides(v).0).sum(), cols)
    }
}

/// What a matrix does in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding, vocabulary × model.
    Embed,
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Attention output.
    Output,
    /// First MLP matrix.
    Up,
    /// Gate of a gated MLP.
    Gate,
    /// Last MLP matrix.
    Down,
    /// A layer of a plain chain.
    Linear,
    /// Last layer of a classifier, classes × features.
    Classifier,
    /// Output embedding, vocabulary × model.
    Unembed,
}

impl Role {
    /// The name in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Query => "q",
            Self::Key => "k",
            Self::Value => "v",
            Self::Output => "o",
            Self::Up => "up",
            Self::Gate => "gate",
            Self::Down => "down",
            Self::Linear => "linear",
            Self::Classifier => "classifier",
            Self::Unembed => "unembed",
        }
    }
}

/// A whole weight matrix of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Tensor name, with `#part` behind it for a part of a fused tensor.
    pub name: String,
    /// Depth index, if it stands in the stack.
    pub layer: Option<usize>,
    /// What it does.
    pub role: Role,
    /// Where it lies.
    pub view: View,
}

/// Which two matrices a pair joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairName {
    /// Consecutive layers of a plain chain.
    Chain,
    /// Values to attention output, per head.
    #[serde(rename = "v_o")]
    ValueOutput,
    /// Keys and queries, per head.
    #[serde(rename = "q_k")]
    QueryKey,
    /// First to last matrix of the MLP.
    UpDown,
    /// Gate to last matrix of the MLP.
    GateDown,
    /// Attention output to the MLP of the same block, over the residual stream.
    OUp,
    /// MLP output to the next block's attention, over the residual stream.
    DownQkv,
    /// Embedding to the first block's attention.
    EmbedQkv,
    /// Last MLP output to the output embedding.
    DownUnembed,
}

impl PairName {
    /// The name in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::ValueOutput => "v_o",
            Self::QueryKey => "q_k",
            Self::UpDown => "up_down",
            Self::GateDown => "gate_down",
            Self::OUp => "o_up",
            Self::DownQkv => "down_qkv",
            Self::EmbedQkv => "embed_qkv",
            Self::DownUnembed => "down_unembed",
        }
    }

    /// How close the two are: `chain` and `inmodule` pairs may alert, `stream` pairs never do.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::ValueOutput | Self::QueryKey | Self::UpDown | Self::GateDown => "inmodule",
            Self::OUp | Self::DownQkv | Self::EmbedQkv | Self::DownUnembed => "stream",
        }
    }
}

/// What stands between writer and reader; it fixes the conservation law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// A linear map.
    Nothing,
    /// `ReLU` or leaky `ReLU`: positively homogeneous.
    Relu,
    /// Any other element-wise nonlinearity, or one that is not known.
    Nonlinear,
    /// The activation that the model's configuration names.
    Activation,
    /// A product with the gate branch: linear per hidden unit.
    Gated,
    /// A rotary position embedding.
    Rotary,
    /// A norm layer.
    Norm,
}

/// Which part of A − B gradient flow conserves without weight decay (Du, Hu & Lee 2018 for the
/// diagonal; the full law for linear pairs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// The whole matrix.
    Full,
    /// Its diagonal.
    Diagonal,
    /// Its trace over each rotary pair of coordinates.
    Rotary,
    /// Nothing.
    None,
}

impl Law {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diagonal => "diagonal",
            Self::Rotary => "rotary",
            Self::None => "none",
        }
    }
}

impl Between {
    /// The law it leaves.
    #[must_use]
    pub fn law(self) -> Law {
        match self {
            Self::Nothing => Law::Full,
            Self::Relu | Self::Gated => Law::Diagonal,
            Self::Rotary => Law::Rotary,
            Self::Nonlinear | Self::Activation | Self::Norm => Law::None,
        }
    }

    /// What an activation's name in a `config.json` means.
    #[must_use]
    pub fn of_activation(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "linear" | "identity" | "none" => Self::Nothing,
            "relu" | "leaky_relu" | "leakyrelu" => Self::Relu,
            _ => Self::Nonlinear,
        }
    }
}

/// Two adjacent matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Which two.
    pub name: PairName,
    /// Layer of the writer.
    pub layer: Option<usize>,
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

/// The heads of one projection of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSet {
    /// Depth index.
    pub layer: usize,
    /// `q`, `k`, `v` (row spaces) or `o` (column spaces).
    pub projection: Role,
    /// One block a head.
    pub heads: Vec<View>,
}

/// How attention is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub query: usize,
    /// Key and value heads.
    pub key_value: usize,
    /// Rows of one head.
    pub head_dim: usize,
}

/// A tensor that takes no part, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Tensor or pair.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}

/// A recognised model.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// How attention is cut, where it is known.
    pub head_layout: Option<HeadLayout>,
    /// What was left out, and why.
    pub skipped: Vec<Left>,
}
