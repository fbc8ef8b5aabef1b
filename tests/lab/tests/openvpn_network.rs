//! Where a stock client's packets go: members, the LAN, the internet side, and how big they may be.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use lab::openvpn::{Client, with_lines};
use lab::warren::{GATEWAY4, GATEWAY6, Warren, config};
use lab::{
    Capture, Lab, Namespace, PATIENCE, SourceMirror, World, eventually, ping, reach, scenario,
    source_seen, transfer,
};

const PASSWORD: &str = "long enough for a test";
const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A world with one Warren and a connected client for each of the first users.
fn house(
    lab: &Lab,
    clients: usize,
    network: &[&str],
    options: &[&str],
) -> Result<(World, Warren, Vec<Client>)> {
    house_with(lab, clients, network, options, str::to_owned)
}

/// The same, with profiles of a device that believes in 1500 bytes, whatever the server says.
fn house_of_1500(
    lab: &Lab,
    clients: usize,
    network: &[&str],
) -> Result<(World, Warren, Vec<Client>)> {
    let options = ["--pull-filter", "ignore", "tun-mtu"];
    house_with(lab, clients, network, &options, |profile| {
        with_lines(profile, "tun-mtu", "tun-mtu 1500\nmssfix 0").unwrap()
    })
}

fn house_with(
    lab: &Lab,
    clients: usize,
    network: &[&str],
    options: &[&str],
    change: impl Fn(&str) -> String,
) -> Result<(World, Warren, Vec<Client>)> {
    let world = World::new(lab, clients)?;
    let warren = Warren::up(&world.server, "warren", &config(network, &[]))?;
    let mut connected = Vec::new();
    for (namespace, user) in world.clients.iter().zip(USERS) {
        let profile = warren.user_with_profile(user, PASSWORD, &World::SERVER4.to_string())?;
        let credentials = Some((user, PASSWORD));
        connected.push(Client::connect(namespace, &change(&profile), credentials, options)?);
    }
    Ok((world, warren, connected))
}

#[test]
fn members_reach_each_other_without_the_kernel() {
    scenario("members", |lab| {
        let (world, warren, clients) = house(lab, 2, &[], &[])?;
        let capture = Capture::start(&world.server, &warren.tun()?, "icmp or icmp6")?;

        let (a, b) = (&clients[0], &clients[1]);
        for to in [b.address4()?, b.address6()?] {
            assert_eq!(ping(a.namespace(), to, 5)?.lost(), 0);
        }
        for to in [a.address4()?, a.address6()?] {
            assert_eq!(ping(b.namespace(), to, 5)?.lost(), 0);
        }
        // The capture is shown to work by pings that do cross the device.
        reach(a.namespace(), GATEWAY4.parse()?)?;

        let pcap = capture.finish()?;
        let gateway = format!("icmp && ip.addr == {GATEWAY4}");
        assert_eq!(pcap.frames(&gateway)?, 6);
        assert_eq!(pcap.frames("icmp.type == 8 || icmp.type == 0")?, 6);
        assert_eq!(pcap.frames("icmpv6.type == 128 || icmpv6.type == 129")?, 0);
        Ok(())
    });
}

#[test]
fn members_can_be_kept_apart() {
    scenario("apart", |lab| {
        let (_world, _warren, clients) = house(lab, 2, &["client_to_client = false"], &[])?;
        let (a, b) = (&clients[0], &clients[1]);

        for to in [b.address4()?, b.address6()?] {
            assert_eq!(ping(a.namespace(), to, 3)?.received, 0);
        }
        for gateway in [GATEWAY4, GATEWAY6] {
            reach(a.namespace(), gateway.parse()?)?;
        }
        Ok(())
    });
}

#[test]
fn a_member_cannot_send_from_its_neighbours_address() {
    scenario("spoof", |lab| {
        let (world, warren, clients) = house(lab, 2, &[], &[])?;
        let stolen = clients[1].address4()?.to_string();
        let capture = Capture::start(&world.server, &warren.tun()?, "icmp")?;
        let thief = clients[0].namespace();
        let device = thief.device_with(clients[0].address4()?)?;
        thief.run("ip", &["addr", "add", &format!("{stolen}/32"), "dev", &device])?;

        thief
            .try_run("ping", &["-n", "-c", "5", "-i", "0.2", "-W", "1", "-I", &stolen, GATEWAY4])?;
        assert_eq!(ping(thief, GATEWAY4.parse()?, 2)?.lost(), 0);

        let pcap = capture.finish()?;
        assert_eq!(pcap.frames(&format!("ip.src == {stolen}"))?, 0);
        assert!(pcap.frames("icmp.type == 8")? >= 2);
        Ok(())
    });
}

