use std::fs;
use std::path::Path;

use super::*;
use crate::testing::{
    Lab, attempt, echo_requests, echo_requests6, reaches, set_sysctl, sh, sysctl,
};

fn plan() -> ServerPlan {
    ServerPlan {
        tun: "warren0".into(),
        address4: Some("10.86.0.1/16".parse().unwrap()),
        address6: Some("fd00:86::1/64".parse().unwrap()),
        mtu: 1400,
        nat: true,
        behind: Vec::new(),
        table: "warren-0".into(),
        bridge: None,
    }
}

/// A member behind the device, a host on each of two networks outside. The one on `lan0` knows
/// the way to members, the one on `lan1` does not.
fn world(lab: &Lab) {
    lab.neighbour("member", "warren0", &[], &["10.86.0.2/16", "fd00:86::2/64"]);
    lab.neighbour(
        "near",
        "lan0",
        &["192.0.2.1/24", "fd00:2::1/64"],
        &["192.0.2.2/24", "fd00:2::2/64"],
    );
    lab.neighbour("far", "lan1", &["198.51.100.1/24"], &["198.51.100.2/24"]);
    sh("ip -n member route add default via 10.86.0.1");
    sh("ip -n member -6 route add default via fd00:86::1");
    sh("ip -n near route add default via 192.0.2.1");
    sh("ip -n near -6 route add default via fd00:2::1");
    sh("ip -n far route add 192.0.2.0/24 via 198.51.100.1");
}

#[test]
fn the_host_is_afterwards_exactly_as_found() {
    Lab::run(|lab| {
        world(&lab);
        sh("nft add table inet theirs");
        let before = lab.snapshot();

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        let addresses = sh("ip addr show dev warren0");
        assert!(addresses.contains("inet 10.86.0.1/16"), "{addresses}");
        assert!(addresses.contains("inet6 fd00:86::1/64"), "{addresses}");
        assert!(!addresses.contains("tentative"), "{addresses}");
        assert!(addresses.contains("mtu 1400"), "{addresses}");
        assert!(addresses.contains("qlen 1000"), "{addresses}");
        assert_ne!(lab.snapshot(), before);

        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
        assert_eq!(fs::read_dir(lab.state()).unwrap().count(), 0, "the journal is empty");
    });
}

#[test]
fn the_network_may_be_a_part_of_that_of_the_bridge_and_of_no_other() {
    Lab::run(|lab| {
        world(&lab);
        sh("ip link add br0 type bridge");
        sh("ip link set br0 up");
        sh("ip addr add 10.86.0.1/12 dev br0");
        let address4 = Some("10.86.128.1/17".parse().unwrap());
        let part = ServerPlan { address4, ..plan() };

        let error = ServerHost::apply(&lab.journal(), &part).unwrap_err().to_string();
        assert!(error.contains("10.80.0.0/12") && error.contains("br0"), "{error}");

        let bridge = Some("br0".to_owned());
        let host =
            ServerHost::apply(&lab.journal(), &ServerPlan { bridge: bridge.clone(), ..part });
        assert_eq!(host.unwrap().undo(), Vec::<String>::new());
        // This host's own address on the bridge is no member's.
        let address4 = Some("10.86.0.3/17".parse().unwrap());
        let inside = ServerPlan { address4, bridge, ..plan() };
        let error = ServerHost::apply(&lab.journal(), &inside).unwrap_err().to_string();
        assert!(error.contains("10.86.0.1/32") && error.contains("br0"), "{error}");
    });
}

#[test]
fn members_reach_the_outside_under_the_hosts_address() {
    Lab::run(|lab| {
        world(&lab);

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();

        // Only masquerading brings the answer back: `far` has no route to members.
        assert!(reaches("member", "198.51.100.2"));
        assert!(reaches("member", "fd00:2::2"));
        assert_eq!(host.undo(), Vec::<String>::new());
        assert!(!reaches("member", "198.51.100.2"));
    });
}

#[test]
fn the_outside_reaches_no_member_unasked() {
    Lab::run(|lab| {
        world(&lab);

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();

        assert!(!reaches("near", "10.86.0.2"));
        assert!(!reaches("near", "fd00:86::2"));
        assert!(reaches("near", "10.86.0.1"), "the host itself answers");
        drop(host);
    });
}

