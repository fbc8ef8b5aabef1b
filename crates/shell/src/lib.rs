//! Everything that waits: sockets, workers, drivers of engines.
//!
//! ```text
//!   workers --WorkerEvent--> router --> driver of each door --> engines
//!                                          |  Ask::Authenticate --> authenticator (a task each)
//!                                          |  Ask::Attach       --> hub
//!                                          |  Ask::Work         --> a thread of its own
//!                                          +-- DataPlane ops    --> workers, acknowledged by epoch
//! ```
//!
//! [`Server`] is the responder's side of the house, [`Client`] the initiator's; both run engines
//! through the same pump.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aside;
mod client;
mod clock;
mod door;
mod driver;
mod front;
mod kind;
mod leases;
mod limits;
mod news;
mod outside;
mod pump;
mod server;
pub mod workers;

pub use client::{
    Choice, Client, ClientConfig, ClientEvent, ClientFailure, Desk, Guide, Orders, Step, Traffic,
    repair_clients,
};
pub use driver::{SessionInfo, Which};
pub use news::{Heard, News, SessionNews};
pub use outside::{check_outside, members, outside_files};
pub use server::{
    Changed, ConfigReader, DoorInfo, Listening, ReloadError, Server, ServerConfig, StartError,
    Summary,
};
