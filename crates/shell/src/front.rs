//! TCP listeners: who may come in, and whose the connection is.
//!
//! ```text
//!   accept -> room in the lobby? -> first bytes -+-> OpenVPN: to the workers; a session in time, or out
//!                                                +-> anything else: the server that shares the port
//! ```
//!
//! Everybody here is a stranger. A stranger costs one connection, a few bytes of buffer and one
//! place in the lobby, and all three end after a while whatever it does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::{Carrier, Claim, Path, SocketId, StreamId};
use dataplane::StreamKind;
use sys::TcpIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use self::sharing::Sharing;
use self::strangers::Strangers;
use crate::driver::HalfOpen;
use crate::kind::DoorKind;
use crate::workers::{WorkerOp, Workers};

mod sharing;
mod strangers;

/// How long a stranger may take to say what it wants: a round trip, and a lost packet or two.
const FIRST_BYTES_TIME: Duration = Duration::from_secs(10);
/// What is read before that is decided.
const MAX_FIRST: usize = 2048;
/// The pause after a connection that could not be accepted: without descriptors, the next one
/// cannot be either, and trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Connections that are nobody's session yet, and those that were handed on.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    guests: Mutex<Guests>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Guests {
    strangers: Strangers,
    shared: HalfOpen,
    /// At the workers.
    waiting: HashMap<StreamId, AtWorkers>,
}

#[derive(Debug)]
struct AtWorkers {
    listener: SocketId,
    /// Whether it has said something that deserved an answer.
    was_answered: bool,
    /// Dropping it ends the wait.
    gone: oneshot::Sender<()>,
}

impl Lobby {
    /// Takes a connection out that has become a session; where it came in. `None` if it is gone.
    pub(crate) fn take(&self, stream: StreamId) -> Option<SocketId> {
        self.guests().waiting.remove(&stream).map(|at| at.listener)
    }

    /// Forgets a connection that ended before it became anything.
    pub(crate) fn leave(&self, stream: StreamId) {
        let mut guests = self.guests();
        if let Some(at) = guests.waiting.get_mut(&stream) {
            // Its task still has to tell the workers.
            at.gone = oneshot::channel().0;
        }
    }

    /// Remembers that a connection has said something that deserved an answer.
    pub(crate) fn answered(&self, stream: StreamId) {
        if let Some(at) = self.guests().waiting.get_mut(&stream) {
            at.was_answered = true;
        }
    }

    /// Shows out a connection that has said something wrong, and never anything else. Whoever had
    /// an answer before may have been out of luck: packets repeat, and some are lost in here.
    pub(crate) fn reject(&self, stream: StreamId) {
        let is_answered = |at: &AtWorkers| at.was_answered;
        if !self.guests().waiting.get(&stream).is_none_or(is_answered) {
            self.leave(stream);
        }
    }

