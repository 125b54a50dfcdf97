//! What the networks learn: digits, and the next character of a licence.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use weightvane::daemon::demo::data::{Dataset, N_PIXELS};

use crate::network::N_TOKENS;
use crate::setup::{Setup, Shape};

const TEXT: &str = include_str!("../../../LICENSE-APACHE");
const N_IMAGES: usize = 1024;

/// Inputs, one a row, and a class for each (of a text: for each token).
pub struct Batch {
    pub inputs: Tensor,
    pub targets: Tensor,
}

/// Where batches are drawn from.
#[derive(Clone, Debug)]
pub enum Data {
    Images { pixels: Vec<f32>, labels: Vec<u32> },
    Text { symbols: Vec<u32>, n_symbols: usize },
}

impl Data {
    pub fn of(setup: &Setup) -> Self {
        if matches!(setup.shape, Shape::Transformer { .. }) {
            return Self::text();
        }
        let images = Dataset::digits(N_IMAGES, setup.rng(1).next_u64());
        let image = |i: usize| images.inputs.col_as_slice(i).iter().map(|x| *x as f32);
        Self::Images {
            pixels: (0..N_IMAGES).flat_map(image).collect(),
            labels: images.labels.iter().map(|label| *label as u32).collect(),
        }
    }

    fn text() -> Self {
        let alphabet: Vec<char> = TEXT.chars().collect::<BTreeSet<_>>().into_iter().collect();
        let symbol = |c| alphabet.binary_search(&c).map_or(0, |at| at as u32);
        Self::Text { symbols: TEXT.chars().map(symbol).collect(), n_symbols: alphabet.len() }
    }

    pub fn n_symbols(&self) -> usize {
        match self {
            Self::Images { .. } => 0,
            Self::Text { n_symbols, .. } => *n_symbols,
        }
    }

    /// Gives every image the label of another: from now on nothing fits. Of a text, the targets of a
    /// batch are shuffled as it is drawn.
    pub fn shuffle_labels(&mut self, rng: &mut ChaCha8Rng) {
        if let Self::Images { labels, .. } = self {
            labels.shuffle(rng);
        }
    }

    /// The next batch, drawn with replacement.
    pub fn batch(
        &self,
        size: usize,
        is_shuffled: bool,
        rng: &mut ChaCha8Rng,
    ) -> candle_core::Result<Batch> {
        match self {
            Self::Images { pixels, labels } => {
                let picked: Vec<usize> =
                    (0..size).map(|_| rng.random_range(0..labels.len())).collect();
                let image = |i: &usize| &pixels[i * N_PIXELS..(i + 1) * N_PIXELS];
                let inputs: Vec<f32> = picked.iter().flat_map(image).copied().collect();
                let targets: Vec<u32> = picked.iter().map(|i| labels[*i]).collect();
                Ok(Batch {
                    inputs: Tensor::from_vec(inputs, (size, N_PIXELS), &Device::Cpu)?,
                    targets: Tensor::from_vec(targets, size, &Device::Cpu)?,
                })
            }
            Self::Text { symbols, .. } => {
                let (mut inputs, mut targets) = (Vec::new(), Vec::new());
                for _ in 0..size {
                    let at = rng.random_range(0..symbols.len() - N_TOKENS);
                    inputs.extend_from_slice(&symbols[at..at + N_TOKENS]);
                    targets.extend_from_slice(&symbols[at + 1..=at + N_TOKENS]);
                }
                if is_shuffled {
                    targets.shuffle(rng);
                }
                Ok(Batch {
                    inputs: Tensor::from_vec(inputs, (size, N_TOKENS), &Device::Cpu)?,
                    targets: Tensor::from_vec(targets, size * N_TOKENS, &Device::Cpu)?,
                })
            }
        }
    }
}
