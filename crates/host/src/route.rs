//! Links, addresses, routes and rules by rtnetlink.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use crate::error::HostError;
use crate::netlink::{
    Attributes, Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Netlink, Reply, attributes, text,
    u32_at,
};

/// The table that is looked at when no rule says otherwise.
pub(crate) const MAIN: u32 = 254;
/// The mark of ownership on our routes and rules: the kernel keeps it, shows it, and deletes only
/// what bears it. Taken from the numbers that no program registered (`/etc/iproute2/rt_protos`).
pub(crate) const PROTOCOL: u8 = 87;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;

const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
/// Length of `rtmsg`, and of `fib_rule_hdr`, which has the same shape.
const RTMSG_LEN: usize = 12;
const IFADDRMSG_LEN: usize = 8;
const IFINFOMSG_LEN: usize = 16;
const RTNEXTHOP_LEN: usize = 8;

/// A network interface, told apart from a later one of the same name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
}

/// An interface as the kernel lists it.
#[derive(Clone, Debug)]
pub(crate) struct LinkFacts {
    pub(crate) link: Link,
    /// `ARPHRD_*`.
    pub(crate) kind_of_link: u16,
    /// `IFF_*`.
    pub(crate) flags: u32,
    /// What made it: "bridge", "tun"; nothing if a driver of hardware did.
    pub(crate) kind: Option<String>,
    /// What it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
}

impl LinkFacts {
    pub(crate) fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }
}

/// A route.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) link: u32,
    pub(crate) via: Option<IpAddr>,
    pub(crate) table: u32,
    pub(crate) metric: Option<u32>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if self.table != MAIN {
            write!(f, " in table {}", self.table)?;
        }
        Ok(())
    }
}

/// A route that leads nowhere: senders learn at once that the destination is unreachable.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Refusal {
    pub(crate) destination: IpNet,
    pub(crate) table: u32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreachable route {}", self.destination)?;
        if self.table != MAIN {
            write!(f, " in table {}", self.table)?;
        }
        Ok(())
    }
}

/// A route as the kernel lists it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) route: Route,
    pub(crate) unicast: bool,
    pub(crate) protocol: u8,
}

/// A policy rule.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Rule {
    pub(crate) ipv6: bool,
    pub(crate) priority: u32,
    pub(crate) choice: Choice,
}

/// What a rule chooses.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Choice {
    /// Everything without the mark looks into the table.
    Unmarked { mark: u32, table: u32 },
    /// The main table, but its [broad](is_broad) routes do not count.
    MainWithoutBroad,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        write!(f, "{family} rule {}", self.priority)
    }
}

/// Whether a route is too broad to be one to a network of the host's own: a default route, or
/// parts of one, as a rogue DHCP server hands out (RFC 3442) to draw traffic out of a tunnel.
pub(crate) fn is_broad(net: IpNet) -> bool {
    net.prefix_len() <= broad(net.addr().is_ipv6())
}

/// The longest prefix that is broad. No IPv4 network in use is larger than a /8; IPv6 sites get a
/// /48, their providers a /20.
fn broad(ipv6: bool) -> u8 {
    if ipv6 { 15 } else { 7 }
}

/// How the host reaches an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Way {
    pub(crate) link: u32,
    pub(crate) via: Option<IpAddr>,
}

/// A conversation about routing.
#[derive(Debug)]
pub(crate) struct Routing(Netlink);

