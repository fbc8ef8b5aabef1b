//! Tokens, questions beside the password, and decisions that are made elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::{Link, Setup, is_up};
use contract::{
    Answer, Ask, AuthVerdict, Credentials, DenyReason, Event, Fatal, Grant, Secret, WallClock,
};
use openvpn::{AuthMode, LoginRefusal, TokenPolicy, static_response};
use simnet::Side;

const NOW: u64 = 1_780_000_000;

/// What a server asked its authenticator, in words.
type Asked = Rc<RefCell<Vec<String>>>;

fn grant() -> AuthVerdict {
    AuthVerdict::Grant(Box::new(Grant { user: "ann".to_owned(), ..Grant::default() }))
}

fn words(credentials: &Credentials) -> String {
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    match credentials {
        Credentials::Password { user, password, response } => {
            let response = response.as_ref().map_or(String::new(), |r| format!(" + {}", text(r)));
            format!("{user}: {}{response}", text(password))
        }
        Credentials::Response { user, state, response } => {
            format!("{user} to {state:?}: {}", text(response))
        }
        Credentials::Known { user, since } => format!("{user} known since {since}"),
        Credentials::Pending { ticket } => format!("what of {ticket}?"),
        Credentials::Certificate { .. } => "certificate".to_owned(),
        _ => "something else".to_owned(),
    }
}

/// A setup whose authenticator answers by the verdicts of `judge`, in words of what was asked.
fn judged(judge: impl Fn(&str, usize) -> AuthVerdict + 'static, setup: Setup) -> (Setup, Asked) {
    let asked = Asked::default();
    let list = Rc::clone(&asked);
    let judge = move |ask: &Ask| {
        let Ask::Authenticate(credentials) = ask else { return None };
        let words = words(credentials);
        let number = list.borrow().len();
        list.borrow_mut().push(words.clone());
        Some(Answer::Authenticated(judge(&words, number)))
    };
    #[allow(clippy::arc_with_non_send_sync, reason = "one thread, and one type of pointer")]
    (Setup { judge: Arc::new(judge), ..setup }, asked)
}

fn with_password() -> Setup {
    Setup { auth: AuthMode::Password, identity: None, ..Setup::default() }
}

fn policy(clock: &Arc<WallClock>) -> TokenPolicy {
    let lifetime = Some(Duration::from_secs(1000));
    TokenPolicy::new(&[7; 32], lifetime, Duration::from_secs(100), Arc::clone(clock))
}

fn token(pair: &Link) -> Option<(String, Secret)> {
    pair.left.driven.engine.token().cloned()
}

fn told(pair: &Link) -> Vec<&str> {
    let events = pair.left.driven.events.iter();
    let remarks = events.filter_map(|event| match event {
        Event::Remark(text) => Some(text.as_str()),
        _ => None,
    });
    remarks.collect()
}

#[test]
fn a_client_comes_back_with_its_token_and_without_the_password() {
    for (auth, identity) in
        [(AuthMode::Password, None), (AuthMode::Both, Setup::default().identity)]
    {
        let clock = Arc::new(WallClock::new(NOW));
        let setup = Setup { auth, identity, tokens: Some(policy(&clock)), ..Setup::default() };
        let (user, text) = token(&setup.connected()).unwrap();
        assert_eq!(user, "ann");

        clock.set(NOW + 150);
        let (setup, asked) =
            judged(|_, _| grant(), Setup { credentials: Some((user, text)), ..setup });
        let pair = setup.connected();

        let known = format!("ann known since {NOW}");
        assert_eq!(asked.borrow().last().unwrap(), &known);
        assert!(token(&pair).is_some(), "the token is renewed");
    }
}

#[test]
fn a_renegotiation_needs_no_password_and_renews_the_token() {
    let clock = Arc::new(WallClock::new(NOW));
    let setup = Setup {
        tokens: Some(policy(&clock)),
        renegotiate: Some(Duration::from_secs(20)),
        forgets: true,
        ..with_password()
    };
    let (setup, asked) = judged(|_, _| grant(), setup);
    let mut pair = setup.connected();
    let first = token(&pair).unwrap();

    clock.set(NOW + 20);
    pair.run(Duration::from_secs(35));

    assert_eq!(*asked.borrow(), ["ann: secret".to_owned(), format!("ann known since {NOW}")]);
    assert_ne!(token(&pair).unwrap().1, first.1);
    assert!(pair.left.driven.is_up() && pair.left.driven.events.contains(&Event::Rekeyed));
}

