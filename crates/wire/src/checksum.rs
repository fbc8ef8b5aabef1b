//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! ```
//! use wire::checksum::Sum;
//!
//! let header = [0x45, 0, 0, 0x14, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
//! let mut sealed = header;
//! sealed[10..12].copy_from_slice(&Sum::of(&header).checksum());
//! assert!(Sum::of(&sealed).is_valid());
//! ```

/// Bytes per step of the wide loop: enough independent lanes for the compiler to use vectors.
const STEP: usize = 32;

/// An unfinished one's complement sum.
///
/// Words are added in the machine's own byte order, four bytes at a time, and put right at the
/// end (RFC 1071, 2 (B)). The 64-bit accumulator holds 2^32 words, far more than any packet has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte counts as if a zero followed.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().plus(bytes)
    }

    /// The IPv4 pseudo header of TCP and UDP; `len` counts the transport header and its payload.
    pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> Self {
        Self::of(&source).plus(&destination).plus_u16(protocol.into()).plus_u16(len)
    }

    /// The IPv6 pseudo header of every upper layer (RFC 8200, 8.1).
    pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, len: u16) -> Self {
        Self::of(&source).plus(&destination).plus_u16(protocol.into()).plus_u16(len)
    }

    /// Adds `bytes`, which must start at an even offset of what is summed.
    pub fn plus(self, bytes: &[u8]) -> Self {
        let mut lanes = [0_u64; STEP / 8];
        let mut steps = bytes.chunks_exact(STEP);
        for step in &mut steps {
            for (lane, word) in lanes.iter_mut().zip(step.chunks_exact(8)) {
                *lane += halves(word);
            }
        }

        Self(self.0 + lanes.iter().sum::<u64>() + tail(steps.remainder()))
    }

    /// Copies `source` over `destination` and adds it, in one pass.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn copy(self, source: &[u8], destination: &mut [u8]) -> Self {
        assert_eq!(source.len(), destination.len(), "both sides of a copy have one length");
        let mut lanes = [0_u64; STEP / 8];
        let mut from = source.chunks_exact(STEP);
        let mut to = destination.chunks_exact_mut(STEP);
        for (from, to) in (&mut from).zip(&mut to) {
            for (lane, word) in lanes.iter_mut().zip(from.chunks_exact(8)) {
                *lane += halves(word);
            }
            to.copy_from_slice(from);
        }
        to.into_remainder().copy_from_slice(from.remainder());

        Self(self.0 + lanes.iter().sum::<u64>() + tail(from.remainder()))
    }

    /// Adds a number that stands in network order.
    pub fn plus_u16(self, value: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(value.to_be_bytes())))
    }

    /// The sum folded to 16 bits, as it stands in a header whose checksum the device completes.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // The loop leaves at most 16 bits.
        (sum as u16).to_ne_bytes()
    }

    /// The checksum field that makes the summed bytes valid.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether the summed bytes, their checksum field included, are intact.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.folded() == [0xff; 2]
    }
}

/// A checksum after one 16-bit word it covers has changed (RFC 1624, 3, equation 3).
#[must_use]
pub fn update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    Sum::of(&checksum.map(|byte| !byte)).plus(&old.map(|byte| !byte)).plus(&new).checksum()
}

/// The two 32-bit halves of an eight-byte word, added.
fn halves(word: &[u8]) -> u64 {
    let word = word.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    (word & 0xffff_ffff) + (word >> 32)
}

/// The sum of the fewer than [`STEP`] bytes that the wide loop leaves.
fn tail(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut sum = words.by_ref().map(halves).sum::<u64>();
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        sum += halves(&word);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, 4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |byte| u32::from(*byte));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn noise(len: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];

        assert_eq!(Sum::of(&bytes).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn every_length_agrees_with_the_naive_sum() {
        for len in 0..200 {
            let bytes = noise(len, len as u32 + 7);
            assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes).to_be_bytes(), "{len} bytes");
        }
    }

    #[test]
    fn all_ones_do_not_overflow() {
        let bytes = vec![0xff; 65_535];

        assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes).to_be_bytes());
    }

    #[test]
    fn copying_copies_everything_and_sums_the_same() {
        for len in 0..200 {
            let bytes = noise(len, len as u32 + 99);
            let mut copy = vec![0; len];

            let sum = Sum::default().plus_u16(17).copy(&bytes, &mut copy);

            assert_eq!(copy, bytes);
            assert_eq!(sum.folded(), Sum::of(&bytes).plus_u16(17).folded());
        }
    }

    #[test]
    fn an_update_equals_a_new_sum() {
        for seed in 0..500 {
            let mut bytes = noise(40, seed);
            let before = Sum::of(&bytes).checksum();
            let old = [bytes[6], bytes[7]];
            let new = [noise(1, seed + 1)[0], noise(1, seed + 2)[0]];
            bytes[6..8].copy_from_slice(&new);

            assert_eq!(update(before, old, new), Sum::of(&bytes).checksum());
        }
    }

    #[test]
    fn a_pseudo_header_is_the_words_it_stands_for() {
        let (source, destination) = ([10, 1, 2, 3], [192, 168, 7, 9]);
        let mut words = [source, destination].concat();
        words.extend([0, 17, 0x12, 0x34]);

        assert_eq!(
            Sum::pseudo_v4(source, destination, 17, 0x1234).folded(),
            Sum::of(&words).folded()
        );
    }
}