#[test]
fn the_outside_sends_nothing_in_a_members_name() {
    Lab::run(|lab| {
        world(&lab);
        for link in ["all", "lan0"] {
            set_sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0");
        }
        sh("ip -n near addr add 10.86.0.77/32 dev eth0");
        sh("ip -n near addr add fd00:86::77/128 dev eth0 nodad");
        // So that no neighbour has to be asked for in a member's name.
        assert!(reaches("near", "192.0.2.1") && reaches("near", "fd00:2::1"));
        let arrives = |count: fn() -> u64, from: &str, to: &str| {
            let before = count();
            attempt(&format!("ip netns exec near ping -n -c 1 -W 1 -I {from} {to}"));
            count() > before
        };

        for nat in [true, false] {
            let host = ServerHost::apply(&lab.journal(), &ServerPlan { nat, ..plan() }).unwrap();

            assert!(arrives(echo_requests, "192.0.2.2", "192.0.2.1"));
            assert!(arrives(echo_requests6, "fd00:2::2", "fd00:2::1"));
            assert!(!arrives(echo_requests, "10.86.0.77", "10.86.0.1"));
            assert!(!arrives(echo_requests6, "fd00:86::77", "fd00:86::1"));
            assert!(reaches("member", "10.86.0.1"));
            assert!(reaches("member", "fd00:86::1"));
            assert!(attempt("ping -n -c 1 -W 1 10.86.0.1").0, "the host speaks to itself");
            sh("nft flush chain inet warren-0 preraw");
            assert!(arrives(echo_requests, "10.86.0.77", "10.86.0.1"), "the chain keeps it out");
            assert!(arrives(echo_requests6, "fd00:86::77", "fd00:86::1"), "here too");
            assert_eq!(host.undo(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_host_that_was_no_router_becomes_none_between_its_other_interfaces() {
    Lab::run(|lab| {
        world(&lab);

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");

        assert!(!reaches("near", "198.51.100.2"));
        drop(host);
    });
}

#[test]
fn a_host_that_was_a_router_stays_one() {
    Lab::run(|lab| {
        world(&lab);
        set_sysctl("net/ipv4/ip_forward", "1");

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        assert!(reaches("near", "198.51.100.2"));
        let ruleset = sh("nft list ruleset");
        assert!(!ruleset.contains("nfproto ipv4"), "{ruleset}");
        assert!(ruleset.contains("meta nfproto ipv6 drop"), "{ruleset}");

        assert_eq!(host.undo(), Vec::<String>::new());
        assert!(reaches("near", "198.51.100.2"));
    });
}

#[test]
fn masquerading_can_be_turned_off_and_on_without_another_change() {
    Lab::run(|lab| {
        world(&lab);
        let mut host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        let with = lab.snapshot();

        host.update(&ServerPlan { nat: false, ..plan() }).unwrap();
        assert!(!reaches("member", "198.51.100.2"), "it has no way back");
        assert!(reaches("member", "192.0.2.2"), "routed, and answered");
        assert!(!sh("nft list ruleset").contains("masquerade"));

        host.update(&plan()).unwrap();
        lab.snapshot().assert_same(&with);
        assert!(reaches("member", "198.51.100.2"));
        assert_eq!(host.undo(), Vec::<String>::new());
        assert_eq!(fs::read_dir(lab.state()).unwrap().count(), 0, "the journal is empty");
    });
}

#[test]
fn another_address_takes_the_place_of_the_first() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        let mut host = ServerHost::apply(&lab.journal(), &plan()).unwrap();

        let moved = Some("10.86.0.9/16".parse().unwrap());
        host.update(&ServerPlan { address4: moved, address6: None, ..plan() }).unwrap();

        let addresses = sh("ip addr show dev warren0");
        assert!(addresses.contains("inet 10.86.0.9/16"), "{addresses}");
        assert!(!addresses.contains("10.86.0.1/16"), "{addresses}");
        assert!(!addresses.contains("inet6"), "{addresses}");
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "0");
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn a_network_in_use_elsewhere_is_refused_by_name() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        let refused = |address4: &str, address6: &str| {
            let plan = ServerPlan {
                address4: Some(address4.parse().unwrap()),
                address6: Some(address6.parse().unwrap()),
                ..plan()
            };
            ServerHost::apply(&lab.journal(), &plan).unwrap_err().to_string()
        };

        assert_eq!(
            refused("192.0.0.1/16", "fd00:86::1/64"),
            "network.ipv4: 192.0.0.0/16 overlaps 192.0.2.0/24, which this host reaches through \
             lan0: set network.ipv4 to a network that is free"
        );
        assert!(refused("10.86.0.1/16", "fd00:2::9/64").starts_with("network.ipv6: fd00:2::/64"));
        lab.snapshot().assert_same(&before);

        sh("ip route add 10.0.0.0/8 via 198.51.100.2");
        assert!(refused("10.86.0.1/16", "fd00:86::1/64").contains("10.0.0.0/8, which"));
        sh("ip route del 10.0.0.0/8");
        sh("ip route add unreachable 10.0.0.0/8");
        sh("ip route add 0.0.0.0/1 via 198.51.100.2");
        sh("ip route add default via 198.51.100.2");
        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        assert_eq!(host.undo(), Vec::<String>::new());
    });
}

#[test]
fn an_overlap_that_comes_later_does_not_stop_a_reload() {
    Lab::run(|lab| {
        world(&lab);
        let mut host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        sh("ip route add 10.0.0.0/8 via 198.51.100.2");

        host.update(&ServerPlan { nat: false, ..plan() }).unwrap();

        let address4 = Some("10.99.0.1/16".parse().unwrap());
        let error = host.update(&ServerPlan { address4, ..plan() }).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    });
}

#[test]
fn the_other_side_of_the_tunnel_gives_this_host_no_routes() {
    Lab::run(|lab| {
        set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        lab.neighbour("member", "warren0", &[], &[]);

        let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();

        assert!(sh("ip -6 addr show dev warren0").contains("fd00:86::1/64"));
        assert_eq!(sysctl("net/ipv6/conf/warren0/accept_ra"), "0");
        assert_eq!(sysctl("net/ipv6/conf/warren0/addr_gen_mode"), "1");
        drop(host);
    });
}

#[test]
fn what_went_with_the_device_is_not_missed() {
    Lab::run(|lab| {
        let before = lab.snapshot();
        for killed in [false, true] {
            let tun = sys::Tun::open("warren0", 1).unwrap();
            let host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
            assert!(sh("ip route").contains("10.86.0.0/16 dev warren0"));

            drop(tun);

            if killed {
                drop(host);
                let lines = lab.journal().repair().unwrap();
                assert_eq!(lines.len(), 3, "the table and two settings: {lines:#?}");
            } else {
                assert_eq!(host.undo(), Vec::<String>::new());
            }
            lab.snapshot().assert_same(&before);
        }
    });
}

#[test]
fn a_failure_halfway_leaves_nothing_behind() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        // Longer than the kernel takes, and found out only after the addresses are set.
        let table = "w".repeat(300);

        let error = ServerHost::apply(&lab.journal(), &ServerPlan { table, ..plan() }).unwrap_err();

        assert!(error.to_string().starts_with("cannot set nf_tables table inet www"), "{error}");
        lab.snapshot().assert_same(&before);
        assert_eq!(fs::read_dir(lab.state()).unwrap().count(), 0);
    });
}

