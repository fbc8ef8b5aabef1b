//! Control messages: text inside TLS. What a server pushes, written and read.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contract::Lease;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cipher::Cipher;
use crate::peer_info::{PeerInfo, printable, proto};

/// What fits into one PUSH_REPLY (PUSH_BUNDLE_SIZE, less the room for the continuation word).
const MAX_PUSH: usize = 1024 - 32;
/// The longest control message that is looked at.
const MAX_MESSAGE: usize = 8192;

/// What was agreed for the data channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Agreement {
    pub(crate) cipher: Cipher,
    pub(crate) peer_id: Option<u32>,
    /// Data keys by the TLS exporter rather than the PRF.
    pub(crate) export: bool,
    /// Renegotiations are wrapped with exported keys.
    pub(crate) dynamic: bool,
    /// Goodbye is a control message.
    pub(crate) cc_exit: bool,
}

/// Writes the PUSH_REPLY messages for a client.
pub(crate) fn push_reply(
    lease: &Lease,
    agreement: &Agreement,
    client: &PeerInfo,
    ping: u64,
    ping_restart: u64,
) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    if let Some(gateway) = lease.gateway4 {
        options.push(format!("route-gateway {gateway}"));
    }
    options.push("topology subnet".to_owned());
    options.push(format!("ping {ping}"));
    options.push(format!("ping-restart {ping_restart}"));
    if let Some((address, prefix)) = lease.ipv4 {
        options.push(format!("ifconfig {address} {}", netmask(prefix)));
    }
    if let Some((address, prefix)) = lease.ipv6 {
        let gateway = lease.gateway6.unwrap_or(address);
        options.push(format!("ifconfig-ipv6 {address}/{prefix} {gateway}"));
    }
    for route in &lease.routes {
        options.push(match route {
            IpNet::V4(net) => format!("route {} {}", net.network(), net.netmask()),
            IpNet::V6(net) => format!("route-ipv6 {net}"),
        });
    }
    if lease.redirect4 {
        let ipv6 = if lease.redirect6 { " ipv6" } else { "" };
        options.push(format!("redirect-gateway def1{ipv6}"));
    }
    if lease.block6 {
        options.push("block-ipv6".to_owned());
    }
    for server in &lease.dns.servers {
        options.push(format!(
            "dhcp-option {} {server}",
            if server.is_ipv4() { "DNS" } else { "DNS6" }
        ));
    }
    for domain in &lease.dns.search {
        options.push(format!("dhcp-option DOMAIN {domain}"));
    }
    if client.has(proto::DNS_OPTION_V2) && !lease.dns.servers.is_empty() {
        let servers =
            lease.dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        options.push(format!("dns server 0 address {servers}"));
        if !lease.dns.search.is_empty() {
            options.push(format!("dns search-domains {}", lease.dns.search.join(" ")));
        }
    }
    if let Some(peer) = agreement.peer_id {
        options.push(format!("peer-id {peer}"));
    }
    if client.ncp >= 2 || client.ciphers.is_some() {
        options.push(format!("cipher {}", agreement.cipher));
    }
    if agreement.cc_exit {
        let mut flags = "protocol-flags cc-exit".to_owned();
        if agreement.export {
            flags.push_str(" tls-ekm");
        }
        if agreement.dynamic {
            flags.push_str(" dyn-tls-crypt");
        }
        options.push(flags);
    } else if agreement.export {
        options.push("key-derivation tls-ekm".to_owned());
    }
    if client.mtu.is_some() {
        options.push(format!("tun-mtu {}", lease.mtu));
    }
    bundle(&options)
}

/// Packs options into messages; all but a lone one say whether more will follow.
fn bundle(options: &[String]) -> Vec<String> {
    let mut messages = vec![String::new()];
    for option in options {
        let current = messages.last_mut().expect("it begins with one");
        if !current.is_empty() && current.len() + option.len() + 1 > MAX_PUSH {
            messages.push(String::new());
        }
        let current = messages.last_mut().expect("it begins with one");
        let _ = write!(current, ",{option}");
    }
    let last = messages.len() - 1;
    messages
        .into_iter()
        .enumerate()
        .map(|(n, body)| match (last, n) {
            (0, _) => format!("PUSH_REPLY{body}"),
            (last, n) if n == last => format!("PUSH_REPLY{body},push-continuation 1"),
            _ => format!("PUSH_REPLY{body},push-continuation 2"),
        })
        .collect()
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Net::new(Ipv4Addr::UNSPECIFIED, prefix.min(32))
        .map_or(Ipv4Addr::BROADCAST, |net| net.netmask())
}

