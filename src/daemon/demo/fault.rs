//! Faults planted in a demo's training, as they happen to real ones: to see what an alert looks like
//! before it matters, and for the tests of the alerts.

use std::path::PathBuf;
use std::time::Duration;

use faer::Mat;

use super::save::{CheckpointWriter, SaveError};
use super::train::Trainer;

/// The layer that is frozen or gets the NaN: an inner one, so that pairs on both sides show it.
const LAYER: usize = 1;
/// A learning rate 30 times too large for 20 steps is what the thresholds of alarms were measured with.
const SPIKE: f64 = 30.0;
const SPIKE_STEPS: u32 = 20;
/// Slow enough that alignment stands still, fast enough that weights in single precision move.
const STALL: f64 = 1e-3;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// One weight becomes NaN and spreads; at the end the weights from before are put back.
    Nan,
    /// A learning rate 30 times too large for 20 steps, after which the demo's network learns nothing
    /// more; at the end the weights from before are put back.
    LrSpike,
    /// One layer no longer moves.
    Frozen,
    /// The trainer stands still and saves nothing.
    Hang,
    /// The headers of the saves are garbage.
    Unreadable,
    /// A learning rate 1000 times too small: the layers no longer turn.
    Stall,
}

impl FaultKind {
    /// All, in the order of their definition.
    pub const ALL: [Self; 6] =
        [Self::Nan, Self::LrSpike, Self::Frozen, Self::Hang, Self::Unreadable, Self::Stall];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nan => "nan",
            Self::LrSpike => "lr-spike",
            Self::Frozen => "frozen",
            Self::Hang => "hang",
            Self::Unreadable => "unreadable",
            Self::Stall => "stall",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A fault and where it stands. Times count from the start of the training; a fault begins and ends
/// with a save that is due.
#[derive(Debug)]
pub struct Fault {
    kind: FaultKind,
    from: Duration,
    until: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    Ahead,
    /// With the weights from before it.
    Acting(Vec<Mat<f64>>),
    Over,
}

impl Fault {
    /// A fault that begins after `after` and lasts for `lasts`.
    #[must_use]
    pub fn new(kind: FaultKind, after: Duration, lasts: Duration) -> Self {
        Self { kind, from: after, until: after.saturating_add(lasts), state: State::Ahead }
    }

    /// Whether the trainer stands still.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.kind == FaultKind::Hang && matches!(self.state, State::Acting(_))
    }

    /// To be called before each save that is due: begins or ends the fault, and says so in one line.
    pub fn advance(&mut self, elapsed: Duration, trainer: &mut Trainer) -> Option<String> {
        let word = match &self.state {
            State::Ahead if elapsed >= self.from => {
                self.state = State::Acting(trainer.network().weights.clone());
                begin(self.kind, trainer);
                "begins"
            }
            State::Acting(before) if elapsed >= self.until => {
                end(self.kind, before, trainer);
                self.state = State::Over;
                "ends"
            }
            _ => return None,
        };
        Some(format!("fault {} {word} at step {}", self.kind.as_str(), trainer.global_step()))
    }

    /// The save that is due, with the fault in it where it is one of saves.
    ///
    /// # Errors
    /// As [`CheckpointWriter::save`].
    pub fn save(
        &self,
        writer: &mut CheckpointWriter,
        trainer: &Trainer,
    ) -> Result<PathBuf, SaveError> {
        if self.kind == FaultKind::Unreadable && matches!(self.state, State::Acting(_)) {
            writer.save_broken(trainer)
        } else {
            writer.save(trainer)
        }
    }
}

fn begin(kind: FaultKind, trainer: &mut Trainer) {
    match kind {
        FaultKind::Nan => trainer.weights_mut()[LAYER][(0, 0)] = f64::NAN,
        FaultKind::LrSpike => trainer.scale_learning_rate(SPIKE, Some(SPIKE_STEPS)),
        FaultKind::Frozen => trainer.freeze(Some(LAYER)),
        FaultKind::Stall => trainer.scale_learning_rate(STALL, None),
        FaultKind::Hang | FaultKind::Unreadable => {}
    }
}

