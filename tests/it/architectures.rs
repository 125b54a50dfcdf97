//! Tiny models that frameworks made and saved, each with its truth: which tensor (and which of its
//! rows) plays which role, and which pairs are adjacent, proven by the framework's own forward pass
//! (`tests/fixtures/architectures`).

mod truth;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weightvane::checkpoint::{self, Manifest, Place};
use weightvane::config::architectures;
use weightvane::model::{LayerGraph, Layout, Operand, Pair, Span, View, recognize, template};

use crate::support::{json as read_json, tests_dir};
use truth::Truth;

/// Matrices that have a role in truth and a reason here, with a part of that reason.
const WITH_A_REASON: [(&str, &str); 2] = [
    ("distillation_classifier.weight", "second classifier"),
    ("head_dist.weight", "second classifier"),
];

/// Adjacent matrices that are no pair of subspaces here: an embedding in two steps and back, what passes
/// a state-space model, a key that all heads share.
const NO_PAIRS: [&str; 6] = [
    "ssm_in_out",
    "ssm_in_x",
    "q_rope_k_rope",
    "embed_projection",
    "projection_unembed",
    "conv_linear",
];

/// Every fixture: its name, its files and its truth.
fn fixtures() -> Vec<(String, Manifest, Truth)> {
    let dir = tests_dir("fixtures/architectures");
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| dir.join(name).join("roles.json").exists())
        .collect();
    names.sort();
    let open = |name: String| {
        let manifest = checkpoint::open(&dir.join(&name)).unwrap();
        let truth = Truth::new(&read_json(&dir.join(&name).join("roles.json")), &manifest);
        (name, manifest, truth)
    };
    names.into_iter().map(open).collect()
}

/// The configuration, with the heads of truth where it states none: under every key that rules read.
fn with_heads(manifest: &Manifest, truth: &Truth) -> Option<Value> {
    let Some((query, key_value, head_dim)) = truth.heads() else { return manifest.config.clone() };
    let mut config = manifest.config.clone().unwrap_or_else(|| json!({}));
    if config.get("model_type").is_none() {
        for key in ["num_heads", "n_heads", "n_head", "num_attention_heads", "nhead"] {
            config[key] = query.into();
        }
        for key in ["n_kv_heads", "n_query_groups", "num_query_groups", "num_key_value_heads"] {
            config[key] = key_value.into();
        }
        for key in ["head_size", "kv_channels"] {
            config[key] = head_dim.into();
        }
        config["model_cfg"] = json!({"vision_cfg": {"heads": query}, "text_cfg": {"heads": query}});
    }
    Some(config)
}

/// Flat positions of a view's rows, in order.
fn positions(view: &View, shape: &[usize]) -> Vec<Vec<usize>> {
    let width: usize = shape[view.lead..].iter().product();
    let all = |spans: &[Span]| -> Vec<usize> { spans.iter().flat_map(Span::positions).collect() };
    let at = |r: usize, c: usize| match view.layout {
        Layout::OutIn => r * width + c,
        Layout::InOut => c * width + r,
    };
    let cols = all(&view.cols);
    all(&view.rows).into_iter().map(|r| cols.iter().map(|c| at(r, *c)).collect()).collect()
}

/// The same without the order of columns, which for kernels differs.
fn sorted(mut rows: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    for row in &mut rows {
        row.sort_unstable();
    }
    rows
}

struct Case<'a> {
    name: &'a str,
    manifest: &'a Manifest,
    truth: &'a Truth,
    graph: LayerGraph,
    faults: Vec<String>,
}

