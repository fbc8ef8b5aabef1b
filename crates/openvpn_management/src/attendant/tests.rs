use std::net::Ipv4Addr;

use contract::SessionFacts;
use openvpn::{Family, Profile};
use tokio::sync::watch;

use super::*;
use crate::LogTap;
use crate::connection::Ended;
use crate::seats::Seats;
use crate::server::{Role, Shared};
use crate::testing::Console;

#[derive(Debug, Default)]
struct Fake {
    signals: Mutex<Vec<SignalName>>,
}

impl Process for Fake {
    fn signal(&self, signal: SignalName) {
        self.signals.lock().unwrap().push(signal);
    }
}

impl Meter for Fake {
    fn totals(&self) -> PortTotals {
        PortTotals { rx_bytes: 2032, tx_bytes: 1925, ..PortTotals::default() }
    }
}

/// A terminal without a person.
#[derive(Debug)]
struct Nobody;

impl Desk for Nobody {
    fn login(&self, _: Option<&str>) -> Result<(String, Secret), String> {
        Err("no terminal".to_owned())
    }

    fn answer(&self, _: &str, _: bool) -> Result<Secret, String> {
        Err("no terminal".to_owned())
    }

    fn is_attended(&self) -> bool {
        false
    }
}

struct Bench {
    attendant: Arc<Attendant>,
    restarts: mpsc::UnboundedReceiver<&'static str>,
    process: Arc<Fake>,
    shared: Arc<Shared>,
}

fn all() -> Rules {
    Rules {
        holds: true,
        asks_passwords: true,
        asks_remote: true,
        asks_proxy: true,
        remotes: vec![
            "vpn.example.org,1194,udp,enabled".to_owned(),
            "192.0.2.1,443,tcp4-client,enabled".to_owned(),
        ],
        ..Rules::default()
    }
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let notices = Arc::new(Notices::new());
        let states = Arc::new(States::new(Arc::clone(&notices)));
        let process = Arc::new(Fake::default());
        let (attendant, restarts) = Attendant::new(
            rules,
            Arc::clone(&notices),
            Arc::clone(&states),
            Arc::new(Nobody),
            Arc::clone(&process) as Arc<dyn Process>,
        );
        let _ = attendant.traffic.set(Box::new(Fake::default()));
        let shared = Arc::new(Shared {
            role: Role::Client(Arc::clone(&attendant)),
            notices,
            states,
            log: LogTap::new(),
            password: None,
            stop: watch::Sender::new(false),
            seats: Seats::new(1),
            patience: Duration::from_millis(50),
        });
        Self { attendant, restarts, process, shared }
    }

    async fn console(&self) -> Console {
        Console::at(&self.shared).greeted().await
    }

    /// What the client's login thread does.
    fn login(
        &self,
        question: Option<StaticChallenge>,
    ) -> tokio::task::JoinHandle<Result<(String, Secret), String>> {
        let attendant = Arc::clone(&self.attendant);
        tokio::task::spawn_blocking(move || attendant.packed_login(question.as_ref()).unwrap())
    }

    fn step(&self, step: Step) {
        self.attendant.hear(&ClientEvent::Step(step));
    }
}

fn remote(text: &str) -> Remote {
    let text = format!("client\ndev tun\nremote {text}\nauth-user-pass\n<ca>\nx\n</ca>\n");
    let profile = Profile::parse(&text, &mut |_| Err("no file".to_owned())).unwrap();
    profile.remotes.into_iter().next().unwrap()
}

fn lease() -> Lease {
    Lease { ipv4: Some((Ipv4Addr::new(10, 8, 0, 2), 24)), ..Lease::default() }
}

/// Without the time.
fn states(list: &str) -> Vec<&str> {
    let states = list.lines().filter(|line| *line != "END");
    states.map(|state| state.split_once(',').unwrap().1).collect()
}

