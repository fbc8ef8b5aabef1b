//! What can go wrong with the host, in one line for the operator.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;

/// Why the host could not be set up.
///
/// Each prints as one line that says what is wrong, where, and what to do; the cause is part of
/// the line and is not repeated as a source.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// The kernel refused an order.
    #[error("cannot {what}: {cause}{}", advice(cause))]
    Kernel {
        /// The order, to follow "cannot".
        what: String,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A file could not be read or written.
    #[error("{}: cannot {what}: {cause}{}", path.display(), advice(cause))]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried, to follow "cannot".
        what: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The journal is not what this program writes.
    #[error(
        "{}: not a journal of host changes ({cause}): check the host's addresses, routes and \
         nf_tables by hand, then delete the file",
        path.display()
    )]
    Journal {
        /// Which file.
        path: PathBuf,
        /// Where it stops making sense.
        cause: serde_json::Error,
    },
    /// The register of shared settings is not what this program writes.
    #[error(
        "{}: not a register of kernel settings ({cause}): set net.ipv4.ip_forward, \
         net.ipv6.conf.all.forwarding and net.ipv4.conf.all.src_valid_mark as they shall be \
         without Warren, then delete the file",
        path.display()
    )]
    Register {
        /// Which file.
        path: PathBuf,
        /// Where it stops making sense.
        cause: serde_json::Error,
    },
    /// The network is in use elsewhere on this host.
    #[error(
        "{key}: {pool} overlaps {other}, which this host reaches through {interface}: \
         set {key} to a network that is free"
    )]
    Overlap {
        /// The key of the configuration.
        key: &'static str,
        /// Our network.
        pool: IpNet,
        /// The other one.
        other: IpNet,
        /// Where the other one is.
        interface: String,
    },
    /// The interface of `network.bridge` cannot be bridged.
    #[error("network.bridge: {interface}: {why}")]
    Bridge {
        /// Which interface.
        interface: String,
        /// Why not, and what to do.
        why: String,
    },
    /// There is no such interface.
    #[error("interface {0} does not exist: it has to be made before it is given addresses")]
    NoInterface(String),
    /// `resolvectl` failed.
    #[error("resolvectl: {0}: check systemd-resolved, or turn off setting name servers")]
    Resolvectl(String),
    /// `/etc/resolv.conf` is what we would not make of it again.
    #[error(
        "/etc/resolv.conf: it is set-user-id, or a link to what is no known resolver's: make a \
         plain file of it"
    )]
    OddResolvConf,
    /// A word for `resolvectl` that could pass for an option.
    #[error(
        "resolvectl: interface {0:?}: an order that Warren never gives: check the state folder"
    )]
    OddLinkDns(String),
    /// The process that keeps root's rights could not do it, and says why.
    #[error("{0}")]
    Keeper(String),
}

impl HostError {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |cause| Self::Kernel { what, cause }
    }

    pub(crate) fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::File { path, what, cause }
    }
}

/// What to do about the errors that have one usual reason.
fn advice(cause: &io::Error) -> &'static str {
    use nix::errno::Errno;

    match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => ": run as root, or grant CAP_NET_ADMIN",
        Some(Errno::EROFS) => ": make it writable, or set the value outside of this container",
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => {
            ": this kernel lacks it; load or enable the module"
        }
        _ => "",
    }
}
