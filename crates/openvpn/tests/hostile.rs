//! What holders of the shared key can do to the door before they have shown who they are.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::Setup;
use contract::{Acceptor, Command, Discard, Engine, Input, Output, PortId, Route};
use openvpn::{Door, Session};
use simnet::{LEFT, RIGHT, path};

/// First packets of clients that all hold the key.
fn first_packets(count: u32) -> Vec<Vec<u8>> {
    let config = Setup::default().initiator_config();
    let now = Instant::now();
    (0..count)
        .map(|n| {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            let from = path(LEFT, RIGHT);
            let mut client = Session::initiator(now, config.clone(), from, PortId(1), seed);
            client.handle(now, Input::Command(Command::Connect)).unwrap();
            match client.poll(now) {
                Output::Transmit(message) => message.payload,
                other => panic!("{other:?} comes before the first packet"),
            }
        })
        .collect()
}

#[test]
fn a_flood_of_first_packets_costs_no_state_and_draws_few_answers() {
    let setup = Setup::default();
    let start = Instant::now();
    let mut door = Door::new(start, setup.responder_config(), [1; 32]);
    let packets = first_packets(2_000);
    let (mut answered, mut replayed, mut limited) = (0, 0, 0);

    for round in 0..50 {
        for packet in &packets {
            let now = start + Duration::from_millis(20 * round);
            let mut reply = Vec::new();
            match door.route(now, &path(RIGHT, LEFT), &mut packet.clone(), &mut reply) {
                Route::Reply => {
                    answered += 1;
                    // The shortest answer that the format has.
                    assert!(reply.len() <= packet.len() + 12);
                }
                Route::Discard(Discard::Replayed) => replayed += 1,
                Route::Discard(Discard::RateLimited) => limited += 1,
                other => panic!("{other:?}"),
            }
        }
    }

    // A hundred a second, and as many at once at first.
    assert!((100..=210).contains(&answered), "{answered} answers to 100,000 packets");
    assert_eq!(answered + replayed + limited, 100_000);
    assert!(limited + replayed > 99_000);
}

#[test]
fn what_the_door_does_not_know_draws_no_answer() {
    let setup = Setup::default();
    let now = Instant::now();
    let mut door = Door::new(now, setup.responder_config(), [1; 32]);
    let good = first_packets(1).remove(0);
    let mut reply = Vec::new();

    for len in 0..good.len() {
        let route = door.route(now, &path(RIGHT, LEFT), &mut good[..len].to_vec(), &mut reply);
        assert!(matches!(route, Route::Discard(_)), "{len} bytes: {route:?}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let route = door.route(now, &path(RIGHT, LEFT), &mut bytes, &mut reply);
            assert!(matches!(route, Route::Discard(_)), "byte {at} bit {bit}: {route:?}");
        }
    }
    assert!(reply.is_empty());
}
