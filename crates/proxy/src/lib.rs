//! The way out through somebody else's proxy: HTTP CONNECT (RFC 9110, 9.3.6) and SOCKS 5
//! (RFC 1928), the initiator's side.
//!
//! Both are small machines without a socket: they say what to send, and take in what comes back.
//! A proxy is a stranger. What it answers is bounded, its words reach the log only as printable
//! ASCII, and it gets a password only if it asks for one in a way that was allowed.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod fuzz;
mod http;
mod socks;
mod target;

pub use http::{Authentication, HttpConnect, HttpOptions, HttpStep, Version};
pub use socks::{Bound, Command, Head, Socks, SocksStep};
pub use target::{Login, Target};

use thiserror::Error;

/// Why there is no way through a proxy; one line for the operator.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ProxyError {
    /// What the profile says cannot be sent to a proxy.
    #[error("{0}")]
    Unusable(&'static str),
    /// It broke its protocol.
    #[error("the proxy does not speak the protocol: {0}")]
    Protocol(&'static str),
    /// It does not let us through.
    #[error("the proxy refuses: {0}")]
    Refused(String),
    /// It wants a user name and a password, and there are none.
    #[error("the proxy asks for a user name and a password, and the profile has none")]
    LoginNeeded,
    /// It wants a proof that we do not give.
    #[error("the proxy asks for {0}, which is not allowed or not supported")]
    Method(String),
    /// It does not know the user, or the password is wrong.
    #[error("the proxy refused user name or password")]
    LoginRefused,
}

/// Only printable ASCII, and not more than `limit` of it: what a proxy says ends up in logs.
fn printable(bytes: &[u8], limit: usize) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '_',
        })
        .take(limit)
        .collect()
}
