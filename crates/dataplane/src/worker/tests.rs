use std::io::{self, IoSlice};
use std::net::IpAddr;

use contract::{
    Carrier, Exit, Frame, HOST_PORT, Notice, Opened, PacketHead, Path, Tunnel, Verdict, Via,
};
use wire::checksum::Sum;
use wire::ip::Head;

use super::*;
use crate::egress::Batch;
use crate::io::{DatagramSink, Punt, Punts, TunIo};
use crate::testing::{Blueprint, FakeTun, SYN, now, virtio};

mod carriers;
mod handover;
mod unpack;

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
const WORLD: u8 = 200;
const GATEWAY: u8 = 254;
const MTU: u16 = 1400;
/// What every tunnel here puts in front.
const HEAD: usize = 4;

#[test]
fn a_session_reaches_the_host() {
    let mut lab = two_sessions();

    lab.sends(ALICE, &[packet(ALICE, WORLD)]);

    assert_eq!(lab.outside.tun.plain(), [packet(ALICE, WORLD)]);
    assert_eq!(lab.counted(ALICE), (1, 120, 0, 0));
}

#[test]
fn a_session_reaches_another_session_without_touching_the_host() {
    let mut lab = two_sessions();

    lab.sends(ALICE, &[packet(ALICE, BOB)]);

    let forwarded =
        Blueprint { ttl: 63, payload: vec![7; 80], ..Blueprint::tcp(ALICE, BOB) }.build();
    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.sent(), [(path(BOB), tagged(BOB, &forwarded))]);
    assert_eq!((lab.counted(ALICE), lab.counted(BOB)), ((1, 120, 0, 0), (0, 0, 1, 120)));
}

#[test]
fn a_session_cannot_use_its_neighbours_address() {
    let mut lab = two_sessions();

    lab.sends(ALICE, &[packet(BOB, WORLD)]);

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1);
    assert_eq!(lab.counted(ALICE), (0, 0, 0, 0));
}

#[test]
fn the_host_reaches_a_session() {
    let mut lab = two_sessions();

    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));

    assert_eq!(lab.sent(), [(path(ALICE), tagged(ALICE, &packet(WORLD, ALICE)))]);
    assert_eq!(lab.counted(ALICE), (0, 0, 1, 120));
}

#[test]
fn a_super_packet_leaves_as_one_send_of_sealed_segments() {
    let mut lab = two_sessions();
    let whole = Blueprint { payload: vec![9; 5000], ..Blueprint::tcp(WORLD, ALICE) };

    lab.host_sends(virtio(true, 1, [40, 1200, 20, 16]), whole.build_unsummed());

    lab.worker.flush(&mut lab.outside);
    let sizes = lab.outside.batches.iter().map(|(_, size, bytes)| (*size, bytes.len()));
    assert_eq!(sizes.collect::<Vec<_>>(), [(1244, 4 * 1244 + 244)]);
    let (_, size, bytes) = &lab.outside.batches[0];
    for segment in bytes.chunks(*size) {
        let packet = &segment[HEAD..];
        let head = Head::parse(packet).unwrap();
        let payload = head.payload(packet);
        assert!(head.pseudo(payload.len() as u16).plus(payload).is_valid());
    }
    assert_eq!(lab.counted(ALICE), (0, 0, 5, 5 * 40 + 5000));
}

#[test]
fn a_stream_of_segments_reaches_the_host_in_one_write() {
    let mut lab = two_sessions();
    let segment = |n: u32| {
        Blueprint { sequence: n * 100, id: n as u16, ..Blueprint::tcp(ALICE, WORLD) }.build()
    };

    lab.sends(ALICE, &[segment(0), segment(1), segment(2)]);

    assert_eq!(lab.outside.tun.written.len(), 1);
    assert_eq!(lab.outside.tun.written[0].len(), 10 + 40 + 300);
}

#[test]
fn a_rekey_never_leaves_a_gap() {
    let mut lab = two_sessions();

    lab.install(9, ALICE, Via::Path(path(ALICE)), Tagged(9));
    lab.sends(ALICE, &[packet(ALICE, WORLD)]); // the old key still opens
    lab.arrive(path(ALICE), &tagged(9, &packet(ALICE, WORLD))); // so does the new one
    lab.send_via(ALICE, 9);
    lab.worker
        .apply(Op::DataPlane(DataPlaneOp::Remove { port: PortId(ALICE.into()), key: key(ALICE) }));
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));

    assert_eq!(lab.outside.tun.written.len(), 2);
    assert_eq!(lab.sent()[0].1[3], 9);
}

