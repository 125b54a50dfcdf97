//! The same weights under other namings and layouts give the same numbers.

use serde_json::{Value, json};
use weightvane::diagnostics::Report;

use crate::support::{
    Array, Arrays, Comparison, measure, read_arrays, tests_dir, write_checkpoint,
};

const KS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const TOLERANCE: f64 = 1e-6;
const HEADS: usize = 4;

/// Every pair and head number of `report` against `golden`; pairs in `absent` are expected to be
/// missing.
fn same_numbers(golden: &Report, report: &Report, absent: &[&str], at_least: usize) {
    let mut c = Comparison::new(TOLERANCE);
    let entries = |r: &Report| serde_json::to_value(r).unwrap();
    let (golden, report) = (entries(golden), entries(report));
    let key = |e: &Value, keys: &[&str]| keys.iter().map(|k| e[*k].to_string()).collect::<Vec<_>>();
    for (list, keys, labels) in [
        ("pairs", &["pair", "layer", "head", "group"][..], &["writer", "reader", "law"][..]),
        ("heads", &["layer", "projection"][..], &[][..]),
    ] {
        for wanted in golden[list].as_array().unwrap() {
            let id = key(wanted, keys);
            let mut found = report[list].as_array().unwrap().iter();
            let found = found.find(|f| key(f, keys) == id);
            if absent.contains(&wanted["pair"].as_str().unwrap_or_default()) {
                assert!(found.is_none(), "{id:?} is not adjacent here");
                continue;
            }
            let found = found.unwrap_or_else(|| panic!("{list}: {id:?} is missing"));
            for (name, value) in wanted.as_object().unwrap() {
                if !labels.contains(&name.as_str()) {
                    compare(&mut c, &format!("{id:?} {name}"), &found[name], value);
                }
            }
        }
    }
    c.finish(at_least);
}

fn compare(c: &mut Comparison, at: &str, found: &Value, expected: &Value) {
    match expected {
        Value::Object(map) => {
            for (key, value) in map {
                compare(c, &format!("{at} {key}"), &found[key], value);
            }
        }
        Value::Number(_) | Value::Null => c.number(at, found.as_f64(), expected),
        other => assert_eq!(found, other, "{at}"),
    }
}

fn rewritten(arrays: &Arrays, config: Option<&Value>, architecture: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), arrays, config);
    let report = measure(dir.path(), &KS);
    assert_eq!(report.architecture, architecture, "{:?}", report.skipped);
    report
}

fn gpt2() -> (Arrays, Report) {
    let dir = tests_dir("it/golden/layouts/gpt2");
    (read_arrays(&dir), measure(&dir, &KS))
}

/// Copies tensors under other names; `None` drops one.
fn renamed(arrays: &Arrays, name: impl Fn(&str) -> Option<(String, bool)>) -> Arrays {
    let one = |(old, array): (&String, &Array)| {
        let (new, transpose) = name(old)?;
        Some((new, if transpose { array.transposed() } else { array.clone() }))
    };
    arrays.iter().filter_map(one).collect()
}

#[test]
fn gpt2_as_nanogpt() {
    let (arrays, golden) = gpt2();
    let linear = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
    let nano = renamed(&arrays, |n| Some((n.to_owned(), linear.iter().any(|l| n.ends_with(l)))));
    let config = json!({"n_head": HEADS});
    same_numbers(&golden, &rewritten(&nano, Some(&config), "nanogpt"), &[], 900);
}

#[test]
fn gpt2_as_gpt_neox() {
    let (arrays, golden) = gpt2();
    let mut neox = renamed(&arrays, |n| {
        let n = n.strip_prefix("transformer.").unwrap_or(n);
        let name = n
            .replacen("h.", "gpt_neox.layers.", usize::from(n.starts_with("h.")))
            .replace("lm_head", "embed_out")
            .replace("wte", "gpt_neox.embed_in")
            .replace("ln_f", "gpt_neox.final_layer_norm")
            .replace("ln_1", "input_layernorm")
            .replace("ln_2", "post_attention_layernorm")
            .replace("attn.c_proj", "attention.dense")
            .replace("mlp.c_fc", "mlp.dense_h_to_4h")
            .replace("mlp.c_proj", "mlp.dense_4h_to_h");
        let transposed = n.contains(".c_") && n.ends_with("weight");
        (!n.contains("c_attn") && !n.contains("wpe")).then_some((name, transposed))
    });
    for layer in 0..2 {
        for (kind, transpose) in [("weight", true), ("bias", false)] {
            let fused = &arrays[&format!("transformer.h.{layer}.attn.c_attn.{kind}")];
            let fused = if transpose { fused.transposed() } else { fused.clone() };
            let (model, head) = (fused.shape[0] / 3, fused.shape[0] / 3 / HEADS);
            let block = |h: usize, part: usize| {
                fused.rows(part * model + h * head..part * model + (h + 1) * head)
            };
            let blocks: Vec<_> = (0..HEADS)
                .flat_map(|h| (0..3).map(move |p| (h, p)))
                .map(|(h, p)| block(h, p))
                .collect();
            let name = format!("gpt_neox.layers.{layer}.attention.query_key_value.{kind}");
            neox.insert(name, Array::stacked(&blocks));
        }
    }
    let config = |parallel: bool| json!({"model_type": "gpt_neox", "num_attention_heads": HEADS, "use_parallel_residual": parallel});
    let sequential = rewritten(&neox, Some(&config(false)), "gpt_neox");
    same_numbers(&golden, &sequential, &[], 900);
    // In parallel blocks attention does not write what the MLP of its block reads.
    let parallel = rewritten(&neox, Some(&config(true)), "gpt_neox");
    same_numbers(&golden, &parallel, &["o_up"], 800);
    assert!(parallel.skipped.iter().any(|s| s.reason.contains("use_parallel_residual")));
}

