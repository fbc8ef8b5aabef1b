//! A token's key as rustls uses one.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use contract::Secret;
use crypto::digest::{sha256, sha384, sha512};
use pki::KeyUnusable;
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, OtherError, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use crate::message::{
    Facts, Kind, Listed, MAX_PIN, Mechanism, PinQuestion, Reply, Request, Trouble, receive, send,
};
use crate::{Warden, public_key};

/// Signatures waited for at once: a module makes one after the other, and who comes later than
/// this had better come back.
const MAX_WAITING: usize = 16;

/// What RSASSA-PKCS1-v1_5 puts before a digest (RFC 8017, 9.2, note 1).
const SHA256_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const SHA384_INFO: &[u8] = &[
    0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0x04, 0x30,
];
const SHA512_INFO: &[u8] = &[
    0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
    0x00, 0x04, 0x40,
];

/// Who is asked for a PIN; may block for as long as a person thinks.
pub trait PinSource: fmt::Debug + Send + Sync {
    /// The PIN of this token.
    ///
    /// # Errors
    ///
    /// One line that says why there is none.
    fn pin(&self, question: &PinQuestion) -> Result<Secret, String>;
}

/// Why a token's key does not do what it should: one line, without the place.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The module, the token or the PIN.
    #[error("{0}")]
    Refused(String),
    /// It was not even asked: it failed a moment ago.
    #[error("{0}")]
    Paused(String),
    /// Too many wait for it already.
    #[error("too many wait for a signature already")]
    Busy,
    /// The process between us and the module.
    #[error("the process that keeps the PKCS #11 module does not answer; restart Warren")]
    Warden,
}

/// A private key in a token. Copies share it.
#[derive(Clone, Debug)]
pub struct TokenKey(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    line: Mutex<UnixStream>,
    waiting: AtomicUsize,
    facts: Facts,
    pins: Arc<dyn PinSource>,
    /// What was said last of a key that does not work, so that it is said once.
    said: Mutex<Option<String>>,
}

/// What a module offers: certificates, and keys without one.
///
/// # Errors
///
/// The module does not load or does not answer, or it refuses the PIN.
pub fn list(warden: &Warden, pin: Option<Secret>) -> Result<Vec<Listed>, Failure> {
    match ask(&warden.line, &Request::List { pin })? {
        Reply::Listed(list) => Ok(list),
        Reply::Failed(_, why) => Err(Failure::Refused(why)),
        Reply::WantsPin(question) => Err(Failure::Refused(format!("the {question} is wanted"))),
        Reply::Opened(_) | Reply::Signed(_) => Err(Failure::Warden),
    }
}

fn ask(line: &UnixStream, request: &Request) -> Result<Reply, Failure> {
    let exchange = || {
        send(line, request.write())?;
        receive(line)
    };
    let answer = exchange().ok().flatten();
    let reply = answer.and_then(|(kind, body)| Reply::parse(kind, &body).ok());
    reply.ok_or_else(|| {
        // An answer that comes late must not be taken for that to the next question.
        let _ = line.shutdown(std::net::Shutdown::Both);
        Failure::Warden
    })
}

/// Finds the key, and logs in if the token wants that.
fn open(line: &UnixStream, pins: &dyn PinSource) -> Result<Facts, Failure> {
    let mut reply = ask(line, &Request::Open { pin: None })?;
    if let Reply::WantsPin(question) = &reply {
        let pin = pins.pin(question).map_err(Failure::Refused)?;
        if pin.expose().is_empty() || pin.expose().len() > MAX_PIN {
            let why = format!("the {question} has between 1 and {MAX_PIN} bytes");
            return Err(Failure::Refused(why));
        }
        reply = ask(line, &Request::Open { pin: Some(pin) })?;
    }
    match reply {
        Reply::Opened(facts) => Ok(facts),
        Reply::WantsPin(question) => Err(Failure::Refused(format!("the {question} is wanted"))),
        Reply::Failed(_, why) => Err(Failure::Refused(why)),
        Reply::Signed(_) | Reply::Listed(_) => Err(Failure::Warden),
    }
}

impl TokenKey {
    /// Opens the key that the warden was started for; asks for the PIN if the token wants one.
    ///
    /// # Errors
    ///
    /// The module does not answer, there is no such token or key, or the PIN is wrong.
    pub fn open(warden: Warden, pins: Arc<dyn PinSource>) -> Result<Self, Failure> {
        let facts = open(&warden.line, &*pins)?;
        Ok(Self(Arc::new(Shared {
            line: Mutex::new(warden.line),
            waiting: AtomicUsize::new(0),
            facts,
            pins,
            said: Mutex::default(),
        })))
    }

