//! The lab itself, proved with stock OpenVPN at both ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::openvpn::{Client, Proof, Server, Wrapping};
use lab::{
    Capture, Flood, HostState, Impairment, Iperf, Lab, Noise, PATIENCE, Peer, Pki, Relay,
    SourceMirror, World, eventually, ping, ping_every, reach, scenario, source_seen, transfer,
};

fn gateway4() -> IpAddr {
    Server::GATEWAY4.parse().unwrap()
}

/// A stock server, a relay before it, and one stock client through the relay.
fn tunnel(lab: &Lab, server: &Server, options: &[&str]) -> Result<(World, Peer, Relay, Client)> {
    let world = World::new(lab, 1)?;
    let pki = Pki::new(lab.folder())?;
    let peer = server.start(&world.server, &pki)?;
    let relay = world.relay(server.port, 1)?;
    let remotes = [(World::RELAY4.into(), server.port)];
    let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
    let credentials = Some((Server::USER, Server::PASSWORD));
    let client = Client::connect(
        &world.clients[0],
        &profile,
        credentials.filter(|_| server.proof.asks_password()),
        options,
    )?;
    Ok((world, peer, relay, client))
}

#[test]
fn a_namespace_ends_with_its_handle_and_what_ran_in_it() {
    scenario("ends", |lab| {
        let namespace = lab.namespace("short")?;
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let pid = namespace.spawn("sleep", sleep)?.pid();
        let proc = format!("/proc/{pid}");

        eventually(Duration::from_secs(5), || {
            ensure!(!std::path::Path::new(&proc).exists(), "{proc} exists");
            Ok(())
        })
    });
}

#[test]
fn etc_and_run_of_a_namespace_are_its_own() {
    scenario("mounts", |lab| {
        let before = std::fs::read_to_string("/etc/resolv.conf")?;
        let namespace = lab.namespace("one")?;

        namespace.run("sh", &["-c", "echo mine > /etc/new && mv /etc/new /etc/resolv.conf"])?;
        namespace.run("sh", &["-c", "echo mine > /run/warren-lab-probe"])?;

        assert_eq!(namespace.run("cat", &["/etc/resolv.conf"])?, "mine\n");
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf")?, before);
        assert!(!std::path::Path::new("/run/warren-lab-probe").exists());
        assert_eq!(namespace.run("ls", &["/sys/class/net"])?, "lo\n");
        Ok(())
    });
}

#[test]
fn a_failing_command_says_what_it_said() {
    scenario("errors", |lab| {
        let namespace = lab.namespace("one")?;

        let error = namespace.run("ip", &["link", "set", "nosuch", "up"]).unwrap_err();

        assert!(error.to_string().contains("nosuch"), "{error}");
        Ok(())
    });
}

#[test]
fn a_change_of_the_host_is_noticed_line_by_line() {
    scenario("host state", |lab| {
        let namespace = lab.namespace("one")?;
        let before = HostState::of(&namespace)?;
        before.check_unchanged(&namespace)?;

        namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
        namespace.run("nft", &["add table inet left_behind"])?;
        let error = before.check_unchanged(&namespace).unwrap_err().to_string();

        assert!(error.contains("- net.ipv4.ip_forward = 0"), "{error}");
        assert!(error.contains("+ table inet left_behind"), "{error}");
        Ok(())
    });
}

#[test]
fn the_world_is_connected_as_drawn() {
    scenario("world", |lab| {
        let world = World::new(lab, 2)?;
        let client = &world.clients[0];

        assert_eq!(ping(client, World::SERVER4.into(), 2)?.lost(), 0);
        assert_eq!(ping(client, World::SERVER6.into(), 2)?.lost(), 0);
        assert_eq!(ping(client, "192.0.2.11".parse()?, 2)?.lost(), 0);
        assert_eq!(ping(client, "2001:db8:2::11".parse()?, 2)?.lost(), 0);
        assert_eq!(ping(&world.server, World::OUTSIDE4, 2)?.lost(), 0);
        assert_eq!(ping(&world.server, World::OUTSIDE6, 2)?.lost(), 0);
        assert_eq!(ping(&world.server, World::LAN4, 2)?.lost(), 0);
        assert_eq!(ping(client, World::OUTSIDE4, 1)?.received, 0);
        assert_eq!(ping(client, World::LAN4, 1)?.received, 0);
        Ok(())
    });
}

