//! What would be measured of a checkpoint and how, told by shapes alone.
//!
//! The methods come from the very predicates of the analysis. The operations are estimates: good
//! for telling seconds from hours.

use std::collections::{BTreeMap, BTreeSet};

use super::options::Options;
use super::tasks::{Content, Task, last_uses, shares, wanted_ks};
use super::{alignment, heads};
use crate::checkpoint::Manifest;
use crate::linalg::{DEFLATED, HEAD_PROBES, PROBES, Side};
use crate::model::{HeadSet, LayerGraph, Operand, Pair};

/// How something would be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// All singular values, or all pairs of heads.
    Exact,
    /// The singular triplets up to this k, by search.
    Leading(usize),
    /// From Gram matrices.
    Formed,
    /// From random probes, with standard errors.
    Probed,
    /// Not at all: it would take more than `memory_limit`.
    TooLarge,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Planned {
    /// `matrix`, `pair`, `heads`, `classifier`, `update` of an adapter, or weight of its `base`.
    pub kind: &'static str,
    /// Role of a matrix, name of a pair, projection of heads.
    pub what: &'static str,
    /// Name in the report; for heads `heads of q in layer 0`.
    pub name: String,
    /// Layer, if it stands in one.
    pub layer: Option<usize>,
    /// Rows × columns of a matrix; output, rank and input of an update; n, m, p of a pair (writer m × n, reader p × m); number, rows and
    /// columns of heads.
    pub shape: Vec<usize>,
    /// How.
    pub method: Method,
    /// Floating-point operations where nothing is known of the save before.
    pub flops_cold: f64,
    /// The same at the next save, all of whose tensors changed.
    pub flops_next: f64,
    /// Tensors that it is made from.
    pub tensors: Vec<String>,
}

/// What a checkpoint's analysis would be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In the order of the analysis.
    pub measurements: Vec<Planned>,
    /// Bytes of all floating-point tensors, each of which is read once.
    pub read_bytes: u64,
    /// Tensors larger than what a thread may keep: these are read once for each pass over them.
    pub streamed: usize,
    /// Bytes of the base model's weights that an adapter changes, read once.
    pub base_bytes: u64,
    /// Most bytes of tensors kept at a time, over all threads.
    pub kept_bytes: u64,
}

impl Plan {
    /// From names and shapes; nothing of the weights is read.
    #[must_use]
    pub fn new(manifest: &Manifest, graph: &LayerGraph, options: &Options) -> Self {
        let tasks = Task::all(graph);
        let mut costs = Costs::new(options, wanted_ks(graph, options));
        // A spectrum that a pair shares with a matrix stands at the matrix.
        let is_matrix = |i: &usize| matches!(tasks[*i], Task::Matrix(_));
        let (first, then): (Vec<usize>, Vec<usize>) = (0..tasks.len()).partition(is_matrix);
        let mut measurements: Vec<(usize, Planned)> =
            first.into_iter().chain(then).map(|i| (i, planned(&tasks[i], &mut costs))).collect();
        measurements.sort_by_key(|(i, _)| *i);
        let sizes = || manifest.tensors.iter().filter(|t| t.dtype.is_float()).map(|t| t.n_bytes);
        let size = |tensor: &str| manifest.find(tensor).map_or(0, |t| t.n_bytes);
        let shares = shares(&tasks, options.threads.max(1));
        Self {
            measurements: measurements.into_iter().map(|(_, planned)| planned).collect(),
            read_bytes: sizes().sum(),
            base_bytes: 0,
            streamed: sizes().filter(|n| *n > options.budget()).count(),
            kept_bytes: shares.iter().map(|share| kept(share, options.budget(), &size)).sum(),
        }
    }

    /// Measurements that must be made anew when these tensors changed.
    #[must_use]
    pub fn stale(&self, changed: &BTreeSet<&str>) -> Vec<&Planned> {
        let is_stale = |m: &&Planned| m.tensors.iter().any(|t| changed.contains(t.as_str()));
        self.measurements.iter().filter(is_stale).collect()
    }
}

