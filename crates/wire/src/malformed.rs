use std::fmt;

/// A message that cannot be what it claims to be.
///
/// Carries no peer data, so it is `Copy`, costs no allocation and may be logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// `what` needs more bytes than the message has left.
    Truncated {
        /// The field's name.
        what: &'static str,
    },
    /// `what` ended before the bytes its length field promised.
    TrailingBytes {
        /// The structure's name.
        what: &'static str,
    },
    /// `what` holds a value its specification forbids.
    Forbidden {
        /// The field's name.
        what: &'static str,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { what } => write!(f, "{what} is truncated"),
            Self::TrailingBytes { what } => write!(f, "bytes left after {what}"),
            Self::Forbidden { what } => write!(f, "{what} has a forbidden value"),
        }
    }
}

impl std::error::Error for Malformed {}
