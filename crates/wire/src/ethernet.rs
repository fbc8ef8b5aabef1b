//! Ethernet frames (IEEE 802.3) and their VLAN tags (802.1Q), as far as a switch reads them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Malformed, Reader, code_point};

/// Both addresses and the type; no preamble and no check sequence.
pub const HEADER: usize = 14;

/// One VLAN tag.
const TAG: usize = 4;
/// 802.1ad puts one tag in front of another; nobody puts a third.
const MAX_TAGS: usize = 2;
/// The bits of a tag that name a VLAN; zero names none, and the tag says only what goes first.
const VLAN_ID: u16 = 0x0fff;
/// Types below this are lengths: LLC follows (802.3, 3.2.6).
const FIRST_TYPE: u16 = 0x0600;
/// The LLC head of SNAP, behind which an organization and a type follow (RFC 1042).
const SNAP: [u8; 3] = [0xaa, 0xaa, 0x03];

code_point! {
    /// What a frame carries.
    pub struct EtherType(u16) {
        IPV4 = 0x0800,
        ARP = 0x0806,
        VLAN = 0x8100,
        IPV6 = 0x86dd,
        SERVICE_VLAN = 0x88a8,
    }
}

/// A hardware address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is no single station's: broadcast and multicast.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is the address of nobody.
    #[must_use]
    pub fn is_unset(self) -> bool {
        self.0 == [0; 6]
    }

    /// Whether it is one of those that no bridge passes on: spanning tree, pause, LLDP
    /// (802.1Q, table 8-1).
    #[must_use]
    pub fn is_link_local(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] <= 0x0f
    }

    /// The address that packets for a group or for everybody are sent to (RFC 1112, 6.4 and
    /// RFC 2464, 7); `None` for an address that is one host's.
    #[must_use]
    pub fn of_group(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) if address.is_multicast() => {
                let [_, a, b, c] = address.octets();
                Some(Self([0x01, 0x00, 0x5e, a & 0x7f, b, c]))
            }
            IpAddr::V6(address) if address.is_multicast() => Some(Self::of_group_v6(address)),
            IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Self::BROADCAST),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// The address of an IPv6 group.
    pub(crate) fn of_group_v6(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What stands in front of a frame's payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// For whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What the payload is, behind all tags.
    pub ether_type: EtherType,
    /// Where the payload begins.
    pub payload: usize,
    /// Whether one of the tags names no VLAN: hosts read the frame as if that tag were not there
    /// (802.1Q, 6.9).
    pub has_priority_tag: bool,
}

impl Head {
    /// Reads the head of `frame`.
    ///
    /// # Errors
    ///
    /// Fails if it is cut off, or has more tags than any frame has.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        let destination = Mac(reader.array("destination of a frame")?);
        let source = Mac(reader.array("source of a frame")?);
        let (mut payload, mut has_priority_tag) = (HEADER, false);
        for _ in 0..=MAX_TAGS {
            let ether_type = EtherType(reader.u16("type of a frame")?);
            if !matches!(ether_type, EtherType::VLAN | EtherType::SERVICE_VLAN) {
                return Ok(Self { destination, source, ether_type, payload, has_priority_tag });
            }
            has_priority_tag |= reader.u16("VLAN tag")? & VLAN_ID == 0;
            payload += TAG;
        }
        Err(Malformed::Forbidden { what: "number of VLAN tags" })
    }

    /// Whether the frame belongs to a VLAN of its own.
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        self.payload != HEADER
    }

    /// Whether an IP packet is in it, and not in a VLAN of its own.
    #[must_use]
    pub fn is_ip(&self) -> bool {
        !self.is_tagged() && matches!(self.ether_type, EtherType::IPV4 | EtherType::IPV6)
    }

    /// Whether hosts find IP or ARP in `frame`, or a tag, where its type says neither: behind a
    /// tag that names no VLAN, or in LLC and SNAP. Whoever checks what the type says is fooled by
    /// it (CVE-2021-27853, -27854, -27861 and -27862).
    #[must_use]
    pub fn is_disguised(&self, frame: &[u8]) -> bool {
        let in_snap = self.type_in_snap(frame);
        let is_wrapped = self.has_priority_tag || (in_snap.is_some() && !self.is_tagged());
        is_wrapped
            && matches!(
                in_snap.unwrap_or(self.ether_type),
                EtherType::IPV4
                    | EtherType::ARP
                    | EtherType::IPV6
                    | EtherType::VLAN
                    | EtherType::SERVICE_VLAN
            )
    }

    fn type_in_snap(&self, frame: &[u8]) -> Option<EtherType> {
        let payload = frame.get(self.payload..).filter(|_| self.ether_type.0 < FIRST_TYPE)?;
        // Whatever organization it is of: hosts differ in which they take for that of Ethernet.
        let [_, _, _, high, low, ..] = payload.strip_prefix(&SNAP)? else { return None };
        Some(EtherType(u16::from_be_bytes([*high, *low])))
    }
}

