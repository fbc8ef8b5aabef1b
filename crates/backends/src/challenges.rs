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
    open: BTreeMap<[u8; 16], Question>,
}

#[derive(Debug)]
struct Question {
    user: String,
    asked: Instant,
    /// The account's when the password was right.
    proof_since: u64,
}

impl Challenges {
    /// Asks `user` one more question; returns what the answer has to come with. `proof_since` is
    /// that of the account whose password was right.
    pub(crate) fn ask(&mut self, now: Instant, user: &str, proof_since: u64) -> [u8; 16] {
        self.open.retain(|_, open| now.saturating_duration_since(open.asked) < PATIENCE);
        let of_user = self.open.values().filter(|open| open.user == user).count();
        if of_user >= MAX_PER_USER {
            self.drop_oldest(|name| name == user);
        } else if self.open.len() >= MAX_OPEN {
            self.drop_oldest(|_| true);
        }
        let state = random_bytes();
        self.open.insert(state, Question { user: user.to_owned(), asked: now, proof_since });
        state
    }

    /// The `proof_since` of the question if it is open; each is answered once, rightly or not.
    pub(crate) fn take(&mut self, now: Instant, user: &str, state: &[u8]) -> Option<u64> {
        let open = self.open.remove(&<[u8; 16]>::try_from(state).ok()?)?;
        let is_in_time = now.saturating_duration_since(open.asked) < PATIENCE;
        (open.user == user && is_in_time).then_some(open.proof_since)
    }

    fn drop_oldest(&mut self, is_meant: impl Fn(&str) -> bool) {
        let meant = self.open.iter().filter(|(_, open)| is_meant(&open.user));
        let oldest = meant.min_by_key(|(_, open)| open.asked).map(|(state, _)| *state);
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

        let state = open.ask(now, "ann", 7);
        assert_eq!(open.take(now, "ann", &state), Some(7));
        assert_eq!(open.take(now, "ann", &state), None);

        let state = open.ask(now, "ann", 7);
        assert_eq!(open.take(now, "bob", &state), None);
        assert_eq!(open.take(now, "ann", &state), None, "a wrong answer was one");

        let state = open.ask(now, "ann", 7);
        assert_eq!(open.take(now + PATIENCE, "ann", &state), None);
        for wrong in [&b""[..], b"short", &[0; 17]] {
            assert_eq!(open.take(now, "ann", wrong), None);
        }
    }

    #[test]
    fn nobody_crowds_the_others_out() {
        let (mut open, now) = (Challenges::default(), Instant::now());
        let bob = open.ask(now, "bob", 7);

        let asked: Vec<_> = (0..100).map(|_| open.ask(now, "ann", 7)).collect();

        assert_eq!(open.open.len(), MAX_PER_USER + 1);
        assert_eq!(open.take(now, "bob", &bob), Some(7));
        assert_eq!(open.take(now, "ann", &asked[99]), Some(7));
    }
}
