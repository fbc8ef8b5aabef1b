//! Both ends against each other on a virtual clock.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Setup, WORLD, is_up, packet, static_key};
use contract::{
    Command, DenyReason, Event, Exit, Farewell, Fatal, Grant, Layer, Secret, TerminateCause,
    TunnelKey,
};
use crypto::digest::Hash;
use openvpn::{AuthMode, Cipher, Opcode, Protection};
use simnet::{Link, Side};

fn opcodes(pair: &common::Link, side: Side) -> Vec<Opcode> {
    let mut seen = Vec::new();
    for captured in pair.sent_by(side) {
        let opcode = Opcode(captured.bytes[0] >> 3);
        if !seen.contains(&opcode) {
            seen.push(opcode);
        }
    }
    seen
}

/// Packets cross in both directions.
fn assert_carries(pair: &mut common::Link) {
    let port = pair.right.only().port;
    let (left, right) = (pair.left.driven.packets.len(), pair.right.only().packets.len());
    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.driven.packets[left..], [packet(2)]);
    assert_eq!(pair.right.only().packets[right..], [packet(1)]);
}

#[test]
fn a_client_comes_up_and_packets_flow() {
    let mut pair = Setup::default().connected();

    assert_eq!(
        opcodes(&pair, Side::Left)[..2],
        [Opcode::P_CONTROL_HARD_RESET_CLIENT_V2, Opcode::P_CONTROL_V1]
    );
    assert_eq!(opcodes(&pair, Side::Right)[0], Opcode::P_CONTROL_HARD_RESET_SERVER_V2);
    let events = pair.right.only().events.clone();
    let [Event::Introduced(said), Event::Up(facts), ..] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert!(said.starts_with("IV_VER=warren-"), "{said}");
    assert!(facts.peer_id.is_some());
    assert_eq!(facts.cipher, "AES-256-GCM");
    assert_eq!(facts.control, "TLS 1.3, tls-crypt");
    assert_carries(&mut pair);
}

/// OpenVPN 3 reads one record when a packet arrives, and the next when another does.
#[test]
fn the_servers_keys_and_what_it_pushes_travel_in_packets_of_their_own() {
    let pair = Setup::default().connected();

    let control = |captured: &&simnet::Captured| captured.bytes[0] >> 3 == Opcode::P_CONTROL_V1.0;
    // The handshake's flight fits into one.
    assert_eq!(pair.sent_by(Side::Right).filter(control).count(), 1 + 2, "{}", pair.narrate());
}

#[test]
fn every_way_to_authenticate_and_to_wrap_works() {
    let tls_auth =
        |directed| Protection::TlsAuth { key: static_key(3), hash: Hash::Sha512, directed };
    for protection in
        [Setup::default().protection, tls_auth(true), tls_auth(false), Protection::None]
    {
        for auth in [AuthMode::Certificate, AuthMode::Password, AuthMode::Both] {
            for tls12 in [false, true] {
                let mut setup =
                    Setup { protection: protection.clone(), auth, tls12, ..Setup::default() };
                if !auth.wants_certificate() {
                    setup.identity = None;
                }
                if !auth.wants_password() {
                    setup.credentials = None;
                }
                assert_carries(&mut setup.connected());
            }
        }
    }
}

#[test]
fn a_client_with_frames_is_told_apart_and_carries_any() {
    let setup = Setup { layer: Layer::Ethernet, ..Setup::default() };
    let mut pair = setup.connected();
    let port = pair.right.only().port;
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5], b"hello"].concat();

    pair.left.send_packet(&frame).unwrap();
    pair.right.send_packet(port, &frame).unwrap();
    pair.run(Duration::from_millis(500));

    assert_eq!(pair.left.driven.packets, pair.right.only().packets);
    assert_eq!(pair.right.only().packets, [frame]);
}

#[test]
fn a_client_with_frames_is_refused_where_they_are_off() {
    let setup = Setup { layer: Layer::Ethernet, tap: false, ..Setup::default() };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(20));

    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Denied(_))), "{}", pair.narrate());
    let said = format!("{:?}", pair.left.driven.events);
    assert!(said.contains("dev tun"), "{said}");
}

