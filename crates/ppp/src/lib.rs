//! The Point-to-Point Protocol in user space (RFC 1661), once for every protocol that carries it:
//! link negotiation, authentication in both roles, addresses, encryption.
//!
//! ```text
//!            control frames                       packets
//!   Link  <----------------->  peer      Codec  <---------->  peer
//!   LCP, authentication, CCP, IPCP,      PPP head, MPPE; used by the
//!   IPV6CP; owned by an engine           carrier's tunnel on the fast path
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod frame;

pub use frame::{Frame, Protocol, head_len};
