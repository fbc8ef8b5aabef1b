//! The log: stderr, so that stdout stays for results.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts the log at `level`; `RUST_LOG` says otherwise.
pub(crate) fn start(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // The journal has a clock of its own.
    let started = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().try_init(),
        None => log.try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the log has been started before");
    }
}
