//! Vectors computed with an independent implementation (python-cryptography) from key material
//! 00..ff, and abuse.

use super::*;

/// 20 bytes: 0x45, then 1 to 19.
fn payload() -> Vec<u8> {
    let mut bytes = (0..20).collect::<Vec<u8>>();
    bytes[0] = 0x45;
    bytes
}

fn material() -> StaticKey {
    let mut bytes = [0; 256];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = n as u8;
    }
    StaticKey::from_bytes(bytes)
}

fn tunnel(side: Side, cipher: Cipher, peer_id: Option<u32>) -> DataTunnel {
    DataTunnel::new(&DataKeys {
        side,
        key_id: KeyId::FIRST,
        peer_id,
        cipher,
        digest: Hash::Sha1,
        material: &material(),
        iv_seed: [9; 32],
        layer: Layer::Ip,
        shape: ShapeRules::default(),
        remote: std::net::Ipv4Addr::LOCALHOST.into(),
    })
}

fn seal(tunnel: &DataTunnel, content: &[u8]) -> Vec<u8> {
    let frame = tunnel.frame(ContentKind::Packet, content.len());
    let mut out = vec![0; frame.head + content.len() + frame.tail];
    out[frame.head..frame.head + content.len()].copy_from_slice(content);
    tunnel.seal(ContentKind::Packet, content.len(), &mut out).unwrap();
    out
}

const CIPHERS: [Cipher; 5] = [
    Cipher::Aes256Gcm,
    Cipher::Aes128Gcm,
    Cipher::ChaCha20Poly1305,
    Cipher::Aes256Cbc,
    Cipher::Aes128Cbc,
];

#[test]
fn content_is_what_the_tunnel_was_made_for() {
    for (layer, content) in [(Layer::Ip, payload()), (Layer::Ethernet, vec![0xff; 60])] {
        let tunnel = |side| DataTunnel { layer, ..tunnel(side, Cipher::Aes256Gcm, Some(7)) };
        let (left, right) = (tunnel(Side::Initiator), tunnel(Side::Responder));

        let mut sealed = seal(&left, &content);
        let opened = right.open(&mut sealed);

        let mut content = content;
        match layer {
            Layer::Ip => assert_eq!(opened, Ok(Opened::Packet(&mut content))),
            Layer::Ethernet => assert_eq!(opened, Ok(Opened::Frame(&mut content))),
        }
        assert_eq!(right.open(&mut seal(&left, &PING)), Ok(Opened::KeepAlive));
    }
}

#[test]
fn published_packets_are_sealed_bit_for_bit() {
    for (cipher, peer, expected) in [
        (
            Cipher::Aes256Gcm,
            Some(7),
            "48000007000000010fcdfab3db0bd6e83034510988fdd1dd8eca79be6fb3a0ce1db75e7c783b062ce37c2bb2",
        ),
        (
            Cipher::Aes256Gcm,
            None,
            "30000000011b4c3674a5fe2a3532bcd59e4a8a578a8eca79be6fb3a0ce1db75e7c783b062ce37c2bb2",
        ),
        (
            Cipher::ChaCha20Poly1305,
            Some(7),
            "48000007000000013986d14568f710ba770c3634a71b61474b8530c7f7a965399bbfedf84ac5f3e57a6647c5",
        ),
    ] {
        assert_eq!(hex::encode(seal(&tunnel(Side::Initiator, cipher, peer), &payload())), expected);
    }
}

#[test]
fn a_published_cbc_packet_opens() {
    let mut packet = hex::decode("48000007fbf4168d016c99effefe4cf65888da141db5f9a0a0a1a2a3a4a5a6a7a8a9aaabacadaeaf5b2cc4e0d5926f7bade7bc5f1ae5e356bd7b7196a4045ef754743f0147a22958").unwrap();
    let tunnel = tunnel(Side::Responder, Cipher::Aes128Cbc, Some(7));

    assert_eq!(tunnel.open(&mut packet), Ok(Opened::Packet(&mut payload())));
}

