//! OpenVPN's management protocol beside a running server.

use std::sync::Arc;

use aaa::Limits;
use backends::{LocalAuthenticator, Store};
use config::Config;
use contract::Authenticator;
use openvpn_management::{Entrance, House, LogTap, Management, ManagementError};
use pki::Members;
use shell::Server;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Takes up the protocol, if there is an entrance to it.
pub(crate) fn open(
    config: &Config,
    entrance: Option<Entrance>,
    tap: Option<LogTap>,
    store: &Arc<Store>,
    members: &Arc<Members>,
) -> Result<Option<Management>, ManagementError> {
    let Some(entrance) = entrance else { return Ok(None) };
    let local = || -> Arc<dyn Authenticator> {
        let members = Some(Arc::clone(members));
        Arc::new(LocalAuthenticator::new(Arc::clone(store), Limits::default(), members))
    };
    let tap = tap.unwrap_or_default();
    Management::open(&config.doors.openvpn, entrance, tap, local).map(Some)
}

/// The protocol at work.
#[derive(Debug)]
pub(crate) struct Speaking {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Talks about `server` until it is told to stop.
pub(crate) fn start(management: Management, server: &Server) -> Speaking {
    let (stop, stopped) = oneshot::channel();
    let (house, news): (Arc<dyn House>, _) = (Arc::new(server.clone()), server.news());
    let stopped = async {
        let _ = stopped.await;
    };
    Speaking { stop, task: tokio::spawn(management.serve(house, news, stopped)) }
}

impl Speaking {
    /// Says goodbye.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
