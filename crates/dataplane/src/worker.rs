//! One data-plane worker: tunnels on one side, the hub on the other, no lock and no `await` between.

mod bridge;
mod segment;
mod tables;
mod unpack;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use contract::{
    ContentKind, DataPlaneOp, Discard, Fabric, FabricOp, Layer, Path, PortId, SocketId, StreamId,
    TunnelKey,
};

use crate::classify::{SocketKind, StreamKind};
use crate::coalesce::Coalescer;
use crate::counters::PortCounters;
use crate::egress::Egress;
use crate::framing::{Messages, Prefix};
use crate::handover::{Handover, Home};
use crate::icmp::{Allowances, Gateways};
use crate::io::{Offloads, Received, Surroundings};
use crate::split::SuperPacket;
use tables::{Sinks, Tables};

/// How many peers may be seen moving in one batch; one more is seen again with its next packet.
const MAX_ROAMED: usize = 16;
/// How many parcels of its neighbours a worker takes before its own packets have their turn: as much
/// as it reads from the host's device at once.
const PARCELS_A_TURN: usize = 16;

/// What a worker is born with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The network's own IPv4 address, which its ICMP errors to members come from.
    pub gateway4: Option<Ipv4Addr>,
    /// The network's own IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// What the host's device takes.
    pub offloads: Offloads,
    /// What the host's device carries: packets (TUN), or frames (TAP).
    pub layer: Layer,
}

/// An order of the control plane, carried out between batches.
#[derive(Debug)]
pub enum Op {
    /// To the tunnels.
    DataPlane(DataPlaneOp),
    /// To the fabric.
    Fabric(FabricOp),
    /// Count the port here; comes before its first tunnel.
    Count {
        /// Which port.
        port: PortId,
        /// Read by the control plane.
        counters: Arc<PortCounters>,
        /// Which worker sends to the peer: the same for all workers.
        home: Arc<Home>,
    },
    /// The port will not be used again. It exists from the first order that names it until this.
    Forget(PortId),
    /// Datagrams arrive on this socket, and all have a prefix if there is one.
    AddSocket(SocketId, SocketKind, Option<Prefix>),
    /// No more do.
    RemoveSocket(SocketId),
    /// Messages arrive on this stream, here or at another worker, and leave on it.
    AddStream {
        /// Which.
        stream: StreamId,
        /// What is spoken on it.
        kind: StreamKind,
        /// The worker that reads it, and so sends to the peer from the first packet on.
        reader: usize,
    },
    /// No more do.
    RemoveStream(StreamId),
}

/// Owns its copy of every table, so a packet takes no lock and touches no shared counter.
///
/// The control plane changes the tables only by [`Op`]s, applied between batches.
#[derive(Debug)]
pub struct Worker<F> {
    tables: Tables<F>,
    egress: Egress,
    scratch: Scratch,
    allowances: Allowances,
    offloads: Offloads,
    layer: Layer,
    /// The ways to the other workers, if there are any.
    handover: Option<Handover>,
    discards: [u64; Discard::COUNT],
}

/// Room for packets that cannot go straight from where they are to where they are sent.
#[derive(Debug)]
struct Scratch {
    /// One segment or fragment.
    packet: Box<[u8]>,
    /// What is sent in parts, in one piece.
    whole: Box<[u8]>,
    /// What an inner tunnel sealed.
    inner: Box<[u8]>,
    /// What a tunnel unpacked.
    unpacked: Box<[u8]>,
    /// For a tunnel that makes several datagrams of one packet.
    parts: Box<[u8]>,
}

impl Default for Scratch {
    fn default() -> Self {
        let room = || vec![0; usize::from(u16::MAX)].into();
        Self { packet: room(), whole: room(), inner: room(), unpacked: room(), parts: room() }
    }
}

impl<F: Fabric> Worker<F> {
    /// A worker without tunnels.
    #[must_use]
    pub fn new(fabric: F, settings: &Settings) -> Self {
        Self {
            tables: Tables::new(fabric, Gateways { v4: settings.gateway4, v6: settings.gateway6 }),
            egress: Egress::default(),
            scratch: Scratch::default(),
            allowances: Allowances::default(),
            offloads: settings.offloads,
            layer: settings.layer,
            handover: None,
            discards: [0; Discard::COUNT],
        }
    }

    /// Gives the worker its ways to the others. A worker that is alone needs none, and does without
    /// everything that goes with them.
    pub fn join(&mut self, handover: Handover) {
        self.handover = Some(handover);
    }

