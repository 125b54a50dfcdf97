//! A bound on requests in a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::RateLimit;

/// As many places as requests that may come at once; one becomes free in every interval.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    /// When all places will be free.
    empty_at: Mutex<Instant>,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, empty_at: Mutex::new(now) }
    }

    /// Takes a place, or says in how long there will be one.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let RateLimit { interval, burst } = self.limit;
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        let then = now.max(*empty_at) + interval;
        let wait = then.duration_since(now).saturating_sub(interval.saturating_mul(burst));
        if wait.is_zero() {
            *empty_at = then;
            return Ok(());
        }
        Err(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_in_every_interval() {
        let start = Instant::now();
        let limit = RateLimit { interval: Duration::from_secs(1), burst: 3 };
        let bucket = Bucket::new(limit, start);
        let at = |ms| bucket.take(start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Duration::from_secs(1)));
        assert_eq!(at(900), Err(Duration::from_millis(100)));
        assert_eq!((at(1000), at(1000)), (Ok(()), Err(Duration::from_secs(1))));
        // What was refused costs nothing, and what was not used adds up to the burst alone.
        assert_eq!([at(60_000), at(60_000), at(60_000)], [Ok(()); 3]);
        assert!(at(60_000).is_err());
    }
}
