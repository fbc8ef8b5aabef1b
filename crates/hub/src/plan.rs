use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The IPv4 range of a network that was not given one: private (RFC 1918), and rarer in homes and
/// offices than its neighbours, so that it seldom collides with the LAN a client sits in.
pub const DEFAULT_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 86, 0, 0), 16);

/// The host part of the network's own addresses.
const GATEWAY: u32 = 1;

/// The host part of the first address that a member may have.
pub(crate) const FIRST: u32 = GATEWAY + 1;

/// The addresses of one network: a member's host part is the same in both families, so that who
/// knows one address knows the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    ipv4: Option<Ipv4Net>,
    ipv6: Option<Ipv6Net>,
    last: u32,
}

/// Why a network's ranges cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Neither family has a range.
    #[error("the network has neither an IPv4 nor an IPv6 range; give it one")]
    NoRange,
    /// A range has no room for the gateway and one member.
    #[error("{0} has no room for a gateway and a member; use a shorter prefix")]
    TooSmall(IpNet),
    /// A range is one that no host may have addresses in.
    #[error("{0} is not a range for hosts; use a private one, 10.86.0.0/16 for example")]
    NotForHosts(IpNet),
}

impl Plan {
    /// # Errors
    ///
    /// If there is nothing to lease, or nothing that may be leased.
    pub(crate) fn new(ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> Result<Self, PlanError> {
        let (ipv4, ipv6) = (ipv4.map(|net| net.trunc()), ipv6.map(|net| net.trunc()));
        if let Some(net) = ipv4
            && (net.addr().is_multicast()
                || net.addr().is_loopback()
                || net.addr().is_unspecified())
        {
            return Err(PlanError::NotForHosts(net.into()));
        }
        if let Some(net) = ipv6
            && (net.addr().is_multicast()
                || net.addr().is_unicast_link_local()
                || net.addr().is_unspecified())
        {
            return Err(PlanError::NotForHosts(net.into()));
        }

        // All ones is the broadcast address in IPv4 and an ordinary one in IPv6.
        let last4 = ipv4.map(|net| (u32::from(net.hostmask()).saturating_sub(1), IpNet::from(net)));
        let last6 = ipv6.map(|net| {
            (u32::try_from(u128::from(net.hostmask())).unwrap_or(u32::MAX), IpNet::from(net))
        });
        let smaller = last4.into_iter().chain(last6).min_by_key(|(last, _)| *last);
        let (last, net) = smaller.ok_or(PlanError::NoRange)?;
        if last < FIRST {
            return Err(PlanError::TooSmall(net));
        }
        Ok(Self { ipv4, ipv6, last })
    }

    /// The largest host part that a member may be given in both families.
    pub(crate) fn last(self) -> u32 {
        self.last
    }

    pub(crate) fn has_ipv4(self) -> bool {
        self.ipv4.is_some()
    }

    pub(crate) fn has_ipv6(self) -> bool {
        self.ipv6.is_some()
    }

    pub(crate) fn gateway4(self) -> Option<Ipv4Addr> {
        self.address4(GATEWAY)
    }

    pub(crate) fn gateway6(self) -> Option<Ipv6Addr> {
        self.address6(GATEWAY)
    }

    /// The IPv4 address with this host part.
    pub(crate) fn address4(self, index: u32) -> Option<Ipv4Addr> {
        self.ipv4.map(|net| Ipv4Addr::from(u32::from(net.addr()) | index))
    }

    /// The IPv6 address with this host part.
    pub(crate) fn address6(self, index: u32) -> Option<Ipv6Addr> {
        self.ipv6.map(|net| Ipv6Addr::from(u128::from(net.addr()) | u128::from(index)))
    }

    /// Both addresses with this host part, as far as there are any.
    pub(crate) fn addresses(self, index: u32) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.address4(index).map(IpAddr::from);
        ipv4.into_iter().chain(self.address6(index).map(IpAddr::from))
    }

