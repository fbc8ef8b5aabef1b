//! The seam between protocols and whoever decides who may come in.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroize;

use crate::path::SessionId;

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
    /// The port there.
    pub port: u16,
    /// Which session asks, by the number that the operator knows it by.
    pub session: SessionId,
    /// What the peer says about itself: lines of `NAME=value`, free of control characters.
    pub introduction: Arc<str>,
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
        /// What the user answered to a question that the profile asks (OpenVPN's
        /// `static-challenge`): a one-time code, say.
        response: Option<Secret>,
    },
    /// The reply to [`Verdict::Challenge`].
    Response {
        /// The user's name as the peer sent it.
        user: String,
        /// The challenge's, unchanged; for an answer to a question that came with
        /// [`Verdict::Pending`], the ticket's eight bytes, most significant first.
        state: Vec<u8>,
        /// What the user typed.
        response: Secret,
    },
    /// A user who proved who they are before, with a token that we gave them: only what they may
    /// do now is asked.
    Known {
        /// The user's name in the user list.
        user: String,
        /// When they proved it, in seconds since 1970: no later than the last change of their
        /// password ([`Grant::proof_since`]), the proof is worth nothing.
        since: u64,
    },
    /// Asks again after [`Verdict::Pending`], and waits for the decision.
    Pending {
        /// The verdict's.
        ticket: u64,
    },
    /// CHAP and EAP-MD5 (RFC 1994): the response is MD5 over identifier, password and challenge.
    Chap {
        /// The user's name as the peer sent it.
        user: String,
        /// The identifier of challenge and response.
        identifier: u8,
        /// What we asked.
        challenge: Vec<u8>,
        /// What came back.
        response: [u8; 16],
    },
    /// MS-CHAPv1 (RFC 2433), without the LAN Manager's half.
    MsChapV1 {
        /// The user's name as the peer sent it.
        user: String,
        /// What we asked.
        challenge: [u8; 8],
        /// The NT response.
        response: [u8; 24],
    },
    /// MS-CHAPv2 and EAP-MSCHAPv2 (RFC 2759).
    MsChapV2 {
        /// The user's name as the peer sent it: what the response was made with, but for a domain
        /// in front (`DOMAIN\\user`).
        user: String,
        /// What we asked.
        authenticator_challenge: [u8; 16],
        /// What the peer added.
        peer_challenge: [u8; 16],
        /// The NT response.
        response: [u8; 24],
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
    /// One more question: tell the user, and come back with [`Credentials::Response`].
    Challenge {
        /// For the authenticator to recognise the reply by.
        state: Vec<u8>,
        /// What the user is asked.
        prompt: String,
        /// Whether what they type may be shown.
        echo: bool,
    },
    /// Somebody decides elsewhere; ask again with [`Credentials::Pending`].
    Pending {
        /// Which decision.
        ticket: u64,
        /// How long that may take.
        timeout: Duration,
        /// What the peer is told meanwhile, in its protocol's own words
        /// (OpenVPN: `WEB_AUTH::https://…`, `CR_TEXT:…`).
        info: Option<String>,
    },
    /// Stay out.
    Deny(DenyReason),
    /// Stay out, for a reason that a person wrote.
    Refuse {
        /// What the peer is told; free of control characters.
        reason: String,
    },
}

/// What an authenticated user may have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grant {
    /// The user's name in the user list.
    pub user: String,
    /// Which network; empty for the default one.
    pub network: String,
    /// The certificate that was the proof, or part of it; it identifies the device.
    pub certificate: Option<CertificateId>,
    /// Addresses that are always the user's.
    pub fixed_addresses: Vec<IpAddr>,
    /// The session ends after this long.
    pub session_limit: Option<Duration>,
    /// The session ends after so long without a packet.
    pub idle_limit: Option<Duration>,
    /// Subnets behind the user's devices (OpenVPN's `iroute`).
    pub behind: Vec<IpNet>,
    /// When the user's password last changed, in seconds since 1970: what is to count as
    /// [`Credentials::Known`] must be dated later.
    pub proof_since: u64,
    /// Options for the user's OpenVPN clients, besides the network's own.
    pub openvpn_options: Vec<String>,
    /// What only who knows the password can tell, where the exchange wants such a thing.
    pub proof: Option<PasswordProof>,
}

/// What follows from a password for both ends of an exchange, and from nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PasswordProof {
    /// For [`Credentials::MsChapV1`].
    MsChapV1 {
        /// The hash of the password's hash, 16 bytes (`NtPasswordHashHash`, RFC 2433, A.4).
        hash_hash: Secret,
    },
    /// For [`Credentials::MsChapV2`].
    MsChapV2 {
        /// That we know the password, too (RFC 2759, 8.7).
        authenticator_response: [u8; 20],
        /// Where the session's keys come from, 16 bytes (RFC 3079, 3.4).
        master_key: Secret,
    },
}

/// Which certificate somebody proved themselves with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateId {
    /// One that Warren has issued: its serial number in lower-case hexadecimal.
    Own(String),
    /// One that needs no CA because it is registered for its user: its SHA-256.
    Registered([u8; 32]),
    /// One of an outside CA's.
    Outside {
        /// Its SHA-256.
        fingerprint: [u8; 32],
        /// DER, leaf first: what is judged again when the CA revokes something.
        chain: Arc<[Vec<u8>]>,
    },
}

/// The serial number of our own, `sha256:` and lower-case hexadecimal for others: never alike.
impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(serial) => f.write_str(serial),
            Self::Registered(fingerprint) | Self::Outside { fingerprint, .. } => {
                f.write_str("sha256:")?;
                fingerprint.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
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