#[tokio::test]
async fn the_client_waits_until_it_is_let_go() {
    let bench = Bench::new(all());
    let attendant = Arc::clone(&bench.attendant);
    let starting = tokio::spawn(async move { attendant.start().await });
    tokio::task::yield_now().await;

    // Also whoever comes later is told.
    let mut console = bench.console().await;
    assert_eq!(console.line().await, ">HOLD:Waiting for hold release:0");
    assert_eq!(console.ask("hold").await, "SUCCESS: hold=1");
    let ignored = "ERROR: signal 'SIGUSR1' is currently ignored";
    assert_eq!(console.ask("signal SIGUSR1").await, ignored);
    assert!(!starting.is_finished());
    assert_eq!(console.ask("hold release").await, "SUCCESS: hold release succeeded");
    starting.await.unwrap();

    let pause = Duration::from_secs(4);
    let attendant = Arc::clone(&bench.attendant);
    let again = tokio::spawn(async move { attendant.release(pause).await });
    assert_eq!(console.line().await, ">HOLD:Waiting for hold release:4");
    assert_eq!(console.ask("hold off").await, "SUCCESS: hold flag set to OFF");
    assert!(!bench.attendant.holds() && !again.is_finished());
    console.ask("hold release").await;
    again.await.unwrap();
}

#[tokio::test]
async fn user_and_password_are_asked_for_and_given_in_parts() {
    let bench = Bench::new(all());
    let mut console = bench.console().await;
    let none = console.ask("username \"Auth\" anna").await;
    assert_eq!(none, "ERROR: no username is currently needed at this time");
    let question =
        StaticChallenge { text: "Code, please".to_owned(), echo: true, is_appended: false };

    let login = bench.login(Some(question));
    let asked = console.line().await;
    assert_eq!(asked, ">PASSWORD:Need 'Auth' username/password SC:1,Code, please");
    for (command, answer) in [
        ("username \"Auth\" bob", "SUCCESS: 'Auth' username entered, but not yet verified"),
        ("username \"Auth\" anna", "SUCCESS: 'Auth' username entered, but not yet verified"),
        (
            "password \"Private Key\" x",
            "ERROR: password of type 'Private Key' entered, but we need one of type 'Auth'",
        ),
        (
            "password \"Auth\" SCRV1:YQ==:Yg==",
            "SUCCESS: 'Auth' password entered, but not yet verified",
        ),
        ("password \"Auth\" again", "ERROR: no password is currently needed at this time"),
    ] {
        assert_eq!(console.ask(command).await, answer);
    }

    let (user, password) = login.await.unwrap().unwrap();
    assert_eq!((user.as_str(), password.expose()), ("anna", &b"SCRV1:YQ==:Yg=="[..]));
    bench.step(Step::Told(Tiding::Refused(String::new())));
    assert_eq!(console.line().await, ">PASSWORD:Verification Failed: 'Auth'");
    bench.step(Step::Told(Tiding::Refused("CRV1:R:abc:YW5uYQ==:More".to_owned())));
    let more = ">PASSWORD:Verification Failed: 'Auth' ['CRV1:R:abc:YW5uYQ==:More']";
    assert_eq!(console.line().await, more);
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_is_not_answered() {
    let bench = Bench::new(all());
    let first = bench.login(None);
    let mut console = bench.console().await;
    console.line().await;
    console.ask("username Auth anna").await;

    // The client has begun anew, and asks again.
    let second = bench.login(None);
    assert_eq!(console.line().await, ">PASSWORD:Need 'Auth' username/password");
    assert!(first.await.unwrap().is_err());
    console.ask("password Auth secret").await;
    assert!(!second.is_finished(), "half a login of an earlier question is taken for this one");
    console.ask("username Auth anna").await;
    assert_eq!(second.await.unwrap().unwrap().1.expose(), b"secret");
}

#[tokio::test]
async fn a_passphrase_is_asked_for_until_it_is_right_or_that_is_not_wanted() {
    let bench = Bench::new(Rules { retry: AuthRetry::Ask, ..all() });
    let mut console = bench.console().await;
    let attendant = Arc::clone(&bench.attendant);
    let asking = tokio::spawn(async move { attendant.passphrase().await });

    assert_eq!(console.line().await, ">PASSWORD:Need 'Private Key' password");
    let entered = "SUCCESS: 'Private Key' password entered, but not yet verified";
    assert_eq!(console.ask("password \"Private Key\" \"a \\\"b\"").await, entered);
    assert_eq!(asking.await.unwrap().unwrap().expose(), b"a \"b");
    assert!(bench.attendant.is_wrong_passphrase());
    assert_eq!(console.line().await, ">PASSWORD:Verification Failed: 'Private Key'");
    console.ask("auth-retry none").await;
    assert!(!bench.attendant.is_wrong_passphrase());
    let elsewhere = Bench::new(Rules::default());
    assert_eq!(elsewhere.attendant.passphrase().await, None);
}

#[tokio::test]
async fn the_console_chooses_the_server_and_the_way_there() {
    let bench = Bench::new(all());
    let mut console = bench.console().await;
    assert_eq!(console.ask("remote ACCEPT").await, "ERROR: remote command failed");

    for (answer, choice) in [
        ("ACCEPT", Choice::Accept),
        ("SKIP 2", Choice::Skip(2)),
        ("MOD 192.0.2.9 443", Choice::Other { host: "192.0.2.9".to_owned(), port: 443 }),
    ] {
        let attendant = Arc::clone(&bench.attendant);
        let asking =
            tokio::spawn(async move { attendant.remote(&remote("192.0.2.1 1194 udp4")).await });
        assert_eq!(console.line().await, ">REMOTE:192.0.2.1,1194,udp4");
        assert_eq!(console.ask("remote FOO").await, "ERROR: remote command failed");
        let answered = console.ask(&format!("remote {answer}")).await;
        assert_eq!(answered, "SUCCESS: remote command succeeded");
        assert_eq!(asking.await.unwrap(), choice);
    }

    let attendant = Arc::clone(&bench.attendant);
    let asking = tokio::spawn(async move {
        let udp = attendant.proxy(0, &remote("vpn.example.org 1194 udp")).await;
        (udp, attendant.proxy(1, &remote("vpn.example.org 443 tcp-client")).await)
    });
    assert_eq!(console.line().await, ">PROXY:1,UDP,vpn.example.org");
    assert_eq!(console.ask("proxy HTTP 192.0.2.8 80").await, "ERROR: proxy command failed");
    assert_eq!(console.ask("proxy NONE").await, "SUCCESS: proxy command succeeded");
    assert_eq!(console.line().await, ">PROXY:2,TCP,vpn.example.org");
    console.ask("proxy HTTP 192.0.2.8 80").await;
    assert_eq!(console.line().await, ">PASSWORD:Need 'HTTP Proxy' username/password");
    console.ask("username \"HTTP Proxy\" anna").await;
    console.ask("password \"HTTP Proxy\" secret").await;
    let (udp, tcp) = asking.await.unwrap();
    assert!(udp.is_none());
    let proxy = tcp.unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("192.0.2.8", 80));
    assert_eq!(proxy.login.unwrap().user, "anna");
}

