//! The multilayer perceptron: logits, cross-entropy and exact gradients, in f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand::Rng;

/// What stands between two hidden layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing: the network is a product of matrices, and the whole Gram difference of two
    /// neighbouring layers is conserved by gradient flow.
    Linear,
    /// `max(0, x)`: only the diagonal of that difference is conserved (Du, Hu & Lee 2018).
    Relu,
}

impl Activation {
    /// The name under which `config.json` files know the activation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Relu => "relu",
        }
    }

    fn apply(self, values: &mut Mat<f64>) {
        if self == Self::Relu {
            for sample in 0..values.ncols() {
                for value in values.col_as_slice_mut(sample) {
                    // Not `max`, which would swallow a NaN; the frameworks pass it on.
                    if *value < 0.0 {
                        *value = 0.0;
                    }
                }
            }
        }
    }

    /// Multiplies `delta` by the derivative, read off the activation's own output.
    fn pull_back(self, delta: &mut Mat<f64>, output: &Mat<f64>) {
        if self == Self::Relu {
            for sample in 0..delta.ncols() {
                let outputs = output.col_as_slice(sample);
                for (value, output) in delta.col_as_slice_mut(sample).iter_mut().zip(outputs) {
                    if *output <= 0.0 {
                        *value = 0.0;
                    }
                }
            }
        }
    }
}

/// A multilayer perceptron without biases: `W_L φ(… φ(W_1 x))`.
///
/// Biases are left out because a bias would belong to the writer's Gram matrix, and the conserved
/// quantities of the saved matrices would no longer stand alone.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// From the input to the logits; each is `outputs × inputs`, as PyTorch stores `Linear.weight`.
    pub weights: Vec<Mat<f64>>,
    /// Applied after every layer but the last.
    pub activation: Activation,
}

/// The gradient of the mean cross-entropy, and the loss it was taken at.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Mean cross-entropy in nats, before any weight decay.
    pub loss: f64,
    /// One matrix per layer, in the layout of [`Mlp::weights`]; weight decay is not in it.
    pub weights: Vec<Mat<f64>>,
}

impl Gradient {
    /// Euclidean norm over all layers.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.weights.iter().map(Mat::squared_norm_l2).sum::<f64>().sqrt()
    }
}

impl Mlp {
    /// A network of the given widths (inputs, hidden layers, classes) with PyTorch's default
    /// initialisation of `Linear`: uniform in `±1/√inputs`.
    ///
    /// # Panics
    /// With fewer than two widths.
    #[must_use]
    pub fn new(widths: &[usize], activation: Activation, rng: &mut impl Rng) -> Self {
        assert!(widths.len() >= 2, "a network needs inputs and outputs");
        let mut layer = |n_inputs: usize, n_outputs: usize| {
            #[expect(clippy::cast_precision_loss, reason = "widths stay far below 2^52")]
            let bound = 1.0 / (n_inputs as f64).sqrt();
            Mat::from_fn(n_outputs, n_inputs, |_, _| rng.random_range(-bound..bound))
        };
        let weights = widths.windows(2).map(|pair| layer(pair[0], pair[1])).collect();
        Self { weights, activation }
    }

    /// The widths the network was made with: inputs, hidden layers, classes.
    #[must_use]
    pub fn widths(&self) -> Vec<usize> {
        let inputs = self.weights.first().map(Mat::ncols);
        inputs.into_iter().chain(self.weights.iter().map(Mat::nrows)).collect()
    }

    /// Mean cross-entropy in nats of `inputs` (`features × samples`) against the class indices
    /// `labels`.
    ///
    /// # Panics
    /// When the shapes do not fit or a label is no class.
    #[must_use]
    pub fn loss(&self, inputs: MatRef<'_, f64>, labels: &[usize]) -> f64 {
        let layers = self.forward(inputs);
        softmax_cross_entropy(self.logits(&layers), labels).0
    }

    /// Share of the samples whose largest logit is their label's, in `[0, 1]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sample counts stay far below 2^52")]
    pub fn accuracy(&self, inputs: MatRef<'_, f64>, labels: &[usize]) -> f64 {
        let layers = self.forward(inputs);
        let logits = self.logits(&layers);
        let is_right = |&(sample, &label): &(usize, &usize)| {
            let scores = logits.col_as_slice(sample);
            scores.iter().all(|score| *score <= scores[label])
        };
        labels.iter().enumerate().filter(is_right).count() as f64 / labels.len() as f64
    }

    /// Loss and exact gradient by back-propagation; arguments as for [`Mlp::loss`].
    ///
    /// # Panics
    /// When the shapes do not fit or a label is no class.
    #[must_use]
    pub fn gradient(&self, inputs: MatRef<'_, f64>, labels: &[usize]) -> Gradient {
        let layers = self.forward(inputs);
        let (loss, mut delta) = softmax_cross_entropy(self.logits(&layers), labels);
        let mut weights = Vec::with_capacity(self.weights.len());
        for (layer, weight) in self.weights.iter().enumerate().rev() {
            if layer == 0 {
                weights.push(product(delta.as_ref(), inputs.transpose()));
            } else {
                let output = &layers[layer - 1];
                weights.push(product(delta.as_ref(), output.transpose()));
                delta = product(weight.transpose(), delta.as_ref());
                self.activation.pull_back(&mut delta, output);
            }
        }
        weights.reverse();
        Gradient { loss, weights }
    }

