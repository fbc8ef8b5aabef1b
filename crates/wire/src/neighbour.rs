//! Who has which address on a link: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::ethernet::Mac;
use crate::ip::{Head, ICMPV6, IPV6_HEADER};
use crate::{Malformed, Reader, code_point};

/// An ARP message about IPv4 on Ethernet.
pub const ARP_LEN: usize = 28;
/// A solicitation, or an advertisement, that names the sender's hardware address: with its IPv6
/// header.
pub const DISCOVERY_LEN: usize = IPV6_HEADER + MESSAGE + OPTION;

const ETHERNET: u16 = 1;
const IPV4: u16 = 0x0800;

/// A solicitation or an advertisement without options.
const MESSAGE: usize = 24;
/// The option that holds a hardware address.
const OPTION: usize = 8;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Options are in units of so many bytes.
const UNIT: usize = 8;

/// Neighbour discovery never crosses a router: what did has another hop limit (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;
/// "This answers a question", "forget what you knew".
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const ROUTER: u8 = 0x80;

code_point! {
    /// What an ARP message is.
    pub struct ArpOperation(u16) {
        REQUEST = 1,
        REPLY = 2,
    }
}

/// An ARP message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// Question or answer.
    pub operation: ArpOperation,
    /// Who says so.
    pub sender_mac: Mac,
    /// Their IPv4 address; unspecified in a probe (RFC 5227, 1.1).
    pub sender: Ipv4Addr,
    /// Unset in a question.
    pub target_mac: Mac,
    /// Who is asked for, or answered.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a frame's payload; bytes behind the message are padding.
    ///
    /// # Errors
    ///
    /// Fails if it is cut off, or not about IPv4 on Ethernet.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let kinds = (reader.u16("ARP hardware type")?, reader.u16("ARP protocol type")?);
        let lengths: [u8; 2] = reader.array("ARP address lengths")?;
        if (kinds, lengths) != ((ETHERNET, IPV4), [6, 4]) {
            return Err(Malformed::Forbidden { what: "ARP address type" });
        }
        Ok(Self {
            operation: ArpOperation(reader.u16("ARP operation")?),
            sender_mac: Mac(reader.array("ARP sender")?),
            sender: reader.array::<4>("ARP sender")?.into(),
            target_mac: Mac(reader.array("ARP target")?),
            target: reader.array::<4>("ARP target")?.into(),
        })
    }

    /// The message.
    #[must_use]
    pub fn write(&self) -> [u8; ARP_LEN] {
        let mut out = [0; ARP_LEN];
        out[..2].copy_from_slice(&ETHERNET.to_be_bytes());
        out[2..4].copy_from_slice(&IPV4.to_be_bytes());
        out[4..6].copy_from_slice(&[6, 4]);
        out[6..8].copy_from_slice(&self.operation.0.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target.octets());
        out
    }
}