/// Everything a server pushed to us.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pushed {
    pub(crate) lease: Lease,
    pub(crate) cipher: Option<String>,
    pub(crate) peer_id: Option<u32>,
    pub(crate) export: bool,
    pub(crate) dynamic: bool,
    pub(crate) cc_exit: bool,
    pub(crate) ping: Option<u64>,
    pub(crate) ping_restart: Option<u64>,
    /// A token that takes the password's place.
    pub(crate) auth_token: Option<String>,
    /// Options that were understood only in part or not at all.
    pub(crate) remarks: Vec<String>,
    /// Another message follows.
    pub(crate) continues: bool,
    ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    is_subnet: bool,
}

impl Pushed {
    /// Takes in the options of one PUSH_REPLY (without the first word).
    pub(crate) fn read(&mut self, options: &str) {
        self.continues = false;
        for option in options.split(',').filter(|option| !option.is_empty()).take(512) {
            if self.option(option).is_none() {
                self.remarks
                    .push(format!("ignored what the server pushed: {}", printable(option, 80)));
            }
        }
    }

    /// Completes the lease once the last message is there.
    pub(crate) fn finish(&mut self) {
        if let Some((address, second)) = self.ifconfig {
            let prefix = if self.is_subnet {
                ipnet::ipv4_mask_to_prefix(second).unwrap_or(32)
            } else {
                // Point to point: the second word is the peer; with net30 both share a /30.
                let pair = Ipv4Net::new(address, 30).ok().filter(|net| net.contains(&second));
                if pair.is_some() { 30 } else { 32 }
            };
            if !self.is_subnet && prefix == 32 {
                self.lease.routes.push(Ipv4Net::from(second).into());
            }
            self.lease.ipv4 = Some((address, prefix));
        }
        if self.lease.mtu == 0 {
            self.lease.mtu = 1500;
        }
    }