    /// Names a connection that came to this door.
    fn name(&self, door: DoorKind) -> StreamId {
        door.stream(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the strangers.
#[derive(Debug)]
struct Place {
    lobby: Arc<Lobby>,
    number: u64,
}

impl Place {
    /// A place, and what says that somebody else needs it.
    fn find(lobby: &Arc<Lobby>, path: Path) -> Option<(Self, oneshot::Receiver<()>)> {
        let (number, evicted) = lobby.guests().strangers.enter(path)?;
        Some((Self { lobby: Arc::clone(lobby), number }, evicted))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.guests().strangers.leave(self.number);
    }
}

/// A place among those that were handed on.
#[derive(Debug)]
struct SharedPlace {
    lobby: Arc<Lobby>,
    path: Path,
}

impl SharedPlace {
    fn find(lobby: &Arc<Lobby>, path: Path) -> Option<Self> {
        let mut guests = lobby.guests();
        if !guests.shared.has_room(path) {
            return None;
        }
        guests.shared.begin(path);
        drop(guests);
        Some(Self { lobby: Arc::clone(lobby), path })
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        self.lobby.guests().shared.end(self.path);
    }
}

/// A connection at the workers that is not a session; closed when this goes, unless it has become
/// one.
#[derive(Debug)]
struct Waiting {
    lobby: Arc<Lobby>,
    workers: Workers,
    stream: StreamId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.lobby.take(self.stream).is_some() {
            self.workers.submit(vec![WorkerOp::RemoveStream(self.stream)]);
        }
    }
}

/// What applies to connections from now on.
#[derive(Clone, Debug)]
pub(crate) struct FrontSettings {
    /// Who gets what is not ours.
    pub(crate) port_share: Option<(String, u16)>,
    /// How long a connection may take to become a session.
    pub(crate) handshake: Duration,
    /// What is spoken.
    pub(crate) kind: StreamKind,
}

/// Everything that the listeners of a door share.
#[derive(Debug)]
pub(crate) struct Front {
    door: DoorKind,
    lobby: Arc<Lobby>,
    workers: Workers,
    /// Says whose the first bytes are.
    claims: fn(&[u8]) -> Claim,
    settings: Mutex<FrontSettings>,
    sharing: Sharing,
}

/// A listener; it and everybody it let in who is no session yet go with this.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) id: SocketId,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    pub(crate) fn new(
        door: DoorKind,
        lobby: Arc<Lobby>,
        workers: Workers,
        claims: fn(&[u8]) -> Claim,
        settings: FrontSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            door,
            lobby,
            workers,
            claims,
            settings: Mutex::new(settings),
            sharing: Sharing::default(),
        })
    }

    /// Changes what applies to connections from now on.
    pub(crate) fn change(&self, settings: FrontSettings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Serves a listening socket under a number.
    pub(crate) fn listen(
        self: &Arc<Self>,
        id: SocketId,
        address: SocketAddr,
        listener: TcpListener,
    ) -> Listener {
        let task = tokio::spawn(Arc::clone(self).accept(id, listener)).abort_handle();
        Listener { address, id, task }
    }

    async fn accept(self: Arc<Self>, listener_id: SocketId, listener: TcpListener) {
        // Ends with this task: nobody is greeted at a door that is closed.
        let mut greetings = JoinSet::new();
        let mut is_told = false;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => {
                        is_told = false;
                        let front = Arc::clone(&self);
                        greetings.spawn(async move {
                            if let Err(error) = front.greet(listener_id, stream, remote).await {
                                debug!(%remote, "connection closed: {error}");
                            }
                        });
                    }
                    Err(error) if is_about_a_peer(&error) => {}
                    Err(error) => {
                        if !is_told {
                            warn!(%error, "no connection can be accepted for the moment");
                            is_told = true;
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = greetings.join_next(), if !greetings.is_empty() => {}
            }
        }
    }

    /// One connection, until it is a session, somebody else's, or gone.
    async fn greet(
        &self,
        listener: SocketId,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> io::Result<()> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let local = stream.local_addr()?.ip();
        let id = self.lobby.name(self.door);
        let path = Path { local: Some(local), remote, carrier: Carrier::Stream(id) };
        let (place, evicted) =
            Place::find(&self.lobby, path).ok_or(io::ErrorKind::QuotaExceeded)?;
        tokio::select! {
            ended = self.hear_out(listener, stream, (id, path), place, settings) => ended,
            Ok(()) = evicted => Err(io::ErrorKind::QuotaExceeded.into()),
        }
    }

    /// What a stranger wants, and whether it gets it.
    async fn hear_out(
        &self,
        listener: SocketId,
        mut stream: TcpStream,
        (id, path): (StreamId, Path),
        place: Place,
        settings: FrontSettings,
    ) -> io::Result<()> {
        let mut first = Vec::new();
        let time = FIRST_BYTES_TIME.min(settings.handshake);
        let is_ours = timeout(time, self.read_first(&mut stream, &mut first)).await??;
        if !is_ours {
            drop(place);
            let Some(target) = settings.port_share else { return Ok(()) };
            let _place =
                SharedPlace::find(&self.lobby, path).ok_or(io::ErrorKind::QuotaExceeded)?;
            return self.sharing.share(stream, &first, &target).await;
        }
        let (sender, gone) = oneshot::channel();
        let (lobby, workers) = (Arc::clone(&self.lobby), self.workers.clone());
        let io = TcpIo::new(stream.into_std()?)?;
        let waiting = Waiting { lobby, workers, stream: id };
        let at = AtWorkers { listener, was_answered: false, gone: sender };
        self.lobby.guests().waiting.insert(id, at);
        let (kind, local, remote) = (settings.kind, path.local, path.remote);
        self.workers.submit(vec![WorkerOp::AddStream { id, kind, io, local, remote, first }]);
        // It ends with an error whenever the sender goes: the connection is a session, or gone.
        let is_late = timeout(settings.handshake, gone).await.is_err();
        drop(waiting);
        drop(place);
        if is_late { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Reads until it is clear whether the connection is ours.
    async fn read_first(&self, stream: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match (self.claims)(first) {
                Claim::Yes => return Ok(true),
                Claim::No => return Ok(false),
                Claim::NeedMore if first.len() >= MAX_FIRST => return Ok(false),
                Claim::NeedMore => {}
            }
            let mut room = [0; 512];
            let len = stream.read(&mut room).await?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            first.extend_from_slice(&room[..len]);
        }
    }
}

/// Whether only the connection failed that was to be accepted.
fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
    )
}

#[cfg(test)]
mod tests;
