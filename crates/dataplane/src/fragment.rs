//! Cuts an IPv4 packet into fragments (RFC 791, 3.2).

use wire::checksum::Sum;
use wire::ip::{Head, IPV4_HEADER};

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The fragments of one packet.
#[derive(Debug)]
pub(crate) struct Fragments<'p> {
    packet: &'p [u8],
    /// Payload bytes in every fragment but the last: a multiple of eight.
    chunk: usize,
}

impl<'p> Fragments<'p> {
    /// `None` if the packet must not or cannot be cut to fit `mtu`: IPv6, "don't fragment", or
    /// with options, which are too rare to be worth the rules about copying them.
    pub(crate) fn new(packet: &'p [u8], head: &Head, mtu: usize) -> Option<Self> {
        let chunk = mtu.checked_sub(IPV4_HEADER)? / 8 * 8;
        let may = head.is_v4() && !head.dont_fragment && head.header_len == IPV4_HEADER;
        (may && chunk > 0).then_some(Self { packet: &packet[..head.total_len], chunk })
    }

    pub(crate) fn count(&self) -> usize {
        (self.packet.len() - IPV4_HEADER).div_ceil(self.chunk)
    }

    pub(crate) fn len_of(&self, index: usize) -> usize {
        let left = (self.packet.len() - IPV4_HEADER).saturating_sub(index * self.chunk);
        IPV4_HEADER + left.min(self.chunk)
    }

    /// Writes fragment `index` into `out`, which must be [`len_of`](Self::len_of) bytes long.
    pub(crate) fn write(&self, index: usize, out: &mut [u8]) {
        let (header, payload) = self.packet.split_at(IPV4_HEADER);
        let len = out.len();
        let (out_header, out_payload) = out.split_at_mut(IPV4_HEADER);
        out_payload.copy_from_slice(&payload[index * self.chunk..][..len - IPV4_HEADER]);
        out_header.copy_from_slice(header);

        // What is cut may be a fragment itself: its offset is added, its last piece is not ours.
        let field = u16::from_be_bytes([header[6], header[7]]);
        let offset = (field & OFFSET).wrapping_add((index * self.chunk / 8) as u16) & OFFSET;
        let more = if index + 1 < self.count() { MORE_FRAGMENTS } else { field & MORE_FRAGMENTS };
        out_header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out_header[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        out_header[10..12].fill(0);
        let checksum = Sum::of(out_header).checksum();
        out_header[10..12].copy_from_slice(&checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: usize, flags: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0xab, 0xcd, 0, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet.extend((0..payload).map(|n| n as u8));
        packet
    }

    #[test]
    fn fragments_put_together_are_the_packet() {
        for (len, mtu) in [(3000, 1400), (1381, 1400), (577, 68), (8, 28)] {
            let packet = packet(len, 0);
            let head = Head::parse(&packet).unwrap();
            let fragments = Fragments::new(&packet, &head, mtu).unwrap();
            let mut whole = vec![0; len];

            for index in 0..fragments.count() {
                let mut out = vec![0; fragments.len_of(index)];
                fragments.write(index, &mut out);
                let field = u16::from_be_bytes([out[6], out[7]]);
                let at = usize::from(field & OFFSET) * 8;
                let more = field & MORE_FRAGMENTS != 0;

                assert!(out.len() <= mtu && Sum::of(&out[..20]).is_valid());
                assert_eq!(more, index + 1 < fragments.count());
                assert_eq!(Head::parse(&out).unwrap().total_len, out.len());
                whole[at..][..out.len() - 20].copy_from_slice(&out[20..]);
            }

            assert_eq!(whole, packet[20..]);
        }
    }

    #[test]
    fn a_fragment_of_a_fragment_keeps_its_place() {
        let packet = packet(64, MORE_FRAGMENTS | 100);
        let head = Head::parse(&packet).unwrap();
        let fragments = Fragments::new(&packet, &head, 60).unwrap();
        let mut last = vec![0; fragments.len_of(1)];

        fragments.write(1, &mut last);

        assert_eq!(fragments.count(), 2);
        assert_eq!(u16::from_be_bytes([last[6], last[7]]), MORE_FRAGMENTS | 105);
    }

    #[test]
    fn a_packet_that_forbids_it_is_not_cut() {
        let packet = packet(2000, 0x4000);
        let head = Head::parse(&packet).unwrap();

        assert!(Fragments::new(&packet, &head, 1400).is_none());
    }
}
