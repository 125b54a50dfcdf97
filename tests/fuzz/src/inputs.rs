//! What is read besides weight files: names and shapes, rules, configurations, values, directories.

use std::fs;
use std::path::Path;
use std::time::Duration;

use weightvane::checkpoint::{Dtype, Manifest, Place, TensorInfo};
use weightvane::config::{MAX_CONFIG_BYTES, Settings};
use weightvane::diagnostics::{Options, Plan, Previous, Unobserved, analyze};
use weightvane::model::{self, AdapterSettings, Rule};
use weightvane::watch::{ScanLimits, SettleRules, Settler, scan};

use super::held::{built_in, opened, recognised};
use super::{Bench, wrap};

/// The tensors of a small model that a rule knows.
pub(crate) const LLAMA: [(&str, &[usize]); 9] = [
    ("model.embed_tokens.weight", &[6, 4]),
    ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
    ("model.layers.0.self_attn.k_proj.weight", &[2, 4]),
    ("model.layers.0.self_attn.v_proj.weight", &[2, 4]),
    ("model.layers.0.self_attn.o_proj.weight", &[4, 4]),
    ("model.layers.0.mlp.gate_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.up_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.down_proj.weight", &[4, 6]),
    ("lm_head.weight", &[6, 4]),
];

/// Tensors that a list of lines says: a name and dimensions, apart by blanks.
fn listed(text: &str) -> Vec<TensorInfo> {
    let mut found: Vec<TensorInfo> = Vec::new();
    for line in text.lines().take(256) {
        let mut words = line.split_ascii_whitespace();
        let Some(name) = words.next().filter(|name| name.len() <= 4096) else { continue };
        let shape: Vec<usize> = words.map_while(|word| word.parse().ok()).take(64).collect();
        let n = shape.iter().try_fold(1_u64, |n, dim| n.checked_mul((*dim as u64).max(1)));
        let Some(n) = n.filter(|n| *n <= 1 << 48) else { continue };
        let n_bytes = if shape.contains(&0) { 0 } else { 4 * n };
        let (name, place) = (name.into(), Place::Run { file: 0, offset: 0 });
        found.push(TensorInfo { name, dtype: Dtype::F32, shape, place, n_bytes });
    }
    // As a manifest has them.
    found.sort_by(|a, b| weightvane::checkpoint::natural_cmp(&a.name, &b.name));
    found.dedup_by(|a, b| a.name == b.name);
    found
}

/// Names and shapes of a model, behind a first line that can be its configuration.
pub(crate) fn names(_: &Bench, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let config = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
    let tensors = listed(&text);
    recognised(&tensors, config.as_ref(), built_in());
    let _ = model::template(&tensors, config.as_ref());
}

/// An adapter's settings, as its record has them.
pub(crate) fn adapter(manifest: &Manifest) {
    let settings = AdapterSettings::new(manifest.adapter.as_ref());
    let graph = recognised(&manifest.tensors, manifest.config.as_ref(), built_in());
    for adapter in &graph.adapters {
        let scale = settings.scale(&adapter.module, 2);
        assert!(scale.is_ok_and(f64::is_finite) || settings.scale(&adapter.module, 1).is_err());
    }
    let plan = Plan::new(manifest, &graph, &Options::default());
    drop(plan.with_adapters(manifest, &graph, None, &Options::default()));
}

/// A user's rule for an architecture, tried on models that other rules know.
pub(crate) fn rules(_: &Bench, data: &[u8]) {
    let Some(text) = text_of(data) else { return };
    let Ok(rule) = serde_yaml::from_str::<Rule>(text) else { return };
    if rule.check().is_err() {
        return;
    }
    let llama: Vec<String> = LLAMA.iter().map(|(name, shape)| line(name, shape)).collect();
    let gpt: Vec<String> = GPT.iter().map(|(name, shape)| line(name, shape)).collect();
    let config = serde_json::json!({
        "model_type": "mine", "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "relu",
        "n_heads": 2, "n_kv_heads": 1, "flag": true, "size": 2, "large": u64::MAX,
    });
    for tensors in [llama, gpt].map(|lines| listed(&lines.join("\n"))) {
        recognised(&tensors, Some(&config), std::slice::from_ref(&rule));
        recognised(&tensors, None, std::slice::from_ref(&rule));
    }
}

/// The tensors of another small model.
const GPT: [(&str, &[usize]); 8] = [
    ("tok.weight", &[6, 4]),
    ("blocks.0.attn.qkv.weight", &[12, 4]),
    ("blocks.0.attn.out.weight", &[4, 4]),
    ("blocks.0.mlp.up.weight", &[6, 4]),
    ("blocks.0.mlp.down.weight", &[4, 6]),
    ("blocks.0.conv1.weight", &[4, 2, 3, 3]),
    ("blocks.0.experts.weight", &[2, 4, 4]),
    ("head.weight", &[6, 4]),
];