#[test]
fn a_removed_key_neither_opens_nor_seals() {
    let mut lab = two_sessions();

    lab.worker
        .apply(Op::DataPlane(DataPlaneOp::Remove { port: PortId(ALICE.into()), key: key(ALICE) }));
    lab.sends(ALICE, &[packet(ALICE, WORLD)]);
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));

    assert!(lab.outside.tun.written.is_empty() && lab.sent().is_empty());
    assert_eq!(lab.discarded(Discard::NoTunnel), 2);
}

#[test]
fn a_session_that_ends_late_does_not_take_its_successors_key_along() {
    let mut lab = two_sessions();
    // The client came back from the same address before its old session was given up.
    lab.install(ALICE, 9, Via::Path(path(ALICE)), Tagged(ALICE));

    lab.worker
        .apply(Op::DataPlane(DataPlaneOp::Remove { port: PortId(ALICE.into()), key: key(ALICE) }));
    lab.arrive(path(ALICE), &tagged(ALICE, &packet(ALICE, WORLD)));

    assert_eq!(lab.discarded(Discard::NoTunnel), 0);
}

#[test]
fn nothing_outlives_a_port_that_is_forgotten() {
    let mut lab = two_sessions();

    lab.worker.apply(Op::Forget(PortId(ALICE.into())));
    lab.sends(ALICE, &[packet(ALICE, WORLD)]);

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::NoTunnel), 1);
}

#[test]
fn a_key_used_again_carries_only_what_was_ordered_since() {
    let mut lab = two_sessions();
    lab.worker
        .apply(Op::DataPlane(DataPlaneOp::Remove { port: PortId(ALICE.into()), key: key(ALICE) }));

    lab.install(ALICE, ALICE, Via::Path(path(ALICE)), Tagged(ALICE));
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));
    assert!(lab.sent().is_empty(), "installed is not yet sent with");

    lab.send_via(ALICE, ALICE);
    lab.install(ALICE, BOB, Via::Path(path(BOB)), Tagged(ALICE));
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));
    lab.sends(BOB, &[packet(BOB, ALICE)]);
    assert!(lab.sent().is_empty(), "somebody else's tunnel");
    assert_eq!(lab.discarded(Discard::NoTunnel), 3);
}

#[test]
fn an_inner_tunnel_travels_inside_its_outer_one_both_ways() {
    let mut lab = two_sessions();
    lab.install_nested(CAROL);

    lab.arrive(path(CAROL), &tagged(100, &tagged(CAROL, &packet(CAROL, WORLD))));
    lab.host_sends(vec![0; 10], packet(WORLD, CAROL));

    assert_eq!(lab.outside.tun.plain(), [packet(CAROL, WORLD)]);
    let expected = tagged(100, &tagged(CAROL, &packet(WORLD, CAROL)));
    assert_eq!(lab.sent(), [(path(CAROL), expected)]);
    assert_eq!(lab.counted(CAROL), (1, 120, 1, 120));
}

#[test]
fn an_inner_key_works_only_inside_its_own_association() {
    let mut lab = two_sessions();
    lab.install_nested(CAROL);

    // Carol's outer tunnel carries Alice's key.
    lab.arrive(path(CAROL), &tagged(100, &tagged(ALICE, &packet(ALICE, WORLD))));

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1);
}

#[test]
fn an_inner_key_does_not_work_in_the_clear() {
    let mut lab = two_sessions();
    lab.install_nested(CAROL);

    lab.sends(CAROL, &[packet(CAROL, WORLD)]);

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::SpoofedSource), 1);
}

#[test]
fn control_goes_to_the_engines_and_noise_to_a_counter() {
    let mut lab = two_sessions();

    lab.arrive(path(ALICE), &[7 << 3, 1, 2, 3]);
    lab.arrive(path(ALICE), &tagged(ALICE, b"control"));
    lab.arrive(path(ALICE), &[0xff; 20]);
    lab.arrive(path(ALICE), &tagged(77, &packet(ALICE, WORLD)));

    let expected = [
        format!("datagram from {:?}: {:?}", path(ALICE).remote, [7 << 3, 1, 2, 3]),
        format!("control of {ALICE}: {:?}", b"control"),
    ];
    assert_eq!(lab.outside.punts, expected);
    assert_eq!(lab.discarded(Discard::Malformed), 1);
    assert_eq!(lab.discarded(Discard::NoTunnel), 1);
}

