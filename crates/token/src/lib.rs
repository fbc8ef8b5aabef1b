//! Private keys that stay in PKCS #11 tokens.
//!
//! ```text
//!   Warren (any thread)          warden                    worker
//!   TokenKey::sign  --socket-->  one thread, foreign  -->  dlopen, C_Login, C_Sign
//!      waits, bounded            to nobody's code          killed when it does not answer
//! ```
//!
//! A module is a foreign C library: it may crash, hang, start threads or ask a daemon that is not
//! there. It lives in a process of its own, the worker, which has nothing open but the line to the
//! warden, and no other secret of ours in its memory than the PIN and what Warren had read when it
//! started the warden: a client its profile, a server its configuration. The warden starts it, waits for its answers with a deadline, and kills it when one is
//! missed; it is divided from Warren before that has threads or gives up the file system that the
//! module needs. Every message between the three is bounded.
//!
//! Everything here blocks, for seconds where a module hangs: call it from a blocking thread.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod fuzz;
mod key;
mod message;
mod module;
mod public_key;
mod warden;

use std::time::Duration;

pub use key::{Failure, PinSource, TokenKey, list};
pub use message::{Listed, PinQuestion};
pub use warden::Warden;

use pki::KeyName;

/// Where a key is looked for, and how.
#[derive(Clone, Debug)]
pub struct Place {
    /// The libraries, in the order in which they are asked.
    pub modules: Vec<Module>,
    /// Which key.
    pub key: KeyName,
    /// How long the PIN is remembered; for ever if it is not said.
    pub pin_cache: Option<Duration>,
}

/// One PKCS #11 library.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Its absolute path.
    pub path: String,
    /// The PIN is typed at the reader, not at the computer.
    pub has_pin_pad: bool,
    /// Even certificates are shown only after the login.
    pub hides_certificates: bool,
}
