use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use contract::{AuthContext, AuthVerdict, Authenticator, BoxFuture, Credentials, DenyReason};
use contract::{Grant, Secret, SessionId};
use tokio::task::JoinHandle;

use super::*;
use crate::decisions::{Decisions, Settings};
use crate::notice::{Notices, ServerFacts};
use crate::seats::MAX_STRANGERS;
use crate::states::States;
use crate::testing::{Console, FakeHouse, session};

#[derive(Debug)]
struct Nobody;

impl Authenticator for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: &'a AuthContext,
        _: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        Box::pin(async { AuthVerdict::Deny(DenyReason::BadCredentials) })
    }
}

struct Bench {
    house: Arc<FakeHouse>,
    shared: Arc<Shared>,
    decisions: Arc<Decisions>,
}

impl Bench {
    fn new(password: Option<&str>) -> Self {
        let house = FakeHouse::with(vec![
            session(7, "anna", "192.0.2.10:41194"),
            session(8, "anna", "[2001:db8::10]:41194"),
            session(9, "bob", "192.0.2.11:41194"),
        ]);
        let notices = Arc::new(Notices::new());
        let settings = Settings { patience: Duration::from_secs(45), ends_with_certificate: false };
        let decisions = Arc::new(Decisions::new(Arc::new(Nobody), Arc::clone(&notices), settings));
        let shared = crate::testing::shared_with(
            Desk {
                house: Arc::clone(&house) as Arc<dyn crate::House>,
                decisions: Some(Arc::clone(&decisions)),
                has_user_names: true,
                facts: ServerFacts {
                    started: 1,
                    device: "warren0".to_owned(),
                    addresses: vec!["10.86.0.1".parse().unwrap()],
                },
                states: Arc::new(States::new(Arc::clone(&notices))),
                holds: AtomicBool::new(false),
            },
            notices,
            password,
        );
        shared.desk().unwrap().enter("CONNECTED", "SUCCESS");
        Self { house, shared, decisions }
    }

    fn connect(&self) -> Console {
        Console::at(&self.shared)
    }

    fn login(&self, id: u64, user: &str) -> JoinHandle<AuthVerdict> {
        let (decisions, user) = (Arc::clone(&self.decisions), user.to_owned());
        tokio::spawn(async move {
            let context = AuthContext {
                protocol: "openvpn",
                network: String::new(),
                remote: "192.0.2.10".parse().unwrap(),
                port: 1,
                session: SessionId(id),
                introduction: "".into(),
            };
            let password = Secret::new(*b"sesame");
            let credentials = Credentials::Password { user, password, response: None };
            decisions.authenticate(&context, credentials).await
        })
    }
}

#[tokio::test]
async fn commands_are_answered_as_openvpn_answers_them() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;

    for (command, answer) in [
        ("pid", format!("SUCCESS: pid={}", std::process::id())),
        ("load-stats", "SUCCESS: nclients=3,bytesin=5000,bytesout=6000".to_owned()),
        ("verb", "SUCCESS: verb=3".to_owned()),
        ("verb 5", "SUCCESS: verb level changed".to_owned()),
        ("verb", "SUCCESS: verb=5".to_owned()),
        ("mute", "SUCCESS: mute=0".to_owned()),
        ("hold", "SUCCESS: hold=0".to_owned()),
        ("hold on", "SUCCESS: hold flag set to ON".to_owned()),
        ("hold", "SUCCESS: hold=1".to_owned()),
        ("hold release", "SUCCESS: hold release succeeded".to_owned()),
        ("state on", "SUCCESS: real-time state notification set to ON".to_owned()),
        ("log off", "SUCCESS: real-time log notification set to OFF".to_owned()),
        ("bytecount 0", "SUCCESS: bytecount interval changed".to_owned()),
        ("echo all", "END".to_owned()),
        ("env-filter 1", "SUCCESS: env_filter_level=1".to_owned()),
        ("status 4", "ERROR: bad status format version number".to_owned()),
        ("foo", "ERROR: unknown command, enter 'help' for more options".to_owned()),
        ("client-kill 99", "ERROR: client-kill command failed".to_owned()),
        ("client-auth-nt 99 0", "ERROR: client-auth command failed".to_owned()),
        ("client-deny 99 0 x", "ERROR: client-deny command failed".to_owned()),
        ("client-pending-auth 99 0 x 9", "ERROR: client-pending-auth command failed".to_owned()),
        ("client-auth 99 0\nEND", "ERROR: client-auth command failed".to_owned()),
        ("password Auth x", "ERROR: no password is currently needed at this time".to_owned()),
        ("forget-passwords", "SUCCESS: Passwords were forgotten".to_owned()),
    ] {
        assert_eq!(console.ask(command).await, answer, "{command}");
    }
    assert!(console.ask("state").await.ends_with(",CONNECTED,SUCCESS,10.86.0.1,,,,"));
    assert_eq!(console.line().await, "END");
    console.send("version\nhelp\nstatus 3\n").await;
    assert!(console.until("END\r\n").await.contains("Management Version: 5\r\n"));
    assert!(console.until("END\r\n").await.contains("client-pending-auth CID KID"));
    assert_eq!(console.until("END\r\n").await.matches("\r\nCLIENT_LIST\t").count(), 3);
    console.send("quit\n").await;
    assert!(matches!(console.ended().await, Ended::Left));
}

