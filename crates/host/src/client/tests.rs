use std::time::{Duration, Instant};

use super::*;
use crate::testing::{Lab, attempt, echo_requests, set_sysctl, sh, sysctl};

/// A gateway that the server (198.51.100.9, fd00:51::9) and everything else is behind, a LAN, and
/// a tunnel device whose other end has the server's inner address.
fn world(lab: &Lab) -> u32 {
    lab.neighbour(
        "gate",
        "wan0",
        &["192.0.2.10/24", "fd00:2::10/64"],
        &["192.0.2.1/24", "fd00:2::1/64"],
    );
    sh("ip -n gate addr add 198.51.100.9/32 dev lo");
    sh("ip -n gate addr add fd00:51::9/128 dev lo");
    sh("ip route add default via 192.0.2.1");
    sh("ip -6 route add default via fd00:2::1");
    lab.neighbour("inside", "warren0", &[], &["10.8.0.1/24", "fd00:8::1/64"]);
    sh("ip -n inside addr add 203.0.113.5/32 dev lo");
    nix::net::if_::if_nametoindex("warren0").unwrap()
}

fn lease() -> Lease {
    Lease {
        ipv4: Some(("10.8.0.2".parse().unwrap(), 24)),
        ipv6: Some(("fd00:8::2".parse().unwrap(), 64)),
        routes: vec!["172.16.0.0/12".parse().unwrap(), "fd00:16::/48".parse().unwrap()],
        mtu: 1380,
        ..Lease::default()
    }
}

fn redirecting() -> Lease {
    Lease {
        redirect4: true,
        redirect6: true,
        excluded: vec!["203.0.113.128/25".parse().unwrap()],
        ..lease()
    }
}

fn plan(lease: Lease, mark: Option<u32>) -> ClientPlan {
    ClientPlan {
        tun: "warren0".into(),
        is_ethernet: false,
        lease,
        servers: vec!["198.51.100.9".parse().unwrap(), "fd00:51::9".parse().unwrap()],
        mark,
        set_dns: false,
        forward: false,
    }
}

/// Where a packet leaves, as "device" or "device via gateway".
fn way(to: &str, mark: Option<u32>) -> String {
    let mark = mark.map(|mark| format!(" mark {mark}")).unwrap_or_default();
    let line = sh(&format!("ip route get {to}{mark}"));
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |name| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    match after("via") {
        Some(via) => format!("{} via {via}", after("dev").unwrap()),
        None => after("dev").unwrap().to_owned(),
    }
}

