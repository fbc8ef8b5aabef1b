use std::time::Duration;

use aaa::Rate;
use contract::{SessionId, WallClock};
use nix::time::ClockId;
use pki::{OutsideCas, OutsideRules};
use rustls::crypto::aws_lc_rs::default_provider;

use super::*;
use crate::authority::Authority;
use crate::clock;
use crate::scratch::Scratch;
use crate::store::{NewUser, Pools};

const RIGHT: &str = "correct horse";

struct Bench {
    _scratch: Scratch,
    store: Arc<Store>,
    authenticator: LocalAuthenticator,
    authority: Authority,
    members: Arc<Members>,
}

fn context() -> AuthContext {
    AuthContext {
        protocol: "openvpn",
        network: "warren".to_owned(),
        remote: "192.0.2.7".parse().unwrap(),
        port: 1194,
        session: SessionId(1),
        introduction: "".into(),
    }
}

impl Bench {
    /// A store with alice, who has a password and a fixed address, and bob, who has neither.
    fn new(limits: Limits) -> Self {
        let scratch = Scratch::new();
        let store = Arc::new(scratch.store());
        let pools = Pools { ipv4: Some("10.86.0.0/16".parse().unwrap()), ipv6: None };
        let alice = NewUser {
            name: "alice".to_owned(),
            password: Some(Secret::new(RIGHT)),
            fixed: vec!["10.86.7.7".parse().unwrap()],
        };
        let bob = NewUser { name: "bob".to_owned(), password: None, fixed: Vec::new() };
        store.add_user(&alice, &pools).unwrap();
        store.add_user(&bob, &pools).unwrap();
        let pem = Authority::create(clock::now()).unwrap();
        let authority = Authority::from_pem(pem.expose()).unwrap();
        let clock = Arc::new(WallClock::new(clock::now()));
        let members = Members::new(authority.certificate(), clock, &default_provider()).unwrap();
        let members = Arc::new(members);
        let authenticator =
            LocalAuthenticator::new(Arc::clone(&store), limits, Some(Arc::clone(&members)));
        Self { _scratch: scratch, store, authenticator, authority, members }
    }

    async fn ask(&self, credentials: Credentials) -> Result<Grant, DenyReason> {
        match self.verdict(credentials).await {
            AuthVerdict::Grant(grant) => Ok(*grant),
            AuthVerdict::Deny(reason) => Err(reason),
            other => panic!("neither granted nor denied: {other:?}"),
        }
    }

    async fn password(&self, user: &str, password: &str) -> Result<Grant, DenyReason> {
        let password = Secret::new(password);
        self.ask(Credentials::Password { user: user.to_owned(), password, response: None }).await
    }

    /// Issues a certificate; returns its serial number and DER form.
    fn certificate(&self, user: &str) -> (String, Vec<u8>) {
        let issued = self.store.issue_certificate(&self.authority, user, 30).unwrap();
        let chain = pki::certificates(issued.certificate_pem.as_bytes()).unwrap();
        (issued.facts.serial, chain[0].to_vec())
    }

    async fn present(&self, leaf: &[u8]) -> Result<Grant, DenyReason> {
        self.ask(Credentials::Certificate { chain: vec![leaf.to_vec()] }).await
    }
}

