//! A training that can be split in two: weights, moments and the order of the data go along.

use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::data::Data;
use crate::network::{self, Parameter};
use crate::setup::{Optimizer, Setup, Shape};

const BETA1: f64 = 0.9;
const ADAM_EPS: f64 = 1e-8;
/// Largest gradient norm of a transformer; larger ones are scaled down.
const CLIP: f64 = 1.0;

/// What a fault changes for the steps to come.
#[derive(Clone, Debug)]
pub struct Change {
    /// The learning rate is multiplied by this before the step `until`.
    pub rate: f64,
    pub until: u64,
    /// Parameters whose names begin so are not updated.
    pub frozen: Option<String>,
    pub is_shuffled: bool,
    /// Though the trainer's record says otherwise.
    pub is_decay_lost: bool,
}

#[derive(Clone, Debug)]
pub struct Training {
    pub setup: Arc<Setup>,
    pub parameters: Vec<Parameter>,
    pub change: Change,
    pub data: Data,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    step: u64,
    order: ChaCha8Rng,
}

impl Training {
    pub fn new(setup: Arc<Setup>) -> Self {
        let data = Data::of(&setup);
        let parameters = network::start(setup.shape, data.n_symbols(), &mut setup.rng(2));
        let zeros: Vec<Vec<f32>> = parameters.iter().map(|p| vec![0.0; p.values.len()]).collect();
        Self {
            order: setup.rng(3),
            setup,
            parameters,
            change: Change {
                rate: 1.0,
                until: 0,
                frozen: None,
                is_shuffled: false,
                is_decay_lost: false,
            },
            data,
            first: zeros.clone(),
            second: zeros,
            step: 0,
        }
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        let factor = if self.step < self.change.until { self.change.rate } else { 1.0 };
        // From the first step on: a rate of nothing is a step that does not count.
        let progress = (self.step + 1) as f64 / self.setup.n_steps() as f64;
        factor * self.setup.rate * self.setup.schedule.at(progress)
    }

    /// Trains up to this step; mean loss of the steps.
    pub fn run(&mut self, until: u64) -> candle_core::Result<f64> {
        let n = until.saturating_sub(self.step).max(1) as f64;
        let mut sum = 0.0;
        while self.step < until {
            sum += self.advance()?;
        }
        Ok(sum / n)
    }

    fn advance(&mut self) -> candle_core::Result<f64> {
        let batch =
            self.data.batch(self.setup.batch_size, self.change.is_shuffled, &mut self.order)?;
        let variables: Vec<_> =
            self.parameters.iter().map(Parameter::variable).collect::<Result<_, _>>()?;
        let loss = network::loss(self.setup.shape, &variables, &batch)?;
        let slopes = loss.backward()?;
        let mut gradients = Vec::with_capacity(variables.len());
        for (variable, parameter) in variables.iter().zip(&self.parameters) {
            gradients.push(match slopes.get(variable) {
                Some(slope) => slope.flatten_all()?.to_vec1::<f32>()?,
                None => vec![0.0; parameter.values.len()],
            });
        }
        if matches!(self.setup.shape, Shape::Transformer { .. }) {
            clip(&mut gradients);
        }
        let rate = self.rate();
        self.step += 1;
        for (i, gradient) in gradients.iter().enumerate() {
            self.update(i, gradient, rate);
        }
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn update(&mut self, i: usize, gradient: &[f32], rate: f64) {
        let parameter = &mut self.parameters[i];
        if self.change.frozen.as_ref().is_some_and(|name| parameter.name.starts_with(name)) {
            return;
        }
        let decays = parameter.is_matrix() && !self.change.is_decay_lost;
        let decay = if decays { self.setup.decay } else { 0.0 };
        let states = self.first[i].iter_mut().zip(&mut self.second[i]);
        let moved = parameter.values.iter_mut().zip(gradient).zip(states);
        match self.setup.optimizer {
            Optimizer::Sgd { momentum } => {
                for ((value, slope), (velocity, _)) in moved {
                    *velocity = momentum as f32 * *velocity + slope + decay as f32 * *value;
                    *value -= rate as f32 * *velocity;
                }
            }
            Optimizer::AdamW { beta2 } => {
                let unbiased = |beta: f64| 1.0 - beta.powf(self.step as f64);
                let (unbiased1, unbiased2) = (unbiased(BETA1), unbiased(beta2));
                for ((value, slope), (first, second)) in moved {
                    let slope = f64::from(*slope);
                    let mean = BETA1 * f64::from(*first) + (1.0 - BETA1) * slope;
                    let square = beta2 * f64::from(*second) + (1.0 - beta2) * slope * slope;
                    (*first, *second) = (mean as f32, square as f32);
                    let direction = mean / unbiased1 / ((square / unbiased2).sqrt() + ADAM_EPS);
                    let old = f64::from(*value);
                    *value = (old - rate * (direction + decay * old)) as f32;
                }
            }
        }
    }

    /// A parameter at random among those with this end of their names.
    pub fn pick(&self, is_wanted: impl Fn(&Parameter) -> bool, rng: &mut ChaCha8Rng) -> usize {
        let wanted: Vec<usize> =
            (0..self.parameters.len()).filter(|i| is_wanted(&self.parameters[*i])).collect();
        wanted[rng.random_range(0..wanted.len())]
    }
}

fn clip(gradients: &mut [Vec<f32>]) {
    let square: f64 = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum();
    let scale = CLIP / square.sqrt();
    if scale < 1.0 {
        gradients.iter_mut().flatten().for_each(|g| *g *= scale as f32);
    }
}
