use std::net::Ipv4Addr;

use contract::{CertificateId, SessionId};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::*;
use crate::notice::Notice;

/// Knows anna's certificate, and her account; bob's is disabled.
#[derive(Debug)]
struct List;

impl Authenticator for List {
    fn authenticate<'a>(
        &'a self,
        _: &'a AuthContext,
        credentials: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        let anna = || Grant {
            user: "anna".to_owned(),
            certificate: Some(CertificateId::Own("1a2b".to_owned())),
            fixed_addresses: vec!["10.86.0.9".parse().unwrap()],
            ..Grant::default()
        };
        let verdict = match credentials {
            Credentials::Certificate { chain } if chain.is_empty() => {
                AuthVerdict::Deny(DenyReason::Revoked)
            }
            Credentials::Certificate { .. } => AuthVerdict::Grant(Box::new(anna())),
            Credentials::Known { user, .. } if user == "anna" => {
                AuthVerdict::Grant(Box::new(Grant { certificate: None, ..anna() }))
            }
            Credentials::Known { user, .. } if user == "bob" => {
                AuthVerdict::Deny(DenyReason::AccountDisabled)
            }
            // Her password was changed this very moment.
            Credentials::Known { user, since } if user == "cora" && since > crate::now() + 60 => {
                AuthVerdict::Deny(DenyReason::AccountDisabled)
            }
            _ => AuthVerdict::Deny(DenyReason::BadCredentials),
        };
        Box::pin(async { verdict })
    }
}

struct Bench {
    decisions: Arc<Decisions>,
    heard: broadcast::Receiver<Notice>,
}

impl Bench {
    fn new(ends_with_certificate: bool) -> Self {
        let notices = Arc::new(Notices::new());
        let heard = notices.listen();
        let settings = Settings { patience: Duration::from_secs(45), ends_with_certificate };
        let decisions = Arc::new(Decisions::new(Arc::new(List), notices, settings));
        Self { decisions, heard }
    }

    fn login(&self, session: u64, credentials: Credentials) -> JoinHandle<AuthVerdict> {
        let decisions = Arc::clone(&self.decisions);
        tokio::spawn(async move {
            let context = AuthContext {
                protocol: "openvpn",
                network: "warren".to_owned(),
                remote: Ipv4Addr::new(192, 0, 2, 10).into(),
                port: 40_000,
                session: SessionId(session),
                introduction: "IV_VER=2.6.14\nIV_SSO=webauth\n".into(),
            };
            decisions.authenticate(&context, credentials).await
        })
    }

