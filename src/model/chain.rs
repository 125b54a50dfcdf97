//! The fallback for plain networks of any naming: matrices and convolutions chained by shape, in
//! natural name order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::inputs::{Named, config_value};
use super::names::leaf;
use super::storage::Folded;
use super::view::Window;
use super::{
    Between, BiasView, LayerGraph, Layout, Left, Matrix, Operand, Pair, PairName, Role, Spans,
    Storage, View,
};
use crate::checkpoint::Text;

/// Keys of `config.json` that name a plain network's activation.
const ACTIVATION_KEYS: [&str; 4] =
    ["activation", "hidden_act", "activation_function", "nonlinearity"];

struct Link<'a> {
    tensor: Named<'a>,
    folded: Folded,
    bias: Option<&'a Text>,
    /// Its place among all tensors.
    at: usize,
}

impl Link<'_> {
    fn out(&self) -> usize {
        self.folded.out
    }

    /// Input channels.
    fn channels(&self) -> usize {
        self.folded.cols / self.folded.positions.max(1)
    }

    fn is_kernel(&self) -> bool {
        self.tensor.info.shape.len() > 2
    }

    fn name(&self) -> &Text {
        &self.tensor.info.name
    }

    fn view(&self) -> View {
        View {
            tensor: self.name().clone(),
            layout: self.folded.layout,
            lead: self.folded.lead,
            rows: (0..self.folded.out).into(),
            cols: (0..self.folded.cols).into(),
        }
    }

    fn bias(&self) -> Option<BiasView> {
        let rows = Spans::from(0..self.folded.out);
        self.bias.map(|tensor| BiasView { tensor: tensor.clone(), rows, plus_one: false })
    }

    /// Positions at which it reads all channels of the layer before: those of its window, or of the
    /// image that was flattened between. `None` where the shapes do not allow it, or ask for an image
    /// as no plain network has.
    fn joint(&self, before: &Self) -> Option<usize> {
        let (channels, written) = (self.channels(), before.out());
        let positions = if channels == written {
            self.folded.positions
        } else if before.is_kernel() && !self.is_kernel() && channels.is_multiple_of(written) {
            channels / written
        } else {
            return None;
        };
        (positions <= MAX_POSITIONS).then_some(positions)
    }

    /// What it reads of the layer before; `whole` is its own view.
    fn reads(&self, before: &Self, whole: &Arc<View>) -> Option<Operand> {
        let parts = match self.joint(before)? {
            1 => vec![Arc::clone(whole)],
            n => self.window().positions(whole, n),
        };
        Some(Operand::stacked(self.name().clone(), parts))
    }

    /// torch flattens channel by channel, Keras and Flax position by position.
    fn window(&self) -> Window {
        match self.folded.layout {
            Layout::OutIn => Window::Inner,
            Layout::InOut => Window::Outer,
        }
    }
}

/// Most positions of a window or of a flattened image.
const MAX_POSITIONS: usize = 4096;

/// Builds the graph of all chains found; tensors are in natural name order.
pub(super) fn build(tensors: &[Named<'_>], config: Option<&Value>) -> LayerGraph {
    let layout = stored_layout(tensors);
    let mut skipped = Vec::new();
    let (links, depthwise) = without_depthwise(reorder(links(tensors, layout)), &mut skipped);
    let keys: Vec<String> = ACTIVATION_KEYS.iter().map(|&k| k.to_owned()).collect();
    let activation = config_value(config, &keys).and_then(Value::as_str);
    let between = activation.map_or(Between::Nonlinear, Between::of_activation);
    if activation.is_none() && links.len() > 1 {
        skipped.push(Left {
            name: "(activation)".into(),
            reason: "activation unknown: no law is assumed; expected `activation` in config.json"
                .into(),
        });
    }
    let is_last = |i: usize| i > 0 && i + 1 == links.len();
    let role = |i: usize, link: &Link<'_>| match (is_last(i), link.is_kernel()) {
        (true, false) => Role::Classifier,
        (_, true) => Role::Conv,
        (false, false) => Role::Linear,
    };
    let matrix = |(i, link): (usize, &Link<'_>)| Matrix {
        name: link.name().clone(),
        layer: Some(i),
        stack: None,
        expert: None,
        role: role(i, link),
        view: link.view().into(),
    };
    let matrices: Vec<Matrix> = links.iter().enumerate().map(matrix).collect();
    let mut pairs = Vec::with_capacity(links.len().saturating_sub(1));
    // Of vectors, which gains are.
    let places = tensors.iter().enumerate().filter(|(_, t)| t.info.shape.len() == 1);
    let places = places.map(|(at, t)| (t.info.name.as_str(), at)).collect();
    for (i, two) in links.windows(2).enumerate() {
        let (writer, reader) = (&two[0], &two[1]);
        let (writes, whole) = (&matrices[i].view, &matrices[i + 1].view);
        let Some(reads) = reader.reads(writer, whole) else {
            skipped.push(Left {
                name: format!("{} → {}", writer.name(), reader.name()).into(),
                reason: format!(
                    "no pair: the first writes {} dimensions, the second reads {}",
                    writer.out(),
                    reader.channels()
                )
                .into(),
            });
            continue;
        };
        if let Some(between) = depthwise_between(&depthwise, writer, reader) {
            skipped.push(Left {
                name: format!("{} → {}", writer.name(), reader.name()).into(),
                reason: format!("no pair: the depthwise `{}` stands between", between.name())
                    .into(),
            });
            continue;
        }
        let writes = Operand::new(writer.name().clone(), Arc::clone(writes));
        let is_normed = norm_between(tensors, &places, writer, reader);
        let between = if is_normed { Between::Norm } else { between };
        let is_classifier = role(i + 1, reader) == Role::Classifier && reader.out() > 1;
        pairs.push(Pair {
            layer: Some(i),
            classes: is_classifier.then(|| reader.out()),
            ..Pair::new(PairName::Chain, writes.with_bias(writer.bias()), reads, between)
        });
    }
    LayerGraph { architecture: "chain".into(), matrices, pairs, skipped, ..LayerGraph::default() }
}

