//! Where a client finds the server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use backends::{ProfileRemote, Transport};
use config::{OpenVpn, Remote};

use crate::failure::Failure;

/// Where OpenVPN is if nobody says otherwise.
const DEFAULT_PORT: u16 = 1194;

/// Addresses for documentation (RFC 5737 and RFC 3849): routed like any other address of the
/// internet, but nobody's.
const FAR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Where a client finds the server: one host, UDP before TCP.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Place {
    host: String,
    udp: Option<u16>,
    tcp: Option<u16>,
}

impl Place {
    /// As profiles list it.
    pub(super) fn remotes(&self) -> Vec<ProfileRemote> {
        let ports = [(self.udp, Transport::Udp), (self.tcp, Transport::Tcp)];
        let known = ports.into_iter().filter_map(|(port, transport)| Some((port?, transport)));
        known
            .map(|(port, transport)| ProfileRemote { host: self.host.clone(), port, transport })
            .collect()
    }

    /// As a person writes it.
    pub(super) fn written(&self) -> String {
        written(&self.host, self.udp.or(self.tcp).unwrap_or(DEFAULT_PORT))
    }
}

/// The host and ports for a profile: what was asked for, or configured, or looks reachable.
pub(super) fn find(asked: Option<&str>, door: &OpenVpn) -> Result<Place, Failure> {
    let asked = asked
        .map(|text| {
            text.parse::<Remote>().map_err(|error| Failure::invalid(format!("{text:?} is {error}")))
        })
        .transpose()?;
    if let Some(remote) = asked.as_ref().or(door.remote.as_ref()) {
        let port = |listen: &[SocketAddr]| {
            listen.first().map(|own| remote.port.unwrap_or_else(|| own.port()))
        };
        let (udp, tcp) = (port(&door.listen), port(&door.listen_tcp));
        return Ok(Place { host: remote.host.clone(), udp, tcp });
    }

    // A machine cut off from the internet still serves its own links; one without any link, itself.
    let listen = if door.listen.is_empty() { &door.listen_tcp } else { &door.listen };
    let found = reachable(listen, outward).or_else(|| reachable(listen, on_a_link));
    let host = found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |(host, _)| host);
    let port = |listen: &[SocketAddr]| {
        let is_there = |own: &&SocketAddr| {
            own.ip() == host || own.ip().is_unspecified() && own.is_ipv4() == host.is_ipv4()
        };
        listen.iter().find(is_there).map(SocketAddr::port)
    };
    let (mut udp, tcp) = (port(&door.listen), port(&door.listen_tcp));
    if udp.is_none() && tcp.is_none() {
        udp = door.listen.first().or_else(|| door.listen_tcp.first()).map(SocketAddr::port);
    }
    Ok(Place { host: host.to_string(), udp, tcp })
}

