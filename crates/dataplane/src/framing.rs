//! What stands in front of a message on its carrier, and how messages are told apart on a stream.

use arrayvec::ArrayVec;

/// How messages are told apart on a stream.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Framing {
    /// Each has its length in front, as 16 bits in network byte order that do not count themselves.
    Length16 {
        /// The longest message that there can be, in bytes; a longer or an empty one breaks the
        /// stream, because nothing behind a wrong length can be found again.
        limit: u16,
    },
}

/// The stream can be read no further: a message of a length that there cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BrokenStream;

/// Bytes in front of a message whose length is in 16 bits.
const LENGTH16: usize = 2;

impl Framing {
    /// Cuts what has arrived into messages.
    pub fn cut(self, bytes: &mut [u8]) -> Messages<'_> {
        Messages { framing: self, rest: bytes, is_broken: false }
    }

    /// The longest message that there can be.
    fn limit(self) -> usize {
        match self {
            Self::Length16 { limit } => usize::from(limit),
        }
    }

    /// The most bytes that a message without its end may have, with what is in front of it.
    #[must_use]
    pub fn max_partial(self) -> usize {
        self.head_len() + self.limit()
    }

    /// How many bytes the first message of `bytes` and what is in front of it take, if they say so.
    ///
    /// # Errors
    ///
    /// Fails if there can be no such message.
    pub(crate) fn first_len(self, bytes: &[u8]) -> Result<Option<usize>, BrokenStream> {
        match self {
            Self::Length16 { limit } => {
                let Some(head) = bytes.first_chunk::<LENGTH16>() else { return Ok(None) };
                match u16::from_be_bytes(*head) {
                    0 => Err(BrokenStream),
                    len if len > limit => Err(BrokenStream),
                    len => Ok(Some(LENGTH16 + usize::from(len))),
                }
            }
        }
    }

    /// Bytes in front of a message.
    fn head_len(self) -> usize {
        match self {
            Self::Length16 { .. } => LENGTH16,
        }
    }
}

/// The whole messages at the beginning of what a stream brought; each without what was in front.
#[derive(Debug)]
pub struct Messages<'b> {
    framing: Framing,
    rest: &'b mut [u8],
    is_broken: bool,
}

impl<'b> Iterator for Messages<'b> {
    type Item = &'b mut [u8];

    fn next(&mut self) -> Option<&'b mut [u8]> {
        let rest = std::mem::take(&mut self.rest);
        match self.framing.first_len(rest) {
            Ok(Some(len)) if len <= rest.len() => {
                let (message, rest) = rest.split_at_mut(len);
                self.rest = rest;
                message.get_mut(self.framing.head_len()..)
            }
            Ok(_) => {
                self.rest = rest;
                None
            }
            Err(BrokenStream) => {
                self.is_broken = true;
                None
            }
        }
    }
}

impl<'b> Messages<'b> {
    /// What is left when there is no whole message any more: the beginning of the next one.
    ///
    /// # Errors
    ///
    /// Fails if there can be no next one.
    pub fn rest(self) -> Result<&'b [u8], BrokenStream> {
        if self.is_broken { Err(BrokenStream) } else { Ok(self.rest) }
    }
}

/// The most bytes in a [`Prefix`]: the head that SOCKS 5 puts in front of a datagram for an IPv6
/// address (RFC 1928, 7).
const MAX_PREFIX: usize = 22;

/// Bytes that a socket has in front of every datagram, because a relay in between wants them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefix {
    bytes: ArrayVec<u8, MAX_PREFIX>,
    fixed: usize,
}

impl Prefix {
    /// These bytes in front of what is sent. In front of what arrives there are as many; the first
    /// `fixed` are the same, and the others the relay's business.
    ///
    /// Returns `None` if there are more than 22.
    #[must_use]
    pub fn new(bytes: &[u8], fixed: usize) -> Option<Self> {
        let bytes = ArrayVec::try_from(bytes).ok()?;
        Some(Self { fixed: fixed.min(bytes.len()), bytes })
    }

    /// What is put in front.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A datagram without what the relay put in front; `None` if that is not there.
    pub(crate) fn strip<'b>(&self, datagram: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let (front, message) = datagram.split_at_mut_checked(self.bytes.len())?;
        (front.get(..self.fixed) == self.bytes.get(..self.fixed)).then_some(message)
    }
}

/// What is written in front of a message on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lead<'t> {
    Nothing,
    Bytes(&'t [u8]),
    Framed(Framing),
}

