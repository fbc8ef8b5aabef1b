use std::net::IpAddr;

use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn target() -> Ipv6Addr {
    "fd86::aa:bbcc".parse().unwrap()
}

fn parse(packet: &[u8]) -> Result<Discovery, Malformed> {
    Discovery::parse(&Head::parse(packet)?, packet)
}

fn arp() -> Arp {
    Arp {
        operation: ArpOperation::REQUEST,
        sender_mac: MAC,
        sender: Ipv4Addr::new(10, 86, 0, 2),
        target_mac: Mac([0; 6]),
        target: Ipv4Addr::new(10, 86, 0, 1),
    }
}

#[test]
fn an_arp_message_reads_back_with_its_padding() {
    let mut bytes = arp().write().to_vec();
    bytes.resize(46, 0);

    assert_eq!(Arp::parse(&bytes), Ok(arp()));
}

#[test]
fn an_arp_message_about_something_else_is_refused() {
    for at in 0..6 {
        let mut bytes = arp().write();
        bytes[at] ^= 1;
        assert!(Arp::parse(&bytes).is_err(), "accepted a change at {at}");
    }
}

#[test]
fn a_solicitation_reads_back() {
    let source = "fd86::1".parse().unwrap();
    let packet = Discovery::solicitation(MAC, source, target());

    let head = Head::parse(&packet).unwrap();

    assert_eq!(head.source, IpAddr::from(source));
    assert_eq!(head.destination, "ff02::1:ffaa:bbcc".parse::<IpAddr>().unwrap());
    assert_eq!(Discovery::kind(&head, &packet), Some(DiscoveryKind::SOLICITATION));
    let kind = DiscoveryKind::SOLICITATION;
    assert_eq!(parse(&packet), Ok(Discovery { kind, target: target(), link: Some(MAC) }));
}

#[test]
fn an_answer_is_never_larger_than_its_question() {
    let asker = "fe80::2".parse().unwrap();
    for (room, expected, link) in [
        (80, Some(72), Some(MAC)),
        (72, Some(72), Some(MAC)),
        (71, Some(64), None),
        (63, None, None),
    ] {
        let mut out = vec![0xee; room];

        let len = Discovery::answer(MAC, target(), asker, &mut out);

        assert_eq!(len, expected);
        if let Some(len) = len {
            let kind = DiscoveryKind::ADVERTISEMENT;
            assert_eq!(parse(&out[..len]), Ok(Discovery { kind, target: target(), link }));
        }
    }
}

#[test]
fn whoever_has_no_address_yet_is_answered_in_public() {
    let mut out = [0; DISCOVERY_LEN];

    Discovery::answer(MAC, target(), Ipv6Addr::UNSPECIFIED, &mut out).unwrap();

    let head = Head::parse(&out).unwrap();
    assert_eq!(head.destination, "ff02::1".parse::<IpAddr>().unwrap());
    assert_eq!(out[44] & SOLICITED, 0);
}

#[test]
fn what_came_through_a_router_is_no_neighbours() {
    let mut packet = Discovery::solicitation(MAC, "fd86::1".parse().unwrap(), target());
    packet[7] = 254;

    assert!(parse(&packet).is_err());
}

#[test]
fn an_option_of_no_length_is_refused() {
    let mut packet = Discovery::solicitation(MAC, "fd86::1".parse().unwrap(), target());
    packet[65] = 0;
    packet[42..44].fill(0);
    let head = Head::parse(&packet).unwrap();
    let sum = head.pseudo(32).plus(&packet[40..]).checksum();
    packet[42..44].copy_from_slice(&sum);

    let what = "option of neighbour discovery";
    assert_eq!(parse(&packet), Err(Malformed::Forbidden { what }));
}

#[test]
fn every_truncation_is_an_error_and_every_corruption_survived() {
    let bytes = arp().write();
    for len in 0..bytes.len() {
        assert!(Arp::parse(&bytes[..len]).is_err(), "accepted {len} bytes");
    }
    let packet = Discovery::solicitation(MAC, "fd86::1".parse().unwrap(), target());
    for len in 0..packet.len() {
        assert!(parse(&packet[..len]).is_err(), "accepted {len} bytes");
    }
    for at in 0..packet.len() {
        for value in 0..=u8::MAX {
            let mut packet = packet;
            packet[at] = value;
            let _ = parse(&packet);
            let mut arp = bytes;
            arp[at % ARP_LEN] = value;
            let _ = Arp::parse(&arp);
        }
    }
}