#[tokio::test]
async fn states_are_those_of_openvpn() {
    let bench = Bench::new(Rules { tells_up_down: true, ..all() });
    let mut console = bench.console().await;
    bench.step(Step::Resolving);
    bench.step(Step::Dialling);
    bench.step(Step::Again { reason: "Connection refused".to_owned() });
    bench.step(Step::Dialling);
    bench.step(Step::Waiting);
    bench.step(Step::Authenticating);
    bench.step(Step::Told(Tiding::AsksForOptions));
    bench.step(Step::Told(Tiding::Pending { seconds: 42 }));
    bench.step(Step::Assigning(Box::new(lease())));
    bench.step(Step::Routing);
    bench.attendant.hear(&ClientEvent::Connected {
        remote: "192.0.2.1:1194".parse().unwrap(),
        lease: Box::new(lease()),
        facts: SessionFacts::default(),
        device: "tun0".to_owned(),
    });
    let up = console.until(">UPDOWN:ENV,END\r\n").await;
    assert!(up.starts_with(">UPDOWN:UP\r\n>UPDOWN:ENV,dev=tun0\r\n"), "{up}");
    assert!(up.contains(">UPDOWN:ENV,trusted_ip=192.0.2.1\r\n"), "{up}");
    bench.step(Step::Again { reason: "the peer fell silent".to_owned() });
    assert!(console.until("END\r\n").await.starts_with(">UPDOWN:DOWN\r\n"));

    console.send("state all\n").await;
    let list = console.until("END\r\n").await;
    assert_eq!(
        states(&list),
        [
            "CONNECTING,,,,,,",
            "RESOLVE,,,,,,",
            "TCP_CONNECT,,,,,,",
            "RECONNECTING,connection-failed,,,,,",
            "TCP_CONNECT,,,,,,",
            "WAIT,,,,,,",
            "AUTH,,,,,,",
            "GET_CONFIG,,,,,,",
            "AUTH_PENDING,timeout 42,,,,,",
            "ASSIGN_IP,,10.8.0.2,,,,",
            "ADD_ROUTES,,,,,,",
            "CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,",
            "RECONNECTING,ping-restart,,,,,",
        ]
    );
    console.ask("state on").await;
    bench.attendant.failed("a\nb");
    assert_eq!(console.line().await, ">FATAL:a_b");
    assert!(console.line().await.ends_with(",EXITING,error,,,,,"));
}

