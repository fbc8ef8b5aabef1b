//! A vector computed with an independent implementation (python-cryptography) from key material
//! 00..ff, and the rules about what is new.

use std::net::Ipv4Addr;

use contract::{ContentKind, Discard, Opened, Tunnel};

use super::*;

fn tunnel(direction: Option<bool>, time: u32) -> DataTunnel {
    let material = StaticKey::from_bytes(std::array::from_fn(|n| n as u8));
    let received = Arc::default();
    let keys = FixedKeys {
        material: &material,
        direction,
        cipher: Cipher::Aes256Cbc,
        digest: Hash::Sha1,
        time,
        received: &received,
        iv_seed: [1; 32],
    };
    DataTunnel::fixed(&keys, &ShapeRules::default(), Ipv4Addr::LOCALHOST.into())
}

fn sealed(by: &DataTunnel, content: &[u8]) -> Vec<u8> {
    let frame = by.frame(content.len());
    let mut out = vec![0; frame.head + content.len() + frame.tail];
    out[frame.head..frame.head + content.len()].copy_from_slice(content);
    by.seal(ContentKind::Packet, content.len(), &mut out).unwrap();
    out
}

fn payload() -> Vec<u8> {
    let mut bytes = (0..20).collect::<Vec<u8>>();
    bytes[0] = 0x45;
    bytes
}

/// IV a0..af, id 1, time 0x66000000.
const FROM_0: &str = "0eaf54464aba428c4182fd8f139a16e87c2949b5a0a1a2a3a4a5a6a7a8a9aaabacadaeaf2c3f9c90c08cb3eea257f327d59275b5d97cb559a82aa5552cafae42f22e2539";
const FROM_1: &str = "f512bddaa6103d9c5ea78762d94a992bd254d2b0a0a1a2a3a4a5a6a7a8a9aaabacadaeaf412971688d1e6363f9bc4979c0560f3b999220ab311f623720ac86a035395f28";

#[test]
fn independent_packets_open_at_the_right_end_only() {
    let open = |direction, packet: &str| {
        let mut packet = hex::decode(packet).unwrap();
        let opened = tunnel(direction, 1).open(&mut packet);
        opened.map(|opened| assert_eq!(opened, Opened::Packet(&mut payload())))
    };

    assert_eq!(open(Some(true), FROM_0), Ok(()));
    assert_eq!(open(Some(false), FROM_0), Err(Discard::AuthFailed));
    assert_eq!(open(Some(false), FROM_1), Ok(()));
    // Without a direction, both send with the first half.
    assert_eq!(open(None, FROM_0), Ok(()));
    assert_eq!(open(None, FROM_1), Err(Discard::AuthFailed));
}

#[test]
fn every_length_survives_the_round_trip() {
    for (left, right) in [(None, None), (Some(false), Some(true)), (Some(true), Some(false))] {
        let (a, b) = (tunnel(left, 5), tunnel(right, 6));
        for len in 1..70 {
            let content = vec![0x45; len];
            let mut packet = sealed(&a, &content);
            assert_eq!(b.open(&mut packet), Ok(Opened::Packet(&mut content.clone())));
        }
    }
}

#[test]
fn every_truncation_and_corruption_is_refused() {
    let (a, b) = (tunnel(Some(false), 5), tunnel(Some(true), 5));
    let mut packet = sealed(&a, &payload());
    for len in 0..packet.len() {
        assert!(b.open(&mut packet[..len].to_vec()).is_err());
    }
    for bit in 0..packet.len() * 8 {
        let mut copy = packet.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.open(&mut copy), Err(Discard::AuthFailed));
    }
    assert!(b.open(&mut packet.clone()).is_ok());
    assert_eq!(b.open(&mut packet), Err(Discard::Replayed));
}

#[test]
fn a_later_beginning_counts_from_one_and_an_earlier_one_is_over() {
    let window = LongWindow::default();

    assert!(window.update(100, 7) && !window.update(100, 7) && window.update(100, 3));
    assert!(window.update(101, 1), "the peer has started again");
    assert!(!window.update(100, 8), "what it sent before is over");
    assert!(!window.update(101, 0) && window.update(101, 2));
}
