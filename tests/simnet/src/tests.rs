mod toy;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use contract::{
    Answer, Command, ContentKind, DataPlaneOp, Discard, Event, Exit, Farewell, Lease, PortId,
    TunnelKey, Via,
};

use self::toy::{Caller, Door, INNER, KEY, ToyTunnel};
use crate::ledger::Content;
use crate::{Fate, LEFT, Ledger, Link, Pair, Peer, RIGHT, Server, Side, Surroundings, path};

type ToyPair = Pair<Peer<Caller>, Server<Door>>;

const PORT: PortId = PortId(77);

/// The port of a tunnel inside the one of [`PORT`].
const CALL: PortId = PortId(78);

fn pair() -> ToyPair {
    pair_answering_after(Duration::ZERO)
}

fn pair_answering_after(delay: Duration) -> ToyPair {
    let caller = Caller::new(path(LEFT, RIGHT), PORT);
    let left = Peer::new(caller, PORT, Surroundings::silent().classifying(toy::classify));
    let attach = |_, _: &_| Answer::Attached(Ok(Lease::default()));
    let world = Surroundings::new(attach).answering_after(delay).classifying(toy::classify);
    Pair::new(left, Server::new(Door::default(), world))
}

fn connected() -> ToyPair {
    let mut pair = pair();
    pair.left.command(Command::Connect);
    assert!(pair.run_until(|pair| pair.left.driven.is_up(), Duration::from_secs(5)));
    pair
}

#[test]
fn a_session_comes_up_in_four_messages() {
    let mut pair = pair();
    pair.left.command(Command::Connect);

    // hello -->
    pair.deliver(1);
    assert!(pair.right.sessions.is_empty(), "state for a stranger");

    // <-- cookie
    pair.deliver(1);

    // hello with the cookie -->
    pair.deliver(1);
    assert!(pair.right.only().is_up());

    // <-- welcome
    pair.deliver(1);
    assert!(pair.left.driven.is_up());
    assert!(pair.is_quiet());
    assert_eq!(pair.elapsed(), Duration::from_millis(80));
    assert_eq!(pair.left.ledger.keys(), [KEY]);
    assert_eq!(pair.right.ledger.exit(PortId(1)), Some(Exit::Tunnel(KEY)));
    assert_eq!(pair.deadlines(), [Some("ping"), None]);
}

#[test]
fn packets_travel_through_the_installed_tunnels() {
    let mut pair = connected();

    pair.left.send_packet(b"there").unwrap();
    pair.right.send_packet(PortId(1), b"and back").unwrap();
    pair.deliver(2);

    assert_eq!(pair.right.only().packets, [b"there"]);
    assert_eq!(pair.left.driven.packets, [b"and back"]);
    let wire = pair.capture.last().unwrap();
    assert_ne!(&wire.bytes[2..], b"and back", "sent in the clear");
}

#[test]
fn control_inside_the_tunnel_reaches_the_engine() {
    let mut pair = connected();

    pair.run(Duration::from_secs(10));

    assert!(pair.right.only().events.contains(&Event::Remark("ping".into())), "{pair:?}");
}

#[test]
fn a_late_answer_arrives_on_time_and_once() {
    let mut pair = pair_answering_after(Duration::from_secs(2));
    pair.left.command(Command::Connect);

    pair.run(Duration::from_secs(1));
    assert!(!pair.is_quiet() && !pair.right.only().is_up());

    pair.run(Duration::from_millis(1100));
    assert!(pair.left.driven.is_up());
    let ups = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Up(_))).count();
    assert_eq!(ups(&pair.right.only().events), 1);
}

#[test]
fn a_bad_link_is_the_same_in_every_run_and_another_with_every_seed() {
    let story = |seed| {
        let mut pair = pair().with_link(Link::awful(seed, 30));
        pair.left.command(Command::Connect);
        pair.run(Duration::from_secs(30));
        pair.capture.iter().map(|sent| (sent.at, sent.fate)).collect::<Vec<_>>()
    };

    assert_eq!(story(3), story(3));
    assert_ne!(story(3), story(4));
}

#[test]
fn every_kind_of_weather_happens_and_no_session_hangs() {
    let mut fates = Vec::new();
    let mut up = 0;
    for seed in 0..200 {
        let mut pair = pair().with_link(Link::awful(seed, 30));
        pair.left.command(Command::Connect);
        pair.run(Duration::from_secs(60));

        let driven = &pair.left.driven;
        assert!(driven.is_up() || driven.fatal.is_some(), "seed {seed}:\n{}", pair.narrate());
        up += usize::from(driven.is_up());
        fates.extend(pair.capture.iter().map(|sent| sent.fate));
    }

    // Five tries of four messages through 30 % loss.
    assert!((120..200).contains(&up), "{up} of 200 came up");
    for fate in [Fate::Whole, Fate::Damaged, Fate::Twice, Fate::Lost] {
        assert!(fates.contains(&fate), "never {fate:?}");
    }
}

#[test]
fn jitter_reorders() {
    let mut pair = connected();
    pair.link.jitter = Duration::from_millis(50);

    for n in 0..50 {
        pair.left.send_packet(&[n]).unwrap();
    }
    pair.run(Duration::from_secs(1));

    let arrived = &pair.right.only().packets;
    assert_eq!(arrived.len(), 50);
    assert!(!arrived.is_sorted());
}

#[test]
fn damaged_data_is_dropped_and_counted() {
    let mut pair = connected();
    pair.link.corruption = 100;

    pair.left.send_packet(b"whole").unwrap();
    pair.deliver(1);

    assert!(pair.right.only().packets.is_empty());
    assert_eq!(pair.right.discards.len(), 1);
}

