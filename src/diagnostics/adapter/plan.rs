//! What the comparison of an adapter with its base model would cost.

use std::collections::{BTreeMap, BTreeSet};

use super::super::plan::{Costs, Plan, Planned, real};
use super::super::tasks::Content;
use super::super::{Method, Options};
use super::{base_options, update_name};
use crate::checkpoint::{Manifest, Text};
use crate::linalg::Side;
use crate::model::{Adapter, AdapterSettings, BaseNames, LayerGraph, Operand, Role};

impl Plan {
    /// Adds what an adapter adds to its base model, and the base's weights where there is one: these
    /// are read and searched once. Nothing for what is no adapter.
    #[must_use]
    pub fn with_adapters(
        mut self,
        manifest: &Manifest,
        graph: &LayerGraph,
        base: Option<&Manifest>,
        options: &Options,
    ) -> Self {
        self.measurements.extend(graph.adapters.iter().map(|adapter| update(adapter, options)));
        let Some(base) = base.filter(|_| !graph.adapters.is_empty()) else { return self };
        let settings = AdapterSettings::new(manifest.adapter.as_ref());
        let names = BaseNames::new(&base.tensors);
        let places =
            graph.adapters.iter().map(|adapter| (adapter, names.operand(adapter, settings)));
        let found: Vec<(&Adapter, Operand)> =
            places.filter_map(|(adapter, place)| Some((adapter, place.ok()?))).collect();
        let options = base_options(options, graph);
        let wanted: BTreeMap<_, _> =
            found.iter().map(|(_, weight)| (Content::of(weight).key, options.k.clone())).collect();
        let mut costs = Costs::new(&options, wanted);
        let mut tensors = BTreeSet::new();
        for (adapter, weight) in found {
            tensors.insert(weight.parts[0].tensor.clone());
            self.measurements.push(of_base(adapter, &weight, &mut costs));
        }
        let size = |tensor: &Text| base.find(tensor).map_or(0, |t| t.n_bytes);
        self.base_bytes = tensors.iter().map(size).sum();
        self
    }
}

fn update(adapter: &Adapter, options: &Options) -> Planned {
    let ((rows, rank), cols) = (adapter.b.shape(), adapter.a.shape().1);
    // Two thin QR with their factors, the products with the small vectors, and the small SVD.
    let flops = 8.0 * (real(rows) + real(cols)) * real(rank).powi(2) + 20.0 * real(rank).powi(3);
    let fits = super::fits(options, rows, rank, cols);
    let flops = if fits { flops } else { 0.0 };
    Planned {
        kind: "update",
        what: Role::LORA_UPDATE,
        name: update_name(adapter),
        layer: adapter.layer,
        shape: vec![rows, rank, cols],
        method: if fits { Method::Exact } else { Method::TooLarge },
        flops_cold: flops,
        flops_next: flops,
        tensors: [&adapter.a, &adapter.b].map(|o| o.parts[0].tensor.to_string()).to_vec(),
    }
}

fn of_base(adapter: &Adapter, weight: &Operand, costs: &mut Costs<'_>) -> Planned {
    let (rows, cols) = weight.shape();
    let sides = [Side::Left, Side::Right].map(|side| costs.spectrum(weight, side).cold);
    Planned {
        kind: "base",
        what: "weight",
        name: weight.parts[0].tensor.to_string(),
        layer: adapter.layer,
        shape: vec![rows, cols],
        method: costs.method(weight),
        flops_cold: sides.iter().sum(),
        flops_next: 0.0,
        // Of another checkpoint, whose change is no change of this one.
        tensors: Vec::new(),
    }
}