impl Routing {
    pub(crate) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkRoute).map(Self)
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let replies = self.dump(RTM_GETLINK, &[0; IFINFOMSG_LEN])?;
        Ok(replies.iter().filter_map(|reply| parse_link(&reply.body)).collect())
    }

    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Whether the very same interface still exists.
    pub(crate) fn exists(&mut self, link: &Link) -> io::Result<bool> {
        Ok(self.links()?.contains(link))
    }

    /// Sets what an interface of ours needs, and turns it on.
    pub(crate) fn set_up(&mut self, link: u32, mtu: u16, queue_len: u32) -> io::Result<()> {
        let up = u32::try_from(libc::IFF_UP).expect("IFF_UP is one bit");
        let fixed = link_message(link, up, up);
        let attributes = Attributes::new().u32(IFLA_MTU, mtu.into()).u32(IFLA_TXQLEN, queue_len);
        self.order(RTM_NEWLINK, 0, &fixed, attributes)
    }

    /// Every interface, with what is known of it.
    pub(crate) fn facts(&mut self) -> io::Result<Vec<LinkFacts>> {
        let replies = self.dump(RTM_GETLINK, &[0; IFINFOMSG_LEN])?;
        Ok(replies.iter().filter_map(|reply| parse_facts(&reply.body)).collect())
    }

    /// One of them.
    pub(crate) fn facts_of(&mut self, name: &str) -> Result<LinkFacts, HostError> {
        let all = self.facts().map_err(HostError::kernel("list interfaces"))?;
        let found = all.into_iter().find(|facts| facts.link.name == name);
        found.ok_or_else(|| HostError::NoInterface(name.to_owned()))
    }

    /// Makes a bridge that gives every port every frame of a group.
    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        // Who joined a group behind a tunnel is more than a bridge can know.
        let data = Attributes::new().bytes(IFLA_BR_MCAST_SNOOPING, &[0]);
        let info = Attributes::new().string(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, &data);
        let attributes = Attributes::new().string(IFLA_IFNAME, name).nest(IFLA_LINKINFO, &info);
        self.order(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &[0; IFINFOMSG_LEN], attributes)
    }

    pub(crate) fn remove_link(&mut self, link: u32) -> io::Result<()> {
        self.order(RTM_DELLINK, 0, &link_message(link, 0, 0), Attributes::new())
    }

    /// Makes the interface a port of another, or of none.
    pub(crate) fn set_master(&mut self, link: u32, master: Option<u32>) -> io::Result<()> {
        let attributes = Attributes::new().u32(IFLA_MASTER, master.unwrap_or(0));
        self.order(RTM_NEWLINK, 0, &link_message(link, 0, 0), attributes)
    }

    /// Gives the flags in `mask` the values in `flags`.
    pub(crate) fn set_flags(&mut self, link: u32, flags: u32, mask: u32) -> io::Result<()> {
        self.order(RTM_NEWLINK, 0, &link_message(link, flags, mask), Attributes::new())
    }

    pub(crate) fn set_mac(&mut self, link: u32, mac: [u8; 6]) -> io::Result<()> {
        let attributes = Attributes::new().bytes(IFLA_ADDRESS, &mac);
        self.order(RTM_NEWLINK, 0, &link_message(link, 0, 0), attributes)
    }

    /// Every address of every interface.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let replies = self.dump(RTM_GETADDR, &[0; IFADDRMSG_LEN])?;
        Ok(replies.iter().filter_map(|reply| parse_address(&reply.body)).collect())
    }

    pub(crate) fn add_address(&mut self, link: u32, address: IpNet) -> io::Result<()> {
        let (fixed, mut attributes) = address_message(link, address);
        if address.addr().is_ipv6() {
            // Nobody else can be on the other end of a tunnel, and a tentative address refuses
            // to be bound for a second.
            attributes = attributes.u32(IFA_FLAGS, IFA_F_NODAD);
        }
        self.order(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed, attributes)
    }

    pub(crate) fn remove_address(&mut self, link: u32, address: IpNet) -> io::Result<()> {
        let (fixed, attributes) = address_message(link, address);
        self.order(RTM_DELADDR, 0, &fixed, attributes)
    }

    /// Every route of both families in every table.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Listed>> {
        let replies = self.dump(RTM_GETROUTE, &[0; RTMSG_LEN])?;
        Ok(replies.iter().filter_map(|reply| parse_route(&reply.body)).collect())
    }

    pub(crate) fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let scope = match (route.via, route.destination) {
            (None, IpNet::V4(_)) => RT_SCOPE_LINK,
            _ => 0,
        };
        let (fixed, attributes) = route_message(route, scope);
        self.order(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &fixed, attributes)
    }

    pub(crate) fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        let (fixed, attributes) = route_message(route, RT_SCOPE_NOWHERE);
        self.order(RTM_DELROUTE, 0, &fixed, attributes)
    }

    pub(crate) fn add_refusal(&mut self, refusal: &Refusal) -> io::Result<()> {
        let (fixed, attributes) = refusal_message(refusal, 0);
        self.order(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &fixed, attributes)
    }

    pub(crate) fn remove_refusal(&mut self, refusal: &Refusal) -> io::Result<()> {
        let (fixed, attributes) = refusal_message(refusal, RT_SCOPE_NOWHERE);
        self.order(RTM_DELROUTE, 0, &fixed, attributes)
    }

    pub(crate) fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let (fixed, attributes) = rule_message(rule);
        self.order(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &fixed, attributes)
    }

    pub(crate) fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let (fixed, attributes) = rule_message(rule);
        self.order(RTM_DELRULE, 0, &fixed, attributes)
    }

    /// Succeeds if the kernel was built with policy routing for the family.
    pub(crate) fn has_rules(&mut self, ipv6: bool) -> io::Result<()> {
        let mut fixed = [0; RTMSG_LEN];
        fixed[0] = family(ipv6);
        self.dump(RTM_GETRULE, &fixed).map(drop)
    }

    /// How a packet with the mark leaves for `destination`; `None` if it does not, or arrives at
    /// this host.
    pub(crate) fn way_to(
        &mut self,
        destination: IpAddr,
        mark: Option<u32>,
    ) -> io::Result<Option<Way>> {
        /// No route; a route that says no (prohibit, blackhole); no such address family.
        const NO_WAY: [Errno; 6] = [
            Errno::ENETUNREACH,
            Errno::EHOSTUNREACH,
            Errno::EACCES,
            Errno::EINVAL,
            Errno::EOPNOTSUPP,
            Errno::EAFNOSUPPORT,
        ];
        let host = IpNet::from(destination);
        let mut fixed = [0; RTMSG_LEN];
        fixed[0] = family(destination.is_ipv6());
        fixed[1] = host.prefix_len();
        let mut attributes = Attributes::new().bytes(RTA_DST, &octets(destination));
        if let Some(mark) = mark {
            attributes = attributes.u32(RTA_MARK, mark);
        }
        let answer = self.0.ask(Message::new(RTM_GETROUTE, 0, &fixed, attributes));
        let replies = match answer {
            Err(error) if is_one_of(&error, &NO_WAY) => return Ok(None),
            answer => answer?,
        };
        let found = replies.iter().find_map(|reply| parse_route(&reply.body));
        Ok(found
            .filter(|found| found.unicast)
            .map(|found| Way { link: found.route.link, via: found.route.via }))
    }

    /// How the main table alone leads to `destination` if neither routes of ours nor those
    /// through `tunnel` count.
    pub(crate) fn way_around(
        &mut self,
        tunnel: u32,
        destination: IpAddr,
    ) -> io::Result<Option<Way>> {
        let best = self
            .routes()?
            .into_iter()
            .filter(|listed| {
                listed.unicast
                    && listed.protocol != PROTOCOL
                    && listed.route.table == MAIN
                    && listed.route.link != tunnel
                    && listed.route.link != 0
                    && listed.route.destination.contains(&destination)
            })
            .max_by_key(|listed| {
                let metric = listed.route.metric.unwrap_or(0);
                (listed.route.destination.prefix_len(), std::cmp::Reverse(metric))
            });
        Ok(best.map(|listed| Way { link: listed.route.link, via: listed.route.via }))
    }

    fn dump(&mut self, kind: u16, fixed: &[u8]) -> io::Result<Vec<Reply>> {
        self.0.ask(Message::new(kind, NLM_F_DUMP, fixed, Attributes::new()))
    }

    fn order(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        self.0.ask(Message::new(kind, flags, fixed, attributes)).map(drop)
    }
}

