use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use contract::{
    BRIDGE_PORT, Crowd, Discard, Fabric, FabricOp, FrameVerdict, HOST_PORT, Layer, LinkHead,
    MAX_QUESTION, PacketHead, Plug, PortId, Verdict,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::segment::{Place, Segment};

#[cfg(test)]
mod bridge_tests;
mod frames;
#[cfg(test)]
mod frames_tests;
#[cfg(test)]
mod tests;

/// The groups by which things find each other without a server: mDNS, SSDP (UPnP, DLNA, printers,
/// games) and LLMNR.
pub const DISCOVERY_GROUPS: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)),
    IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 252)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3)),
];

/// Strangers do not choose the addresses that are keys here, so a fast hash will do.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The fabric of a server: one network whose members reach each other and the host.
///
/// Members are looked up by exact address first, then, for the subnets behind them, by longest
/// prefix.
#[derive(Clone, Debug)]
pub struct Switch {
    ports: Map<PortId, Plugged>,
    /// Ports that carry frames, in order.
    stations: Vec<PortId>,
    /// Ports that carry packets, in order.
    members: Vec<PortId>,
    exact4: Map<Ipv4Addr, PortId>,
    exact6: Map<Ipv6Addr, PortId>,
    behind4: PrefixMap<Ipv4Net, PortId>,
    behind6: PrefixMap<Ipv6Net, PortId>,
    /// The networks whose hosts are at the bridge.
    bridged: Vec<IpNet>,
    settings: SwitchSettings,
}

/// A port, and its place on the segment if it carries frames.
#[derive(Clone, Debug)]
struct Plugged {
    plug: Plug,
    place: Option<Place>,
}

/// What a [`Switch`] knows of its network.
#[derive(Clone, Debug)]
pub struct SwitchSettings {
    /// The network's own ranges: what is in them and nobody's goes nowhere.
    pub subnets: Vec<IpNet>,
    /// The network's own addresses, which are the host's.
    pub gateways: Vec<IpAddr>,
    /// The largest IP packet that the host's side carries.
    pub host_mtu: u16,
    /// What may change while packets flow.
    pub policy: Arc<SwitchPolicy>,
    /// The host's own addresses on the network that the segment is joined to, until
    /// [`FabricOp::HostOnBridge`] says otherwise.
    pub on_bridge: Vec<IpAddr>,
    /// Multicast groups that are relayed besides [`DISCOVERY_GROUPS`].
    pub groups: Vec<IpAddr>,
    /// What all copies of the switch share.
    pub segment: Arc<Segment>,
}

/// Decisions that every worker's copy of the switch shares; changed by one store, effective with
/// the next packet.
#[derive(Debug)]
pub struct SwitchPolicy {
    client_to_client: AtomicBool,
    relay_broadcast: AtomicBool,
}

impl SwitchPolicy {
    /// Says whether members may reach each other; nothing is relayed.
    #[must_use]
    pub fn new(client_to_client: bool) -> Self {
        Self { client_to_client: client_to_client.into(), relay_broadcast: false.into() }
    }

    /// Changes whether broadcast, and multicast of the chosen groups, is for everybody. Where
    /// members may not reach each other, it is not, whatever is said here.
    pub fn set_relay_broadcast(&self, relayed: bool) {
        self.relay_broadcast.store(relayed, Ordering::Relaxed);
    }

    fn relays(&self) -> bool {
        self.relay_broadcast.load(Ordering::Relaxed) && self.client_to_client()
    }

    /// Changes whether members may reach each other.
    pub fn set_client_to_client(&self, allowed: bool) {
        self.client_to_client.store(allowed, Ordering::Relaxed);
    }

    fn client_to_client(&self) -> bool {
        self.client_to_client.load(Ordering::Relaxed)
    }
}

impl Default for SwitchPolicy {
    /// Members may reach each other.
    fn default() -> Self {
        Self::new(true)
    }
}

impl Switch {
    /// A switch with nothing plugged in.
    #[must_use]
    pub fn new(settings: SwitchSettings) -> Self {
        Self {
            ports: Map::default(),
            stations: Vec::new(),
            members: Vec::new(),
            exact4: Map::default(),
            exact6: Map::default(),
            behind4: PrefixMap::new(),
            behind6: PrefixMap::new(),
            bridged: Vec::new(),
            settings,
        }
    }

    /// Replaces what the switch knows of its network; what is plugged in stays.
    pub fn reconfigure(&mut self, settings: SwitchSettings) {
        self.settings = settings;
    }

