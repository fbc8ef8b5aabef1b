//! A house without a server, for tests.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use contract::{BoxFuture, CertificateId, Farewell, Lease, PortId, Secret, SessionFacts};
use dataplane::PortTotals;
use ipnet::IpNet;
use openvpn::management::SignalName;
use shell::SessionInfo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::connection::{Ended, talk};
use crate::notice::{Notices, ServerFacts};
use crate::seats::{MAX_CONSOLES, Seats};
use crate::server::{Desk, Role, Shared};
use crate::states::States;
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
    let notices = Arc::new(Notices::new());
    let desk = Desk {
        house: FakeHouse::with(Vec::new()),
        decisions: None,
        has_user_names: true,
        facts: ServerFacts::default(),
        states: Arc::new(States::new(Arc::clone(&notices))),
        holds: AtomicBool::new(false),
    };
    shared_with(desk, notices, None)
}

/// What the connections of a server share.
pub(crate) fn shared_with(
    desk: Desk,
    notices: Arc<Notices>,
    password: Option<&str>,
) -> Arc<Shared> {
    Arc::new(Shared {
        states: Arc::clone(&desk.states),
        role: Role::Server(desk),
        notices,
        log: LogTap::new(),
        password: password.map(|password| Secret::new(password.as_bytes())),
        stop: watch::Sender::new(false),
        seats: Seats::new(MAX_CONSOLES),
        patience: std::time::Duration::ZERO,
    })
}

/// A console, at the other end of a connection.
pub(crate) struct Console {
    pub(crate) stream: DuplexStream,
    read: String,
    talk: JoinHandle<Ended>,
}

impl Console {
    pub(crate) fn at(shared: &Arc<Shared>) -> Self {
        let (near, far) = duplex(64 * 1024);
        let talk = tokio::spawn(talk(far, Arc::clone(shared)));
        Self { stream: near, read: String::new(), talk }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything up to and with the next `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.find(end) {
                let rest = self.read.split_off(at + end.len());
                return std::mem::replace(&mut self.read, rest);
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "closed after {:?} without {end:?}", self.read);
            self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    }

    pub(crate) async fn line(&mut self) -> String {
        self.until("\r\n").await.trim_end().to_owned()
    }

    pub(crate) async fn ask(&mut self, command: &str) -> String {
        self.send(&format!("{command}\n")).await;
        self.line().await
    }

    pub(crate) async fn greeted(mut self) -> Self {
        let greeting = self.line().await;
        assert!(greeting.starts_with(">INFO:OpenVPN Management Interface Version 5"));
        self
    }

    pub(crate) async fn ended(self) -> Ended {
        self.talk.await.unwrap()
    }
}
