use std::time::Duration;

use contract::Layer;
use wire::ethernet::{self, EtherType, Mac};
use wire::neighbour::{Arp, ArpOperation, Discovery, DiscoveryKind};

use super::*;

/// Two stations, and a member that carries packets.
const ALICE: PortId = PortId(1);
const BOB: PortId = PortId(2);
const CAROL: PortId = PortId(3);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 0xff]);

#[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
fn now() -> Instant {
    Instant::now()
}

pub(super) fn segment() -> Arc<Segment> {
    Arc::new(Segment::new(OWN, 1, now()))
}

fn network() -> Switch {
    let mut switch = Switch::new(SwitchSettings {
        subnets: ["10.86.0.0/16", "fd86::/64"].map(|net| net.parse().unwrap()).to_vec(),
        gateways: ["10.86.0.1", "fd86::1"].map(|address| address.parse().unwrap()).to_vec(),
        host_mtu: 1500,
        policy: Arc::default(),
        on_bridge: Vec::new(),
        groups: vec!["239.1.2.3".parse().unwrap()],
        segment: segment(),
    });
    plug(&mut switch, ALICE, Layer::Ethernet, &["10.86.0.2/32", "fd86::2/128"]);
    plug(&mut switch, BOB, Layer::Ethernet, &["10.86.0.3/32", "fd86::3/128", "192.168.7.0/24"]);
    plug(&mut switch, CAROL, Layer::Ip, &["10.86.0.4/32", "fd86::4/128"]);
    switch
}

fn plug(switch: &mut Switch, port: PortId, layer: Layer, prefixes: &[&str]) {
    plug_of(switch, &format!("user {}", port.0), port, layer, prefixes);
}

fn plug_of(switch: &mut Switch, user: &str, port: PortId, layer: Layer, prefixes: &[&str]) {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let user = user.into();
    switch.apply(&FabricOp::Plug(Plug { port, prefixes, mtu: 1400, layer, user }));
}

/// The hardware address of a station.
fn mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0 as u8])
}

fn frame(destination: Mac, source: Mac, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    [&ethernet::head(destination, source, ether_type)[..], payload].concat()
}

fn ip(source: &str, destination: &str) -> Vec<u8> {
    match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
            [&head[..], &source.octets(), &destination.octets(), &[0; 8]].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let head = [0x60, 0, 0, 0, 0, 8, 17, 64];
            [&head[..], &source.octets(), &destination.octets(), &[0; 8]].concat()
        }
        mixed => panic!("{mixed:?}"),
    }
}

fn ip_frame(destination: Mac, from: PortId, source: &str, to: &str) -> Vec<u8> {
    let ether_type = if source.contains(':') { EtherType::IPV6 } else { EtherType::IPV4 };
    frame(destination, mac(from), ether_type, &ip(source, to))
}

fn arp(from: PortId, operation: ArpOperation, sender: &str, target: &str) -> Vec<u8> {
    let arp = Arp {
        operation,
        sender_mac: mac(from),
        sender: sender.parse().unwrap(),
        target_mac: Mac([0; 6]),
        target: target.parse().unwrap(),
    };
    frame(Mac::BROADCAST, mac(from), EtherType::ARP, &arp.write())
}

fn asks(from: PortId, sender: &str, target: &str) -> Vec<u8> {
    arp(from, ArpOperation::REQUEST, sender, target)
}

fn solicits(from: PortId, source: &str, target: &str) -> Vec<u8> {
    let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
    let packet = Discovery::solicitation(mac(from), source, target);
    let group = Mac::of_group(Discovery::group_of(target).into()).unwrap();
    frame(group, mac(from), EtherType::IPV6, &packet)
}

fn switch_at(switch: &Switch, from: PortId, frame: &[u8]) -> FrameVerdict {
    switch.switch(from, now(), &mut frame.to_vec())
}

const FLOOD: FrameVerdict = FrameVerdict::Flood { packet: None };

fn dropped(why: Discard) -> FrameVerdict {
    FrameVerdict::Discard(why)
}

