//! Adapters of low rank (`LoRA`): every module's A writes r dimensions that its B reads.
//!
//! `B·A` is all that the model sees of the two, so that `B → B·g⁻¹`, `A → g·A` changes nothing and
//! `BᵀB − AAᵀ` is conserved whole without weight decay, as between linear layers.

mod base;
mod settings;

use std::collections::BTreeMap;

pub use base::BaseNames;
pub use settings::AdapterSettings;

use super::inputs::{Named, Tensors};
use super::left::with_left;
use super::{Between, LayerGraph, Left, Matrix, Operand, Pair, PairName, Role, Storage, View};
use crate::checkpoint::{Text, natural_cmp};

/// What stands in the name of a module's A and of its B; embeddings keep theirs without `.weight`.
const NAMES: [(&str, &str); 2] =
    [(".lora_A.", ".lora_B."), (".lora_embedding_A", ".lora_embedding_B")];

/// What PEFT puts before the names of a model.
pub(super) const BEFORE: &str = "base_model.model.";

/// What the two matrices of a module change: its weight becomes W + s·B·A.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// The module's name in the model, without what adapters put before it.
    pub module: String,
    /// Its depth, if it stands in a stack.
    pub layer: Option<usize>,
    /// A, r × input.
    pub a: Operand,
    /// B, output × r.
    pub b: Operand,
    /// Whether the module is an embedding, whose weight is stored input × output.
    pub is_embedding: bool,
}

/// The graph of an adapter; none where no name is that of one.
pub(super) fn build(tensors: &Tensors<'_>) -> Option<LayerGraph> {
    let modules: Vec<(&Named<'_>, &Named<'_>)> =
        tensors.all.iter().filter_map(|a| Some((a, partner(tensors, a)?))).collect();
    if modules.is_empty() {
        return None;
    }
    let mut graph = LayerGraph {
        architecture: "lora".into(),
        because: "adapters of low rank, by their tensor names".into(),
        ..LayerGraph::default()
    };
    let mut by_layer: BTreeMap<Option<usize>, Vec<(&str, Matrix, Matrix)>> = BTreeMap::new();
    for (a, b) in modules {
        let (name, layer) = (a.bare, layer(a.bare));
        if is_of_experts(name) {
            let reason = Text::from("of packed experts, whose adapters are not measured");
            let both = [a, b].map(|t| Left { name: t.info.name.clone(), reason: reason.clone() });
            graph.skipped.extend(both);
            continue;
        }
        let both = matrix(a, Role::LoraA, layer).zip(matrix(b, Role::LoraB, layer));
        let Some((a, b)) = both.filter(|(a, b)| a.view.n_rows() == b.view.n_cols()) else {
            let reason = format!("no pair with {}: their shapes do not fit", b.info.name);
            graph.skipped.push(Left { name: a.info.name.clone(), reason: reason.into() });
            continue;
        };
        by_layer.entry(layer).or_default().push((name, a, b));
    }
    for (layer, modules) in by_layer {
        for (name, a, b) in modules {
            let (of_a, of_b) = (Operand::whole(&a), Operand::whole(&b));
            let mut pair = Pair::new(PairName::Lora, of_a.clone(), of_b.clone(), Between::Nothing);
            pair.layer = layer;
            graph.pairs.push(pair);
            let is_embedding = name.contains(NAMES[1].0);
            let module = module(name).to_owned();
            graph.adapters.push(Adapter { module, layer, a: of_a, b: of_b, is_embedding });
            graph.matrices.extend([a, b]);
        }
    }
    let used = |name: &str| {
        let is_used = graph.matrices.iter().any(|matrix| matrix.name == name);
        is_used || graph.skipped.iter().any(|left| left.name == name)
    };
    let beside = tensors.all.iter().filter(|tensor| !used(&tensor.info.name));
    let beside: Vec<Left> = beside.filter_map(why_beside).collect();
    graph.skipped.extend(beside);
    graph.skipped.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    Some(with_left(graph, tensors, &[], Vec::new()))
}

/// Why what lies beside the pairs is none, where no shape tells it.
fn why_beside(tensor: &Named<'_>) -> Option<Left> {
    let is_part = NAMES.iter().any(|(a, b)| tensor.bare.contains(a) || tensor.bare.contains(b));
    let reason = if tensor.bare.contains(".lora_magnitude_vector") {
        "learnt norms, a number for each output: no subspaces"
    } else if is_part {
        "no pair: the other factor of its module is missing"
    } else if tensor.is_float() && tensor.info.shape.len() > 1 {
        "trained as a whole beside the adapters: only what is of low rank is measured here"
    } else {
        return None;
    };
    Some(Left { name: tensor.info.name.clone(), reason: reason.into() })
}

/// The B of a module whose A this is.
fn partner<'t>(tensors: &'t Tensors<'_>, a: &Named<'_>) -> Option<&'t Named<'t>> {
    let name = NAMES
        .iter()
        .find_map(|(of_a, of_b)| a.bare.contains(of_a).then(|| a.bare.replace(of_a, of_b)))?;
    tensors.all.iter().find(|tensor| tensor.bare == name)
}

