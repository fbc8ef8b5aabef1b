//! Stock OpenVPN 2.6 clients against Warren: every way to prove who one is, every cipher.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Client, Proof, Wrapping};
use lab::warren::{GATEWAY4, GATEWAY6, Home, Warren, config};
use lab::{Capture, PATIENCE, World, all, ping, reach, scenario};

const PASSWORD: &str = "long enough for a test";
const AEAD: [&str; 3] = ["AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305"];
const CBC: [&str; 2] = ["AES-256-CBC", "AES-128-CBC"];
const EVERY_CIPHER: &str = r#"ciphers = ["AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305", "AES-256-CBC", "AES-128-CBC"]"#;

fn server4() -> String {
    World::SERVER4.to_string()
}

/// Checks one client's tunnel from both ends.
fn check(warren: &Warren, client: &Client, user: &str, cipher: &str) -> Result<()> {
    let from = client.namespace();
    let channel = client.data_channel()?;
    ensure!(channel.contains(&format!("'{cipher}'")), "asked for {cipher}: {channel}");
    for gateway in [GATEWAY4, GATEWAY6] {
        reach(from, gateway.parse()?)?;
    }

    let session = warren.session_of(user)?;
    ensure!(session.door == "openvpn", "{session:?}");
    ensure!(session.address4 == Some(client.address4()?), "{session:?}");
    ensure!(session.address6 == Some(client.address6()?), "{session:?}");
    ensure!(!session.since.is_empty() && !session.id.is_null(), "{session:?}");
    ensure!(session.rx_packets >= 6 && session.tx_packets >= 6, "{session:?}");
    ensure!(session.rx_bytes >= 6 * 84 && session.tx_bytes >= 6 * 84, "{session:?}");
    let outer: Vec<IpAddr> = from.addresses()?.into_iter().map(|(_, ip)| ip).collect();
    let remote: std::net::SocketAddr = session.remote.parse().context("remote")?;
    ensure!(outer.contains(&remote.ip().to_canonical()), "{session:?} is not at {outer:?}");
    Ok(())
}

