//! How many handshakes are under way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use contract::Path;

/// Handshakes under way at once: each is a TLS session of some 20 KiB, so this is a bound on
/// memory, not a limit that a crowd coming back after a restart would notice.
pub(crate) const MAX_HALF_OPEN: usize = 1024;

/// Of these, from one source: an IPv4 address or an IPv6 /64. A household or an office behind one
/// address comes back together, but nobody fills the room of everybody else.
pub(crate) const MAX_HALF_OPEN_PER_SOURCE: usize = 128;

/// Handshakes under way, in all and by source.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl HalfOpen {
    pub(crate) fn has_room(&self, path: Path) -> bool {
        let of_source = self.by_source.get(&source(path)).copied().unwrap_or_default();
        self.all < MAX_HALF_OPEN && of_source < MAX_HALF_OPEN_PER_SOURCE
    }

    pub(crate) fn begin(&mut self, path: Path) {
        self.all += 1;
        *self.by_source.entry(source(path)).or_default() += 1;
    }

    pub(crate) fn end(&mut self, path: Path) {
        self.all = self.all.saturating_sub(1);
        if let Entry::Occupied(mut entry) = self.by_source.entry(source(path)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Whom a handshake counts against.
pub(crate) fn source(path: Path) -> IpAddr {
    match path.remote.ip().to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}
