//! The network against a naive reference, driven by bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use contract::{AttachRequest, Layer, Lease, Network, NoLease, PortId};

use crate::{Forgetful, HubNetwork, NetworkSettings};

mod frames;

pub use frames::frames;

/// Host parts 2 to 14: few enough that every sequence runs into the limits.
const MEMBERS: usize = 13;

/// Addresses that the fuzzed users have fixed; the last two are not a member's.
const FIXED: [&str; 4] = ["10.86.0.2", "10.86.0.9", "10.86.0.1", "192.0.2.1"];

/// Plays attaches and detaches, three bytes each, and asserts what must hold after every one:
/// no address is leased twice, none is the network's own, a device that comes back finds its
/// address if nobody needed it, and the pool is exhausted only when it is.
///
/// # Panics
///
/// If the network breaks one of these promises.
pub fn network(bytes: &[u8]) {
    let settings = NetworkSettings {
        name: "fuzz".into(),
        ipv4: "10.86.0.0/28".parse().ok(),
        ipv6: "fd86::/64".parse().ok(),
        dns: Default::default(),
        routes: Vec::new(),
        excluded: Vec::new(),
        redirect4: false,
        redirect6: false,
        block4: false,
        block6: false,
        mtu: 1420,
    };
    let network = HubNetwork::new(settings, Box::new(Forgetful)).expect("the ranges are valid");
    let mut reference = Reference::default();

    for step in bytes.chunks_exact(3) {
        let port = PortId(u32::from(step[1] % 32) + 1);
        match step[0] % 4 {
            0 => {
                network.detach(port);
                reference.detach(port);
            }
            kind => {
                let request = request(step[2], kind == 3);
                let answer = network.attach(port, &request);
                reference.attached(port, &request, answer.as_ref());
                for replaced in network.take_replaced() {
                    reference.detach_replaced(replaced, &request);
                }
            }
        }
        reference.check(&network);
    }
}

fn request(choice: u8, is_fixed: bool) -> AttachRequest {
    let fixed = FIXED[usize::from(choice >> 6)].parse().ok();
    AttachRequest {
        network: String::new(),
        user: format!("user{}", choice % 4),
        device: format!("device{}", (choice >> 2) % 4),
        is_unique: false,
        fixed: fixed.filter(|_| is_fixed).into_iter().collect(),
        behind: Vec::new(),
        layer: Layer::Ip,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        mtu: None,
    }
}

/// What the network should be like, with lists and loops where it has tables.
#[derive(Default)]
struct Reference {
    live: BTreeMap<PortId, (AttachRequest, Lease)>,
    /// What each device without fixed addresses was given last, while nobody else had it since.
    last: BTreeMap<(String, String), Ipv4Addr>,
    /// Ports that attached anew while the old session was still there.
    expected_gone: BTreeSet<PortId>,
}

impl Reference {
    fn detach(&mut self, port: PortId) {
        self.live.remove(&port);
    }

    fn detach_replaced(&mut self, port: PortId, by: &AttachRequest) {
        assert!(self.expected_gone.remove(&port), "{port:?} was replaced for no reason");
        assert!(!by.fixed.is_empty(), "only fixed addresses are taken over");
    }

    fn attached(
        &mut self,
        port: PortId,
        request: &AttachRequest,
        answer: Result<&Lease, &NoLease>,
    ) {
        let fixed = request.fixed.first();
        let is_possible = fixed.is_none_or(|fixed| {
            *fixed == IpAddr::V4(Ipv4Addr::new(10, 86, 0, 2))
                || *fixed == IpAddr::V4(Ipv4Addr::new(10, 86, 0, 9))
        });
        let holder = self.live.iter().find(|(holder, (_, lease))| {
            **holder != port && fixed.copied() == lease.ipv4.map(|(address, _)| address.into())
        });
        let holder = holder.map(|(holder, (by, _))| (*holder, same_device(by, request)));

        match answer {
            Err(NoLease::SubnetTaken) => panic!("nobody has subnets here"),
            Err(NoLease::Refused) => assert!(!is_possible, "refused {fixed:?}"),
            Err(NoLease::AddressTaken) => assert_eq!(holder.map(|(_, same)| same), Some(false)),
            Err(NoLease::PoolExhausted) => {
                self.live.remove(&port);
                assert!(fixed.is_none() && self.live.len() >= MEMBERS, "{} live", self.live.len());
            }
            Err(NoLease::UnknownNetwork) => panic!("there is only one network"),
            Ok(lease) => {
                assert!(is_possible, "leased {fixed:?}");
                if let Some((ghost, is_same)) = holder {
                    assert!(is_same, "a stranger took over {fixed:?}");
                    self.live.remove(&ghost);
                    self.expected_gone.insert(ghost);
                }
                self.live.remove(&port);
                self.leased(port, request, lease);
            }
        }
    }

    fn leased(&mut self, port: PortId, request: &AttachRequest, lease: &Lease) {
        let (ipv4, _) = lease.ipv4.expect("the network has IPv4");
        let (ipv6, _) = lease.ipv6.expect("the network has IPv6");
        assert_eq!(u128::from(ipv6) & 0xf, u128::from(u32::from(ipv4)) & 0xf, "not twins");
        assert!((2..=14).contains(&(u32::from(ipv4) & 0xf)), "{ipv4} is the network's own");

        let device = (request.user.clone(), request.device.clone());
        match request.fixed.first() {
            Some(fixed) => assert_eq!(*fixed, IpAddr::V4(ipv4)),
            None => {
                let is_first = !self
                    .live
                    .values()
                    .any(|(by, _)| same_device(by, request) && by.fixed.is_empty());
                let had = self.last.get(&device).copied();
                let is_taken = had.is_some_and(|had| self.holds(had));
                if is_first && had.is_some() && !is_taken {
                    assert_eq!(had, Some(ipv4), "{device:?} did not get its address again");
                }
                // Somebody who had it last has lost it.
                self.last.retain(|_, address| *address != ipv4);
                if is_first {
                    self.last.insert(device, ipv4);
                } else {
                    // It may have come back to the first of its places or taken another: which
                    // has which address is the network's business.
                    self.last.remove(&device);
                }
            }
        }
        self.live.insert(port, (request.clone(), lease.clone()));
    }

    fn holds(&self, address: Ipv4Addr) -> bool {
        self.live.values().any(|(_, lease)| lease.ipv4.is_some_and(|(held, _)| held == address))
    }

    fn check(&self, network: &HubNetwork) {
        assert!(self.expected_gone.is_empty(), "a ghost was not reported");
        let members = network.members();
        let ports: Vec<PortId> = members.iter().map(|member| member.port).collect();
        assert_eq!(ports, self.live.keys().copied().collect::<Vec<_>>());

        let mut addresses = BTreeSet::new();
        for member in &members {
            let (_, lease) = &self.live[&member.port];
            assert_eq!(member.ipv4, lease.ipv4.map(|(address, _)| address));
            assert!(addresses.insert(member.ipv4.map(IpAddr::from)), "{member:?} is not alone");
            assert!(addresses.insert(member.ipv6.map(IpAddr::from)), "{member:?} is not alone");
        }
    }
}

fn same_device(one: &AttachRequest, other: &AttachRequest) -> bool {
    one.user == other.user && one.device == other.device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_agrees_with_the_reference() {
        let mut state = 0x9e37_79b9_u64;
        for _ in 0..400 {
            let bytes: Vec<u8> = (0..900)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 24) as u8
                })
                .collect();

            network(&bytes);
        }
    }
}
