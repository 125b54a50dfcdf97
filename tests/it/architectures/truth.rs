//! `roles.json`, as its maker reads it (`tests/fixtures/architectures/roles.py`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use weightvane::checkpoint::Manifest;
use weightvane::model::{Pair, View};

/// A tensor with a role.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) role: String,
    pub(super) stack: Option<String>,
    pub(super) layer: Option<usize>,
    pub(super) expert: Option<usize>,
    pub(super) experts: Option<usize>,
    /// Query heads, key/value heads, rows of a head.
    pub(super) heads: Option<(usize, usize, usize)>,
    cross: bool,
    stored: String,
    split: String,
    sizes: Vec<usize>,
    shape: Vec<usize>,
}

/// Two adjacent matrices.
#[derive(Debug, Clone)]
pub(super) struct TruePair {
    pub(super) pair: String,
    pub(super) kind: String,
    pub(super) between: String,
    pub(super) gain: Option<String>,
    pub(super) writer: Vec<String>,
    reader: Vec<String>,
    /// A number, `shared`, or `each`.
    pub(super) expert: Option<String>,
    cross: bool,
}

pub(super) struct Truth {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) pairs: Vec<TruePair>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

impl Entry {
    fn new(t: &Value, shape: &[usize]) -> Option<Self> {
        let heads = &t["heads"];
        Some(Self {
            role: text(&t["role"])?,
            stack: text(&t["stack"]),
            layer: number(&t["layer"]),
            expert: number(&t["expert"]),
            experts: number(&t["experts"]),
            heads: number(&heads["query"]).map(|q| {
                (q, number(&heads["key_value"]).unwrap(), number(&heads["head_dim"]).unwrap())
            }),
            cross: t["cross"] == true,
            stored: text(&t["stored"])?,
            split: text(&t["split"]).unwrap_or_default(),
            sizes: list(&t["sizes"]).iter().filter_map(number).collect(),
            shape: shape.to_vec(),
        })
    }

    fn parts(&self) -> Vec<&str> {
        self.role.split('+').collect()
    }

    /// The part that a role of ours is, if it is one.
    pub(super) fn part_called(&self, role: &str) -> Option<String> {
        let ours = |part: &str| {
            let name = part.strip_suffix("_nope").unwrap_or(part);
            let name = if self.cross { format!("cross_{name}") } else { name.to_owned() };
            // The last layer of a chain is called a classifier.
            name == role || name == "linear" && role == "classifier"
        };
        self.parts().into_iter().find(|part| ours(part)).map(str::to_owned)
    }

    pub(super) fn is_kernel(&self) -> bool {
        matches!(self.stored.as_str(), "oihw" | "oiw" | "hwio")
    }

    /// Letter of each axis: e expert, o output, i input, p position.
    fn axes(&self) -> &'static str {
        match self.stored.as_str() {
            "out_in" => "oi",
            "in_out" => "io",
            "oihw" => "oipp",
            "oiw" => "oip",
            "hwio" => "ppio",
            "packed_out_in" => "eoi",
            "packed_in_out" => "eio",
            "in_head_dim" => "ioo",
            "head_dim_out" => "iio",
            other => panic!("stored as {other}"),
        }
    }

    /// Flat positions of output rows, each in the order (input, position).
    fn matrix(&self, expert: Option<usize>) -> Vec<Vec<usize>> {
        let axes: Vec<char> = self.axes().chars().collect();
        assert_eq!(axes.len(), self.shape.len(), "{} {:?}", self.stored, self.shape);
        let of = |letters: &str| -> Vec<usize> {
            (0..axes.len()).filter(|i| letters.contains(axes[*i])).collect()
        };
        let strides: Vec<usize> =
            (0..axes.len()).map(|i| self.shape[i + 1..].iter().product()).collect();
        // Offsets along some axes, the last the fastest.
        let along = |which: &[usize]| {
            which.iter().fold(vec![0], |offsets: Vec<usize>, &axis| {
                let step = |o: usize| (0..self.shape[axis]).map(move |n| (o, n));
                offsets.into_iter().flat_map(step).map(|(o, n)| o + n * strides[axis]).collect()
            })
        };
        let start = of("e").first().map_or(0, |axis| expert.unwrap_or(0) * strides[*axis]);
        let (inputs, positions) = (along(&of("i")), along(&of("p")));
        let cols: Vec<usize> =
            inputs.iter().flat_map(|i| positions.iter().map(move |p| i + p)).collect();
        let row = |o: usize| cols.iter().map(|c| start + o + c).collect();
        along(&of("o")).into_iter().map(row).collect()
    }

    /// Which output rows a part has, or one head of it.
    fn part_rows(&self, part: &str, total: usize, head: Option<usize>) -> Vec<usize> {
        let parts = self.parts();
        let count = self.heads.map(
            |(query, key_value, _)| {
                if part.starts_with('q') { query } else { key_value }
            },
        );
        let of_head = |rows: Vec<usize>| match (head, count) {
            (Some(head), Some(count)) => {
                let each = rows.len() / count;
                rows[head * each..(head + 1) * each].to_vec()
            }
            _ => rows,
        };
        if parts.len() == 1 {
            return of_head((0..total).collect());
        }
        let i = parts.iter().position(|p| *p == part).unwrap();
        let start: usize = self.sizes[..i].iter().sum();
        let own = start..start + self.sizes[i];
        of_head(match self.split.as_str() {
            "concatenated" => own.collect(),
            "interleaved" => (i..total).step_by(parts.len()).collect(),
            _ => {
                let each: usize = self.sizes.iter().sum();
                (0..total).filter(|row| own.contains(&(row % each))).collect()
            }
        })
    }

    /// Flat positions of a part, of one expert and one head.
    pub(super) fn rows(
        &self,
        part: &str,
        expert: Option<usize>,
        head: Option<usize>,
    ) -> Vec<Vec<usize>> {
        let matrix = self.matrix(expert);
        if let (true, Some(head), Some((query, ..))) = (part == "o", head, self.heads) {
            let each = matrix[0].len() / query;
            return matrix.iter().map(|r| r[head * each..(head + 1) * each].to_vec()).collect();
        }
        let rows = self.part_rows(part, matrix.len(), head);
        rows.into_iter().map(|row| matrix[row].clone()).collect()
    }
}

