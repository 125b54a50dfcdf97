//! What the header says of the model, under the names that `config.json` has for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Architectures whose rotary embedding turns coordinates that stand side by side
/// (`LLAMA_ROPE_TYPE_NORM` of llama.cpp) and whose attention is plain. For those that come with
/// halves instead, llama.cpp's converter reorders the rows of queries and keys.
const SIDE_BY_SIDE: [&str; 22] = [
    "llama",
    "mistral3",
    "deci",
    "baichuan",
    "starcoder",
    "orion",
    "internlm2",
    "minicpm",
    "xverse",
    "command-r",
    "cohere2",
    "olmo",
    "arctic",
    "deepseek",
    "chatglm",
    "granite",
    "granitemoe",
    "chameleon",
    "bailingmoe",
    "smollm3",
    "arcee",
    "ernie4_5",
];

/// Keys of the header behind the architecture, and of `config.json`.
const KEYS: [(&str, &str); 6] = [
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
];

/// A model as far as the header describes it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) architecture: String,
    /// Query heads, and those of keys and values.
    heads: Option<(usize, usize)>,
    pub(super) config: Value,
}

impl Model {
    pub(super) fn of(values: &BTreeMap<String, Value>) -> Option<Self> {
        let architecture = values.get("general.architecture")?.as_str()?.to_owned();
        let stated = |key: &str| values.get(&format!("{architecture}.{key}"));
        let number = |key: &str| stated(key).and_then(Value::as_u64).filter(|n| *n > 0);
        let mut config = Map::new();
        config.insert("model_type".to_owned(), format!("gguf-{architecture}").into());
        for (theirs, ours) in KEYS {
            config.extend(number(theirs).map(|n| (ours.to_owned(), n.into())));
        }
        config.extend(number("vocab_size").map(|n| ("vocab_size".to_owned(), n.into())));
        let n_heads = number("attention.head_count");
        let by_width = n_heads.and_then(|n| number("embedding_length")?.checked_div(n));
        let head = number("attention.key_length").or(by_width);
        if let (Some(turned), Some(head)) = (number("rope.dimension_count"), head)
            && turned < head
        {
            let part = ratio(turned, head);
            config.insert("partial_rotary_factor".to_owned(), part.into());
        }
        if architecture.starts_with("gemma") {
            config.insert("hidden_act".to_owned(), "gelu_pytorch_tanh".into());
        }
        let size = |n: u64| usize::try_from(n).ok();
        let heads = n_heads.and_then(|n| {
            let of_keys = number("attention.head_count_kv").unwrap_or(n);
            Some((size(n)?, size(of_keys)?))
        });
        Some(Self { architecture, heads, config: Value::Object(config) })
    }

    /// Heads of a tensor whose rows lie pair by pair, where the diagnostics expect half by half.
    pub(super) fn side_by_side(&self, name: &str) -> Option<usize> {
        let (of_queries, of_keys) = self.heads?;
        let mut parts = name.split('.');
        let (block, _, part) = (parts.next()?, parts.next()?, parts.next()?);
        let n_heads = match part {
            "attn_q" => of_queries,
            "attn_k" => of_keys,
            _ => return None,
        };
        let reorders = block == "blk" && SIDE_BY_SIDE.contains(&self.architecture.as_str());
        reorders.then_some(n_heads)
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of coordinates of a head")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
