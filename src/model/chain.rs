//! The fallback for plain networks of any naming: matrices chained by shape, in natural name order.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::inputs::{Named, config_value};
use super::{
    Between, BiasView, Law, LayerGraph, Layout, Left, Matrix, Operand, Pair, PairName, Role, View,
};

/// Keys of `config.json` that name a plain network's activation.
const ACTIVATION_KEYS: [&str; 4] =
    ["activation", "hidden_act", "activation_function", "nonlinearity"];

struct Link<'a> {
    tensor: Named<'a>,
    out: usize,
    cols: usize,
    bias: Option<&'a str>,
}

/// Builds the graph of all chains found; tensors are in natural name order.
pub(super) fn build(tensors: &[Named<'_>], config: Option<&Value>) -> LayerGraph {
    let layout = stored_layout(tensors);
    let links = reorder(links(tensors, layout));
    let keys: Vec<String> = ACTIVATION_KEYS.iter().map(|&k| k.to_owned()).collect();
    let activation = config_value(config, &keys).and_then(Value::as_str);
    let between = activation.map_or(Between::Nonlinear, Between::of_activation);
    let mut skipped = Vec::new();
    if activation.is_none() && links.len() > 1 {
        skipped.push(Left {
            name: "(activation)".into(),
            reason: "activation unknown: no law is assumed; expected `activation` in config.json"
                .into(),
        });
    }
    let matrices: Vec<Matrix> = links
        .iter()
        .enumerate()
        .map(|(i, link)| Matrix {
            name: link.tensor.info.name.clone(),
            layer: Some(i),
            role: if i > 0 && i + 1 == links.len() { Role::Classifier } else { Role::Linear },
            view: view(link, layout),
        })
        .collect();
    let mut pairs = Vec::new();
    let places: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(at, t)| (t.info.name.as_str(), at)).collect();
    for (i, two) in links.windows(2).enumerate() {
        let (writer, reader) = (&two[0], &two[1]);
        if writer.out != reader.cols {
            skipped.push(Left {
                name: format!("{} → {}", writer.tensor.info.name, reader.tensor.info.name),
                reason: format!(
                    "no pair: the first writes {} dimensions, the second reads {}",
                    writer.out, reader.cols
                ),
            });
            continue;
        }
        let norm_between = norm_between(tensors, &places, writer, reader);
        let last = i + 2 == links.len();
        pairs.push(Pair {
            name: PairName::Chain,
            layer: Some(i),
            head: None,
            group: None,
            writer: operand(writer, layout).with_bias(bias(writer)),
            reader: operand(reader, layout),
            dim: writer.out,
            law: if norm_between { Law::None } else { between.law() },
            law_gap: true,
            norm_between,
            classes: (last && reader.out > 1).then_some(reader.out),
        });
    }
    LayerGraph {
        architecture: "chain".into(),
        because: String::new(),
        matrices,
        pairs,
        heads: Vec::new(),
        head_layout: None,
        skipped,
    }
}

fn view(link: &Link<'_>, layout: Layout) -> View {
    View {
        tensor: link.tensor.info.name.clone(),
        layout,
        rows: std::iter::once(0..link.out).collect(),
        cols: std::iter::once(0..link.cols).collect(),
    }
}

fn operand(link: &Link<'_>, layout: Layout) -> Operand {
    Operand::new(link.tensor.info.name.clone(), view(link, layout))
}

fn bias(link: &Link<'_>) -> Option<BiasView> {
    let rows = std::iter::once(0..link.out).collect();
    link.bias.map(|tensor| BiasView { tensor: tensor.to_owned(), rows })
}

/// Everything of a name but its last component: what weight and bias of one layer share.
fn stem(name: &str) -> &str {
    name.rfind(['.', '/']).map_or("", |at| &name[..at])
}

/// The last component, without TensorFlow's `:0`.
fn leaf(name: &str) -> &str {
    let leaf = name.rfind(['.', '/']).map_or(name, |at| &name[at + 1..]);
    leaf.strip_suffix(":0").unwrap_or(leaf)
}

