use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use backends::StateDir;
use config::Config;
use contract::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::types::{Counters, DoorState, DoorStatus, NetworkStatus, Offloads, Password};
use crate::{ApiClient, ClientError};

/// A folder that goes away with the test.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("warren-mgmt-{}-{count}", std::process::id()));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server without doors: its sessions are what the test puts there.
#[derive(Debug, Default)]
struct FakeServer {
    sessions: Mutex<Vec<Session>>,
    farewells: Mutex<Vec<Farewell>>,
    broken_config: bool,
    /// If there is one, asking for the status says so here and is never answered.
    hangs: Option<Arc<Notify>>,
}

impl Control for FakeServer {
    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async {
            if let Some(asked) = &self.hangs {
                asked.notify_one();
                std::future::pending::<()>().await;
            }
            Status {
                version: "1.2.3".into(),
                pid: 7,
                uptime_seconds: 60,
                network: NetworkStatus { name: "warren".into(), ..NetworkStatus::default() },
                doors: vec![DoorStatus {
                    name: "openvpn".into(),
                    listen: vec!["0.0.0.0:1194".into()],
                    sessions: 1,
                    state: DoorState::Open,
                }],
                counters: Counters { rx_bytes: 1, tx_bytes: 2, rx_packets: 3, tx_packets: 4 },
                drops: BTreeMap::from([("replayed".to_owned(), 5)]),
                workers: 2,
                offloads: Offloads { udp_gso: true, ..Offloads::default() },
            }
        })
    }

    fn sessions(&self) -> BoxFuture<'_, Vec<Session>> {
        Box::pin(async { self.sessions.lock().expect("not poisoned").clone() })
    }

    fn end_sessions<'a>(&'a self, select: &'a Select, farewell: Farewell) -> BoxFuture<'a, u64> {
        Box::pin(async move {
            let mut sessions = self.sessions.lock().expect("not poisoned");
            let before = sessions.len();
            sessions.retain(|session| !select.matches(session));
            let ended = before - sessions.len();
            self.farewells.lock().expect("not poisoned").extend(vec![farewell; ended]);
            ended as u64
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Failure>> {
        Box::pin(async {
            if self.broken_config {
                return Err(Failure::config("warren.toml:3: network.mtu: too small"));
            }
            Ok(Reloaded { applied: vec!["network.nat".into()], restart: Vec::new() })
        })
    }

    fn config(&self) -> Arc<Config> {
        Arc::new(Config::load(None).expect("the defaults are valid"))
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
        rx_bytes: 1,
        tx_bytes: 2,
        rx_packets: 3,
        tx_packets: 4,
        cipher: "AES-256-GCM".into(),
        control: "TLSv1.3 tls-crypt".into(),
        software: "OpenVPN 2.6.3".into(),
        device: "laptop".into(),
        certificate: None,
        client_key: None,
    }
}

/// A running API and everything around it.
struct Rig {
    folder: Folder,
    control: Arc<FakeServer>,
    store: Arc<Store>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Rig {
    fn start(control: FakeServer) -> Self {
        let folder = Folder::new();
        let state = StateDir::open(&folder.0).expect("a new state folder");
        let store = Arc::new(Store::open(&state).expect("a new store"));
        let control = Arc::new(control);
        let server = ApiServer::bind(&folder.0.join("api.sock")).expect("a free socket");
        let (stop, stopped) = oneshot::channel();
        let api = Api { store: Arc::clone(&store), control: Arc::clone(&control) as _ };
        let task = tokio::spawn(server.serve(api, async {
            let _ = stopped.await;
        }));
        Self { folder, control, store, stop, task }
    }

    fn socket(&self) -> PathBuf {
        self.folder.0.join("api.sock")
    }

    async fn client(&self) -> ApiClient {
        ApiClient::connect(&self.socket()).await.expect("the server listens")
    }

    /// Sends bytes as they are, and returns the status line's code and the body.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).await.expect("the server listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered and closed");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status, body.unwrap_or_default())
    }
}

fn with_sessions(sessions: Vec<Session>) -> FakeServer {
    FakeServer { sessions: Mutex::new(sessions), ..FakeServer::default() }
}

fn new_user(name: &str) -> NewUser {
    NewUser { name: name.into(), password: Some(Password::new("s3cret-enough")), addresses: vec![] }
}

fn refused(error: ClientError) -> Failure {
    match error {
        ClientError::Refused(failure) => failure,
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test]
async fn status_and_sessions_arrive_as_they_were_sent() {
    let rig = Rig::start(with_sessions(vec![session(1, "anna"), session(2, "bo")]));
    let mut client = rig.client().await;

    let status = client.status().await.expect("an answer");
    assert_eq!(status, rig.control.status().await);
    let sessions = client.sessions().await.expect("an answer");
    assert_eq!(sessions, [session(1, "anna"), session(2, "bo")]);
}

#[tokio::test]
async fn a_session_has_the_fields_that_scripts_read() {
    let value = serde_json::to_value(session(1, "anna")).expect("JSON");

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
        assert!(value.get(field).is_some(), "{field} is missing");
    }
}

#[tokio::test]
async fn kick_takes_an_id_or_a_user() {
    let sessions = vec![session(1, "anna"), session(2, "bo"), session(3, "bo"), session(4, "9")];
    let rig = Rig::start(with_sessions(sessions));
    let mut client = rig.client().await;

    assert_eq!(client.kick("1").await.expect("there is one").sessions, 1);
    assert_eq!(client.kick("bo").await.expect("there are two").sessions, 2);
    // A name of digits, and no session with that id.
    assert_eq!(client.kick("9").await.expect("there is one").sessions, 1);
    assert_eq!(refused(client.kick("anna").await.expect_err("all gone")).reason, Reason::NotFound);
    assert_eq!(*rig.control.farewells.lock().expect("not poisoned"), [Farewell::Kicked; 4]);
}

#[tokio::test]
async fn a_reload_that_fails_says_why() {
    let rig = Rig::start(FakeServer { broken_config: true, ..FakeServer::default() });

    let failure = refused(rig.client().await.reload().await.expect_err("the file is broken"));

    assert_eq!(failure, Failure::config("warren.toml:3: network.mtu: too small"));
}

#[tokio::test]
async fn a_user_lives_and_dies_over_the_socket() {
    let rig = Rig::start(with_sessions(vec![session(1, "anna"), session(2, "bo")]));
    let mut client = rig.client().await;

    let created = client.add_user(&new_user("anna")).await.expect("a new name");
    assert_eq!((created.user.name.as_str(), created.generated_password), ("anna", None));
    let users = client.users().await.expect("an answer");
    assert_eq!(
        users.iter().map(|u| (u.name.as_str(), u.enabled)).collect::<Vec<_>>(),
        [("anna", true)]
    );

    let address: IpAddr = "10.86.0.99".parse().expect("an address");
    let user = client
        .set_addresses("anna", &NewAddresses { addresses: vec![address] })
        .await
        .expect("inside the pool");
    assert_eq!(user.addresses, [address]);
    let settings = NewSettings {
        behind: Some(vec!["192.168.7.0/24".parse().expect("a subnet")]),
        idle_timeout: Some(300),
        ..NewSettings::default()
    };
    let user = client.set_settings("anna", &settings).await.expect("nobody else has it");
    assert_eq!((user.behind.len(), user.idle_timeout, user.session_timeout), (1, Some(300), None));
    assert_eq!(client.user("anna").await.expect("she exists"), user);
    let bad = NewSettings {
        openvpn_options: Some(vec!["up /bin/sh".to_owned()]),
        ..NewSettings::default()
    };
    let bad = refused(client.set_settings("anna", &bad).await.expect_err("it runs a program"));
    assert!(bad.message.contains("up is nothing that clients take"), "{bad:?}");

    let changed = client.set_password("anna", &NewPassword::default()).await.expect("she exists");
    assert!(changed.generated_password.is_some_and(|p| p.expose().len() >= 16));

    assert_eq!(client.remove_user("anna").await.expect("she exists").sessions, 1);
    assert!(client.users().await.expect("an answer").is_empty());
    let left = client.sessions().await.expect("an answer");
    assert_eq!(left.iter().map(|s| s.user.as_str()).collect::<Vec<_>>(), ["bo"]);
    assert_eq!(*rig.control.farewells.lock().expect("not poisoned"), [Farewell::Revoked]);
}

#[tokio::test]
async fn a_disabled_user_loses_every_session_and_an_enabled_one_none() {
    let rig = Rig::start(with_sessions(vec![session(1, "anna"), session(2, "anna")]));
    let mut client = rig.client().await;
    client.add_user(&new_user("anna")).await.expect("a new name");

    assert_eq!(client.set_enabled("anna", true).await.expect("she exists").sessions, 0);
    assert_eq!(client.set_enabled("anna", false).await.expect("she exists").sessions, 2);
    assert!(!client.users().await.expect("an answer")[0].enabled);
}

#[tokio::test]
async fn a_revoked_certificate_ends_the_sessions_it_opened_and_no_other() {
    let rig = Rig::start(FakeServer::default());
    let mut client = rig.client().await;
    client.add_user(&new_user("anna")).await.expect("a new name");
    let new = NewProfile {
        user: "anna".into(),
        door: "openvpn".into(),
        remote: Some("vpn.example".into()),
        client: None,
        tap: false,
    };
    let first = client.new_profile(&new).await.expect("a profile");
    let second = client.new_profile(&new).await.expect("a profile");
    assert_ne!(first.serial, second.serial);
    for (id, profile) in [(1, &first), (2, &second)] {
        let certificate = profile.serial.clone();
        let session = Session { certificate, ..session(id, "anna") };
        rig.control.sessions.lock().expect("not poisoned").push(session);
    }

    let serial = first.serial.expect("both are asked for");
    let ended = client.revoke(&serial.to_ascii_uppercase()).await.expect("it exists");

    assert_eq!(ended.sessions, 1);
    assert_eq!(client.sessions().await.expect("an answer")[0].id, 2);
    let certificates = client.certificates(Some("anna")).await.expect("an answer");
    for certificate in certificates {
        assert_eq!(certificate.revoked.is_some(), certificate.serial == serial);
    }
    assert!(
        client.certificates(Some("bo")).await.expect_err("no such user").to_string().contains("bo")
    );
}

#[tokio::test]
async fn a_revoked_client_key_ends_the_sessions_that_came_with_it_and_no_other() {
    let rig = Rig::start(FakeServer::default());
    let mut client = rig.client().await;
    client.add_user(&new_user("anna")).await.expect("a new name");
    let new = NewProfile {
        user: "anna".into(),
        door: "openvpn".into(),
        remote: Some("vpn.example".into()),
        client: Some("connect".into()),
        tap: false,
    };
    for id in 1..=2 {
        let client_key = client.new_profile(&new).await.expect("a profile").client_key;
        assert!(client_key.is_some());
        let session = Session { client_key, ..session(id, "anna") };
        rig.control.sessions.lock().expect("not poisoned").push(session);
    }

    let keys = client.client_keys(Some("anna")).await.expect("an answer");
    let sessions = client.sessions().await.expect("an answer");
    let first = sessions[0].client_key.clone().expect("it came with one");
    let ended = client.revoke_client_key(&first.to_ascii_uppercase()).await.expect("it exists");

    assert_eq!((keys.len(), ended.sessions), (2, 1));
    assert_eq!(client.sessions().await.expect("an answer")[0].id, 2);
    for key in client.client_keys(None).await.expect("an answer") {
        assert_eq!(key.revoked.is_some(), key.id == first);
    }
    let unknown = refused(client.revoke_client_key("00ff").await.expect_err("not made"));
    assert_eq!(unknown.reason, Reason::NotFound, "{unknown}");
}

#[tokio::test]
async fn what_is_not_there_or_there_already_has_its_own_reason() {
    let rig = Rig::start(FakeServer::default());
    let mut client = rig.client().await;
    client.add_user(&new_user("anna")).await.expect("a new name");

    let twice = refused(client.add_user(&new_user("anna")).await.expect_err("taken"));
    assert_eq!(twice.reason, Reason::Conflict, "{twice}");
    let nameless = refused(client.add_user(&new_user("-x /")).await.expect_err("not a name"));
    assert_eq!(nameless.reason, Reason::Invalid, "{nameless}");
    let nobody = refused(client.set_enabled("../x?y", true).await.expect_err("nobody"));
    assert!(matches!(nobody.reason, Reason::NotFound | Reason::Invalid), "{nobody}");
    let unknown = refused(client.revoke("00ff").await.expect_err("not issued"));
    assert_eq!(unknown.reason, Reason::NotFound, "{unknown}");
    let outside = NewAddresses { addresses: vec!["192.0.2.1".parse().expect("an address")] };
    let outside = refused(client.set_addresses("anna", &outside).await.expect_err("outside"));
    assert_eq!(outside.reason, Reason::Invalid, "{outside}");
    for failure in [twice, nameless, nobody, unknown, outside] {
        assert!(!failure.message.contains('\n'), "{failure}");
    }
}

#[tokio::test]
async fn every_error_is_json_with_its_status() {
    let rig = Rig::start(FakeServer::default());
    let long = "x".repeat(MAX_BODY + 1);
    let post = |path: &str, kind: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let json = "Content-Type: application/json\r\n";

    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n".to_owned(), 404),
        ("DELETE /v1/status HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n".to_owned(), 405),
        (
            "GET /v1/certificates?whose=x HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n".into(),
            400,
        ),
        ("DELETE /v1/users/%ff HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n".into(), 400),
        (post("/v1/sessions/kick", json, "{"), 400),
        (post("/v1/sessions/kick", json, "{\"target\": 1}"), 422),
        (post("/v1/sessions/kick", json, "{\"target\": \"a\", \"more\": 1}"), 422),
        (post("/v1/sessions/kick", "", "{\"target\": \"a\"}"), 415),
        (post("/v1/sessions/kick", json, &format!("{{\"target\": \"{long}\"}}")), 413),
    ] {
        let (got, body) = rig.raw(&request).await;

        let line = request.lines().next().unwrap_or_default();
        assert_eq!(got, status, "{line}: {body}");
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert!(value["error"].is_string(), "{line}: {body}");
    }
}

#[tokio::test]
async fn a_stranger_is_refused_whatever_it_asks() {
    /// Vouches for a peer that is somebody else.
    struct Elsewhere(UnixListener);
    impl Listener for Elsewhere {
        type Io = UnixStream;
        type Addr = Peer;
        async fn accept(&mut self) -> (UnixStream, Peer) {
            let (stream, _) = Listener::accept(&mut self.0).await;
            (stream, Peer { uid: Some(65_534), owner: 1000 })
        }
        fn local_addr(&self) -> io::Result<Peer> {
            Ok(Peer { uid: None, owner: 1000 })
        }
    }
    impl Connected<IncomingStream<'_, Elsewhere>> for Peer {
        fn connect_info(stream: IncomingStream<'_, Elsewhere>) -> Self {
            *stream.remote_addr()
        }
    }
    let rig = Rig::start(FakeServer::default());
    let socket = rig.folder.0.join("other.sock");
    let listener = Elsewhere(UnixListener::bind(&socket).expect("a free socket"));
    let api = Api { store: Arc::clone(&rig.store), control: Arc::clone(&rig.control) as _ };
    let service = router(api).into_make_service_with_connect_info::<Peer>();
    let task = tokio::spawn(async move { axum::serve(listener, service).await });
    let mut client = ApiClient::connect(&socket).await.expect("it listens");

    for failure in [
        refused(client.status().await.map(drop).expect_err("not ours")),
        refused(client.add_user(&new_user("eve")).await.map(drop).expect_err("not ours")),
    ] {
        assert_eq!(failure.reason, Reason::Forbidden);
    }

    assert!(rig.client().await.users().await.expect("ours").is_empty());
    task.abort();
}