#[test]
fn a_full_queue_to_the_control_plane_drops_and_counts() {
    let mut lab = two_sessions();
    lab.outside.punts_refused = true;

    lab.arrive(path(ALICE), &[7 << 3, 1, 2, 3]);

    assert_eq!(lab.discarded(Discard::NoBuffer), 1);
}

#[test]
fn a_peer_that_moves_is_noticed_once_a_batch_and_keeps_its_session() {
    let mut lab = two_sessions();
    let elsewhere = path(99);

    lab.arrive_many(elsewhere, &[tagged(ALICE, &packet(ALICE, WORLD)), tagged(ALICE, b"alive")]);

    assert_eq!(lab.outside.punts[0], format!("{ALICE} roamed to {:?}", elsewhere.remote));
    assert_eq!(lab.outside.punts.len(), 2, "one notice and one control message");
    assert_eq!(lab.outside.tun.written.len(), 1);

    lab.worker.apply(Op::DataPlane(DataPlaneOp::Move { key: key(ALICE), path: elsewhere }));
    lab.arrive(elsewhere, &tagged(ALICE, &packet(ALICE, WORLD)));
    lab.host_sends(vec![0; 10], packet(WORLD, ALICE));
    assert_eq!(lab.outside.punts.len(), 2);
    assert_eq!(lab.sent()[0].0, elsewhere);
}

#[test]
fn a_forged_packet_moves_nobody() {
    let mut lab = two_sessions();

    lab.arrive(path(99), &tagged(ALICE, b"forged"));

    assert!(lab.outside.punts.is_empty());
    assert_eq!(lab.discarded(Discard::AuthFailed), 1);
}

#[test]
fn a_packet_at_the_end_of_its_life_is_answered_by_the_network() {
    let mut lab = two_sessions();

    lab.sends(ALICE, &[Blueprint { ttl: 1, ..Blueprint::tcp(ALICE, BOB) }.build()]);

    let sent = lab.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, path(ALICE));
    assert_is_error(&sent[0].1[HEAD..], (11, 0), ALICE);
    assert_eq!(lab.discarded(Discard::TimeExceeded), 1);
}

#[test]
fn a_packet_too_large_for_the_next_member_is_answered_by_the_network() {
    let mut lab = two_sessions();
    let large = |v6| Blueprint { v6, payload: vec![1; 1440], ..Blueprint::udp(ALICE, BOB) };

    lab.sends(ALICE, &[large(false).build(), large(true).build()]);

    let sent = lab.sent();
    assert_is_error(&sent[0].1[HEAD..], (3, 4), ALICE);
    assert_eq!(sent[0].1[HEAD + 26..HEAD + 28], MTU.to_be_bytes());
    assert_is_error(&sent[1].1[HEAD..], (2, 0), ALICE);
    assert_eq!(sent[1].1[HEAD + 44..HEAD + 48], u32::from(MTU).to_be_bytes());
    assert_eq!(lab.discarded(Discard::TooBig), 2);
}

#[test]
fn the_host_hears_too_that_a_packet_was_too_large() {
    let mut lab = two_sessions();
    let large = Blueprint { payload: vec![1; 1440], ..Blueprint::udp(WORLD, ALICE) };

    lab.host_sends(vec![0; 10], large.build());

    let error = lab.outside.tun.plain()[0];
    assert_is_error_from(ALICE, error, (3, 4), WORLD);
    assert_eq!(error[26..28], MTU.to_be_bytes());
}

#[test]
fn the_host_hears_of_it_from_an_address_that_is_not_its_own() {
    let mut lab = two_sessions();
    let large =
        |v6| Blueprint { v6, payload: vec![1; 1440], ..Blueprint::udp(GATEWAY, ALICE) }.build();

    lab.host_sends(vec![0; 10], large(false));
    lab.host_sends(vec![0; 10], large(true));

    let errors = lab.outside.tun.plain();
    assert_is_error_from(ALICE, errors[0], (3, 4), GATEWAY);
    assert_is_error_from(ALICE, errors[1], (2, 0), GATEWAY);
}

