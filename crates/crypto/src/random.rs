use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// An engine's only source of randomness: a CSPRNG (ChaCha20) that grows from the seed the engine
/// was born with, so the same seed and inputs give the same bytes.
pub struct SeededRandom(ChaCha20Rng);

impl SeededRandom {
    /// Grows from `seed`, which the shell draws from the operating system.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// Draws `N` bytes.
    #[must_use]
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Draws a number.
    #[must_use]
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

impl std::fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeededRandom(..)")
    }
}
