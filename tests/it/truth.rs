//! Whole checkpoints against the reference implementation: the golden layouts and series, and
//! models that real frameworks saved.

use serde_json::Value;
use weightvane::diagnostics::{HeadReport, PairReport, Report};

use crate::support::{Comparison, json, measure, tests_dir};

/// Agreement asked of every published number.
const TOLERANCE: f64 = 1e-4;

fn pair<'r>(
    report: &'r Report,
    name: &str,
    layer: usize,
    head: Option<usize>,
    group: Option<usize>,
) -> &'r PairReport {
    let is = |p: &&PairReport| {
        p.pair == name && p.layer == Some(layer) && p.head == head && p.group == group
    };
    let mut found = report.pairs.iter().filter(is);
    let first = found.next();
    assert!(found.next().is_none(), "{name} layer {layer} stands twice");
    first.unwrap_or_else(|| panic!("no {name} layer {layer} head {head:?} group {group:?}"))
}

fn head<'r>(report: &'r Report, layer: usize, projection: &str) -> &'r HeadReport {
    let mut heads = report.heads.iter();
    heads.find(|h| h.layer == layer && h.projection == projection).expect("the heads are compared")
}

/// A pair against an entry in the names of the reference implementation.
fn check_pair(c: &mut Comparison, at: &str, p: &PairReport, e: &Value, f32_stored: bool) {
    check_grams(c, at, p, e);
    c.number(&format!("{at} tau_b"), p.flag_correlation, &e["flag"]["tau_b"]);
    let expected = e["ov"].as_object().expect("overlaps by k");
    assert_eq!(
        p.overlap.keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>(),
        expected.keys().cloned().collect(),
        "{at}: the k compared"
    );
    for (k, o) in &p.overlap {
        let e = &expected[&k.to_string()];
        let at = format!("{at} k={k}");
        let mut check =
            |what: &str, found: f64| c.number(&format!("{at} {what}"), Some(found), &e[what]);
        check("S", o.ratio);
        check("chance", o.chance);
        check("z", o.z);
        check("excess", o.excess);
        check("th_min", o.angle_min);
        check("th_mean", o.angle_mean);
        check("th_max", o.angle_max);
        if let Some(basis) = o.basis {
            check("basis2", basis);
        }
        // The golden flags were computed with the spacing of f32 whatever the storage.
        if f32_stored {
            assert_eq!(Some(o.cut_ok), e["cut_ok"].as_bool(), "{at} cut_ok");
            assert_eq!(Some(o.basis.is_some()), e["basis_ok"].as_bool(), "{at} basis_ok");
        }
    }
}

fn check_grams(c: &mut Comparison, at: &str, p: &PairReport, e: &Value) {
    for (key, found) in [
        ("chi", p.commutator),
        ("kappa", p.commutator_vs_chance),
        ("gram_cos", p.gram_cosine),
        ("cgram_cos", p.gram_correlation),
        ("comp", p.composition),
        ("gap", p.gap),
        ("gap_rel", p.gap_ratio),
        ("gap_diag_rel", p.gap_diagonal_ratio),
        ("gap_shape", p.gap_shape),
    ] {
        if let Some(expected) = e.get(key) {
            c.number(&format!("{at} {key}"), found, expected);
        }
    }
}

fn check_heads(c: &mut Comparison, at: &str, h: &HeadReport, e: &Value) {
    c.number(&format!("{at} pk_mean"), h.overlap_mean, &e["pk_mean"]);
    c.number(&format!("{at} pk_max"), h.overlap_max, &e["pk_max"]);
    c.number(&format!("{at} chance"), h.overlap_chance, &e["chance"]);
    c.number(&format!("{at} pk_excess"), h.overlap_excess, &e["pk_excess"]);
    c.number(&format!("{at} n_eff_pr"), h.effective_heads, &e["n_eff_pr"]);
}

