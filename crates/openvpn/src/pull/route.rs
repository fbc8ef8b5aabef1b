//! `route`, `route-ipv6`, and what they leave unsaid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contract::Lease;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Outcome;

/// Routes of profile and push together: more than any network of networks needs, and few enough
/// for the kernel to be asked for one by one.
const MAX_ROUTES: usize = 1024;

/// Routes as they were asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct RouteOptions {
    pub(super) gateway4: Option<Ipv4Addr>,
    pub(super) gateway6: Option<Ipv6Addr>,
    metric: Option<u32>,
    routes: Vec<RouteOption>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct RouteOption {
    net: IpNet,
    gateway: Gateway,
    metric: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Gateway {
    /// `vpn_gateway`, which is also the default.
    Tunnel,
    /// `net_gateway`: the way there was without the tunnel.
    Outside,
    /// One by address.
    At(IpAddr),
}

impl RouteOptions {
    pub(super) fn option(&mut self, name: &str, rest: &[&str]) -> Outcome {
        match (name, rest) {
            ("route-gateway", ["dhcp", ..]) => {
                return Outcome::Noted("no DHCP server is asked through the tunnel");
            }
            ("route-gateway", [gateway, ..]) => match gateway.parse() {
                Ok(gateway) => self.gateway4 = Some(gateway),
                Err(_) => return Outcome::Bad("needs an IPv4 address"),
            },
            ("route-ipv6-gateway", [gateway]) => match gateway.parse() {
                Ok(gateway) => self.gateway6 = Some(gateway),
                Err(_) => return Outcome::Bad("needs an IPv6 address"),
            },
            ("route-metric", [metric]) => match metric.parse() {
                Ok(metric) => self.metric = Some(metric),
                Err(_) => return Outcome::Bad("needs a number"),
            },
            // The server's own address never goes through the tunnel.
            ("route", ["remote_host", ..]) => {}
            ("route", ["vpn_gateway" | "net_gateway", ..]) => {
                return Outcome::Noted("a gateway is reachable without a route of its own");
            }
            ("route", [net, rest @ ..]) => {
                let Some(net) = network4(net, rest.first().copied()) else {
                    return Outcome::Bad(
                        "needs NETWORK [NETMASK [GATEWAY [METRIC]]], as addresses",
                    );
                };
                return self.add(net.into(), rest.get(1..).unwrap_or_default());
            }
            ("route-ipv6", [net, rest @ ..]) => {
                let Some(net) = network6(net) else {
                    return Outcome::Bad("needs PREFIX/LENGTH [GATEWAY [METRIC]]");
                };
                return self.add(net.into(), rest);
            }
            _ => return Outcome::Unknown,
        }
        Outcome::Done
    }

    fn add(&mut self, net: IpNet, rest: &[&str]) -> Outcome {
        let gateway = match rest.first().copied() {
            None | Some("default" | "vpn_gateway" | "::") => Gateway::Tunnel,
            Some("net_gateway" | "net_gateway_ipv6" | "remote_host") => Gateway::Outside,
            Some(word) => match word.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == net.addr().is_ipv4() => Gateway::At(address),
                _ => return Outcome::Bad("has a gateway that is none"),
            },
        };
        let metric = match rest.get(1).copied() {
            None | Some("default") => None,
            Some(word) => match word.parse() {
                Ok(metric) => Some(metric),
                Err(_) => return Outcome::Bad("has a metric that is no number"),
            },
        };
        if self.routes.len() >= MAX_ROUTES {
            return Outcome::Bad("is one too many: 1024 are obeyed");
        }
        self.routes.push(RouteOption { net, gateway, metric });
        Outcome::Done
    }

    /// Sorts the routes into those through the tunnel and those around it; `own` are the networks
    /// of the lease's own addresses.
    pub(super) fn add_to(&self, lease: &mut Lease, own: &[IpNet], remarks: &mut Vec<String>) {
        let is_inside = |gateway: IpAddr| {
            own.iter().any(|net| net.contains(&gateway))
                || self.gateway4.map(IpAddr::from) == Some(gateway)
                || self.gateway6.map(IpAddr::from) == Some(gateway)
        };
        for route in &self.routes {
            let list = match route.gateway {
                Gateway::Outside => &mut lease.excluded,
                Gateway::At(gateway) if !is_inside(gateway) => {
                    let net = route.net;
                    remarks.push(format!(
                        "route {net} left out: its gateway {gateway} is not in the tunnel"
                    ));
                    continue;
                }
                Gateway::Tunnel | Gateway::At(_) => {
                    if let Some(metric) = route.metric.or(self.metric) {
                        lease.metrics.insert(route.net, metric);
                    }
                    &mut lease.routes
                }
            };
            if !list.contains(&route.net) {
                list.push(route.net);
            }
        }
    }
}

fn network4(network: &str, mask: Option<&str>) -> Option<Ipv4Net> {
    let network: Ipv4Addr = network.parse().ok()?;
    let prefix = match mask {
        None | Some("default") => 32,
        Some(mask) => ipnet::ipv4_mask_to_prefix(mask.parse().ok()?).ok()?,
    };
    Some(Ipv4Net::new(network, prefix).ok()?.trunc())
}

fn network6(word: &str) -> Option<Ipv6Net> {
    match word.contains('/') {
        true => Some(word.parse::<Ipv6Net>().ok()?.trunc()),
        false => Some(Ipv6Net::from(word.parse::<Ipv6Addr>().ok()?)),
    }
}
