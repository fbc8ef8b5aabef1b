//! Client profiles (`.ovpn`): from text to a [`Profile`] that can be connected with.
//!
//! Every directive is supported, known to be harmless here, or refused by name and line
//! ([`DIRECTIVES`] says which). One that would weaken security is always refused: a profile must
//! not be able to talk us out of it.

mod directive;
mod lines;
mod locked;
mod management;
mod point;
mod proxy;
mod pull;
mod shape;
mod table;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use contract::{Layer, Secret};
use crypto::digest::Hash;
use pki::{NameRule, UserNameFields};

use self::proxy::HttpSettings;
use crate::cipher::Cipher;
use crate::client_key::ClientKey;
use crate::pull::Pull;
use crate::shape::ShapeRules;
use crate::static_key::StaticKey;
use crate::wrap::Protection;

use self::locked::Locked;
pub use self::proxy::{Proxy, ProxyKind};
pub(crate) use lines::{Line, words};
pub use management::{Management, ManagementPlace};
pub use point::{End, Point};
pub use table::{DIRECTIVES, Directive, Standing, directives_page};
pub use token::{TokenProvider, TokenUse};

/// What a profile says.
#[derive(Debug)]
pub struct Profile {
    /// Servers, in the order in which to try them.
    pub remotes: Vec<Remote>,
    /// Shuffle them first.
    pub remote_random: bool,
    /// PEM of the authorities.
    pub ca: Vec<u8>,
    /// PEM of our certificate and those between it and the authority.
    pub certificate: Option<Vec<u8>>,
    /// PEM of its key; encrypted if the profile [is locked](Self::is_locked).
    pub key: Option<Secret>,
    /// `pkcs11-id`: both are in a token.
    pub token: Option<TokenUse>,
    /// PEM of revocation lists for the server's chain.
    pub revoked: Option<Vec<u8>>,
    /// `crl-verify DIR dir`: serial numbers, as [`pki::CertificateFacts`] has them.
    pub revoked_serials: Vec<String>,
    /// `peer-fingerprint`.
    pub fingerprints: Vec<[u8; 32]>,
    /// `verify-hash`.
    pub issuers: Vec<[u8; 32]>,
    /// `remote-cert-ku`, in the form of [`pki::ServerRules`].
    pub key_usages: Option<Vec<u8>>,
    /// `remote-cert-tls server`.
    pub requires_server_usage: bool,
    /// `verify-x509-name`.
    pub name: Option<NameRule>,
    /// `x509-username-field`: what of the server's certificate is its name.
    pub name_fields: Option<UserNameFields>,
    /// `tls-crypt-v2`, `tls-crypt`, `tls-auth`, or none.
    pub protection: Protection,
    /// `auth-user-pass`.
    pub login: Login,
    /// `static-challenge`.
    pub challenge: Option<StaticChallenge>,
    /// `auth-nocache`.
    pub forgets_password: bool,
    /// `auth-retry`.
    pub auth_retry: AuthRetry,
    /// `data-ciphers`.
    pub ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback`, or `cipher`.
    pub fallback: Option<Cipher>,
    /// `auth`.
    pub digest: Hash,
    /// TLS 1.3 only.
    pub only_tls13: bool,
    /// TLS 1.2 only.
    pub only_tls12: bool,
    /// `tun-mtu`.
    pub mtu: u16,
    /// `dev`, if it names a device.
    pub device: Option<String>,
    /// `dev tun` or `dev tap`.
    pub layer: Layer,
    /// `compat-mode` of a version before 2.6: nothing newer is offered to the server.
    pub is_before_2_6: bool,
    /// `lport` or `port` with `bind`.
    pub local_port: Option<u16>,
    /// `reneg-sec`.
    pub renegotiate: Option<Duration>,
    /// `hand-window`.
    pub handshake: Duration,
    /// `ping`.
    pub ping: Duration,
    /// `ping-restart`.
    pub ping_restart: Duration,
    /// `connect-retry`: first and longest wait.
    pub retry: (Duration, Duration),
    /// `connect-retry-max`, if not for ever.
    pub retry_max: Option<u32>,
    /// `server-poll-timeout` or `connect-timeout`: how long one server is given to answer.
    pub server_timeout: Duration,
    /// `ping-exit`: a server that falls silent is not called again.
    pub exits_on_silence: bool,
    /// What the profile itself asks of the host, and what it lets the server ask.
    pub pull: Pull,
    /// `comp-lzo`, `compress`, `fragment`, `mssfix`.
    pub shape: ShapeRules,
    /// A link between two peers, instead of a client's connection.
    pub point: Option<Point>,
    /// `management` and what belongs to it.
    pub management: Management,
    /// What was ignored, in words.
    pub notes: Vec<String>,
    /// What the operator should think about, in words.
    pub warnings: Vec<String>,
    locked: Option<Locked>,
}

/// One `remote`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// Name or address.
    pub host: String,
    /// UDP or TCP port.
    pub port: u16,
    /// What carries the tunnel.
    pub transport: Transport,
    /// Only this family, if the profile says so.
    pub family: Option<Family>,
    /// What stands in between.
    pub proxy: Option<Arc<Proxy>>,
}

/// What carries a tunnel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// One connection.
    Tcp,
}

/// IP version of the outer packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// `static-challenge`: what the user is asked beside the password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StaticChallenge {
    /// The question.
    pub text: String,
    /// Whether what is typed may be shown.
    pub echo: bool,
    /// `concat`: the answer follows the password instead of standing beside it.
    pub is_appended: bool,
}

/// `auth-retry`: what becomes of a client whose login is refused.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AuthRetry {
    /// It gives up.
    #[default]
    None,
    /// It tries the same again (`nointeract`).
    Same,
    /// It asks its user again (`interact`).
    Ask,
}

/// `auth-user-pass`.
#[derive(Debug)]
pub enum Login {
    /// No password.
    None,
    /// Somebody has to be asked.
    Ask,
    /// Only the password has to be asked for.
    AskPassword(String),
    /// Both are in the profile, or in the file that it names.
    Given(String, Secret),
}

/// Why a profile cannot be used: one line for the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProfileError {
    /// 0 if it is about the profile as a whole.
    pub line: usize,
    /// Directive and reason.
    pub problem: String,
}

impl ProfileError {
    fn whole(problem: impl Into<String>) -> Self {
        Self { line: 0, problem: problem.into() }
    }
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.line, self.problem)
        }
    }
}

impl std::error::Error for ProfileError {}

/// Reads a file that a profile names; the error is the reason, in words. A name that ends in a slash
/// asks for the names of the files in that folder, a line each.
pub type ReadFile<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

impl Profile {
    /// Reads a profile; files that it names are fetched through `read`.
    ///
    /// # Errors
    ///
    /// The first directive that cannot be obeyed, or what the profile lacks.
    pub fn parse(text: &str, read: ReadFile<'_>) -> Result<Self, ProfileError> {
        let mut draft = Draft::default();
        for line in lines::split(text)? {
            directive::apply(&mut draft, &line, read)?;
        }
        draft.finish()
    }
}

/// A profile while it is being read.
#[derive(Debug)]
pub(crate) struct Draft {
    remotes: Vec<DraftRemote>,
    remote_random: bool,
    default_port: u16,
    default_proto: Option<Proto>,
    proxy: Option<Proxy>,
    http: HttpSettings,
    ca: Vec<u8>,
    certificate: Option<Vec<u8>>,
    key: Option<Secret>,
    bundle: Option<Secret>,
    /// `cert` itself, not only `extra-certs`.
    has_cert: bool,
    tokens: token::Tokens,
    passphrase: Option<Secret>,
    /// What the passphrase is still to be asked for.
    locked: Option<Locked>,
    revoked: Option<Vec<u8>>,
    revoked_serials: Vec<String>,
    fingerprints: Vec<[u8; 32]>,
    issuers: Vec<[u8; 32]>,
    key_usages: Option<Vec<u8>>,
    requires_server_usage: bool,
    name: Option<NameRule>,
    name_fields: Option<UserNameFields>,
    tls_auth: Option<(StaticKey, Option<bool>)>,
    tls_crypt: Option<StaticKey>,
    tls_crypt_v2: Option<ClientKey>,
    key_direction: Option<bool>,
    login: Login,
    challenge: Option<StaticChallenge>,
    forgets_password: bool,
    auth_retry: AuthRetry,
    ciphers: Option<Vec<Cipher>>,
    fallback: Option<Cipher>,
    digest: Hash,
    only_tls13: bool,
    only_tls12: bool,
    mtu: u16,
    device: Option<String>,
    layer: Option<Layer>,
    is_before_2_6: bool,
    local_port: Option<u16>,
    renegotiate: Option<Duration>,
    handshake: Duration,
    ping: Duration,
    ping_restart: Duration,
    retry: (Duration, Duration),
    retry_max: Option<u32>,
    server_timeout: Duration,
    exits_on_silence: bool,
    pull: Pull,
    management: Management,
    ignorable: Vec<String>,
    notes: Vec<String>,
    warnings: Vec<String>,
    shape: ShapeRules,
    point: point::Draft,
    mssfix_given: bool,
    /// `mssfix` without a number: that of `fragment`, if there is one.
    mssfix_alone: bool,
    /// The `<connection>` block that is open.
    block: Option<Block>,
}

/// A `<connection>` block while it is being read.
#[derive(Debug, Default)]
struct Block {
    /// How many remotes there were before it.
    first: usize,
    port: Option<u16>,
    proto: Option<Proto>,
    proxy: Option<Proxy>,
}

#[derive(Debug)]
struct DraftRemote {
    host: String,
    port: Option<u16>,
    proto: Option<Proto>,
    proxy: Option<Proxy>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Proto {
    Udp,
    Udp4,
    Udp6,
    Tcp,
    Tcp4,
    Tcp6,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            remotes: Vec::new(),
            remote_random: false,
            default_port: 1194,
            default_proto: None,
            proxy: None,
            http: HttpSettings::default(),
            ca: Vec::new(),
            certificate: None,
            key: None,
            bundle: None,
            has_cert: false,
            tokens: token::Tokens::default(),
            passphrase: None,
            locked: None,
            revoked: None,
            revoked_serials: Vec::new(),
            fingerprints: Vec::new(),
            issuers: Vec::new(),
            key_usages: None,
            requires_server_usage: false,
            name: None,
            name_fields: None,
            tls_auth: None,
            tls_crypt: None,
            tls_crypt_v2: None,
            key_direction: None,
            login: Login::None,
            challenge: None,
            forgets_password: false,
            auth_retry: AuthRetry::None,
            ciphers: None,
            fallback: None,
            digest: Hash::Sha1,
            only_tls13: false,
            only_tls12: false,
            mtu: 1500,
            device: None,
            layer: None,
            is_before_2_6: false,
            local_port: None,
            renegotiate: Some(Duration::from_secs(3600)),
            handshake: Duration::from_secs(60),
            ping: Duration::from_secs(10),
            ping_restart: Duration::from_secs(120),
            retry: (Duration::from_secs(1), Duration::from_secs(300)),
            retry_max: None,
            server_timeout: Duration::from_secs(30),
            exits_on_silence: false,
            pull: Pull::default(),
            management: Management::default(),
            ignorable: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            shape: ShapeRules::default(),
            point: point::Draft::default(),
            mssfix_given: false,
            mssfix_alone: false,
            block: None,
        }
    }
}

impl Draft {
    fn finish(mut self) -> Result<Profile, ProfileError> {
        if self.block.is_some() {
            return Err(ProfileError::whole(
                "<connection> has no </connection>: the profile is cut off",
            ));
        }
        let Some(layer) = self.layer else {
            return Err(ProfileError::whole("neither \"dev tun\" nor \"dev tap\"; add one"));
        };
        let token = token::finish(&mut self)?;
        locked::open(&mut self)?;
        let has_bundle = matches!(self.locked, Some(Locked::Bundle(_)));
        let point = point::finish(&mut self)?;
        if point.is_some() && layer == Layer::Ethernet {
            return Err(ProfileError::whole(
                "\"dev tap\" without \"client\": a link between two peers carries packets; use \"dev tun\"",
            ));
        }
        let is_fixed = point.as_ref().is_some_and(Point::is_fixed);
        if !is_fixed && self.ca.is_empty() && self.fingerprints.is_empty() && !has_bundle {
            return Err(ProfileError::whole(locked::NOTHING_TRUSTED));
        }
        if self.certificate.is_some() != self.key.is_some() {
            let missing = if self.key.is_some() { "cert" } else { "key" };
            return Err(ProfileError::whole(format!(
                "\"{missing}\" is missing; cert and key go together"
            )));
        }
        let has_certificate = self.certificate.is_some() || has_bundle || token.is_some();
        if !is_fixed && !has_certificate && matches!(self.login, Login::None) {
            return Err(ProfileError::whole(
                "neither a certificate (\"cert\", \"key\") nor \"auth-user-pass\": nothing to log in with",
            ));
        }
        let shared = (self.tls_crypt.take(), self.tls_auth.take());
        let protection = match (self.tls_crypt_v2.take(), shared) {
            (_, (Some(_), Some(_))) => {
                return Err(ProfileError::whole("both \"tls-crypt\" and \"tls-auth\"; keep one"));
            }
            (Some(_), (Some(_), _) | (_, Some(_))) => {
                return Err(ProfileError::whole(
                    "\"tls-crypt-v2\" beside \"tls-crypt\" or \"tls-auth\"; keep one",
                ));
            }
            (Some(key), (None, None)) => Protection::TlsCryptV2(key),
            (None, (Some(key), None)) => Protection::TlsCrypt { key },
            (None, (None, Some((key, direction)))) => {
                let direction = direction.or(self.key_direction);
                let answers = point.as_ref().is_some_and(Point::answers);
                if let Some(direction) = direction.filter(|direction| *direction == answers) {
                    return Err(ProfileError::whole(format!(
                        "\"key-direction {}\": a server has 0, a client 1",
                        u8::from(direction)
                    )));
                }
                Protection::TlsAuth { key, hash: self.digest, directed: direction.is_some() }
            }
            (None, (None, None)) => Protection::None,
        };
        if !is_fixed
            && !self.requires_server_usage
            && self.name.is_none()
            && self.fingerprints.is_empty()
        {
            self.notes.push(
                "neither \"remote-cert-tls server\" nor \"verify-x509-name\": any server certificate of this CA is accepted".to_owned(),
            );
        }
        let may_wait = point.as_ref().is_some_and(|point| is_fixed || point.answers());
        let remotes =
            if may_wait && self.remotes.is_empty() { Vec::new() } else { self.remotes()? };
        shape::finish(&mut self, point.is_some());
        let ciphers = self.ciphers.unwrap_or_else(|| {
            vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]
        });
        Ok(Profile {
            remotes,
            remote_random: self.remote_random,
            ca: self.ca,
            certificate: self.certificate,
            key: self.key,
            token,
            revoked: self.revoked,
            revoked_serials: self.revoked_serials,
            fingerprints: self.fingerprints,
            issuers: self.issuers,
            key_usages: self.key_usages,
            requires_server_usage: self.requires_server_usage,
            name: self.name,
            name_fields: self.name_fields,
            protection,
            login: self.login,
            challenge: self.challenge,
            forgets_password: self.forgets_password,
            auth_retry: self.auth_retry,
            ciphers,
            fallback: self.fallback,
            digest: self.digest,
            only_tls13: self.only_tls13,
            only_tls12: self.only_tls12,
            mtu: self.mtu,
            device: self.device,
            layer,
            is_before_2_6: self.is_before_2_6,
            local_port: self.local_port,
            renegotiate: self.renegotiate,
            handshake: self.handshake,
            ping: self.ping,
            ping_restart: self.ping_restart,
            retry: self.retry,
            retry_max: self.retry_max,
            server_timeout: self.server_timeout,
            exits_on_silence: self.exits_on_silence,
            pull: Pull { layer, ..self.pull },
            notes: self.notes,
            warnings: self.warnings,
            shape: self.shape,
            point,
            management: self.management,
            locked: self.locked,
        })
    }

    fn remotes(&mut self) -> Result<Vec<Remote>, ProfileError> {
        let mut skipped = 0;
        let mut remotes = Vec::new();
        for remote in std::mem::take(&mut self.remotes) {
            let proto = remote.proto.or(self.default_proto).unwrap_or(Proto::Udp);
            let transport = match proto {
                Proto::Udp | Proto::Udp4 | Proto::Udp6 => Transport::Udp,
                Proto::Tcp | Proto::Tcp4 | Proto::Tcp6 => Transport::Tcp,
            };
            let family = match proto {
                Proto::Udp | Proto::Tcp => None,
                Proto::Udp4 | Proto::Tcp4 => Some(Family::V4),
                Proto::Udp6 | Proto::Tcp6 => Some(Family::V6),
            };
            let port = remote.port.unwrap_or(self.default_port);
            let proxy = remote.proxy.or_else(|| self.proxy.clone());
            let proxy = proxy.map(|proxy| proxy::finish(proxy, &self.http));
            let is_http =
                proxy.as_ref().is_some_and(|proxy| matches!(proxy.kind, ProxyKind::Http { .. }));
            if is_http && transport == Transport::Udp {
                skipped += 1;
                continue;
            }
            remotes.push(Remote { host: remote.host, port, transport, family, proxy });
        }
        match (remotes.is_empty(), skipped) {
            (true, 0) => Err(ProfileError::whole("no \"remote HOST PORT\"")),
            (true, _) => Err(ProfileError::whole(
                "\"http-proxy\" carries no datagrams, and every remote is UDP; use \"proto tcp\"",
            )),
            (false, 0) => Ok(remotes),
            (false, _) => {
                let note = "UDP remotes skipped: \"http-proxy\" carries no datagrams";
                self.notes.push(note.to_owned());
                Ok(remotes)
            }
        }
    }
}

#[cfg(test)]
mod tests;
