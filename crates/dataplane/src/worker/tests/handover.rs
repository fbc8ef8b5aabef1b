//! Several workers, and one sender for each peer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use super::*;
use crate::classify::StreamKind;
use crate::framing::framed;
use crate::handover::{Handover, Home};

/// What a numbered tunnel puts in front: the header, and the number.
const NUMBERED: usize = HEAD + 4;
const STREAM: StreamId = StreamId(7);
const KIND: StreamKind = StreamKind::OpenVpn { mtu: MTU };

/// Gives every packet a number, as a key does.
#[derive(Debug)]
struct Numbered(u8, AtomicU32);

impl Tunnel for Numbered {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: NUMBERED, tail: 0 }
    }

    fn seal(&self, _: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
        out[..HEAD].copy_from_slice(&[9 << 3, 0, 0, self.0]);
        out[HEAD..NUMBERED].copy_from_slice(&self.1.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        match datagram.get_mut(NUMBERED..) {
            None => Err(Discard::Malformed),
            Some([]) => Ok(Opened::KeepAlive),
            Some(inner) if self.0 == 100 => Ok(Opened::Inner(key(inner[3]), inner)),
            Some(content) => Ok(Opened::Packet(content)),
        }
    }
}

/// Workers that know the same peers, and all that has left, in the order in which it did.
struct House {
    workers: Vec<Lab>,
    wire: Vec<(Path, Vec<u8>)>,
}

fn house(workers: usize) -> House {
    let mut labs = (0..workers).map(|_| two_sessions()).collect::<Vec<_>>();
    if workers > 1 {
        let mesh = Handover::mesh(vec![Waker::noop().clone(); workers]);
        labs.iter_mut().zip(mesh).for_each(|(lab, handover)| lab.worker.join(handover));
    }
    let mut house = House { workers: labs, wire: Vec::new() };
    for host in [ALICE, BOB] {
        house.install(host, host.into(), Via::Path(path(host)));
    }
    house
}

impl House {
    fn order(&mut self, op: impl Fn() -> Op) {
        self.workers.iter_mut().for_each(|lab| lab.worker.apply(op()));
    }

    /// A new port whose peer is at `via`, known to all workers.
    fn install(&mut self, tag: u8, port: u32, via: Via) {
        self.install_at(key(tag), tag, port, via);
    }

    fn install_at(&mut self, key: TunnelKey, tag: u8, port: u32, via: Via) {
        let (home, port) = (Arc::<Home>::default(), PortId(port));
        let tunnel: Arc<dyn Tunnel> = Arc::new(Numbered(tag, AtomicU32::new(1)));
        self.order(|| Op::Count { port, counters: Arc::default(), home: Arc::clone(&home) });
        self.order(|| {
            let tunnel = Arc::clone(&tunnel);
            Op::DataPlane(DataPlaneOp::Install { key, port, via, tunnel })
        });
        let exit = Exit::Tunnel(key);
        self.order(|| Op::DataPlane(DataPlaneOp::SendVia { port, exit }));
    }

    /// The peer is heard at this worker.
    fn hears(&mut self, at: usize, host: u8, content: &[u8]) {
        self.workers[at].arrive(path(host), &numbered(host, content));
    }

    fn host_sends(&mut self, at: usize, to: u8) {
        self.workers[at].host_sends(vec![0; 10], packet(WORLD, to));
    }

    fn flush(&mut self, at: usize) {
        let sent = self.workers[at].sent();
        self.wire.extend(sent);
    }

    /// A turn of the worker in which it hears nothing itself.
    fn turn(&mut self, at: usize) -> usize {
        let lab = &mut self.workers[at];
        let count = lab.worker.take_over(now(), &mut lab.outside);
        self.flush(at);
        count
    }

    /// The numbers that have left for a peer, in the order in which they did.
    fn numbers(&self, tag: u8) -> Vec<u32> {
        let own = self.wire.iter().filter(|(_, datagram)| datagram[3] == tag);
        own.map(|(_, datagram)| number(&datagram[HEAD..])).collect()
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().unwrap())
}

