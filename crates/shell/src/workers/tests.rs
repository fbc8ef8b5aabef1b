use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use contract::{
    ContentKind, Exit, Frame, HOST_PORT, Opened, PacketHead, Tunnel, TunnelKey, Verdict, Via,
};
use sys::{Tun, UdpOptions, udp};
use tokio::sync::mpsc::{self, Receiver};

use super::*;

mod senders;
mod streams;

/// Longer than anything here takes; only a broken test ever waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
const PEER: PortId = PortId(1);
const KEY: TunnelKey = TunnelKey::OpenVpn { peer: 1, key_id: 0 };

/// Nothing but P_DATA_V2's header.
#[derive(Debug)]
struct Null;

impl Tunnel for Null {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: 4, tail: 0 }
    }

    fn seal(&self, _: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
        out[..4].copy_from_slice(&[9 << 3, 0, 0, 1]);
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        datagram.get_mut(4..).map(Opened::Packet).ok_or(Discard::Malformed)
    }
}

/// Breaks the worker that opens anything with it.
#[derive(Debug)]
struct Bomb;

impl Tunnel for Bomb {
    fn frame(&self, kind: ContentKind, content: usize) -> Frame {
        Null.frame(kind, content)
    }

    fn seal(&self, kind: ContentKind, len: usize, out: &mut [u8]) -> Result<(), Discard> {
        Null.seal(kind, len, out)
    }

    fn open<'b>(&self, _: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        panic!("this is what the test is about")
    }
}

/// The host and one session.
#[derive(Debug)]
struct Wire;

impl Fabric for Wire {
    fn forward(&self, from: PortId, _: &PacketHead) -> Verdict {
        if from == HOST_PORT { Verdict::Port(PEER) } else { Verdict::Host }
    }

    fn mtu(&self, _: PortId) -> u16 {
        1420
    }

    fn apply(&mut self, _: &FabricOp) {}
}

struct Lab {
    workers: Workers,
    events: Receiver<WorkerEvent>,
    runtime: tokio::runtime::Runtime,
    peer: UdpSocket,
    server: SocketAddr,
}

