//! What the operator and the service manager say by signal, and what they are told.

use std::io;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wish {
    /// SIGTERM or SIGINT: say goodbye and end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that the program takes care of itself, from the moment this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    on_hangup: Wish,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP. Must be called inside a Tokio runtime.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| -> io::Result<Signal> { signal(kind) };
        (|| {
            Ok(Self {
                terminate: listen(SignalKind::terminate())?,
                interrupt: listen(SignalKind::interrupt())?,
                hangup: listen(SignalKind::hangup())?,
                on_hangup: Wish::Reload,
            })
        })()
        .map_err(|error: io::Error| anyhow::Error::new(error))
        .context("cannot handle signals")
    }

    /// For a program that has nothing to read again: SIGHUP says that its terminal is gone, and
    /// ends it as SIGTERM does.
    pub(crate) fn ending_with_the_terminal(mut self) -> Self {
        self.on_hangup = Wish::Stop;
        self
    }

    /// Waits for the next one. Cancelling it loses none.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => self.on_hangup,
        }
    }
}

/// Tells the service manager, if there is one, that everything is open.
pub(crate) fn tell_ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager, if there is one, that the end has begun.
pub(crate) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Signals go to the whole process: tests that raise some take turns.
#[cfg(test)]
pub(crate) async fn one_at_a_time() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn a_hangup_reloads_and_a_termination_stops() {
        let _alone = one_at_a_time().await;
        let mut signals = Signals::listen().expect("signals can be handled");

        raise(Signal::SIGHUP).expect("raised");
        assert_eq!(signals.next().await, Wish::Reload);

        raise(Signal::SIGTERM).expect("raised");
        assert_eq!(signals.next().await, Wish::Stop);

        raise(Signal::SIGINT).expect("raised");
        assert_eq!(signals.next().await, Wish::Stop);
    }
}