/// A host and port as a person writes them.
fn written(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The first listening address that others can reach: as it is, or for "all addresses" the one
/// that leads out. An address for documentation needs no packet to be sent.
fn reachable(
    listen: &[SocketAddr],
    outward: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Option<(IpAddr, u16)> {
    listen.iter().filter(|address| !address.ip().is_loopback()).find_map(|address| {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => outward(FAR4.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => outward(FAR6.into()),
            ip => Some(ip),
        }?;
        Some((ip, address.port()))
    })
}

/// An address that this machine has on one of its links, in the family of `far`; not one of a
/// network of ours.
fn on_a_link(far: IpAddr) -> Option<IpAddr> {
    let links = nix::ifaddrs::getifaddrs().ok()?.filter(|link| {
        let up = link.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        up && !link.interface_name.starts_with("warren")
    });
    links.filter_map(|link| link.address).find_map(|address| {
        let ip = match far {
            IpAddr::V4(_) => IpAddr::from(address.as_sockaddr_in()?.ip()),
            IpAddr::V6(_) => {
                let ip = address.as_sockaddr_in6()?.ip();
                (!ip.is_unicast_link_local()).then_some(IpAddr::from(ip))?
            }
        };
        (!ip.is_loopback()).then_some(ip)
    })
}

/// The address of this machine that the kernel would send to `far` from.
fn outward(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match far {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a datagram socket asks the routing table and sends nothing.
    socket.connect((far, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: &[&str]) -> Vec<SocketAddr> {
        listen.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn own(far: IpAddr) -> Option<IpAddr> {
        let own = if far.is_ipv4() { "198.51.100.2" } else { "2001:db8::2" };
        Some(own.parse().expect("an address"))
    }

    fn chosen(listen: &[&str]) -> Option<String> {
        let (ip, port) = reachable(&listening(listen), own)?;
        Some(written(&ip.to_string(), port))
    }

    #[test]
    fn all_addresses_become_the_one_that_leads_out() {
        assert_eq!(chosen(&["0.0.0.0:1194"]).as_deref(), Some("198.51.100.2:1194"));
        assert_eq!(chosen(&["[::]:443"]).as_deref(), Some("[2001:db8::2]:443"));
    }

    #[test]
    fn an_address_of_its_own_is_taken_as_it_is_but_never_loopback() {
        assert_eq!(chosen(&["203.0.113.9:7"]).as_deref(), Some("203.0.113.9:7"));
        assert_eq!(chosen(&["127.0.0.1:7", "203.0.113.9:8"]).as_deref(), Some("203.0.113.9:8"));
        assert_eq!(chosen(&["127.0.0.1:7"]), None);
    }

    #[test]
    fn a_family_that_leads_nowhere_gives_way_to_the_other() {
        let only6 = |far: IpAddr| far.is_ipv6().then(|| own(far)).flatten();
        let (ip, _) =
            reachable(&listening(&["0.0.0.0:1194", "[::]:1194"]), only6).expect("IPv6 leads out");
        assert!(ip.is_ipv6());
    }

    #[test]
    fn what_was_asked_for_beats_the_configuration_and_keeps_its_port() {
        let text = "[doors.openvpn]\nremote = \"vpn.example:443\"\nlisten = [\"0.0.0.0:5000\"]";
        let door = config::Config::parse(text, "test").expect("valid").doors.openvpn;

        let place = |asked| find(asked, &door).expect("a host");
        let at = |host: &str, udp, tcp| Place { host: host.to_owned(), udp: Some(udp), tcp };
        assert_eq!(place(None), at("vpn.example", 443, Some(443)));
        assert_eq!(place(Some("a.example")), at("a.example", 5000, Some(1194)));
        assert_eq!(place(Some("[2001:db8::5]:7")), at("2001:db8::5", 7, Some(7)));
        assert_eq!(place(Some("[2001:db8::5]:7")).written(), "[2001:db8::5]:7");
        let error = find(Some("not a host"), &door).expect_err("it has spaces");
        assert_eq!(error.reason, crate::Reason::Invalid);
    }

    #[test]
    fn only_what_is_listened_on_is_named() {
        let find = |keys: &str| {
            let text = format!("[doors.openvpn]\nport_share = \"\"\n{keys}");
            let config = config::Config::parse(&text, "test").expect("valid");
            find(None, &config.doors.openvpn).expect("a place").remotes()
        };
        let named = |keys: &str| -> Vec<String> {
            let remotes = find(keys);
            remotes
                .iter()
                .map(|one| format!("{} {:?} {}", one.host, one.transport, one.port))
                .collect()
        };

        let udp = "listen = [\"203.0.113.9:7\"]\n";
        assert_eq!(named(&format!("{udp}listen_tcp = []")), ["203.0.113.9 Udp 7"]);
        let elsewhere = format!("{udp}listen_tcp = [\"203.0.113.10:8\"]");
        assert_eq!(named(&elsewhere), ["203.0.113.9 Udp 7"], "another address is another host");
        let both = format!("{udp}listen_tcp = [\"[::]:9\", \"0.0.0.0:8\"]");
        assert_eq!(named(&both), ["203.0.113.9 Udp 7", "203.0.113.9 Tcp 8"]);
        let tcp = "listen = []\nlisten_tcp = [\"203.0.113.10:8\"]";
        assert_eq!(named(tcp), ["203.0.113.10 Tcp 8"]);
    }
}
