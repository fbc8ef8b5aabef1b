//! One sender for each peer: what another worker has to send is handed over before it is sealed.
//!
//! ```text
//!   worker a: content -> Parcel --ring--> worker b: Tunnel::seal -> Egress
//!                ^------ empty --ring--------------'
//! ```
//!
//! Sealing gives a packet its number, and a peer takes numbers that are out of order only within its
//! window, or not at all on a stream. So one worker does both for a peer, at its [`Home`]; all others
//! collect their content for it in parcels. A parcel changes hands as a whole: what is in it is
//! copied once, and two workers meet once per parcel or turn, not once per packet.
//!
//! Nobody waits: the rings take every parcel there is, a neighbour that is slow or stuck keeps its
//! own parcels and nobody else's, and what finds none is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::task::Waker;

use contract::{ContentKind, Discard, PortId};
use rtrb::{Consumer, Producer, RingBuffer};

/// Bytes in a parcel: the largest content there can be fits.
const PARCEL: usize = 64 * 1024;
/// Pieces of content in a parcel; small ones fill less than its bytes.
const PIECES: usize = 512;
/// The most parcels between two workers: 1 MiB, what one turn reads from the host's device.
const MOST_PARCELS: usize = 16;
/// And the fewest: one is filled while the other is emptied.
const FEWEST_PARCELS: usize = 2;
/// The parcels that one worker shares out among its neighbours.
const PARCELS_A_WORKER: usize = 128;

/// What a worker's parcels pin at most as long as it has no more than 64 neighbours.
const WORST_CASE_MEMORY: usize = PARCELS_A_WORKER * (PARCEL + PIECES * size_of::<Piece>());
const _: () = assert!(WORST_CASE_MEMORY <= 10 * 1024 * 1024);

const NOBODY: usize = usize::MAX;

/// The worker that sends to a peer: the one that hears it, because there the kernel brings the other
/// half of every flow. Until the peer has been heard, the first that had something to send.
///
/// Every worker looks at it for every packet, and it changes when the peer moves: it is written only
/// then, and has a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Home(AtomicUsize);

impl Default for Home {
    fn default() -> Self {
        Self(AtomicUsize::new(NOBODY))
    }
}

impl Home {
    /// The worker that sends: `own` from now on if there was none.
    pub(crate) fn or_claim(&self, own: usize) -> usize {
        let home = self.0.load(Ordering::Relaxed);
        if home != NOBODY {
            return home;
        }
        let claimed = self.0.compare_exchange(NOBODY, own, Ordering::Relaxed, Ordering::Relaxed);
        claimed.map_or_else(|home| home, |_| own)
    }

    /// The worker that sends; `None` if there is none yet.
    #[must_use]
    pub fn worker(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|home| *home != NOBODY)
    }

    pub(crate) fn move_to(&self, worker: usize) {
        if self.0.load(Ordering::Relaxed) != worker {
            self.0.store(worker, Ordering::Relaxed);
        }
    }
}

/// One worker's ends of the rings between it and all others.
#[derive(Debug)]
pub struct Handover {
    own: usize,
    bell: Arc<Bell>,
    /// By worker.
    neighbours: Vec<Option<Outgoing>>,
    sources: Vec<Incoming>,
    /// The source whose turn it is.
    next: usize,
}

#[derive(Debug)]
struct Outgoing {
    open: Option<Parcel>,
    filled: Producer<Parcel>,
    empty: Consumer<Parcel>,
    /// Parcels that there may still be.
    unmade: usize,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Incoming {
    filled: Consumer<Parcel>,
    empty: Producer<Parcel>,
}

/// Wakes a worker that sleeps, and costs nothing while it does not.
#[derive(Debug)]
struct Bell {
    is_asleep: AtomicBool,
    waker: Waker,
}

/// Content for peers of one worker, in the order in which it is to be sealed.
#[derive(Debug)]
pub(crate) struct Parcel {
    bytes: Box<[u8]>,
    used: usize,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    port: PortId,
    kind: ContentKind,
    len: usize,
}

impl Handover {
    /// The rings between as many workers as there are wakers, each of which ends its worker's sleep.
    ///
    /// Parcels are made when they are first needed, so neighbours that have nothing to do with each
    /// other cost little.
    #[must_use]
    pub fn mesh(wakers: Vec<Waker>) -> Vec<Self> {
        let bell = |waker| Arc::new(Bell { is_asleep: AtomicBool::new(false), waker });
        let bells = wakers.into_iter().map(bell).collect::<Vec<_>>();
        let parcels = parcels_between(bells.len());
        let mut all = Vec::new();
        for (own, bell) in bells.iter().enumerate() {
            let bell = Arc::clone(bell);
            all.push(Self { own, bell, neighbours: Vec::new(), sources: Vec::new(), next: 0 });
        }
        for from in 0..bells.len() {
            for (to, bell) in bells.iter().enumerate() {
                if from == to {
                    all[from].neighbours.push(None);
                    continue;
                }
                let (to_fill, to_empty) = (RingBuffer::new(parcels), RingBuffer::new(parcels));
                let out = Outgoing {
                    open: None,
                    filled: to_fill.0,
                    empty: to_empty.1,
                    unmade: parcels,
                    bell: Arc::clone(bell),
                };
                all[from].neighbours.push(Some(out));
                all[to].sources.push(Incoming { filled: to_fill.1, empty: to_empty.0 });
            }
        }
        all
    }

