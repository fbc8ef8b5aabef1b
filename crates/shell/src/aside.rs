//! Steps that engines want made where they may wait, each on a thread of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use contract::{Done, Work};
use tokio::sync::Semaphore;

/// Steps under way at once of those who are not up yet. They wait for one device that does one
/// thing at a time; more threads would only wait more.
static ROOM: Semaphore = Semaphore::const_new(4);
/// And so many may wait for that: what a device that signs once a second does within a handshake's
/// patience. The others come back.
const MOST_NEWCOMERS: usize = 16;
static NEWCOMERS: AtomicUsize = AtomicUsize::new(0);
/// Steps under way at once of sessions that are up: newcomers must not cost them their keys.
static MEMBERS_ROOM: Semaphore = Semaphore::const_new(2);

/// Whose step it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    /// A session's that is up.
    Members,
    /// Anybody's.
    Newcomers,
}

/// Makes the step, and tells what came of it; if it can be made at all, and there is room: a
/// handshake that hears nothing ends by its own patience.
///
/// A thread that hangs is waited for by nobody: neither by the driver, nor by the end of the
/// program.
pub(crate) fn run(work: Work, whose: Whose, tell: impl FnOnce(Done) + Send + 'static) {
    let Some(waiting) = Waiting::begin(whose) else { return };
    tokio::spawn(async move {
        let room = if whose == Whose::Members { &MEMBERS_ROOM } else { &ROOM };
        // It is never closed.
        let Ok(place) = room.acquire().await else { return };
        drop(waiting);
        let making = move || {
            let done = work.run();
            drop(place);
            tell(done);
        };
        let spawned = std::thread::Builder::new().name("handshake".to_owned()).spawn(making);
        if let Err(error) = spawned {
            // The engine's own patience ends the handshake.
            tracing::warn!(%error, "a thread for a handshake");
        }
    });
}

/// A newcomer's step that has not begun.
struct Waiting(Whose);

impl Waiting {
    fn begin(whose: Whose) -> Option<Self> {
        if whose == Whose::Newcomers && NEWCOMERS.fetch_add(1, Ordering::Relaxed) >= MOST_NEWCOMERS
        {
            NEWCOMERS.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(whose))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0 == Whose::Newcomers {
            NEWCOMERS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// All in one: what there is room for is the whole program's.
    #[tokio::test]
    async fn newcomers_take_no_more_than_their_room_and_nothing_of_the_members() {
        let (started, starts) = mpsc::channel();
        let mut held = Vec::new();
        let mut begin = |n: usize, whose| {
            let (let_go, wait) = mpsc::channel::<()>();
            let started = started.clone();
            let work = Work::new(move || {
                started.send(n).unwrap();
                let _ = wait.recv();
            });
            held.push(let_go);
            run(work, whose, |_| {});
        };
        (0..MOST_NEWCOMERS + 10).for_each(|n| begin(n, Whose::Newcomers));
        let mut running = Vec::new();
        while running.len() < 4 {
            tokio::task::yield_now().await;
            running.extend(starts.try_iter());
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(starts.try_recv().is_err(), "a fifth thread");

        // A step of a member's is made all the same.
        begin(1000, Whose::Members);
        while running.len() < 5 {
            tokio::task::yield_now().await;
            running.extend(starts.try_iter());
        }
        assert_eq!(running[4], 1000);

        // Those for whom there was no room are not made, and later ones are.
        held.clear();
        while running.len() < MOST_NEWCOMERS + 1 {
            tokio::task::yield_now().await;
            running.extend(starts.try_iter());
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        run(Work::new(|| 42), Whose::Newcomers, move |done| {
            let _ = tell.send(done.take::<i32>());
        });
        let told = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert_eq!(told.unwrap().unwrap(), Some(42));
        assert!(starts.try_recv().is_err(), "{running:?}");
    }
}
