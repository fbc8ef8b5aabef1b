//! The process that a server or client is.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openvpn::management::SignalName;

/// What a console's signals are for.
pub(crate) trait Process: std::fmt::Debug + Send + Sync {
    /// As if the process had got this signal.
    fn signal(&self, signal: SignalName);
}

/// This one.
#[derive(Debug)]
pub(crate) struct This;

impl Process for This {
    fn signal(&self, signal: SignalName) {
        // The process hears these; the others are the connection's.
        let signal = match signal {
            SignalName::Hup => Signal::SIGHUP,
            SignalName::Term => Signal::SIGTERM,
            SignalName::Int => Signal::SIGINT,
            SignalName::Usr1 | SignalName::Usr2 => return,
        };
        if let Err(error) = kill(Pid::this(), signal) {
            tracing::error!(%error, "a signal of the management interface");
        }
    }
}
