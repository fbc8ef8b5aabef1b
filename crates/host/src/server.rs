//! The server role: addresses of the network, forwarding, masquerading, filtering.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::change::{Change, Ledger};
use crate::error::HostError;
use crate::journal::Journal;
use crate::nft::Ruleset;
use crate::route::{Link, MAIN, Route, Routing};
use crate::sysctl::{self, Setting};

/// Bursts of the TCP of the host fit in; the tun driver's own 500 loses packets at some Gbit/s.
const QUEUE_LEN: u32 = 1000;
/// A route broader than this is a default route in disguise (`0.0.0.0/1` of a VPN client).
const BROAD4: u8 = 4;
/// The same for IPv6: `2000::/3` is all there is, `fc00::/7` all that is private.
const BROAD6: u8 = 7;

/// What the host has to be for a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerPlan {
    /// The TUN device, which exists.
    pub tun: String,
    /// The server's own IPv4 address, and the network's prefix length.
    pub address4: Option<Ipv4Net>,
    /// The server's own IPv6 address, and the network's prefix length.
    pub address6: Option<Ipv6Net>,
    /// The largest IP packet that the device carries.
    pub mtu: u16,
    /// Members reach the outside under the host's address.
    pub nat: bool,
    /// Subnets behind members, which this host reaches through the device.
    pub behind: Vec<IpNet>,
    /// The name of the nf_tables table that is ours, of family `inet`.
    pub table: String,
    /// The bridge whose network the server's may be a part of, for that is where its members are.
    pub bridge: Option<String>,
}

/// A host set up for a server.
///
/// Dropping it changes nothing: what is not [undone](Self::undo) stays in the journal, and is
/// undone by [`Journal::repair`].
#[derive(Debug)]
#[must_use = "the host stays changed until `undo`"]
pub struct ServerHost {
    ledger: Ledger,
    journal: Journal,
}

impl ServerHost {
    /// Turns the device on and gives it its addresses, puts the table in force, then turns
    /// forwarding on (for the families that have an address).
    ///
    /// On a kernel without IPv6, `address6` is left out with a warning in the log.
    ///
    /// # Errors
    ///
    /// Fails if the network is in use on another interface, or the kernel refuses something; the
    /// host is then as it was.
    pub fn apply(journal: &Journal, plan: &ServerPlan) -> Result<Self, HostError> {
        let want = prepare(journal, plan, &[])?;
        let ledger = Ledger::new(journal).apply(&want)?;
        Ok(Self { ledger, journal: journal.clone() })
    }

    /// Changes what differs from the plan in force; members' connections go on.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply); the former plan stays in force.
    pub fn update(&mut self, plan: &ServerPlan) -> Result<(), HostError> {
        let want = prepare(&self.journal, plan, self.ledger.made())?;
        self.ledger.update(&want)
    }

    /// Leaves the host as it was found. Goes on past errors; returns what could not be undone,
    /// one line each.
    #[must_use = "these lines are for the operator"]
    pub fn undo(self) -> Vec<String> {
        self.ledger.undo()
    }
}

