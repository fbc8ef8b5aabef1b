//! Links between two peers, both ends of them, on a virtual clock.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Setup, packet, static_key};
use contract::{Answer, Ask, Command, Event, Fatal, Lease, PortId, TunnelKey, WallClock};
use crypto::digest::Hash;
use openvpn::{
    Cipher, Door, FixedConfig, FixedSession, Framing, PointConfig, PointTls, Protection, Session,
    ShapeRules,
};
use simnet::{LEFT, Link, Pair, Peer, RIGHT, Server, Side, Surroundings, path};

type Points = Pair<Peer<Session>, Server<Door>>;

struct Ends {
    setup: Setup,
    renegotiate: (Option<Duration>, Option<Duration>),
    is_before_2_6: (bool, bool),
    ciphers: (Vec<Cipher>, Vec<Cipher>),
    fallback: Option<Cipher>,
    floats: bool,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            setup: Setup { auth: openvpn::AuthMode::Certificate, ..Setup::default() },
            renegotiate: (None, None),
            is_before_2_6: (false, false),
            ciphers: (
                vec![Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm],
                vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305],
            ),
            fallback: None,
            floats: false,
        }
    }
}

fn lease(host: u8) -> Lease {
    Lease { ipv4: Some((Ipv4Addr::new(10, 9, 0, host), 32)), mtu: 1400, ..Lease::default() }
}

impl Ends {
    fn config(&self, is_client: bool) -> Arc<PointConfig> {
        let pick = |(left, right): (Option<Duration>, Option<Duration>)| {
            if is_client { left } else { right }
        };
        let tls = if is_client {
            PointTls::Client(Arc::clone(&self.setup.initiator_config().tls))
        } else {
            PointTls::Server(Arc::clone(&self.setup.responder_config().tls))
        };
        let (left, right) = &self.ciphers;
        Arc::new(PointConfig {
            tls,
            key_is_slow: self.setup.key_is_slow,
            protection: Arc::new(self.setup.protection.clone()),
            ciphers: if is_client { left.clone() } else { right.clone() },
            fallback: self.fallback,
            digest: Hash::Sha256,
            mtu: 1400,
            shape: self.setup.shape,
            lease: lease(if is_client { 1 } else { 2 }),
            handshake: Duration::from_secs(60),
            renegotiate: pick(self.renegotiate),
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(60),
            exits_on_silence: false,
            floats: self.floats,
            is_before_2_6: if is_client { self.is_before_2_6.0 } else { self.is_before_2_6.1 },
            version: "0",
            started_at: 1_780_000_000,
        })
    }

    fn pair(&self, seed: u8) -> Points {
        let config = self.config(true);
        let session =
            Session::point(Instant::now(), config, path(LEFT, RIGHT), PortId(1), [seed; 32]);
        let surroundings = configuring().classifying(|path, bytes| {
            let head = *bytes.first()?;
            matches!(head >> 3, 6 | 9)
                .then_some(TunnelKey::OpenVpnAddress { remote: path.remote, key_id: head & 7 })
        });
        let left = Peer::new(session, PortId(1), surroundings);
        let door = Door::for_point(
            Instant::now(),
            self.setup.responder_config(),
            self.config(false),
            [5; 32],
        );
        let surroundings = configuring().classifying(|path, bytes| {
            let head = *bytes.first()?;
            let key_id = head & 7;
            match head >> 3 {
                9 => {
                    let id = bytes.first_chunk::<4>()?;
                    let peer = u32::from_be_bytes([0, id[1], id[2], id[3]]);
                    Some(TunnelKey::OpenVpn { peer, key_id })
                }
                6 => Some(TunnelKey::OpenVpnAddress { remote: path.remote, key_id }),
                _ => None,
            }
        });
        let mut right = Server::new(door, surroundings);
        right.reply_excess = 12;
        let mut pair = Pair::new(left, right);
        pair.left.command(Command::Connect);
        pair
    }

    fn connected(&self) -> Points {
        let mut pair = self.pair(1);
        assert!(pair.run_until(is_up, Duration::from_secs(30)), "{}", pair.narrate());
        pair
    }
}

