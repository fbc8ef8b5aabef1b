use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Which addresses a user's device had last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredLease {
    /// Whose.
    pub user: String,
    /// Which device; a second session of the same device at the same time has `#1` behind it.
    pub device: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// Keeps leases over restarts.
///
/// Called while the network is locked, so that what is stored is in the order in which it
/// happened: implementations hand on and return.
pub trait LeaseMemory: fmt::Debug + Send + Sync {
    /// Everything remembered, the least recently used first.
    fn load(&self) -> Vec<StoredLease>;

    /// Remembers a lease as the one used last, replacing what its user and device had.
    fn remember(&self, lease: &StoredLease);

    /// Forgets the lease of a user's device, because its addresses went to somebody else.
    fn forget(&self, user: &str, device: &str);
}

/// A memory that ends with the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl LeaseMemory for Forgetful {
    fn load(&self) -> Vec<StoredLease> {
        Vec::new()
    }

    fn remember(&self, _: &StoredLease) {}

    fn forget(&self, _: &str, _: &str) {}
}
