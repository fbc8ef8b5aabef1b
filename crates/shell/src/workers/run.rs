//! The loop of one worker: wait, orders, network, host, flush.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use contract::{Carrier, Discard, Fabric, SocketId};
use dataplane::{Batch, DatagramSink, MAX_TUN_READ, Offloads, Op, Punt, Punts, TunIo, Worker};
use sys::{Poller, ReceiveBuffers, TunQueue, UdpIo};
use tokio::sync::mpsc::Sender;

use super::{Order, Shared, Side, WorkerEvent};

/// How often a ready socket is read before the others have their turn.
const RECEIVE_ROUNDS: usize = 4;
/// How many super packets are read from the TUN device before the sockets have their turn.
const HOST_ROUNDS: usize = 16;
/// The poller's token of the TUN device; those of sockets are their 16-bit ids.
const TUN: u64 = 1 << 32;

/// One worker's thread, before and while it runs.
#[derive(Debug)]
pub(super) struct Turn<F> {
    shared: Arc<Shared>,
    index: usize,
    worker: Worker<F>,
    poller: Poller,
    outside: Outside,
    buffers: ReceiveBuffers,
    room: Box<[u8]>,
    offloads: Offloads,
    segments_refused: bool,
}

/// Everything the worker reads from and writes to.
#[derive(Debug)]
struct Outside {
    tun: Option<TunQueue>,
    /// By socket id.
    sockets: Vec<Option<Slot>>,
    events: Sender<WorkerEvent>,
}

#[derive(Debug)]
struct Slot {
    io: UdpIo,
    /// Whether the poller waits for it; another worker receives if not.
    receives: bool,
}

/// Lets nobody wait for a worker that is gone, however it went.
struct Gone(Arc<Shared>, usize);

impl Drop for Gone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(worker = self.1, "a worker died; restart the program");
        }
        self.0.workers[self.1].applied.store(u64::MAX, Ordering::Release);
        self.0.reached.notify_waiters();
    }
}

