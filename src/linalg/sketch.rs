//! How far a matrix moved, from 16 KiB kept of its earlier state.

#![expect(clippy::inline_always, reason = "only inside of a dispatched function is it vectorised")]

mod kept;

use pulp::{Arch, Simd, WithSimd};

pub use kept::KeptSketch;

/// Numbers drawn for one chunk: 64 signs in each but the last, which is its rotation.
const DRAWS: usize = Sketch::BUCKETS / 64 + 1;

/// Seeded linear count sketch of a matrix (Charikar, Chen & Farach-Colton 2002, "Finding frequent
/// items in data streams").
///
/// Every element is added to one of [`Sketch::BUCKETS`] sums with a random sign. Element `i` of
/// chunk `j` of `b = BUCKETS` consecutive elements goes to bucket `(i + o_j) mod b`: the rotations
/// `o_j` are independent and so are all signs, so elements of different chunks meet with probability
/// `1/b`, those of one chunk never, and two that meet cancel on average. Hence for every matrix, of
/// whatever structure, the sum of the squared buckets is unbiased for `‖W‖_F²`, with a variance over
/// the seeds of
///
/// `(2/b) (‖W‖_F⁴ − Σ_j ‖W_j‖_F⁴) ≤ (2/b) (1 − 1/n_chunks) ‖W‖_F⁴`.
///
/// The sums are in `f64`, so an update far below the rounding of `f32` weights is still told from
/// none, and for one seed they do not depend on how the elements were cut into pieces.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch {
    seed: u64,
    n_elements: u64,
    buckets: Vec<f64>,
}

impl Sketch {
    /// Number of buckets, a power of two.
    pub const BUCKETS: usize = 2048;

    /// The sketch of no elements. Only sketches of one seed can be compared.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, n_elements: 0, buckets: vec![0.0; Self::BUCKETS] }
    }

    /// A sketch that was kept: what [`Sketch::seed`], [`Sketch::n_elements`] and
    /// [`Sketch::buckets`] gave; `None` if those are not [`Sketch::BUCKETS`] sums.
    #[must_use]
    pub fn from_buckets(seed: u64, n_elements: u64, buckets: Vec<f64>) -> Option<Self> {
        (buckets.len() == Self::BUCKETS).then_some(Self { seed, n_elements, buckets })
    }

    /// Adds the next elements in the matrix's order; pieces may have any length.
    pub fn add(&mut self, values: &[f32]) {
        Arch::new().dispatch(Adding { sketch: self, values });
    }

    /// The seed of the signs and rotations.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many elements were added.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.n_elements
    }

    /// The sums, [`Sketch::BUCKETS`] of them.
    #[must_use]
    pub fn buckets(&self) -> &[f64] {
        &self.buckets
    }

    /// Estimate of `‖W − W'‖_F` and its standard error, both finite and at least 0.
    ///
    /// The standard error is `sqrt((1 − 1/n_chunks) / 2b)` of the estimate, at most 1.6 %: by the
    /// delta method from the variance of the square, which that bounds for every matrix. It is 0 for
    /// up to [`Sketch::BUCKETS`] elements, whose norm is exact, and the very error where the update
    /// is spread over many chunks. Where it sits in few of them (some rows of a matrix), the error
    /// is smaller; where in few elements, it is mostly none and once in a thousand seeds large.
    ///
    /// `None` for sketches of different seeds or numbers of elements, for those of no elements, and
    /// where either matrix held a NaN or an infinity.
    #[must_use]
    pub fn distance(&self, earlier: &Self) -> Option<(f64, f64)> {
        if (self.seed, self.n_elements) != (earlier.seed, earlier.n_elements) {
            return None;
        }
        let difference = |(now, earlier): (&f64, &f64)| (now - earlier) * (now - earlier);
        let square: f64 = self.buckets.iter().zip(&earlier.buckets).map(difference).sum();
        #[expect(clippy::cast_precision_loss, reason = "matters to neither beyond 16 digits")]
        let [width, n_chunks] =
            [Self::BUCKETS as u64, self.n_elements.div_ceil(Self::BUCKETS as u64)]
                .map(|n| n as f64);
        let distance = square.sqrt();
        let stderr = distance * ((1.0 - 1.0 / n_chunks) / (2.0 * width)).sqrt();
        (self.n_elements > 0 && distance.is_finite()).then_some((distance, stderr))
    }
}

struct Adding<'a> {
    sketch: &'a mut Sketch,
    values: &'a [f32],
}