#[test]
fn every_length_survives_the_round_trip() {
    for cipher in CIPHERS {
        for peer in [None, Some(3)] {
            let (a, b) =
                (tunnel(Side::Initiator, cipher, peer), tunnel(Side::Responder, cipher, peer));
            for len in 1..70 {
                let content = vec![0x45; len];
                let mut packet = seal(&a, &content);
                assert_eq!(
                    b.open(&mut packet),
                    Ok(Opened::Packet(&mut content.clone())),
                    "{cipher} {len}"
                );
                let mut packet = seal(&b, &content);
                assert_eq!(
                    a.open(&mut packet),
                    Ok(Opened::Packet(&mut content.clone())),
                    "{cipher} {len}"
                );
            }
            assert_eq!((a.sealed(), a.opened()), (69, 69));
        }
    }
}

#[test]
fn a_packet_is_accepted_once_in_any_order() {
    for cipher in CIPHERS {
        let (a, b) =
            (tunnel(Side::Initiator, cipher, Some(1)), tunnel(Side::Responder, cipher, Some(1)));
        let packets = (0..50).map(|_| seal(&a, &payload())).collect::<Vec<_>>();

        for packet in packets.iter().rev() {
            assert!(b.open(&mut packet.clone()).is_ok());
        }
        for packet in &packets {
            assert_eq!(b.open(&mut packet.clone()), Err(Discard::Replayed));
        }
    }
}

#[test]
fn every_truncation_and_every_corruption_is_refused_and_advances_nothing() {
    for cipher in CIPHERS {
        let (a, b) =
            (tunnel(Side::Initiator, cipher, Some(1)), tunnel(Side::Responder, cipher, Some(1)));
        let packet = seal(&a, &payload());
        for len in 0..packet.len() {
            assert!(b.open(&mut packet[..len].to_vec()).is_err());
        }
        // Peer-id and opcode are not covered by the CBC format; they only choose the tunnel.
        let covered = if cipher.aead().is_some() { 0 } else { 4 };
        for bit in covered * 8..packet.len() * 8 {
            let mut copy = packet.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(b.open(&mut copy).is_err(), "{cipher} bit {bit}");
        }
        assert_eq!(b.opened(), 0);
        assert!(b.open(&mut packet.clone()).is_ok());
    }
}

#[test]
fn pings_are_swallowed_and_goodbyes_reach_the_engine() {
    let (a, b) = (
        tunnel(Side::Initiator, Cipher::Aes256Gcm, Some(1)),
        tunnel(Side::Responder, Cipher::Aes256Gcm, Some(1)),
    );
    let mut ping = seal(&a, &PING);
    let mut bye = [&OCC_MAGIC[..], &[OCC_EXIT]].concat();
    let mut exit = seal(&a, &bye);

    assert_eq!(b.open(&mut ping), Ok(Opened::KeepAlive));
    assert_eq!(b.open(&mut exit), Ok(Opened::Control(&mut bye)));
}

#[test]
fn a_worn_key_seals_nothing_more() {
    let a = tunnel(Side::Initiator, Cipher::ChaCha20Poly1305, Some(1));
    a.sent.store(LAST_PACKET_ID - 1, Relaxed);
    let mut out = vec![0; 24 + 20];

    assert!(a.is_worn());
    assert_eq!(a.seal(ContentKind::Packet, 20, &mut out), Ok(()));
    assert_eq!(a.seal(ContentKind::Packet, 20, &mut out), Err(Discard::KeyWornOut));
    assert_eq!(a.seal(ContentKind::Packet, 20, &mut out), Err(Discard::KeyWornOut));
}

#[test]
fn ivs_of_cbc_never_repeat() {
    let a = tunnel(Side::Initiator, Cipher::Aes256Cbc, Some(1));
    let ivs = (0..1000)
        .map(|_| seal(&a, &payload())[24..40].to_vec())
        .collect::<std::collections::HashSet<_>>();
    assert_eq!(ivs.len(), 1000);
}