impl Lead<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Framed(framing) => framing.head_len(),
        }
    }

    /// Whether a message of so many bytes can be sent: one that the other end of a stream cannot
    /// read would be the end of the stream.
    pub(crate) fn takes(self, message_len: usize) -> bool {
        match self {
            Self::Nothing | Self::Bytes(_) => true,
            Self::Framed(framing) => message_len <= framing.limit(),
        }
    }

    /// Writes what is in front of `message_len` bytes to `out`, which is [`len`](Self::len) long.
    pub(crate) fn write(self, message_len: usize, out: &mut [u8]) {
        match self {
            Self::Nothing => {}
            Self::Bytes(bytes) => out.copy_from_slice(bytes),
            // A batch is shorter than 65,536 bytes, and so is everything in it.
            Self::Framed(Framing::Length16 { .. }) => {
                out.copy_from_slice(&(message_len as u16).to_be_bytes());
            }
        }
    }
}

/// One message with its length in front, as a stream carries it.
#[must_use]
pub fn framed(framing: Framing, message: &[u8]) -> Vec<u8> {
    let lead = Lead::Framed(framing);
    let mut out = vec![0; lead.len() + message.len()];
    let (head, body) = out.split_at_mut(lead.len());
    lead.write(message.len(), head);
    body.copy_from_slice(message);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    const FRAMING: Framing = Framing::Length16 { limit: 1500 };

    fn cut(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<Vec<u8>, BrokenStream>) {
        let mut bytes = bytes.to_vec();
        let mut messages = FRAMING.cut(&mut bytes);
        let whole = messages.by_ref().map(|message| message.to_vec()).collect();
        (whole, messages.rest().map(<[u8]>::to_vec))
    }

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        messages.iter().flat_map(|message| framed(FRAMING, message)).collect()
    }

    #[test]
    fn messages_come_out_as_they_went_in_wherever_the_stream_is_cut() {
        let messages = [vec![1; 1], vec![2; 1500], vec![3; 40]];
        let whole = stream(&messages);

        for at in 0..=whole.len() {
            let (mut heard, rest) = cut(&whole[..at]);
            let tail = [&rest.unwrap()[..], &whole[at..]].concat();
            assert!(tail.len() <= FRAMING.max_partial() + whole.len() - at);
            let (later, rest) = cut(&tail);
            heard.extend(later);
            assert_eq!((heard, rest), (messages.to_vec(), Ok(Vec::new())), "cut at {at}");
        }
    }

    #[test]
    fn what_is_kept_of_a_message_is_never_longer_than_one() {
        let whole = stream(&[vec![2; 1500]]);

        let (_, rest) = cut(&whole[..whole.len() - 1]);

        assert_eq!(rest.unwrap().len(), FRAMING.max_partial() - 1);
    }

    #[test]
    fn an_empty_or_oversized_message_breaks_the_stream_but_not_what_came_before() {
        for bad in [[0, 0], [0x05, 0xdd], [0xff, 0xff]] {
            let bytes = [&stream(&[vec![7; 9]])[..], &bad, &[1; 3000]].concat();

            assert_eq!(cut(&bytes), (vec![vec![7; 9]], Err(BrokenStream)));
        }
    }

    #[test]
    fn every_corruption_is_survived() {
        let whole = stream(&[vec![1; 20], vec![2; 300], vec![3; 5]]);
        let mut dice = Dice(3);

        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << dice.roll(8);
            let (heard, rest) = cut(&bytes);
            let heard = heard.iter().map(|message| message.len() + 2).sum::<usize>();
            assert!(rest.is_err() || heard + rest.unwrap().len() == bytes.len());
        }
    }

    #[test]
    fn a_prefix_is_taken_off_where_its_fixed_part_is_right() {
        let prefix = Prefix::new(&[0, 0, 0, 1, 192, 0, 2, 1, 4, 170], 4).unwrap();

        let other_address = &mut [0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 77];
        assert_eq!(prefix.strip(other_address).unwrap(), [77]);
        assert_eq!(prefix.strip(&mut [0, 0, 1, 1, 192, 0, 2, 1, 4, 170, 77]), None, "a fragment");
        assert_eq!(prefix.strip(&mut [0, 0, 0, 1, 192, 0, 2, 1, 4]), None, "too short");
        assert_eq!(Prefix::new(&[0; 23], 0), None);
    }
}
