//! Names and shapes to roles, pairs and laws.

use serde_json::{Value, json};
use weightvane::checkpoint::{self, Dtype, Place, TensorInfo};
use weightvane::config::architectures;
use weightvane::model::{Law, LayerGraph, PairName, Role, buffers, recognize};

use crate::support::tests_dir;

fn tensors(shapes: &[(&str, &[usize])]) -> Vec<TensorInfo> {
    let info = |(name, shape): &(&str, &[usize])| TensorInfo {
        name: (*name).into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        place: Place::default(),
        n_bytes: 4 * shape.iter().product::<usize>() as u64,
    };
    let mut tensors: Vec<_> = shapes.iter().map(info).collect();
    tensors.sort_by(|a, b| checkpoint::natural_cmp(&a.name, &b.name));
    tensors
}

fn graph(shapes: &[(&str, &[usize])], config: Option<&Value>) -> LayerGraph {
    recognize(&tensors(shapes), config, &architectures::built_in().unwrap())
}

fn chain_of(graph: &LayerGraph) -> Vec<(String, String, usize)> {
    let pair = |p: &weightvane::model::Pair| {
        (p.writer.label.to_string(), p.reader.label.to_string(), p.dim)
    };
    graph.pairs.iter().map(pair).collect()
}

fn joined(names: &[&str], dims: &[usize]) -> Vec<(String, String, usize)> {
    let two = |(w, d): (&[&str], &usize)| (w[0].to_owned(), w[1].to_owned(), *d);
    names.windows(2).zip(dims).map(two).collect()
}

#[test]
fn plain_networks_of_any_naming_are_chained() {
    for names in [
        ["0.weight", "2.weight", "10.weight"],
        ["fc1.weight", "fc2.weight", "fc3.weight"],
        ["layers.0.weight", "layers.3.weight", "layers.12.weight"],
        ["net.lin_in.weight", "net.lin_mid.weight", "net.lin_out.weight"],
        ["W1", "W2", "W3"],
    ] {
        let shapes: [&[usize]; 3] = [&[24, 20], &[16, 24], &[5, 16]];
        let named: Vec<_> = names.into_iter().zip(shapes).collect();
        let graph = graph(&named, None);
        assert_eq!(graph.architecture, "chain");
        assert_eq!(chain_of(&graph), joined(&names, &[24, 16]), "{names:?}");
        assert!(graph.pairs.iter().all(|p| p.name == PairName::Chain && p.law == Law::None));
        assert_eq!(graph.matrices[2].role, Role::Classifier);
        assert_eq!(graph.pairs[1].classes, Some(5));
        assert!(graph.skipped.iter().any(|s| s.reason.contains("activation unknown")));
    }
}

#[test]
fn keras_kernels_are_stored_input_by_output() {
    let names = ["dense/kernel:0", "dense_1/kernel:0", "dense_2/kernel:0"];
    let shapes: [&[usize]; 3] = [&[20, 24], &[24, 16], &[16, 5]];
    let mut named: Vec<_> = names.into_iter().zip(shapes).collect();
    named.push(("dense/bias:0", &[24]));
    let found = graph(&named, None);
    assert_eq!(chain_of(&found), joined(&names, &[24, 16]));
    assert_eq!(found.matrices[0].view.n_rows(), 24, "output × input, whatever the storage");
    // All square: the name decides.
    let square: Vec<_> = names.into_iter().map(|n| (n, &[8, 8][..])).collect();
    let view = &graph(&square, None).matrices[0].view;
    assert_eq!(view.layout, weightvane::model::Layout::InOut);
}

#[test]
fn biases_decide_the_orientation_where_names_do_not() {
    let named: [(&str, &[usize]); 4] =
        [("a.w", &[8, 8]), ("a.bias", &[8]), ("b.w", &[8, 5]), ("b.bias", &[5])];
    let graph = graph(&named, None);
    assert_eq!(graph.matrices[1].view.n_rows(), 5);
    assert_eq!(chain_of(&graph), joined(&["a.w", "b.w"], &[8]));
}

