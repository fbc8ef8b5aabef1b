use std::time::Duration;

use contract::{FabricOp, FrameVerdict, Layer, LinkHead, Plug, Verdict};
use wire::ethernet::{self, EtherType, Mac};
use wire::neighbour::{Arp, ArpOperation, Discovery};

use super::frames_tests::segment;
use super::*;

/// A station, a member that carries packets, and a host of the bridged network.
const ALICE: PortId = PortId(1);
const CAROL: PortId = PortId(3);
const PRINTER: Mac = Mac([2, 0, 0, 0, 7, 7]);
const ALICES: Mac = Mac([2, 0, 0, 0, 0, 1]);

#[expect(clippy::disallowed_methods, reason = "a test must start somewhere")]
fn now() -> Instant {
    Instant::now()
}

/// A network whose pool is a part of the bridged one, as far as IPv4 goes.
fn network(bridged: &[&str]) -> Switch {
    let mut switch = Switch::new(SwitchSettings {
        subnets: ["192.168.7.192/26", "fd86::/64"].map(|net| net.parse().unwrap()).to_vec(),
        gateways: ["192.168.7.193", "fd86::1"].map(|address| address.parse().unwrap()).to_vec(),
        host_mtu: 1500,
        policy: Arc::default(),
        on_bridge: vec!["192.168.7.1".parse().unwrap()],
        groups: Vec::new(),
        segment: segment(),
    });
    switch.settings.policy.set_relay_broadcast(true);
    let mut plug = |port, layer, prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        switch.apply(&FabricOp::Plug(Plug {
            port,
            prefixes,
            mtu: 1400,
            layer,
            user: Arc::default(),
        }));
    };
    plug(ALICE, Layer::Ethernet, &["192.168.7.194/32", "fd86::2/128"]);
    plug(CAROL, Layer::Ip, &["192.168.7.195/32", "fd86::3/128", "10.9.0.0/16"]);
    plug(BRIDGE_PORT, Layer::Ethernet, bridged);
    switch
}

const NETWORKS: [&str; 3] = ["192.168.7.0/24", "172.20.0.0/16", "fd77::/64"];

fn packet(source: &str, destination: &str) -> PacketHead {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    PacketHead { source, destination, protocol: 17, len: 28 }
}

fn arp(operation: ArpOperation, mac: Mac, sender: &str, target: &str) -> Vec<u8> {
    let (sender, target) = (sender.parse().unwrap(), target.parse().unwrap());
    let arp = Arp { operation, sender_mac: mac, sender, target_mac: Mac([0; 6]), target };
    [&ethernet::head(Mac::BROADCAST, mac, EtherType::ARP)[..], &arp.write()].concat()
}

fn asks(switch: &Switch, from: PortId, mac: Mac, sender: &str, target: &str) -> FrameVerdict {
    let mut frame = arp(ArpOperation::REQUEST, mac, sender, target);
    switch.switch(from, now(), &mut frame)
}

fn dropped(why: Discard) -> FrameVerdict {
    FrameVerdict::Discard(why)
}

#[test]
fn hosts_of_the_bridged_network_are_at_the_bridge_and_members_are_not() {
    let switch = network(&NETWORKS);

    let verdict = |from, source, to| switch.forward(from, &packet(source, to));

    let member = "192.168.7.195";
    assert_eq!(verdict(CAROL, member, "192.168.7.20"), Verdict::Port(BRIDGE_PORT));
    assert_eq!(verdict(CAROL, "fd86::3", "fd77::20"), Verdict::Port(BRIDGE_PORT));
    assert_eq!(verdict(CAROL, member, "192.168.7.194"), Verdict::Port(ALICE));
    assert_eq!(verdict(CAROL, member, "192.168.7.193"), Verdict::Host);
    assert_eq!(verdict(CAROL, member, "192.168.7.200"), Verdict::Discard(Discard::NoRoute));
    assert_eq!(verdict(HOST_PORT, "192.168.7.193", "192.168.7.20"), Verdict::Port(BRIDGE_PORT));
    assert_eq!(verdict(BRIDGE_PORT, "192.168.7.20", member), Verdict::Port(CAROL));
    assert_eq!(verdict(BRIDGE_PORT, "192.168.7.20", "192.168.7.193"), Verdict::Host);
    assert_eq!(verdict(BRIDGE_PORT, "192.168.7.20", "10.9.1.1"), Verdict::Port(CAROL));
}