#[test]
fn a_nat_router_hides_its_clients() {
    scenario("nat", |lab| {
        let world = World::new(lab, 1)?;
        let port = SocketAddr::new(World::SERVER4.into(), 8080);
        let _mirror = SourceMirror::start(&world.server, port)?;
        let client = &world.clients[0];
        assert_eq!(source_seen(client, port)?, "192.0.2.10".parse::<IpAddr>()?);

        lab.nat_router(world.router.namespace(), &world.uplink)?;

        assert_eq!(source_seen(client, port)?, "203.0.113.254".parse::<IpAddr>()?);
        Ok(())
    });
}

#[test]
fn every_kind_of_stock_tunnel_comes_up() {
    for wrapping in Wrapping::ALL {
        for proof in Proof::ALL {
            scenario(&format!("stock {} {}", wrapping.name(), proof.name()), |lab| {
                let server = Server { wrapping, proof, ..Server::default() };
                let (world, _peer, _relay, client) = tunnel(lab, &server, &[])?;

                reach(client.namespace(), gateway4())?;
                reach(client.namespace(), Server::GATEWAY6.parse()?)?;
                assert!(client.data_channel()?.contains("AES-256-GCM"));
                drop(world);
                Ok(())
            });
        }
    }
}

#[test]
fn a_wrong_password_is_refused() {
    scenario("refused", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let server = Server { proof: Proof::Password, ..Server::default() };
        let _peer = server.start(&world.server, &pki)?;
        let remotes = [(World::SERVER4.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);

        let client =
            Client::start(&world.clients[0], &profile, Some((Server::USER, "wrong")), &[])?;

        client.peer().wait_for("AUTH_FAILED", PATIENCE)?;
        Ok(())
    });
}

#[test]
fn a_tunnel_comes_up_and_keeps_through_loss_and_reordering() {
    scenario("loss", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let server = Server::default();
        let _peer = server.start(&world.server, &pki)?;
        let relay = world.relay(server.port, 7)?;
        let delay = Duration::from_millis(5);
        relay.impair(Impairment {
            loss: 0.3,
            duplicate: 0.05,
            corrupt: 0.01,
            delay,
            jitter: delay,
        });
        let remotes = [(World::RELAY4.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);

        let client = Client::start(&world.clients[0], &profile, None, &[])?;
        client.peer().wait_for(lab::openvpn::UP, PATIENCE * 3)?;
        let report = ping(&world.clients[0], gateway4(), 50)?;

        // Both ways must get through: 49 % of 50, four standard deviations down.
        assert!((10..45).contains(&report.received), "{report:?}");
        assert!(report.mean.unwrap() >= delay * 2, "{report:?}");
        let counters = relay.counters();
        assert!(counters.up.lost > 0 && counters.down.lost > 0, "{counters:?}");
        Ok(())
    });
}

#[test]
fn a_rebound_client_keeps_its_tunnel() {
    scenario("rebind", |lab| {
        let (world, server, relay, client) = tunnel(lab, &Server::default(), &[])?;
        let pinging = ping_every(Duration::from_millis(50), &world.clients[0], gateway4())?;
        reach(client.namespace(), gateway4())?;

        relay.rebind();
        server.wait_for("Float requested for peer", PATIENCE)?;
        reach(client.namespace(), gateway4())?;

        let report = pinging.finish()?;
        assert!(report.lost() <= 2, "{report:?}");
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        Ok(())
    });
}

/// Sends numbered datagrams through a relay and returns what arrived, in order of arrival.
fn through_relay(lab: &Lab, seed: u64, impairment: Impairment) -> Result<Vec<Vec<u8>>> {
    const COUNT: u32 = 1000;
    let namespace = lab.namespace("host")?;
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let (sender, sink) = (namespace.enter(bind)?, namespace.enter(bind)?);
    let relay = Relay::start(&namespace, "127.0.0.1:0".parse()?, sink.local_addr()?, seed)?;
    relay.impair(impairment);

    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    sink.set_read_timeout(Some(Duration::from_millis(500)))?;
    for number in 0..COUNT {
        sender.send_to(&[number.to_be_bytes(); 4].concat(), relay.address())?;
        // A receive buffer holds fewer than a thousand: the relay must keep up.
        eventually(Duration::from_secs(5), || {
            let seen = relay.counters().up.packets;
            ensure!(seen + 50 > u64::from(number), "the relay has seen {seen}");
            Ok(())
        })?;
        sink.set_nonblocking(true)?;
        while let Ok(len) = sink.recv(&mut buffer) {
            arrived.push(buffer[..len].to_vec());
        }
    }
    sink.set_nonblocking(false)?;
    while let Ok(len) = sink.recv(&mut buffer) {
        arrived.push(buffer[..len].to_vec());
    }
    assert_eq!(relay.counters().up.bytes, u64::from(COUNT) * 16);
    Ok(arrived)
}

