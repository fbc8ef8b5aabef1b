use super::*;

fn v4(protocol: u8, options: usize, payload: &[u8]) -> Vec<u8> {
    let header_len = IPV4_HEADER + options;
    let mut packet = vec![0; header_len];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
    packet[20..].fill(1);
    let checksum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(payload);
    packet
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; IPV6_HEADER];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet[6] = next;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&[0xfd; 16]);
    packet[24..40].copy_from_slice(&[0xfe; 16]);
    packet.extend(payload);
    packet
}

/// A TCP segment with `options`, checksummed for `wrap`ping into either version.
fn tcp(flags: u8, options: &[u8], wrap: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let header_len = TCP_HEADER + options.len();
    assert!(header_len.is_multiple_of(4));
    let mut segment = vec![0; header_len];
    segment[0..4].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
    segment[12] = (header_len as u8 / 4) << 4;
    segment[13] = flags;
    segment[TCP_HEADER..].copy_from_slice(options);
    let mut packet = wrap(&segment);
    let head = Head::parse(&packet).unwrap();
    let sum = head.pseudo(segment.len() as u16).plus(&segment);
    let at = head.transport + 16;
    packet[at..at + 2].copy_from_slice(&sum.checksum());
    packet
}

fn transport_is_valid(packet: &[u8]) -> bool {
    let head = Head::parse(packet).unwrap();
    let payload = head.payload(packet);
    head.pseudo(payload.len() as u16).plus(payload).is_valid()
}

#[test]
fn a_header_with_options_says_where_the_transport_starts() {
    let packet = v4(UDP, 8, &[1, 2, 3]);
    let head = Head::parse(&packet).unwrap();

    assert_eq!((head.transport, head.total_len, head.protocol), (28, 31, UDP));
    assert_eq!(head.source, IpAddr::from([10, 0, 0, 1]));
    assert_eq!(head.payload(&packet), [1, 2, 3]);
}

#[test]
fn padding_behind_a_packet_is_not_part_of_it() {
    let mut packet = v4(UDP, 0, &[1, 2, 3]);
    packet.extend([0; 15]);

    assert_eq!(Head::parse(&packet).unwrap().payload(&packet), [1, 2, 3]);
}

#[test]
fn every_truncation_is_an_error_and_none_panics() {
    for packet in [v4(TCP, 4, &[0; 20]), v6(HOP_BY_HOP, &[TCP, 0, 0, 0, 0, 0, 0, 0, 9, 9])] {
        assert!(Head::parse(&packet).is_ok());
        for len in 0..packet.len() {
            assert!(Head::parse(&packet[..len]).is_err(), "accepted {len} bytes");
        }
    }
}

