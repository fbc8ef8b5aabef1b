use std::time::Duration;

/// Delays that double up to a limit, with jitter, so that peers that lost the same server do not
/// come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    attempts: u32,
}

impl Backoff {
    /// Starts with about `first` and never exceeds `limit`.
    #[must_use]
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, attempts: 0 }
    }

    /// The next delay: somewhere in the upper half of `first * 2^attempts`, capped by the limit;
    /// `random` (uniform over all of `u32`) says where.
    pub fn next_delay(&mut self, random: u32) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.limit);
        self.attempts = self.attempts.saturating_add(1);
        let half = full / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// How many delays have been handed out since the start or the last [`reset`](Self::reset).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts over: the peer answered.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_until_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

        let delays: Vec<u64> = (0..6).map(|_| backoff.next_delay(u32::MAX).as_secs()).collect();

        assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        let mut low = Backoff::new(Duration::from_secs(4), Duration::from_secs(60));
        let mut middle = low.clone();

        assert_eq!(low.next_delay(0), Duration::from_secs(2));
        let middle = middle.next_delay(u32::MAX / 2);
        assert!((2999..=3000).contains(&middle.as_millis()), "{middle:?}");
    }

    #[test]
    fn a_hundred_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);

        for _ in 0..100 {
            assert!(backoff.next_delay(7) > Duration::ZERO);
        }
        assert_eq!(backoff.attempts(), 100);
    }

    #[test]
    fn an_answer_starts_it_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        backoff.next_delay(0);
        backoff.next_delay(0);

        backoff.reset();

        assert_eq!(backoff.next_delay(u32::MAX), Duration::from_secs(1));
    }
}
