//! What the header says of the model, under the names that `config.json` has for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Keys of the header behind the architecture, and of `config.json`.
const KEYS: [(&str, &str); 7] = [
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("vocab_size", "vocab_size"),
];

/// The description of the model; its type is that of llama.cpp behind `gguf-`.
pub(super) fn config(values: &BTreeMap<String, Value>) -> Option<Value> {
    let architecture = values.get("general.architecture")?.as_str()?;
    let stated = |key: &str| values.get(&format!("{architecture}.{key}"));
    // What differs from layer to layer is a list, and not told.
    let number = |key: &str| stated(key).and_then(Value::as_u64).filter(|n| *n > 0);
    let mut config = Map::new();
    config.insert("model_type".to_owned(), format!("gguf-{architecture}").into());
    for (theirs, ours) in KEYS {
        config.extend(number(theirs).map(|n| (ours.to_owned(), n.into())));
    }
    let by_width = || number("embedding_length")?.checked_div(number("attention.head_count")?);
    let head = number("attention.key_length").or_else(by_width);
    if let (Some(turned), Some(head)) = (number("rope.dimension_count"), head)
        && turned < head
    {
        config.insert("partial_rotary_factor".to_owned(), ratio(turned, head).into());
    }
    if architecture.starts_with("gemma") {
        config.insert("hidden_act".to_owned(), "gelu_pytorch_tanh".into());
    }
    Some(Value::Object(config))
}

#[expect(clippy::cast_precision_loss, reason = "numbers of coordinates of a head")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
