//! HTTP CONNECT with Basic and Digest (RFC 9110, 9.3.6 and 11; RFC 7617; RFC 7616).
//!
//! The first request never holds a password. A proxy that wants one says so with 407 and how it
//! wants it proved; the second request, on a connection of its own, gives the strongest proof that
//! was both asked for and allowed. A third may follow if the proxy calls the nonce stale.

mod challenge;
mod digest;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use self::challenge::Challenge;
use self::digest::Algorithm;
use crate::target::{Login, Target};
use crate::{ProxyError, printable};

#[cfg(test)]
mod tests;

/// The longest head of a response that is read: as much as servers commonly allow requests.
const MAX_HEAD: usize = 16 * 1024;
/// Requests in one attempt: without proof, with it, and once more if the nonce was stale.
const MAX_REQUESTS: u32 = 3;

/// Which proofs a proxy may ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authentication {
    /// None.
    None,
    /// Basic or Digest: with Basic, whoever reads the connection to the proxy reads the password.
    Basic,
    /// Digest only.
    Digest,
}

/// The version in requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.0, which every proxy understands.
    #[default]
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What a request says besides its target.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpOptions {
    version: Version,
    agent: Option<String>,
    headers: Vec<(String, String)>,
}

impl HttpOptions {
    /// Sets the version.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Sets the `User-Agent`.
    ///
    /// # Errors
    ///
    /// If it is no text for a header.
    pub fn set_agent(&mut self, agent: &str) -> Result<(), ProxyError> {
        self.agent = Some(field_value(agent)?.to_owned());
        Ok(())
    }

    /// Adds a header, up to 32 of them; one called `Host` takes the place of ours.
    ///
    /// # Errors
    ///
    /// If name or value could end the header, or it is one that only we may set.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), ProxyError> {
        let name = name.trim_end_matches(':');
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(ProxyError::Unusable("the name of a header has letters, digits and \"-\""));
        }
        let ours = ["proxy-authorization", "content-length", "transfer-encoding"];
        if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(ProxyError::Unusable("this header is not the profile's to set"));
        }
        if self.headers.len() == 32 {
            return Err(ProxyError::Unusable("more than 32 headers"));
        }
        self.headers.push((name.to_owned(), field_value(value)?.to_owned()));
        Ok(())
    }
}

