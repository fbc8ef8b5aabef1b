//! What a stream still has to say when the kernel takes no more.

use std::collections::VecDeque;

use crate::framing::Framing;

/// Messages of one stream that wait for room, whole but for the first, which may have begun.
///
/// A message that was begun is always kept, or nothing behind it could be understood; of the others
/// only as many as the caller's limit has room for.
#[derive(Debug, Default)]
pub struct Backlog(VecDeque<u8>);

impl Backlog {
    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first bytes of what waits, as many as are in one piece.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        self.0.as_slices().0
    }

    /// So many of the first bytes wait no longer.
    pub fn sent(&mut self, len: usize) {
        self.0.drain(..len.min(self.0.len()));
    }

    /// Keeps what the kernel did not take of `messages`, of which it took the first `taken` bytes,
    /// as long as no more than `limit` bytes wait. Returns how many messages are lost.
    pub fn keep(&mut self, framing: Framing, messages: &[u8], taken: usize, limit: usize) -> usize {
        let (mut at, mut lost) = (0, 0);
        while let Some(rest) = messages.get(at..).filter(|rest| !rest.is_empty()) {
            // What we framed ourselves is well framed; anything else is kept as one.
            let len = framing.first_len(rest).ok().flatten().unwrap_or(rest.len()).min(rest.len());
            let end = at + len;
            let is_begun = at < taken;
            if let Some(left) = messages.get(at.max(taken)..end).filter(|left| !left.is_empty()) {
                if is_begun || self.0.len() + left.len() <= limit {
                    self.0.extend(left);
                } else {
                    lost += 1;
                }
            }
            at = end;
        }
        lost
    }

    /// The empty buffer, for whoever needs one next.
    #[must_use]
    pub fn into_buffer(mut self) -> VecDeque<u8> {
        self.0.clear();
        self.0
    }

    /// Uses a buffer that somebody else has emptied.
    #[must_use]
    pub fn with_buffer(buffer: VecDeque<u8>) -> Self {
        Self(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::framed;

    const FRAMING: Framing = Framing::Length16 { limit: 100 };

    fn three() -> Vec<u8> {
        [1, 2, 3].iter().flat_map(|n| framed(FRAMING, &[*n; 10])).collect()
    }

    #[test]
    fn the_message_that_was_begun_is_completed_and_whole_ones_follow() {
        for taken in 0..36 {
            let mut backlog = Backlog::default();

            assert_eq!(backlog.keep(FRAMING, &three(), taken, 1000), 0);

            assert_eq!(backlog.into_iter().collect::<Vec<_>>(), three()[taken..]);
        }
    }

    #[test]
    fn what_finds_no_room_is_lost_whole_and_counted() {
        let mut backlog = Backlog::default();

        let lost = backlog.keep(FRAMING, &three(), 5, 19);

        assert_eq!((lost, backlog.len()), (1, 7 + 12));
        assert_eq!(backlog.keep(FRAMING, &three(), 0, 19), 3);
        assert_eq!(backlog.into_iter().collect::<Vec<_>>(), three()[5..24]);
    }

    #[test]
    fn a_begun_message_is_kept_even_where_there_is_no_room() {
        let mut backlog = Backlog::default();

        assert_eq!(backlog.keep(FRAMING, &three(), 13, 0), 1);

        assert_eq!(backlog.into_iter().collect::<Vec<_>>(), three()[13..24]);
    }

    #[test]
    fn what_was_sent_waits_no_longer() {
        let mut backlog = Backlog::default();
        backlog.keep(FRAMING, &three(), 0, 1000);

        backlog.sent(30);
        assert_eq!(backlog.front(), &three()[30..]);
        backlog.sent(1000);

        assert!(backlog.is_empty());
    }

    impl IntoIterator for Backlog {
        type Item = u8;
        type IntoIter = std::collections::vec_deque::IntoIter<u8>;

        fn into_iter(self) -> Self::IntoIter {
            self.0.into_iter()
        }
    }
}
