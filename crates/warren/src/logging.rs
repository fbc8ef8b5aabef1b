//! The log: stderr, so that stdout stays for results.

use std::io::{self, IsTerminal};

use openvpn_management::LogTap;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Starts the log at `level`; `RUST_LOG` says otherwise.
pub(crate) fn start(level: &str) {
    start_with(level, None);
}

/// The same, with somebody who listens.
pub(crate) fn start_with(level: &str, tap: Option<&LogTap>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // The journal has a clock of its own.
    let log = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().with_filter(filter).boxed(),
        None => log.with_filter(filter).boxed(),
    };
    let started = tracing_subscriber::registry().with(log).with(tap.map(LogTap::layer)).try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "the log has been started before");
    }
}
