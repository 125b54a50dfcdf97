//! Kinds of anomalies, their thresholds, and what is said of one.

use std::sync::Arc;

use serde::Serialize;

/// What is unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// NaN or infinite weights.
    Nonfinite,
    /// Not one bit of a matrix changed, at two saves in a row or more.
    Frozen,
    /// The gram correlation of a pair fell.
    AlignmentDrop,
    /// The commutator of a pair rose.
    CommutatorSpike,
    /// The gap that weight decay must balance away does not decay.
    RidgeStall,
    /// The update of a matrix is far larger than those before.
    UpdateShock,
    /// The norm of a matrix jumped.
    ScaleJump,
    /// The alignment of a kind of pairs no longer moves.
    Plateau,
}

impl Kind {
    /// All, in the order of their definition.
    pub const ALL: [Self; 8] = [
        Self::Nonfinite,
        Self::Frozen,
        Self::AlignmentDrop,
        Self::CommutatorSpike,
        Self::RidgeStall,
        Self::UpdateShock,
        Self::ScaleJump,
        Self::Plateau,
    ];

    /// Its name in labels, logs, the API and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nonfinite => "nonfinite",
            Self::Frozen => "frozen",
            Self::AlignmentDrop => "alignment_drop",
            Self::CommutatorSpike => "commutator_spike",
            Self::RidgeStall => "ridge_stall",
            Self::UpdateShock => "update_shock",
            Self::ScaleJump => "scale_jump",
            Self::Plateau => "plateau",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// How much it can matter.
    #[must_use]
    pub fn severities(self) -> &'static [Severity] {
        use Severity::{Critical, Info, Warning};
        match self {
            Self::Nonfinite => &[Critical],
            Self::CommutatorSpike => &[Warning, Critical],
            Self::Plateau => &[Info, Warning],
            _ => &[Warning],
        }
    }

    /// Whether it is said of pairs of matrices, not of single ones or of the whole.
    #[must_use]
    pub fn is_of_pairs(self) -> bool {
        use Kind::{AlignmentDrop, CommutatorSpike, Plateau, RidgeStall};
        matches!(self, AlignmentDrop | CommutatorSpike | RidgeStall | Plateau)
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, nothing to do.
    Info,
    /// Worth a look.
    Warning,
    /// The run is probably lost.
    Critical,
}

impl Severity {
    /// The severity of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Info, Self::Warning, Self::Critical].into_iter().find(|s| s.as_str() == name)
    }

    /// Its name in logs, the API and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Of what something is said: a pair, a kind of pairs, a matrix, or the whole model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subject {
    /// Depth index.
    pub layer: Option<usize>,
    /// Kind of the pair.
    pub pair: Option<Arc<str>>,
    /// Query head of a per-head pair.
    pub head: Option<usize>,
    /// Name of the matrix, `writer -> reader` of a pair; empty for the whole.
    pub name: Arc<str>,
}

impl Subject {
    /// The model as a whole.
    #[must_use]
    pub fn whole() -> Self {
        Self { layer: None, pair: None, head: None, name: "".into() }
    }
}

impl std::fmt::Display for Subject {
    /// `v_o layer 3 head 0 (writer -> reader)`, or as much of it as is known.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { layer, pair, head, name } = self;
        match (pair, name.is_empty()) {
            (None, true) => return f.write_str("all matrices"),
            (None, false) => return f.write_str(name),
            (Some(pair), _) => f.write_str(pair)?,
        }
        layer.map_or(Ok(()), |layer| write!(f, " layer {layer}"))?;
        head.map_or(Ok(()), |head| write!(f, " head {head}"))?;
        if name.is_empty() { Ok(()) } else { write!(f, " ({name})") }
    }
}

/// One thing that is unusual.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Anomaly {
    /// What.
    pub kind: Kind,
    /// Of what.
    #[serde(flatten)]
    pub subject: Arc<Subject>,
    /// How much it matters.
    pub severity: Severity,
    /// Step of the first save that shows it.
    pub onset_step: u64,
    /// Times that training had gone back to an earlier step by then.
    pub segment: u32,
    /// The value at the save before, in the units of its metric: gram correlation, κ, ‖ΔW‖/‖W‖ or
    /// ‖W‖_F; of a plateau that at the beginning of the window; of a ridge stall 1, the law's rate.
    pub before: Option<f64>,
    /// The value at the onset; of a ridge stall the measured rate over the predicted one; of
    /// non-finite weights their number.
    pub after: Option<f64>,
    /// Robust z of the increment, where one was asked for and there is history enough.
    pub z: Option<f64>,
    /// The newest save before the onset whose weights are all finite.
    pub last_good_step: Option<u64>,
    /// Step of the save at which it was over; `None` while it is open.
    pub resolved_step: Option<u64>,
}

impl Anomaly {
    /// Whether the weights may be damaged from its onset on. Where only nothing moves any more, all saves
    /// are as good as those before.
    #[must_use]
    pub fn may_damage(&self) -> bool {
        self.severity > Severity::Info && !matches!(self.kind, Kind::Plateau | Kind::RidgeStall)
    }
}

/// A change that is unusual when it is both large and far out of the ordinary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jump {
    /// Least change.
    pub least: f64,
    /// Least robust z.
    pub z: f64,
}

/// Which kinds are looked for, and from where on.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// NaN and infinities.
    pub nonfinite: bool,
    /// Frozen matrices.
    pub frozen: bool,
    /// Fall of the gram correlation.
    pub alignment_drop: Option<Jump>,
    /// The same without history enough for a z: the fall alone, if it is twice the largest change so far.
    pub alignment_drop_early: Option<f64>,
    /// Rise of ln κ.
    pub commutator_spike: Option<Jump>,
    /// Rise of ln of the update ratio over √steps; of the median over all matrices 0.7 of it.
    pub update_shock: Option<Jump>,
    /// Change of ln ‖W‖_F, up or down.
    pub scale_jump: Option<Jump>,
    /// Upper bound of the measured over the predicted decay of a gap.
    pub ridge_stall: Option<f64>,
    /// Largest change of the mean gram correlation over eight saves that counts as none.
    pub plateau: Option<f64>,
}

impl Default for Rules {
    /// As measured on small networks: see README.
    fn default() -> Self {
        Self {
            nonfinite: true,
            frozen: true,
            alignment_drop: Some(Jump { least: 0.04, z: 8.0 }),
            alignment_drop_early: Some(0.15),
            commutator_spike: Some(Jump { least: 0.3, z: 8.0 }),
            update_shock: Some(Jump { least: 1.0, z: 8.0 }),
            scale_jump: Some(Jump { least: 0.05, z: 8.0 }),
            ridge_stall: Some(0.5),
            plateau: Some(0.01),
        }
    }
}
