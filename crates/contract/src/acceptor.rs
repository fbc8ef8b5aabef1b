//! What stands in front of a protocol's engines before any per-peer state exists.

use std::time::Instant;

use crate::engine::Engine;
use crate::path::{Path, PortId, SessionId};
use crate::tunnel::Discard;

/// The public face of one protocol: tells peers apart, and strangers from peers.
///
/// Everything here runs before authentication on bytes anyone may send, so it keeps no state that
/// a stranger can grow.
pub trait Acceptor {
    /// What a proven peer becomes.
    type Engine: Engine;

    /// Says whether the first bytes of a shared port are this protocol's.
    fn claims(&self, first: &[u8]) -> Claim;

    /// Finds the engine for a datagram; may write a stateless reply (cookie, retry, reset).
    fn route(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &mut [u8],
        reply: &mut Vec<u8>,
    ) -> Route;

    /// Creates the engine for a peer that proved worth the memory; `arrival` is the datagram for
    /// which [`route`](Self::route) said [`Route::New`], and the first that the caller feeds it.
    ///
    /// Returns `None` when a limit is reached.
    fn accept(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        session: SessionId,
        port: PortId,
        seed: [u8; 32],
    ) -> Option<Self::Engine>;

    /// Forgets an engine that ended.
    fn forget(&mut self, session: SessionId);
}

/// A datagram that opens a session.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Where it came from.
    pub path: Path,
    /// What it says.
    pub datagram: &'a [u8],
}

/// Whose bytes these are, on a shared port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Ours.
    Yes,
    /// Somebody else's.
    No,
    /// Cannot be told yet.
    NeedMore,
}

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// It belongs to this engine.
    Session(SessionId),
    /// It opens a new session.
    New,
    /// The stateless reply has been written; send it.
    Reply,
    /// Drop it.
    Discard(Discard),
}
