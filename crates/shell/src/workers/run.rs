//! The loop of one worker: wait, orders, neighbours, network, host, flush.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use contract::{Carrier, Discard, Fabric, Path, SocketId, StreamId};
use dataplane::{Batch, DatagramSink, MAX_TUN_READ, Offloads, Op, Punt, Punts, TunIo, Worker};
use nix::sys::prctl;
use sys::{Poller, ReceiveBuffers, TunQueue, UdpIo};
use tokio::sync::mpsc::Sender;

use super::pace::Pace;
use super::streams::{StreamSender, Streams, stream_of};
use super::{Order, Shared, Side, WorkerEvent};

/// How often a ready socket is read before the others have their turn.
const RECEIVE_ROUNDS: usize = 4;
/// How many super packets are read from the TUN device before the sockets have their turn.
const HOST_ROUNDS: usize = 16;
/// How many reads of the TUN device in a row may fail before it counts as gone.
const MAX_READ_ERRORS: u32 = 1000;
/// A receive that brings fewer messages has emptied the socket.
const FULL_RECEIVE: usize = 16;
/// What one packet of a super packet is about as long as, in bytes.
const TYPICAL_PACKET: usize = 1400;
/// Slack of this thread's timers, in nanoseconds.
const TIMER_SLACK: u64 = 1000;
/// The poller's token of the TUN device; those of sockets are their 16-bit ids.
const TUN: u64 = 1 << 32;
/// That of the device for frames.
const FRAMES: u64 = TUN + 1;

/// One worker's thread, before and while it runs.
#[derive(Debug)]
pub(super) struct Turn<F> {
    shared: Arc<Shared>,
    index: usize,
    worker: Worker<F>,
    poller: Poller,
    outside: Outside,
    streams: Streams,
    buffers: ReceiveBuffers,
    room: Box<[u8]>,
    offloads: Offloads,
    segments_refused: bool,
    read_errors: ReadErrors,
    /// Packets of this turn, roughly: a super packet counts as those it is made of.
    moved: usize,
}

/// A worker's queues of the devices.
#[derive(Debug)]
pub(super) struct Devices {
    /// Of the host's, for packets or, at a client, for frames.
    pub(super) host: Option<TunQueue>,
    /// Of that for frames of the network that the segment is joined to.
    pub(super) frames: Option<TunQueue>,
}

/// Everything the worker reads from and writes to.
#[derive(Debug)]
struct Outside {
    devices: Devices,
    /// By socket id.
    sockets: Vec<Option<Slot>>,
    streams: HashMap<StreamId, Arc<StreamSender>>,
    /// Messages that streams had no room for.
    lost: usize,
    events: Sender<WorkerEvent>,
}

#[derive(Debug)]
struct Slot {
    io: UdpIo,
    /// Whether the poller waits for it; another worker receives if not.
    receives: bool,
}

/// How many reads of the TUN device have failed since the last one that did not.
#[derive(Debug, Default)]
struct ReadErrors(u32);

/// What a failed read of the TUN device means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReadError {
    Empty,
    /// One packet is lost.
    Packet,
    /// The device is gone.
    Device,
}

/// Lets nobody wait for a worker that is gone, however it went.
struct Gone {
    shared: Arc<Shared>,
    index: usize,
    /// Whether it was told to go.
    stopped: bool,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(worker = self.index, "a worker died; restart the program");
        }
        let side = &self.shared.workers[self.index];
        side.close();
        side.applied.store(u64::MAX, Ordering::Release);
        self.shared.reached.notify_waiters();
        if !self.stopped {
            self.shared.break_down();
        }
    }
}

