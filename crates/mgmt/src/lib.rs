//! The management API of a running server, on a unix socket, and its client.
//!
//! ```text
//!   warren user add anna ---- is a server running? --yes-->  ApiClient -> api.sock -> ApiServer
//!                                       |                                      |         |
//!                                       no                                     |         v
//!                                       |                                      |      Control (sessions, reload)
//!                                       +-------------------> ops <------------+
//!                                                              |
//!                                                              v
//!                                                            Store
//! ```
//!
//! What an operator may do to users, certificates and profiles is in [`ops`], once: the server's
//! handlers and a command without a server call the same functions. What needs a living server is
//! behind [`Control`], which the server implements. Every question and answer is a type of
//! [`types`], so a console that reads the API, `--json`, and the tables of the command line show
//! the same things.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod client;
mod control;
mod failure;
pub mod ops;
mod server;
pub mod types;

pub use client::{ApiClient, ClientError};
pub use control::{Control, Select};
pub use failure::{Failure, Reason};
pub use server::{Api, ApiServer, BindError};