impl TruePair {
    fn new(p: &Value) -> Self {
        let names = |v: &Value| list(v).iter().filter_map(text).collect();
        let expert = &p["expert"];
        Self {
            pair: text(&p["pair"]).unwrap(),
            kind: text(&p["kind"]).unwrap(),
            between: text(&p["between"]).unwrap(),
            gain: text(&p["gain"]),
            writer: names(&p["writer"]),
            reader: names(&p["reader"]),
            expert: text(expert).or_else(|| number(expert).map(|n| n.to_string())),
            cross: p["cross"] == true,
        }
    }

    /// Whether what stands between implies the law; a weaker one is no lie where names do not say more.
    pub(super) fn allows(&self, law: &str, shared_head: bool) -> bool {
        let strongest = match self.between.as_str() {
            _ if shared_head => "none",
            b if b.contains("norm") => "none",
            "nothing" => "full",
            b if b.contains("rotary") => "rotary",
            b if b.starts_with("gated") || b.starts_with("relu") => "diagonal",
            _ => "none",
        };
        law == "none" || law == strongest || strongest == "full" && law == "rotary"
    }
}

impl Truth {
    pub(super) fn new(document: &Value, manifest: &Manifest) -> Self {
        let entry = |t: &Value| {
            let name = text(&t["tensor"])?;
            let shape = &manifest.find(&name).unwrap_or_else(|| panic!("no `{name}`")).shape;
            Some((name, Entry::new(t, shape)?))
        };
        let entries = list(&document["tensors"]).iter().filter_map(entry).collect();
        Self { entries, pairs: list(&document["pairs"]).iter().map(TruePair::new).collect() }
    }

    pub(super) fn heads(&self) -> Option<(usize, usize, usize)> {
        self.entries.values().find_map(|entry| entry.heads)
    }

    /// Whether a pair of ours is that one of truth: the same tensors, experts and kind.
    pub(super) fn is(&self, at: usize, ours: &Pair) -> bool {
        let truth = &self.pairs[at];
        let tensors = |parts: &[Arc<View>]| -> Vec<String> {
            let mut names: Vec<String> = parts.iter().map(|v| v.tensor.to_string()).collect();
            names.sort();
            names.dedup();
            names
        };
        let wanted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        let expert = match truth.expert.as_deref() {
            None | Some("shared") => ours.expert.is_none(),
            Some("each" | "all") => ours.expert.is_some(),
            Some(number) => ours.expert.is_some_and(|e| e.to_string() == number),
        };
        let kind = match ours.name.kind() {
            "stream" => truth.kind == "stream",
            _ => truth.kind != "stream",
        };
        let same_tensors = tensors(&ours.writer.parts) == wanted(&truth.writer)
            && tensors(&ours.reader.parts) == wanted(&truth.reader);
        // Keys and queries of one tensor, values and outputs of others.
        let name = ours.name.as_str();
        let names = match truth.pair.as_str() {
            "v_o" | "q_k" if truth.cross => name == format!("cross_{}", truth.pair),
            "v_o" | "q_k" | "up_down" | "gate_down" => name == truth.pair,
            _ => true,
        };
        same_tensors && expert && kind && names
    }

    /// Flat positions of one side of a per-head pair.
    pub(super) fn head(
        &self,
        tensor: &str,
        pair: &str,
        is_writer: bool,
        head: usize,
    ) -> Vec<Vec<usize>> {
        let wanted = match (pair.strip_prefix("cross_").unwrap_or(pair), is_writer) {
            ("v_o", true) => "v",
            ("v_o", false) => "o",
            (_, true) => "k",
            (_, false) => "q",
        };
        let entry = &self.entries[tensor];
        let named = |p: &&str| *p == wanted || p.strip_suffix("_nope") == Some(wanted);
        let part = entry
            .parts()
            .into_iter()
            .find(named)
            .unwrap_or_else(|| panic!("`{tensor}` has no {wanted}: {}", entry.role));
        entry.rows(part, None, Some(head))
    }
}
