//! Ends whose private keys take their time: the handshake is made elsewhere, step by step.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Setup, is_up, packet};
use contract::Event;
use simnet::Link;

fn assert_carries(pair: &mut common::Link) {
    let port = pair.right.only().port;
    let (left, right) = (pair.left.driven.packets.len(), pair.right.only().packets.len());
    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.driven.packets[left..], [packet(2)]);
    assert_eq!(pair.right.only().packets[right..], [packet(1)]);
}

/// How long it takes to come up.
fn time_to_come_up(setup: &Setup) -> Duration {
    let mut pair = setup.pair(1);
    assert!(pair.run_until(is_up, Duration::from_secs(50)), "{}", pair.narrate());
    let elapsed = pair.elapsed();
    assert_carries(&mut pair);
    elapsed
}

#[test]
fn keys_that_take_seconds_still_make_a_session() {
    for tls12 in [false, true] {
        let answer_delay = Duration::from_secs(2);
        let quick = Setup { tls12, answer_delay, ..Setup::default() };
        let slow = Setup { key_is_slow: true, ..quick.clone() };

        // Each end signs once.
        let steps = 2 * answer_delay;
        let (slow, quick) = (time_to_come_up(&slow), time_to_come_up(&quick));
        assert!(slow >= quick + steps, "{slow:?} with waiting, {quick:?} without");
    }
}

#[test]
fn slow_keys_and_a_bad_link_make_a_session_or_a_clean_end() {
    for seed in 0..40 {
        let answer_delay = Duration::from_millis(seed * 70);
        let tls12 = seed % 2 == 0;
        let setup = Setup { key_is_slow: true, tls12, answer_delay, ..Setup::default() };
        let mut pair = setup.pair(seed as u8).with_link(Link::awful(seed, 20));

        let settled = |pair: &common::Link| is_up(pair) || !pair.left.driven.is_alive();
        assert!(pair.run_until(settled, Duration::from_secs(90)), "{}", pair.narrate());
    }
}

#[test]
fn packets_flow_while_a_renegotiation_waits_for_its_signature() {
    let setup = Setup {
        key_is_slow: true,
        answer_delay: Duration::from_secs(3),
        renegotiate: Some(Duration::from_secs(20)),
        ..Setup::default()
    };
    let mut pair = setup.connected();

    let rekeyed = |pair: &common::Link| pair.left.driven.events.contains(&Event::Rekeyed);
    let mut seconds = 0;
    while !rekeyed(&pair) {
        assert_carries(&mut pair);
        seconds += 1;
        assert!(seconds < 120, "no fresh keys: {}", pair.narrate());
        pair.run(Duration::from_millis(500));
    }
    assert_carries(&mut pair);
}

#[test]
fn a_key_that_never_signs_ends_its_handshake_and_nothing_is_left() {
    let never = Duration::from_secs(100_000);
    let setup = Setup {
        key_is_slow: true,
        answer_delay: never,
        judge: Arc::new(|ask| panic!("before the handshake was made: {ask:?}")),
        ..Setup::default()
    };
    let mut pair = setup.pair(1);

    assert!(!pair.run_until(is_up, Duration::from_secs(200)), "{}", pair.narrate());

    assert!(!pair.left.driven.is_alive(), "the caller has given up");
    assert!(!pair.right.sessions.values().any(simnet::Driven::is_alive), "so has the other end");
}
