use std::sync::atomic::{AtomicU64, Ordering};

/// Sequence numbers per block; the other half of the word is the block's number.
const BLOCK_LEN: u64 = 32;

/// Remembers which sequence numbers have arrived, for any number of threads at once, without a
/// lock (RFC 6479 solves the same problem for one thread).
///
/// The window is a ring of `BLOCKS` words. Each word covers 32 consecutive sequence numbers and
/// holds the number of its block beside their bitmap, so that claiming a slot for a newer block
/// and marking a number in it are one compare-and-swap. The block number of a slot only grows,
/// hence no sequence number is ever accepted twice, however the threads interleave.
///
/// A number at most `(BLOCKS - 1) * 32` behind the newest one that arrived can always be told
/// apart. An older one is accepted if its slot has not been claimed by a newer block, which is
/// still at most once.
///
/// Sequence numbers start at 1: 0 is never valid. The largest valid one is
/// [`MAX`](Self::MAX), which leaves room for every 32-bit packet id and for 2^37 packets of a
/// 64-bit counter.
#[derive(Debug)]
pub struct ReplayWindow<const BLOCKS: usize> {
    ring: [AtomicU64; BLOCKS],
}

impl<const BLOCKS: usize> ReplayWindow<BLOCKS> {
    /// The largest sequence number whose block number fits a word's upper half.
    pub const MAX: u64 = (1 << 37) - 1;

    const AT_LEAST_TWO_BLOCKS: () =
        assert!(BLOCKS >= 2, "a window of one block forgets its newest neighbour");

    /// A window in which nothing has arrived.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::AT_LEAST_TWO_BLOCKS;
        Self { ring: [const { AtomicU64::new(0) }; BLOCKS] }
    }

    /// Whether `seq` could still be accepted; marks nothing.
    ///
    /// The cheap test before the integrity check. Only [`update`](Self::update), after it, decides.
    #[must_use]
    pub fn check(&self, seq: u64) -> bool {
        Place::of(seq, BLOCKS).is_some_and(|place| {
            // Relaxed is enough everywhere here: a slot guards nothing but itself.
            place.marked(self.ring[place.slot].load(Ordering::Relaxed)).is_some()
        })
    }

    /// Marks `seq` as arrived; false if it is a replay, too old to tell, or out of range.
    ///
    /// Call only for an authenticated packet: it moves the window.
    #[must_use]
    pub fn update(&self, seq: u64) -> bool {
        Place::of(seq, BLOCKS).is_some_and(|place| {
            self.ring[place.slot]
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| place.marked(word))
                .is_ok()
        })
    }
}

impl<const BLOCKS: usize> Default for ReplayWindow<BLOCKS> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a sequence number lives in the ring.
struct Place {
    slot: usize,
    block: u64,
    bit: u64,
}

impl Place {
    fn of(seq: u64, blocks: usize) -> Option<Self> {
        let block = seq / BLOCK_LEN;
        if seq == 0 || block > u64::from(u32::MAX) {
            return None;
        }
        // The remainder is below `blocks`, which is a `usize`.
        let slot = (block % blocks as u64) as usize;
        Some(Self { slot, block, bit: 1 << (seq % BLOCK_LEN) })
    }

