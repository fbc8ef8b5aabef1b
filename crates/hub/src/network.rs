use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::{AttachRequest, DnsSettings, Layer, Lease, Network, NoLease, Plug, PortId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::memory::LeaseMemory;
use crate::plan::{Plan, PlanError};
use crate::pool::{Holder, Pool};

#[cfg(test)]
mod tests;

/// No IPv4 link may carry less (RFC 791, 3.2 has every host accept this much), whatever a peer
/// says of itself.
const MIN_MTU: u16 = 576;
/// No IPv6 link may carry less (RFC 8200, 5).
const MIN_MTU6: u16 = 1280;

/// What the members of a network are told, and the ranges they are in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkSettings {
    /// The network's name, by which requests ask for it.
    pub name: String,
    /// The IPv4 range; the first host address is the network's own.
    pub ipv4: Option<Ipv4Net>,
    /// The IPv6 range; `::1` in it is the network's own.
    pub ipv6: Option<Ipv6Net>,
    /// Name resolution.
    pub dns: DnsSettings,
    /// Networks that members reach through the tunnel, besides this one.
    pub routes: Vec<IpNet>,
    /// Networks that must not go through the tunnel.
    pub excluded: Vec<IpNet>,
    /// Members send everything IPv4 through the tunnel.
    pub redirect4: bool,
    /// Members send everything IPv6 through the tunnel.
    pub redirect6: bool,
    /// Members send nothing IPv4 at all: what is redirected has no way here.
    pub block4: bool,
    /// Members send nothing IPv6 at all.
    pub block6: bool,
    /// The largest IP packet inside the tunnel.
    pub mtu: u16,
}

/// One virtual network: who is in it, and with which addresses.
///
/// Two ports never have the same address at the same time: leasing, fixing and taking over happen
/// under one lock, against one table of the addresses that are live.
#[derive(Debug)]
pub struct HubNetwork {
    memory: Box<dyn LeaseMemory>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    settings: NetworkSettings,
    plan: Plan,
    pool: Pool,
    members: BTreeMap<PortId, Place>,
    live: HashMap<IpAddr, PortId>,
    reserved: BTreeSet<IpAddr>,
    replaced: Vec<PortId>,
}

/// A member, and what must be given back when it leaves.
#[derive(Clone, Debug)]
struct Place {
    member: Member,
    holder: Option<Holder>,
}

/// Somebody plugged in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Where.
    pub port: PortId,
    /// Who.
    pub user: String,
    /// With which device.
    pub device: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Where it was when it attached.
    pub remote: IpAddr,
    /// The largest IP packet it carries.
    pub mtu: u16,
    /// Subnets behind it.
    pub behind: Vec<IpNet>,
    /// Whether it carries packets or frames.
    pub layer: Layer,
}

impl Member {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::from).into_iter().chain(self.ipv6.map(IpAddr::from))
    }
}

impl HubNetwork {
    /// An empty network that remembers what `memory` does.
    ///
    /// # Errors
    ///
    /// If the ranges cannot be used.
    pub fn new(settings: NetworkSettings, memory: Box<dyn LeaseMemory>) -> Result<Self, PlanError> {
        let plan = Plan::new(settings.ipv4, settings.ipv6)?;
        let pool = Pool::new(plan, memory.load());
        let state = State {
            settings,
            plan,
            pool,
            members: BTreeMap::new(),
            live: HashMap::new(),
            reserved: BTreeSet::new(),
            replaced: Vec::new(),
        };
        Ok(Self { memory, state: state.into() })
    }

    /// Keeps these addresses out of the pool, replacing those kept before: the fixed addresses of
    /// all users, so that nobody else is in them when their owner comes.
    pub fn reserve(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.lock().reserved = addresses.into_iter().collect();
    }

    /// Changes what members are told from the next lease on.
    ///
    /// Returns the ports whose addresses are not in the network's ranges any more: their sessions
    /// have to end. Until they do, they keep their addresses.
    ///
    /// # Errors
    ///
    /// If the ranges cannot be used; nothing has changed then.
    pub fn update_settings(&self, settings: NetworkSettings) -> Result<Vec<PortId>, PlanError> {
        let plan = Plan::new(settings.ipv4, settings.ipv6)?;
        let mut state = self.lock();
        state.settings = settings;
        if plan == state.plan {
            return Ok(Vec::new());
        }
        state.plan = plan;
        state.pool = Pool::new(plan, self.memory.load());

        let mut outside = Vec::new();
        for (port, place) in &mut state.members {
            // What it leased is in the live table until it leaves; the new pool asks that.
            place.holder = None;
            if !place.member.addresses().all(|address| plan.may_fix(address)) {
                outside.push(*port);
            }
        }
        Ok(outside)
    }

