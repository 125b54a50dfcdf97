//! What there is to measure of a model, in an order in which every tensor is needed for a short time.

use std::collections::BTreeMap;

use super::options::Options;
use crate::linalg::searchable;
use crate::model::{HeadSet, LayerGraph, Matrix, Operand, Pair, Role, View};

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task<'a> {
    /// Norms and spectrum of a matrix, its change since the save before.
    Matrix(&'a Matrix),
    /// Redundancy of heads.
    Heads(&'a HeadSet),
    /// Alignment of two matrices.
    Pair(&'a Pair),
    /// Neural-collapse proxies of the last layer.
    Classifier(&'a Matrix),
}

impl<'a> Task<'a> {
    /// Depth by depth, so that a tensor's matrix, heads and pairs meet while it is in memory.
    pub(super) fn all(graph: &'a LayerGraph) -> Vec<Self> {
        let mut tasks = Vec::new();
        let mut matrices = graph.matrices.iter().peekable();
        let mut pairs = graph.pairs.iter().peekable();
        let mut heads = graph.heads.iter().peekable();
        let depth = graph.matrices.iter().filter_map(|m| m.layer).max().map_or(0, |l| l + 1);
        for layer in 0..=depth {
            while let Some(matrix) = matrices.next_if(|m| m.layer.is_none_or(|l| l <= layer)) {
                tasks.push(Self::Matrix(matrix));
            }
            while let Some(set) = heads.next_if(|h| h.layer <= layer) {
                tasks.push(Self::Heads(set));
            }
            while let Some(pair) = pairs.next_if(|p| p.layer.is_none_or(|l| l <= layer)) {
                tasks.push(Self::Pair(pair));
            }
        }
        let classifier = graph.matrices.iter().find(|m| m.role == Role::Classifier);
        tasks.extend(classifier.map(Self::Classifier));
        tasks
    }

    /// Tensors it is made from.
    pub(super) fn tensors(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = match self {
            Self::Matrix(matrix) | Self::Classifier(matrix) => vec![&matrix.view.tensor],
            Self::Heads(set) => set.heads.iter().map(|v| v.tensor.as_str()).collect(),
            Self::Pair(pair) => [&pair.writer, &pair.reader].into_iter().flat_map(named).collect(),
        };
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Size of what is measured, for sharing the work out.
    pub(super) fn n_elements(&self) -> usize {
        let size = |v: &View| v.n_rows().saturating_mul(v.n_cols());
        match self {
            Self::Matrix(matrix) | Self::Classifier(matrix) => size(&matrix.view),
            Self::Heads(set) => set.heads.iter().map(size).sum(),
            Self::Pair(pair) => {
                [&pair.writer, &pair.reader].iter().flat_map(|o| o.views()).map(size).sum()
            }
        }
    }
}

fn named(operand: &Operand) -> impl Iterator<Item = &str> {
    let parts = operand.parts.iter().map(|p| p.tensor.as_str());
    let gain = operand.gain.iter().map(|g| g.tensor.as_str());
    parts.chain(gain).chain(operand.bias.iter().map(|b| b.tensor.as_str()))
}

/// Tasks in up to `n` runs of consecutive ones, of about equal size.
pub(super) fn shares<'a, 't>(tasks: &'t [Task<'a>], n: usize) -> Vec<&'t [Task<'a>]> {
    let total: usize = tasks.iter().map(Task::n_elements).sum();
    let each = total / n.max(1) + 1;
    let mut shares = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, task) in tasks.iter().enumerate() {
        sum += task.n_elements();
        if sum >= each && shares.len() + 1 < n {
            shares.push(&tasks[start..=i]);
            (start, sum) = (i + 1, 0);
        }
    }
    shares.push(&tasks[start..]);
    shares
}

/// For each task, the tensors that no later one needs.
pub(super) fn last_uses<'a>(tasks: &[Task<'a>]) -> Vec<Vec<&'a str>> {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, task) in tasks.iter().enumerate() {
        for tensor in task.tensors() {
            last.insert(tensor, i);
        }
    }
    let mut uses = vec![Vec::new(); tasks.len()];
    for (tensor, i) in last {
        uses[i].push(tensor);
    }
    uses
}

/// Name of an operand's content: its blocks, their orientation and the gain. A single transposed
/// block has the name of the block, with the sides exchanged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Content {
    pub(super) key: String,
    /// Whether the operand is the transpose of what the key names.
    pub(super) flipped: bool,
}

impl Content {
    pub(super) fn of(operand: &Operand) -> Self {
        let flipped = operand.transposed && operand.parts.len() == 1 && operand.gain.is_none();
        let block = |part: &View| {
            let View { tensor, rows, cols, lead, .. } = part;
            // How other dimensions are folded is part of the name.
            let lead = if *lead == 1 { String::new() } else { format!("/{lead}") };
            format!("{tensor}{lead}{rows:?}{cols:?}")
        };
        let blocks: Vec<String> = operand.views().map(block).collect();
        let turned = if operand.transposed && !flipped { "T" } else { "" };
        let gain = operand.gain.as_ref().map_or(String::new(), |g| format!("*{}", g.tensor));
        let key = format!("{}{turned}{gain}", blocks.join("+"));
        Self { key, flipped }
    }
}

/// Subspace dimensions asked of every content that is searched by its matrix and its pairs, rising.
pub(super) fn wanted_ks(graph: &LayerGraph, options: &Options) -> BTreeMap<String, Vec<usize>> {
    let mut wanted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut ask = |operand: &Operand, more: &mut dyn Iterator<Item = usize>| {
        let (rows, cols) = operand.shape();
        if options.is_exact(rows, cols) {
            return;
        }
        let more = more.filter(|k| searchable(*k, rows.min(cols)));
        wanted.entry(Content::of(operand).key).or_default().extend(more);
    };
    for matrix in &graph.matrices {
        ask(&Operand::whole(matrix), &mut options.rotation_k.iter().copied());
    }
    for pair in graph.pairs.iter().filter(|p| p.group.is_none()) {
        let extra = pair.classes.map(|c| c.saturating_sub(1)).filter(|k| *k > 0);
        for operand in [&pair.writer, &pair.reader] {
            ask(operand, &mut options.k.iter().copied().chain(extra));
        }
    }
    for ks in wanted.values_mut() {
        ks.sort_unstable();
        ks.dedup();
    }
    wanted
}