/// Leaves out convolutions of each channel for itself.
fn without_depthwise<'a>(
    mut links: Vec<Link<'a>>,
    skipped: &mut Vec<Left>,
) -> (Vec<Link<'a>>, Vec<Link<'a>>) {
    let mut before = 0;
    let is_depthwise = |link: &mut Link<'a>| {
        let is_narrow = link.channels() == 1 && before > 1 && link.out().is_multiple_of(before);
        let is_left = link.is_kernel() && (is_narrow || link.name().contains("depthwise"));
        if !is_left {
            before = link.out();
        }
        is_left
    };
    let left: Vec<Link<'a>> = links.extract_if(.., is_depthwise).collect();
    let reason = Text::from("depthwise convolution: a filter for each channel, no matrix");
    let told = |link: &Link<'_>| Left { name: link.name().clone(), reason: reason.clone() };
    skipped.extend(left.iter().map(told));
    (links, left)
}

/// The depthwise convolution that stands between two layers by name; or may stand, where its name
/// tells no order (`depthwise_conv2d` of Keras), before what flattens the image.
fn depthwise_between<'l, 'a>(
    depthwise: &'l [Link<'a>],
    writer: &Link<'_>,
    reader: &Link<'_>,
) -> Option<&'l Link<'a>> {
    let is_between = |link: &&Link<'_>| {
        let fits = link.out().max(link.channels()) == writer.out();
        let flattens = writer.is_kernel() && !reader.is_kernel();
        fits && writer.at < link.at && (link.at < reader.at || flattens)
    };
    depthwise.iter().find(is_between)
}

/// Everything of a name but its last component: what weight and bias of one layer share.
fn stem(name: &str) -> &str {
    name.rfind(['.', '/']).map_or("", |at| &name[..at])
}

/// Kernels of convolutions have these last parts; anything else of more than two dimensions may be
/// whatever it likes.
const KERNELS: [&str; 2] = ["weight", "kernel"];

fn fold(tensor: &Named<'_>, layout: Layout) -> Option<Folded> {
    let is_kernel = KERNELS.contains(&leaf(&tensor.info.name));
    let storage = match (tensor.info.shape.len(), layout) {
        (2, Layout::OutIn) => Storage::OutIn,
        (2, Layout::InOut) => Storage::InOut,
        (3..=5, Layout::OutIn) if is_kernel => Storage::Oihw,
        (3..=5, Layout::InOut) if is_kernel => Storage::Hwio,
        _ => return None,
    };
    storage.fold(&tensor.info.shape).filter(|_| tensor.is_float())
}

fn links<'a>(tensors: &[Named<'a>], layout: Layout) -> Vec<Link<'a>> {
    let is_bias = |t: &&Named<'a>| t.is_float() && leaf(&t.info.name) == "bias";
    let biases: HashMap<&str, &Named<'a>> =
        tensors.iter().filter(is_bias).map(|t| (stem(&t.info.name), t)).collect();
    let bias_of =
        |name: &str, out: usize| biases.get(stem(name)).copied().filter(|t| t.info.shape == [out]);
    let link = |(at, tensor): (usize, &Named<'a>)| {
        let folded = fold(tensor, layout)?;
        let bias = bias_of(&tensor.info.name, folded.out).map(|b| &b.info.name);
        Some(Link { tensor: *tensor, folded, bias, at })
    };
    tensors.iter().enumerate().filter_map(link).collect()
}

