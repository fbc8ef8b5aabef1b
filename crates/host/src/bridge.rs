//! A device of frames, and the host's interface that it is joined to.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;

use crate::change::{Change, Ledger};
use crate::error::HostError;
use crate::journal::Journal;
use crate::route::{Link, LinkFacts, Routing, is_one_of};
use crate::server::{find, has_ipv6};
use crate::sysctl;

/// Packets that the device holds for its workers.
const QUEUE_LEN: u32 = 1000;
/// Link types: Ethernet (`linux/if_arp.h`).
const ETHERNET: u16 = 1;
/// The first byte of a hardware address that is locally given and the highest of all, for a bridge
/// takes the lowest of its ports' as its own.
const HIGH: u8 = 0xfe;

/// A device joined to an interface of this host.
///
/// Where the interface is a bridge, the device becomes a port of it, and stops being one when it
/// is gone. Else both become ports of a bridge of our own, which is written down in the journal.
/// Dropping it changes nothing, as with [`ServerHost`](crate::ServerHost).
#[derive(Debug)]
#[must_use = "the host stays changed until `undo`"]
pub struct BridgeHost {
    ledger: Ledger,
    name: String,
    addresses: Vec<IpAddr>,
    mtu: u16,
    is_own: bool,
}

impl BridgeHost {
    /// Joins the device `tap`, which exists, to `interface`. A bridge of our own is called after
    /// `tun`, the server's device for packets.
    ///
    /// # Errors
    ///
    /// Says in one line why that interface cannot be bridged; the host is then as it was.
    pub fn join(
        journal: &Journal,
        interface: &str,
        tap: &str,
        tun: &str,
    ) -> Result<Self, HostError> {
        let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
        let facts = examine(&mut routing, interface)?;
        warn_of_filter();
        let tap = find(&mut routing, tap)?;
        let mtu = u16::try_from(facts.mtu).unwrap_or(u16::MAX);
        ready(&mut routing, &tap, mtu)?;

        let is_own = !facts.is_bridge();
        let own = format!("br-{tun}");
        let name = if is_own { own.clone() } else { interface.to_owned() };
        let addresses = addresses_on(&mut routing, facts.link.index)?;
        let mut joined = Self { ledger: Ledger::new(journal), name, addresses, mtu, is_own };
        let master = if joined.is_own {
            let (name, port) = (own.clone(), facts.link.clone());
            let change = Change::Bridge { name, port, was_up: facts.is_up() };
            joined.ledger = joined.ledger.apply(&[change])?;
            find(&mut routing, &own)
        } else {
            Ok(facts.link)
        };
        let port = master.and_then(|master| {
            let enslaved = routing.set_master(tap.index, Some(master.index));
            enslaved.map_err(HostError::kernel(format!("make {} a port of it", tap.name)))
        });
        match port {
            Ok(()) => Ok(joined),
            Err(error) => {
                for line in joined.undo() {
                    tracing::warn!("{line}");
                }
                Err(error)
            }
        }
    }

    /// What the bridge is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This host's own addresses there when it was joined; none on a bridge of ours.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The largest IP packet that the interface carries.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the bridge is ours, so that this host itself is not on it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Leaves the interface as it was found. Goes on past errors; returns what could not be
    /// undone, one line each.
    #[must_use = "these lines are for the operator"]
    pub fn undo(self) -> Vec<String> {
        self.ledger.undo()
    }
}

/// What the host itself is on a bridge of its own: both may change at any time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OnBridge {
    /// Its addresses, without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// The bridge's hardware address.
    pub mac: [u8; 6],
}

impl OnBridge {
    /// As it is now.
    ///
    /// # Errors
    ///
    /// Fails if there is no such bridge (any more), or the kernel does not say.
    pub fn read(bridge: &str) -> Result<Self, HostError> {
        let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
        let LinkFacts { link, mac, .. } = routing.facts_of(bridge)?;
        Ok(Self { addresses: addresses_on(&mut routing, link.index)?, mac })
    }
}

fn addresses_on(routing: &mut Routing, bridge: u32) -> Result<Vec<IpAddr>, HostError> {
    let all = routing.addresses().map_err(HostError::kernel("list addresses"))?;
    let there =
        all.into_iter().filter(|(link, address)| *link == bridge && !is_link_local(address));
    Ok(there.map(|(_, address)| address.addr()).collect())
}

/// Whether the interface can be bridged; changes nothing.
///
/// # Errors
///
/// Says in one line why not.
pub fn check_bridge(interface: &str) -> Result<(), HostError> {
    let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
    examine(&mut routing, interface).map(drop)
}

