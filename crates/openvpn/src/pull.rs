//! What becomes of the host: the options that mean the same in a profile and in a push.
//!
//! Those of the profile come first; what the server pushes is added, or takes their place. A
//! server is trusted with what it is there for, the routes and resolvers of its network, and with
//! nothing else: there is no option here that names a program or a file, and everything is bounded.

mod check;
mod dns;
mod route;
mod rules;
mod update;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use contract::{Layer, Lease, SessionLimits};
use ipnet::{IpNet, Ipv4Net};

use self::dns::DnsOptions;
use self::route::RouteOptions;

pub use self::check::check_option;
pub(crate) use self::rules::Judgement;
pub use self::rules::{FilterAction, Pull};
pub(crate) use self::update::{Update, UpdateError, without_marks};

#[cfg(test)]
mod tests;

/// What became of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Obeyed, or without meaning here.
    Done,
    /// Understood, and not obeyed for this reason.
    Noted(&'static str),
    /// Wrong: what it should have been.
    Bad(&'static str),
    /// Not one of these.
    Unknown,
}

/// Options of a profile that are options of a push as well.
pub(crate) const IN_PROFILES: &[&str] = &[
    "route",
    "route-ipv6",
    "route-metric",
    "route-gateway",
    "route-ipv6-gateway",
    "redirect-gateway",
    "redirect-private",
    "block-ipv6",
    "block-outside-dns",
    "dhcp-option",
    "dns",
    "inactive",
    "session-timeout",
];

/// Everything that a profile and a server ask of the host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct HostOptions {
    ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    is_subnet: bool,
    ipv6: Option<(Ipv6Addr, u8)>,
    routes: RouteOptions,
    dns: DnsOptions,
    redirect4: bool,
    redirect6: bool,
    block6: bool,
    block_local: bool,
    block_dns: bool,
    limits: SessionLimits,
    mtu: Option<u16>,
}

impl HostOptions {
    /// Takes in one option.
    pub(crate) fn option(&mut self, words: &[&str]) -> Outcome {
        let Some((name, rest)) = words.split_first() else { return Outcome::Done };
        match (*name, rest) {
            ("topology", [kind]) => self.is_subnet = *kind == "subnet",
            ("ifconfig", [address, second]) => match (address.parse(), second.parse()) {
                (Ok(address), Ok(second)) => self.ifconfig = Some((address, second)),
                _ => return Outcome::Bad("needs two IPv4 addresses"),
            },
            ("ifconfig-ipv6", [address, rest @ ..]) => match prefix6(address) {
                Some(parsed) => {
                    self.ipv6 = Some(parsed);
                    if let Some(gateway) = rest.first().and_then(|word| word.parse().ok()) {
                        self.routes.gateway6 = Some(gateway);
                    }
                }
                None => return Outcome::Bad("needs ADDRESS/LENGTH [ADDRESS]"),
            },
            ("redirect-gateway", flags) => return self.redirect(flags, true),
            ("redirect-private", flags) => return self.redirect(flags, false),
            ("block-ipv6", []) => self.block6 = true,
            ("block-outside-dns", []) => self.block_dns = true,
            ("inactive", [seconds, rest @ ..]) => {
                let bytes = rest.first().map_or(Ok(0), |word| word.parse());
                match (seconds.parse::<u32>(), bytes) {
                    (Ok(seconds), Ok(bytes)) => {
                        self.limits.idle = limit(seconds);
                        self.limits.idle_bytes = bytes;
                    }
                    _ => return Outcome::Bad("needs SECONDS [BYTES]"),
                }
            }
            ("session-timeout", [seconds]) => match seconds.parse() {
                Ok(seconds) => self.limits.session = limit(seconds),
                Err(_) => return Outcome::Bad("needs SECONDS"),
            },
            ("tun-mtu", [mtu, ..]) => {
                let mtu = mtu.parse().ok().filter(|mtu| (576..=9200).contains(mtu));
                match mtu {
                    Some(mtu) => self.mtu = Some(mtu),
                    None => return Outcome::Bad("needs a number from 576 to 9200"),
                }
            }
            ("dns" | "dhcp-option", rest) => return self.dns.option(name, rest),
            _ => return self.routes.option(name, rest),
        }
        Outcome::Done
    }

    fn redirect(&mut self, flags: &[&str], is_default: bool) -> Outcome {
        let mut outcome = Outcome::Done;
        let (mut redirect4, mut redirect6) = (is_default, false);
        for flag in flags {
            match *flag {
                "ipv6" => redirect6 = is_default,
                "!ipv4" => redirect4 = false,
                "block-local" => self.block_local = true,
                // Ways around the tunnel for its own packets are found for every network there
                // is, and the former default route is never touched.
                "def1" | "local" | "autolocal" => {}
                // The networks that the host is in stay reachable, and lease with them.
                "bypass-dhcp" => {}
                "bypass-dns" => {
                    outcome = Outcome::Noted("resolvers outside are not exempted from the tunnel");
                }
                _ => return Outcome::Bad("has a flag that does not exist"),
            }
        }
        self.redirect4 |= redirect4;
        self.redirect6 |= redirect6;
        outcome
    }

    /// All of it as a lease; what had to be left out is added to `remarks`.
    pub(crate) fn lease(&self, pull: &Pull, remarks: &mut Vec<String>) -> Lease {
        let mut lease = Lease {
            ipv6: self.ipv6,
            gateway4: self.routes.gateway4,
            gateway6: self.routes.gateway6,
            dns: self.dns.settings(remarks),
            redirect4: self.redirect4,
            redirect6: self.redirect6,
            block6: self.block6,
            block_local: self.block_local,
            block_dns: self.block_dns,
            limits: self.limits,
            mtu: self.mtu.unwrap_or(1500),
            ..Lease::default()
        };
        let mut neighbour = None;
        if let Some((address, second)) = self.ifconfig {
            let is_subnet = self.is_subnet || pull.layer == Layer::Ethernet;
            let prefix = if is_subnet {
                ipnet::ipv4_mask_to_prefix(second).unwrap_or(32)
            } else {
                // Point to point: the second word is the peer; with net30 both share a /30.
                let pair = Ipv4Net::new(address, 30).ok().filter(|net| net.contains(&second));
                if pair.is_some() { 30 } else { 32 }
            };
            if !is_subnet {
                neighbour = Some(second);
            }
            if !is_subnet && prefix == 32 {
                lease.routes.push(Ipv4Net::from(second).into());
            }
            lease.ipv4 = Some((address, prefix));
        }
        if pull.leaves_routes_alone {
            lease.routes.clear();
            (lease.redirect4, lease.redirect6) = (false, false);
            return lease;
        }
        let own = [
            lease.ipv4.and_then(|(address, prefix)| {
                Some(IpNet::from(Ipv4Net::new(address, prefix).ok()?))
            }),
            self.ipv6.and_then(|(address, prefix)| IpNet::new(address.into(), prefix).ok()),
        ];
        let own = own.into_iter().flatten().chain(neighbour.map(|peer| Ipv4Net::from(peer).into()));
        self.routes.add_to(&mut lease, &own.collect::<Vec<_>>(), remarks);
        lease
    }
}

/// Zero is no limit.
fn limit(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn prefix6(word: &str) -> Option<(Ipv6Addr, u8)> {
    let (address, prefix) = word.split_once('/').unwrap_or((word, "64"));
    let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= 128).then_some((address, prefix))
}
