//! The fast path, end to end and with real ciphers, allocates nothing once it is warm.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use contract::{
    Carrier, ContentKind, DataPlaneOp, Discard, Exit, FabricOp, Layer, Path, Plug, PortId,
    SocketId, StreamId, Tunnel, TunnelKey, Via,
};
use crypto::digest::Hash;
use dataplane::{
    Backlog, Batch, DatagramSink, Handover, Home, Offloads, Op, Punt, Punts, Received, Settings,
    SocketKind, StreamKind, TunIo, Worker, framed,
};
use hub::{Segment, Switch, SwitchPolicy, SwitchSettings};
use openvpn::{Cipher, DataKeys, DataTunnel, KeyId, ShapeRules, Side, StaticKey};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use wire::ethernet::{self, EtherType, Mac};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SOCKET: SocketId = SocketId(0);
const STREAM: StreamId = StreamId(1);
const STREAM_KIND: StreamKind = StreamKind::OpenVpn { mtu: 1420 };
/// What is counted is everybody's.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
const ALICE: u8 = 2;
const BOB: u8 = 3;
/// Carries frames.
const CAROL: u8 = 4;
const OWN: Mac = Mac([2, 0, 0, 0, 0, 0xff]);
/// Payload of every packet, in bytes; 40 more of headers.
const SEGMENT: usize = 1380;

/// Counts what leaves and forgets it.
#[derive(Debug, Default)]
struct Outside {
    written: usize,
    sent: usize,
}

impl TunIo for Outside {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.written += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        Ok(())
    }
}

impl DatagramSink for Outside {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        self.sent += batch.bytes().len();
        Ok(())
    }
}

impl Punts for Outside {
    fn punt(&mut self, punt: Punt<'_>) -> Result<(), Discard> {
        panic!("nothing here is for the control plane: {punt:?}");
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 86, 0, host)
}

fn path(host: u8) -> Path {
    let remote = SocketAddr::new(Ipv4Addr::new(192, 0, 2, host).into(), 40_000);
    Path { local: None, remote, carrier: Carrier::Udp(SOCKET) }
}

fn tunnel(side: Side, host: u8) -> DataTunnel {
    let layer = if host == CAROL { Layer::Ethernet } else { Layer::Ip };
    DataTunnel::new(&DataKeys {
        side,
        key_id: KeyId::FIRST,
        peer_id: Some(host.into()),
        cipher: Cipher::Aes256Gcm,
        digest: Hash::Sha256,
        material: &StaticKey::from_bytes([host; 256]),
        iv_seed: [0; 32],
        layer,
        shape: ShapeRules::default(),
        remote: path(host).remote.ip(),
    })
}

/// A TCP segment, or with more payload a super packet.
fn packet(from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + payload];
    packet[0] = 0x45;
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    packet
}

fn sealed(by: &DataTunnel, packet: &[u8]) -> Vec<u8> {
    let frame = by.frame(ContentKind::Packet, packet.len());
    let mut out = vec![0; frame.head + packet.len() + frame.tail];
    out[frame.head..frame.head + packet.len()].copy_from_slice(packet);
    by.seal(ContentKind::Packet, packet.len(), &mut out).unwrap();
    out
}

/// A super packet as the TUN device delivers it: TSO, checksum left to us.
fn super_packet(to: Ipv4Addr, segments: usize) -> Vec<u8> {
    let mut read = vec![1, 1, 40, 0, 0, 0, 20, 0, 16, 0];
    read[4..6].copy_from_slice(&(SEGMENT as u16).to_le_bytes());
    read.extend(packet(Ipv4Addr::new(198, 51, 100, 1), to, segments * SEGMENT));
    read
}

fn worker() -> Worker<Switch> {
    worker_at(&Default::default())
}