    /// `word` with this place marked in it; `None` if it is marked already or too old.
    fn marked(&self, word: u64) -> Option<u64> {
        let holder = word >> BLOCK_LEN;
        if holder > self.block || (holder == self.block && word & self.bit != 0) {
            return None;
        }
        let bitmap = if holder == self.block { word & u64::from(u32::MAX) } else { 0 };
        Some(self.block << BLOCK_LEN | bitmap | self.bit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_number_is_accepted_once() {
        let window = ReplayWindow::<4>::new();

        assert!(window.check(1));
        assert!(window.update(1));

        assert!(!window.check(1));
        assert!(!window.update(1));
        assert!(window.update(2));
    }

    #[test]
    fn zero_and_what_does_not_fit_are_refused() {
        let window = ReplayWindow::<4>::new();

        assert!(!window.check(0) && !window.update(0));
        assert!(!window.update(ReplayWindow::<4>::MAX + 1));
        assert!(!window.update(u64::MAX));
        assert!(window.update(ReplayWindow::<4>::MAX));
        assert!(!window.update(ReplayWindow::<4>::MAX));
    }

    #[test]
    fn checking_marks_nothing() {
        let window = ReplayWindow::<4>::new();

        assert!(window.check(1_000_000));

        assert!(window.update(1), "a forged number moved the window");
    }

    #[test]
    fn a_late_number_inside_the_window_is_accepted_and_one_outside_is_not() {
        let window = ReplayWindow::<4>::new();
        let newest = 32 * 100;
        for seq in newest..newest + 32 * 4 {
            assert!(window.update(seq));
        }

        for old in [newest - 1, newest - 32 * 4, 1] {
            assert!(!window.check(old) && !window.update(old), "accepted {old}");
        }

        let sparse = ReplayWindow::<4>::new();
        assert!(sparse.update(newest));
        assert!(sparse.update(newest - 3 * 32), "the far edge of the window");
        assert!(!sparse.update(newest - 4 * 32), "its slot belongs to the newest block");
    }

    #[test]
    fn every_block_boundary_is_its_own() {
        let window = ReplayWindow::<2>::new();

        for seq in 1..1000 {
            assert!(window.update(seq), "refused {seq}");
            assert!(!window.update(seq), "accepted {seq} twice");
        }
    }

    #[test]
    fn it_agrees_with_a_set_that_forgets_nothing() {
        const BLOCKS: u64 = 8;
        for seed in 1..50_u64 {
            let window = ReplayWindow::<{ BLOCKS as usize }>::new();
            let mut seen = BTreeSet::new();
            let mut state = seed;
            for step in 0..4000_u64 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let seq = (step + 1).saturating_sub(state % 400);

                let could = window.check(seq);
                let accepted = window.update(seq);

                let newest = seen.last().copied().unwrap_or(0);
                let inside = seq / 32 + BLOCKS > newest / 32;
                assert_eq!(could, accepted, "check and update differ at {seq}");
                assert!(!(accepted && (seq == 0 || seen.contains(&seq))), "accepted {seq} twice");
                if inside && seq != 0 {
                    assert_eq!(accepted, !seen.contains(&seq), "seed {seed}: wrong about {seq}");
                }
                if accepted {
                    seen.insert(seq);
                }
            }
        }
    }

    #[test]
    fn threads_that_race_for_the_same_numbers_share_them_out() {
        const LAST: usize = 20_000;
        let window = ReplayWindow::<1024>::new();
        let accepted: Vec<AtomicU32> = (0..=LAST).map(|_| AtomicU32::new(0)).collect();

        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (window, accepted) = (&window, &accepted);
                scope.spawn(move || {
                    // Neighbours swap places, differently in each thread.
                    for step in 0..LAST {
                        let seq = (step ^ (thread * 5)).min(LAST - 1) + 1;
                        if window.update(seq as u64) {
                            accepted[seq].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });

        let counts: Vec<u32> = accepted.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|n| *n <= 1), "a number was accepted twice");
        assert_eq!(counts.iter().sum::<u32>() as usize, LAST, "a number was lost");
    }

    #[test]
    fn threads_that_race_across_a_tiny_window_never_accept_twice() {
        let window = ReplayWindow::<2>::new();
        let accepted: Vec<AtomicU32> = (0..50_000).map(|_| AtomicU32::new(0)).collect();

        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (seq, count) in accepted.iter().enumerate() {
                        if window.update(seq as u64) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });

        assert!(accepted.iter().all(|n| n.load(Ordering::Relaxed) <= 1));
    }
}
