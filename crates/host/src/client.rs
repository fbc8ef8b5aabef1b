//! The client role: what a server's lease makes of the host.

use std::net::IpAddr;

use contract::{DnsSettings, Lease};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::change::{Change, Ledger};
use crate::dns::{self, LinkDns};
use crate::error::HostError;
use crate::journal::Journal;
use crate::nft::{self, Ruleset};
use crate::route::{Choice, Link, MAIN, PROTOCOL, Refusal, Route, Routing, Rule, Way, is_broad};
use crate::server::{find, has_ipv6, ready};
use crate::sysctl::Setting;

/// Together everything, each more specific than a default route.
const HALVES4: [&str; 2] = ["0.0.0.0/1", "128.0.0.0/1"];
/// The same for IPv6; more specific than `2000::/3`, which some hosts have as default route.
const HALVES6: [&str; 4] = ["::/3", "2000::/4", "3000::/4", "fc00::/7"];
/// Rules that come before the main table's (32766) and leave room on both sides.
const FIRST_PRIORITY: u32 = 10_000;
/// How many tunnels have priorities of their own.
const PRIORITIES: u32 = 0x1000;

/// What the host has to be for a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientPlan {
    /// The TUN or TAP device, which exists.
    pub tun: String,
    /// Whether the device carries Ethernet: networks are reached through the gateway of the lease
    /// then, for nobody else answers for them.
    pub is_ethernet: bool,
    /// What the server gave.
    pub lease: Lease,
    /// Every address that the tunnel's own datagrams may go to.
    pub servers: Vec<IpAddr>,
    /// The mark that the tunnel's sockets set (`SO_MARK`), if they can; see [`mark_for`].
    pub mark: Option<u32>,
    /// Whether the host resolves names as the lease says.
    pub set_dns: bool,
    /// Whether the host forwards between the tunnel and its other networks.
    pub forward: bool,
}

/// A host set up for a client.
///
/// Dropping it changes nothing: what is not [undone](Self::undo) stays in the journal, and is
/// undone by [`Journal::repair`].
#[derive(Debug)]
#[must_use = "the host stays changed until `undo`"]
pub struct ClientHost {
    ledger: Ledger,
    journal: Journal,
    plan: ClientPlan,
    link: Link,
    mark: Option<u32>,
}

/// The mark, and the number of the routing table, of the tunnel whose interface has this index.
#[must_use]
pub fn mark_for(tun_index: u32) -> u32 {
    // High bits that tell whose it is, low ones that tell tunnels apart.
    0x5741_0000 | tun_index & 0xffff
}

impl ClientHost {
    /// Turns the device on, then sets addresses, routes and name resolution.
    ///
    /// With `redirect4` or `redirect6`, the tunnel's own datagrams keep to the way they had:
    /// where the kernel has policy rules and the plan a mark, by that mark; else by a host route
    /// to each server. With `block4` or `block6`, everything else of that family is unreachable,
    /// networks that the lease excludes included, in the same two ways.
    ///
    /// Networks that the host has routes of its own to, its LAN above all, stay reachable past
    /// the tunnel, unless the lease says `block_local`. Whoever gives the host its routes can abuse that: by mark, routes of the main
    /// table up to IPv4 /7 and IPv6 /15 do not count, but a longer one from a rogue DHCP server
    /// still wins over the tunnel; by host routes, one longer than a /1 (IPv6: /4) does.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses something; the host is then as it was.
    pub fn apply(journal: &Journal, plan: ClientPlan) -> Result<Self, HostError> {
        let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
        let link = find(&mut routing, &plan.tun)?;
        let mark = plan.mark.filter(|_| {
            routing.has_rules(false).is_ok() && (!has_ipv6() || routing.has_rules(true).is_ok())
        });
        let mut host =
            Self { ledger: Ledger::new(journal), journal: journal.clone(), plan, link, mark };
        let want = host.want(&mut routing)?;
        host.ledger = host.ledger.apply(&want)?;
        Ok(host)
    }

