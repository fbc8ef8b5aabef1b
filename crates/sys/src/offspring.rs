//! A second process of the same program.

use std::io;

use nix::sys::wait::waitpid;
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

impl Offspring {
    /// Waits until it has ended.
    pub fn wait(&self) {
        while waitpid(self.0, None) == Err(nix::errno::Errno::EINTR) {}
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
