//! Gradient descent with coupled L2 decay, one step at a time, for as long as anyone asks.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::data::{Dataset, N_CLASSES, N_PIXELS};
use super::network::{Activation, Gradient, Mlp};

/// Everything that decides a training; two equal configurations train to the same bits on the same
/// machine.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerConfig {
    /// What stands between the layers.
    pub activation: Activation,
    /// Widths of the hidden layers.
    pub hidden_widths: Vec<usize>,
    /// Step size `η`.
    pub learning_rate: f64,
    /// `λ`, coupled: `λW` is added to the gradient, as `torch.optim.SGD` does.
    pub weight_decay: f64,
    /// Samples of a step; from `n_samples` on, every step sees all of them.
    pub batch_size: usize,
    /// Images to draw for training.
    pub n_samples: usize,
    /// Decides images, initial weights and the order of the batches.
    pub seed: u64,
}

impl TrainerConfig {
    /// The settings of `weightvane demo`: layers align over some thousand steps, slowly enough to
    /// watch.
    #[must_use]
    pub fn demo(activation: Activation) -> Self {
        Self {
            activation,
            hidden_widths: vec![64; 3],
            learning_rate: 0.16,
            weight_decay: 1e-3,
            batch_size: 256,
            n_samples: 1024,
            seed: 0,
        }
    }
}

/// A network in training.
#[derive(Debug)]
pub struct Trainer {
    config: TrainerConfig,
    network: Mlp,
    data: Dataset,
    /// A permutation of the samples, drawn anew each epoch.
    order: Vec<usize>,
    /// The first sample of `order` that this epoch has not seen.
    next_idx: usize,
    rng: ChaCha8Rng,
    global_step: u64,
    grad_norm: Option<f64>,
    /// Factor of the learning rate, and the steps for which it holds; for good with `None`.
    rate_scale: (f64, Option<u32>),
    /// A layer that does not move.
    frozen: Option<usize>,
}

impl Trainer {
    /// Draws the images and the initial weights.
    ///
    /// # Panics
    /// When `batch_size` or `n_samples` is zero.
    #[must_use]
    pub fn new(config: TrainerConfig) -> Self {
        assert!(config.batch_size > 0, "a step needs samples");
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let widths = [&[N_PIXELS], config.hidden_widths.as_slice(), &[N_CLASSES]].concat();
        let network = Mlp::new(&widths, config.activation, &mut rng);
        // Another seed than the weights', or the first pixels' noise would follow the first weights.
        let data = Dataset::digits(config.n_samples, config.seed.wrapping_add(1));
        let order = (0..config.n_samples).collect();
        let next_idx = config.n_samples;
        Self {
            config,
            network,
            data,
            order,
            next_idx,
            rng,
            global_step: 0,
            grad_norm: None,
            rate_scale: (1.0, None),
            frozen: None,
        }
    }

    /// Multiplies the configured learning rate, for the next `n_steps` or for good.
    pub fn scale_learning_rate(&mut self, scale: f64, n_steps: Option<u32>) {
        self.rate_scale = (scale, n_steps);
    }

