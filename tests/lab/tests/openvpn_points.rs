//! Links between two peers: static keys, and TLS without a server, with stock OpenVPN 2.6 as the
//! other end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::openvpn::{Client, UP};
use lab::warren;
use lab::{
    HostState, Identity, Lab, Namespace, PATIENCE, Pki, World, eventually, ping, reach, scenario,
    transfer,
};

const STOCK: &str = "10.9.0.1";
const WARREN: &str = "10.9.0.2";

/// Whose turn it is to call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Caller {
    Stock,
    Warren,
}

fn block(tag: &str, content: &str) -> String {
    format!("<{tag}>\n{}\n</{tag}>\n", content.trim_end())
}

/// Both ends' profiles of one link, without what protects it.
struct Link {
    world: World,
    pki: Pki,
    stock: String,
    warren: String,
}

impl Link {
    fn new(lab: &Lab, caller: Caller, both: &[&str]) -> Result<Self> {
        let world = World::new(lab, 1)?;
        let pki = Pki::new(lab.folder())?;
        let mut ends = [String::new(), String::new()];
        for (text, (local, remote)) in ends.iter_mut().zip([(STOCK, WARREN), (WARREN, STOCK)]) {
            writeln!(text, "dev tun\nproto udp4\nifconfig {local} {remote}\nverb 4")?;
            for line in both {
                writeln!(text, "{line}")?;
            }
        }
        let [mut stock, mut warren] = ends;
        let warren_at = address_of(&world.clients[0])?;
        match caller {
            Caller::Stock => writeln!(stock, "remote {warren_at} 1194\nnobind")?,
            Caller::Warren => writeln!(warren, "remote {} 1194\nnobind", World::SERVER4)?,
        }
        Ok(Self { world, pki, stock, warren })
    }

    /// Starts both, the one that is called first.
    fn up(&self, caller: Caller) -> Result<(Client, warren::Client)> {
        let host = &self.world.clients[0];
        let start_stock = || Client::start(&self.world.server, &self.stock, None, &[]);
        let start_warren = || warren::Client::start(host, &self.warren, None);
        let (stock, warren) = match caller {
            Caller::Warren => {
                let stock = start_stock()?;
                stock.peer().wait_for("link remote", PATIENCE)?;
                (stock, start_warren()?)
            }
            Caller::Stock => {
                let warren = start_warren()?;
                eventually(PATIENCE, || {
                    let open = host.run("ss", &["-Hlun", "sport", "=", ":1194"])?;
                    ensure!(!open.is_empty(), "nobody waits on 1194");
                    Ok(())
                })?;
                (start_stock()?, warren)
            }
        };
        stock.wait_connected()?;
        Ok((stock, warren))
    }

    fn check(&self) -> Result<()> {
        let pairs = [(&self.world.clients[0], STOCK), (&self.world.server, WARREN)];
        for (from, to) in pairs {
            // The first few may come before the peer has its keys, or its address.
            eventually(PATIENCE, || {
                ensure!(ping(from, to.parse()?, 1)?.received == 1, "{to} does not answer");
                Ok(())
            })?;
            reach(from, to.parse()?)?;
        }
        let to = SocketAddr::new(STOCK.parse()?, 9000);
        transfer(&self.world.clients[0], &self.world.server, to, 300_000)
    }
}

fn address_of(namespace: &Namespace) -> Result<IpAddr> {
    let addresses = namespace.addresses()?;
    let found = addresses.into_iter().find(|(device, ip)| device != "lo" && ip.is_ipv4());
    Ok(found.map(|(_, ip)| ip).expect("a client has an address"))
}

/// One link with a static key.
fn fixed(caller: Caller, directions: Option<(u8, u8)>, both: &[&str]) {
    scenario(&format!("secret {caller:?} {directions:?} {both:?}"), |lab| {
        let common = ["cipher AES-256-CBC", "auth SHA256", "keepalive 1 6"];
        let mut link = Link::new(lab, caller, &[&common[..], both].concat())?;
        let before = HostState::of(&link.world.clients[0])?;
        writeln!(link.warren, "allow-deprecated-insecure-static-crypto")?;
        if let Some((stock, warren)) = directions {
            writeln!(link.stock, "key-direction {stock}")?;
            writeln!(link.warren, "key-direction {warren}")?;
        }
        for text in [&mut link.stock, &mut link.warren] {
            text.push_str(&block("secret", &link.pki.static_key));
        }

        let (stock, warren) = link.up(caller)?;
        link.check()?;

        let said = warren.peer().said("no forward secrecy");
        ensure!(!said.is_empty(), "the operator is not warned");
        warren.wait_connected_since(warren.peer().mark_start())?;
        // The peer starts again: its count begins anew.
        stock.stop()?;
        let _stock = Client::connect(&link.world.server, &link.stock, None, &[])?;
        link.check()?;
        assert!(warren.stop()?.success());
        before.check_unchanged(&link.world.clients[0])
    });
}

