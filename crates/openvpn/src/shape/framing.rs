//! What `comp-lzo` and `compress` put around every packet, compressed or not.
//!
//! ```text
//! comp-lzo, compress lzo      FA data                  66 LZO1X
//! compress, compress stub     FB data[1..] data[0]
//! compress lz4                FB data[1..] data[0]     69 block[1..] block[0]
//! compress stub-v2            data, or 50 00 data
//! compress lz4-v2             data, or 50 00 data      50 01 block
//! ```
//!
//! Nothing is ever compressed here: how well a packet shrinks says what is in it (VORACLE).

use contract::{Discard, Layer};

use super::lzo;

const PLAIN: u8 = 0xfa;
const PLAIN_SWAPPED: u8 = 0xfb;
const LZO: u8 = 0x66;
const LZ4: u8 = 0x69;
/// The first byte of everything that is not plain in version 2.
const V2: u8 = 0x50;
const V2_PLAIN: u8 = 0;
const V2_LZ4: u8 = 1;

/// How packets are framed where compression was agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// `comp-lzo`, whatever its argument, and `compress lzo`.
    Lzo,
    /// `compress` and `compress stub`: nobody compresses.
    Stub,
    /// `compress lz4`.
    Lz4,
    /// `compress stub-v2`: nobody compresses.
    StubV2,
    /// `compress lz4-v2`.
    Lz4V2,
}