fn links<'a>(tensors: &[Named<'a>], layout: Layout) -> Vec<Link<'a>> {
    let is_bias = |t: &&Named<'a>| t.is_float() && leaf(&t.info.name) == "bias";
    let biases: HashMap<&str, &Named<'a>> =
        tensors.iter().filter(is_bias).map(|t| (stem(&t.info.name), t)).collect();
    let bias_of =
        |name: &str, out: usize| biases.get(stem(name)).copied().filter(|t| t.info.shape == [out]);
    tensors
        .iter()
        .filter_map(|&tensor| {
            let (out, cols) = tensor.sides(layout)?;
            let bias = bias_of(&tensor.info.name, out).map(|b| b.info.name.as_str());
            Some(Link { tensor, out, cols, bias })
        })
        .collect()
}

/// Kernels are stored input × output (Keras, Flax), weights output × input (torch); where the names
/// do not say, the orientation under which more neighbours and biases fit, torch's if none does.
fn stored_layout(tensors: &[Named<'_>]) -> Layout {
    let matrices = || tensors.iter().filter(|t| t.sides(Layout::OutIn).is_some());
    let count = |wanted: &str| matrices().filter(|t| leaf(&t.info.name) == wanted).count();
    match (count("kernel"), count("weight")) {
        (k, w) if k > w => return Layout::InOut,
        (k, w) if w > k => return Layout::OutIn,
        _ => {}
    }
    let fitting = |layout| {
        let links = links(tensors, layout);
        let joints = links.windows(2).filter(|two| two[0].out == two[1].cols).count();
        joints + links.iter().filter(|l| l.bias.is_some()).count()
    };
    if fitting(Layout::InOut) > fitting(Layout::OutIn) { Layout::InOut } else { Layout::OutIn }
}

/// Natural name order where it chains, as `fc1, fc2` does; where it does not (`hidden, input,
/// output`) the one order in which shapes chain without a choice, if there is one.
fn reorder(links: Vec<Link<'_>>) -> Vec<Link<'_>> {
    let n = links.len();
    let chains = |order: &[usize]| order.windows(2).all(|w| links[w[0]].out == links[w[1]].cols);
    let natural: Vec<usize> = (0..n).collect();
    if n < 3 && (n < 2 || !chains(&[1, 0])) || chains(&natural) {
        return links;
    }
    // Only a choice of one counts, so of the readers of a width one is kept, and how many there are.
    let mut readers: HashMap<usize, (usize, usize)> = HashMap::new();
    for (i, link) in links.iter().enumerate() {
        readers.entry(link.cols).or_insert((0, i)).0 += 1;
    }
    let written: HashSet<usize> = links.iter().map(|link| link.out).collect();
    let mut starts = (0..n).filter(|&i| !written.contains(&links[i].cols));
    let (Some(start), None) = (starts.next(), starts.next()) else { return links };
    let mut order = vec![start];
    let mut seen = vec![false; n];
    seen[start] = true;
    let mut last = start;
    while let Some(&(1, next)) = readers.get(&links[last].out) {
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

/// Whether a vector of the shared length, or running statistics, stand between two layers by name
/// and are no bias of either.
fn norm_between(
    tensors: &[Named<'_>],
    places: &HashMap<&str, usize>,
    writer: &Link<'_>,
    reader: &Link<'_>,
) -> bool {
    let at = |name: &str| places.get(name).copied();
    let (Some(from), Some(to)) = (at(&writer.tensor.info.name), at(&reader.tensor.info.name))
    else {
        return false;
    };
    tensors.get(from + 1..to).unwrap_or_default().iter().any(|t| {
        let own = [&writer.tensor.info.name, &reader.tensor.info.name];
        let other_stem = own.iter().all(|name| stem(name) != stem(&t.info.name));
        let gain = matches!(leaf(&t.info.name), "weight" | "gamma" | "scale" | "running_var");
        other_stem && gain && t.info.shape == [writer.out]
    })
}
