//! The seam between protocols and the fast path.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::path::{Carrier, StreamId};

/// One set of keys and counters, as the fast path uses it.
///
/// `&self` because any worker may use it for any packet: counters and replay windows are atomic,
/// stateful ciphers lock inside.
pub trait Tunnel: std::fmt::Debug + Send + Sync {
    /// How much room the tunnel needs before and behind content of `len` bytes and this kind.
    fn frame(&self, kind: ContentKind, len: usize) -> Frame;

    /// Encapsulates in place.
    ///
    /// `out` is `frame.head + len + frame.tail` bytes long and already holds the content at
    /// `frame.head`, so whoever copies the content (out of a super packet, say) copies it once.
    ///
    /// # Errors
    ///
    /// Fails if the key is worn out.
    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard>;

    /// Decapsulates a datagram in place.
    ///
    /// # Errors
    ///
    /// Fails if the datagram is malformed, forged or replayed.
    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard>;

    /// Unpacks what [`open`](Self::open) returned as [`Opened::Packed`] into `out`: expands what
    /// is compressed, joins what is fragmented. Returns what it is and its length; no content
    /// ([`Unpacked::Nothing`]) if more fragments are needed.
    ///
    /// # Errors
    ///
    /// Fails if the content is malformed, or larger than `out`.
    fn unpack(&self, _packed: &[u8], _out: &mut [u8]) -> Result<Unpacked, Discard> {
        Err(Discard::Malformed)
    }

    /// Whether the tunnel has work of its own: datagrams that it keeps until it is their turn,
    /// acknowledgements that nobody else carries. Asked once, when it is installed; only then are
    /// there calls of [`chore`](Self::chore).
    fn has_chores(&self) -> bool {
        false
    }

    /// Does the next piece of such work, into `room`: called after every [`open`](Self::open), and
    /// when the time has come that was the answer, until the answer is [`Chore::Nothing`] or
    /// [`Chore::Later`]. `room` is scratch memory of 64 KiB.
    ///
    /// # Errors
    ///
    /// Fails if a datagram that was kept turns out to be malformed; there may be more.
    fn chore(&self, _now: Instant, _room: &mut [u8]) -> Result<Chore, Discard> {
        Ok(Chore::Nothing)
    }

    /// Whether content of `len` bytes leaves in one datagram; what does not is for
    /// [`seal_in_parts`](Self::seal_in_parts).
    fn fits(&self, _len: usize) -> bool {
        true
    }

    /// Encapsulates content that does not fit into one datagram: calls `send` with each of
    /// several. `room` is scratch memory of 64 KiB.
    ///
    /// # Errors
    ///
    /// Fails if the key is worn out, the content too large for the protocol's fragments, or `send`
    /// does.
    fn seal_in_parts(
        &self,
        _kind: ContentKind,
        _content: &[u8],
        _room: &mut [u8],
        _send: &mut dyn FnMut(&[u8]) -> Result<(), Discard>,
    ) -> Result<(), Discard> {
        Err(Discard::TooBig)
    }
}

/// What [`Tunnel::unpack`] made; the number is how many bytes of the room are content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unpacked {
    /// An IP packet.
    Packet(usize),
    /// An Ethernet frame.
    Frame(usize),
    /// A message for the engine.
    Control(usize),
    /// Nothing yet, or nothing but a keep-alive.
    Nothing,
}

/// What [`Tunnel::chore`] did; the number is how many bytes of the room are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chore {
    /// This came out of a datagram that was kept.
    Content(Unpacked),
    /// This is a datagram for the peer, ready to send.
    Datagram(usize),
    /// There is nothing to do before this time, unless something arrives.
    Later(Instant),
    /// There is nothing to do.
    Nothing,
}

/// The bytes a tunnel puts around its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Bytes in front of the content.
    pub head: usize,
    /// Bytes behind it.
    pub tail: usize,
}

/// What goes into a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentKind {
    /// An IP packet from the hub.
    Packet,
    /// An Ethernet frame of the network's segment, without preamble and check sequence.
    Frame,
    /// A message of the engine: LCP, OpenVPN ping.
    Control,
    /// What another tunnel sealed: L2TP on its way into ESP.
    Inner,
}

