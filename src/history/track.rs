//! One value over the saves of a run, and how far out of the ordinary its last step was.

use std::collections::VecDeque;

use super::kind::Jump;

/// Increments that a new one is compared with, W.
pub(super) const WINDOW: usize = 8;

/// From the median absolute deviation to the standard deviation of a normal law.
pub(super) const NORMAL: f64 = 1.4826;

/// A deviation below this is rounding; z stays finite where nothing moved before.
const LEAST_DEVIATION: f64 = 1e-9;

/// A value and the increments before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Track {
    /// The last value and its step.
    last: Option<(u64, f64)>,
    /// Ordinary increments over √Δstep, oldest first.
    ordinary: VecDeque<f64>,
    /// The largest change so far, up or down.
    largest: f64,
    /// Outliers since the last ordinary one: when they fill a window, they are the new order.
    outliers: Vec<f64>,
}

/// A step of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) before: f64,
    pub(super) after: f64,
    /// `None` where fewer than [`WINDOW`] ordinary increments came before.
    pub(super) z: Option<f64>,
    /// The largest change before it, up or down.
    pub(super) largest: f64,
}

impl Step {
    pub(super) fn change(self) -> f64 {
        self.after - self.before
    }

    /// Whether the rule would call it unusual, up or down.
    pub(super) fn is_outlier(self, jump: Jump) -> bool {
        self.change().abs() >= jump.least && self.z.is_some_and(|z| z.abs() >= jump.z)
    }
}

impl Track {
    /// Takes the next value, at a later step than the last, and says how it moved. An outlier by
    /// `jump` is no measure for those that follow.
    pub(super) fn push(&mut self, step: u64, value: f64, jump: Jump) -> Option<Step> {
        let (last_step, before) = self.last.replace((step, value))?;
        let elapsed = step.saturating_sub(last_step).max(1);
        #[expect(clippy::cast_precision_loss, reason = "steps between saves stay below 2^52")]
        let scaled = (value - before) / (elapsed as f64).sqrt();
        let step = Step { before, after: value, z: self.z(scaled), largest: self.largest };
        self.largest = self.largest.max(step.change().abs());
        if step.is_outlier(jump) {
            self.outliers.push(scaled);
            if self.outliers.len() == WINDOW {
                self.ordinary = std::mem::take(&mut self.outliers).into();
            }
        } else {
            self.outliers.clear();
            self.ordinary.push_back(scaled);
            if self.ordinary.len() > WINDOW {
                self.ordinary.pop_front();
            }
        }
        Some(step)
    }

    /// (y − median)/(1.4826·MAD) over the window.
    fn z(&self, scaled: f64) -> Option<f64> {
        if self.ordinary.len() < WINDOW {
            return None;
        }
        let mut window: Vec<f64> = self.ordinary.iter().copied().collect();
        let center = median(&mut window)?;
        let mut deviations: Vec<f64> = window.iter().map(|y| (y - center).abs()).collect();
        let deviation = NORMAL * median(&mut deviations)?;
        Some((scaled - center) / deviation.max(LEAST_DEVIATION))
    }
}

/// Sorts; the mean of the middle two where they are even.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let is_odd = values.len() % 2 == 1;
    Some(if is_odd { upper } else { f64::midpoint(values[middle - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP: Jump = Jump { least: 1.0, z: 8.0 };

    /// Values at every hundredth step with these increments.
    fn track(increments: &[f64]) -> (Track, u64, f64) {
        let (mut track, mut step, mut value) = (Track::default(), 0, 0.0);
        assert_eq!(track.push(0, 0.0, JUMP), None);
        for increment in increments {
            step += 100;
            value += increment;
            track.push(step, value, JUMP).unwrap();
        }
        (track, step, value)
    }

    /// Median 0.45 and MAD 0.2 of these eight.
    const EIGHT: [f64; 8] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];

    #[test]
    fn z_by_hand() {
        let (mut known, step, value) = track(&EIGHT);
        let moved = known.clone().push(step + 100, value + 2.45, JUMP).unwrap();
        assert!((moved.z.unwrap() - 2.0 / (1.4826 * 0.2)).abs() < 1e-9);
        assert!((moved.change() - 2.45).abs() < 1e-9);
        // Four times as many steps make a step of twice the size ordinary.
        let later = known.push(step + 400, value + 0.9, JUMP).unwrap();
        assert!(later.z.unwrap().abs() < 1e-9, "{later:?}");
    }

    #[test]
    fn z_does_not_depend_on_units_of_value_or_step() {
        let z = |unit: f64, steps: u64| {
            let mut track = Track::default();
            let (mut z, mut value) = (None, 3.0 * unit);
            for (i, increment) in (0..).zip([0.0].iter().chain(&EIGHT).chain(&[0.95])) {
                value += unit * increment;
                z = track.push(i * steps, value, JUMP).and_then(|step| step.z);
            }
            z.unwrap()
        };
        for (unit, steps) in [(1e-3, 1), (20.0, 7), (1.0, 100_000)] {
            assert!((z(unit, steps) - z(1.0, 100)).abs() < 1e-6);
        }
    }

    #[test]
    fn without_a_window_there_is_no_z() {
        let (mut track, step, value) = track(&EIGHT[1..]);
        assert_eq!(track.push(step + 100, value + 9.0, JUMP).unwrap().z, None);
    }

    #[test]
    fn outliers_are_no_measure_until_they_are_the_order() {
        let (mut track, mut step, mut value) = track(&EIGHT);
        for i in 0..WINDOW {
            step += 100;
            value += 50.0;
            let moved = track.push(step, value, JUMP).unwrap();
            assert!(moved.is_outlier(JUMP), "the {i}th");
        }
        let moved = track.push(step + 100, value + 50.0, JUMP).unwrap();
        assert_eq!(moved.z, Some(0.0));
    }

    #[test]
    fn where_nothing_moved_any_move_is_far_but_not_infinite() {
        let (mut track, step, value) = track(&[0.0; 8]);
        let moved = track.push(step + 1, value + 1e-3, JUMP).unwrap();
        assert!(moved.z.is_some_and(|z| z > 1e5 && z.is_finite()));
        assert!(!moved.is_outlier(JUMP), "but small");
    }

    #[test]
    fn medians_by_hand() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(2.5));
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), Some(2.0));
    }
}