fn end(kind: FaultKind, before: &[Mat<f64>], trainer: &mut Trainer) {
    match kind {
        FaultKind::Nan | FaultKind::LrSpike => trainer.weights_mut().clone_from_slice(before),
        FaultKind::Frozen => trainer.freeze(None),
        FaultKind::Stall => trainer.scale_learning_rate(1.0, None),
        FaultKind::Hang | FaultKind::Unreadable => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::demo::network::Activation;
    use crate::daemon::demo::train::TrainerConfig;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn trainer() -> Trainer {
        Trainer::new(TrainerConfig {
            hidden_widths: vec![8, 8],
            n_samples: 64,
            ..TrainerConfig::demo(Activation::Relu)
        })
    }

    /// The trainer before, during and after a fault of this kind, with three steps in each.
    fn through(kind: FaultKind) -> [Vec<Mat<f64>>; 3] {
        let (mut trainer, mut fault) = (trainer(), Fault::new(kind, seconds(2), seconds(3)));
        let mut said = Vec::new();
        let weights = [1, 2, 5].map(|at| {
            said.extend(fault.advance(seconds(at), &mut trainer));
            for _ in 0..3 {
                trainer.step();
            }
            trainer.network().weights.clone()
        });
        let name = kind.as_str();
        let wanted =
            [format!("fault {name} begins at step 3"), format!("fault {name} ends at step 6")];
        assert_eq!(said, wanted);
        assert_eq!(fault.advance(seconds(9), &mut trainer), None);
        weights
    }

    fn distance(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
        (a - b).norm_l2() / b.norm_l2()
    }

    #[test]
    fn nan_spreads_and_is_taken_back() {
        let [before, during, after] = through(FaultKind::Nan);
        assert!(during.iter().all(|w| w.norm_l2().is_nan()), "through gradients into every layer");
        let moved = distance(&after[0], &before[0]);
        assert!(moved > 0.0 && moved < 0.5, "{moved}");
    }

    #[test]
    fn a_frozen_layer_stands_to_the_bit_and_the_others_go_on() {
        let [before, during, after] = through(FaultKind::Frozen);
        assert_eq!(during[LAYER], before[LAYER]);
        assert!(during[0] != before[0] && during[2] != before[2] && after[LAYER] != during[LAYER]);
    }

    #[test]
    fn rates_are_too_large_for_some_steps_or_too_small_until_the_end() {
        let [before, during, after] = through(FaultKind::Stall);
        let (slow, usual) = (distance(&during[0], &before[0]), distance(&after[0], &during[0]));
        assert!(slow > 0.0 && slow < 0.01 * usual, "{slow} {usual}");

        let (mut trainer, mut fault) =
            (trainer(), Fault::new(FaultKind::LrSpike, seconds(0), seconds(0)));
        let usual = trainer.learning_rate();
        fault.advance(seconds(0), &mut trainer);
        let mut n_spiked = 0;
        for _ in 0..50 {
            n_spiked += u32::from(trainer.learning_rate() > 29.0 * usual);
            trainer.step();
        }
        assert_eq!(n_spiked, SPIKE_STEPS);
        let norms = trainer.network().weights.iter().map(Mat::norm_l2);
        assert!(norms.into_iter().all(|norm| norm < 200.0), "thrown about, and finite");
    }

    #[test]
    fn a_hang_lasts_as_long_as_it_was_told() {
        let (mut trainer, mut fault) =
            (trainer(), Fault::new(FaultKind::Hang, seconds(2), seconds(3)));
        let hangs = [1, 2, 4, 5].map(|at| {
            fault.advance(seconds(at), &mut trainer);
            fault.hangs()
        });
        assert_eq!(hangs, [false, true, true, false]);
    }

    #[test]
    fn every_kind_has_its_name() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::of(kind.as_str()), Some(kind));
        }
        assert_eq!(FaultKind::of("none"), None);
    }
}
