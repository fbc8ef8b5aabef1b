//! How often a profile's servers are tried, how long it is waited in between, and how an attempt
//! counts.

use std::time::Duration;

use contract::{Fatal, TerminateCause};

use super::guide::Order;

/// How one attempt ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// We were told to stop.
    Told,
    /// It was up for as long as it should be.
    Over(String),
    /// The server wants another login than this one, and there is one.
    Again,
    /// The server refused; trying again would not help.
    Refused(String),
    /// We were told to connect anew.
    Restarted(&'static str),
    /// It came up, and went down for this reason.
    Lost(String),
    /// It never came up.
    Failed(String),
}

impl Ending {
    /// What an order means for an attempt that has not begun.
    pub(super) fn by(order: Order) -> Self {
        match order {
            Order::Stop => Self::Told,
            Order::Restart(reason) => Self::Restarted(reason),
        }
    }

    /// What a connection's end means; `words` are the best there are for it.
    pub(super) fn of(fatal: Fatal, was_up: bool, words: Option<String>) -> Self {
        let with_words = |reason: &str| match &words {
            Some(words) => format!("{reason}; {words}"),
            None => reason.to_owned(),
        };
        match fatal {
            Fatal::Denied(reason) | Fatal::Local(reason) => Self::Refused(with_words(reason)),
            Fatal::Finished(TerminateCause::AdminReboot) if was_up => {
                Self::Lost("the server goes away for a moment".to_owned())
            }
            _ if was_up => Self::Lost(with_words(fatal.reason())),
            Fatal::Finished(_) => Self::Failed(words.unwrap_or_else(|| fatal.reason().to_owned())),
            _ => Self::Failed(with_words(fatal.reason())),
        }
    }
}

/// Rounds through the servers of a profile.
#[derive(Debug)]
pub(super) struct Rounds {
    /// The shortest and the longest pause.
    pauses: (Duration, Duration),
    max: Option<u32>,
    wait: Duration,
    /// Since the last connection that came up.
    failed: u32,
}

impl Rounds {
    /// `connect-retry` and `connect-retry-max`.
    pub(super) fn new(pauses: (Duration, Duration), max: Option<u32>) -> Self {
        Self { pauses, max, wait: pauses.0, failed: 0 }
    }

    /// A connection that was up is lost: everything begins anew. Returns the pause before that.
    pub(super) fn lost(&mut self) -> Duration {
        let (first, _) = self.pauses;
        (self.wait, self.failed) = (first, 0);
        first
    }

    /// No server could be had. Returns the pause before the next round.
    ///
    /// # Errors
    ///
    /// The number of rounds, if they were enough.
    pub(super) fn failed(&mut self) -> Result<Duration, u32> {
        self.failed += 1;
        if self.max.is_some_and(|max| self.failed >= max) {
            return Err(self.failed);
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(self.pauses.1);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(max: Option<u32>) -> Rounds {
        Rounds::new((Duration::from_secs(1), Duration::from_secs(5)), max)
    }

    #[test]
    fn pauses_grow_until_a_connection_was_up() {
        let mut rounds = rounds(None);
        let pauses = [1, 2, 4, 5, 5].map(|seconds| Ok(Duration::from_secs(seconds)));
        assert_eq!([(); 5].map(|()| rounds.failed()), pauses);

        assert_eq!(rounds.lost(), Duration::from_secs(1));
        assert_eq!(rounds.failed(), pauses[0]);
    }

    #[test]
    fn a_round_that_had_a_connection_does_not_count() {
        let mut rounds = rounds(Some(2));
        assert!(rounds.failed().is_ok());
        rounds.lost();
        assert!(rounds.failed().is_ok());
        assert_eq!(rounds.failed(), Err(2));
    }

    #[test]
    fn a_server_that_restarts_before_it_let_anybody_in_was_never_a_connection() {
        let restarts = Fatal::Finished(TerminateCause::AdminReboot);
        assert!(matches!(Ending::of(restarts, true, None), Ending::Lost(_)));
        for words in [None, Some("the server says: later".to_owned())] {
            assert!(matches!(Ending::of(restarts, false, words), Ending::Failed(_)));
        }
    }
}
