//! A server or client at work, from the moment it runs to the moment it has tidied up.

use anyhow::{Context, bail};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::signals::{Signals, Wish, tell_stopping};

/// A server or client at work.
#[derive(Debug)]
pub(crate) struct Running {
    /// Asks it to say goodbye and end.
    pub(crate) stop: oneshot::Sender<()>,
    /// Ends when it has put the machine back in order; before it is asked to, only if it broke.
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits until a signal ends it or it breaks; `reload` runs at every SIGHUP.
    ///
    /// A second SIGTERM or Ctrl-C does not wait for the goodbye; the next start tidies up.
    pub(crate) async fn until_told(
        self,
        signals: &mut Signals,
        mut reload: impl AsyncFnMut(),
    ) -> anyhow::Result<()> {
        let Self { stop, mut task } = self;
        loop {
            tokio::select! {
                result = &mut task => {
                    tell_stopping();
                    return result.context("ended early")?;
                }
                wish = signals.next() => match wish {
                    Wish::Stop => break,
                    Wish::Reload => reload().await,
                },
            }
        }

        tell_stopping();
        let _ = stop.send(());
        loop {
            tokio::select! {
                result = &mut task => return result.context("ended early")?,
                wish = signals.next() => match wish {
                    Wish::Stop => bail!("told to stop twice; the next start tidies up"),
                    Wish::Reload => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;
    use crate::signals::one_at_a_time;

    fn running(
        work: impl FnOnce(oneshot::Receiver<()>) -> JoinHandle<anyhow::Result<()>>,
    ) -> Running {
        let (stop, stopped) = oneshot::channel();
        Running { stop, task: work(stopped) }
    }

    #[tokio::test]
    async fn a_signal_asks_it_to_stop_and_its_result_counts() {
        let _alone = one_at_a_time().await;
        let mut signals = Signals::listen().expect("signals can be handled");
        let running = running(|stopped| {
            tokio::spawn(async {
                stopped.await.context("dropped, not asked")?;
                bail!("one route stayed")
            })
        });
        raise(Signal::SIGHUP).expect("raised");

        let mut reloads = 0;
        let ended = running.until_told(&mut signals, async || {
            reloads += 1;
            raise(Signal::SIGTERM).expect("raised");
        });
        let error = ended.await.expect_err("it said so");

        assert_eq!((reloads, error.to_string().as_str()), (1, "one route stayed"));
    }

    #[tokio::test]
    async fn what_breaks_by_itself_says_why() {
        let _alone = one_at_a_time().await;
        let mut signals = Signals::listen().expect("signals can be handled");
        let running = running(|_| tokio::spawn(async { bail!("the device is gone") }));

        let error = running.until_told(&mut signals, async || {}).await.expect_err("it broke");

        assert_eq!(error.to_string(), "the device is gone");
    }

    #[tokio::test]
    async fn a_goodbye_that_hangs_can_be_cut_short() {
        let _alone = one_at_a_time().await;
        let mut signals = Signals::listen().expect("signals can be handled");
        let (asked, was_asked) = oneshot::channel();
        let running = running(|stopped| {
            tokio::spawn(async {
                let _ = stopped.await;
                let _ = asked.send(());
                std::future::pending().await
            })
        });
        raise(Signal::SIGINT).expect("raised");

        let again = async {
            was_asked.await.expect("it was asked");
            raise(Signal::SIGINT).expect("raised");
        };
        let (ended, ()) = tokio::join!(running.until_told(&mut signals, async || {}), again);

        assert!(ended.expect_err("cut short").to_string().contains("twice"));
    }
}
