//! How fast a demo trains: slowly while the layers turn towards each other, then faster.

use std::time::Duration;

const YEAR: Duration = Duration::from_hours(8760);

/// A schedule of steps over time: the number due grows as the square of the time, and from the
/// mark on at the speed then reached.
///
/// Most of the turning happens in the first hundred steps and the rest of the alignment takes
/// thousands; saves at equal times would show only the latter under an even speed. The training
/// itself is not touched: learning rate and batches stay the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    mark: Duration,
    steps_by_mark: u32,
}

impl Pace {
    /// Reaches `steps_by_mark` after `mark`.
    ///
    /// # Panics
    /// When `mark` is shorter than a microsecond or longer than a year.
    #[must_use]
    pub fn new(mark: Duration, steps_by_mark: u32) -> Self {
        // Within these bounds the squares of `steps_due` stay far inside 128 bits.
        assert!(mark >= Duration::from_micros(1) && mark <= YEAR, "the mark is within a year");
        Self { mark, steps_by_mark }
    }

    /// Steps that should have been taken `elapsed` after the start. They are due, not promised: a
    /// slow machine lags behind.
    #[must_use]
    pub fn steps_due(self, elapsed: Duration) -> u64 {
        let (elapsed_us, mark_us) = (elapsed.as_micros(), self.mark.as_micros());
        let steps_by_mark = u128::from(self.steps_by_mark);
        let steps = if elapsed_us < mark_us {
            steps_by_mark * elapsed_us * elapsed_us / (mark_us * mark_us)
        } else {
            steps_by_mark * (2 * elapsed_us - mark_us) / mark_us
        };
        u64::try_from(steps).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_start_slowly_and_then_keep_their_speed() {
        let pace = Pace::new(Duration::from_mins(1), 6000);
        let due = |seconds| pace.steps_due(Duration::from_secs(seconds));
        assert_eq!([0, 2, 6, 30, 60].map(due), [0, 6, 60, 1500, 6000]);
        assert_eq!(due(61) - due(60), 200);
        assert_eq!(due(3601) - due(3600), 200);
    }

    proptest! {
        #[test]
        fn steps_never_fall_back(early_ms in 0_u64..1 << 32, later_ms in 0_u64..1 << 32, mark_ms in 1_u64..1 << 20) {
            let pace = Pace::new(Duration::from_millis(mark_ms), 6000);
            let early = pace.steps_due(Duration::from_millis(early_ms));
            let later = pace.steps_due(Duration::from_millis(early_ms + later_ms));
            prop_assert!(early <= later);
        }
    }
}
