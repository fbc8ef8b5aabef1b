use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use contract::PortId;

/// How many are remembered.
const ROOM: usize = 1024;
/// One unit of time here is 2^26 nanoseconds, about 67 milliseconds.
const UNIT: u32 = 26;
/// For how many units something counts as recent: two seconds, longer than any circle through two
/// tunnels takes.
const WINDOW: u16 = 30;

/// What was copied to everybody lately, and where it came from.
///
/// Each place holds half of the hash, the port and the time; a newer entry takes the place of the
/// one before.
#[derive(Debug)]
pub(super) struct Recent(Box<[AtomicU64]>);

impl Default for Recent {
    fn default() -> Self {
        Self((0..ROOM).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Recent {
    /// Whether the content with this hash came in at another port just now. If not, it is
    /// remembered as this port's: an application may say the same thing twice.
    pub(super) fn is_echo(&self, hash: u64, from: PortId, now: u64) -> bool {
        let time = (now >> UNIT) as u16;
        let port = from.0 as u16;
        let entry = hash & 0xffff_ffff_0000_0000 | u64::from(port) << 16 | u64::from(time);
        let place = &self.0[hash as usize % ROOM];
        let remember = |old: u64| {
            let is_same = old >> 32 == entry >> 32 && (old >> 16) as u16 != port;
            let is_recent = time.wrapping_sub(old as u16) <= WINDOW;
            (!(is_same && is_recent)).then_some(entry)
        };
        place.fetch_update(Relaxed, Relaxed, remember).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_comes_back_elsewhere_is_an_echo_until_it_is_old() {
        let recent = Recent::default();
        let (hash, now) = (0xdead_beef_0000_0001, 5 * SECOND);

        assert!(!recent.is_echo(hash, PortId(1), now));
        assert!(recent.is_echo(hash, PortId(2), now + SECOND));
        assert!(!recent.is_echo(hash, PortId(1), now + SECOND), "a repetition is no echo");
        assert!(recent.is_echo(hash, PortId(2), now + 2 * SECOND));
        assert!(!recent.is_echo(hash, PortId(2), now + 4 * SECOND));
    }

    #[test]
    fn other_content_is_no_echo() {
        let recent = Recent::default();

        assert!(!recent.is_echo(0xdead_beef_0000_0001, PortId(1), SECOND));
        assert!(!recent.is_echo(0xdead_bee0_0000_0001, PortId(2), SECOND));
    }
}