#[test]
fn a_token_that_is_not_good_is_refused_without_a_look_at_anything_else() {
    let clock = Arc::new(WallClock::new(NOW));
    let tokens = Some(policy(&clock));
    let (_, good) =
        token(&Setup { tokens: tokens.clone(), ..with_password() }.connected()).unwrap();
    let good = good.expose().to_vec();
    clock.set(NOW + 199);
    let attempt = |field: &[u8], tokens: Option<TokenPolicy>| {
        let credentials = Some(("ann".to_owned(), Secret::new(field)));
        let (setup, asked) =
            judged(|_, _| grant(), Setup { tokens, credentials, ..with_password() });
        let mut pair = setup.pair(1);
        pair.run(Duration::from_secs(10));
        (pair, asked.borrow().len())
    };

    assert!(is_up(&attempt(&good, tokens.clone()).0));
    let mut bad = vec![good[..11].to_vec(), good[..90].to_vec(), [&good[..], b"A"].concat()];
    bad.extend((11..91).step_by(13).map(|at| {
        let mut bytes = good.clone();
        bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
        bytes
    }));
    for field in bad {
        let (pair, asked) = attempt(&field, tokens.clone());
        assert!(!is_up(&pair) && asked == 0, "{}", String::from_utf8_lossy(&field));
        assert_eq!(pair.left.driven.engine.refusal(), Some(&LoginRefusal::SessionExpired));
    }
    // The server gives none out any more: clients that still have one ask their users.
    let (pair, asked) = attempt(&good, None);
    assert_eq!((is_up(&pair), asked), (false, 0));
    clock.set(NOW + 200);
    let (pair, asked) = attempt(&good, tokens);
    assert_eq!((is_up(&pair), asked), (false, 0), "expired");
}

#[test]
fn a_token_is_worth_as_much_as_the_account() {
    let clock = Arc::new(WallClock::new(NOW));
    let tokens = Some(policy(&clock));
    let credentials = token(&Setup { tokens: tokens.clone(), ..with_password() }.connected());
    for reason in [DenyReason::AccountDisabled, DenyReason::BadCredentials] {
        let setup =
            Setup { tokens: tokens.clone(), credentials: credentials.clone(), ..with_password() };
        let (setup, _) = judged(move |_, _| AuthVerdict::Deny(reason), setup);
        let mut pair = setup.pair(1);
        pair.run(Duration::from_secs(10));

        assert_eq!(pair.left.driven.engine.refusal(), Some(&LoginRefusal::SessionExpired));
        assert!(token(&pair).is_none());
    }
}

#[test]
fn a_token_of_another_user_does_not_go_with_ones_certificate() {
    let clock = Arc::new(WallClock::new(NOW));
    let setup = Setup { tokens: Some(policy(&clock)), ..Setup::default() };
    let credentials = token(&setup.connected());
    let by_certificate = |words: &str, _| {
        let user = if words == "certificate" { "bob" } else { "ann" };
        AuthVerdict::Grant(Box::new(Grant { user: user.to_owned(), ..Grant::default() }))
    };
    let (setup, _) = judged(by_certificate, Setup { credentials, ..setup });

    let mut pair = setup.pair(1);
    pair.run(Duration::from_secs(10));

    assert!(!is_up(&pair) && pair.left.driven.fatal.is_some());
}

#[test]
fn who_is_let_in_under_another_name_gets_no_token_for_their_own() {
    let clock = Arc::new(WallClock::new(NOW));
    for renegotiates in [false, true] {
        let setup = Setup {
            tokens: Some(policy(&clock)),
            renegotiate: Some(Duration::from_secs(20)),
            ..with_password()
        };
        let judge = move |_: &str, number| {
            let user = if number == usize::from(renegotiates) { "bob" } else { "ann" };
            AuthVerdict::Grant(Box::new(Grant { user: user.to_owned(), ..Grant::default() }))
        };
        let (setup, asked) = judged(judge, setup);
        let mut pair = setup.pair(1);

        pair.run(Duration::from_secs(30));

        assert_eq!(asked.borrow().len(), 1 + usize::from(renegotiates));
        assert!(!is_up(&pair) && pair.right.sessions.is_empty());
    }
}

