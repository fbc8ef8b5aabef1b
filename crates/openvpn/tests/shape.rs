//! What is agreed about compression, and that fragments survive a session.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Setup, packet};
use contract::{Event, Fatal};
use openvpn::{Framing, ShapeRules, SizeLimit};

fn carries(pair: &mut common::Link) {
    let port = pair.right.only().port;
    pair.left.send_packet(&packet(1)).unwrap();
    pair.right.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.driven.packets, [packet(2)]);
    assert_eq!(pair.right.only().packets, [packet(1)]);
}

fn remarks(events: &[Event]) -> String {
    let text = |event: &Event| match event {
        Event::Remark(text) => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_client_that_would_compress_is_told_not_to_and_carries_packets() {
    for framing in [Framing::Lzo, Framing::Stub, Framing::Lz4, Framing::StubV2, Framing::Lz4V2] {
        let setup = Setup { client_framing: Some(framing), decompresses: true, ..Setup::default() };
        let mut pair = setup.connected();

        carries(&mut pair);

        let said = remarks(&pair.left.driven.events);
        assert!(said.contains("compress stub-v2"), "{framing:?}: {said}");
    }
}

#[test]
fn a_client_that_would_compress_is_turned_away_unless_that_is_allowed() {
    let setup = Setup { client_framing: Some(Framing::Lzo), ..Setup::default() };
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(10));

    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Denied(_))), "{:?}", pair.left.driven);
    let said = remarks(&pair.left.driven.events);
    assert!(said.contains("compression is not allowed here"), "{said}");
}

#[test]
fn a_client_without_compression_notices_nothing_of_all_this() {
    let setup = Setup { decompresses: true, ..Setup::default() };
    let mut pair = setup.connected();

    carries(&mut pair);

    assert_eq!(remarks(&pair.left.driven.events), "");
}

#[test]
fn both_ends_put_fragment_headers_around_whole_packets() {
    let shape = ShapeRules {
        fragment: Some(SizeLimit::Payload(1300)),
        mssfix: Some(SizeLimit::Payload(1300)),
        mtu: 1420,
        framing: None,
    };
    let mut pair = Setup { shape, ..Setup::default() }.connected();

    carries(&mut pair);

    // A quiet minute: the pings have the header, too.
    pair.run(Duration::from_secs(180));
    assert!(pair.left.driven.fatal.is_none() && pair.right.only().fatal.is_none());
}