impl Case<'_> {
    fn fault(&mut self, what: &str) {
        self.faults.push(format!("{}: {what}", self.name));
    }

    fn shape(&self, tensor: &str) -> &[usize] {
        &self.manifest.find(tensor).unwrap().shape
    }

    fn reason(&self, tensor: &str) -> Option<&str> {
        self.graph.skipped.iter().find(|s| s.name == tensor).map(|s| s.reason.as_str())
    }

    /// Every floating matrix has a role or a reason, and which is as truth has it.
    fn check_tensors(&mut self) {
        let matrices: BTreeSet<String> =
            self.graph.matrices.iter().map(|m| m.view.tensor.to_string()).collect();
        for tensor in self.manifest.tensors.iter().filter(|t| t.dtype.is_float()) {
            if tensor.shape.len() < 2 {
                continue;
            }
            let (has_role, reason) =
                (matrices.contains(tensor.name.as_str()), self.reason(&tensor.name));
            let reason = reason.unwrap_or("nothing").to_owned();
            let entry = self.truth.entries.get(tensor.name.as_str());
            let is_uncut = reason.contains("number of heads is unknown");
            let excused = is_uncut
                || WITH_A_REASON
                    .iter()
                    .any(|(n, r)| tensor.name.ends_with(n) && reason.contains(r));
            if has_role != entry.is_some() && !excused {
                self.fault(&format!("`{}` has a role: {has_role}; {reason}", tensor.name));
            }
            if !has_role && (reason.starts_with("no role") || reason == "nothing") {
                self.fault(&format!("`{}`: {reason}", tensor.name));
            }
        }
    }

    fn check_matrices(&mut self) {
        let mut offsets: BTreeMap<Option<String>, BTreeSet<i64>> = BTreeMap::new();
        for matrix in self.graph.matrices.clone() {
            let Some(entry) = self.truth.entries.get(matrix.view.tensor.as_str()) else { continue };
            let shape = self.shape(&matrix.view.tensor).to_vec();
            let role = matrix.role.as_str();
            let Some(part) = entry.part_called(role) else {
                self.fault(&format!("`{}` is {role}, expected {}", matrix.name, entry.role));
                continue;
            };
            let expected = entry.rows(&part, matrix.expert, None);
            let found = positions(&matrix.view, &shape);
            let equal = if entry.is_kernel() {
                sorted(found) == sorted(expected)
            } else {
                found == expected
            };
            if !equal {
                self.fault(&format!("`{}` has other values than {role} of truth", matrix.name));
            }
            if matrix.expert != entry.expert && entry.experts.is_none() {
                self.fault(&format!("`{}` is expert {:?}", matrix.name, matrix.expert));
            }
            if matrix.stack.is_some() && matrix.stack.as_deref() != entry.stack.as_deref() {
                self.fault(&format!("`{}` is in stack {:?}", matrix.name, matrix.stack));
            }
            if let (Some(found), Some(layer)) = (matrix.layer, entry.layer) {
                let offset = i64::try_from(found).unwrap() - i64::try_from(layer).unwrap();
                offsets.entry(entry.stack.clone()).or_default().insert(offset);
            } else if entry.layer.is_some() {
                self.fault(&format!("`{}` has no layer", matrix.name));
            }
        }
        for (stack, offsets) in offsets {
            if offsets.len() != 1 {
                self.fault(&format!("layers of {stack:?} are shifted by {offsets:?}"));
            }
        }
    }

    fn check_pairs(&mut self) {
        for (at, pair) in self.truth.pairs.clone().iter().enumerate() {
            if pair.kind == "stream" || NO_PAIRS.contains(&pair.pair.as_str()) {
                continue;
            }
            let found: Vec<Pair> =
                self.graph.pairs.iter().filter(|p| self.truth.is(at, p)).cloned().collect();
            let heads = self.truth.entries[&pair.writer[0]].heads;
            let wanted = match (pair.pair.as_str(), heads) {
                ("v_o" | "q_k", Some((q, k, _))) if q == k => q,
                ("v_o" | "q_k", Some((q, k, _))) => q + k,
                _ if pair.expert.as_deref() == Some("each") => {
                    self.truth.entries[&pair.writer[0]].experts.unwrap()
                }
                _ => 1,
            };
            if found.len() != wanted {
                self.fault(&format!(
                    "{} of {:?}: {} pairs, expected {wanted}",
                    pair.pair,
                    pair.writer,
                    found.len()
                ));
            }
            for p in &found {
                let law = p.law.as_str();
                if !pair.allows(law, p.head.is_some() && wanted > heads.map_or(1, |h| h.0)) {
                    self.fault(&format!(
                        "{} of {:?}: law {law}, between {}",
                        pair.pair, pair.writer, pair.between
                    ));
                }
                self.check_heads(p);
            }
        }
        for p in self.graph.pairs.clone() {
            if !(0..self.truth.pairs.len()).any(|at| self.truth.is(at, &p)) {
                self.fault(&format!(
                    "{} layer {:?}: {} and {} are not adjacent",
                    p.name.as_str(),
                    p.layer,
                    p.writer.label,
                    p.reader.label
                ));
            }
        }
    }

    /// The values of one head, on both sides.
    fn check_heads(&mut self, pair: &Pair) {
        let (Some(head), Some((query, key_value, _))) =
            (pair.head, self.truth.entries[pair.writer.parts[0].tensor.as_str()].heads)
        else {
            return;
        };
        let writer = self.truth.head(
            &pair.writer.parts[0].tensor,
            pair.name.as_str(),
            true,
            head / (query / key_value),
        );
        let reader = self.truth.head(&pair.reader.parts[0].tensor, pair.name.as_str(), false, head);
        for (operand, mut expected) in [(&pair.writer, writer), (&pair.reader, reader)] {
            let mut found = self.all(operand);
            found.sort();
            expected.sort();
            if found != expected {
                self.fault(&format!(
                    "{} head {head}: other values of `{}`",
                    pair.name.as_str(),
                    operand.label
                ));
            }
        }
    }

    fn all(&self, operand: &Operand) -> Vec<Vec<usize>> {
        operand.parts.iter().flat_map(|v| positions(v, self.shape(&v.tensor))).collect()
    }

    /// Gains are those of truth, on streams alone.
    fn check_gains(&mut self) {
        for pair in self.graph.pairs.clone() {
            let Some(gain) = &pair.reader.gain else { continue };
            let fits = |at: &usize| {
                let truth = &self.truth.pairs[*at];
                self.truth.is(*at, &pair) && truth.gain.as_deref() == Some(gain.tensor.as_str())
            };
            if !(0..self.truth.pairs.len()).any(|at| fits(&at)) {
                self.fault(&format!(
                    "{} layer {:?}: gain `{}`",
                    pair.name.as_str(),
                    pair.layer,
                    gain.tensor
                ));
            }
        }
    }
}

