use std::sync::{Arc, Barrier};

use super::*;
use crate::{Forgetful, StoredLease};

/// A store that outlives the network.
#[derive(Clone, Debug, Default)]
struct Store(Arc<Mutex<Vec<StoredLease>>>);

impl LeaseMemory for Store {
    fn load(&self) -> Vec<StoredLease> {
        self.0.lock().unwrap().clone()
    }

    fn remember(&self, lease: &StoredLease) {
        self.forget(&lease.user, &lease.device);
        self.0.lock().unwrap().push(lease.clone());
    }

    fn forget(&self, user: &str, device: &str) {
        self.0.lock().unwrap().retain(|lease| (&*lease.user, &*lease.device) != (user, device));
    }
}

fn settings() -> NetworkSettings {
    NetworkSettings {
        name: "office".into(),
        ipv4: Some("10.86.0.0/24".parse().unwrap()),
        ipv6: Some("fd86::/64".parse().unwrap()),
        dns: DnsSettings {
            servers: vec!["10.86.0.1".parse().unwrap()],
            search: vec!["office.example".into()],
            ..DnsSettings::default()
        },
        routes: vec!["192.168.7.0/24".parse().unwrap()],
        excluded: Vec::new(),
        redirect4: true,
        redirect6: false,
        block4: false,
        block6: false,
        mtu: 1420,
    }
}

fn office() -> HubNetwork {
    HubNetwork::new(settings(), Box::new(Forgetful)).unwrap()
}

fn request(user: &str, device: &str) -> AttachRequest {
    AttachRequest {
        network: "office".into(),
        user: user.into(),
        device: device.into(),
        is_unique: false,
        fixed: Vec::new(),
        behind: Vec::new(),
        layer: Layer::Ip,
        remote: "192.0.2.7".parse().unwrap(),
        mtu: None,
    }
}

fn fixed(user: &str, device: &str, addresses: &[&str]) -> AttachRequest {
    let fixed = addresses.iter().map(|address| address.parse().unwrap()).collect();
    AttachRequest { fixed, ..request(user, device) }
}

fn addresses(lease: &Lease) -> String {
    let ipv4 = lease.ipv4.map(|(address, _)| address.to_string());
    let ipv6 = lease.ipv6.map(|(address, _)| address.to_string());
    format!("{} {}", ipv4.unwrap_or_default(), ipv6.unwrap_or_default())
}

#[test]
fn a_lease_says_everything_a_member_is_told() {
    let network = office();

    let lease = network.attach(PortId(1), &request("alice", "phone")).unwrap();

    assert_eq!(
        lease,
        Lease {
            ipv4: Some(("10.86.0.2".parse().unwrap(), 24)),
            ipv6: Some(("fd86::2".parse().unwrap(), 64)),
            gateway4: Some("10.86.0.1".parse().unwrap()),
            gateway6: Some("fd86::1".parse().unwrap()),
            dns: settings().dns,
            routes: settings().routes,
            excluded: Vec::new(),
            redirect4: true,
            redirect6: false,
            block4: false,
            block6: false,
            mtu: 1420,
            ..Lease::default()
        }
    );
    let plug = network.plug(PortId(1)).unwrap();
    let prefixes: Vec<String> = plug.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!((plug.port, plug.mtu), (PortId(1), 1420));
    assert_eq!(prefixes, ["10.86.0.2/32", "fd86::2/128"]);
    let gateways: Vec<String> = network.gateways().iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["10.86.0.1/24", "fd86::1/64"]);
}

#[test]
fn the_smaller_mtu_counts_but_not_an_absurd_one() {
    let network = office();

    let mtus = [Some(1300), Some(9000), Some(0), None].map(|mtu| {
        let request = AttachRequest { mtu, ..request("alice", "phone") };
        network.attach(PortId(1), &request).unwrap().mtu
    });

    assert_eq!(mtus, [1300, 1420, 1280, 1420]);
    assert_eq!(network.plug(PortId(1)).unwrap().mtu, 1420);
}

