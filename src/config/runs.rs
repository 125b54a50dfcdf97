//! What is unusual, and what differs for single runs.

use serde::Deserialize;
use serde_yaml::Value;

use super::ConfigError;
use super::place::Place;
use crate::history::{Jump, Rules};

/// Entries of `runs`.
const MAX_RUNS: usize = 1000;

/// The settings of the runs whose names match a pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// Pattern of the names, with `*`, `?` and `[...]`.
    pub pattern: glob::Pattern,
    /// What is looked for.
    pub anomalies: Rules,
    /// The optimiser, where the job does not say it.
    pub optimizer: Option<DeclaredOptimizer>,
    /// Names of the runs that it is compared with.
    pub reference: Option<glob::Pattern>,
}

/// An optimiser as the user declares it; what the job says of itself counts first, value by value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeclaredOptimizer {
    /// Name, lower case.
    pub name: String,
    /// Learning rate η.
    pub learning_rate: Option<f64>,
    /// Weight decay λ.
    pub weight_decay: Option<f64>,
    /// Momentum μ.
    pub momentum: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AnomaliesWire {
    z: Option<f64>,
    nonfinite: Option<bool>,
    frozen: Option<bool>,
    alignment_drop: Option<Value>,
    alignment_drop_early: Option<Value>,
    commutator_spike: Option<Value>,
    update_shock: Option<Value>,
    scale_jump: Option<Value>,
    ridge_stall: Option<Value>,
    plateau: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunWire {
    r#match: String,
    #[serde(default)]
    anomalies: Option<AnomaliesWire>,
    #[serde(default)]
    optimizer: Option<OptimizerWire>,
    #[serde(default)]
    reference: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerWire {
    name: String,
    learning_rate: Option<f64>,
    weight_decay: Option<f64>,
    momentum: Option<f64>,
}

/// The rules that a file means, where they differ from `base`.
pub(super) fn rules(
    wire: Option<AnomaliesWire>,
    base: &Rules,
    at: &Place<'_>,
) -> Result<Rules, ConfigError> {
    let Some(wire) = wire else { return Ok(base.clone()) };
    let default = Rules::default();
    if let Some(z) = wire.z.filter(|z| !(1.0..=1e6).contains(z)) {
        return Err(at.error("z", format!("found {z}, expected 1 to 1e6")));
    }
    let number = |key: &str, given: Option<Value>, base: Option<f64>, default: Option<f64>| {
        let Some(value) = given else { return Ok(base) };
        match (value.as_bool(), value.as_f64()) {
            (Some(true), _) => Ok(base.or(default)),
            (Some(false), _) => Ok(None),
            (_, Some(least)) if least > 0.0 && least.is_finite() => Ok(Some(least)),
            _ => {
                let found = serde_yaml::to_string(&value).unwrap_or_default();
                let found = found.trim().replace('\n', " ");
                Err(at.error(key, format!("found `{found}`, expected false or a number above 0")))
            }
        }
    };
    let jump = |key: &str, given: Option<Value>, base: Option<Jump>, default: Option<Jump>| {
        let z = wire.z.or(base.map(|b| b.z)).or(default.map(|d| d.z)).unwrap_or_default();
        let least = number(key, given, base.map(|b| b.least), default.map(|d| d.least))?;
        Ok(least.map(|least| Jump { least, z }))
    };
    Ok(Rules {
        nonfinite: wire.nonfinite.unwrap_or(base.nonfinite),
        frozen: wire.frozen.unwrap_or(base.frozen),
        alignment_drop: jump(
            "alignment_drop",
            wire.alignment_drop,
            base.alignment_drop,
            default.alignment_drop,
        )?,
        alignment_drop_early: number(
            "alignment_drop_early",
            wire.alignment_drop_early,
            base.alignment_drop_early,
            default.alignment_drop_early,
        )?,
        commutator_spike: jump(
            "commutator_spike",
            wire.commutator_spike,
            base.commutator_spike,
            default.commutator_spike,
        )?,
        update_shock: jump(
            "update_shock",
            wire.update_shock,
            base.update_shock,
            default.update_shock,
        )?,
        scale_jump: jump("scale_jump", wire.scale_jump, base.scale_jump, default.scale_jump)?,
        ridge_stall: number(
            "ridge_stall",
            wire.ridge_stall,
            base.ridge_stall,
            default.ridge_stall,
        )?,
        plateau: number("plateau", wire.plateau, base.plateau, default.plateau)?,
    })
}

/// The entries of `runs`.
pub(super) fn runs(
    wire: Option<Vec<RunWire>>,
    base: &Rules,
    at: &Place<'_>,
) -> Result<Vec<RunSettings>, ConfigError> {
    let wire = wire.unwrap_or_default();
    if wire.len() > MAX_RUNS {
        let found = wire.len();
        return Err(at.error("runs", format!("found {found} entries, expected at most {MAX_RUNS}")));
    }
    wire.into_iter().map(|run| entry(run, base, at)).collect()
}

fn entry(wire: RunWire, base: &Rules, at: &Place<'_>) -> Result<RunSettings, ConfigError> {
    let pattern = pattern("match", &wire.r#match, at)?;
    let optimizer = wire.optimizer.map(|o| optimizer(o, at)).transpose()?;
    let reference = reference(wire.reference.as_deref(), at)?;
    Ok(RunSettings { pattern, anomalies: rules(wire.anomalies, base, at)?, optimizer, reference })
}

/// The runs that others are compared with.
pub(super) fn reference(
    names: Option<&str>,
    at: &Place<'_>,
) -> Result<Option<glob::Pattern>, ConfigError> {
    names.map(|names| pattern("reference", names, at)).transpose()
}

fn pattern(key: &str, names: &str, at: &Place<'_>) -> Result<glob::Pattern, ConfigError> {
    glob::Pattern::new(names).map_err(|error| {
        let found = format!("found `{names}` ({}), ", error.msg);
        at.error(key, found + "expected the name of a run, with *, ? and [...]")
    })
}

fn optimizer(wire: OptimizerWire, at: &Place<'_>) -> Result<DeclaredOptimizer, ConfigError> {
    let OptimizerWire { name, learning_rate, weight_decay, momentum } = wire;
    let sizes = [("learning_rate", learning_rate), ("weight_decay", weight_decay)];
    for (key, value) in sizes {
        if let Some(value) = value.filter(|v| !v.is_finite() || *v < 0.0) {
            return Err(at.error(key, format!("found {value}, expected a number from 0 on")));
        }
    }
    if let Some(value) = momentum.filter(|m| !(0.0..1.0).contains(m)) {
        return Err(at.error("momentum", format!("found {value}, expected 0 to less than 1")));
    }
    Ok(DeclaredOptimizer { name: name.to_lowercase(), learning_rate, weight_decay, momentum })
}