    fn for_member(&self, from: PortId, packet: &PacketHead) -> Verdict {
        // What is for one host, as nearly everything is, is asked no more than this.
        if is_group(packet.destination) || self.is_broadcast(packet.destination) {
            if self.is_relayed(packet.destination) && self.owner(packet.source) == Some(from) {
                return Verdict::Flood;
            }
            // Every host tries these by itself (neighbour discovery, mDNS): no attack.
            return Verdict::Discard(Discard::Multicast);
        }
        if is_link_local(packet.destination) || is_link_local(packet.source) {
            return Verdict::Discard(Discard::Multicast);
        }
        if self.owner(packet.source) != Some(from) {
            return Verdict::Discard(Discard::SpoofedSource);
        }
        if self.settings.gateways.contains(&packet.destination)
            || self.settings.on_bridge.contains(&packet.destination)
        {
            return Verdict::Host;
        }
        match self.owner(packet.destination) {
            Some(to) if to == from => Verdict::Discard(Discard::NoRoute),
            Some(_) if !self.settings.policy.client_to_client() => {
                Verdict::Discard(Discard::FilteredByPolicy)
            }
            Some(to) => Verdict::Port(to),
            // Hosts of the bridged network have a way out of their own.
            None if from == BRIDGE_PORT
                || self.is_ours(packet.destination)
                || is_only_local(packet.destination) =>
            {
                Verdict::Discard(Discard::NoRoute)
            }
            None => Verdict::Host,
        }
    }

    fn for_host(&self, packet: &PacketHead) -> Verdict {
        match self.owner(packet.destination) {
            Some(to) => Verdict::Port(to),
            None if self.is_relayed(packet.destination) => Verdict::Flood,
            None if is_group(packet.destination)
                || self.is_broadcast(packet.destination)
                || is_link_local(packet.destination) =>
            {
                Verdict::Discard(Discard::Multicast)
            }
            None => Verdict::Discard(Discard::NoRoute),
        }
    }

    /// Whether everybody gets what is sent there.
    fn is_relayed(&self, destination: IpAddr) -> bool {
        let is_chosen = || {
            destination == IpAddr::V4(Ipv4Addr::BROADCAST)
                || self.is_broadcast(destination)
                || DISCOVERY_GROUPS.contains(&destination)
                || self.settings.groups.contains(&destination)
        };
        self.settings.policy.relays() && is_chosen()
    }

    /// Whose address this is.
    fn owner(&self, address: IpAddr) -> Option<PortId> {
        self.owner_here(address).or_else(|| {
            // The pool may be a part of a bridged network: what is in it is the network's to give.
            let is_bridged = self.bridged.iter().any(|net| net.contains(&address));
            (is_bridged && !self.is_ours(address)).then_some(BRIDGE_PORT)
        })
    }