#[test]
fn every_single_byte_corruption_is_survived() {
    let mss = [OPTION_MSS, 4, 0x05, 0xb4];
    for packet in [
        tcp(SYN, &mss, |segment| v4(TCP, 0, segment)),
        tcp(SYN, &mss, |segment| v6(TCP, segment)),
        v6(FRAGMENT, &[DESTINATION, 0, 0, 1, 0, 0, 0, 0, TCP, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
    ] {
        for at in 0..packet.len() {
            for value in 0..=u8::MAX {
                let mut bytes = packet.clone();
                bytes[at] = value;
                if let Ok(head) = Head::parse(&bytes) {
                    assert!(head.total_len <= bytes.len() && head.transport <= head.total_len);
                    clamp_mss(&mut bytes, &head, 1280);
                    decrement_ttl(&mut bytes, &head);
                }
            }
        }
    }
}

#[test]
fn extension_headers_are_walked_to_the_transport() {
    let mut chain = vec![ROUTING, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    chain.extend([AUTHENTICATION, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([7; 4]);
    let packet = v6(HOP_BY_HOP, &chain);
    let head = Head::parse(&packet).unwrap();

    assert_eq!((head.protocol, head.payload(&packet)), (UDP, &[7; 4][..]));
}

#[test]
fn an_endless_chain_of_extensions_is_refused() {
    let packet = v6(DESTINATION, &[DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(100));

    assert!(matches!(Head::parse(&packet), Err(Malformed::Forbidden { .. })));
}

#[test]
fn fragments_are_told_apart() {
    let fragment = |offset: u16| {
        let [high, low] = offset.to_be_bytes();
        let packet = v6(FRAGMENT, &[TCP, 0, high, low, 0, 0, 0, 1, 5, 5]);
        Head::parse(&packet).unwrap().fragment
    };
    assert_eq!(fragment(0), Fragment::Whole);
    assert_eq!(fragment(1), Fragment::First);
    assert_eq!(fragment(8), Fragment::Later);

    let mut packet = v4(TCP, 0, &[5; 8]);
    packet[6] = 0x20;
    assert_eq!(Head::parse(&packet).unwrap().fragment, Fragment::First);
    packet[7] = 1;
    assert_eq!(Head::parse(&packet).unwrap().fragment, Fragment::Later);
}

#[test]
fn a_hop_costs_one_and_the_checksum_stays_valid() {
    let mut packet = v4(UDP, 4, &[]);
    let head = Head::parse(&packet).unwrap();

    for left in (1..64).rev() {
        assert_eq!(decrement_ttl(&mut packet, &head), Some(left));
        assert!(Sum::of(&packet[..24]).is_valid());
    }
    assert_eq!(decrement_ttl(&mut packet, &head), None);
    assert_eq!(packet[8], 1, "the packet to quote is the one that arrived");
}

#[test]
fn an_ipv6_hop_limit_runs_out() {
    let mut packet = v6(UDP, &[]);
    packet[7] = 2;
    let head = Head::parse(&packet).unwrap();

    assert_eq!(decrement_ttl(&mut packet, &head), Some(1));
    assert_eq!(decrement_ttl(&mut packet, &head), None);
}

#[test]
fn a_syn_announces_no_more_than_fits() {
    let mss = [OPTION_NOP, OPTION_NOP, OPTION_MSS, 4, 0x05, 0xb4, OPTION_END, 0];

    let mut four = tcp(SYN, &mss, |segment| v4(TCP, 0, segment));
    let mut six = tcp(SYN | 0x10, &mss, |segment| v6(TCP, segment));
    let (head4, head6) = (Head::parse(&four).unwrap(), Head::parse(&six).unwrap());

    assert!(clamp_mss(&mut four, &head4, 1400) && clamp_mss(&mut six, &head6, 1400));
    assert_eq!(four[44..46], 1360_u16.to_be_bytes());
    assert_eq!(six[64..66], 1340_u16.to_be_bytes());
    assert!(transport_is_valid(&four) && transport_is_valid(&six));
    assert!(!clamp_mss(&mut four, &head4, 1500), "a small announcement is never raised");
}

#[test]
fn an_option_at_an_odd_offset_keeps_the_checksum_valid() {
    let mss = [OPTION_NOP, OPTION_MSS, 4, 0x05, 0xb4, OPTION_NOP, OPTION_NOP, OPTION_END];
    let mut packet = tcp(SYN, &mss, |segment| v4(TCP, 0, segment));
    let head = Head::parse(&packet).unwrap();

    assert!(clamp_mss(&mut packet, &head, 1300));
    assert!(transport_is_valid(&packet));
}

#[test]
fn only_a_syn_is_clamped() {
    let mss = [OPTION_MSS, 4, 0x05, 0xb4];
    let mut packet = tcp(0x10, &mss, |segment| v4(TCP, 0, segment));
    let before = packet.clone();
    let head = Head::parse(&packet).unwrap();

    assert!(!clamp_mss(&mut packet, &head, 1280));
    assert_eq!(packet, before);
}

#[test]
fn options_that_lie_about_their_length_end_the_search() {
    for options in [[9, 0, 0, 0], [9, 1, 2, 4], [OPTION_MSS, 200, 5, 5], [1, 1, 1, OPTION_MSS]] {
        let mut packet = tcp(SYN, &options, |segment| v4(TCP, 0, segment));
        let before = packet.clone();
        let head = Head::parse(&packet).unwrap();

        assert!(!clamp_mss(&mut packet, &head, 576));
        assert_eq!(packet, before);
    }
}