#[test]
fn a_packet_that_may_be_fragmented_is() {
    let mut lab = two_sessions();
    let large =
        Blueprint { dont_fragment: false, payload: vec![1; 3000], ..Blueprint::udp(WORLD, ALICE) };

    lab.host_sends(vec![0; 10], large.build());
    lab.sends(BOB, &[Blueprint { source: BOB, ..large }.build()]);

    let sent = lab.sent();
    assert_eq!(sent.len(), 6);
    assert!(sent.iter().all(|(to, sealed)| *to == path(ALICE) && sealed.len() <= HEAD + 1400));
    assert_eq!(sent.iter().map(|(_, sealed)| sealed.len() - HEAD - 20).sum::<usize>(), 2 * 3008);
}

#[test]
fn errors_are_limited_by_the_second() {
    let mut lab = two_sessions();
    let dying = Blueprint { ttl: 1, ..Blueprint::tcp(ALICE, BOB) }.build();

    lab.sends(ALICE, &vec![dying; 1000]);

    assert_eq!(lab.sent().len(), 100);
    assert_eq!(lab.discarded(Discard::TimeExceeded), 1000);
}

#[test]
fn packets_that_expire_silence_nobodys_path_mtu_discovery() {
    let mut lab = two_sessions();
    let dying = Blueprint { ttl: 1, ..Blueprint::tcp(ALICE, BOB) }.build();
    let large = Blueprint { payload: vec![1; 1440], ..Blueprint::udp(BOB, ALICE) }.build();

    lab.sends(ALICE, &vec![dying; 1000]);
    lab.sends(BOB, &[large]);

    let sent = lab.sent();
    assert_is_error(&sent[sent.len() - 1].1[HEAD..], (3, 4), BOB);
}

#[test]
fn connections_are_opened_with_segments_that_fit_every_way() {
    let mut lab = two_sessions();
    let syn = |source, destination, mss: u16| Blueprint {
        flags: SYN,
        options: [&[2, 4][..], &mss.to_be_bytes()].concat(),
        payload: Vec::new(),
        ..Blueprint::tcp(source, destination)
    };

    lab.sends(ALICE, &[syn(ALICE, WORLD, 1460).build(), syn(ALICE, BOB, 1460).build()]);
    lab.host_sends(virtio(true, 0, [0, 0, 20, 16]), syn(WORLD, ALICE, 1460).build_unsummed());

    let clamped = Blueprint { ttl: 63, ..syn(ALICE, BOB, 1360) };
    assert_eq!(lab.outside.tun.plain(), [syn(ALICE, WORLD, 1360).build()]);
    let sent = lab.sent();
    assert_eq!(sent[0].1[HEAD..], clamped.build());
    assert_eq!(sent[1].1[HEAD..], syn(WORLD, ALICE, 1360).build());
}

#[test]
fn more_peers_than_sends_can_wait_lose_nothing() {
    let mut lab = two_sessions();
    for host in 3..153 {
        lab.install(host, host, Via::Path(path(host)), Tagged(host));
        lab.send_via(host, host);
    }

    for host in 3..153 {
        lab.host_sends(vec![0; 10], packet(WORLD, host));
    }

    assert_eq!(lab.sent().len(), 150);
}

#[test]
fn an_engines_message_leaves_inside_its_tunnel_and_is_not_counted() {
    let mut lab = two_sessions();

    lab.worker.send_control(now(), PortId(ALICE.into()), b"ping", &mut lab.outside);

    assert_eq!(lab.sent(), [(path(ALICE), tagged(ALICE, b"ping"))]);
    assert_eq!(lab.counted(ALICE), (0, 0, 0, 0));
}

#[test]
fn a_closed_socket_hears_nothing() {
    let mut lab = two_sessions();

    lab.worker.apply(Op::RemoveSocket(SocketId(0)));
    lab.sends(ALICE, &[packet(ALICE, WORLD)]);

    assert!(lab.outside.tun.written.is_empty());
    assert_eq!(lab.discarded(Discard::Malformed), 1);
}

#[test]
fn what_comes_out_of_a_tunnel_may_be_anything() {
    let mut lab = two_sessions();
    let packet = packet(ALICE, BOB);

    for at in 0..packet.len() {
        lab.sends(ALICE, &[packet[..at].to_vec()]);
        for value in 0..=u8::MAX {
            let mut bytes = packet.clone();
            bytes[at.min(60)] = value;
            lab.sends(ALICE, &[bytes]);
        }
    }
}

/// A worker and everything around it.
struct Lab {
    worker: Worker<Flat>,
    outside: Outside,
    counters: Vec<Arc<PortCounters>>,
}