impl WithSimd for Adding<'_> {
    type Output = ();

    #[expect(clippy::cast_possible_truncation, reason = "remainders below 2^11, and single bits")]
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { sketch, mut values } = self;
        let mut flips = [0; Sketch::BUCKETS];
        while !values.is_empty() {
            let chunk = sketch.n_elements / Sketch::BUCKETS as u64;
            let start = (sketch.n_elements % Sketch::BUCKETS as u64) as usize;
            let (piece, rest) = values.split_at(values.len().min(Sketch::BUCKETS - start));
            let end = start + piece.len();
            let draws = Draws::of_chunk(sketch.seed, chunk);
            for word in start / 64..end.div_ceil(64) {
                let signs = draws.get(word);
                for (bit, flip) in flips[64 * word..64 * (word + 1)].iter_mut().enumerate() {
                    *flip = ((signs >> bit) as u32) << 31;
                }
            }
            let rotation = draws.get(DRAWS - 1) as usize % Sketch::BUCKETS;
            let first = (start + rotation) % Sketch::BUCKETS;
            let n_before_end = piece.len().min(Sketch::BUCKETS - first);
            let (left, right) = piece.split_at(n_before_end);
            let (left_flips, right_flips) = flips[start..end].split_at(n_before_end);
            add_signed(&mut sketch.buckets[first..], left, left_flips);
            add_signed(&mut sketch.buckets, right, right_flips);
            sketch.n_elements += piece.len() as u64;
            values = rest;
        }
    }
}

#[inline(always)]
fn add_signed(buckets: &mut [f64], values: &[f32], flips: &[u32]) {
    for ((bucket, value), flip) in buckets.iter_mut().zip(values).zip(flips) {
        *bucket += f64::from(f32::from_bits(value.to_bits() ^ flip));
    }
}

/// The random numbers of a chunk: `SplitMix64` (Steele, Lea & Flood 2014), which gives any number of
/// its stream at once.
#[derive(Clone, Copy)]
struct Draws(u64);

impl Draws {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    #[inline(always)]
    fn of_chunk(seed: u64, chunk: u64) -> Self {
        // Mixed, because streams of neighbouring seeds would be one stream a few numbers apart.
        let start = mix(seed.wrapping_add(Self::GAMMA));
        Self(start.wrapping_add(chunk.wrapping_mul(DRAWS as u64).wrapping_mul(Self::GAMMA)))
    }

    #[inline(always)]
    fn get(self, draw: usize) -> u64 {
        mix(self.0.wrapping_add((draw as u64 + 1).wrapping_mul(Self::GAMMA)))
    }
}