#[test]
fn a_network_behind_the_server_is_reached() {
    scenario("lan", |lab| {
        let network = ["routes = [\"10.20.0.0/24\", \"fd20::/64\"]"];
        let (_world, _warren, clients) = house(lab, 1, &network, &[])?;

        reach(clients[0].namespace(), World::LAN4)?;
        reach(clients[0].namespace(), "fd20::2".parse()?)?;
        Ok(())
    });
}

#[test]
fn without_nat_the_network_behind_sees_the_members_own_address() {
    scenario("no nat", |lab| {
        let network = ["routes = [\"10.20.0.0/24\", \"fd20::/64\"]", "nat = false"];
        let (world, _warren, clients) = house(lab, 1, &network, &[])?;
        let port = SocketAddr::new(World::LAN4, 8080);
        let _mirror = SourceMirror::start(&world.lan, port)?;

        assert_eq!(source_seen(clients[0].namespace(), port)?, clients[0].address4()?);
        Ok(())
    });
}

#[test]
fn the_internet_side_sees_the_servers_address() {
    scenario("nat", |lab| {
        let (world, _warren, clients) = house(lab, 1, &["redirect_gateway = true"], &[])?;
        let client = clients[0].namespace();

        for (host, expected) in [(World::OUTSIDE4, World::NAT4), (World::OUTSIDE6, World::NAT6)] {
            let port = SocketAddr::new(host, 8080);
            let _mirror = SourceMirror::start(&world.outside, port)?;
            assert_eq!(source_seen(client, port)?, expected);
            reach(client, host)?;
        }
        Ok(())
    });
}

#[test]
fn strangers_outside_reach_no_member() {
    scenario("unsolicited", |lab| {
        // Members answer through the tunnel: only the server keeps the question from them.
        let (world, _warren, clients) = house(lab, 1, &["redirect_gateway = true"], &[])?;
        world.outside.route("10.86.0.0/16", World::NAT4)?;
        world.outside.route("fd86::/64", World::NAT6)?;
        assert_eq!(ping(clients[0].namespace(), World::OUTSIDE4, 2)?.lost(), 0);
        let device = clients[0].namespace().device_with(clients[0].address4()?)?;
        let capture = Capture::start(clients[0].namespace(), &device, "icmp or icmp6")?;

        assert_eq!(ping(&world.outside, clients[0].address4()?, 3)?.received, 0);
        assert_eq!(ping(&world.outside, clients[0].address6()?, 3)?.received, 0);

        let asked = capture.finish()?.frames("icmp.type == 8 || icmpv6.type == 128")?;
        assert_eq!(asked, 0, "questions from outside arrived");
        Ok(())
    });
}

#[test]
fn a_packet_too_big_for_the_next_member_is_answered_with_the_size_that_fits() {
    scenario("too big", |lab| {
        // The clients' devices believe in 1500; the network carries less.
        let (_world, _warren, clients) = house_of_1500(lab, 2, &["mtu = 1400"])?;
        let from = clients[0].namespace();
        let big = |to: IpAddr, len: &str| -> Result<String> {
            let to = to.to_string();
            let arguments = ["-n", "-M", "do", "-c", "3", "-i", "0.3", "-W", "2", "-s", len, &to];
            let output = from.try_run("ping", &arguments)?;
            Ok(output.stdout + &output.stderr)
        };

        let said = big(clients[1].address4()?, "1472")?;
        assert!(said.contains("1400") && said.to_lowercase().contains("frag needed"), "{said}");
        let said = big(clients[1].address6()?, "1452")?;
        assert!(said.contains("1400") && said.contains("too big"), "{said}");
        let said = big(clients[1].address4()?, "1372")?;
        assert!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    });
}

