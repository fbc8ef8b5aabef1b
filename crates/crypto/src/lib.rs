//! The only crate that names a cryptographic library.
//!
//! Protocols say *what* they need (an AEAD under a 96-bit nonce, CBC with HMAC, the TLS 1.0 PRF);
//! which library provides it, and which is fastest on this processor, is decided here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod aead;
pub mod cbc;
pub mod ctr;
pub mod digest;
pub mod prf;
mod random;
pub mod tls;

pub use random::SeededRandom;

/// An integrity check failed; says nothing more on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotAuthentic;

impl std::fmt::Display for NotAuthentic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not authentic")
    }
}

impl std::error::Error for NotAuthentic {}

/// Compares in time that depends on the lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}
