//! What a packet reads, what it writes, and its way between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use contract::{
    BRIDGE_PORT, Carrier, ContentKind, DataPlaneOp, Discard, Exit, Fabric, HOST_PORT, Notice,
    Opened, PacketHead, Path, PortId, StreamId, Tunnel, TunnelKey, Verdict, Via,
};
use foldhash::fast::RandomState;
use wire::ip::{self, Head};

use super::{MAX_ROAMED, Op, Scratch};
use crate::classify::{Class, SocketKind, StreamKind, classify, classify_stream};
use crate::coalesce::{Coalescer, write_plain};
use crate::counters::PortCounters;
use crate::egress::{Egress, encapsulate};
use crate::fragment::Fragments;
use crate::framing::{Framing, Lead, Prefix};
use crate::handover::{Handover, Home};
pub(super) use crate::icmp::Complaint;
use crate::icmp::{Allowances, Gateways, MAX_ERROR, Speaker};
use crate::io::{Offloads, Punt, Surroundings};
use crate::split::SuperPacket;

/// The largest fragment made: no tunnel over the Internet carries more.
pub(super) const MAX_FRAGMENT: usize = 9216;

/// Everything a packet reads; nothing a packet writes but counters of its own worker.
#[derive(Debug)]
pub(super) struct Tables<F> {
    pub(super) fabric: F,
    gateways: Gateways,
    /// By socket id.
    sockets: Vec<Option<Socket>>,
    tunnels: HashMap<TunnelKey, Entry, RandomState>,
    pub(super) ports: HashMap<PortId, Port, RandomState>,
    streams: HashMap<StreamId, Stream, RandomState>,
    pub(super) totals: Arc<PortCounters>,
}

/// Everything a packet writes; nothing a packet reads.
pub(super) struct Sinks<'w, S> {
    pub(super) now: Instant,
    pub(super) egress: &'w mut Egress,
    pub(super) scratch: &'w mut Scratch,
    pub(super) allowances: &'w mut Allowances,
    pub(super) offloads: &'w mut Offloads,
    pub(super) handover: Option<&'w mut Handover>,
    pub(super) discards: &'w mut [u64; Discard::COUNT],
    pub(super) outside: &'w mut S,
}

#[derive(Clone, Debug)]
struct Socket {
    kind: SocketKind,
    prefix: Option<Prefix>,
}

#[derive(Debug)]
struct Stream {
    kind: StreamKind,
    framing: Framing,
    reader: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) port: PortId,
    pub(super) via: Via,
    pub(super) tunnel: Arc<dyn Tunnel>,
    pub(super) counters: Arc<PortCounters>,
    home: Arc<Home>,
}

#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) exit: Option<Exit>,
    pub(super) counters: Arc<PortCounters>,
    home: Arc<Home>,
}

impl<F: Fabric> Tables<F> {
    pub(super) fn new(fabric: F, gateways: Gateways) -> Self {
        Self {
            fabric,
            gateways,
            sockets: Vec::new(),
            tunnels: HashMap::default(),
            ports: HashMap::default(),
            streams: HashMap::default(),
            totals: Arc::default(),
        }
    }

