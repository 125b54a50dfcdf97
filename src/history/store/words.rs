//! Words of a fixed vocabulary, back from the database.

/// Formats, types, ways to a spectrum, pairs and their kinds and laws, projections.
const WORDS: &[&str] = &[
    "safetensors",
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "exact",
    "block Lanczos",
    "one pass",
    "Chebyshev",
    "chain",
    "v_o",
    "q_k",
    "cross_v_o",
    "cross_q_k",
    "q_a_q_b",
    "kv_a_kv_b",
    "up_down",
    "gate_down",
    "ssm_dt",
    "conv",
    "o_up",
    "down_qkv",
    "embed_qkv",
    "down_unembed",
    "inmodule",
    "stream",
    "full",
    "diagonal",
    "rotary",
    "none",
    "q",
    "k",
    "v",
    "o",
    "cross_q",
    "cross_k",
    "cross_v",
    "cross_o",
];

/// The word, for as long as the program runs; `?` for one that a later version wrote.
pub(super) fn word(text: &str) -> &'static str {
    WORDS.iter().find(|word| **word == text).copied().unwrap_or("?")
}
