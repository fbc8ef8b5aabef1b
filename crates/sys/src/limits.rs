//! Limits that the operating system puts on the process.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise_open_files().unwrap();

        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}