#[test]
fn the_host_is_where_its_addresses_are_now() {
    let mut switch = network(&NETWORKS);
    let lease = ["192.168.7.9".parse().unwrap(), "fd77::9".parse().unwrap()];
    let verdict = |switch: &Switch, to| switch.forward(CAROL, &packet("192.168.7.195", to));
    assert_eq!(verdict(&switch, "192.168.7.9"), Verdict::Port(BRIDGE_PORT));

    switch.apply(&FabricOp::HostOnBridge(lease.to_vec()));

    assert_eq!(verdict(&switch, "192.168.7.9"), Verdict::Host);
    assert_eq!(verdict(&switch, "192.168.7.1"), Verdict::Port(BRIDGE_PORT), "not any more");
    let claim = asks(&switch, ALICE, ALICES, "192.168.7.9", "192.168.7.20");
    assert_eq!(claim, dropped(Discard::SpoofedSource));
}

#[test]
fn hosts_of_the_bridged_network_use_neither_members_addresses_nor_our_way_out() {
    let switch = network(&NETWORKS);

    for source in ["192.168.7.194", "192.168.7.193", "192.168.7.200", "198.51.100.9", "10.9.1.1"] {
        let verdict = switch.forward(BRIDGE_PORT, &packet(source, "192.168.7.195"));
        assert_eq!(verdict, Verdict::Discard(Discard::SpoofedSource), "{source}");
    }
    let outside = switch.forward(BRIDGE_PORT, &packet("192.168.7.20", "198.51.100.9"));
    assert_eq!(outside, Verdict::Discard(Discard::NoRoute));
    let claim = asks(&switch, BRIDGE_PORT, PRINTER, "192.168.7.194", "192.168.7.20");
    assert_eq!(claim, dropped(Discard::SpoofedSource));
}

#[test]
fn the_network_answers_for_members_without_frames_and_nobody_else() {
    let switch = network(&NETWORKS);
    let answered = |sender, target| asks(&switch, BRIDGE_PORT, PRINTER, sender, target);
    let lan = "192.168.7.20";

    assert_eq!(answered(lan, "192.168.7.195"), FrameVerdict::Answer(42));
    assert_eq!(answered(lan, "192.168.7.193"), FrameVerdict::Answer(42));
    assert_eq!(answered(lan, "192.168.7.194"), FrameVerdict::Port(ALICE));
    assert_eq!(answered(lan, "192.168.7.21"), FrameVerdict::Flood { packet: None });
    assert_eq!(answered(lan, "192.168.7.200"), dropped(Discard::NoRoute));
    // From elsewhere nothing would be taken, so nothing is promised.
    assert_eq!(answered("172.16.0.9", "192.168.7.195"), dropped(Discard::NoRoute));
    let (alice, lan) = ("192.168.7.194", "192.168.7.20");
    let member = asks(&switch, ALICE, ALICES, alice, lan);
    assert_eq!(member, FrameVerdict::Flood { packet: None }, "the host answers for itself");
}

#[test]
fn this_host_is_on_the_bridged_network_and_reached_through_us() {
    let switch = network(&NETWORKS);
    let (host, lan, alice) = ("192.168.7.1", "192.168.7.20", "192.168.7.194");

    assert_eq!(switch.forward(CAROL, &packet("192.168.7.195", host)), Verdict::Host);
    assert_eq!(asks(&switch, ALICE, ALICES, alice, host), FrameVerdict::Answer(42));
    // With an address of the bridged network, a member asks as everybody there does,
    let flood = FrameVerdict::Flood { packet: None };
    assert_eq!(asks(&switch, ALICE, ALICES, "192.168.7.50", host), flood);
    assert_eq!(asks(&switch, BRIDGE_PORT, PRINTER, lan, host), flood);
    // and the host alone says that it is the host.
    let claim = asks(&switch, ALICE, ALICES, host, lan);
    assert_eq!(claim, dropped(Discard::SpoofedSource));
    let own = asks(&switch, BRIDGE_PORT, Mac([2, 0, 0, 0, 7, 1]), host, alice);
    assert_eq!(own, FrameVerdict::Port(ALICE));
}