fn numbered(tag: u8, content: &[u8]) -> Vec<u8> {
    tagged(tag, &[&[0; 4], content].concat())
}

fn to(count: u32) -> Vec<u32> {
    (1..=count).collect()
}

#[test]
fn the_numbers_of_a_peer_leave_in_order_whoever_has_something_for_it() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);
    let rounds = 20;

    for _ in 0..rounds {
        house.hears(0, ALICE, &packet(ALICE, BOB));
        let whole = Blueprint { payload: vec![9; 3000], ..Blueprint::tcp(WORLD, BOB) };
        let virtio = virtio(true, 1, [40, 1200, 20, 16]);
        house.workers[0].host_sends(virtio, whole.build_unsummed());
        house.host_sends(1, BOB);
        let lab = &mut house.workers[0];
        lab.worker.send_control(now(), PortId(BOB.into()), b"ping", &mut lab.outside);
        // What was taken in first leaves last.
        house.flush(1);
        house.flush(0);
        house.turn(1);
    }

    assert_eq!(house.numbers(BOB), to(rounds * 6));
}

#[test]
fn what_was_handed_over_is_what_arrives() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);

    house.hears(0, ALICE, &packet(ALICE, BOB));
    house.host_sends(0, BOB);
    house.flush(0);
    assert!(house.wire.is_empty());
    assert_eq!(house.turn(1), 2);

    let forwarded =
        Blueprint { ttl: 63, payload: vec![7; 80], ..Blueprint::tcp(ALICE, BOB) }.build();
    let contents = house.wire.iter().map(|(path, datagram)| (*path, datagram[NUMBERED..].to_vec()));
    let expected = [(path(BOB), forwarded), (path(BOB), packet(WORLD, BOB))];
    assert_eq!(contents.collect::<Vec<_>>(), expected);
}

#[test]
fn a_stream_has_its_sender_before_anybody_has_heard_it() {
    let mut house = house(2);
    let key = TunnelKey::OpenVpnStream { stream: STREAM, key_id: 0 };
    let stream = Path { carrier: Carrier::Stream(STREAM), ..path(CAROL) };
    house.order(|| Op::AddStream { stream: STREAM, kind: KIND, reader: 1 });
    house.install_at(key, CAROL, CAROL.into(), Via::Path(stream));

    for _ in 0..5 {
        house.host_sends(0, CAROL);
        house.host_sends(1, CAROL);
        house.workers.iter_mut().for_each(|lab| lab.worker.flush(&mut lab.outside));
        house.turn(1);
    }

    let sent = house.workers.iter().map(|lab| lab.outside.batches.len()).collect::<Vec<_>>();
    assert_eq!(sent[0], 0);
    let mut bytes = house.wire.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    let messages = KIND.framing().cut(&mut bytes);
    let numbers = messages.map(|message| number(&message[HEAD..])).collect::<Vec<_>>();
    assert_eq!(numbers, to(10));
    assert_eq!(framed(KIND.framing(), &[0; 128]).len() * 10, bytes.len());
}

#[test]
fn a_peer_that_nobody_has_heard_yet_has_one_sender_too() {
    let mut house = house(2);

    house.host_sends(1, BOB);
    house.host_sends(0, BOB);
    house.flush(0);
    house.flush(1);
    house.turn(1);

    assert_eq!(house.numbers(BOB), to(2));
}

#[test]
fn a_peer_that_moves_takes_its_sender_along() {
    let mut house = house(3);
    house.hears(1, BOB, &[]);
    house.host_sends(0, BOB);
    house.flush(0);

    // The worker that it is handed to is no longer the one.
    house.hears(2, BOB, &[]);
    house.host_sends(2, BOB);
    house.flush(2);
    house.turn(1);
    house.turn(2);
    house.host_sends(0, BOB);
    house.flush(0);
    assert_eq!((house.turn(1), house.turn(2)), (0, 1));

    assert_eq!(house.numbers(BOB), to(3));
}