code_point! {
    /// The ICMPv6 messages that run an IPv6 link.
    pub struct DiscoveryKind(u8) {
        ROUTER_SOLICITATION = 133,
        ROUTER_ADVERTISEMENT = 134,
        SOLICITATION = 135,
        ADVERTISEMENT = 136,
        REDIRECT = 137,
    }
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Discovery {
    /// Which of the two.
    pub kind: DiscoveryKind,
    /// Who is asked for, or says where they are.
    pub target: Ipv6Addr,
    /// The hardware address of the one who asks or answers, if it is said.
    pub link: Option<Mac>,
}

impl Discovery {
    /// What kind of message of the link an IPv6 packet is, if any; `head` was parsed from it.
    #[must_use]
    pub fn kind(head: &Head, packet: &[u8]) -> Option<DiscoveryKind> {
        let kind = DiscoveryKind(*head.payload(packet).first()?);
        let is_ours = head.protocol == ICMPV6
            && (DiscoveryKind::ROUTER_SOLICITATION..=DiscoveryKind::REDIRECT).contains(&kind);
        is_ours.then_some(kind)
    }

    /// Reads the solicitation or advertisement in `packet`, whose `head` was parsed from it.
    ///
    /// # Errors
    ///
    /// Fails if it is neither, came through a router, is damaged, or an option cannot be
    /// (RFC 4861, 7.1).
    pub fn parse(head: &Head, packet: &[u8]) -> Result<Self, Malformed> {
        let what = "neighbour discovery";
        let message = head.payload(packet);
        // A message has at most 65,535 bytes, for so has its packet.
        let is_intact = head.pseudo(message.len() as u16).plus(message).is_valid();
        let is_near = !head.is_v4() && packet.get(7) == Some(&HOP_LIMIT);
        if !is_intact || !is_near {
            return Err(Malformed::Forbidden { what });
        }
        let mut reader = Reader::new(message);
        let kind = DiscoveryKind(reader.u8(what)?);
        let wanted = match kind {
            DiscoveryKind::SOLICITATION => SOURCE_LINK_ADDRESS,
            DiscoveryKind::ADVERTISEMENT => TARGET_LINK_ADDRESS,
            _ => return Err(Malformed::Forbidden { what }),
        };
        if reader.u8("code of neighbour discovery")? != 0 {
            return Err(Malformed::Forbidden { what: "code of neighbour discovery" });
        }
        reader.bytes(6, what)?;
        let target = Ipv6Addr::from(reader.array::<16>(what)?);
        if target.is_multicast() {
            return Err(Malformed::Forbidden { what: "target of neighbour discovery" });
        }
        let mut link = None;
        while !reader.is_empty() {
            let option = "option of neighbour discovery";
            let kind = reader.u8(option)?;
            let len = (usize::from(reader.u8(option)?) * UNIT)
                .checked_sub(2)
                .ok_or(Malformed::Forbidden { what: option })?;
            let mut value = reader.sub(len, option)?;
            if kind == wanted {
                link = Some(Mac(value.array(option)?));
            }
        }
        Ok(Self { kind, target, link })
    }

    /// The group that the owner of `target` listens to (RFC 4291, 2.7.1).
    #[must_use]
    pub fn group_of(target: Ipv6Addr) -> Ipv6Addr {
        let [.., a, b, c] = target.octets();
        let [low, high] = [u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c])];
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, low, high)
    }

    /// The question of `source`, whose hardware address is `mac`, for `target`.
    #[must_use]
    pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> [u8; DISCOVERY_LEN] {
        let mut out = [0; DISCOVERY_LEN];
        let destination = Self::group_of(target);
        let kind = DiscoveryKind::SOLICITATION;
        write(&mut out, kind, 0, source, destination, target, mac);
        out
    }

    /// The answer for `target`, whose packets `mac` takes, to whoever asked from `asker`. Written
    /// over `out`, the question: without naming `mac` if there is no room for that.
    ///
    /// Returns how many bytes it has; `None` if it does not fit at all.
    pub fn answer(mac: Mac, target: Ipv6Addr, asker: Ipv6Addr, out: &mut [u8]) -> Option<usize> {
        let len = [DISCOVERY_LEN, IPV6_HEADER + MESSAGE].into_iter().find(|n| *n <= out.len())?;
        let out = out.get_mut(..len)?;
        // Whoever asks without an address finds out whether the one they want is taken.
        let (asker, flags) = if asker.is_unspecified() {
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), ROUTER | OVERRIDE)
        } else {
            (asker, ROUTER | SOLICITED | OVERRIDE)
        };
        write(out, DiscoveryKind::ADVERTISEMENT, flags, target, asker, target, mac);
        Some(len)
    }
}

/// Writes header and message over `out`, with the option if there is room behind the message.
fn write(
    out: &mut [u8],
    kind: DiscoveryKind,
    flags: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: Mac,
) {
    out.fill(0);
    let (header, message) = out.split_at_mut(IPV6_HEADER);
    let len = message.len() as u16;
    header[0] = 0x60;
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6..8].copy_from_slice(&[ICMPV6, HOP_LIMIT]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    message[0] = kind.0;
    message[4] = flags;
    message[8..MESSAGE].copy_from_slice(&target.octets());
    if let Some(option) = message.get_mut(MESSAGE..MESSAGE + OPTION) {
        let is_question = kind == DiscoveryKind::SOLICITATION;
        option[0] = if is_question { SOURCE_LINK_ADDRESS } else { TARGET_LINK_ADDRESS };
        option[1] = 1;
        option[2..].copy_from_slice(&mac.0);
    }
    let sum = Sum::pseudo_v6(source.octets(), destination.octets(), ICMPV6, len).plus(message);
    message[2..4].copy_from_slice(&sum.checksum());
}

#[cfg(test)]
mod tests;