#[test]
fn a_static_key_without_direction_works_both_ways_round() {
    fixed(Caller::Warren, None, &[]);
    fixed(Caller::Stock, None, &[]);
}

#[test]
fn a_static_key_with_directions_works_both_ways_round() {
    fixed(Caller::Warren, Some((0, 1)), &[]);
    fixed(Caller::Stock, Some((1, 0)), &[]);
}

#[test]
fn a_static_key_goes_with_compression_and_fragments() {
    for line in ["comp-lzo yes", "compress lz4", "compress lz4-v2"] {
        fixed(Caller::Warren, Some((1, 0)), &[line, "allow-compression yes", "fragment 1200"]);
    }
}

#[test]
fn a_static_key_is_not_taken_without_a_word() {
    scenario("secret refused", |lab| {
        let link = Link::new(lab, Caller::Warren, &["cipher AES-256-CBC"])?;
        let profile = format!("{}{}", link.warren, block("secret", &link.pki.static_key));

        let client = warren::Client::start(&link.world.clients[0], &profile, None)?;
        let output = client.peer().wait_exit(PATIENCE)?;

        assert_ne!(output.status.code(), Some(0));
        assert!(output.stderr.contains("allow-deprecated-insecure-static-crypto"), "{output}");
        Ok(())
    });
}

/// How the peers know each other.
#[derive(Clone, Copy, Debug)]
enum Trust {
    Authority,
    Fingerprint,
}

fn fingerprint(namespace: &Namespace, identity: &Identity) -> Result<String> {
    let file = namespace.folder().join("for-fingerprint.pem");
    std::fs::write(&file, &identity.certificate)?;
    let file = file.display().to_string();
    let said =
        namespace.run("openssl", &["x509", "-noout", "-fingerprint", "-sha256", "-in", &file])?;
    Ok(said.trim().split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default())
}

/// One link with TLS; `stock` and `warren` are lines of one end only.
fn tls_link(
    lab: &Lab,
    caller: Caller,
    trust: Trust,
    both: &[&str],
    stock: &[&str],
    warren: &[&str],
) -> Result<Link> {
    let mut link = Link::new(lab, caller, &[&["keepalive 1 8"], both].concat())?;
    let (server, client) = (link.pki.server("answers")?, link.pki.client("calls")?);
    let (of_stock, of_warren) = match caller {
        Caller::Stock => (&client, &server),
        Caller::Warren => (&server, &client),
    };
    for (text, own, peer, is_caller) in [
        (&mut link.stock, of_stock, of_warren, caller == Caller::Stock),
        (&mut link.warren, of_warren, of_stock, caller == Caller::Warren),
    ] {
        text.push_str(if is_caller { "tls-client\n" } else { "tls-server\ndh none\n" });
        match trust {
            Trust::Authority => {
                writeln!(text, "remote-cert-tls {}", if is_caller { "server" } else { "client" })?;
                text.push_str(&block("ca", &link.pki.ca));
            }
            Trust::Fingerprint => {
                writeln!(text, "peer-fingerprint {}", fingerprint(&link.world.server, peer)?)?;
            }
        }
        text.push_str(&block("cert", &own.certificate));
        text.push_str(&block("key", &own.key));
    }
    for (text, lines) in [(&mut link.stock, stock), (&mut link.warren, warren)] {
        for line in lines {
            writeln!(text, "{line}")?;
        }
    }
    Ok(link)
}