impl<F: Fabric> Turn<F> {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        worker: Worker<F>,
        poller: Poller,
        devices: Devices,
        events: Sender<WorkerEvent>,
    ) -> io::Result<Self> {
        for (queue, token) in [(&devices.host, TUN), (&devices.frames, FRAMES)] {
            if let Some(queue) = queue {
                poller.add(queue, token)?;
            }
        }
        Ok(Self {
            shared,
            index,
            offloads: worker.offloads(),
            worker,
            poller,
            outside: Outside {
                devices,
                sockets: Vec::new(),
                streams: HashMap::new(),
                lost: 0,
                events,
            },
            streams: Streams::default(),
            buffers: ReceiveBuffers::default(),
            room: vec![0; MAX_TUN_READ].into(),
            segments_refused: false,
            read_errors: ReadErrors::default(),
            moved: 0,
        })
    }

    pub(super) fn run(mut self) {
        let mut gone = Gone { shared: Arc::clone(&self.shared), index: self.index, stopped: false };
        // A pause is short: the kernel's usual slack would be as long again.
        let _ = prctl::set_timerslack(TIMER_SLACK);
        let mut pace = Pace::new(Instant::now());
        let mut patience = None;
        loop {
            if !self.worker.may_sleep() {
                patience = Some(Duration::ZERO);
            }
            let ready = match self.poller.wait(patience) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(worker = self.index, %error, "a worker cannot wait and stops");
                    return;
                }
            };
            let now = Instant::now();
            if self.obey(now).is_break() {
                gone.stopped = true;
                return;
            }
            self.moved += self.worker.take_over(now, &mut self.outside);
            for token in ready {
                if let Ok(socket) = u16::try_from(token) {
                    self.serve_socket(now, SocketId(socket));
                } else if let Some(stream) = stream_of(token) {
                    let sides = (&mut self.worker, &mut self.outside);
                    self.moved += self.streams.serve(now, stream, &self.poller, sides);
                } else {
                    self.serve_device(now, token);
                }
            }
            self.worker.flush(&mut self.outside);
            self.streams.tidy(now, &self.poller, &self.outside.events);
            patience = self.streams.patience(now);
            self.publish();
            let moved = std::mem::take(&mut self.moved);
            if let Some(pause) = pace.after_turn(now, Instant::now(), moved) {
                std::thread::sleep(pause);
            }
        }
    }

    /// Carries out what has been ordered since the last turn.
    fn obey(&mut self, now: Instant) -> std::ops::ControlFlow<()> {
        for order in self.side().take_orders() {
            match order {
                Order::Op(op) => self.worker.apply(op),
                Order::AddSocket { id, kind, io, receives, prefix } => {
                    self.remove_socket(id);
                    self.worker.apply(Op::AddSocket(id, kind, prefix));
                    self.add_socket(id, io, receives);
                }
                Order::RemoveSocket(id) => {
                    // What is already sealed may still leave through it.
                    self.worker.flush(&mut self.outside);
                    self.worker.apply(Op::RemoveSocket(id));
                    self.remove_socket(id);
                }
                Order::AddStream { id, kind, owner, sender, read } => {
                    self.worker.apply(Op::AddStream { stream: id, kind, reader: owner });
                    self.outside.streams.insert(id, Arc::clone(&sender));
                    if let Some((path, mut first)) = read {
                        let sides = (&mut self.worker, &mut self.outside);
                        self.streams.add(now, (sender, path), &mut first, &self.poller, sides);
                    }
                }
                Order::RemoveStream(id) => {
                    // What is already sealed may still leave on it.
                    self.worker.flush(&mut self.outside);
                    self.worker.apply(Op::RemoveStream(id));
                    self.outside.streams.remove(&id);
                    self.streams.remove(now, id, &self.poller);
                }
                Order::Control { port, bytes } => match self.worker.sends_elsewhere(port) {
                    // Not with the packets: of an engine's messages none is dropped.
                    Some(home) => {
                        self.shared.workers[home].order(vec![Order::Control { port, bytes }])
                    }
                    None => self.worker.send_control(now, port, &bytes, &mut self.outside),
                },
                Order::Epoch(epoch) => {
                    self.side().applied.store(epoch, Ordering::Release);
                    self.shared.reached.notify_waiters();
                }
                Order::Stop => {
                    self.worker.flush(&mut self.outside);
                    self.streams.finish();
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
            let (mut messages, mut datagrams) = (0, 0);
            let batch = batch.inspect(|received| {
                messages += 1;
                datagrams += received.bytes.len().div_ceil(received.stride.max(1));
            });
            self.worker.on_network(now, batch, &mut self.outside);
            self.moved += datagrams;
            if self.worker.is_pressing() {
                self.worker.flush(&mut self.outside);
            }
            // The queue is all but empty: what comes next had better gather.
            if messages < FULL_RECEIVE {
                return;
            }
        }
    }

    fn serve_device(&mut self, now: Instant, token: u64) {
        for _ in 0..HOST_ROUNDS {
            let devices = &mut self.outside.devices;
            let device = if token == FRAMES { &mut devices.frames } else { &mut devices.host };
            let Some(queue) = device else { return };
            let len = match queue.read(&mut self.room) {
                Ok(len) => len,
                Err(error) => match self.read_errors.judge(&error) {
                    ReadError::Empty => return,
                    ReadError::Packet => {
                        self.worker.count_discards(Discard::Malformed, 1);
                        continue;
                    }
                    ReadError::Device => return self.lose_device(token, error),
                },
            };
            self.read_errors = ReadErrors::default();
            self.moved += len.div_ceil(TYPICAL_PACKET);
            let read = &mut self.room[..len];
            match token {
                FRAMES => self.worker.on_bridge(now, read, &mut self.outside),
                _ => self.worker.on_host(now, read, &mut self.outside),
            }
            if self.worker.is_pressing() {
                self.worker.flush(&mut self.outside);
            }
        }
    }

    /// The device is gone: reading it again would only spin.
    fn lose_device(&mut self, token: u64, error: io::Error) {
        let name = if token == FRAMES { "TAP" } else { "TUN" };
        tracing::error!(worker = self.index, %error, "the {name} device is gone");
        let devices = &mut self.outside.devices;
        let device = if token == FRAMES { &mut devices.frames } else { &mut devices.host };
        if let Some(queue) = device.take() {
            let _ = self.poller.remove(&queue);
        }
        let _ = self.outside.events.try_send(WorkerEvent::TunFailed(error));
        self.shared.break_down();
    }

    /// Shows the counters, and says once what the kernel turned out not to do.
    fn publish(&mut self) {
        let lost = std::mem::take(&mut self.outside.lost);
        self.worker.count_discards(Discard::NoBuffer, lost as u64);
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

impl ReadErrors {
    fn judge(&mut self, error: &io::Error) -> ReadError {
        use nix::libc::{EBADF, EBADFD, ENODEV, ENXIO};

        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            self.0 = 0;
            return ReadError::Empty;
        }
        self.0 += 1;
        match error.raw_os_error() {
            Some(EBADF | EBADFD | ENODEV | ENXIO) => ReadError::Device,
            _ if self.0 >= MAX_READ_ERRORS => ReadError::Device,
            _ => ReadError::Packet,
        }
    }
}

impl Outside {
    fn socket(&self, id: SocketId) -> Option<&Slot> {
        self.sockets.get(usize::from(id.0))?.as_ref()
    }
}

impl TunIo for Outside {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.devices.host {
            Some(tun) => tun.read(into),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        match &mut self.devices.host {
            Some(tun) => tun.write(pieces),
            None => Ok(()),
        }
    }

    fn write_frame(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        match &mut self.devices.frames {
            Some(tap) => tap.write(pieces),
            // A client has one device, and it carries frames.
            None => self.write(pieces),
        }
    }
}

impl DatagramSink for Outside {
    fn send(&mut self, batch: &Batch) -> Result<(), Discard> {
        match batch.path().carrier {
            Carrier::Udp(id) => self.socket(id).ok_or(Discard::NoRoute)?.io.send(batch),
            Carrier::Stream(id) => {
                let stream = self.streams.get(&id).ok_or(Discard::NoRoute)?;
                self.lost += stream.send(batch.bytes());
                Ok(())
            }
            Carrier::Ip { .. } => Err(Discard::NoRoute),
        }
    }

    fn is_choked(&self, path: &Path, len: usize) -> bool {
        let Carrier::Stream(id) = path.carrier else { return false };
        self.streams.get(&id).is_some_and(|stream| stream.is_choked(len))
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

#[cfg(test)]
mod tests {
    use nix::libc::{EAGAIN, EBADFD, EFAULT, EINVAL, ENODEV, ENOMEM};

    use super::*;

    fn judge(errors: &mut ReadErrors, errno: i32) -> ReadError {
        errors.judge(&io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_packet_that_cannot_be_read_does_not_cost_the_device() {
        let mut errors = ReadErrors::default();

        for errno in [EINVAL, ENOMEM, EFAULT] {
            assert_eq!(judge(&mut errors, errno), ReadError::Packet);
        }
        for errno in [EBADFD, ENODEV] {
            assert_eq!(judge(&mut errors, errno), ReadError::Device);
        }
    }

    #[test]
    fn only_errors_without_end_are_the_devices() {
        let mut errors = ReadErrors::default();
        let last = |errors: &mut ReadErrors, count| {
            (0..count).map(|_| judge(errors, EINVAL)).last().unwrap()
        };

        assert_eq!(last(&mut errors, MAX_READ_ERRORS - 1), ReadError::Packet);
        assert_eq!(judge(&mut errors, EAGAIN), ReadError::Empty);
        assert_eq!(last(&mut errors, MAX_READ_ERRORS - 1), ReadError::Packet);
        assert_eq!(last(&mut errors, 1), ReadError::Device);
    }
}