fn examine(routing: &mut Routing, interface: &str) -> Result<LinkFacts, HostError> {
    let refuse = |why: String| Err(HostError::Bridge { interface: interface.to_owned(), why });
    let all = routing.facts().map_err(HostError::kernel("list interfaces"))?;
    let is_loopback = |facts: &LinkFacts| facts.flags & libc::IFF_LOOPBACK as u32 != 0;
    let is_tunnel = |facts: &LinkFacts| facts.kind.as_deref() == Some("tun");
    let Some(facts) = all.iter().find(|facts| facts.link.name == interface) else {
        let others = all.iter().filter(|facts| !is_loopback(facts) && !is_tunnel(facts));
        let names: Vec<_> = others.map(|facts| facts.link.name.as_str()).collect();
        let there_are = match names.len() {
            0 => "and no other".to_owned(),
            _ => format!("there are {}", names.join(", ")),
        };
        return refuse(format!("there is no such interface; {there_are}"));
    };
    if is_loopback(facts) {
        return refuse("it is the loopback device; name the interface of a network".to_owned());
    }
    if is_tunnel(facts) {
        let why =
            "it is a device of Warren's or another program's; name the interface of a network";
        return refuse(why.to_owned());
    }
    if facts.kind_of_link != ETHERNET {
        return refuse("it does not carry Ethernet; name one that does".to_owned());
    }
    if facts.is_bridge() {
        return Ok(facts.clone());
    }
    if let Some(master) = facts.master {
        let master = all.iter().find(|other| other.link.index == master);
        let name = master.map_or("another device", |master| master.link.name.as_str());
        let advice = match master {
            Some(master) if master.is_bridge() => format!(": write bridge = {name:?}"),
            _ => "; take it out of that, or name another".to_owned(),
        };
        return refuse(format!("it is a part of {name} already{advice}"));
    }
    let addresses = routing.addresses().map_err(HostError::kernel("list addresses"))?;
    let own = addresses
        .into_iter()
        .find(|(link, address)| *link == facts.link.index && !is_link_local(address));
    if let Some((_, address)) = own {
        return refuse(format!(
            "this host has its address {address} there, which a bridge would cut off; make a \
             bridge that has the address and {interface} in it, and name that"
        ));
    }
    Ok(facts.clone())
}

fn is_link_local(address: &IpNet) -> bool {
    match address {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

/// Sets what needs no undoing, for it goes with the device.
fn ready(routing: &mut Routing, tap: &Link, mtu: u16) -> Result<(), HostError> {
    if has_ipv6() {
        // A port of a bridge is no host.
        sysctl::write(&format!("net/ipv6/conf/{}/disable_ipv6", tap.name), "1")?;
    }
    let raise = |routing: &mut Routing| -> io::Result<()> {
        let all = routing.facts()?;
        let facts = all.iter().find(|facts| facts.link == *tap);
        let mut mac = facts.map(|facts| facts.mac).ok_or(Errno::ENODEV)?;
        mac[0] = HIGH;
        routing.set_mac(tap.index, mac)?;
        routing.set_up(tap.index, mtu, QUEUE_LEN)
    };
    raise(routing).map_err(HostError::kernel(format!("turn {} on", tap.name)))
}

/// Says if the firewall looks at what is bridged, which surprises most people.
fn warn_of_filter() {
    let on = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if on.is_ok_and(|value| value.trim() == "1") {
        tracing::warn!(
            "net.bridge.bridge-nf-call-iptables is 1: what is bridged passes this host's rules \
             for forwarding; set it to 0 if members miss something"
        );
    }
}

/// Makes a bridge with one port; after an error, there is none.
pub(crate) fn make(name: &str, port: &Link, was_up: bool) -> Result<(), HostError> {
    let what = |what: &str| HostError::kernel(format!("{what} {name} for {}", port.name));
    let mut routing = Routing::open().map_err(HostError::kernel("open rtnetlink"))?;
    routing.add_bridge(name).map_err(what("make the bridge"))?;
    let fill = |routing: &mut Routing| -> Result<(), HostError> {
        let bridge = find(routing, name)?;
        if has_ipv6() {
            sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        }
        // This host is not on it: it neither asks nor answers there.
        let flags = (libc::IFF_UP | libc::IFF_NOARP) as u32;
        routing.set_flags(bridge.index, flags, flags).map_err(what("turn on the bridge"))?;
        routing.set_master(port.index, Some(bridge.index)).map_err(|error| refusal(port, error))?;
        if !was_up {
            let up = libc::IFF_UP as u32;
            routing.set_flags(port.index, up, up).map_err(what("turn on the port of"))?;
        }
        Ok(())
    };
    fill(&mut routing).inspect_err(|_| {
        if let Err(error) = remove(name, port, was_up) {
            tracing::warn!("bridge {name}: {error}");
        }
    })
}

/// Why the kernel does not make the interface a port of a bridge.
fn refusal(port: &Link, error: io::Error) -> HostError {
    let why = if is_one_of(&error, &[Errno::EBUSY]) {
        "another device, such as a macvlan, takes what it receives; remove that, or name another"
    } else if is_one_of(&error, &[Errno::EOPNOTSUPP, Errno::EINVAL]) {
        "the kernel does not bridge it, as it does not bridge wireless ones; name another"
    } else {
        return HostError::kernel(format!("make {} a port of a bridge", port.name))(error);
    };
    HostError::Bridge { interface: port.name.clone(), why: why.to_owned() }
}

/// Takes the bridge away, which lets its ports go; but not one of that name that somebody else has
/// made since, with another port.
pub(crate) fn remove(name: &str, port: &Link, was_up: bool) -> io::Result<()> {
    let mut routing = Routing::open()?;
    let all = routing.facts()?;
    let is_ours = |bridge: &&LinkFacts| {
        let mut ports = all.iter().filter(|facts| facts.master == Some(bridge.link.index));
        let is_left = |facts: &LinkFacts| facts.kind.as_deref() == Some("tun");
        ports.clone().any(|facts| facts.link == *port) || ports.all(is_left)
    };
    let bridge = all.iter().find(|facts| facts.link.name == name && facts.is_bridge());
    let bridge = bridge.filter(is_ours).map(|facts| facts.link.index);
    if let Some(bridge) = bridge {
        routing.remove_link(bridge)?;
    }
    let is_free = |facts: &LinkFacts| {
        facts.link == *port && (facts.master.is_none() || facts.master == bridge)
    };
    if !was_up && all.iter().any(is_free) {
        routing.set_flags(port.index, 0, libc::IFF_UP as u32)?;
    }
    bridge.map(drop).ok_or_else(|| Errno::ENODEV.into())
}

#[cfg(test)]
mod tests;
