//! Names for places.

use std::net::{IpAddr, SocketAddr};

/// One association with one peer, for as long as it lives: stable across rekeys and roaming.
///
/// Every engine is born with one. Plugged into a network by a lease, it is also the place where
/// that session's packets enter and leave the hub. Numbers are never used twice in one run.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortId(pub u32);

/// The host's own port: what the TUN device is plugged into.
pub const HOST_PORT: PortId = PortId(0);

/// The port of the local network that the segment is joined to: what the device for frames, if the
/// server has one, is plugged into.
pub const BRIDGE_PORT: PortId = PortId(u32::MAX);

/// A TCP connection, or what is inside TLS on one; numbers are never used twice in one run.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(pub u64);

/// One engine, as its acceptor knows it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u64);

/// One of our own datagram sockets: an index that every worker gives the same meaning.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SocketId(pub u16);

/// Where a datagram came from and where its reply leaves.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Path {
    /// Our address as the peer knows it; `None` leaves the choice to the kernel's routes.
    pub local: Option<IpAddr>,
    /// The peer; port 0 where the carrier has none.
    pub remote: SocketAddr,
    /// What carries it.
    pub carrier: Carrier,
}

/// What a datagram travels in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Carrier {
    /// UDP, through this socket.
    Udp(SocketId),
    /// A TCP connection that a worker owns: each message has its length in front, as the carrier's
    /// protocol frames it. A peer on a stream never moves to another path.
    Stream(StreamId),
    /// ESP (50) or GRE (47) directly on IP.
    Ip {
        /// The IP protocol number.
        protocol: u8,
    },
}

/// How a message travels.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Via {
    /// On the wire as it is.
    Path(Path),
    /// Inside whatever the port currently sends with: L2TP inside IPsec, LCP inside L2TP.
    Port(PortId),
}