#[test]
fn tiny_models_of_all_frameworks_are_recognised_as_they_compute() {
    let rules = architectures::built_in().unwrap();
    let (mut faults, mut n) = (Vec::new(), 0);
    for (name, manifest, truth) in fixtures() {
        for config in [with_heads(&manifest, &truth), manifest.config.clone()] {
            let graph = recognize(&manifest.tensors, config.as_ref(), &rules);
            let knows_heads = graph.skipped.iter().all(|s| !s.name.starts_with("(heads"));
            let mut case =
                Case { name: &name, manifest: &manifest, truth: &truth, graph, faults: Vec::new() };
            case.check_tensors();
            case.check_matrices();
            case.check_gains();
            if knows_heads {
                case.check_pairs();
            }
            let why = case.graph.because.clone();
            faults.extend(case.faults.into_iter().map(|fault| format!("{fault} [{why}]")));
            n += 1;
        }
    }
    faults.dedup();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(n >= 2 * 50, "only {n} fixtures");
}

#[test]
fn readme_holds_the_table_of_the_built_in_rules() {
    let readme = std::fs::read_to_string(tests_dir("../README.md")).unwrap();
    let table = architectures::table().unwrap();
    assert!(readme.contains(&table), "README expected to hold:\n{table}");
}

/// A rule made of a checkpoint's own names is a rule for every fixture, and one for the checkpoint.
#[test]
fn a_template_is_a_rule() {
    let dir = tempfile::tempdir().unwrap();
    for (name, manifest, _) in fixtures() {
        let text = template(&manifest.tensors, manifest.config.as_ref());
        std::fs::write(dir.path().join("mine.yaml"), &text).unwrap();
        let rules = architectures::load(Some(dir.path()));
        let rules = rules.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        // Alone it names at least one matrix, or its guesses contradict the shapes, which is said.
        let graph = recognize(&manifest.tensors, manifest.config.as_ref(), &rules[..1]);
        let is_said = graph.skipped.iter().any(|left| left.name == "(architecture)");
        assert!(graph.architecture != "chain" || is_said, "{name}:\n{text}");
    }
}

/// An unknown transformer: the template names what it can, roles filled in for the rest make it whole.
#[test]
fn a_template_with_its_gaps_filled_is_a_rule_for_the_model() {
    let tensor = |name: &str, shape: &[usize]| checkpoint::TensorInfo {
        name: name.into(),
        dtype: checkpoint::Dtype::F32,
        shape: shape.to_vec(),
        place: Place::default(),
        n_bytes: 4 * shape.iter().product::<usize>() as u64,
    };
    let mut tensors: Vec<_> = (0..2)
        .flat_map(|l| {
            let p = format!("model.trunk.{l}.");
            [
                tensor(&format!("{p}att.wq.weight"), &[16, 16]),
                tensor(&format!("{p}att.wk.weight"), &[16, 16]),
                tensor(&format!("{p}att.wv.weight"), &[16, 16]),
                tensor(&format!("{p}att.wo.weight"), &[16, 16]),
                tensor(&format!("{p}ff.first.weight"), &[24, 16]),
                tensor(&format!("{p}ff.second.weight"), &[16, 24]),
            ]
        })
        .collect();
    tensors.sort_by(|a, b| checkpoint::natural_cmp(&a.name, &b.name));
    let text = template(&tensors, Some(&json!({"model_type": "trunk"})));
    assert!(text.contains("parts: [q], layout: out_in}   # 2 of [16, 16]"), "{text}");
    let unknown: Vec<&str> = text.lines().filter(|l| l.starts_with("# ? - ")).collect();
    assert_eq!(unknown.len(), 2, "{text}");
    let filled = text
        .replace("# ? - ", "  - ")
        .replace("ff.second.weight\", parts: [up]", "ff.second.weight\", parts: [down]")
        .replace("pairs: ", "pairs:\n  - {pair: up_down, between: activation}\n#");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("trunk.yaml"), &filled).unwrap();
    let rules = architectures::load(Some(dir.path())).unwrap();
    let config = json!({"model_type": "trunk", "num_heads": 2, "hidden_act": "relu"});
    let graph = recognize(&tensors, Some(&config), &rules);
    assert_eq!(graph.architecture, "trunk");
    let count = |name: &str| graph.pairs.iter().filter(|p| p.name.as_str() == name).count();
    assert_eq!((count("v_o"), count("q_k"), count("up_down")), (4, 4, 2), "{filled}");
}
