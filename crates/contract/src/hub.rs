//! The seam between protocols and the virtual network they share.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::path::PortId;
use crate::tunnel::Discard;

/// The control side of the virtual networks: who is plugged in where.
///
/// Called from the control plane only; may lock and allocate.
pub trait Network: std::fmt::Debug + Send + Sync {
    /// Leases addresses and plugs the port in.
    ///
    /// # Errors
    ///
    /// Fails if the pool is empty, the address is taken, or policy forbids it.
    fn attach(&self, port: PortId, request: &AttachRequest) -> Result<Lease, NoLease>;

    /// Unplugs the port and returns its addresses to the pool.
    fn detach(&self, port: PortId);
}

/// The forwarding side of the virtual networks, as one worker sees it.
///
/// Never locks, never allocates, never fails: the answer is always a verdict.
pub trait Fabric {
    /// Decides where a packet that entered at `from` leaves.
    fn forward(&self, from: PortId, packet: &PacketHead) -> Verdict;

    /// The largest IP packet that `port` carries.
    fn mtu(&self, port: PortId) -> u16;

    /// Carries out one order of the control plane.
    fn apply(&mut self, op: &FabricOp);

    /// Decides what becomes of a frame that entered at `from`, and remembers where its sender is.
    ///
    /// May turn the frame into its answer.
    fn switch(&self, _from: PortId, _now: Instant, _frame: &mut [u8]) -> FrameVerdict {
        FrameVerdict::Discard(Discard::Malformed)
    }

    /// What stands in front of a packet for `destination` on its way into the port `to`.
    fn link_head(&self, _to: PortId, _destination: IpAddr) -> LinkHead {
        LinkHead::None
    }

    /// Writes the frame that asks the port `to` for the hardware address that
    /// [`link_head`](Self::link_head) does not know yet; its length, or `None` if it was asked
    /// too often lately.
    fn question(
        &self,
        _to: PortId,
        _destination: IpAddr,
        _now: Instant,
        _out: &mut [u8; MAX_QUESTION],
    ) -> Option<usize> {
        None
    }

    /// Whether the port is kept off the segment for now, because it would close a circle.
    fn is_apart(&self, _port: PortId, _now: Instant) -> bool {
        false
    }

    /// Who gets a copy of what is for everybody, `from` included, which the caller leaves out: the
    /// stations of the segment, and if it is `relayed`, the members that carry packets.
    ///
    /// # Errors
    ///
    /// [`Discard::RateLimited`] if there were too many copies lately, [`Discard::Multicast`] if the
    /// same content has just come in elsewhere and goes round in a circle.
    fn crowd(
        &self,
        _from: PortId,
        _now: Instant,
        _content: &[u8],
        _relayed: bool,
    ) -> Result<Crowd<'_>, Discard> {
        Err(Discard::Multicast)
    }
}

/// The longest frame that asks for a hardware address: a neighbour solicitation.
pub const MAX_QUESTION: usize = 86;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameVerdict {
    /// To another port of the segment.
    Port(PortId),
    /// To the host, whose device carries frames.
    Host,
    /// It is for the network itself: what follows the head is a packet to be forwarded.
    Route,
    /// To every other port of the segment; the IP packet that begins at `packet`, if any, to
    /// everybody else as well.
    Flood {
        /// Where in the frame.
        packet: Option<usize>,
    },
    /// Its first bytes, so many, are the answer now, for the port that it came from.
    Answer(usize),
    /// Nowhere.
    Discard(Discard),
}

/// What a port wants in front of an IP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkHead {
    /// Nothing.
    None,
    /// The head of an Ethernet frame.
    Ethernet([u8; 14]),
    /// The head of an Ethernet frame, but the destination's address is not known.
    Unknown,
}

/// Who hears what is for everybody.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Crowd<'f> {
    /// Ports that carry frames.
    pub stations: &'f [PortId],
    /// Ports that carry packets.
    pub members: &'f [PortId],
}

/// Orders to every worker's copy of the fabric.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FabricOp {
    /// Plugs a port in.
    Plug(Plug),
    /// Unplugs it.
    Unplug(PortId),
    /// These, and no others any more, are the host's own addresses on the network at
    /// [`BRIDGE_PORT`](crate::BRIDGE_PORT).
    HostOnBridge(Vec<IpAddr>),
}