fn configuring() -> Surroundings {
    Surroundings::new(|_, ask| match ask {
        Ask::Configure(lease) => {
            assert_eq!(lease.mtu, 1400);
            Answer::Configured(Ok(()))
        }
        other => panic!("a peer asked {other:?}"),
    })
}

fn is_up(pair: &Points) -> bool {
    pair.left.driven.is_up() && pair.right.sessions.values().any(simnet::Driven::is_up)
}

fn assert_carries(pair: &mut Points) {
    let port = pair.right.only().port;
    let (left, right) = (pair.left.driven.packets.len(), pair.right.only().packets.len());
    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.driven.packets[left..], [packet(2)]);
    assert_eq!(pair.right.only().packets[right..], [packet(1)]);
}

fn cipher(events: &[Event]) -> String {
    let cipher = |event: &Event| match event {
        Event::Up(facts) => Some(facts.cipher.clone()),
        _ => None,
    };
    events.iter().find_map(cipher).unwrap()
}

#[test]
fn two_peers_come_up_and_agree_by_the_servers_order() {
    let tls_auth = Protection::TlsAuth { key: static_key(3), hash: Hash::Sha256, directed: true };
    for protection in [Setup::default().protection, tls_auth, Protection::None] {
        let ends = Ends::default();
        let ends = Ends { setup: Setup { protection, ..ends.setup.clone() }, ..ends };
        let mut pair = ends.connected();

        assert_carries(&mut pair);

        assert_eq!(cipher(&pair.left.driven.events), "AES-256-GCM");
        assert_eq!(cipher(&pair.right.only().events), "AES-256-GCM");
        // P_DATA_V2, the same peer-id from both, which is not the usual one.
        let head = |side| pair.sent_by(side).last().unwrap().bytes[..4].to_vec();
        assert_eq!(head(Side::Left), head(Side::Right));
        assert_eq!(head(Side::Left)[0] >> 3, 9);
        assert_ne!(head(Side::Left)[1..], *b"vpn");
    }
}

#[test]
fn a_peer_that_does_not_negotiate_gets_what_is_configured() {
    for is_before_2_6 in [(true, false), (false, true), (true, true)] {
        let ends = Ends { is_before_2_6, fallback: Some(Cipher::Aes128Cbc), ..Ends::default() };
        let mut pair = ends.connected();

        assert_carries(&mut pair);

        assert_eq!(cipher(&pair.left.driven.events), "AES-128-CBC SHA256");
        assert_eq!(pair.sent_by(Side::Left).last().unwrap().bytes[0] >> 3, 6);
    }
}

#[test]
fn without_a_cipher_in_common_there_is_no_link() {
    let ciphers = (vec![Cipher::Aes128Gcm], vec![Cipher::Aes256Gcm]);
    let mut pair = Ends { ciphers, ..Ends::default() }.pair(1);

    pair.run(Duration::from_secs(10));

    let ended = &pair.right.ended[0].1;
    assert!(matches!(ended.fatal, Some(Fatal::Denied(why)) if why.contains("no cipher")));
    assert!(pair.right.ledger.is_empty() && !pair.left.driven.is_up());
}

#[test]
fn both_ends_may_renew_the_keys() {
    for renegotiate in [(Some(20), None), (None, Some(20)), (Some(20), Some(20))] {
        for is_before_2_6 in [(false, false), (true, true)] {
            let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
            let ends = Ends {
                renegotiate: (seconds(renegotiate.0), seconds(renegotiate.1)),
                is_before_2_6,
                ..Ends::default()
            };
            let mut pair = ends.connected();
            for _ in 0..200 {
                assert_carries(&mut pair);
            }
            let renewed = |events: &[Event]| {
                events.iter().filter(|event| matches!(event, Event::Rekeyed)).count()
            };
            assert!(renewed(&pair.left.driven.events) >= 3, "{:?}", pair.left.driven.events);
            assert!(renewed(&pair.right.only().events) >= 3);
        }
    }
}

