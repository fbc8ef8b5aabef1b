//! Reads whose a datagram claims to be, without state and without trust.

use contract::{Path, StreamId, TunnelKey};

use crate::framing::Framing;

/// The protocol, and our side of it, that a datagram socket speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SocketKind {
    /// OpenVPN, for peers that call us.
    OpenVpnResponder,
    /// OpenVPN, for one peer that we call.
    OpenVpnInitiator,
    /// OpenVPN with a static key, for one peer: everything is data.
    OpenVpnStatic,
}

/// The protocol that a stream carries; which end called the other makes no difference.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StreamKind {
    /// OpenVPN over TCP.
    OpenVpn {
        /// The largest IP packet or frame that the peers exchange, in bytes.
        mtu: u16,
    },
}

impl StreamKind {
    /// How its messages are told apart.
    #[must_use]
    pub fn framing(self) -> Framing {
        match self {
            Self::OpenVpn { mtu } => {
                let limit = mtu.saturating_add(OPENVPN_OVERHEAD).max(MAX_CONTROL as u16);
                Framing::Length16 { limit }
            }
        }
    }
}

/// What a datagram is, judged by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Data for the tunnel of that key.
    Tunnel(TunnelKey),
    /// For a protocol engine.
    Control,
    /// Nothing that the protocol knows.
    Nothing,
}

/// Data with the peer known by its address.
const P_DATA_V1: u8 = 6;
/// Data with a peer-id in front.
const P_DATA_V2: u8 = 9;
/// The longest control packet, in bytes: 2048 of payload and every header around it. Longer ones
/// would only fill the queue to the engines.
const MAX_CONTROL: usize = 2304;
/// What OpenVPN puts around a packet at most: peer-id, packet id, initialization vector, tag,
/// padding, compression byte, fragment head, Ethernet head; and some more, because peers are free
/// to be generous with the sizes that they announce.
const OPENVPN_OVERHEAD: u16 = 256;
/// The peer-id of a peer that was never given one.
const NO_PEER_ID: u32 = 0x00ff_ffff;

/// Classifies a datagram that arrived on a socket of `kind`.
#[must_use]
pub fn classify(kind: SocketKind, path: &Path, datagram: &[u8]) -> Class {
    match kind {
        SocketKind::OpenVpnResponder => openvpn(datagram, |key_id, peer| match peer {
            Some(peer) if peer != NO_PEER_ID => TunnelKey::OpenVpn { peer, key_id },
            _ => TunnelKey::OpenVpnAddress { remote: path.remote, key_id },
        }),
        SocketKind::OpenVpnInitiator => {
            openvpn(datagram, |key_id, _| TunnelKey::OpenVpnAddress { remote: path.remote, key_id })
        }
        SocketKind::OpenVpnStatic if datagram.is_empty() => Class::Nothing,
        SocketKind::OpenVpnStatic => {
            Class::Tunnel(TunnelKey::OpenVpnStatic { carrier: path.carrier })
        }
    }
}

/// Classifies a message that arrived on a stream of `kind`: whatever it says of its peer, the stream
/// belongs to one.
#[must_use]
pub fn classify_stream(kind: StreamKind, stream: StreamId, message: &[u8]) -> Class {
    match kind {
        StreamKind::OpenVpn { .. } => {
            openvpn(message, |key_id, _| TunnelKey::OpenVpnStream { stream, key_id })
        }
    }
}