/// Whether the kernel's answer is one of these.
pub(crate) fn is_one_of(error: &io::Error, numbers: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&Errno::from_raw(number)))
}

fn family(ipv6: bool) -> u8 {
    u8::try_from(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }).expect("families are small")
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn address_message(link: u32, address: IpNet) -> ([u8; IFADDRMSG_LEN], Attributes) {
    let mut fixed = [0; IFADDRMSG_LEN];
    fixed[0] = family(address.addr().is_ipv6());
    fixed[1] = address.prefix_len();
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    let octets = octets(address.addr());
    (fixed, Attributes::new().bytes(IFA_LOCAL, &octets).bytes(IFA_ADDRESS, &octets))
}

fn route_message(route: &Route, scope: u8) -> ([u8; RTMSG_LEN], Attributes) {
    let (fixed, attributes) =
        destination_message(route.destination, route.table, scope, RTN_UNICAST);
    let mut attributes = attributes.u32(RTA_OIF, route.link);
    if let Some(via) = route.via {
        attributes = attributes.bytes(RTA_GATEWAY, &octets(via));
    }
    if let Some(metric) = route.metric {
        attributes = attributes.u32(RTA_PRIORITY, metric);
    }
    (fixed, attributes)
}

fn refusal_message(refusal: &Refusal, scope: u8) -> ([u8; RTMSG_LEN], Attributes) {
    destination_message(refusal.destination, refusal.table, scope, RTN_UNREACHABLE)
}

