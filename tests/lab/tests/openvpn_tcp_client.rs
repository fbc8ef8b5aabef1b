//! `warren connect` over TCP, against stock OpenVPN and against Warren.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Proof, Server, renews_under_load, without_remotes};
use lab::warren::{Client, GATEWAY4, Warren, config};
use lab::{Iperf, Lab, Namespace, Peer, Pki, World, all, eventually, reach, scenario};

const EVERY_CIPHER: &str = "AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-256-CBC:AES-128-CBC";

fn gateway4() -> IpAddr {
    Server::GATEWAY4.parse().unwrap()
}

fn tcp() -> Server {
    Server { tcp: true, ciphers: EVERY_CIPHER.to_owned(), ..Server::default() }
}

/// A world with a stock server and the profile of one of its clients.
fn stock(lab: &Lab, server: &Server) -> Result<(World, Pki, Peer, String)> {
    let world = World::new(lab, 1)?;
    let pki = Pki::new(lab.folder())?;
    let peer = server.start(&world.server, &pki)?;
    let remotes = [(World::SERVER4.into(), server.port)];
    let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
    Ok((world, pki, peer, profile))
}

fn check_ping(from: &Namespace) -> Result<()> {
    for gateway in [gateway4(), Server::GATEWAY6.parse()?] {
        reach(from, gateway)?;
    }
    Ok(())
}

#[test]
fn stock_servers_are_reached_over_ipv4_and_ipv6_with_every_kind_of_cipher() {
    scenario("tcp servers", |lab| {
        let ciphers = ["AES-256-GCM", "CHACHA20-POLY1305", "AES-128-CBC"];
        let world = World::new(lab, 2 * ciphers.len())?;
        let pki = Pki::new(lab.folder())?;
        let server = Server { proof: Proof::Both, extra: vec!["duplicate-cn".into()], ..tcp() };
        let peer = server.start(&world.server, &pki)?;
        let mut clients = Vec::new();
        for (number, namespace) in world.clients.iter().enumerate() {
            let cipher = ciphers[number / 2];
            let host = if number % 2 == 0 { World::SERVER4.into() } else { World::SERVER6.into() };
            let wanted = Server { ciphers: cipher.to_owned(), ..server.clone() };
            let identity = pki.client(&format!("client{number}"))?;
            let profile = wanted.profile(&pki, &identity, &[(host, server.port)]);
            let credentials = Some((Server::USER, Server::PASSWORD));
            clients.push((cipher, host, Client::start(namespace, &profile, credentials)?));
        }
        all(clients, |(cipher, host, client)| {
            let context = || format!("{cipher} {host}");
            client.wait_connected_since(client.peer().mark_start()).with_context(context)?;
            check_ping(client.peer().namespace()).with_context(context)?;
            let output = client.stop()?;
            ensure!(output.success(), "{cipher} {host}: {output}");
            Ok(())
        })?;
        for cipher in ciphers {
            let keys = format!("Data Channel: Cipher '{cipher}'");
            ensure!(!peer.said(&keys).is_empty(), "the server did not say {keys}");
        }
        ensure!(peer.said("Bad encapsulated packet length").is_empty(), "framing");
        ensure!(peer.said("Inconsistent").is_empty() && peer.said("WARNING: 'proto'").is_empty());
        Ok(())
    });
}

#[test]
fn keys_are_renewed_under_load_without_losing_a_ping() {
    scenario("tcp client renewal", |lab| {
        let server = Server { extra: vec!["reneg-sec 10".to_owned()], ..tcp() };
        let (world, _, peer, profile) = stock(lab, &server)?;
        let client = Client::connect(&world.clients[0], &profile, None)?;

        renews_under_load(&world.server, &world.clients[0], gateway4(), &peer)?;
        assert!(client.peer().said("disconnected").is_empty());
        Ok(())
    });
}

#[test]
fn bulk_flows_both_ways() {
    scenario("tcp client bulk", |lab| {
        let (world, _, _peer, profile) = stock(lab, &tcp())?;
        let client = Client::connect(&world.clients[0], &profile, None)?;
        for reverse in [false, true] {
            let iperf = Iperf { reverse, ..Iperf::tcp(gateway4(), 3) };
            let report = iperf.run(&world.server, &world.clients[0])?;
            assert!(report.bps > 20e6, "{report:?}");
        }
        assert!(client.stop()?.success());
        Ok(())
    });
}

