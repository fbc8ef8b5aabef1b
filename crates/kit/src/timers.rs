use std::time::Instant;

/// What names an engine's deadlines: an enum with one variant for each.
pub trait TimerKey: Copy + Eq {
    /// Whose deadline it is, for `Output::Wait` and for whoever debugs a busy loop.
    fn label(self) -> &'static str;
}

/// An engine's deadlines, one for each key.
///
/// Engines have a handful of timers, so this is a list: smaller and faster than a heap, and
/// re-arming replaces instead of leaving a stale entry behind.
#[derive(Clone, Debug)]
pub struct TimerTable<K> {
    armed: Vec<(K, Instant)>,
}

impl<K: TimerKey> TimerTable<K> {
    /// A table in which nothing is armed.
    #[must_use]
    pub const fn new() -> Self {
        Self { armed: Vec::new() }
    }

    /// Arms `key` for `at`, replacing the deadline it had.
    pub fn arm(&mut self, key: K, at: Instant) {
        match self.armed.iter_mut().find(|(armed, _)| *armed == key) {
            Some((_, deadline)) => *deadline = at,
            None => self.armed.push((key, at)),
        }
    }

    /// Disarms `key`.
    pub fn disarm(&mut self, key: K) {
        self.armed.retain(|(armed, _)| *armed != key);
    }

    /// Disarms everything.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// The deadline of `key`, if it is armed.
    #[must_use]
    pub fn deadline(&self, key: K) -> Option<Instant> {
        self.armed.iter().find(|(armed, _)| *armed == key).map(|(_, at)| *at)
    }

    /// The next deadline and its label, as `Output::Wait` wants them; `None` if nothing is armed.
    #[must_use]
    pub fn next(&self) -> Option<(Instant, &'static str)> {
        self.armed.iter().min_by_key(|(_, at)| *at).map(|(key, at)| (*at, key.label()))
    }

    /// Disarms and returns the key that has been due longest at `now`; call until `None`.
    ///
    /// A key that is re-armed for `now` inside that loop comes out again: re-arm for later.
    pub fn expired(&mut self, now: Instant) -> Option<K> {
        let (index, _) = self
            .armed
            .iter()
            .enumerate()
            .filter(|(_, (_, at))| *at <= now)
            .min_by_key(|(_, (_, at))| *at)?;
        Some(self.armed.remove(index).0)
    }
}

impl<K: TimerKey> Default for TimerTable<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum Key {
        Retransmit,
        KeepAlive,
    }

    impl TimerKey for Key {
        fn label(self) -> &'static str {
            match self {
                Self::Retransmit => "retransmit",
                Self::KeepAlive => "keep alive",
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_earliest_deadline_is_next() {
        let start = start();
        let mut timers = TimerTable::new();
        assert_eq!(timers.next(), None);

        timers.arm(Key::KeepAlive, start + Duration::from_secs(10));
        timers.arm(Key::Retransmit, start + Duration::from_secs(1));

        assert_eq!(timers.next(), Some((start + Duration::from_secs(1), "retransmit")));
    }

    #[test]
    fn arming_again_replaces_the_deadline() {
        let start = start();
        let mut timers = TimerTable::new();
        timers.arm(Key::Retransmit, start);

        timers.arm(Key::Retransmit, start + Duration::from_secs(5));

        assert_eq!(timers.expired(start + Duration::from_secs(4)), None);
        assert_eq!(timers.expired(start + Duration::from_secs(5)), Some(Key::Retransmit));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn what_has_been_due_longest_expires_first() {
        let start = start();
        let mut timers = TimerTable::new();
        timers.arm(Key::KeepAlive, start + Duration::from_secs(2));
        timers.arm(Key::Retransmit, start + Duration::from_secs(1));
        let late = start + Duration::from_secs(60);

        let order = [timers.expired(late), timers.expired(late), timers.expired(late)];

        assert_eq!(order, [Some(Key::Retransmit), Some(Key::KeepAlive), None]);
    }

    #[test]
    fn a_disarmed_timer_never_expires() {
        let start = start();
        let mut timers = TimerTable::new();
        timers.arm(Key::Retransmit, start);

        timers.disarm(Key::Retransmit);

        assert_eq!(timers.deadline(Key::Retransmit), None);
        assert_eq!(timers.expired(start + Duration::from_secs(1)), None);
    }
}