fn two_sessions() -> Lab {
    let settings = Settings {
        gateway4: Some([10, 0, 0, GATEWAY].into()),
        gateway6: Some([0xfd; 16].into()),
        offloads: Offloads { gso: true, uso: true },
        layer: Layer::Ip,
    };
    let mut worker = Worker::new(Flat, &settings);
    worker.apply(Op::AddSocket(SocketId(0), SocketKind::OpenVpnResponder, None));
    let counters = (0..4).map(|_| Arc::default()).collect::<Vec<Arc<PortCounters>>>();
    for (port, counters) in counters.iter().enumerate().skip(1) {
        let counters = Arc::clone(counters);
        worker.apply(Op::Count { port: PortId(port as u32), counters, home: Arc::default() });
    }
    let mut lab = Lab { worker, outside: Outside::default(), counters };
    for host in [ALICE, BOB] {
        lab.install(host, host, Via::Path(path(host)), Tagged(host));
        lab.send_via(host, host);
    }
    lab
}

impl Lab {
    fn install(&mut self, tag: u8, port: u8, via: Via, tunnel: impl Tunnel + 'static) {
        let port = PortId(port.into());
        let tunnel = Arc::new(tunnel);
        self.worker.apply(Op::DataPlane(DataPlaneOp::Install { key: key(tag), port, via, tunnel }));
    }

    fn send_via(&mut self, port: u8, tag: u8) {
        let exit = Exit::Tunnel(key(tag));
        let port = PortId(port.into());
        self.worker.apply(Op::DataPlane(DataPlaneOp::SendVia { port, exit }));
    }

    /// A session whose tunnel lives inside tunnel 100 of port 103.
    fn install_nested(&mut self, host: u8) {
        self.install(100, 103, Via::Path(path(host)), Outer);
        self.send_via(103, 100);
        self.install(host, host, Via::Port(PortId(103)), Tagged(host));
        self.send_via(host, host);
    }

    fn sends(&mut self, host: u8, packets: &[Vec<u8>]) {
        let datagrams = packets.iter().map(|packet| tagged(host, packet)).collect::<Vec<_>>();
        self.arrive_many(path(host), &datagrams);
    }

    fn arrive(&mut self, path: Path, datagram: &[u8]) {
        self.arrive_many(path, &[datagram.to_vec()]);
    }

    fn arrive_many(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        let mut datagrams = datagrams.to_vec();
        let batch = datagrams.iter_mut().map(|bytes| Received { path, stride: bytes.len(), bytes });
        self.worker.on_network(now(), batch, &mut self.outside);
    }

    fn host_sends(&mut self, virtio: Vec<u8>, packet: Vec<u8>) {
        let mut read = [virtio, packet].concat();
        self.worker.on_host(now(), &mut read, &mut self.outside);
    }

    /// Flushes and returns every datagram.
    fn sent(&mut self) -> Vec<(Path, Vec<u8>)> {
        self.worker.flush(&mut self.outside);
        let batches = self.outside.batches.drain(..);
        let cut = |(path, size, bytes): (Path, usize, Vec<u8>)| {
            bytes.chunks(size).map(|one| (path, one.to_vec())).collect::<Vec<_>>()
        };
        batches.flat_map(cut).collect()
    }

    fn discarded(&self, why: Discard) -> u64 {
        self.worker.discards()[why as usize]
    }

    fn counted(&self, host: u8) -> (u64, u64, u64, u64) {
        let totals = self.counters[usize::from(host)].read();
        (totals.rx_packets, totals.rx_bytes, totals.tx_packets, totals.tx_bytes)
    }
}

#[derive(Default)]
struct Outside {
    tun: FakeTun,
    batches: Vec<(Path, usize, Vec<u8>)>,
    punts: Vec<String>,
    punts_refused: bool,
    choked: Option<Carrier>,
}

impl TunIo for Outside {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.tun.read(into)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.tun.write(pieces)
    }
}

impl DatagramSink for Outside {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        self.batches.push((batch.path(), batch.segment_size(), batch.bytes().to_vec()));
        Ok(())
    }

    fn is_choked(&self, path: &Path, _: usize) -> bool {
        self.choked == Some(path.carrier)
    }
}

