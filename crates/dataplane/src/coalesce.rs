//! Joins packets of one flow into super packets for a TUN device, without copying a payload.

use std::io::{self, IoSlice};

use arrayvec::ArrayVec;
use contract::Discard;
use wire::checksum::Sum;
use wire::ethernet::HEADER;
use wire::ip::{self, Fragment, Head};

use crate::io::{Offloads, TunIo};
use crate::virtio::{Gso, VirtioHeader};

/// How many flows may grow at the same time; one more writes out the oldest.
const MAX_RUNS: usize = 16;
/// How many packets make one super packet: 64 KiB of the usual 1400 bytes, and some.
const MAX_PACKETS: usize = 64;
/// The most bytes an IP packet has.
const MAX_LEN: usize = 65_535;
/// The longest headers that are joined: IPv6 and TCP with all its options, behind the head of a
/// frame with two tags.
const MAX_HEADERS: usize = MAX_LINK + ip::IPV6_HEADER + 60;
const MAX_LINK: usize = 22;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Packets on their way to the TUN device, kept as slices of the buffers they arrived in.
///
/// Packets of a flow leave in the order they came. What is still held when the coalescer is
/// dropped is lost, so [`flush`](Self::flush) it.
#[derive(Debug, Default)]
pub struct Coalescer<'b> {
    /// Oldest first; at most one per flow.
    runs: ArrayVec<Run<'b>, MAX_RUNS>,
}

/// Consecutive packets of one flow that can become one.
#[derive(Debug)]
struct Run<'b> {
    flow: Flow<'b>,
    /// Bytes of IP and transport headers, the same in every packet.
    headers: usize,
    /// Where the transport header starts.
    transport: usize,
    /// Payload bytes of every packet but the last.
    size: usize,
    /// The TCP sequence number that comes next; unused with UDP.
    next: u32,
    /// Length of the packet they make together.
    len: usize,
    /// Whether the first packet's checksum was found right; it is not asked before it matters.
    verified: bool,
    packets: ArrayVec<&'b [u8], MAX_PACKETS>,
}

/// Protocol, and the header bytes from source address to destination port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Flow<'b> {
    link: Link<'b>,
    protocol: u8,
    bytes: &'b [u8],
}

/// What stands in front of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link<'b> {
    /// The head of the frame that it came in; nothing, where packets travel without.
    Its(&'b [u8]),
    /// The head of a frame that is made for it.
    New([u8; HEADER]),
}

impl Link<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Its(bytes) => bytes,
            Self::New(bytes) => bytes,
        }
    }
}

/// A packet that might be joined with others.
struct Candidate<'b> {
    packet: &'b [u8],
    head: Head,
    flow: Flow<'b>,
    headers: usize,
    sequence: u32,
    /// Whether nothing may follow it in its super packet.
    last: bool,
}

