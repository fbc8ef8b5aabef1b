use super::*;

const ALICE: PortId = PortId(1);
const BOB: PortId = PortId(2);

fn switch() -> Switch {
    let mut switch = Switch::new(SwitchSettings {
        subnets: ["10.86.0.0/16", "fd86::/64"].map(|net| net.parse().unwrap()).to_vec(),
        gateways: ["10.86.0.1", "fd86::1"].map(|address| address.parse().unwrap()).to_vec(),
        host_mtu: 1500,
        policy: Arc::default(),
        on_bridge: Vec::new(),
        groups: Vec::new(),
        segment: frames_tests::segment(),
    });
    plug(&mut switch, ALICE, &["10.86.0.2/32", "fd86::2/128"]);
    plug(&mut switch, BOB, &["10.86.0.3/32", "fd86::3/128", "192.168.7.0/24", "fd07::/48"]);
    switch
}

fn plug(fabric: &mut impl Fabric, port: PortId, prefixes: &[&str]) {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let (layer, user) = (Layer::Ip, Arc::default());
    fabric.apply(&FabricOp::Plug(Plug { port, prefixes, mtu: 1400, layer, user }));
}

fn send(fabric: &impl Fabric, from: PortId, source: &str, destination: &str) -> Verdict {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    fabric.forward(from, &PacketHead { source, destination, protocol: 17, len: 100 })
}

#[test]
fn members_reach_each_other_without_the_host() {
    let switch = switch();

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.3"), Verdict::Port(BOB));
    assert_eq!(send(&switch, BOB, "fd86::3", "fd86::2"), Verdict::Port(ALICE));
}

#[test]
fn members_reach_the_subnet_behind_another_and_are_reached_from_it() {
    let switch = switch();

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "192.168.7.9"), Verdict::Port(BOB));
    assert_eq!(send(&switch, BOB, "192.168.7.9", "10.86.0.2"), Verdict::Port(ALICE));
    assert_eq!(send(&switch, BOB, "fd07::9", "fd86::2"), Verdict::Port(ALICE));
    assert_eq!(send(&switch, HOST_PORT, "8.8.8.8", "192.168.7.200"), Verdict::Port(BOB));
}

#[test]
fn a_session_cannot_use_its_neighbours_address() {
    let switch = switch();
    let spoofed = Verdict::Discard(Discard::SpoofedSource);

    for source in ["10.86.0.3", "10.86.0.1", "192.168.7.1", "8.8.8.8", "127.0.0.1", "0.0.0.0"] {
        assert_eq!(send(&switch, ALICE, source, "8.8.4.4"), spoofed, "sent from {source}");
    }
    for source in ["fd86::3", "2001:db8::1", "::1", "::"] {
        assert_eq!(send(&switch, ALICE, source, "2001:db8::2"), spoofed, "sent from {source}");
    }
    assert_eq!(send(&switch, PortId(99), "10.86.0.2", "8.8.8.8"), spoofed, "a port never plugged");
}

#[test]
fn a_neighbour_inside_a_members_subnet_is_still_the_neighbours() {
    let mut switch = switch();
    plug(&mut switch, PortId(3), &["192.168.7.50/32"]);

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "192.168.7.50"), Verdict::Port(PortId(3)));
    let spoofed = Verdict::Discard(Discard::SpoofedSource);
    assert_eq!(send(&switch, BOB, "192.168.7.50", "8.8.8.8"), spoofed);
}

#[test]
fn the_world_and_the_gateway_are_behind_the_host() {
    let switch = switch();

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "8.8.8.8"), Verdict::Host);
    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.1"), Verdict::Host);
    assert_eq!(send(&switch, ALICE, "fd86::2", "fd86::1"), Verdict::Host);
}

#[test]
fn the_host_may_send_from_anywhere() {
    let switch = switch();

    assert_eq!(send(&switch, HOST_PORT, "8.8.8.8", "10.86.0.2"), Verdict::Port(ALICE));
    assert_eq!(send(&switch, HOST_PORT, "fe80::1", "fd86::2"), Verdict::Port(ALICE));
}

