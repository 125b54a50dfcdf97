//! The words of a graph: what a matrix does, which two matrices a pair joins, what stands between.

use serde::Deserialize;

/// What a matrix does in the network. Its name in rules, labels and JSON is that of [`Role::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Role {
    /// Token embedding, vocabulary × model.
    #[serde(rename = "embed")]
    Embed,
    /// From the width of the embedding to that of the model.
    #[serde(rename = "embed_projection")]
    EmbedProjection,
    /// Patch embedding of an image, model × (channels · positions).
    #[serde(rename = "patch")]
    Patch,
    /// Convolution before the stack.
    #[serde(rename = "stem")]
    Stem,
    /// Queries.
    #[serde(rename = "q")]
    Query,
    /// Keys.
    #[serde(rename = "k")]
    Key,
    /// Values.
    #[serde(rename = "v")]
    Value,
    /// Attention output.
    #[serde(rename = "o")]
    Output,
    /// Queries of the attention to another stack.
    #[serde(rename = "cross_q")]
    CrossQuery,
    /// Keys of the attention to another stack.
    #[serde(rename = "cross_k")]
    CrossKey,
    /// Values of the attention to another stack.
    #[serde(rename = "cross_v")]
    CrossValue,
    /// Output of the attention to another stack.
    #[serde(rename = "cross_o")]
    CrossOutput,
    /// Latent of the queries (multi-head latent attention).
    #[serde(rename = "q_a")]
    QueryLatent,
    /// Latent of keys and values.
    #[serde(rename = "kv_a")]
    KeyValueLatent,
    /// Queries that positions rotate, where others stand beside them.
    #[serde(rename = "q_rope")]
    QueryRotary,
    /// Keys that positions rotate, where others stand beside them.
    #[serde(rename = "k_rope")]
    KeyRotary,
    /// First MLP matrix.
    #[serde(rename = "up")]
    Up,
    /// Gate of a gated MLP.
    #[serde(rename = "gate")]
    Gate,
    /// Last MLP matrix.
    #[serde(rename = "down")]
    Down,
    /// First matrix of an adapter, r × input.
    #[serde(rename = "lora_a")]
    LoraA,
    /// Second matrix of an adapter, output × r.
    #[serde(rename = "lora_b")]
    LoraB,
    /// Which experts a token goes to, experts × model.
    #[serde(rename = "router")]
    Router,
    /// How much of a shared expert a token takes, 1 × model.
    #[serde(rename = "shared_router")]
    SharedRouter,
    /// What a state-space mixer reads of the stream.
    #[serde(rename = "ssm_in")]
    MixerIn,
    /// The gate of a state-space mixer.
    #[serde(rename = "ssm_gate")]
    MixerGate,
    /// Step sizes of a mixer, before [`Role::MixerStepUp`] where there is one.
    #[serde(rename = "ssm_dt")]
    MixerStep,
    /// What writes into a mixer's state.
    #[serde(rename = "ssm_b")]
    MixerWrite,
    /// What reads a mixer's state.
    #[serde(rename = "ssm_c")]
    MixerRead,
    /// From step sizes of low rank to one a channel.
    #[serde(rename = "ssm_dt_up")]
    MixerStepUp,
    /// Output of a mixer.
    #[serde(rename = "ssm_out")]
    MixerOut,
    /// Convolution inside a residual block.
    #[serde(rename = "conv")]
    Conv,
    /// What changes width or resolution beside or between blocks.
    #[serde(rename = "downsample")]
    Downsample,
    /// A layer of a plain chain.
    #[serde(rename = "linear")]
    Linear,
    /// From the end of a stack to another space, or to the width of another stack.
    #[serde(rename = "projection")]
    Projection,
    /// From the width of the model to that of the output embedding.
    #[serde(rename = "unembed_projection")]
    UnembedProjection,
    /// A layer behind the stack, before the last one (pooler, transform).
    #[serde(rename = "head")]
    Head,
    /// Last layer of a classifier, classes × features.
    #[serde(rename = "classifier")]
    Classifier,
    /// Output embedding, vocabulary × model.
    #[serde(rename = "unembed")]
    Unembed,
}

impl Role {
    /// Not of a stored matrix: what both matrices of an adapter add.
    pub const LORA_UPDATE: &str = "lora_update";

    /// The name in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::EmbedProjection => "embed_projection",
            Self::Patch => "patch",
            Self::Stem => "stem",
            Self::Query => "q",
            Self::Key => "k",
            Self::Value => "v",
            Self::Output => "o",
            Self::CrossQuery => "cross_q",
            Self::CrossKey => "cross_k",
            Self::CrossValue => "cross_v",
            Self::CrossOutput => "cross_o",
            Self::QueryLatent => "q_a",
            Self::KeyValueLatent => "kv_a",
            Self::QueryRotary => "q_rope",
            Self::KeyRotary => "k_rope",
            Self::Up => "up",
            Self::Gate => "gate",
            Self::Down => "down",
            Self::LoraA => "lora_a",
            Self::LoraB => "lora_b",
            Self::Router => "router",
            Self::SharedRouter => "shared_router",
            Self::MixerIn => "ssm_in",
            Self::MixerGate => "ssm_gate",
            Self::MixerStep => "ssm_dt",
            Self::MixerWrite => "ssm_b",
            Self::MixerRead => "ssm_c",
            Self::MixerStepUp => "ssm_dt_up",
            Self::MixerOut => "ssm_out",
            Self::Conv => "conv",
            Self::Downsample => "downsample",
            Self::Linear => "linear",
            Self::Projection => "projection",
            Self::UnembedProjection => "unembed_projection",
            Self::Head => "head",
            Self::Classifier => "classifier",
            Self::Unembed => "unembed",
        }
    }

    /// Where a matrix without a layer stands: before the stack or behind it.
    pub(super) fn is_before_the_stack(self) -> bool {
        matches!(self, Self::Embed | Self::EmbedProjection | Self::Patch | Self::Stem)
    }

    /// Whether it is always outside the stack.
    pub(super) fn is_outside(self) -> bool {
        matches!(
            self,
            Self::Embed
                | Self::Patch
                | Self::Stem
                | Self::Unembed
                | Self::Classifier
                | Self::Projection
                | Self::EmbedProjection
                | Self::UnembedProjection
                | Self::Head
        )
    }

    /// Which heads cut its rows (of an output, its columns); `None` where none do.
    pub(super) fn heads(self) -> Option<HeadsOf> {
        match self {
            Self::Query
            | Self::Output
            | Self::CrossQuery
            | Self::CrossOutput
            | Self::QueryRotary => Some(HeadsOf::Queries),
            Self::Key | Self::Value | Self::CrossKey | Self::CrossValue => Some(HeadsOf::KeyValues),
            _ => None,
        }
    }
}

