use std::collections::{HashSet, VecDeque};

/// The last so many hashes that came by: recognises a first packet that is sent again.
///
/// Memory is taken once and never grows. When full, the oldest hash is forgotten, so a replay is
/// recognised only as long as fewer than `capacity` others came in between: a first line of
/// defence beside timestamps, not the only one.
#[derive(Debug)]
pub struct SeenFilter {
    hashes: HashSet<u64>,
    order: VecDeque<u64>,
    capacity: usize,
}

impl SeenFilter {
    /// Remembers the last `capacity` hashes, at about 26 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            hashes: HashSet::with_capacity(capacity),
            order: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    /// Whether `hash` is remembered; remembers nothing.
    #[must_use]
    pub fn contains(&self, hash: u64) -> bool {
        self.hashes.contains(&hash)
    }

    /// Remembers `hash`; false if it was remembered already.
    ///
    /// Use a keyed hash if strangers choose the bytes: whoever can make two packets collide can
    /// have the second one refused.
    pub fn insert(&mut self, hash: u64) -> bool {
        if self.capacity == 0 {
            return true;
        }
        if self.contains(hash) {
            return false;
        }
        if self.order.len() >= self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
        self.order.push_back(hash);
        self.hashes.insert(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_is_recognised() {
        let mut seen = SeenFilter::new(8);

        assert!(seen.insert(42));

        assert!(seen.contains(42));
        assert!(!seen.insert(42));
        assert!(seen.insert(43));
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_memory_stays_flat() {
        let mut seen = SeenFilter::new(3);
        let memory = (seen.hashes.capacity(), seen.order.capacity());

        for hash in 0..100_000 {
            assert!(seen.insert(hash));
        }

        assert!([99_997, 99_998, 99_999].into_iter().all(|hash| seen.contains(hash)));
        assert!(!seen.contains(99_996));
        assert_eq!((seen.hashes.capacity(), seen.order.capacity()), memory);
    }

    #[test]
    fn a_filter_without_room_recognises_nothing() {
        let mut seen = SeenFilter::new(0);

        assert!(seen.insert(1));
        assert!(seen.insert(1));
    }
}
