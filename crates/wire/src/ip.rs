//! Accessors over IP, TCP and UDP headers, validated once.
//!
//! [`Head::parse`] checks every length of the IP header, walks IPv6 extension headers and says
//! where the transport header starts; what it returns stays true until the packet changes length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Malformed;
use crate::checksum::{Sum, update};

/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// The fixed part of an IPv4 header.
pub const IPV4_HEADER: usize = 20;
/// The IPv6 header without extensions.
pub const IPV6_HEADER: usize = 40;
/// A TCP header without options.
pub const TCP_HEADER: usize = 20;
/// A UDP header.
pub const UDP_HEADER: usize = 8;

/// More extension headers than any sane packet has; a longer chain is refused, not walked.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The TCP flag that opens a connection.
const SYN: u8 = 0x02;
/// The options that end the list, pad it, and announce the largest segment (RFC 9293, 3.1).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// What an IP header says, checked against the bytes that follow it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport protocol, behind all extension headers.
    pub protocol: u8,
    /// The IP header's length: with options for IPv4, without extensions for IPv6.
    pub header_len: usize,
    /// Where the transport header, or a later fragment's data, starts.
    pub transport: usize,
    /// The packet's length by its own account; never more than the slice holds.
    pub total_len: usize,
    /// Whether it is a piece of a larger packet.
    pub fragment: Fragment,
    /// IPv4's "don't fragment"; always set for IPv6, which routers never fragment.
    pub dont_fragment: bool,
}

/// A packet's place in a fragmented one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment, which has the transport header.
    First,
    /// Any other, which has none.
    Later,
}

impl Head {
    /// Reads the header of `packet`, which may have bytes behind it that belong to nobody.
    ///
    /// # Errors
    ///
    /// Fails if a header or a length cannot be.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            Some(_) => Err(Malformed::Forbidden { what: "IP version" }),
            None => Err(Malformed::Truncated { what: "IP header" }),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, Malformed> {
        let what = "IPv4 header";
        let head = packet.first_chunk::<IPV4_HEADER>().ok_or(Malformed::Truncated { what })?;
        let header_len = usize::from(head[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if header_len < IPV4_HEADER || total_len < header_len {
            return Err(Malformed::Forbidden { what });
        }
        if total_len > packet.len() {
            return Err(Malformed::Truncated { what: "IPv4 packet" });
        }
        let fragmentation = u16::from_be_bytes([head[6], head[7]]);

        Ok(Self {
            source: Ipv4Addr::new(head[12], head[13], head[14], head[15]).into(),
            destination: Ipv4Addr::new(head[16], head[17], head[18], head[19]).into(),
            protocol: head[9],
            header_len,
            transport: header_len,
            total_len,
            fragment: match (fragmentation & 0x1fff, fragmentation & 0x2000) {
                (0, 0) => Fragment::Whole,
                (0, _) => Fragment::First,
                (1.., _) => Fragment::Later,
            },
            dont_fragment: fragmentation & 0x4000 != 0,
        })
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, Malformed> {
        let what = "IPv6 header";
        let head = packet.first_chunk::<IPV6_HEADER>().ok_or(Malformed::Truncated { what })?;
        let total_len = IPV6_HEADER + usize::from(u16::from_be_bytes([head[4], head[5]]));
        let packet = packet.get(..total_len).ok_or(Malformed::Truncated { what: "IPv6 packet" })?;
        let (protocol, transport, fragment) = walk(packet, head[6])?;

        Ok(Self {
            source: address_v6(head, 8).into(),
            destination: address_v6(head, 24).into(),
            protocol,
            header_len: IPV6_HEADER,
            transport,
            total_len,
            fragment,
            dont_fragment: true,
        })
    }

    /// Whether it is an IPv4 packet.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The pseudo header over `len` bytes of transport header and payload.
    pub fn pseudo(&self, len: u16) -> Sum {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Sum::pseudo_v4(source.octets(), destination.octets(), self.protocol, len)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Sum::pseudo_v6(source.octets(), destination.octets(), self.protocol, len)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("both addresses were read from one header")
            }
        }
    }

    /// The bytes behind the IP headers, up to the packet's own end.
    #[must_use]
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        packet.get(self.transport..self.total_len).unwrap_or_default()
    }
}

fn address_v6(head: &[u8; IPV6_HEADER], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&head[at..at + 16]);
    octets.into()
}

