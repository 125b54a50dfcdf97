//! A rule to start from, made of a checkpoint's own names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::names::{are_of_flax, plain, strip_prefixes};
use super::{PairName, Role, Storage, recognize};
use crate::checkpoint::TensorInfo;

/// Most lines of tensors; a model has few kinds of them.
const MAX_LINES: usize = 200;

/// Parts of names and the role that they usually tell; the longer first where one holds another.
const TELLING: [(&str, &[Role]); 53] = [
    ("c_attn", &[Role::Query, Role::Key, Role::Value]),
    ("query_key_value", &[Role::Query, Role::Key, Role::Value]),
    ("qkv", &[Role::Query, Role::Key, Role::Value]),
    ("in_proj_weight", &[Role::Query, Role::Key, Role::Value]),
    ("gate_up", &[Role::Gate, Role::Up]),
    ("q_proj", &[Role::Query]),
    ("k_proj", &[Role::Key]),
    ("v_proj", &[Role::Value]),
    ("o_proj", &[Role::Output]),
    ("out_proj", &[Role::Output]),
    ("attn_q", &[Role::Query]),
    ("attn_k", &[Role::Key]),
    ("attn_v", &[Role::Value]),
    ("attn_output", &[Role::Output]),
    ("wq", &[Role::Query]),
    ("wk", &[Role::Key]),
    ("wv", &[Role::Value]),
    ("wo", &[Role::Output]),
    ("w_q", &[Role::Query]),
    ("w_k", &[Role::Key]),
    ("w_v", &[Role::Value]),
    ("w_out", &[Role::Output]),
    ("query", &[Role::Query]),
    ("key", &[Role::Key]),
    ("value", &[Role::Value]),
    ("attn.proj", &[Role::Output]),
    ("attn.c_proj", &[Role::Output]),
    ("attn.out", &[Role::Output]),
    ("attention.out", &[Role::Output]),
    ("attention.dense", &[Role::Output]),
    ("router", &[Role::Router]),
    ("gate_proj", &[Role::Gate]),
    ("up_proj", &[Role::Up]),
    ("down_proj", &[Role::Down]),
    ("fc1", &[Role::Up]),
    ("fc2", &[Role::Down]),
    ("fc_in", &[Role::Up]),
    ("fc_out", &[Role::Down]),
    ("linear1", &[Role::Up]),
    ("linear2", &[Role::Down]),
    ("c_fc", &[Role::Up]),
    ("ffn_gate", &[Role::Gate]),
    ("ffn_up", &[Role::Up]),
    ("ffn_down", &[Role::Down]),
    ("mlp.c_proj", &[Role::Down]),
    ("w1", &[Role::Gate]),
    ("w3", &[Role::Up]),
    ("w2", &[Role::Down]),
    ("mlp.up", &[Role::Up]),
    ("mlp.down", &[Role::Down]),
    ("lm_head", &[Role::Unembed]),
    ("classifier", &[Role::Classifier]),
    ("emb", &[Role::Embed]),
];

/// One kind of tensor: a name with words for numbers.
struct Kind {
    pattern: String,
    roles: Vec<Role>,
    layout: Storage,
    shapes: BTreeSet<Vec<usize>>,
    count: usize,
}