/// A worker for peers with these homes.
fn worker_at(homes: &[Arc<Home>; 3]) -> Worker<Switch> {
    let switch = Switch::new(SwitchSettings {
        subnets: vec!["10.86.0.0/16".parse().unwrap()],
        gateways: vec![IpAddr::V4(address(1))],
        host_mtu: 1420,
        policy: Arc::new(SwitchPolicy::new(true)),
        on_bridge: Vec::new(),
        groups: Vec::new(),
        segment: Arc::new(Segment::new(OWN, 1, Instant::now())),
    });
    let settings = Settings {
        gateway4: Some(address(1)),
        gateway6: None,
        offloads: Offloads { gso: true, uso: true },
        layer: Layer::Ip,
    };
    let mut worker = Worker::new(switch, &settings);
    worker.apply(Op::AddSocket(SOCKET, SocketKind::OpenVpnResponder, None));
    for (host, home) in [ALICE, BOB, CAROL].into_iter().zip(homes) {
        let layer = if host == CAROL { Layer::Ethernet } else { Layer::Ip };
        let port = PortId(host.into());
        let key = TunnelKey::OpenVpn { peer: host.into(), key_id: 0 };
        let tunnel = Arc::new(tunnel(Side::Responder, host));
        let prefixes = vec![IpAddr::V4(address(host)).into()];
        let (counters, home) = (Arc::default(), Arc::clone(home));
        worker.apply(Op::Count { port, counters, home });
        worker.apply(Op::DataPlane(DataPlaneOp::Install {
            key,
            port,
            via: Via::Path(path(host)),
            tunnel,
        }));
        worker.apply(Op::DataPlane(DataPlaneOp::SendVia { port, exit: Exit::Tunnel(key) }));
        let user = format!("user {host}").into();
        worker.apply(Op::Fabric(FabricOp::Plug(Plug { port, prefixes, mtu: 1420, layer, user })));
    }
    worker
}

#[test]
fn a_warm_worker_allocates_nothing_per_message_of_a_stream() {
    let _alone = ALONE.lock().unwrap();
    let mut worker = worker();
    let port = PortId(ALICE.into());
    let path = Path { carrier: Carrier::Stream(STREAM), ..path(ALICE) };
    let key = TunnelKey::OpenVpnStream { stream: STREAM, key_id: 0 };
    let responder = Arc::new(tunnel(Side::Responder, ALICE));
    worker.apply(Op::AddStream { stream: STREAM, kind: STREAM_KIND, reader: 0 });
    let install = DataPlaneOp::Install { key, port, via: Via::Path(path), tunnel: responder };
    worker.apply(Op::DataPlane(install));
    worker.apply(Op::DataPlane(DataPlaneOp::SendVia { port, exit: Exit::Tunnel(key) }));

    let mut outside = Outside::default();
    let alice = tunnel(Side::Initiator, ALICE);
    let world = Ipv4Addr::new(198, 51, 100, 1);
    let framing = STREAM_KIND.framing();
    let rounds = 60;
    let mut batches = (0..rounds)
        .map(|_| {
            let packets = (0..20).map(|_| sealed(&alice, &packet(address(ALICE), world, SEGMENT)));
            let bytes = packets.flat_map(|packet| framed(framing, &packet)).collect::<Vec<_>>();
            (bytes, super_packet(address(ALICE), 30))
        })
        .collect::<Vec<_>>();
    let (mut backlog, mut tail) = (Backlog::default(), Vec::new());
    let now = Instant::now();
    let mut turn = |worker: &mut Worker<Switch>, (bytes, from_host): &mut (Vec<u8>, Vec<u8>)| {
        let whole = bytes.len();
        let mut messages = framing.cut(&mut bytes[..whole - 9]);
        assert_eq!(worker.on_stream(now, path, &mut messages, &mut outside), 19);
        tail.clear();
        tail.extend_from_slice(messages.rest().unwrap());
        assert_eq!(backlog.keep(framing, bytes, 1000, 1 << 20), 0);
        backlog.sent(1 << 20);
        worker.on_host(now, from_host, &mut outside);
        worker.flush(&mut outside);
    };
    let (warm, cold) = batches.split_at_mut(rounds / 2);
    warm.iter_mut().for_each(|batch| turn(&mut worker, batch));

    let region = Region::new(ALLOCATOR);
    cold.iter_mut().for_each(|batch| turn(&mut worker, batch));
    let change = region.change();

    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    assert_eq!(worker.discards().iter().sum::<u64>(), 0, "{:?}", worker.discards());
    assert!(outside.written > rounds * 19 * SEGMENT && outside.sent > rounds * 30 * SEGMENT);
}

