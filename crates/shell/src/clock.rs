//! The wall clock that engines check certificates against.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::WallClock;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A clock that somebody keeps right with [`run`].
pub(crate) fn start() -> Arc<WallClock> {
    Arc::new(WallClock::new(now()))
}

/// Keeps the clock right for as long as the future lives.
pub(crate) async fn run(clock: Arc<WallClock>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        clock.set(now());
    }
}
