//! Known packets from OpenVPN's unit tests (test_pkt.c) and abuse of them.

use super::*;
use crate::packet::{KeyId, Opcode};

const KEY: &str = "37268ea8f95d7f71f9fb8fc03770c460daf714a483d815c013ce0a537efc18f28f4f172669d9e6a413bac6741d8ea05400f49b7fd6326470f23798c606bf53d4\
de63ebc64ec59d57ce5d04d5b62e68b53ca6e5354351097fa370446c4d269f187bb6ae54af2dc70ff7317fe2f8754b8282aad4202f9fa42c8640245d883e2c54\
a0c1c489a036cf3a8964d8d289c1583b9447c262b1da5fd167a5d27bd5ac514317bc2343a31a2efc38dd920d910375f51c2e27f3afd36c49269da079f7ce466e\
bb0f9ad13e9bbb4665974e6bc24b513c5700393bf4a3e7f967e2f384069ac8a8e78b18b15604993fd16515cce9c0f3e42b4126b999005ade802797b0eeb8b9e6";

const TLS_AUTH_RESET: &str =
    "38de694c5c7bfba27493537c1ded4e781529ae7cfe4b8c6d6b2b51f05a0000000161d3bf6c0000000000";
const TLS_CRYPT_RESET: &str = "38f419cb12d1f9e48f0000000161d3f8e1330206f56802be44fbed905064e3db43416bec5e526719462b7eb90c96defc9b05c44879f7";

fn key() -> StaticKey {
    StaticKey::from_bytes(hex::decode(KEY).unwrap().try_into().unwrap())
}

fn tls_auth() -> Protection {
    Protection::TlsAuth { key: key(), hash: Hash::Sha1, directed: true }
}

#[test]
fn a_published_tls_auth_reset_opens_and_writes_back() {
    let bytes = hex::decode(TLS_AUTH_RESET).unwrap();

    let unwrapped = tls_auth().keys(Side::Responder).unwrap(&bytes).unwrap();

    assert_eq!(unwrapped.head, Head::new(Opcode::P_CONTROL_HARD_RESET_CLIENT_V2, KeyId::FIRST));
    assert_eq!(unwrapped.stamp, Some(Stamp { id: 1, time: 0x61d3_bf6c }));
    assert_eq!(unwrapped.body, [0; 5]);
    let again = tls_auth().keys(Side::Initiator).wrap(
        unwrapped.head,
        unwrapped.sid,
        unwrapped.stamp.unwrap(),
        &unwrapped.body,
    );
    assert_eq!(again, bytes);
}

#[test]
fn a_published_tls_crypt_reset_opens_and_writes_back() {
    let bytes = hex::decode(TLS_CRYPT_RESET).unwrap();
    let protection = Protection::TlsCrypt { key: key() };

    let unwrapped = protection.keys(Side::Responder).unwrap(&bytes).unwrap();

    assert_eq!(unwrapped.body, [0; 5]);
    let again = protection.keys(Side::Initiator).wrap(
        unwrapped.head,
        unwrapped.sid,
        unwrapped.stamp.unwrap(),
        &unwrapped.body,
    );
    assert_eq!(again, bytes);
}

/// OpenVPN's unit test of dynamic tls-crypt: exported material 256 × 0xba and no pre-shared key.
#[test]
fn the_published_dynamic_key_protects_a_renegotiation() {
    let exported = StaticKey::from_bytes([0xba; 256]);

    let Protection::TlsCrypt { key } = Protection::None.dynamic(&exported) else {
        panic!("dynamic keys are tls-crypt keys");
    };

    let keys = CryptKeys::new(&key, Half::K0);
    let mut tag = [0; 32];
    let head = hex::decode("0000000100000000").unwrap();
    let mut text = *b"1234567890";
    keys.hmac.sign_into(&[&head, &text], &mut tag);
    aes256_ctr(&keys.cipher, tag.first_chunk().unwrap(), &mut text);
    assert_eq!(
        hex::encode([&head[..], &tag, &text].concat()),
        "0000000100000000e319277f1c8d6e6a7796a855337b9cfb56e1f13a870e6647dfa195c92c17a015ba4967a11d55ea1a06a7"
    );
}

#[test]
fn every_truncation_and_every_corruption_is_refused() {
    for (protection, packet) in
        [(tls_auth(), TLS_AUTH_RESET), (Protection::TlsCrypt { key: key() }, TLS_CRYPT_RESET)]
    {
        let keys = protection.keys(Side::Responder);
        let bytes = hex::decode(packet).unwrap();
        for len in 0..bytes.len() {
            assert!(keys.unwrap(&bytes[..len]).is_err(), "{len} bytes of {packet}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut copy = bytes.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.unwrap(&copy).err(), Some(Discard::AuthFailed), "bit {bit}");
        }
    }
}

#[test]
fn a_packet_is_accepted_once() {
    let keys = Protection::TlsCrypt { key: key() };
    let mut state = WrapState::new(keys.keys(Side::Responder), Stamp::default());
    let bytes = hex::decode(TLS_CRYPT_RESET).unwrap();

    let stamp = state.open(&bytes).unwrap().stamp;
    assert!(state.accept(stamp));
    assert!(!state.accept(stamp), "a replay");
}

#[test]
fn a_packet_from_before_the_peer_restarted_is_refused() {
    let protection = Protection::TlsCrypt { key: key() };
    let sender = protection.keys(Side::Initiator);
    let mut state = WrapState::new(protection.keys(Side::Responder), Stamp::default());
    let head = Head::new(Opcode::P_ACK_V1, KeyId::FIRST);
    let mut accepts = |time, id| {
        let packet = sender.wrap(head, ControlSid([1; 8]), Stamp { time, id }, &[0]);
        let stamp = state.open(&packet).unwrap().stamp;
        state.accept(stamp)
    };

    assert!(accepts(100, 5));
    assert!(accepts(200, 5));
    assert!(!accepts(100, 6));
}

#[test]
fn without_a_direction_both_ends_share_one_half() {
    let both = Protection::TlsAuth { key: key(), hash: Hash::Sha256, directed: false };
    let head = Head::new(Opcode::P_ACK_V1, KeyId::FIRST);

    let packet =
        both.keys(Side::Initiator).wrap(head, ControlSid([1; 8]), Stamp { time: 1, id: 1 }, &[0]);

    assert!(both.keys(Side::Responder).unwrap(&packet).is_ok());
    assert!(both.keys(Side::Initiator).unwrap(&packet).is_ok());
}