/// The name of the module that an A belongs to. PEFT puts two attributes of its own before it.
fn module(a: &str) -> &str {
    let end = NAMES.iter().find_map(|(of_a, _)| a.find(of_a)).unwrap_or(a.len());
    let module = &a[..end];
    module.strip_prefix(BEFORE).unwrap_or(module)
}

/// Whether a module holds all experts of a layer in one array: then A and B hold one pair for each,
/// side by side, and their product over all of them means nothing.
fn is_of_experts(a: &str) -> bool {
    let parts = module(a).split('.').rev();
    parts.into_iter().find(|part| *part != "base_layer") == Some("experts")
}

/// The first number between dots: the depth of the module in the model.
fn layer(name: &str) -> Option<usize> {
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').find(is_number).filter(|part| part.len() <= 6)?.parse().ok()
}

fn matrix(tensor: &Named<'_>, role: Role, layer: Option<usize>) -> Option<Matrix> {
    // Those of a convolution have the window in A.
    let is_kernel = tensor.info.shape.len() > 2;
    let folded = tensor.fold(if is_kernel { Storage::Oihw } else { Storage::OutIn })?;
    let name = tensor.info.name.clone();
    let view = View {
        tensor: name.clone(),
        layout: folded.layout,
        lead: folded.lead,
        rows: (0..folded.out).into(),
        cols: (0..folded.cols).into(),
    };
    Some(Matrix { name, layer, stack: None, expert: None, role, view: view.into() })
}

#[cfg(test)]
mod tests {
    use super::super::recognize;
    use super::*;
    use crate::checkpoint::{Dtype, Place, TensorInfo};
    use crate::model::Law;

    fn graph(shapes: &[(&str, &[usize])]) -> LayerGraph {
        let info = |(name, shape): &(&str, &[usize])| TensorInfo {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            place: Place::default(),
            n_bytes: 4 * shape.iter().product::<usize>() as u64,
        };
        recognize(&shapes.iter().map(info).collect::<Vec<_>>(), None, &[])
    }

    #[test]
    fn every_module_is_a_pair_of_its_layer() {
        let graph = graph(&[
            ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", &[4, 16]),
            ("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", &[24, 4]),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", &[4, 16]),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", &[16, 4]),
            ("base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", &[2, 16]),
            ("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight", &[24, 2]),
            ("base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector", &[24]),
            ("base_model.model.model.embed_tokens.lora_embedding_A", &[4, 24]),
            ("base_model.model.model.embed_tokens.lora_embedding_B", &[16, 4]),
        ]);
        assert_eq!((graph.architecture.as_str(), graph.matrices.len()), ("lora", 8));
        let pairs: Vec<_> = graph.pairs.iter().map(|p| (p.name.as_str(), p.layer, p.dim)).collect();
        let layers = [(None, 4), (Some(0), 4), (Some(0), 4), (Some(1), 2)];
        assert_eq!(pairs, layers.map(|(layer, dim)| ("lora", layer, dim)));
        assert!(graph.pairs.iter().all(|p| p.law == Law::Full && p.name.kind() == "inmodule"));
        assert_eq!(graph.skipped.len(), 1, "{:?}", graph.skipped);
        let modules: Vec<_> =
            graph.adapters.iter().map(|a| (a.module.as_str(), a.is_embedding)).collect();
        let wanted = [
            ("model.embed_tokens", true),
            ("model.layers.0.mlp.up_proj", false),
            ("model.layers.0.self_attn.q_proj", false),
            ("model.layers.1.mlp.up_proj", false),
        ];
        assert_eq!(modules, wanted);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let graph = graph(&[("l.0.lora_A.weight", &[4, 16]), ("l.0.lora_B.weight", &[24, 3])]);
        assert!(graph.pairs.is_empty() && graph.matrices.is_empty());
        assert!(graph.skipped.iter().any(|left| left.reason.contains("do not fit")));
    }

    #[test]
    fn packed_experts_and_other_kinds_of_adapters_are_told_and_not_paired() {
        let experts = graph(&[
            ("base_model.model.l.0.experts.base_layer.lora_A.weight", &[16, 8]),
            ("base_model.model.l.0.experts.base_layer.lora_B.weight", &[24, 16]),
            ("base_model.model.l.0.q.lora_A.weight", &[4, 8]),
            ("base_model.model.l.0.q.lora_B.weight", &[8, 4]),
        ]);
        assert_eq!((experts.pairs.len(), experts.adapters.len()), (1, 1));
        let told = experts.skipped.iter().filter(|left| left.reason.contains("packed experts"));
        assert_eq!(told.count(), 2);
        let other = graph(&[
            ("base_model.model.l.0.q.hada_w1_a", &[8, 4]),
            ("base_model.model.l.0.q.hada_w1_b", &[4, 8]),
        ]);
        assert_eq!((other.architecture.as_str(), other.pairs.len()), ("adapter", 0));
        assert_eq!((other.matrices.len(), other.skipped.len()), (0, 2));
    }

    #[test]
    fn an_a_alone_is_no_adapter() {
        assert_eq!(graph(&[("l.0.lora_A.weight", &[4, 16])]).architecture, "chain");
    }
}