/// A payload without its framing.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Content<'b> {
    /// As it was given to the peer's end of the tunnel.
    Plain(&'b mut [u8]),
    /// Compressed: for [`Framing::expand`].
    Packed(&'b mut [u8]),
}

impl Framing {
    /// Reads the words of `comp-lzo …` and `compress …`; the outer `None` if they mean nothing,
    /// the inner one if they ask for no framing.
    #[must_use]
    pub fn named(directive: &str, word: Option<&str>) -> Option<Option<Self>> {
        match (directive, word) {
            ("comp-lzo", None | Some("yes" | "no" | "adaptive")) => Some(Some(Self::Lzo)),
            // Only a server acts on it, by what it pushes.
            ("compress", Some("migrate")) | ("comp-lzo", Some("none")) => Some(None),
            ("compress", None | Some("stub")) => Some(Some(Self::Stub)),
            ("compress", Some("lzo")) => Some(Some(Self::Lzo)),
            ("compress", Some("lz4")) => Some(Some(Self::Lz4)),
            ("compress", Some("stub-v2")) => Some(Some(Self::StubV2)),
            ("compress", Some("lz4-v2")) => Some(Some(Self::Lz4V2)),
            _ => None,
        }
    }

    /// Its name, as it is pushed and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lzo => "comp-lzo",
            Self::Stub => "compress stub",
            Self::Lz4 => "compress lz4",
            Self::StubV2 => "compress stub-v2",
            Self::Lz4V2 => "compress lz4-v2",
        }
    }

    /// Bytes in front of an uncompressed packet.
    pub(super) fn head(self, layer: Layer) -> usize {
        match self {
            Self::Lzo => 1,
            // A frame may begin with any byte, so every one is marked as plain.
            Self::StubV2 | Self::Lz4V2 if layer == Layer::Ethernet => 2,
            Self::Stub | Self::Lz4 | Self::StubV2 | Self::Lz4V2 => 0,
        }
    }

    /// Bytes behind it.
    pub(super) fn tail(self) -> usize {
        usize::from(matches!(self, Self::Stub | Self::Lz4))
    }

    /// Frames the content that lies in `room` between head and tail.
    pub(super) fn dress(self, layer: Layer, room: &mut [u8]) -> Result<(), Discard> {
        match self {
            Self::Lzo => *room.first_mut().ok_or(Discard::Malformed)? = PLAIN,
            Self::Stub | Self::Lz4 => {
                let (tail, content) = room.split_last_mut().ok_or(Discard::Malformed)?;
                match content.first_mut() {
                    Some(first) => *tail = std::mem::replace(first, PLAIN_SWAPPED),
                    None => *tail = PLAIN_SWAPPED,
                }
            }
            Self::StubV2 | Self::Lz4V2 if layer == Layer::Ethernet => {
                *room.first_chunk_mut().ok_or(Discard::Malformed)? = [V2, V2_PLAIN];
            }
            // Neither an IP packet nor a message of ours begins so.
            Self::StubV2 | Self::Lz4V2 if room.first() == Some(&V2) => {
                return Err(Discard::Malformed);
            }
            Self::StubV2 | Self::Lz4V2 => {}
        }
        Ok(())
    }

    /// Takes the framing off a payload, in place.
    pub(super) fn undress(self, payload: &mut [u8]) -> Result<Content<'_>, Discard> {
        let Some(first) = payload.first().copied() else { return Ok(Content::Plain(payload)) };
        match (self, first) {
            (Self::Lzo, PLAIN) => Ok(Content::Plain(&mut payload[1..])),
            (Self::Lzo, LZO) | (Self::Lz4, LZ4) => {
                if self == Self::Lz4
                    && let Some(block @ [_, ..]) = payload.get_mut(1..)
                {
                    // The block's first byte is behind it.
                    block.rotate_right(1);
                }
                Ok(Content::Packed(payload))
            }
            (Self::Stub | Self::Lz4, PLAIN_SWAPPED) => {
                let (tail, content) = payload.split_last_mut().ok_or(Discard::Malformed)?;
                if let Some(first) = content.first_mut() {
                    *first = *tail;
                }
                Ok(Content::Plain(content))
            }
            (Self::StubV2 | Self::Lz4V2, V2) => match (self, payload.get(1)) {
                (_, Some(&V2_PLAIN)) => Ok(Content::Plain(&mut payload[2..])),
                (Self::Lz4V2, Some(&V2_LZ4)) => Ok(Content::Packed(payload)),
                _ => Err(Discard::Malformed),
            },
            (Self::StubV2 | Self::Lz4V2, _) => Ok(Content::Plain(payload)),
            _ => Err(Discard::Malformed),
        }
    }

    /// Expands what [`undress`](Self::undress) found packed; how many bytes that made.
    pub(super) fn expand(self, packed: &[u8], out: &mut [u8]) -> Result<usize, Discard> {
        match (self, packed) {
            (Self::Lzo, [LZO, block @ ..]) => lzo::decompress(block, out),
            (Self::Lz4, [LZ4, block @ ..]) | (Self::Lz4V2, [V2, V2_LZ4, block @ ..]) => {
                lz4_flex::block::decompress_into(block, out).map_err(|error| match error {
                    lz4_flex::block::DecompressError::OutputTooSmall { .. } => Discard::TooBig,
                    _ => Discard::Malformed,
                })
            }
            _ => Err(Discard::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Framing; 5] =
        [Framing::Lzo, Framing::Stub, Framing::Lz4, Framing::StubV2, Framing::Lz4V2];

    fn dressed(framing: Framing, layer: Layer, content: &[u8]) -> Vec<u8> {
        let mut room = vec![0; framing.head(layer)];
        room.extend(content);
        room.extend(vec![0; framing.tail()]);
        framing.dress(layer, &mut room).unwrap();
        room
    }

    fn expanded(framing: Framing, payload: &[u8], room: usize) -> Result<Vec<u8>, Discard> {
        let mut payload = payload.to_vec();
        let Content::Packed(packed) = framing.undress(&mut payload)? else {
            panic!("{payload:?} is not compressed")
        };
        let mut out = vec![0; room];
        let len = framing.expand(packed, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    #[test]
    fn packets_are_framed_as_the_table_says() {
        let framed = |framing| hex::encode(dressed(framing, Layer::Ip, &[0x45, 1, 2, 3]));

        assert_eq!(framed(Framing::Lzo), "fa45010203");
        assert_eq!(framed(Framing::Stub), "fb01020345");
        assert_eq!(framed(Framing::Lz4), "fb01020345");
        assert_eq!(framed(Framing::StubV2), "45010203");
        assert_eq!(framed(Framing::Lz4V2), "45010203");
    }

    #[test]
    fn what_is_framed_comes_out_again() {
        for framing in ALL {
            for len in 1..40 {
                let content = (0..len).map(|n| 0x45 + n).collect::<Vec<u8>>();
                let mut frame = content.clone();
                frame[0] = 0x50;
                for (layer, mut content) in [(Layer::Ip, content), (Layer::Ethernet, frame)] {
                    let mut payload = dressed(framing, layer, &content);
                    let undressed = framing.undress(&mut payload);
                    assert_eq!(undressed, Ok(Content::Plain(&mut content)), "{framing:?} {len}");
                }
            }
            assert_eq!(framing.undress(&mut []), Ok(Content::Plain(&mut [])));
        }
    }

    #[test]
    fn an_escaped_first_byte_is_understood() {
        for framing in [Framing::StubV2, Framing::Lz4V2] {
            let content = framing.undress(&mut [0x50, 0, 0x50, 7]).map(|content| match content {
                Content::Plain(content) => content.to_vec(),
                Content::Packed(_) => panic!("it is plain"),
            });
            assert_eq!(content, Ok(vec![0x50, 7]));
        }
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        for (framing, payload) in [
            (Framing::Stub, "69010245"),
            (Framing::StubV2, "500145"),
            (Framing::Lz4V2, "500245"),
            (Framing::Lz4V2, "50"),
            (Framing::Lz4, "66010245"),
            (Framing::Lzo, "69010245"),
            (Framing::Lzo, "45000014"),
        ] {
            let mut payload = hex::decode(payload).unwrap();
            assert_eq!(framing.undress(&mut payload), Err(Discard::Malformed), "{framing:?}");
        }
    }

    #[test]
    fn lz4_is_expanded_within_bounds() {
        let content = [b'E'].into_iter().chain([7; 1399]).collect::<Vec<u8>>();
        let block = lz4_flex::block::compress(&content);
        let v2 = [&[0x50, 1], &block[..]].concat();
        let swapped = [&[0x69], &block[1..], &block[..1]].concat();

        for (framing, payload) in [(Framing::Lz4V2, &v2), (Framing::Lz4, &swapped)] {
            assert_eq!(expanded(framing, payload, 1400), Ok(content.clone()));
            assert_eq!(expanded(framing, payload, 1399), Err(Discard::TooBig));
            for len in 3..payload.len() {
                assert!(expanded(framing, &payload[..len], 1400) != Ok(content.clone()));
            }
        }
    }

    #[test]
    fn every_short_payload_is_survived() {
        for framing in ALL {
            for first in 0..=u8::MAX {
                for payload in [&[first][..], &[first, 0], &[first, 1], &[first, 1, 0]] {
                    let mut payload = payload.to_vec();
                    if let Ok(Content::Packed(packed)) = framing.undress(&mut payload) {
                        let _ = framing.expand(packed, &mut [0; 64]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_bomb_makes_no_more_than_the_room_there_is() {
        let bomb = lz4_flex::block::compress(&vec![0; 1 << 20]);
        let payload = [&[0x50, 1], &bomb[..]].concat();

        assert_eq!(expanded(Framing::Lz4V2, &payload, 1500), Err(Discard::TooBig));
    }
}
