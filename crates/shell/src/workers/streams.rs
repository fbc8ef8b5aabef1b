//! Streams in the workers: the sending half, which all of them share, and what their owner reads.
//!
//! Each stream is read by one worker, with one buffer for all of its streams: an idle stream keeps
//! nothing but its place in the tables.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use contract::{Fabric, Path, StreamId};
use dataplane::{Backlog, BrokenStream, Framing, Surroundings, Worker, framed};
use sys::{Interest, Poller, TcpIo};
use tokio::sync::mpsc::Sender;

use super::{WorkerEvent, lock};

/// With so many bytes waiting, nothing large is sealed for a stream any more.
const CHOKED: usize = 64 * 1024;
/// And with so many nothing at all: questions, answers and acknowledgements are not what fills the
/// queue, and losing them helps nobody.
const CHOKED_FOR_ALL: usize = 256 * 1024;
/// The longest packet, in bytes, that is not large.
const SMALL: usize = 256;
/// So many may wait at most: what its worker had sealed already when the stream choked.
const MAX_BACKLOG: usize = 512 * 1024;
/// And so many more of an engine's messages.
const RESERVE: usize = 32 * 1024;
/// Emptied buffers of backlogs that are kept for the next.
const MAX_SPARES: usize = 16;
/// What one read may bring; the rest of a message from the last read is in front of it.
const READ_ROOM: usize = 256 * 1024;
/// How often a readable stream is read before the others have their turn.
const READ_ROUNDS: usize = 4;
/// How long a stream that we close has for its last words.
const LINGER: Duration = Duration::from_secs(2);
/// How many such streams a worker keeps; others close at once.
const MAX_LEAVING: usize = 256;
/// How soon news that found no room is told again.
const SOON: Duration = Duration::from_millis(10);
/// The first of the poller's tokens for streams: behind those of sockets and of the TUN device.
const FIRST_TOKEN: u64 = 1 << 33;

/// Why a stream is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamEnd {
    /// The peer closed it.
    Ended,
    /// The connection failed.
    Failed(io::ErrorKind),
    /// A message of a length that there cannot be.
    Broken,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the peer closed the connection"),
            Self::Failed(kind) => write!(f, "the connection failed: {kind}"),
            Self::Broken => f.write_str("the connection carried a message of impossible length"),
        }
    }
}

/// The stream that a token of the poller means.
pub(super) fn stream_of(token: u64) -> Option<StreamId> {
    token.checked_sub(FIRST_TOKEN).map(StreamId)
}

fn token_of(stream: StreamId) -> u64 {
    FIRST_TOKEN + stream.0
}

/// Buffers of backlogs that were emptied.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<VecDeque<u8>>>);

impl Spares {
    fn take(&self) -> Backlog {
        Backlog::with_buffer(lock(&self.0).pop().unwrap_or_default())
    }

    fn give(&self, backlog: Backlog) {
        let mut spares = lock(&self.0);
        if spares.len() < MAX_SPARES {
            spares.push(backlog.into_buffer());
        }
    }
}

/// The sending half of a stream.
///
/// A batch takes the lock once, not a packet, and nobody contends for it but the control plane with a
/// message for the same peer at the same moment: a stream is a queue, and somebody has to go first.
#[derive(Debug)]
pub(super) struct StreamSender {
    io: TcpIo,
    id: StreamId,
    framing: Framing,
    /// Of the owner's poller.
    interest: Interest,
    spares: Arc<Spares>,
    /// Bytes that wait, for whoever does not hold the lock.
    waiting: AtomicUsize,
    half: Mutex<Half>,
}

#[derive(Debug, Default)]
struct Half {
    backlog: Backlog,
    /// Whether the owner's poller reports that there is room.
    is_armed: bool,
    /// Whether nothing follows the backlog.
    is_finishing: bool,
    is_closed: bool,
}

impl StreamSender {
    pub(super) fn new(
        id: StreamId,
        framing: Framing,
        io: TcpIo,
        interest: Interest,
        spares: Arc<Spares>,
    ) -> Self {
        let (waiting, half) = (AtomicUsize::new(0), Mutex::default());
        Self { io, id, framing, interest, spares, waiting, half }
    }

    /// Whether a packet of `len` bytes had better not be sealed now.
    pub(super) fn is_choked(&self, len: usize) -> bool {
        let limit = if len > SMALL { CHOKED } else { CHOKED_FOR_ALL };
        self.waiting.load(Ordering::Relaxed) >= limit
    }

    /// Sends framed messages; how many are lost.
    pub(super) fn send(&self, messages: &[u8]) -> usize {
        self.send_within(messages, MAX_BACKLOG)
    }

