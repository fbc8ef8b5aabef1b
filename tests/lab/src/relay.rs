//! A UDP relay that loses, delays, reorders, duplicates and corrupts, and moves to new ports.
//!
//! It stands in for netem, which many kernels lack, and for the NAT box that forgets a mapping.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::namespace::Namespace;

const MAX_DATAGRAM: usize = 65_535;
/// Also how soon a change of settings or the end is noticed.
const TICK: Duration = Duration::from_millis(20);
/// A socket is drained this far before the others get a turn.
const BURST: usize = 64;

/// What happens to datagrams on their way. Rates are 0.0 to 1.0, per datagram and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Share that is lost.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share that arrives with one bit changed.
    pub corrupt: f64,
    /// How long every datagram takes at least.
    pub delay: Duration,
    /// How much longer it may take, at random: this reorders.
    pub jitter: Duration,
}

/// One direction's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Datagrams that entered the relay.
    pub packets: u64,
    /// Their bytes, without UDP and IP headers.
    pub bytes: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
}

/// Both directions' totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Towards the upstream address.
    pub up: Flow,
    /// Back from it.
    pub down: Flow,
}

/// A running relay; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Mutex<Shared>>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    impairment: Impairment,
    counters: Counters,
    rebind: bool,
    stop: bool,
}

impl Relay {
    /// Listens at `listen` inside the namespace and forwards each sender, from a port of its own,
    /// to `upstream`. The same seed makes the same choices for the same datagrams.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(
        namespace: &Namespace,
        listen: SocketAddr,
        upstream: SocketAddr,
        seed: u64,
    ) -> Result<Self> {
        let front = namespace
            .enter(move || bind(listen))
            .with_context(|| format!("relay in {}: listen on {listen}", namespace.name()))?;
        let address = front.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let forwarder = Forwarder {
            namespace: namespace.clone(),
            shared: Arc::clone(&shared),
            front,
            upstream,
            flows: BTreeMap::new(),
            retired: Vec::new(),
            held: BinaryHeap::new(),
            sequence: 0,
            random: Random(seed),
        };
        let thread = thread::Builder::new().name("relay".into()).spawn(move || forwarder.run())?;
        Ok(Self { shared, address, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to datagrams from here on.
    pub fn impair(&self, impairment: Impairment) {
        self.shared().impairment = impairment;
    }

    /// Gives every sender a new source port; what still arrives at the old ones is swallowed, as
    /// by a NAT router that forgot the mapping.
    pub fn rebind(&self) {
        self.shared().rebind = true;
    }

    /// What has passed so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared().counters
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared().stop = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up(SocketAddr),
    Down(SocketAddr),
}

/// A datagram on its way; the order of the fields is the order of departure.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    sequence: u64,
    way: Way,
    datagram: Vec<u8>,
}

#[derive(Debug)]
struct Forwarder {
    namespace: Namespace,
    shared: Arc<Mutex<Shared>>,
    front: UdpSocket,
    upstream: SocketAddr,
    flows: BTreeMap<SocketAddr, UdpSocket>,
    retired: Vec<UdpSocket>,
    held: BinaryHeap<Reverse<Held>>,
    sequence: u64,
    random: Random,
}

impl Forwarder {
    fn run(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            self.release();
            self.wait();
            // Read after the wait: whoever changed them expects the next datagram to notice.
            let (rebind, stop) = {
                let mut shared = self.shared();
                (std::mem::take(&mut shared.rebind), shared.stop)
            };
            if stop {
                return;
            }
            if rebind {
                self.retired.extend(std::mem::take(&mut self.flows).into_values());
            }
            self.receive_from_senders(&mut buffer);
            self.receive_from_upstream(&mut buffer);
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let now = Instant::now();
        let due = self.held.peek().map_or(TICK, |Reverse(Held { due, .. })| {
            // Poll counts whole milliseconds: rounding up avoids spinning through the last one.
            due.saturating_duration_since(now) + Duration::from_millis(1)
        });
        let timeout = PollTimeout::try_from(due.min(TICK)).unwrap_or(PollTimeout::ZERO);
        let mut sockets: Vec<_> = std::iter::once(&self.front)
            .chain(self.flows.values())
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut sockets, timeout);
    }

    fn receive_from_senders(&mut self, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Ok((len, sender)) = self.front.recv_from(buffer) else { return };
            self.take(Way::Up(sender), &buffer[..len]);
        }
    }

    fn receive_from_upstream(&mut self, buffer: &mut [u8]) {
        let senders: Vec<_> = self.flows.keys().copied().collect();
        for sender in senders {
            for _ in 0..BURST {
                let Some(Ok(len)) = self.flows.get(&sender).map(|socket| socket.recv(buffer))
                else {
                    break;
                };
                self.take(Way::Down(sender), &buffer[..len]);
            }
        }
    }

    fn take(&mut self, way: Way, datagram: &[u8]) {
        let impairment = self.shared().impairment;
        let lost = self.random.happens(impairment.loss);
        self.count(way, datagram.len(), lost);
        if lost {
            return;
        }
        let copies = if self.random.happens(impairment.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut datagram = datagram.to_vec();
            if self.random.happens(impairment.corrupt) && !datagram.is_empty() {
                let at = self.random.below(datagram.len() as u64 * 8) as usize;
                datagram[at / 8] ^= 1 << (at % 8);
            }
            let delay = impairment.delay + impairment.jitter.mul_f64(self.random.fraction());
            if delay.is_zero() {
                self.send(way, &datagram);
            } else {
                self.sequence += 1;
                let (due, sequence) = (Instant::now() + delay, self.sequence);
                self.held.push(Reverse(Held { due, sequence, way, datagram }));
            }
        }
    }

    fn count(&self, way: Way, len: usize, lost: bool) {
        let mut shared = self.shared();
        let flow = match way {
            Way::Up(_) => &mut shared.counters.up,
            Way::Down(_) => &mut shared.counters.down,
        };
        flow.packets += 1;
        flow.bytes += len as u64;
        flow.lost += u64::from(lost);
    }

    fn release(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            if let Some(Reverse(held)) = self.held.pop() {
                self.send(held.way, &held.datagram);
            }
        }
    }

    // A relay loses what it cannot send, as a router does.
    fn send(&mut self, way: Way, datagram: &[u8]) {
        match way {
            Way::Down(sender) => drop(self.front.send_to(datagram, sender)),
            Way::Up(sender) => {
                if !self.flows.contains_key(&sender) {
                    let Ok(socket) = self.upstream_socket() else { return };
                    self.flows.insert(sender, socket);
                }
                if let Some(socket) = self.flows.get(&sender) {
                    let _ = socket.send(datagram);
                }
            }
        }
    }

    fn upstream_socket(&self) -> io::Result<UdpSocket> {
        let upstream = self.upstream;
        let any: IpAddr = match upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.namespace.enter(move || {
            let socket = bind(SocketAddr::new(any, 0))?;
            socket.connect(upstream)?;
            Ok(socket)
        })
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// SplitMix64: repeatable from its seed, which is all the lab asks of it.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn happens(&mut self, rate: f64) -> bool {
        self.fraction() < rate
    }
}