    fn option(&mut self, option: &str) -> Option<()> {
        let words = option.split_ascii_whitespace().collect::<Vec<_>>();
        match words.as_slice() {
            ["topology", kind] => self.is_subnet = *kind == "subnet",
            ["route-gateway", gateway] => self.lease.gateway4 = Some(gateway.parse().ok()?),
            ["ifconfig", address, second] => {
                self.ifconfig = Some((address.parse().ok()?, second.parse().ok()?));
            }
            ["ifconfig-ipv6", address, rest @ ..] => {
                let (address, prefix) = address.split_once('/').unwrap_or((address, "64"));
                let (address, prefix): (Ipv6Addr, u8) =
                    (address.parse().ok()?, prefix.parse().ok()?);
                self.lease.ipv6 = (prefix <= 128).then_some((address, prefix));
                self.lease.gateway6 = rest.first().and_then(|gateway| gateway.parse().ok());
            }
            ["route", network, rest @ ..] => {
                let network: Ipv4Addr = network.parse().ok()?;
                let prefix = match rest.first() {
                    None | Some(&"default") => 32,
                    Some(mask) => ipnet::ipv4_mask_to_prefix(mask.parse().ok()?).ok()?,
                };
                let net = IpNet::V4(Ipv4Net::new(network, prefix).ok()?.trunc());
                if rest.get(1) == Some(&"net_gateway") {
                    self.lease.excluded.push(net);
                } else {
                    self.lease.routes.push(net);
                }
            }
            ["route-ipv6", network, ..] => {
                self.lease.routes.push(IpNet::V6(network.parse::<Ipv6Net>().ok()?.trunc()));
            }
            ["redirect-gateway", flags @ ..] => {
                self.lease.redirect4 |= !flags.contains(&"!ipv4");
                self.lease.redirect6 |= flags.contains(&"ipv6");
            }
            ["block-ipv6"] => self.lease.block6 = true,
            ["dhcp-option", "DNS" | "DNS6", server] => self.add_dns(server.parse().ok()?),
            ["dhcp-option", "DOMAIN" | "DOMAIN-SEARCH" | "ADAPTER_DOMAIN_SUFFIX", domain] => {
                self.add_domain(domain)?;
            }
            ["dns", "server", _, "address", servers @ ..] => {
                for server in servers {
                    self.add_dns(server.parse().ok()?);
                }
            }
            ["dns", "search-domains", domains @ ..] => {
                for domain in domains {
                    self.add_domain(domain)?;
                }
            }
            ["dns", "server", _, "resolve-domains", domains @ ..] => {
                for domain in domains {
                    self.add_domain(domain)?;
                }
            }
            ["peer-id", id] => {
                self.peer_id = Some(id.parse().ok().filter(|id| *id <= 0x00ff_ffff)?)
            }
            ["cipher", name] => self.cipher = Some((*name).to_owned()),
            ["key-derivation", "tls-ekm"] => self.export = true,
            ["protocol-flags", flags @ ..] => {
                for flag in flags {
                    match *flag {
                        "cc-exit" => self.cc_exit = true,
                        "tls-ekm" => self.export = true,
                        "dyn-tls-crypt" => self.dynamic = true,
                        _ => return None,
                    }
                }
            }
            ["tun-mtu", mtu] => {
                self.lease.mtu = mtu.parse().ok().filter(|mtu| (576..=9200).contains(mtu))?;
            }
            ["ping", seconds] => self.ping = Some(seconds.parse().ok()?),
            ["ping-restart", seconds] => self.ping_restart = Some(seconds.parse().ok()?),
            ["auth-token", token] => self.auth_token = Some((*token).to_owned()),
            ["push-continuation", "2"] => self.continues = true,
            // Without meaning here: the address never changes hands, and we always say goodbye.
            [
                "push-continuation"
                | "explicit-exit-notify"
                | "register-dns"
                | "tun-ipv6"
                | "ping-timer-rem"
                | "persist-key"
                | "persist-tun"
                | "block-outside-dns"
                | "echo"
                | "sndbuf"
                | "rcvbuf"
                | "topology"
                | "comp-noadapt",
                ..,
            ] => {}
            ["comp-lzo", "no"] => return None,
            _ => return None,
        }
        Some(())
    }

    fn add_dns(&mut self, server: IpAddr) {
        if !self.lease.dns.servers.contains(&server) && self.lease.dns.servers.len() < 16 {
            self.lease.dns.servers.push(server);
        }
    }

    fn add_domain(&mut self, domain: &str) -> Option<()> {
        let is_name = !domain.is_empty()
            && domain.len() <= 253
            && !domain.starts_with('-')
            && domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !is_name {
            return None;
        }
        if !self.lease.dns.search.iter().any(|known| known == domain)
            && self.lease.dns.search.len() < 32
        {
            self.lease.dns.search.push(domain.to_owned());
        }
        Some(())
    }
}

/// Collects plaintext of TLS into NUL-terminated messages.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    buffer: Vec<u8>,
}

