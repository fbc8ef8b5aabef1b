//! OpenVPN's management protocol: consoles watch the server, exporters count, and a program may
//! decide who comes in. And user interfaces run a client by it: [`Attendant`].
//!
//! ```text
//!   Server --News--> notices --+--> connection (one task each) <--> console, exporter, decider
//!   log ----LogTap-------------+         |
//!   driver --Authenticator--> Decisions <+   client-auth, client-deny, client-pending-auth
//! ```
//!
//! The words of the protocol are `openvpn::management`; here is what waits. Everything that a
//! console can make grow is bounded: connections, lines, what it does not read, guesses at the
//! password, logins under judgement.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod attendant;
mod client;
mod connection;
mod decisions;
mod house;
mod log;
mod notice;
mod process;
mod seats;
mod server;
mod states;
mod status;
#[cfg(test)]
mod testing;

pub use attendant::Attendant;
pub use client::{ClientEntrance, ClientManagement};
pub use house::House;
pub use log::LogTap;
pub use server::{Entrance, Management, ManagementError};

/// Seconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}
