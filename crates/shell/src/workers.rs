//! The threads that carry packets, and the control plane's hold on them.
//!
//! ```text
//!   control --submit--> inbox of each worker --(between batches)--> its tables
//!           <--wait_applied-- epoch that every worker has reached
//!           <--WorkerEvent--- bounded queue: full = drop and count
//! ```
//!
//! Each worker is one `std::thread` with a queue of the TUN device, a socket of every address
//! (`SO_REUSEPORT`) and its own copy of the tables. A peer is sent to by one worker, the one that
//! hears it; the others hand over what they have for it. An idle worker is blocked in `epoll_wait`.

mod pace;
mod run;
mod streams;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::thread::JoinHandle;

use contract::{
    Carrier, DataPlaneOp, Discard, Fabric, FabricOp, Layer, Notice, Path, PortId, SocketId,
    StreamId,
};
use dataplane::{
    Handover, Home, Op, PortCounters, PortTotals, Prefix, Settings, SocketKind, StreamKind, Worker,
};
use sys::{Interest, Poller, TcpIo, TunQueue, UdpIo, UdpSender, Waker};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;

use run::Devices;
pub use streams::StreamEnd;
use streams::{Spares, StreamSender};

/// What the workers are started with.
#[derive(Debug)]
pub struct WorkersConfig<B> {
    /// One queue of the TUN device for each worker. Without any, packets for the host vanish:
    /// for load generators and tests.
    pub queues: Vec<TunQueue>,
    /// One queue of the device for frames of the network that the segment is joined to, for each
    /// worker; none if there is no such network.
    pub frames: Vec<TunQueue>,
    /// How many workers there are if there are no queues.
    pub without_queues: usize,
    /// What those queues carry: packets (TUN) or frames (TAP).
    pub layer: Layer,
    /// The network's own IPv4 address.
    pub gateway4: Option<Ipv4Addr>,
    /// The network's own IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// Makes each worker's copy of the fabric.
    pub fabric: B,
}

/// Orders to every worker.
#[derive(Debug)]
pub enum WorkerOp {
    /// To the tunnels.
    DataPlane(DataPlaneOp),
    /// To the fabric.
    Fabric(FabricOp),
    /// Serve an address.
    AddSocket {
        /// The number that every worker knows it by.
        id: SocketId,
        /// What is spoken there.
        kind: SocketKind,
        /// One for each worker, bound to one address; a worker without one of its own sends
        /// through the first.
        sockets: Vec<UdpIo>,
        /// What is in front of every datagram, because there is a relay on the way.
        prefix: Option<Prefix>,
    },
    /// Stop serving it and close it.
    RemoveSocket(SocketId),
    /// Serve a connection.
    AddStream {
        /// The number that every worker knows it by.
        id: StreamId,
        /// What is spoken on it.
        kind: StreamKind,
        /// The connection.
        io: TcpIo,
        /// Our address.
        local: Option<IpAddr>,
        /// The peer's.
        remote: SocketAddr,
        /// What has been read from it already.
        first: Vec<u8>,
    },
    /// Stop serving it, and close it as soon as the peer has what has been sent. It is given for
    /// every stream that was added, also after [`WorkerEvent::StreamClosed`].
    RemoveStream(StreamId),
}

