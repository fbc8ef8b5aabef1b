use std::time::Instant;

use contract::{Discard, Fabric, FabricOp, PacketHead, PortId, Verdict};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::*;
use crate::workers::{WorkerEvent, WorkersConfig};

const PATIENCE: Duration = Duration::from_secs(20);
/// A hard reset with its length in front, as far as it decides anything.
const HELLO: &[u8] = &[0, 14, 7 << 3, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0];

mod driven;

#[derive(Debug)]
struct Nothing;

impl Fabric for Nothing {
    fn forward(&self, _: PortId, _: &PacketHead) -> Verdict {
        Verdict::Discard(Discard::NoRoute)
    }

    fn mtu(&self, _: PortId) -> u16 {
        1420
    }

    fn apply(&mut self, _: &FabricOp) {}
}

struct Hall {
    front: Arc<Front>,
    listener: Listener,
    events: mpsc::Receiver<WorkerEvent>,
}

impl Hall {
    fn open(handshake: Duration, port_share: Option<SocketAddr>) -> Self {
        let (sender, events) = mpsc::channel(64);
        let config = WorkersConfig {
            layer: contract::Layer::Ip,
            frames: Vec::new(),
            queues: Vec::new(),
            without_queues: 1,
            gateway4: None,
            gateway6: None,
            fabric: || Nothing,
        };
        let workers = Workers::start(config, sender).unwrap();
        let settings = FrontSettings {
            port_share: port_share.map(|at| (at.ip().to_string(), at.port())),
            handshake,
            kind: StreamKind::OpenVpn { mtu: 1420 },
        };
        let front =
            Front::new(DoorKind::OpenVpn, Arc::default(), workers, openvpn::claims, settings);
        let socket = sys::tcp::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let socket = TcpListener::from_std(socket).unwrap();
        let listener = front.listen(SocketId(7), address, socket);
        Self { front, listener, events }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener.address).await.unwrap()
    }

    async fn heard(&mut self) -> (StreamId, Vec<u8>) {
        match timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap() {
            WorkerEvent::Datagram { path, bytes } => match path.carrier {
                Carrier::Stream(stream) => (stream, bytes),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn strangers(&self) -> usize {
        self.front.lobby.guests().strangers.all()
    }

    async fn wait_for_strangers(&self, count: usize) {
        let start = Instant::now();
        while self.strangers() != count {
            assert!(start.elapsed() < PATIENCE, "{} instead of {count}", self.strangers());
            tokio::task::yield_now().await;
        }
    }
}

/// Whether the other end closes, within the time that it has.
async fn is_closed(peer: &mut TcpStream) -> bool {
    let mut room = [0; 64];
    matches!(timeout(PATIENCE, peer.read(&mut room)).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn what_begins_like_openvpn_goes_to_the_workers_with_every_byte() {
    let mut hall = Hall::open(PATIENCE, None);
    let mut peer = hall.connect().await;

    for byte in HELLO {
        peer.write_all(&[*byte]).await.unwrap();
        peer.flush().await.unwrap();
    }

    let (stream, bytes) = hall.heard().await;
    assert_eq!(bytes, HELLO[2..]);
    assert_eq!(hall.strangers(), 1);
    assert_eq!(hall.front.lobby.take(stream), Some(SocketId(7)), "it becomes a session");
    assert_eq!(hall.front.lobby.take(stream), None);
    hall.wait_for_strangers(0).await;
    hall.front.workers.stop();
}

#[tokio::test]
async fn who_never_becomes_a_session_is_shown_out() {
    let mut hall = Hall::open(Duration::from_millis(300), None);
    let mut silent = hall.connect().await;
    let mut slow = hall.connect().await;
    slow.write_all(&HELLO[..2]).await.unwrap();
    let mut idle = hall.connect().await;
    idle.write_all(HELLO).await.unwrap();

    let (stream, _) = hall.heard().await;
    for peer in [&mut silent, &mut slow, &mut idle] {
        assert!(is_closed(peer).await);
    }

    hall.wait_for_strangers(0).await;
    assert_eq!(hall.front.lobby.take(stream), None);
    hall.front.workers.stop();
}

#[tokio::test]
async fn who_leaves_first_leaves_nothing_behind() {
    let mut hall = Hall::open(PATIENCE, None);
    let mut peer = hall.connect().await;
    peer.write_all(HELLO).await.unwrap();
    let (stream, _) = hall.heard().await;

    drop(peer);
    match timeout(PATIENCE, hall.events.recv()).await.unwrap().unwrap() {
        WorkerEvent::StreamClosed { stream: closed, .. } => assert_eq!(closed, stream),
        other => panic!("{other:?}"),
    }
    hall.front.lobby.leave(stream);

    hall.wait_for_strangers(0).await;
    assert_eq!(hall.front.lobby.take(stream), None);
    hall.front.workers.stop();
}

#[tokio::test]
async fn one_source_cannot_fill_the_lobby() {
    let hall = Hall::open(PATIENCE, None);
    let mut peers = Vec::new();
    for _ in 0..140 {
        peers.push(hall.connect().await);
    }

    let mut refused = 0;
    for peer in &mut peers[128..] {
        refused += usize::from(is_closed(peer).await);
    }

    assert_eq!((refused, hall.strangers()), (12, 128));
    hall.front.workers.stop();
}

#[tokio::test]
async fn what_is_not_openvpn_is_handed_on_with_every_byte() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hall = Hall::open(PATIENCE, Some(server.local_addr().unwrap()));
    let mut peer = hall.connect().await;

    peer.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let (mut handed, _) = server.accept().await.unwrap();
    let mut request = [0; 18];
    handed.read_exact(&mut request).await.unwrap();
    handed.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").await.unwrap();
    drop(handed);

    let mut answer = Vec::new();
    timeout(PATIENCE, peer.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&request, b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with(b"hello"));
    assert_eq!(hall.strangers(), 0);
    hall.front.workers.stop();
}

#[tokio::test]
async fn without_another_server_it_is_closed() {
    let hall = Hall::open(PATIENCE, None);
    let mut peer = hall.connect().await;

    peer.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();

    assert!(is_closed(&mut peer).await);
    hall.wait_for_strangers(0).await;
    hall.front.workers.stop();
}

#[tokio::test]
async fn everybody_who_is_no_session_leaves_with_the_listener() {
    let mut hall = Hall::open(PATIENCE, None);
    let (mut silent, mut idle) = (hall.connect().await, hall.connect().await);
    idle.write_all(HELLO).await.unwrap();
    hall.heard().await;

    hall.listener.task.abort();

    assert!(is_closed(&mut silent).await && is_closed(&mut idle).await);
    hall.wait_for_strangers(0).await;
    assert!(TcpStream::connect(hall.listener.address).await.is_err());
    hall.front.workers.stop();
}