/// One Warren per digest; one client per cipher at the same time. The digest means nothing to
/// the AEAD ciphers, so they are tried with one.
fn matrix(wrapping: Wrapping, proof: Proof) {
    scenario(&format!("server {} {}", wrapping.name(), proof.name()), |lab| {
        let world = World::new(lab, AEAD.len() + CBC.len())?;
        let settings = |digest: &str| {
            let auth = format!("auth = \"{}\"", proof.name());
            let control = format!("control = \"{}\"", wrapping.name());
            let digest = format!("digest = \"{digest}\"");
            config(&[], &[&auth, &control, &digest, EVERY_CIPHER])
        };
        let home = Home::new(&world.server, "matrix", &settings("SHA256"))?;

        for digest in ["SHA256", "SHA1", "SHA512"] {
            home.write_config(&settings(digest))?;
            let warren = Warren::start(&home)?;
            let ciphers =
                if digest == "SHA256" { [&AEAD[..], &CBC].concat() } else { CBC.to_vec() };
            let mut clients = Vec::new();
            for (namespace, cipher) in world.clients.iter().zip(ciphers) {
                if digest == "SHA256" {
                    home.add_user(cipher, PASSWORD)?;
                }
                let profile = home.profile(cipher, &server4())?;
                let credentials = proof.asks_password().then_some((cipher, PASSWORD));
                let options = ["--data-ciphers", cipher];
                clients.push((cipher, Client::start(namespace, &profile, credentials, &options)?));
            }
            all(clients, |(cipher, client)| {
                client.wait_connected().with_context(|| format!("{cipher} {digest}"))?;
                check(&warren, &client, cipher, cipher).with_context(|| digest.to_owned())?;
                if CBC.contains(&cipher) {
                    let channel = client.data_channel()?;
                    ensure!(channel.contains(&format!("auth '{digest}'")), "{channel}");
                }
                client.stop().map(drop)
            })?;
            warren.wait_sessions(0, PATIENCE)?;
            warren.stop()?;
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

/// Clients of one server, each with options of its own, all checked at the same time.
fn variants(name: &str, remote: &str, variants: &[(&str, &[&str], &str)]) {
    scenario(name, |lab| {
        let world = World::new(lab, variants.len())?;
        let warren = Warren::up(&world.server, "variants", &config(&[], &[EVERY_CIPHER]))?;
        let mut clients = Vec::new();
        for (namespace, (user, options, _)) in world.clients.iter().zip(variants) {
            let profile = warren.user_with_profile(user, PASSWORD, remote)?;
            let credentials = Some((*user, PASSWORD));
            clients.push(Client::start(namespace, &profile, credentials, options)?);
        }
        for (client, (user, options, expected)) in clients.iter().zip(variants) {
            client.wait_connected().with_context(|| format!("{options:?}"))?;
            client.peer().wait_for(expected, PATIENCE)?;
            let cipher = if user.contains("cbc") { "AES-256-CBC" } else { "AES-256-GCM" };
            check(&warren, client, user, cipher).with_context(|| format!("{options:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn both_versions_of_tls_are_spoken() {
    variants(
        "tls versions",
        &server4(),
        &[
            ("tls12", &["--tls-version-max", "1.2"], "Control Channel: TLSv1.2"),
            ("tls13", &["--tls-version-min", "1.3"], "Control Channel: TLSv1.3"),
        ],
    );
}

#[test]
fn a_client_that_behaves_like_an_older_one_is_served() {
    let cbc = ["--compat-mode", "2.3.0", "--cipher", "AES-256-CBC", "--data-ciphers"];
    variants(
        "older clients",
        &server4(),
        &[
            ("like25", &["--compat-mode", "2.5.0"], "peer-id"),
            ("like24", &["--compat-mode", "2.4.0", "--cipher", "AES-256-GCM"], "peer-id"),
            ("like23-cbc", &[&cbc[..], &["AES-256-CBC"]].concat(), "peer-id"),
        ],
    );
}

#[test]
fn the_outer_path_may_be_ipv6() {
    variants(
        "outer IPv6",
        &World::SERVER6.to_string(),
        &[("six", &["--proto", "udp6"], "UDPv6 link remote")],
    );
}

#[test]
fn a_server_that_wants_tls_1_3_refuses_1_2() {
    scenario("tls_min", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "tls", &config(&[], &["tls_min = \"1.3\""]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &server4())?;
        let credentials = Some(("alice", PASSWORD));

        let options = ["--tls-version-max", "1.2", "--hand-window", "6"];
        let unaware = profile.replace("tls-version-min 1.3", "tls-version-min 1.2");
        let old = Client::start(&world.clients[0], &unaware, credentials, &options)?;
        old.peer().wait_for("TLS handshake failed", PATIENCE)?;
        assert!(warren.sessions()?.is_empty());
        old.stop()?;

        Client::connect(&world.clients[0], &profile, credentials, &[])?;
        Ok(())
    });
}

#[test]
fn members_are_told_names_routes_and_servers() {
    scenario("push", |lab| {
        let network = [
            "dns = [\"10.86.0.53\", \"fd86::53\"]",
            "search = [\"office.example\"]",
            "routes = [\"10.20.0.0/24\", \"fd20::/64\"]",
            "mtu = 1380",
        ];
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "push", &config(&network, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &server4())?;

        let client = Client::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;

        let reply = client.peer().wait_for("PUSH: Received control message", PATIENCE)?;
        for option in [
            "dhcp-option DNS 10.86.0.53",
            "office.example",
            "route 10.20.0.0 255.255.255.0",
            "route-ipv6 fd20::/64",
            "topology subnet",
            "peer-id",
            "tls-ekm",
        ] {
            assert!(reply.contains(option), "no `{option}` in {reply}");
        }
        let routes = world.clients[0].run("ip", &["route"])?;
        assert!(routes.contains("10.20.0.0/24"), "{routes}");
        assert!(!routes.contains("0.0.0.0/1"), "{routes}");
        let links = world.clients[0].run("ip", &["link"])?;
        assert!(links.contains("mtu 1380"), "{links}");
        Ok(())
    });
}

#[test]
fn a_whole_session_is_well_formed_on_the_wire() {
    scenario("server capture", |lab| {
        let world = World::new(lab, 1)?;
        let door = ["renegotiate = 5"];
        let warren = Warren::up(&world.server, "capture", &config(&[], &door))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &server4())?;
        let capture = Capture::start(&world.server, &world.server_device, "udp port 1194")?;

        let client = Client::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)), &[])?;
        let renewed = client.peer().mark();
        assert_eq!(ping(&world.clients[0], GATEWAY4.parse()?, 20)?.lost(), 0);
        client.peer().wait_from(renewed, "Outgoing Data Channel: Cipher", PATIENCE)?;
        client.stop()?;
        warren.wait_sessions(0, Duration::from_secs(5))?;

        let pcap = capture.finish()?;
        pcap.check_well_formed(60)?;
        let all = pcap.frames("")?;
        assert_eq!(pcap.frames("openvpn && ip")?, all);
        Ok(())
    });
}