#[test]
fn tls_works_both_ways_round_with_certificates_and_with_fingerprints() {
    for caller in [Caller::Warren, Caller::Stock] {
        for trust in [Trust::Authority, Trust::Fingerprint] {
            scenario(&format!("tls {caller:?} {trust:?}"), |lab| {
                let link = tls_link(lab, caller, trust, &[], &[], &[])?;
                let before = HostState::of(&link.world.clients[0])?;

                let (stock, warren) = link.up(caller)?;
                link.check()?;

                // Negotiated: the server's first, exported keys, a peer-id of its own.
                let negotiated =
                    stock.peer().wait_for("P2P mode NCP negotiation result", PATIENCE)?;
                for word in ["TLS_export=1", "DATA_v2=1", "cipher=AES-256-GCM"] {
                    ensure!(negotiated.contains(word), "{negotiated}");
                }
                assert!(warren.stop()?.success());
                stock.peer().wait_until(
                    stock.peer().mark_start(),
                    "a goodbye",
                    Duration::from_secs(6),
                    |line| line.contains("exit message received") || line.contains("remote-exit"),
                )?;
                before.check_unchanged(&link.world.clients[0])
            });
        }
    }
}

#[test]
fn both_ends_of_a_tls_link_renew_its_keys() {
    for caller in [Caller::Warren, Caller::Stock] {
        for who in ["stock", "warren"] {
            for key in ["", "tls-auth", "tls-crypt"] {
                scenario(&format!("renewal {caller:?} {who} {key}"), |lab| {
                    let (every, never) = (["reneg-sec 5"], ["reneg-sec 0"]);
                    let (stock, warren): (&[&str], &[&str]) =
                        if who == "stock" { (&every, &never) } else { (&never, &every) };
                    let mut link = tls_link(lab, caller, Trust::Authority, &[], stock, warren)?;
                    let stock_calls = u8::from(caller == Caller::Stock);
                    for (text, direction) in
                        [(&mut link.stock, stock_calls), (&mut link.warren, 1 - stock_calls)]
                    {
                        if !key.is_empty() {
                            writeln!(text, "key-direction {direction}")?;
                            text.push_str(&block(key, &link.pki.static_key));
                        }
                    }

                    let (stock, warren) = link.up(caller)?;
                    link.check()?;
                    eventually(Duration::from_secs(30), || {
                        let keys = stock.peer().said("Outgoing Data Channel: Cipher").len();
                        ensure!(keys >= 3, "{keys} sets of keys");
                        Ok(())
                    })?;
                    link.check()?;

                    assert_eq!(warren.peer().said("connected to").len(), 1);
                    assert_eq!(stock.peer().said(UP).len(), 1);
                    Ok(())
                });
            }
        }
    }
}

#[test]
fn a_tls_link_to_a_peer_that_does_not_negotiate_uses_what_is_configured() {
    for caller in [Caller::Warren, Caller::Stock] {
        for cipher in ["AES-256-CBC", "AES-128-GCM"] {
            scenario(&format!("no negotiation {caller:?} {cipher}"), |lab| {
                let both = [&format!("cipher {cipher}")[..], "auth SHA256"];
                let warren = ["compat-mode 2.4.0"];
                let fallback = format!("data-ciphers-fallback {cipher}");
                let link = tls_link(lab, caller, Trust::Authority, &both, &[&fallback], &warren)?;

                let (stock, _warren) = link.up(caller)?;
                link.check()?;

                stock.peer().wait_for(&format!("Data Channel: Cipher '{cipher}'"), PATIENCE)?;
                Ok(())
            });
        }
    }
}

#[test]
fn a_peer_with_the_wrong_certificate_gets_nowhere() {
    for caller in [Caller::Warren, Caller::Stock] {
        scenario(&format!("wrong peer {caller:?}"), |lab| {
            let mut link = tls_link(lab, caller, Trust::Fingerprint, &[], &[], &[])?;
            let other = fingerprint(&link.world.server, &link.pki.client("somebody")?)?;
            let lines = link.warren.lines().map(|line| {
                if line.starts_with("peer-fingerprint") {
                    format!("peer-fingerprint {other}\n")
                } else {
                    format!("{line}\n")
                }
            });
            link.warren = lines.collect();
            let host = &link.world.clients[0];

            let warren = warren::Client::start(host, &link.warren, None)?;
            let _stock = Client::start(&link.world.server, &link.stock, None, &[])?;
            eventually(PATIENCE * 2, || {
                let said = warren.peer().said("fingerprint");
                ensure!(!said.is_empty(), "it says nothing about the fingerprint");
                Ok(())
            })?;
            assert!(warren.address(true).is_err(), "a link to a stranger came up");
            Ok(())
        });
    }
}