#[test]
fn a_key_that_is_renewed_keeps_its_sender() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);
    let (key, port) = (key(9), PortId(BOB.into()));
    let tunnel: Arc<dyn Tunnel> = Arc::new(Numbered(9, AtomicU32::new(1)));
    house.order(|| {
        let (via, tunnel) = (Via::Path(path(BOB)), Arc::clone(&tunnel));
        Op::DataPlane(DataPlaneOp::Install { key, port, via, tunnel })
    });
    house.order(|| Op::DataPlane(DataPlaneOp::SendVia { port, exit: Exit::Tunnel(key) }));

    house.host_sends(0, BOB);
    house.host_sends(1, BOB);
    house.flush(1);
    house.flush(0);
    house.turn(1);

    assert_eq!(house.numbers(9), to(2));
}

#[test]
fn a_tunnel_inside_another_is_sealed_where_the_outer_one_is() {
    let mut house = house(2);
    house.install(100, 103, Via::Path(path(CAROL)));
    house.install(CAROL, CAROL.into(), Via::Port(PortId(103)));
    let inner = numbered(CAROL, &packet(CAROL, WORLD));
    house.workers[1].arrive(path(CAROL), &numbered(100, &inner));

    for _ in 0..3 {
        house.host_sends(0, CAROL);
        house.host_sends(1, CAROL);
        house.flush(1);
        house.flush(0);
        house.turn(1);
    }

    assert_eq!(house.numbers(100), to(6));
    let inner = house.wire.iter().map(|(_, datagram)| number(&datagram[NUMBERED + HEAD..]));
    assert_eq!(inner.collect::<Vec<_>>(), to(6));
}

#[test]
fn a_sender_that_is_stuck_costs_packets_that_are_counted_and_nothing_later() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);
    let sent = 50_000;

    for _ in 0..sent {
        house.host_sends(0, BOB);
    }
    house.flush(0);
    let dropped = house.workers[0].discarded(Discard::NoBuffer);
    assert!(dropped > 0 && dropped < sent);

    let mut turns = 0;
    while house.turn(1) > 0 {
        turns += 1;
    }
    assert_eq!(house.numbers(BOB), to((sent - dropped) as u32));
    assert!(turns <= 2, "{turns}");
    house.host_sends(0, BOB);
    house.flush(0);
    assert_eq!(house.turn(1), 1);
    assert_eq!(house.workers[0].discarded(Discard::NoBuffer), dropped);
}

#[test]
fn no_turn_is_spent_on_the_neighbours_alone() {
    let mut house = house(4);
    house.hears(3, BOB, &[]);
    for at in 0..3 {
        for _ in 0..50_000 {
            house.host_sends(at, BOB);
        }
        house.flush(at);
    }

    let first = house.turn(3);

    let bytes = first * packet(WORLD, BOB).len();
    assert!(bytes <= 1 << 20, "{bytes}");
    assert!(!house.workers[3].worker.may_sleep());
    while house.turn(3) > 0 {}
    assert!(house.workers[3].worker.may_sleep());
}

#[test]
fn content_for_a_peer_that_has_gone_is_counted() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);
    house.host_sends(0, BOB);
    house.flush(0);

    house.order(|| Op::Forget(PortId(BOB.into())));
    house.turn(1);

    assert!(house.wire.is_empty());
    assert_eq!(house.workers[1].discarded(Discard::NoTunnel), 1);
}

#[test]
fn an_engine_is_told_where_its_messages_leave() {
    let mut house = house(2);
    house.hears(1, BOB, &[]);
    let port = PortId(BOB.into());

    let elsewhere = house.workers.iter().map(|lab| lab.worker.sends_elsewhere(port));

    assert_eq!(elsewhere.collect::<Vec<_>>(), [Some(1), None]);
    assert_eq!(house.workers[0].worker.sends_elsewhere(PortId(77)), None);
}

#[test]
fn a_worker_that_is_alone_hands_nothing_over() {
    let mut house = house(1);
    house.hears(0, BOB, &[]);

    house.host_sends(0, BOB);
    house.flush(0);

    assert_eq!((house.numbers(BOB), house.turn(0)), (to(1), 0));
    assert!(house.workers[0].worker.may_sleep());
    assert_eq!(house.workers[0].worker.sends_elsewhere(PortId(BOB.into())), None);
}