#[test]
fn a_frame_goes_where_its_destination_was_heard() {
    let switch = network();
    let hello = frame(mac(BOB), mac(ALICE), EtherType(0x88b5), b"hello");

    assert_eq!(switch_at(&switch, ALICE, &hello), FLOOD, "nobody has heard of Bob");
    let reply = frame(mac(ALICE), mac(BOB), EtherType(0x88b5), b"reply");
    assert_eq!(switch_at(&switch, BOB, &reply), FrameVerdict::Port(ALICE));
    assert_eq!(switch_at(&switch, ALICE, &hello), FrameVerdict::Port(BOB));
}

#[test]
fn tags_and_any_type_pass() {
    let switch = network();
    let payload = [&[0, 5, 0x08, 0][..], &ip("192.0.2.1", "192.0.2.2")].concat();
    let tagged = frame(Mac::BROADCAST, mac(ALICE), EtherType::VLAN, &payload);

    assert_eq!(switch_at(&switch, ALICE, &tagged), FLOOD);
}

#[test]
fn a_frame_never_goes_back_to_where_it_came_from() {
    let switch = network();
    switch_at(&switch, ALICE, &frame(Mac::BROADCAST, mac(ALICE), EtherType(0x88b5), b""));
    let own = frame(mac(ALICE), Mac([2, 0, 0, 0, 9, 9]), EtherType(0x88b5), b"");

    assert_eq!(switch_at(&switch, ALICE, &own), dropped(Discard::NoRoute));
}

#[test]
fn a_neighbours_hardware_address_cannot_be_stolen() {
    let switch = network();
    let hello = |from| frame(Mac::BROADCAST, from, EtherType(0x88b5), b"");
    assert_eq!(switch_at(&switch, ALICE, &hello(mac(ALICE))), FLOOD);

    assert_eq!(switch_at(&switch, BOB, &hello(mac(ALICE))), dropped(Discard::SpoofedSource));
    assert_eq!(switch_at(&switch, BOB, &hello(OWN)), dropped(Discard::SpoofedSource));
    for nobody in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6])] {
        assert_eq!(switch_at(&switch, BOB, &hello(nobody)), dropped(Discard::Malformed));
    }
    let to_alice = frame(mac(ALICE), mac(BOB), EtherType(0x88b5), b"");
    assert_eq!(switch_at(&switch, BOB, &to_alice), FrameVerdict::Port(ALICE));
}

#[test]
fn a_station_that_is_silent_keeps_its_own_hardware_address() {
    let switch = network();
    let start = now();
    let at = |minutes: u64, from, mut frame: Vec<u8>| {
        switch.settings.segment.age(start + Duration::from_secs(60 * minutes));
        switch.switch(from, start + Duration::from_secs(60 * minutes), &mut frame)
    };
    let behind_alice = Mac([2, 0, 0, 0, 7, 7]);
    let hello = |source| frame(Mac::BROADCAST, source, EtherType(0x88b5), b"");
    assert_eq!(at(0, ALICE, hello(behind_alice)), FLOOD);
    // She says who she is.
    assert_eq!(at(0, ALICE, asks(ALICE, "10.86.0.2", "10.86.0.1")), FrameVerdict::Answer(42));

    assert_eq!(at(2, BOB, hello(behind_alice)), FLOOD, "what roams is heard elsewhere");
    for minutes in 2..20 {
        let stolen = at(minutes, BOB, hello(mac(ALICE)));
        assert_eq!(stolen, dropped(Discard::SpoofedSource), "after {minutes} minutes");
        let to_alice = frame(mac(ALICE), mac(BOB), EtherType(0x88b5), b"");
        assert_eq!(at(minutes, BOB, to_alice), FrameVerdict::Port(ALICE));
    }
    assert_eq!(at(20, ALICE, hello(mac(ALICE))), FLOOD);
}

#[test]
fn who_comes_back_need_not_wait_for_the_session_that_was_lost() {
    let mut switch = network();
    let hello = frame(Mac::BROADCAST, mac(ALICE), EtherType(0x88b5), b"");
    let to_alice = frame(mac(ALICE), mac(BOB), EtherType(0x88b5), b"");
    switch_at(&switch, ALICE, &asks(ALICE, "10.86.0.2", "10.86.0.1"));
    let (again, other) = (PortId(8), PortId(9));
    plug_of(&mut switch, "user 1", again, Layer::Ethernet, &["10.86.0.8/32"]);
    plug_of(&mut switch, "user 3", other, Layer::Ethernet, &["10.86.0.9/32"]);

    assert_eq!(switch_at(&switch, other, &hello), dropped(Discard::SpoofedSource));
    assert_eq!(switch_at(&switch, again, &hello), FLOOD);
    assert_eq!(switch_at(&switch, BOB, &to_alice), FrameVerdict::Port(again));
    // So that two of one user's ports cannot tear at an address.
    assert_eq!(switch_at(&switch, ALICE, &hello), dropped(Discard::SpoofedSource));
    assert_eq!(switch_at(&switch, BOB, &to_alice), FrameVerdict::Port(again));
}