#[test]
fn a_connection_that_breaks_is_noticed_at_once_and_made_again() {
    scenario("tcp client restart", |lab| {
        let server = tcp();
        let (world, pki, peer, profile) = stock(lab, &server)?;
        let client = Client::connect(&world.clients[0], &profile, None)?;
        let mark = client.peer().mark();

        peer.kill()?;
        // Much sooner than silence would tell.
        client.peer().wait_from(mark, "disconnected", Duration::from_secs(3))?;
        let again = client.peer().mark();
        let _peer = server.start(&world.server, &pki)?;

        client.wait_connected_since(again)?;
        check_ping(&world.clients[0])?;
        assert!(client.stop()?.success());
        Ok(())
    });
}

#[test]
fn a_loss_is_no_round_without_a_connection() {
    scenario("tcp client rounds", |lab| {
        let server = tcp();
        let (world, pki, peer, profile) = stock(lab, &server)?;
        // Nobody is at the second.
        let nobody = format!("remote {} 1195 tcp4\n", World::SERVER4);
        let profile = format!("connect-retry-max 1\nconnect-retry 8 8\n{profile}\n{nobody}");
        let client = Client::connect(&world.clients[0], &profile, None)?;
        let mark = client.peer().mark();

        peer.kill()?;
        client.peer().wait_from(mark, "disconnected", Duration::from_secs(3))?;
        let again = client.peer().mark();
        let _peer = server.start(&world.server, &pki)?;

        client.wait_connected_since(again)?;
        check_ping(&world.clients[0])?;
        assert!(client.stop()?.success());
        Ok(())
    });
}

#[test]
fn where_udp_is_blocked_the_profiles_tcp_remote_is_next() {
    scenario("udp then tcp", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let server = World::SERVER4.to_string();
        let profile = warren.user_with_profile("alice", "long enough for a test", &server)?;
        let others = without_remotes(&profile);
        let profile = format!(
            "{others}\nserver-poll-timeout 3\nremote {server} 1194 udp4\nremote {server} 1194 tcp4\n"
        );
        let router = world.router.namespace();
        router.run("nft", &["add", "table", "inet", "lab"])?;
        let chain = "{ type filter hook forward priority 0; }";
        router.run("nft", &["add", "chain", "inet", "lab", "block", chain])?;
        router
            .run("nft", &["add", "rule", "inet", "lab", "block", "udp", "dport", "1194", "drop"])?;

        let credentials = Some(("alice", "long enough for a test"));
        let client = Client::connect(&world.clients[0], &profile, credentials)?;

        reach(&world.clients[0], GATEWAY4.parse()?)?;
        let session = warren.session_of("alice")?;
        let connections = world.server.run("ss", &["-tnH", "state", "established"])?;
        assert!(connections.contains(":1194"), "{connections}");
        assert_eq!(client.address(true)?, session.address4.unwrap());
        assert!(client.stop()?.success());
        // It says goodbye on the connection, and closes it.
        eventually(Duration::from_secs(5), || {
            let left = warren.sessions()?.len();
            ensure!(left == 0, "{left} sessions");
            Ok(())
        })
    });
}

#[test]
fn a_server_that_does_not_answer_at_all_is_given_up_in_time() {
    scenario("tcp blackhole", |lab| {
        let server = tcp();
        let (world, pki, _peer, _) = stock(lab, &server)?;
        let remotes = [("203.0.113.77".parse()?, 1194), (World::SERVER4.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("bob")?, &remotes);
        let profile = format!("{profile}connect-timeout 2\n");
        let router = world.router.namespace();
        router.run(
            "ip",
            &["neigh", "add", "203.0.113.77", "lladdr", "02:00:00:00:00:77", "dev", &world.uplink],
        )?;

        let client = Client::connect(&world.clients[0], &profile, None)?;

        assert!(!client.peer().said("does not answer").is_empty());
        check_ping(&world.clients[0])?;
        assert!(client.stop()?.success());
        Ok(())
    });
}