/// A rule file in YAML, filled from names and shapes: prefixes off, numbers as `{layer}` and
/// `{expert}`, roles where a name tells one. What it does not tell stands behind `# ?`, to be given a
/// role or a reason. The text parses as a rule as it stands.
#[must_use]
pub fn template(tensors: &[TensorInfo], config: Option<&Value>) -> String {
    if !recognize(tensors, config, &[]).adapters.is_empty() {
        return "# Adapters of low rank are told by their names and need no rule; see `weightvane explain`.\n"
            .into();
    }
    let kinds = kinds(tensors);
    let mut text = String::from(
        "# A rule to start from. Put it into the directory that `architectures_dir` names, give what stands\n\
         # behind `# ?` a role (or a line under `ignore`), and look at `weightvane explain`.\n",
    );
    let model_type = config.and_then(|c| c.get("model_type")).and_then(Value::as_str);
    let name = model_type.map_or_else(|| "mine".to_owned(), safe);
    let _ = writeln!(text, "name: \"{name}\"\ndescribes: \"{name}\"");
    if let Some(model_type) = model_type {
        let _ = writeln!(text, "model_types: [{}]", quoted(model_type));
    }
    if are_of_flax(tensors.iter().map(|t| t.name.as_str())) {
        text += "# A `kernel` is called `weight` here and turned round: give it the layout that torch would have.\n";
    }
    let known: Vec<&Kind> = kinds.iter().filter(|kind| !kind.roles.is_empty()).collect();
    let in_stack = |kind: &&&Kind| kind.pattern.contains("{layer}");
    let needed = known.iter().find(in_stack).copied().or(kinds.first());
    let Some(needed) = needed else {
        return text + "# no floating-point matrix: there is nothing that a rule could name\n";
    };
    let _ = writeln!(text, "requires: [{}]", quoted(&needed.pattern));
    text += "heads:                  # keys of config.json\n  query: [num_attention_heads, n_head, num_heads]\n  key_value: [num_key_value_heads]\n  head_dim: [head_dim]\nactivation: [hidden_act, activation_function]\n";
    text += "matrices:               # out_in: rows are outputs (nn.Linear); in_out: rows are inputs (Conv1D)\n";
    if known.is_empty() {
        // A rule has at least one matrix: the first, as a guess that its comment says is one.
        text += "# No name tells a role. Layers one behind the other need no rule: without one they are chained by shape.\n";
        text += &line(needed, &[guess(needed)], "  - ", "  # ? a guess");
    }
    for kind in kinds.iter().take(MAX_LINES) {
        if known.is_empty() && std::ptr::eq(kind, needed) {
            continue;
        }
        if kind.roles.is_empty() {
            text += &line(kind, &[guess(kind)], "# ? - ", "");
        } else {
            text += &line(kind, &kind.roles, "  - ", "");
        }
    }
    if kinds.len() > MAX_LINES {
        let _ = writeln!(text, "# … and {} more kinds of tensors", kinds.len() - MAX_LINES);
    }
    text + &pairs(&known)
}

/// Pairs of the roles that were told. What stands between is for the user to say.
fn pairs(known: &[&Kind]) -> String {
    let has = |role: Role| known.iter().any(|kind| kind.roles.contains(&role));
    let mut text = String::from(
        "pairs:                  # between: nothing relu nonlinear activation gated rotary rotary_interleaved norm\n",
    );
    let mut any = false;
    for (pair, roles, between) in [
        (PairName::ValueOutput, [Role::Value, Role::Output], "nothing"),
        (PairName::QueryKey, [Role::Query, Role::Key], "rotary"),
        (PairName::UpDown, [Role::Up, Role::Down], "activation"),
        (PairName::GateDown, [Role::Gate, Role::Down], "nonlinear"),
        (PairName::OUp, [Role::Output, Role::Up], "norm"),
        (PairName::DownQkv, [Role::Down, Role::Query], "norm"),
        (PairName::EmbedQkv, [Role::Embed, Role::Query], "norm"),
        (PairName::DownUnembed, [Role::Down, Role::Unembed], "norm"),
    ] {
        if roles.into_iter().all(has) {
            any = true;
            let _ = writeln!(text, "  - {{pair: {}, between: {between}}}", pair.as_str());
        }
    }
    if any { text } else { "pairs: []\n".into() }
}

/// What an unknown tensor is offered as, so that its line is a valid one once `# ?` is taken off.
fn guess(kind: &Kind) -> Role {
    if kind.pattern.contains("{layer}") { Role::Up } else { Role::Head }
}

