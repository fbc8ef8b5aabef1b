//! Several workers, and one sender for each peer.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::AtomicU32;

use super::*;

const SOCKET: SocketId = SocketId(0);
const STREAM: StreamId = StreamId(5);
const KIND: StreamKind = StreamKind::OpenVpn { mtu: 1400 };
/// What a numbered tunnel puts in front: P_DATA_V2's header, and the number.
const HEAD: usize = 8;
/// How much of each sender's a peer has to hear.
const ENOUGH: usize = 2000;

/// Gives every packet a number, as a key does; what comes out of it has one in front too.
#[derive(Debug)]
struct Numbered(AtomicU32);

impl Tunnel for Numbered {
    fn frame(&self, _: ContentKind, _: usize) -> Frame {
        Frame { head: HEAD, tail: 0 }
    }

    fn seal(&self, _: ContentKind, _: usize, out: &mut [u8]) -> Result<(), Discard> {
        out[..4].copy_from_slice(&[9 << 3, 0, 0, 0]);
        out[4..HEAD].copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Ok(())
    }

    fn open<'b>(&self, datagram: &'b mut [u8]) -> Result<Opened<'b>, Discard> {
        match datagram.get_mut(HEAD..) {
            None => Err(Discard::Malformed),
            Some([]) => Ok(Opened::KeepAlive),
            Some(content) => Ok(Opened::Packet(content)),
        }
    }
}

/// Every member's address ends in the number of its port.
#[derive(Debug)]
struct Members;

impl Fabric for Members {
    fn forward(&self, _: PortId, packet: &PacketHead) -> Verdict {
        match packet.destination {
            IpAddr::V4(ip) => Verdict::Port(PortId(ip.octets()[3].into())),
            IpAddr::V6(_) => Verdict::Discard(Discard::NoRoute),
        }
    }

    fn mtu(&self, _: PortId) -> u16 {
        1400
    }

    fn apply(&mut self, _: &FabricOp) {}
}

/// Two workers, each with a socket of its own at one address.
struct Yard {
    workers: Workers,
    server: SocketAddr,
    _events: Receiver<WorkerEvent>,
    runtime: tokio::runtime::Runtime,
}

impl Yard {
    fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        let config = WorkersConfig {
            queues: Vec::new(),
            frames: Vec::new(),
            without_queues: 2,
            layer: Layer::Ip,
            gateway4: None,
            gateway6: None,
            fabric: || Members,
        };
        let workers = Workers::start(config, sender).unwrap();
        let options = UdpOptions { reuse_port: true, ..UdpOptions::default() };
        let first = udp::bind(([127, 0, 0, 1], 0).into(), options).unwrap();
        let server = first.local_addr().unwrap();
        let second = udp::bind(server, options).unwrap();
        let sockets = [first, second].map(|socket| UdpIo::new(SOCKET, socket).unwrap()).into();
        let kind = SocketKind::OpenVpnResponder;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let yard = Self { workers, server, _events: events, runtime };
        yard.submit(vec![WorkerOp::AddSocket { id: SOCKET, kind, sockets, prefix: None }]);
        yard
    }

    fn submit(&self, ops: Vec<WorkerOp>) {
        let epoch = self.workers.submit(ops);
        self.runtime.block_on(self.workers.wait_applied(epoch));
    }

    fn install(&self, key: TunnelKey, port: u8, path: Path) {
        let (port, via) = (PortId(port.into()), Via::Path(path));
        let tunnel = Arc::new(Numbered(AtomicU32::new(1)));
        self.submit(vec![
            WorkerOp::DataPlane(DataPlaneOp::Install { key, port, via, tunnel }),
            WorkerOp::DataPlane(DataPlaneOp::SendVia { port, exit: Exit::Tunnel(key) }),
        ]);
    }

    /// A member whom this worker hears.
    fn member(&self, port: u8, worker: usize) -> UdpSocket {
        loop {
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            peer.connect(self.server).unwrap();
            let remote = peer.local_addr().unwrap();
            let path = Path { local: None, remote, carrier: Carrier::Udp(SOCKET) };
            self.install(TunnelKey::OpenVpn { peer: port.into(), key_id: 0 }, port, path);
            let before = self.heard(port);
            peer.send(&from(port, &[])).unwrap();
            let start = std::time::Instant::now();
            while self.heard(port) == before {
                assert!(start.elapsed() < PATIENCE);
                std::thread::yield_now();
            }
            // Which one it is, the kernel draws from the addresses.
            if self.heard(port)[worker] > before[worker] {
                return peer;
            }
        }
    }

    fn heard(&self, port: u8) -> Vec<u64> {
        let control = lock(&self.workers.0.control);
        control.ports[&PortId(port.into())].counters.iter().map(|one| one.read().heard).collect()
    }

    /// Has two members, one at each worker, send to member `to` without end, and the engine too,
    /// until `peer` has heard enough of all; the numbers that it heard.
    fn flood(&self, to: u8, mut peer: impl FnMut() -> Vec<u8>) -> Vec<u32> {
        let members = [self.member(11, 0), self.member(12, 1)];
        let is_over = AtomicBool::new(false);
        let mut numbers = Vec::new();
        let mut heard = [0; 2];
        std::thread::scope(|scope| {
            for (member, port) in members.iter().zip([11, 12]) {
                let datagram = from(port, &packet(port, to));
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        member.send(&datagram).unwrap();
                    }
                });
            }
            while heard.iter().any(|count| *count < ENOUGH) {
                let datagram = peer();
                numbers.push(u32::from_be_bytes(*datagram[4..].first_chunk().unwrap()));
                match datagram.get(HEAD + 15) {
                    Some(11) => heard[0] += 1,
                    Some(12) => heard[1] += 1,
                    _ => {}
                }
                if numbers.len().is_multiple_of(50) {
                    self.workers.send_control(PortId(to.into()), b"ping".to_vec());
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        numbers
    }
}

