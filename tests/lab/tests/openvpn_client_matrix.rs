//! `warren connect` against stock OpenVPN 2.6 servers, and against Warren.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Proof, Server, UP, Wrapping, renews_under_load};
use lab::warren::{Client, GATEWAY4, Warren, config};
use lab::{
    Capture, HostState, Impairment, Lab, Namespace, PATIENCE, Peer, Pki, SourceMirror, World, all,
    eventually, ping, ping_every, reach, scenario, source_seen, transfer,
};

const AEAD: [&str; 3] = ["AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305"];
const CBC: [&str; 2] = ["AES-256-CBC", "AES-128-CBC"];
const EVERY_CIPHER: &str = "AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-256-CBC:AES-128-CBC";

fn gateway4() -> IpAddr {
    Server::GATEWAY4.parse().unwrap()
}

fn credentials(proof: Proof) -> Option<(&'static str, &'static str)> {
    proof.asks_password().then_some((Server::USER, Server::PASSWORD))
}

/// A world with a stock server and the profile of one of its clients.
fn stock(lab: &Lab, clients: usize, server: &Server) -> Result<(World, Pki, Peer, String)> {
    let world = World::new(lab, clients)?;
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

/// One stock server per digest; one Warren per cipher at the same time.
fn matrix(wrapping: Wrapping, proof: Proof) {
    scenario(&format!("client {} {}", wrapping.name(), proof.name()), |lab| {
        let world = World::new(lab, AEAD.len() + CBC.len())?;
        let pki = Pki::new(lab.folder())?;
        for digest in ["SHA256", "SHA1", "SHA512"] {
            let server = Server {
                wrapping,
                proof,
                ciphers: EVERY_CIPHER.to_owned(),
                digest: digest.to_owned(),
                // Passwords alone make every client "alice".
                extra: vec!["duplicate-cn".to_owned()],
                ..Server::default()
            };
            let peer = server.start(&world.server, &pki)?;
            let ciphers =
                if digest == "SHA256" { [&AEAD[..], &CBC].concat() } else { CBC.to_vec() };
            let mut clients = Vec::new();
            for (namespace, cipher) in world.clients.iter().zip(ciphers) {
                let remotes = [(World::SERVER4.into(), server.port)];
                let wanted = Server { ciphers: cipher.to_owned(), ..server.clone() };
                let profile = wanted.profile(&pki, &pki.client(cipher)?, &remotes);
                clients.push((cipher, Client::start(namespace, &profile, credentials(proof))?));
            }
            all(clients, |(cipher, client)| {
                let context = || format!("{cipher} {digest}");
                client.wait_connected_since(client.peer().mark_start()).with_context(context)?;
                check_ping(client.peer().namespace()).with_context(context)?;
                let keys = format!("Data Channel: Cipher '{cipher}'");
                ensure!(!peer.said(&keys).is_empty(), "the server did not say {keys}");
                let output = client.stop()?;
                ensure!(output.success(), "{cipher} {digest}: {output}");
                Ok(())
            })?;
            peer.stop(PATIENCE)?;
        }
        Ok(())
    });
}

#[test]
fn every_cipher_with_tls_crypt_and_certificate() {
    matrix(Wrapping::TlsCrypt, Proof::Certificate);
}

#[test]
fn every_cipher_with_tls_crypt_and_password() {
    matrix(Wrapping::TlsCrypt, Proof::Password);
}

#[test]
fn every_cipher_with_tls_crypt_and_both() {
    matrix(Wrapping::TlsCrypt, Proof::Both);
}

#[test]
fn every_cipher_with_tls_auth_and_certificate() {
    matrix(Wrapping::TlsAuth, Proof::Certificate);
}

#[test]
fn every_cipher_with_tls_auth_and_password() {
    matrix(Wrapping::TlsAuth, Proof::Password);
}

#[test]
fn every_cipher_with_tls_auth_and_both() {
    matrix(Wrapping::TlsAuth, Proof::Both);
}

#[test]
fn both_versions_of_tls_are_spoken() {
    for (option, expected) in
        [("tls-version-max 1.2", "TLSv1.2"), ("tls-version-min 1.3", "TLSv1.3")]
    {
        scenario(option, |lab| {
            let server = Server { extra: vec![option.to_owned()], ..Server::default() };
            let (world, _pki, peer, profile) = stock(lab, 1, &server)?;

            let _client = Client::connect(&world.clients[0], &profile, None)?;

            check_ping(&world.clients[0])?;
            peer.wait_for(&format!("Control Channel: {expected}"), PATIENCE)?;
            Ok(())
        });
    }
}

#[test]
fn the_outer_path_may_be_ipv6() {
    scenario("outer IPv6", |lab| {
        let server = Server::default();
        let (world, pki, _peer, _) = stock(lab, 1, &server)?;
        let remotes = [(World::SERVER6.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("six")?, &remotes);

        let _client = Client::connect(&world.clients[0], &profile, None)?;

        check_ping(&world.clients[0])
    });
}

#[test]
fn all_traffic_goes_through_the_tunnel_and_its_own_packets_do_not() {
    scenario("redirect", |lab| {
        let push = ["redirect-gateway def1 ipv6", "dhcp-option DNS 10.8.0.53"];
        let extra = push.iter().map(|option| format!("push \"{option}\"")).collect();
        let server = Server { extra, ..Server::default() };
        let (world, _pki, _peer, profile) = stock(lab, 1, &server)?;
        lab.nat_router(&world.server, &world.server.device_with(World::NAT4)?)?;
        let host = &world.clients[0];
        let before = HostState::of(host)?;
        assert!(source_seen(host, SocketAddr::new(World::OUTSIDE4, 8080)).is_err());

        let client = Client::connect(host, &profile, None)?;
        for (outside, expected) in [(World::OUTSIDE4, World::NAT4), (World::OUTSIDE6, World::NAT6)]
        {
            let port = SocketAddr::new(outside, 8080);
            let _mirror = SourceMirror::start(&world.outside, port)?;
            assert_eq!(source_seen(host, port)?, expected);
            transfer(host, &world.outside, SocketAddr::new(outside, 9000), 5_000_000)?;
        }
        // The neighbours stay neighbours.
        assert_eq!(ping(host, World::RELAY4.into(), 2)?.lost(), 0);
        let resolver = host.run("cat", &["/etc/resolv.conf"])?;
        assert!(resolver.contains("10.8.0.53"), "{resolver}");

        assert!(client.stop()?.success());
        before.check_unchanged(host)
    });
}

#[test]
fn a_crashed_client_leaves_nothing_that_the_next_does_not_repair() {
    scenario("client crash", |lab| {
        let push = ["redirect-gateway def1 ipv6", "dhcp-option DNS 10.8.0.53"];
        let extra = push.iter().map(|option| format!("push \"{option}\"")).collect();
        let (world, _pki, _peer, profile) = stock(lab, 1, &Server { extra, ..Server::default() })?;
        let host = &world.clients[0];
        let before = HostState::of(host)?;

        Client::connect(host, &profile, None)?.peer().kill()?;
        assert!(before.check_unchanged(host).is_err(), "a crash leaves nothing behind");
        let client = Client::connect(host, &profile, None)?;
        check_ping(host)?;
        assert!(client.stop()?.success());

        before.check_unchanged(host)
    });
}

#[test]
fn pushed_routes_are_set_and_removed() {
    scenario("routes", |lab| {
        let push = ["route 10.20.0.0 255.255.255.0", "route-ipv6 fd20::/64"];
        let extra = push.iter().map(|option| format!("push \"{option}\"")).collect();
        let (world, _pki, _peer, profile) = stock(lab, 1, &Server { extra, ..Server::default() })?;
        world.server.forward()?;
        let host = &world.clients[0];
        let before = HostState::of(host)?;

        let client = Client::connect(host, &profile, None)?;
        reach(host, World::LAN4)?;
        reach(host, "fd20::2".parse()?)?;
        assert_eq!(ping(host, World::OUTSIDE4, 1)?.received, 0);
        assert!(client.stop()?.success());

        before.check_unchanged(host)
    });
}

/// Ends the server somehow, starts it again, and expects the client back at its address.
fn restart(end: impl FnOnce(Peer) -> Result<()>) {
    scenario("server restart", |lab| {
        let server = Server::default();
        let (world, pki, peer, profile) = stock(lab, 1, &server)?;
        let client = Client::connect(&world.clients[0], &profile, None)?;
        check_ping(&world.clients[0])?;
        let before = client.address(true)?;
        let mark = client.peer().mark();

        end(peer)?;
        let _peer = server.start(&world.server, &pki)?;
        client.wait_connected_since(mark)?;

        check_ping(&world.clients[0])?;
        assert_eq!(client.address(true)?, before);
        Ok(())
    });
}

#[test]
fn it_reconnects_by_itself_after_the_server_restarts() {
    restart(|peer| peer.stop(PATIENCE).map(drop));
}

#[test]
fn it_reconnects_by_itself_after_the_server_crashed() {
    restart(|peer| peer.kill());
}

#[test]
fn it_goes_down_the_list_of_remotes() {
    scenario("remotes", |lab| {
        let server = Server::default();
        let (world, pki, _peer, _) = stock(lab, 1, &server)?;
        let dead: IpAddr = "203.0.113.77".parse()?;
        let remotes = [(dead, 1194), (World::SERVER4.into(), 1), (World::SERVER4.into(), 1194)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
        let profile = format!("server-poll-timeout 4\n{profile}");

        let _client = Client::connect(&world.clients[0], &profile, None)?;

        check_ping(&world.clients[0])
    });
}

/// 40 seconds of pings and a stream beside them, keys renewed every 10.
fn renew_under_load(server_line: &str, profile_line: &str) {
    scenario("renewal", |lab| {
        let server = Server { extra: vec![server_line.to_owned()], ..Server::default() };
        let (world, _pki, peer, profile) = stock(lab, 1, &server)?;
        let profile = format!("{profile_line}\n{profile}");
        let _client = Client::connect(&world.clients[0], &profile, None)?;
        check_ping(&world.clients[0])?;

        renews_under_load(&world.server, &world.clients[0], gateway4(), &peer)?;
        Ok(())
    });
}

#[test]
fn the_server_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load("reneg-sec 10 10", "reneg-sec 0");
}

#[test]
fn the_client_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load("reneg-sec 0", "reneg-sec 10");
}

/// Keys by the PRF of key method 2, renewals wrapped with the shared key.
#[test]
fn a_profile_may_ask_for_the_ways_of_2_5() {
    scenario("compat", |lab| {
        let server = Server { extra: vec!["reneg-sec 8 8".to_owned()], ..Server::default() };
        let (world, _pki, peer, profile) = stock(lab, 1, &server)?;
        let profile = format!("compat-mode 2.5.0\n{profile}");
        let client = Client::connect(&world.clients[0], &profile, None)?;
        check_ping(&world.clients[0])?;

        eventually(Duration::from_secs(30), || {
            let keys = peer.said("Outgoing Data Channel: Cipher").len();
            ensure!(keys >= 3, "{keys} sets of keys");
            Ok(())
        })?;
        check_ping(&world.clients[0])?;
        let pushed = peer.said("SENT CONTROL [alice]: 'PUSH_REPLY");
        assert!(!pushed.is_empty() && pushed.iter().all(|line| !line.contains("tls-ekm")));
        assert_eq!(client.peer().said("connected to").len(), 1);

        client.stop()?;
        peer.wait_for("OCC exit message received by peer", PATIENCE)?;
        Ok(())
    });
}

/// OpenVPN goes on with the old keys for half the renewal period, longer than a silence is borne.
#[test]
fn a_server_that_keeps_to_its_old_keys_for_a_while_is_heard() {
    scenario("old keys", |lab| {
        let server = Server { extra: vec!["reneg-sec 36 36".to_owned()], ..Server::default() };
        let (world, _pki, peer, profile) = stock(lab, 1, &server)?;
        let client = Client::connect(&world.clients[0], &profile, None)?;

        // The second set of keys, and then twice the silence that the server's push allows.
        eventually(Duration::from_secs(60), || {
            let keys = peer.said("Outgoing Data Channel: Cipher").len();
            ensure!(keys >= 2, "{keys} sets of keys");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_secs(16));

        assert_eq!(client.peer().said("disconnected").len(), 0);
        assert_eq!(client.peer().said("connected to").len(), 1);
        check_ping(&world.clients[0])
    });
}

#[test]
fn a_new_outer_address_keeps_the_tunnel() {
    scenario("client float", |lab| {
        let server = Server::default();
        let (world, pki, peer, _) = stock(lab, 1, &server)?;
        let relay = world.relay(server.port, 1)?;
        let remotes = [(World::RELAY4.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
        let client = Client::connect(&world.clients[0], &profile, None)?;
        let pings = ping_every(Duration::from_millis(100), &world.clients[0], gateway4())?;
        check_ping(&world.clients[0])?;
        let address = client.address(true)?;

        relay.rebind();
        peer.wait_for("Float requested for peer", PATIENCE)?;
        check_ping(&world.clients[0])?;

        let pings = pings.finish()?;
        assert!(pings.lost() <= 2, "{pings:?}");
        assert_eq!(client.address(true)?, address);
        assert_eq!(peer.said("Peer Connection Initiated").len(), 1);
        Ok(())
    });
}

#[test]
fn thirty_percent_loss_is_survived() {
    scenario("client loss", |lab| {
        let server = Server { extra: vec!["reneg-sec 15 15".to_owned()], ..Server::default() };
        let (world, pki, peer, _) = stock(lab, 1, &server)?;
        let relay = world.relay(server.port, 5)?;
        let remotes = [(World::RELAY4.into(), server.port)];
        let profile = server.profile(&pki, &pki.client("alice")?, &remotes);
        let slow = Duration::from_millis(10);
        relay.impair(Impairment {
            loss: 0.3,
            duplicate: 0.05,
            corrupt: 0.01,
            delay: slow,
            jitter: slow,
        });

        let client = Client::start(&world.clients[0], &profile, None)?;
        let up = |line: &str| line.contains("connected") && !line.contains("disconnected");
        client.peer().wait_until(client.peer().mark_start(), "connected", PATIENCE * 4, up)?;
        let mark = peer.mark();
        let pings = ping(&world.clients[0], gateway4(), 100)?;
        peer.wait_from(mark, "Outgoing Data Channel: Cipher", PATIENCE * 2)?;

        assert!((24..74).contains(&pings.received), "{pings:?}");
        relay.impair(Impairment::default());
        // A renewal may be half way through, its last acknowledgement lost.
        eventually(PATIENCE, || check_ping(&world.clients[0]))
    });
}

#[test]
fn a_wrong_password_ends_it_with_one_line() {
    scenario("client refused", |lab| {
        let server = Server { proof: Proof::Password, ..Server::default() };
        let (world, _pki, _peer, profile) = stock(lab, 1, &server)?;
        let before = HostState::of(&world.clients[0])?;

        let client = Client::start(&world.clients[0], &profile, Some((Server::USER, "not it")))?;
        let output = client.peer().wait_exit(PATIENCE)?;

        assert_eq!(output.status.code(), Some(1), "{output}");
        let last = output.stderr.lines().last().unwrap_or_default().to_lowercase();
        assert!(last.contains("password") || last.contains("auth"), "{output}");
        before.check_unchanged(&world.clients[0])
    });
}

#[test]
fn a_server_is_known_by_the_field_that_the_profile_names() {
    scenario("server field", |lab| {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let identity = Some(pki.server_with_mail("server", "vpn@example.org")?);
        let server = Server { identity, ..Server::default() };
        let _peer = server.start(&world.server, &pki)?;
        let remotes = [(World::SERVER4.into(), server.port)];
        let whole = server.profile(&pki, &pki.client("alice")?, &remotes);
        let profile = |field: &str, name: &str| {
            format!("x509-username-field {field}\nverify-x509-name {name} name\n{whole}")
        };

        let right = profile("emailAddress", "vpn@example.org");
        lab::openvpn::Client::connect(&world.clients[0], &right, None, &[])?.stop()?;
        let client = Client::start(&world.clients[0], &right, None)?;
        client.wait_connected_since(client.peer().mark_start())?;
        reach(&world.clients[0], gateway4())?;
        client.stop()?;

        for (field, ours, stocks) in [
            ("emailAddress", "carries another name", "VERIFY X509NAME ERROR"),
            ("UID", "no usable user name in the field", "VERIFY ERROR: could not extract UID"),
        ] {
            let wrong = profile(field, "server");
            let stock = lab::openvpn::Client::start(&world.clients[0], &wrong, None, &[])?;
            stock.peer().wait_for(stocks, PATIENCE)?;
            stock.stop()?;
            let client = Client::start(&world.clients[0], &wrong, None)?;
            client.peer().wait_for(ours, PATIENCE)?;
            assert!(client.address(true).is_err(), "a tunnel to a stranger came up");
            client.stop()?;
        }
        Ok(())
    });
}

#[test]
fn a_server_with_a_bad_certificate_is_refused() {
    scenario("bad server", |lab| {
        let server = Server::default();
        let (world, pki, _peer, _) = stock(lab, 1, &server)?;
        let remotes = [(World::SERVER4.into(), server.port)];
        let elsewhere = lab.folder().join("elsewhere");
        std::fs::create_dir_all(&elsewhere)?;
        let stranger = Pki::new(&elsewhere)?;
        let identity = pki.client("alice")?;
        // The right static key, so that only the certificate is at fault.
        let wrong_ca = pki.trusting(&stranger);
        let profiles = [
            server.profile(&wrong_ca, &identity, &remotes),
            format!(
                "verify-x509-name somebody-else name\n{}",
                server.profile(&pki, &identity, &remotes)
            ),
        ];

        for profile in profiles {
            let client = Client::start(&world.clients[0], &profile, None)?;
            eventually(PATIENCE, || {
                let said = client.peer().said("certificate");
                ensure!(!said.is_empty(), "it says nothing about the certificate");
                Ok(())
            })?;
            assert!(client.address(true).is_err(), "a tunnel to a stranger came up");
        }
        Ok(())
    });
}

#[test]
fn an_expired_client_certificate_is_named_before_anything_is_sent() {
    scenario("expired", |lab| {
        let server = Server::default();
        let (world, pki, _peer, _) = stock(lab, 1, &server)?;
        let remotes = [(World::SERVER4.into(), server.port)];
        let profile = server.profile(&pki, &pki.expired("late", "clientAuth")?, &remotes);

        let output =
            Client::start(&world.clients[0], &profile, None)?.peer().wait_exit(PATIENCE)?;

        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stderr.contains("expired"), "{output}");
        Ok(())
    });
}

#[test]
fn goodbye_is_said_at_the_end() {
    scenario("client goodbye", |lab| {
        let (world, _pki, peer, profile) = stock(lab, 1, &Server::default())?;
        let client = Client::connect(&world.clients[0], &profile, None)?;
        check_ping(&world.clients[0])?;

        assert!(client.stop()?.success());

        // On the control channel, or in the data channel as older versions do it; the ping
        // timeout is 16 seconds away.
        peer.wait_until(peer.mark_start(), "a goodbye", Duration::from_secs(8), |line| {
            line.contains("exit message received") || line.contains("remote-exit")
        })?;
        Ok(())
    });
}

#[test]
fn a_whole_session_is_well_formed_on_the_wire() {
    scenario("client capture", |lab| {
        let server = Server { extra: vec!["reneg-sec 5 5".to_owned()], ..Server::default() };
        let (world, _pki, peer, profile) = stock(lab, 1, &server)?;
        let capture = Capture::start(&world.server, &world.server_device, "udp port 1194")?;

        let client = Client::connect(&world.clients[0], &profile, None)?;
        let mark = peer.mark();
        assert_eq!(ping(&world.clients[0], gateway4(), 20)?.lost(), 0);
        peer.wait_from(mark, "Outgoing Data Channel: Cipher", PATIENCE)?;
        assert!(client.stop()?.success());

        let pcap = capture.finish()?;
        pcap.check_well_formed(60)?;
        assert_eq!(pcap.frames("openvpn")?, pcap.frames("")?);
        assert_eq!(peer.said(UP).len(), 1);
        Ok(())
    });
}

#[test]
fn warren_connects_to_warren() {
    scenario("both ends", |lab| {
        let world = World::new(lab, 2)?;
        let network = ["redirect_gateway = true", "dns = [\"10.86.0.53\"]"];
        let warren = Warren::up(&world.server, "warren", &config(&network, &[]))?;
        let remote = World::SERVER4.to_string();
        let profile = warren.user_with_profile("alice", "long enough", &remote)?;
        let credentials = Some(("alice", "long enough"));
        let before = HostState::of(&world.clients[0])?;

        let a = Client::connect(&world.clients[0], &profile, credentials)?;
        let b = Client::connect(&world.clients[1], &profile, credentials)?;
        warren.wait_sessions(2, PATIENCE)?;
        assert_ne!(a.address(true)?, b.address(true)?);
        reach(&world.clients[0], GATEWAY4.parse()?)?;
        reach(&world.clients[0], b.address(true)?)?;
        reach(&world.clients[0], b.address(false)?)?;
        let port = SocketAddr::new(World::OUTSIDE4, 8080);
        let _mirror = SourceMirror::start(&world.outside, port)?;
        assert_eq!(source_seen(&world.clients[0], port)?, World::NAT4);
        let to = SocketAddr::new(World::OUTSIDE4, 9000);
        transfer(&world.clients[0], &world.outside, to, 30_000_001)?;

        let mark = a.peer().mark();
        let home = warren.stop()?;
        let warren = Warren::start(&home)?;
        a.wait_connected_since(mark)?;
        reach(&world.clients[0], GATEWAY4.parse()?)?;

        assert!(a.stop()?.success());
        assert!(b.stop()?.success());
        warren.wait_sessions(0, Duration::from_secs(5))?;
        before.check_unchanged(&world.clients[0])
    });
}