#[test]
fn gpt2_as_bert() {
    let (arrays, golden) = gpt2();
    let at = |n: &str| arrays[&format!("transformer.{n}")].clone();
    let mut bert = Arrays::new();
    let mut put = |name: String, array: Array| {
        bert.insert(format!("bert.{name}"), array);
    };
    put("embeddings.word_embeddings.weight".into(), at("wte.weight"));
    put("embeddings.LayerNorm.weight".into(), at("h.0.ln_1.weight"));
    for layer in 0..2 {
        let from = |n: &str| at(&format!("h.{layer}.{n}"));
        let to = format!("encoder.layer.{layer}");
        let (weight, bias) = (from("attn.c_attn.weight").transposed(), from("attn.c_attn.bias"));
        let model = weight.shape[0] / 3;
        for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
            let rows = part * model..(part + 1) * model;
            put(format!("{to}.attention.self.{name}.weight"), weight.rows(rows.clone()));
            put(format!("{to}.attention.self.{name}.bias"), bias.rows(rows));
        }
        let o = from("attn.c_proj.weight").transposed();
        put(format!("{to}.attention.output.dense.weight"), o);
        put(format!("{to}.attention.output.LayerNorm.weight"), from("ln_2.weight"));
        put(format!("{to}.intermediate.dense.weight"), from("mlp.c_fc.weight").transposed());
        put(format!("{to}.output.dense.weight"), from("mlp.c_proj.weight").transposed());
        // Behind the last block nothing reads; between blocks stands the next block's norm.
        let norm = if layer == 0 { at("h.1.ln_1.weight") } else { at("ln_f.weight") };
        put(format!("{to}.output.LayerNorm.weight"), norm);
    }
    let config = json!({"model_type": "bert", "num_attention_heads": HEADS});
    same_numbers(&golden, &rewritten(&bert, Some(&config), "bert"), &["down_unembed"], 850);
}

#[test]
fn llama_as_phi3() {
    let dir = tests_dir("it/golden/layouts/llama_gqa");
    let (arrays, golden) = (read_arrays(&dir), measure(&dir, &KS));
    let mut phi = renamed(&arrays, |n| {
        let fused = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"];
        (!fused.iter().any(|f| n.contains(f))).then_some((n.to_owned(), false))
    });
    for layer in 0..2 {
        let at = |n: &str| arrays[&format!("model.layers.{layer}.{n}.weight")].clone();
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(at);
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(at);
        phi.insert(format!("model.layers.{layer}.self_attn.qkv_proj.weight"), Array::stacked(&qkv));
        phi.insert(
            format!("model.layers.{layer}.mlp.gate_up_proj.weight"),
            Array::stacked(&gate_up),
        );
    }
    let config = |model_type: &str| json!({"model_type": model_type, "num_attention_heads": HEADS, "num_key_value_heads": 2});
    // Stored as F32 here: the numbers that depend on the spacing of the storage are compared with the
    // split form stored in the same way.
    let split = rewritten(&arrays, Some(&config("llama")), "llama");
    let fused = rewritten(&phi, Some(&config("phi3")), "phi3");
    same_numbers(&split, &fused, &[], 800);
    assert_eq!(golden.pairs.len(), fused.pairs.len());
    // Without config.json the same names are recognised by their tensors; 12 rows a head is no usual
    // head, so the heads are unknown and said to be.
    let unnamed = rewritten(&phi, None, "llama");
    assert!(unnamed.skipped.iter().any(|s| s.reason.contains("number of heads unknown")));
    assert!(unnamed.pairs.iter().all(|p| p.head.is_none()));
    assert!(unnamed.pairs.iter().any(|p| p.pair == "up_down"));
}

#[test]
fn wrapper_prefixes_make_no_difference() {
    let (arrays, golden) = gpt2();
    for prefix in ["_orig_mod.", "module.", "_orig_mod.module."] {
        let wrapped = renamed(&arrays, |n| Some((format!("{prefix}{n}"), false)));
        let config = json!({"model_type": "gpt2", "n_head": HEADS});
        same_numbers(&golden, &rewritten(&wrapped, Some(&config), "gpt2"), &[], 900);
    }
}