impl Lab {
    fn new(queues: Vec<TunQueue>, without_queues: usize) -> Self {
        let (sender, events) = mpsc::channel(8);
        let config = WorkersConfig {
            frames: Vec::new(),
            queues,
            without_queues,
            layer: Layer::Ip,
            gateway4: Some([10, 9, 0, 1].into()),
            gateway6: None,
            fabric: || Wire,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let workers = Workers::start(config, sender).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = udp::bind(([127, 0, 0, 1], 0).into(), UdpOptions::default()).unwrap();
        let server = socket.local_addr().unwrap();
        let lab = Self { workers, events, runtime, peer, server };

        let path = lab.path();
        let sockets = vec![UdpIo::new(SocketId(0), socket).unwrap()];
        lab.submit(vec![
            WorkerOp::AddSocket {
                id: SocketId(0),
                kind: SocketKind::OpenVpnResponder,
                sockets,
                prefix: None,
            },
            WorkerOp::DataPlane(DataPlaneOp::Install {
                key: KEY,
                port: PEER,
                via: Via::Path(path),
                tunnel: Arc::new(Null),
            }),
            WorkerOp::DataPlane(DataPlaneOp::SendVia { port: PEER, exit: Exit::Tunnel(KEY) }),
        ]);
        lab
    }

    fn path(&self) -> Path {
        let remote = self.peer.local_addr().unwrap();
        Path { local: None, remote, carrier: Carrier::Udp(SocketId(0)) }
    }

    fn submit(&self, ops: Vec<WorkerOp>) {
        let epoch = self.workers.submit(ops);
        let applied = async {
            tokio::time::timeout(PATIENCE, self.workers.wait_applied(epoch)).await.unwrap();
        };
        self.runtime.block_on(applied);
    }

    fn breaks(&self, patience: Duration) -> bool {
        let broken = async { tokio::time::timeout(patience, self.workers.broken()).await.is_ok() };
        self.runtime.block_on(broken)
    }

    fn event(&mut self) -> WorkerEvent {
        let event = async { tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap() };
        self.runtime.block_on(event).unwrap()
    }

    fn heard_by_peer(&self) -> Vec<u8> {
        let mut buffer = [0; 2000];
        let len = self.peer.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }
}

#[test]
fn control_datagrams_reach_the_control_plane_and_answers_the_peer() {
    let mut lab = Lab::new(Vec::new(), 2);

    lab.peer.send_to(&[7 << 3, 1, 2], lab.server).unwrap();
    let WorkerEvent::Datagram { path, bytes } = lab.event() else { panic!("no datagram") };
    lab.workers.transmit(path, b"answer").unwrap();

    assert_eq!(bytes, [7 << 3, 1, 2]);
    assert_eq!(path.local, Some([127, 0, 0, 1].into()));
    assert_eq!(lab.heard_by_peer(), b"answer");
    lab.workers.stop();
}

#[test]
fn an_engines_message_travels_through_its_tunnel() {
    let lab = Lab::new(Vec::new(), 2);

    lab.workers.send_control(PEER, b"ping".to_vec());

    assert_eq!(lab.heard_by_peer(), [&[9 << 3, 0, 0, 1], &b"ping"[..]].concat());
    lab.workers.stop();
}

#[test]
fn epochs_are_in_force_everywhere_once_waited_for() {
    let lab = Lab::new(Vec::new(), 4);

    for _ in 0..100 {
        lab.submit(vec![WorkerOp::DataPlane(DataPlaneOp::Remove { port: PEER, key: KEY })]);
    }

    assert_eq!(lab.workers.applied(), 101);
    lab.workers.stop();
}

#[test]
fn nobody_waits_for_workers_that_have_stopped() {
    let lab = Lab::new(Vec::new(), 2);

    lab.workers.stop();
    lab.submit(Vec::new());

    assert_eq!(lab.workers.transmit(lab.path(), b"late"), Err(Discard::NoRoute));
}

#[test]
fn a_worker_that_dies_is_told_and_hoards_no_orders() {
    let lab = Lab::new(Vec::new(), 2);
    let bomb = DataPlaneOp::Install {
        key: KEY,
        port: PEER,
        via: Via::Path(lab.path()),
        tunnel: Arc::new(Bomb),
    };
    lab.submit(vec![WorkerOp::DataPlane(bomb)]);
    assert!(!lab.breaks(Duration::ZERO));

    lab.peer.send_to(&[9 << 3, 0, 0, 1, 0], lab.server).unwrap();
    assert!(lab.breaks(PATIENCE));
    lab.submit(vec![WorkerOp::RemoveSocket(SocketId(0))]);

    assert!(lock(&lab.workers.0.workers[0].inbox).is_none());
    assert!(lab.breaks(Duration::ZERO), "it is told again to whoever asks later");
    lab.workers.stop();
}

#[test]
fn workers_that_were_stopped_are_not_broken() {
    let lab = Lab::new(Vec::new(), 2);

    lab.workers.stop();

    assert!(!lab.breaks(Duration::ZERO));
}

#[test]
fn a_removed_socket_is_closed() {
    let lab = Lab::new(Vec::new(), 2);

    lab.submit(vec![WorkerOp::RemoveSocket(SocketId(0))]);

    let again = udp::bind(lab.server, UdpOptions::default());
    assert!(again.is_ok(), "{again:?}");
    lab.workers.stop();
}

#[test]
fn a_flood_of_control_is_bounded_and_counted() {
    let mut lab = Lab::new(Vec::new(), 1);
    let flood = 100;

    for _ in 0..flood {
        lab.peer.send_to(&[7 << 3], lab.server).unwrap();
    }
    // Read behind all of them, so the flood is over when it is counted.
    lab.peer.send_to(&[9 << 3, 0, 0, 99, 0], lab.server).unwrap();
    let dropped = |why: Discard| lab.workers.discards()[why as usize];
    while dropped(Discard::NoTunnel) == 0 {
        std::thread::yield_now();
    }

    lab.workers.stop();
    let no_buffer = dropped(Discard::NoBuffer);
    lab.events.close();
    let taken = std::iter::from_fn(|| lab.events.try_recv().ok()).count() as u64;
    assert_eq!((taken, taken + no_buffer), (8, flood));
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

/// A lab with a TUN device in a namespace of this thread's own, and the device's name.
fn lab_with_host() -> Option<(Lab, String)> {
    let entered = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
    if !entered || !std::fs::exists("/dev/net/tun").unwrap() || !ip("link set lo up") {
        eprintln!("skipped: needs root, /dev/net/tun and iproute2");
        return None;
    }
    let tun = Tun::open("warren%d", 2).unwrap();
    let name = tun.name().to_owned();
    let lab = Lab::new(tun.queues(), 0);
    assert!(ip(&format!("link set {name} up")) && ip(&format!("addr add 10.9.0.1/24 dev {name}")));
    Some((lab, name))
}

#[test]
fn a_device_that_goes_away_is_told_even_if_nobody_reads_events() {
    let Some((lab, name)) = lab_with_host() else { return };
    for _ in 0..20 {
        lab.peer.send_to(&[7 << 3], lab.server).unwrap();
    }

    assert!(ip(&format!("link del {name}")));

    assert!(lab.breaks(PATIENCE));
    lab.workers.stop();
}

#[test]
fn the_kernel_learns_what_the_tunnel_carries() {
    let Some((lab, _)) = lab_with_host() else { return };
    let application = UdpSocket::bind("10.9.0.1:5000").unwrap();
    let learnt = || {
        let route = Command::new("ip").args(["route", "get", "10.9.0.2"]).output().unwrap();
        String::from_utf8(route.stdout).unwrap().contains("mtu 1420")
    };

    application.send_to(&[0; 1450], "10.9.0.2:6000").unwrap();

    let start = std::time::Instant::now();
    while !learnt() {
        assert!(start.elapsed() < PATIENCE, "the kernel ignored the error");
    }
    lab.workers.stop();
}

#[test]
fn packets_travel_between_a_tun_device_and_a_peer_both_ways() {
    let Some((lab, _)) = lab_with_host() else { return };
    let application = UdpSocket::bind("10.9.0.1:5000").unwrap();
    application.set_read_timeout(Some(PATIENCE)).unwrap();

    application.send_to(b"question", "10.9.0.2:6000").unwrap();
    // The kernel has something to say on its own on a new interface: only the question counts.
    let mut question = lab.heard_by_peer();
    while !question.ends_with(b"question") {
        question = lab.heard_by_peer();
    }
    let mut answer = question;
    // Swapping addresses and ports changes no checksum.
    for at in 0..4 {
        answer.swap(4 + 12 + at, 4 + 16 + at);
    }
    answer.swap(4 + 20, 4 + 22);
    answer.swap(4 + 21, 4 + 23);
    lab.peer.send_to(&answer, lab.server).unwrap();

    let mut buffer = [0; 100];
    let (len, from) = application.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"question"[..], "10.9.0.2:6000".parse().unwrap()));
    lab.workers.stop();
    let carried = lab.workers.forget(PEER);
    assert_eq!((carried.rx_packets, carried.rx_bytes, carried.heard), (1, 36, 1));
    assert!(carried.tx_packets >= 1 && lab.workers.totals().tx_packets >= 1);
    assert_eq!(lab.workers.counters(PEER), PortTotals::default());
}