    /// Handles a batch from the network: open in place, ask the hub, send on.
    ///
    /// Everything for the TUN device has been written when it returns; what goes to other sessions
    /// waits for [`flush`](Self::flush).
    pub fn on_network<'b>(
        &mut self,
        now: Instant,
        batch: impl Iterator<Item = Received<'b>>,
        outside: &mut impl Surroundings,
    ) {
        let mut coalescer = Coalescer::default();
        let mut roamed = ArrayVec::<TunnelKey, MAX_ROAMED>::new();
        let (tables, mut sinks) = self.split(now, outside);
        for received in batch {
            for datagram in received.bytes.chunks_mut(received.stride.max(1)) {
                let taken = tables.inbound(
                    received.path,
                    datagram,
                    &mut coalescer,
                    &mut roamed,
                    &mut sinks,
                );
                sinks.note(taken);
            }
        }
        let written = coalescer.flush(sinks.outside, sinks.offloads);
        sinks.note(written);
    }

    /// Handles messages from a stream, as [`on_network`](Self::on_network) does datagrams; how many
    /// there were.
    pub fn on_stream(
        &mut self,
        now: Instant,
        path: Path,
        messages: &mut Messages<'_>,
        outside: &mut impl Surroundings,
    ) -> usize {
        let mut coalescer = Coalescer::default();
        let mut roamed = ArrayVec::<TunnelKey, MAX_ROAMED>::new();
        let (tables, mut sinks) = self.split(now, outside);
        let mut count = 0;
        for message in messages {
            count += 1;
            let taken = tables.inbound(path, message, &mut coalescer, &mut roamed, &mut sinks);
            sinks.note(taken);
        }
        let written = coalescer.flush(sinks.outside, sinks.offloads);
        sinks.note(written);
        count
    }

    /// Handles one read from the host's device; what it makes waits for [`flush`](Self::flush).
    pub fn on_host(&mut self, now: Instant, read: &mut [u8], outside: &mut impl Surroundings) {
        let layer = self.layer;
        let (tables, mut sinks) = self.split(now, outside);
        let taken = match layer {
            Layer::Ip => {
                SuperPacket::parse(read).and_then(|packet| tables.outbound(packet, &mut sinks))
            }
            Layer::Ethernet => tables.outbound_frame(read, &mut sinks),
        };
        sinks.note(taken);
    }

    /// Handles one read from the device of the network that the segment is joined to; what it
    /// makes waits for [`flush`](Self::flush).
    pub fn on_bridge(&mut self, now: Instant, read: &mut [u8], outside: &mut impl Surroundings) {
        let (tables, mut sinks) = self.split(now, outside);
        let taken = tables.on_bridge(read, &mut sinks);
        sinks.note(taken);
    }

    /// Sends what other workers have for peers that are at home here, as much as is fair; how many
    /// packets that was. What is sealed waits for [`flush`](Self::flush).
    pub fn take_over(&mut self, now: Instant, outside: &mut impl Surroundings) -> usize {
        let mut count = 0;
        if let Some(handover) = &self.handover {
            handover.rise();
        }
        for _ in 0..PARCELS_A_TURN {
            let parcel = self.handover.as_mut().and_then(Handover::receive);
            let Some((source, parcel)) = parcel else { break };
            let (tables, mut sinks) = self.split(now, outside);
            for (port, kind, content) in parcel.contents() {
                count += 1;
                let sent = tables.send(port, kind, content, &mut sinks);
                sinks.note(sent);
            }
            if let Some(handover) = &mut self.handover {
                handover.give_back(source, parcel);
            }
            if self.is_pressing() {
                self.flush(outside);
            }
        }
        count
    }

    /// Whether there is nothing to [take over](Self::take_over); if so, the worker is woken as soon
    /// as there is, until it takes over again.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.handover.as_ref().is_none_or(Handover::may_sleep)
    }

    /// The worker that sends to this port's peer, if it is not this one.
    #[must_use]
    pub fn sends_elsewhere(&self, port: PortId) -> Option<usize> {
        self.tables.elsewhere(port, self.handover.as_ref()?)
    }

    /// Sends an engine's message inside its own tunnel.
    pub fn send_control(
        &mut self,
        now: Instant,
        port: PortId,
        message: &[u8],
        outside: &mut impl Surroundings,
    ) {
        let (tables, mut sinks) = self.split(now, outside);
        let sent = tables.send(port, ContentKind::Control, message, &mut sinks);
        sinks.note(sent);
    }

    /// Sends everything that has been sealed, and hands over what others are to seal.
    pub fn flush(&mut self, outside: &mut impl Surroundings) {
        if let Some(handover) = &mut self.handover {
            handover.publish();
        }
        let discards = &mut self.discards;
        self.egress.flush(outside, |why| discards[why as usize] += 1);
    }

    /// Whether a [`flush`](Self::flush) beats reading more.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        self.egress.is_pressing()
    }

    /// Carries out one order of the control plane.
    pub fn apply(&mut self, op: Op) {
        self.tables.apply(op);
    }

    /// Counts packets that were lost on their way to or from the worker.
    pub fn count_discards(&mut self, why: Discard, count: u64) {
        self.discards[why as usize] += count;
    }

    /// What has been dropped, by [`Discard`] as index.
    #[must_use]
    pub fn discards(&self) -> &[u64; Discard::COUNT] {
        &self.discards
    }

    /// What the TUN device still takes: shrinks when it refuses.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// All ports of this worker together.
    #[must_use]
    pub fn totals(&self) -> Arc<PortCounters> {
        self.tables.totals()
    }

    /// Tables are only read while sinks are only written, so a packet can be opened in place and
    /// forwarded without a copy.
    fn split<'w, S>(
        &'w mut self,
        now: Instant,
        outside: &'w mut S,
    ) -> (&'w Tables<F>, Sinks<'w, S>) {
        let sinks = Sinks {
            now,
            egress: &mut self.egress,
            scratch: &mut self.scratch,
            allowances: &mut self.allowances,
            offloads: &mut self.offloads,
            handover: self.handover.as_mut(),
            discards: &mut self.discards,
            outside,
        };
        (&self.tables, sinks)
    }
}

#[cfg(test)]
mod tests;