#[test]
fn ports_of_nobody_in_particular_are_not_one_users() {
    let mut switch = network();
    for port in [8, 9] {
        plug_of(&mut switch, "", PortId(port), Layer::Ethernet, &[&format!("10.86.0.{port}/32")]);
    }
    let hello = frame(Mac::BROADCAST, mac(PortId(8)), EtherType(0x88b5), b"");

    assert_eq!(switch_at(&switch, PortId(8), &hello), FLOOD);
    assert_eq!(switch_at(&switch, PortId(9), &hello), dropped(Discard::SpoofedSource));
}

#[test]
fn a_flood_of_hardware_addresses_ends_with_its_sender() {
    let switch = network();
    let flood = |n: u16| {
        let [a, b] = n.to_be_bytes();
        let source = Mac([2, 0, 0, 1, a, b]);
        switch_at(&switch, ALICE, &frame(mac(BOB), source, EtherType(0x88b5), b""))
    };

    let refused = (0..5000).filter(|n| flood(*n) == dropped(Discard::MacLimit)).count();

    assert_eq!(refused, 5000 - 256);
    let hello = frame(Mac::BROADCAST, mac(BOB), EtherType(0x88b5), b"");
    assert_eq!(switch_at(&switch, BOB, &hello), FLOOD);
}

#[test]
fn a_packet_for_the_network_is_routed_with_its_source_checked() {
    let switch = network();

    let routed = |source, to| switch_at(&switch, ALICE, &ip_frame(OWN, ALICE, source, to));

    assert_eq!(routed("10.86.0.2", "8.8.8.8"), FrameVerdict::Route);
    assert_eq!(routed("fd86::2", "fd86::4"), FrameVerdict::Route);
    assert_eq!(routed("10.86.0.3", "8.8.8.8"), dropped(Discard::SpoofedSource));
    // What the segment lets pass, the way out does not.
    assert_eq!(routed("192.0.2.7", "8.8.8.8"), FrameVerdict::Route);
    let head = PacketHead {
        source: "192.0.2.7".parse().unwrap(),
        destination: "8.8.8.8".parse().unwrap(),
        protocol: 17,
        len: 28,
    };
    assert_eq!(switch.forward(ALICE, &head), Verdict::Discard(Discard::SpoofedSource));
}

#[test]
fn nobody_speaks_for_another_on_the_segment() {
    let switch = network();
    let spoofed = dropped(Discard::SpoofedSource);
    let claims = |sender| arp(BOB, ArpOperation::REPLY, sender, "10.86.0.9");

    for sender in ["10.86.0.2", "10.86.0.1", "10.86.0.4", "10.86.200.200"] {
        assert_eq!(switch_at(&switch, BOB, &claims(sender)), spoofed, "{sender}");
        assert_eq!(switch_at(&switch, BOB, &asks(BOB, sender, "10.86.0.1")), spoofed, "{sender}");
    }
    let told = ip_frame(mac(ALICE), BOB, "10.86.0.4", "10.86.0.2");
    assert_eq!(switch_at(&switch, BOB, &told), spoofed);
    assert_eq!(switch_at(&switch, BOB, &claims("10.86.0.3")), FLOOD);
    assert_eq!(switch_at(&switch, BOB, &claims("172.16.0.1")), FLOOD, "an old game's own plan");
}