#[test]
fn shapes_order_what_names_do_not() {
    let named: [(&str, &[usize]); 3] =
        [("hidden.weight", &[16, 24]), ("input.weight", &[24, 20]), ("output.weight", &[5, 16])];
    let graph = graph(&named, None);
    let wanted = joined(&["input.weight", "hidden.weight", "output.weight"], &[24, 16]);
    assert_eq!(chain_of(&graph), wanted);
}

#[test]
fn matrices_that_do_not_join_are_said_to() {
    let named: [(&str, &[usize]); 3] =
        [("a.weight", &[7, 20]), ("b.weight", &[16, 24]), ("c.weight", &[5, 16])];
    let graph = graph(&named, None);
    assert_eq!(chain_of(&graph), joined(&["b.weight", "c.weight"], &[16]));
    let reason = &graph.skipped.iter().find(|s| s.name.contains('→')).unwrap().reason;
    assert!(reason.contains("writes 7") && reason.contains("reads 24"), "{reason}");
}

#[test]
fn a_norm_between_two_layers_is_labelled_and_leaves_no_law() {
    let named: [(&str, &[usize]); 5] = [
        ("net.0.weight", &[16, 8]),
        ("net.1.weight", &[16]),
        ("net.1.running_var", &[16]),
        ("net.3.weight", &[12, 16]),
        ("net.5.weight", &[4, 12]),
    ];
    let graph = graph(&named, Some(&json!({"activation": "relu"})));
    let labels: Vec<_> = graph.pairs.iter().map(|p| (p.norm_between, p.law)).collect();
    assert_eq!(labels, [(true, Law::None), (false, Law::Diagonal)]);
}

#[test]
fn the_activation_fixes_the_law_of_a_chain() {
    let named: [(&str, &[usize]); 2] = [("0.weight", &[16, 8]), ("2.weight", &[4, 16])];
    for (activation, law) in [
        ("linear", Law::Full),
        ("relu", Law::Diagonal),
        ("leaky_relu", Law::Diagonal),
        ("gelu", Law::None),
        ("tanh", Law::None),
        ("what", Law::None),
    ] {
        let config = json!({"model_type": "mlp", "hidden_act": activation});
        assert_eq!(graph(&named, Some(&config)).pairs[0].law, law, "{activation}");
    }
}

#[test]
fn nothing_is_recognised_in_nothing() {
    for named in [
        &[][..],
        &[("x", &[][..])],
        &[("x", &[3][..])],
        &[("x", &[2, 3, 4][..])],
        &[("x", &[0, 3][..])],
    ] {
        let graph = graph(named, None);
        assert_eq!((graph.matrices.len(), graph.pairs.len()), (0, 0), "{named:?}");
        assert_eq!(graph.skipped.len(), named.len(), "everything has a reason");
    }
    assert_eq!(graph(&[("only.weight", &[3, 4])], None).matrices.len(), 1);
}

/// The law and the norm of every pair kind of a family, heads and groups apart.
fn laws(family: &str) -> Vec<(String, &'static str, bool)> {
    let manifest = checkpoint::open(&tests_dir("fixtures").join(family)).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    assert_ne!(graph.architecture, "chain", "{family}");
    let unmatched: Vec<_> =
        graph.skipped.iter().filter(|s| s.reason.starts_with("no role")).collect();
    assert!(unmatched.is_empty(), "{family}: {unmatched:?}");
    let mut laws: Vec<_> = graph
        .pairs
        .iter()
        .map(|p| {
            let each = if p.group.is_some() { "/group" } else { "" };
            (format!("{}{each}", p.name.as_str()), p.law.as_str(), p.norm_between)
        })
        .collect();
    laws.sort();
    laws.dedup();
    laws
}