    /// Changes what differs from the lease in force; for a reconnect.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply); the former lease stays in force.
    pub fn update(&mut self, lease: Lease, servers: Vec<IpAddr>) -> Result<(), HostError> {
        let fresh = ClientPlan { lease, servers, ..self.plan.clone() };
        let former = std::mem::replace(&mut self.plan, fresh);
        let updated = Routing::open()
            .map_err(HostError::kernel("open rtnetlink"))
            .and_then(|mut routing| self.want(&mut routing))
            .and_then(|want| self.ledger.update(&want));
        updated.inspect_err(|_| self.plan = former)
    }

    /// The mark that keeps the tunnel's own datagrams out of the tunnel: its sockets must set it.
    /// `None` if host routes do so instead.
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// Leaves the host as it was found. Goes on past errors; returns what could not be undone,
    /// one line each.
    #[must_use = "these lines are for the operator"]
    pub fn undo(self) -> Vec<String> {
        self.ledger.undo()
    }

    /// Readies the device, and lists the changes that the plan takes.
    fn want(&self, routing: &mut Routing) -> Result<Vec<Change>, HostError> {
        let lease = &self.plan.lease;
        let addresses = self.addresses()?;
        let has = |ipv6| addresses.iter().any(|address| address.addr().is_ipv6() == ipv6);
        let redirected: Vec<bool> = [(false, lease.redirect4), (true, lease.redirect6)]
            .into_iter()
            .filter(|&(ipv6, redirect)| redirect && has(ipv6) && !self.blocks(ipv6))
            .map(|(ipv6, _)| ipv6)
            .collect();
        // Families whose default route does not count while the tunnel is there.
        let captured: Vec<bool> = [false, true]
            .into_iter()
            .filter(|ipv6| redirected.contains(ipv6) || self.blocks(*ipv6))
            .collect();
        ready(routing, &self.link, lease.mtu, has(true))?;

        let mut want: Vec<_> = addresses
            .iter()
            .map(|&address| Change::Address { link: self.link.clone(), address })
            .collect();
        if let (Some(mark), false) = (self.mark, captured.is_empty()) {
            want.extend(self.marking(mark, &captured, &addresses));
        }
        want.extend(self.detours(routing, &addresses, &captured)?);
        want.extend(
            lease
                .routes
                .iter()
                .filter(|route| has(route.addr().is_ipv6()))
                .map(|&route| self.through_tunnel(route, MAIN, lease.metrics.get(&route).copied())),
        );
        for &ipv6 in &captured {
            want.extend(self.capture(ipv6));
            if lease.block_local && self.mark.is_none() {
                want.extend(self.without_neighbours(routing, ipv6)?);
            }
        }
        if lease.block_dns {
            want.extend(self.resolvers_outside());
        }
        if self.plan.forward {
            let families = [(false, Setting::Forward4), (true, Setting::Forward6)];
            want.extend(families.into_iter().filter(|(ipv6, _)| has(*ipv6)).map(|(_, setting)| {
                Change::Hold {
                    setting,
                    place: self.journal.place().clone(),
                    state: self.journal.state().to_path_buf(),
                }
            }));
        }
        if self.plan.set_dns && lease.dns != DnsSettings::default() {
            want.extend(self.resolvers(!redirected.is_empty())?);
        }
        Ok(want)
    }

    /// Whether everything of the family is refused; what the kernel lacks needs no refusing.
    fn blocks(&self, ipv6: bool) -> bool {
        if ipv6 { self.plan.lease.block6 && has_ipv6() } else { self.plan.lease.block4 }
    }

    fn addresses(&self) -> Result<Vec<IpNet>, HostError> {
        let lease = &self.plan.lease;
        let invalid = |_| {
            let cause = std::io::ErrorKind::InvalidData.into();
            HostError::Kernel { what: "use the prefix length that the server gave".into(), cause }
        };
        let mut addresses = Vec::new();
        if let Some((address, prefix_len)) = lease.ipv4 {
            addresses.push(Ipv4Net::new(address, prefix_len).map_err(invalid)?.into());
        }
        match lease.ipv6 {
            Some((address, prefix_len)) if has_ipv6() => {
                addresses.push(Ipv6Net::new(address, prefix_len).map_err(invalid)?.into());
            }
            Some(_) => tracing::warn!("this kernel has no IPv6: the server's IPv6 is left out"),
            None => {}
        }
        Ok(addresses)
    }