#[test]
fn a_device_keeps_its_address_over_reconnect_and_restart() {
    let store = Store::default();
    let network = HubNetwork::new(settings(), Box::new(store.clone())).unwrap();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();
    let first = addresses(&network.attach(PortId(2), &request("bob", "laptop")).unwrap());

    network.detach(PortId(2));
    network.attach(PortId(3), &request("carol", "phone")).unwrap();
    let again = addresses(&network.attach(PortId(4), &request("bob", "laptop")).unwrap());
    assert_eq!(again, first);

    drop(network);
    let network = HubNetwork::new(settings(), Box::new(store)).unwrap();
    network.attach(PortId(1), &request("dave", "phone")).unwrap();
    let after = addresses(&network.attach(PortId(2), &request("bob", "laptop")).unwrap());
    assert_eq!(after, first);
}

#[test]
fn a_second_device_and_a_second_session_have_their_own_addresses() {
    let network = office();

    let all: BTreeSet<String> = [("phone", 1), ("laptop", 2), ("phone", 3), ("phone", 4)]
        .map(|(device, port)| {
            addresses(&network.attach(PortId(port), &request("alice", device)).unwrap())
        })
        .into();

    assert_eq!(all.len(), 4);
    assert!(network.take_replaced().is_empty());
}

#[test]
fn a_full_network_says_so() {
    let mut small = settings();
    small.ipv4 = Some("10.86.0.0/30".parse().unwrap());
    let network = HubNetwork::new(small, Box::new(Forgetful)).unwrap();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();

    let refused = network.attach(PortId(2), &request("bob", "phone"));
    assert_eq!(refused, Err(NoLease::PoolExhausted));
    assert_eq!(network.plug(PortId(2)), None);

    network.detach(PortId(1));
    assert!(network.attach(PortId(2), &request("bob", "phone")).is_ok());
}

#[test]
fn a_network_that_is_not_there_is_refused_by_name() {
    let elsewhere = AttachRequest { network: "lab".into(), ..request("alice", "phone") };
    let default = AttachRequest { network: String::new(), ..request("alice", "phone") };
    let network = office();

    assert_eq!(network.attach(PortId(1), &elsewhere), Err(NoLease::UnknownNetwork));
    assert!(network.attach(PortId(1), &default).is_ok());
}

#[test]
fn fixed_addresses_are_given_in_either_family() {
    let network = office();
    let lease = |port, user, fix: &[&str]| {
        addresses(&network.attach(PortId(port), &fixed(user, "phone", fix)).unwrap())
    };

    assert_eq!(lease(1, "alice", &["10.86.0.50"]), "10.86.0.50 fd86::32");
    assert_eq!(lease(2, "bob", &["fd86::60"]), "10.86.0.96 fd86::60");
    assert_eq!(lease(3, "carol", &["10.86.0.70", "fd86::abcd:1"]), "10.86.0.70 fd86::abcd:1");
    assert_eq!(lease(4, "dave", &["fd86::1:0:0:1"]), "10.86.0.2 fd86::1:0:0:1");
}

#[test]
fn the_twin_of_a_fixed_address_is_left_to_whoever_has_it() {
    let network = office();
    let carol = fixed("carol", "phone", &["10.86.0.70", "fd86::32"]);
    network.attach(PortId(1), &carol).unwrap();

    let alice = network.attach(PortId(2), &fixed("alice", "phone", &["10.86.0.50"])).unwrap();

    assert_eq!(addresses(&alice), "10.86.0.50 fd86::2");
}

#[test]
fn an_address_that_cannot_be_fixed_is_refused() {
    let network = office();

    for address in ["10.86.0.1", "10.86.0.0", "10.86.0.255", "192.0.2.1", "fd86::1", "fd87::2"] {
        let refused = network.attach(PortId(1), &fixed("alice", "phone", &[address]));
        assert_eq!(refused, Err(NoLease::Refused), "{address}");
    }
}