#[test]
fn root_and_the_owner_may_ask_and_nobody_else() {
    let peer = |uid| Peer { uid, owner: 1000 };

    assert!(peer(Some(0)).may_ask());
    assert!(peer(Some(1000)).may_ask());
    assert!(!peer(Some(1001)).may_ask());
    assert!(!peer(None).may_ask());
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_goes_away() {
    let rig = Rig::start(FakeServer::default());
    let socket = rig.socket();
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A client that keeps its connection open does not keep the server.
    let _idle = rig.client().await;

    rig.stop.send(()).expect("the server waits for it");
    rig.task.await.expect("no panic").expect("no error");

    assert!(!socket.exists());
    let error = ApiClient::connect(&socket).await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains("warren up"), "{error}");
}

#[tokio::test]
async fn a_request_that_hangs_does_not_keep_the_server() {
    let asked = Arc::new(Notify::new());
    let rig = Rig::start(FakeServer { hangs: Some(Arc::clone(&asked)), ..FakeServer::default() });
    let mut client = rig.client().await;
    let answer = tokio::spawn(async move { client.status().await });
    asked.notified().await;

    rig.stop.send(()).expect("the server waits for it");

    let ended = tokio::time::timeout(FAREWELL * 10, rig.task).await.expect("it does not wait");
    ended.expect("no panic").expect("no error");
    answer.abort();
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let folder = Folder::new();
    StateDir::open(&folder.0).expect("a new state folder");
    let socket = folder.0.join("api.sock");
    drop(UnixListener::bind(&socket).expect("a free socket"));
    let error = ApiClient::connect(&socket).await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");

    ApiServer::bind(&socket).expect("the old one is replaced");
}

#[tokio::test]
async fn a_folder_too_deep_for_a_socket_is_explained() {
    let socket = PathBuf::from(format!("/tmp/{}/api.sock", "x".repeat(120)));

    let error = ApiServer::bind(&socket).expect_err("too long");

    assert!(error.to_string().contains("shorter --state"), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[tokio::test]
async fn passwords_and_keys_do_not_print() {
    let rig = Rig::start(FakeServer::default());
    let mut client = rig.client().await;
    let user = NewUser { password: None, ..new_user("anna") };
    let created = client.add_user(&user).await.expect("a new name");
    let password = created.generated_password.clone().expect("none was given");
    let new = NewProfile {
        user: "anna".into(),
        door: "openvpn".into(),
        remote: Some("h:1".into()),
        client: None,
        tap: false,
    };
    let profile = client.new_profile(&new).await.expect("a profile");

    assert!(profile.text.contains("PRIVATE KEY"));
    let printed = format!("{created:?} {profile:?} {:?}", new_user("bo"));
    for secret in [password.expose(), "PRIVATE KEY", "s3cret-enough"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