#[test]
fn routes_of_the_lease_lead_into_the_tunnel_and_nothing_else_does() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();

        let host = ClientHost::apply(&lab.journal(), plan(lease(), None)).unwrap();

        assert_eq!(way("172.16.3.4", None), "warren0");
        assert_eq!(way("fd00:16::1", None), "warren0");
        assert_eq!(way("10.8.0.1", None), "warren0");
        assert_eq!(way("8.8.8.8", None), "wan0 via 192.0.2.1");
        assert!(sh("ip link show dev warren0").contains("mtu 1380"));
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn with_a_mark_everything_but_the_tunnels_own_datagrams_goes_into_the_tunnel() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let before = lab.snapshot();

        let host = ClientHost::apply(&lab.journal(), plan(redirecting(), Some(mark))).unwrap();

        assert_eq!(host.mark(), Some(mark));
        assert_eq!(way("8.8.8.8", None), "warren0");
        assert_eq!(way("2001:db8::1", None), "warren0");
        assert_eq!(way("198.51.100.9", None), "warren0");
        assert_eq!(way("198.51.100.9", Some(mark)), "wan0 via 192.0.2.1");
        assert_eq!(way("fd00:51::9", Some(mark)), "wan0 via fd00:2::1");
        assert_eq!(way("192.0.2.77", None), "wan0", "the LAN stays reachable");
        assert_eq!(way("203.0.113.200", None), "wan0 via 192.0.2.1", "excluded");
        assert_eq!(sysctl("net/ipv4/conf/all/src_valid_mark"), "1");
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn without_a_mark_the_servers_keep_the_way_they_had() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();

        let host = ClientHost::apply(&lab.journal(), plan(redirecting(), None)).unwrap();

        assert_eq!(host.mark(), None);
        assert_eq!(way("8.8.8.8", None), "warren0");
        assert_eq!(way("200.1.1.1", None), "warren0");
        assert_eq!(way("2001:db8::1", None), "warren0");
        assert_eq!(way("198.51.100.9", None), "wan0 via 192.0.2.1");
        assert_eq!(way("fd00:51::9", None), "wan0 via fd00:2::1");
        assert_eq!(way("203.0.113.200", None), "wan0 via 192.0.2.1", "excluded");
        assert!(!sh("ip rule").contains("fwmark"));
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn redirecting_ipv4_leaves_ipv6_as_it_is() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let lease = Lease { redirect4: true, ..lease() };

        for mark in [Some(mark), None] {
            let host = ClientHost::apply(&lab.journal(), plan(lease.clone(), mark)).unwrap();
            assert_eq!(way("8.8.8.8", None), "warren0");
            assert_eq!(way("2001:db8::1", None), "wan0 via fd00:2::1");
            assert_eq!(host.undo(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_blocked_family_is_unreachable_while_connected_and_back_afterwards() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        sh("ip -n gate addr add 203.0.113.201/32 dev lo");
        for address in ["2001:db8::1", "3fff::1", "2600::1", "fd77::1"] {
            sh(&format!("ip -n gate addr add {address}/128 dev lo"));
        }
        let answers = |to: &str| attempt(&format!("ping -n -c 1 -W 1 {to}")).0;
        let refused = |to: &str| {
            let (found, output) = attempt(&format!("ip route get {to}"));
            assert!(found || output.contains("No route to host"), "{output}");
            !found
        };
        let before = lab.snapshot();
        let no_ipv6 = Lease { ipv6: None, redirect6: false, block6: true, ..redirecting() };
        let no_ipv4 = Lease {
            ipv4: None,
            redirect4: false,
            block4: true,
            excluded: vec!["203.0.113.128/25".parse().unwrap()],
            ..redirecting()
        };

        for mark in [Some(mark), None] {
            assert!(answers("2001:db8::1"));
            let host = ClientHost::apply(&lab.journal(), plan(no_ipv6.clone(), mark)).unwrap();
            assert_eq!(way("8.8.8.8", None), "warren0");
            for outside in ["2001:db8::1", "3fff::1", "2600::1", "fd77::1"] {
                assert!(refused(outside), "{outside}");
            }
            assert!(!answers("2001:db8::1"));
            assert!(answers("fd00:2::1"), "the LAN stays reachable");
            assert_eq!(way("fd00:51::9", mark), "wan0 via fd00:2::1");
            assert_eq!(host.undo(), Vec::<String>::new());
            lab.snapshot().assert_same(&before);
            assert!(answers("2001:db8::1"));

            let mut host = ClientHost::apply(&lab.journal(), plan(no_ipv4.clone(), mark)).unwrap();
            assert_eq!(way("2001:db8::1", None), "warren0");
            assert!(refused("8.8.8.8") && refused("200.1.1.1"));
            assert!(refused("203.0.113.201"), "excluded is not exempt");
            assert!(answers("192.0.2.1"), "the LAN stays reachable");
            assert_eq!(way("198.51.100.9", mark), "wan0 via 192.0.2.1");
            host.update(redirecting(), plan(lease(), None).servers).unwrap();
            assert_eq!(way("8.8.8.8", None), "warren0");
            assert_eq!(host.undo(), Vec::<String>::new());
            lab.snapshot().assert_same(&before);
        }
    });
}

#[test]
fn what_is_blocked_is_free_again_after_a_run_that_lost_its_device() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let lease = Lease { ipv6: None, redirect6: false, block6: true, ..redirecting() };
        for mark in [Some(mark), None] {
            drop(ClientHost::apply(&lab.journal(), plan(lease.clone(), mark)).unwrap());
            sh("ip link set warren0 name gone0");

            let lines = lab.journal().repair().unwrap();

            assert!(lines.iter().any(|line| line.contains("unreachable route")), "{lines:#?}");
            assert_eq!(way("2001:db8::1", None), "wan0 via fd00:2::1");
            assert!(!sh("ip -6 route show table all").contains("unreachable"));
            sh("ip link set gone0 name warren0");
            sh("ip addr flush dev warren0");
        }
    });
}

