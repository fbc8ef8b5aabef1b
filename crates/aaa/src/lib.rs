//! Who may come in: limits that protect every authenticator, and one that lives in memory.
//!
//! ```text
//!   Credentials --> Limiter::check --> a back end --> Verdict
//!                       ^                               |
//!                       +------- succeeded <-- Grant ---+
//! ```
//!
//! The back ends that keep users somewhere are crates of their own.
//!
//! ```
//! # #![allow(clippy::disallowed_methods)]
//! use aaa::{Limiter, Limits};
//!
//! let now = std::time::Instant::now();
//! let mut limiter = Limiter::new(Limits::default());
//! let source = "192.0.2.7".parse()?;
//! assert!(limiter.check(now, source, "alice").is_ok());
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod limits;
mod memory;

pub use limits::{Limiter, Limits, Rate, TooManyAttempts};
pub use memory::MemoryAuthenticator;