    /// What lets answers to marked datagrams pass a strict reverse path filter.
    fn marking(&self, mark: u32, captured: &[bool], addresses: &[IpNet]) -> Vec<Change> {
        let mut changes = Vec::new();
        match nft::tables() {
            Ok(_) => changes.push(Change::Table {
                name: format!("warren-client-{}", self.link.name),
                ruleset: Ruleset::Client {
                    tun: self.link.name.clone(),
                    mark,
                    addresses: addresses.iter().map(IpNet::addr).collect(),
                },
            }),
            Err(error) => tracing::warn!(
                "nf_tables does not work here ({error}): a strict reverse path filter \
                 (net.ipv4.conf.*.rp_filter = 1) would drop the server's answers"
            ),
        }
        if captured.contains(&false) {
            changes.push(Change::Hold {
                setting: Setting::ValidMark,
                place: self.journal.place().clone(),
                state: self.journal.state().to_path_buf(),
            });
        }
        changes
    }

    /// Routes that keep to the way the host had: to what the lease excludes, and to servers that
    /// would otherwise be reached through the tunnel that leads to them.
    fn detours(
        &self,
        routing: &mut Routing,
        addresses: &[IpNet],
        captured: &[bool],
    ) -> Result<Vec<Change>, HostError> {
        let lease = &self.plan.lease;
        let through_tunnel = |net: &IpNet| {
            let networks = addresses.iter().map(IpNet::trunc).chain(lease.routes.iter().copied());
            networks.into_iter().any(|route| route.contains(net) || net.contains(&route))
        };
        let servers = self.plan.servers.iter().map(|&server| IpNet::from(server)).filter(|net| {
            let by_mark = self.mark.is_some();
            through_tunnel(net) || (captured.contains(&net.addr().is_ipv6()) && !by_mark)
        });
        let excluded = lease
            .excluded
            .iter()
            .map(IpNet::trunc)
            .filter(|net| !self.blocks(net.addr().is_ipv6()))
            .filter(|net| through_tunnel(net) || captured.contains(&net.addr().is_ipv6()));

        let links = routing.links().map_err(HostError::kernel("list interfaces"))?;
        let mut detours: Vec<Change> = Vec::new();
        for destination in servers.chain(excluded) {
            let Some(way) = self.way(routing, destination.addr())? else {
                continue;
            };
            let Some(link) = links.iter().find(|link| link.index == way.link) else {
                continue;
            };
            // Broad routes of the main table do not count there.
            let table = match self.mark {
                Some(mark)
                    if captured.contains(&destination.addr().is_ipv6())
                        && (is_broad(destination) || lease.block_local)
                        && destination.prefix_len() > 0 =>
                {
                    mark
                }
                _ => MAIN,
            };
            let route = Route { destination, link: way.link, via: way.via, table, metric: None };
            let detour = Change::Route { link: link.clone(), route };
            if !detours.contains(&detour) {
                detours.push(detour);
            }
        }
        Ok(detours)
    }

    /// The way out that does not lead through the tunnel.
    fn way(&self, routing: &mut Routing, to: IpAddr) -> Result<Option<Way>, HostError> {
        let way = if self.ledger.made().is_empty() {
            routing.way_to(to, self.mark)
        } else {
            routing.way_around(self.link.index, to)
        };
        let way = way.map_err(HostError::kernel(format!("look up the way to {to}")))?;
        Ok(way.filter(|way| way.link != self.link.index))
    }

    fn through_tunnel(&self, destination: IpNet, table: u32, metric: Option<u32>) -> Change {
        let gateway = match destination {
            IpNet::V4(_) => self.plan.lease.gateway4.map(IpAddr::from),
            IpNet::V6(_) => self.plan.lease.gateway6.map(IpAddr::from),
        };
        let via = gateway.filter(|_| self.plan.is_ethernet);
        let route = Route { destination, link: self.link.index, via, table, metric };
        Change::Route { link: self.link.clone(), route }
    }