    /// The host part of an address that the pool could have leased.
    pub(crate) fn index_of(self, address: IpAddr) -> Option<u32> {
        let index = match address {
            IpAddr::V4(address) => {
                let net = self.ipv4.filter(|net| net.contains(&address))?;
                u32::from(address) & u32::from(net.hostmask())
            }
            IpAddr::V6(address) => {
                let net = self.ipv6.filter(|net| net.contains(&address))?;
                u32::try_from(u128::from(address) & u128::from(net.hostmask())).ok()?
            }
        };
        (FIRST..=self.last).contains(&index).then_some(index)
    }

    /// Whether a member may have `address` as its fixed one: inside the network, and neither its
    /// name, nor its broadcast address, nor its gateway.
    pub(crate) fn may_fix(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|net| {
                net.contains(&address)
                    && address != net.network()
                    && address != net.broadcast()
                    && Some(address) != self.gateway4()
            }),
            IpAddr::V6(address) => self.ipv6.is_some_and(|net| {
                net.contains(&address)
                    && address != net.network()
                    && Some(address) != self.gateway6()
            }),
        }
    }

    pub(crate) fn subnets(self) -> Vec<IpNet> {
        let ipv4 = self.ipv4.map(IpNet::from);
        ipv4.into_iter().chain(self.ipv6.map(IpNet::from)).collect()
    }

    pub(crate) fn prefix_len4(self) -> u8 {
        self.ipv4.map_or(0, |net| net.prefix_len())
    }

    pub(crate) fn prefix_len6(self) -> u8 {
        self.ipv6.map_or(0, |net| net.prefix_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(ipv4: &str, ipv6: &str) -> Result<Plan, PlanError> {
        Plan::new(ipv4.parse().ok(), ipv6.parse().ok())
    }

    #[test]
    fn both_families_share_the_host_part() {
        let plan = plan("10.86.0.0/16", "fd86::/64").unwrap();

        let addresses: Vec<String> = plan.addresses(0x1234).map(|ip| ip.to_string()).collect();

        assert_eq!(addresses, ["10.86.18.52", "fd86::1234"]);
        assert_eq!(plan.index_of("10.86.18.52".parse().unwrap()), Some(0x1234));
        assert_eq!(plan.index_of("fd86::1234".parse().unwrap()), Some(0x1234));
        assert_eq!(plan.last(), 65_534);
    }

    #[test]
    fn the_networks_own_addresses_are_never_members() {
        let plan = plan("10.86.0.0/24", "fd86::/64").unwrap();

        for address in ["10.86.0.0", "10.86.0.1", "10.86.0.255", "10.87.0.2", "fd86::", "fd86::1"] {
            let address = address.parse().unwrap();
            assert_eq!(plan.index_of(address), None, "{address}");
            assert!(!plan.may_fix(address), "{address}");
        }
        assert!(plan.may_fix("10.86.0.254".parse().unwrap()));
        assert!(plan.may_fix("fd86::face:b00c:0:1".parse().unwrap()));
        assert_eq!(plan.index_of("fd86::face:b00c:0:1".parse().unwrap()), None);
    }

    #[test]
    fn the_smaller_family_sets_the_limit() {
        assert_eq!(plan("10.0.0.0/8", "fd86::/120").unwrap().last(), 255);
        assert_eq!(plan("10.0.0.0/30", "fd86::/64").unwrap().last(), 2);
        assert_eq!(plan("", "fd86::/64").unwrap().last(), u32::MAX);
    }

    #[test]
    fn useless_ranges_are_refused_by_name() {
        assert_eq!(plan("", ""), Err(PlanError::NoRange));
        for (ipv4, ipv6, named) in [
            ("10.0.0.0/31", "", "10.0.0.0/31"),
            ("10.0.0.0/32", "fd86::/64", "10.0.0.0/32"),
            ("10.0.0.0/8", "fd86::/127", "fd86::/127"),
            ("224.0.0.0/8", "", "224.0.0.0/8"),
            ("10.0.0.0/8", "fe80::/64", "fe80::/64"),
        ] {
            let error = plan(ipv4, ipv6).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
