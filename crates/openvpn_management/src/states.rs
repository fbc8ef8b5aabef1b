//! Where the server or client stands, and stood.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openvpn::management::Show;

use crate::answer::last;
use crate::notice::{Notice, Notices};

/// States that are remembered.
const MAX_STATES: usize = 100;

/// The last states; consoles that want to know are told of new ones.
#[derive(Debug)]
pub(crate) struct States {
    past: Mutex<VecDeque<String>>,
    notices: Arc<Notices>,
}

impl States {
    pub(crate) fn new(notices: Arc<Notices>) -> Self {
        Self { past: Mutex::default(), notices }
    }

    /// One more, without `>STATE:`.
    pub(crate) fn enter(&self, state: String) {
        {
            let mut past = self.past();
            past.push_back(state.clone());
            if past.len() > MAX_STATES {
                past.pop_front();
            }
        }
        self.notices.tell(Notice::State(state.into()));
    }

    pub(crate) fn last(&self, show: Show) -> Vec<String> {
        last(&self.past(), show)
    }

    /// Whether the latest has this name.
    pub(crate) fn is_in(&self, name: &str) -> bool {
        self.past().back().is_some_and(|state| state.split(',').nth(1) == Some(name))
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
