//! What of the settings the daemon uses, and what may change while it runs.

use std::sync::Arc;

use crate::config::Settings;
use crate::diagnostics::Options;

/// The settings that a running daemon keeps: the others may differ after they are read again.
pub(super) fn fixed(settings: &Settings) -> Settings {
    let defaults = Settings::default();
    Settings {
        textfile: None,
        memory_limit: defaults.memory_limit,
        warm_limit: defaults.warm_limit,
        io_limit: defaults.io_limit,
        pressure_limit: defaults.pressure_limit,
        exact_limit: defaults.exact_limit,
        k: defaults.k,
        rotation_k: defaults.rotation_k,
        series_limit: defaults.series_limit,
        idle_after: defaults.idle_after,
        forget_after: defaults.forget_after,
        architectures_dir: None,
        bases: Vec::new(),
        pin: defaults.pin,
        pin_dir: None,
        anomalies: defaults.anomalies,
        reference: None,
        labels: defaults.labels,
        runs: Vec::new(),
        ..settings.clone()
    }
}

/// Sketches of one run are compared across restarts, so their seed is no accident of one start.
const SKETCH_SEED: u64 = 0x73_6b_65_74_63_68;

/// How saves are measured.
pub(super) fn options(settings: &Settings) -> Arc<Options> {
    Arc::new(Options {
        k: settings.k.clone(),
        rotation_k: settings.rotation_k.clone(),
        memory_limit: settings.memory_limit,
        exact_limit: settings.exact_limit,
        threads: settings.threads,
        seed: SKETCH_SEED,
    })
}
