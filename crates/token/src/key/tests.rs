use std::sync::Barrier;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::*;

/// Somebody who types what is in the list, from the back.
#[derive(Debug)]
struct Typist(Mutex<Vec<&'static str>>);

impl PinSource for Typist {
    fn pin(&self, question: &PinQuestion) -> Result<Secret, String> {
        let typed = self.0.lock().unwrap().pop();
        typed.map(Secret::new).ok_or_else(|| format!("nobody types the {question}"))
    }
}

fn typist(words: &[&'static str]) -> Arc<Typist> {
    Arc::new(Typist(Mutex::new(words.to_vec())))
}

/// A warden that answers as it is told, question by question; returns the questions.
fn warden(
    mut answer: impl FnMut(&Request) -> Option<Reply> + Send + 'static,
) -> (Warden, JoinHandle<Vec<String>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let life = thread::spawn(move || {
        let mut asked = Vec::new();
        while let Ok(Some((kind, body))) = receive(&theirs) {
            let request = Request::parse(kind, &body).unwrap();
            asked.push(match &request {
                Request::Open { pin: Some(pin) } => {
                    format!("open {}", String::from_utf8_lossy(pin.expose()))
                }
                Request::Sign { how, input } => format!("sign {how:?} {}", input.len()),
                other => format!("{other:?}"),
            });
            match answer(&request) {
                Some(reply) => send(&theirs, reply.write()).unwrap(),
                None => return asked,
            }
        }
        asked
    });
    (Warden { line: ours }, life)
}

fn facts(kind: Kind) -> Facts {
    let certificate = Vec::new();
    Facts { public_key: vec![1], certificate, kind, token: "tok".to_owned() }
}

fn question() -> PinQuestion {
    PinQuestion { token: "tok".to_owned(), is_last_try: false }
}

fn signer(key: &TokenKey, scheme: SignatureScheme) -> Box<dyn Signer> {
    key.choose_scheme(&[scheme]).unwrap()
}

#[test]
fn the_pin_is_asked_for_only_when_the_token_wants_it() {
    let (warden_, life) = warden(|request| {
        Some(match request {
            Request::Open { pin: None } => Reply::WantsPin(question()),
            _ => Reply::Opened(facts(Kind::P256)),
        })
    });
    let key = TokenKey::open(warden_, typist(&["1234"])).unwrap();
    drop(key);
    assert_eq!(life.join().unwrap(), ["Open { pin: None }", "open 1234"]);

    let (warden_, life) = warden(|_| Some(Reply::Opened(facts(Kind::P256))));
    TokenKey::open(warden_, typist(&[])).unwrap();
    assert_eq!(life.join().unwrap().len(), 1);
}

#[test]
fn a_pin_that_no_token_takes_is_not_tried() {
    let long: &'static str = "1".repeat(MAX_PIN + 1).leak();
    for (typed, word) in [("", "between 1 and"), (long, "between 1 and")] {
        let (warden_, life) = warden(|_| Some(Reply::WantsPin(question())));

        let refused = TokenKey::open(warden_, typist(&[typed])).unwrap_err();

        assert!(refused.to_string().contains(word), "{refused}");
        assert_eq!(life.join().unwrap().len(), 1);
    }
}

#[test]
fn a_pin_that_was_forgotten_is_asked_for_again() {
    let mut is_known = false;
    let (warden_, life) = warden(move |request| {
        Some(match request {
            Request::Open { pin } => {
                is_known = pin.is_some();
                if is_known {
                    Reply::Opened(facts(Kind::P256))
                } else {
                    Reply::WantsPin(question())
                }
            }
            // As if its time were over after each signature.
            _ if std::mem::take(&mut is_known) => Reply::Signed(vec![1; 64]),
            _ => Reply::WantsPin(question()),
        })
    });
    let key = TokenKey::open(warden_, typist(&["second", "first"])).unwrap();
    let signer = signer(&key, SignatureScheme::ECDSA_NISTP256_SHA256);

    assert!(signer.sign(b"one").is_ok());
    assert!(signer.sign(b"two").is_ok());
    assert!(signer.sign(b"three").is_err(), "nobody is there to type it");

    drop((key, signer));
    let asked = life.join().unwrap();
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("open ")).count(), 2, "{asked:?}");
}

