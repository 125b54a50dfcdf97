//! Which networks are trained, and how: everything about a training, drawn from its seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Saves after the first, at step 0.
pub const N_SAVES: usize = 40;

/// Seeds of every multilayer perceptron: from the first on thresholds are chosen, from the second on
/// the rules are reported. Those below the first are used up: rules were found on them.
const MLP_SEEDS: [u64; 2] = [4, 8];
const N_MLP_SEEDS: u64 = 4;
const WIDTHS: [usize; 4] = [32, 64, 128, 256];
/// The same of transformers.
const TRANSFORMERS: [u64; 2] = [20, 40];
const N_TRANSFORMERS: u64 = 20;

/// What stands between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Relu,
    Gelu,
    Linear,
}

impl Activation {
    /// As `config.json` files know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Linear => "linear",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// 64 pixels, `hidden` layers of `width`, ten classes.
    Mlp { activation: Activation, width: usize, hidden: usize, has_bias: bool },
    /// Two blocks of GPT-2.
    Transformer { width: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// With coupled weight decay.
    Sgd { momentum: f64 },
    /// With decoupled weight decay.
    AdamW { beta2: f64 },
}

impl Optimizer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::AdamW { .. } => "adamw",
        }
    }

    pub fn momentum(self) -> f64 {
        match self {
            Self::Sgd { momentum } => momentum,
            Self::AdamW { .. } => 0.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    Constant,
    /// Down to [`FLOOR`] of the peak.
    Cosine,
    /// A linear rise over a tenth of the training, then constant.
    Warmup,
    WarmupCosine,
}

/// Where a cosine ends, as a part of the peak.
const FLOOR: f64 = 0.1;

impl Schedule {
    /// Part of the peak rate at this part of the training.
    pub fn at(self, progress: f64) -> f64 {
        const RISE: f64 = 0.1;
        let cosine =
            |at: f64| FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * at).cos());
        let progress = progress.clamp(0.0, 1.0);
        match self {
            Self::Constant => 1.0,
            Self::Cosine => cosine(progress),
            Self::Warmup => (progress / RISE).min(1.0),
            Self::WarmupCosine if progress < RISE => progress / RISE,
            Self::WarmupCosine => cosine((progress - RISE) / (1.0 - RISE)),
        }
    }
}

/// Everything that decides a training.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    /// Networks of one family are counted together.
    pub family: String,
    pub shape: Shape,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    /// The peak of the learning rate.
    pub rate: f64,
    pub decay: f64,
    pub batch_size: usize,
    /// Whether weights are saved in bf16, else in f32.
    pub is_bf16: bool,
    /// Steps of the saves, from 0 on.
    pub saves: Vec<u64>,
    /// Index of the save after which faults begin.
    pub fault_at: usize,
}

impl Setup {
    /// Thresholds are chosen on these, and what is reported comes from the others.
    pub fn is_for_tuning(&self) -> bool {
        self.seed < if self.is_transformer() { TRANSFORMERS[1] } else { MLP_SEEDS[1] }
    }

    pub fn is_transformer(&self) -> bool {
        matches!(self.shape, Shape::Transformer { .. })
    }

    pub fn n_steps(&self) -> u64 {
        self.saves.last().copied().unwrap_or(0)
    }

    /// A generator of its own for each purpose.
    pub fn rng(&self, purpose: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let family =
            self.family.bytes().fold(0, |sum, byte| 31 * sum % 1_000_003 + u64::from(byte));
        rng.set_stream(1000 * family + purpose);
        rng
    }

    fn draw(shape: Shape, is_adaptive: bool, seed: u64) -> Self {
        let family = match shape {
            Shape::Mlp { activation, .. } => activation.name(),
            Shape::Transformer { .. } => "transformer",
        };
        let mut setup = Self {
            seed,
            family: format!("{family} {}", if is_adaptive { "AdamW" } else { "SGD" }),
            shape,
            optimizer: Optimizer::AdamW { beta2: 0.999 },
            schedule: Schedule::Constant,
            rate: 0.0,
            decay: 0.0,
            batch_size: 0,
            is_bf16: false,
            saves: Vec::new(),
            fault_at: 0,
        };
        let width = match shape {
            Shape::Mlp { width, .. } | Shape::Transformer { width } => width as u64,
        };
        let rng = &mut setup.rng(width);
        let schedules =
            [Schedule::Constant, Schedule::Cosine, Schedule::Warmup, Schedule::WarmupCosine];
        setup.schedule = schedules[rng.random_range(0..4)];
        setup.is_bf16 = rng.random_bool(0.2);
        setup.fault_at = rng.random_range(14..=N_SAVES - 6);
        setup.draw_shape(is_adaptive, rng);
        setup.draw_saves(rng);
        setup
    }