#[tokio::test]
async fn commands_are_answered_as_openvpn_answers_a_clients_user_interface() {
    let mut bench = Bench::new(Rules { asks_remote: false, asks_proxy: false, ..all() });
    let mut console = bench.console().await;
    let unsupported = |name: &str| {
        format!("ERROR: The '{name}' command is not supported by the current daemon mode")
    };
    for (command, answer) in [
        ("load-stats", "SUCCESS: nclients=0,bytesin=2032,bytesout=1925".to_owned()),
        ("auth-retry", "SUCCESS: auth-retry=none".to_owned()),
        ("auth-retry interact", "SUCCESS: auth-retry parameter changed".to_owned()),
        ("auth-retry", "SUCCESS: auth-retry=interact".to_owned()),
        ("auth-retry foo", "ERROR: bad auth-retry parameter".to_owned()),
        (
            "needok a ok",
            "ERROR: no needok-confirmation is currently needed at this time".to_owned(),
        ),
        ("needstr a b", "ERROR: no needstr-string is currently needed at this time".to_owned()),
        ("kill foo", unsupported("kill")),
        ("client-kill 1", unsupported("client-kill")),
        ("client-auth 1 1", unsupported("client-auth")),
        ("client-deny 1 1 x", unsupported("client-deny")),
        ("remote ACCEPT", unsupported("remote")),
        ("proxy NONE", unsupported("proxy")),
        ("net", unsupported("net")),
        ("pk-sig", "ERROR: The pk-sig command is not currently available".to_owned()),
        ("pkcs11-id-count", ">PKCS11ID-COUNT:0".to_owned()),
        ("forget-passwords", "SUCCESS: Passwords were forgotten".to_owned()),
        ("signal SIGUSR1", "SUCCESS: signal SIGUSR1 thrown".to_owned()),
        ("signal SIGHUP", "SUCCESS: signal SIGHUP thrown".to_owned()),
        ("echo on", "SUCCESS: real-time echo notification set to ON".to_owned()),
        ("bytecount 1", "SUCCESS: bytecount interval changed".to_owned()),
    ] {
        assert_eq!(console.ask(command).await, answer, "{command}");
    }
    assert_eq!(bench.attendant.retry(AuthRetry::None), AuthRetry::Ask);
    assert_eq!(bench.attendant.forgotten(), 2);
    let restarts = (bench.restarts.try_recv(), bench.restarts.try_recv());
    assert_eq!(restarts, (Ok("SIGUSR1"), Ok("SIGHUP")));
    assert_eq!(console.line().await, ">BYTECOUNT:2032,1925");
    console.ask("bytecount 0").await;

    bench.step(Step::Told(Tiding::Echo("forget-passwords".to_owned())));
    assert!(console.line().await.ends_with(",forget-passwords"));
    console.send("remote-entry-count\nremote-entry-get 1\nremote-entry-get all\necho all\n").await;
    assert_eq!(console.until("END\r\n").await, "2\r\nEND\r\n");
    assert_eq!(console.until("END\r\n").await, "1,192.0.2.1,443,tcp4-client,enabled\r\nEND\r\n");
    assert_eq!(console.until("END\r\n").await.lines().count(), 3);
    assert!(console.until("END\r\n").await.ends_with(",forget-passwords\r\nEND\r\n"));
    console.send("status 2\n").await;
    let status = console.until("END\r\n").await;
    let lines = status.lines().collect::<Vec<_>>();
    assert_eq!(lines[0], "OpenVPN STATISTICS");
    assert!(lines[1].starts_with("Updated,20"), "{status}");
    assert_eq!(
        lines[2..],
        [
            "TUN/TAP read bytes,1925",
            "TUN/TAP write bytes,2032",
            "TCP/UDP read bytes,2032",
            "TCP/UDP write bytes,1925",
            "Auth read bytes,2032",
            "END"
        ]
    );
}

