//! A second process of the same program.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// A process that was started by [`spawn`].
#[derive(Debug)]
pub struct Offspring(Pid);

/// Starts a process that runs `life` and ends with it; what is open here is open there.
///
/// # Errors
///
/// Fails if the calling process has more than one thread, since the others would be missing in
/// the new one together with what they hold locked; or if the kernel refuses.
pub fn spawn(life: impl FnOnce()) -> io::Result<Offspring> {
    if std::fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(io::Error::other("a process is divided before threads are started"));
    }
    // SAFETY: this is the only thread, so that no lock is held by one that the child lacks, and
    // the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Offspring(child)),
        ForkResult::Child => {
            life();
            std::process::exit(0);
        }
    }
}

/// The same for a `life` that is trusted with no more than `line`: of what is open here, nothing
/// else but standard input, output and error is open there. It must use nothing else that is open.
///
/// # Errors
///
/// As [`spawn`].
pub fn spawn_with_only(line: UnixStream, life: impl FnOnce(UnixStream)) -> io::Result<Offspring> {
    spawn(|| {
        let kept = line.as_raw_fd().unsigned_abs();
        let last = kept.checked_sub(1).map_or(Ok(()), |before| close_range(3, before));
        if last.and_then(|()| close_range(kept.saturating_add(1).max(3), u32::MAX)).is_ok() {
            life(line);
        }
    })
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: plain numbers. Whoever owns what is closed is in the other process: this one ends
    // without running anything of theirs.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) })?;
    Ok(())
}

impl Offspring {
    /// Waits until it has ended.
    pub fn wait(&self) {
        while waitpid(self.0, None) == Err(Errno::EINTR) {}
    }

    /// Ends it, whatever it is doing.
    pub fn kill(&self) {
        // Not waited for yet, so that the number is nobody else's.
        let _ = kill(self.0, Signal::SIGKILL);
    }

    /// Waits until it has ended, but no longer than this: a process that is inside the kernel ends
    /// only when it comes out. Says whether it has.
    #[must_use]
    pub fn ends_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match waitpid(self.0, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return false,
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_divided() {
        let refused = spawn(|| unreachable!("no second process")).unwrap_err().to_string();

        assert!(refused.contains("before threads"), "{refused}");
    }
}
