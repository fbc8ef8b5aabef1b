//! OpenVPN's management protocol beside a running server.

use std::sync::Arc;

use aaa::Limits;
use backends::{LocalAuthenticator, Store};
use config::Config;
use contract::Authenticator;
use openvpn_management::{Bound, House, LogTap, Management};
use shell::Server;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Makes it ready for a server that is about to start.
pub(crate) fn open(bound: Bound, config: &Config, tap: LogTap, store: &Arc<Store>) -> Management {
    let local = || -> Arc<dyn Authenticator> {
        Arc::new(LocalAuthenticator::new(Arc::clone(store), Limits::default()))
    };
    bound.open(&config.doors.openvpn, tap, local)
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