#[test]
fn every_cipher_carries_packets() {
    for cipher in [
        Cipher::Aes256Gcm,
        Cipher::Aes128Gcm,
        Cipher::ChaCha20Poly1305,
        Cipher::Aes256Cbc,
        Cipher::Aes128Cbc,
    ] {
        let ciphers = vec![cipher];
        let setup =
            Setup { server_ciphers: ciphers.clone(), client_ciphers: ciphers, ..Setup::default() };
        assert_carries(&mut setup.connected());
    }
}

#[test]
fn nothing_in_common_is_refused_with_a_reason() {
    let setup = Setup {
        server_ciphers: vec![Cipher::Aes128Gcm],
        client_ciphers: vec![Cipher::Aes256Gcm],
        ..Setup::default()
    };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(10));

    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Denied(_))), "{:?}", pair.left.driven);
    assert!(
        pair.left
            .driven
            .events
            .iter()
            .any(|event| matches!(event, Event::Remark(text) if text.contains("no shared cipher")))
    );
    assert_eq!(pair.right.ended.len(), 1);
}

#[test]
fn a_wrong_password_is_refused_and_leaves_nothing() {
    let setup =
        Setup { credentials: Some(("ann".to_owned(), Secret::new("wrong"))), ..Setup::default() };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(10));

    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Denied(_))));
    assert_eq!(pair.right.ended[0].1.fatal, Some(Fatal::Denied("wrong credentials")));
    assert!(pair.right.ledger.is_empty() && pair.left.ledger.is_empty());
    assert!(!pair.right.ended[0].1.events.iter().any(|event| matches!(event, Event::Up(_))));
}

#[test]
fn every_reason_to_refuse_reaches_the_client_but_tells_no_secrets() {
    for (deny, words) in [
        (DenyReason::BadCredentials, "wrong user name or password"),
        (DenyReason::AccountDisabled, "disabled"),
        (DenyReason::Revoked, "revoked"),
        (DenyReason::TooManyAttempts, "too many"),
    ] {
        let mut pair = Setup { deny: Some(deny), ..Setup::default() }.pair(1);
        pair.run(Duration::from_secs(10));
        let said = |event: &Event| matches!(event, Event::Remark(text) if text.contains(words));
        assert!(
            pair.left.driven.events.iter().any(said),
            "{deny:?}: {:?}",
            pair.left.driven.events
        );
    }
}

#[test]
fn a_certificate_of_another_authority_ends_the_handshake() {
    let setup = Setup { identity: Some(WORLD.stranger.clone()), ..Setup::default() };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(70));

    assert!(!is_up(&pair));
    assert!(matches!(pair.right.ended[0].1.fatal, Some(Fatal::Tls(_))));
    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Tls(_))), "{:?}", pair.left.driven.fatal);
}

#[test]
fn without_the_wrapping_key_there_is_only_silence() {
    let setup = Setup {
        client_protection: Some(Protection::TlsCrypt { key: static_key(99) }),
        ..Setup::default()
    };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(120));

    assert_eq!(pair.sent_by(Side::Right).count(), 0);
    assert!(pair.right.sessions.is_empty() && pair.right.ended.is_empty());
    assert_eq!(pair.left.driven.fatal, Some(Fatal::PeerGone));
}