#[test]
fn the_token_sees_a_digest_and_never_the_message() {
    let (warden_, life) = warden(|request| {
        Some(match request {
            Request::Open { .. } => Reply::Opened(facts(Kind::Rsa { pkcs1: true, pss: true })),
            _ => Reply::Signed(vec![1; 256]),
        })
    });
    let key = TokenKey::open(warden_, typist(&[])).unwrap();
    for scheme in key.schemes() {
        signer(&key, *scheme).sign(&[7; 100_000]).unwrap();
    }
    drop(key);
    assert_eq!(
        life.join().unwrap()[1..],
        [
            "sign RsaPss256 32",
            "sign RsaPss384 48",
            "sign RsaPss512 64",
            "sign RsaPkcs1 51",
            "sign RsaPkcs1 67",
            "sign RsaPkcs1 83"
        ]
    );
}

#[test]
fn a_key_offers_what_it_and_its_token_can() {
    use SignatureScheme as S;
    let offers = |kind, offered: S| {
        let (warden_, _) = warden(move |_| Some(Reply::Opened(facts(kind))));
        let key = TokenKey::open(warden_, typist(&[])).unwrap();
        key.choose_scheme(&[offered]).is_some()
    };
    assert!(offers(Kind::P256, S::ECDSA_NISTP256_SHA256));
    assert!(!offers(Kind::P256, S::ECDSA_NISTP384_SHA384));
    assert!(offers(Kind::P384, S::ECDSA_NISTP384_SHA384));
    assert!(!offers(Kind::P384, S::RSA_PSS_SHA256));
    assert!(offers(Kind::Rsa { pkcs1: true, pss: false }, S::RSA_PKCS1_SHA256));
    assert!(!offers(Kind::Rsa { pkcs1: true, pss: false }, S::RSA_PSS_SHA256));
    assert!(!offers(Kind::Rsa { pkcs1: false, pss: true }, S::RSA_PKCS1_SHA512));
}

#[test]
fn an_answer_that_makes_no_sense_ends_the_line_and_later_ones_fail_at_once() {
    for nonsense in [Reply::Listed(Vec::new()), Reply::Signed(vec![1; 63])] {
        let mut nonsense = Some(nonsense);
        let (warden_, life) = warden(move |request| match request {
            Request::Open { .. } => Some(Reply::Opened(facts(Kind::P256))),
            _ => nonsense.take(),
        });
        let key = TokenKey::open(warden_, typist(&[])).unwrap();
        let signer = signer(&key, SignatureScheme::ECDSA_NISTP256_SHA256);

        assert!(signer.sign(b"one").is_err());
        let error = signer.sign(b"two").unwrap_err();

        assert_eq!(pki::describe(&error), "our private key does not sign; the log says why");
        life.join().unwrap();
        assert_eq!(key.sign(SignatureScheme::ECDSA_NISTP256_SHA256, b"x"), Err(Failure::Warden));
    }
}

#[test]
fn no_more_than_a_few_wait_for_a_module_that_does_not_answer() {
    let (go, wait) = mpsc::channel::<()>();
    let (warden_, life) = warden(move |request| {
        if matches!(request, Request::Open { .. }) {
            return Some(Reply::Opened(facts(Kind::P256)));
        }
        let _ = wait.recv();
        Some(Reply::Failed(Trouble::Paused, "later".to_owned()))
    });
    let key = TokenKey::open(warden_, typist(&[])).unwrap();
    let barrier = Arc::new(Barrier::new(MAX_WAITING + 1));
    let waiting: Vec<_> = (0..MAX_WAITING)
        .map(|_| {
            let (key, barrier) = (key.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                key.sign(SignatureScheme::ECDSA_NISTP256_SHA256, b"x")
            })
        })
        .collect();
    barrier.wait();
    while key.0.waiting.load(Ordering::Relaxed) < MAX_WAITING {
        thread::yield_now();
    }

    let refused = key.sign(SignatureScheme::ECDSA_NISTP256_SHA256, b"x");

    assert_eq!(refused, Err(Failure::Busy));
    drop(go);
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), Err(Failure::Paused("later".to_owned())));
    }
    assert_eq!(key.0.waiting.load(Ordering::Relaxed), 0);
    drop(key);
    life.join().unwrap();
}