fn line(kind: &Kind, roles: &[Role], start: &str, end: &str) -> String {
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let layout = match kind.layout {
        Storage::OutIn => "out_in",
        Storage::InOut => "in_out",
        Storage::PackedOutIn => "packed_out_in",
        Storage::Hwio => "hwio",
        _ => "oihw",
    };
    let shapes: Vec<String> = kind.shapes.iter().take(3).map(|s| format!("{s:?}")).collect();
    format!(
        "{start}{{tensor: {}, parts: [{}], layout: {layout}}}   # {} of {}{end}\n",
        quoted(&kind.pattern),
        roles.join(", "),
        kind.count,
        shapes.join(", "),
    )
}

fn is_offered(tensor: &TensorInfo) -> bool {
    tensor.dtype.is_float() && tensor.shape.len() > 1 && !tensor.shape.contains(&0)
}

fn kinds(tensors: &[TensorInfo]) -> Vec<Kind> {
    let flax = are_of_flax(tensors.iter().map(|t| t.name.as_str()));
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    let mut order = Vec::new();
    for tensor in tensors.iter().filter(|t| is_offered(t)) {
        let plain = plain(&tensor.name, flax);
        let bare = strip_prefixes(&plain.name, &[]);
        if bare.ends_with("bias") {
            continue;
        }
        let pattern = pattern(bare);
        let layout = match (tensor.shape.len(), bare.ends_with("weight")) {
            (2, _) => Storage::OutIn,
            (3, false) => Storage::PackedOutIn,
            _ => Storage::Oihw,
        };
        let kind = kinds.entry(pattern.clone()).or_insert_with(|| {
            order.push(pattern.clone());
            let roles = told(&pattern);
            Kind { pattern, roles, layout, shapes: BTreeSet::new(), count: 0 }
        });
        kind.count += 1;
        if kind.shapes.len() < 4 {
            kind.shapes.insert(tensor.shape.clone());
        }
    }
    order.into_iter().filter_map(|pattern| kinds.remove(&pattern)).collect()
}

/// The name with `{layer}` for its first number, `{expert}` for one behind `experts`. Other numbers
/// (`mlp.0`, `conv1`) belong to the name.
fn pattern(bare: &str) -> String {
    let mut has_layer = false;
    let parts: Vec<&str> = bare.split('.').collect();
    let word = |(i, part): (usize, &&str)| {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let behind = i.checked_sub(1).map_or("", |before| parts[before]);
        match (is_number, behind.contains("expert")) {
            (true, true) => "{expert}".to_owned(),
            (true, false) if !has_layer && i > 0 => {
                has_layer = true;
                "{layer}".to_owned()
            }
            _ => (*part).to_owned(),
        }
    };
    parts.iter().enumerate().map(word).collect::<Vec<_>>().join(".")
}

/// Roles that a name tells, where they may stand where it is.
fn told(pattern: &str) -> Vec<Role> {
    let name = pattern.to_ascii_lowercase();
    let in_stack = name.contains("{layer}");
    let is_part = |part: &str| {
        let ends = |at: usize| {
            let before = name[..at].chars().next_back();
            let after = name[at + part.len()..].chars().next();
            let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            // Short words stand alone; long ones may be a part of a word.
            part.len() > 3 || !is_word(before) && !is_word(after)
        };
        name.match_indices(part).any(|(at, _)| ends(at))
    };
    let found = TELLING.iter().find(|(part, roles)| {
        is_part(part) && roles[0].is_outside() != in_stack
            || *part == "emb" && !in_stack && name.contains(part)
    });
    let is_position = name.contains("pos");
    found.filter(|_| !is_position).map_or(Vec::new(), |(_, roles)| roles.to_vec())
}

/// A name as YAML has it in any case.
fn quoted(text: &str) -> String {
    // What is a string in JSON is one in YAML.
    Value::from(text).to_string()
}

/// Letters, digits and underscores of a name.
fn safe(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-');
    let kept: String = kept.take(64).collect();
    if kept.is_empty() { "mine".into() } else { kept }
}