#[test]
fn a_warm_worker_allocates_nothing_per_packet() {
    let _alone = ALONE.lock().unwrap();
    let mut worker = worker();
    let mut outside = Outside::default();
    let alice = tunnel(Side::Initiator, ALICE);
    let carol = tunnel(Side::Initiator, CAROL);
    let link = ethernet::head(OWN, Mac([2, 0, 0, 0, 0, CAROL]), EtherType::IPV4);
    let world = Ipv4Addr::new(198, 51, 100, 1);
    // Each datagram is good once, so all of them are made before anything is counted.
    let rounds = 60;
    let mut batches = (0..rounds)
        .map(|_| {
            let to_host =
                (0..20).flat_map(|_| sealed(&alice, &packet(address(ALICE), world, SEGMENT)));
            let to_host = to_host.collect::<Vec<_>>();
            let to_bob = (0..20)
                .flat_map(|_| sealed(&alice, &packet(address(ALICE), address(BOB), SEGMENT)));
            let frame = [&link[..], &packet(address(CAROL), world, SEGMENT)].concat();
            let from_carol = (0..20).flat_map(|_| sealed(&carol, &frame)).collect::<Vec<_>>();
            let from_host = [BOB, CAROL].map(|host| super_packet(address(host), 30));
            (to_host, to_bob.collect::<Vec<_>>(), from_carol, from_host)
        })
        .collect::<Vec<_>>();
    let stride = alice.frame(ContentKind::Packet, 40 + SEGMENT).head + 40 + SEGMENT;
    let now = Instant::now();
    type Round = (Vec<u8>, Vec<u8>, Vec<u8>, [Vec<u8>; 2]);
    let mut turn = |worker: &mut Worker<Switch>, batch: &mut Round| {
        let (to_host, to_bob, from_carol, from_host) = batch;
        let received = [
            Received { path: path(ALICE), stride, bytes: to_host },
            Received { path: path(ALICE), stride, bytes: to_bob },
            Received { path: path(CAROL), stride: stride + link.len(), bytes: from_carol },
        ];
        worker.on_network(now, received.into_iter(), &mut outside);
        from_host.iter_mut().for_each(|read| worker.on_host(now, read, &mut outside));
        worker.flush(&mut outside);
    };
    let (warm, cold) = batches.split_at_mut(rounds / 2);
    warm.iter_mut().for_each(|batch| turn(&mut worker, batch));

    let region = Region::new(ALLOCATOR);
    cold.iter_mut().for_each(|batch| turn(&mut worker, batch));
    let change = region.change();

    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    assert_eq!(worker.discards().iter().sum::<u64>(), 0, "{:?}", worker.discards());
    assert!(outside.written > rounds * 40 * SEGMENT, "packets reached the host");
    assert!(outside.sent > rounds * 80 * SEGMENT, "packets reached the members");
}

#[test]
fn warm_workers_allocate_nothing_per_packet_that_they_hand_over() {
    let _alone = ALONE.lock().unwrap();
    let homes = Default::default();
    let (mut first, mut second) = (worker_at(&homes), worker_at(&homes));
    let mesh = Handover::mesh(vec![Waker::noop().clone(); 2]);
    for (worker, handover) in [&mut first, &mut second].into_iter().zip(mesh) {
        worker.join(handover);
    }
    let (mut nothing, mut outside) = (Outside::default(), Outside::default());
    let (alice, bob) = (tunnel(Side::Initiator, ALICE), tunnel(Side::Initiator, BOB));
    let world = Ipv4Addr::new(198, 51, 100, 1);
    let rounds = 60;
    let mut batches = (0..rounds)
        .map(|_| {
            let from_alice = (0..20)
                .flat_map(|_| sealed(&alice, &packet(address(ALICE), address(BOB), SEGMENT)));
            let from_bob = sealed(&bob, &packet(address(BOB), world, SEGMENT));
            (from_alice.collect::<Vec<_>>(), from_bob, super_packet(address(BOB), 30))
        })
        .collect::<Vec<_>>();
    let stride = alice.frame(ContentKind::Packet, 40 + SEGMENT).head + 40 + SEGMENT;
    let now = Instant::now();
    let mut turn = |(from_alice, from_bob, from_host): &mut (Vec<u8>, Vec<u8>, Vec<u8>)| {
        let received = Received { path: path(BOB), stride, bytes: from_bob };
        second.on_network(now, [received].into_iter(), &mut outside);
        let received = Received { path: path(ALICE), stride, bytes: from_alice };
        first.on_network(now, [received].into_iter(), &mut nothing);
        first.on_host(now, from_host, &mut nothing);
        first.flush(&mut nothing);
        assert!(!second.may_sleep());
        assert_eq!(second.take_over(now, &mut outside), 50);
        second.flush(&mut outside);
    };
    let (warm, cold) = batches.split_at_mut(rounds / 2);
    warm.iter_mut().for_each(&mut turn);

    let region = Region::new(ALLOCATOR);
    cold.iter_mut().for_each(&mut turn);
    let change = region.change();

    assert_eq!((change.allocations, change.reallocations), (0, 0), "{change:?}");
    for worker in [&first, &second] {
        assert_eq!(worker.discards().iter().sum::<u64>(), 0, "{:?}", worker.discards());
    }
    assert_eq!(nothing.sent, 0);
    assert!(outside.sent > rounds * 50 * SEGMENT, "packets reached the member");
}