#[test]
fn nobody_gets_a_token_or_a_push_before_everything_is_decided() {
    let clock = Arc::new(WallClock::new(NOW));
    let (setup, _) = judged(
        |words, _| {
            if words == "certificate" {
                grant()
            } else {
                AuthVerdict::Deny(DenyReason::BadCredentials)
            }
        },
        Setup { tokens: Some(policy(&clock)), ..Setup::default() },
    );

    let mut pair = setup.pair(1);
    pair.run(Duration::from_secs(10));

    assert!(token(&pair).is_none());
    assert!(pair.left.ledger.is_empty() && pair.right.ledger.is_empty());
}

#[test]
fn an_answer_to_the_profiles_question_reaches_the_authenticator_beside_the_password() {
    let field = static_response(&Secret::new("secret"), &Secret::new("123456"));
    let credentials = Some(("ann".to_owned(), field));
    let (setup, asked) = judged(|_, _| grant(), Setup { credentials, ..with_password() });

    setup.connected();

    assert_eq!(*asked.borrow(), ["ann: secret + 123456"]);
}

#[test]
fn a_question_of_the_authenticators_is_answered_on_the_next_connection() {
    let judge = |words: &str, _| match words {
        "ann: secret" => {
            AuthVerdict::Challenge { state: vec![0, 255], prompt: "Code".to_owned(), echo: true }
        }
        "ann to [0, 255]: 123456" => grant(),
        other => panic!("{other}"),
    };
    let (setup, _) = judged(judge, with_password());
    let mut pair = setup.pair(1);
    pair.run(Duration::from_secs(10));

    let Some(LoginRefusal::Challenge(challenge)) = pair.left.driven.engine.refusal() else {
        panic!("{:?}", pair.left.driven)
    };
    assert_eq!((challenge.prompt.as_str(), challenge.echo), ("Code", true));
    assert!(matches!(pair.left.driven.fatal, Some(Fatal::Denied(_))));
    let field = challenge.respond(&Secret::new("123456"));
    Setup { credentials: Some(("ann".to_owned(), field)), ..setup }.connected();
}

#[test]
fn a_reason_that_a_person_wrote_is_shown() {
    let refuse = |_: &str, _| AuthVerdict::Refuse { reason: "not on a\r\nsunday".to_owned() };
    let (setup, _) = judged(refuse, with_password());
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(10));

    assert_eq!(told(&pair), ["the server says: not on a  sunday"]);
}

fn pending(info: Option<&str>) -> AuthVerdict {
    let timeout = Duration::from_secs(300);
    AuthVerdict::Pending { ticket: 9, timeout, info: info.map(str::to_owned) }
}

#[test]
fn a_decision_that_takes_longer_than_a_handshake_is_waited_for() {
    let url = "WEB_AUTH::https://id.example/login?x=1:2";
    let judge = move |_: &str, number| if number < 3 { pending(Some(url)) } else { grant() };
    let setup = Setup { answer_delay: Duration::from_secs(50), ..with_password() };
    let (setup, asked) = judged(judge, setup);
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(150));
    assert!(!is_up(&pair) && pair.left.driven.is_alive());
    assert!(pair.left.ledger.is_empty() && pair.right.ledger.is_empty());
    assert!(pair.run_until(is_up, Duration::from_secs(150)), "{}", pair.narrate());

    assert_eq!(asked.borrow()[1..], ["what of 9?", "what of 9?", "what of 9?"]);
    let opened = "to log in, open https://id.example/login?x=1:2 in a browser";
    assert!(told(&pair).contains(&opened), "{:?}", told(&pair));
}

#[test]
fn a_decision_that_never_comes_ends_the_handshake() {
    let setup = Setup { answer_delay: Duration::from_secs(10), ..with_password() };
    let (setup, _) = judged(|_, _| pending(None), setup);
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(300));
    assert_eq!(pair.right.sessions.len(), 1);
    pair.run(Duration::from_secs(120));

    assert!(pair.right.sessions.is_empty() && !pair.left.driven.is_alive());
    assert!(pair.left.ledger.is_empty() && pair.right.ledger.is_empty());
}

