use std::sync::Arc;
use std::time::Duration;

use contract::WallClock;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// The shell's clock as rustls wants to see it: stands still between two ticks of the shell.
#[derive(Clone, Debug)]
pub struct FixedTime(Arc<WallClock>);

impl FixedTime {
    /// Reads `clock` whenever rustls asks for the time.
    #[must_use]
    pub fn new(clock: Arc<WallClock>) -> Self {
        Self(clock)
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0.now()))
    }
}

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}