/// Readies the device, and lists the changes that the plan takes; `made` are those in force.
fn prepare(
    journal: &Journal,
    plan: &ServerPlan,
    made: &[Change],
) -> Result<Vec<Change>, HostError> {
    let (state, place) = (journal.state(), journal.place());
    let address6 = plan.address6.filter(|_| has_ipv6());
    if plan.address6.is_some() && address6.is_none() {
        tracing::warn!("this kernel has no IPv6: network.ipv6 is left out");
    }
    let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
    let link = find(&mut routing, &plan.tun)?;
    let bridge = match &plan.bridge {
        Some(name) => Some(routing.facts_of(name)?),
        None => None,
    };
    let bridge_link = bridge.as_ref().map(|bridge| bridge.link.index);
    for (key, net) in
        [("network.ipv4", plan.address4.map(IpNet::V4)), ("network.ipv6", address6.map(IpNet::V6))]
    {
        // What is ours already is not given up because somebody else came to overlap it.
        let is_made = |net| made.contains(&Change::Address { link: link.clone(), address: net });
        if let Some(net) = net.filter(|&net| !is_made(net)) {
            refuse_overlap(&mut routing, &link, bridge_link, key, net)?;
        }
    }
    ready(&mut routing, &link, plan.mtu, address6.is_some())?;

    let addresses = [plan.address4.map(IpNet::V4), address6.map(IpNet::V6)];
    let mut want: Vec<_> = addresses
        .into_iter()
        .flatten()
        .map(|address| Change::Address { link: link.clone(), address })
        .collect();
    let mut behind = Vec::new();
    for &net in &plan.behind {
        let has_family =
            if net.addr().is_ipv6() { address6.is_some() } else { plan.address4.is_some() };
        let route =
            Route { destination: net, link: link.index, via: None, table: MAIN, metric: None };
        let change = Change::Route { link: link.clone(), route };
        if !has_family || want.contains(&change) {
            continue;
        }
        // One member's subnet must not cost the others theirs.
        if !made.contains(&change)
            && let Err(error) = refuse_overlap(&mut routing, &link, None, "the user's iroute", net)
        {
            tracing::warn!("a subnet behind a member is not routed: {error}");
            continue;
        }
        behind.push(net);
        want.push(change);
    }
    let guard = |present: bool, setting| match present {
        true => sysctl::is_ours(setting, place, state),
        false => Ok(false),
    };
    want.push(Change::Table {
        name: plan.table.clone(),
        ruleset: Ruleset::Server {
            tun: plan.tun.clone(),
            pool4: plan.address4.map(|net| net.trunc()),
            pool6: address6.map(|net| net.trunc()),
            behind,
            masquerade: plan.nat,
            guard4: guard(plan.address4.is_some(), Setting::Forward4)?,
            guard6: guard(address6.is_some(), Setting::Forward6)?,
            bridge: bridge.map(|bridge| (bridge.link.name, bridge.mac)),
        },
    });
    // Last, so that nothing is forwarded before the table says what may be.
    let forward4 = plan.address4.map(|_| Setting::Forward4);
    let forward6 = address6.map(|_| Setting::Forward6);
    want.extend([forward4, forward6].into_iter().flatten().map(|setting| Change::Hold {
        setting,
        place: place.clone(),
        state: state.to_path_buf(),
    }));
    Ok(want)
}

pub(crate) fn has_ipv6() -> bool {
    sysctl::is_on(Setting::Forward6).is_some()
}

pub(crate) fn find(routing: &mut Routing, name: &str) -> Result<Link, HostError> {
    let link = routing.link(name).map_err(HostError::kernel("list interfaces"))?;
    link.ok_or_else(|| HostError::NoInterface(name.to_owned()))
}

/// Sets what needs no undoing, for it goes with the device.
pub(crate) fn ready(
    routing: &mut Routing,
    link: &Link,
    mtu: u16,
    ipv6: bool,
) -> Result<(), HostError> {
    let name = &link.name;
    if ipv6 {
        sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
    }
    if has_ipv6() {
        // Nobody on the other side of a tunnel may give this host addresses and routes, and
        // nobody there answers a solicitation. Old kernels lack the second; the hub drops those.
        sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1");
    }
    routing
        .set_up(link.index, mtu, QUEUE_LEN)
        .map_err(HostError::kernel(format!("set MTU {mtu} on {name} and turn it on")))
}

/// Fails if an address or route on another interface is in `net`, or the other way round; but
/// `net` may be a part of the network that is on `bridge`, if this host's address there is not in
/// it.
fn refuse_overlap(
    routing: &mut Routing,
    tun: &Link,
    bridge: Option<u32>,
    key: &'static str,
    net: IpNet,
) -> Result<(), HostError> {
    let addresses = routing.addresses().map_err(HostError::kernel("list addresses"))?;
    let routes = routing.routes().map_err(HostError::kernel("list routes"))?;
    let addresses = addresses.into_iter().map(|(link, address)| {
        let is_inside = Some(link) == bridge && net.contains(&address.addr());
        (link, if is_inside { address.addr().into() } else { address.trunc() })
    });
    let routes = routes
        .into_iter()
        .filter(|listed| listed.unicast)
        .map(|listed| (listed.route.link, listed.route.destination));
    let overlaps = |other: &IpNet| {
        let broad = if other.addr().is_ipv6() { BROAD6 } else { BROAD4 };
        other.prefix_len() > broad && (other.contains(&net) || net.contains(other))
    };
    let Some((link, other)) = addresses.chain(routes).find(|(link, other)| {
        let is_part = Some(*link) == bridge && other.prefix_len() < net.prefix_len();
        *link != tun.index && overlaps(other) && !is_part
    }) else {
        return Ok(());
    };
    let links = routing.links().map_err(HostError::kernel("list interfaces"))?;
    let interface = links.into_iter().find(|candidate| candidate.index == link);
    let interface = interface.map_or_else(|| "no interface".to_owned(), |found| found.name);
    Err(HostError::Overlap { key, pool: net.trunc(), other, interface })
}

#[cfg(test)]
mod tests;
