use std::time::{Duration, Instant};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A rate limit: tokens trickle in at a fixed rate and up to `burst` of them wait to be spent.
///
/// What a token is (a packet, a byte, an attempt) is the caller's business; so is the clock.
/// Arithmetic is exact: no rate is lost to rounding, however often it is asked.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: u64,
    burst: u64,
    tokens: u64,
    /// Up to when tokens have been credited; never later than the last call's `now`.
    credited: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self { per_second, burst, tokens: burst, credited: now }
    }

    /// Spends `amount` tokens if there are that many; false, and nothing spent, if not.
    #[must_use]
    pub fn take(&mut self, now: Instant, amount: u64) -> bool {
        self.credit(now);
        match self.tokens.checked_sub(amount) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }

    /// How many tokens are there at `now`.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.credit(now);
        self.tokens
    }

    fn credit(&mut self, now: Instant) {
        let rate = u128::from(self.per_second);
        let elapsed = now.saturating_duration_since(self.credited);
        let earned = elapsed.as_nanos() * rate / NANOS_PER_SECOND;
        let room = self.burst - self.tokens;
        if earned >= u128::from(room) {
            self.tokens = self.burst;
            self.credited = now.max(self.credited);
            return;
        }
        // Below `room`, hence a `u64`; and `rate` is not 0, or `elapsed` would not matter.
        self.tokens += earned as u64;
        if let Some(spent) = (earned * NANOS_PER_SECOND).checked_div(rate) {
            // Rounding down leaves the fraction of a token in the clock.
            self.credited += Duration::from_nanos(u64::try_from(spent).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_passes_and_the_next_one_waits() {
        let now = start();
        let mut bucket = TokenBucket::new(10, 5, now);

        assert_eq!((0..9).filter(|_| bucket.take(now, 1)).count(), 5);

        assert!(!bucket.take(now + Duration::from_millis(99), 1));
        assert!(bucket.take(now + Duration::from_millis(100), 1));
    }

    #[test]
    fn no_more_than_the_burst_is_saved_up() {
        let now = start();
        let mut bucket = TokenBucket::new(1_000, 5, now);

        assert_eq!(bucket.available(now + Duration::from_secs(86_400)), 5);
    }

    #[test]
    fn asking_often_costs_no_rate() {
        let now = start();
        let mut bucket = TokenBucket::new(3, 1, now);
        assert!(bucket.take(now, 1));

        let passed =
            (1..=10_000).filter(|ms| bucket.take(now + Duration::from_millis(*ms), 1)).count();

        // A token that ripens between two questions waits up to one of them: 333.3 ms becomes 334.
        assert!((29..=30).contains(&passed), "{passed} in ten seconds");
    }

    #[test]
    fn more_than_the_burst_never_passes() {
        let now = start();
        let mut bucket = TokenBucket::new(10, 5, now);

        assert!(!bucket.take(now + Duration::from_secs(60), 6));
        assert!(bucket.take(now + Duration::from_secs(60), 5));
    }

    #[test]
    fn a_rate_of_nothing_gives_the_burst_and_no_more() {
        let now = start();
        let mut bucket = TokenBucket::new(0, 1, now);

        assert!(bucket.take(now, 1));
        assert!(!bucket.take(now + Duration::from_secs(1_000_000), 1));
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing() {
        let now = start() + Duration::from_secs(10);
        let mut bucket = TokenBucket::new(1, 1, now);
        assert!(bucket.take(now, 1));

        assert!(!bucket.take(now - Duration::from_secs(5), 1));
        assert!(!bucket.take(now, 1));
    }
}
