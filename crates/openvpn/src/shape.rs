//! What lies between a packet and its encryption: compression's framing, fragments, and the limit
//! on TCP segments. Ordinary sessions have none of it.
//!
//! ```text
//! send      clamp MSS -> framing -> fragments -> encryption
//! receive   clamp MSS <- framing <- fragments <- decryption
//! ```

mod fragment;
mod framing;
mod lzo;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use contract::{ContentKind, Discard, Layer};
use wire::ip;

use fragment::{Cut, Part, Reassembly};
use framing::Content;

pub use framing::Framing;

/// The IP and UDP headers around a datagram.
const OUTER_V4: u16 = 28;
const OUTER_V6: u16 = 48;
/// What is between a frame's payload and the frame: Ethernet's header and one tag.
const FRAME_HEAD: usize = 18;
/// Peers send packets as large as their own device takes, whatever ours takes.
const USUAL_MTU: u16 = 1500;

/// A size that a configuration gives (`fragment`, `mssfix`), in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SizeLimit {
    /// Of the payload of a UDP datagram.
    Payload(u16),
    /// With the IP and UDP headers around it (`mtu`).
    Outer(u16),
    /// Of the packet inside the tunnel (`fixed`).
    Inner(u16),
}

/// How a session's packets are shaped, as it was configured and agreed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ShapeRules {
    /// What compression left of itself.
    pub framing: Option<Framing>,
    /// `fragment`.
    pub fragment: Option<SizeLimit>,
    /// `mssfix`; without it, the tunnel's MTU is the limit.
    pub mssfix: Option<SizeLimit>,
    /// `tun-mtu`.
    pub mtu: u16,
}

impl SizeLimit {
    /// The largest payload of a datagram to `remote`; `None` if it is not about datagrams.
    fn payload(self, remote: IpAddr) -> Option<usize> {
        match self {
            Self::Payload(len) => Some(len.into()),
            Self::Outer(len) => {
                let around = if remote.to_canonical().is_ipv4() { OUTER_V4 } else { OUTER_V6 };
                Some(len.saturating_sub(around).into())
            }
            Self::Inner(_) => None,
        }
    }
}

/// The rules at work. What it remembers is behind a lock that only parts of packets take.
#[derive(Debug)]
pub(crate) struct Shape {
    layer: Layer,
    framing: Option<Framing>,
    fragments: Option<Fragments>,
    /// The largest inner packet whose TCP segments fit.
    mss_mtu: Option<u16>,
    /// What unpacking may make at most.
    largest: usize,
}

#[derive(Debug)]
struct Fragments {
    /// The largest payload of the encryption.
    most: usize,
    name: AtomicU8,
    parts: Mutex<Reassembly>,
}

