//! The network as a station and a switch among the ports that carry frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use contract::{
    BRIDGE_PORT, Discard, FrameVerdict, LinkHead, MAX_QUESTION, PacketHead, PortId, Verdict,
};
use ipnet::IpNet;
use wire::ethernet::{self, EtherType, HEADER, Mac};
use wire::ip;
use wire::neighbour::{ARP_LEN, Arp, ArpOperation, DISCOVERY_LEN, Discovery, DiscoveryKind};

use super::{Plugged, Switch, is_group, is_host, is_link_local};
use crate::segment::{Family, Place};

const _: () = assert!(MAX_QUESTION == HEADER + DISCOVERY_LEN);

/// A frame as it came in.
#[derive(Clone, Copy)]
struct Arrival<'s> {
    from: PortId,
    plugged: &'s Plugged,
    place: Place,
    now: Instant,
    head: ethernet::Head,
}

/// Who answers a question for an address.
enum Answerer {
    /// We do, with our own hardware address.
    Ourselves,
    /// The port that has it.
    Port(PortId),
    /// Whoever hears it: the address is none of the network's, or the asker speaks of itself.
    Everybody,
    /// Nobody can.
    Nobody,
}

impl Switch {
    pub(super) fn on_frame(
        &self,
        from: PortId,
        now: Instant,
        frame: &mut [u8],
    ) -> Result<FrameVerdict, Discard> {
        let plugged = self.ports.get(&from).ok_or(Discard::SpoofedSource)?;
        let place = plugged.place.ok_or(Discard::SpoofedSource)?;
        let head = ethernet::Head::parse(frame).map_err(|_| Discard::Malformed)?;
        if head.source.is_group() || head.source.is_unset() {
            return Err(Discard::Malformed);
        }
        if head.source == self.settings.segment.mac() {
            return Err(Discard::SpoofedSource);
        }
        if head.destination.is_link_local() {
            return Err(Discard::Multicast);
        }
        // Nobody honest does this, and below it could be anything that is checked.
        if head.is_disguised(frame) {
            return Err(Discard::FilteredByPolicy);
        }
        let is_lost = |former| self.is_successor(from, former);
        self.settings.segment.learn(place, head.source, now, is_lost)?;

        let arrival = Arrival { from, plugged, place, now, head };
        if head.is_ip() {
            return self.on_ip(&arrival, frame);
        }
        if head.ether_type == EtherType::ARP && !head.is_tagged() {
            return self.on_arp(&arrival, frame);
        }
        self.pass(&arrival, None)
    }

    /// Whether `former` is an earlier port of the same user. The later one has what both want, so
    /// that they do not take it from each other in turns.
    fn is_successor(&self, port: PortId, former: PortId) -> bool {
        let user = |port| self.ports.get(&port).map(|plugged| &*plugged.plug.user);
        former < port && user(port).is_some_and(|it| !it.is_empty() && user(former) == Some(it))
    }

    /// On to whoever the frame is for.
    fn pass(&self, arrival: &Arrival<'_>, packet: Option<usize>) -> Result<FrameVerdict, Discard> {
        let Arrival { from, head, .. } = arrival;
        if head.destination == self.settings.segment.mac() {
            return Err(Discard::NoRoute); // a station, but no other protocol's
        }
        self.may_pass(arrival)?;
        if head.destination.is_group() {
            return Ok(FrameVerdict::Flood { packet });
        }
        match self.settings.segment.find(head.destination) {
            Some(to) if to == *from => Err(Discard::NoRoute), // it is there already
            Some(to) => Ok(FrameVerdict::Port(to)),
            None => Ok(FrameVerdict::Flood { packet: None }),
        }
    }

    /// Whether anything of this port may reach another.
    fn may_pass(&self, arrival: &Arrival<'_>) -> Result<(), Discard> {
        if !self.settings.policy.client_to_client() {
            return Err(Discard::FilteredByPolicy);
        }
        if self.settings.segment.is_apart(arrival.place, arrival.now) {
            return Err(Discard::Loop);
        }
        Ok(())
    }