    /// The output of every layer, the logits last.
    fn forward(&self, inputs: MatRef<'_, f64>) -> Vec<Mat<f64>> {
        let mut layers: Vec<Mat<f64>> = Vec::with_capacity(self.weights.len());
        for (layer, weight) in self.weights.iter().enumerate() {
            let input = layers.last().map_or(inputs, Mat::as_ref);
            let mut output = product(weight.as_ref(), input);
            if layer + 1 < self.weights.len() {
                self.activation.apply(&mut output);
            }
            layers.push(output);
        }
        layers
    }

    fn logits<'a>(&self, layers: &'a [Mat<f64>]) -> &'a Mat<f64> {
        &layers[self.weights.len() - 1]
    }
}

fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(left.nrows(), right.ncols());
    matmul(&mut out, Accum::Replace, left, right, 1.0, Par::Seq);
    out
}

/// Mean cross-entropy and its derivative by the logits (`classes × samples`).
fn softmax_cross_entropy(logits: &Mat<f64>, labels: &[usize]) -> (f64, Mat<f64>) {
    assert_eq!(logits.ncols(), labels.len(), "one label per sample");
    #[expect(clippy::cast_precision_loss, reason = "sample counts stay far below 2^52")]
    let weight = 1.0 / labels.len() as f64;
    let mut delta = logits.clone();
    let mut loss = 0.0;
    for (sample, &label) in labels.iter().enumerate() {
        let scores = delta.col_as_slice_mut(sample);
        // Without the shift a confident network overflows the exponential.
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let label_score = scores[label] - top;
        for score in scores.iter_mut() {
            *score = (*score - top).exp();
        }
        let total: f64 = scores.iter().sum();
        loss += weight * (total.ln() - label_score);
        for score in scores.iter_mut() {
            *score *= weight / total;
        }
        scores[label] -= weight;
    }
    (loss, delta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Every derivative against a central difference: its error is of order `h²` and `ε/h`, both
    /// near 1e-10 here.
    fn check_gradient(activation: Activation) {
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        let mut network = Mlp::new(&[5, 7, 6, 3], activation, rng);
        let inputs = Mat::from_fn(5, 11, |_, _| rng.random_range(-1.0..1.0));
        let labels: Vec<usize> = (0..11).map(|sample| sample % 3).collect();
        let exact = network.gradient(inputs.as_ref(), &labels);
        let h = 1e-5;
        for layer in 0..network.weights.len() {
            for row in 0..network.weights[layer].nrows() {
                for col in 0..network.weights[layer].ncols() {
                    let mut loss_at = |shift: f64| {
                        let kept = network.weights[layer][(row, col)];
                        network.weights[layer][(row, col)] = kept + shift;
                        let loss = network.loss(inputs.as_ref(), &labels);
                        network.weights[layer][(row, col)] = kept;
                        loss
                    };
                    let numeric = (loss_at(h) - loss_at(-h)) / (2.0 * h);
                    let error = (numeric - exact.weights[layer][(row, col)]).abs();
                    assert!(error < 1e-8, "{activation:?} layer {layer} ({row}, {col}): {error:e}");
                }
            }
        }
    }

    #[test]
    fn gradient_is_the_derivative_of_the_loss() {
        check_gradient(Activation::Linear);
        check_gradient(Activation::Relu);
    }

    #[test]
    fn untrained_network_is_as_unsure_as_its_number_of_classes() {
        let network = Mlp { weights: vec![Mat::zeros(10, 4)], activation: Activation::Relu };
        let loss = network.loss(Mat::full(4, 3, 0.5).as_ref(), &[0, 4, 9]);
        assert!((loss - 10.0_f64.ln()).abs() < 1e-14, "{loss}");
    }

    #[test]
    fn huge_logits_keep_the_loss_finite() {
        let network = Mlp { weights: vec![Mat::full(2, 1, 1e200)], activation: Activation::Linear };
        let gradient = network.gradient(Mat::full(1, 1, 1e100).as_ref(), &[1]);
        assert!((gradient.loss - 2.0_f64.ln()).abs() < 1e-14, "{}", gradient.loss);
    }

    #[test]
    fn initial_weights_fill_the_interval_of_pytorch() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let network = Mlp::new(&[64, 64, 10], Activation::Relu, rng);
        assert_eq!(network.widths(), [64, 64, 10]);
        let largest = network.weights[0].norm_max();
        assert!((0.124..0.125).contains(&largest), "{largest}");
    }
}
