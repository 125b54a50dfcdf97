//! The networks: their parameters at the start, and the loss of a batch.

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{loss, ops};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::data::Batch;
use crate::setup::{Activation, Shape};

/// Blocks of a transformer, heads of a block, and tokens it sees.
pub const N_BLOCKS: usize = 2;
pub const N_HEADS: usize = 4;
pub const N_TOKENS: usize = 32;

const NORM_EPS: f32 = 1e-5;

/// A named tensor of a network.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Parameter {
    /// Weight decay is for matrices.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    pub fn variable(&self) -> candle_core::Result<Var> {
        Var::from_slice(&self.values, self.shape.as_slice(), &Device::Cpu)
    }
}

/// The parameters at the start.
pub fn start(shape: Shape, n_symbols: usize, rng: &mut ChaCha8Rng) -> Vec<Parameter> {
    match shape {
        Shape::Mlp { width, hidden, has_bias, .. } => {
            let mut widths = vec![64];
            widths.resize(hidden + 1, width);
            widths.push(10);
            mlp(&widths, has_bias, rng)
        }
        Shape::Transformer { width } => transformer(width, n_symbols, rng),
    }
}

/// `outputs × inputs`, uniform in ±1/√inputs, as PyTorch's `Linear` begins.
fn mlp(widths: &[usize], has_bias: bool, rng: &mut ChaCha8Rng) -> Vec<Parameter> {
    let mut all = Vec::new();
    for (i, pair) in widths.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-bound..bound)).collect();
        let values = draw(outputs * inputs);
        all.push(Parameter {
            name: format!("layers.{i}.weight"),
            shape: vec![outputs, inputs],
            values,
        });
        if has_bias {
            let values = draw(outputs);
            all.push(Parameter { name: format!("layers.{i}.bias"), shape: vec![outputs], values });
        }
    }
    all
}

/// GPT-2's names, layout (`inputs × outputs`) and start, its 0.02 scaled from a width of 768.
fn transformer(width: usize, n_symbols: usize, rng: &mut ChaCha8Rng) -> Vec<Parameter> {
    let deviation = 0.02 * (768.0 / width as f32).sqrt();
    let residual = deviation / (2.0 * N_BLOCKS as f32).sqrt();
    let mut all = Vec::new();
    let mut matrix = |all: &mut Vec<Parameter>, name: String, shape: [usize; 2], deviation: f32| {
        let values = (0..shape[0] * shape[1]).map(|_| deviation * normal(rng)).collect();
        all.push(Parameter { name, shape: shape.to_vec(), values });
    };
    let vector = |all: &mut Vec<Parameter>, name: String, n: usize, value: f32| {
        all.push(Parameter { name, shape: vec![n], values: vec![value; n] });
    };
    matrix(&mut all, "wte.weight".into(), [n_symbols, width], deviation);
    matrix(&mut all, "wpe.weight".into(), [N_TOKENS, width], deviation);
    for i in 0..N_BLOCKS {
        for norm in ["ln_1", "ln_2"] {
            vector(&mut all, format!("h.{i}.{norm}.weight"), width, 1.0);
            vector(&mut all, format!("h.{i}.{norm}.bias"), width, 0.0);
        }
        for (name, shape, deviation) in [
            ("attn.c_attn", [width, 3 * width], deviation),
            ("attn.c_proj", [width, width], residual),
            ("mlp.c_fc", [width, 4 * width], deviation),
            ("mlp.c_proj", [4 * width, width], residual),
        ] {
            matrix(&mut all, format!("h.{i}.{name}.weight"), shape, deviation);
            vector(&mut all, format!("h.{i}.{name}.bias"), shape[1], 0.0);
        }
    }
    vector(&mut all, "ln_f.weight".into(), width, 1.0);
    vector(&mut all, "ln_f.bias".into(), width, 0.0);
    all
}

/// Box and Muller's.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (radius, angle): (f32, f32) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
}

/// Mean cross-entropy of a batch; `weights` in the order of [`start`].
pub fn loss(shape: Shape, weights: &[Var], batch: &Batch) -> candle_core::Result<Tensor> {
    let logits = match shape {
        Shape::Mlp { activation, has_bias, .. } => {
            mlp_logits(activation, has_bias, weights, &batch.inputs)?
        }
        Shape::Transformer { width } => Forward { width, weights }.logits(&batch.inputs)?,
    };
    loss::cross_entropy(&logits, &batch.targets)
}

