//! Images in the manner of the 8 × 8 handwritten digits: ten glyphs, bent, moved and noisy.

use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Pixels along a side of an image.
pub const SIDE: usize = 8;
/// Pixels of an image, the inputs of a network.
pub const N_PIXELS: usize = SIDE * SIDE;
/// Digits to tell apart.
pub const N_CLASSES: usize = 10;

/// The prototypes, row by row from the top, the leftmost pixel in the highest bit.
const GLYPHS: [[u8; SIDE]; N_CLASSES] = [
    [0x3c, 0x66, 0x42, 0x42, 0x42, 0x42, 0x66, 0x3c],
    [0x08, 0x18, 0x38, 0x08, 0x08, 0x08, 0x08, 0x3e],
    [0x3c, 0x46, 0x02, 0x04, 0x08, 0x10, 0x20, 0x7e],
    [0x3c, 0x46, 0x02, 0x1c, 0x02, 0x02, 0x46, 0x3c],
    [0x04, 0x0c, 0x14, 0x24, 0x44, 0x7e, 0x04, 0x04],
    [0x7e, 0x40, 0x40, 0x7c, 0x02, 0x02, 0x46, 0x3c],
    [0x1c, 0x20, 0x40, 0x7c, 0x42, 0x42, 0x62, 0x3c],
    [0x7e, 0x02, 0x04, 0x08, 0x08, 0x10, 0x10, 0x20],
    [0x3c, 0x42, 0x42, 0x3c, 0x42, 0x42, 0x42, 0x3c],
    [0x3c, 0x46, 0x42, 0x42, 0x3e, 0x02, 0x04, 0x38],
];

/// Standard deviation of the shift along each axis, in pixels.
const SHIFT_PX: f64 = 0.6;
/// Standard deviation of the rotation and of the slant, in radians.
const TILT_RAD: f64 = 0.15;
/// Standard deviation of the size.
const STRETCH: f64 = 0.06;
/// Standard deviation of the noise of a pixel; full ink is 1.
const NOISE: f64 = 0.1;

/// Labelled images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// `pixels × samples`: every pixel with mean zero, all pixels together with variance one.
    pub inputs: Mat<f64>,
    /// The digit of each sample; every digit occurs equally often, give or take one.
    pub labels: Vec<usize>,
}

impl Dataset {
    /// Draws `n_samples` images; the same seed gives the same images.
    ///
    /// # Panics
    /// With no samples.
    #[must_use]
    pub fn digits(n_samples: usize, seed: u64) -> Self {
        assert!(n_samples > 0, "a data set needs samples");
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<usize> = (0..n_samples).map(|sample| sample % N_CLASSES).collect();
        let mut inputs = Mat::zeros(N_PIXELS, n_samples);
        for (sample, &label) in labels.iter().enumerate() {
            draw(GLYPHS[label], rng, inputs.col_as_slice_mut(sample));
        }
        standardise(&mut inputs);
        Self { inputs, labels }
    }

    /// How many images there are.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.labels.len()
    }

    /// The images of the given indices, in that order.
    ///
    /// # Panics
    /// When an index is no sample.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let pixels = |pixel, idx: usize| self.inputs[(pixel, indices[idx])];
        Self {
            inputs: Mat::from_fn(self.inputs.nrows(), indices.len(), pixels),
            labels: indices.iter().map(|&sample| self.labels[sample]).collect(),
        }
    }
}

/// One image: the glyph seen through a random affine map, with noise.
fn draw(glyph: [u8; SIDE], rng: &mut ChaCha8Rng, image: &mut [f64]) {
    let mut normal = |deviation: f64| deviation * rng.sample::<f64, _>(StandardNormal);
    let (shift_x, shift_y) = (normal(SHIFT_PX), normal(SHIFT_PX));
    let (rotation, slant) = (normal(TILT_RAD), normal(TILT_RAD));
    let (width, height) = (1.0 + normal(STRETCH), 1.0 + normal(STRETCH));
    #[expect(clippy::cast_precision_loss, reason = "pixel indices are below 8")]
    let centred = |idx: usize| idx as f64 - (SIDE as f64 - 1.0) / 2.0;
    for (pixel, value) in image.iter_mut().enumerate() {
        let (x, y) = (centred(pixel % SIDE), centred(pixel / SIDE));
        let across = width * (x - (rotation + slant) * y) + shift_x;
        let down = height * (y + rotation * x) + shift_y;
        *value = ink(glyph, across, down) + normal(NOISE);
    }
}

/// Ink of the glyph at a point, measured from its middle, interpolated between the pixels.
fn ink(glyph: [u8; SIDE], x: f64, y: f64) -> f64 {
    let tent = |distance: f64| (1.0 - distance.abs()).max(0.0);
    let mut total = 0.0;
    for (row, bits) in (0_u32..).zip(glyph) {
        for col in 0..8_u32 {
            if bits & (0x80 >> col) != 0 {
                total += tent(x + 3.5 - f64::from(col)) * tent(y + 3.5 - f64::from(row));
            }
        }
    }
    total
}

#[expect(clippy::cast_precision_loss, reason = "image counts stay far below 2^52")]
fn standardise(inputs: &mut Mat<f64>) {
    let (n_pixels, n_samples) = (inputs.nrows(), inputs.ncols());
    for pixel in 0..n_pixels {
        let mean = inputs.row(pixel).sum() / n_samples as f64;
        for sample in 0..n_samples {
            inputs[(pixel, sample)] -= mean;
        }
    }
    let variance = inputs.squared_norm_l2() / (n_pixels * n_samples) as f64;
    *inputs *= faer::Scale(1.0 / variance.sqrt());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_centred_with_variance_one() {
        let data = Dataset::digits(200, 3);
        for pixel in 0..N_PIXELS {
            let mean = data.inputs.row(pixel).sum() / 200.0;
            assert!(mean.abs() < 1e-13, "pixel {pixel}: {mean:e}");
        }
        let variance = data.inputs.squared_norm_l2() / (64.0 * 200.0);
        assert!((variance - 1.0).abs() < 1e-13, "{variance}");
    }

    #[test]
    fn seed_alone_decides_the_images() {
        let digits = |seed| Dataset::digits(30, seed).inputs;
        assert_eq!(digits(5), digits(5));
        assert_ne!(digits(5), digits(6));
    }

    #[test]
    fn images_of_a_digit_differ_less_than_digits_do() {
        let data = Dataset::digits(500, 1);
        let mean_of = |class: usize| {
            let members: Vec<usize> = (0..500).filter(|s| data.labels[*s] == class).collect();
            assert_eq!(members.len(), 50);
            let images = data.select(&members).inputs;
            Mat::from_fn(N_PIXELS, 1, |pixel, _| images.row(pixel).sum() / 50.0)
        };
        let means: Vec<Mat<f64>> = (0..N_CLASSES).map(mean_of).collect();
        let nearest = |sample: usize| {
            let image = data.inputs.subcols(sample, 1);
            let distance = |class: &usize| (image - &means[*class]).norm_l2();
            (0..N_CLASSES).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
        };
        let n_right = (0..500).filter(|s| nearest(*s) == data.labels[*s]).count();
        assert!((400..500).contains(&n_right), "learnable, but not trivial: {n_right} of 500");
    }

    #[test]
    fn selection_keeps_images_with_their_labels() {
        let data = Dataset::digits(20, 1);
        let picked = data.select(&[13, 2]);
        assert_eq!(picked.labels, [3, 2]);
        assert_eq!(picked.inputs.col_as_slice(1), data.inputs.col_as_slice(2));
    }
}