#[test]
fn broad_routes_that_others_set_do_not_lead_around_the_tunnel() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let rogue = || {
            for net in ["0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/7"] {
                sh(&format!("ip route replace {net} via 192.0.2.66"));
            }
            for net in ["::/1", "2000::/3", "2000::/15"] {
                sh(&format!("ip -6 route replace {net} via fd00:2::66"));
            }
        };
        rogue();
        let excluded = vec!["64.0.0.0/3".parse().unwrap()];
        let lease = Lease { excluded, ..redirecting() };

        let host = ClientHost::apply(&lab.journal(), plan(lease, Some(mark))).unwrap();

        rogue();
        for outside in ["8.8.8.8", "200.1.1.1", "2001:db8::1"] {
            assert_eq!(way(outside, None), "warren0", "{outside}");
        }
        assert_eq!(way("192.0.2.77", None), "wan0", "the LAN stays reachable");
        assert_eq!(way("65.1.1.1", None), "wan0 via 192.0.2.66", "broad, but excluded");
        assert_eq!(host.undo(), Vec::<String>::new());
    });
}

#[test]
fn a_server_inside_a_route_of_its_own_lease_is_not_reached_through_it() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let lease = Lease { routes: vec!["198.51.0.0/16".parse().unwrap()], ..lease() };

        for mark in [Some(mark), None] {
            let host = ClientHost::apply(&lab.journal(), plan(lease.clone(), mark)).unwrap();
            assert_eq!(way("198.51.100.1", None), "warren0");
            assert_eq!(way("198.51.100.9", mark), "wan0 via 192.0.2.1");
            assert_eq!(host.undo(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_strict_reverse_path_filter_lets_the_servers_answers_in() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        for link in ["all", "wan0", "warren0"] {
            set_sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "1");
        }
        let ping = |mark: u32| attempt(&format!("ping -n -c 1 -W 1 -m {mark} 198.51.100.9")).0;

        let host = ClientHost::apply(&lab.journal(), plan(redirecting(), Some(mark))).unwrap();

        assert!(ping(mark));
        assert!(!ping(mark + 1), "unmarked, it went into the tunnel");
        sh("nft delete table inet warren-client-warren0");
        assert!(!ping(mark), "the table is what lets it in");
        drop(host);
    });
}

#[test]
fn nobody_outside_the_tunnel_speaks_to_its_addresses() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        sh("ip -n gate route add 10.8.0.2/32 via 192.0.2.10");
        let host = ClientHost::apply(&lab.journal(), plan(redirecting(), Some(mark))).unwrap();

        let arrives = |ping: &str| {
            let before = echo_requests();
            attempt(ping);
            echo_requests() > before
        };
        let from_gate = "ip netns exec gate ping -n -c 1 -W 1 10.8.0.2";

        assert!(arrives("ip netns exec inside ping -n -c 1 -W 1 10.8.0.2"));
        assert!(arrives("ping -n -c 1 -W 1 10.8.0.2"), "the host speaks to itself");
        assert!(!arrives(from_gate));
        sh("nft delete table inet warren-client-warren0");
        assert!(arrives(from_gate), "the table is what keeps it out");
        drop(host);
    });
}

#[test]
fn a_reconnect_changes_only_what_differs() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let before = lab.snapshot();
        for mark in [Some(mark), None] {
            let mut host = ClientHost::apply(&lab.journal(), plan(redirecting(), mark)).unwrap();
            // The kernel adds this one when it gets round to it.
            let deadline = Instant::now() + Duration::from_secs(10);
            while !sh("ip -6 route show table local").contains("local fd00:8::2") {
                assert!(Instant::now() < deadline, "fd00:8::2 is not this host's");
            }
            let first = lab.snapshot();
            let servers = plan(lease(), None).servers;

            host.update(redirecting(), servers.clone()).unwrap();
            lab.snapshot().assert_same(&first);

            let other = Lease {
                ipv4: Some(("10.8.0.7".parse().unwrap(), 24)),
                routes: vec!["172.31.0.0/16".parse().unwrap()],
                excluded: vec!["9.9.9.0/24".parse().unwrap()],
                redirect6: false,
                ..redirecting()
            };
            host.update(other, vec!["198.51.100.10".parse().unwrap()]).unwrap();
            assert_eq!(way("8.8.8.8", None), "warren0");
            assert_eq!(way("9.9.9.9", None), "wan0 via 192.0.2.1");
            assert_eq!(way("203.0.113.200", None), "warren0");
            assert_eq!(way("2001:db8::1", None), "wan0 via fd00:2::1");
            assert_eq!(way("198.51.100.10", mark), "wan0 via 192.0.2.1");
            let addresses = sh("ip addr show dev warren0");
            assert!(addresses.contains("10.8.0.7/24"), "{addresses}");
            assert!(!addresses.contains("10.8.0.2/24"), "{addresses}");

            assert_eq!(host.undo(), Vec::<String>::new());
            lab.snapshot().assert_same(&before);
        }
    });
}