impl<F: Fabric> Turn<F> {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        worker: Worker<F>,
        poller: Poller,
        tun: Option<TunQueue>,
        events: Sender<WorkerEvent>,
    ) -> io::Result<Self> {
        if let Some(tun) = &tun {
            poller.add(tun, TUN)?;
        }
        Ok(Self {
            shared,
            index,
            offloads: worker.offloads(),
            worker,
            poller,
            outside: Outside { tun, sockets: Vec::new(), events },
            buffers: ReceiveBuffers::default(),
            room: vec![0; MAX_TUN_READ].into(),
            segments_refused: false,
        })
    }

    pub(super) fn run(mut self) {
        let _gone = Gone(Arc::clone(&self.shared), self.index);
        loop {
            let ready = match self.poller.wait(None) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(worker = self.index, %error, "a worker cannot wait and stops");
                    return;
                }
            };
            let now = Instant::now();
            if self.obey(now).is_break() {
                return;
            }
            for token in ready {
                match u16::try_from(token) {
                    Ok(socket) => self.serve_socket(now, SocketId(socket)),
                    Err(_) => self.serve_host(now),
                }
            }
            self.worker.flush(&mut self.outside);
            self.publish();
        }
    }

    /// Carries out what has been ordered since the last turn.
    fn obey(&mut self, now: Instant) -> std::ops::ControlFlow<()> {
        for order in self.side().take_orders() {
            match order {
                Order::Op(op) => self.worker.apply(op),
                Order::AddSocket { id, kind, io, receives } => {
                    self.remove_socket(id);
                    self.worker.apply(Op::AddSocket(id, kind));
                    self.add_socket(id, io, receives);
                }
                Order::RemoveSocket(id) => {
                    // What is already sealed may still leave through it.
                    self.worker.flush(&mut self.outside);
                    self.worker.apply(Op::RemoveSocket(id));
                    self.remove_socket(id);
                }
                Order::Control { port, bytes } => {
                    self.worker.send_control(now, port, &bytes, &mut self.outside);
                }
                Order::Epoch(epoch) => {
                    self.side().applied.store(epoch, Ordering::Release);
                    self.shared.reached.notify_waiters();
                }
                Order::Stop => {
                    self.worker.flush(&mut self.outside);
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn add_socket(&mut self, id: SocketId, io: UdpIo, receives: bool) {
        if receives && let Err(error) = self.poller.add(&io, id.0.into()) {
            tracing::error!(worker = self.index, %error, "a socket cannot be waited for");
        }
        let index = usize::from(id.0);
        if self.outside.sockets.len() <= index {
            self.outside.sockets.resize_with(index + 1, || None);
        }
        self.outside.sockets[index] = Some(Slot { io, receives });
    }

    fn remove_socket(&mut self, id: SocketId) {
        let slot = self.outside.sockets.get_mut(usize::from(id.0)).and_then(Option::take);
        if let Some(Slot { io, receives: true }) = slot {
            // A sender elsewhere keeps the descriptor open, so closing ours would not be enough.
            let _ = self.poller.remove(&io);
        }
    }

    fn serve_socket(&mut self, now: Instant, id: SocketId) {
        for _ in 0..RECEIVE_ROUNDS {
            let Some(slot) = self.outside.socket(id) else { return };
            let Ok(batch) = slot.io.recv(&mut self.buffers) else { return };
            self.worker.on_network(now, batch, &mut self.outside);
            if self.worker.is_pressing() {
                self.worker.flush(&mut self.outside);
            }
        }
    }

    fn serve_host(&mut self, now: Instant) {
        for _ in 0..HOST_ROUNDS {
            let Some(tun) = &mut self.outside.tun else { return };
            let len = match tun.read(&mut self.room) {
                Ok(len) => len,
                Err(error) if is_temporary(&error) => return,
                Err(error) => return self.lose_host(error),
            };
            self.worker.on_host(now, &mut self.room[..len], &mut self.outside);
            if self.worker.is_pressing() {
                self.worker.flush(&mut self.outside);
            }
        }
    }

    /// The device is gone: reading it again would only spin.
    fn lose_host(&mut self, error: io::Error) {
        tracing::error!(worker = self.index, %error, "the TUN device is gone");
        if let Some(tun) = self.outside.tun.take() {
            let _ = self.poller.remove(&tun);
        }
        let _ = self.outside.events.try_send(WorkerEvent::TunFailed(error));
    }

    /// Shows the counters, and says once what the kernel turned out not to do.
    fn publish(&mut self) {
        let shared = self.side().discards.iter();
        for (shared, count) in shared.zip(self.worker.discards()) {
            shared.store(*count, Ordering::Relaxed);
        }
        if self.worker.offloads() != self.offloads {
            self.offloads = self.worker.offloads();
            let Offloads { gso, uso } = self.offloads;
            tracing::info!(worker = self.index, gso, uso, "the TUN device refused super packets");
        }
        let refuses = |slot: &Slot| !slot.io.segments();
        if !self.segments_refused && self.outside.sockets.iter().flatten().any(refuses) {
            self.segments_refused = true;
            tracing::info!(worker = self.index, "the kernel does not segment UDP on every socket");
        }
    }

    fn side(&self) -> &Side {
        &self.shared.workers[self.index]
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Outside {
    fn socket(&self, id: SocketId) -> Option<&Slot> {
        self.sockets.get(usize::from(id.0))?.as_ref()
    }
}

impl TunIo for Outside {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tun {
            Some(tun) => tun.read(into),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        match &mut self.tun {
            Some(tun) => tun.write(pieces),
            None => Ok(()),
        }
    }
}

impl DatagramSink for Outside {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        let Carrier::Udp(id) = batch.path().carrier else { return Err(Discard::NoRoute) };
        self.socket(id).ok_or(Discard::NoRoute)?.io.send(batch)
    }
}

impl Punts for Outside {
    fn punt(&mut self, punt: Punt<'_>) -> Result<(), Discard> {
        // The place comes first: a flood that finds none costs no copy either.
        let place = self.events.try_reserve().map_err(|_| Discard::NoBuffer)?;
        place.send(match punt {
            Punt::Datagram { path, bytes } => WorkerEvent::Datagram { path, bytes: bytes.to_vec() },
            Punt::Control { port, bytes } => WorkerEvent::Control { port, bytes: bytes.to_vec() },
            Punt::Notice { port, notice } => WorkerEvent::Notice { port, notice },
        });
        Ok(())
    }
}