    /// What the fabric has to know of a port; `None` if it is not attached.
    #[must_use]
    pub fn plug(&self, port: PortId) -> Option<Plug> {
        let state = self.lock();
        let member = &state.members.get(&port)?.member;
        let prefixes = member.addresses().map(IpNet::from).chain(member.behind.clone()).collect();
        let user = member.user.as_str().into();
        Some(Plug { port, prefixes, mtu: member.mtu, layer: member.layer, user })
    }

    /// The ports that lost their place to a newer session of the same device since the last call;
    /// their sessions have to end.
    #[must_use]
    pub fn take_replaced(&self) -> Vec<PortId> {
        std::mem::take(&mut self.lock().replaced)
    }

    /// The subnets behind members, each once.
    #[must_use]
    pub fn behind(&self) -> BTreeSet<IpNet> {
        let state = self.lock();
        let members = state.members.values();
        members.flat_map(|place| place.member.behind.iter().copied()).collect()
    }

    /// Everybody who is plugged in, in port order.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.lock().members.values().map(|place| place.member.clone()).collect()
    }

    /// The network's ranges.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        self.lock().plan.subnets()
    }

    /// The network's own addresses with its prefix lengths: what the host's side is given.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpNet> {
        let plan = self.lock().plan;
        let ipv4 = plan
            .gateway4()
            .and_then(|gateway| Some(Ipv4Net::new(gateway, plan.prefix_len4()).ok()?.into()));
        let ipv6 = plan
            .gateway6()
            .and_then(|gateway| Some(Ipv6Net::new(gateway, plan.prefix_len6()).ok()?.into()));
        ipv4.into_iter().chain(ipv6).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics between two writes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for HubNetwork {
    fn attach(&self, port: PortId, request: &AttachRequest) -> Result<Lease, NoLease> {
        self.lock().attach(port, request, self.memory.as_ref())
    }

    fn detach(&self, port: PortId) {
        self.lock().detach(port);
    }
}

impl State {
    fn attach(
        &mut self,
        port: PortId,
        request: &AttachRequest,
        memory: &dyn LeaseMemory,
    ) -> Result<Lease, NoLease> {
        if !request.network.is_empty() && request.network != self.settings.name {
            return Err(NoLease::UnknownNetwork);
        }
        self.check_behind(request)?;
        let mut ipv4 = self.fixed4(request)?;
        let mut ipv6 = self.fixed6(request)?;
        let fixed = ipv4.map(IpAddr::from).into_iter().chain(ipv6.map(IpAddr::from));
        let ghosts = self.ghosts(port, request, fixed)?;
        self.detach(port);
        for ghost in ghosts {
            self.detach(ghost);
            self.replaced.push(ghost);
        }

        // The twin of a fixed address is as good as fixed.
        if let (Some(address), None) = (ipv4, ipv6) {
            ipv6 = self.twin(address.into()).and_then(|index| self.plan.address6(index));
        }
        if let (None, Some(address)) = (ipv4, ipv6) {
            ipv4 = self.twin(address.into()).and_then(|index| self.plan.address4(index));
        }

        let lacks4 = ipv4.is_none() && self.plan.has_ipv4();
        let lacks6 = ipv6.is_none() && self.plan.has_ipv6();
        let mut holder = None;
        if lacks4 || lacks6 {
            let (plan, live, reserved) = (self.plan, &self.live, &self.reserved);
            let is_free = |index| is_free(plan, live, reserved, index);
            let (leased_by, index) = self
                .pool
                .lease(&request.user, &request.device, is_free, memory)
                .ok_or(NoLease::PoolExhausted)?;
            holder = Some(leased_by);
            ipv4 = ipv4.or_else(|| plan.address4(index));
            ipv6 = ipv6.or_else(|| plan.address6(index));
        }

        let least = if ipv6.is_some() { MIN_MTU6 } else { MIN_MTU };
        let mtu =
            request.mtu.map_or(self.settings.mtu, |mtu| mtu.max(least).min(self.settings.mtu));
        let member = Member {
            port,
            user: request.user.clone(),
            device: request.device.clone(),
            ipv4,
            ipv6,
            remote: request.remote,
            mtu,
            behind: request.behind.clone(),
            layer: request.layer,
        };
        self.live.extend(member.addresses().map(|address| (address, port)));
        self.members.insert(port, Place { member, holder });
        Ok(self.lease(ipv4, ipv6, mtu))
    }