/// OpenVPN's first byte: five bits of opcode, three of key id. `name` names the tunnel of a data
/// packet by its key id, and by its peer-id if it has one.
fn openvpn(datagram: &[u8], name: impl FnOnce(u8, Option<u32>) -> TunnelKey) -> Class {
    let Some(first) = datagram.first() else { return Class::Nothing };
    let key_id = first & 7;

    match first >> 3 {
        P_DATA_V1 => Class::Tunnel(name(key_id, None)),
        P_DATA_V2 => match datagram.first_chunk::<4>() {
            Some([_, peer @ ..]) => {
                let [high, middle, low] = *peer;
                let peer = u32::from_be_bytes([0, high, middle, low]);
                Class::Tunnel(name(key_id, Some(peer)))
            }
            None => Class::Nothing,
        },
        // P_CONTROL_SOFT_RESET_V1, P_CONTROL_V1, P_ACK_V1, the hard resets of version 2 and 3,
        // and P_CONTROL_WKC_V1.
        3 | 4 | 5 | 7 | 8 | 10 | 11 if datagram.len() <= MAX_CONTROL => Class::Control,
        _ => Class::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use contract::{Carrier, SocketId};

    use super::*;

    fn path() -> Path {
        Path {
            local: None,
            remote: ([192, 0, 2, 1], 1194).into(),
            carrier: Carrier::Udp(SocketId(0)),
        }
    }

    fn responder(datagram: &[u8]) -> Class {
        classify(SocketKind::OpenVpnResponder, &path(), datagram)
    }

    #[test]
    fn data_v2_is_known_by_its_peer_id_at_a_responder() {
        let key = TunnelKey::OpenVpn { peer: 0x01_02_03, key_id: 5 };

        assert_eq!(responder(&[9 << 3 | 5, 1, 2, 3, 0]), Class::Tunnel(key));
    }

    #[test]
    fn data_without_a_peer_id_is_known_by_its_address() {
        let key = TunnelKey::OpenVpnAddress { remote: path().remote, key_id: 2 };

        assert_eq!(responder(&[9 << 3 | 2, 0xff, 0xff, 0xff]), Class::Tunnel(key));
        assert_eq!(responder(&[6 << 3 | 2, 1]), Class::Tunnel(key));
        let initiator = classify(SocketKind::OpenVpnInitiator, &path(), &[9 << 3 | 2, 0, 0, 7]);
        assert_eq!(initiator, Class::Tunnel(key));
    }

    #[test]
    fn data_on_a_stream_is_known_by_the_stream_alone() {
        let kind = StreamKind::OpenVpn { mtu: 1500 };
        let key = TunnelKey::OpenVpnStream { stream: StreamId(7), key_id: 2 };

        for message in [&[9 << 3 | 2, 1, 2, 3][..], &[9 << 3 | 2, 0xff, 0xff, 0xff], &[6 << 3 | 2]]
        {
            assert_eq!(classify_stream(kind, StreamId(7), message), Class::Tunnel(key));
        }
        assert_eq!(classify_stream(kind, StreamId(7), &[7 << 3]), Class::Control);
        assert_eq!(classify_stream(kind, StreamId(7), &[0x16, 3, 1]), Class::Nothing);
    }

    #[test]
    fn a_stream_carries_whatever_a_tunnel_or_the_control_channel_can_have() {
        let limit = |mtu| match (StreamKind::OpenVpn { mtu }).framing() {
            Framing::Length16 { limit } => usize::from(limit),
        };

        assert_eq!(limit(1400), MAX_CONTROL);
        assert_eq!(limit(9000), 9256);
        assert_eq!(limit(u16::MAX), 65_535);
    }

    #[test]
    fn with_a_static_key_everything_is_data_of_the_sockets_one_peer() {
        let key = TunnelKey::OpenVpnStatic { carrier: path().carrier };
        let class = |datagram: &[u8]| classify(SocketKind::OpenVpnStatic, &path(), datagram);

        for first in 0..=u8::MAX {
            assert_eq!(class(&[first]), Class::Tunnel(key));
        }
        assert_eq!(class(&[]), Class::Nothing);
    }

    #[test]
    fn every_first_byte_has_one_class() {
        for first in 0..=u8::MAX {
            let expected = match first >> 3 {
                3 | 4 | 5 | 7 | 8 | 10 | 11 => Class::Control,
                6 | 9 => continue,
                _ => Class::Nothing,
            };
            assert_eq!(responder(&[first, 0, 0, 0]), expected, "{first:#x}");
        }
    }

    #[test]
    fn a_data_packet_too_short_for_its_peer_id_is_nothing() {
        assert_eq!(responder(&[9 << 3, 0, 0]), Class::Nothing);
        assert_eq!(responder(&[]), Class::Nothing);
    }

    #[test]
    fn a_control_packet_longer_than_any_real_one_is_nothing() {
        let mut long = vec![4 << 3; MAX_CONTROL];
        assert_eq!(responder(&long), Class::Control);
        long.push(0);
        assert_eq!(responder(&long), Class::Nothing);
    }
}