    /// Which worker this is.
    pub(crate) fn own(&self) -> usize {
        self.own
    }

    /// Content of `len` bytes that `write` writes, for the worker `to` to send.
    pub(crate) fn post(
        &mut self,
        to: usize,
        (port, kind): (PortId, ContentKind),
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), Discard> {
        let neighbour = self.neighbours.get_mut(to).and_then(Option::as_mut);
        let parcel = neighbour.ok_or(Discard::NoBuffer)?.parcel_for(len)?;
        parcel.add(Piece { port, kind, len }, write);
        Ok(())
    }

    /// Hands over everything that was collected.
    pub(crate) fn publish(&mut self) {
        self.neighbours.iter_mut().flatten().for_each(Outgoing::publish);
    }

    /// A parcel, and whose it is; every neighbour that has one gets its turn.
    pub(crate) fn receive(&mut self) -> Option<(usize, Parcel)> {
        let count = self.sources.len();
        let order = (self.next..count).chain(0..self.next);
        let found =
            order.into_iter().find_map(|at| Some((at, self.sources[at].filled.pop().ok()?)));
        if let Some((at, _)) = found {
            self.next = (at + 1) % count;
        }
        found
    }

    /// Gives a parcel back to be filled again.
    pub(crate) fn give_back(&mut self, source: usize, mut parcel: Parcel) {
        parcel.clear();
        if let Some(source) = self.sources.get_mut(source) {
            // There is a place for every parcel there is.
            let _ = source.empty.push(parcel);
        }
    }

    /// Whether nothing waits here; from now on, whoever hands something over wakes this worker.
    pub(crate) fn may_sleep(&self) -> bool {
        self.bell.is_asleep.store(true, Ordering::Relaxed);
        // See `Bell::ring`.
        fence(Ordering::SeqCst);
        let is_idle = self.sources.iter().all(|source| source.filled.is_empty());
        if !is_idle {
            self.rise();
        }
        is_idle
    }

    /// This worker looks after itself again.
    pub(crate) fn rise(&self) {
        self.bell.is_asleep.store(false, Ordering::Relaxed);
    }
}

/// How many parcels there are between any two of so many workers.
fn parcels_between(workers: usize) -> usize {
    let share = PARCELS_A_WORKER / workers.saturating_sub(1).max(1);
    share.clamp(FEWEST_PARCELS, MOST_PARCELS)
}

impl Outgoing {
    fn parcel_for(&mut self, len: usize) -> Result<&mut Parcel, Discard> {
        if len > PARCEL {
            return Err(Discard::TooBig);
        }
        if self.open.as_ref().is_some_and(|parcel| !parcel.has_room_for(len)) {
            self.publish();
        }
        if self.open.is_none() {
            self.open = self.empty.pop().ok().or_else(|| {
                self.unmade = self.unmade.checked_sub(1)?;
                Some(Parcel::new())
            });
        }
        self.open.as_mut().ok_or(Discard::NoBuffer)
    }

    fn publish(&mut self) {
        if let Some(parcel) = self.open.take() {
            // There is a place for every parcel there is.
            let _ = self.filled.push(parcel);
            self.bell.ring();
        }
    }
}

impl Bell {
    /// Called after something was put where the worker looks before it sleeps.
    ///
    /// Both sides write, pass a fence, and read what the other wrote. The fences have an order, and
    /// whoever is second sees what the first has written: either the worker finds what was put
    /// there, or it is found asleep here.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::Relaxed) {
            self.waker.wake_by_ref();
        }
    }
}

impl Parcel {
    fn new() -> Self {
        Self { bytes: vec![0; PARCEL].into(), used: 0, pieces: Vec::with_capacity(PIECES) }
    }

    fn has_room_for(&self, len: usize) -> bool {
        self.pieces.len() < PIECES && len <= self.bytes.len() - self.used
    }

    fn add(&mut self, piece: Piece, write: impl FnOnce(&mut [u8])) {
        let end = self.used + piece.len;
        write(&mut self.bytes[self.used..end]);
        self.used = end;
        self.pieces.push(piece);
    }

    /// Everything that is in it, in order.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (PortId, ContentKind, &[u8])> {
        let mut rest = &self.bytes[..self.used];
        self.pieces.iter().map(move |piece| {
            let (content, behind) = rest.split_at(piece.len);
            rest = behind;
            (piece.port, piece.kind, content)
        })
    }

    fn clear(&mut self) {
        self.used = 0;
        self.pieces.clear();
    }
}

#[cfg(test)]
mod tests;
