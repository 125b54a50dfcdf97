//! The rate at which checkpoints are read. Pure: the time is an argument.

use std::time::Duration;

/// Longest wait that is asked for at once.
const LONGEST: Duration = Duration::from_millis(1999);

/// Seconds of reading that may be saved up.
const BURST: f64 = 1.0;

/// A bucket of bytes that fills at a rate, up to one second's worth. It may be overdrawn, since a
/// stretch of a file is read before it is told; then it asks for waits until it has recovered.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    rate: f64,
    level: f64,
    seen: Duration,
}

impl Pace {
    /// A full bucket.
    #[expect(clippy::cast_precision_loss, reason = "a rate is no more precise")]
    pub(super) fn new(bytes_per_second: u64, now: Duration) -> Self {
        let rate = bytes_per_second.max(1) as f64;
        Self { rate, level: rate * BURST, seen: now }
    }

    /// So many bytes were read.
    #[expect(clippy::cast_precision_loss, reason = "the error of a petabyte is a byte")]
    pub(super) fn took(&mut self, bytes: u64, now: Duration) {
        self.fill(now);
        self.level -= bytes as f64;
    }

    /// How long to sleep before it is asked again, less than two seconds; zero when reading may go
    /// on.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        if self.level >= 0.0 {
            return Duration::ZERO;
        }
        let seconds = -self.level / self.rate;
        // At least a nanosecond, so that rounding does not read as leave to go on.
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST);
        wait.clamp(Duration::from_nanos(1), LONGEST)
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.seen).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.rate * BURST);
        self.seen = self.seen.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_second_is_free_and_the_rest_is_waited_for() {
        let mut pace = Pace::new(10 * MIB, ms(5000));
        pace.took(10 * MIB, ms(5000));
        assert_eq!(pace.wait(ms(5000)), Duration::ZERO);
        pace.took(5 * MIB, ms(5000));
        assert_eq!(pace.wait(ms(5000)), ms(500));
        assert_eq!(pace.wait(ms(5200)), ms(300));
        assert_eq!(pace.wait(ms(5500)), Duration::ZERO);
        // However long nothing was read, no more than a second is saved up.
        pace.took(11 * MIB, ms(900_000));
        assert_eq!(pace.wait(ms(900_000)), ms(100));
        // A clock that stands still or goes back gives nothing.
        assert_eq!(pace.wait(ms(1)), ms(100));
    }

    #[test]
    fn a_debt_of_minutes_is_waited_for_in_pieces() {
        let mut pace = Pace::new(MIB, ms(0));
        pace.took(64 * MIB, ms(0));
        let (mut now, mut n) = (ms(0), 0);
        loop {
            let wait = pace.wait(now);
            if wait.is_zero() {
                break;
            }
            assert!(wait < Duration::from_secs(2), "{wait:?}");
            (now, n) = (now + wait, n + 1);
        }
        assert!((62_999..63_010).contains(&now.as_millis()), "{now:?} in {n} waits");
    }

    proptest! {
        #[test]
        fn the_rate_holds_over_any_pieces(
            rate in 1_u32..,
            pieces in prop::collection::vec((0_u32..1 << 26, 0_u64..3000), 1..50),
        ) {
            let mut pace = Pace::new(rate.into(), ms(0));
            let (mut now, mut sum) = (ms(0), 0.0);
            for (bytes, pause) in pieces {
                now += ms(pause);
                pace.took(bytes.into(), now);
                sum += f64::from(bytes);
                for _ in 0..1000 {
                    now += pace.wait(now);
                }
                if pace.wait(now).is_zero() {
                    let most = f64::from(rate) * (now.as_secs_f64() + BURST);
                    prop_assert!(sum <= most * (1.0 + 1e-6) + 1.0, "{sum} of {most}");
                }
            }
        }
    }
}
