//! Architecture rules: data that say which tensor plays which role.

use serde::Deserialize;

use super::{Between, PairName, Role};

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Output × input, as `torch.nn.Linear`.
    OutIn,
    /// Input × output, as GPT-2's `Conv1D` and Keras kernels.
    InOut,
}

/// One role inside a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// First MLP matrix.
    Up,
    /// Gate.
    Gate,
    /// Last MLP matrix.
    Down,
    /// Token embedding.
    Embed,
    /// Output embedding.
    Unembed,
    /// Classifier head.
    Classifier,
}

impl Part {
    /// The role of the part.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Q => Role::Query,
            Self::K => Role::Key,
            Self::V => Role::Value,
            Self::O => Role::Output,
            Self::Up => Role::Up,
            Self::Gate => Role::Gate,
            Self::Down => Role::Down,
            Self::Embed => Role::Embed,
            Self::Unembed => Role::Unembed,
            Self::Classifier => Role::Classifier,
        }
    }
}

/// How the parts of a fused tensor lie along its output rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// One whole part after another.
    #[default]
    Concatenated,
    /// Head after head, and in each head part after part.
    Interleaved,
}

/// One tensor and the roles it holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixRule {
    /// Name, with `{layer}` for the depth index.
    pub tensor: String,
    /// Roles along the output rows.
    pub parts: Vec<Part>,
    /// How it is stored.
    pub layout: Layout,
    /// How several parts lie.
    #[serde(default)]
    pub split: Split,
    /// Its bias, if it may have one.
    #[serde(default)]
    pub bias: Option<String>,
}

/// Where the head counts stand in `config.json`, each a list of keys of which the first found holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadRule {
    /// Number of query heads.
    #[serde(default)]
    pub query: Vec<String>,
    /// Number of key/value heads; absent means as many as query heads.
    #[serde(default)]
    pub key_value: Vec<String>,
    /// Rows of one head; absent means model dimension over query heads.
    #[serde(default)]
    pub head_dim: Vec<String>,
    /// Rows of one head where there is no `config.json`.
    #[serde(default)]
    pub default_head_dim: Option<usize>,
}

/// One kind of pair.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRule {
    /// Which.
    pub pair: PairName,
    /// What stands between.
    pub between: Between,
    /// Gains to fold into the reader, `{layer}` being the reader's layer; the first that exists.
    #[serde(default)]
    pub gain: Vec<String>,
    /// A tensor whose presence says that a norm stands between after all (q/k norms).
    #[serde(default)]
    pub norm_if: Option<String>,
    /// A boolean of `config.json` that, when true, says that the two are not adjacent.
    #[serde(default)]
    pub unless: Option<String>,
}

/// Tensors that take no part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IgnoreRule {
    /// Names; `*` stands for any run of characters.
    pub tensors: Vec<String>,
    /// Why.
    pub reason: String,
    /// Whether its elements are no parameters (masks and other buffers).
    #[serde(default)]
    pub buffer: bool,
}

/// An architecture: which tensor plays which role, and which roles are adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name, unique among the rules.
    pub name: String,
    /// What it covers, for people.
    pub describes: String,
    /// Values of `model_type` in `config.json` that it covers.
    #[serde(default)]
    pub model_types: Vec<String>,
    /// Prefixes before the names.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Tensors without which the rule does not apply.
    pub requires: Vec<String>,
    /// Where the heads come from.
    #[serde(default)]
    pub heads: HeadRule,
    /// Keys of `config.json` that name the MLP's activation.
    #[serde(default)]
    pub activation: Vec<String>,
    /// The activation where the configuration is silent.
    #[serde(default)]
    pub default_activation: Option<String>,
    /// Whether norm layers multiply by 1 + gain.
    #[serde(default)]
    pub gain_one_plus: bool,
    /// Tensors and their roles.
    pub matrices: Vec<MatrixRule>,
    /// Adjacent roles.
    pub pairs: Vec<PairRule>,
    /// What takes no part.
    #[serde(default)]
    pub ignore: Vec<IgnoreRule>,
}

/// A rule that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("architecture rule `{rule}`: {problem}")]
pub struct RuleError {
    /// Name of the rule.
    pub rule: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl Rule {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), RuleError> {
        let fail = |problem: String| Err(RuleError { rule: self.name.clone(), problem });
        if self.requires.is_empty() || self.matrices.is_empty() {
            return fail("expected at least one entry in `requires` and one in `matrices`".into());
        }
        for matrix in &self.matrices {
            let outside = [Part::Embed, Part::Unembed, Part::Classifier];
            let in_stack = matrix.tensor.matches("{layer}").count();
            let wanted = usize::from(!matrix.parts.iter().any(|p| outside.contains(p)));
            if matrix.parts.is_empty() {
                return fail(format!(
                    "tensor `{}`: no parts, expected at least one",
                    matrix.tensor
                ));
            }
            if in_stack != wanted {
                return fail(format!(
                    "tensor `{}`: {in_stack} times {{layer}}, expected {wanted} for its parts",
                    matrix.tensor
                ));
            }
            let qkv = [Part::Q, Part::K, Part::V];
            if matrix.split == Split::Interleaved && matrix.parts != qkv {
                return fail(format!(
                    "tensor `{}`: interleaved, expected the parts q, k, v",
                    matrix.tensor
                ));
            }
        }
        if self.heads.default_head_dim == Some(0) {
            return fail("default_head_dim is 0, expected at least 1".into());
        }
        if self.pairs.iter().any(|p| p.pair == PairName::Chain) {
            return fail("pair `chain`, expected a pair of named roles".into());
        }
        Ok(())
    }
}
