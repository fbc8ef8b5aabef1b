//! Cuts what a TAP device returned into frames, each written straight to where it is sealed.

use contract::Discard;
use wire::ethernet::{self, EtherType};
use wire::ip;

use crate::split::SuperPacket;
use crate::virtio::{Gso, VirtioHeader};

/// One read from a TAP device: a frame, or many that share their heads.
#[derive(Debug)]
pub struct SuperFrame<'p> {
    link: &'p [u8],
    content: Content<'p>,
}

#[derive(Debug)]
enum Content<'p> {
    Packet(SuperPacket<'p>),
    /// Anything but a sound IP packet.
    Other(&'p [u8]),
}

impl<'p> SuperFrame<'p> {
    /// Reads what a TAP device returned, virtio header included.
    ///
    /// # Errors
    ///
    /// Fails if a head cannot be, or the virtio header contradicts the frame.
    pub fn parse(read: &'p mut [u8]) -> Result<Self, Discard> {
        let (virtio, frame) = VirtioHeader::decode(read).map_err(|_| Discard::Malformed)?;
        Self::new(virtio, frame)
    }

    /// The frame, or frames, behind the virtio header.
    pub(crate) fn new(mut virtio: VirtioHeader, frame: &'p mut [u8]) -> Result<Self, Discard> {
        let head = ethernet::Head::parse(frame).map_err(|_| Discard::Malformed)?;
        let (link, payload) = frame.split_at_mut(head.payload);
        let is_ip = matches!(head.ether_type, EtherType::IPV4 | EtherType::IPV6)
            && ip::Head::parse(payload).is_ok();
        if is_ip {
            if let Some((start, _)) = &mut virtio.checksum {
                // The kernel counts from the frame's first byte.
                let start_of_packet = start.checked_sub(head.payload as u16);
                *start = start_of_packet.ok_or(Discard::Malformed)?;
            }
            let packet = SuperPacket::new(&virtio, payload)?;
            return Ok(Self { link, content: Content::Packet(packet) });
        }
        if virtio.gso != Gso::None || virtio.checksum.is_some() {
            return Err(Discard::Malformed);
        }
        Ok(Self { link, content: Content::Other(payload) })
    }

    /// How many frames there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.content {
            Content::Packet(packet) => packet.count(),
            Content::Other(_) => 1,
        }
    }

    /// The length of frame `index`.
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        self.link.len()
            + match &self.content {
                Content::Packet(packet) => packet.len_of(index),
                Content::Other(payload) => payload.len(),
            }
    }

    /// The bytes of all frames together.
    #[must_use]
    pub fn total(&self) -> usize {
        match &self.content {
            Content::Packet(packet) => packet.total() + self.link.len() * packet.count(),
            Content::Other(payload) => self.link.len() + payload.len(),
        }
    }

    /// Lowers the segment size that a SYN announces to what fits into packets of `mtu` bytes.
    pub fn clamp_mss(&mut self, mtu: u16) {
        if let Content::Packet(packet) = &mut self.content {
            packet.clamp_mss(mtu);
        }
    }

    /// Writes frame `index`, complete with all its checksums, copying every byte once.
    ///
    /// # Panics
    ///
    /// If `out` is not [`len_of`](Self::len_of) bytes long.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        let (link, rest) = out.split_at_mut(self.link.len());
        link.copy_from_slice(self.link);
        match &self.content {
            Content::Packet(packet) => packet.write(index, rest),
            Content::Other(payload) => rest.copy_from_slice(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Blueprint, virtio};

    const LINK: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

    fn frames(read: &mut [u8]) -> Result<Vec<Vec<u8>>, Discard> {
        let frame = SuperFrame::parse(read)?;
        let write = |index| {
            let mut out = vec![0; frame.len_of(index)];
            frame.write(index, &mut out);
            out
        };
        let frames = (0..frame.count()).map(write).collect::<Vec<_>>();
        assert_eq!(frames.iter().map(Vec::len).sum::<usize>(), frame.total());
        Ok(frames)
    }

    #[test]
    fn every_segment_has_the_head_of_the_whole() {
        let whole = Blueprint { payload: vec![9; 2500], ..Blueprint::tcp(1, 2) };
        let mut read =
            [&virtio(true, 1, [54, 1000, 34, 16])[..], &LINK, &whole.build_unsummed()].concat();

        let frames = frames(&mut read).unwrap();

        let piece = |n: u16, len| Blueprint {
            id: 1 + n,
            sequence: 1000 + u32::from(n) * 1000,
            payload: vec![9; len],
            ..whole.clone()
        };
        let expected = [piece(0, 1000), piece(1, 1000), piece(2, 500)];
        let expected = expected.map(|piece| [&LINK[..], &piece.build()].concat());
        assert_eq!(frames, expected);
    }

    #[test]
    fn a_checksum_left_open_is_counted_from_the_frame() {
        let packet = Blueprint::udp(1, 2);
        let mut read =
            [&virtio(true, 0, [0, 0, 34, 6])[..], &LINK, &packet.build_unsummed()].concat();

        assert_eq!(frames(&mut read).unwrap(), [[&LINK[..], &packet.build()].concat()]);
    }

    #[test]
    fn any_other_frame_passes_as_it_is() {
        let arp = [&LINK[..12], &[8, 6], &[7; 46]].concat();
        let odd = [&LINK[..], &[0xff; 20]].concat();
        for frame in [arp, odd] {
            let mut read = [&[0; 10][..], &frame].concat();

            assert_eq!(frames(&mut read).unwrap(), [frame]);
        }
    }

    #[test]
    fn offloads_of_what_is_no_packet_are_refused() {
        for header in [virtio(true, 0, [0, 0, 34, 6]), virtio(false, 1, [54, 1000, 0, 0])] {
            let mut read = [&header[..], &LINK[..12], &[8, 6], &[7; 46]].concat();
            assert_eq!(frames(&mut read), Err(Discard::Malformed));
        }
        let packet = Blueprint::udp(1, 2).build_unsummed();
        let mut read = [&virtio(true, 0, [0, 0, 13, 6])[..], &LINK, &packet].concat();
        assert_eq!(frames(&mut read), Err(Discard::Malformed), "a checksum inside the head");
        assert!(frames(&mut [0; 23]).is_err());
    }
}
