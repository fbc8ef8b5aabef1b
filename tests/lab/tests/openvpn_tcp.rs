//! OpenVPN over TCP: stock clients against Warren, and who else may share the port.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::openvpn::{Client, renews_under_load};
use lab::warren::{GATEWAY4, GATEWAY6, Warren, config};
use lab::{Iperf, Lab, Namespace, PATIENCE, World, all, eventually, reach, scenario};

const USER: &str = "alice";
const PASSWORD: &str = "long enough for a test";
const CREDENTIALS: Option<(&str, &str)> = Some((USER, PASSWORD));
const EVERY_CIPHER: &str = r#"ciphers = ["AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305", "AES-256-CBC", "AES-128-CBC"]"#;

fn gateway4() -> IpAddr {
    GATEWAY4.parse().unwrap()
}

/// The profile with nothing but this remote.
fn with_remote(profile: &str, remote: &str) -> String {
    format!("{}\nremote {remote}\n", lab::openvpn::without_remotes(profile))
}

/// A world with one Warren, one user, and her profile for TCP.
fn house(lab: &Lab, clients: usize, door: &[&str]) -> Result<(World, Warren, String)> {
    let world = World::new(lab, clients)?;
    let warren = Warren::up(&world.server, "warren", &config(&[], door))?;
    let server = World::SERVER4.to_string();
    let profile = warren.user_with_profile(USER, PASSWORD, &server)?;
    let profile = with_remote(&profile, &format!("{server} 1194 tcp4"));
    Ok((world, warren, profile))
}

fn check_ping(from: &Namespace) -> Result<()> {
    for gateway in [GATEWAY4, GATEWAY6] {
        reach(from, gateway.parse()?)?;
    }
    Ok(())
}

#[test]
fn every_kind_of_client_is_served_over_ipv4_and_ipv6() {
    scenario("tcp clients", |lab| {
        let variants: [(&str, &[&str]); 5] = [
            ("gcm", &["--data-ciphers", "AES-256-GCM"]),
            ("chacha", &["--data-ciphers", "CHACHA20-POLY1305"]),
            ("cbc", &["--data-ciphers", "AES-256-CBC"]),
            ("tls12", &["--tls-version-max", "1.2"]),
            ("like24", &["--compat-mode", "2.4.0", "--cipher", "AES-256-GCM"]),
        ];
        let world = World::new(lab, 2 * variants.len())?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[EVERY_CIPHER]))?;
        let mut clients = Vec::new();
        for (number, namespace) in world.clients.iter().enumerate() {
            let (name, options) = variants[number / 2];
            let remote = match number % 2 {
                0 => format!("{} 1194 tcp4", World::SERVER4),
                _ => format!("{} 1194 tcp6", World::SERVER6),
            };
            let user = format!("{name}{number}");
            let profile = warren.user_with_profile(&user, PASSWORD, "192.0.2.1")?;
            let credentials = Some((user.as_str(), PASSWORD));
            let profile = with_remote(&profile, &remote);
            let client = Client::start(namespace, &profile, credentials, options)?;
            clients.push((user, remote, client));
        }
        all(clients, |(user, remote, client)| {
            let context = || format!("{user} by {remote}");
            client.wait_connected().with_context(context)?;
            check_ping(client.namespace()).with_context(context)?;
            let session = warren.session_of(&user)?;
            ensure!(session.address4 == Some(client.address4()?), "{session:?}");
            let gone = || client.namespace().name();
            ensure!(client.peer().said("TLS Error").is_empty(), "{}", gone());
            client.stop().map(drop)
        })?;
        // A connection that closes is a session that ends.
        warren.wait_sessions(0, Duration::from_secs(5))
    });
}

/// 40 seconds of pings and a stream of packets beside them, keys renewed every 10.
fn renew_under_load(door: &[&str], options: &[&str]) {
    scenario("tcp renewal", |lab| {
        let (world, warren, profile) = house(lab, 1, door)?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, options)?;
        check_ping(&world.clients[0])?;

        renews_under_load(&world.server, &world.clients[0], gateway4(), client.peer())?;
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        assert_eq!(warren.sessions()?.len(), 1);
        Ok(())
    });
}

#[test]
fn the_server_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load(&["renegotiate = 10"], &[]);
}

#[test]
fn the_client_renews_keys_under_load_without_losing_a_ping() {
    renew_under_load(&[EVERY_CIPHER], &["--reneg-sec", "10", "--data-ciphers", "AES-128-CBC"]);
}

