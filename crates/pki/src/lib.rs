//! Certificate chains, names and revocation.
//!
//! ```text
//!   PEM text --certificates(), private_key()--> DER --CertificateFacts--> names, dates, serial
//!                                                |
//!       rustls handshake --MemberVerifier, ServerChainVerifier--> accepted or refused
//! ```
//!
//! Nothing here reads a clock or a file: the time is the shell's [`contract::WallClock`], text
//! comes from the caller. Who a verified certificate belongs to, and whether the user list still
//! wants it, is decided by the authenticator.
//!
//! ```
//! let sentence = pki::certificates(b"").unwrap_err().to_string();
//! assert_eq!(sentence, "no certificate here; expected a block -----BEGIN CERTIFICATE-----");
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod certificate;
mod clock;
mod describe;
mod error;
pub mod fuzz;
mod key_name;
mod locked;
mod members;
mod name;
mod outside;
mod pem;
mod username;
mod verifier;

#[cfg(test)]
mod tests;

pub use certificate::{CertificateFacts, fingerprint, serial_from_decimal};
pub use clock::FixedTime;
pub use describe::{KeyUnusable, Refusal, describe};
pub use error::PkiError;
pub use key_name::{BadKeyName, KeyName};
pub use locked::{Bundle, is_locked, open_bundle, open_key};
pub use members::{Holder, MAX_CHAIN_BYTES, MAX_CHAIN_LEN, MemberVerifier, Members};
pub use name::NameRule;
pub use outside::{OutsideCas, OutsideError, OutsideRules};
pub use pem::{certificates, private_key, revocation_lists};
pub use username::{BadUserNameFields, MAX_USER_NAME_LEN, UserNameFields};
pub use verifier::{
    CallingPeerVerifier, ClientCertificate, ClientChainVerifier, ServerChainVerifier, ServerRules,
};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Joins a chain (leaf first) with its private key.
///
/// # Errors
///
/// Fails if the chain is empty, the key is of a kind that the provider cannot use, or the key is
/// not the leaf's.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, PkiError> {
    if chain.is_empty() {
        return Err(PkiError::NoCertificate);
    }
    CertifiedKey::from_der(chain, key, provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => PkiError::KeyMismatch,
        _ => PkiError::BadPrivateKey,
    })
}
