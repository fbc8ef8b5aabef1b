//! Streams, and sockets with something in front of every datagram.

use super::*;
use crate::classify::StreamKind;
use crate::framing::framed;

const STREAM: StreamId = StreamId(7);
const KIND: StreamKind = StreamKind::OpenVpn { mtu: MTU };
const RELAYED: SocketId = SocketId(3);
const RELAY_HEAD: [u8; 10] = [0, 0, 0, 1, 192, 0, 2, 1, 4, 170];

fn stream_path(stream: StreamId) -> Path {
    Path { carrier: Carrier::Stream(stream), ..path(CAROL) }
}

fn stream_key(stream: StreamId) -> TunnelKey {
    TunnelKey::OpenVpnStream { stream, key_id: 0 }
}

/// Carol is on a stream.
fn with_a_stream() -> Lab {
    let mut lab = two_sessions();
    lab.worker.apply(Op::AddStream { stream: STREAM, kind: KIND, reader: 0 });
    lab.install_at(stream_key(STREAM), CAROL, stream_path(STREAM));
    lab
}

impl Lab {
    fn install_at(&mut self, key: TunnelKey, host: u8, path: Path) {
        let (port, via) = (PortId(host.into()), Via::Path(path));
        let tunnel = Arc::new(Tagged(host));
        self.worker.apply(Op::DataPlane(DataPlaneOp::Install { key, port, via, tunnel }));
        let exit = Exit::Tunnel(key);
        self.worker.apply(Op::DataPlane(DataPlaneOp::SendVia { port, exit }));
    }

    fn streams(&mut self, stream: StreamId, messages: &[Vec<u8>]) {
        let framing = KIND.framing();
        let mut bytes =
            messages.iter().flat_map(|message| framed(framing, message)).collect::<Vec<_>>();
        let mut messages = framing.cut(&mut bytes);
        self.worker.on_stream(now(), stream_path(stream), &mut messages, &mut self.outside);
    }
}

#[test]
fn a_session_on_a_stream_reaches_the_host_and_its_neighbours() {
    let mut lab = with_a_stream();
    let to_alice = tagged(CAROL, &packet(CAROL, ALICE));

    // The peer-id in the packet is somebody else's: on a stream it says nothing.
    lab.streams(STREAM, &[tagged(ALICE, &packet(CAROL, WORLD)), to_alice]);

    assert_eq!(lab.outside.tun.plain(), [packet(CAROL, WORLD)]);
    assert_eq!(lab.sent().len(), 1);
    assert_eq!(lab.counted(CAROL), (2, 240, 0, 0));
}

#[test]
fn what_leaves_on_a_stream_has_its_length_in_front() {
    let mut lab = with_a_stream();
    let whole = Blueprint { payload: vec![9; 2000], ..Blueprint::tcp(WORLD, CAROL) };

    lab.host_sends(virtio(true, 1, [40, 1200, 20, 16]), whole.build_unsummed());
    lab.sends(ALICE, &[packet(ALICE, CAROL)]);
    lab.worker.send_control(now(), PortId(CAROL.into()), b"ping", &mut lab.outside);

    lab.worker.flush(&mut lab.outside);
    let (to, _, mut bytes) = lab.outside.batches.pop().unwrap();
    assert!(lab.outside.batches.is_empty(), "one batch, whatever the sizes");
    assert_eq!(to, stream_path(STREAM));
    let mut messages = KIND.framing().cut(&mut bytes);
    let sizes = messages.by_ref().map(|message| message.len()).collect::<Vec<_>>();
    assert_eq!((sizes, messages.rest()), (vec![1244, 844, 124, 8], Ok(&[][..])));
}

#[test]
fn a_stalled_stream_costs_its_own_packets_only() {
    let mut lab = with_a_stream();
    lab.outside.choked = Some(Carrier::Stream(STREAM));
    let whole = Blueprint { payload: vec![9; 3000], ..Blueprint::tcp(WORLD, CAROL) };

    lab.host_sends(virtio(true, 1, [40, 1200, 20, 16]), whole.build_unsummed());
    lab.sends(ALICE, &[packet(ALICE, CAROL)]);
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));
    lab.worker.send_control(now(), PortId(CAROL.into()), b"ping", &mut lab.outside);

    assert_eq!(lab.discarded(Discard::NoBuffer), 4);
    assert_eq!(lab.sent().len(), 2, "a neighbour's packet, and the engine's message");
    assert_eq!(lab.counted(CAROL), (0, 0, 0, 0));
}

#[test]
fn keys_of_one_carrier_open_nothing_on_another() {
    let mut lab = with_a_stream();
    lab.worker.apply(Op::AddStream { stream: StreamId(8), kind: KIND, reader: 0 });
    // As if an engine had mixed something up.
    lab.install_at(stream_key(StreamId(8)), BOB, path(BOB));
    lab.install_at(key(ALICE), ALICE, stream_path(STREAM));

    lab.streams(StreamId(8), &[tagged(BOB, &packet(BOB, WORLD))]);
    lab.sends(ALICE, &[packet(ALICE, WORLD)]);

    assert!(lab.outside.tun.written.is_empty() && lab.outside.punts.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 2);
}

#[test]
fn control_on_a_stream_reaches_the_control_plane_until_the_stream_is_gone() {
    let mut lab = with_a_stream();

    lab.streams(STREAM, &[vec![7 << 3, 1]]);
    lab.worker.apply(Op::RemoveStream(STREAM));
    lab.streams(STREAM, &[vec![7 << 3, 2]]);
    lab.host_sends(vec![0; 10], packet(WORLD, CAROL));

    assert_eq!(lab.outside.punts, ["datagram from 192.0.2.3:1194: [56, 1]"]);
    assert_eq!((lab.discarded(Discard::NoTunnel), lab.discarded(Discard::NoRoute)), (1, 1));
    assert!(lab.sent().is_empty());
}

#[test]
fn a_relays_head_is_in_front_of_every_datagram() {
    let mut lab = two_sessions();
    let prefix = Prefix::new(&RELAY_HEAD, 4);
    lab.worker.apply(Op::AddSocket(RELAYED, SocketKind::OpenVpnResponder, prefix));
    let relayed = Path { carrier: Carrier::Udp(RELAYED), ..path(CAROL) };
    lab.install_at(key(CAROL), CAROL, relayed);
    let with_head = |bytes: &[u8]| [&RELAY_HEAD[..], bytes].concat();

    lab.arrive(relayed, &with_head(&tagged(CAROL, &packet(CAROL, WORLD))));
    lab.arrive(relayed, &with_head(&[7 << 3, 9]));
    lab.arrive(relayed, &tagged(CAROL, &packet(CAROL, WORLD)));
    lab.host_sends(vec![0; 10], packet(WORLD, CAROL));

    assert_eq!(lab.outside.tun.plain(), [packet(CAROL, WORLD)]);
    assert_eq!(lab.outside.punts, ["datagram from 192.0.2.3:1194: [56, 9]"]);
    assert_eq!(lab.discarded(Discard::Malformed), 1);
    let expected = with_head(&tagged(CAROL, &packet(WORLD, CAROL)));
    assert_eq!(lab.sent(), [(relayed, expected)]);
}