/// What routes of every type say.
fn destination_message(
    destination: IpNet,
    table: u32,
    scope: u8,
    kind: u8,
) -> ([u8; RTMSG_LEN], Attributes) {
    let destination = destination.trunc();
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family(destination.addr().is_ipv6());
    fixed[1] = destination.prefix_len();
    fixed[5] = PROTOCOL;
    fixed[6] = scope;
    fixed[7] = kind;
    let attributes =
        Attributes::new().bytes(RTA_DST, &octets(destination.addr())).u32(RTA_TABLE, table);
    (fixed, attributes)
}

fn rule_message(rule: &Rule) -> ([u8; RTMSG_LEN], Attributes) {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family(rule.ipv6);
    fixed[7] = FR_ACT_TO_TBL;
    let attributes =
        Attributes::new().u32(FRA_PRIORITY, rule.priority).bytes(FRA_PROTOCOL, &[PROTOCOL]);
    let attributes = match rule.choice {
        Choice::Unmarked { mark, table } => {
            fixed[8..12].copy_from_slice(&FIB_RULE_INVERT.to_ne_bytes());
            attributes.u32(FRA_TABLE, table).u32(FRA_FWMARK, mark).u32(FRA_FWMASK, u32::MAX)
        }
        Choice::MainWithoutBroad => {
            let longest = broad(rule.ipv6).into();
            attributes.u32(FRA_TABLE, MAIN).u32(FRA_SUPPRESS_PREFIXLEN, longest)
        }
    };
    (fixed, attributes)
}

fn link_message(link: u32, flags: u32, mask: u32) -> [u8; IFINFOMSG_LEN] {
    let mut fixed = [0; IFINFOMSG_LEN];
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&mask.to_ne_bytes());
    fixed
}

fn parse_facts(body: &[u8]) -> Option<LinkFacts> {
    let mut facts = LinkFacts {
        link: parse_link(body)?,
        kind_of_link: crate::netlink::u16_at(body, 2)?,
        flags: u32_at(body, 8)?,
        kind: None,
        master: None,
        mtu: 0,
        mac: [0; 6],
    };
    for (kind, value) in attributes(body.get(IFINFOMSG_LEN..)?) {
        match kind {
            IFLA_MASTER => facts.master = u32_at(value, 0),
            IFLA_MTU => facts.mtu = u32_at(value, 0)?,
            IFLA_ADDRESS => facts.mac = value.first_chunk().copied().unwrap_or_default(),
            IFLA_LINKINFO => {
                let found = attributes(value).find(|&(kind, _)| kind == IFLA_INFO_KIND);
                facts.kind = found.map(|(_, kind)| text(kind));
            }
            _ => {}
        }
    }
    Some(facts)
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = u32_at(body, 4)?;
    let (_, name) =
        attributes(body.get(IFINFOMSG_LEN..)?).find(|&(kind, _)| kind == IFLA_IFNAME)?;
    Some(Link { index, name: text(name) })
}

fn parse_address(body: &[u8]) -> Option<(u32, IpNet)> {
    let prefix_len = *body.get(1)?;
    let link = u32_at(body, 4)?;
    let mut found = None;
    for (kind, value) in attributes(body.get(IFADDRMSG_LEN..)?) {
        // On a point-to-point link, IFA_ADDRESS is the other end; IFA_LOCAL is always ours.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = address(value);
        }
    }
    Some((link, IpNet::new(found?, prefix_len).ok()?))
}

fn parse_route(body: &[u8]) -> Option<Listed> {
    let &[route_family, prefix_len, _, _, table, protocol, _, kind] = body.first_chunk()?;
    let ipv6 = route_family == family(true);
    if !ipv6 && route_family != family(false) {
        return None;
    }
    let mut destination: IpAddr =
        if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut route = Route {
        destination: IpNet::from(destination),
        link: 0,
        via: None,
        table: table.into(),
        metric: None,
    };
    for (kind, value) in attributes(body.get(RTMSG_LEN..)?) {
        match kind {
            RTA_DST => destination = address(value)?,
            RTA_OIF => route.link = u32_at(value, 0)?,
            RTA_GATEWAY => route.via = address(value),
            RTA_PRIORITY => route.metric = u32_at(value, 0),
            RTA_TABLE => route.table = u32_at(value, 0)?,
            RTA_MULTIPATH => {
                // The first of several next hops is as good as any.
                route.link = u32_at(value, 4)?;
                let hop_len = usize::from(crate::netlink::u16_at(value, 0)?);
                route.via = attributes(value.get(RTNEXTHOP_LEN..hop_len)?)
                    .find(|&(kind, _)| kind == RTA_GATEWAY)
                    .and_then(|(_, gateway)| address(gateway));
            }
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, prefix_len).ok()?;
    Some(Listed { route, unicast: kind == RTN_UNICAST, protocol })
}