/// What becomes of a packet's flow.
enum Role<'b> {
    /// Can be joined with its neighbours.
    Joins(Candidate<'b>),
    /// Belongs to a flow, must go out alone.
    Alone(Flow<'b>),
    /// Belongs to no flow that is ever joined.
    Stranger,
    /// A fragment, which could belong to any flow.
    Unknown,
}

impl<'b> Coalescer<'b> {
    /// Takes a packet; writes what it makes complete.
    ///
    /// `head` must have been parsed from `packet`, and `packet` end where it says.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the device refused something, which is lost.
    pub fn push(
        &mut self,
        packet: &'b [u8],
        head: &Head,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        self.push_frame(&[], packet, head, tun, offloads)
    }

    /// Takes a packet that travels in a frame with this head.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_frame(
        &mut self,
        link: &'b [u8],
        packet: &'b [u8],
        head: &Head,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        self.push_linked(Link::Its(link), packet, head, tun, offloads)
    }

    /// Takes a packet that is to travel in a frame with this head.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_behind(
        &mut self,
        link: [u8; HEADER],
        packet: &'b [u8],
        head: &Head,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        self.push_linked(Link::New(link), packet, head, tun, offloads)
    }

    fn push_linked(
        &mut self,
        link: Link<'b>,
        packet: &'b [u8],
        head: &Head,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        match role(link, packet, head, *offloads) {
            Role::Joins(candidate) => self.join(candidate, tun, offloads),
            Role::Alone(flow) => {
                self.release(flow, tun, offloads)?;
                write_plain(link.bytes(), packet, tun)
            }
            Role::Stranger => write_plain(link.bytes(), packet, tun),
            Role::Unknown => {
                self.flush(tun, offloads)?;
                write_plain(link.bytes(), packet, tun)
            }
        }
    }

    /// Writes everything out.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the device refused something; the rest has been written.
    pub fn flush(&mut self, tun: &mut impl TunIo, offloads: &mut Offloads) -> Result<(), Discard> {
        let mut result = Ok(());
        for run in &self.runs {
            let written = run.write(tun, offloads);
            result = result.and(written);
        }
        self.runs.clear();
        result
    }

    fn join(
        &mut self,
        candidate: Candidate<'b>,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        let position = self.runs.iter().rposition(|run| run.flow == candidate.flow);
        if let Some(at) = position {
            if self.runs[at].accepts(&candidate) {
                let short = self.runs[at].append(&candidate);
                if short || candidate.last {
                    return self.runs.remove(at).write(tun, offloads);
                }
                return Ok(());
            }
            self.runs.remove(at).write(tun, offloads)?;
        }

        if candidate.last {
            return write_plain(candidate.flow.link.bytes(), candidate.packet, tun);
        }
        if self.runs.is_full() {
            self.runs.remove(0).write(tun, offloads)?;
        }
        self.runs.push(Run::start(&candidate));
        Ok(())
    }

    fn release(
        &mut self,
        flow: Flow<'_>,
        tun: &mut impl TunIo,
        offloads: &mut Offloads,
    ) -> Result<(), Discard> {
        match self.runs.iter().position(|run| run.flow == flow) {
            Some(at) => self.runs.remove(at).write(tun, offloads),
            None => Ok(()),
        }
    }
}

fn role<'b>(link: Link<'b>, packet: &'b [u8], head: &Head, offloads: Offloads) -> Role<'b> {
    let joinable = match head.protocol {
        ip::TCP => offloads.gso,
        ip::UDP => offloads.uso,
        _ => return Role::Stranger,
    };
    if head.fragment != Fragment::Whole {
        return Role::Unknown;
    }
    let addresses = if head.is_v4() { 12..20 } else { 8..40 };
    // Options and extension headers are rare, and what they mean when joined is not ours to say.
    let plain = head.transport == addresses.end;
    let Some(bytes) = packet.get(addresses.start..addresses.end + 4).filter(|_| plain) else {
        return Role::Unknown;
    };
    let flow = Flow { link, protocol: head.protocol, bytes };
    if !joinable || link.bytes().len() > MAX_LINK {
        return Role::Alone(flow);
    }

    let segment = head.payload(packet);
    let candidate = match head.protocol {
        ip::TCP => tcp_candidate(packet, segment, head, flow),
        _ => udp_candidate(packet, segment, head, flow),
    };
    candidate.map_or(Role::Alone(flow), Role::Joins)
}

fn tcp_candidate<'b>(
    packet: &'b [u8],
    segment: &[u8],
    head: &Head,
    flow: Flow<'b>,
) -> Option<Candidate<'b>> {
    let tcp = segment.first_chunk::<{ ip::TCP_HEADER }>()?;
    let len = usize::from(tcp[12] >> 4) * 4;
    let flags = tcp[13];
    let carries_data = len >= ip::TCP_HEADER && len < segment.len();
    (carries_data && flags & !PSH == ACK).then_some(Candidate {
        packet,
        head: *head,
        flow,
        headers: head.transport + len,
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        last: flags & PSH != 0,
    })
}