    /// Which member's address this is.
    fn owner_here(&self, address: IpAddr) -> Option<PortId> {
        match address {
            IpAddr::V4(address) => self.exact4.get(&address).copied().or_else(|| {
                let (_, port) = self.behind4.get_lpm(&Ipv4Net::from(address))?;
                Some(*port)
            }),
            IpAddr::V6(address) => self.exact6.get(&address).copied().or_else(|| {
                let (_, port) = self.behind6.get_lpm(&Ipv6Net::from(address))?;
                Some(*port)
            }),
        }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.settings.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    fn is_broadcast(&self, address: IpAddr) -> bool {
        self.settings.subnets.iter().chain(&self.bridged).any(|subnet| match (subnet, address) {
            (IpNet::V4(subnet), IpAddr::V4(address)) => {
                subnet.prefix_len() < 31 && subnet.broadcast() == address
            }
            _ => false,
        })
    }

    fn plug(&mut self, plug: &Plug) {
        self.unplug(plug.port);
        let mut plug = plug.clone();
        if plug.port == BRIDGE_PORT {
            self.bridged = std::mem::take(&mut plug.prefixes);
        }
        for prefix in &plug.prefixes {
            self.assign(*prefix, plug.port);
        }
        let place = match plug.layer {
            Layer::Ethernet => self.settings.segment.join(plug.port),
            Layer::Ip => None,
        };
        let list = if place.is_some() { &mut self.stations } else { &mut self.members };
        if let Err(at) = list.binary_search(&plug.port) {
            list.insert(at, plug.port);
        }
        self.ports.insert(plug.port, Plugged { plug, place });
    }

    fn unplug(&mut self, port: PortId) {
        let Some(Plugged { plug, place }) = self.ports.remove(&port) else { return };
        self.stations.retain(|station| *station != port);
        self.members.retain(|member| *member != port);
        if let Some(place) = place {
            self.settings.segment.leave(place);
        }
        if port == BRIDGE_PORT {
            self.bridged.clear();
            return;
        }
        for prefix in plug.prefixes {
            // What another port has taken over since stays with that port.
            if self.holder(prefix) != Some(port) {
                continue;
            }
            match self.heir(prefix) {
                Some(heir) => self.assign(prefix, heir),
                None => self.release(prefix),
            }
        }
    }

    /// Of the ports with this subnet behind them, which are one user's, the latest.
    fn heir(&self, subnet: IpNet) -> Option<PortId> {
        let subnet = subnet.trunc();
        let has = |plugged: &Plugged| {
            // An address that was leased anew is no subnet, and its former holder about to go.
            plugged.own(subnet.addr().is_ipv4()) != Some(subnet.addr())
                && plugged.plug.prefixes.iter().any(|prefix| prefix.trunc() == subnet)
        };
        let ports = self.stations.iter().chain(&self.members);
        ports.filter(|port| self.ports.get(port).is_some_and(has)).max().copied()
    }

    fn holder(&self, prefix: IpNet) -> Option<PortId> {
        match prefix {
            IpNet::V4(net) if is_host(prefix) => self.exact4.get(&net.addr()).copied(),
            IpNet::V4(net) => self.behind4.get(&net.trunc()).copied(),
            IpNet::V6(net) if is_host(prefix) => self.exact6.get(&net.addr()).copied(),
            IpNet::V6(net) => self.behind6.get(&net.trunc()).copied(),
        }
    }

    fn assign(&mut self, prefix: IpNet, port: PortId) {
        match prefix {
            IpNet::V4(net) if is_host(prefix) => self.exact4.insert(net.addr(), port),
            IpNet::V4(net) => self.behind4.insert(net.trunc(), port),
            IpNet::V6(net) if is_host(prefix) => self.exact6.insert(net.addr(), port),
            IpNet::V6(net) => self.behind6.insert(net.trunc(), port),
        };
    }

    fn release(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(net) if is_host(prefix) => self.exact4.remove(&net.addr()),
            IpNet::V4(net) => self.behind4.remove(&net.trunc()),
            IpNet::V6(net) if is_host(prefix) => self.exact6.remove(&net.addr()),
            IpNet::V6(net) => self.behind6.remove(&net.trunc()),
        };
    }
}

impl Fabric for Switch {
    fn forward(&self, from: PortId, packet: &PacketHead) -> Verdict {
        if from == HOST_PORT { self.for_host(packet) } else { self.for_member(from, packet) }
    }

    fn mtu(&self, port: PortId) -> u16 {
        self.ports.get(&port).map_or(self.settings.host_mtu, |plugged| plugged.plug.mtu)
    }

    fn apply(&mut self, op: &FabricOp) {
        match op {
            FabricOp::Plug(plug) => self.plug(plug),
            FabricOp::Unplug(port) => self.unplug(*port),
            FabricOp::HostOnBridge(addresses) => self.settings.on_bridge.clone_from(addresses),
        }
    }

    fn switch(&self, from: PortId, now: Instant, frame: &mut [u8]) -> FrameVerdict {
        self.on_frame(from, now, frame).unwrap_or_else(FrameVerdict::Discard)
    }

    fn link_head(&self, to: PortId, destination: IpAddr) -> LinkHead {
        if self.stations.is_empty() { LinkHead::None } else { self.head_for(to, destination) }
    }

    fn question(
        &self,
        to: PortId,
        destination: IpAddr,
        now: Instant,
        out: &mut [u8; MAX_QUESTION],
    ) -> Option<usize> {
        self.ask(to, destination, now, out)
    }

    fn is_apart(&self, port: PortId, now: Instant) -> bool {
        let place = self.ports.get(&port).and_then(|plugged| plugged.place);
        place.is_some_and(|place| self.settings.segment.is_apart(place, now))
    }

    fn crowd(
        &self,
        from: PortId,
        now: Instant,
        content: &[u8],
        relayed: bool,
    ) -> Result<Crowd<'_>, Discard> {
        let members = if relayed { &self.members[..] } else { &[] };
        let crowd = Crowd { stations: &self.stations, members };
        let copies = crowd.stations.len() + crowd.members.len();
        self.settings.segment.may_copy(from, now, content, copies)?;
        Ok(crowd)
    }
}

/// The fabric of a client: the host on one side, one tunnel on the other.
///
/// Whose addresses are behind the tunnel is the business of the host's routes, which are made from
/// the same lease; so everything passes, both ways, but link-local chatter. Of frames, everything
/// does: the host is a station like any other.
#[derive(Clone, Debug)]
pub struct Uplink {
    tunnel: Option<(PortId, u16)>,
    host_mtu: u16,
}