/// What comes out of a tunnel; the mirror of [`ContentKind`].
#[derive(Debug, Eq, PartialEq)]
pub enum Opened<'b> {
    /// An IP packet for the hub.
    Packet(&'b mut [u8]),
    /// An Ethernet frame for the network's segment.
    Frame(&'b mut [u8]),
    /// Compressed or fragmented content, which does not fit where it is: for
    /// [`Tunnel::unpack`]. Already authentic and not a replay.
    Packed(&'b mut [u8]),
    /// A message for the engine.
    Control(&'b mut [u8]),
    /// Another encapsulation under its own key.
    Inner(TunnelKey, &'b mut [u8]),
    /// Authentic but empty.
    KeepAlive,
    /// Nothing yet: it is kept until what comes before it has arrived, or has had time to
    /// ([`Tunnel::chore`]).
    Kept,
}

/// What an inbound datagram says about whose it is; never proof, only a table key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TunnelKey {
    /// The SPI of an ESP packet (RFC 4303, 2.1).
    Esp {
        /// Security Parameters Index.
        spi: u32,
    },
    /// The call of an enhanced GRE packet (RFC 2637, 4.1), which counts only from its peer.
    Gre {
        /// The peer's address.
        source: IpAddr,
        /// Our call id.
        call: u16,
    },
    /// An L2TPv2 data message (RFC 2661, 3.1).
    L2tp {
        /// Our tunnel id.
        tunnel: u16,
        /// Our session id.
        session: u16,
    },
    /// P_DATA_V2 at a responder: the peer-id it handed out.
    OpenVpn {
        /// 24-bit peer-id.
        peer: u32,
        /// 3-bit key id.
        key_id: u8,
    },
    /// P_DATA_V1, and everything at an initiator: the peer is known by its address.
    OpenVpnAddress {
        /// The peer's address and port.
        remote: SocketAddr,
        /// 3-bit key id.
        key_id: u8,
    },
    /// OpenVPN over TCP: the stream belongs to one peer, whatever its packets say.
    OpenVpnStream {
        /// Which stream.
        stream: StreamId,
        /// 3-bit key id.
        key_id: u8,
    },
    /// OpenVPN with a static key: packets have no head at all, so the carrier says it all.
    OpenVpnStatic {
        /// What they arrive on.
        carrier: Carrier,
    },
    /// The receiver index of a WireGuard transport message.
    WireGuard {
        /// Our index.
        receiver: u32,
    },
}

/// Why the fast path dropped a packet; also the index into its counters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Discard {
    /// A header or length that cannot be.
    Malformed,
    /// No tunnel has the key that the datagram names.
    NoTunnel,
    /// The integrity check failed.
    AuthFailed,
    /// Received before, or too old to tell.
    Replayed,
    /// The key has sealed as much as it may.
    KeyWornOut,
    /// An inner source address that is not the sender's.
    SpoofedSource,
    /// Nobody has the destination.
    NoRoute,
    /// Policy forbids it.
    FilteredByPolicy,
    /// Over the rate that policy grants.
    RateLimited,
    /// A bounded queue is full.
    NoBuffer,
    /// Larger than the way out carries.
    TooBig,
    /// The hop limit is used up.
    TimeExceeded,
    /// Broadcast or multicast that is not relayed.
    Multicast,
    /// A control datagram that no acceptor or engine wanted.
    Unwanted,
    /// A client key that was revoked or is too old.
    KeyRefused,
    /// More hardware addresses than one port may have on the segment.
    MacLimit,
    /// Nobody has said yet which hardware address the destination has; it is being asked for.
    UnknownNeighbour,
    /// From a member that is on the same Ethernet another way, too, and would close a circle.
    Loop,
}

impl Discard {
    /// Every variant, in counter order.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::NoTunnel,
        Self::AuthFailed,
        Self::Replayed,
        Self::KeyWornOut,
        Self::SpoofedSource,
        Self::NoRoute,
        Self::FilteredByPolicy,
        Self::RateLimited,
        Self::NoBuffer,
        Self::TooBig,
        Self::TimeExceeded,
        Self::Multicast,
        Self::Unwanted,
        Self::KeyRefused,
        Self::MacLimit,
        Self::UnknownNeighbour,
        Self::Loop,
    ];

    /// How many counters there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter's name in `status` and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoTunnel => "no_tunnel",
            Self::AuthFailed => "auth_failed",
            Self::Replayed => "replayed",
            Self::KeyWornOut => "key_worn_out",
            Self::SpoofedSource => "spoofed_source",
            Self::NoRoute => "no_route",
            Self::FilteredByPolicy => "filtered_by_policy",
            Self::RateLimited => "rate_limited",
            Self::NoBuffer => "no_buffer",
            Self::TooBig => "too_big",
            Self::TimeExceeded => "time_exceeded",
            Self::Multicast => "multicast",
            Self::Unwanted => "unwanted",
            Self::KeyRefused => "key_refused",
            Self::MacLimit => "mac_limit",
            Self::UnknownNeighbour => "unknown_neighbour",
            Self::Loop => "loop",
        }
    }
}
