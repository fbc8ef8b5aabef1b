//! Steps that engines want made where they may wait, each on a thread of its own.

use contract::{Done, Work};
use tokio::sync::Semaphore;

/// Steps under way at once. They wait for one device that does one thing at a time; more threads
/// would only wait more.
static ROOM: Semaphore = Semaphore::const_new(4);

/// Makes the step, and tells what came of it; if it can be made at all.
///
/// A thread that hangs is waited for by nobody: neither by the driver, nor by the end of the
/// program.
pub(crate) fn run(work: Work, tell: impl FnOnce(Done) + Send + 'static) {
    tokio::spawn(async move {
        // It is never closed.
        let Ok(place) = ROOM.acquire().await else { return };
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn steps_that_hang_stop_neither_the_driver_nor_take_more_than_their_room() {
        let (started, starts) = mpsc::channel();
        let mut held = Vec::new();
        for n in 0..20 {
            let (let_go, wait) = mpsc::channel::<()>();
            let started = started.clone();
            let work = Work::new(move || {
                started.send(n).unwrap();
                let _ = wait.recv();
            });
            held.push(let_go);
            run(work, |_| {});
        }

        let mut running = Vec::new();
        while running.len() < 4 {
            tokio::task::yield_now().await;
            running.extend(starts.try_iter());
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(starts.try_recv().is_err(), "a fifth thread");

        held.clear();
        while running.len() < 20 {
            tokio::task::yield_now().await;
            running.extend(starts.try_iter());
        }
    }

    #[tokio::test]
    async fn what_came_of_a_step_is_told() {
        let (tell, told) = tokio::sync::oneshot::channel();

        run(Work::new(|| 42), move |done| {
            let _ = tell.send(done.take::<i32>());
        });

        let told = tokio::time::timeout(Duration::from_secs(10), told).await;
        assert_eq!(told.unwrap().unwrap(), Some(42));
    }
}
