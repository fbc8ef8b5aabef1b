//! A house without a server, for tests.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use contract::{BoxFuture, CertificateId, Farewell, Lease, PortId, SessionFacts};
use dataplane::PortTotals;
use ipnet::IpNet;
use openvpn::management::SignalName;
use shell::SessionInfo;
use tokio::sync::watch;

use crate::notice::{Notices, ServerFacts};
use crate::server::Shared;
use crate::{House, LogTap};

#[derive(Debug, Default)]
pub(crate) struct FakeHouse {
    pub(crate) sessions: Mutex<Vec<(SessionInfo, PortTotals)>>,
    pub(crate) ended: Mutex<Vec<(u64, Farewell)>>,
    pub(crate) signals: Mutex<Vec<SignalName>>,
}

pub(crate) fn session(id: u64, user: &str, remote: &str) -> (SessionInfo, PortTotals) {
    let info = SessionInfo {
        id,
        door: "openvpn",
        port: PortId(1),
        user: user.to_owned(),
        device: String::new(),
        certificate: Some(CertificateId::Own("1a2b".to_owned())),
        remote: remote.parse::<SocketAddr>().unwrap(),
        lease: Lease {
            ipv4: Some(("10.86.0.2".parse().unwrap(), 16)),
            ipv6: Some(("fd86::2".parse().unwrap(), 64)),
            ..Lease::default()
        },
        since: 1_795_405_756,
        facts: SessionFacts {
            cipher: "AES-256-GCM".to_owned(),
            peer_id: Some(3),
            ..SessionFacts::default()
        },
    };
    (info, PortTotals { rx_bytes: 2032, tx_bytes: 1925, ..PortTotals::default() })
}

impl FakeHouse {
    pub(crate) fn with(sessions: Vec<(SessionInfo, PortTotals)>) -> Arc<Self> {
        Arc::new(Self { sessions: sessions.into(), ..Self::default() })
    }
}

impl House for FakeHouse {
    fn sessions(&self) -> BoxFuture<'_, Vec<(SessionInfo, PortTotals)>> {
        let sessions = self.sessions.lock().unwrap().clone();
        Box::pin(async { sessions })
    }

    fn end(&self, session: u64, farewell: Farewell) -> BoxFuture<'_, bool> {
        let mut sessions = self.sessions.lock().unwrap();
        let before = sessions.len();
        sessions.retain(|(info, _)| info.id != session);
        let is_there = sessions.len() < before;
        if is_there {
            self.ended.lock().unwrap().push((session, farewell));
        }
        Box::pin(async move { is_there })
    }

    fn totals(&self) -> PortTotals {
        PortTotals { rx_bytes: 5000, tx_bytes: 6000, ..PortTotals::default() }
    }

    fn addresses(&self) -> Vec<IpNet> {
        vec!["10.86.0.1/16".parse().unwrap(), "fd86::1/64".parse().unwrap()]
    }

    fn device(&self) -> String {
        "warren0".to_owned()
    }

    fn signal(&self, signal: SignalName) {
        self.signals.lock().unwrap().push(signal);
    }
}

/// What connections share, without anybody who judges.
pub(crate) fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        house: FakeHouse::with(Vec::new()),
        notices: Arc::new(Notices::new()),
        decisions: None,
        log: LogTap::new(),
        password: None,
        has_user_names: true,
        facts: ServerFacts::default(),
        stop: watch::Sender::new(false),
        holds: AtomicBool::new(false),
        states: Mutex::default(),
        seats: crate::seats::Seats::new(),
    })
}
