//! Reads whose a datagram claims to be, without state and without trust.

use contract::{Path, TunnelKey};

/// The protocol, and our side of it, that a datagram socket speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SocketKind {
    /// OpenVPN, for peers that call us.
    OpenVpnResponder,
    /// OpenVPN, for one peer that we call.
    OpenVpnInitiator,
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
/// The peer-id of a peer that was never given one.
const NO_PEER_ID: u32 = 0x00ff_ffff;

/// Classifies a datagram that arrived on a socket of `kind`.
#[must_use]
pub fn classify(kind: SocketKind, path: &Path, datagram: &[u8]) -> Class {
    match kind {
        SocketKind::OpenVpnResponder => openvpn(path, datagram, |key_id| {
            let id = datagram.first_chunk::<4>()?;
            let peer = u32::from_be_bytes([0, id[1], id[2], id[3]]);
            (peer != NO_PEER_ID).then_some(TunnelKey::OpenVpn { peer, key_id })
        }),
        SocketKind::OpenVpnInitiator => openvpn(path, datagram, |_| None),
    }
}

/// OpenVPN's first byte: five bits of opcode, three of key id. `by_peer_id` names the tunnel of a
/// P_DATA_V2 packet where its peer-id is one that we gave.
fn openvpn(
    path: &Path,
    datagram: &[u8],
    by_peer_id: impl FnOnce(u8) -> Option<TunnelKey>,
) -> Class {
    let Some(first) = datagram.first() else { return Class::Nothing };
    let key_id = first & 7;
    let by_address = TunnelKey::OpenVpnAddress { remote: path.remote, key_id };

    match first >> 3 {
        P_DATA_V1 => Class::Tunnel(by_address),
        P_DATA_V2 if datagram.len() >= 4 => Class::Tunnel(by_peer_id(key_id).unwrap_or(by_address)),
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
