//! One network: its healthy training, and every fault that branches off it, seen by the daemon's
//! pipeline.

use std::sync::Arc;

use weightvane::checkpoint;
use weightvane::config::architectures;
use weightvane::diagnostics::{Baseline, Options, Previous, Unobserved, analyze};
use weightvane::history::{Anomaly, Chronicle, Place, Point, Rules};
use weightvane::model::{self, Rule};

use crate::Result;
use crate::fault::Fault;
use crate::save::Saved;
use crate::setup::Setup;
use crate::training::Training;

/// A rise of the mean loss from one save to the next, in parts of the first, that no healthy training
/// has.
const UNSTABLE: f64 = 0.1;

/// What began with each save, in order.
pub type Told = Vec<Vec<Anomaly>>;

/// A fault, and what was told after it.
#[derive(Debug)]
pub struct Branch {
    pub fault: Fault,
    /// The layer that it hit, if it was one.
    pub layer: Option<String>,
    pub told: Told,
}

#[derive(Debug)]
pub struct Outcome {
    pub setup: Arc<Setup>,
    pub healthy: Told,
    pub branches: Vec<Branch>,
    /// Mean loss up to the first save and up to the last.
    pub losses: (f64, f64),
    /// Index of the first save since which the loss had risen by a tenth of the first: from there on the
    /// training is no longer healthy, whatever is told.
    pub unstable_at: Option<usize>,
}

impl Outcome {
    /// What was told while the training was healthy.
    pub fn told_in_health(&self) -> &[Vec<Anomaly>] {
        &self.healthy[..self.unstable_at.unwrap_or(self.healthy.len())]
    }
}

/// The daemon's view of a run.
#[derive(Clone)]
struct Watcher {
    rules: Arc<Vec<Rule>>,
    before: Option<(Arc<Saved>, Arc<Baseline>)>,
    chronicle: Chronicle,
}

impl Watcher {
    fn new() -> Result<Self> {
        let rules = Arc::new(architectures::built_in()?);
        Ok(Self { rules, before: None, chronicle: Chronicle::default() })
    }

    /// Measures a save against the one before and judges it.
    fn see(&mut self, saved: Saved) -> Result<Vec<Anomaly>> {
        let manifest = checkpoint::open(&saved.path())?;
        let before =
            self.before.as_ref().map(|(saved, _)| checkpoint::open(&saved.path())).transpose()?;
        let baseline = self.before.as_ref().map(|(_, baseline)| &**baseline);
        let graph = model::recognize(&manifest.tensors, manifest.config.as_ref(), &self.rules);
        let buffers = model::buffers(&manifest.tensors, &graph, &self.rules);
        let previous = Previous { manifest: before.as_ref(), baseline };
        let options = Options::default();
        let outcome = analyze(&manifest, &graph, &buffers, &options, previous, None, &Unobserved)?;
        let trainer = manifest.trainer.clone().unwrap_or_default();
        let place = Place { segment: 0, step: saved.step() };
        self.chronicle.add(Point::new(place, &outcome.report, &trainer));
        self.before = Some((Arc::new(saved), Arc::new(outcome.baseline)));
        Ok(self.chronicle.advance(None, &Rules::default()).began)
    }
}

/// Trains the network and all its faults.
pub fn run(setup: Setup) -> Result<Outcome> {
    let setup = Arc::new(setup);
    let mut training = Training::new(Arc::clone(&setup));
    let mut watcher = Watcher::new()?;
    let (mut healthy, mut branches) = (Told::new(), Vec::new());
    let (mut first, mut last): (Option<f64>, f64) = (None, f64::NAN);
    let mut unstable_at = None;
    for (i, &step) in setup.saves.iter().enumerate() {
        let loss = if step > 0 { Some(training.run(step)?) } else { None };
        first = first.or(loss);
        if let (Some(loss), Some(first)) = (loss, first) {
            let is_unstable = loss - last > UNSTABLE * first;
            unstable_at = unstable_at.or(is_unstable.then_some(i));
        }
        last = loss.unwrap_or(last);
        healthy.push(watcher.see(Saved::write(&training, [first, loss])?)?);
        if i == setup.fault_at {
            for fault in Fault::ALL.into_iter().filter(|fault| fault.applies_to(&setup)) {
                let from = i + 1 + fault.n_skipped();
                let next = &setup.saves[from..from + fault.n_saves()];
                let from = (training.clone(), watcher.clone(), first);
                branches.push(branch(fault, from, next)?);
            }
        }
    }
    let losses = (first.unwrap_or(f64::NAN), last);
    Ok(Outcome { setup, healthy, branches, losses, unstable_at })
}

fn branch(
    fault: Fault,
    (mut training, mut watcher, first): (Training, Watcher, Option<f64>),
    steps: &[u64],
) -> Result<Branch> {
    let layer = fault.apply(&mut training);
    let mut told = Told::new();
    for &step in steps {
        let loss = training.run(step)?;
        told.push(watcher.see(Saved::write(&training, [first, Some(loss)])?)?);
    }
    Ok(Branch { fault, layer, told })
}