#[test]
fn an_update_that_fails_leaves_the_former_plan_in_force() {
    Lab::run(|lab| {
        world(&lab);
        let mut host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        let before = lab.snapshot();

        let table = "w".repeat(300);
        let address4 = Some("10.86.0.9/16".parse().unwrap());
        host.update(&ServerPlan { table, address4, ..plan() }).unwrap_err();

        lab.snapshot().assert_same(&before);
        assert_eq!(host.undo(), Vec::<String>::new());
    });
}

#[test]
fn two_servers_side_by_side_do_not_undo_each_other() {
    Lab::run(|lab| {
        world(&lab);
        lab.neighbour("member1", "warren1", &[], &["10.87.0.2/16"]);
        sh("ip -n member1 route add default via 10.87.0.1");
        fs::create_dir("/run/other").unwrap();
        let before = lab.snapshot();
        let other = ServerPlan {
            tun: "warren1".into(),
            address4: Some("10.87.0.1/16".parse().unwrap()),
            address6: None,
            table: "warren-1".into(),
            ..plan()
        };

        let first = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        let journal = Journal::open(Path::new("/run/other")).unwrap();
        let second = ServerHost::apply(&journal, &other).unwrap();
        assert!(reaches("member", "198.51.100.2"));
        assert!(reaches("member1", "198.51.100.2"));

        assert_eq!(first.undo(), Vec::<String>::new());
        assert!(reaches("member1", "198.51.100.2"), "the second still needs forwarding");
        assert!(!reaches("near", "198.51.100.2"), "and still guards the host");
        assert_eq!(second.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    Lab::run(|lab| {
        let error = ServerHost::apply(&lab.journal(), &plan()).unwrap_err();

        assert!(error.to_string().starts_with("interface warren0 does not exist"), "{error}");
    });
}

#[test]
fn subnets_behind_members_are_reached_through_the_tunnel_while_they_are_there() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        let mut host = ServerHost::apply(&lab.journal(), &plan()).unwrap();
        let without = lab.snapshot();
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();

        let behind = nets(&["192.168.77.0/24", "fd77::/48"]);
        host.update(&ServerPlan { behind: behind.clone(), ..plan() }).unwrap();

        assert!(sh("ip route get 192.168.77.5").contains("dev warren0"));
        assert!(sh("ip -6 route get fd77::5").contains("dev warren0"));
        assert!(sh("nft list ruleset").contains("ip saddr 192.168.77.0/24"));

        // The host's own networks stay its own, and the other subnets stay routed.
        let mut more = behind;
        more.extend(nets(&["192.0.2.0/25"]));
        host.update(&ServerPlan { behind: more, ..plan() }).unwrap();
        assert!(sh("ip route get 192.168.77.5").contains("dev warren0"));
        assert!(!sh("ip route get 192.0.2.7").contains("dev warren0"));

        host.update(&plan()).unwrap();
        lab.snapshot().assert_same(&without);
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}