/// What the control plane hears from the workers.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A datagram that is not for any tunnel.
    Datagram {
        /// Where it came from.
        path: Path,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// A message for an engine that came out of its tunnel.
    Control {
        /// Whose tunnel.
        port: PortId,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// Something a worker noticed.
    Notice {
        /// About whom.
        port: PortId,
        /// What.
        notice: Notice,
    },
    /// A stream is over; said once, and never lost.
    StreamClosed {
        /// Which.
        stream: StreamId,
        /// Why.
        reason: StreamEnd,
    },
    /// A worker cannot go on reading the TUN device.
    TunFailed(io::Error),
}

/// The workers, as the control plane holds them; a clone is another hold on the same ones.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    workers: Vec<Side>,
    control: Mutex<Control>,
    /// Told whenever a worker has reached an epoch.
    reached: Notify,
    /// Whether a worker is gone that nobody stopped, or has lost the TUN device.
    broken: AtomicBool,
    /// Told when that happens.
    broke: Notify,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the control plane remembers of what it ordered; locked by the control plane only.
#[derive(Debug, Default)]
struct Control {
    epoch: u64,
    ports: HashMap<PortId, Booked>,
    senders: HashMap<SocketId, (UdpSender, Option<Prefix>)>,
    /// With the worker that reads each.
    streams: HashMap<StreamId, (usize, Arc<StreamSender>)>,
    /// How many streams each worker reads.
    loads: Vec<usize>,
    spares: Arc<Spares>,
    discards: [u64; Discard::COUNT],
}

/// A port as the control plane knows it.
#[derive(Debug, Default)]
struct Booked {
    /// One for each worker.
    counters: Vec<Arc<PortCounters>>,
    /// The same for all of them.
    home: Arc<Home>,
}

/// One worker as seen from outside.
#[derive(Debug)]
struct Side {
    /// `None` once the worker is gone.
    inbox: Mutex<Option<Vec<Order>>>,
    /// Whether the inbox is worth locking.
    has_orders: AtomicBool,
    waker: Waker,
    interest: Interest,
    /// The last epoch that is in force here.
    applied: AtomicU64,
    discards: [AtomicU64; Discard::COUNT],
    totals: Arc<PortCounters>,
}

/// What a worker finds in its inbox.
#[derive(Debug)]
enum Order {
    Op(Op),
    AddSocket {
        id: SocketId,
        kind: SocketKind,
        io: UdpIo,
        receives: bool,
        prefix: Option<Prefix>,
    },
    RemoveSocket(SocketId),
    AddStream {
        id: StreamId,
        kind: StreamKind,
        /// The worker that reads it.
        owner: usize,
        sender: Arc<StreamSender>,
        /// Where it leads and what has been read already, if this worker is to read on.
        read: Option<(Path, Vec<u8>)>,
    },
    RemoveStream(StreamId),
    Control {
        port: PortId,
        bytes: Vec<u8>,
    },
    Epoch(u64),
    Stop,
}

impl Workers {
    /// Starts one thread per TUN queue.
    ///
    /// # Errors
    ///
    /// Fails if the system has no thread or descriptor left.
    pub fn start<F: Fabric + Send + 'static>(
        config: WorkersConfig<impl Fn() -> F>,
        events: Sender<WorkerEvent>,
    ) -> io::Result<Self> {
        let WorkersConfig { queues, frames, without_queues, layer, gateway4, gateway6, fabric } =
            config;
        let mut frames = frames.into_iter();
        let queues = if queues.is_empty() {
            (0..without_queues.max(1)).map(|_| None).collect::<Vec<_>>()
        } else {
            queues.into_iter().map(Some).collect()
        };

        let mut sides = Vec::new();
        let mut parts = Vec::new();
        for queue in queues {
            let offloads = queue.as_ref().map(TunQueue::offloads).unwrap_or_default();
            let settings = Settings { gateway4, gateway6, offloads, layer };
            let worker = Worker::new(fabric(), &settings);
            let poller = Poller::new()?;
            sides.push(Side::new(&poller, worker.totals()));
            parts.push((worker, poller, Devices { host: queue, frames: frames.next() }));
        }
        if parts.len() > 1 {
            let wakers = sides.iter().map(|side| Arc::new(Alarm(side.waker.clone())).into());
            for (handover, (worker, ..)) in
                Handover::mesh(wakers.collect()).into_iter().zip(&mut parts)
            {
                worker.join(handover);
            }
        }
        let workers = Self(Arc::new(Shared {
            workers: sides,
            control: Mutex::default(),
            reached: Notify::new(),
            broken: AtomicBool::new(false),
            broke: Notify::new(),
            threads: Mutex::default(),
        }));
        for (index, (worker, poller, devices)) in parts.into_iter().enumerate() {
            let turn = run::Turn::new(
                Arc::clone(&workers.0),
                index,
                worker,
                poller,
                devices,
                events.clone(),
            );
            let spawn = turn.and_then(|turn| {
                std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .spawn(move || turn.run())
            });
            match spawn {
                Ok(thread) => lock(&workers.0.threads).push(thread),
                Err(error) => {
                    workers.stop();
                    return Err(error);
                }
            }
        }
        Ok(workers)
    }

    /// How many workers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.workers.len()
    }

    /// Gives every worker the same orders, in order; the epoch that they are in force with.
    pub fn submit(&self, ops: Vec<WorkerOp>) -> u64 {
        let mut control = lock(&self.0.control);
        let mut orders = self.0.workers.iter().map(|_| Vec::new()).collect::<Vec<_>>();
        for op in ops {
            control.translate(op, &self.0.workers, &mut orders);
        }
        control.epoch += 1;
        // Under the lock, so that all workers see all epochs in the same order.
        for (side, mut orders) in self.0.workers.iter().zip(orders) {
            orders.push(Order::Epoch(control.epoch));
            side.order(orders);
        }
        control.epoch
    }

    /// Returns once every worker has carried out what [`submit`](Self::submit) gave `epoch` to.
    pub async fn wait_applied(&self, epoch: u64) {
        loop {
            let reached = self.0.reached.notified();
            tokio::pin!(reached);
            // Registered before the look, so a worker in between is not missed.
            reached.as_mut().enable();
            if self.applied() >= epoch {
                return;
            }
            reached.await;
        }
    }

    /// Returns once a worker is gone that nobody [stopped](Self::stop), or has lost the TUN device:
    /// from then on packets vanish, and only a restart helps. The log says what happened.
    pub async fn broken(&self) {
        let broke = self.0.broke.notified();
        tokio::pin!(broke);
        // Registered before the look, so what breaks in between is not missed.
        broke.as_mut().enable();
        if !self.0.broken.load(Ordering::Acquire) {
            broke.await;
        }
    }

    /// The last epoch that is in force everywhere.
    #[must_use]
    pub fn applied(&self) -> u64 {
        let applied = self.0.workers.iter().map(|side| side.applied.load(Ordering::Acquire));
        applied.min().unwrap_or(u64::MAX)
    }

    /// Sends an engine's message inside its own tunnel, after everything submitted so far.
    pub fn send_control(&self, port: PortId, bytes: Vec<u8>) {
        // To the worker that sends it: one that had to pass it on would be overtaken by the orders
        // behind it, the last of all included.
        let home = lock(&self.0.control).ports.get(&port).and_then(|booked| booked.home.worker());
        if let Some(side) = self.0.workers.get(home.unwrap_or_default()) {
            side.order(vec![Order::Control { port, bytes }]);
        }
    }

    /// Sends a control datagram at once, from the calling thread.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the kernel has no room or no way to the peer,
    /// [`Discard::NoRoute`] if the path's socket or stream is gone.
    pub fn transmit(&self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        match path.carrier {
            Carrier::Udp(socket) => {
                let sender = lock(&self.0.control).senders.get(&socket).cloned();
                match sender.ok_or(Discard::NoRoute)? {
                    (sender, None) => sender.send(path, bytes),
                    (sender, Some(prefix)) => sender.send(path, &[prefix.bytes(), bytes].concat()),
                }
            }
            Carrier::Stream(stream) => {
                let sender = lock(&self.0.control).streams.get(&stream).cloned();
                let (_, sender) = sender.ok_or(Discard::NoRoute)?;
                if sender.send_control(bytes) { Ok(()) } else { Err(Discard::NoBuffer) }
            }
            Carrier::Ip { .. } => Err(Discard::NoRoute),
        }
    }

    /// What a port has carried so far.
    #[must_use]
    pub fn counters(&self, port: PortId) -> PortTotals {
        let control = lock(&self.0.control);
        control.ports.get(&port).map(|booked| sum(&booked.counters)).unwrap_or_default()
    }

    /// Ends a port, after everything submitted so far; what it has carried.
    ///
    /// A port exists in the workers and in the books from the first order that names it until
    /// this.
    pub fn forget(&self, port: PortId) -> PortTotals {
        let mut control = lock(&self.0.control);
        for side in &self.0.workers {
            side.order(vec![Order::Op(Op::Forget(port))]);
        }
        control.ports.remove(&port).map(|booked| sum(&booked.counters)).unwrap_or_default()
    }

    /// What all ports have carried, those that are gone included.
    #[must_use]
    pub fn totals(&self) -> PortTotals {
        sum(self.0.workers.iter().map(|side| &side.totals))
    }

    /// Whether the kernel still cuts batches of datagrams for us, on every socket.
    #[must_use]
    pub fn segments(&self) -> bool {
        lock(&self.0.control).senders.values().all(|(sender, _)| sender.segments())
    }

    /// Counts a control datagram that nobody wanted.
    pub fn count_discard(&self, why: Discard) {
        lock(&self.0.control).discards[why as usize] += 1;
    }

    /// What has been dropped, by [`Discard`] as index.
    #[must_use]
    pub fn discards(&self) -> [u64; Discard::COUNT] {
        let by_control = lock(&self.0.control).discards;
        let of = |index: usize| {
            let sides = self.0.workers.iter();
            let by_workers: u64 =
                sides.map(|side| side.discards[index].load(Ordering::Relaxed)).sum();
            by_workers + by_control[index]
        };
        std::array::from_fn(of)
    }

    /// Ends the threads and waits for them; sockets and TUN queues are closed when it returns.
    pub fn stop(&self) {
        for side in &self.0.workers {
            side.order(vec![Order::Stop]);
        }
        let mut control = lock(&self.0.control);
        control.senders.clear();
        control.streams.clear();
        drop(control);
        for thread in lock(&self.0.threads).drain(..) {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Control {
    /// One op becomes one or more orders to each worker.
    fn translate(&mut self, op: WorkerOp, sides: &[Side], orders: &mut [Vec<Order>]) {
        match op {
            WorkerOp::DataPlane(op) => {
                if let DataPlaneOp::Install { port, .. } | DataPlaneOp::SendVia { port, .. } = op {
                    self.count(port, orders);
                }
                for orders in orders {
                    orders.push(Order::Op(Op::DataPlane(op.clone())));
                }
            }
            WorkerOp::Fabric(op) => {
                for orders in orders {
                    orders.push(Order::Op(Op::Fabric(op.clone())));
                }
            }
            WorkerOp::AddSocket { id, kind, sockets, prefix } => {
                let Some(first) = sockets.first().map(UdpIo::share) else { return };
                self.senders.insert(id, (first.sender(), prefix.clone()));
                let mut own = sockets.into_iter();
                for orders in orders {
                    let own = own.next();
                    let receives = own.is_some();
                    let io = own.unwrap_or_else(|| first.share());
                    let prefix = prefix.clone();
                    orders.push(Order::AddSocket { id, kind, io, receives, prefix });
                }
            }
            WorkerOp::RemoveSocket(id) => {
                self.senders.remove(&id);
                for orders in orders {
                    orders.push(Order::RemoveSocket(id));
                }
            }
            WorkerOp::AddStream { id, kind, io, local, remote, first } => {
                let Some((owner, side)) = self.least_loaded(sides) else { return };
                let (framing, interest) = (kind.framing(), side.interest.clone());
                let spares = Arc::clone(&self.spares);
                let sender = Arc::new(StreamSender::new(id, framing, io, interest, spares));
                self.streams.insert(id, (owner, Arc::clone(&sender)));
                self.loads[owner] += 1;
                let path = Path { local, remote, carrier: Carrier::Stream(id) };
                let mut read = Some((path, first));
                for (index, orders) in orders.iter_mut().enumerate() {
                    let (sender, read) = (Arc::clone(&sender), read.take_if(|_| index == owner));
                    orders.push(Order::AddStream { id, kind, owner, sender, read });
                }
            }
            WorkerOp::RemoveStream(id) => {
                if let Some((owner, _)) = self.streams.remove(&id) {
                    self.loads[owner] -= 1;
                }
                for orders in orders {
                    orders.push(Order::RemoveStream(id));
                }
            }
        }
    }

    /// The worker that reads the fewest streams.
    fn least_loaded<'s>(&mut self, sides: &'s [Side]) -> Option<(usize, &'s Side)> {
        self.loads.resize(sides.len(), 0);
        sides.iter().enumerate().min_by_key(|(index, _)| self.loads[*index])
    }

    /// Gives a port that is named for the first time a counter in every worker, and one home in all.
    fn count(&mut self, port: PortId, orders: &mut [Vec<Order>]) {
        let Booked { counters, home } = self.ports.entry(port).or_default();
        if !counters.is_empty() {
            return;
        }
        for orders in orders {
            let one = Arc::<PortCounters>::default();
            counters.push(Arc::clone(&one));
            orders.push(Order::Op(Op::Count { port, counters: one, home: Arc::clone(home) }));
        }
    }
}

/// Wakes a worker for its neighbours.
struct Alarm(Waker);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

impl Shared {
    fn break_down(&self) {
        self.broken.store(true, Ordering::Release);
        self.broke.notify_waiters();
    }
}

impl Side {
    fn new(poller: &Poller, totals: Arc<PortCounters>) -> Self {
        Self {
            inbox: Mutex::new(Some(Vec::new())),
            has_orders: AtomicBool::new(false),
            waker: poller.waker(),
            interest: poller.interest(),
            applied: AtomicU64::new(0),
            discards: std::array::from_fn(|_| AtomicU64::new(0)),
            totals,
        }
    }

    fn order(&self, orders: Vec<Order>) {
        match &mut *lock(&self.inbox) {
            Some(inbox) => inbox.extend(orders),
            None => return,
        }
        self.has_orders.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Everything ordered since the last call; locks only if there is something.
    fn take_orders(&self) -> Vec<Order> {
        if self.has_orders.swap(false, Ordering::Acquire) {
            lock(&self.inbox).as_mut().map(std::mem::take).unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    /// Nobody takes orders any more.
    fn close(&self) {
        let left = lock(&self.inbox).take();
        // Only now, without the lock: this may close sockets and streams.
        drop(left);
    }
}

fn sum<'c>(counters: impl IntoIterator<Item = &'c Arc<PortCounters>>) -> PortTotals {
    let mut totals = PortTotals::default();
    counters.into_iter().for_each(|one| totals += one.read());
    totals
}

/// Nothing under these locks is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
