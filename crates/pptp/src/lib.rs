//! The Point-to-Point Tunneling Protocol (RFC 2637): control connections over TCP, calls over
//! enhanced GRE.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
