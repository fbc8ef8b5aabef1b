use std::sync::atomic::{AtomicBool, Ordering};

/// Says a thing once: for what is worth a line and would be worth a million.
///
/// ```
/// static NO_OFFLOAD: telemetry::Once = telemetry::Once::new();
/// assert!(NO_OFFLOAD.is_first());
/// assert!(!NO_OFFLOAD.is_first());
/// ```
#[derive(Debug, Default)]
pub struct Once(AtomicBool);

impl Once {
    /// Nothing has been said.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// True for the first caller, on whatever thread, and false for all others.
    #[must_use]
    pub fn is_first(&self) -> bool {
        // The load keeps the cache line shared on paths that ask for every packet.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }

    /// Lets it be said once more, because the cause went away.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_threads_one_speaks() {
        let once = Once::new();

        let spoke = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| once.is_first())).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .filter(|spoke| *spoke)
                .count()
        });

        assert_eq!(spoke, 1);
    }

    #[test]
    fn after_a_reset_it_is_said_again() {
        let once = Once::new();
        assert!(once.is_first());

        once.reset();

        assert!(once.is_first());
        assert!(!once.is_first());
    }
}
