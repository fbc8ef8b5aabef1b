//! Clients with a key of their own (tls-crypt-v2): the ordinary way in, the old one, and abuse.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Setup, is_up, packet, static_key};
use contract::{
    Acceptor, Arrival, Command, Discard, Engine, Event, Fatal, Input, Output, PortId, Route,
    SessionFacts, SessionId, Via, WallClock,
};
use crypto::digest::Hash;
use openvpn::{
    ClientKey, ClientKeyId, ClientKeyRules, Door, Metadata, Opcode, Protection, ServerKey, Session,
};
use simnet::{LEFT, Link, RIGHT, Side, path};

const NOW: u64 = 1_780_000_000;
const DAY: u64 = 86_400;

fn server_key() -> ServerKey {
    ServerKey::from_bytes([3; 128])
}

fn client_key(n: u8) -> ClientKey {
    let metadata = Metadata::write(NOW - 10 * DAY, ClientKeyId([n; 16]));
    server_key().wrap(&static_key(n), &metadata).unwrap()
}

fn rules() -> ClientKeyRules {
    ClientKeyRules {
        server_key: server_key(),
        max_age: None,
        cookie_required: false,
        clock: Arc::new(WallClock::new(NOW)),
    }
}

/// A door for both kinds of clients, and a client with a key of its own.
fn setup() -> Setup {
    Setup {
        client_protection: Some(Protection::TlsCryptV2(client_key(7))),
        client_keys: Some(rules()),
        ..Setup::default()
    }
}

/// The same with a client that offers nothing newer than OpenVPN 2.5 does.
fn old() -> Setup {
    Setup { is_before_2_6: true, ..setup() }
}

fn sent(pair: &common::Link, side: Side) -> Vec<Opcode> {
    pair.sent_by(side).map(|captured| Opcode(captured.bytes[0] >> 3)).collect()
}

fn facts(pair: &common::Link) -> SessionFacts {
    let up = |event: &Event| match event {
        Event::Up(facts) => Some(facts.clone()),
        _ => None,
    };
    pair.right.only().events.iter().find_map(up).expect("it is up")
}

fn assert_carries(pair: &mut common::Link) {
    let port = pair.right.only().port;
    let (left, right) = (pair.left.driven.packets.len(), pair.right.only().packets.len());
    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.driven.packets[left..], [packet(2)]);
    assert_eq!(pair.right.only().packets[right..], [packet(1)]);
}

/// A client by hand, which is told to connect; returns its first packet.
fn client(setup: &Setup, seed: u8, now: Instant) -> (Session, Vec<u8>) {
    let config = setup.initiator_config();
    let mut client = Session::initiator(now, config, path(LEFT, RIGHT), PortId(1), [seed; 32]);
    client.handle(now, Input::Command(Command::Connect)).unwrap();
    let first = transmitted(&mut client, now).remove(0);
    (client, first)
}

fn transmitted(engine: &mut Session, now: Instant) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        match engine.poll(now) {
            Output::Transmit(message) => packets.push(message.payload),
            Output::Wait(_) => return packets,
            _ => {}
        }
    }
}

fn route(door: &mut Door, now: Instant, packet: &[u8]) -> (Route, Vec<u8>) {
    let mut reply = Vec::new();
    let route = door.route(now, &path(RIGHT, LEFT), &mut packet.to_vec(), &mut reply);
    (route, reply)
}

fn discarded(why: Discard) -> (Route, Vec<u8>) {
    (Route::Discard(why), Vec::new())
}

fn accept(door: &mut Door, now: Instant, packet: &[u8], n: u64) -> Option<Session> {
    let arrival = Arrival { path: path(RIGHT, LEFT), datagram: packet };
    door.accept(now, arrival, SessionId(n), PortId(n as u32), [n as u8; 32])
}

fn datagram(bytes: &[u8]) -> Input<'_> {
    Input::Datagram { via: Via::Path(path(LEFT, RIGHT)), payload: bytes }
}

fn arriving(bytes: &[u8]) -> Input<'_> {
    Input::Datagram { via: Via::Path(path(RIGHT, LEFT)), payload: bytes }
}

