//! What a user interface may want to know of an initiator's way to a session.

/// As many as are kept until somebody asks: a server may say much.
const MAX_TIDINGS: usize = 64;
/// The longest text of a server's, in characters: one control message.
pub(crate) const MAX_TIDING: usize = 2048;

/// One piece of it. Texts of the server's are printable ASCII.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tiding {
    /// The server is asked for our place in its network.
    AsksForOptions,
    /// The server refused the login; in its own words, which may be none.
    Refused(String),
    /// Somebody has to confirm the login elsewhere.
    Pending {
        /// How long that may take; 0 if the server does not say.
        seconds: u64,
    },
    /// What follows `INFO,` or `INFO_PRE,`.
    Info(String),
    /// What the server pushes for user interfaces.
    Echo(String),
}

/// What has come up since somebody asked; bounded.
#[derive(Debug, Default)]
pub(crate) struct Tidings(Vec<Tiding>);

impl Tidings {
    pub(crate) fn add(&mut self, tiding: Tiding) {
        if self.0.len() < MAX_TIDINGS {
            self.0.push(tiding);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Tiding> {
        std::mem::take(&mut self.0)
    }
}