    fn draw_shape(&mut self, is_adaptive: bool, rng: &mut ChaCha8Rng) {
        let momentum = if rng.random_bool(0.3) { 0.9 } else { 0.0 };
        match &mut self.shape {
            Shape::Mlp { width, hidden, has_bias, .. } => {
                *hidden = if *width > 128 { 2 } else { rng.random_range(2..=4) };
                *has_bias = rng.random_bool(0.3);
                self.batch_size = [64, 128, 256][rng.random_range(0..3)];
                (self.rate, self.decay) = if is_adaptive {
                    (between(5e-4, 3e-3, rng), between(1e-2, 1e-1, rng))
                } else {
                    (between(0.05, 0.2, rng) * (1.0 - momentum), between(1e-4, 5e-3, rng))
                };
            }
            Shape::Transformer { width } => {
                *width = [48, 64][rng.random_range(0..2)];
                self.batch_size = 8;
                (self.rate, self.decay) = if is_adaptive {
                    (between(1e-3, 3e-3, rng), between(1e-2, 1e-1, rng))
                } else {
                    (between(0.05, 0.2, rng) * (1.0 - momentum), between(1e-4, 1e-3, rng))
                };
            }
        }
        self.optimizer = match (is_adaptive, self.shape) {
            (false, _) => Optimizer::Sgd { momentum },
            (true, Shape::Mlp { .. }) => Optimizer::AdamW { beta2: 0.999 },
            (true, Shape::Transformer { .. }) => Optimizer::AdamW { beta2: 0.95 },
        };
    }

    /// Every 20 to 100 steps; of a fifth of the trainings at uneven intervals, as where saves follow
    /// the clock.
    fn draw_saves(&mut self, rng: &mut ChaCha8Rng) {
        let interval: u64 = match self.shape {
            Shape::Mlp { .. } => [25, 50, 100][rng.random_range(0..3)],
            Shape::Transformer { .. } => [20, 30][rng.random_range(0..2)],
        };
        let is_even = rng.random_bool(0.8);
        let mut step = 0;
        self.saves.push(step);
        for _ in 0..N_SAVES {
            let spread = interval..=(2 * interval);
            step += if is_even { interval } else { rng.random_range(spread) };
            self.saves.push(step);
        }
    }
}

/// Log-uniform.
fn between(low: f64, high: f64, rng: &mut ChaCha8Rng) -> f64 {
    low * (high / low).powf(rng.random())
}

/// `n` seeds from each of these on.
fn from_each(first: [u64; 2], n: u64) -> impl Iterator<Item = u64> {
    first.into_iter().flat_map(move |first| first..first + n)
}

/// All networks; a handful with `is_quick`.
pub fn all(is_quick: bool) -> Vec<Setup> {
    let mut setups = Vec::new();
    for activation in [Activation::Relu, Activation::Gelu, Activation::Linear] {
        for (i, is_adaptive) in [false, true].into_iter().enumerate() {
            for width in WIDTHS {
                let shape = Shape::Mlp { activation, width, hidden: 2, has_bias: false };
                let n = if !is_quick { N_MLP_SEEDS } else { u64::from(width == WIDTHS[i]) };
                let seeds = from_each(MLP_SEEDS, n);
                setups.extend(seeds.map(|seed| Setup::draw(shape, is_adaptive, seed)));
            }
        }
    }
    let shape = Shape::Transformer { width: 0 };
    let seeds = from_each(TRANSFORMERS, if is_quick { 1 } else { N_TRANSFORMERS });
    // Every third pair of seeds with SGD.
    setups.extend(seeds.map(|seed| Setup::draw(shape, seed / 2 % 3 != 2, seed)));
    setups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_as_large_as_promised() {
        let (tuning, report): (Vec<_>, Vec<_>) =
            all(false).into_iter().partition(Setup::is_for_tuning);
        assert_eq!(tuning.len(), report.len());
        for half in [tuning, report] {
            assert!(half.len() >= 40 && half.len() * N_SAVES >= 2000);
            let n_transformers = half.iter().filter(|s| s.family.starts_with("trans")).count();
            assert!(n_transformers >= 8);
            // Room for the saves after a fault, and a history before it.
            assert!(half.iter().all(|s| s.fault_at >= 12 && s.fault_at + 4 < s.saves.len()));
        }
    }

    #[test]
    fn schedules_end_where_they_should() {
        assert!((Schedule::Cosine.at(1.0) - FLOOR).abs() < 1e-12);
        assert!((Schedule::WarmupCosine.at(0.1) - 1.0).abs() < 1e-12);
        assert!((Schedule::Warmup.at(0.05) - 0.5).abs() < 1e-12);
    }
}