/// Kernels are stored input × output (Keras, Flax), weights output × input (torch); where the names
/// do not say, the orientation under which more neighbours and biases fit, torch's if none does.
fn stored_layout(tensors: &[Named<'_>]) -> Layout {
    let matrices = || tensors.iter().filter(|t| fold(t, Layout::OutIn).is_some());
    let count = |wanted: &str| matrices().filter(|t| leaf(&t.info.name) == wanted).count();
    match (count("kernel"), count("weight")) {
        (k, w) if k > w => return Layout::InOut,
        (k, w) if w > k => return Layout::OutIn,
        _ => {}
    }
    let fitting = |layout| {
        let links = links(tensors, layout);
        let joints = links.windows(2).filter(|two| two[1].joint(&two[0]).is_some()).count();
        joints + links.iter().filter(|l| l.bias.is_some()).count()
    };
    if fitting(Layout::InOut) > fitting(Layout::OutIn) { Layout::InOut } else { Layout::OutIn }
}

/// Natural name order where it chains, as `fc1, fc2` does; where it does not (`hidden, input,
/// output`) the one order in which shapes chain without a choice, if there is one.
fn reorder(links: Vec<Link<'_>>) -> Vec<Link<'_>> {
    let n = links.len();
    let chains =
        |order: &[usize]| order.windows(2).all(|w| links[w[1]].joint(&links[w[0]]).is_some());
    let natural: Vec<usize> = (0..n).collect();
    if n < 3 && (n < 2 || !chains(&[1, 0])) || chains(&natural) {
        return links;
    }
    // Only a choice of one counts, so of the readers of a width one is kept, and how many there are.
    let mut readers: HashMap<usize, (usize, usize)> = HashMap::new();
    for (i, link) in links.iter().enumerate() {
        readers.entry(link.channels()).or_insert((0, i)).0 += 1;
    }
    let written: HashSet<usize> = links.iter().map(Link::out).collect();
    let mut starts = (0..n).filter(|&i| !written.contains(&links[i].channels()));
    let (Some(start), None) = (starts.next(), starts.next()) else { return links };
    let mut order = vec![start];
    let mut seen = vec![false; n];
    seen[start] = true;
    let mut last = start;
    while let Some(&(1, next)) = readers.get(&links[last].out()) {
        if seen[next] {
            break;
        }
        seen[next] = true;
        order.push(next);
        last = next;
    }
    if order.len() != n {
        return links;
    }
    let mut slots: Vec<Option<Link<'_>>> = links.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| slots[i].take()).collect()
}

/// Whether a vector of the shared length, or running statistics, stand between two layers by name and
/// are no bias of either, or a norm is called after the first (`bn1` after `conv1`).
fn norm_between(
    tensors: &[Named<'_>],
    places: &HashMap<&str, usize>,
    writer: &Link<'_>,
    reader: &Link<'_>,
) -> bool {
    let is_gain = |t: &Named<'_>| {
        let named = matches!(leaf(&t.info.name), "weight" | "gamma" | "scale" | "running_var");
        named && t.info.shape == [writer.out()]
    };
    let between = tensors.get(writer.at + 1..reader.at).unwrap_or_default().iter().any(|t| {
        let own = [writer.name(), reader.name()];
        own.iter().all(|name| stem(name) != stem(&t.info.name)) && is_gain(t)
    });
    let is_called =
        |name: String| places.get(name.as_str()).is_some_and(|at| is_gain(&tensors[*at]));
    // Of a hundred thousand matrices no names are made up where none can be found.
    between || !places.is_empty() && called_after(writer.name()).any(is_called)
}

/// What the norm behind a layer is called where it is called after it.
fn called_after(name: &str) -> impl Iterator<Item = String> {
    let (stem, leaf) = (stem(name).to_owned(), leaf(name).to_owned());
    let at = stem.rfind(['.', '/']).map_or(0, |at| at + 1);
    let number = stem[at..].trim_start_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let is_numbered = !number.is_empty() && number.len() < stem.len() - at;
    let norms = ["bn", "norm", "batch_norm", "batchnorm", "ln"].into_iter();
    norms.filter(move |_| is_numbered).map(move |n| format!("{}{n}{number}.{leaf}", &stem[..at]))
}