/// What decryption left.
#[derive(Debug)]
pub(crate) enum Undressed<'b> {
    /// Content.
    Plain(&'b mut [u8]),
    /// For [`Shape::unpack`].
    Packed(&'b mut [u8]),
}

impl Shape {
    /// Prepares the rules for a peer at `remote`; `None` if there is nothing to do. `most` is the
    /// largest payload whose encryption fits a datagram of so many bytes.
    pub(crate) fn new(
        rules: &ShapeRules,
        layer: Layer,
        remote: IpAddr,
        most: impl Fn(usize) -> usize,
    ) -> Option<Box<Self>> {
        if *rules == (ShapeRules { mtu: rules.mtu, ..ShapeRules::default() }) {
            return None;
        }
        let framed = rules.framing.map_or(0, |framing| framing.head(layer) + framing.tail());
        let largest = usize::from(rules.mtu.max(USUAL_MTU)) + FRAME_HEAD;
        let fragments =
            rules.fragment.and_then(|limit| limit.payload(remote)).map(|limit| Fragments {
                most: most(limit),
                name: AtomicU8::new(0),
                parts: Mutex::new(Reassembly::new(largest + framed)),
            });
        let around = framed + if fragments.is_some() { fragment::HEADER } else { 0 };
        let mss_mtu = rules.mssfix.map(|limit| match limit {
            SizeLimit::Inner(len) => len,
            limit => {
                let payload = most(limit.payload(remote).unwrap_or_default());
                u16::try_from(payload.saturating_sub(around)).unwrap_or(u16::MAX)
            }
        });
        Some(Box::new(Self { layer, framing: rules.framing, fragments, mss_mtu, largest }))
    }

    /// Bytes in front of the content.
    pub(crate) fn head(&self) -> usize {
        let fragment = if self.fragments.is_some() { fragment::HEADER } else { 0 };
        fragment + self.framing.map_or(0, |framing| framing.head(self.layer))
    }

    /// Bytes behind it.
    pub(crate) fn tail(&self) -> usize {
        self.framing.map_or(0, Framing::tail)
    }

    /// Whether content of `len` bytes leaves in one piece.
    pub(crate) fn fits(&self, len: usize) -> bool {
        let whole = self.head() + len + self.tail();
        self.fragments.as_ref().is_none_or(|fragments| whole <= fragments.most)
    }

    /// Makes a payload of the content that lies in `room` between head and tail.
    pub(crate) fn dress(&self, kind: ContentKind, room: &mut [u8]) -> Result<(), Discard> {
        let (head, tail) = (self.head(), self.tail());
        if kind == ContentKind::Packet {
            let end = room.len().saturating_sub(tail);
            self.clamp(room.get_mut(head..end).ok_or(Discard::Malformed)?);
        }
        let fragment = if self.fragments.is_some() { fragment::HEADER } else { 0 };
        let (header, room) = room.split_at_mut_checked(fragment).ok_or(Discard::Malformed)?;
        header.fill(0);
        self.framing.map_or(Ok(()), |framing| framing.dress(self.layer, room))
    }

    /// Cuts content that does not fit: lays its payload out in `room`, and calls `send` with each
    /// part's header and bytes.
    pub(crate) fn cut(
        &self,
        kind: ContentKind,
        content: &[u8],
        room: &mut [u8],
        mut send: impl FnMut([u8; fragment::HEADER], &[u8]) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        let fragments = self.fragments.as_ref().ok_or(Discard::TooBig)?;
        let (head, tail) = (self.head(), self.tail());
        let room = room.get_mut(..head + content.len() + tail).ok_or(Discard::TooBig)?;
        room.get_mut(head..head + content.len()).ok_or(Discard::TooBig)?.copy_from_slice(content);
        self.dress(kind, room)?;
        let framed = room.get(fragment::HEADER..).ok_or(Discard::TooBig)?;
        let most = fragments.most.saturating_sub(fragment::HEADER);
        let cut = Cut::new(fragments.name.fetch_add(1, Relaxed), framed.len(), most)?;
        cut.parts()
            .try_for_each(|(header, range)| send(header, framed.get(range).ok_or(Discard::TooBig)?))
    }

    /// Takes framing and fragment header off a payload, as far as that can be done in place.
    pub(crate) fn undress<'b>(&self, payload: &'b mut [u8]) -> Result<Undressed<'b>, Discard> {
        let content = if self.fragments.is_some() && !payload.is_empty() {
            let (header, rest) = payload.split_first_chunk().ok_or(Discard::Malformed)?;
            if Part::parse(*header, rest)?.is_some() {
                return Ok(Undressed::Packed(payload));
            }
            payload.get_mut(fragment::HEADER..).ok_or(Discard::Malformed)?
        } else {
            payload
        };
        let content = match self.framing {
            None => Content::Plain(content),
            Some(framing) => framing.undress(content)?,
        };
        Ok(match content {
            Content::Plain(content) => {
                self.clamp(content);
                Undressed::Plain(content)
            }
            Content::Packed(packed) => Undressed::Packed(packed),
        })
    }

    /// Expands and joins what [`undress`](Self::undress) left packed; how many bytes of content
    /// `out` holds then, or `None` while parts are missing. `now` counts the packets received.
    pub(crate) fn unpack(
        &self,
        now: u64,
        packed: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>, Discard> {
        let len = out.len().min(self.largest);
        let out = out.get_mut(..len).ok_or(Discard::TooBig)?;
        // No header of a part begins as what is compressed does.
        let len = match (&self.fragments, packed.split_first_chunk()) {
            (Some(fragments), Some((header, rest))) if header[0] <= fragment::MAX_FIRST => {
                let part = Part::parse(*header, rest)?.ok_or(Discard::Malformed)?;
                let mut parts = fragments.parts.lock().unwrap_or_else(PoisonError::into_inner);
                match parts.add(now, part, rest)? {
                    None => return Ok(None),
                    Some(whole) => self.open(whole, out)?,
                }
            }
            _ => self.expand(packed, out)?,
        };
        self.clamp(out.get_mut(..len).ok_or(Discard::TooBig)?);
        Ok(Some(len))
    }

    fn expand(&self, packed: &[u8], out: &mut [u8]) -> Result<usize, Discard> {
        self.framing.ok_or(Discard::Malformed)?.expand(packed, out)
    }

    /// Takes the framing off a payload that has come together, into `out`.
    fn open(&self, payload: &mut [u8], out: &mut [u8]) -> Result<usize, Discard> {
        let content = match self.framing {
            None => Content::Plain(payload),
            Some(framing) => framing.undress(payload)?,
        };
        match content {
            Content::Packed(packed) => self.expand(packed, out),
            Content::Plain(content) => {
                let room = out.get_mut(..content.len()).ok_or(Discard::TooBig)?;
                room.copy_from_slice(content);
                Ok(content.len())
            }
        }
    }

    fn clamp(&self, packet: &mut [u8]) {
        if let Some(mtu) = self.mss_mtu
            && self.layer == Layer::Ip
            && let Ok(head) = ip::Head::parse(packet)
        {
            ip::clamp_mss(packet, &head, mtu);
        }
    }
}

#[cfg(test)]
mod tests;