#[test]
fn a_client_brings_its_key_twice_and_the_door_keeps_nothing_in_between() {
    let mut pair = setup().connected();

    let client = sent(&pair, Side::Left);
    assert_eq!(
        client[..2],
        [Opcode::P_CONTROL_HARD_RESET_CLIENT_V3, Opcode::P_CONTROL_WKC_V1],
        "{client:?}"
    );
    assert!(!client[2..].contains(&Opcode::P_CONTROL_WKC_V1), "{client:?}");
    assert!(pair.sent_by(Side::Left).all(|captured| captured.bytes.len() <= 1250));
    let facts = facts(&pair);
    assert_eq!(facts.control, "TLS 1.3, tls-crypt-v2");
    let key = facts.client_key.unwrap();
    assert_eq!((key.id, key.issued), (Some("07".repeat(16)), Some(NOW - 10 * DAY)));
    assert_carries(&mut pair);
}

#[test]
fn an_old_client_brings_its_key_once_unless_it_is_not_wanted() {
    let mut pair = old().connected();

    let client = sent(&pair, Side::Left);
    assert_eq!(
        client[..2],
        [Opcode::P_CONTROL_HARD_RESET_CLIENT_V3, Opcode::P_CONTROL_V1],
        "{client:?}"
    );
    assert_eq!(facts(&pair).control, "TLS 1.3, tls-crypt-v2");
    assert_carries(&mut pair);

    let strict = ClientKeyRules { cookie_required: true, ..rules() };
    let mut pair = Setup { client_keys: Some(strict.clone()), ..old() }.pair(1);
    pair.run(Duration::from_secs(70));
    assert_eq!(pair.left.driven.fatal, Some(Fatal::PeerGone));
    assert_eq!(pair.sent_by(Side::Right).count(), 0);
    assert_carries(&mut Setup { client_keys: Some(strict), ..setup() }.connected());
}

#[test]
fn one_door_serves_both_kinds_of_clients_if_it_shall() {
    let tls_auth = Protection::TlsAuth { key: static_key(1), hash: Hash::Sha256, directed: true };
    for shared in [Protection::TlsCrypt { key: static_key(0) }, tls_auth] {
        let own = Setup { protection: shared.clone(), ..setup() };
        assert_eq!(facts(&own.connected()).control, "TLS 1.3, tls-crypt-v2");

        let old = Setup { client_protection: None, ..own };
        let pair = old.connected();
        assert_eq!(facts(&pair).control, format!("TLS 1.3, {}", shared.name()));
        assert_eq!(facts(&pair).client_key, None);

        let mut refused = Setup { takes_shared_key: false, ..old }.pair(1);
        refused.run(Duration::from_secs(10));
        assert_eq!(refused.sent_by(Side::Right).count(), 0);
    }
    let without = Setup { client_keys: None, ..setup() };
    let mut refused = without.pair(1);
    refused.run(Duration::from_secs(10));
    assert_eq!(refused.sent_by(Side::Right).count(), 0);
}

#[test]
fn both_ways_in_survive_a_bad_link() {
    for setup in [setup(), old()] {
        let established = (1..=40)
            .filter(|seed| {
                let mut pair = setup.pair(*seed as u8).with_link(Link::awful(*seed, 20));
                let came_up = pair.run_until(is_up, Duration::from_secs(90));
                let gave_up = pair.left.driven.fatal.is_some();
                assert!(came_up || gave_up, "seed {seed} hangs\n{}", pair.narrate());
                came_up
            })
            .count();
        assert!(established >= 34, "only {established} of 40");
    }
}

#[test]
fn renewal_mixes_the_clients_own_key_in() {
    for setup in [setup(), old()] {
        let setup = Setup { client_renegotiate: Some(Duration::from_secs(20)), ..setup };
        let mut pair = setup.connected();

        pair.run(Duration::from_secs(100));

        assert!(pair.right.only().events.contains(&Event::Rekeyed));
        assert!(is_up(&pair), "{}", pair.narrate());
        assert_carries(&mut pair);
    }
}

#[test]
fn the_longest_wrapped_key_still_leaves_room_for_tls() {
    let wrapped = server_key().wrap(&static_key(7), &[0; openvpn::MAX_METADATA]).unwrap();
    let protection = Some(Protection::TlsCryptV2(wrapped));
    for setup in [setup(), old()] {
        let mut pair = Setup { client_protection: protection.clone(), ..setup }.connected();
        assert!(pair.sent_by(Side::Left).all(|captured| captured.bytes.len() <= 1250));
        assert_carries(&mut pair);
    }
}

