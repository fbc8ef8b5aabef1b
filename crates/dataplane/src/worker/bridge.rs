//! The network that the segment is joined to, behind a device that carries frames.

use contract::{BRIDGE_PORT, ContentKind, Discard, Fabric, FrameVerdict, Verdict};
use wire::ethernet::HEADER;
use wire::ip::{self, Head};

use super::tables::{Complaint, Sinks, Tables, packet_head};
use crate::coalesce::{write_plain, write_super};
use crate::frame::SuperFrame;
use crate::io::Surroundings;
use crate::split::SuperPacket;
use crate::virtio::VirtioHeader;

impl<F: Fabric> Tables<F> {
    /// A read of the device.
    pub(super) fn on_bridge(
        &self,
        read: &mut [u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let (virtio, frame) = VirtioHeader::decode(read).map_err(|_| Discard::Malformed)?;
        match self.fabric.switch(BRIDGE_PORT, sinks.now, frame) {
            FrameVerdict::Port(to) => {
                let mut frame = SuperFrame::new(virtio, frame)?;
                self.check_len(to, frame.len_of(0))?;
                frame.clamp_mss(self.fabric.mtu(to));
                if self.seal_all(&frame, to, sinks)? {
                    return Ok(());
                }
                self.each_frame(&frame, sinks, |one, sinks| {
                    self.send(to, ContentKind::Frame, one, sinks)
                })
            }
            FrameVerdict::Flood { packet } => {
                let frame = SuperFrame::new(virtio, frame)?;
                self.each_frame(&frame, sinks, |one, sinks| {
                    self.flood(BRIDGE_PORT, one, packet, sinks)
                })
            }
            FrameVerdict::Route => {
                let virtio = virtio.without(HEADER).ok_or(Discard::Malformed)?;
                let packet = frame.get_mut(HEADER..).ok_or(Discard::Malformed)?;
                self.route_bridged(virtio, packet, sinks)
            }
            FrameVerdict::Answer(len) => {
                let answer = frame.get(..len).ok_or(Discard::Malformed)?;
                self.send(BRIDGE_PORT, ContentKind::Frame, answer, sinks)
            }
            FrameVerdict::Host => Err(Discard::NoRoute),
            FrameVerdict::Discard(discard) => Err(discard),
        }
    }

    /// A packet that was sent to the network itself.
    fn route_bridged(
        &self,
        virtio: VirtioHeader,
        packet: &mut [u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let head = Head::parse(packet).map_err(|_| Discard::Malformed)?;
        let packet = packet.get_mut(..head.total_len).ok_or(Discard::Malformed)?;
        match self.fabric.forward(BRIDGE_PORT, &packet_head(&head, packet.len())) {
            Verdict::Host => write_super(&virtio, packet, sinks.outside),
            Verdict::Port(to) => {
                if ip::decrement_ttl(packet, &head).is_none() {
                    self.complain(BRIDGE_PORT, Complaint::TimeExceeded, packet, &head, sinks);
                    return Err(Discard::TimeExceeded);
                }
                let packet = SuperPacket::new(&virtio, packet)?;
                self.send_super(BRIDGE_PORT, packet, to, sinks)
            }
            Verdict::Flood => Err(Discard::Multicast), // those are sent to everybody, not to us
            Verdict::Discard(discard) => Err(discard),
        }
    }

    /// Does the same to every frame, in scratch memory.
    fn each_frame<S: Surroundings>(
        &self,
        frame: &SuperFrame<'_>,
        sinks: &mut Sinks<'_, S>,
        mut with: impl FnMut(&[u8], &mut Sinks<'_, S>) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        let mut room = std::mem::take(&mut sinks.scratch.packet);
        let done = (0..frame.count()).try_for_each(|index| {
            let one = room.get_mut(..frame.len_of(index)).ok_or(Discard::TooBig)?;
            frame.write(index, one);
            with(one, sinks)
        });
        sinks.scratch.packet = room;
        done
    }

    /// A frame to the device, which lies in two places if it has a head of its own.
    pub(super) fn send_bridged(
        link: &[u8],
        content: &[u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        if !link.is_empty() {
            return write_plain(link, content, sinks.outside);
        }
        let (link, content) = content.split_at_checked(HEADER).ok_or(Discard::Malformed)?;
        write_plain(link, content, sinks.outside)
    }
}
