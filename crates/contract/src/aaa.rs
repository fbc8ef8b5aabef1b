//! The seam between protocols and whoever decides who may come in.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use zeroize::Zeroize;

/// A future without a name.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides who a peer is and what they may do.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Judges one set of credentials.
    ///
    /// Must answer within the engine's own handshake timeout, and must take the same time whether
    /// the user is unknown or the password is wrong.
    fn authenticate<'a>(
        &'a self,
        context: &'a AuthContext,
        credentials: Credentials,
    ) -> BoxFuture<'a, Verdict>;
}

/// Whom the peer claims to be talking to, and from where.
#[derive(Clone, Debug)]
pub struct AuthContext {
    /// The door's name.
    pub protocol: &'static str,
    /// The network's name.
    pub network: String,
    /// The peer's address.
    pub remote: IpAddr,
}

/// Proof of identity, in every form our protocols carry it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Credentials {
    /// PAP, XAuth, OpenVPN, AnyConnect and EAP-GTC.
    Password {
        /// The user's name as the peer sent it.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A certificate chain (DER, leaf first) whose signature and validity the caller has verified.
    Certificate {
        /// Leaf first.
        chain: Vec<Vec<u8>>,
    },
}

/// The judgement.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Come in.
    Grant(Box<Grant>),
    /// Stay out.
    Deny(DenyReason),
}

/// What an authenticated user may have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grant {
    /// The user's name in the user list.
    pub user: String,
    /// Which network; empty for the default one.
    pub network: String,
    /// What identifies the device, if the proof does: a certificate's serial number.
    pub device: Option<String>,
    /// Addresses that are always the user's.
    pub fixed_addresses: Vec<IpAddr>,
    /// The session ends after this long.
    pub session_limit: Option<Duration>,
}

/// Why not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DenyReason {
    /// Unknown user or wrong password: never told apart.
    BadCredentials,
    /// The account is disabled.
    AccountDisabled,
    /// The certificate has been revoked.
    Revoked,
    /// Too many failures from this source or for this user lately.
    TooManyAttempts,
    /// The store cannot be asked.
    BackendUnavailable,
}

/// A secret that never prints itself and is wiped when dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one place that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