#[test]
fn another_lease_brings_other_resolvers_and_the_end_the_first_ones() {
    Lab::run(|lab| {
        world(&lab);
        sh("mount -t tmpfs tmpfs /etc");
        let text = || std::fs::read_to_string("/etc/resolv.conf").unwrap();
        std::fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
        let resolved_by = |server: &str| {
            let servers = vec![server.parse().unwrap()];
            Lease { dns: DnsSettings { servers, ..DnsSettings::default() }, ..lease() }
        };
        let plan = ClientPlan { set_dns: true, ..plan(resolved_by("10.8.0.1"), None) };

        let mut host = ClientHost::apply(&lab.journal(), plan.clone()).unwrap();
        assert!(text().contains("nameserver 10.8.0.1\n"), "{}", text());
        host.update(resolved_by("10.8.0.3"), plan.servers).unwrap();
        assert!(text().contains("nameserver 10.8.0.3\n"), "{}", text());

        assert_eq!(host.undo(), Vec::<String>::new());
        assert_eq!(text(), "nameserver 192.0.2.53\n");
    });
}

#[test]
fn resolvers_that_another_program_set_meanwhile_come_back() {
    Lab::run(|lab| {
        world(&lab);
        sh("mount -t tmpfs tmpfs /etc");
        let text = || std::fs::read_to_string("/etc/resolv.conf").unwrap();
        let theirs = "nameserver 192.0.2.54\noptions edns0\n";
        let resolved_by = |server: &str| {
            let servers = vec![server.parse().unwrap()];
            Lease { dns: DnsSettings { servers, ..DnsSettings::default() }, ..lease() }
        };
        let plan = ClientPlan { set_dns: true, ..plan(resolved_by("10.8.0.1"), None) };
        let mut host = ClientHost::apply(&lab.journal(), plan.clone()).unwrap();
        std::fs::write("/etc/resolv.conf", theirs).unwrap();

        host.update(resolved_by("10.8.0.1"), plan.servers.clone()).unwrap();
        assert_eq!(text(), theirs, "nothing new to say");
        host.update(resolved_by("10.8.0.3"), plan.servers).unwrap();
        assert!(text().contains("nameserver 10.8.0.3\noptions edns0\n"), "{}", text());

        assert_eq!(host.undo(), Vec::<String>::new());
        assert_eq!(text(), theirs);
    });
}

#[test]
fn after_a_move_to_another_network_the_servers_are_reached_through_it() {
    Lab::run(|lab| {
        world(&lab);
        let mut host = ClientHost::apply(&lab.journal(), plan(redirecting(), None)).unwrap();
        lab.neighbour("cafe", "wifi0", &["100.64.0.10/24"], &["100.64.0.1/24"]);
        sh("ip route del default via 192.0.2.1");
        sh("ip route add default via 100.64.0.1");

        host.update(redirecting(), plan(lease(), None).servers).unwrap();

        assert_eq!(way("198.51.100.9", None), "wifi0 via 100.64.0.1");
        assert_eq!(host.undo(), Vec::<String>::new());
    });
}