    pub(super) fn totals(&self) -> Arc<PortCounters> {
        Arc::clone(&self.totals)
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::DataPlane(op) => self.apply_data_plane(op),
            Op::Fabric(op) => self.fabric.apply(&op),
            Op::Count { port, counters, home } => {
                let port = self.ports.entry(port).or_default();
                (port.counters, port.home) = (counters, home);
            }
            Op::Forget(port) => {
                self.ports.remove(&port);
                // An engine takes its own tunnels out; what is left is of one that broke.
                self.tunnels.retain(|_, entry| entry.port != port);
            }
            Op::AddSocket(id, kind, prefix) => {
                let index = usize::from(id.0);
                if self.sockets.len() <= index {
                    self.sockets.resize(index + 1, None);
                }
                self.sockets[index] = Some(Socket { kind, prefix });
            }
            Op::RemoveSocket(id) => {
                if let Some(socket) = self.sockets.get_mut(usize::from(id.0)) {
                    *socket = None;
                }
            }
            Op::AddStream { stream, kind, reader } => {
                self.streams.insert(stream, Stream { kind, framing: kind.framing(), reader });
            }
            Op::RemoveStream(id) => {
                self.streams.remove(&id);
            }
        }
    }

    fn apply_data_plane(&mut self, op: DataPlaneOp) {
        match op {
            DataPlaneOp::Install { key, port, via, tunnel } => {
                let Port { counters, home, .. } = self.ports.entry(port).or_default();
                let (counters, home) = (Arc::clone(counters), Arc::clone(home));
                // Who will hear the peer is known before it says anything, and a stream's order
                // does not forgive a sender who was only a guess.
                if let Via::Path(Path { carrier: Carrier::Stream(id), .. }) = via
                    && let Some(stream) = self.streams.get(&id)
                {
                    home.move_to(stream.reader);
                }
                self.tunnels.insert(key, Entry { port, via, tunnel, counters, home });
            }
            DataPlaneOp::SendVia { port, exit } => {
                self.ports.entry(port).or_default().exit = Some(exit);
            }
            DataPlaneOp::Move { key, path } => {
                if let Some(entry) = self.tunnels.get_mut(&key) {
                    entry.via = Via::Path(path);
                }
            }
            DataPlaneOp::Remove { port, key } => {
                if self.tunnels.get(&key).is_some_and(|entry| entry.port == port) {
                    self.tunnels.remove(&key);
                }
                let port = self.ports.get_mut(&port);
                if let Some(port) = port.filter(|port| port.exit == Some(Exit::Tunnel(key))) {
                    port.exit = None;
                }
            }
        }
    }

    /// Network to hub.
    pub(super) fn inbound<'b>(
        &self,
        path: Path,
        datagram: &'b mut [u8],
        coalescer: &mut Coalescer<'b>,
        seen_roaming: &mut ArrayVec<TunnelKey, MAX_ROAMED>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let (class, datagram) = self.class(path, datagram)?;
        let key = match class {
            Class::Tunnel(key) => key,
            Class::Control => {
                return sinks.outside.punt(Punt::Datagram { path, bytes: datagram });
            }
            Class::Nothing => return Err(Discard::Malformed),
        };

        let mut entry = self.entry(key)?;
        let Via::Path(known) = entry.via else {
            return Err(Discard::SpoofedSource); // an inner key in the clear would bypass the outer tunnel
        };
        if !is_possible(known.carrier, path.carrier) {
            return Err(Discard::SpoofedSource);
        }
        let mut opened = entry.tunnel.open(datagram)?;
        entry.counters.heard();
        self.totals.heard();
        if let Some(handover) = &sinks.handover {
            entry.home.move_to(handover.own());
        }
        if !is_same(known, path) && !seen_roaming.contains(&key) && !seen_roaming.is_full() {
            seen_roaming.push(key);
            let notice = Punt::Notice { port: entry.port, notice: Notice::Roamed { key, path } };
            let punted = sinks.outside.punt(notice);
            sinks.note(punted);
        }
        if let Opened::Inner(inner_key, inner) = opened {
            let outer = entry.port;
            entry = self.entry(inner_key)?;
            if entry.via != Via::Port(outer) {
                return Err(Discard::SpoofedSource); // someone else's inner key in this peer's tunnel
            }
            opened = entry.tunnel.open(inner)?;
            entry.counters.heard();
        }

        match opened {
            Opened::Packet(packet) => self.forward(entry, packet, coalescer, sinks),
            Opened::Control(bytes) => sinks.outside.punt(Punt::Control { port: entry.port, bytes }),
            Opened::Inner(..) => Err(Discard::Malformed), // no protocol nests twice
            Opened::Frame(frame) => self.on_frame(entry, frame, coalescer, sinks),
            Opened::Packed(packed) => self.unpack(entry, packed, coalescer, sinks),
            Opened::KeepAlive | Opened::Kept => Ok(()),
        }
    }

    /// What a datagram is, and the datagram without what its socket has in front.
    fn class<'b>(
        &self,
        path: Path,
        datagram: &'b mut [u8],
    ) -> Result<(Class, &'b mut [u8]), Discard> {
        match path.carrier {
            Carrier::Udp(socket) => match self.sockets.get(usize::from(socket.0)) {
                Some(Some(Socket { kind, prefix: None })) => {
                    Ok((classify(*kind, &path, datagram), datagram))
                }
                Some(Some(Socket { kind, prefix: Some(prefix) })) => {
                    let datagram = prefix.strip(datagram).ok_or(Discard::Malformed)?;
                    Ok((classify(*kind, &path, datagram), datagram))
                }
                Some(None) | None => Err(Discard::Malformed),
            },
            Carrier::Stream(id) => match self.streams.get(&id) {
                Some(stream) => Ok((classify_stream(stream.kind, id, datagram), datagram)),
                None => Err(Discard::NoTunnel),
            },
            Carrier::Ip { .. } => Err(Discard::Malformed),
        }
    }

    /// What is written in front of everything that leaves by this path.
    pub(super) fn lead(&self, path: &Path) -> Result<Lead<'_>, Discard> {
        match path.carrier {
            Carrier::Udp(socket) => match self.sockets.get(usize::from(socket.0)) {
                Some(Some(Socket { prefix: Some(prefix), .. })) => Ok(Lead::Bytes(prefix.bytes())),
                _ => Ok(Lead::Nothing),
            },
            Carrier::Stream(id) => {
                let stream = self.streams.get(&id).ok_or(Discard::NoRoute)?;
                Ok(Lead::Framed(stream.framing))
            }
            Carrier::Ip { .. } => Ok(Lead::Nothing),
        }
    }

    /// Hub to wherever the verdict says, for a packet that came out of `entry`'s tunnel.
    pub(super) fn forward<'b>(
        &self,
        entry: &Entry,
        packet: &'b mut [u8],
        coalescer: &mut Coalescer<'b>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let head = Head::parse(packet).map_err(|_| Discard::Malformed)?;
        let packet = &mut packet[..head.total_len];
        let from = entry.port;
        let verdict = self.fabric.forward(from, &packet_head(&head, packet.len()));
        let to = match verdict {
            Verdict::Host => HOST_PORT,
            Verdict::Port(to) => to,
            Verdict::Flood => {
                self.count_received(&entry.counters, packet.len());
                return self.relay(from, packet, &head, sinks);
            }
            Verdict::Discard(discard) => return Err(discard),
        };
        entry.counters.received(1, packet.len() as u64);
        self.totals.received(1, packet.len() as u64);

        if to == HOST_PORT {
            if ip::is_syn(packet, &head) {
                ip::clamp_mss(packet, &head, self.fabric.mtu(from));
            }
            return coalescer.push(packet, &head, sinks.outside, sinks.offloads);
        }

        if ip::decrement_ttl(packet, &head).is_none() {
            self.complain(from, Complaint::TimeExceeded, packet, &head, sinks);
            return Err(Discard::TimeExceeded);
        }
        let mtu = self.fabric.mtu(to);
        if ip::is_syn(packet, &head) {
            ip::clamp_mss(packet, &head, mtu.min(self.fabric.mtu(from)));
        }
        if packet.len() > usize::from(mtu) {
            return self.send_too_big(from, to, mtu, packet, &head, sinks);
        }
        if to == BRIDGE_PORT {
            let link = self.link(to, head.destination, sinks)?.ok_or(Discard::NoRoute)?;
            return coalescer.push_behind(link, packet, &head, sinks.outside, sinks.offloads);
        }
        self.send_packet(to, head.destination, packet, sinks)
    }

    /// Host to hub.
    pub(super) fn outbound(
        &self,
        packet: SuperPacket<'_>,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let summary = packet_head(packet.head(), packet.len_of(0));
        let to = match self.fabric.forward(HOST_PORT, &summary) {
            Verdict::Port(to) => to,
            Verdict::Host => return Err(Discard::NoRoute), // where it came from
            Verdict::Flood => return self.relay_all(&packet, sinks),
            Verdict::Discard(discard) => return Err(discard),
        };
        self.send_super(HOST_PORT, packet, to, sinks)
    }

    /// Out through the port, in as many packets as it takes.
    pub(super) fn send_super(
        &self,
        from: PortId,
        mut packet: SuperPacket<'_>,
        to: PortId,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let head = *packet.head();
        let largest = packet.len_of(0);
        let mtu = self.fabric.mtu(to);
        packet.clamp_mss(mtu);
        let link = self.link(to, head.destination, sinks)?;
        let many = Linked { link: link.as_ref().map_or(&[], |link| &link[..]), packet: &packet };
        if largest <= usize::from(mtu) && self.seal_all(&many, to, sinks)? {
            return Ok(());
        }
        self.send_one_by_one(from, &packet, to, mtu, sinks)
    }

    /// The straight way: every packet is copied once, to where it is sealed. `false` if there is
    /// none, because the port's tunnel is inside another, or does not take them whole.
    pub(super) fn seal_all(
        &self,
        many: &impl Many,
        port: PortId,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<bool, Discard> {
        if port == BRIDGE_PORT {
            return Ok(false);
        }
        let to = self.ports.get(&port).ok_or(Discard::NoTunnel)?;
        let Some(Exit::Tunnel(key)) = to.exit else { return Ok(false) };
        let entry = self.own_entry(key, port)?;
        if let Some((handover, home)) = self.handover(entry, sinks) {
            let mut lost = 0;
            for index in 0..many.count() {
                let content = (port, many.kind());
                let write = |out: &mut [u8]| many.write(index, out);
                lost += u64::from(handover.post(home, content, many.len_of(index), write).is_err());
            }
            sinks.discards[Discard::NoBuffer as usize] += lost;
            return Ok(true);
        }
        let Entry { via: Via::Path(path), tunnel, .. } = entry else { return Ok(false) };
        // The first is the largest.
        if !tunnel.fits(many.len_of(0)) {
            return Ok(false);
        }
        let (count, lead) = (many.count(), self.lead(path)?);
        if sinks.outside.is_choked(path, many.len_of(0)) {
            sinks.discards[Discard::NoBuffer as usize] += count as u64;
            return Ok(true);
        }
        for index in 0..count {
            let (len, to) = (many.len_of(index), (*path, lead));
            sinks.seal(&**tunnel, many.kind(), len, to, |out| many.write(index, out))?;
        }
        self.count_sent(&to.counters, count, many.total());
        Ok(true)
    }

    /// The way through scratch memory, for nested tunnels and packets that do not fit.
    fn send_one_by_one(
        &self,
        from: PortId,
        packet: &SuperPacket<'_>,
        to: PortId,
        mtu: u16,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let mut room = std::mem::take(&mut sinks.scratch.packet);
        let sent = (0..packet.count()).try_for_each(|index| {
            let one = &mut room[..packet.len_of(index)];
            packet.write(index, one);
            if one.len() <= usize::from(mtu) {
                return self.send_packet(to, packet.head().destination, one, sinks);
            }
            let head = Head::parse(one).map_err(|_| Discard::Malformed)?;
            self.send_too_big(from, to, mtu, one, &head, sinks)
        });
        sinks.scratch.packet = room;
        sent
    }

    /// Sends a packet that is larger than the way on: in fragments, or not at all and says so.
    fn send_too_big(
        &self,
        from: PortId,
        to: PortId,
        mtu: u16,
        packet: &[u8],
        head: &Head,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let Some(fragments) = Fragments::new(packet, head, mtu.into()) else {
            self.complain(from, Complaint::TooBig { mtu }, packet, head, sinks);
            return Err(Discard::TooBig);
        };
        self.send_fragments(to, head.destination, &fragments, sinks)
    }

    /// Tells the source of a packet what is wrong with it, if that is allowed and not too often.
    pub(super) fn complain(
        &self,
        to: PortId,
        complaint: Complaint,
        packet: &[u8],
        head: &Head,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) {
        let mut room = [0; MAX_ERROR];
        // To the kernel, an error from an address of its own is a martian, and the gateway's is one.
        let from = if to == HOST_PORT { Speaker::Destination } else { Speaker::Gateway };
        let Some(len) = self.gateways.complain(complaint, from, packet, head, &mut room) else {
            return;
        };
        if sinks.allowances.take(complaint, sinks.now).is_none() {
            return;
        }
        let error = &room[..len];
        let sent = if to == HOST_PORT {
            write_plain(&[], error, sinks.outside)
        } else {
            self.send_packet(to, head.source, error, sinks)
        };
        sinks.note(sent);
    }

    /// Whose the sealing is, and the way there, if it is another worker's. Asked for everything that
    /// is about to be sealed: a number that was given out has to leave before the next is given.
    fn handover<'s, S>(
        &self,
        entry: &Entry,
        sinks: &'s mut Sinks<'_, S>,
    ) -> Option<(&'s mut Handover, usize)> {
        let handover = sinks.handover.as_deref_mut()?;
        let own = handover.own();
        let home = self.home(entry)?.or_claim(own);
        (home != own).then_some((handover, home))
    }

    /// The worker that sends to the port's peer, if it is not the owner of `handover`.
    pub(super) fn elsewhere(&self, port: PortId, handover: &Handover) -> Option<usize> {
        let Exit::Tunnel(key) = self.ports.get(&port)?.exit?;
        let home = self.home(self.own_entry(key, port).ok()?)?.or_claim(handover.own());
        (home != handover.own()).then_some(home)
    }

    /// That of the peer whose packets the tunnel's are on the wire.
    fn home<'t>(&'t self, entry: &'t Entry) -> Option<&'t Home> {
        match entry.via {
            Via::Path(_) => Some(&entry.home),
            Via::Port(outer) => self.ports.get(&outer).map(|outer| &*outer.home),
        }
    }

    /// Out through whatever the port sends with.
    pub(super) fn send(
        &self,
        port: PortId,
        kind: ContentKind,
        content: &[u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        self.send_behind(port, kind, &[], content, sinks)
    }

    /// The same for content that lies in two places.
    pub(super) fn send_behind(
        &self,
        port: PortId,
        kind: ContentKind,
        link: &[u8],
        content: &[u8],
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        if port == BRIDGE_PORT {
            return Self::send_bridged(link, content, sinks);
        }
        let to = self.ports.get(&port).ok_or(Discard::NoTunnel)?;
        let Exit::Tunnel(key) = to.exit.ok_or(Discard::NoTunnel)?;
        let entry = self.own_entry(key, port)?;
        let both = (link, content);
        if let Some((handover, home)) = self.handover(entry, sinks) {
            let len = link.len() + content.len();
            return handover.post(home, (port, kind), len, |out| write_both(both, out));
        }
        match entry.via {
            Via::Path(path) => self.seal_copy(&*entry.tunnel, kind, both, path, sinks)?,
            Via::Port(outer) => self.send_nested(entry, outer, kind, both, sinks)?,
        }
        if matches!(kind, ContentKind::Packet | ContentKind::Frame) {
            self.count_sent(&to.counters, 1, link.len() + content.len());
        }
        Ok(())
    }

    /// One tunnel inside another; no protocol nests twice.
    fn send_nested(
        &self,
        inner: &Entry,
        outer: PortId,
        kind: ContentKind,
        content: (&[u8], &[u8]),
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let Some(Exit::Tunnel(key)) = self.ports.get(&outer).and_then(|port| port.exit) else {
            return Err(Discard::NoTunnel);
        };
        let Entry { via: Via::Path(path), tunnel, .. } = self.own_entry(key, outer)? else {
            return Err(Discard::NoTunnel);
        };

        let len = content.0.len() + content.1.len();
        let frame = inner.tunnel.frame(kind, len);
        let mut room = std::mem::take(&mut sinks.scratch.inner);
        let sent = match room.get_mut(..frame.head + len + frame.tail) {
            Some(out) => {
                write_both(content, &mut out[frame.head..frame.head + len]);
                let sealed = inner.tunnel.seal(kind, len, out);
                let kind = ContentKind::Inner;
                sealed.and_then(|()| self.seal_copy(&**tunnel, kind, (&[], out), *path, sinks))
            }
            None => Err(Discard::TooBig),
        };
        sinks.scratch.inner = room;
        sent
    }

    fn seal_copy(
        &self,
        tunnel: &dyn Tunnel,
        kind: ContentKind,
        content: (&[u8], &[u8]),
        path: Path,
        sinks: &mut Sinks<'_, impl Surroundings>,
    ) -> Result<(), Discard> {
        let to = (path, self.lead(&path)?);
        let len = content.0.len() + content.1.len();
        // What an engine says has room kept for it.
        if kind != ContentKind::Control && sinks.outside.is_choked(&path, len) {
            return Err(Discard::NoBuffer);
        }
        if tunnel.fits(len) {
            return sinks.seal(tunnel, kind, len, to, |out| write_both(content, out));
        }
        let mut room = std::mem::take(&mut sinks.scratch.whole);
        let sealed = room.get_mut(..len).ok_or(Discard::TooBig).and_then(|whole| {
            write_both(content, whole);
            sinks.seal_in_parts(tunnel, kind, whole, to)
        });
        sinks.scratch.whole = room;
        sealed
    }

    fn entry(&self, key: TunnelKey) -> Result<&Entry, Discard> {
        self.tunnels.get(&key).ok_or(Discard::NoTunnel)
    }

    /// What `port` sends with: a key that was given to another port since is not it.
    pub(super) fn own_entry(&self, key: TunnelKey, port: PortId) -> Result<&Entry, Discard> {
        self.entry(key).ok().filter(|entry| entry.port == port).ok_or(Discard::NoTunnel)
    }
}

