//! Which network namespace the process is in.

use std::ffi::c_void;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// The number of the calling thread's network namespace: unique until the machine restarts.
///
/// # Errors
///
/// Fails on Linux before 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let value: *mut u64 = &mut cookie;

    // SAFETY: SO_NETNS_COOKIE writes one 64-bit number, which `value` has room for, as `len` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            value.cast::<c_void>(),
            &mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Moves the calling test's thread into a namespace of its own; false, and a message, where that
/// is not allowed or there is no TUN driver.
#[cfg(test)]
pub(crate) fn enter_fresh() -> bool {
    let entered = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
    let driver = std::fs::exists("/dev/net/tun").unwrap_or(false);
    if entered.is_err() || !driver {
        eprintln!("skipped: needs root and /dev/net/tun");
    }
    entered.is_ok() && driver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_keeps_its_cookie_and_another_has_another() {
        let here = netns_cookie().unwrap();
        assert_eq!(netns_cookie().unwrap(), here);

        if enter_fresh() {
            assert_ne!(netns_cookie().unwrap(), here);
        }
    }
}
