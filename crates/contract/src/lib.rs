//! The seams between protocols, the fast path, the hub and the shell: vocabulary, no logic.
//!
//! ```text
//!   stranger -> Acceptor -> Engine  --Ask-->  Authenticator, Network   (shell carries the question)
//!                             |
//!                             +--DataPlaneOp-->  worker: Tunnel <-> Fabric <-> TUN
//! ```
//!
//! An [`Engine`] owns no socket, no clock and no randomness but its seed. It never sees a data
//! packet: it installs [`Tunnel`]s, and the workers carry the packets.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod aaa;
mod acceptor;
mod engine;
mod hub;
mod path;
mod tunnel;
mod work;

pub use aaa::{
    AuthContext, Authenticator, BoxFuture, CertificateId, Credentials, DenyReason, Grant,
    PasswordProof, Secret, Verdict as AuthVerdict,
};
pub use acceptor::{Acceptor, Arrival, Claim, Route};
pub use engine::{
    Answer, Ask, AskId, ClientKeyFacts, Command, DataPlaneOp, Engine, Event, Exit, Farewell, Fatal,
    Input, Notice, Output, SessionFacts, TerminateCause, Transmit,
};
pub use hub::{
    AttachRequest, Crowd, DnsOverTls, DnsSettings, Dnssec, Fabric, FabricOp, FrameVerdict, Layer,
    Lease, LinkHead, MAX_QUESTION, Network, NoLease, PacketHead, Plug, SessionLimits, Verdict,
};
pub use path::{BRIDGE_PORT, Carrier, HOST_PORT, Path, PortId, SessionId, SocketId, StreamId, Via};
pub use tunnel::{Chore, ContentKind, Discard, Frame, Opened, Tunnel, TunnelKey, Unpacked};
pub use work::{Done, Work};

/// Seconds since 1970 as the shell last read them: engines check certificates against this,
/// never against a clock of their own.
#[derive(Debug, Default)]
pub struct WallClock(std::sync::atomic::AtomicU64);

impl WallClock {
    /// Starts at `seconds` since the Unix epoch.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        Self(seconds.into())
    }

    /// Moves the clock; called by the shell about once a second.
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, std::sync::atomic::Ordering::Relaxed);
    }

    /// Seconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