#[test]
fn a_disguise_gets_nobody_past_the_checks() {
    let switch = network();
    let mut advertisement = ip("fe80::1", "ff02::1");
    (advertisement[6], advertisement[40]) = (58, 134);
    let group = Mac::of_group("ff02::1".parse().unwrap()).unwrap();
    let advertises = frame(group, mac(BOB), EtherType::IPV6, &advertisement);
    let lies = [
        arp(BOB, ArpOperation::REPLY, "10.86.0.2", "10.86.0.9"),
        ip_frame(mac(ALICE), BOB, "10.86.0.4", "10.86.0.2"),
        advertises,
    ];
    let behind = |heads: &[u8], frame: &[u8]| [&frame[..12], heads, &frame[12..]].concat();

    for lie in lies {
        for tags in [&[0x81, 0, 0, 0][..], &[0x81, 0, 0, 0, 0x81, 0, 0, 0], &[0x88, 0xa8, 0xe0, 0]]
        {
            assert_eq!(
                switch_at(&switch, BOB, &behind(tags, &lie)),
                dropped(Discard::FilteredByPolicy),
                "{tags:02x?}"
            );
        }
        let snap = behind(&[0, 46, 0xaa, 0xaa, 3, 0, 0, 0], &lie);
        assert_eq!(switch_at(&switch, BOB, &snap), dropped(Discard::FilteredByPolicy));
        let own_vlan = behind(&[0x81, 0, 0, 5], &lie);
        assert_eq!(switch_at(&switch, BOB, &own_vlan), FLOOD);
    }
}

#[test]
fn the_network_answers_for_itself_and_for_everybody_not_on_the_segment() {
    let switch = network();
    for target in ["10.86.0.1", "10.86.0.4"] {
        let mut question = asks(ALICE, "10.86.0.2", target);

        assert_eq!(switch.switch(ALICE, now(), &mut question), FrameVerdict::Answer(42));

        let head = ethernet::Head::parse(&question).unwrap();
        let arp = Arp::parse(&question[14..]).unwrap();
        assert_eq!((head.destination, head.source), (mac(ALICE), OWN));
        assert_eq!((arp.operation, arp.sender_mac), (ArpOperation::REPLY, OWN));
        assert_eq!(arp.sender, target.parse::<Ipv4Addr>().unwrap());
    }
    for target in ["fd86::1", "fd86::4"] {
        let mut question = solicits(ALICE, "fd86::2", target);

        assert_eq!(switch.switch(ALICE, now(), &mut question), FrameVerdict::Answer(86));

        let head = wire::ip::Head::parse(&question[14..]).unwrap();
        let answer = Discovery::parse(&head, &question[14..]).unwrap();
        assert_eq!(head.destination, "fd86::2".parse::<IpAddr>().unwrap());
        assert_eq!((answer.kind, answer.link), (DiscoveryKind::ADVERTISEMENT, Some(OWN)));
        assert_eq!(answer.target, target.parse::<Ipv6Addr>().unwrap());
    }
}

#[test]
fn a_question_for_a_station_goes_to_that_station_only() {
    let switch = network();

    let asked = |target| switch_at(&switch, ALICE, &asks(ALICE, "10.86.0.2", target));

    assert_eq!(asked("10.86.0.3"), FrameVerdict::Port(BOB));
    assert_eq!(asked("10.86.0.2"), FLOOD, "an announcement");
    assert_eq!(asked("10.86.0.77"), dropped(Discard::NoRoute));
    assert_eq!(asked("192.168.7.1"), FrameVerdict::Answer(42), "a subnet behind a station");
    let solicited = solicits(ALICE, "fd86::2", "fd86::3");
    assert_eq!(switch_at(&switch, ALICE, &solicited), FrameVerdict::Port(BOB));
}

#[test]
fn answers_are_limited_by_port() {
    let switch = network();
    let when = now();
    let answered = |from: PortId, sender| {
        let answer = |_: &u32| {
            let mut question = asks(from, sender, "10.86.0.1");
            matches!(switch.switch(from, when, &mut question), FrameVerdict::Answer(_))
        };
        (0..1000).filter(answer).count()
    };

    assert_eq!(answered(ALICE, "10.86.0.2"), 100);
    assert_eq!(answered(BOB, "10.86.0.3"), 100);
}

#[test]
fn a_station_that_says_where_routers_are_is_not_believed() {
    let switch = network();
    let mut advertisement = ip("fe80::1", "ff02::1");
    (advertisement[6], advertisement[40]) = (58, 134);
    let group = Mac::of_group("ff02::1".parse().unwrap()).unwrap();
    let bytes = frame(group, mac(ALICE), EtherType::IPV6, &advertisement);

    assert_eq!(switch_at(&switch, ALICE, &bytes), dropped(Discard::FilteredByPolicy));
}

