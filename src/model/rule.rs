//! Architecture rules: data that say which tensor plays which role.

use serde::Deserialize;

use super::{Between, PairName, Role, Storage};

/// How the parts of a fused tensor lie along its output rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// One whole part after another.
    #[default]
    Concatenated,
    /// Head after head, and in each head part after part.
    Interleaved,
    /// Key/value group after group, and in each its queries, then its key, then its value.
    Grouped,
    /// Row after row: of two parts, even rows and odd rows.
    Alternating,
}

/// One tensor and the roles it holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixRule {
    /// Name, with `{layer}` for the depth index, or `{stage}` and `{block}`; with `{expert}` and
    /// `{nth}`. `a | b` is either.
    pub tensor: String,
    /// Roles along the output rows.
    pub parts: Vec<Role>,
    /// How it is stored.
    pub layout: Storage,
    /// How several parts lie.
    #[serde(default)]
    pub split: Split,
    /// Keys of `config.json` that give the rows of each part, where they are not equal; in each head
    /// where the split is interleaved. `a*b` is a product.
    #[serde(default)]
    pub sizes: Vec<String>,
    /// Its bias; absent means the name with `bias` for its last `weight`.
    #[serde(default)]
    pub bias: Option<String>,
    /// Whether `up` is used plus 1, so that its bias is one more (GPT-OSS).
    #[serde(default)]
    pub up_plus_one: bool,
}

/// Where the head counts stand in `config.json`, each a list of keys of which the first found holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadRule {
    /// Number of query heads.
    #[serde(default)]
    pub query: Vec<String>,
    /// Number of key/value heads; absent means as many as the shapes say.
    #[serde(default)]
    pub key_value: Vec<String>,
    /// Rows of one head; absent means rows of the queries over query heads.
    #[serde(default)]
    pub head_dim: Vec<String>,
    /// Rows of one head where there is no `config.json`.
    #[serde(default)]
    pub default_head_dim: Option<usize>,
    /// Model dimension → query heads where there is no `config.json`: the published sizes, where
    /// their heads differ.
    #[serde(default)]
    pub default_heads: std::collections::BTreeMap<usize, usize>,
}

/// One kind of pair.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRule {
    /// Which.
    pub pair: PairName,
    /// What stands between.
    pub between: Between,
    /// Role of the writer; for `stream`, `conv` and latent pairs alone, the others know theirs.
    #[serde(default)]
    pub writer: Option<Role>,
    /// Roles of the reader, stacked by rows where there are several. Those that a layer lacks are
    /// left out.
    #[serde(default)]
    pub reader: Vec<Role>,
    /// Whether the reader stands in the layer behind the writer's.
    #[serde(default)]
    pub next: bool,
    /// A role that, where the reader's layer has it, stands between the two, so that they are not
    /// adjacent.
    #[serde(default)]
    pub without: Option<Role>,
    /// Gains to fold into the reader, `{layer}` being the reader's layer; the first that exists.
    #[serde(default)]
    pub gain: Vec<String>,
    /// A tensor whose presence says that a norm stands between after all (q/k norms).
    #[serde(default)]
    pub norm_if: Option<String>,
    /// A boolean of `config.json` that, when true, says that the two are not adjacent; with `!` before
    /// it, when false.
    #[serde(default)]
    pub unless: Option<String>,
    /// The same that must be true (with `!`, false) for the two to be adjacent.
    #[serde(default)]
    pub when: Option<String>,
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

/// A stack of layers: its tensors and their roles, and which roles are adjacent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Name, where a model has several.
    pub name: Option<String>,
    /// Where the heads come from.
    pub heads: HeadRule,
    /// Keys of `config.json` that name the MLP's activation.
    pub activation: Vec<String>,
    /// The activation where the configuration is silent.
    pub default_activation: Option<String>,
    /// Whether norm layers multiply by 1 + gain.
    pub gain_one_plus: bool,
    /// Tensors and their roles.
    pub matrices: Vec<MatrixRule>,
    /// Adjacent roles.
    pub pairs: Vec<PairRule>,
}

/// An architecture: which tensor plays which role, and which roles are adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule {
    /// Name, unique among the rules.
    pub name: String,
    /// What it covers, for people: a list of families, each `name (what is peculiar)`.
    pub describes: String,
    /// Values of `model_type` in `config.json` that it covers.
    pub model_types: Vec<String>,
    /// Prefixes before the names.
    pub prefixes: Vec<String>,
    /// Tensors without which the rule does not apply.
    pub requires: Vec<String>,
    /// Its stacks, at least one, whose layers are counted on one after another.
    pub stacks: Vec<Stack>,
    /// What takes no part.
    pub ignore: Vec<IgnoreRule>,
}

/// A rule as it is written: a single stack stands at the top level, several under `stacks`, which
/// take over what they do not state themselves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    describes: String,
    #[serde(default)]
    model_types: Vec<String>,
    #[serde(default)]
    prefixes: Vec<String>,
    requires: Vec<String>,
    #[serde(default)]
    heads: HeadRule,
    #[serde(default)]
    activation: Vec<String>,
    #[serde(default)]
    default_activation: Option<String>,
    #[serde(default)]
    gain_one_plus: bool,
    #[serde(default)]
    matrices: Vec<MatrixRule>,
    #[serde(default)]
    pairs: Vec<PairRule>,
    #[serde(default)]
    stacks: Vec<WrittenStack>,
    #[serde(default)]
    ignore: Vec<IgnoreRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStack {
    name: String,
    heads: Option<HeadRule>,
    activation: Option<Vec<String>>,
    default_activation: Option<String>,
    gain_one_plus: Option<bool>,
    matrices: Vec<MatrixRule>,
    #[serde(default)]
    pairs: Vec<PairRule>,
}

impl TryFrom<Written> for Rule {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { heads, activation, default_activation, gain_one_plus, .. } = written;
        let is_single = written.stacks.is_empty();
        let has_own = !written.matrices.is_empty() || !written.pairs.is_empty();
        if !is_single && has_own {
            return Err("`matrices` or `pairs` beside `stacks`, expected them in the stacks".into());
        }
        let several = written.stacks.into_iter().map(|stack| Stack {
            name: Some(stack.name),
            heads: stack.heads.unwrap_or_else(|| heads.clone()),
            activation: stack.activation.unwrap_or_else(|| activation.clone()),
            default_activation: stack.default_activation.or_else(|| default_activation.clone()),
            gain_one_plus: stack.gain_one_plus.unwrap_or(gain_one_plus),
            matrices: stack.matrices,
            pairs: stack.pairs,
        });
        let mut stacks: Vec<Stack> = several.collect();
        if is_single {
            stacks.push(Stack {
                name: None,
                heads,
                activation,
                default_activation,
                gain_one_plus,
                matrices: written.matrices,
                pairs: written.pairs,
            });
        }
        Ok(Self {
            name: written.name,
            describes: written.describes,
            model_types: written.model_types,
            prefixes: written.prefixes,
            requires: written.requires,
            stacks,
            ignore: written.ignore,
        })
    }
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