/// One port as the fabric knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plug {
    /// Whose packets these are.
    pub port: PortId,
    /// What it may send from, and what is sent to it: its leased addresses as host prefixes, and
    /// the subnets behind it.
    pub prefixes: Vec<IpNet>,
    /// The largest IP packet it carries.
    pub mtu: u16,
    /// Whether it carries packets or frames.
    pub layer: Layer,
    /// Whose port it is: the hardware addresses of one port are at once those of a later port of
    /// the same user, who may have come back. Empty for nobody's in particular.
    pub user: Arc<str>,
}

/// What a port carries.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Layer {
    /// IP packets.
    #[default]
    Ip,
    /// Ethernet frames: the port is on the network's segment.
    Ethernet,
}

/// What the fabric needs to know of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketHead {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol or next header.
    pub protocol: u8,
    /// Length of the whole packet.
    pub len: u16,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Another session: seal it with what that port sends with.
    Port(PortId),
    /// The host: write it to the TUN device.
    Host,
    /// Every other port and the host, as the fabric's broadcast relay lists them.
    Flood,
    /// Nowhere.
    Discard(Discard),
}

/// What an engine asks of the network for an authenticated peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachRequest {
    /// Which network.
    pub network: String,
    /// Who.
    pub user: String,
    /// Which of the user's devices: the same string gets the same addresses again.
    pub device: String,
    /// Whether [`device`](Self::device) names one piece of hardware, so that a session that is
    /// still there under it can only be the one that this peer has lost; else it may be a second
    /// copy of the same profile.
    pub is_unique: bool,
    /// Addresses fixed by the grant.
    pub fixed: Vec<IpAddr>,
    /// Subnets behind the member, from the grant: sent to it, and it may send from them.
    pub behind: Vec<IpNet>,
    /// Whether the member carries packets or frames.
    pub layer: Layer,
    /// Where the peer is.
    pub remote: IpAddr,
    /// The largest packet the peer said it carries, if it said so.
    pub mtu: Option<u16>,
}

/// Name resolution for a member.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DnsSettings {
    /// Resolvers, best first.
    pub servers: Vec<IpAddr>,
    /// Domains completed and, on a client that can, resolved only there.
    pub search: Vec<String>,
    /// Domains resolved there. If there are any, other names are none of these resolvers'
    /// business.
    pub split: Vec<String>,
    /// Whether answers have to be signed; `None` leaves it to the host.
    pub dnssec: Option<Dnssec>,
    /// Questions are asked inside TLS only.
    pub tls: Option<DnsOverTls>,
}

/// Whether answers of resolvers have to be signed (RFC 4033).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dnssec {
    /// Answers without a valid signature are none.
    Yes,
    /// Signatures are looked at where there are any.
    Optional,
    /// Nobody looks.
    No,
}

/// Questions inside TLS (RFC 7858).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DnsOverTls {
    /// The name in the resolvers' certificate.
    pub name: Option<String>,
}

/// When a session ends though nobody wanted it to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionLimits {
    /// After this long.
    pub session: Option<Duration>,
    /// After this long without a packet.
    pub idle: Option<Duration>,
    /// What counts as no packet: fewer bytes than this, both ways together, in that time.
    pub idle_bytes: u64,
}

/// A place in a network: what a server gives and what a client is given.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lease {
    /// Our IPv4 address and the prefix length of the network it is in.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// Our IPv6 address and the prefix length of the network it is in.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// The network's own IPv4 address.
    pub gateway4: Option<Ipv4Addr>,
    /// The network's own IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// Name resolution.
    pub dns: DnsSettings,
    /// Networks reached through the tunnel.
    pub routes: Vec<IpNet>,
    /// Metrics of those routes that have one.
    pub metrics: BTreeMap<IpNet, u32>,
    /// Networks that must not go through the tunnel.
    pub excluded: Vec<IpNet>,
    /// Everything IPv4 goes through the tunnel.
    pub redirect4: bool,
    /// Everything IPv6 goes through the tunnel.
    pub redirect6: bool,
    /// Nothing IPv4 leaves the member at all: everything is redirected, and the network has none.
    pub block4: bool,
    /// Nothing IPv6 leaves the member at all.
    pub block6: bool,
    /// While everything is redirected, the networks that the member sits in are not reachable.
    pub block_local: bool,
    /// Names are resolved through the tunnel or not at all.
    pub block_dns: bool,
    /// When the session ends.
    pub limits: SessionLimits,
    /// The largest IP packet the tunnel carries.
    pub mtu: u16,
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoLease {
    /// Every address is taken.
    PoolExhausted,
    /// No network has that name.
    UnknownNetwork,
    /// A fixed address is in use by another session.
    AddressTaken,
    /// A subnet behind the member is part of the network, or behind another member.
    SubnetTaken,
    /// Policy says no.
    Refused,
}
