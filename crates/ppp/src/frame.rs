//! A PPP frame without flags, escapes and check sequence: what PPTP, L2TP and SSTP carry.

use std::fmt;

/// What a frame carries (the PPP DLL protocol numbers of IANA).
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Protocol(pub u16);

impl Protocol {
    /// Internet Protocol version 4.
    pub const IPV4: Self = Self(0x0021);
    /// Internet Protocol version 6.
    pub const IPV6: Self = Self(0x0057);
    /// Compressed or, by MPPE, encrypted datagram.
    pub const COMPRESSED: Self = Self(0x00fd);
    /// Internet Protocol Control Protocol (RFC 1332).
    pub const IPCP: Self = Self(0x8021);
    /// IPv6 Control Protocol (RFC 5072).
    pub const IPV6CP: Self = Self(0x8057);
    /// Compression Control Protocol (RFC 1962).
    pub const CCP: Self = Self(0x80fd);
    /// Link Control Protocol (RFC 1661).
    pub const LCP: Self = Self(0xc021);
    /// Password Authentication Protocol (RFC 1334).
    pub const PAP: Self = Self(0xc023);
    /// Challenge Handshake Authentication Protocol (RFC 1994).
    pub const CHAP: Self = Self(0xc223);
    /// Extensible Authentication Protocol (RFC 3748).
    pub const EAP: Self = Self(0xc227);

    /// Whether it carries a network's packets, which MPPE encrypts (RFC 3078, 3: 0x0021 to 0x00fa).
    #[must_use]
    pub fn is_data(self) -> bool {
        (0x0021..=0x00fa).contains(&self.0)
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// Address and control field, where they are not left out (RFC 1662, 3.1).
const ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];

/// A frame taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'b> {
    /// What it carries.
    pub protocol: Protocol,
    /// What follows the protocol field.
    pub information: &'b [u8],
}

impl<'b> Frame<'b> {
    /// Reads a frame whose sender may have left out address and control, and the first byte of the
    /// protocol (RFC 1661, 6.5 and 6.6), whether or not that was agreed: they cannot be mistaken.
    ///
    /// `None` if there is no protocol, or one that cannot be (RFC 1661, 2).
    #[must_use]
    pub fn parse(frame: &'b [u8]) -> Option<Self> {
        let head = head_len(frame)?;
        let (head, information) = frame.split_at_checked(head)?;
        let protocol = match *head {
            [.., high, low] if high & 1 == 0 => u16::from_be_bytes([high, low]),
            [.., low] => u16::from(low),
            [] => return None,
        };
        Some(Self { protocol: Protocol(protocol), information })
    }
}

/// How many bytes stand in front of a frame's information.
#[must_use]
pub fn head_len(frame: &[u8]) -> Option<usize> {
    let before = if frame.starts_with(&ADDRESS_CONTROL) { ADDRESS_CONTROL.len() } else { 0 };
    match frame.get(before..)? {
        [low, ..] if low & 1 == 1 => (*low != 0xff).then_some(before + 1),
        [_, low, ..] if low & 1 == 1 => Some(before + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_head_is_read() {
        for (frame, protocol, information) in [
            (&[0xff, 0x03, 0xc0, 0x21, 1][..], Protocol::LCP, &[1][..]),
            (&[0xc0, 0x21, 1], Protocol::LCP, &[1]),
            (&[0xff, 0x03, 0x00, 0x21, 0x45], Protocol::IPV4, &[0x45]),
            (&[0xff, 0x03, 0x21, 0x45], Protocol::IPV4, &[0x45]),
            (&[0x21, 0x45], Protocol::IPV4, &[0x45]),
            (&[0xfd], Protocol::COMPRESSED, &[]),
            (&[0x00, 0x57], Protocol::IPV6, &[]),
        ] {
            assert_eq!(Frame::parse(frame), Some(Frame { protocol, information }), "{frame:x?}");
        }
    }

    #[test]
    fn what_has_no_protocol_is_no_frame() {
        for frame in [&[][..], &[0xff], &[0xff, 0x03], &[0xc0], &[0xc0, 0x20], &[0xff, 0x03, 0xff]]
        {
            assert_eq!(Frame::parse(frame), None, "{frame:x?}");
        }
    }
}