#[test]
fn a_fixed_address_is_taken_over_only_by_its_own_device() {
    let network = office();
    let mine = fixed("alice", "phone", &["10.86.0.50"]);
    network.attach(PortId(1), &mine).unwrap();

    for stranger in [
        fixed("alice", "laptop", &["10.86.0.50"]),
        fixed("bob", "phone", &["10.86.0.50"]),
        fixed("bob", "phone", &["fd86::32"]),
    ] {
        assert_eq!(network.attach(PortId(2), &stranger), Err(NoLease::AddressTaken));
    }
    assert!(network.take_replaced().is_empty());

    assert_eq!(addresses(&network.attach(PortId(3), &mine).unwrap()), "10.86.0.50 fd86::32");
    assert_eq!(network.take_replaced(), [PortId(1)]);
    assert_eq!(network.plug(PortId(1)), None);

    // The replaced session ends later than its successor began.
    network.detach(PortId(1));
    assert!(network.plug(PortId(3)).is_some());
    let taken = network.attach(PortId(2), &fixed("bob", "phone", &["10.86.0.50"]));
    assert_eq!(taken, Err(NoLease::AddressTaken));
}

#[test]
fn the_pool_keeps_out_of_reserved_addresses() {
    let network = office();
    network.reserve(["10.86.0.2", "fd86::3"].map(|address| address.parse().unwrap()));

    let guest = network.attach(PortId(1), &request("guest", "phone")).unwrap();
    assert_eq!(addresses(&guest), "10.86.0.4 fd86::4");

    let owner = network.attach(PortId(2), &fixed("owner", "phone", &["10.86.0.2"])).unwrap();
    assert_eq!(addresses(&owner), "10.86.0.2 fd86::2");
}

#[test]
fn a_device_whose_address_was_fixed_for_another_gets_a_new_one() {
    let network = office();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();
    network.detach(PortId(1));
    network.attach(PortId(2), &fixed("bob", "phone", &["10.86.0.2"])).unwrap();

    let alice = network.attach(PortId(3), &request("alice", "phone")).unwrap();

    assert_eq!(addresses(&alice), "10.86.0.3 fd86::3");
}

#[test]
fn one_family_is_enough() {
    let ipv4_only = NetworkSettings { ipv6: None, ..settings() };
    let network = HubNetwork::new(ipv4_only, Box::new(Forgetful)).unwrap();

    let lease = network.attach(PortId(1), &fixed("alice", "phone", &["fd86::9"])).unwrap();

    assert_eq!(addresses(&lease), "10.86.0.2 ");
    assert_eq!(lease.gateway6, None);
}

#[test]
fn new_settings_count_from_the_next_lease_on() {
    let network = office();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();

    let outside = network.update_settings(NetworkSettings { mtu: 1300, ..settings() }).unwrap();

    assert!(outside.is_empty());
    assert_eq!(network.plug(PortId(1)).unwrap().mtu, 1420);
    assert_eq!(network.attach(PortId(2), &request("bob", "phone")).unwrap().mtu, 1300);
}

#[test]
fn new_ranges_name_the_sessions_that_have_to_end() {
    let network = office();
    network.attach(PortId(1), &fixed("alice", "phone", &["10.86.0.50"])).unwrap();
    network.attach(PortId(2), &fixed("bob", "phone", &["10.86.0.200"])).unwrap();
    let smaller = NetworkSettings { ipv4: Some("10.86.0.0/25".parse().unwrap()), ..settings() };

    assert_eq!(network.update_settings(smaller), Ok(vec![PortId(2)]));

    let nothing = NetworkSettings { ipv4: None, ipv6: None, ..settings() };
    assert_eq!(network.update_settings(nothing), Err(PlanError::NoRange));
    let lease = network.attach(PortId(3), &request("carol", "phone")).unwrap();
    assert_eq!(lease.ipv4.map(|(_, prefix_len)| prefix_len), Some(25));
}

#[test]
fn sessions_that_outlive_a_change_of_ranges_keep_their_addresses_to_themselves() {
    let network = office();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();
    let wider = NetworkSettings { ipv4: Some("10.86.0.0/20".parse().unwrap()), ..settings() };

    assert_eq!(network.update_settings(wider), Ok(Vec::new()));

    for port in 2..20 {
        let lease = network.attach(PortId(port), &request("alice", "phone")).unwrap();
        assert_ne!(addresses(&lease), "10.86.0.2 fd86::2");
    }
}

