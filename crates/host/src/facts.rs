//! What this machine has of what Warren needs; changes nothing.

use std::fs::{self, OpenOptions};
use std::io;

use crate::nft;
use crate::route::Routing;
use crate::server::has_ipv6;
use crate::sysctl::{self, Setting};

/// CAP_NET_ADMIN (capability.h).
const NET_ADMIN_BIT: u32 = 12;

/// What `warren check` reports of the host. An `Err` holds the reason, for the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// This process may change the network.
    pub net_admin: bool,
    /// `/dev/net/tun` can be opened.
    pub tun: Result<(), String>,
    /// nf_tables answers.
    pub nf_tables: Result<(), String>,
    /// IPv4 packets are forwarded already; `None` if the kernel cannot.
    pub forwarding4: Option<bool>,
    /// IPv6 packets are forwarded already; `None` if the kernel cannot.
    pub forwarding6: Option<bool>,
    /// The kernel has policy rules, which keep a client's datagrams out of its own tunnel.
    pub rules: Result<(), String>,
    /// The kernel has IPv6.
    pub ipv6: bool,
    /// Chains of nf_tables, as "table chain", that drop forwarded packets by policy: members
    /// reach nothing behind this host unless those have a rule for them.
    pub forward_droppers: Vec<String>,
}

impl Facts {
    /// Looks at the host, from the network namespace of the calling thread.
    #[must_use]
    pub fn gather() -> Self {
        let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop);
        Self {
            net_admin: has_net_admin(),
            tun: tun.map_err(|error| tun_reason(&error)),
            nf_tables: nft::tables().map(drop).map_err(|error| {
                format!("nf_tables: {error}: load module nf_tables, or turn off network.nat")
            }),
            forwarding4: sysctl::is_on(Setting::Forward4),
            forwarding6: sysctl::is_on(Setting::Forward6),
            rules: Routing::open().and_then(|mut routing| routing.has_rules(false)).map_err(
                |error| format!("policy rules: {error}: host routes will be used in their place"),
            ),
            ipv6: has_ipv6(),
            forward_droppers: nft::forward_droppers().unwrap_or_default(),
        }
    }
}

fn tun_reason(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "load module tun, or pass the device into the container",
        io::ErrorKind::PermissionDenied => "run as root, or allow the device in the container",
        _ => "check module tun",
    };
    format!("/dev/net/tun: {error}: {advice}")
}

fn has_net_admin() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> NET_ADMIN_BIT & 1 == 1)
}

#[cfg(test)]
mod tests;
