//! The seam between sans-IO protocol engines and the IO shell.

use std::sync::Arc;
use std::time::Instant;

use crate::aaa::{Credentials, Secret, Verdict};
use crate::hub::{AttachRequest, Lease, NoLease};
use crate::path::{Path, PortId, StreamId, Via};
use crate::tunnel::{Tunnel, TunnelKey};
use crate::work::{Done, Work};

/// One peer of one protocol: bytes, answers and time in, effects out.
///
/// An engine owns no socket, spawns nothing, reads no clock and draws no randomness but from the
/// seed it was born with. After every [`handle`](Self::handle), call [`poll`](Self::poll) until it
/// returns [`Output::Wait`]; only then is the engine's state consistent. Outputs are carried out in
/// order: an [`Output::Transmit`] leaves only after every [`Output::DataPlane`] before it is in force.
pub trait Engine {
    /// Feeds one input.
    ///
    /// # Errors
    ///
    /// Every error is fatal to this engine: drain [`poll`](Self::poll) once more for the farewell
    /// message, then drop it. Noise from the network is dropped inside and never surfaces here.
    fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Fatal>;

    /// Returns the next effect the shell must carry out.
    #[must_use]
    fn poll(&mut self, now: Instant) -> Output;
}

/// Everything that can happen to an engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A message that the fast path did not consume.
    Datagram {
        /// How it came.
        via: Via,
        /// What it says.
        payload: &'a [u8],
    },
    /// Bytes of a reliable stream: TCP, or the plaintext inside TLS.
    Stream {
        /// Which stream.
        stream: StreamId,
        /// The next bytes.
        bytes: &'a [u8],
    },
    /// The peer closed the stream, or the network did.
    StreamClosed {
        /// Which stream.
        stream: StreamId,
    },
    /// The reply to an earlier [`Output::Ask`].
    Answer {
        /// Which question.
        ask: AskId,
        /// The reply.
        answer: Answer,
    },
    /// Something the data plane saw.
    Notice(Notice),
    /// An order from the administrator or the local user.
    Command(Command),
    /// Time passed.
    Tick,
}

/// Everything an engine can want.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Send a control message.
    Transmit(Transmit),
    /// Give the peer an IP packet that is the engine's own: sent like one of the network's, in the
    /// port's tunnel.
    Deliver {
        /// Whose tunnel.
        port: PortId,
        /// IPv4 or IPv6.
        packet: Vec<u8>,
    },
    /// Write to a reliable stream.
    Write {
        /// Which stream.
        stream: StreamId,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Find something out; the reply arrives as [`Input::Answer`].
    Ask {
        /// The engine's name for the question.
        ask: AskId,
        /// The question.
        question: Ask,
    },
    /// Change what the fast path does.
    DataPlane(DataPlaneOp),
    /// Tell the operator.
    Event(Event),
    /// Nothing left to do until the deadline; the label says whose deadline it is.
    Wait(Option<(Instant, &'static str)>),
}

/// A control message on its way.
#[derive(Debug, Eq, PartialEq)]
pub struct Transmit {
    /// How it travels.
    pub via: Via,
    /// What it says.
    pub payload: Vec<u8>,
}

/// What an engine cannot decide alone.
#[derive(Debug)]
pub enum Ask {
    /// Who is this peer?
    Authenticate(Credentials),
    /// Plug the engine's port into a network (responders).
    Attach(AttachRequest),
    /// Bring the host into the peer's network (initiators).
    Configure(Lease),
    /// Get the password once more, from wherever it came first (initiators).
    Password {
        /// Whose, free of control characters.
        user: String,
    },
    /// Ask the person at this end (initiators).
    Prompt {
        /// The question, free of control characters.
        text: String,
        /// Whether what they type may be shown.
        echo: bool,
    },
    /// Do this where it may wait, and nobody else with it.
    Work(Work),
}

/// The reply to an [`Ask`].
// A few in the life of a session: the difference in size is not worth a pointer.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Answer {
    /// To [`Ask::Authenticate`].
    Authenticated(Verdict),
    /// To [`Ask::Attach`].
    Attached(Result<Lease, NoLease>),
    /// To [`Ask::Configure`]; an error has been reported already.
    Configured(Result<(), ()>),
    /// To [`Ask::Password`] and [`Ask::Prompt`]; nothing if there is nobody to ask.
    Prompted(Option<Secret>),
    /// To [`Ask::Work`].
    Worked(Done),
}

/// An engine's name for one of its questions.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AskId(pub u64);

/// Orders to the fast path. A rekey is install, send via, remove.
#[derive(Clone, Debug)]
pub enum DataPlaneOp {
    /// Accept what arrives under `key`; does not send with it yet.
    Install {
        /// What arriving datagrams call it.
        key: TunnelKey,
        /// Whose packets come out of it.
        port: PortId,
        /// Where its datagrams go.
        via: Via,
        /// The keys.
        tunnel: Arc<dyn Tunnel>,
    },
    /// Send the port's packets this way.
    SendVia {
        /// Whose packets.
        port: PortId,
        /// Which way.
        exit: Exit,
    },
    /// The peer has moved.
    Move {
        /// Which tunnel.
        key: TunnelKey,
        /// Where it is.
        path: Path,
    },
    /// Accept nothing more under `key`, if it is still this port's: a key that names an address
    /// may be somebody else's by now.
    Remove {
        /// Whose.
        port: PortId,
        /// Which tunnel.
        key: TunnelKey,
    },
}

/// How a port's packets leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Sealed by whichever worker has the packet.
    Tunnel(TunnelKey),
}