#[test]
fn without_named_networks_the_bridge_carries_frames_and_nothing_else() {
    let switch = network(&[]);

    let verdict = switch.forward(CAROL, &packet("192.168.7.195", "192.168.7.20"));
    assert_eq!(verdict, Verdict::Host, "this host's own routes decide");
    let question = asks(&switch, BRIDGE_PORT, PRINTER, "192.168.7.20", "192.168.7.195");
    assert_eq!(question, dropped(Discard::NoRoute));
    let question = asks(&switch, BRIDGE_PORT, PRINTER, "192.168.7.20", "192.168.7.194");
    assert_eq!(question, FrameVerdict::Port(ALICE));
}

#[test]
fn a_member_may_take_an_address_of_the_bridged_network_for_its_frames() {
    let switch = network(&NETWORKS);

    let question = asks(&switch, ALICE, ALICES, "192.168.7.50", "192.168.7.20");

    assert_eq!(question, FrameVerdict::Flood { packet: None });
    let routed = switch.forward(ALICE, &packet("192.168.7.50", "192.168.7.195"));
    assert_eq!(routed, Verdict::Discard(Discard::SpoofedSource));
}

#[test]
fn a_host_is_known_from_what_it_says_and_asked_for_until_then() {
    let switch = network(&NETWORKS);
    let (lan, mut out) = ("192.168.7.20".parse().unwrap(), [0; MAX_QUESTION]);
    assert_eq!(switch.link_head(BRIDGE_PORT, lan), LinkHead::Unknown);
    let len = switch.question(BRIDGE_PORT, lan, now(), &mut out).unwrap();
    let question = Arp::parse(&out[14..len]).unwrap();
    assert_eq!(IpAddr::from(question.target), lan);

    let mut reply = arp(ArpOperation::REPLY, PRINTER, "192.168.7.20", "192.168.7.193");
    switch.switch(BRIDGE_PORT, now(), &mut reply);
    let mut stranger = arp(ArpOperation::REPLY, PRINTER, "8.8.8.8", "192.168.7.193");
    switch.switch(BRIDGE_PORT, now(), &mut stranger);

    let own = switch.settings.segment.mac();
    let link = ethernet::head(PRINTER, own, EtherType::IPV4);
    assert_eq!(switch.link_head(BRIDGE_PORT, lan), LinkHead::Ethernet(link));
    assert_eq!(switch.link_head(BRIDGE_PORT, "8.8.8.8".parse().unwrap()), LinkHead::Unknown);
}

#[test]
fn a_broadcast_to_a_bridged_network_is_for_everybody() {
    let switch = network(&NETWORKS);

    let said = switch.forward(CAROL, &packet("192.168.7.195", "172.20.255.255"));

    assert_eq!(said, Verdict::Flood);
    let everybody = switch.link_head(BRIDGE_PORT, "172.20.255.255".parse().unwrap());
    let own = switch.settings.segment.mac();
    let link = ethernet::head(Mac::BROADCAST, own, EtherType::IPV4);
    assert_eq!(everybody, LinkHead::Ethernet(link));
}