/// RFC 9110, 5.5: what cannot end the line.
fn field_value(value: &str) -> Result<&str, ProxyError> {
    let is_good = value.len() <= 1024 && value.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
    is_good.then_some(value).ok_or(ProxyError::Unusable(
        "the value of a header has up to 1024 characters, and no control characters",
    ))
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub enum HttpStep {
    /// Read more.
    More,
    /// Connect to the proxy anew, and send the next [request](HttpConnect::request).
    Again,
    /// The stream leads to the target; what came behind the response is the target's.
    Through {
        /// The first bytes from the target.
        rest: Vec<u8>,
    },
}

/// One attempt to get through a proxy.
#[derive(Debug)]
pub struct HttpConnect {
    target: Target,
    options: HttpOptions,
    allowed: Authentication,
    login: Option<Login>,
    proof: Option<Challenge>,
    requests: u32,
    /// Random: our part of a digest.
    seed: [u8; 16],
    buffer: Vec<u8>,
}

impl HttpConnect {
    /// Prepares an attempt; `seed` is random.
    ///
    /// # Errors
    ///
    /// If the user's name cannot be said in HTTP.
    pub fn new(
        target: Target,
        options: HttpOptions,
        allowed: Authentication,
        login: Option<Login>,
        seed: [u8; 16],
    ) -> Result<Self, ProxyError> {
        let is_sayable = |login: &Login| {
            !login.user.is_empty()
                && login.user.len() <= 1024
                && login.password.expose().len() <= 1024
                && !login.user.chars().any(char::is_control)
        };
        if login.as_ref().is_some_and(|login| !is_sayable(login)) {
            return Err(ProxyError::Unusable(
                "the user name for a proxy is empty, too long or has control characters",
            ));
        }
        Ok(Self {
            target,
            options,
            allowed,
            login,
            proof: None,
            requests: 0,
            seed,
            buffer: Vec::new(),
        })
    }

    /// The request to send first on a connection of its own. It may hold a password.
    ///
    /// # Errors
    ///
    /// If the proof that the proxy asked for cannot be given.
    pub fn request(&mut self) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
        self.requests += 1;
        self.buffer.clear();
        let target = self.target.to_string();
        let version = match self.options.version {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        };
        let mut request = Zeroizing::new(Vec::with_capacity(1024));
        line(&mut request, &["CONNECT ", &target, " HTTP/", version]);
        let headers = &self.options.headers;
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            line(&mut request, &["Host: ", &target]);
        }
        if let Some(agent) = &self.options.agent {
            line(&mut request, &["User-Agent: ", agent]);
        }
        for (name, value) in headers {
            line(&mut request, &[name, ": ", value]);
        }
        if let (Some(proof), Some(login)) = (&self.proof, &self.login) {
            let value = match proof {
                Challenge::Basic => basic(login)?,
                Challenge::Digest(challenge) => {
                    challenge.answer(login, &target, &hex::encode(self.seed))
                }
            };
            line(&mut request, &["Proxy-Authorization: ", &value]);
        }
        line(&mut request, &[]);
        Ok(request)
    }

    /// Takes in what the proxy sent.
    ///
    /// # Errors
    ///
    /// The attempt is over then.
    pub fn read(&mut self, bytes: &[u8]) -> Result<HttpStep, ProxyError> {
        self.buffer.extend_from_slice(bytes);
        let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            let is_http = b"HTTP/1.".iter().zip(&self.buffer).all(|(want, have)| want == have);
            if !is_http {
                return Err(ProxyError::Protocol("it is no HTTP proxy"));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(ProxyError::Protocol("its answer has no end"));
            }
            return Ok(HttpStep::More);
        };
        if end > MAX_HEAD {
            return Err(ProxyError::Protocol("its answer has no end"));
        }
        let buffer = std::mem::take(&mut self.buffer);
        let (head, rest) = buffer.split_at_checked(end + 4).unwrap_or((&buffer, &[]));
        let head = head.get(..end).unwrap_or(head);
        let (code, status) = status(head)?;
        match code {
            200..=299 => Ok(HttpStep::Through { rest: rest.to_vec() }),
            407 => {
                self.choose(head)?;
                Ok(HttpStep::Again)
            }
            // What tinyproxy says where 407 is meant.
            401 if self.proof.is_some() => Err(ProxyError::LoginRefused),
            _ => Err(ProxyError::Refused(status)),
        }
    }

    /// Chooses the proof to give, among those the proxy asks for.
    fn choose(&mut self, head: &[u8]) -> Result<(), ProxyError> {
        let challenges = challenges(head);
        let digest = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Digest(digest) if digest.algorithm == Algorithm::Sha256 => Some(digest),
            _ => None,
        });
        let digest = digest.or_else(|| {
            challenges.iter().find_map(|challenge| match challenge {
                Challenge::Digest(digest) => Some(digest),
                Challenge::Basic => None,
            })
        });
        let is_basic = challenges.contains(&Challenge::Basic);
        let chosen = match (self.allowed, digest) {
            (Authentication::Basic | Authentication::Digest, Some(digest)) => {
                Challenge::Digest(digest.clone())
            }
            (Authentication::Basic, None) if is_basic => Challenge::Basic,
            (Authentication::Digest, None) if is_basic => {
                return Err(ProxyError::Method("the password in the clear (Basic)".to_owned()));
            }
            (Authentication::None, _) => return Err(ProxyError::LoginNeeded),
            _ => return Err(ProxyError::Method(methods(head))),
        };
        if self.login.is_none() {
            return Err(ProxyError::LoginNeeded);
        }
        if self.proof.is_some() {
            let is_stale = matches!(&chosen, Challenge::Digest(digest) if digest.is_stale);
            if !is_stale || self.requests >= MAX_REQUESTS {
                return Err(ProxyError::LoginRefused);
            }
        }
        self.proof = Some(chosen);
        Ok(())
    }
}

fn line(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
    request.extend_from_slice(b"\r\n");
}

/// RFC 7617, section 2.
fn basic(login: &Login) -> Result<Zeroizing<String>, ProxyError> {
    if login.user.contains(':') {
        return Err(ProxyError::Unusable("a user name with \":\" cannot be said in Basic"));
    }
    let mut pair = Zeroizing::new(Vec::with_capacity(2050));
    pair.extend_from_slice(login.user.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(login.password.expose());
    let mut value = Zeroizing::new(String::with_capacity(2800));
    value.push_str("Basic ");
    STANDARD.encode_string(&*pair, &mut value);
    Ok(value)
}

/// The code of the status line, and the line's words for the operator (RFC 9112, section 4).
fn status(head: &[u8]) -> Result<(u16, String), ProxyError> {
    const BAD: ProxyError = ProxyError::Protocol("its status line makes no sense");
    let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let rest = first.strip_prefix(b"HTTP/1.").ok_or(BAD)?;
    let Some(([b'0' | b'1', b' '], rest)) = rest.split_first_chunk::<2>() else { return Err(BAD) };
    let (code, reason) = rest.split_at_checked(3).ok_or(BAD)?;
    if !code.iter().all(u8::is_ascii_digit) || !matches!(reason.first(), None | Some(b' ')) {
        return Err(BAD);
    }
    let number = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    Ok((number, printable(rest, 120).trim_end().to_owned()))
}

/// The values of `Proxy-Authenticate`, one after the other.
fn values(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|field| {
        let colon = field.iter().position(|byte| *byte == b':')?;
        let (name, value) = field.split_at_checked(colon)?;
        name.eq_ignore_ascii_case(b"proxy-authenticate").then(|| value.get(1..).unwrap_or_default())
    })
}

fn challenges(head: &[u8]) -> Vec<Challenge> {
    values(head).flat_map(challenge::parse).collect()
}

/// What the proxy asks for, as it says it.
fn methods(head: &[u8]) -> String {
    let names = values(head)
        .map(|value| printable(value, 40).split_whitespace().next().unwrap_or_default().to_owned())
        .collect::<Vec<_>>();
    if names.is_empty() { "a login, but not how".to_owned() } else { names.join(" or ") }
}