/// What the data plane noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice {
    /// An authenticated packet arrived from a new address.
    Roamed {
        /// Under which key.
        key: TunnelKey,
        /// From where.
        path: Path,
    },
}

/// What the operator or the local user wants of an engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Start (initiators).
    Connect,
    /// End the session and say so to the peer.
    Disconnect(Farewell),
}

/// What the peer is told when we end its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Farewell {
    /// We are going away; come back in a moment.
    Shutdown,
    /// An operator ended this session; the peer may come back.
    Kicked,
    /// An operator ended this session; the peer stays away until its user wants to come back.
    Dismissed,
    /// The peer is not welcome any more.
    Revoked,
    /// The same device has a newer session.
    Replaced,
    /// The session has lasted as long as it may.
    SessionOver,
    /// It carried nothing for as long as it may.
    Idle,
}

/// News for the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// What the peer says about itself, before it is judged: lines of `NAME=value`, free of control
    /// characters.
    Introduced(String),
    /// The session carries packets.
    Up(SessionFacts),
    /// It carries no more.
    Down {
        /// Why.
        cause: TerminateCause,
        /// In words, for the log.
        reason: &'static str,
    },
    /// The peer moved to another address.
    Moved(Path),
    /// Fresh keys are in use.
    Rekeyed,
    /// Something the operator should see; already free of secrets and control characters.
    Remark(String),
}

/// What is worth showing of a session that came up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SessionFacts {
    /// The data channel's cipher, by the protocol's name for it.
    pub cipher: String,
    /// The control channel's protection: TLS version and wrapping.
    pub control: String,
    /// What the peer says it is.
    pub software: String,
    /// The short number that names the peer in its data packets, if it has one.
    pub peer_id: Option<u32>,
    /// The key of its own under which the peer came to the door, if it has one.
    pub client_key: Option<ClientKeyFacts>,
}

/// A key that only one client has, before anybody is authenticated (OpenVPN's tls-crypt-v2).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientKeyFacts {
    /// Its name in the list of keys, in lower-case hexadecimal; a key that we did not make has
    /// none.
    pub id: Option<String>,
    /// When it was made, in seconds since 1970, if it says so.
    pub issued: Option<u64>,
}

/// Why a session ended, in the vocabulary RADIUS accounting expects (RFC 2866, 5.10).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TerminateCause {
    /// The peer said goodbye.
    UserRequest,
    /// The peer fell silent.
    LostCarrier,
    /// Nothing but keep-alives for too long.
    IdleTimeout,
    /// The session lasted as long as it may.
    SessionTimeout,
    /// The operator ended it.
    AdminReset,
    /// The server is going away.
    AdminReboot,
    /// Our fault.
    NasError,
    /// The peer's fault: wrong credentials, broken protocol.
    UserError,
}

/// An error that ends an engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fatal {
    /// The peer did not answer any of our retransmissions, or fell silent.
    PeerGone,
    /// The peer broke the protocol inside an authenticated exchange.
    ProtocolViolation(&'static str),
    /// Authentication failed or was refused.
    Denied(&'static str),
    /// The TLS handshake failed; the reason is the library's, in words.
    Tls(&'static str),
    /// The exchange is over: goodbye has been said.
    Finished(TerminateCause),
    /// Something on our side does not work.
    Local(&'static str),
}

impl Fatal {
    /// The cause for the books.
    #[must_use]
    pub fn cause(self) -> TerminateCause {
        match self {
            Self::PeerGone => TerminateCause::LostCarrier,
            Self::ProtocolViolation(_) | Self::Denied(_) | Self::Tls(_) => {
                TerminateCause::UserError
            }
            Self::Finished(cause) => cause,
            Self::Local(_) => TerminateCause::NasError,
        }
    }

    /// The reason in words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::PeerGone => "the peer fell silent",
            Self::ProtocolViolation(what)
            | Self::Denied(what)
            | Self::Tls(what)
            | Self::Local(what) => what,
            Self::Finished(_) => "finished",
        }
    }
}
