//! Both ends on one stream: ordered, without loss, until it is cut.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::{Setup, judge, packet};
use contract::{
    Acceptor, Carrier, Claim, Command, Event, Farewell, Fatal, Input, Path, PortId, SessionId,
    StreamId, TunnelKey,
};
use openvpn::{Cipher, Door, Session, claims};
use simnet::{LEFT, Node, Pair, Peer, RIGHT, Server, Surroundings, path};

const STREAM: StreamId = StreamId(7);

/// A node whose wire is a stream.
struct OnStream<N>(N);

impl<N: Node> Node for OnStream<N> {
    fn set_time(&mut self, now: Instant) {
        self.0.set_time(now);
    }

    fn receive(&mut self, path: Path, datagram: &mut [u8]) {
        self.0.receive(on_stream(path), datagram);
    }

    fn advance(&mut self) {
        self.0.advance();
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.0.deadline()
    }

    fn is_asking(&self) -> bool {
        self.0.is_asking()
    }

    fn take_sent(&mut self) -> Vec<(Path, Vec<u8>)> {
        let sent = self.0.take_sent();
        assert!(sent.iter().all(|(path, _)| path.carrier == Carrier::Stream(STREAM)));
        sent
    }
}

fn on_stream(path: Path) -> Path {
    Path { carrier: Carrier::Stream(STREAM), ..path }
}

fn classify(_: &Path, bytes: &[u8]) -> Option<TunnelKey> {
    let head = *bytes.first()?;
    matches!(head >> 3, 6 | 9)
        .then_some(TunnelKey::OpenVpnStream { stream: STREAM, key_id: head & 7 })
}

type Link = Pair<OnStream<Peer<Session>>, OnStream<Server<Door>>>;

fn connected(setup: &Setup) -> Link {
    let path = on_stream(path(LEFT, RIGHT));
    let config = setup.initiator_config();
    let session = Session::initiator(Instant::now(), config, path, PortId(1), [3; 32]);
    let surroundings =
        Surroundings::new(|_, _| contract::Answer::Configured(Ok(()))).classifying(classify);
    let client = Peer::new(session, PortId(1), surroundings);

    let door = Door::new(Instant::now(), setup.responder_config(), [5; 32]);
    let surroundings =
        Surroundings::new(|_, ask| judge(None, &Setup::default().grant, ask)).classifying(classify);
    let mut server = Server::new(door, surroundings);
    server.reply_excess = 12;

    let mut pair = Pair::new(OnStream(client), OnStream(server));
    pair.left.0.command(Command::Connect);
    let is_up = |pair: &Link| {
        pair.left.0.driven.is_up() && pair.right.0.sessions.values().any(simnet::Driven::is_up)
    };
    assert!(pair.run_until(is_up, Duration::from_secs(30)), "{}", pair.narrate());
    pair
}

fn assert_carries(pair: &mut Link) {
    let port = pair.right.0.only().port;
    let (left, right) = (pair.left.0.driven.packets.len(), pair.right.0.only().packets.len());
    pair.left.0.send_packet(&packet(1)).unwrap();
    pair.right.0.send_packet(port, &packet(2)).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.left.0.driven.packets[left..], [packet(2)]);
    assert_eq!(pair.right.0.only().packets[right..], [packet(1)]);
}

fn on_its_stream(key: &TunnelKey) -> bool {
    matches!(key, TunnelKey::OpenVpnStream { stream: STREAM, .. })
}

#[test]
fn keys_belong_to_the_stream_at_both_ends_whatever_the_peer_id() {
    for is_before_2_6 in [false, true] {
        let mut pair = connected(&Setup { is_before_2_6, ..Setup::default() });

        assert_carries(&mut pair);

        for keys in [pair.left.0.ledger.keys(), pair.right.0.ledger.keys()] {
            assert!(!keys.is_empty() && keys.iter().all(on_its_stream), "{keys:?}");
        }
    }
}

#[test]
fn keys_are_renewed_on_a_stream() {
    let ciphers = vec![Cipher::Aes128Cbc];
    let mut pair = connected(&Setup {
        renegotiate: Some(Duration::from_secs(20)),
        client_ciphers: ciphers,
        ..Setup::default()
    });

    pair.run(Duration::from_secs(60));

    let rekeyed = pair.right.0.only().events.iter().filter(|event| **event == Event::Rekeyed);
    assert_eq!(rekeyed.count(), 2);
    assert_carries(&mut pair);
}

#[test]
fn a_stream_that_is_cut_takes_both_sessions_with_it() {
    let mut pair = connected(&Setup::default());
    let session = *pair.right.0.sessions.keys().next().unwrap();
    let cut = |stream| Input::StreamClosed { stream };

    pair.left.0.feed(cut(StreamId(8)));
    pair.right.0.feed(session, cut(StreamId(8)));
    assert_carries(&mut pair);

    pair.left.0.feed(cut(STREAM));
    pair.right.0.feed(session, cut(STREAM));
    pair.run(Duration::from_secs(1));

    assert_eq!(pair.left.0.driven.fatal, Some(Fatal::PeerGone));
    assert!(pair.right.0.sessions.is_empty());
    assert!(pair.left.0.ledger.is_empty() && pair.right.0.ledger.is_empty());
    assert_eq!(pair.left.0.deadline(), None, "nothing lingers");
}

#[test]
fn a_peer_that_closes_on_a_farewell_has_heard_it() {
    let mut pair = connected(&Setup::default());
    let session: SessionId = *pair.right.0.sessions.keys().next().unwrap();

    pair.right.0.feed(session, Input::Command(Command::Disconnect(Farewell::Kicked)));
    pair.right.0.feed(session, Input::StreamClosed { stream: STREAM });

    let (_, ended) = pair.right.0.ended.pop().unwrap();
    assert!(matches!(ended.fatal, Some(Fatal::Finished(_))), "{:?}", ended.fatal);
}

#[test]
fn the_first_bytes_decide_whose_a_connection_is() {
    let claimed = |bytes: &[u8]| claims(bytes);
    for (opcode, len) in [(7, 14_u16), (7, 54), (10, 351), (10, 1400)] {
        let [high, low] = len.to_be_bytes();
        assert_eq!(claimed(&[high, low, opcode << 3]), Claim::Yes);
        assert_eq!(claimed(&[high, low]), Claim::NeedMore);
        assert_eq!(claimed(&[high]), Claim::NeedMore);
    }
    assert_eq!(claimed(&[]), Claim::NeedMore);
    // TLS, HTTP, SSH; too short, too long, another generation, another packet.
    for other in [
        &[0x16, 3, 1][..],
        b"GET",
        b"SSH",
        &[0, 13, 7 << 3],
        &[5, 0x79, 7 << 3],
        &[0, 14, 7 << 3 | 1],
        &[0, 14, 4 << 3],
    ] {
        assert_eq!(claimed(other), Claim::No, "{other:x?}");
    }
    let door = Door::new(Instant::now(), Setup::default().responder_config(), [5; 32]);
    assert_eq!(door.claims(&[0, 14, 7 << 3]), Claim::Yes);
}