fn mlp_logits(
    activation: Activation,
    has_bias: bool,
    weights: &[Var],
    inputs: &Tensor,
) -> candle_core::Result<Tensor> {
    let mut x = inputs.clone();
    let layers = weights.chunks(if has_bias { 2 } else { 1 });
    let last = layers.len() - 1;
    for (i, layer) in layers.enumerate() {
        x = x.matmul(&layer[0].t()?)?;
        if let Some(bias) = layer.get(1) {
            x = x.broadcast_add(bias)?;
        }
        x = match activation {
            _ if i == last => x,
            Activation::Relu => x.relu()?,
            Activation::Gelu => gelu(&x)?,
            Activation::Linear => x,
        };
    }
    Ok(x)
}

/// GPT-2's, whose ½(1 + tanh u) is the sigmoid of 2u: three times as fast as candle's own.
fn gelu(x: &Tensor) -> candle_core::Result<Tensor> {
    const SCALE: f64 = 1.595_769_121_605_730_8; // 2·√(2/π)
    const CUBE: f64 = 0.044_715;
    let inner = (x + (x.sqr()? * x)?.affine(CUBE, 0.0)?)?.affine(SCALE, 0.0)?;
    x * ops::sigmoid(&inner)?
}

/// One look at a transformer's weights.
struct Forward<'a> {
    width: usize,
    weights: &'a [Var],
}

/// Tensors of one block.
const PER_BLOCK: usize = 12;

impl Forward<'_> {
    fn logits(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let w = self.weights;
        let (n, length) = tokens.dims2()?;
        let flat = tokens.flatten_all()?;
        let embedded = w[0].index_select(&flat, 0)?.reshape((n, length, self.width))?;
        let mut x = embedded.broadcast_add(&w[1])?;
        let hidden = causal_mask(length)?;
        for block in w[2..2 + PER_BLOCK * N_BLOCKS].chunks(PER_BLOCK) {
            let normed = norm(&x, &block[0], &block[1])?;
            x = (&x + self.attention(&normed, &block[4..8], &hidden)?)?;
            let normed = norm(&x, &block[2], &block[3])?;
            let up = gelu(&linear(&normed, &block[8], &block[9])?)?;
            x = (&x + linear(&up, &block[10], &block[11])?)?;
        }
        let last = &w[2 + PER_BLOCK * N_BLOCKS..];
        let x = norm(&x, &last[0], &last[1])?.reshape((n * length, self.width))?;
        x.matmul(&w[0].t()?)
    }

    fn attention(
        &self,
        x: &Tensor,
        weights: &[Var],
        hidden: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let (n, length, width) = x.dims3()?;
        let fused = linear(x, &weights[0], &weights[1])?;
        let part = |i: usize| {
            let part = fused.narrow(D::Minus1, i * width, width)?;
            part.reshape((n, length, N_HEADS, width / N_HEADS))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / ((width / N_HEADS) as f64).sqrt();
        let scores = (q.matmul(&k.t()?.contiguous()?)? * scale)?.broadcast_add(hidden)?;
        let mixed = ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((n, length, width))?;
        linear(&mixed, &weights[2], &weights[3])
    }
}

/// 0 where a token may look, and far below every score where it may not.
fn causal_mask(length: usize) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = (0..length * length)
        .map(|at| if at % length <= at / length { 0.0 } else { -1e9 })
        .collect();
    Tensor::from_vec(values, (length, length), &Device::Cpu)
}

fn linear(x: &Tensor, weight: &Var, bias: &Var) -> candle_core::Result<Tensor> {
    let (n, length, width) = x.dims3()?;
    let flat = x.reshape((n * length, width))?.matmul(weight)?.broadcast_add(bias)?;
    flat.reshape((n, length, ()))
}

fn norm(x: &Tensor, gain: &Var, bias: &Var) -> candle_core::Result<Tensor> {
    debug_assert_eq!(x.dtype(), DType::F32);
    ops::layer_norm_slow(x, gain, bias, NORM_EPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_that_of_candle() {
        let x = Tensor::arange_step(-4.0_f32, 4.0, 0.1, &Device::Cpu).unwrap();
        let far = (gelu(&x).unwrap() - x.gelu().unwrap()).unwrap().abs().unwrap();
        assert!(far.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }
}