#[test]
fn an_engines_last_word_is_not_overtaken_by_the_end_of_its_port() {
    let yard = Yard::new();
    for port in 20..40 {
        let peer = yard.member(port, 1);

        yard.workers.send_control(PortId(port.into()), b"bye".to_vec());
        yard.workers.forget(PortId(port.into()));

        let mut room = [0; 100];
        let len = peer.recv(&mut room).unwrap();
        assert_eq!(&room[HEAD..len], b"bye", "to {port}");
    }
}

/// What a member sends.
fn from(port: u8, content: &[u8]) -> Vec<u8> {
    [&[9 << 3, 0, 0, port, 0, 0, 0, 0], content].concat()
}

/// An IPv4 packet from one member to another.
fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut packet = vec![0; 200];
    packet[0] = 0x45;
    packet[3] = 200;
    packet[8] = 64;
    packet[9] = 99;
    packet[12..16].copy_from_slice(&[10, 0, 0, from]);
    packet[16..20].copy_from_slice(&[10, 0, 0, to]);
    packet
}

#[test]
fn what_two_workers_have_for_a_peer_leaves_in_the_order_of_its_numbers() {
    let yard = Yard::new();
    let target = yard.member(2, 1);

    let numbers = yard.flood(2, || {
        let mut buffer = [0; 2000];
        let len = target.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    });

    let late = numbers.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    assert_eq!(late, 0, "of {}", numbers.len());
    yard.workers.stop();
}

#[test]
fn on_a_stream_no_number_is_missing_or_late() {
    let yard = Yard::new();
    let listener = sys::tcp::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut target = TcpStream::connect(address).unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    listener.set_nonblocking(false).unwrap();
    let (accepted, remote) = listener.accept().unwrap();
    let (io, local) = (TcpIo::new(accepted).unwrap(), Some(address.ip()));
    yard.submit(vec![WorkerOp::AddStream {
        id: STREAM,
        kind: KIND,
        io,
        local,
        remote,
        first: Vec::new(),
    }]);
    let path = Path { local, remote, carrier: Carrier::Stream(STREAM) };
    yard.install(TunnelKey::OpenVpnStream { stream: STREAM, key_id: 0 }, 2, path);

    let numbers = yard.flood(2, || {
        let mut head = [0; 2];
        target.read_exact(&mut head).unwrap();
        let mut message = vec![0; u16::from_be_bytes(head).into()];
        target.read_exact(&mut message).unwrap();
        message
    });

    let wrong = (1..).zip(&numbers).find(|(expected, number)| expected != *number);
    assert_eq!(wrong, None, "of {}", numbers.len());
    yard.workers.stop();
}

#[test]
fn an_idle_worker_is_woken_for_what_another_has_for_its_peer() {
    let yard = Yard::new();
    let (target, member) = (yard.member(2, 1), yard.member(11, 0));

    for _ in 0..200 {
        member.send(&from(11, &packet(11, 2))).unwrap();
        let mut buffer = [0; 2000];
        assert_eq!(target.recv(&mut buffer).unwrap(), HEAD + 200);
    }

    let control = lock(&yard.workers.0.control);
    let sent = control.ports[&PortId(2)].counters.iter().map(|one| one.read().tx_packets);
    assert_eq!(sent.collect::<Vec<_>>(), [0, 200]);
    drop(control);
    yard.workers.stop();
}