fn number(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(datagram[..4].try_into().unwrap())
}

#[test]
fn an_idle_relay_changes_nothing() {
    scenario("relay plain", |lab| {
        let arrived = through_relay(lab, 1, Impairment::default())?;

        assert!(arrived.iter().map(|datagram| number(datagram)).eq(0..1000));
        Ok(())
    });
}

#[test]
fn a_relay_loses_the_same_datagrams_for_the_same_seed() {
    scenario("relay loss", |lab| {
        let impairment = Impairment { loss: 0.4, ..Impairment::default() };

        let first = through_relay(lab, 7, impairment)?;

        assert!((550..650).contains(&first.len()), "{} of 1000", first.len());
        assert!(first == through_relay(lab, 7, impairment)?, "the same seed, other losses");
        assert!(first != through_relay(lab, 8, impairment)?, "another seed, the same losses");
        Ok(())
    });
}

#[test]
fn a_relay_duplicates_corrupts_and_reorders() {
    scenario("relay rest", |lab| {
        let twice = Impairment { duplicate: 0.2, ..Impairment::default() };
        let arrived = through_relay(lab, 1, twice)?;
        assert!((1150..1250).contains(&arrived.len()), "{}", arrived.len());

        let broken = Impairment { corrupt: 0.2, ..Impairment::default() };
        let arrived = through_relay(lab, 1, broken)?;
        let odd = arrived.iter().filter(|datagram| datagram[..12] != datagram[4..]).count();
        assert!((150..250).contains(&odd), "{odd}");

        let jitter = Duration::from_millis(5);
        let arrived = through_relay(lab, 1, Impairment { jitter, ..Impairment::default() })?;
        assert_eq!(arrived.len(), 1000);
        let late = arrived.windows(2).filter(|two| number(&two[0]) > number(&two[1])).count();
        assert!(late > 50, "{late}");
        Ok(())
    });
}

#[test]
fn traffic_is_measured_and_compared_and_its_capture_is_well_formed() {
    scenario("traffic", |lab| {
        let world = World::new(lab, 1)?;
        let capture = Capture::start(&world.server, &world.server_device, "udp port 1194")?;
        let pki = Pki::new(lab.folder())?;
        let server = Server::default();
        let _peer = server.start(&world.server, &pki)?;
        let remotes = [(World::SERVER6.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
        let client = Client::connect(&world.clients[0], &profile, None, &[])?;

        let target = SocketAddr::new(gateway4(), 9000);
        transfer(&world.clients[0], &world.server, target, 3_000_001)?;
        let back = SocketAddr::new(client.address4()?, 9000);
        transfer(&world.server, &world.clients[0], back, 3_000_001)?;
        client.stop()?;
        let pcap = capture.finish()?;

        pcap.check_well_formed(4000)?;
        assert!(pcap.frames("ipv6")? > 4000);
        assert_eq!(pcap.frames("ip")?, 0);
        assert!(pcap.frames("openvpn")? > 4000);
        Ok(())
    });
}

#[test]
fn iperf_reports_both_directions_and_udp() {
    scenario("iperf", |lab| {
        let world = World::new(lab, 1)?;
        let mut run = Iperf::tcp(World::SERVER4.into(), 1);

        let up = run.run(&world.server, &world.clients[0])?;
        run.reverse = true;
        let down = run.run(&world.server, &world.clients[0])?;
        run.reverse = false;
        run.udp_bps = Some(2_000_000);
        let udp = run.run(&world.server, &world.clients[0])?;

        assert!(up.bps > 1e8 && down.bps > 1e8, "{} {}", up.bps, down.bps);
        assert!(udp.bps > 1.5e6 && udp.bps < 2.5e6, "{}", udp.bps);
        Ok(())
    });
}

#[test]
fn a_flood_counts_what_comes_back() {
    scenario("flood", |lab| {
        let world = World::new(lab, 1)?;
        let relay = world.relay(7, 1)?;
        let target = SocketAddr::new(World::RELAY4.into(), 7);

        let began = Instant::now();
        for noise in [Noise::Garbage, Noise::OpenVpnWrongKey] {
            let report = Flood::start(&world.clients[0], target, noise, 5_000, 5_000)?.finish()?;
            assert_eq!(report.sent, 5_000);
            assert_eq!(report.answered, 0);
        }

        assert!(began.elapsed() < Duration::from_secs(10));
        // A busy machine drops some before the relay sees them.
        assert!(relay.counters().up.packets > 5_000, "{:?}", relay.counters());
        Ok(())
    });
}