#[tokio::test]
async fn sessions_are_ended_by_name_address_and_number() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;

    let found = "SUCCESS: common name 'anna' found, 2 client(s) killed";
    assert_eq!(console.ask("kill anna").await, found);
    assert_eq!(console.ask("kill anna").await, "ERROR: no client has this common name");
    let elsewhere = "ERROR: client at address 192.0.2.11:4 not found";
    assert_eq!(console.ask("kill 192.0.2.11:4").await, elsewhere);
    let killed = "SUCCESS: 1 client(s) at address 192.0.2.11:41194 killed";
    assert_eq!(console.ask("kill udp:192.0.2.11:41194").await, killed);
    bench.house.sessions.lock().unwrap().push(session(10, "carl", "192.0.2.12:1"));
    assert_eq!(console.ask("client-kill 10 HALT").await, "SUCCESS: client-kill command succeeded");
    assert_eq!(
        *bench.house.ended.lock().unwrap(),
        [
            (7, Farewell::Kicked),
            (8, Farewell::Kicked),
            (9, Farewell::Kicked),
            (10, Farewell::Dismissed)
        ]
    );
}

#[tokio::test]
async fn signals_and_states_reach_those_who_asked() {
    let bench = Bench::new(None);
    let mut watcher = bench.connect().greeted().await;
    watcher.ask("state on").await;
    let mut console = bench.connect().greeted().await;

    assert_eq!(console.ask("signal SIGUSR1").await, "SUCCESS: signal SIGUSR1 thrown");
    assert!(watcher.line().await.ends_with(",RECONNECTING,SIGUSR1,,,,,"));
    assert!(watcher.line().await.contains(",CONNECTED,SUCCESS,10.86.0.1,"));
    assert_eq!(bench.house.ended.lock().unwrap().len(), 3);
    assert_eq!(console.ask("signal SIGTERM").await, "SUCCESS: signal SIGTERM thrown");
    assert!(watcher.line().await.ends_with(",EXITING,SIGTERM,,,,,"));
    assert_eq!(*bench.house.signals.lock().unwrap(), [SignalName::Term]);

    bench.shared.stop.send_replace(true);
    assert!(matches!(watcher.ended().await, Ended::Stopped));
    assert!(matches!(console.ended().await, Ended::Stopped));
}

#[tokio::test]
async fn a_console_decides_about_a_login() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;
    // The greeting is sent once the console counts as somebody who can decide.
    let login = bench.login(20, "anna");
    assert_eq!(console.line().await, ">CLIENT:CONNECT,20,1");
    let environment = console.until("ENV,END\r\n").await;
    assert!(environment.contains(">CLIENT:ENV,password=sesame\r\n"));

    let granted = console.ask("client-auth 20 1\npush \"echo hello, no\"\nEND").await;

    // A block that cannot be read lets nobody in.
    assert!(granted.starts_with("ERROR: push: "), "{granted}");
    assert!(matches!(login.await.unwrap(), AuthVerdict::Deny(_)));

    let login = bench.login(21, "anna");
    console.until("ENV,END\r\n").await;
    let command = "client-auth 21 1\npush \"echo hello\"\nstatus\nEND";
    assert_eq!(console.ask(command).await, "SUCCESS: client-auth command succeeded");
    let AuthVerdict::Grant(grant) = login.await.unwrap() else { panic!() };
    let options = vec!["echo hello".to_owned()];
    let expected = Grant { user: "anna".to_owned(), openvpn_options: options, ..Grant::default() };
    assert_eq!(*grant, expected);
}

