//! The seam between the protocol and the server that runs.

use contract::{BoxFuture, Farewell};
use dataplane::PortTotals;
use ipnet::IpNet;
use openvpn::management::SignalName;
use shell::{Server, SessionInfo, Which};

use crate::process::{self, Process as _};

/// What a console may see of a server and do to it.
pub trait House: std::fmt::Debug + Send + Sync {
    /// Every live session with its traffic, oldest first.
    fn sessions(&self) -> BoxFuture<'_, Vec<(SessionInfo, PortTotals)>>;

    /// Ends one session and tells its peer `farewell`; says whether there was one.
    fn end(&self, session: u64, farewell: Farewell) -> BoxFuture<'_, bool>;

    /// What all sessions have carried, those that are gone included.
    fn totals(&self) -> PortTotals;

    /// The server's own addresses inside the network.
    fn addresses(&self) -> Vec<IpNet>;

    /// The TUN device.
    fn device(&self) -> String;

    /// As if the process had got this signal.
    fn signal(&self, signal: SignalName);
}

impl House for Server {
    fn sessions(&self) -> BoxFuture<'_, Vec<(SessionInfo, PortTotals)>> {
        Box::pin(async {
            let mut sessions = Self::sessions(self).await;
            sessions.retain(|(info, _)| info.door == "openvpn");
            sessions
        })
    }

    fn end(&self, session: u64, farewell: Farewell) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.end_sessions(Which::Id(session), farewell).await > 0 })
    }

    fn totals(&self) -> PortTotals {
        Self::totals(self).0
    }

    fn addresses(&self) -> Vec<IpNet> {
        self.summary().addresses.clone()
    }

    fn device(&self) -> String {
        self.summary().device.clone()
    }

    fn signal(&self, signal: SignalName) {
        process::This.signal(signal);
    }
}