/// The head of an untagged frame.
#[must_use]
pub fn head(destination: Mac, source: Mac, ether_type: EtherType) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[..6].copy_from_slice(&destination.0);
    head[6..12].copy_from_slice(&source.0);
    head[12..].copy_from_slice(&ether_type.0.to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_head_reads_back() {
        let bytes = head(A, B, EtherType::ARP);

        let read = Head::parse(&bytes).unwrap();

        let expected = Head {
            destination: A,
            source: B,
            ether_type: EtherType::ARP,
            payload: HEADER,
            has_priority_tag: false,
        };
        assert_eq!(read, expected);
        assert!(!read.is_tagged() && !read.is_ip());
    }

    #[test]
    fn tags_are_skipped_and_seen() {
        let mut bytes = head(A, B, EtherType::SERVICE_VLAN).to_vec();
        bytes.extend([0, 7, 0x81, 0, 0, 9, 0x08, 0]);

        let read = Head::parse(&bytes).unwrap();

        assert_eq!((read.ether_type, read.payload), (EtherType::IPV4, 22));
        assert!(read.is_tagged() && !read.is_ip());
    }

    #[test]
    fn what_only_hosts_see_is_seen() {
        let is_disguised = |ether_type: u16, rest: &[u8]| {
            let bytes = [&head(A, B, EtherType(ether_type))[..], rest].concat();
            Head::parse(&bytes).unwrap().is_disguised(&bytes)
        };
        let snap = |ether_type: u16| {
            let [high, low] = ether_type.to_be_bytes();
            [0xaa, 0xaa, 3, 0, 0, 0, high, low]
        };

        for ether_type in [0x0800_u16, 0x0806, 0x86dd] {
            let [high, low] = ether_type.to_be_bytes();
            assert!(!is_disguised(ether_type, &[]), "nothing is hidden");
            assert!(is_disguised(0x8100, &[0, 0, high, low]));
            assert!(is_disguised(0x88a8, &[0xf0, 0, high, low]), "whatever its priority");
            assert!(is_disguised(0x88a8, &[0, 0, 0x81, 0, 0, 0, high, low]));
            assert!(is_disguised(0x8100, &[0, 0, 0x81, 0, 0, 9, high, low]));
            assert!(!is_disguised(0x8100, &[0, 9, high, low]), "a VLAN is no disguise");
        }
        for ether_type in [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8] {
            assert!(is_disguised(46, &snap(ether_type)), "{ether_type:#x}");
            assert!(is_disguised(0x05ff, &snap(ether_type)), "a length that cannot be");
            assert!(is_disguised(0x8100, &[&[0, 0, 0, 46][..], &snap(ether_type)].concat()));
            assert!(!is_disguised(0x8100, &[&[0, 9, 0, 46][..], &snap(ether_type)].concat()));
            assert!(!is_disguised(46, &snap(ether_type)[..7]), "cut off");
        }
        assert!(!is_disguised(46, &snap(0x2000)), "no business of ours");
        assert!(!is_disguised(0x8100, &[0, 0, 0x88, 0x92]), "PROFINET has priority tags");
        assert!(!is_disguised(46, &[0x42, 0x42, 3, 0, 0, 0, 8, 0]), "spanning tree");
        assert!(!is_disguised(0x88b5, &snap(0x0800)), "a type and no length");
    }

    #[test]
    fn more_tags_than_two_are_refused() {
        let mut bytes = head(A, B, EtherType::VLAN).to_vec();
        bytes.extend([0, 7, 0x81, 0, 0, 9, 0x81, 0, 0, 3, 0x08, 0]);

        assert!(Head::parse(&bytes).is_err());
    }

    #[test]
    fn every_truncation_is_an_error_and_every_corruption_survived() {
        let mut bytes = head(A, B, EtherType::VLAN).to_vec();
        bytes.extend([0, 7, 0x08, 0]);
        for len in 0..bytes.len() {
            assert!(Head::parse(&bytes[..len]).is_err(), "accepted {len} bytes");
        }
        for at in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = Head::parse(&bytes).map(|head| head.is_disguised(&bytes));
            }
        }
    }

    #[test]
    fn groups_have_the_addresses_of_their_rfcs() {
        let of = |address: &str| Mac::of_group(address.parse().unwrap()).map(|mac| mac.to_string());

        assert_eq!(of("224.0.0.251").as_deref(), Some("01:00:5e:00:00:fb"));
        assert_eq!(of("239.255.255.250").as_deref(), Some("01:00:5e:7f:ff:fa"));
        assert_eq!(of("ff02::1:ff00:7").as_deref(), Some("33:33:ff:00:00:07"));
        assert_eq!(of("255.255.255.255").as_deref(), Some("ff:ff:ff:ff:ff:ff"));
        assert_eq!(of("10.0.0.1"), None);
    }
}