/// Most bytes that a thread keeps: a tensor from its first to its last use as far as the budget
/// allows, and the tensors of one measurement together.
fn kept(tasks: &[Task<'_>], budget: u64, size: &dyn Fn(&str) -> u64) -> u64 {
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    let mut most = 0;
    for (task, done_with) in tasks.iter().zip(last_uses(tasks)) {
        let mut together = 0;
        for tensor in task.tensors() {
            let n_bytes = size(tensor);
            if n_bytes <= budget {
                held.insert(tensor, n_bytes);
                together += n_bytes;
            }
        }
        let all = held.values().sum::<u64>().min(budget.max(together));
        most = most.max(all);
        for tensor in done_with {
            held.remove(tensor);
        }
    }
    most.min(2 * budget)
}

fn planned(task: &Task<'_>, costs: &mut Costs<'_>) -> Planned {
    let (kind, what, name, layer, shape) = match task {
        Task::Matrix(m) | Task::Classifier(m) => {
            let kind = if matches!(task, Task::Matrix(_)) { "matrix" } else { "classifier" };
            let shape = vec![m.view.n_rows(), m.view.n_cols()];
            (kind, m.role.as_str(), m.name.to_string(), m.layer, shape)
        }
        Task::Pair(p) => {
            let shape = vec![p.writer.shape().1, p.dim, p.reader.shape().0];
            ("pair", p.name.as_str(), alignment::title(p), p.layer, shape)
        }
        Task::Heads(set) => {
            let sides = set.heads.first().map_or((0, 0), |v| (v.n_rows(), v.n_cols()));
            let what = set.projection.as_str();
            let name = format!("heads of {what} in layer {}", set.layer);
            ("heads", what, name, Some(set.layer), vec![set.heads.len(), sides.0, sides.1])
        }
    };
    let (method, cost) = match task {
        Task::Matrix(matrix) => {
            let operand = Operand::whole(matrix);
            (costs.method(&operand), costs.spectrum(&operand, Side::Left))
        }
        Task::Pair(pair) => costs.pair(pair),
        Task::Heads(set) => costs.heads(set),
        Task::Classifier(matrix) => {
            let (classes, width) = (matrix.view.n_rows(), matrix.view.n_cols());
            let fits = costs.options.fits(classes.saturating_mul(width));
            let method = if fits { Method::Exact } else { Method::TooLarge };
            (method, Cost::both(2.0 * real(classes).powi(2) * real(width)))
        }
    };
    let cost = if method == Method::TooLarge { Cost::default() } else { cost };
    Planned {
        kind,
        what,
        name,
        layer,
        shape,
        method,
        flops_cold: cost.cold,
        flops_next: cost.next,
        tensors: task.tensors().into_iter().map(str::to_owned).collect(),
    }
}

/// Operations without and with a start from the save before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) cold: f64,
    next: f64,
}

impl Cost {
    fn both(flops: f64) -> Self {
        Self { cold: flops, next: flops }
    }

    fn plus(self, other: Self) -> Self {
        Self { cold: self.cold + other.cold, next: self.next + other.next }
    }
}

/// Dimension of the space in which a search without a start ends where a few dozen values stand out;
/// up to twice that for a flat spectrum.
const SPACE: f64 = 256.0;
/// Smaller sides up to this are searched in their Gram.
const GRAM_SIDE: f64 = 1024.0;
/// Vectors beyond k in a pass.
const MARGIN: usize = 16;
/// A symmetric eigenproblem with all vectors, in units of the cube of its dimension.
const EIGEN: f64 = 10.0;

pub(super) struct Costs<'a> {
    options: &'a Options,
    wanted: BTreeMap<String, Vec<usize>>,
    /// Spectra that were counted: they are remembered for what comes next.
    seen: BTreeSet<(Content, bool)>,
    /// Grams of tensors that were counted, and of which side: all operands share them.
    grams: BTreeSet<(String, bool)>,
}

impl<'a> Costs<'a> {
    pub(super) fn new(options: &'a Options, wanted: BTreeMap<String, Vec<usize>>) -> Self {
        Self { options, wanted, seen: BTreeSet::new(), grams: BTreeSet::new() }
    }