#[test]
fn spanning_tree_and_its_like_stop_here() {
    let switch = network();
    let bridges = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    let bytes = frame(bridges, mac(ALICE), EtherType(0x0027), b"");

    assert_eq!(switch_at(&switch, ALICE, &bytes), dropped(Discard::Multicast));
}

#[test]
fn members_that_may_not_reach_each_other_reach_the_network() {
    let switch = network();
    switch_at(&switch, BOB, &asks(BOB, "10.86.0.3", "10.86.0.1"));
    switch.settings.policy.set_client_to_client(false);
    let filtered = dropped(Discard::FilteredByPolicy);

    assert_eq!(switch_at(&switch, ALICE, &asks(ALICE, "10.86.0.2", "10.86.0.3")), filtered);
    assert_eq!(switch_at(&switch, ALICE, &asks(ALICE, "10.86.0.2", "10.86.0.4")), filtered);
    for to in [mac(BOB), Mac::BROADCAST] {
        let hello = frame(to, mac(ALICE), EtherType(0x88b5), b"");
        assert_eq!(switch_at(&switch, ALICE, &hello), filtered);
    }
    let gateway = asks(ALICE, "10.86.0.2", "10.86.0.1");
    assert_eq!(switch_at(&switch, ALICE, &gateway), FrameVerdict::Answer(42));
}

#[test]
fn a_packet_for_a_station_waits_for_its_hardware_address_and_then_finds_it() {
    let switch = network();
    let when = now();
    let to = |address: &str| address.parse().unwrap();
    let mut room = [0; MAX_QUESTION];

    assert_eq!(switch.link_head(CAROL, to("10.86.0.4")), LinkHead::None);
    assert_eq!(switch.link_head(ALICE, to("10.86.0.2")), LinkHead::Unknown);
    let len = switch.question(ALICE, to("10.86.0.2"), when, &mut room).unwrap();
    let question = Arp::parse(&room[14..len]).unwrap();
    assert_eq!((question.sender, question.target), ([10, 86, 0, 1].into(), [10, 86, 0, 2].into()));
    assert_eq!(switch.question(BOB, to("fd86::3"), when, &mut room), Some(86));

    let answer = arp(ALICE, ArpOperation::REPLY, "10.86.0.2", "10.86.0.1");
    switch_at(&switch, ALICE, &answer);
    let expected = ethernet::head(mac(ALICE), OWN, EtherType::IPV4);
    assert_eq!(switch.link_head(ALICE, to("10.86.0.2")), LinkHead::Ethernet(expected));
    assert_eq!(switch.link_head(ALICE, to("fd86::2")), LinkHead::Unknown);

    // What is behind a station goes through it.
    switch_at(&switch, BOB, &ip_frame(OWN, BOB, "10.86.0.3", "8.8.8.8"));
    let expected = ethernet::head(mac(BOB), OWN, EtherType::IPV4);
    assert_eq!(switch.link_head(BOB, to("192.168.7.9")), LinkHead::Ethernet(expected));
}

#[test]
fn questions_are_limited_by_port() {
    let switch = network();
    let when = now();
    let address = "10.86.0.2".parse().unwrap();
    let asked = |when| {
        let ask = |_: &u32| switch.question(ALICE, address, when, &mut [0; MAX_QUESTION]).is_some();
        (0..1000).filter(ask).count()
    };

    assert_eq!(asked(when), 10);
    assert_eq!(asked(when + Duration::from_secs(1)), 5);
}

