//! Frames, and what is for everybody.

use std::net::IpAddr;

use contract::{
    BRIDGE_PORT, ContentKind, Discard, Fabric, FrameVerdict, HOST_PORT, LinkHead, MAX_QUESTION,
    PortId,
};
use wire::ethernet::{self, EtherType, HEADER};
use wire::ip::{self, Head};

use super::tables::{Entry, MAX_FRAGMENT, Many, Sinks, Tables};
use crate::coalesce::{Coalescer, write_plain};
use crate::counters::PortCounters;
use crate::fragment::Fragments;
use crate::frame::SuperFrame;
use crate::io::Surroundings;
use crate::split::SuperPacket;
use crate::virtio::VirtioHeader;

/// What every station takes, whatever its packets may have: the payload of any Ethernet.
const LEAST_MTU: u16 = 1500;
/// The head of a frame in a VLAN of a VLAN.
const MAX_HEADER: usize = HEADER + 8;

impl<F: Fabric> Tables<F> {
    /// A frame that came out of `entry`'s tunnel.
    pub(super) fn on_frame<'b>(
        &self,
        entry: &Entry,
        frame: &'b mut [u8],
        coalescer: &mut Coalescer<'b>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let (from, len) = (entry.port, frame.len());
        let verdict = self.fabric.switch(from, sinks.now, frame);
        if !matches!(verdict, FrameVerdict::Route | FrameVerdict::Discard(_)) {
            self.count_received(&entry.counters, len);
        }
        match verdict {
            FrameVerdict::Route => {
                let packet = frame.get_mut(HEADER..).ok_or(Discard::Malformed)?;
                self.forward(entry, packet, coalescer, sinks)
            }
            FrameVerdict::Host => {
                let mtu = self.fabric.mtu(from);
                self.frame_to_device(mtu, frame, coalescer, sinks)
            }
            FrameVerdict::Port(BRIDGE_PORT) => {
                // Before frames are joined, for then nobody sees how long they were.
                self.check_len(BRIDGE_PORT, len)?;
                let mtu = self.fabric.mtu(BRIDGE_PORT).min(self.fabric.mtu(from));
                self.frame_to_device(mtu, frame, coalescer, sinks)
            }
            FrameVerdict::Port(to) => {
                self.check_len(to, frame.len())?;
                self.clamp(frame, self.fabric.mtu(to).min(self.fabric.mtu(from)));
                self.send(to, ContentKind::Frame, frame, sinks)
            }
            FrameVerdict::Flood { packet } => self.flood(from, frame, packet, sinks),
            FrameVerdict::Answer(len) => {
                let answer = frame.get(..len).ok_or(Discard::Malformed)?;
                self.send(from, ContentKind::Frame, answer, sinks)
            }
            FrameVerdict::Discard(discard) => Err(discard),
        }
    }

    /// A read of the host's device, which carries frames.
    pub(super) fn outbound_frame(
        &self,
        read: &mut [u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let (virtio, frame) = VirtioHeader::decode(read).map_err(|_| Discard::Malformed)?;
        let to = match self.fabric.switch(HOST_PORT, sinks.now, frame) {
            FrameVerdict::Port(to) => to,
            FrameVerdict::Discard(discard) => return Err(discard),
            _ => return Err(Discard::NoRoute),
        };
        let mut frame = SuperFrame::new(virtio, frame)?;
        frame.clamp_mss(self.fabric.mtu(to));

        if self.seal_all(&frame, to, sinks)? {
            return Ok(());
        }
        let mut room = std::mem::take(&mut sinks.scratch.packet);
        let sent = (0..frame.count()).try_for_each(|index| {
            let one = room.get_mut(..frame.len_of(index)).ok_or(Discard::TooBig)?;
            frame.write(index, one);
            self.send(to, ContentKind::Frame, one, sinks)
        });
        sinks.scratch.packet = room;
        sent
    }

    fn frame_to_device<'b>(
        &self,
        mtu: u16,
        frame: &'b mut [u8],
        coalescer: &mut Coalescer<'b>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let ethernet::Head { ether_type, payload, .. } =
            ethernet::Head::parse(frame).map_err(|_| Discard::Malformed)?;
        self.clamp(frame, mtu);
        let (link, payload) = frame.split_at(payload);
        let is_named = |head: &Head| match ether_type {
            EtherType::IPV4 => head.is_v4(),
            EtherType::IPV6 => !head.is_v4(),
            _ => false,
        };
        // Another protocol's payload may look like a packet and be none.
        match Head::parse(payload).ok().filter(is_named) {
            Some(head) => {
                let packet = &payload[..head.total_len];
                coalescer.push_frame(link, packet, &head, sinks.outside, sinks.offloads)
            }
            None => write_plain(link, payload, sinks.outside),
        }
    }

    /// Whether the station takes a frame of this length. Most would only lose a longer one, but to
    /// many whose tunnel is a stream it is the end of the stream.
    pub(super) fn check_len(&self, to: PortId, len: usize) -> Result<(), Discard> {
        let most = MAX_HEADER + usize::from(self.fabric.mtu(to).max(LEAST_MTU));
        if len <= most { Ok(()) } else { Err(Discard::TooBig) }
    }

    /// Lowers the segment size of a connection that is being opened inside a frame.
    fn clamp(&self, frame: &mut [u8], mtu: u16) {
        let Ok(link) = ethernet::Head::parse(frame) else { return };
        let Some(packet) = frame.get_mut(link.payload..).filter(|_| link.is_ip()) else { return };
        if let Ok(head) = Head::parse(packet)
            && ip::is_syn(packet, &head)
        {
            ip::clamp_mss(packet, &head, mtu);
        }
    }

    /// A copy to every other station, and of the packet at `packet`, if it is one for everybody,
    /// to everybody else.
    pub(super) fn flood(
        &self,
        from: PortId,
        frame: &[u8],
        packet: Option<usize>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let packet = packet.and_then(|at| {
            let packet = frame.get(at..)?;
            let head = Head::parse(packet).ok()?;
            Some((packet.get(..head.total_len)?, head))
        });
        let content = packet.map_or(frame, |(packet, _)| packet);
        let crowd = self.fabric.crowd(from, sinks.now, content, packet.is_some())?;
        let now = sinks.now;
        let is_there = |to: &&PortId| **to != from && !self.fabric.is_apart(**to, now);
        for station in crowd.stations.iter().filter(is_there) {
            let sent = self
                .check_len(*station, frame.len())
                .and_then(|()| self.send(*station, ContentKind::Frame, frame, sinks));
            sinks.note(sent);
        }
        let Some((packet, head)) = packet else { return Ok(()) };
        for member in crowd.members.iter().filter(|member| **member != from) {
            let sent = self.send_copy(*member, packet, &head, sinks);
            sinks.note(sent);
        }
        write_plain(&[], packet, sinks.outside)
    }

    /// A copy of a packet to everybody but `from`.
    pub(super) fn relay(
        &self,
        from: PortId,
        packet: &[u8],
        head: &Head,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let crowd = self.fabric.crowd(from, sinks.now, packet, true)?;
        let now = sinks.now;
        let is_there = |to: &&PortId| **to != from && !self.fabric.is_apart(**to, now);
        let others = crowd.stations.iter().filter(is_there).chain(crowd.members);
        let others = others.filter(|port| **port != from);
        for port in others {
            let sent = self.send_copy(*port, packet, head, sinks);
            sinks.note(sent);
        }
        if from == HOST_PORT { Ok(()) } else { write_plain(&[], packet, sinks.outside) }
    }

    /// The same for packets of the host.
    pub(super) fn relay_all(
        &self,
        packet: &SuperPacket<'_>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let mut room = std::mem::take(&mut sinks.scratch.packet);
        let sent = (0..packet.count()).try_for_each(|index| {
            let one = &mut room[..packet.len_of(index)];
            packet.write(index, one);
            let head = Head::parse(one).map_err(|_| Discard::Malformed)?;
            self.relay(HOST_PORT, one, &head, sinks)
        });
        sinks.scratch.packet = room;
        sent
    }

    /// A copy for one of many: nobody is told if it is too large.
    fn send_copy(
        &self,
        to: PortId,
        packet: &[u8],
        head: &Head,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let mtu = usize::from(self.fabric.mtu(to));
        if packet.len() <= mtu {
            return self.send_packet(to, head.destination, packet, sinks);
        }
        let fragments = Fragments::new(packet, head, mtu).ok_or(Discard::TooBig)?;
        self.send_fragments(to, head.destination, &fragments, sinks)
    }

    pub(super) fn send_fragments(
        &self,
        to: PortId,
        destination: IpAddr,
        fragments: &Fragments<'_>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        // A fragment is never larger than what nearly every link carries, so the stack has room.
        let mut room = [0; MAX_FRAGMENT];
        (0..fragments.count()).try_for_each(|index| {
            let out = room.get_mut(..fragments.len_of(index)).ok_or(Discard::TooBig)?;
            fragments.write(index, out);
            self.send_packet(to, destination, out, sinks)
        })
    }

    /// What goes in front of packets for `destination` at the port; asks if that is not known.
    pub(super) fn link(
        &self,
        to: PortId,
        destination: IpAddr,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<Option<[u8; HEADER]>, Discard> {
        match self.fabric.link_head(to, destination) {
            LinkHead::None => Ok(None),
            LinkHead::Ethernet(link) => Ok(Some(link)),
            LinkHead::Unknown => {
                let mut question = [0; MAX_QUESTION];
                let len = self.fabric.question(to, destination, sinks.now, &mut question);
                if let Some(question) = len.and_then(|len| question.get(..len)) {
                    let asked = self.send(to, ContentKind::Frame, question, sinks);
                    sinks.note(asked);
                }
                Err(Discard::UnknownNeighbour)
            }
        }
    }

    /// A packet out through the port, in a frame if it carries frames.
    pub(super) fn send_packet(
        &self,
        port: PortId,
        destination: IpAddr,
        packet: &[u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        match self.link(port, destination, sinks)? {
            Some(link) => self.send_behind(port, ContentKind::Frame, &link, packet, sinks),
            None => self.send(port, ContentKind::Packet, packet, sinks),
        }
    }

    pub(super) fn count_received(&self, counters: &PortCounters, len: usize) {
        counters.received(1, len as u64);
        self.totals.received(1, len as u64);
    }

    pub(super) fn count_sent(&self, counters: &PortCounters, packets: usize, len: usize) {
        counters.sent(packets as u64, len as u64);
        self.totals.sent(packets as u64, len as u64);
    }
}

impl Many for SuperFrame<'_> {
    fn kind(&self) -> ContentKind {
        ContentKind::Frame
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn len_of(&self, index: usize) -> usize {
        self.len_of(index)
    }

    fn total(&self) -> usize {
        self.total()
    }

    fn write(&self, index: usize, out: &mut [u8]) {
        self.write(index, out);
    }
}

#[cfg(test)]
mod tests;