#[tokio::test]
async fn the_right_password_grants_with_the_fixed_address() {
    let bench = Bench::new(Limits::default());

    let grant = bench.password("alice", RIGHT).await.unwrap();

    assert_eq!((grant.user.as_str(), grant.certificate), ("alice", None));
    assert_eq!(grant.fixed_addresses, ["10.86.7.7".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn wrong_password_unknown_user_and_no_password_are_not_told_apart() {
    let bench = Bench::new(Limits::default());

    for (user, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", RIGHT),
        ("bob", RIGHT),
        ("bob", ""),
        ("", ""),
    ] {
        let verdict = bench.password(user, password).await;
        assert_eq!(verdict, Err(DenyReason::BadCredentials), "{user:?} {password:?}");
    }
}

/// Processor time, which other programs on the machine do not stretch.
fn cost_of_login(bench: &Bench, user: &str) -> Duration {
    let spent = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let source = "192.0.2.7".parse().unwrap();
    let begin = spent();
    let verdict = bench.authenticator.judge.password(source, user, &Secret::new("wrong"), None);
    assert!(matches!(verdict, Err(Refusal::Deny(DenyReason::BadCredentials))));
    spent() - begin
}

#[tokio::test]
async fn unknown_users_cost_as_much_time_as_wrong_passwords() {
    let bench = Bench::new(Limits::default());
    let fastest = |user| (0..3).map(|_| cost_of_login(&bench, user)).min().unwrap_or(Duration::MAX);

    let known = fastest("alice");
    for user in ["nobody", "bob", "", "not a name"] {
        let other = fastest(user);
        // A hash costs tens of milliseconds, everything else less than one; how many tens
        // depends on what else uses the memory.
        assert!(other > known / 8, "known {known:?}, {user:?} {other:?}");
    }
}

#[tokio::test]
async fn a_disabled_account_is_named_only_to_who_knows_its_password() {
    let bench = Bench::new(Limits::default());
    bench.store.set_enabled("alice", false).unwrap();

    assert_eq!(bench.password("alice", "wrong").await, Err(DenyReason::BadCredentials));
    assert_eq!(bench.password("alice", RIGHT).await, Err(DenyReason::AccountDisabled));
    bench.store.set_enabled("alice", true).unwrap();
    assert!(bench.password("alice", RIGHT).await.is_ok());
}

#[tokio::test]
async fn guessing_is_stopped_and_even_the_right_guess_is_not_looked_at() {
    let rate = |burst| Rate { burst, forget_every: Duration::from_secs(3600) };
    let bench = Bench::new(Limits { source: rate(3), user: rate(100), capacity: 16 });

    for _ in 0..3 {
        assert_eq!(bench.password("alice", "wrong").await, Err(DenyReason::BadCredentials));
    }

    assert_eq!(bench.password("alice", "wrong").await, Err(DenyReason::TooManyAttempts));
    assert_eq!(bench.password("alice", RIGHT).await, Err(DenyReason::TooManyAttempts));
}

#[tokio::test]
async fn a_crowd_behind_one_address_logs_in_all_at_once() {
    let rate = |burst| Rate { burst, forget_every: Duration::from_secs(3600) };
    let bench = Bench::new(Limits { source: rate(3), user: rate(3), capacity: 16 });
    let bench = Arc::new(bench);

    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let bench = Arc::clone(&bench);
        crowd.spawn(async move { bench.password("alice", RIGHT).await });
    }

    for verdict in crowd.join_all().await {
        assert!(verdict.is_ok(), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_certificate_grants_its_user_and_names_the_device() {
    let bench = Bench::new(Limits::default());
    let (serial, leaf) = bench.certificate("alice");

    let grant = bench.present(&leaf).await.unwrap();

    assert_eq!(grant.user, "alice");
    assert_eq!(grant.certificate, Some(CertificateId::Own(serial)));
    assert_eq!(grant.fixed_addresses.len(), 1);
}

#[tokio::test]
async fn a_certificate_is_worth_nothing_once_revoked() {
    let bench = Bench::new(Limits::default());
    let (serial, leaf) = bench.certificate("bob");
    let (_, other) = bench.certificate("bob");

    bench.store.revoke(&serial).unwrap();

    assert_eq!(bench.present(&leaf).await, Err(DenyReason::Revoked));
    assert!(bench.present(&other).await.is_ok());
    bench.store.set_enabled("bob", false).unwrap();
    assert_eq!(bench.present(&other).await, Err(DenyReason::AccountDisabled));
    bench.store.remove_user("bob").unwrap();
    assert_eq!(bench.present(&other).await, Err(DenyReason::Revoked));
}

#[tokio::test]
async fn a_certificate_that_was_never_issued_is_refused() {
    let bench = Bench::new(Limits::default());
    let forged = bench.authority.issue_client("alice", clock::now(), 1).unwrap();
    let leaf = pki::certificates(forged.certificate_pem.as_bytes()).unwrap().swap_remove(0);

    assert_eq!(bench.present(&leaf).await, Err(DenyReason::BadCredentials));
    assert_eq!(bench.present(b"not DER").await, Err(DenyReason::BadCredentials));
    let nothing = Credentials::Certificate { chain: Vec::new() };
    assert_eq!(bench.ask(nothing).await, Err(DenyReason::BadCredentials));
}

#[tokio::test]
async fn a_grant_has_the_users_settings_however_they_came_in() {
    let bench = Bench::new(Limits::default());
    let pools = Pools { ipv4: Some("10.86.0.0/16".parse().unwrap()), ipv6: None };
    let set = bench.store.change_user_settings("alice", &pools, |settings| {
        settings.behind = vec!["192.168.7.0/24".parse().unwrap()];
        settings.openvpn_options = vec!["block-ipv6".to_owned()];
        settings.session_limit = Some(Duration::from_secs(60));
        settings.idle_limit = Some(Duration::from_secs(30));
    });
    set.unwrap();
    let (_, leaf) = bench.certificate("alice");

    for grant in [bench.password("alice", RIGHT).await, bench.present(&leaf).await] {
        let grant = grant.unwrap();
        assert_eq!(grant.behind, ["192.168.7.0/24".parse().unwrap()]);
        assert_eq!(grant.openvpn_options, ["block-ipv6"]);
        assert_eq!(grant.session_limit, Some(Duration::from_secs(60)));
        assert_eq!(grant.idle_limit, Some(Duration::from_secs(30)));
    }
}
impl Bench {
    /// A user with a second factor: the code that an app would show now, and `later` steps later.
    fn code(&self, secret: &Secret, later: u64) -> String {
        String::from_utf8(totp::code(secret, clock::now() / 30 + later).to_vec()).unwrap()
    }

    async fn verdict(&self, credentials: Credentials) -> AuthVerdict {
        self.authenticator.authenticate(&context(), credentials).await
    }

    async fn with_code(&self, password: &str, code: &str) -> Result<Grant, DenyReason> {
        self.ask(Credentials::Password {
            user: "alice".to_owned(),
            password: Secret::new(password),
            response: Some(Secret::new(code)),
        })
        .await
    }

    /// Shows the right password, and returns what the answer has to come with.
    async fn question(&self) -> Vec<u8> {
        let user = "alice".to_owned();
        let password = Secret::new(RIGHT);
        match self.verdict(Credentials::Password { user, password, response: None }).await {
            AuthVerdict::Challenge { state, prompt, .. } => {
                assert_eq!(prompt, QUESTION);
                state
            }
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, state: Vec<u8>, user: &str, code: &str) -> Result<Grant, DenyReason> {
        let response = Secret::new(code);
        self.ask(Credentials::Response { user: user.to_owned(), state, response }).await
    }
}

#[tokio::test]
async fn a_code_beside_the_password_is_good_once() {
    let bench = Bench::new(Limits::default());
    let secret = bench.store.make_totp("alice").unwrap();
    let (now, next) = (bench.code(&secret, 0), bench.code(&secret, 1));

    assert_eq!(bench.with_code("wrong", &now).await, Err(DenyReason::BadCredentials));
    assert_eq!(bench.with_code(RIGHT, "12345").await, Err(DenyReason::BadCredentials));
    assert_eq!(bench.with_code(RIGHT, &now).await.unwrap().user, "alice");
    assert_eq!(bench.with_code(RIGHT, &now).await, Err(DenyReason::BadCredentials), "again");
    assert!(bench.with_code(RIGHT, &next).await.is_ok());
    assert_eq!(bench.with_code(RIGHT, &now).await, Err(DenyReason::BadCredentials), "older");
}

#[tokio::test]
async fn who_sends_no_code_is_asked_for_it_after_the_right_password_only() {
    let bench = Bench::new(Limits::default());
    let secret = bench.store.make_totp("alice").unwrap();

    assert_eq!(bench.password("alice", "wrong").await, Err(DenyReason::BadCredentials));
    let denied = Err(DenyReason::BadCredentials);
    assert_eq!(bench.answer(bench.question().await, "alice", "000").await, denied);
    assert_eq!(bench.answer(bench.question().await, "bob", &bench.code(&secret, 0)).await, denied);
    assert_eq!(bench.answer(vec![0; 16], "alice", &bench.code(&secret, 0)).await, denied);
    let state = bench.question().await;
    assert!(bench.answer(state.clone(), "alice", &bench.code(&secret, 0)).await.is_ok());
    assert_eq!(bench.answer(state, "alice", &bench.code(&secret, 1)).await, denied);

    bench.store.clear_totp("alice").unwrap();
    assert!(bench.password("alice", RIGHT).await.is_ok());
}

#[tokio::test]
async fn a_question_is_void_once_the_password_it_followed_is() {
    let bench = Bench::new(Limits::default());
    let secret = bench.store.make_totp("alice").unwrap();
    let denied = Err(DenyReason::BadCredentials);

    for password in [Some(Secret::new(RIGHT)), None] {
        let state = bench.question().await;
        bench.store.set_password("alice", password.as_ref()).unwrap();
        assert_eq!(bench.answer(state, "alice", &bench.code(&secret, 0)).await, denied);
    }

    bench.store.set_password("alice", Some(&Secret::new(RIGHT))).unwrap();
    let state = bench.question().await;
    assert!(bench.answer(state, "alice", &bench.code(&secret, 0)).await.is_ok());
}

#[tokio::test]
async fn guessing_codes_is_stopped_even_with_the_right_password() {
    let rate = |burst| Rate { burst, forget_every: Duration::from_secs(3600) };
    let bench = Bench::new(Limits { source: rate(4), user: rate(100), capacity: 16 });
    let secret = bench.store.make_totp("alice").unwrap();

    for _ in 0..2 {
        let state = bench.question().await;
        assert_eq!(bench.answer(state, "alice", "1").await, Err(DenyReason::BadCredentials));
        assert_eq!(bench.with_code(RIGHT, "1").await, Err(DenyReason::BadCredentials));
    }

    let right = bench.code(&secret, 0);
    assert_eq!(bench.with_code(RIGHT, &right).await, Err(DenyReason::TooManyAttempts));
}

#[tokio::test]
async fn wrong_codes_of_one_user_are_counted_together_from_wherever_the_user_has_come_in() {
    let bench = Bench::new(Limits::default());
    let secret = bench.store.make_totp("alice").unwrap();
    let judge = &bench.authenticator.judge;
    let log_in = |source: &str, code: &str| {
        let source = source.parse().unwrap();
        judge.password(source, "alice", &Secret::new(RIGHT), Some(&Secret::new(code)))
    };
    let places = ["192.0.2.7", "198.51.100.7"];
    for (later, place) in (0..).zip(places) {
        assert!(log_in(place, &bench.code(&secret, later)).is_ok());
    }

    for n in 0..CODE_RATE.burst as usize {
        let refused = log_in(places[n % 2], "1");
        assert!(matches!(refused, Err(Refusal::Deny(DenyReason::BadCredentials))), "{n}");
    }

    for place in places {
        let refused = log_in(place, "1");
        assert!(matches!(refused, Err(Refusal::Deny(DenyReason::TooManyAttempts))), "{place}");
    }
}

#[tokio::test]
async fn a_proof_is_worth_nothing_once_password_or_factor_change() {
    let bench = Bench::new(Limits::default());
    let known = |since| Credentials::Known { user: "alice".to_owned(), since };
    let mut last = bench.password("alice", RIGHT).await.unwrap().proof_since;

    for change in 0..3 {
        assert_eq!(bench.ask(known(last)).await, Err(DenyReason::BadCredentials));
        assert_eq!(bench.ask(known(last + 1)).await.unwrap().fixed_addresses.len(), 1);
        match change {
            0 => drop(bench.store.make_totp("alice").unwrap()),
            1 => bench.store.clear_totp("alice").unwrap(),
            _ => bench.store.set_password("alice", Some(&Secret::new("another one"))).unwrap(),
        }
        let proved = last + 1;
        assert_eq!(bench.ask(known(proved)).await, Err(DenyReason::BadCredentials), "{change}");
        last = bench.store.account("alice").unwrap().unwrap().proof_since;
    }

    let later = last + 1;
    bench.store.set_enabled("alice", false).unwrap();
    assert_eq!(bench.ask(known(later)).await, Err(DenyReason::AccountDisabled));
    bench.store.remove_user("alice").unwrap();
    assert_eq!(bench.ask(known(later)).await, Err(DenyReason::BadCredentials));
    let bob = Credentials::Known { user: "bob".to_owned(), since: later };
    assert_eq!(bench.ask(bob).await, Err(DenyReason::BadCredentials), "he has no password");
}

impl Bench {
    /// Another CA, whose certificates count as outside ones from here on.
    fn outside_ca(&self) -> Authority {
        let pem = Authority::create(clock::now()).unwrap();
        let outside = Authority::from_pem(pem.expose()).unwrap();
        let cas = OutsideCas {
            certificates: vec![outside.certificate().clone()],
            require_client_usage: true,
            ..OutsideCas::default()
        };
        let clock = Arc::clone(self.members.clock());
        let rules = OutsideRules::new(cas, clock, &default_provider()).unwrap();
        self.members.accept(Some(Arc::new(rules)));
        outside
    }
}

fn der(issued: &crate::authority::Issued) -> Vec<u8> {
    pki::certificates(issued.certificate_pem.as_bytes()).unwrap().swap_remove(0).to_vec()
}

#[tokio::test]
async fn an_outside_certificate_is_its_users_if_there_is_one() {
    let bench = Bench::new(Limits::default());
    let elsewhere = bench.outside_ca();
    let outside = bench.outside_ca();
    let issue = |by: &Authority, name: &str| der(&by.issue_client(name, clock::now(), 1).unwrap());
    let alice = issue(&outside, "alice");

    let grant = bench.present(&alice).await.unwrap();
    assert_eq!((grant.user.as_str(), grant.fixed_addresses.len()), ("alice", 1));
    let fingerprint = pki::fingerprint(&alice);
    let chain = vec![alice.clone()].into();
    assert_eq!(grant.certificate, Some(CertificateId::Outside { fingerprint, chain }));

    for leaf in [
        issue(&outside, "nobody"),
        issue(&outside, "Alice"),
        // Of our own CA, but not in the list: no other way in.
        issue(&bench.authority, "alice"),
        issue(&elsewhere, "alice"),
    ] {
        assert_eq!(bench.present(&leaf).await, Err(DenyReason::BadCredentials));
    }
    bench.store.set_enabled("alice", false).unwrap();
    assert_eq!(bench.present(&alice).await, Err(DenyReason::AccountDisabled));
    bench.store.set_enabled("alice", true).unwrap();
    bench.members.distrust();
    assert_eq!(bench.present(&alice).await, Err(DenyReason::BadCredentials));
    let (_, own) = bench.certificate("bob");
    assert!(bench.present(&own).await.is_ok());
}

#[tokio::test]
async fn a_registered_certificate_is_its_users_until_it_is_removed() {
    let bench = Bench::new(Limits::default());
    let pem = Authority::create(clock::now()).unwrap();
    let hermit = Authority::from_pem(pem.expose()).unwrap().certificate().to_vec();
    let fingerprint = pki::fingerprint(&hermit);
    let register = |fingerprints: Vec<[u8; 32]>| {
        bench.members.register(fingerprints.into_iter().collect());
    };

    assert_eq!(bench.present(&hermit).await, Err(DenyReason::BadCredentials));
    bench.store.change_fingerprints("bob", &[fingerprint], &[]).unwrap();
    register(bench.store.fingerprints(None).unwrap());
    let grant = bench.present(&hermit).await.unwrap();
    assert_eq!(grant.user, "bob");
    assert_eq!(grant.certificate, Some(CertificateId::Registered(fingerprint)));

    // Before the handshakes hear of it.
    bench.store.change_fingerprints("bob", &[], &[fingerprint]).unwrap();
    assert_eq!(bench.present(&hermit).await, Err(DenyReason::BadCredentials));

    // What has a place in the list of devices is judged by that alone.
    let (serial, own) = bench.certificate("bob");
    bench.store.change_fingerprints("bob", &[pki::fingerprint(&own)], &[]).unwrap();
    register(bench.store.fingerprints(None).unwrap());
    bench.store.revoke(&serial).unwrap();
    assert_eq!(bench.present(&own).await, Err(DenyReason::Revoked));
}
