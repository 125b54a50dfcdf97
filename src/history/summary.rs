//! What a save says in a few numbers; kept as long as the save is known.

use std::collections::BTreeMap;

/// A save in a few numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Pair → mean gram correlation.
    pub alignment: BTreeMap<&'static str, f64>,
    /// Layer and pair → ln of the conserved gap, over the heads of a layer.
    pub ln_gap: BTreeMap<(Option<usize>, &'static str), f64>,
    /// Pair → mean of ln κ, κ being the commutator over its chance level.
    pub ln_commutator: BTreeMap<&'static str, f64>,
    /// ln of the median over matrices of ‖ΔW‖/‖W‖ since the save before.
    pub ln_update: Option<f64>,
    /// ln of the Frobenius norm of all matrices together.
    pub ln_norm: Option<f64>,
}