#[test]
fn an_address_that_is_nobodys_goes_nowhere() {
    let switch = switch();
    let nowhere = Verdict::Discard(Discard::NoRoute);

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.9.9"), nowhere);
    assert_eq!(send(&switch, ALICE, "fd86::2", "fd86::99"), nowhere);
    assert_eq!(send(&switch, HOST_PORT, "8.8.8.8", "10.86.9.9"), nowhere);
    assert_eq!(send(&switch, HOST_PORT, "8.8.8.8", "8.8.4.4"), nowhere);
    for local in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "240.0.0.1"] {
        assert_eq!(send(&switch, ALICE, "10.86.0.2", local), nowhere, "sent to {local}");
    }
    for local in ["::1", "::", "::ffff:127.0.0.1"] {
        assert_eq!(send(&switch, ALICE, "fd86::2", local), nowhere, "sent to {local}");
    }
}

#[test]
fn a_packet_to_oneself_does_not_bounce() {
    let switch = switch();
    let nowhere = Verdict::Discard(Discard::NoRoute);

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.2"), nowhere);
    assert_eq!(send(&switch, BOB, "10.86.0.3", "192.168.7.9"), nowhere);
}

#[test]
fn link_local_chatter_is_dropped_quietly() {
    let switch = switch();
    let quiet = Verdict::Discard(Discard::Multicast);

    for (source, destination) in [
        ("fe80::1", "ff02::2"),
        ("fe80::1", "fe80::2"),
        ("fd86::2", "ff02::fb"),
        ("::", "ff02::16"),
        ("10.86.0.2", "224.0.0.251"),
        ("10.86.0.2", "255.255.255.255"),
        ("10.86.0.2", "10.86.255.255"),
        ("169.254.3.4", "10.86.0.3"),
    ] {
        assert_eq!(send(&switch, ALICE, source, destination), quiet, "{source} to {destination}");
    }
    assert_eq!(send(&switch, HOST_PORT, "10.86.0.1", "10.86.255.255"), quiet);
    assert_eq!(send(&switch, HOST_PORT, "fe80::1", "ff02::1"), quiet);
}

#[test]
fn isolation_keeps_members_apart_and_leaves_them_the_host() {
    let switch = switch();
    let workers_copy = switch.clone();

    switch.settings.policy.set_client_to_client(false);

    let filtered = Verdict::Discard(Discard::FilteredByPolicy);
    for copy in [&switch, &workers_copy] {
        assert_eq!(send(copy, ALICE, "10.86.0.2", "10.86.0.3"), filtered);
        assert_eq!(send(copy, ALICE, "10.86.0.2", "192.168.7.9"), filtered);
        assert_eq!(send(copy, ALICE, "10.86.0.2", "8.8.8.8"), Verdict::Host);
        assert_eq!(send(copy, HOST_PORT, "8.8.8.8", "10.86.0.3"), Verdict::Port(BOB));
    }
}

#[test]
fn an_unplugged_port_is_forgotten_with_everything_behind_it() {
    let mut switch = switch();

    switch.apply(&FabricOp::Unplug(BOB));

    let nowhere = Verdict::Discard(Discard::NoRoute);
    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.3"), nowhere);
    assert_eq!(send(&switch, ALICE, "10.86.0.2", "192.168.7.9"), Verdict::Host);
    let spoofed = Verdict::Discard(Discard::SpoofedSource);
    assert_eq!(send(&switch, BOB, "10.86.0.3", "8.8.8.8"), spoofed);
    assert!(switch.exact6.len() == 1 && switch.behind6.is_empty() && switch.ports.len() == 1);
}

#[test]
fn an_address_taken_over_survives_the_end_of_its_old_port() {
    let mut switch = switch();
    let newer = PortId(9);

    plug(&mut switch, newer, &["10.86.0.3/32", "192.168.7.0/24"]);
    switch.apply(&FabricOp::Unplug(BOB));

    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.3"), Verdict::Port(newer));
    assert_eq!(send(&switch, newer, "192.168.7.1", "10.86.0.2"), Verdict::Port(ALICE));
}