    /// Everything of one family into the tunnel, or to nowhere.
    fn capture(&self, ipv6: bool) -> Vec<Change> {
        let net = |text: &str| text.parse::<IpNet>().expect("constants of this file are networks");
        let Some(mark) = self.mark else {
            let halves: &[_] = if ipv6 { &HALVES6 } else { &HALVES4 };
            return halves.iter().map(|half| self.captive(net(half), MAIN)).collect();
        };
        let everything = net(if ipv6 { "::/0" } else { "0.0.0.0/0" });
        let priority = FIRST_PRIORITY + mark % PRIORITIES * 2;
        let mut changes = vec![self.captive(everything, mark)];
        // What the host has routes of its own for (its LAN) stays there; only what would take
        // the default route, or one nearly as broad, goes on to the second rule.
        if !self.plan.lease.block_local {
            let choice = Choice::MainWithoutBroad;
            changes.push(Change::Rule(Rule { ipv6, priority, choice }));
        }
        let choice = Choice::Unmarked { mark, table: mark };
        changes.push(Change::Rule(Rule { ipv6, priority: priority + 1, choice }));
        changes
    }

    /// The networks that the host is in, as two halves each, so that their own routes count no
    /// more; but for the gateways there, which the tunnel's own datagrams go through.
    fn without_neighbours(
        &self,
        routing: &mut Routing,
        ipv6: bool,
    ) -> Result<Vec<Change>, HostError> {
        let listed = routing.routes().map_err(HostError::kernel("list routes"))?;
        let links = routing.links().map_err(HostError::kernel("list interfaces"))?;
        let others = || {
            listed.iter().filter(|listed| {
                let route = &listed.route;
                listed.unicast
                    && listed.protocol != PROTOCOL
                    && route.table == MAIN
                    && route.link != self.link.index
                    && route.destination.addr().is_ipv6() == ipv6
            })
        };
        let mut changes = Vec::new();
        for route in others().map(|listed| &listed.route) {
            let Some(link) = links.iter().find(|link| link.index == route.link) else { continue };
            if let Some(gateway) = route.via {
                let route =
                    Route { destination: gateway.into(), via: None, metric: None, ..route.clone() };
                changes.push(Change::Route { link: link.clone(), route });
            } else if link.name != "lo" && !is_link_local(route.destination) {
                let longer = route.destination.prefix_len() + 1;
                let halves = route.destination.subnets(longer).into_iter().flatten();
                changes.extend(halves.map(|half| self.captive(half, MAIN)));
            }
        }
        changes.dedup();
        Ok(changes)
    }

    /// Refuses questions for names that would leave past the tunnel.
    fn resolvers_outside(&self) -> Option<Change> {
        if let Err(error) = nft::tables() {
            tracing::warn!(
                "nf_tables does not work here ({error}): resolvers outside of the tunnel are not \
                 blocked, as the server or the profile asks (block-outside-dns)"
            );
            return None;
        }
        Some(Change::Table {
            name: format!("warren-dns-{}", self.link.name),
            ruleset: Ruleset::OnlyTunnelDns {
                tun: self.link.name.clone(),
                mark: self.mark,
                servers: self.plan.servers.clone(),
            },
        })
    }

    fn captive(&self, destination: IpNet, table: u32) -> Change {
        if self.blocks(destination.addr().is_ipv6()) {
            Change::Refusal(Refusal { destination, table })
        } else {
            self.through_tunnel(destination, table, None)
        }
    }

    fn resolvers(&self, exclusive: bool) -> Result<Option<Change>, HostError> {
        let settings = &self.plan.lease.dns;
        if dns::resolvectl().is_some() {
            let dns = LinkDns::new(&self.link.name, settings, exclusive);
            return Ok(Some(Change::LinkDns { link: self.link.clone(), dns }));
        }
        if let Some(why) = dns::beyond_resolv_conf(settings) {
            tracing::warn!("the tunnel's resolvers are not used: {why}");
            return Ok(None);
        }
        let present = self.ledger.made().iter().find_map(|change| match change {
            Change::ResolvConf(file) => Some(file),
            _ => None,
        });
        let file = match present {
            Some(file) => self.journal.names().replan(file, settings)?,
            None => self.journal.names().plan(settings)?,
        };
        Ok(Some(Change::ResolvConf(file)))
    }
}

fn is_link_local(net: IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