    fn on_ip(&self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Result<FrameVerdict, Discard> {
        let Arrival { from, head, .. } = *arrival;
        let packet = frame.get(HEADER..).unwrap_or_default();
        let ip = ip::Head::parse(packet).map_err(|_| Discard::Malformed)?;
        if ip.is_v4() != (head.ether_type == EtherType::IPV4) {
            return Err(Discard::Malformed);
        }
        self.check_claim(from, ip.source)?;
        self.meet(arrival, ip.source, head.source);
        if let Some(kind) = Discovery::kind(&ip, packet).filter(|_| !ip.is_v4()) {
            return self.on_discovery(arrival, kind, &ip, frame);
        }
        if head.destination == self.settings.segment.mac() {
            return Ok(FrameVerdict::Route);
        }
        let summary = PacketHead {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            len: ip.total_len as u16,
        };
        let is_relayed = head.destination.is_group()
            && self.is_relayed(ip.destination)
            && self.for_member(from, &summary) == Verdict::Flood;
        self.pass(arrival, is_relayed.then_some(HEADER))
    }

    fn on_arp(&self, arrival: &Arrival<'_>, frame: &mut [u8]) -> Result<FrameVerdict, Discard> {
        let Arrival { from, place, now, head, .. } = *arrival;
        let message = frame.get_mut(HEADER..).unwrap_or_default();
        let arp = Arp::parse(message).map_err(|_| Discard::Malformed)?;
        self.check_claim(from, arp.sender.into())?;
        self.meet(arrival, arp.sender.into(), arp.sender_mac);
        if arp.operation != ArpOperation::REQUEST {
            return self.pass(arrival, None);
        }
        match self.answerer(from, arp.sender.into(), arp.target.into()) {
            Answerer::Ourselves => {
                self.may_answer(place, now)?;
                let own = self.settings.segment.mac();
                let reply = Arp {
                    operation: ArpOperation::REPLY,
                    sender_mac: own,
                    sender: arp.target,
                    target_mac: arp.sender_mac,
                    target: arp.sender,
                };
                let room = message.get_mut(..ARP_LEN).ok_or(Discard::Malformed)?;
                room.copy_from_slice(&reply.write());
                let link = ethernet::head(head.source, own, EtherType::ARP);
                frame.get_mut(..HEADER).ok_or(Discard::Malformed)?.copy_from_slice(&link);
                Ok(FrameVerdict::Answer(HEADER + ARP_LEN))
            }
            answerer => self.hand_on(arrival, &answerer),
        }
    }

    fn on_discovery(
        &self,
        arrival: &Arrival<'_>,
        kind: DiscoveryKind,
        ip: &ip::Head,
        frame: &mut [u8],
    ) -> Result<FrameVerdict, Discard> {
        let Arrival { from, place, now, head, .. } = *arrival;
        match kind {
            DiscoveryKind::SOLICITATION | DiscoveryKind::ADVERTISEMENT => {}
            // Those of the bridged network are asked by members, and say so themselves.
            _ if self.is_bridged()
                && (from == BRIDGE_PORT) != (kind == DiscoveryKind::ROUTER_SOLICITATION) =>
            {
                return self.pass(arrival, None);
            }
            // Nobody else wants to know, and nobody says for us, where the routers are.
            _ => return Err(Discard::FilteredByPolicy),
        }
        let message = frame.get_mut(HEADER..HEADER + ip.total_len).ok_or(Discard::Malformed)?;
        let discovery = Discovery::parse(ip, message).map_err(|_| Discard::Malformed)?;
        if kind == DiscoveryKind::ADVERTISEMENT {
            self.check_claim(from, discovery.target.into())?;
            self.meet(arrival, discovery.target.into(), discovery.link.unwrap_or(head.source));
            return self.pass(arrival, None);
        }
        if let Some(link) = discovery.link {
            self.meet(arrival, ip.source, link);
        }
        let (IpAddr::V6(asker), answerer) =
            (ip.source, self.answerer(from, ip.source, discovery.target.into()))
        else {
            return Err(Discard::Malformed);
        };
        match answerer {
            Answerer::Ourselves => {
                self.may_answer(place, now)?;
                let own = self.settings.segment.mac();
                let len = Discovery::answer(own, discovery.target, asker, message)
                    .ok_or(Discard::Malformed)?;
                let link = ethernet::head(head.source, own, EtherType::IPV6);
                frame.get_mut(..HEADER).ok_or(Discard::Malformed)?.copy_from_slice(&link);
                Ok(FrameVerdict::Answer(HEADER + len))
            }
            answerer => self.hand_on(arrival, &answerer),
        }
    }

    /// A question that others answer.
    fn hand_on(&self, arrival: &Arrival<'_>, answerer: &Answerer) -> Result<FrameVerdict, Discard> {
        self.may_pass(arrival)?;
        match answerer {
            Answerer::Port(port) => Ok(FrameVerdict::Port(*port)),
            Answerer::Everybody => self.pass(arrival, None),
            Answerer::Ourselves | Answerer::Nobody => Err(Discard::NoRoute),
        }
    }

    fn answerer(&self, from: PortId, asker: IpAddr, target: IpAddr) -> Answerer {
        // From a host that is none of the bridged networks', nothing would be taken.
        let is_welcome = from != BRIDGE_PORT
            || self.owner(asker) == Some(from)
            || asker.is_unspecified()
            || (asker.is_ipv6() && is_link_local(asker));
        if self.settings.gateways.contains(&target) {
            return if is_welcome { Answerer::Ourselves } else { Answerer::Nobody };
        }
        if self.settings.on_bridge.contains(&target) && self.owner(asker) == Some(from) {
            // From an address of ours, the host takes it through us only.
            return if from == BRIDGE_PORT { Answerer::Everybody } else { Answerer::Ourselves };
        }
        match self.owner(target) {
            Some(port) if port == from || port == BRIDGE_PORT => Answerer::Everybody,
            Some(_) if !self.settings.policy.client_to_client() => Answerer::Nobody,
            // The subnet behind a station is reached through us, like that behind anybody.
            Some(port) if self.is_own_address_of_station(port, target) => Answerer::Port(port),
            Some(_) if is_welcome => Answerer::Ourselves,
            Some(_) => Answerer::Nobody,
            None if self.is_ours(target) => Answerer::Nobody,
            None => Answerer::Everybody,
        }
    }

    fn is_own_address_of_station(&self, port: PortId, address: IpAddr) -> bool {
        self.ports.get(&port).is_some_and(|plugged| {
            plugged.place.is_some() && plugged.own(address.is_ipv4()) == Some(address)
        })
    }

    /// What is in the network's ranges, or anybody's, may be said only by whose it is. Addresses
    /// outside are no business of ours as long as they stay on the segment.
    fn check_claim(&self, from: PortId, address: IpAddr) -> Result<(), Discard> {
        if address.is_unspecified() {
            return Ok(());
        }
        let is_honest = match self.owner(address) {
            // A member may be a host of the bridged network's, too, but not this one.
            Some(BRIDGE_PORT) => from == BRIDGE_PORT || !self.settings.on_bridge.contains(&address),
            Some(owner) => owner == from,
            None => !self.is_ours(address) && !self.settings.gateways.contains(&address),
        };
        if is_honest { Ok(()) } else { Err(Discard::SpoofedSource) }
    }

    /// Remembers which hardware address has the port's own address.
    fn meet(&self, arrival: &Arrival<'_>, address: IpAddr, mac: Mac) {
        if arrival.from == BRIDGE_PORT {
            if self.owner(address) == Some(BRIDGE_PORT) {
                self.settings.segment.meet_neighbour(address, mac, arrival.now);
            }
            return;
        }
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        if arrival.plugged.own(address.is_ipv4()) == Some(address) {
            self.settings.segment.meet(arrival.place, family, mac);
        }
    }

    fn may_answer(&self, place: Place, now: Instant) -> Result<(), Discard> {
        let may = self.settings.segment.may_answer(place, now);
        if may { Ok(()) } else { Err(Discard::RateLimited) }
    }

    fn is_bridged(&self) -> bool {
        self.ports.contains_key(&BRIDGE_PORT)
    }

    /// The head of a frame for `destination` at the port `to`, if that carries frames.
    pub(super) fn head_for(&self, to: PortId, destination: IpAddr) -> LinkHead {
        let Some(place) = self.ports.get(&to).and_then(|plugged| plugged.place) else {
            return LinkHead::None;
        };
        let segment = &self.settings.segment;
        let (family, ether_type) = match destination {
            IpAddr::V4(_) => (Family::V4, EtherType::IPV4),
            IpAddr::V6(_) => (Family::V6, EtherType::IPV6),
        };
        let mac = if self.is_broadcast(destination) {
            Some(Mac::BROADCAST)
        } else if is_group(destination) {
            Mac::of_group(destination)
        } else if to == BRIDGE_PORT {
            segment.find_neighbour(destination)
        } else {
            // What is behind a station goes through it.
            segment.neighbour(place, family)
        };
        mac.map_or(LinkHead::Unknown, |mac| {
            LinkHead::Ethernet(ethernet::head(mac, segment.mac(), ether_type))
        })
    }

    /// Asks the port for the hardware address of its own address, in the family of `destination`.
    pub(super) fn ask(
        &self,
        to: PortId,
        destination: IpAddr,
        now: Instant,
        out: &mut [u8; MAX_QUESTION],
    ) -> Option<usize> {
        let plugged = self.ports.get(&to)?;
        let segment = &self.settings.segment;
        let own = match to {
            BRIDGE_PORT => destination,
            _ => plugged.own(destination.is_ipv4())?,
        };
        let gateways = self.settings.gateways.iter();
        let (target_mac, ether_type, len) = match own {
            IpAddr::V4(target) => {
                let sender = gateways.copied().find_map(v4)?;
                let request = Arp {
                    operation: ArpOperation::REQUEST,
                    sender_mac: segment.mac(),
                    sender,
                    target_mac: Mac([0; 6]),
                    target,
                };
                out[HEADER..HEADER + ARP_LEN].copy_from_slice(&request.write());
                (Mac::BROADCAST, EtherType::ARP, ARP_LEN)
            }
            IpAddr::V6(target) => {
                let sender = gateways.copied().find_map(v6)?;
                out[HEADER..].copy_from_slice(&Discovery::solicitation(
                    segment.mac(),
                    sender,
                    target,
                ));
                let group = Mac::of_group(Discovery::group_of(target).into())?;
                (group, EtherType::IPV6, DISCOVERY_LEN)
            }
        };
        out[..HEADER].copy_from_slice(&ethernet::head(target_mac, segment.mac(), ether_type));
        segment.may_ask(plugged.place?, now).then_some(HEADER + len)
    }
}

impl Plugged {
    /// The port's own address: the first that is no subnet's.
    pub(super) fn own(&self, is_v4: bool) -> Option<IpAddr> {
        let is_own = |prefix: &&IpNet| prefix.addr().is_ipv4() == is_v4 && is_host(**prefix);
        self.plug.prefixes.iter().find(is_own).map(IpNet::addr)
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}
