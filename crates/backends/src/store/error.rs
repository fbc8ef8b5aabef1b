use std::io;
use std::net::IpAddr;

use crate::authority::CertificateError;
use crate::static_key::StaticKeyError;

/// Why the store cannot do what it was asked; every one is a line for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("{path}: cannot be opened ({source}); check its owner and permissions")]
    Io {
        /// The database.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not a sound database.
    #[error(
        "{path}: not a usable database ({source}); restore it from a backup, or move it away to \
         start afresh"
    )]
    Open {
        /// The database.
        path: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A newer version has written it.
    #[error("{path}: written by a newer version of Warren; use that version")]
    Newer {
        /// The database.
        path: String,
    },
    /// Anything else that the database refuses.
    #[error("the database failed ({0}); is the disk full, or another process holding it?")]
    Database(#[from] rusqlite::Error),
    /// The stored identity is damaged, or a certificate cannot be made.
    #[error("the server's identity cannot be used: {0}; restore the database from a backup")]
    Identity(String),
    /// No such user.
    #[error("there is no user {0:?}; `warren user list` shows who there is")]
    NoSuchUser(String),
    /// The name is taken.
    #[error("there is a user {0:?} already; choose another name, or remove that user first")]
    UserExists(String),
    /// The name cannot be used.
    #[error(
        "{0:?} cannot be a user's name; write 1 to 64 of A-Z a-z 0-9 . _ @ -, and neither . nor \
         - first"
    )]
    BadName(String),
    /// The password cannot be used.
    #[error("the password cannot be set: {0}")]
    BadPassword(&'static str),
    /// The address cannot be a user's own.
    #[error("{address} cannot be a user's address: {why}")]
    BadAddress {
        /// Which.
        address: IpAddr,
        /// What is wrong and what to do.
        why: String,
    },
    /// The address belongs to another user.
    #[error("{address} is already the address of user {user:?}; choose another")]
    AddressTaken {
        /// Which.
        address: IpAddr,
        /// Whose.
        user: String,
    },
    /// A setting of a user that cannot be.
    #[error("{what} cannot be set: {why}")]
    BadSetting {
        /// Which.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// No such certificate.
    #[error(
        "there is no certificate with serial number {0}; `warren user list` shows who there is"
    )]
    NoSuchCertificate(String),
    /// The user has no such certificate registered.
    #[error(
        "that fingerprint is not registered for {user:?}; `warren user fingerprint {user}` shows \
         which are"
    )]
    NoSuchFingerprint {
        /// Whose it is not.
        user: String,
    },
    /// The certificate lets another user in.
    #[error("that fingerprint is registered for user {user:?} already; remove it there first")]
    FingerprintTaken {
        /// Whose it is.
        user: String,
    },
    /// More certificates than a user may register.
    #[error(
        "more than {max} fingerprints for {user:?}; remove some that are not needed any more",
        max = super::MAX_FINGERPRINTS
    )]
    TooManyFingerprints {
        /// Whose.
        user: String,
    },
    /// No such client key.
    #[error("there is no client key {0}; `warren client-key list` shows them")]
    NoSuchClientKey(String),
}

impl From<CertificateError> for StoreError {
    fn from(error: CertificateError) -> Self {
        Self::Identity(error.to_string())
    }
}

impl From<pki::PkiError> for StoreError {
    fn from(error: pki::PkiError) -> Self {
        Self::Identity(error.to_string())
    }
}

impl From<openvpn::BadClientKey> for StoreError {
    fn from(error: openvpn::BadClientKey) -> Self {
        Self::Identity(error.to_string())
    }
}

impl From<StaticKeyError> for StoreError {
    fn from(error: StaticKeyError) -> Self {
        Self::Identity(error.to_string())
    }
}
