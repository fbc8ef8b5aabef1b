//! Limits that the operating system puts on the process, and its memory.

use std::ffi::c_int;
use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::mm::{MlockAllFlags, mlockall};

/// Blocks of memory from this size on are given back to the system when they are freed.
///
/// Locked memory cannot be given back page by page, as the C library does with blocks that it
/// keeps on its heap; and by default it keeps ever larger ones, such as the 19 MiB that hash a
/// password.
const MAX_HEAP_BLOCK: c_int = 1024 * 1024;

/// Lets the process open as many descriptors as it is allowed to; how many that is.
///
/// # Errors
///
/// Fails if the limit cannot be read or set.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// No crash writes the memory, with its keys, to a file.
///
/// # Errors
///
/// Fails if the limit cannot be set.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Lifts the limit on locked memory, if the process may; whether there is none now.
#[must_use]
pub fn lift_locked_memory() -> bool {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok()
        || getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY)
}

/// Keeps the memory of this process out of the swap: pages that are in use, and others as soon as
/// they are. It costs no memory but what would have been swapped out.
///
/// # Errors
///
/// Fails on Linux before 4.4, and beyond the limit without `CAP_IPC_LOCK`.
pub fn lock_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    // SAFETY: mallopt takes two numbers by value; there is no other thread that allocates, and
    // one would do no harm.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAX_HEAP_BLOCK) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise_open_files().unwrap();

        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }

    #[test]
    fn no_crash_writes_a_core_file() {
        forbid_core_dumps().unwrap();

        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