    /// Sends one message of an engine; says whether it did.
    pub(super) fn send_control(&self, message: &[u8]) -> bool {
        self.send_within(&framed(self.framing, message), MAX_BACKLOG + RESERVE) == 0
    }

    fn send_within(&self, messages: &[u8], limit: usize) -> usize {
        let mut half = lock(&self.half);
        if half.is_closed || half.is_finishing {
            return Backlog::default().keep(self.framing, messages, 0, 0);
        }
        let mut taken = 0;
        if half.backlog.is_empty() {
            // An error is its owner's to see and to judge, when it reads.
            taken = self.io.send(messages).unwrap_or(0);
            if taken == messages.len() {
                return 0;
            }
            half.backlog = self.spares.take();
        }
        let lost = half.backlog.keep(self.framing, messages, taken, limit);
        self.settle(&mut half);
        lost
    }

    /// Sends what waits, as far as there is room.
    fn flush(&self) {
        let mut half = lock(&self.half);
        if half.is_closed || !half.is_armed {
            return;
        }
        while !half.backlog.is_empty() {
            match self.io.send(half.backlog.front()) {
                Ok(len) => half.backlog.sent(len),
                Err(_) => break,
            }
        }
        self.settle(&mut half);
    }

    /// Has the owner's poller do what it could not be asked for before it knew the stream.
    fn adopt(&self) {
        let half = lock(&self.half);
        if half.is_armed {
            let _ = self.interest.in_writing(&self.io, token_of(self.id), true);
        }
    }

    /// Says goodbye behind everything that still waits.
    fn finish(&self) {
        let mut half = lock(&self.half);
        half.is_finishing = true;
        self.settle(&mut half);
    }

    /// Nothing waits any more.
    fn close(&self) {
        let mut half = lock(&self.half);
        half.is_closed = true;
        // The descriptor stays as long as anybody holds this half; the peer need not wait for that.
        self.io.finish();
        self.spares.give(std::mem::take(&mut half.backlog));
    }

    fn settle(&self, half: &mut Half) {
        let waits = !half.backlog.is_empty();
        self.waiting.store(half.backlog.len(), Ordering::Relaxed);
        if waits != half.is_armed {
            // It fails only if the owner has let go of the stream.
            let _ = self.interest.in_writing(&self.io, token_of(self.id), waits);
            half.is_armed = waits;
            if !waits {
                self.spares.give(std::mem::take(&mut half.backlog));
            }
        }
        if half.is_finishing && !waits {
            self.io.finish();
        }
    }
}

/// The streams that one worker reads.
#[derive(Debug)]
pub(super) struct Streams {
    owned: HashMap<StreamId, Owned>,
    /// For every read of every stream.
    room: Box<[u8]>,
    /// Buffers of messages that were completed.
    spares: Vec<Vec<u8>>,
    leaving: VecDeque<(Instant, StreamId)>,
    /// News that found no room.
    unsaid: Vec<(StreamId, StreamEnd)>,
}

#[derive(Debug)]
struct Owned {
    sender: Arc<StreamSender>,
    path: Path,
    /// The beginning of a message.
    tail: Vec<u8>,
    /// Whether it is closed as soon as the peer has heard everything.
    is_leaving: bool,
}

/// What one read brought.
enum Read {
    /// So many messages, and perhaps there is more.
    Messages(usize),
    /// So many messages, and there is no more.
    Last(usize),
    Closed(StreamEnd),
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            owned: HashMap::new(),
            room: vec![0; READ_ROOM + usize::from(u16::MAX)].into(),
            spares: Vec::new(),
            leaving: VecDeque::new(),
            unsaid: Vec::new(),
        }
    }
}

impl Streams {
    /// Reads a stream from now on; `first` is what has been read of it already.
    pub(super) fn add<F: Fabric>(
        &mut self,
        now: Instant,
        (sender, path): (Arc<StreamSender>, Path),
        first: &mut [u8],
        poller: &Poller,
        (worker, outside): (&mut Worker<F>, &mut impl Surroundings),
    ) {
        let id = sender.id;
        if let Err(error) = poller.add(&sender.io, token_of(id)) {
            self.unsaid.push((id, StreamEnd::Failed(error.kind())));
            return;
        }
        sender.adopt();
        let mut stream = Owned { sender, path, tail: Vec::new(), is_leaving: false };
        let digested = stream.digest(now, first, &mut self.spares, worker, outside);
        self.owned.insert(id, stream);
        if digested.is_err() {
            self.end(id, StreamEnd::Broken, poller);
        }
    }

