use std::net::Ipv4Addr;

use super::*;

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn shape(rules: ShapeRules) -> Shape {
    // 24 bytes of encryption around every payload.
    *Shape::new(&rules, Layer::Ip, REMOTE, |datagram| datagram.saturating_sub(24)).expect("rules")
}

fn rules(framing: Option<Framing>, fragment: Option<u16>) -> ShapeRules {
    let fragment = fragment.map(SizeLimit::Payload);
    ShapeRules { framing, fragment, mtu: 1500, ..ShapeRules::default() }
}

/// A TCP SYN that announces an MSS of 1460.
fn syn() -> Vec<u8> {
    let mut packet = hex::decode("4500002c0000000040060000c0000201c0000202").unwrap();
    packet.extend(
        hex::decode("04d20050000000000000000060021000000000000204 05b4".replace(' ', "")).unwrap(),
    );
    packet
}

fn mss(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[42], packet[43]])
}

fn packet(len: usize) -> Vec<u8> {
    let mut packet = (0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    packet[0] = 0x45;
    packet
}

/// Everything the shape makes of one packet.
fn payloads(shape: &Shape, content: &[u8]) -> Vec<Vec<u8>> {
    if shape.fits(content.len()) {
        let mut room = vec![0xee; shape.head() + content.len() + shape.tail()];
        room[shape.head()..shape.head() + content.len()].copy_from_slice(content);
        shape.dress(ContentKind::Packet, &mut room).unwrap();
        return vec![room];
    }
    let (mut all, mut room) = (Vec::new(), vec![0; 4096]);
    let send = |header: [u8; 4], bytes: &[u8]| {
        all.push([&header[..], bytes].concat());
        Ok(())
    };
    shape.cut(ContentKind::Packet, content, &mut room, send).unwrap();
    all
}

fn receive(shape: &Shape, payload: &[u8]) -> Result<Option<Vec<u8>>, Discard> {
    let mut payload = payload.to_vec();
    match shape.undress(&mut payload)? {
        Undressed::Plain(content) => Ok(Some(content.to_vec())),
        Undressed::Packed(packed) => {
            let mut out = vec![0; 4096];
            Ok(shape.unpack(1, packed, &mut out)?.map(|len| out[..len].to_vec()))
        }
    }
}

const FRAMINGS: [Option<Framing>; 6] = [
    None,
    Some(Framing::Lzo),
    Some(Framing::Stub),
    Some(Framing::Lz4),
    Some(Framing::StubV2),
    Some(Framing::Lz4V2),
];

#[test]
fn without_rules_there_is_no_shape() {
    let rules = ShapeRules { mtu: 1400, ..ShapeRules::default() };
    assert!(Shape::new(&rules, Layer::Ip, REMOTE, |len| len).is_none());
}

#[test]
fn every_framing_with_and_without_fragments_carries_every_size() {
    for framing in FRAMINGS {
        for fragment in [None, Some(1300), Some(200)] {
            if framing.is_none() && fragment.is_none() {
                continue;
            }
            let (a, b) = (shape(rules(framing, fragment)), shape(rules(framing, fragment)));
            for len in [20, 21, 150, 1270, 1271, 1272, 1273, 1274, 1275, 1276, 1420, 1500] {
                let content = packet(len);
                let payloads = payloads(&a, &content);
                let most = usize::from(fragment.unwrap_or(u16::MAX)) - 24;
                assert!(payloads.iter().all(|payload| payload.len() <= most), "{framing:?} {len}");
                let received = payloads.iter().filter_map(|payload| receive(&b, payload).unwrap());
                assert_eq!(received.collect::<Vec<_>>(), [content], "{framing:?} {fragment:?}");
            }
        }
    }
}

#[test]
fn compressed_packets_are_expanded_whole_and_in_parts() {
    let content = packet(1400);
    let block = lz4_flex::block::compress(&content);
    for (framing, packed) in [
        (Framing::Lz4V2, [&[0x50, 1], &block[..]].concat()),
        (Framing::Lz4, [&[0x69], &block[1..], &block[..1]].concat()),
    ] {
        let plain = shape(rules(Some(framing), None));
        assert_eq!(receive(&plain, &packed), Ok(Some(content.clone())));

        let cut = shape(rules(Some(framing), Some(500)));
        let whole = [&[0; 4], &packed[..]].concat();
        assert_eq!(receive(&cut, &whole), Ok(Some(content.clone())), "{framing:?}");
        let mut parts = Vec::new();
        for (header, range) in Cut::new(1, packed.len(), 100).unwrap().parts() {
            parts.extend(receive(&cut, &[&header[..], &packed[range]].concat()).unwrap());
        }
        assert_eq!(parts, std::slice::from_ref(&content), "{framing:?}");
    }
}

#[test]
fn nothing_expands_beyond_the_largest_packet() {
    let bomb = [&[0x50, 1], &lz4_flex::block::compress(&vec![0; 1 << 20])[..]].concat();
    for fragment in [None, Some(1300)] {
        let shape = shape(rules(Some(Framing::Lz4V2), fragment));
        let payload = if fragment.is_some() { [&[0; 4], &bomb[..]].concat() } else { bomb.clone() };
        assert_eq!(receive(&shape, &payload), Err(Discard::TooBig));
    }
}

#[test]
fn segments_are_limited_to_what_fits() {
    for (limit, framing, expected) in [
        (SizeLimit::Payload(1300), None, 1300 - 24 - 40),
        (SizeLimit::Payload(1300), Some(Framing::Lzo), 1300 - 24 - 1 - 40),
        (SizeLimit::Outer(1400), None, 1400 - 28 - 24 - 40),
        (SizeLimit::Inner(1200), None, 1200 - 40),
        (SizeLimit::Outer(9000), None, 1460),
    ] {
        let shape = shape(ShapeRules { framing, mssfix: Some(limit), mtu: 1500, fragment: None });
        let sent = payloads(&shape, &syn()).remove(0);
        assert_eq!(mss(&sent[shape.head()..]), expected, "{limit:?}");
        let mut arrived = syn();
        if let Some(framing) = framing {
            arrived.insert(0, 0);
            framing.dress(Layer::Ip, &mut arrived).unwrap();
        }
        assert_eq!(mss(&receive(&shape, &arrived).unwrap().unwrap()), expected, "{limit:?}");
    }
}

#[test]
fn fragments_that_are_compressed_twice_or_cut_off_are_refused() {
    let shape = shape(rules(Some(Framing::Lzo), Some(1300)));
    for payload in ["00", "000000", "00000000", "0000000045", "ff00000066", "4500000066"] {
        let payload = hex::decode(payload).unwrap();
        let received = receive(&shape, &payload);
        assert!(received.is_err() || received == Ok(Some(Vec::new())), "{payload:?}");
    }
}