fn check_laws(family: &str, wanted: &[(&str, &'static str, bool)]) {
    let mut wanted: Vec<_> = wanted.iter().map(|(n, l, b)| ((*n).to_owned(), *l, *b)).collect();
    wanted.sort();
    assert_eq!(laws(family), wanted, "{family}");
}

const STREAM: [(&str, &str, bool); 4] = [
    ("o_up", "none", true),
    ("down_qkv", "none", true),
    ("embed_qkv", "none", true),
    ("down_unembed", "none", true),
];

#[test]
fn the_law_of_every_pair_follows_from_what_stands_between() {
    let with_stream = |own: &[(&'static str, &'static str, bool)]| [own, &STREAM[..]].concat();
    let full_heads = [("v_o", "full", false), ("q_k", "full", false), ("up_down", "none", false)];
    check_laws("gpt2", &with_stream(&full_heads));
    check_laws("nanogpt", &with_stream(&full_heads));
    let bert: Vec<_> =
        with_stream(&full_heads).into_iter().filter(|p| p.0 != "down_unembed").collect();
    check_laws("bert", &bert);
    check_laws("roberta", &bert);
    let neox = [("v_o", "full", false), ("q_k", "rotary", false), ("up_down", "none", false)];
    let parallel: Vec<_> = with_stream(&neox).into_iter().filter(|p| p.0 != "o_up").collect();
    check_laws("gpt_neox", &parallel);
    let shared = |q_k: &'static str, normed: bool| {
        with_stream(&[
            ("v_o", "none", false),
            ("v_o/group", "full", false),
            ("q_k", "none", normed),
            ("q_k/group", q_k, normed),
            ("up_down", "diagonal", false),
            ("gate_down", "none", false),
        ])
    };
    for family in ["llama", "mistral", "qwen2", "phi3", "gemma"] {
        check_laws(family, &shared("rotary", false));
    }
    for family in ["qwen3", "gemma3"] {
        check_laws(family, &shared("none", true));
    }
}

#[test]
fn gains_are_folded_into_readers_of_the_stream_only() {
    let manifest = checkpoint::open(&tests_dir("fixtures/gemma3")).unwrap();
    let rules = architectures::built_in().unwrap();
    let graph = recognize(&manifest.tensors, manifest.config.as_ref(), &rules);
    for pair in &graph.pairs {
        assert_eq!(pair.writer.gain, None);
        let stream = pair.name.kind() == "stream";
        let gain = pair.reader.gain.as_ref();
        assert_eq!(gain.map(|g| g.one_plus), stream.then_some(true), "{:?}", pair.name);
        if pair.name == PairName::OUp {
            assert!(gain.unwrap().tensor.ends_with("pre_feedforward_layernorm.weight"));
        }
    }
}

#[test]
fn attention_masks_are_no_parameters() {
    let shapes: [(&str, &[usize]); 3] = [
        ("h.0.attn.c_attn.weight", &[8, 24]),
        ("h.0.attn.c_proj.weight", &[8, 8]),
        ("h.0.attn.bias", &[1, 1, 64, 64]),
    ];
    let rules = architectures::built_in().unwrap();
    let (tensors, config) = (tensors(&shapes), json!({"model_type": "gpt2", "n_head": 2}));
    let graph = recognize(&tensors, Some(&config), &rules);
    assert_eq!(buffers(&tensors, &graph, &rules), ["h.0.attn.bias"]);
}

#[test]
fn a_layout_that_contradicts_its_rule_is_said_to() {
    let shapes: [(&str, &[usize]); 2] =
        [("h.0.attn.c_attn.weight", &[8, 25]), ("h.0.attn.c_proj.weight", &[8, 8])];
    let found = graph(&shapes, Some(&json!({"model_type": "gpt2", "n_head": 2})));
    assert_eq!(found.architecture, "chain");
    let reasons: Vec<_> = found.skipped.iter().map(|s| s.reason.as_str()).collect();
    assert!(reasons.iter().any(|r| r.contains("rule `gpt2`") && r.contains("25")), "{reasons:?}");
    // A model type whose tensors are not there.
    let found = graph(&[("fc1.weight", &[4, 4])], Some(&json!({"model_type": "llama"})));
    assert!(found.skipped.iter().any(|s| s.reason.contains("no tensor `layers.{layer}.self_attn")));
}

#[test]
fn the_rule_that_readme_shows_is_a_rule() {
    let readme = std::fs::read_to_string(tests_dir("../README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).filter_map(|b| b.split("```").next());
    let rule = blocks.into_iter().find(|b| b.starts_with("name: mine")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine.yaml"), rule).unwrap();
    let rules = architectures::load(Some(dir.path())).unwrap();
    let shapes: [(&str, &[usize]); 6] = [
        ("model.backbone.tok.weight", &[100, 32]),
        ("model.backbone.blocks.0.attn.qkv.weight", &[64, 32]),
        ("model.backbone.blocks.0.attn.out.weight", &[32, 32]),
        ("model.backbone.blocks.0.mlp.up.weight", &[48, 32]),
        ("model.backbone.blocks.0.mlp.down.weight", &[32, 48]),
        ("model.backbone.blocks.0.norm2.weight", &[32]),
    ];
    let config = json!({"model_type": "mine", "n_heads": 4, "n_kv_heads": 2, "hidden_act": "relu"});
    let graph = recognize(&tensors(&shapes), Some(&config), &rules);
    assert_eq!(graph.architecture, "mine");
    let count = |name| graph.pairs.iter().filter(|p| p.name == name).count();
    assert_eq!((count(PairName::ValueOutput), count(PairName::OUp)), (4 + 2, 1));
    let up_down = graph.pairs.iter().find(|p| p.name == PairName::UpDown).unwrap();
    assert_eq!(up_down.law, Law::Diagonal);
}

/// One Llama-like layer with a model dimension of 16; `change` may spoil a shape.
fn small_llama(change: impl Fn(&str) -> Option<Vec<usize>>) -> Vec<TensorInfo> {
    let layer = "model.layers.0.";
    let shapes = [
        ("self_attn.q_proj.weight", vec![64, 16]),
        ("self_attn.k_proj.weight", vec![64, 16]),
        ("self_attn.v_proj.weight", vec![64, 16]),
        ("self_attn.o_proj.weight", vec![16, 64]),
        ("mlp.up_proj.weight", vec![24, 16]),
        ("mlp.down_proj.weight", vec![16, 24]),
        ("post_attention_layernorm.weight", vec![16]),
    ];
    let named: Vec<(String, Vec<usize>)> = shapes
        .into_iter()
        .map(|(name, shape)| (format!("{layer}{name}"), change(name).unwrap_or(shape)))
        .collect();
    let borrowed: Vec<(&str, &[usize])> =
        named.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    tensors(&borrowed)
}

#[test]
fn configurations_that_lie_cost_their_pairs_only() {
    let rules = architectures::built_in().unwrap();
    let whole = small_llama(|_| None);
    for (query, key_value, head_dim) in [
        (9_223_372_036_854_775_812_u64, 9_223_372_036_854_775_812_u64, 16_u64),
        (64, 64, u64::MAX),
        (5, 5, 16),
        (1 << 40, 1, 1),
        (8, 3, 8),
        (64, 1 << 62, 1),
    ] {
        let config = json!({"model_type": "llama", "num_attention_heads": query,
            "num_key_value_heads": key_value, "head_dim": head_dim});
        let graph = recognize(&whole, Some(&config), &rules);
        assert!(graph.pairs.iter().all(|p| p.head.is_none()), "{query} {key_value} {head_dim}");
        assert!(graph.skipped.iter().any(|s| s.name.starts_with('(')), "{:?}", graph.skipped);
    }
}

#[test]
fn shapes_that_contradict_one_another_are_refused_with_the_reason() {
    let rules = architectures::built_in().unwrap();
    let config = json!({"model_type": "llama", "num_attention_heads": 4, "head_dim": 16});
    for shape in [vec![8], vec![17], vec![4, 4], vec![0]] {
        let spoiled = small_llama(|n| n.starts_with("post_attention").then(|| shape.clone()));
        let graph = recognize(&spoiled, Some(&config), &rules);
        assert!(graph.pairs.iter().all(|p| p.name != PairName::OUp), "{shape:?}");
        let reason = &graph.skipped.iter().find(|s| s.name == "o_up layer 0").unwrap().reason;
        assert!(reason.contains("expected 16 floats"), "{reason}");
    }
    for name in ["self_attn.k_proj.weight", "self_attn.v_proj.weight"] {
        for width in [8, 32] {
            let spoiled = small_llama(|n| (n == name).then(|| vec![64, width]));
            let graph = recognize(&spoiled, Some(&config), &rules);
            assert_eq!(graph.architecture, "chain", "{name} {width}");
            assert!(
                graph.skipped.iter().any(|s| s.reason.contains("expected 16")),
                "{:?}",
                graph.skipped
            );
        }
    }
}

#[test]
fn a_hundred_thousand_equal_matrices_are_chained_in_linear_memory() {
    let names: Vec<String> = (0..100_000).map(|i| format!("experts.{i}.weight")).collect();
    let mut shapes: Vec<(&str, &[usize])> =
        names.iter().map(|n| (n.as_str(), &[8, 8][..])).collect();
    shapes.push(("zz.weight", &[3, 5]));
    let graph = graph(&shapes, None);
    assert_eq!((graph.matrices.len(), graph.pairs.len()), (100_001, 99_999));
}

#[test]
fn a_partly_rotated_head_has_no_law_gap() {
    let rules = architectures::built_in().unwrap();
    for (factor, measured) in [(json!(0.25), false), (json!(1.0), true), (Value::Null, true)] {
        for nested in [false, true] {
            let mut config = json!({"model_type": "llama", "num_attention_heads": 4});
            if nested {
                config["rope_parameters"] = json!({"partial_rotary_factor": factor});
            } else {
                config["partial_rotary_factor"] = factor.clone();
            }
            let graph = recognize(&small_llama(|_| None), Some(&config), &rules);
            let q_k = graph.pairs.iter().find(|p| p.name == PairName::QueryKey).unwrap();
            assert_eq!((q_k.law, q_k.law_gap), (Law::Rotary, measured), "{factor} {nested}");
        }
    }
}

#[test]
fn a_model_is_recognised_behind_the_name_that_a_module_has_for_it() {
    let manifest = checkpoint::open(&tests_dir("fixtures/gpt2")).unwrap();
    let rules = architectures::built_in().unwrap();
    let config = manifest.config.as_ref();
    let plain = recognize(&manifest.tensors, config, &rules);
    // Whole, though PEFT put its names before it.
    let mut wrapped = manifest.tensors.clone();
    for tensor in &mut wrapped {
        tensor.name = format!("base_model.model.{}", tensor.name).into();
    }
    assert_eq!(recognize(&wrapped, config, &rules).pairs.len(), plain.pairs.len());
    for prefix in ["net.", "_orig_mod.system.module.net."] {
        let mut tensors = manifest.tensors.clone();
        for tensor in &mut tensors {
            tensor.name = format!("{prefix}{}", tensor.name).into();
        }
        let graph = recognize(&tensors, config, &rules);
        assert_eq!(graph.architecture, plain.architecture, "{prefix}");
        assert_eq!(graph.pairs.len(), plain.pairs.len(), "{prefix}");
        assert_eq!(graph.matrices[0].name, format!("{prefix}{}", plain.matrices[0].name));
        assert!(graph.because.ends_with(", below `net.`"), "{}", graph.because);
        let n_buffers = buffers(&manifest.tensors, &plain, &rules).len();
        assert_eq!(buffers(&tensors, &graph, &rules).len(), n_buffers, "{prefix}");
    }
}

#[test]
fn a_language_model_within_another_is_told_by_its_own_type() {
    let rules = architectures::built_in().unwrap();
    let text = json!({"model_type": "llama", "num_attention_heads": 4});
    let plain = recognize(&small_llama(|_| None), Some(&text), &rules);
    let mut tensors = small_llama(|_| None);
    for tensor in &mut tensors {
        tensor.name = format!("language_model.{}", tensor.name).into();
    }
    let config = json!({"model_type": "llava", "text_config": text});
    let graph = recognize(&tensors, Some(&config), &rules);
    assert_eq!((graph.architecture.as_str(), graph.pairs.len()), ("llama", plain.pairs.len()));
    let gains = graph.pairs.iter().filter_map(|p| p.reader.gain.as_ref());
    assert!(gains.map(|gain| gain.one_plus).all(|one_plus| !one_plus), "as gemma has it");
}
