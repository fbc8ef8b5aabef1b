//! The limit: what this machine could carry if tunnels cost nothing.
//!
//! The same system calls in the same batches as Warren's workers make, the same splitting and
//! joining, but no tables, no tunnel, no cipher: packets travel as they are in UDP datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use contract::{Carrier, Discard, Path, SocketId};
use dataplane::{
    Batch, Coalescer, DatagramSink, Egress, MAX_TUN_READ, Offloads, SuperPacket, TunIo as _,
};
use lab::Namespace;
use sys::{Poller, ReceiveBuffers, Tun, TunQueue, UdpIo, UdpOptions, Waker};
use wire::ip::Head;

use crate::arena::Arena;

const PORT: u16 = 4000;
const SERVER: &str = "10.9.0.1";
const CLIENT: &str = "10.9.0.2";
const SOCKET: SocketId = SocketId(0);
const TOKEN_SOCKET: u64 = 0;
const TOKEN_TUN: u64 = 1;
/// As in Warren's workers: how often each side is read before the other has its turn.
const RECEIVE_ROUNDS: usize = 4;
const HOST_ROUNDS: usize = 16;

/// A forwarder at both ends of the cable.
#[derive(Debug)]
pub(crate) struct Limit {
    _ends: Vec<End>,
}

#[derive(Debug)]
struct End {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Limit {
    pub(crate) fn start(arena: &Arena, mtu: u16) -> Result<Self> {
        Ok(Self {
            _ends: vec![
                End::start(&arena.server, (Arena::SERVER, SERVER), Arena::CLIENT, mtu)?,
                End::start(&arena.client, (Arena::CLIENT, CLIENT), Arena::SERVER, mtu)?,
            ],
        })
    }

    /// The server's address inside.
    pub(crate) fn target() -> Result<IpAddr> {
        Ok(SERVER.parse()?)
    }
}

impl End {
    fn start(
        namespace: &Namespace,
        (local, inside): (IpAddr, &str),
        remote: IpAddr,
        mtu: u16,
    ) -> Result<Self> {
        let (tun, socket) = namespace.enter(move || {
            let socket = sys::udp::bind(SocketAddr::new(local, PORT), UdpOptions::default());
            (Tun::open("limit%d", 1), socket)
        });
        let tun = tun?;
        let device = tun.name().to_owned();
        namespace.run("ip", &["addr", "add", &format!("{inside}/24"), "dev", &device])?;
        namespace.run("ip", &["link", "set", &device, "mtu", &mtu.to_string(), "up"])?;

        let offloads = tun.offloads();
        let tun = tun.queues().pop().context("a TUN device has a queue")?;
        let socket = UdpIo::new(SOCKET, socket?)?;
        let poller = Poller::new()?;
        poller.add(&socket, TOKEN_SOCKET)?;
        poller.add(&tun, TOKEN_TUN)?;
        let path = Path {
            local: None,
            remote: SocketAddr::new(remote, PORT),
            carrier: Carrier::Udp(SOCKET),
        };

        let (stop, waker) = (Arc::<AtomicBool>::default(), poller.waker());
        let forwarder = Forwarder {
            poller,
            tun,
            socket: Socket(socket),
            path,
            offloads,
            egress: Egress::default(),
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name(format!("limit-{}", namespace.name()))
            .spawn(move || forwarder.run())?;
        Ok(Self { stop, waker, thread: Some(thread) })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Socket(UdpIo);

impl DatagramSink for Socket {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        self.0.send(batch)
    }
}

#[derive(Debug)]
struct Forwarder {
    poller: Poller,
    tun: TunQueue,
    socket: Socket,
    path: Path,
    offloads: Offloads,
    egress: Egress,
    stop: Arc<AtomicBool>,
}

impl Forwarder {
    /// Runs until told to stop; what the kernel refuses is lost, as in any network.
    fn run(mut self) {
        let mut buffers = ReceiveBuffers::default();
        let mut room = vec![0; MAX_TUN_READ];
        while let Ok(ready) = self.poller.wait(None) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            for token in ready {
                if token == TOKEN_SOCKET {
                    self.inbound(&mut buffers);
                } else {
                    self.outbound(&mut room);
                }
            }
        }
    }

    fn inbound(&mut self, buffers: &mut ReceiveBuffers) {
        for _ in 0..RECEIVE_ROUNDS {
            let Ok(batch) = self.socket.0.recv(buffers) else { return };
            let mut coalescer = Coalescer::default();
            for received in batch {
                for datagram in received.bytes.chunks(received.stride.max(1)) {
                    if let Ok(head) = Head::parse(datagram) {
                        let _ = coalescer.push(datagram, &head, &mut self.tun, &mut self.offloads);
                    }
                }
            }
            let _ = coalescer.flush(&mut self.tun, &mut self.offloads);
        }
    }

    fn outbound(&mut self, room: &mut [u8]) {
        for _ in 0..HOST_ROUNDS {
            let Ok(len) = self.tun.read(room) else { break };
            if let Ok(packet) = SuperPacket::parse(&mut room[..len]) {
                for index in 0..packet.count() {
                    let Ok(mut slot) = self.egress.reserve(self.path, packet.len_of(index)) else {
                        break;
                    };
                    packet.write(index, slot.bytes());
                    slot.commit();
                }
            }
            if self.egress.is_pressing() {
                self.egress.flush(&mut self.socket, |_| {});
            }
        }
        self.egress.flush(&mut self.socket, |_| {});
    }
}