#[test]
fn a_subnet_goes_back_to_the_session_that_had_it_before() {
    let mut switch = switch();
    let subnets = ["192.168.7.0/24", "192.168.8.8/32", "fd07::/48"];
    let newer = |n: u32| [&[&*format!("10.86.0.{n}/32")], &subnets[..]].concat().join(" ");
    for port in [7, 8, 9] {
        let prefixes = newer(port);
        plug(&mut switch, PortId(port), &prefixes.split(' ').collect::<Vec<_>>());
    }
    let behind = |switch: &Switch| {
        let to = ["192.168.7.9", "192.168.8.8"];
        let [a, b] = to.map(|to| send(switch, ALICE, "10.86.0.2", to));
        (a, b, send(switch, ALICE, "fd86::2", "fd07::9"))
    };
    let all = |port| (Verdict::Port(port), Verdict::Port(port), Verdict::Port(port));
    assert_eq!(behind(&switch), all(PortId(9)));

    switch.apply(&FabricOp::Unplug(PortId(7)));
    assert_eq!(behind(&switch), all(PortId(9)), "another session's end changes nothing");
    switch.apply(&FabricOp::Unplug(PortId(9)));
    assert_eq!(behind(&switch), all(PortId(8)));
    assert_eq!(send(&switch, PortId(8), "192.168.7.9", "10.86.0.2"), Verdict::Port(ALICE));
    switch.apply(&FabricOp::Unplug(PortId(8)));
    assert_eq!(behind(&switch), (Verdict::Port(BOB), Verdict::Host, Verdict::Port(BOB)));
}

#[test]
fn an_address_that_was_leased_anew_does_not_go_back() {
    let mut switch = switch();
    plug(&mut switch, PortId(7), &["10.86.0.3/32"]);

    switch.apply(&FabricOp::Unplug(PortId(7)));

    let nowhere = Verdict::Discard(Discard::NoRoute);
    assert_eq!(send(&switch, ALICE, "10.86.0.2", "10.86.0.3"), nowhere);
}

#[test]
fn plugging_again_replaces_what_was_there() {
    let mut switch = switch();

    plug(&mut switch, ALICE, &["10.86.0.77/32"]);

    let nowhere = Verdict::Discard(Discard::NoRoute);
    assert_eq!(send(&switch, BOB, "10.86.0.3", "10.86.0.2"), nowhere);
    assert_eq!(send(&switch, BOB, "10.86.0.3", "10.86.0.77"), Verdict::Port(ALICE));
}

#[test]
fn every_port_has_its_own_mtu() {
    let switch = switch();

    assert_eq!((switch.mtu(ALICE), switch.mtu(HOST_PORT)), (1400, 1500));
}

#[test]
fn an_uplink_joins_the_host_and_the_tunnel() {
    let mut uplink = Uplink::new(1500);
    let nowhere = Verdict::Discard(Discard::NoRoute);
    assert_eq!(send(&uplink, HOST_PORT, "10.8.0.2", "8.8.8.8"), nowhere, "no tunnel yet");

    plug(&mut uplink, ALICE, &["10.8.0.2/32"]);

    assert_eq!(send(&uplink, HOST_PORT, "10.8.0.2", "8.8.8.8"), Verdict::Port(ALICE));
    assert_eq!(send(&uplink, ALICE, "8.8.8.8", "10.8.0.2"), Verdict::Host);
    assert_eq!(send(&uplink, BOB, "8.8.8.8", "10.8.0.2"), nowhere, "an old tunnel");
    let quiet = Verdict::Discard(Discard::Multicast);
    assert_eq!(send(&uplink, HOST_PORT, "fe80::1", "ff02::2"), quiet);
    assert_eq!((uplink.mtu(ALICE), uplink.mtu(HOST_PORT)), (1400, 1500));

    uplink.apply(&FabricOp::Unplug(BOB));
    assert_eq!(send(&uplink, ALICE, "8.8.8.8", "10.8.0.2"), Verdict::Host);
    uplink.apply(&FabricOp::Unplug(ALICE));
    assert_eq!(send(&uplink, HOST_PORT, "10.8.0.2", "8.8.8.8"), nowhere);
}
