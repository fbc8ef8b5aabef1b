//! What Warren changes on the host, and how it is undone.
//!
//! Addresses, routes, policy rules, sysctls, one nf_tables table and name resolution: everything
//! goes to the kernel by netlink and `/proc/sys`, so no other program is needed (but
//! `resolvectl`, where systemd-resolved runs). The TUN device itself is made by `sys`.
//!
//! ```text
//!   ServerHost, ClientHost      a list of changes wanted; apply, update, undo
//!           |
//!        Ledger                 wanted against made: undoes what is stale, makes what is missing
//!           |
//!   Journal + Change            written down, then made; undone in reverse, also by the next start
//!           |
//!   route   nft   sysctl   dns
//! ```
//!
//! ```no_run
//! use host::{Journal, ServerHost, ServerPlan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let journal = Journal::open("/var/lib/warren".as_ref())?;
//! for line in journal.repair()? {
//!     eprintln!("{line}");
//! }
//! let plan = ServerPlan {
//!     tun: "warren0".into(),
//!     address4: Some("10.86.0.1/16".parse()?),
//!     address6: None,
//!     mtu: 1420,
//!     nat: true,
//!     behind: Vec::new(),
//!     table: "warren-0".into(),
//!     bridge: None,
//! };
//! let host = ServerHost::apply(&journal, &plan)?;
//! // ... until the end of the run ...
//! for line in host.undo() {
//!     eprintln!("{line}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every function blocks, for milliseconds as a rule and for seconds where `resolvectl` hangs:
//! call them from a blocking thread. They act on the network namespace of the calling thread.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bridge;
mod change;
mod client;
mod dns;
mod error;
mod facts;
mod journal;
mod keeper;
mod netlink;
mod nft;
mod place;
mod route;
mod server;
mod sysctl;
#[cfg(test)]
mod testing;
mod trust;
mod watched;

pub use bridge::{BridgeHost, OnBridge, check_bridge};
pub use client::{ClientHost, ClientPlan, mark_for};
pub use error::HostError;
pub use facts::Facts;
pub use journal::Journal;
pub use keeper::Keeper;
pub use server::{ServerHost, ServerPlan};
pub use trust::{is_roots_alone, read_as_its_owner};
pub use watched::{Content, Snapshot, WatchedFiles};