#[test]
fn a_link_that_is_lost_comes_back_by_itself() {
    for caller in [Caller::Warren, Caller::Stock] {
        scenario(&format!("tls restart {caller:?}"), |lab| {
            let link = tls_link(lab, caller, Trust::Authority, &[], &[], &[])?;
            let (stock, warren) = link.up(caller)?;
            link.check()?;
            let mark = warren.peer().mark();

            stock.peer().kill()?;
            let _stock = Client::start(&link.world.server, &link.stock, None, &[])?;
            warren.wait_connected_since(mark)?;

            link.check()
        });
    }
}

#[test]
fn the_end_that_is_called_ends_when_its_profile_says() {
    for (line, succeeds, reason) in
        [("session-timeout 6", true, "session-timeout"), ("ping-exit 5", false, "fell silent")]
    {
        scenario(&format!("called, {line}"), |lab| {
            let link = tls_link(lab, Caller::Stock, Trust::Authority, &[], &[], &[line])?;
            let before = HostState::of(&link.world.clients[0])?;
            let (stock, warren) = link.up(Caller::Stock)?;
            warren.wait_connected_since(warren.peer().mark_start())?;
            if !succeeds {
                stock.peer().kill()?;
            }

            let ended = warren.peer().wait_exit(PATIENCE)?;

            ensure!(ended.success() == succeeds, "{ended}");
            let said = warren.peer().said(reason);
            ensure!(!said.is_empty(), "{ended}");
            before.check_unchanged(&link.world.clients[0])
        });
    }
}

/// Four callers that prove their address and say nothing more.
const STRANGERS: &str = "
import os, socket, sys
for _ in range(4):
    call = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    call.settimeout(5)
    call.connect((sys.argv[1], 1194))
    own = os.urandom(8)
    call.send(b'\\x38' + own + bytes(5))
    theirs = call.recv(1500)[1:9]
    call.send(b'\\x28' + own + b'\\x01' + bytes(4) + theirs)
";

#[test]
fn strangers_do_not_keep_a_links_peer_out() {
    scenario("strangers", |lab| {
        let link = tls_link(lab, Caller::Stock, Trust::Authority, &[], &[], &[])?;
        let host = &link.world.clients[0];
        let warren = warren::Client::start(host, &link.warren, None)?;
        warren.peer().wait_for("waiting for the peer", PATIENCE)?;
        let at = address_of(host)?.to_string();
        link.world.server.run("python3", &["-c", STRANGERS, &at])?;

        let _stock = Client::start(&link.world.server, &link.stock, None, &[])?;

        warren.wait_connected_since(warren.peer().mark_start())?;
        link.check()
    });
}

#[test]
fn two_warrens_make_a_link() {
    scenario("tls warren warren", |lab| {
        let link = tls_link(lab, Caller::Warren, Trust::Authority, &[], &[], &[])?;
        let (server, client) = (&link.world.server, &link.world.clients[0]);

        let answers = warren::Client::start(server, &link.stock.replace("verb 4", "float"), None)?;
        let calls = warren::Client::start(client, &link.warren, None)?;
        answers.wait_connected_since(answers.peer().mark_start())?;
        calls.wait_connected_since(calls.peer().mark_start())?;
        link.check()?;

        assert!(calls.stop()?.success());
        assert!(answers.stop()?.success());
        Ok(())
    });
}

#[test]
fn networks_behind_two_peers_reach_each_other() {
    scenario("site to site", |lab| {
        // The LAN behind the stock end; routes make Warren's end forward.
        let warren = ["route 10.20.0.0 255.255.255.0"];
        let link = tls_link(lab, Caller::Warren, Trust::Authority, &[], &[], &warren)?;
        link.world.server.forward()?;
        let before = HostState::of(&link.world.clients[0])?;

        let (_stock, warren) = link.up(Caller::Warren)?;
        link.check()?;

        let host = &link.world.clients[0];
        let lan = host.run("ip", &["route", "get", "10.20.0.2"])?;
        assert!(lan.contains("warren"), "{lan}");
        assert_eq!(host.run("cat", &["/proc/sys/net/ipv4/ip_forward"])?.trim(), "1");
        assert!(warren.stop()?.success());
        before.check_unchanged(host)
    });
}
