//! When a worker pauses so that small work gathers.

use std::time::{Duration, Instant};

/// A turn that moved fewer packets than this, but more than one, was hardly worth waking up for. A
/// single packet may be a question that somebody waits to have answered.
const SMALL_TURN: usize = 32;
/// A worker that is woken again this soon is under a steady trickle.
const STEADY: Duration = Duration::from_micros(200);
/// How long it then lets packets gather: a dozen or so at the rate of a fast peer that sends one
/// datagram per system call. Longer costs such peers latency, shorter costs the processor.
const PAUSE: Duration = Duration::from_micros(250);

/// Decides after each turn whether to pause before the next.
///
/// A peer that sends one datagram at a time would wake a worker for every few of them, and each
/// wake costs more than the packets do. An idle worker is woken at once, so nothing is added to the
/// latency of a lone packet; one with plenty to do never pauses.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last turn, and the pause after it, ended.
    rested: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { rested: now }
    }

    /// How long to pause after a turn that was woken at `woken` and moved so many packets.
    pub(super) fn after_turn(
        &mut self,
        woken: Instant,
        done: Instant,
        moved: usize,
    ) -> Option<Duration> {
        let is_steady = woken.saturating_duration_since(self.rested) < STEADY;
        let pause = (is_steady && (2..SMALL_TURN).contains(&moved)).then_some(PAUSE);
        self.rested = done + pause.unwrap_or_default();
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_micros(10);

    /// Turns that begin so long after the one before ended, with so many packets each.
    fn pauses(gap: Duration, moved: usize) -> usize {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut count = 0;
        for _ in 0..100 {
            let woken = now + gap;
            now = woken + TURN;
            if let Some(pause) = pace.after_turn(woken, now, moved) {
                now += pause;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_steady_trickle_is_gathered() {
        assert_eq!(pauses(Duration::from_micros(5), 3), 100);
    }

    #[test]
    fn a_lone_packet_waits_for_nothing_however_often_it_comes() {
        assert_eq!(pauses(Duration::from_millis(1), 1), 0);
        assert_eq!(pauses(Duration::from_micros(50), 1), 0);
    }

    #[test]
    fn a_worker_with_plenty_to_do_never_pauses() {
        assert_eq!(pauses(Duration::from_micros(1), 64), 0);
    }

    #[test]
    fn orders_without_packets_are_no_reason_to_pause() {
        assert_eq!(pauses(Duration::from_micros(1), 0), 0);
    }
}