#[tokio::test]
async fn a_signal_that_ends_the_client_is_the_processes() {
    let bench = Bench::new(all());
    let mut console = bench.console().await;
    console.ask("state on").await;

    assert_eq!(console.ask("signal SIGTERM").await, "SUCCESS: signal SIGTERM thrown");

    assert!(console.line().await.ends_with(",EXITING,SIGTERM,,,,,"));
    assert_eq!(*bench.process.signals.lock().unwrap(), [SignalName::Term]);
    // The end itself says nothing else.
    bench.attendant.exiting("error");
    assert_eq!(bench.shared.states.last(openvpn::management::Show::All).len(), 2);
}

#[tokio::test]
async fn what_follows_when_the_console_leaves_is_as_the_profile_says() {
    for (rules, restarts, forgotten, signals) in [
        (Rules::default(), 0, 0, 0),
        (Rules { restarts_alone: true, ..Rules::default() }, 1, 0, 0),
        (Rules { forgets_alone: true, ..Rules::default() }, 0, 1, 0),
        (Rules { ends_alone: true, restarts_alone: true, ..Rules::default() }, 0, 0, 1),
    ] {
        let mut bench = Bench::new(rules);
        let mut console = bench.console().await;
        console.send("quit\n").await;
        assert!(matches!(console.ended().await, Ended::Left));

        assert_eq!(usize::from(bench.restarts.try_recv().is_ok()), restarts);
        assert_eq!(bench.attendant.forgotten(), forgotten);
        assert_eq!(bench.process.signals.lock().unwrap().len(), signals);
    }
}

#[tokio::test]
async fn there_is_one_console_at_a_time() {
    let bench = Bench::new(all());
    let first = bench.console().await;

    let mut second = Console::at(&bench.shared);
    assert_eq!(second.line().await, "ERROR: too many management clients are connected");
    assert!(matches!(second.ended().await, Ended::Cut(_)));

    drop(first);
    bench.console().await;
}

#[tokio::test]
async fn the_servers_question_is_answered_by_the_console() {
    let bench = Bench::new(all());
    let mut console = bench.console().await;
    let nothing = "ERROR: the server waits for no response";
    assert_eq!(console.ask("cr-response MTIzNDU2").await, nothing);

    bench.step(Step::Told(Tiding::Info("CR_TEXT:R,E:Code".to_owned())));
    assert_eq!(console.line().await, ">INFOMSG:CR_TEXT:R,E:Code");
    let attendant = Arc::clone(&bench.attendant);
    let answering = tokio::task::spawn_blocking(move || attendant.answer("Code", true));
    assert_eq!(console.ask("cr-response MTIzNDU2").await, "SUCCESS: command succeeded");
    assert_eq!(answering.await.unwrap().unwrap().expose(), b"123456");
}

#[tokio::test]
async fn without_query_passwords_the_terminal_is_asked() {
    let bench = Bench::new(Rules::default());
    assert!(bench.attendant.packed_login(None).is_none());
    assert!(!bench.attendant.is_attended());
    assert!(bench.attendant.login(None).is_err() && bench.attendant.answer("x", true).is_err());
    let proxy = bench.attendant.proxy(0, &remote("192.0.2.1")).await;
    assert!(proxy.is_none());
    assert_eq!(bench.attendant.remote(&remote("192.0.2.1")).await, Choice::Accept);
    assert_eq!(remote("a 1 udp6").family, Some(Family::V6));
}