#[test]
fn a_handshake_survives_a_bad_link() {
    let up = (1..=50)
        .filter(|seed| {
            let mut pair = Ends::default().pair(*seed as u8).with_link(Link::awful(*seed, 30));
            let up = pair.run_until(is_up, Duration::from_secs(60));
            let gave_up = pair.left.driven.fatal.is_some();
            assert!(
                up || gave_up || !pair.right.sessions.is_empty(),
                "seed {seed} hangs:\n{}",
                pair.narrate()
            );
            up
        })
        .count();

    assert!(up >= 48, "only {up} of 50");
}

#[test]
fn each_end_says_goodbye_to_the_other() {
    for is_before_2_6 in [(false, false), (true, true)] {
        for left_goes in [true, false] {
            let mut pair = Ends { is_before_2_6, ..Ends::default() }.connected();
            let farewell = Command::Disconnect(contract::Farewell::Shutdown);
            if left_goes {
                pair.left.command(farewell);
            } else {
                pair.right.command(farewell);
            }
            pair.run(Duration::from_secs(5));
            assert!(pair.left.driven.fatal.is_some() && pair.right.sessions.is_empty());
            assert!(pair.left.ledger.is_empty() && pair.right.ledger.is_empty());
        }
    }
}

#[test]
fn a_peer_that_falls_silent_is_missed_at_both_ends() {
    let mut pair = Ends::default().connected();
    pair.run(Duration::from_secs(300));
    assert!(is_up(&pair), "pings keep it alive");
    pair.filter(|_| false);

    pair.run(Duration::from_secs(120));

    assert_eq!(pair.left.driven.fatal, Some(Fatal::PeerGone));
    assert_eq!(pair.right.ended[0].1.fatal, Some(Fatal::PeerGone));
}

#[test]
fn a_peer_that_calls_moves_only_if_it_may() {
    for floats in [false, true] {
        let mut pair = Ends { floats, ..Ends::default() }.connected();
        assert_carries(&mut pair);
        let port = pair.right.only().port;

        pair.rebind_left(std::net::SocketAddr::new(LEFT.ip(), 9999));
        pair.left.send_packet(&packet(3)).unwrap();
        pair.run(Duration::from_secs(1));
        pair.right.send_packet(port, &packet(4)).unwrap();
        pair.run(Duration::from_secs(1));
        let heard = pair.left.driven.packets.contains(&packet(4));
        assert_eq!(heard, floats);

        // It goes on to send from there; where it must not be, it is missed all the same.
        for _ in 0..100 {
            let _ = pair.left.send_packet(&packet(5));
            pair.run(Duration::from_secs(1));
        }
        let ended = pair.right.ended.first().and_then(|(_, driven)| driven.fatal);
        assert_eq!(ended, (!floats).then_some(Fatal::PeerGone));
    }
}

fn fixed(direction: Option<bool>, has_peer: bool, floats: bool) -> Peer<FixedSession> {
    fixed_by(Arc::new(fixed_config(direction, floats)), has_peer)
}

fn fixed_config(direction: Option<bool>, floats: bool) -> FixedConfig {
    FixedConfig {
        key: static_key(7),
        direction,
        cipher: Cipher::Aes256Cbc,
        digest: Hash::Sha256,
        shape: ShapeRules { framing: Some(Framing::Lzo), mtu: 1400, ..ShapeRules::default() },
        lease: lease(1),
        ping: Some(Duration::from_secs(10)),
        silence: Some(Duration::from_secs(60)),
        exits: false,
        floats,
        clock: Arc::new(WallClock::new(1_780_000_000)),
        received: Arc::default(),
    }
}

fn fixed_by(config: Arc<FixedConfig>, has_peer: bool) -> Peer<FixedSession> {
    let (local, remote) =
        if config.direction == Some(true) { (LEFT, RIGHT) } else { (RIGHT, LEFT) };
    let nowhere = std::net::SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let path = path(local, if has_peer { remote } else { nowhere });
    let session = FixedSession::new(config, path, has_peer, PortId(1), [9; 32]);
    let surroundings = configuring()
        .classifying(|path, _| Some(TunnelKey::OpenVpnStatic { carrier: path.carrier }));
    Peer::new(session, PortId(1), surroundings)
}