#[test]
fn the_end_of_a_session_from_before_a_change_of_ranges_frees_nobody_elses_lease() {
    let network = office();
    network.attach(PortId(1), &request("alice", "phone")).unwrap();
    let wider = NetworkSettings { ipv4: Some("10.86.0.0/20".parse().unwrap()), ..settings() };
    network.update_settings(wider).unwrap();
    let newer = network.attach(PortId(2), &request("alice", "phone")).unwrap();

    network.detach(PortId(1));
    network.attach(PortId(3), &request("alice", "phone")).unwrap();
    network.detach(PortId(2));

    let again = network.attach(PortId(4), &request("alice", "phone")).unwrap();
    assert_eq!(addresses(&again), addresses(&newer));
}

#[test]
fn threads_that_attach_and_detach_never_share_an_address() {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 300;
    let mut crowded = settings();
    crowded.ipv4 = Some("10.86.0.0/28".parse().unwrap());
    let network = HubNetwork::new(crowded, Box::new(Store::default())).unwrap();
    let claimed: Mutex<BTreeMap<IpAddr, PortId>> = Mutex::default();
    let barrier = Barrier::new(THREADS as usize);

    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (network, claimed, barrier) = (&network, &claimed, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    let ports = [0, 1].map(|n| PortId(1 + (round * THREADS + thread) * 2 + n));
                    // Half the threads are the same device; all together want more than there is.
                    let user = format!("user{}", thread % 4);
                    for port in ports {
                        let Ok(lease) = network.attach(port, &request(&user, "phone")) else {
                            continue;
                        };
                        let (ipv4, ipv6) = (lease.ipv4.unwrap().0, lease.ipv6.unwrap().0);
                        for address in [IpAddr::from(ipv4), ipv6.into()] {
                            let before = claimed.lock().unwrap().insert(address, port);
                            assert_eq!(before, None, "{address} is {port:?}'s as well");
                        }
                    }
                    for port in ports {
                        claimed.lock().unwrap().retain(|_, holder| *holder != port);
                        network.detach(port);
                    }
                }
            });
        }
    });

    assert!(network.members().is_empty());
}

#[test]
fn a_device_known_by_its_hardware_takes_its_own_place_again() {
    let network = office();
    let phone = AttachRequest { is_unique: true, ..request("alice", "phone") };

    let first = network.attach(PortId(1), &phone).unwrap();
    let again = network.attach(PortId(2), &phone).unwrap();

    assert_eq!(first, again);
    assert_eq!(network.take_replaced(), [PortId(1)]);
    assert_eq!(network.members().len(), 1);
}

#[test]
fn subnets_behind_a_member_are_one_users_and_the_latest_sessions() {
    let network = office();
    let site = |user: &str, device: &str, net: &str| AttachRequest {
        behind: vec![net.parse().unwrap()],
        ..request(user, device)
    };
    network.attach(PortId(1), &site("ann", "router", "192.168.0.0/16")).unwrap();

    for net in ["192.168.7.0/24", "10.86.0.0/25", "10.0.0.0/8", "fd86::/48"] {
        let refused = network.attach(PortId(2), &site("bob", "router", net));
        assert_eq!(refused, Err(NoLease::SubnetTaken), "{net}");
    }
    network.attach(PortId(3), &site("ann", "other", "192.168.0.0/16")).unwrap();
    assert_eq!(
        network.plug(PortId(3)).unwrap().prefixes.last(),
        Some(&"192.168.0.0/16".parse().unwrap())
    );
    let all =
        |network: &HubNetwork| network.behind().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(all(&network), ["192.168.0.0/16"]);
    network.detach(PortId(1));
    network.detach(PortId(3));
    assert_eq!(all(&network), [""; 0]);
    network.attach(PortId(4), &site("bob", "router", "192.168.7.0/24")).unwrap();
}