#[test]
fn routers_of_the_bridged_network_are_heard_and_members_are_not_routers() {
    let switch = network(&NETWORKS);
    let message = |from, mac: Mac, kind: u8| {
        let (source, target) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let mut packet = Discovery::solicitation(mac, source, target);
        packet[40] = kind;
        let link = ethernet::head(Mac([0x33, 0x33, 0, 0, 0, 1]), mac, EtherType::IPV6);
        switch.switch(from, now(), &mut [&link[..], &packet].concat())
    };
    let flood = FrameVerdict::Flood { packet: None };

    assert_eq!(message(BRIDGE_PORT, PRINTER, 134), flood);
    assert_eq!(message(ALICE, ALICES, 133), flood);
    assert_eq!(message(ALICE, ALICES, 134), dropped(Discard::FilteredByPolicy));
    assert_eq!(message(BRIDGE_PORT, PRINTER, 133), dropped(Discard::FilteredByPolicy));
}

#[test]
fn a_member_that_is_on_the_bridged_network_too_is_apart_for_a_minute() {
    let (switch, start) = (network(&NETWORKS), now());
    let say = |from, mac, after: u64| {
        let link = ethernet::head(Mac::BROADCAST, mac, EtherType(0x88b5));
        let text = after.to_be_bytes();
        switch.switch(from, start + Duration::from_secs(after), &mut [&link[..], &text].concat())
    };
    let is_apart = |after| switch.is_apart(ALICE, start + Duration::from_secs(after));
    say(ALICE, ALICES, 0);
    say(BRIDGE_PORT, PRINTER, 0);
    assert!(!is_apart(0));

    assert_eq!(say(ALICE, PRINTER, 1), dropped(Discard::Loop));
    assert_eq!(say(ALICE, ALICES, 2), dropped(Discard::Loop));
    assert!(is_apart(60) && !is_apart(61));
    assert_eq!(switch.settings.segment.apart(start + Duration::from_secs(2)), [ALICE]);
    // As long as it brings the bridged network's words along, it stays apart.
    assert_eq!(say(ALICE, PRINTER, 30), dropped(Discard::Loop));
    assert!(is_apart(89) && !is_apart(90));
    // Nobody else pays for it, and the bridge keeps what was heard there.
    assert!(matches!(say(BRIDGE_PORT, PRINTER, 31), FrameVerdict::Flood { .. }));
    assert_eq!(say(ALICE, ALICES, 91), FrameVerdict::Flood { packet: None });
}

#[test]
fn a_member_whose_frames_keep_coming_back_from_the_bridged_network_is_apart() {
    let switch = network(&NETWORKS);
    let say = |from, mac| {
        let link = ethernet::head(Mac::BROADCAST, mac, EtherType(0x88b5));
        switch.switch(from, now(), &mut link.to_vec())
    };
    // The member was faster than the host that said it.
    assert_eq!(say(ALICE, PRINTER), FrameVerdict::Flood { packet: None });

    let returned =
        (0..100).filter(|_| say(BRIDGE_PORT, PRINTER) == dropped(Discard::SpoofedSource));

    assert_eq!(returned.count(), 65);
    assert!(switch.is_apart(ALICE, now()));
    assert_eq!(say(ALICE, PRINTER), dropped(Discard::Loop));
}

#[test]
fn a_bridge_has_more_hardware_addresses_than_a_member_may_have() {
    let switch = network(&NETWORKS);
    let heard = |from, n: u16| {
        let [a, b] = n.to_be_bytes();
        let link = ethernet::head(ALICES, Mac([2, 1, 0, from, a, b]), EtherType(0x88b5));
        let port = if from == 0 { BRIDGE_PORT } else { ALICE };
        switch.switch(port, now(), &mut link.to_vec()) != dropped(Discard::MacLimit)
    };

    assert_eq!((0..2000).filter(|n| heard(1, *n)).count(), 256);
    // A flood of them silences nobody on the bridged network.
    assert_eq!((0..20_000).filter(|n| heard(0, *n)).count(), 20_000);
    let known = |n: u16| switch.settings.segment.find(Mac([2, 1, 0, 0, (n >> 8) as u8, n as u8]));
    assert!((0..2000).all(|n| known(n) == Some(BRIDGE_PORT)));
    assert!((0..20_000).filter(|n| known(*n).is_some()).count() <= 8192);
}
