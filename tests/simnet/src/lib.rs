//! Engines on a virtual clock and a wire that misbehaves on purpose.
//!
//! ```text
//!   Peer (one engine)  --\                          /--  Peer (one engine)
//!                         >--  Pair: clock, Link  --<
//!   Server (acceptor)  --/                          \--  Server (acceptor, engines)
//! ```
//!
//! Each side is a [`Node`] with a [`Ledger`] in the place of the data plane: it installs what the
//! engines order, seals and opens like a worker, and shows a test what is in force. Time moves
//! only when nothing is left to do; the same seed misbehaves in the same way, every run.
//!
//! This is not a model of the fast path: no batches, no fabric, no sockets.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod driven;
mod ledger;
mod link;
mod pair;
mod peer;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use contract::{Answer, Ask, Carrier, Path, PortId, SocketId, TunnelKey};

pub use driven::Driven;
pub use ledger::{Installed, Ledger};
pub use link::Link;
pub use pair::{Captured, Fate, Pair, Side};
pub use peer::Peer;
pub use server::Server;

/// Where the left side is until it is rebound (RFC 5737 addresses).
pub const LEFT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 40_000);

/// Where the right side is.
pub const RIGHT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 1194);

/// The path a node at `local` uses to reach `remote`: how an initiator is told where to connect.
#[must_use]
pub fn path(local: SocketAddr, remote: SocketAddr) -> Path {
    Path { local: Some(local.ip()), remote, carrier: Carrier::Udp(SocketId(0)) }
}

/// One side of a [`Pair`].
pub trait Node {
    /// Moves the node's clock; never back.
    fn set_time(&mut self, now: Instant);

    /// Takes a datagram from the wire.
    fn receive(&mut self, path: Path, datagram: &mut [u8]);

    /// Does what is due: timers and late answers.
    fn advance(&mut self);

    /// The next deadline and whose it is.
    fn deadline(&self) -> Option<(Instant, &'static str)>;

    /// Whether a question is still open.
    fn is_asking(&self) -> bool;

    /// The datagrams sent since the last call, in order.
    fn take_sent(&mut self) -> Vec<(Path, Vec<u8>)>;
}

type Respond = Box<dyn FnMut(PortId, &Ask) -> Answer>;

type Classify = Box<dyn FnMut(&Path, &[u8]) -> Option<TunnelKey>>;

/// What the world around one node answers and knows; the same for a [`Peer`] and a [`Server`].
pub struct Surroundings {
    pub(crate) answer: Respond,
    pub(crate) answer_delay: Duration,
    pub(crate) classify: Classify,
}

impl Surroundings {
    /// Answers every question with `answer`, at once, and takes every datagram for control.
    #[must_use]
    pub fn new(answer: impl FnMut(PortId, &Ask) -> Answer + 'static) -> Self {
        Self {
            answer: Box::new(answer),
            answer_delay: Duration::ZERO,
            classify: Box::new(|_, _| None),
        }
    }

    /// A world in which no question is expected.
    ///
    /// # Panics
    ///
    /// When asked.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(|port, question| panic!("{port:?} asked {question:?}"))
    }

    /// Answers only after `delay` of virtual time.
    #[must_use]
    pub fn answering_after(mut self, delay: Duration) -> Self {
        self.answer_delay = delay;
        self
    }

    /// Tells data from control as the worker's classifier does: `Some` names the tunnel.
    #[must_use]
    pub fn classifying(
        mut self,
        classify: impl FnMut(&Path, &[u8]) -> Option<TunnelKey> + 'static,
    ) -> Self {
        self.classify = Box::new(classify);
        self
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("answer_delay", &self.answer_delay)
            .finish_non_exhaustive()
    }
}
