//! Cuts a super packet from a TUN device into packets, each written straight to where it is sealed.

use contract::Discard;
use wire::checksum::Sum;
use wire::ip::{self, Fragment, Head};

use crate::virtio::{Gso, VirtioHeader};

/// TCP flags that only the last segment may carry: FIN and PSH.
const LAST_ONLY: u8 = 0x09;
/// The TCP flag that only the first segment may carry: CWR (RFC 3168, 6.1.2).
const FIRST_ONLY: u8 = 0x80;

/// One read from a TUN device: an IP packet, or many that share their headers.
#[derive(Debug)]
pub struct SuperPacket<'p> {
    bytes: &'p mut [u8],
    head: Head,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// One packet, complete.
    Plain,
    /// One packet whose checksum at `field` covers everything from `start` and is not yet made.
    Unsummed { start: usize, field: usize },
    /// TCP segments of `size` payload bytes behind `headers` bytes of headers.
    Tcp { headers: usize, size: usize },
    /// UDP datagrams of `size` payload bytes behind `headers` bytes of headers.
    Udp { headers: usize, size: usize },
}

impl<'p> SuperPacket<'p> {
    /// Reads what a TUN device returned, virtio header included.
    ///
    /// # Errors
    ///
    /// Fails if a header cannot be, or the virtio header contradicts the packet.
    pub fn parse(read: &'p mut [u8]) -> Result<Self, Discard> {
        let (virtio, bytes) = VirtioHeader::decode(read).map_err(|_| Discard::Malformed)?;
        Self::new(&virtio, bytes)
    }

    /// The packet, or packets, behind the virtio header.
    pub(crate) fn new(virtio: &VirtioHeader, bytes: &'p mut [u8]) -> Result<Self, Discard> {
        let head = Head::parse(bytes).map_err(|_| Discard::Malformed)?;
        let bytes = &mut bytes[..head.total_len];
        let kind = Kind::of(virtio, &head, bytes).ok_or(Discard::Malformed)?;

        Ok(Self { bytes, head, kind })
    }

