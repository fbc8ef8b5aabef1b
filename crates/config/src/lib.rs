//! The configuration file: from text to a value that cannot be invalid.
//!
//! ```text
//!   TOML text --file.rs: keys, types--> tables --checked.rs: what must fit together--> Config
//!                  |
//!                  +--Config::example(): the same declarations, written out
//! ```
//!
//! Every key is declared once (`file.rs`) with its type, default, unit and reason; reading,
//! defaults and the example file all come from that declaration. Everything is optional: an empty
//! file is a working server.
//!
//! ```
//! let config = config::Config::parse("[network]\nmtu = 1400", "warren.toml")?;
//! assert_eq!(config.network.mtu, 1400);
//!
//! let error = config::Config::parse("[network]\nmtv = 1400", "warren.toml").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "warren.toml:2: network.mtv: there is no such key; did you mean \"mtu\"?"
//! );
//! # Ok::<(), config::ConfigError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bridge;
mod checked;
mod error;
mod example;
mod file;
mod management;
mod nearest;
mod outside;
mod table;
mod text;
mod token;

#[cfg(test)]
mod tests;

pub use checked::{Config, Doors, Log, Network, OpenVpn, Server, Tokens};
pub use error::ConfigError;
pub use management::{Management, ManagementListen};
pub use outside::OutsideCa;
pub use text::{
    AuthMode, Cipher, Compression, ControlWrap, CookiePolicy, Digest, Ipv6Pool, Level, Remote,
    RemoteError, RunAs, TlsVersion,
};
pub use token::TokenPlace;
