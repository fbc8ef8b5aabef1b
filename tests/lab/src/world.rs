//! The usual surroundings of a VPN server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::lab::Lab;
use crate::namespace::{Namespace, Switch};
use crate::relay::Relay;

/// Clients on one Ethernet, a router, a server beyond it, and behind the server an outside host
/// and a LAN host.
///
/// ```text
///  client i  192.0.2.(10+i)      ┐           router                     server
///            2001:db8:2::(10+i)  ├ switch ─ .254 / ::fe ─ 203.0.113.254 ─ 203.0.113.1 ─┬─ outside
///  relay     192.0.2.200         ┘                        2001:db8:3::fe  2001:db8:3::1 └─ LAN
///
///  outside  198.51.100.2, 2001:db8:51::2 (the server is .1): knows no other network
///  LAN      10.20.0.2, fd20::2           (the server is .1): default route to the server
/// ```
///
/// Nothing but the server reaches outside or LAN, and the server is not on the clients' Ethernet:
/// a client that routes its own tunnel packets into the tunnel loses the server.
#[derive(Debug)]
pub struct World {
    /// The router, which is also the clients' switch.
    pub router: Switch,
    /// The router's device towards the server.
    pub uplink: String,
    /// Where the server runs.
    pub server: Namespace,
    /// The server's device towards the clients.
    pub server_device: String,
    /// Where the clients run.
    pub clients: Vec<Namespace>,
    /// A host on the internet side of the server.
    pub outside: Namespace,
    /// A host on a private network behind the server.
    pub lan: Namespace,
    relay: Namespace,
}

impl World {
    /// The server's address on the clients' side.
    pub const SERVER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    /// The same, IPv6.
    pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);
    /// The outside host.
    pub const OUTSIDE4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
    /// The same, IPv6.
    pub const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2));
    /// What the outside host should see of members behind NAT.
    pub const NAT4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    /// The same, IPv6.
    pub const NAT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1));
    /// The LAN host.
    pub const LAN4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 2));
    /// Where a relay listens, whatever its port.
    pub const RELAY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

    /// Builds it with this many clients.
    ///
    /// # Errors
    /// If the kernel refuses a part.
    pub fn new(lab: &Lab, clients: usize) -> Result<Self> {
        let router = lab.switch("router")?;
        let gateway = router.namespace();
        for address in ["192.0.2.254/24", "2001:db8:2::fe/64"] {
            gateway.run("ip", &["addr", "add", address, "dev", "bridge"])?;
        }
        gateway.forward()?;

        let server = lab.namespace("server")?;
        let trunk = lab.link(
            gateway,
            &["203.0.113.254/24", "2001:db8:3::fe/64"],
            &server,
            &["203.0.113.1/24", "2001:db8:3::1/64"],
        )?;
        server.route("192.0.2.0/24", "203.0.113.254".parse()?)?;
        server.route("2001:db8:2::/64", "2001:db8:3::fe".parse()?)?;

        let outside = lab.namespace("outside")?;
        lab.link(
            &server,
            &["198.51.100.1/24", "2001:db8:51::1/64"],
            &outside,
            &["198.51.100.2/24", "2001:db8:51::2/64"],
        )?;
        let lan = lab.namespace("lan")?;
        lab.link(&server, &["10.20.0.1/24", "fd20::1/64"], &lan, &["10.20.0.2/24", "fd20::2/64"])?;
        lan.route("default", "10.20.0.1".parse()?)?;
        lan.route("default", "fd20::1".parse()?)?;

        let join = |name: &str, last: usize| -> Result<Namespace> {
            let host = lab.namespace(name)?;
            let addresses = [format!("192.0.2.{last}/24"), format!("2001:db8:2::{last}/64")];
            router.attach(&host, &[&addresses[0], &addresses[1]])?;
            host.route("default", "192.0.2.254".parse()?)?;
            host.route("default", "2001:db8:2::fe".parse()?)?;
            Ok(host)
        };
        let clients =
            (0..clients).map(|i| join(&format!("client{i}"), 10 + i)).collect::<Result<_>>()?;
        let relay = join("relay", 200)?;

        let (uplink, server_device) = (trunk.a, trunk.b);
        Ok(Self { router, uplink, server, server_device, clients, outside, lan, relay })
    }

    /// Starts a relay at [`Self::RELAY4`], same port, towards the server's port.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn relay(&self, port: u16, seed: u64) -> Result<Relay> {
        let listen = SocketAddr::new(Self::RELAY4.into(), port);
        let upstream = SocketAddr::new(Self::SERVER4.into(), port);
        Relay::start(&self.relay, listen, upstream, seed)
    }

    /// Another host on the clients' Ethernet, to send noise from.
    #[must_use]
    pub fn stranger(&self) -> &Namespace {
        &self.relay
    }
}