#[test]
fn a_handshake_survives_a_bad_link() {
    let up = (1..=100)
        .filter(|seed| {
            let mut pair = Setup::default().pair(*seed as u8).with_link(Link::awful(*seed, 30));
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

    // 30 % loss, 10 % duplicates, 5 % damage and reordering, each way, for a minute.
    assert!(up >= 97, "only {up} of 100");
}

#[test]
fn keys_are_renewed_without_losing_a_packet() {
    for (server, client) in [(Some(20), None), (None, Some(20)), (Some(20), Some(20))] {
        for protection in [Setup::default().protection, Protection::None] {
            let setup = Setup {
                protection,
                renegotiate: server.map(Duration::from_secs),
                client_renegotiate: client.map(Duration::from_secs),
                answer_delay: Duration::from_millis(100),
                ..Setup::default()
            };
            let mut pair = setup.connected();
            let port = pair.right.only().port;

            for n in 0..2000u32 {
                pair.left.send_packet(&packet(n as u8)).unwrap();
                pair.right.send_packet(port, &packet(n as u8)).unwrap();
                pair.run(Duration::from_millis(100));
            }
            pair.run(Duration::from_secs(1));

            assert_eq!(pair.left.driven.packets.len(), 2000);
            assert_eq!(pair.right.only().packets.len(), 2000);
            let rekeys = |events: &[Event]| events.iter().filter(|e| **e == Event::Rekeyed).count();
            assert!(rekeys(&pair.left.driven.events) >= 7, "{:?}", pair.left.driven.events);
            assert!(rekeys(&pair.right.only().events) >= 7);
            // The key in use, one retired, and perhaps one on its way.
            assert!(pair.right.ledger.keys().len() <= 3, "{:?}", pair.right.ledger.keys());
        }
    }
}

#[test]
fn renewal_survives_a_bad_link() {
    for seed in 1..=20 {
        let setup = Setup {
            renegotiate: Some(Duration::from_secs(20)),
            client_renegotiate: Some(Duration::from_secs(20)),
            ..Setup::default()
        };
        let mut pair = setup.connected().with_link(Link::awful(seed, 20));

        pair.run(Duration::from_secs(300));

        let pair = &mut pair.with_link(Link::perfect());
        pair.run(Duration::from_secs(20));
        assert!(is_up(pair), "seed {seed}: {:?}\n{}", pair.left.driven.fatal, pair.narrate());
        assert_carries(pair);
    }
}

#[test]
fn an_idle_session_is_kept_alive_by_pings() {
    let mut pair = Setup::default().connected();

    pair.run(Duration::from_secs(1000));

    assert!(is_up(&pair));
    assert!(pair.left.driven.keep_alives > 20 && pair.right.only().keep_alives > 20);
    assert_carries(&mut pair);
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let mut pair = Setup::default().connected();
    pair.filter(|_| false);

    pair.run(Duration::from_secs(100));
    assert_eq!(pair.left.driven.fatal, Some(Fatal::PeerGone));
    pair.run(Duration::from_secs(100));

    assert_eq!(pair.right.ended[0].1.fatal, Some(Fatal::PeerGone));
    assert!(pair.right.ledger.is_empty() && pair.left.ledger.is_empty());
}

#[test]
fn a_client_says_goodbye() {
    let mut pair = Setup::default().connected();

    pair.left.command(Command::Disconnect(Farewell::Shutdown));
    pair.run(Duration::from_secs(3));

    assert_eq!(pair.right.ended[0].1.fatal, Some(Fatal::Finished(TerminateCause::UserRequest)));
    assert!(pair.right.ledger.is_empty() && pair.left.ledger.is_empty());
}

#[test]
fn a_server_that_stops_tells_its_clients() {
    for (farewell, expected) in [
        (Farewell::Shutdown, Fatal::Finished(TerminateCause::AdminReboot)),
        (Farewell::Kicked, Fatal::Finished(TerminateCause::AdminReboot)),
        (Farewell::Revoked, Fatal::Denied("the server refused the login (AUTH_FAILED)")),
        (Farewell::Dismissed, Fatal::Denied("the server ended the session (HALT)")),
        (Farewell::SessionOver, Fatal::Denied("the server ended the session (HALT)")),
        (Farewell::Idle, Fatal::Denied("the server ended the session (HALT)")),
    ] {
        let mut pair = Setup::default().connected().with_link(Link::lossy(4, 30));

        pair.right.command(Command::Disconnect(farewell));
        pair.run(Duration::from_secs(4));

        assert_eq!(pair.left.driven.fatal, Some(expected));
        assert!(pair.right.sessions.is_empty() && pair.right.ledger.is_empty());
    }
}

#[test]
fn a_client_behind_a_nat_that_forgot_it_keeps_its_session() {
    let setup = Setup { renegotiate: Some(Duration::from_secs(60)), ..Setup::default() };
    let mut pair = setup.connected();

    pair.rebind_left("192.0.2.77:5555".parse().unwrap());
    pair.left.send_packet(&packet(9)).unwrap();
    pair.run(Duration::from_secs(1));

    let moved = |event: &Event| matches!(event, Event::Moved(path) if path.remote.port() == 5555);
    assert!(pair.right.only().events.iter().any(moved));
    assert_carries(&mut pair);
    pair.run(Duration::from_secs(100));
    assert!(pair.right.only().events.contains(&Event::Rekeyed), "renewal follows the new address");
    assert_carries(&mut pair);
}

#[test]
fn a_captured_packet_moves_nothing() {
    let mut pair = Setup::default().connected();
    pair.left.send_packet(&packet(1)).unwrap();
    pair.run(Duration::from_secs(1));
    let captured = pair.sent_by(Side::Left).map(|c| c.bytes.clone()).collect::<Vec<_>>();
    let answers = pair.sent_by(Side::Right).count();

    for bytes in captured {
        pair.inject(Side::Right, "203.0.113.66:666".parse().unwrap(), bytes);
    }
    pair.run(Duration::from_secs(5));

    assert!(!pair.right.only().events.iter().any(|event| matches!(event, Event::Moved(_))));
    assert_eq!(pair.sent_by(Side::Right).count(), answers, "a replay got an answer");
    assert_carries(&mut pair);
}

#[test]
fn a_first_packet_alone_costs_no_state() {
    let mut pair = Setup::default().pair(1);
    pair.filter(|captured| captured.from == Side::Right || captured.bytes[0] >> 3 == 7);

    pair.run(Duration::from_secs(59));

    assert_eq!(pair.sent_by(Side::Right).count(), 1);
    assert!(pair.right.sessions.is_empty() && pair.right.ended.is_empty());
}

#[test]
fn a_cookie_is_worth_nothing_at_another_address_or_later() {
    let mut pair = Setup::default().pair(1);
    pair.filter(|captured| captured.from == Side::Right || captured.bytes[0] >> 3 == 7);
    pair.run(Duration::from_secs(1));
    let third = pair.sent_by(Side::Left).find(|c| c.bytes[0] >> 3 == 4).unwrap().bytes.clone();
    let source = pair.left_address();

    pair.inject(Side::Right, "203.0.113.66:666".parse().unwrap(), third.clone());
    pair.run(Duration::from_secs(1));
    assert!(pair.right.sessions.is_empty(), "accepted from a foreign address");
    pair.inject(Side::Right, source, third.clone());
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.right.sessions.len(), 1, "refused from its own address");
    pair.run(Duration::from_secs(120));
    assert!(pair.right.sessions.is_empty(), "a half-open session expires");
    pair.inject(Side::Right, source, third);
    pair.run(Duration::from_secs(1));
    assert!(pair.right.sessions.is_empty(), "accepted minutes later");
}

#[test]
fn a_full_door_refuses_without_state() {
    let mut pair = Setup { max_sessions: 0, ..Setup::default() }.pair(1);

    pair.run(Duration::from_secs(20));

    assert!(pair.right.sessions.is_empty());
    assert!(pair.right.refused > 0);
}

#[test]
fn the_fast_path_is_told_in_the_right_order() {
    let pair = Setup::default().connected();
    let port = pair.right.only().port;

    let keys = pair.right.ledger.keys();

    assert_eq!(keys, [TunnelKey::OpenVpn { peer: port.0, key_id: 0 }]);
    assert_eq!(pair.right.ledger.exit(port), Some(Exit::Tunnel(keys[0])));
}

#[test]
fn a_farewell_to_nobody_ends_in_good_time() {
    for (wait, farewell) in
        [(9, Farewell::Kicked), (9, Farewell::Revoked), (19, Farewell::Shutdown)]
    {
        let mut pair = Setup::default().connected();
        pair.filter(|_| false);
        pair.run(Duration::from_millis(wait * 1000 + 500));

        // The keep-alive falls due while the farewell waits for its acknowledgement.
        pair.right.command(Command::Disconnect(farewell));
        pair.run(Duration::from_secs(3));

        assert!(pair.right.sessions.is_empty(), "{farewell:?}");
        assert!(pair.right.ledger.is_empty());
    }
}

#[test]
fn a_refused_client_that_never_acknowledges_is_left_in_good_time() {
    let setup = Setup { deny: Some(DenyReason::BadCredentials), ..Setup::default() };
    let mut pair = Setup { answer_delay: Duration::from_secs(57), ..setup }.pair(1);
    pair.run(Duration::from_secs(50));

    // The handshake's own limit passes while the refusal waits.
    pair.filter(|_| false);
    pair.run(Duration::from_secs(15));

    assert!(pair.right.sessions.is_empty());
}

#[test]
fn a_renewal_that_was_lost_is_tried_again() {
    let setup = Setup { renegotiate: Some(Duration::from_secs(30)), ..Setup::default() };
    let mut pair = setup.connected();
    // Nothing of the new generation arrives; the tunnel goes on.
    pair.filter(|captured| captured.bytes[0] >> 3 == 9 || captured.bytes[0] & 7 == 0);
    pair.run(Duration::from_secs(100));
    assert!(is_up(&pair) && !pair.right.only().events.contains(&Event::Rekeyed));

    pair.unfilter();
    pair.run(Duration::from_secs(60));

    assert!(pair.right.only().events.contains(&Event::Rekeyed));
    assert_carries(&mut pair);
}

#[test]
fn a_client_that_never_renews_its_keys_is_put_out() {
    let setup = Setup { renegotiate: Some(Duration::from_secs(30)), ..Setup::default() };
    let mut pair = setup.connected();
    pair.filter(|captured| captured.bytes[0] >> 3 == 9 || captured.bytes[0] & 7 == 0);

    pair.run(Duration::from_secs(200));

    assert!(pair.right.sessions.is_empty(), "still in with keys of three minutes");
    let ended = pair.right.ended[0].1.fatal;
    assert!(matches!(ended, Some(Fatal::ProtocolViolation(_))), "{ended:?}");
}

#[test]
fn a_client_from_before_2_6_has_keys_by_the_prf_and_says_goodbye_in_the_tunnel() {
    let setup = Setup {
        is_before_2_6: true,
        renegotiate: Some(Duration::from_secs(20)),
        ..Setup::default()
    };
    let mut pair = setup.connected();
    assert_carries(&mut pair);
    pair.run(Duration::from_secs(60));
    assert!(pair.right.only().events.contains(&Event::Rekeyed));
    assert_carries(&mut pair);

    pair.left.command(Command::Disconnect(Farewell::Shutdown));
    pair.run(Duration::from_secs(1));

    assert_eq!(pair.right.ended[0].1.fatal, Some(Fatal::Finished(TerminateCause::UserRequest)));
}

#[test]
fn a_client_gets_what_is_pushed_to_all_and_what_is_its_users_own() {
    let setup = Setup {
        push: vec!["route 10.1.0.0 255.255.0.0 vpn_gateway 7".to_owned()],
        grant: Grant {
            user: "ann".to_owned(),
            openvpn_options: vec!["dns server 0 resolve-domains corp.example".to_owned()],
            session_limit: Some(Duration::from_secs(3600)),
            idle_limit: Some(Duration::from_secs(300)),
            ..Grant::default()
        },
        ..Setup::default()
    };

    let _pair = setup.connected();

    let configured = setup.configured.lock().unwrap();
    let [lease] = configured.as_slice() else { panic!("{configured:?}") };
    let net = "10.1.0.0/16".parse().unwrap();
    assert_eq!((lease.routes.as_slice(), lease.metrics.get(&net)), (&[net][..], Some(&7)));
    assert_eq!(lease.dns.split, [""; 0], "there is no resolver for the domain");
    assert_eq!(lease.limits.session, Some(Duration::from_secs(3600)));
    assert_eq!(lease.limits.idle, Some(Duration::from_secs(300)));
}

#[test]
fn a_client_that_is_to_end_on_silence_does_not_come_back() {
    for (option, expected) in
        [("ping-exit 30", Fatal::Denied(openvpn::SILENT)), ("ping-restart 30", Fatal::PeerGone)]
    {
        let setup = Setup { push: vec![option.to_owned()], ..Setup::default() };
        let mut pair = setup.connected().with_link(Link::lossy(1, 100));

        pair.run(Duration::from_secs(60));

        assert_eq!(pair.left.driven.fatal, Some(expected), "{option}");
    }
}
