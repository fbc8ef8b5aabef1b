//! Waiting for several descriptors, and being woken from another thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How many ready descriptors one wait returns; the others are returned by the next.
const MAX_READY: usize = 32;

/// The token of the waker, which nobody else can have.
const WOKEN: u64 = u64::MAX;

/// Waits until a descriptor is readable; level-triggered, so nothing is lost by reading only a
/// part.
#[derive(Debug)]
pub struct Poller {
    epoll: Arc<Epoll>,
    waker: Arc<EventFd>,
}

/// Changes what a [`Poller`] waits for, from any thread.
#[derive(Clone, Debug)]
pub struct Interest(Arc<Epoll>);

/// Ends a [`Poller::wait`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Poller {
    /// A poller that waits for its waker only.
    ///
    /// # Errors
    ///
    /// Fails if the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker = EventFd::from_value_and_flags(0, flags)?;
        epoll.add(&waker, EpollEvent::new(EpollFlags::EPOLLIN, WOKEN))?;

        Ok(Self { epoll: Arc::new(epoll), waker: Arc::new(waker) })
    }

    /// What wakes this poller.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.waker))
    }

    /// What changes this poller's mind from elsewhere.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest(Arc::clone(&self.epoll))
    }

    /// Waits for `source` too; it is reported as `token`.
    ///
    /// # Errors
    ///
    /// Fails if the descriptor is waited for already, or cannot be.
    pub fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Waits for `source` no longer.
    ///
    /// # Errors
    ///
    /// Fails if it was not waited for.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(source)?)
    }

    /// Blocks until something is readable, the waker is used, or `limit` is over (rounded down to
    /// milliseconds); the tokens of what is readable, without the waker.
    ///
    /// # Errors
    ///
    /// Only if the poller itself is broken.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<ArrayVec<u64, MAX_READY>> {
        let timeout = limit.map_or(EpollTimeout::NONE, |limit| {
            EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); MAX_READY];
        let count = loop {
            match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };

        let tokens = events[..count].iter().map(EpollEvent::data);
        let woken = tokens.clone().any(|token| token == WOKEN);
        if woken {
            // Takes back every wake-up so far; there is one, so it cannot block.
            let _ = self.waker.read();
        }
        Ok(tokens.filter(|token| *token != WOKEN).collect())
    }
}

impl Interest {
    /// Whether the poller reports `source`, which it waits for already, also when it is writable.
    ///
    /// # Errors
    ///
    /// Fails if it is not waited for.
    pub fn in_writing(&self, source: impl AsFd, token: u64, wanted: bool) -> io::Result<()> {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wanted);
        Ok(self.0.modify(source, &mut EpollEvent::new(flags, token))?)
    }
}

impl Waker {
    /// Wakes the poller now, or at its next wait.
    pub fn wake(&self) {
        // Fails only if 2^64 wake-ups have not been looked at, and then one more is no news.
        let _ = self.0.write(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_readable_is_reported_until_it_is_read() {
        let mut poller = Poller::new().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        poller.add(&reader, 7).unwrap();
        writer.write_all(b"x").unwrap();

        assert_eq!(poller.wait(None).unwrap()[..], [7]);
        assert_eq!(poller.wait(None).unwrap()[..], [7]);
        poller.remove(&reader).unwrap();
        assert!(poller.wait(Some(Duration::ZERO)).unwrap().is_empty());
    }

    #[test]
    fn being_writable_is_reported_while_somebody_wants_to_know() {
        let mut poller = Poller::new().unwrap();
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        poller.add(&left, 7).unwrap();
        let interest = poller.interest();
        assert!(poller.wait(Some(Duration::ZERO)).unwrap().is_empty());

        interest.in_writing(&left, 7, true).unwrap();
        assert_eq!(poller.wait(None).unwrap()[..], [7]);
        interest.in_writing(&left, 7, false).unwrap();

        assert!(poller.wait(Some(Duration::ZERO)).unwrap().is_empty());
    }

    #[test]
    fn a_waker_ends_one_wait() {
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || {
            waker.wake();
            waker.wake();
        });

        assert!(poller.wait(None).unwrap().is_empty());

        thread.join().unwrap();
        poller.waker().wake();
        assert!(poller.wait(None).unwrap().is_empty());
    }
}
