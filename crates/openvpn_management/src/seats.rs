//! Room for consoles, and for those who have not said the password.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// Consoles at once: one that decides, a few that count, and one for whoever wants to look.
pub(crate) const MAX_CONSOLES: usize = 8;
/// Connections at once that are asked for the password.
pub(crate) const MAX_STRANGERS: usize = 8;

/// Who is there.
#[derive(Debug)]
pub(crate) struct Seats {
    consoles: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
}

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    /// The oldest first.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    evicted: oneshot::Sender<()>,
    /// Whether it pays for a wrong guess. It stays until it has: whoever guesses must not do so
    /// faster by coming anew.
    is_paying: bool,
}

/// A place at the door; free again when this goes.
#[derive(Debug)]
pub(crate) struct Stranger {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
}

impl Seats {
    /// With room for so many consoles.
    pub(crate) fn new(consoles: usize) -> Self {
        Self { consoles: Arc::new(Semaphore::new(consoles)), strangers: Arc::default() }
    }

    /// A seat, as soon as there is one, or `patience` is over.
    pub(crate) async fn sit(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        timeout(patience, Arc::clone(&self.consoles).acquire_owned()).await.ok()?.ok()
    }

    /// A place at the door, and what says that it is needed for somebody else. Where there is none,
    /// whoever has been silent for longest has to go.
    pub(crate) fn wait(&self) -> Option<(Stranger, oneshot::Receiver<()>)> {
        let mut strangers = lock(&self.strangers);
        if strangers.waiting.len() >= MAX_STRANGERS {
            let mut oldest_first = strangers.waiting.iter();
            let (oldest, _) = oldest_first.find(|(_, waiting)| !waiting.is_paying)?;
            let oldest = *oldest;
            if let Some(waiting) = strangers.waiting.remove(&oldest) {
                let _ = waiting.evicted.send(());
            }
        }
        let number = strangers.next;
        strangers.next += 1;
        let (sender, evicted) = oneshot::channel();
        strangers.waiting.insert(number, Waiting { evicted: sender, is_paying: false });
        Some((Stranger { number, strangers: Arc::clone(&self.strangers) }, evicted))
    }
}

impl Stranger {
    /// It has guessed wrong, and pays; or has paid.
    pub(crate) fn pays(&self, is_paying: bool) {
        if let Some(waiting) = lock(&self.strangers).waiting.get_mut(&self.number) {
            waiting.is_paying = is_paying;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.strangers).waiting.remove(&self.number);
    }
}

fn lock(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}