fn udp_candidate<'b>(
    packet: &'b [u8],
    segment: &[u8],
    head: &Head,
    flow: Flow<'b>,
) -> Option<Candidate<'b>> {
    let udp = segment.first_chunk::<{ ip::UDP_HEADER }>()?;
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    let summed = udp[6..8] != [0, 0];
    (len == segment.len() && len > ip::UDP_HEADER && summed).then_some(Candidate {
        packet,
        head: *head,
        flow,
        headers: head.transport + ip::UDP_HEADER,
        sequence: 0,
        last: false,
    })
}

impl<'b> Candidate<'b> {
    fn payload_len(&self) -> usize {
        self.packet.len() - self.headers
    }
}

impl<'b> Run<'b> {
    fn start(first: &Candidate<'b>) -> Self {
        let mut packets = ArrayVec::new();
        packets.push(first.packet);
        Self {
            flow: first.flow,
            headers: first.headers,
            transport: first.head.transport,
            size: first.payload_len(),
            next: first.sequence.wrapping_add(first.payload_len() as u32),
            len: first.packet.len(),
            verified: false,
            packets,
        }
    }

    /// Whether the candidate continues the run: same headers but for what segmentation makes of
    /// them, next in sequence, no larger, and every checksum right.
    fn accepts(&mut self, next: &Candidate<'b>) -> bool {
        let continues = next.headers == self.headers
            && next.payload_len() <= self.size
            && self.flow.link.bytes().len() + self.len + next.payload_len() <= MAX_LEN
            && !self.packets.is_full()
            && self.same_headers(next.packet)
            && (self.flow.protocol == ip::UDP || next.sequence == self.next);
        if !continues {
            return false;
        }
        // The super packet tells the kernel that its checksum is good, so it has to be.
        self.verified = self.verified || is_intact(self.packets[0], &next.head);
        self.verified && is_intact(next.packet, &next.head)
    }

    fn same_headers(&self, packet: &[u8]) -> bool {
        let first = &self.packets[0][..self.headers];
        let packet = &packet[..self.headers];
        let (ip, transport) = first.split_at(self.transport);
        let (other_ip, other) = packet.split_at(self.transport);
        // Left out: length, id and checksum of IPv4; length of IPv6. Addresses are the flow's.
        let same_ip = if ip.len() == ip::IPV4_HEADER {
            ip[..2] == other_ip[..2] && ip[6..10] == other_ip[6..10]
        } else {
            ip[..4] == other_ip[..4] && ip[6..8] == other_ip[6..8]
        };
        // Left out: sequence number, PSH and checksum of TCP; length and checksum of UDP.
        let same_transport = self.flow.protocol == ip::UDP
            || (transport[8..13] == other[8..13]
                && transport[14..16] == other[14..16]
                && transport[18..] == other[18..]);
        same_ip && same_transport
    }

    /// Whether the packet was shorter than the others, which ends the run.
    fn append(&mut self, next: &Candidate<'b>) -> bool {
        self.packets.push(next.packet);
        self.len += next.payload_len();
        self.next = self.next.wrapping_add(next.payload_len() as u32);
        next.payload_len() < self.size
    }

