//! The seam between the API and the server that runs.

use std::sync::Arc;

use config::Config;
use contract::{BoxFuture, Farewell};

use crate::failure::Failure;
use crate::types::{Reloaded, Session, Status};

/// What a running server can be asked and told.
pub trait Control: std::fmt::Debug + Send + Sync {
    /// How the server is doing.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// Every live session, oldest first.
    fn sessions(&self) -> BoxFuture<'_, Vec<Session>>;

    /// Ends every session that `select` names, tells their peers `farewell`, and returns how many
    /// there were.
    ///
    /// A session whose handshake is under way counts once its user is known: the store has been
    /// changed before this is called, so a later one is refused by the authenticator.
    fn end_sessions<'a>(&'a self, select: &'a Select, farewell: Farewell) -> BoxFuture<'a, u64>;

    /// Reads the configuration file again and applies what changed.
    ///
    /// # Errors
    ///
    /// Fails, having changed nothing, if the file is unusable ([`Reason::Config`]) or the machine
    /// refuses what it asks for.
    ///
    /// [`Reason::Config`]: crate::Reason::Config
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Failure>>;

    /// Handshakes hear at once which certificates are registered, as the store has it now.
    fn tell_registered(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The configuration in force: profiles and fixed addresses depend on it.
    fn config(&self) -> Arc<Config>;
}

/// Which sessions are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Select {
    /// The one with this [`Session::id`].
    Id(u64),
    /// All of this user.
    User(String),
    /// All that proved themselves with this certificate, as [`Session::certificate`] names it.
    Certificate(String),
    /// All that came with this client key (lower-case hexadecimal).
    ClientKey(String),
}

impl Select {
    /// Says whether `session` is meant.
    #[must_use]
    pub fn matches(&self, session: &Session) -> bool {
        match self {
            Self::Id(id) => session.id == *id,
            Self::User(user) => session.user == *user,
            Self::Certificate(serial) => session.certificate.as_ref() == Some(serial),
            Self::ClientKey(id) => session.client_key.as_ref() == Some(id),
        }
    }
}