    async fn notice(&mut self) -> String {
        match self.heard.recv().await.unwrap() {
            Notice::Client(text) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

fn password(user: &str) -> Credentials {
    Credentials::Password {
        user: user.to_owned(),
        password: Secret::new(*b"sesame"),
        response: None,
    }
}

fn has(notice: &str, line: &str) {
    assert!(notice.lines().any(|found| found == line), "no {line:?} in {notice}");
}

#[tokio::test]
async fn a_console_lets_a_client_in_with_options_of_its_own() {
    let mut bench = Bench::new(false);
    let chain = vec![vec![1]];
    let first = bench.login(7, Credentials::Certificate { chain }).await.unwrap();
    assert!(matches!(first, AuthVerdict::Grant(_)));
    let login = bench.login(7, password("anna"));

    let notice = bench.notice().await;

    assert!(notice.starts_with(">CLIENT:CONNECT,7,1\n") && notice.ends_with("ENV,END\n"));
    for line in [
        ">CLIENT:ENV,IV_SSO=webauth",
        ">CLIENT:ENV,username=anna",
        ">CLIENT:ENV,password=sesame",
        ">CLIENT:ENV,untrusted_ip=192.0.2.10",
        ">CLIENT:ENV,untrusted_port=40000",
        ">CLIENT:ENV,common_name=anna",
        ">CLIENT:ENV,tls_serial_hex_0=1a:2b",
    ] {
        has(&notice, line);
    }
    let mut block = Block::default();
    block.push("push \"route 10.9.0.0 255.255.255.0\"").unwrap();
    block.push("iroute 192.168.40.0 255.255.255.0").unwrap();
    assert!(!bench.decisions.decide((7, 2), Decision::Grant(block.clone())));
    assert!(bench.decisions.decide((7, 1), Decision::Grant(block)));
    let AuthVerdict::Grant(grant) = login.await.unwrap() else { panic!() };
    assert_eq!((grant.user.as_str(), grant.fixed_addresses.len()), ("anna", 1));
    assert_eq!(grant.openvpn_options, ["route 10.9.0.0 255.255.255.0"]);
    assert_eq!(grant.behind, ["192.168.40.0/24".parse().unwrap()]);
    assert!(!bench.decisions.decide((7, 1), Decision::Deny(None)), "decided twice");
}

#[tokio::test]
async fn the_user_list_has_a_say_about_those_it_knows() {
    let mut bench = Bench::new(false);
    for (session, user) in [(1, "bob"), (2, "stranger"), (3, "cora")] {
        let login = bench.login(session, password(user));
        bench.notice().await;
        bench.decisions.decide((session, 1), Decision::Grant(Block::default()));
        match login.await.unwrap() {
            AuthVerdict::Deny(reason) => {
                assert_eq!((user != "stranger", reason), (true, DenyReason::AccountDisabled));
            }
            AuthVerdict::Grant(grant) => assert_eq!(grant.user, "stranger"),
            verdict => panic!("{user}: {verdict:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_has_a_reason_and_may_be_another_question() {
    let mut bench = Bench::new(false);
    let verdict = |bench: &Bench, session, told: Option<&str>| {
        let login = bench.login(session, password("anna"));
        let (decisions, told) = (Arc::clone(&bench.decisions), told.map(str::to_owned));
        async move {
            while !decisions.decide((session, 1), Decision::Deny(told.clone())) {
                tokio::task::yield_now().await;
            }
            login.await.unwrap()
        }
    };
    assert!(matches!(
        verdict(&bench, 1, None).await,
        AuthVerdict::Deny(DenyReason::BadCredentials)
    ));
    assert!(matches!(
        verdict(&bench, 2, Some("not on Sundays")).await,
        AuthVerdict::Refuse { reason } if reason == "not on Sundays"
    ));
    let AuthVerdict::Challenge { state, prompt, echo } =
        verdict(&bench, 3, Some("CRV1:R,E:abc:YW5uYQ==:The code: please")).await
    else {
        panic!()
    };
    assert_eq!((state.as_slice(), prompt.as_str(), echo), (&b"abc"[..], "The code: please", true));
    assert!(matches!(
        verdict(&bench, 4, Some("CRV1:R,E:abc")).await,
        AuthVerdict::Deny(DenyReason::BackendUnavailable)
    ));
    for _ in 1..=4 {
        bench.notice().await;
    }

    let response = Credentials::Response {
        user: "anna".to_owned(),
        state: state.clone(),
        response: Secret::new(*b"123456"),
    };
    drop(bench.login(5, response));
    has(&bench.notice().await, ">CLIENT:ENV,password=CRV1::abc::123456");
    let both = Credentials::Password {
        user: "anna".to_owned(),
        password: Secret::new(*b"sesame"),
        response: Some(Secret::new(*b"123456")),
    };
    drop(bench.login(6, both));
    has(&bench.notice().await, ">CLIENT:ENV,password=SCRV1:c2VzYW1l:MTIzNDU2");
}

#[tokio::test(start_paused = true)]
async fn a_pending_login_is_decided_later_even_before_it_asks_again() {
    let mut bench = Bench::new(false);
    let login = bench.login(7, password("anna"));
    bench.notice().await;
    let timeout = Duration::from_secs(300);
    let pending = Decision::Pending { extra: "CR_TEXT:R:code".to_owned(), timeout };
    bench.decisions.decide((7, 1), pending);
    let AuthVerdict::Pending { ticket, timeout: told, info } = login.await.unwrap() else {
        panic!()
    };
    assert_eq!((told, info.as_deref()), (timeout, Some("CR_TEXT:R:code")));

    // Somebody else's ticket is worth nothing.
    let stolen = bench.login(8, Credentials::Pending { ticket }).await.unwrap();
    assert!(matches!(stolen, AuthVerdict::Deny(DenyReason::BadCredentials)));

    let asks_again = bench.login(7, Credentials::Pending { ticket });
    let response = Credentials::Response {
        user: "anna".to_owned(),
        state: ticket.to_be_bytes().to_vec(),
        response: Secret::new(*b"123456"),
    };
    let responds = bench.login(7, response);
    let notice = bench.notice().await;
    assert!(notice.starts_with(">CLIENT:CR_RESPONSE,7,1,MTIzNDU2\n"), "{notice}");
    has(&notice, ">CLIENT:ENV,username=anna");
    bench.decisions.decide((7, 1), Decision::Grant(Block::default()));
    assert!(matches!(asks_again.await.unwrap(), AuthVerdict::Grant(_)));
    // One of the two was enough.
    let _ = responds.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_decision_nobody_gets_in() {
    let bench = Bench::new(false);
    // The console is there, and says nothing.
    let verdict = bench.login(1, password("anna")).await.unwrap();
    assert!(matches!(verdict, AuthVerdict::Deny(DenyReason::BackendUnavailable)));
    assert!(!bench.decisions.decide((1, 1), Decision::Grant(Block::default())), "too late");

    // Nobody is there.
    drop(bench.heard);
    let started = tokio::time::Instant::now();
    let notices = Arc::new(Notices::new());
    let settings = Settings { patience: Duration::from_secs(45), ends_with_certificate: false };
    let decisions = Arc::new(Decisions::new(Arc::new(List), notices, settings));
    let heard = broadcast::Sender::new(1).subscribe();
    let bench = Bench { decisions, heard };
    let verdict = bench.login(1, password("anna")).await.unwrap();
    assert!(matches!(verdict, AuthVerdict::Deny(DenyReason::BackendUnavailable)));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_certificate_alone_is_asked_about_only_if_it_is_good() {
    let mut bench = Bench::new(true);
    let revoked = bench.login(1, Credentials::Certificate { chain: Vec::new() }).await.unwrap();
    assert!(matches!(revoked, AuthVerdict::Deny(DenyReason::Revoked)));
    let login = bench.login(2, Credentials::Certificate { chain: vec![vec![1]] });
    let notice = bench.notice().await;
    assert!(notice.starts_with(">CLIENT:CONNECT,2,1\n") && !notice.contains("password"));
    bench.decisions.decide((2, 1), Decision::Grant(Block::default()));
    let AuthVerdict::Grant(grant) = login.await.unwrap() else { panic!() };
    assert_eq!(grant.certificate, Some(CertificateId::Own("1a2b".to_owned())));
}

#[tokio::test]
async fn guessing_is_slowed_down_whoever_decides() {
    let mut bench = Bench::new(false);
    let mut refused = 0;
    for session in 0..40 {
        let login = bench.login(session, password("anna"));
        tokio::task::yield_now().await;
        if bench.heard.try_recv().is_ok() {
            bench.decisions.decide((session, 1), Decision::Deny(None));
        }
        if matches!(login.await.unwrap(), AuthVerdict::Deny(DenyReason::TooManyAttempts)) {
            refused += 1;
        }
    }
    assert!((15..=25).contains(&refused), "{refused} of 40 were not even asked about");

    // Nobody guesses a token: whoever has one renews their keys beside all that.
    for session in 100..140 {
        let login = bench.login(session, Credentials::Known { user: "anna".to_owned(), since: 1 });
        assert!(bench.notice().await.starts_with(">CLIENT:CONNECT,"));
        bench.decisions.decide((session, 1), Decision::Grant(Block::default()));
        assert!(matches!(login.await.unwrap(), AuthVerdict::Grant(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pending_login_is_not_answered_under_another_name() {
    let mut bench = Bench::new(false);
    let mut tickets = Vec::new();
    for session in [7, 8] {
        let login = bench.login(session, password("anna"));
        bench.notice().await;
        let timeout = Duration::from_secs(300);
        let pending = Decision::Pending { extra: String::new(), timeout };
        bench.decisions.decide((session, 1), pending);
        let AuthVerdict::Pending { ticket, .. } = login.await.unwrap() else { panic!() };
        tickets.push(ticket);
    }
    assert!(tickets[0].abs_diff(tickets[1]) > 1, "tickets can be guessed");

    let response = Credentials::Response {
        user: "bob".to_owned(),
        state: tickets[0].to_be_bytes().to_vec(),
        response: Secret::new(*b"123456"),
    };
    let other = bench.login(7, response);
    let notice = bench.notice().await;

    assert!(notice.starts_with(">CLIENT:CONNECT,7,2\n"), "{notice}");
    has(&notice, ">CLIENT:ENV,username=bob");
    other.abort();
}

#[tokio::test]
async fn sessions_that_never_come_up_are_forgotten_and_those_that_are_up_are_not() {
    let bench = Bench::new(false);
    let up = crate::testing::session(0, "anna", "192.0.2.10:4").0;
    for session in 0..MAX_ARRIVING as u64 + 100 {
        let chain = vec![vec![1]];
        bench.login(session, Credentials::Certificate { chain }).await.unwrap();
        if session == 0 {
            bench.decisions.established(&up);
        }
    }

    let mut table = bench.decisions.table();
    assert_eq!((table.clients.len(), table.arriving.len()), (MAX_ARRIVING + 1, MAX_ARRIVING));
    assert!(table.clients.contains_key(&0) && !table.clients.contains_key(&1));
    let brief = Duration::ZERO;
    table.client(1_000_000, brief);
    assert_eq!((table.clients.len(), table.arriving.len()), (2, 1));
}

#[tokio::test]
async fn a_session_that_ends_takes_its_logins_with_it() {
    let mut bench = Bench::new(false);
    let login = bench.login(7, password("anna"));
    bench.notice().await;

    bench.decisions.ended(7, None, &PortTotals::default());

    assert!(matches!(login.await.unwrap(), AuthVerdict::Deny(_)));
    assert!(bench.notice().await.starts_with(">CLIENT:DISCONNECT,7\n"));
    assert!(bench.decisions.table().clients.is_empty());
    // Nobody was told that this one began.
    bench.decisions.ended(8, None, &PortTotals::default());
    assert!(bench.heard.try_recv().is_err());
}
