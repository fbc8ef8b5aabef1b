//! Digest (RFC 7616, 3.4).

use std::fmt::Write as _;

use crypto::digest::{dangerous_md5, sha256};
use zeroize::Zeroizing;

use super::challenge::Parameter;
use crate::target::Login;

/// The longest realm, nonce or opaque value that is repeated to a proxy.
const MAX_VALUE: usize = 2048;

/// Which hash, for the session or for each request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn hash(self, parts: &[&[u8]]) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Md5 => hex::encode(dangerous_md5(parts)),
            Self::Sha256 => hex::encode(sha256(parts)),
        })
    }
}

/// A Digest challenge that we can answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct DigestChallenge {
    pub(super) algorithm: Algorithm,
    /// The password is good, the nonce was old.
    pub(super) is_stale: bool,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// As the proxy wrote it, to be repeated.
    algorithm_name: Option<String>,
    is_session: bool,
    /// Without it the proxy is one of RFC 2069.
    has_qop: bool,
}

impl DigestChallenge {
    /// `None` if it lacks something, or asks for more than we do (`auth-int`).
    pub(super) fn new(parameters: &[Parameter]) -> Option<Self> {
        let find = |name: &str| {
            let found = parameters.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let algorithm_name = find("algorithm");
        let upper = algorithm_name.unwrap_or("MD5").to_ascii_uppercase();
        let (name, is_session) = match upper.strip_suffix("-SESS") {
            Some(name) => (name, true),
            None => (upper.as_str(), false),
        };
        let algorithm = match name {
            "MD5" => Algorithm::Md5,
            "SHA-256" => Algorithm::Sha256,
            _ => return None,
        };
        let qop = find("qop");
        let offers_auth = |list: &str| list.split(',').any(|word| word.trim() == "auth");
        if qop.is_some_and(|list| !offers_auth(list)) {
            return None;
        }
        let (realm, nonce, opaque) = (find("realm")?, find("nonce")?, find("opaque"));
        if [realm, nonce, opaque.unwrap_or_default()].iter().any(|value| value.len() > MAX_VALUE) {
            return None;
        }
        Some(Self {
            algorithm,
            is_stale: find("stale").is_some_and(|word| word.eq_ignore_ascii_case("true")),
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            opaque: opaque.map(str::to_owned),
            algorithm_name: algorithm_name.map(str::to_owned),
            is_session,
            has_qop: qop.is_some(),
        })
    }

    /// The value of `Proxy-Authorization` for CONNECT to `uri`; `cnonce` is random. Each nonce is
    /// answered once, so its count is always 1.
    pub(super) fn answer(&self, login: &Login, uri: &str, cnonce: &str) -> Zeroizing<String> {
        self.answer_to(login, "CONNECT", uri, cnonce)
    }

    pub(super) fn answer_to(
        &self,
        login: &Login,
        method: &str,
        uri: &str,
        cnonce: &str,
    ) -> Zeroizing<String> {
        const COUNT: &str = "00000001";
        let hash = |parts: &[&[u8]]| self.algorithm.hash(parts);
        let (user, realm) = (login.user.as_bytes(), self.realm.as_bytes());
        let nonce = self.nonce.as_bytes();
        let mut secret = hash(&[user, b":", realm, b":", login.password.expose()]);
        if self.is_session {
            secret = hash(&[secret.as_bytes(), b":", nonce, b":", cnonce.as_bytes()]);
        }
        let request = hash(&[method.as_bytes(), b":", uri.as_bytes()]);
        let response = if self.has_qop {
            let rest = format!(":{COUNT}:{cnonce}:auth:{}", *request);
            hash(&[secret.as_bytes(), b":", nonce, rest.as_bytes()])
        } else {
            hash(&[secret.as_bytes(), b":", nonce, b":", request.as_bytes()])
        };

        let mut value = Zeroizing::new(String::with_capacity(1024));
        let _ = write!(
            value,
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{}\"",
            quoted(&login.user),
            quoted(&self.realm),
            quoted(&self.nonce),
            quoted(uri),
            *response,
        );
        if let Some(name) = &self.algorithm_name {
            let _ = write!(value, ", algorithm={name}");
        }
        if let Some(opaque) = &self.opaque {
            let _ = write!(value, ", opaque={}", quoted(opaque));
        }
        if self.has_qop {
            let _ = write!(value, ", qop=auth, nc={COUNT}, cnonce=\"{cnonce}\"");
        } else if self.is_session {
            let _ = write!(value, ", cnonce=\"{cnonce}\"");
        }
        value
    }
}

/// RFC 9110, 5.6.4.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}