impl<S: Surroundings> Sinks<'_, S> {
    pub(super) fn note(&mut self, result: Result<(), Discard>) {
        if let Err(discard) = result {
            self.discards[discard as usize] += 1;
        }
    }

    pub(super) fn seal(
        &mut self,
        tunnel: &dyn Tunnel,
        kind: ContentKind,
        len: usize,
        to: (Path, Lead<'_>),
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), Discard> {
        if self.egress.is_full() {
            let discards = &mut *self.discards;
            self.egress.flush(self.outside, |why| discards[why as usize] += 1);
        }
        encapsulate(tunnel, kind, len, to, self.egress, write)
    }
}

/// Several packets or frames that leave by one port.
pub(super) trait Many {
    fn kind(&self) -> ContentKind;
    fn count(&self) -> usize;
    /// The first is never shorter than another.
    fn len_of(&self, index: usize) -> usize;
    /// All lengths together.
    fn total(&self) -> usize;
    fn write(&self, index: usize, out: &mut [u8]);
}

/// The packets of a super packet, each behind the head of a frame if there is one.
struct Linked<'p, 'r> {
    link: &'p [u8],
    packet: &'p SuperPacket<'r>,
}

impl Many for Linked<'_, '_> {
    fn kind(&self) -> ContentKind {
        if self.link.is_empty() { ContentKind::Packet } else { ContentKind::Frame }
    }