    /// Step size `η` of the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate * self.rate_scale.0
    }

    /// Holds a layer still, or none.
    pub fn freeze(&mut self, layer: Option<usize>) {
        self.frozen = layer;
    }

    /// The weights, to be changed by other means than gradients.
    pub fn weights_mut(&mut self) -> &mut [faer::Mat<f64>] {
        &mut self.network.weights
    }

    /// One step `W ← W − η(∇ + λW)` on the next batch, and the gradient `∇` it took: that of the
    /// loss alone, at the weights before the step.
    pub fn step(&mut self) -> Gradient {
        let gradient = if self.config.batch_size >= self.data.n_samples() {
            self.network.gradient(self.data.inputs.as_ref(), &self.data.labels)
        } else {
            let batch = self.next_batch();
            self.network.gradient(batch.inputs.as_ref(), &batch.labels)
        };
        let norm = gradient.norm();
        let rate = self.learning_rate();
        // A rate that is too large throws the weights about and does not send them to infinity where
        // gradients are clipped, as they mostly are; below the configured rate they never need it.
        let clip = if self.rate_scale.0 > 1.0 { (1.0 / norm).min(1.0) } else { 1.0 };
        let shrink = 1.0 - rate * self.config.weight_decay;
        let layers = self.network.weights.iter_mut().zip(&gradient.weights).enumerate();
        for (_, (weight, slope)) in layers.filter(|(layer, _)| self.frozen != Some(*layer)) {
            for col in 0..weight.ncols() {
                let slopes = slope.col_as_slice(col);
                for (value, slope) in weight.col_as_slice_mut(col).iter_mut().zip(slopes) {
                    *value = shrink * *value - rate * clip * slope;
                }
            }
        }
        if let (_, Some(n_steps)) = &mut self.rate_scale {
            *n_steps = n_steps.saturating_sub(1);
            if *n_steps == 0 {
                self.rate_scale = (1.0, None);
            }
        }
        self.global_step += 1;
        self.grad_norm = Some(norm);
        gradient
    }

    /// The next samples of this epoch's order. A remainder smaller than a batch is dropped, so that
    /// all steps weigh the same.
    fn next_batch(&mut self) -> Dataset {
        if self.next_idx + self.config.batch_size > self.order.len() {
            self.order.shuffle(&mut self.rng);
            self.next_idx = 0;
        }
        let end = self.next_idx + self.config.batch_size;
        let batch = self.data.select(&self.order[self.next_idx..end]);
        self.next_idx = end;
        batch
    }

    /// Mean cross-entropy over all training images at the present weights, in nats.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.network.loss(self.data.inputs.as_ref(), &self.data.labels)
    }

    /// Share of the training images named rightly, in `[0, 1]`.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.network.accuracy(self.data.inputs.as_ref(), &self.data.labels)
    }

    /// Steps taken.
    #[must_use]
    pub fn global_step(&self) -> u64 {
        self.global_step
    }

    /// Passes over the data so far; fractions between.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^52 steps")]
    pub fn epoch(&self) -> f64 {
        let n_samples = self.data.n_samples();
        let batch_size = self.config.batch_size.min(n_samples);
        self.global_step as f64 / (n_samples / batch_size) as f64
    }

    /// Norm of the loss gradient of the last step; none before the first.
    #[must_use]
    pub fn grad_norm(&self) -> Option<f64> {
        self.grad_norm
    }

    /// The weights as they are now.
    #[must_use]
    pub fn network(&self) -> &Mlp {
        &self.network
    }

    /// What the training was started with.
    #[must_use]
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(batch_size: usize) -> TrainerConfig {
        TrainerConfig {
            hidden_widths: vec![12],
            learning_rate: 0.05,
            batch_size,
            n_samples: 100,
            ..TrainerConfig::demo(Activation::Relu)
        }
    }

    #[test]
    fn step_is_coupled_l2_descent() {
        for batch_size in [30, 100] {
            let mut trainer = Trainer::new(small(batch_size));
            let before = trainer.network().weights.clone();
            let gradient = trainer.step();
            for (layer, weight) in before.iter().enumerate() {
                let full = &gradient.weights[layer] + faer::Scale(1e-3) * weight;
                let expected = weight - faer::Scale(0.05) * full;
                let error = (&expected - &trainer.network().weights[layer]).norm_max();
                assert!(error < 1e-15, "batch {batch_size}, layer {layer}: {error:e}");
            }
            assert_eq!(trainer.grad_norm(), Some(gradient.norm()));
        }
    }

    #[test]
    fn epoch_uses_no_sample_twice() {
        let mut trainer = Trainer::new(small(30));
        for _ in 0..4 {
            let mut seen: Vec<usize> = Vec::new();
            for _ in 0..3 {
                trainer.next_batch();
                seen.extend(&trainer.order[trainer.next_idx - 30..trainer.next_idx]);
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 90);
        }
    }

    #[test]
    fn long_training_neither_diverges_nor_dies() {
        for activation in [Activation::Linear, Activation::Relu] {
            let config = TrainerConfig { activation, ..small(25) };
            let learning_rate = TrainerConfig::demo(activation).learning_rate;
            let mut trainer = Trainer::new(TrainerConfig { learning_rate, ..config });
            let start = trainer.loss();
            for _ in 0..40_000 {
                trainer.step();
            }
            let end = trainer.loss();
            assert!(end < start / 10.0, "{activation:?}: {start} to {end}");
        }
    }

    #[test]
    fn epochs_count_whole_batches() {
        let mut trainer = Trainer::new(small(30));
        for _ in 0..6 {
            trainer.step();
        }
        assert_eq!((trainer.global_step(), trainer.epoch()), (6, 2.0));
    }
}