#[test]
fn what_a_stranger_changed_is_neither_answered_nor_remembered() {
    let now = Instant::now();
    for setup in [setup(), old()] {
        let mut door = Door::new(now, setup.responder_config(), [1; 32]);
        let (mut client, first) = client(&setup, 1, now);
        assert_all_refused(&mut door, now, &first);
        let (answer, reply) = route(&mut door, now, &first);
        if answer == Route::New {
            continue;
        }
        assert!(reply.len() < first.len(), "{} bytes for {}", reply.len(), first.len());
        client.handle(now, datagram(&reply)).unwrap();
        let third = transmitted(&mut client, now).remove(0);
        assert_eq!(Opcode(third[0] >> 3), Opcode::P_CONTROL_WKC_V1);
        assert_all_refused(&mut door, now, &third);
        assert_eq!(route(&mut door, now, &third).0, Route::New);
        assert!(accept(&mut door, now, &third, 1).is_some());
    }
}

fn assert_all_refused(door: &mut Door, now: Instant, good: &[u8]) {
    for len in 0..good.len() {
        let (route, reply) = route(door, now, &good[..len]);
        assert!(matches!(route, Route::Discard(_)) && reply.is_empty(), "{len} bytes");
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (route, reply) = route(door, now, &bytes);
        assert!(matches!(route, Route::Discard(_)) && reply.is_empty(), "bit {bit}");
    }
    let other = ServerKey::from_bytes([4; 128]).wrap(&static_key(7), &[]).unwrap();
    let at = good.len() - client_key(7).wrapped().len();
    let forged = [&good[..at], other.wrapped()].concat();
    assert_eq!(route(door, now, &forged), discarded(Discard::AuthFailed));
    let stolen = [&good[..at], client_key(8).wrapped()].concat();
    assert_eq!(route(door, now, &stolen), discarded(Discard::AuthFailed), "another's key");
}

#[test]
fn a_first_packet_counts_once() {
    let now = Instant::now();
    for (setup, expected) in [(setup(), Route::Reply), (old(), Route::New)] {
        let mut door = Door::new(now, setup.responder_config(), [1; 32]);
        let (_, first) = client(&setup, 1, now);
        assert_eq!(route(&mut door, now, &first).0, expected);
        for second in 0..10 {
            let later = now + Duration::from_secs(second);
            assert_eq!(route(&mut door, later, &first), discarded(Discard::Replayed));
        }
    }
}

#[test]
fn a_third_packet_from_elsewhere_opens_nothing() {
    let now = Instant::now();
    let mut door = Door::new(now, setup().responder_config(), [1; 32]);
    let (mut client, first) = client(&setup(), 1, now);
    let (_, reply) = route(&mut door, now, &first);
    client.handle(now, datagram(&reply)).unwrap();
    let third = transmitted(&mut client, now).remove(0);

    let elsewhere = path(RIGHT, "203.0.113.66:666".parse().unwrap());
    let stolen = door.route(now, &elsewhere, &mut third.clone(), &mut Vec::new());
    assert_eq!(stolen, Route::Discard(Discard::Unwanted));
    let late = now + Duration::from_secs(1000);
    assert_eq!(route(&mut door, late, &third), discarded(Discard::Unwanted));
    let arrival = Arrival { path: elsewhere, datagram: &third };
    assert!(door.accept(now, arrival, SessionId(9), PortId(9), [9; 32]).is_none());
}

#[test]
fn a_second_key_in_a_session_is_not_looked_at_but_its_packet_is() {
    let now = Instant::now();
    let setup = old();
    let mut door = Door::new(now, setup.responder_config(), [1; 32]);
    let (mut client, first) = client(&setup, 1, now);
    assert_eq!(route(&mut door, now, &first).0, Route::New);
    let mut session = accept(&mut door, now, &first, 1).unwrap();
    session.handle(now, arriving(&first)).unwrap();
    assert_eq!(transmitted(&mut session, now).len(), 1, "the answer");

    // The client has not heard it and sends its first packet again, with a fresh stamp.
    let later = now + Duration::from_secs(3);
    client.handle(later, Input::Tick).unwrap();
    let again = transmitted(&mut client, later).remove(0);
    let at = again.len() - client_key(7).wrapped().len();
    let mut forged = again.clone();
    forged[at..again.len() - 2].fill(0x55);
    assert_eq!(route(&mut door, later, &forged).0, Route::Session(SessionId(1)));
    // Its length is all that counts; one that cannot be ends the packet, not the session.
    for len in [0, 1, 289, 1025, again.len() as u16, u16::MAX] {
        let mut lie = again.clone();
        let end = lie.len() - 2;
        lie[end..].copy_from_slice(&len.to_be_bytes());
        session.handle(now, arriving(&lie)).unwrap();
        assert_eq!(transmitted(&mut session, now), [[0; 0]; 0], "{len}");
    }
    session.handle(now, arriving(&forged)).unwrap();
    let answers = transmitted(&mut session, now);
    assert_eq!(answers.len(), 1, "the packet in front of the key was acknowledged again");

    client.handle(later, datagram(&answers[0])).unwrap();
}