    fn write(&self, tun: &mut impl TunIo, offloads: &mut Offloads) -> Result<(), Discard> {
        if let [only] = self.packets[..] {
            return write_plain(self.flow.link.bytes(), only, tun);
        }
        match self.write_joined(tun) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                // It will not get better, so never ask again; nothing has been lost yet.
                match self.flow.protocol {
                    ip::UDP => offloads.uso = false,
                    _ => offloads.gso = false,
                }
                let link = self.flow.link.bytes();
                self.packets.iter().try_for_each(|packet| write_plain(link, packet, tun))
            }
            other => other.map_err(|_| Discard::NoBuffer),
        }
    }

    fn write_joined(&self, tun: &mut impl TunIo) -> io::Result<()> {
        let is_v4 = self.transport == ip::IPV4_HEADER;
        let is_tcp = self.flow.protocol == ip::TCP;
        let link = self.flow.link.bytes();
        let mut room = [0; MAX_HEADERS];
        let heads = &mut room[..link.len() + self.headers];
        let (link_head, headers) = heads.split_at_mut(link.len());
        link_head.copy_from_slice(link);
        headers.copy_from_slice(&self.packets[0][..self.headers]);
        self.fix_headers(headers, is_v4, is_tcp);

        let transport = link.len() + self.transport;
        let virtio = VirtioHeader {
            checksum: Some((transport as u16, if is_tcp { 16 } else { 6 })),
            gso: match (is_tcp, is_v4) {
                (true, true) => Gso::TcpV4,
                (true, false) => Gso::TcpV6,
                (false, _) => Gso::Udp,
            },
            segment_size: self.size as u16,
            header_len: heads.len() as u16,
        }
        .encode();
        let mut pieces = ArrayVec::<IoSlice<'_>, { MAX_PACKETS + 2 }>::new();
        pieces.push(IoSlice::new(&virtio));
        pieces.push(IoSlice::new(heads));
        pieces.extend(self.packets.iter().map(|packet| IoSlice::new(&packet[self.headers..])));
        put(link, &pieces, tun)
    }

    /// Lengths for the whole, PSH if the last packet had it, the checksum left to the device.
    fn fix_headers(&self, headers: &mut [u8], is_v4: bool, is_tcp: bool) {
        let (ip, transport) = headers.split_at_mut(self.transport);
        let behind = (self.len - self.transport) as u16;
        let pseudo = if is_v4 {
            ip[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
            ip[10..12].fill(0);
            let checksum = Sum::of(ip).checksum();
            ip[10..12].copy_from_slice(&checksum);
            Sum::of(&ip[12..20])
        } else {
            ip[4..6].copy_from_slice(&behind.to_be_bytes());
            Sum::of(&ip[8..40])
        };
        let pseudo = pseudo.plus_u16(self.flow.protocol.into()).plus_u16(behind).folded();
        if is_tcp {
            let last = self.packets.last().map_or(0, |packet| packet[self.transport + 13]);
            transport[13] |= last & PSH;
            transport[16..18].copy_from_slice(&pseudo);
        } else {
            transport[4..6].copy_from_slice(&behind.to_be_bytes());
            transport[6..8].copy_from_slice(&pseudo);
        }
    }
}

/// Whether every checksum is right. `head` may be that of a neighbour in the flow: addresses,
/// protocol and offsets are what counts.
fn is_intact(packet: &[u8], head: &Head) -> bool {
    let (header, segment) = packet.split_at(head.transport);
    head.pseudo(segment.len() as u16).plus(segment).is_valid()
        && (!head.is_v4() || Sum::of(header).is_valid())
}

/// Writes a packet as it is, behind the head of its frame if it has one.
pub(crate) fn write_plain(link: &[u8], packet: &[u8], tun: &mut impl TunIo) -> Result<(), Discard> {
    let virtio = VirtioHeader::default().encode();
    let pieces = [IoSlice::new(&virtio), IoSlice::new(link), IoSlice::new(packet)];
    put(link, &pieces, tun).map_err(|_| Discard::NoBuffer)
}

/// Writes a packet as the kernel gave it, with what is left to do about it.
pub(crate) fn write_super(
    virtio: &VirtioHeader,
    packet: &[u8],
    tun: &mut impl TunIo,
) -> Result<(), Discard> {
    let virtio = virtio.encode();
    let pieces = [IoSlice::new(&virtio), IoSlice::new(packet)];
    tun.write(&pieces).map_err(|_| Discard::NoBuffer)
}

fn put(link: &[u8], pieces: &[IoSlice<'_>], tun: &mut impl TunIo) -> io::Result<()> {
    if link.is_empty() { tun.write(pieces) } else { tun.write_frame(pieces) }
}

#[cfg(test)]
mod tests;