#[tokio::test(start_paused = true)]
async fn without_the_password_nothing_is_said_and_three_guesses_are_all() {
    let bench = Bench::new(Some("sesame"));
    let mut console = bench.connect();
    assert_eq!(console.until(":").await, "ENTER PASSWORD:");
    console.send("sesame \r\n\nsesam\n").await;
    assert_eq!(console.until(":").await, "ENTER PASSWORD:");
    assert_eq!(console.until(":").await, "ENTER PASSWORD:");
    assert!(!bench.shared.notices.is_heard(), "a stranger is told of logins");
    assert!(matches!(console.ended().await, Ended::Cut("it does not know the password")));

    let console = bench.connect();
    assert!(matches!(console.ended().await, Ended::Cut(_)), "a stranger keeps a seat for ever");

    let mut console = bench.connect();
    console.send("wrong\r\nsesame\r\npid\r\n").await;
    assert_eq!(console.until("ENTER PASSWORD:").await, "ENTER PASSWORD:");
    let correct = console.line().await;
    assert_eq!(correct, "ENTER PASSWORD:SUCCESS: password is correct");
    let mut console = console.greeted().await;
    assert!(console.line().await.starts_with("SUCCESS: pid="));
}

#[tokio::test(start_paused = true)]
async fn a_console_that_does_not_read_is_cut_off() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;
    console.send("status 2\n".repeat(1000).as_str()).await;

    assert!(matches!(console.ended().await, Ended::Cut("it does not read what it is told")));
}

#[tokio::test]
async fn a_line_without_end_cuts_the_connection() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;
    console.send(&"x".repeat(5000)).await;

    assert!(matches!(console.ended().await, Ended::Cut("its line is too long")));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_for_as_long_as_somebody_wants() {
    let bench = Bench::new(None);
    let mut console = bench.connect().greeted().await;
    console.ask("bytecount 2").await;
    let started = tokio::time::Instant::now();

    for id in [7, 8, 9, 7] {
        assert_eq!(console.line().await, format!(">BYTECOUNT_CLI:{id},2032,1925"));
    }
    assert_eq!(started.elapsed(), Duration::from_secs(4));
}

#[tokio::test]
async fn the_log_is_shown_and_followed() {
    use tracing_subscriber::layer::SubscriberExt as _;
    let bench = Bench::new(None);
    let log: tracing::Dispatch =
        tracing_subscriber::registry().with(bench.shared.log.layer()).into();
    let log = |text: &str| tracing::dispatcher::with_default(&log, || tracing::info!("{text}"));
    let mut console = bench.connect().greeted().await;
    log("before");
    assert_eq!(console.ask("log on all").await, "SUCCESS: real-time log notification set to ON");
    assert!(console.line().await.ends_with(",I,before"));
    assert_eq!(console.line().await, "END");
    log("after");
    let line = console.line().await;
    assert!(line.starts_with(">LOG:") && line.ends_with(",I,after"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn whoever_knows_the_password_gets_in_past_a_crowd_that_says_nothing() {
    let bench = Bench::new(Some("open"));
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_STRANGERS {
        let mut stranger = bench.connect();
        stranger.until("ENTER PASSWORD:").await;
        silent.push(stranger);
    }

    let mut console = bench.connect();
    console.until("ENTER PASSWORD:").await;
    console.send("open\n").await;
    assert_eq!(console.line().await, "SUCCESS: password is correct");
    console.greeted().await;

    let first = silent.swap_remove(0);
    assert!(matches!(first.ended().await, Ended::Cut("others come to say the password")));
}

#[tokio::test(start_paused = true)]
async fn whoever_guesses_wrong_pays_before_somebody_else_may_guess() {
    let bench = Bench::new(Some("open"));
    let mut wrong = Vec::new();
    for _ in 0..MAX_STRANGERS {
        let mut stranger = bench.connect();
        stranger.until("ENTER PASSWORD:").await;
        stranger.send("sesame\n").await;
        wrong.push(stranger);
    }
    tokio::time::sleep(WRONG_GUESS / 2).await;

    let mut next = bench.connect();
    assert!(next.line().await.starts_with("ERROR: too many"));
    tokio::time::sleep(WRONG_GUESS).await;
    bench.connect().until("ENTER PASSWORD:").await;
    let first = wrong.swap_remove(0);
    assert!(matches!(first.ended().await, Ended::Cut("others come to say the password")));
}
