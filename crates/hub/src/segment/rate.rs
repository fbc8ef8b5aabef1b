use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SECOND: u64 = 1_000_000_000;

/// How often something may happen: so many at once, and so many a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Nanoseconds that each one takes.
    each: u64,
    burst: u64,
}

impl Limit {
    pub(super) const fn new(per_second: u64, burst: u64) -> Self {
        Self { each: SECOND / per_second, burst }
    }

    /// How long a whole burst takes to be earned: no clock may start earlier than this.
    pub(super) const fn earned_after(self) -> u64 {
        self.each * self.burst
    }
}

/// A token bucket that threads share without a lock: the moment up to which all is spent.
#[derive(Debug, Default)]
pub(super) struct Rate(AtomicU64);

impl Rate {
    /// Takes `amount`, or all of a burst if that is less; false, and nothing taken, if so much is
    /// not there.
    pub(super) fn take(&self, now: u64, limit: Limit, amount: u64) -> bool {
        let cost = limit.each * amount.min(limit.burst);
        let earliest = now.saturating_sub(limit.earned_after());
        let spend = |until: u64| Some(until.max(earliest) + cost).filter(|until| *until <= now);
        self.0.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }

    pub(super) fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit::new(10, 5);
    const START: u64 = 100 * SECOND;

    #[test]
    fn a_burst_passes_and_the_next_one_waits() {
        let rate = Rate::default();

        assert_eq!((0..9).filter(|_| rate.take(START, LIMIT, 1)).count(), 5);

        assert!(!rate.take(START + SECOND / 10 - 1, LIMIT, 1));
        assert!(rate.take(START + SECOND / 10, LIMIT, 1));
    }

    #[test]
    fn no_more_than_the_burst_is_saved_up() {
        let rate = Rate::default();
        assert!(rate.take(START, LIMIT, 1));

        let later = START + 1000 * SECOND;
        assert_eq!((0..9).filter(|_| rate.take(later, LIMIT, 1)).count(), 5);
    }

    #[test]
    fn more_than_a_burst_counts_as_a_burst() {
        let rate = Rate::default();

        assert!(rate.take(START, LIMIT, 5000));
        assert!(!rate.take(START + SECOND / 2 - 1, LIMIT, 5000));
        assert!(rate.take(START + SECOND / 2, LIMIT, 5000));
    }
}