#[test]
fn golden_gpt2_layout() {
    let report = measure(&tests_dir("it/golden/layouts/gpt2"), &[1, 2, 4, 8, 16]);
    assert_eq!(report.architecture, "gpt2");
    let expected = json(&tests_dir("it/golden/layouts/transformer.expected.json"));
    let mut c = Comparison::new(TOLERANCE);
    for (name, e) in expected.as_object().unwrap() {
        if name == "heads" {
            for (name, e) in e.as_object().unwrap() {
                let (layer, projection) = name.strip_prefix('L').unwrap().split_once('.').unwrap();
                check_heads(&mut c, name, head(&report, layer.parse().unwrap(), projection), e);
            }
            continue;
        }
        let (pair_name, layer, at_head) = match name.as_str() {
            "emb->L0.qkv" => ("embed_qkv", 0, None),
            "L0.dn->L1.qkv" => ("down_qkv", 0, None),
            "L1.dn->unemb" => ("down_unembed", 1, None),
            _ => {
                let (layer, rest) = name.strip_prefix('L').unwrap().split_once('.').unwrap();
                let layer = layer.parse().unwrap();
                match rest {
                    "up->dn" => ("up_down", layer, None),
                    "o->up" => ("o_up", layer, None),
                    _ => (
                        if rest.starts_with("vo") { "v_o" } else { "q_k" },
                        layer,
                        Some(rest[2..].parse().unwrap()),
                    ),
                }
            }
        };
        check_pair(&mut c, name, pair(&report, pair_name, layer, at_head, None), e, true);
    }
    assert_eq!(
        report.pairs.len(),
        expected.as_object().unwrap().len() - 1,
        "pairs without a golden"
    );
    c.finish(800);
}

#[test]
fn golden_llama_layout() {
    let report = measure(&tests_dir("it/golden/layouts/llama_gqa"), &[1, 2, 4, 8, 16, 32]);
    assert_eq!(report.architecture, "llama");
    let expected = json(&tests_dir("it/golden/layouts/llama_gqa.expected.json"));
    let mut c = Comparison::new(TOLERANCE);
    for (layer, entries) in expected.as_object().unwrap() {
        let layer: usize = layer.parse().unwrap();
        for (name, e) in entries.as_object().unwrap() {
            let at = format!("layer {layer} {name}");
            if let Some(projection) = name.strip_prefix("heads.") {
                check_heads(&mut c, &at, head(&report, layer, projection), e);
            } else if let Some(group) = name.strip_prefix("vo_group") {
                let group = group.split('.').next().unwrap().parse().unwrap();
                let p = pair(&report, "v_o", layer, None, Some(group));
                assert_eq!((p.law, p.overlap.len(), p.flag_correlation), ("full", 0, None), "{at}");
                check_grams(&mut c, &at, p, e);
            } else if name == "up->down" {
                check_pair(&mut c, &at, pair(&report, "up_down", layer, None, None), e, false);
            } else {
                let kind = if name.starts_with("vo") { "v_o" } else { "q_k" };
                let p = pair(&report, kind, layer, Some(name[2..].parse().unwrap()), None);
                assert_eq!(p.law, "none", "{at}: a head that shares keys and values has no law");
                check_pair(&mut c, &at, p, e, false);
            }
        }
    }
    c.finish(500);
}

/// One save of a golden series, in the short names of its expected values.
fn check_series_pair(c: &mut Comparison, at: &str, p: &PairReport, e: &Value) {
    for (key, found) in [
        ("chi", p.commutator),
        ("kappa", p.commutator_vs_chance),
        ("gram", p.gram_cosine),
        ("cg", p.gram_correlation),
        ("comp", p.composition),
        ("gap", p.gap),
        ("gapr", p.gap_ratio),
        ("gapdr", p.gap_diagonal_ratio),
        ("gaps", p.gap_shape),
        ("tau", p.flag_correlation),
    ] {
        c.number(&format!("{at} {key}"), found, &e[key]);
    }
    for (k, e) in e["ov"].as_object().unwrap() {
        let o = &p.overlap[&k.parse().unwrap()];
        for (key, found) in [
            ("S", o.ratio),
            ("z", o.z),
            ("ex", o.excess),
            ("tm", o.angle_mean),
            ("tx", o.angle_max),
        ] {
            c.number(&format!("{at} k={k} {key}"), Some(found), &e[key]);
        }
        if let Some(basis) = o.basis {
            c.number(&format!("{at} k={k} b2"), Some(basis), &e["b2"]);
        }
    }
}

fn golden_series(name: &str, at_least: usize) {
    let dir = tests_dir("it/golden/series").join(name);
    let expected = json(&dir.join("expected.json"));
    // The expected values were printed with six digits; z is of order 30.
    let mut c = Comparison::new(TOLERANCE);
    let mut not_finite = 0;
    for save in expected["expected"].as_array().unwrap() {
        let step = save["step"].as_u64().unwrap();
        let report = measure(&dir.join(format!("checkpoint-{step}")), &[1, 2, 4, 8, 16]);
        assert_eq!(report.step, Some(step));
        let Some(pairs) = save["pairs"].as_object() else {
            assert!(report.nan + report.inf > 0, "step {step}: expected non-finite weights");
            not_finite += 1;
            continue;
        };
        assert_eq!(report.nan + report.inf, 0);
        for (i, key) in ["l0->l1", "l1->l2", "l2->l3"].into_iter().enumerate() {
            let p = pair(&report, "chain", i, None, None);
            check_series_pair(&mut c, &format!("step {step} {key}"), p, &pairs[key]);
        }
        // The reader of the last pair is a classifier of ten classes.
        assert!(pair(&report, "chain", 2, None, None).overlap.contains_key(&9));
    }
    assert_eq!(not_finite > 0, name == "nan");
    c.finish(at_least);
}

