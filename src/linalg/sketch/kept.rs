//! A sketch that waits for the next save.

use super::Sketch;

/// A [`Sketch`] in no more memory than its elements need: of a small matrix most of the sums are 0,
/// and a mixture of experts can have a hundred thousand of them.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSketch {
    seed: u64,
    n_elements: u64,
    sums: Sums,
}

#[derive(Debug, Clone, PartialEq)]
enum Sums {
    All(Vec<f64>),
    /// Those that are not 0, by their place.
    Few(Box<[(u16, f64)]>),
}

impl From<Sketch> for KeptSketch {
    fn from(sketch: Sketch) -> Self {
        let Sketch { seed, n_elements, buckets } = sketch;
        // A sum of -0 has another bit pattern than what was never added to; it is kept as it is.
        let is_used = |sum: &f64| sum.to_bits() != 0;
        let n_used = buckets.iter().filter(|sum| is_used(sum)).count();
        let sums = if n_used > Sketch::BUCKETS / 4 {
            Sums::All(buckets)
        } else {
            let used = (0_u16..).zip(&buckets).filter(|(_, sum)| is_used(sum));
            Sums::Few(used.map(|(at, sum)| (at, *sum)).collect())
        };
        Self { seed, n_elements, sums }
    }
}

impl KeptSketch {
    /// The sketch as it was, to the bit.
    #[must_use]
    pub fn whole(&self) -> Sketch {
        let Self { seed, n_elements, .. } = *self;
        let buckets = match &self.sums {
            Sums::All(sums) => sums.clone(),
            Sums::Few(sums) => {
                let mut buckets = vec![0.0; Sketch::BUCKETS];
                for (at, sum) in sums {
                    buckets[usize::from(*at)] = *sum;
                }
                buckets
            }
        };
        Sketch { seed, n_elements, buckets }
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

    /// Bytes of memory that its sums take.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        match &self.sums {
            Sums::All(sums) => size_of_val(sums.as_slice()),
            Sums::Few(sums) => size_of_val(&**sums),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_the_sketch_in_as_little_memory_as_it_needs() {
        for (n, most) in [(0, 0), (4, 64), (500, 8000), (3000, 8 * Sketch::BUCKETS)] {
            let mut sketch = Sketch::new(7);
            let values: Vec<f32> = (1_u16..=n).map(|i| 1.0 / f32::from(i)).collect();
            sketch.add(&values);
            let kept = KeptSketch::from(sketch.clone());
            assert_eq!(kept.whole(), sketch, "{n}");
            assert!(kept.n_bytes() <= most, "{n}: {}", kept.n_bytes());
            assert_eq!((kept.seed(), kept.n_elements()), (7, u64::from(n)));
        }
    }
}