#[test]
fn a_rebound_peer_is_found_again() {
    let mut pair = connected();
    let elsewhere = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 9), 5555));

    pair.rebind_left(elsewhere);
    pair.right.send_packet(PortId(1), b"lost").unwrap();
    pair.left.send_packet(b"hello from elsewhere").unwrap();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.sent_by(Side::Right).last().unwrap().fate, Fate::Unreachable);
    pair.right.send_packet(PortId(1), b"found").unwrap();
    pair.run(Duration::from_millis(100));

    assert_eq!(pair.left.driven.packets, [b"found"]);
    assert!(pair.right.only().events.contains(&Event::Moved(path(RIGHT, elsewhere))));
}

#[test]
fn a_filter_takes_exactly_what_it_names() {
    let mut pair = pair();
    pair.filter(|sent| sent.from == Side::Left || sent.at > Duration::from_secs(2));
    pair.left.command(Command::Connect);

    pair.run(Duration::from_secs(2));
    assert!(pair.sent_by(Side::Right).all(|sent| sent.fate == Fate::Filtered));
    assert!(!pair.left.driven.is_up());

    pair.unfilter();
    assert!(pair.run_until(|pair| pair.left.driven.is_up(), Duration::from_secs(5)));
}

#[test]
fn a_replayed_datagram_is_refused_by_the_tunnel() {
    let mut pair = connected();
    pair.left.send_packet(b"once").unwrap();
    pair.deliver(1);
    let copy = pair.sent_by(Side::Left).last().unwrap().bytes.clone();

    pair.inject(Side::Right, LEFT, copy);
    pair.deliver(1);

    assert_eq!(pair.right.only().packets, [b"once"]);
    assert_eq!(pair.right.discards, [Discard::Replayed]);
}

#[test]
fn a_farewell_ends_both_sides_and_leaves_nothing_installed() {
    let mut pair = connected();

    pair.left.command(Command::Disconnect(Farewell::Shutdown));
    pair.run(Duration::from_secs(1));

    assert!(pair.left.driven.fatal.is_some());
    assert!(pair.right.sessions.is_empty() && pair.right.ended.len() == 1);
    assert!(pair.right.acceptor.known.is_empty(), "the acceptor was not told");
    assert!(pair.left.ledger.is_empty() && pair.right.ledger.is_empty());
}

#[test]
fn a_peer_without_an_answer_gives_up() {
    let mut pair = pair().with_link(Link::lossy(1, 100));
    pair.left.command(Command::Connect);

    let gave_up = pair.run_until(|pair| pair.left.driven.fatal.is_some(), Duration::from_secs(60));

    assert!(gave_up);
    assert_eq!(pair.sent_by(Side::Left).count(), 5);
    assert!(!pair.run_until(|pair| pair.left.driven.is_up(), Duration::from_secs(60)));
}

#[test]
#[should_panic(expected = "time stands still")]
fn an_engine_that_is_always_due_is_a_failure() {
    let mut pair = pair();
    pair.left.driven.engine.is_stuck = true;
    pair.left.command(Command::Connect);

    pair.run(Duration::from_secs(1));
}

#[test]
#[should_panic(expected = "an amplifier")]
fn a_reply_larger_than_the_request_is_a_failure() {
    let mut pair = pair();
    pair.right.acceptor.cookie_len = 100;
    pair.left.command(Command::Connect);

    pair.run(Duration::from_secs(1));
}

/// A ledger with a tunnel inside the tunnel of [`PORT`], which belongs to `association`.
fn nested(association: PortId) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.apply(ToyTunnel::install(PORT, path(LEFT, RIGHT)));
    ledger.apply(DataPlaneOp::SendVia { port: PORT, exit: Exit::Tunnel(KEY) });
    ledger.apply(DataPlaneOp::Install {
        key: INNER,
        port: CALL,
        via: Via::Port(association),
        tunnel: Arc::new(ToyTunnel::default()),
    });
    ledger.apply(DataPlaneOp::SendVia { port: CALL, exit: Exit::Tunnel(INNER) });
    ledger
}

#[test]
fn a_tunnel_inside_a_tunnel_is_sealed_and_opened_twice() {
    let (path, mut datagram) = nested(PORT).seal(CALL, ContentKind::Packet, b"deep").unwrap();

    let arrived = nested(PORT).open(path, KEY, &mut datagram).unwrap();

    assert_eq!(arrived.port, CALL);
    assert!(matches!(arrived.content, Content::Packet(packet) if packet == b"deep"));
}

#[test]
fn an_inner_key_is_worth_nothing_outside_its_association() {
    let seal = || nested(PORT).seal(CALL, ContentKind::Packet, b"deep").unwrap();

    let (path, mut datagram) = seal();
    let elsewhere = nested(PortId(1)).open(path, KEY, &mut datagram);
    assert_eq!(elsewhere.unwrap_err(), Discard::SpoofedSource);

    let (path, mut datagram) = seal();
    let in_the_clear = nested(PORT).open(path, INNER, &mut datagram);
    assert_eq!(in_the_clear.unwrap_err(), Discard::SpoofedSource);
}

#[test]
#[should_panic(expected = "told to send with")]
fn sending_with_somebody_elses_tunnel_is_a_failure() {
    let mut ledger = Ledger::default();
    ledger.apply(ToyTunnel::install(PORT, path(LEFT, RIGHT)));

    ledger.apply(DataPlaneOp::SendVia { port: PortId(1), exit: Exit::Tunnel(KEY) });
}

#[test]
#[should_panic(expected = "removed, not installed")]
fn removing_what_is_not_there_is_a_failure() {
    Ledger::default()
        .apply(DataPlaneOp::Remove { port: PortId(1), key: TunnelKey::WireGuard { receiver: 1 } });
}