/// Walks the extension headers (RFC 8200, 4) to the transport protocol and its offset.
fn walk(packet: &[u8], first: u8) -> Result<(u8, usize, Fragment), Malformed> {
    let what = "IPv6 extension header";
    let mut next = first;
    let mut at = IPV6_HEADER;
    let mut fragment = Fragment::Whole;
    for _ in 0..=MAX_EXTENSIONS {
        let unit = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 | FRAGMENT => 8,
            AUTHENTICATION => 4,
            _ => return Ok((next, at, fragment)),
        };
        let extension = packet
            .get(at..)
            .and_then(|rest| rest.first_chunk::<8>())
            .ok_or(Malformed::Truncated { what })?;
        let len = match next {
            FRAGMENT => 8,
            // RFC 4302, 2.2: in 4-byte units, minus two.
            AUTHENTICATION => (usize::from(extension[1]) + 2) * unit,
            _ => (usize::from(extension[1]) + 1) * unit,
        };
        if next == FRAGMENT {
            let offset = u16::from_be_bytes([extension[2], extension[3]]);
            fragment = match (offset & 0xfff8, offset & 1) {
                // RFC 6946: an "atomic" fragment is a whole packet.
                (0, 0) => fragment,
                (0, _) => Fragment::First,
                _ => return later(packet, extension[0], at + len),
            };
        }
        next = extension[0];
        at += len;
        if at > packet.len() {
            return Err(Malformed::Truncated { what });
        }
    }

    Err(Malformed::Forbidden { what: "chain of IPv6 extension headers" })
}

/// A later fragment: what follows its fragment header is data, whatever the header names.
fn later(packet: &[u8], next: u8, at: usize) -> Result<(u8, usize, Fragment), Malformed> {
    if at > packet.len() {
        return Err(Malformed::Truncated { what: "IPv6 fragment header" });
    }
    Ok((next, at, Fragment::Later))
}

/// Takes one hop off and mends the IPv4 checksum; the hops that are left, or `None` if this was
/// the last one and the packet must not be forwarded.
///
/// `head` must have been parsed from `packet`.
pub fn decrement_ttl(packet: &mut [u8], head: &Head) -> Option<u8> {
    if head.is_v4() {
        let header = packet.first_chunk_mut::<IPV4_HEADER>()?;
        let left = header[8].checked_sub(1).filter(|left| *left > 0)?;
        let checksum = update([header[10], header[11]], [header[8], header[9]], [left, header[9]]);
        header[8] = left;
        header[10..12].copy_from_slice(&checksum);
        Some(left)
    } else {
        let hops = packet.get_mut(7)?;
        *hops = hops.checked_sub(1).filter(|left| *left > 0)?;
        Some(*hops)
    }
}

/// Where a TCP segment that opens a connection announces its largest segment.
///
/// `None` for everything else, which is nearly everything, so this is the fast path's question.
#[must_use]
pub fn is_syn(packet: &[u8], head: &Head) -> bool {
    head.protocol == TCP
        && head.fragment != Fragment::Later
        && head.payload(packet).get(13).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the announced maximum segment size of a SYN to what fits into packets of `mtu` bytes;
/// whether it changed anything.
///
/// Both checksums stay valid if they were. Everything but a SYN is left alone, and so is an
/// option list that makes no sense.
pub fn clamp_mss(packet: &mut [u8], head: &Head, mtu: u16) -> bool {
    if !is_syn(packet, head) {
        return false;
    }
    let headers = TCP_HEADER + if head.is_v4() { IPV4_HEADER } else { IPV6_HEADER };
    let limit = mtu.saturating_sub(headers as u16);
    let Some(segment) = packet.get_mut(head.transport..head.total_len) else { return false };
    let Some(at) = find_mss(segment) else { return false };

    let announced = [segment[at], segment[at + 1]];
    if u16::from_be_bytes(announced) <= limit {
        return false;
    }
    let clamped = limit.to_be_bytes();
    segment[at..at + 2].copy_from_slice(&clamped);
    let mut checksum = [segment[16], segment[17]];
    if at % 2 == 0 {
        checksum = update(checksum, announced, clamped);
    } else {
        // At an odd offset the two bytes belong to different words, each in the other's half.
        checksum = update(checksum, [announced[1], announced[0]], [clamped[1], clamped[0]]);
    }
    segment[16..18].copy_from_slice(&checksum);
    true
}

/// The offset of the MSS value in a TCP segment's options.
fn find_mss(segment: &[u8]) -> Option<usize> {
    let header_len = usize::from(*segment.get(12)? >> 4) * 4;
    let header = segment.get(..header_len)?;
    let mut at = TCP_HEADER;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if kind == OPTION_MSS && len == 4 && at + len <= header.len() {
                    return Some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests;