#[test]
fn discovery_is_for_everybody_if_the_network_relays_it() {
    let switch = network();
    let group = |address: &str| Mac::of_group(address.parse().unwrap()).unwrap_or(Mac::BROADCAST);
    let sent =
        |from: PortId, source, to| switch_at(&switch, from, &ip_frame(group(to), from, source, to));
    let relayed = FrameVerdict::Flood { packet: Some(14) };

    assert_eq!(sent(ALICE, "10.86.0.2", "224.0.0.251"), FLOOD, "not unless asked to");
    switch.settings.policy.set_relay_broadcast(true);

    for to in [
        "224.0.0.251",
        "239.255.255.250",
        "224.0.0.252",
        "239.1.2.3",
        "255.255.255.255",
        "10.86.255.255",
    ] {
        assert_eq!(sent(ALICE, "10.86.0.2", to), relayed, "{to}");
        let head = PacketHead {
            source: "10.86.0.4".parse().unwrap(),
            destination: to.parse().unwrap(),
            protocol: 17,
            len: 100,
        };
        assert_eq!(switch.forward(CAROL, &head), Verdict::Flood, "{to}");
        assert_eq!(switch.forward(HOST_PORT, &head), Verdict::Flood, "{to}");
        let spoofed = PacketHead { source: "10.86.0.2".parse().unwrap(), ..head };
        assert_eq!(switch.forward(CAROL, &spoofed), Verdict::Discard(Discard::Multicast), "{to}");
    }
    assert_eq!(sent(ALICE, "fd86::2", "ff02::fb"), relayed);
    for (source, to) in
        [("10.86.0.2", "224.0.0.1"), ("0.0.0.0", "255.255.255.255"), ("fe80::1", "ff02::fb")]
    {
        assert_eq!(sent(ALICE, source, to), FLOOD, "{source} to {to}");
    }
    switch.settings.policy.set_client_to_client(false);
    assert_eq!(sent(ALICE, "10.86.0.2", "224.0.0.251"), dropped(Discard::FilteredByPolicy));
}

#[test]
fn everybody_is_the_stations_and_if_relayed_the_members() {
    let switch = network();
    let when = now();

    let crowd = switch.crowd(ALICE, when, b"one", false).unwrap();
    assert_eq!((crowd.stations, crowd.members), (&[ALICE, BOB][..], &[][..]));
    let crowd = switch.crowd(HOST_PORT, when, b"two", true).unwrap();
    assert_eq!((crowd.stations, crowd.members), (&[ALICE, BOB][..], &[CAROL][..]));
    assert_eq!(switch.crowd(BOB, when, b"two", true), Err(Discard::Multicast), "an echo");
}

#[test]
fn a_port_that_is_unplugged_is_off_the_segment() {
    let mut switch = network();
    switch_at(&switch, BOB, &frame(Mac::BROADCAST, mac(BOB), EtherType(0x88b5), b""));

    switch.apply(&FabricOp::Unplug(BOB));

    let to_bob = frame(mac(BOB), mac(ALICE), EtherType(0x88b5), b"");
    assert_eq!(switch_at(&switch, ALICE, &to_bob), FLOOD);
    assert_eq!(switch_at(&switch, BOB, &to_bob), dropped(Discard::SpoofedSource));
    assert_eq!(switch.crowd(ALICE, now(), b"", true).unwrap().stations, [ALICE]);
}

#[test]
fn a_member_that_carries_packets_has_no_frames() {
    let switch = network();
    let hello = frame(Mac::BROADCAST, mac(CAROL), EtherType(0x88b5), b"");

    assert_eq!(switch_at(&switch, CAROL, &hello), dropped(Discard::SpoofedSource));
}

#[test]
fn a_clients_frames_all_pass() {
    let mut uplink = Uplink::new(1500);
    let (layer, user) = (Layer::Ethernet, Arc::default());
    let tunnel = Plug { port: ALICE, prefixes: vec![], mtu: 1500, layer, user };
    assert_eq!(uplink.switch(HOST_PORT, now(), &mut []), dropped(Discard::NoRoute));

    uplink.apply(&FabricOp::Plug(tunnel));

    assert_eq!(uplink.switch(HOST_PORT, now(), &mut []), FrameVerdict::Port(ALICE));
    assert_eq!(uplink.switch(ALICE, now(), &mut []), FrameVerdict::Host);
    assert_eq!(uplink.switch(BOB, now(), &mut []), dropped(Discard::NoRoute));
}

#[test]
fn every_truncation_and_corruption_of_a_frame_is_survived() {
    let switch = network();
    for bytes in [
        asks(ALICE, "10.86.0.2", "10.86.0.1"),
        solicits(ALICE, "fd86::2", "fd86::1"),
        ip_frame(OWN, ALICE, "10.86.0.2", "8.8.8.8"),
    ] {
        for at in 0..bytes.len() {
            switch_at(&switch, ALICE, &bytes[..at]);
            for value in 0..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                switch_at(&switch, ALICE, &bytes);
            }
        }
    }
}