    /// The IP header that all packets share.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How many packets there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.kind {
            Kind::Plain | Kind::Unsummed { .. } => 1,
            Kind::Tcp { headers, size } | Kind::Udp { headers, size } => {
                (self.bytes.len() - headers).div_ceil(size).max(1)
            }
        }
    }

    /// The length of packet `index`.
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        match self.kind {
            Kind::Plain | Kind::Unsummed { .. } => self.bytes.len(),
            Kind::Tcp { headers, size } | Kind::Udp { headers, size } => {
                headers + (self.bytes.len() - headers).saturating_sub(index * size).min(size)
            }
        }
    }

    /// The bytes of all packets together.
    #[must_use]
    pub fn total(&self) -> usize {
        match self.kind {
            Kind::Plain | Kind::Unsummed { .. } => self.bytes.len(),
            Kind::Tcp { headers, .. } | Kind::Udp { headers, .. } => {
                self.bytes.len() + headers * (self.count() - 1)
            }
        }
    }

    /// Lowers the segment size that a SYN announces to what fits into packets of `mtu` bytes.
    pub fn clamp_mss(&mut self, mtu: u16) {
        if !ip::is_syn(self.bytes, &self.head) {
            return;
        }
        if let Kind::Unsummed { start, field } = self.kind {
            let sum = Sum::of(&self.bytes[start..]);
            put_checksum(self.bytes, field, sum, self.head.protocol);
            self.kind = Kind::Plain;
        }
        ip::clamp_mss(self.bytes, &self.head, mtu);
    }

    /// Writes packet `index`, complete with all its checksums, copying every byte once.
    ///
    /// # Panics
    ///
    /// If `out` is not [`len_of`](Self::len_of) bytes long.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        match self.kind {
            Kind::Plain => out.copy_from_slice(self.bytes),
            Kind::Unsummed { start, field } => {
                let (before, summed) = self.bytes.split_at(start);
                let (out_before, out_summed) = out.split_at_mut(start);
                out_before.copy_from_slice(before);
                let sum = Sum::default().copy(summed, out_summed);
                put_checksum(out, field, sum, self.head.protocol);
            }
            Kind::Tcp { headers, size } => {
                let sum = self.write_segment(index, headers, size, out);
                self.finish_tcp(index, size, sum, &mut out[..headers]);
            }
            Kind::Udp { headers, size } => {
                let sum = self.write_segment(index, headers, size, out);
                self.finish_udp(sum, out.len() as u16, &mut out[..headers]);
            }
        }
    }

    /// Writes the payload and the headers with the IP header put right; the sum of pseudo header
    /// and payload.
    fn write_segment(&self, index: usize, headers: usize, size: usize, out: &mut [u8]) -> Sum {
        let len = out.len();
        let payload = &self.bytes[headers + index * size..][..len - headers];
        let (out_headers, out_payload) = out.split_at_mut(headers);
        out_headers.copy_from_slice(&self.bytes[..headers]);
        if self.head.is_v4() {
            let id = u16::from_be_bytes([out_headers[4], out_headers[5]]);
            out_headers[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            out_headers[4..6].copy_from_slice(&id.wrapping_add(index as u16).to_be_bytes());
            out_headers[10..12].fill(0);
            let checksum = Sum::of(&out_headers[..self.head.header_len]).checksum();
            out_headers[10..12].copy_from_slice(&checksum);
        } else {
            let behind = (len - ip::IPV6_HEADER) as u16;
            out_headers[4..6].copy_from_slice(&behind.to_be_bytes());
        }

        self.head.pseudo((len - self.head.transport) as u16).copy(payload, out_payload)
    }

    fn finish_tcp(&self, index: usize, size: usize, sum: Sum, headers: &mut [u8]) {
        let tcp = &mut headers[self.head.transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add((index * size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index > 0 {
            tcp[13] &= !FIRST_ONLY;
        }
        if index + 1 < self.count() {
            tcp[13] &= !LAST_ONLY;
        }
        tcp[16..18].fill(0);
        let checksum = sum.plus(tcp).checksum();
        tcp[16..18].copy_from_slice(&checksum);
    }

    fn finish_udp(&self, sum: Sum, len: u16, headers: &mut [u8]) {
        let udp = &mut headers[self.head.transport..];
        let behind = len - self.head.transport as u16;
        udp[4..6].copy_from_slice(&behind.to_be_bytes());
        udp[6..8].fill(0);
        let checksum = sum.plus(udp);
        put_checksum(udp, 6, checksum, ip::UDP);
    }
}

impl Kind {
    fn of(virtio: &VirtioHeader, head: &Head, packet: &[u8]) -> Option<Self> {
        let size = usize::from(virtio.segment_size);
        let cuttable = size > 0 && head.fragment == Fragment::Whole;
        match virtio.gso {
            Gso::None => Self::single(virtio, packet),
            Gso::TcpV4 | Gso::TcpV6 => {
                let right_version = head.is_v4() == (virtio.gso == Gso::TcpV4);
                let offset = usize::from(head.payload(packet).get(12)? >> 4) * 4;
                let headers = head.transport + offset;
                (cuttable
                    && right_version
                    && head.protocol == ip::TCP
                    && offset >= ip::TCP_HEADER
                    && headers <= packet.len())
                .then_some(Self::Tcp { headers, size })
            }
            Gso::Udp => {
                let headers = head.transport + ip::UDP_HEADER;
                (cuttable && head.protocol == ip::UDP && headers <= packet.len())
                    .then_some(Self::Udp { headers, size })
            }
        }
    }

    fn single(virtio: &VirtioHeader, packet: &[u8]) -> Option<Self> {
        let Some((start, offset)) = virtio.checksum else { return Some(Self::Plain) };
        let (start, offset) = (usize::from(start), usize::from(offset));
        let field = start + offset;
        // A field at an odd offset, or outside of what it covers, is nobody's checksum.
        (offset.is_multiple_of(2) && field + 2 <= packet.len())
            .then_some(Self::Unsummed { start, field })
    }
}

/// Writes the checksum over `sum`, which includes what the field itself holds.
fn put_checksum(bytes: &mut [u8], field: usize, sum: Sum, protocol: u8) {
    let checksum = match sum.checksum() {
        // RFC 768: zero would mean that there is none.
        [0, 0] if protocol == ip::UDP => [0xff, 0xff],
        checksum => checksum,
    };
    bytes[field..field + 2].copy_from_slice(&checksum);
}

#[cfg(test)]
mod tests;
