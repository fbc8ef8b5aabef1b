//! Questions that wait for their answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::random::random_bytes;

/// How long a question may be answered: time to find the telephone.
const PATIENCE: Duration = Duration::from_secs(300);
/// Questions that wait at once. Only who knows a password causes one, so this is many.
const MAX_OPEN: usize = 4096;
/// Of these, for one user: nobody who has stolen a password crowds the others out.
const MAX_PER_USER: usize = 16;

/// Who has shown the right password and still owes a code.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    open: BTreeMap<[u8; 16], (String, Instant)>,
}

impl Challenges {
    /// Asks `user` one more question; returns what the answer has to come with.
    pub(crate) fn ask(&mut self, now: Instant, user: &str) -> [u8; 16] {
        self.open.retain(|_, (_, asked)| now.saturating_duration_since(*asked) < PATIENCE);
        let of_user = self.open.values().filter(|(name, _)| name == user).count();
        if of_user >= MAX_PER_USER {
            self.drop_oldest(|name| name == user);
        } else if self.open.len() >= MAX_OPEN {
            self.drop_oldest(|_| true);
        }
        let state = random_bytes();
        self.open.insert(state, (user.to_owned(), now));
        state
    }

    /// Whether the question is open; each is answered once, rightly or not.
    pub(crate) fn take(&mut self, now: Instant, user: &str, state: &[u8]) -> bool {
        let Ok(state) = <[u8; 16]>::try_from(state) else { return false };
        let asked = self.open.remove(&state);
        asked.is_some_and(|(name, asked)| {
            name == user && now.saturating_duration_since(asked) < PATIENCE
        })
    }

    fn drop_oldest(&mut self, is_meant: impl Fn(&str) -> bool) {
        let meant = self.open.iter().filter(|(_, (name, _))| is_meant(name));
        let oldest = meant.min_by_key(|(_, (_, asked))| *asked).map(|(state, _)| *state);
        if let Some(state) = oldest {
            self.open.remove(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_once_by_whom_it_was_asked_and_in_time() {
        let (mut open, now) = (Challenges::default(), Instant::now());

        let state = open.ask(now, "ann");
        assert!(open.take(now, "ann", &state));
        assert!(!open.take(now, "ann", &state));

        let state = open.ask(now, "ann");
        assert!(!open.take(now, "bob", &state));
        assert!(!open.take(now, "ann", &state), "a wrong answer was one");

        let state = open.ask(now, "ann");
        assert!(!open.take(now + PATIENCE, "ann", &state));
        for wrong in [&b""[..], b"short", &[0; 17]] {
            assert!(!open.take(now, "ann", wrong));
        }
    }

    #[test]
    fn nobody_crowds_the_others_out() {
        let (mut open, now) = (Challenges::default(), Instant::now());
        let bob = open.ask(now, "bob");

        let asked: Vec<_> = (0..100).map(|_| open.ask(now, "ann")).collect();

        assert_eq!(open.open.len(), MAX_PER_USER + 1);
        assert!(open.take(now, "bob", &bob));
        assert!(open.take(now, "ann", &asked[99]));
    }
}
