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
    let frame = by.frame(ContentKind::Packet, content.len());
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

/// A link that pings once a minute, up.
fn link(now: Instant) -> FixedSession {
    let config = FixedConfig {
        key: StaticKey::from_bytes([7; 256]),
        direction: None,
        cipher: Cipher::Aes256Cbc,
        digest: Hash::Sha1,
        shape: ShapeRules::default(),
        lease: Lease::default(),
        ping: Some(Duration::from_secs(60)),
        silence: None,
        exits: false,
        floats: false,
        clock: Arc::new(WallClock::new(1_780_000_000)),
        received: Arc::default(),
    };
    let path = Path {
        local: None,
        remote: "192.0.2.1:1194".parse().unwrap(),
        carrier: contract::Carrier::Udp(contract::SocketId(1)),
    };
    let mut link = FixedSession::new(Arc::new(config), path, true, PortId(1), [1; 32]);
    link.handle(now, Input::Command(Command::Connect)).unwrap();
    let answer = Answer::Configured(Ok(()));
    link.handle(now, Input::Answer { ask: AskId(1), answer }).unwrap();
    link
}

/// What it says until nothing is left to do, in short, and when it wants to be woken.
fn outputs(link: &mut FixedSession, now: Instant) -> (Vec<&'static str>, Duration) {
    let mut said = Vec::new();
    loop {
        said.push(match link.poll(now) {
            Output::DataPlane(DataPlaneOp::Install { .. }) => "install",
            Output::DataPlane(DataPlaneOp::Remove { .. }) => "remove",
            Output::DataPlane(DataPlaneOp::SendVia { .. }) => "send via",
            Output::Transmit(_) => "ping",
            Output::Wait(deadline) => return (said, deadline.unwrap().0 - now),
            _ => "more",
        });
    }
}

#[test]
fn a_link_that_seldom_pings_looks_after_its_numbers_all_the_same() {
    let mut now = Instant::now();
    let mut link = link(now);
    let (_, wait) = outputs(&mut link, now);
    let Stage::Up(up) = &link.stage else { panic!("{link:?}") };
    assert!(wait <= LOOK);
    up.tunnel.wear(1 << 31);

    now += wait;
    link.handle(now, Input::Tick).unwrap();

    let (said, _) = outputs(&mut link, now);
    assert_eq!(said, ["remove", "install", "send via"]);
    let Stage::Up(up) = &link.stage else { panic!("{link:?}") };
    assert_eq!(up.tunnel.sealed(), 0);
}

#[test]
fn looking_more_often_is_not_pinging_more_often() {
    let begin = Instant::now();
    let (mut now, mut pings) = (begin, Vec::new());
    let mut link = link(now);
    outputs(&mut link, now);

    while now < begin + Duration::from_secs(200) {
        link.handle(now, Input::Tick).unwrap();
        let (said, wait) = outputs(&mut link, now);
        if said.contains(&"ping") {
            // The worker seals it.
            let Stage::Up(up) = &link.stage else { panic!("{link:?}") };
            up.tunnel.wear(up.tunnel.sealed() + 1);
            pings.push((now - begin).as_secs());
        }
        now += wait;
    }

    assert_eq!(pings, [60, 120, 180]);
}