    fn count(&self) -> usize {
        self.packet.count()
    }

    fn len_of(&self, index: usize) -> usize {
        self.link.len() + self.packet.len_of(index)
    }

    fn total(&self) -> usize {
        self.packet.total() + self.link.len() * self.packet.count()
    }

    fn write(&self, index: usize, out: &mut [u8]) {
        let (head, out) = out.split_at_mut(self.link.len());
        head.copy_from_slice(self.link);
        self.packet.write(index, out);
    }
}

/// One behind the other; `out` is as long as both.
fn write_both((link, content): (&[u8], &[u8]), out: &mut [u8]) {
    let (head, out) = out.split_at_mut(link.len());
    head.copy_from_slice(link);
    out.copy_from_slice(content);
}

/// Whether a peer that was on one carrier may be heard on another: it roams between addresses and
/// sockets, but a stream is one peer's for good.
fn is_possible(known: Carrier, seen: Carrier) -> bool {
    match (known, seen) {
        (Carrier::Udp(_), Carrier::Udp(_)) => true,
        (known, seen) => known == seen,
    }
}

/// Whether the peer is where it was; a tunnel that does not care for our own address fits any.
fn is_same(known: Path, seen: Path) -> bool {
    known.remote == seen.remote
        && known.carrier == seen.carrier
        && (known.local.is_none() || known.local == seen.local)
}

pub(super) fn packet_head(head: &Head, len: usize) -> PacketHead {
    PacketHead {
        source: head.source,
        destination: head.destination,
        protocol: head.protocol,
        // No IP packet is longer than 65,535 bytes.
        len: len as u16,
    }
}
