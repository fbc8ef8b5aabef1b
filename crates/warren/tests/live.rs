//! The program against a server's API: what it prints, and that it asks the server, not the store.

use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex};

use backends::{StateDir, Store};
use config::Config;
use contract::{BoxFuture, Farewell};
use mgmt::types::{Counters, DoorState, DoorStatus, NetworkStatus, Offloads};
use mgmt::types::{Reloaded, Session, Status};
use mgmt::{Api, ApiServer, Control, Failure, Select};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Two sessions and no doors.
#[derive(Debug)]
struct FakeServer {
    sessions: Mutex<Vec<Session>>,
}

impl Control for FakeServer {
    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async {
            Status {
                version: "1.2.3".into(),
                pid: 7,
                uptime_seconds: 61,
                network: NetworkStatus { name: "warren".into(), ..NetworkStatus::default() },
                doors: vec![DoorStatus {
                    name: "openvpn".into(),
                    listen: vec!["0.0.0.0:1194".into()],
                    sessions: 2,
                    state: DoorState::Open,
                }],
                counters: Counters::default(),
                drops: [("replayed".to_owned(), 5)].into(),
                workers: 1,
                offloads: Offloads::default(),
            }
        })
    }

    fn sessions(&self) -> BoxFuture<'_, Vec<Session>> {
        Box::pin(async { self.sessions.lock().expect("not poisoned").clone() })
    }

    fn end_sessions<'a>(&'a self, select: &'a Select, _: Farewell) -> BoxFuture<'a, u64> {
        Box::pin(async move {
            let mut sessions = self.sessions.lock().expect("not poisoned");
            let before = sessions.len();
            sessions.retain(|session| !select.matches(session));
            (before - sessions.len()) as u64
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Failure>> {
        Box::pin(async { Err(Failure::config("w.toml:3: network.mtu: too small")) })
    }

    fn config(&self) -> Arc<Config> {
        Arc::new(Config::default())
    }
}

fn session(id: u64, user: &str) -> Session {
    Session {
        id,
        user: user.into(),
        door: "openvpn".into(),
        remote: "198.51.100.7:4711".parse().expect("an address"),
        address4: Some("10.86.0.2".parse().expect("an address")),
        address6: None,
        since: "2026-01-01T00:00:00Z".into(),
        rx_bytes: 2048,
        tx_bytes: 2,
        rx_packets: 3,
        tx_packets: 4,
        cipher: "AES-256-GCM".into(),
        control: "TLSv1.3 tls-crypt".into(),
        software: "OpenVPN \x1b[2J2.6".into(),
        device: "laptop".into(),
        certificate: None,
        client_key: None,
    }
}

struct Rig {
    state: PathBuf,
    control: Arc<FakeServer>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Rig {
    fn start(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("warren-live-{}-{name}", std::process::id()));
        let state = StateDir::open(&folder).expect("a new state folder");
        let store = Arc::new(Store::open(&state).expect("a new store"));
        let sessions = Mutex::new(vec![session(1, "anna"), session(2, "bo")]);
        let control = Arc::new(FakeServer { sessions });
        let server = ApiServer::bind(&state.api_socket()).expect("a free socket");
        let api = Api { store, control: Arc::clone(&control) as _ };
        let task = tokio::spawn(server.serve(api, std::future::pending()));
        Self { state: folder, control, task }
    }

    async fn warren(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_warren"))
            .args(args)
            .arg("--state")
            .arg(&self.state)
            .env_remove("RUST_LOG")
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .expect("the program runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    }

    fn users(&self) -> Vec<String> {
        let sessions = self.control.sessions.lock().expect("not poisoned");
        sessions.iter().map(|session| session.user.clone()).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

#[tokio::test]
async fn sessions_are_a_table_or_an_array_with_the_promised_fields() {
    let rig = Rig::start("sessions");

    let (code, table, _) = rig.warren(&["sessions"]).await;
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID  USER  DOOR"), "{table}");
    assert!(lines[1].contains("anna") && lines[1].contains("2.0 KiB"), "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");

    let (code, json, _) = rig.warren(&["sessions", "--json"]).await;
    assert_eq!(code, Some(0));
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&json).expect("an array");
    assert_eq!(sessions.len(), 2);
    for field in [
        "id",
        "user",
        "door",
        "remote",
        "address4",
        "address6",
        "since",
        "rx_bytes",
        "tx_bytes",
        "rx_packets",
        "tx_packets",
    ] {
        assert!(sessions[0].get(field).is_some(), "{field} is missing: {json}");
    }
}

#[tokio::test]
async fn kick_and_disable_end_sessions_at_once() {
    let rig = Rig::start("kick");
    assert_eq!(rig.warren(&["user", "add", "bo"]).await.0, Some(0));

    let (code, said, _) = rig.warren(&["kick", "1"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "1 kicked; one session ended\n"));
    assert_eq!(rig.users(), ["bo"]);

    let (code, said, _) = rig.warren(&["user", "disable", "bo"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "user bo disabled; one session ended\n"));
    assert!(rig.users().is_empty());

    let (code, _, said) = rig.warren(&["kick", "bo"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("`bo`"), "{said}");
}

#[tokio::test]
async fn a_status_is_printed_and_a_wrong_file_is_two() {
    let rig = Rig::start("status");

    let (code, text, _) = rig.warren(&["status"]).await;
    assert_eq!(code, Some(0));
    assert!(text.starts_with("Warren 1.2.3, pid 7, up 1 min 1 s\n"), "{text}");
    let (_, json, _) = rig.warren(&["--json", "status"]).await;
    let status: Status = serde_json::from_str(&json).expect("the API's type");
    assert_eq!(status, rig.control.status().await);

    let (code, _, said) = rig.warren(&["reload"]).await;
    assert_eq!((code, said.as_str()), (Some(2), "warren: w.toml:3: network.mtu: too small\n"));
}

#[tokio::test]
async fn a_configuration_named_to_a_running_server_does_not_count() {
    let rig = Rig::start("config");
    assert_eq!(rig.warren(&["user", "add", "anna"]).await.0, Some(0));
    let args = ["profile", "anna", "--door", "openvpn", "--remote", "h", "--config", "/no/w.toml"];

    let (code, text, said) = rig.warren(&args).await;

    assert_eq!(code, Some(0), "{said}");
    assert!(text.contains("remote h 1194"), "{text}");
    assert!(said.contains("its own configuration counts, not /no/w.toml"), "{said}");
}