impl Messages {
    /// Adds bytes; false when a message grows beyond reason.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        self.buffer.len() <= MAX_MESSAGE
    }

    /// Takes the next message, only printable text of it.
    pub(crate) fn next(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == 0)?;
        let message = printable(&String::from_utf8_lossy(&self.buffer[..end]), MAX_MESSAGE);
        self.buffer.drain(..=end);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::DnsSettings;

    fn lease() -> Lease {
        Lease {
            ipv4: Some((Ipv4Addr::new(10, 86, 0, 2), 16)),
            ipv6: Some(("fd00::2".parse().unwrap(), 64)),
            gateway4: Some(Ipv4Addr::new(10, 86, 0, 1)),
            gateway6: Some("fd00::1".parse().unwrap()),
            dns: DnsSettings {
                servers: vec!["9.9.9.9".parse().unwrap()],
                search: vec!["home.example".to_owned()],
            },
            routes: vec!["192.168.7.0/24".parse().unwrap(), "fd01::/48".parse().unwrap()],
            excluded: Vec::new(),
            redirect4: true,
            redirect6: true,
            block4: false,
            block6: true,
            mtu: 1420,
        }
    }

    fn agreement() -> Agreement {
        Agreement {
            cipher: Cipher::Aes256Gcm,
            peer_id: Some(5),
            export: true,
            dynamic: true,
            cc_exit: true,
        }
    }

    fn read(messages: &[String]) -> Pushed {
        let mut pushed = Pushed::default();
        for message in messages {
            pushed.read(message.strip_prefix("PUSH_REPLY,").unwrap());
        }
        pushed.finish();
        pushed
    }

    #[test]
    fn a_lease_survives_the_push() {
        let client = PeerInfo::parse("IV_PROTO=3038\nIV_NCP=2\nIV_MTU=1600\n");

        let pushed = read(&push_reply(&lease(), &agreement(), &client, 10, 60));

        assert_eq!(pushed.lease, lease());
        assert_eq!(pushed.remarks, [""; 0]);
        assert_eq!(pushed.cipher.as_deref(), Some("AES-256-GCM"));
        assert_eq!(
            (pushed.peer_id, pushed.ping, pushed.ping_restart),
            (Some(5), Some(10), Some(60))
        );
        assert!(pushed.export && pushed.dynamic && pushed.cc_exit && !pushed.continues);
    }

    #[test]
    fn many_routes_travel_in_several_messages() {
        let mut lease = lease();
        lease.routes = (0..200).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();

        let messages = push_reply(&lease, &agreement(), &PeerInfo::default(), 10, 60);

        assert!(messages.len() > 3);
        assert!(messages.iter().all(|message| message.len() <= 1024));
        assert_eq!(read(&messages).lease.routes, lease.routes);
        assert!(messages[0].ends_with("push-continuation 2"));
        assert!(messages.last().unwrap().ends_with("push-continuation 1"));
    }

    #[test]
    fn an_old_client_is_not_told_what_it_would_choke_on() {
        let reply = push_reply(
            &lease(),
            &Agreement {
                peer_id: None,
                export: false,
                dynamic: false,
                cc_exit: false,
                ..agreement()
            },
            &PeerInfo::default(),
            10,
            60,
        );
        for word in ["cipher", "peer-id", "protocol-flags", "tun-mtu", "dns server"] {
            assert!(!reply[0].contains(word), "{word} in {}", reply[0]);
        }
    }

    #[test]
    fn point_to_point_addresses_are_understood() {
        let mut net30 = Pushed::default();
        net30.read("ifconfig 10.8.0.6 10.8.0.5,route 10.8.0.1");
        net30.finish();
        assert_eq!(net30.lease.ipv4, Some((Ipv4Addr::new(10, 8, 0, 6), 30)));

        let mut p2p = Pushed::default();
        p2p.read("topology p2p,ifconfig 10.8.0.6 10.9.0.1");
        p2p.finish();
        assert_eq!(p2p.lease.ipv4, Some((Ipv4Addr::new(10, 8, 0, 6), 32)));
        assert_eq!(p2p.lease.routes, ["10.9.0.1/32".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn what_is_not_understood_is_said_and_what_is_dangerous_is_not_obeyed() {
        let mut pushed = Pushed::default();
        pushed.read(
            "up /bin/sh,dhcp-option DOMAIN $(reboot),route 10.0.0.0 255.0.255.0,peer-id 99999999",
        );
        pushed.finish();

        assert_eq!(pushed.remarks.len(), 4, "{:?}", pushed.remarks);
        assert_eq!(pushed.lease, Lease { mtu: 1500, ..Lease::default() });
    }

    #[test]
    fn messages_are_cut_at_nuls_and_cleaned() {
        let mut messages = Messages::default();
        assert!(messages.push(b"PUSH_REQ"));
        assert_eq!(messages.next(), None);
        assert!(messages.push(b"UEST\0EXIT\n\x1b\0"));
        assert_eq!(messages.next().as_deref(), Some("PUSH_REQUEST"));
        assert_eq!(messages.next().as_deref(), Some("EXIT__"));
        assert!(!messages.push(&[b'x'; MAX_MESSAGE + 1]));
    }
}
