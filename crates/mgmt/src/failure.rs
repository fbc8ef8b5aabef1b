//! Why an operation did not happen.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operation that changed nothing, in the operator's words.
///
/// On the wire it is `{"error": "...", "reason": "..."}` under the reason's HTTP status.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// One line: what is wrong, where, and what to do.
    #[serde(rename = "error")]
    pub message: String,
    /// Whose fault it is.
    pub reason: Reason,
}

/// Whose fault a [`Failure`] is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The request cannot be meant: a name, an address or a body that is not allowed.
    Invalid,
    /// The caller is neither root nor the user that the server runs as.
    Forbidden,
    /// Nothing has that name.
    NotFound,
    /// Something has that name or address already.
    Conflict,
    /// The configuration file does not say something usable.
    Config,
    /// The server or the machine could not do it.
    Internal,
}

impl Reason {
    /// The HTTP status that carries it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Config => 422,
            Self::Internal => 500,
        }
    }
}

impl Failure {
    /// A failure for a reason; `message` is one line.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { message: message.into(), reason }
    }

    /// The request cannot be meant.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    /// Nothing has that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Reason::NotFound, message)
    }

    /// Something has that name or address already.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Reason::Conflict, message)
    }

    /// The configuration file does not say something usable.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Reason::Config, message)
    }

    /// The server or the machine could not do it.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