#[test]
fn a_server_that_stops_says_so_and_its_clients_come_back() {
    scenario("tcp restart", |lab| {
        let (world, warren, profile) = house(lab, 1, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let mark = client.peer().mark();

        let home = warren.stop()?;
        client.peer().wait_from(mark, "Connection reset command was pushed by server", PATIENCE)?;
        // The port is free again at once, whatever the kernel remembers of old connections.
        let warren = Warren::start(&home)?;

        client.wait_reconnected(mark)?;
        check_ping(&world.clients[0])?;
        warren.session_of(USER)?;

        let mark = client.peer().mark();
        let home = warren.kill()?;
        let _warren = Warren::start(&home)?;
        client.wait_reconnected(mark)?;
        check_ping(&world.clients[0])
    });
}

#[test]
fn a_kicked_client_hears_it_and_comes_back() {
    scenario("tcp kick", |lab| {
        let (world, warren, profile) = house(lab, 1, &[])?;
        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let session = warren.session_of(USER)?;
        let mark = client.peer().mark();

        warren.home().run(&["kick", &session.id.to_string()])?;

        client.wait_reconnected(mark)?;
        eventually(PATIENCE, || {
            let now = warren.session_of(USER)?;
            ensure!(now.id != session.id, "{now:?}");
            Ok(())
        })?;
        check_ping(&world.clients[0])
    });
}

fn bulk(workers: usize) {
    scenario(&format!("tcp bulk, {workers} workers"), |lab| {
        let world = World::new(lab, 2)?;
        let settings = config(&[], &[]) + &format!("[server]\nworkers = {workers}\n");
        let warren = Warren::up(&world.server, "warren", &settings)?;
        let server = World::SERVER4.to_string();
        let profile = warren.user_with_profile(USER, PASSWORD, &server)?;
        let profile = with_remote(&profile, &format!("{server} 1194 tcp4"));
        let bob = warren.user_with_profile("bob", PASSWORD, &server)?;
        let bob = with_remote(&bob, &format!("{server} 1194 udp4"));
        let alice = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        let bob = Client::connect(&world.clients[1], &bob, Some(("bob", PASSWORD)), &[])?;

        for (streams, reverse) in [(1, false), (1, true), (4, true)] {
            let iperf = Iperf { streams, reverse, ..Iperf::tcp(gateway4(), 3) };
            let report = iperf.run(&world.server, &world.clients[0])?;
            assert!(report.bps > 20e6, "{report:?}");
        }
        let iperf = Iperf::tcp(bob.address4()?, 3);
        let report = iperf.run(&world.clients[1], &world.clients[0])?;
        assert!(report.bps > 10e6, "{report:?}");
        reach(&world.clients[1], alice.address4()?)?;
        assert_eq!(warren.sessions()?.len(), 2);
        assert_eq!(alice.peer().said(lab::openvpn::UP).len(), 1);
        Ok(())
    });
}

#[test]
fn bulk_flows_both_ways_and_members_reach_each_other_whatever_they_travel_in() {
    bulk(1);
}

#[test]
fn several_workers_share_a_connection() {
    bulk(3);
}

#[test]
fn addresses_open_and_close_while_the_server_runs() {
    scenario("tcp listen", |lab| {
        let listen = |ports: &str| config(&[], &[&format!("listen_tcp = [{ports}]")]);
        let world = World::new(lab, 2)?;
        let one = listen("\"0.0.0.0:1194\"");
        let warren = Warren::up(&world.server, "warren", &one)?;
        let server = World::SERVER4.to_string();
        let profile = warren.user_with_profile(USER, PASSWORD, &server)?;
        let bob = warren.user_with_profile("bob", PASSWORD, &server)?;
        let first = with_remote(&profile, &format!("{server} 1194 tcp4"));
        let second = with_remote(&bob, &format!("{server} 443 tcp4"));
        let alice = Client::connect(&world.clients[0], &first, CREDENTIALS, &[])?;

        warren.home().write_config(&listen("\"0.0.0.0:1194\", \"0.0.0.0:443\""))?;
        warren.home().run(&["reload"])?;
        let status = warren.home().run(&["status"])?;
        assert!(status.contains("0.0.0.0:443/tcp") && status.contains("1194/udp"), "{status}");
        let credentials = Some(("bob", PASSWORD));
        Client::connect(&world.clients[1], &second, credentials, &[])?.stop()?;
        assert_eq!(alice.peer().said(lab::openvpn::UP).len(), 1);

        let mark = alice.peer().mark();
        warren.home().write_config(&listen("\"0.0.0.0:443\""))?;
        warren.home().run(&["reload"])?;
        alice.peer().wait_from(mark, "refused", PATIENCE)?;
        eventually(PATIENCE, || {
            let left = warren.sessions()?.len();
            ensure!(left == 0, "{left} sessions");
            Ok(())
        })
    });
}

/// What one request brings, from inside a namespace.
fn request(from: &Namespace, to: SocketAddr) -> Result<String> {
    from.enter(move || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

#[test]
fn a_web_server_keeps_the_port_that_it_shares() {
    scenario("port share", |lab| {
        let world = World::new(lab, 2)?;
        let folder = lab.folder().join("www");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("index.html"), "shared with a web server")?;
        let mut web = std::process::Command::new("python3");
        web.args(["-u", "-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory"]);
        let web = world.server.spawn("web", {
            web.arg(&folder);
            web
        })?;
        web.wait_for("Serving HTTP", PATIENCE)?;
        let door = ["listen_tcp = [\"0.0.0.0:443\"]", "port_share = \"127.0.0.1:8080\""];
        let warren = Warren::up(&world.server, "warren", &config(&[], &door))?;
        let server = World::SERVER4.to_string();
        let profile = warren.user_with_profile(USER, PASSWORD, &server)?;
        let profile = with_remote(&profile, &format!("{server} 443 tcp4"));
        let target = SocketAddr::new(World::SERVER4.into(), 443);

        let client = Client::connect(&world.clients[0], &profile, CREDENTIALS, &[])?;
        for _ in 0..20 {
            let answer = request(&world.clients[1], target)?;
            assert!(answer.contains("shared with a web server"), "{answer}");
        }
        check_ping(&world.clients[0])?;

        // Without it, whoever does not speak OpenVPN finds a closed door.
        warren.home().write_config(&config(&[], &door[..1]))?;
        warren.home().run(&["reload"])?;
        assert_eq!(request(&world.clients[1], target).unwrap_or_default(), "");
        check_ping(&world.clients[0])?;
        assert_eq!(client.peer().said(lab::openvpn::UP).len(), 1);
        Ok(())
    });
}
