//! The words of OpenVPN's management protocol (`management-notes.txt`, version 5): lines in,
//! commands and blocks out.
//!
//! ```text
//!   bytes -> LineReader -> Command::parse -> Command
//!                     \--> Block::push, until END   (after client-auth)
//! ```

mod block;
mod command;
mod lines;

pub use block::{Block, BlockError};
pub use command::{Command, Feed, Hold, ProxyAnswer, Refusal, RemoteAnswer, Show, SignalName};
pub use lines::{LineReader, LineTooLong, MAX_LINE};

/// The version of the protocol that is spoken.
pub const VERSION: u32 = 5;

/// Only what belongs on one line: control characters become `_`.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}