impl Punts for Outside {
    fn punt(&mut self, punt: Punt<'_>) -> Result<(), Discard> {
        if self.punts_refused {
            return Err(Discard::NoBuffer);
        }
        self.punts.push(match punt {
            Punt::Datagram { path, bytes } => format!("datagram from {:?}: {bytes:?}", path.remote),
            Punt::Control { port, bytes } => format!("control of {}: {bytes:?}", port.0),
            Punt::Notice { port, notice: Notice::Roamed { path, .. } } => {
                format!("{} roamed to {:?}", port.0, path.remote)
            }
        });
        Ok(())
    }
}

/// Hosts below 200 have the port of their number, all others are behind the host.
#[derive(Debug)]
struct Flat;

impl Fabric for Flat {
    fn forward(&self, from: PortId, packet: &PacketHead) -> Verdict {
        let port_of = |ip: IpAddr| {
            let host = match ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(ip) => ip.octets()[15],
            };
            if host < WORLD { PortId(host.into()) } else { HOST_PORT }
        };
        if port_of(packet.source) != from {
            return Verdict::Discard(Discard::SpoofedSource);
        }
        match port_of(packet.destination) {
            HOST_PORT => Verdict::Host,
            port => Verdict::Port(port),
        }
    }

    fn mtu(&self, _: PortId) -> u16 {
        MTU
    }

    fn apply(&mut self, _: &FabricOp) {}
}

/// A tunnel that only writes OpenVPN's P_DATA_V2 header; it opens "forged" for nobody, and what is
/// no IP packet is control.
#[derive(Debug)]
struct Tagged(u8);

impl Tunnel for Tagged {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: HEAD, tail: 0 }
    }

    fn seal(&self, _: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
        out[..HEAD].copy_from_slice(&[9 << 3, 0, 0, self.0]);
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        let content = datagram.get_mut(HEAD..).ok_or(Discard::Malformed)?;
        match content.first().map(|first| first >> 4) {
            _ if content == b"forged" => Err(Discard::AuthFailed),
            None => Ok(Opened::KeepAlive),
            Some(4 | 6) if content != b"control" && content != b"alive" => {
                Ok(Opened::Packet(content))
            }
            Some(_) => Ok(Opened::Control(content)),
        }
    }
}

/// A tunnel that carries only other tunnels.
#[derive(Debug)]
struct Outer;

impl Tunnel for Outer {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: HEAD, tail: 0 }
    }

    fn seal(&self, kind: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
        assert_eq!(kind, ContentKind::Inner);
        out[..HEAD].copy_from_slice(&[9 << 3, 0, 0, 100]);
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        let inner = datagram.get_mut(HEAD..).ok_or(Discard::Malformed)?;
        let tag = *inner.get(3).ok_or(Discard::Malformed)?;
        Ok(Opened::Inner(key(tag), inner))
    }
}

fn assert_is_error(packet: &[u8], kind_and_code: (u8, u8), to: u8) {
    let from = if packet[0] >> 4 == 6 { 0xfd } else { GATEWAY };
    assert_is_error_from(from, packet, kind_and_code, to);
}

fn assert_is_error_from(source: u8, packet: &[u8], kind_and_code: (u8, u8), to: u8) {
    let head = Head::parse(packet).unwrap();
    let icmp = head.payload(packet);
    assert_eq!((icmp[0], icmp[1]), kind_and_code);
    let valid = match (head.source, head.destination) {
        (IpAddr::V4(from), IpAddr::V4(host)) => {
            assert_eq!((from.octets()[3], host.octets()[3]), (source, to));
            Sum::of(icmp).is_valid()
        }
        (IpAddr::V6(from), IpAddr::V6(host)) => {
            assert_eq!((from.octets()[15], host.octets()[15]), (source, to));
            head.pseudo(icmp.len() as u16).plus(icmp).is_valid()
        }
        mixed => panic!("an error of two families: {mixed:?}"),
    };
    assert!(valid);
}

fn packet(source: u8, destination: u8) -> Vec<u8> {
    let packet = Blueprint { payload: vec![7; 80], ..Blueprint::tcp(source, destination) }.build();
    assert_eq!(packet.len(), 120);
    packet
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[9 << 3, 0, 0, tag], content].concat()
}

fn key(tag: u8) -> TunnelKey {
    TunnelKey::OpenVpn { peer: tag.into(), key_id: 0 }
}

fn path(host: u8) -> Path {
    Path {
        local: None,
        remote: ([192, 0, 2, host], 1194).into(),
        carrier: Carrier::Udp(SocketId(0)),
    }
}