#[inline(always)]
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    const B: usize = Sketch::BUCKETS;

    fn sketch(seed: u64, values: &[f32]) -> Sketch {
        let mut sketch = Sketch::new(seed);
        sketch.add(values);
        sketch
    }

    fn gaussian(n: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..n).map(|_| StandardNormal.sample(&mut rng)).collect()
    }

    /// Relative rms error of the distance from zero over 200 seeds, and the published one.
    fn errors(values: &[f32]) -> (f64, f64) {
        let norm = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let mut square = 0.0;
        let mut published = 0.0;
        for seed in 0..200 {
            let mut zero = Sketch::new(seed);
            zero.n_elements = values.len() as u64;
            let (distance, stderr) = sketch(seed, values).distance(&zero).unwrap();
            square += (distance / norm - 1.0).powi(2) / 200.0;
            published += stderr / distance / 200.0;
        }
        (square.sqrt(), published)
    }

    /// A matrix of that many rows and columns.
    fn matrix(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        (0..rows * cols).map(|i| at(i / cols, i % cols)).collect()
    }

    #[test]
    fn published_errors_are_honest_for_spread_updates_of_any_structure() {
        let g = gaussian(64 * B);
        let tiled = |period: usize| matrix(64, B, |_, col| g[col % period]);
        let cases = [
            ("dense", g.clone()),
            ("rank 1", matrix(256, 512, |row, col| g[row] * g[1000 + col])),
            ("constant", vec![1.0; 64 * B]),
            ("constant blocks", matrix(256, 512, |row, col| g[row / 32 * 8 + col / 64])),
            ("odd width", matrix(180, 701, |_, col| g[col])),
            ("tiles of 2048", tiled(B)),
            ("tiles of 1024", tiled(B / 2)),
            ("tiles of 64", tiled(64)),
            ("alternating", tiled(2)),
            ("one column of 2048", matrix(64, B, |_, col| if col == 7 { 1.0 } else { 0.0 })),
            ("one column of 64", matrix(2048, 64, |_, col| if col == 7 { 1.0 } else { 0.0 })),
            (
                "Kronecker",
                matrix(256, 512, |row, col| {
                    g[row / 16 * 32 + col / 16] * g[9000 + row % 16 * 16 + col % 16]
                }),
            ),
            ("one row of 16384", matrix(8, 8 * B, |row, col| if row == 3 { g[col] } else { 0.0 })),
        ];
        for (name, values) in cases {
            let (error, published) = errors(&values);
            let ratio = error / published;
            assert!(error <= 0.02 && (0.8..=1.2).contains(&ratio), "{name}: {error} {published}");
        }
    }

    #[test]
    fn updates_in_one_chunk_are_exact_and_in_few_never_worse_than_published() {
        let g = gaussian(B);
        let exact = [
            ("one element", matrix(64, B, |row, col| f32::from(u8::from((row, col) == (9, 11))))),
            ("one row of 2048", matrix(64, B, |row, col| if row == 9 { g[col] } else { 0.0 })),
            ("a short matrix", g[..700].to_vec()),
            ("one chunk", g.clone()),
        ];
        for (name, values) in exact {
            assert!(errors(&values).0 < 1e-12, "{name}");
        }
        let (error, published) = errors(&matrix(64, B, |r, c| if r / 2 == 4 { g[c] } else { 0.0 }));
        assert!(error < 0.9 * published, "{error} {published}");
        assert!(errors(&g).1 == 0.0, "no more than one chunk, no error");
    }

    #[test]
    fn the_sketch_of_a_sum_is_the_sum_of_the_sketches() {
        // Small integers, so that every sum is exact.
        let (a, b) = (gaussian(5 * B + 3), gaussian(6 * B));
        let round = |x: &f32| (x * 100.0).round();
        let pairs = || a.iter().map(round).zip(b.iter().rev().map(round));
        let of = |values: Vec<f32>| sketch(5, &values);
        let sum = of(pairs().map(|(a, b)| a + b).collect());
        let parts = [of(pairs().map(|(a, _)| a).collect()), of(pairs().map(|(_, b)| b).collect())];
        let added: Vec<f64> =
            parts[0].buckets().iter().zip(parts[1].buckets()).map(|(a, b)| a + b).collect();
        assert_eq!(sum.buckets(), added);
        // So a distance is the norm of the difference.
        let apart = of(pairs().map(|(a, b)| a - b).collect());
        let zero = of(vec![0.0; a.len()]);
        assert_eq!(parts[0].distance(&parts[1]), apart.distance(&zero));
    }

    #[test]
    fn an_update_below_the_grain_of_the_norm_is_seen() {
        let mut values = gaussian(64 * B);
        let earlier = sketch(1, &values);
        assert_eq!(sketch(1, &values).distance(&earlier), Some((0.0, 0.0)));
        let moved = f64::from(values[7].next_up()) - f64::from(values[7]);
        values[7] = values[7].next_up();
        let (distance, _) = sketch(1, &values).distance(&earlier).unwrap();
        assert!((distance / moved - 1.0).abs() < 1e-4, "{distance} {moved}");
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        let values = gaussian(3 * B);
        let one = sketch(1, &values);
        assert_eq!(one.distance(&sketch(2, &values)), None, "another seed");
        assert_eq!(one.distance(&sketch(1, &values[1..])), None, "another length");
        assert_eq!(Sketch::new(1).distance(&Sketch::new(1)), None, "empty");
        for odd in [f32::NAN, f32::INFINITY] {
            let mut values = values.clone();
            values[2 * B + 5] = odd;
            let odd = sketch(1, &values);
            assert_eq!(odd.distance(&odd), None);
            assert_eq!(one.distance(&odd), None);
            assert_eq!(odd.distance(&one), None);
        }
        let far = Sketch::from_buckets(1, one.n_elements(), vec![1e300; B]).unwrap();
        assert_eq!(one.distance(&far), None);
    }

    #[test]
    fn a_kept_sketch_comes_back() {
        let one = sketch(3, &gaussian(B + 1));
        let kept = Sketch::from_buckets(one.seed(), one.n_elements(), one.buckets().to_vec());
        assert_eq!(kept.as_ref(), Some(&one));
        assert_eq!(Sketch::from_buckets(3, 1, vec![0.0; B - 1]), None);
    }

    #[test]
    fn kept_sketches_stay_comparable() {
        // A change of signs or rotations would make every kept sketch worthless in silence.
        let one = sketch(42, &(0..=4096_u16).map(f32::from).collect::<Vec<_>>());
        assert_eq!(one.buckets()[..3], [-1324.0, -5420.0, 1324.0]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            n in 0..4 * B,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            seed in any::<u64>(),
        ) {
            let values = gaussian(n);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(n + 1)).collect();
            cuts.extend([0, n]);
            cuts.sort_unstable();
            let mut pieces = Sketch::new(seed);
            for ends in cuts.windows(2) {
                pieces.add(&values[ends[0]..ends[1]]);
            }
            prop_assert_eq!(pieces, sketch(seed, &values));
        }
    }
}