/// Whose heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadsOf {
    Queries,
    KeyValues,
}

/// Which two matrices a pair joins. Its name in rules, labels and JSON is that of
/// [`PairName::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
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
    /// Values to output of the attention to another stack, per head.
    #[serde(rename = "cross_v_o")]
    CrossValueOutput,
    /// Keys and queries of the attention to another stack, per head.
    #[serde(rename = "cross_q_k")]
    CrossQueryKey,
    /// Latent of the queries to the queries.
    #[serde(rename = "q_a_q_b")]
    QueryLatent,
    /// Latent of keys and values to keys and values.
    #[serde(rename = "kv_a_kv_b")]
    KeyValueLatent,
    /// First to last matrix of the MLP.
    UpDown,
    /// Gate to last matrix of the MLP.
    GateDown,
    /// Step sizes of low rank to those of a mixer's channels.
    SsmDt,
    /// Consecutive convolutions of a residual block, or before the stack.
    Conv,
    /// Attention output to the MLP of the same block, over the residual stream.
    OUp,
    /// MLP output to the next block's attention, over the residual stream.
    DownQkv,
    /// Embedding to the first block's attention.
    EmbedQkv,
    /// Last MLP output to the output embedding.
    DownUnembed,
    /// The two matrices of an adapter of low rank.
    Lora,
    /// What an adapter adds and the base model's weight, where they write.
    #[serde(skip)]
    UpdateOut,
    /// What an adapter adds and the base model's weight, where they read.
    #[serde(skip)]
    UpdateIn,
    /// Any other two over the residual stream.
    Stream,
}

impl PairName {
    /// The name in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::ValueOutput => "v_o",
            Self::QueryKey => "q_k",
            Self::CrossValueOutput => "cross_v_o",
            Self::CrossQueryKey => "cross_q_k",
            Self::QueryLatent => "q_a_q_b",
            Self::KeyValueLatent => "kv_a_kv_b",
            Self::UpDown => "up_down",
            Self::GateDown => "gate_down",
            Self::SsmDt => "ssm_dt",
            Self::Conv => "conv",
            Self::OUp => "o_up",
            Self::DownQkv => "down_qkv",
            Self::EmbedQkv => "embed_qkv",
            Self::DownUnembed => "down_unembed",
            Self::Lora => "lora",
            Self::UpdateOut => "update_out",
            Self::UpdateIn => "update_in",
            Self::Stream => "stream",
        }
    }

    /// How close the two are: `chain` and `inmodule` pairs may alert, `stream` pairs never do, nor
    /// does an adapter against its `base`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::ValueOutput
            | Self::QueryKey
            | Self::CrossValueOutput
            | Self::CrossQueryKey
            | Self::QueryLatent
            | Self::KeyValueLatent
            | Self::UpDown
            | Self::GateDown
            | Self::SsmDt
            | Self::Conv
            | Self::Lora => "inmodule",
            Self::UpdateOut | Self::UpdateIn => "base",
            Self::OUp | Self::DownQkv | Self::EmbedQkv | Self::DownUnembed | Self::Stream => {
                "stream"
            }
        }
    }
}

/// What stands between writer and reader; it fixes the conservation law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// A linear map.
    Nothing,
    /// `ReLU` or leaky `ReLU`: positively homogeneous.
    Relu,
    /// Any other element-wise nonlinearity, or one that is not known.
    Nonlinear,
    /// The activation that the model's configuration names; a product where there is a gate.
    Activation,
    /// A product with the gate branch: linear per hidden unit.
    Gated,
    /// A rotary position embedding of rows i and i + d/2 of a head of d rows.
    Rotary,
    /// The same of rows 2i and 2i + 1.
    RotaryInterleaved,
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
            Self::Rotary | Self::RotaryInterleaved => Law::Rotary,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_labels_name_roles_and_pairs_alike() {
        let roles = "embed embed_projection patch stem q k v o cross_q cross_k cross_v cross_o q_a kv_a q_rope k_rope \
                     up gate down lora_a lora_b router shared_router ssm_in ssm_gate ssm_dt ssm_b ssm_c ssm_dt_up ssm_out conv downsample \
                     linear projection unembed_projection head classifier unembed";
        for name in roles.split_whitespace() {
            let role: Role = serde_yaml::from_str(name).unwrap();
            assert_eq!(role.as_str(), name);
        }
        let pairs = "chain v_o q_k cross_v_o cross_q_k q_a_q_b kv_a_kv_b up_down gate_down ssm_dt conv lora o_up \
                     down_qkv embed_qkv down_unembed stream";
        for name in pairs.split_whitespace() {
            let pair: PairName = serde_yaml::from_str(name).unwrap();
            assert_eq!(pair.as_str(), name);
        }
    }
}