    /// Sends and reads what can be; how many messages came.
    pub(super) fn serve<F: Fabric>(
        &mut self,
        now: Instant,
        id: StreamId,
        poller: &Poller,
        (worker, outside): (&mut Worker<F>, &mut impl Surroundings),
    ) -> usize {
        let Some(stream) = self.owned.get_mut(&id) else { return 0 };
        stream.sender.flush();
        let mut moved = 0;
        for _ in 0..READ_ROUNDS {
            let read = stream.read(now, &mut self.room, &mut self.spares, worker, outside);
            if worker.is_pressing() {
                worker.flush(outside);
            }
            match read {
                Read::Messages(count) => moved += count,
                Read::Last(count) => return moved + count,
                Read::Closed(end) => {
                    self.end(id, end, poller);
                    return moved;
                }
            }
        }
        moved
    }

    /// Closes a stream once its peer has been told everything.
    pub(super) fn remove(&mut self, now: Instant, id: StreamId, poller: &Poller) {
        let Some(stream) = self.owned.get_mut(&id) else { return };
        stream.is_leaving = true;
        stream.tail = Vec::new();
        stream.sender.finish();
        if self.leaving.len() < MAX_LEAVING {
            self.leaving.push_back((now + LINGER, id));
        } else {
            self.close(id, poller);
        }
    }

    /// Tells all peers that nothing follows.
    pub(super) fn finish(&self) {
        for stream in self.owned.values() {
            stream.sender.flush();
            stream.sender.finish();
        }
    }

    /// How long a wait for the descriptors may take.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let soon = (!self.unsaid.is_empty()).then_some(SOON);
        // Milliseconds are rounded down: a little longer, or the last one would spin.
        let leaving = self.leaving.front();
        let leaving = leaving.map(|(until, _)| until.saturating_duration_since(now) + SOON);
        soon.into_iter().chain(leaving).min()
    }

    /// Does what is to be done at the end of a turn.
    pub(super) fn tidy(&mut self, now: Instant, poller: &Poller, events: &Sender<WorkerEvent>) {
        while self.leaving.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, id)) = self.leaving.pop_front() {
                self.close(id, poller);
            }
        }
        self.unsaid.retain(|(stream, reason)| {
            let news = WorkerEvent::StreamClosed { stream: *stream, reason: *reason };
            events.try_send(news).is_err() && !events.is_closed()
        });
    }

    /// The stream is over, and the control plane hears of it unless it was told to close anyway.
    fn end(&mut self, id: StreamId, end: StreamEnd, poller: &Poller) {
        if self.owned.get(&id).is_some_and(|stream| !stream.is_leaving) {
            self.unsaid.push((id, end));
        }
        self.close(id, poller);
    }

    fn close(&mut self, id: StreamId, poller: &Poller) {
        if let Some(stream) = self.owned.remove(&id) {
            // Others may hold the sending half a little longer, and with it the descriptor.
            let _ = poller.remove(&stream.sender.io);
            stream.sender.close();
        }
    }
}

impl Owned {
    fn read<F: Fabric>(
        &mut self,
        now: Instant,
        room: &mut [u8],
        spares: &mut Vec<Vec<u8>>,
        worker: &mut Worker<F>,
        outside: &mut impl Surroundings,
    ) -> Read {
        // A message is shorter than the room by far.
        let (front, free) = room.split_at_mut(self.tail.len());
        front.copy_from_slice(&self.tail);
        let len = match self.sender.io.recv(free) {
            Ok(0) => return Read::Closed(StreamEnd::Ended),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Last(0),
            Err(error) => return Read::Closed(StreamEnd::Failed(error.kind())),
        };
        if self.is_leaving {
            return Read::Messages(0);
        }
        let is_all = len < free.len();
        let end = front.len() + len;
        match self.digest(now, &mut room[..end], spares, worker, outside) {
            Ok(count) if is_all => Read::Last(count),
            Ok(count) => Read::Messages(count),
            Err(BrokenStream) => Read::Closed(StreamEnd::Broken),
        }
    }

    /// Hands on the whole messages and keeps the beginning of the next.
    fn digest<F: Fabric>(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        spares: &mut Vec<Vec<u8>>,
        worker: &mut Worker<F>,
        outside: &mut impl Surroundings,
    ) -> Result<usize, BrokenStream> {
        let mut messages = self.sender.framing.cut(bytes);
        let count = worker.on_stream(now, self.path, &mut messages, outside);
        let rest = messages.rest()?;
        if rest.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            if tail.capacity() > 0 && spares.len() < MAX_SPARES {
                spares.push(tail);
            }
            return Ok(count);
        }
        if self.tail.capacity() == 0 {
            self.tail = spares.pop().unwrap_or_default();
        }
        self.tail.clear();
        self.tail.extend_from_slice(rest);
        Ok(count)
    }
}