#[test]
fn a_pending_login_may_be_refused_and_the_client_hears_it() {
    let judge = |_: &str, number| match number {
        0 => pending(None),
        _ => AuthVerdict::Refuse { reason: "the telephone said no".to_owned() },
    };
    let setup = Setup { answer_delay: Duration::from_secs(5), ..with_password() };
    let (setup, _) = judged(judge, setup);
    let mut pair = setup.pair(1);

    pair.run(Duration::from_secs(30));

    assert!(told(&pair).contains(&"the server says: the telephone said no"), "{:?}", told(&pair));
    assert!(!is_up(&pair));
}

#[test]
fn a_question_may_be_answered_while_the_login_is_pending() {
    let judge = |words: &str, _| match words {
        "ann: secret" | "what of 9?" => pending(Some("CR_TEXT:R,E:Which pet?")),
        "ann to [0, 0, 0, 0, 0, 0, 0, 9]: cat" => grant(),
        other => panic!("{other}"),
    };
    let setup =
        Setup { types: Some("cat"), answer_delay: Duration::from_secs(3), ..with_password() };
    let (setup, asked) = judged(judge, setup);
    let mut pair = setup.pair(1);

    assert!(pair.run_until(is_up, Duration::from_secs(60)), "{:?}", asked.borrow());
}

#[test]
fn a_client_that_forgets_asks_its_user_again_when_there_is_no_token() {
    for (types, survives) in [(Some("secret"), true), (None, false)] {
        let setup = Setup {
            renegotiate: Some(Duration::from_secs(20)),
            forgets: true,
            types,
            ..with_password()
        };
        let (setup, asked) = judged(|_, _| grant(), setup);
        let mut pair = setup.connected();

        pair.run(Duration::from_secs(25));

        assert_eq!(pair.left.driven.is_alive(), survives);
        assert_eq!(asked.borrow().len(), if survives { 2 } else { 1 });
    }
}

#[test]
fn a_token_is_dated_after_the_last_change_of_the_password() {
    let clock = Arc::new(WallClock::new(NOW));
    let judge = |_: &str, _| {
        let (user, proof_since) = ("ann".to_owned(), NOW + 1);
        AuthVerdict::Grant(Box::new(Grant { user, proof_since, ..Grant::default() }))
    };
    let setup = Setup { tokens: Some(policy(&clock)), ..with_password() };
    let (setup, _) = judged(judge, setup);
    let credentials = token(&setup.connected());

    let (setup, asked) = judged(judge, Setup { credentials, ..setup });
    setup.connected();

    assert_eq!(*asked.borrow(), [format!("ann known since {}", NOW + 2)]);
}

#[test]
fn a_judgement_that_comes_too_late_is_not_one_of_the_next_renegotiation() {
    let setup = Setup { renegotiate: Some(Duration::from_secs(400)), ..with_password() };
    let mut pair = setup.connected();
    // The renegotiation of second 400 is given up at 460, and its judgement comes at 495.
    pair.right.answer_after(Duration::from_secs(95));
    pair.run(Duration::from_secs(485));
    // The next has the same number, and comes no further than its first packet.
    pair.filter(|captured| captured.from == Side::Right);
    pair.run(Duration::from_secs(15));
    assert!(is_up(&pair), "{}", pair.narrate());

    pair.unfilter();
    pair.right.answer_after(Duration::ZERO);
    pair.run(Duration::from_secs(60));

    assert!(is_up(&pair) && pair.right.only().events.contains(&Event::Rekeyed));
}

#[test]
fn after_a_decision_that_never_came_a_renegotiation_takes_as_long_as_ever() {
    let is_back = Rc::new(Cell::new(true));
    let judge = {
        let is_back = Rc::clone(&is_back);
        move |_: &str, _| if is_back.get() { grant() } else { pending(None) }
    };
    let renegotiate = Some(Duration::from_secs(400));
    let (setup, _) = judged(judge, Setup { renegotiate, ..with_password() });
    let mut pair = setup.connected();
    pair.right.answer_after(Duration::from_secs(5));
    is_back.set(false);

    // It was given 300 seconds more than any other.
    pair.run(Duration::from_secs(770));
    assert!(is_up(&pair), "{}", pair.narrate());
    is_back.set(true);
    pair.run(Duration::from_secs(45));

    assert!(pair.right.only().events.contains(&Event::Rekeyed), "{}", pair.narrate());
}