fn line(name: &str, shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("{name} {}", dims.join(" "))
}

/// The text of a file that is not too long to be one of a user's.
fn text_of(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok().filter(|text| text.len() as u64 <= MAX_CONFIG_BYTES)
}

/// The daemon's own configuration.
pub(crate) fn configuration(_: &Bench, data: &[u8]) {
    let Some(text) = text_of(data) else { return };
    let path = Path::new("weightvane.yaml");
    let (first, second) = (Settings::parse(path, text), Settings::parse(path, text));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first, second);
            assert!(first.threads > 0 && !first.k.is_empty() && first.k.is_sorted(), "{first:?}");
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.to_string(), second.to_string());
            assert!(first.to_string().starts_with("weightvane.yaml"), "{first}");
        }
        _ => panic!("taken once and refused once"),
    }
}

/// Values of a small network: the first byte says how wide, the others are float32.
pub(crate) fn weights(bench: &Bench, data: &[u8]) {
    let Some((first, values)) = data.split_first() else { return };
    let width = usize::from(first % 7) + 1;
    let shapes = [[width + 2, 5], [4, width + 2], [3, 4]];
    let tensors: [(&str, &[usize]); 3] =
        [("0.weight", &shapes[0]), ("2.weight", &shapes[1]), ("4.weight", &shapes[2])];
    let mut file = wrap::safetensors(&tensors);
    let n: usize = shapes.iter().map(|shape| 4 * shape[0] * shape[1]).sum();
    let at = file.len() - n;
    // What is missing at the end stays as it is.
    for (byte, value) in file[at..].iter_mut().zip(values) {
        *byte = *value;
    }
    let manifest = opened(&bench.write("measured.safetensors", &file)).expect("a sound file");
    let graph = model::recognize(&manifest.tensors, None, built_in());
    let options = Options { k: vec![1, 2, 4], rotation_k: vec![1, 2], ..Options::default() };
    let measure = |previous: Previous<'_>| {
        analyze(&manifest, &graph, &[], &options, previous, None, &Unobserved)
            .expect("a file that stays")
    };
    let once = measure(Previous::default());
    let twice = measure(Previous { manifest: Some(&manifest), baseline: Some(&once.baseline) });
    for report in [once.report, twice.report] {
        let text = serde_json::to_string(&report).expect("a report is JSON");
        assert!(text.starts_with('{'));
        let within = |value: Option<f64>, low: f64, high: f64| {
            let near = 1e-6 * high.abs().max(1.0);
            assert!(
                value.is_none_or(|x| (low - near..=high + near).contains(&x)),
                "{value:?}: {text}"
            );
        };
        for matrix in &report.matrices {
            let rank = u32::try_from(matrix.rows.min(matrix.cols)).map_or(f64::MAX, f64::from);
            within(matrix.stable_rank, 1.0, rank);
            within(matrix.effective_rank, 1.0, rank);
            within(matrix.spectral_entropy, 0.0, 1.0);
        }
        for pair in &report.pairs {
            within(pair.gram_correlation, -1.0, 1.0);
            within(pair.gap_ratio, 0.0, 1.0);
            for overlap in pair.overlap.values() {
                within(Some(overlap.ratio), 0.0, 1.0);
            }
        }
    }
}

/// Names of files and directories below a root, one a line, `/` between: found, and come to rest.
pub(crate) fn watch(bench: &Bench, data: &[u8]) {
    let root = bench.path("root");
    let text = String::from_utf8_lossy(data);
    let mut made = 0;
    for line in text.lines().take(24) {
        let (path, content) = line.split_once('=').unwrap_or((line, "x"));
        let plain = |part: &str| {
            !part.is_empty() && part != ".." && part.len() < 255 && !part.contains('\0')
        };
        if path.split('/').count() > 8 || !path.split('/').all(plain) {
            continue;
        }
        let path = root.join(path);
        let is_made = path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok());
        made += usize::from(is_made && fs::write(&path, content).is_ok());
    }
    if made > 0 {
        let (first, second) =
            (scan(&root, &ScanLimits::default()), scan(&root, &ScanLimits::default()));
        assert_eq!(first.saves, second.saves, "the same names, told twice");
        let mut settler = Settler::new(SettleRules::local());
        for at in [0, 40, 80, 120, 160] {
            settler.observe(Duration::from_secs(at), &first, &[]);
            let settled = settler.take_settled(Duration::from_secs(at));
            assert!(settled.iter().all(|save| save.path.starts_with(&root)));
            assert!(settled.len() <= first.saves.len());
        }
        fs::remove_dir_all(&root).expect("what was made can be removed");
    }
}