#[test]
fn golden_series_healthy() {
    golden_series("healthy", 2000);
}

#[test]
fn golden_series_label_shuffle() {
    golden_series("label_shuffle", 2000);
}

#[test]
fn golden_series_nan() {
    golden_series("nan", 1400);
}

/// A checkpoint that a framework saved, against numbers computed from the framework's own modules.
fn check_fixture(dir: &str, expected: &str, at_least: usize) {
    let report = measure(&tests_dir("fixtures").join(dir), &[1, 2, 4, 8, 16, 32, 64]);
    let expected = json(&tests_dir("fixtures").join(expected));
    let mut c = Comparison::new(TOLERANCE);
    let index = |e: &Value, key: &str| {
        e.get(key).and_then(Value::as_u64).map(|n| usize::try_from(n).unwrap())
    };
    let pairs = expected["pairs"].as_array().unwrap();
    for e in pairs {
        let (name, layer) = (e["pair"].as_str().unwrap(), index(e, "layer").unwrap());
        let p = pair(&report, name, layer, index(e, "head"), index(e, "group"));
        let found = serde_json::to_value(p).unwrap();
        for (key, value) in e.as_object().unwrap() {
            let at = format!("{dir} {name} layer {layer} {:?} {:?} {key}", p.head, p.group);
            match key.as_str() {
                "pair" | "layer" | "head" | "group" => {}
                "overlap" => {
                    for (k, s) in value.as_object().unwrap() {
                        c.number(&format!("{at} {k}"), found["overlap"][k]["ratio"].as_f64(), s);
                    }
                }
                _ => c.number(&at, found[key].as_f64(), value),
            }
        }
    }
    assert_eq!(report.pairs.len(), pairs.len(), "{dir}: pairs found and expected");
    for e in expected["heads"].as_array().into_iter().flatten() {
        let (layer, projection) = (index(e, "layer").unwrap(), e["projection"].as_str().unwrap());
        let found = serde_json::to_value(head(&report, layer, projection)).unwrap();
        for key in [
            "heads",
            "overlap_mean",
            "overlap_max",
            "overlap_chance",
            "overlap_excess",
            "effective_heads",
        ] {
            c.number(
                &format!("{dir} heads {projection} {layer} {key}"),
                found[key].as_f64(),
                &e[key],
            );
        }
    }
    if let Some(e) = expected.get("classifier").filter(|e| !e.is_null()) {
        let found = serde_json::to_value(report.classifier.as_ref().unwrap()).unwrap();
        for key in ["classes", "simplex_deviation", "equinorm", "equiangle"] {
            c.number(&format!("{dir} classifier {key}"), found[key].as_f64(), &e[key]);
        }
    }
    c.finish(at_least);
}

#[test]
fn models_saved_by_transformers() {
    for family in [
        "gpt2", "nanogpt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "phi3", "olmo",
        "olmo2", "gpt_neox", "bert", "roberta",
    ] {
        check_fixture(family, &format!("{family}/expected.json"), 200);
    }
}

#[test]
fn multilayer_perceptrons_of_any_naming() {
    for naming in ["mlp_sequential", "mlp_fc", "mlp_layers"] {
        check_fixture(naming, &format!("{naming}/expected.json"), 20);
    }
}

#[test]
fn a_run_of_the_transformers_trainer() {
    for step in [10, 20, 30] {
        let dir = format!("trainer/checkpoint-{step}");
        check_fixture(&dir, &format!("{dir}.expected.json"), 100);
        let manifest = weightvane::checkpoint::open(&tests_dir("fixtures").join(&dir)).unwrap();
        let trainer = manifest.trainer.unwrap();
        assert_eq!((manifest.step, trainer.global_step), (Some(step), Some(step)));
        assert!(
            trainer.loss.is_some()
                && trainer.learning_rate.is_some()
                && trainer.grad_norm.is_some()
        );
    }
}