    pub(super) fn method(&self, operand: &Operand) -> Method {
        let (rows, cols) = operand.shape();
        if self.options.is_exact(rows, cols) {
            return Method::Exact;
        }
        let k = self.largest_k(operand);
        let fits = self.options.fits_vectors(rows, cols, k);
        if fits { Method::Leading(k) } else { Method::TooLarge }
    }

    fn largest_k(&self, operand: &Operand) -> usize {
        let wanted = self.wanted.get(&Content::of(operand).key);
        wanted.and_then(|ks| ks.last()).copied().unwrap_or(1)
    }

    pub(super) fn spectrum(&mut self, operand: &Operand, side: Side) -> Cost {
        let (rows, cols) = operand.shape();
        let size = real(rows) * real(cols);
        let least = real(rows.min(cols));
        let content = Content::of(operand);
        match self.method(operand) {
            Method::Exact if self.seen.insert((content.clone(), side == Side::Left)) => {
                Cost::both(2.0 * least * size + EIGEN * least.powi(3))
            }
            Method::Leading(k)
                if self.seen.insert((Content { flipped: false, ..content }, true)) =>
            {
                let columns = real((k + MARGIN).min(rows.min(cols)));
                let pass = 4.0 * size * columns + EIGEN * columns.powi(3) + 2.0 * size;
                let space = SPACE.min(least);
                let products = if least <= GRAM_SIDE {
                    self.grams(operand) + 2.0 * least * least * space
                } else {
                    4.0 * size * space
                };
                let search = products + 4.0 * least * space * space + EIGEN * space.powi(3);
                Cost { cold: search + pass, next: pass }
            }
            _ => Cost::default(),
        }
    }

    /// Of the smaller side of an operand, those that were not counted before.
    fn grams(&mut self, operand: &Operand) -> f64 {
        let (rows, cols) = operand.shape();
        let is_left = (rows < cols) != operand.transposed;
        let mut flops = 0.0;
        for part in &operand.parts {
            if self.grams.insert((part.tensor.to_string(), is_left)) {
                flops += real(rows.min(cols)) * real(part.n_rows()) * real(part.n_cols());
            }
        }
        flops
    }

    fn pair(&mut self, pair: &Pair) -> (Method, Cost) {
        let (n, m, p) = (pair.writer.shape().1, pair.dim, pair.reader.shape().0);
        let is_formed = alignment::is_small(self.options, pair);
        let mut cost = if is_formed {
            // In the shared space, or in the two outer ones where these are smaller.
            let d = real(m.min(n.max(p)));
            Cost::both(2.0 * real(m) * d * real(n + p) + 4.0 * d.powi(3))
        } else {
            Cost::both(8.0 * real(2 * DEFLATED + PROBES) * real(m) * real(n + p))
        };
        let mut is_too_large = false;
        if pair.group.is_none() || !is_formed {
            for (operand, side) in [(&pair.writer, Side::Left), (&pair.reader, Side::Right)] {
                is_too_large |= self.method(operand) == Method::TooLarge;
                cost = cost.plus(self.spectrum(operand, side));
            }
        }
        let method = match (is_too_large, is_formed) {
            (true, _) => Method::TooLarge,
            (_, true) => Method::Formed,
            (_, false) => Method::Probed,
        };
        (method, cost)
    }

    fn heads(&self, set: &HeadSet) -> (Method, Cost) {
        let n_values: f64 = set.heads.iter().map(|v| real(v.n_rows()) * real(v.n_cols())).sum();
        let thin = set.heads.first().map_or(0, |v| v.n_rows().min(v.n_cols()));
        if !heads::is_small(self.options, set) {
            return (Method::Probed, Cost::both(real(thin + 6 * HEAD_PROBES) * n_values));
        }
        let (count, thin) = (real(set.heads.len()), real(thin));
        let spectra = 4.0 * thin * n_values + EIGEN * count * thin.powi(3);
        (Method::Exact, Cost::both(spectra + count * thin * n_values))
    }
}

#[expect(clippy::cast_precision_loss, reason = "dimensions, of an estimate")]
pub(super) fn real(n: usize) -> f64 {
    n as f64
}
