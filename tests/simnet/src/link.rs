use std::time::Duration;

/// A link with a seeded mind of its own; the same seed misbehaves in the same way.
///
/// Percentages count per datagram. Change them in the middle of a run to change the weather.
#[derive(Clone, Debug)]
pub struct Link {
    /// Datagrams that vanish, in percent.
    pub loss: u64,
    /// Datagrams that arrive twice, in percent.
    pub duplication: u64,
    /// Datagrams that arrive damaged, in percent: a bit flipped, or the end cut off.
    pub corruption: u64,
    /// How long every datagram takes.
    pub latency: Duration,
    /// How much longer some take; what overtakes arrives out of order.
    pub jitter: Duration,
    state: u64,
}

impl Link {
    /// Loses nothing; 20 milliseconds each way.
    #[must_use]
    pub fn perfect() -> Self {
        Self {
            loss: 0,
            duplication: 0,
            corruption: 0,
            latency: Duration::from_millis(20),
            jitter: Duration::ZERO,
            state: 0,
        }
    }

    /// Loses `loss` percent.
    #[must_use]
    pub fn lossy(seed: u64, loss: u64) -> Self {
        Self { loss, state: seed, ..Self::perfect() }
    }

    /// Loses `loss` percent, and reorders, repeats and damages some of the rest.
    #[must_use]
    pub fn awful(seed: u64, loss: u64) -> Self {
        Self {
            duplication: 10,
            corruption: 5,
            jitter: Duration::from_millis(80),
            ..Self::lossy(seed, loss)
        }
    }

    pub(crate) fn loses(&mut self) -> bool {
        self.happens(self.loss)
    }

    pub(crate) fn repeats(&mut self) -> bool {
        self.happens(self.duplication)
    }

    /// Damages the datagram if its time has come; says whether it did.
    pub(crate) fn damages(&mut self, datagram: &mut Vec<u8>) -> bool {
        if datagram.is_empty() || !self.happens(self.corruption) {
            return false;
        }
        let at = (self.random() % datagram.len() as u64) as usize;
        if self.happens(25) {
            datagram.truncate(at);
        } else {
            datagram[at] ^= 1 << (self.random() % 8);
        }
        true
    }

    pub(crate) fn travel_time(&mut self) -> Duration {
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX - 1);
        self.latency + Duration::from_nanos(self.random() % (jitter + 1))
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.random() % 100 < percent
    }

    /// SplitMix64: every seed is a good one, 0 too.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