impl Uplink {
    /// An uplink whose tunnel is not there yet.
    #[must_use]
    pub fn new(host_mtu: u16) -> Self {
        Self { tunnel: None, host_mtu }
    }
}

impl Fabric for Uplink {
    fn forward(&self, from: PortId, packet: &PacketHead) -> Verdict {
        if is_link_local(packet.source) || is_link_local(packet.destination) {
            return Verdict::Discard(Discard::Multicast);
        }
        match self.tunnel {
            Some((tunnel, _)) if from == HOST_PORT => Verdict::Port(tunnel),
            Some((tunnel, _)) if from == tunnel => Verdict::Host,
            // A tunnel that has been replaced may still have packets under way.
            _ => Verdict::Discard(Discard::NoRoute),
        }
    }

    fn mtu(&self, port: PortId) -> u16 {
        match self.tunnel {
            Some((tunnel, mtu)) if tunnel == port => mtu,
            _ => self.host_mtu,
        }
    }

    fn apply(&mut self, op: &FabricOp) {
        match op {
            FabricOp::Plug(plug) => self.tunnel = Some((plug.port, plug.mtu)),
            FabricOp::Unplug(port) => {
                self.tunnel = self.tunnel.filter(|(tunnel, _)| tunnel != port)
            }
            FabricOp::HostOnBridge(_) => {}
        }
    }

    fn switch(&self, from: PortId, _: Instant, _: &mut [u8]) -> FrameVerdict {
        match self.tunnel {
            Some((tunnel, _)) if from == HOST_PORT => FrameVerdict::Port(tunnel),
            Some((tunnel, _)) if from == tunnel => FrameVerdict::Host,
            _ => FrameVerdict::Discard(Discard::NoRoute),
        }
    }
}

/// Either role's fabric, for workers that serve both.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per worker; a box would cost every packet")]
pub enum AnyFabric {
    /// A server's.
    Switch(Switch),
    /// A client's.
    Uplink(Uplink),
}

impl Fabric for AnyFabric {
    fn forward(&self, from: PortId, packet: &PacketHead) -> Verdict {
        match self {
            Self::Switch(switch) => switch.forward(from, packet),
            Self::Uplink(uplink) => uplink.forward(from, packet),
        }
    }

    fn mtu(&self, port: PortId) -> u16 {
        match self {
            Self::Switch(switch) => switch.mtu(port),
            Self::Uplink(uplink) => uplink.mtu(port),
        }
    }

    fn apply(&mut self, op: &FabricOp) {
        match self {
            Self::Switch(switch) => switch.apply(op),
            Self::Uplink(uplink) => uplink.apply(op),
        }
    }

    fn switch(&self, from: PortId, now: Instant, frame: &mut [u8]) -> FrameVerdict {
        match self {
            Self::Switch(switch) => switch.switch(from, now, frame),
            Self::Uplink(uplink) => uplink.switch(from, now, frame),
        }
    }

    fn link_head(&self, to: PortId, destination: IpAddr) -> LinkHead {
        match self {
            Self::Switch(switch) => switch.link_head(to, destination),
            Self::Uplink(uplink) => uplink.link_head(to, destination),
        }
    }

    fn question(
        &self,
        to: PortId,
        destination: IpAddr,
        now: Instant,
        out: &mut [u8; MAX_QUESTION],
    ) -> Option<usize> {
        match self {
            Self::Switch(switch) => switch.question(to, destination, now, out),
            Self::Uplink(uplink) => uplink.question(to, destination, now, out),
        }
    }

    fn is_apart(&self, port: PortId, now: Instant) -> bool {
        match self {
            Self::Switch(switch) => switch.is_apart(port, now),
            Self::Uplink(uplink) => uplink.is_apart(port, now),
        }
    }

    fn crowd(
        &self,
        from: PortId,
        now: Instant,
        content: &[u8],
        relayed: bool,
    ) -> Result<Crowd<'_>, Discard> {
        match self {
            Self::Switch(switch) => switch.crowd(from, now, content, relayed),
            Self::Uplink(uplink) => uplink.crowd(from, now, content, relayed),
        }
    }
}

fn is_host(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Addresses that mean "this machine" or nothing: no router forwards them (RFC 1122, 3.2.1.3).
fn is_only_local(address: IpAddr) -> bool {
    address.is_loopback()
        || match address {
            IpAddr::V4(address) => address.octets()[0] == 0 || address.octets()[0] >= 240,
            IpAddr::V6(address) => {
                address.is_unspecified()
                    || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
            }
        }
}