#[test]
fn a_key_with_no_answer_takes_little_room() {
    let now = Instant::now();
    let setup = old();
    let mut door = Door::new(now, setup.responder_config(), [1; 32]);
    let first_of = |seed, key| {
        let own = Some(Protection::TlsCryptV2(client_key(key)));
        client(&Setup { client_protection: own, ..setup.clone() }, seed, now).1
    };

    for n in 1..=4 {
        let first = first_of(n, 7);
        assert_eq!(route(&mut door, now, &first).0, Route::New);
        assert!(accept(&mut door, now, &first, n.into()).is_some());
    }

    let fifth = first_of(5, 7);
    assert_eq!(route(&mut door, now, &fifth), discarded(Discard::RateLimited));
    assert!(accept(&mut door, now, &fifth, 5).is_none());
    assert_eq!(
        route(&mut door, now, &first_of(6, 8)).0,
        Route::New,
        "another key has its own room"
    );
    door.forget(SessionId(2));
    assert_eq!(route(&mut door, now, &first_of(9, 7)).0, Route::New);
}

#[test]
fn a_session_that_came_up_takes_no_room_of_the_unproven() {
    for setup in [old(), setup()] {
        let mut pair = setup.connected();
        let key = Some(Protection::TlsCryptV2(client_key(7)));
        for seed in 10..14 {
            let other = Setup { client_protection: key.clone(), ..old() };
            let (_, first) = client(&other, seed, pair.now());
            pair.inject(Side::Right, format!("203.0.113.{seed}:5000").parse().unwrap(), first);
        }
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.right.sessions.len(), 5);
    }
}

#[test]
fn a_revoked_key_opens_nothing_and_its_session_hears_nothing() {
    let now = Instant::now();
    for setup in [setup(), old()] {
        let mut door = Door::new(now, setup.responder_config(), [1; 32]);
        let revoked = HashSet::from([ClientKeyId([7; 16])]);
        assert_eq!(door.refuse_keys(revoked.clone()), []);
        let (mut client, first) = client(&setup, 1, now);
        assert_eq!(route(&mut door, now, &first), discarded(Discard::KeyRefused));

        assert_eq!(door.refuse_keys(HashSet::new()), []);
        let (answer, reply) = route(&mut door, now, &first);
        let opening = if answer == Route::Reply {
            client.handle(now, datagram(&reply)).unwrap();
            transmitted(&mut client, now).remove(0)
        } else {
            first
        };
        assert!(accept(&mut door, now, &opening, 1).is_some());
        assert_eq!(route(&mut door, now, &opening).0, Route::Session(SessionId(1)));

        let other = HashSet::from([ClientKeyId([8; 16])]);
        assert_eq!(door.refuse_keys(other), []);
        assert_eq!(door.refuse_keys(revoked), [SessionId(1)]);
        assert_eq!(route(&mut door, now, &opening), discarded(Discard::KeyRefused));
        door.forget(SessionId(1));
        assert_eq!(route(&mut door, now, &opening), discarded(Discard::KeyRefused));
        assert!(accept(&mut door, now, &opening, 2).is_none());
    }
}

#[test]
fn a_key_that_is_too_old_or_of_unknown_age_opens_nothing() {
    let now = Instant::now();
    let rules = ClientKeyRules { max_age: Some(Duration::from_secs(30 * DAY)), ..rules() };
    let clock = Arc::clone(&rules.clock);
    let setup = Setup { client_keys: Some(rules), ..setup() };
    let mut door = Door::new(now, setup.responder_config(), [1; 32]);
    let undated = server_key().wrap(&static_key(7), &[0, 1, 2]).unwrap();
    let undated =
        Setup { client_protection: Some(Protection::TlsCryptV2(undated)), ..setup.clone() };
    assert_eq!(route(&mut door, now, &client(&setup, 1, now).1).0, Route::Reply);
    let (answer, _) = route(&mut door, now, &client(&undated, 2, now).1);
    assert_eq!(answer, Route::Discard(Discard::KeyRefused));

    clock.set(NOW + 20 * DAY + 1);

    assert_eq!(route(&mut door, now, &client(&setup, 3, now).1), discarded(Discard::KeyRefused));
}