#[test]
fn connections_agree_on_segments_that_fit() {
    scenario("mss", |lab| {
        let network = ["redirect_gateway = true", "mtu = 1400"];
        let (world, _warren, clients) = house_of_1500(lab, 1, &network)?;
        let client = clients[0].namespace();
        let device = client.device_with(clients[0].address4()?)?;
        let outside = world.outside.device_with(World::OUTSIDE4)?;
        let going = Capture::start(&world.outside, &outside, "tcp")?;
        let coming = Capture::start(client, &device, "tcp")?;

        for host in [World::OUTSIDE4, World::OUTSIDE6] {
            let port = SocketAddr::new(host, 8080);
            let _mirror = SourceMirror::start(&world.outside, port)?;
            source_seen(client, port)?;
        }

        let (going, coming) = (going.finish()?, coming.finish()?);
        for (family, most) in [("ip", 1400 - 40), ("ipv6", 1400 - 60)] {
            for (pcap, flags) in [
                (&going, "tcp.flags.syn == 1 && tcp.flags.ack == 0"),
                (&coming, "tcp.flags.syn == 1 && tcp.flags.ack == 1"),
            ] {
                let sizes = pcap.fields(&format!("{family} && {flags}"), "tcp.options.mss_val")?;
                assert!(!sizes.is_empty(), "{family}: no {flags}");
                for size in sizes {
                    let size: u32 = size.parse()?;
                    assert!((500..=most).contains(&size), "{family}: {flags}: {size}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn big_transfers_arrive_unchanged_both_ways() {
    const LEN: u64 = 30_000_001;
    scenario("transfer", |lab| {
        let (world, warren, clients) = house(lab, 2, &["redirect_gateway = true"], &[])?;
        let (a, b) = (&clients[0], &clients[1]);

        transfer(a.namespace(), &world.outside, SocketAddr::new(World::OUTSIDE4, 9000), LEN)?;
        transfer(a.namespace(), &world.outside, SocketAddr::new(World::OUTSIDE6, 9001), LEN)?;
        transfer(&world.server, a.namespace(), SocketAddr::new(a.address4()?, 9002), LEN)?;
        transfer(&world.server, a.namespace(), SocketAddr::new(a.address6()?, 9003), LEN)?;
        transfer(a.namespace(), b.namespace(), SocketAddr::new(b.address4()?, 9004), LEN)?;

        let session = warren.session_of("alice")?;
        assert!(session.rx_bytes > 3 * LEN && session.tx_bytes > 2 * LEN, "{session:?}");
        Ok(())
    });
}

#[test]
fn several_workers_carry_every_session_through_renewals() {
    const LEN: u64 = 10_000_001;
    scenario("workers", |lab| {
        let world = World::new(lab, 3)?;
        let config = config(&[], &["renegotiate = 5"]) + "[server]\nworkers = 3\n";
        let warren = Warren::up(&world.server, "warren", &config)?;
        let mut clients = Vec::new();
        for (namespace, user) in world.clients.iter().zip(USERS) {
            let profile = warren.user_with_profile(user, PASSWORD, &World::SERVER4.to_string())?;
            clients.push(Client::connect(namespace, &profile, Some((user, PASSWORD)), &[])?);
        }

        // Two renewals pass; whichever worker has a packet knows the keys for it.
        for round in 0..4 {
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                let (from, to) = (&clients[from], &clients[to]);
                assert_eq!(ping(from.namespace(), to.address4()?, 10)?.lost(), 0, "round {round}");
            }
        }
        let (a, b) = (&clients[0], &clients[1]);
        transfer(a.namespace(), b.namespace(), SocketAddr::new(b.address4()?, 9000), LEN)?;
        transfer(&world.server, a.namespace(), SocketAddr::new(a.address4()?, 9001), LEN)?;
        Ok(())
    });
}

#[test]
fn every_device_and_every_copy_of_a_profile_has_an_address_of_its_own() {
    scenario("devices", |lab| {
        let world = World::new(lab, 3)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let remote = World::SERVER4.to_string();
        let laptop = warren.user_with_profile("alice", PASSWORD, &remote)?;
        let phone = warren.home().profile("alice", &remote)?;
        let credentials = Some(("alice", PASSWORD));
        let connect = |at: usize, profile: &str| {
            Client::connect(&world.clients[at], profile, credentials, &[])
        };

        let clients = [connect(0, &laptop)?, connect(1, &phone)?, connect(2, &laptop)?];
        warren.wait_sessions(3, PATIENCE)?;

        let distinct = |family: fn(&Client) -> Result<IpAddr>| -> Result<usize> {
            Ok(clients.iter().map(family).collect::<Result<BTreeSet<_>>>()?.len())
        };
        assert_eq!(distinct(Client::address4)?, 3);
        assert_eq!(distinct(Client::address6)?, 3);
        for client in &clients {
            assert_eq!(ping(client.namespace(), GATEWAY4.parse()?, 2)?.lost(), 0);
        }

        let (lent, before) = (clients[1].address4()?, clients[0].address4()?);
        for client in clients {
            client.stop()?;
        }
        warren.wait_sessions(0, PATIENCE)?;
        // In the other order: the address belongs to the device, not to the turn.
        let phone = connect(1, &phone)?;
        let laptop = connect(0, &laptop)?;
        assert_eq!((phone.address4()?, laptop.address4()?), (lent, before));
        Ok(())
    });
}

#[test]
fn a_fixed_address_is_given_to_its_user() {
    scenario("fixed", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let add = ["user", "add", "alice", "--password-stdin", "--address", "10.86.7.7"];
        warren.home().run_with_input(&add, PASSWORD)?;
        let profile = warren.home().profile("alice", &World::SERVER4.to_string())?;

        let client = Client::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;

        assert_eq!(client.address4()?, "10.86.7.7".parse::<IpAddr>()?);
        Ok(())
    });
}

#[test]
fn a_full_network_refuses_clearly() {
    scenario("exhausted", |lab| {
        let world = World::new(lab, 1)?;
        let network = ["ipv4 = \"10.86.0.0/29\"", "ipv6 = \"off\""];
        let warren = Warren::up(&world.server, "warren", &config(&network, &[]))?;
        warren.home().add_user("alice", PASSWORD)?;
        // Clients without a network device: any number fits into one namespace.
        let options = ["--dev", "null", "--ifconfig-noexec", "--route-noexec"];
        let credentials = Some(("alice", PASSWORD));

        let mut members = Vec::new();
        let refused = loop {
            let profile = warren.home().profile("alice", &World::SERVER4.to_string())?;
            let client = Client::start(&world.clients[0], &profile, credentials, &options)?;
            let connected = eventually(PATIENCE, || {
                let (up, refused) = (lab::openvpn::UP, "AUTH_FAILED");
                if let Some(line) = client.peer().said(refused).pop() {
                    return Ok(Some(line));
                }
                ensure!(!client.peer().said(up).is_empty(), "neither connected nor refused");
                Ok(None)
            })?;
            match connected {
                Some(line) => break line,
                None => members.push(client),
            }
            ensure!(members.len() < 8, "eight members in a network of eight addresses");
        };

        // Six usable addresses, one of them the gateway's.
        assert_eq!(members.len(), 5, "{refused}");
        assert!(refused.contains("address"), "no reason given: {refused}");
        warren.wait_sessions(5, PATIENCE)?;
        let log = warren.peer().said("address");
        assert!(!log.is_empty(), "the server's log has no line about it");

        members.pop().ok_or_else(|| anyhow!("no member"))?.stop()?;
        warren.wait_sessions(4, PATIENCE)?;
        let profile = warren.home().profile("alice", &World::SERVER4.to_string())?;
        let retry = Client::start(&world.clients[0], &profile, credentials, &options)?;
        retry.wait_connected()
    });
}

#[test]
fn a_second_warren_runs_beside_the_first() {
    scenario("two", |lab| {
        let world = World::new(lab, 2)?;
        let remote = World::SERVER4.to_string();
        let redirect = "redirect_gateway = true";
        let first = Warren::up(&world.server, "first", &config(&[redirect], &[]))?;
        let network = [redirect, "ipv4 = \"10.87.0.0/16\"", "ipv6 = \"fd87::/64\""];
        let door = ["listen = [\"0.0.0.0:1195\"]", "listen_tcp = [\"0.0.0.0:1195\"]"];
        let second = Warren::up(&world.server, "second", &config(&network, &door))?;
        let credentials = Some(("alice", PASSWORD));
        let here = first.user_with_profile("alice", PASSWORD, &remote)?;
        let there = second.user_with_profile("alice", PASSWORD, &format!("{remote}:1195"))?;
        let _a = Client::connect(&world.clients[0], &here, credentials, &[])?;
        let _b = Client::connect(&world.clients[1], &there, credentials, &[])?;

        reach(&world.clients[0], GATEWAY4.parse()?)?;
        reach(&world.clients[1], "10.87.0.1".parse()?)?;
        reach(&world.clients[0], World::OUTSIDE4)?;
        reach(&world.clients[1], World::OUTSIDE4)?;

        // The first to leave must not take forwarding or NAT away from the other.
        first.stop()?;
        reach(&world.clients[1], World::OUTSIDE4)?;
        let again = second.home().up_to_exit()?;
        assert_eq!(again.status.code(), Some(1), "{again}");
        Ok(())
    });
}

#[test]
fn clients_behind_one_nat_router_are_told_apart() {
    scenario("shared nat", |lab| {
        let world = World::new(lab, 2)?;
        lab.nat_router(world.router.namespace(), &world.uplink)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let mut clients = Vec::new();
        for (namespace, user) in world.clients.iter().zip(USERS) {
            // The same source port as well, which leaves it to the router to make a difference.
            let profile = warren.user_with_profile(user, PASSWORD, &World::SERVER4.to_string())?;
            let profile = with_lines(&profile, "nobind", "bind\nlport 5555")?;
            let client = Client::connect(namespace, &profile, Some((user, PASSWORD)), &[])?;
            client.peer().wait_for("link local (bound): [AF_INET][undef]:5555", PATIENCE)?;
            assert_eq!(ping(namespace, GATEWAY4.parse()?, 2)?.lost(), 0);
            let remote: SocketAddr = warren.session_of(user)?.remote.parse()?;
            assert_eq!(remote.ip().to_canonical(), "203.0.113.254".parse::<IpAddr>()?);
            clients.push(client);
        }
        for client in &clients {
            assert_eq!(ping(client.namespace(), GATEWAY4.parse()?, 2)?.lost(), 0);
        }
        Ok(())
    });
}

#[test]
fn every_listen_address_answers() {
    scenario("listen", |lab| {
        let world = World::new(lab, 3)?;
        let door = ["listen = [\"0.0.0.0:1194\", \"203.0.113.1:443\", \"[::]:1196\"]"];
        let warren = Warren::up(&world.server, "warren", &config(&[], &door))?;
        let (four, six) = (World::SERVER4, World::SERVER6);
        let remotes = [format!("{four}:1194"), format!("{four}:443"), format!("[{six}]:1196")];
        let credentials = Some(("alice", PASSWORD));
        warren.home().add_user("alice", PASSWORD)?;

        for (namespace, remote) in world.clients.iter().zip(remotes) {
            let profile = warren.home().profile("alice", &remote)?;
            let client = Client::connect(namespace, &profile, credentials, &[])?;
            assert_eq!(ping(namespace, GATEWAY4.parse()?, 2)?.lost(), 0, "{remote}");
            client.stop()?;
            warren.wait_sessions(0, Duration::from_secs(5))?;
        }
        Ok(())
    });
}

/// A single echo request that may take one hop.
fn one_hop(from: &Namespace, to: IpAddr) -> Result<String> {
    Ok(from.try_run("ping", &["-n", "-c", "1", "-t", "1", "-W", "2", &to.to_string()])?.stdout)
}

#[test]
fn the_server_is_a_hop_on_the_way_to_the_lan() {
    scenario("ttl to the lan", |lab| {
        let network = ["routes = [\"10.20.0.0/24\"]"];
        let (_world, _warren, clients) = house(lab, 1, &network, &[])?;

        let said = one_hop(clients[0].namespace(), World::LAN4)?;

        assert!(said.contains("Time to live exceeded") && said.contains(GATEWAY4), "{said}");
        Ok(())
    });
}

#[test]
fn the_server_is_a_hop_on_the_way_to_a_member() {
    scenario("ttl to a member", |lab| {
        let (_world, _warren, clients) = house(lab, 2, &[], &[])?;

        let said = one_hop(clients[0].namespace(), clients[1].address4()?)?;

        assert!(said.contains("Time to live exceeded") && said.contains(GATEWAY4), "{said}");
        Ok(())
    });
}