    fn detach(&mut self, port: PortId) {
        let Some(place) = self.members.remove(&port) else { return };
        for address in place.member.addresses() {
            self.live.remove(&address);
        }
        if let Some(holder) = place.holder {
            self.pool.release(&holder);
        }
    }

    /// Subnets belong to one user; of that user's sessions, the latest has them: it may be the
    /// same router, come back.
    fn check_behind(&self, request: &AttachRequest) -> Result<(), NoLease> {
        let overlaps = |net: &IpNet| {
            let overlap = |other: &IpNet| net.contains(other) || other.contains(net);
            let others = self.members.values().map(|place| &place.member);
            self.plan.subnets().iter().any(overlap)
                || others
                    .filter(|member| member.user != request.user)
                    .any(|member| member.behind.iter().any(overlap))
        };
        match request.behind.iter().any(overlaps) {
            true => Err(NoLease::SubnetTaken),
            false => Ok(()),
        }
    }

    /// The fixed IPv4 address, if there is one and the network has IPv4 at all.
    fn fixed4(&self, request: &AttachRequest) -> Result<Option<Ipv4Addr>, NoLease> {
        let fixed = request.fixed.iter().find_map(|address| match address {
            IpAddr::V4(address) if self.plan.has_ipv4() => Some(*address),
            _ => None,
        });
        self.allowed(fixed)
    }

    fn fixed6(&self, request: &AttachRequest) -> Result<Option<Ipv6Addr>, NoLease> {
        let fixed = request.fixed.iter().find_map(|address| match address {
            IpAddr::V6(address) if self.plan.has_ipv6() => Some(*address),
            _ => None,
        });
        self.allowed(fixed)
    }

    fn allowed<A: Copy + Into<IpAddr>>(&self, fixed: Option<A>) -> Result<Option<A>, NoLease> {
        match fixed {
            Some(address) if !self.plan.may_fix(address.into()) => Err(NoLease::Refused),
            fixed => Ok(fixed),
        }
    }

    /// The ports that must give way: sessions that this very device has lost, and those of the
    /// same device name that are in the fixed addresses.
    fn ghosts(
        &self,
        port: PortId,
        request: &AttachRequest,
        fixed: impl Iterator<Item = IpAddr>,
    ) -> Result<BTreeSet<PortId>, NoLease> {
        let lost = self.members.values().map(|place| &place.member).filter(|member| {
            request.is_unique
                && member.port != port
                && member.user == request.user
                && member.device == request.device
        });
        let mut ghosts = lost.map(|member| member.port).collect::<BTreeSet<_>>();
        for address in fixed {
            let Some(holder) = self.live.get(&address).filter(|holder| **holder != port) else {
                continue;
            };
            let is_same_device = self.members.get(holder).is_some_and(|place| {
                place.member.user == request.user && place.member.device == request.device
            });
            if !is_same_device {
                return Err(NoLease::AddressTaken);
            }
            ghosts.insert(*holder);
        }
        Ok(ghosts)
    }

    /// The host part of a fixed address, if its address in the other family is nobody's.
    fn twin(&self, address: IpAddr) -> Option<u32> {
        let index = self.plan.index_of(address)?;
        let mut twins = self.plan.addresses(index).filter(|twin| *twin != address);
        let is_free =
            twins.all(|twin| !self.live.contains_key(&twin) && !self.reserved.contains(&twin));
        is_free.then_some(index)
    }

    fn lease(&self, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>, mtu: u16) -> Lease {
        Lease {
            ipv4: ipv4.map(|address| (address, self.plan.prefix_len4())),
            ipv6: ipv6.map(|address| (address, self.plan.prefix_len6())),
            gateway4: self.plan.gateway4(),
            gateway6: self.plan.gateway6(),
            dns: self.settings.dns.clone(),
            routes: self.settings.routes.clone(),
            excluded: self.settings.excluded.clone(),
            redirect4: self.settings.redirect4,
            redirect6: self.settings.redirect6,
            block4: self.settings.block4,
            block6: self.settings.block6,
            mtu,
            ..Lease::default()
        }
    }
}

fn is_free(
    plan: Plan,
    live: &HashMap<IpAddr, PortId>,
    reserved: &BTreeSet<IpAddr>,
    index: u32,
) -> bool {
    plan.addresses(index).all(|ip| !live.contains_key(&ip) && !reserved.contains(&ip))
}