    /// The certificate that lies beside the key.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let der = &self.0.facts.certificate;
        (!der.is_empty()).then(|| CertificateDer::from(der.clone()))
    }

    /// SubjectPublicKeyInfo in DER, if the token knows it.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        Some(self.0.facts.public_key.as_slice()).filter(|der| !der.is_empty())
    }

    /// The label of its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.0.facts.token
    }

    /// Joins a chain (leaf first) with the key.
    ///
    /// # Errors
    ///
    /// One line: the chain is empty or damaged, or made for another key.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, String> {
        let leaf = chain.first().ok_or("there is no certificate")?;
        let leaf = ParsedCertificate::try_from(leaf).map_err(|_| "the certificate is damaged")?;
        let subject = leaf.subject_public_key_info();
        if self.public_key().is_some_and(|ours| ours != subject.as_ref()) {
            return Err("the certificate was made for another key".to_owned());
        }
        Ok(CertifiedKey::new(chain, Arc::new(self.clone())))
    }

    fn schemes(&self) -> &'static [SignatureScheme] {
        use SignatureScheme as S;
        // SHA-256 first: every token knows it.
        const PSS: &[S] = &[S::RSA_PSS_SHA256, S::RSA_PSS_SHA384, S::RSA_PSS_SHA512];
        const PKCS1: &[S] = &[S::RSA_PKCS1_SHA256, S::RSA_PKCS1_SHA384, S::RSA_PKCS1_SHA512];
        const BOTH: &[S] = &[
            S::RSA_PSS_SHA256,
            S::RSA_PSS_SHA384,
            S::RSA_PSS_SHA512,
            S::RSA_PKCS1_SHA256,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA512,
        ];
        match self.0.facts.kind {
            Kind::Rsa { pkcs1: true, pss: true } => BOTH,
            Kind::Rsa { pss: true, .. } => PSS,
            Kind::Rsa { .. } => PKCS1,
            Kind::P256 => &[S::ECDSA_NISTP256_SHA256],
            Kind::P384 => &[S::ECDSA_NISTP384_SHA384],
        }
    }

    /// Signs a message.
    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let (how, input) = input(scheme, message)
            .ok_or_else(|| Failure::Refused("an unknown signature scheme".to_owned()))?;
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::Busy);
        }
        let result = self.sign_in_turn(&Request::Sign { how, input });
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        let signature = result?;
        if how != Mechanism::Ecdsa {
            return Ok(signature);
        }
        public_key::ecdsa_signature(&signature)
            .ok_or_else(|| Failure::Refused("the module's signature is malformed".to_owned()))
    }

    fn sign_in_turn(&self, sign: &Request) -> Result<Vec<u8>, Failure> {
        let line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reply = ask(&line, sign)?;
        if matches!(reply, Reply::WantsPin(_)) {
            // It was to be remembered for a while only.
            open(&line, &*self.0.pins)?;
            reply = ask(&line, sign)?;
        }
        match reply {
            Reply::Signed(signature) => Ok(signature),
            Reply::Failed(Trouble::Paused, why) => Err(Failure::Paused(why)),
            Reply::Failed(_, why) => Err(Failure::Refused(why)),
            Reply::WantsPin(_) | Reply::Opened(_) | Reply::Listed(_) => Err(Failure::Warden),
        }
    }

    /// Says once that the key does not work, and once that it does again.
    fn report(&self, result: &Result<Vec<u8>, Failure>) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let token = self.token();
        match result {
            Ok(_) if said.take().is_some() => tracing::info!(token, "the key signs again"),
            Ok(_) => {}
            Err(failure @ (Failure::Paused(_) | Failure::Busy)) => {
                tracing::debug!(token, "no signature: {failure}");
            }
            Err(failure) => {
                let line = failure.to_string();
                if said.as_ref() == Some(&line) {
                    return;
                }
                tracing::warn!(token, "no signature: {line}");
                *said = Some(line);
            }
        }
    }
}

/// What the token is given to sign: it need not know more of a message than its digest.
fn input(scheme: SignatureScheme, message: &[u8]) -> Option<(Mechanism, Vec<u8>)> {
    use SignatureScheme as S;
    Some(match scheme {
        S::RSA_PKCS1_SHA256 => (Mechanism::RsaPkcs1, [SHA256_INFO, &sha256(&[message])].concat()),
        S::RSA_PKCS1_SHA384 => (Mechanism::RsaPkcs1, [SHA384_INFO, &sha384(&[message])].concat()),
        S::RSA_PKCS1_SHA512 => (Mechanism::RsaPkcs1, [SHA512_INFO, &sha512(&[message])].concat()),
        S::RSA_PSS_SHA256 => (Mechanism::RsaPss256, sha256(&[message]).to_vec()),
        S::RSA_PSS_SHA384 => (Mechanism::RsaPss384, sha384(&[message]).to_vec()),
        S::RSA_PSS_SHA512 => (Mechanism::RsaPss512, sha512(&[message]).to_vec()),
        S::ECDSA_NISTP256_SHA256 => (Mechanism::Ecdsa, sha256(&[message]).to_vec()),
        S::ECDSA_NISTP384_SHA384 => (Mechanism::Ecdsa, sha384(&[message]).to_vec()),
        _ => return None,
    })
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self.schemes().iter().copied().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TokenSigner { key: self.clone(), scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Self::public_key(self).map(SubjectPublicKeyInfoDer::from)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.facts.kind {
            Kind::Rsa { .. } => SignatureAlgorithm::RSA,
            Kind::P256 | Kind::P384 => SignatureAlgorithm::ECDSA,
        }
    }
}

/// Signs by one scheme.
#[derive(Debug)]
struct TokenSigner {
    key: TokenKey,
    scheme: SignatureScheme,
}

impl Signer for TokenSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let result = self.key.sign(self.scheme, message);
        self.key.report(&result);
        result.map_err(|_| Error::Other(OtherError(Arc::new(KeyUnusable))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

#[cfg(test)]
mod tests;
