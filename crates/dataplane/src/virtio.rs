//! The header that a TUN device puts in front of every packet (`struct virtio_net_hdr`,
//! virtio 1.2, 5.1.6), in the machine's own byte order as TUN uses it.

use wire::Malformed;

/// The length of the header, without `num_buffers`, which TUN leaves out.
pub const VIRTIO_HEADER: usize = 10;

/// The transport checksum holds the pseudo header only; whoever sends the packet completes it.
const NEEDS_CHECKSUM: u8 = 1;
/// Set beside the type when a segment carries CWR, which only the first may keep.
const GSO_ECN: u8 = 0x80;

const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

/// How a packet larger than the MTU is to be cut.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Gso {
    /// It is not.
    #[default]
    None,
    /// Into TCP segments in IPv4 packets.
    TcpV4,
    /// Into TCP segments in IPv6 packets.
    TcpV6,
    /// Into UDP datagrams.
    Udp,
}

/// What the kernel and we tell each other about one packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VirtioHeader {
    /// Where the transport header starts and, from there, where its checksum stands, if that
    /// checksum still has to be completed.
    pub checksum: Option<(u16, u16)>,
    /// How to cut the packet.
    pub gso: Gso,
    /// Payload bytes in each piece but the last.
    pub segment_size: u16,
    /// The length of all headers; a hint, never trusted.
    pub header_len: u16,
}

impl VirtioHeader {
    /// Splits the header off what a TUN device returned.
    ///
    /// # Errors
    ///
    /// Fails if there is no whole header, or one asks for an offload that was never agreed on.
    pub fn decode(bytes: &mut [u8]) -> Result<(Self, &mut [u8]), Malformed> {
        let what = "virtio header";
        let (raw, packet) =
            bytes.split_first_chunk_mut::<VIRTIO_HEADER>().ok_or(Malformed::Truncated { what })?;
        let word = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        let gso = match raw[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP_V4 => Gso::TcpV4,
            GSO_TCP_V6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return Err(Malformed::Forbidden { what }),
        };
        let checksum = (raw[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));

        Ok((Self { checksum, gso, segment_size: word(4), header_len: word(2) }, packet))
    }

    /// The same about what follows the first `len` bytes; `None` if the checksum is among them.
    #[must_use]
    pub fn without(mut self, len: usize) -> Option<Self> {
        if let Some((start, _)) = &mut self.checksum {
            *start = start.checked_sub(u16::try_from(len).ok()?)?;
        }
        Some(self)
    }

    /// The header as a TUN device wants it in front of a packet.
    #[must_use]
    pub fn encode(&self) -> [u8; VIRTIO_HEADER] {
        let (start, offset) = self.checksum.unwrap_or_default();
        let mut raw = [0; VIRTIO_HEADER];
        raw[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        raw[1] = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCP_V4,
            Gso::TcpV6 => GSO_TCP_V6,
            Gso::Udp => GSO_UDP_L4,
        };
        raw[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        raw[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        raw[6..8].copy_from_slice(&start.to_ne_bytes());
        raw[8..10].copy_from_slice(&offset.to_ne_bytes());
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            let header =
                VirtioHeader { checksum: Some((40, 16)), gso, segment_size: 1400, header_len: 60 };
            let mut bytes = [&header.encode()[..], b"packet"].concat();

            let (decoded, packet) = VirtioHeader::decode(&mut bytes).unwrap();

            assert_eq!((decoded, &*packet), (header, &b"packet"[..]));
        }
    }

    #[test]
    fn a_plain_packet_has_a_header_of_zeros() {
        assert_eq!(VirtioHeader::default().encode(), [0; VIRTIO_HEADER]);
    }

    #[test]
    fn an_unknown_offload_is_refused() {
        let mut bytes = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0];

        assert!(VirtioHeader::decode(&mut bytes).is_err());
        assert!(VirtioHeader::decode(&mut bytes[..9]).is_err());
    }
}