/// A caller and its peer, both told to begin.
fn fixed_pair(has_peer: bool, floats: bool) -> Pair<Peer<FixedSession>, Peer<FixedSession>> {
    let left = fixed(Some(true), true, false);
    let mut pair = Pair::new(left, fixed(Some(false), has_peer, floats));
    pair.left.command(Command::Connect);
    pair.right.command(Command::Connect);
    pair
}

#[test]
fn a_static_key_carries_packets_and_pings() {
    let mut pair = fixed_pair(true, false);
    pair.run(Duration::from_secs(1));

    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(&packet(2)).unwrap();
    pair.run(Duration::from_secs(300));

    assert_eq!(pair.left.driven.packets, [packet(2)]);
    assert_eq!(pair.right.driven.packets, [packet(1)]);
    assert!(pair.left.driven.is_up() && pair.right.driven.is_up());
    pair.filter(|_| false);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.left.driven.fatal, Some(Fatal::PeerGone));
    assert!(pair.left.ledger.is_empty());
}

#[test]
fn who_waits_learns_where_its_peer_is_from_an_authentic_packet_only() {
    let mut pair = fixed_pair(false, false);
    pair.inject(Side::Right, LEFT, vec![7; 100]);
    pair.run(Duration::from_secs(1));
    assert!(!pair.right.driven.is_up());

    pair.left.send_packet(&packet(1)).unwrap();
    pair.run(Duration::from_secs(1));
    pair.right.send_packet(&packet(2)).unwrap();
    pair.run(Duration::from_secs(1));

    assert!(pair.right.driven.is_up());
    assert_eq!(pair.left.driven.packets, [packet(2)]);
}

#[test]
fn a_peer_moves_only_if_it_may_and_only_with_fresh_packets() {
    for floats in [false, true] {
        let mut pair = fixed_pair(true, floats);
        pair.run(Duration::from_secs(1));
        pair.left.send_packet(&packet(1)).unwrap();
        pair.run(Duration::from_secs(1));
        let old = pair.sent_by(Side::Left).last().unwrap().bytes.clone();
        let elsewhere = std::net::SocketAddr::new(LEFT.ip(), 9999);

        // A replay from elsewhere moves nobody.
        pair.inject(Side::Right, elsewhere, old);
        pair.run(Duration::from_secs(1));
        pair.right.send_packet(&packet(2)).unwrap();
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.left.driven.packets, [packet(2)]);

        pair.rebind_left(elsewhere);
        pair.left.send_packet(&packet(3)).unwrap();
        pair.run(Duration::from_secs(1));
        pair.right.send_packet(&packet(4)).unwrap();
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.left.driven.packets.len(), if floats { 2 } else { 1 }, "{floats}");
        pair.run(Duration::from_secs(90));
        // Whoever must not move is missed, and may be somewhere else the next time.
        let gone = (!floats).then_some(Fatal::PeerGone);
        assert_eq!(pair.right.driven.fatal, gone);
    }
}

#[test]
fn what_arrived_in_one_session_with_a_static_key_is_no_news_in_the_next() {
    let config = Arc::new(fixed_config(Some(false), true));
    let mut old = Vec::new();
    for round in 0..2 {
        let mut pair =
            Pair::new(fixed(Some(true), true, false), fixed_by(Arc::clone(&config), true));
        pair.right.command(Command::Connect);
        if round == 0 {
            pair.left.command(Command::Connect);
            pair.run(Duration::from_secs(1));
            pair.left.send_packet(&packet(1)).unwrap();
            pair.run(Duration::from_secs(1));
            old.clone_from(&pair.sent_by(Side::Left).last().unwrap().bytes);
            assert_eq!(pair.right.driven.packets, [packet(1)]);
            continue;
        }
        pair.run(Duration::from_secs(1));
        let elsewhere = std::net::SocketAddr::new(LEFT.ip(), 9999);

        pair.inject(Side::Right, elsewhere, old.clone());
        pair.run(Duration::from_secs(1));

        assert!(pair.right.driven.packets.is_empty(), "a replay is let in");
        let moved = |event: &Event| matches!(event, Event::Moved(_));
        assert!(!pair.right.driven.events.iter().any(moved), "a replay moves the peer");
    }
}