#[test]
fn a_route_that_the_host_has_already_stays_the_hosts() {
    Lab::run(|lab| {
        world(&lab);
        sh("ip route add 172.16.0.0/12 via 192.0.2.1");
        let before = lab.snapshot();

        let host = ClientHost::apply(&lab.journal(), plan(lease(), None)).unwrap();
        assert_eq!(way("172.16.3.4", None), "wan0 via 192.0.2.1");

        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn a_prefix_length_that_cannot_be_is_refused() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        let lease = Lease { ipv4: Some(("10.8.0.2".parse().unwrap(), 33)), ..lease() };

        let error = ClientHost::apply(&lab.journal(), plan(lease, None)).unwrap_err();

        assert!(error.to_string().contains("prefix length"), "{error}");
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn marks_tell_tunnels_apart() {
    assert_ne!(mark_for(3), mark_for(4));
    assert_ne!(mark_for(0), 0);
}

#[test]
fn a_route_has_the_metric_that_it_was_given() {
    Lab::run(|lab| {
        world(&lab);
        let before = lab.snapshot();
        let metrics =
            [("172.16.0.0/12".parse().unwrap(), 77), ("fd00:16::/48".parse().unwrap(), 88)];
        let lease = Lease { metrics: metrics.into(), ..lease() };

        let host = ClientHost::apply(&lab.journal(), plan(lease, None)).unwrap();

        assert!(sh("ip route show 172.16.0.0/12").contains("metric 77"));
        assert!(sh("ip -6 route show fd00:16::/48").contains("metric 88"));
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn block_local_takes_the_lan_away_and_leaves_the_tunnel_its_way() {
    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let before = lab.snapshot();
        let lease = Lease { block_local: true, ..redirecting() };

        let host = ClientHost::apply(&lab.journal(), plan(lease.clone(), Some(mark))).unwrap();
        assert_eq!(way("192.0.2.77", None), "warren0", "a neighbour");
        assert_eq!(way("fd00:2::77", None), "warren0");
        assert_eq!(way("8.8.8.8", None), "warren0");
        assert_eq!(way("198.51.100.9", Some(mark)), "wan0 via 192.0.2.1");
        assert_eq!(way("fd00:51::9", Some(mark)), "wan0 via fd00:2::1");
        assert_eq!(way("203.0.113.200", None), "wan0 via 192.0.2.1", "excluded");
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);

        let host = ClientHost::apply(&lab.journal(), plan(lease, None)).unwrap();
        assert_eq!(way("192.0.2.77", None), "warren0", "a neighbour");
        assert_eq!(way("192.0.2.200", None), "warren0", "in the other half");
        assert_eq!(way("fd00:2::77", None), "warren0");
        assert_eq!(way("192.0.2.1", None), "wan0", "the gateway");
        assert_eq!(way("198.51.100.9", None), "wan0 via 192.0.2.1");
        assert_eq!(way("203.0.113.200", None), "wan0 via 192.0.2.1", "excluded");
        assert_eq!(host.undo(), Vec::<String>::new());
        lab.snapshot().assert_same(&before);
    });
}

#[test]
fn questions_for_names_leave_through_the_tunnel_or_not_at_all() {
    use std::io::Write as _;
    use std::net::{TcpStream, UdpSocket};

    Lab::run(|lab| {
        let mark = mark_for(world(&lab));
        let before = lab.snapshot();
        let lease = Lease { block_dns: true, ..lease() };
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let ask = |to: &str| socket.send_to(b"?", to).map_err(|error| error.kind());
        let refused = Err(std::io::ErrorKind::PermissionDenied);

        for mark in [Some(mark), None] {
            let host = ClientHost::apply(&lab.journal(), plan(lease.clone(), mark)).unwrap();
            for resolver in ["192.0.2.1:53", "192.0.2.1:853"] {
                assert_eq!(ask(resolver), refused, "{resolver}");
            }
            let timeout = Duration::from_millis(200);
            let stream = TcpStream::connect_timeout(&"192.0.2.1:53".parse().unwrap(), timeout);
            assert!(stream.and_then(|mut stream| stream.write(b"?")).is_err());
            assert_eq!(ask("10.8.0.1:53"), Ok(1), "through the tunnel");
            assert_eq!(ask("127.0.0.1:53"), Ok(1), "a resolver of this host's own");
            assert_eq!(ask("192.0.2.1:54"), Ok(1), "something else");
            let to_server = ask("198.51.100.9:53");
            assert_eq!(to_server.is_ok(), mark.is_none(), "the tunnel itself, known by address");
            assert_eq!(host.undo(), Vec::<String>::new());
            assert_eq!(ask("192.0.2.1:53"), Ok(1));
        }
        lab.snapshot().assert_same(&before);
    });
}
