//! Control messages: text inside TLS. What a server pushes, written and read.

use std::fmt::Write;
use std::net::Ipv4Addr;

use contract::{Dnssec, Lease};
use ipnet::{IpNet, Ipv4Net};

use crate::cipher::Cipher;
use crate::peer_info::{PeerInfo, printable, proto};
use crate::profile::words;
use crate::pull::{HostOptions, Judgement, Outcome, Pull};
use crate::shape::Framing;

/// What fits into one PUSH_REPLY (PUSH_BUNDLE_SIZE, less the room for the continuation word).
const MAX_PUSH: usize = 1024 - 32;
/// The longest control message that is looked at.
const MAX_MESSAGE: usize = 8192;

/// The longest option with a list in it, in bytes and words: OpenVPN cuts lines at 256 and 16.
const MAX_LIST_LEN: usize = 240;
const MAX_LIST_WORDS: usize = 12;

const NEEDS_SECONDS: &str = "needs a number of seconds";

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
    /// What compression left of itself.
    pub(crate) framing: Option<Framing>,
}

/// Writes the PUSH_REPLY messages for a client; `extra` are options of the configuration.
pub(crate) fn push_reply(
    lease: &Lease,
    extra: &[String],
    agreement: &Agreement,
    client: &PeerInfo,
    ping: u64,
    ping_restart: u64,
    token: Option<&str>,
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
    push_network(lease, client, &mut options);
    options.extend(extra.iter().cloned());
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
    if let Some(token) = token {
        options.push(format!("auth-token {token}"));
    }
    match agreement.framing {
        Some(Framing::StubV2) => options.push(Framing::StubV2.name().to_owned()),
        // From now on the client does not compress either.
        Some(Framing::Lzo) => options.push("comp-lzo no".to_owned()),
        _ => {}
    }
    bundle(&options)
}

/// Routes, resolvers and limits.
fn push_network(lease: &Lease, client: &PeerInfo, options: &mut Vec<String>) {
    for route in &lease.routes {
        let metric = lease.metrics.get(route).map(|metric| format!(" vpn_gateway {metric}"));
        let metric = metric.unwrap_or_default();
        options.push(match route {
            IpNet::V4(net) => format!("route {} {}{metric}", net.network(), net.netmask()),
            IpNet::V6(net) => {
                format!("route-ipv6 {net}{}", metric.replace("vpn_gateway", "default"))
            }
        });
    }
    for route in &lease.excluded {
        options.push(match route {
            IpNet::V4(net) => format!("route {} {} net_gateway", net.network(), net.netmask()),
            IpNet::V6(net) => format!("route-ipv6 {net} net_gateway"),
        });
    }
    if lease.redirect4 || lease.redirect6 {
        let ipv4 = if lease.redirect4 { "" } else { " !ipv4" };
        let ipv6 = if lease.redirect6 { " ipv6" } else { "" };
        let local = if lease.block_local { " block-local" } else { "" };
        options.push(format!("redirect-gateway def1{ipv4}{ipv6}{local}"));
    }
    if lease.block6 {
        options.push("block-ipv6".to_owned());
    }
    if lease.block_dns {
        options.push("block-outside-dns".to_owned());
    }
    push_dns(lease, client, options);
    if let Some(limit) = lease.limits.session {
        options.push(format!("session-timeout {}", limit.as_secs()));
    }
    if let Some(limit) = lease.limits.idle {
        let bytes = lease.limits.idle_bytes;
        let bytes = if bytes > 0 { format!(" {bytes}") } else { String::new() };
        options.push(format!("inactive {}{bytes}", limit.as_secs()));
    }
}

/// Resolvers, in the words of old clients and, for those that know them, in the new ones.
fn push_dns(lease: &Lease, client: &PeerInfo, options: &mut Vec<String>) {
    let dns = &lease.dns;
    for server in &dns.servers {
        options.push(format!(
            "dhcp-option {} {server}",
            if server.is_ipv4() { "DNS" } else { "DNS6" }
        ));
    }
    for domain in &dns.search {
        options.push(format!("dhcp-option DOMAIN {domain}"));
    }
    if !client.has(proto::DNS_OPTION_V2) || dns.servers.is_empty() {
        return;
    }
    let servers = dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>();
    push_list("dns server 0 address", &servers, options);
    push_list("dns server 0 resolve-domains", &dns.split, options);
    match dns.dnssec {
        Some(Dnssec::Yes) => options.push("dns server 0 dnssec yes".to_owned()),
        Some(Dnssec::Optional) => options.push("dns server 0 dnssec optional".to_owned()),
        Some(Dnssec::No) => options.push("dns server 0 dnssec no".to_owned()),
        None => {}
    }
    if let Some(tls) = &dns.tls {
        options.push("dns server 0 transport DoT".to_owned());
        options.extend(tls.name.iter().map(|name| format!("dns server 0 sni {name}")));
    }
    push_list("dns search-domains", &dns.search, options);
}

/// An option with a list, as often as it takes: a client adds each to those before. What does not
/// even fit alone is left out, for a client would take it in pieces.
fn push_list(name: &str, values: &[String], options: &mut Vec<String>) {
    let room = MAX_LIST_LEN.saturating_sub(name.len());
    let words = MAX_LIST_WORDS.saturating_sub(name.split(' ').count());
    let (mut list, mut count) = (String::new(), 0);
    for value in values.iter().filter(|value| value.len() < room) {
        if count == words || list.len() + 1 + value.len() > room {
            options.push(format!("{name}{list}"));
            (list, count) = (String::new(), 0);
        }
        let _ = write!(list, " {value}");
        count += 1;
    }
    if count > 0 {
        options.push(format!("{name}{list}"));
    }
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
    /// A server that falls silent is not called again.
    pub(crate) exits_on_silence: bool,
    /// `comp-lzo` and `compress`; the inner `None` takes framing away.
    pub(crate) framing: Option<Option<Framing>>,
    /// A token that takes the password's place.
    pub(crate) auth_token: Option<String>,
    /// The name to show it with, in base64.
    pub(crate) auth_token_user: Option<String>,
    /// Options that were understood only in part or not at all.
    pub(crate) remarks: Vec<String>,
    /// Another message follows.
    pub(crate) continues: bool,
    /// The profile leaves a server that pushes this (`pull-filter reject`).
    pub(crate) rejected: Option<String>,
    /// The options that were obeyed, for an update to begin with.
    pub(crate) options: Vec<String>,
    host: HostOptions,
}

impl Pushed {
    /// What the profile itself asks for.
    pub(crate) fn new(pull: &Pull) -> Self {
        Self { host: pull.host_options(), ..Self::default() }
    }

    /// Takes in the options of one PUSH_REPLY (without the first word).
    pub(crate) fn read(&mut self, options: &str, pull: &Pull) {
        self.continues = false;
        for option in options.split(',').filter(|option| !option.is_empty()).take(512) {
            match pull.judge(option) {
                Judgement::Obey => self.obey(option),
                Judgement::PassOver => self
                    .remarks
                    .push(format!("passed over, as the profile says: {}", printable(option, 80))),
                Judgement::Leave => {
                    self.rejected.get_or_insert_with(|| printable(option, 80));
                }
            }
        }
    }

    /// Obeys one option, and remembers it.
    pub(crate) fn obey(&mut self, option: &str) {
        let outcome = match words(option) {
            Ok(words) => self.option(&words.iter().map(String::as_str).collect::<Vec<_>>()),
            Err(_) => Outcome::Bad("has an open quote"),
        };
        let shown = printable(option, 80);
        match outcome {
            Outcome::Done => self.options.push(option.to_owned()),
            Outcome::Noted(why) => {
                self.remarks.push(format!("{shown}: {why}"));
                self.options.push(option.to_owned());
            }
            Outcome::Bad(why) => {
                self.remarks.push(format!("ignored what the server pushed: {shown}: it {why}"));
            }
            Outcome::Unknown => {
                self.remarks.push(format!("ignored what the server pushed: {shown}"));
            }
        }
    }

    /// Completes the lease once the last message is there.
    pub(crate) fn finish(&mut self, pull: &Pull) {
        self.lease = self.host.lease(pull, &mut self.remarks);
    }

    fn option(&mut self, words: &[&str]) -> Outcome {
        match self.protocol_option(words) {
            Some(outcome) => outcome,
            None => self.host.option(words),
        }
    }

    /// Options of the protocol; `None` for those of the host.
    fn protocol_option(&mut self, words: &[&str]) -> Option<Outcome> {
        match words {
            ["peer-id", id] => match id.parse().ok().filter(|id| *id <= 0x00ff_ffff) {
                Some(id) => self.peer_id = Some(id),
                None => return Some(Outcome::Bad("needs a number of 24 bits")),
            },
            ["cipher", name] => self.cipher = Some((*name).to_owned()),
            ["key-derivation", "tls-ekm"] => self.export = true,
            ["protocol-flags", flags @ ..] => {
                for flag in flags {
                    match *flag {
                        "cc-exit" => self.cc_exit = true,
                        "tls-ekm" => self.export = true,
                        "dyn-tls-crypt" => self.dynamic = true,
                        _ => return Some(Outcome::Unknown),
                    }
                }
            }
            ["ping", seconds] => match seconds.parse() {
                Ok(seconds) => self.ping = Some(seconds),
                Err(_) => return Some(Outcome::Bad(NEEDS_SECONDS)),
            },
            [name @ ("ping-restart" | "ping-exit"), seconds] => match seconds.parse() {
                Ok(seconds) => {
                    self.ping_restart = Some(seconds);
                    self.exits_on_silence = *name == "ping-exit";
                }
                Err(_) => return Some(Outcome::Bad(NEEDS_SECONDS)),
            },
            ["auth-token", token] => self.auth_token = Some((*token).to_owned()),
            ["auth-token-user", user] => self.auth_token_user = Some((*user).to_owned()),
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
                | "echo"
                | "sndbuf"
                | "rcvbuf"
                | "comp-noadapt",
                ..,
            ] => {}
            [name @ ("comp-lzo" | "compress"), rest @ ..] => {
                self.framing = Some(Framing::named(name, rest.first().copied())?);
            }
            _ => return None,
        }
        Some(Outcome::Done)
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
    use std::time::Duration;

    use contract::{DnsSettings, SessionLimits};

    use super::*;

    fn lease() -> Lease {
        Lease {
            ipv4: Some((Ipv4Addr::new(10, 86, 0, 2), 16)),
            ipv6: Some(("fd00::2".parse().unwrap(), 64)),
            gateway4: Some(Ipv4Addr::new(10, 86, 0, 1)),
            gateway6: Some("fd00::1".parse().unwrap()),
            dns: DnsSettings {
                servers: vec!["9.9.9.9".parse().unwrap()],
                search: vec!["home.example".to_owned()],
                split: vec!["corp.example".to_owned()],
                dnssec: Some(Dnssec::Optional),
                tls: None,
            },
            routes: vec!["192.168.7.0/24".parse().unwrap(), "fd01::/48".parse().unwrap()],
            metrics: [("192.168.7.0/24".parse().unwrap(), 7), ("fd01::/48".parse().unwrap(), 9)]
                .into(),
            excluded: vec!["192.168.9.0/24".parse().unwrap()],
            redirect4: true,
            redirect6: true,
            block4: false,
            block6: true,
            block_local: true,
            block_dns: true,
            limits: SessionLimits {
                session: Some(Duration::from_secs(3600)),
                idle: Some(Duration::from_secs(300)),
                idle_bytes: 1000,
            },
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
            framing: None,
        }
    }

    fn read(messages: &[String]) -> Pushed {
        let mut pushed = Pushed::default();
        for message in messages {
            pushed.read(message.strip_prefix("PUSH_REPLY,").unwrap(), &Pull::default());
        }
        pushed.finish(&Pull::default());
        pushed
    }

    #[test]
    fn a_lease_survives_the_push() {
        let client = PeerInfo::parse("IV_PROTO=3038\nIV_NCP=2\nIV_MTU=1600\n");

        let pushed = read(&push_reply(&lease(), &[], &agreement(), &client, 10, 60, None));

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
        lease.metrics.clear();
        lease.routes = (0..200).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();

        let messages = push_reply(&lease, &[], &agreement(), &PeerInfo::default(), 10, 60, None);

        assert!(messages.len() > 3);
        assert!(messages.iter().all(|message| message.len() <= 1024));
        assert_eq!(read(&messages).lease.routes, lease.routes);
        assert!(messages[0].ends_with("push-continuation 2"));
        assert!(messages.last().unwrap().ends_with("push-continuation 1"));
    }

    #[test]
    fn long_lists_of_domains_travel_in_options_that_a_client_takes_whole() {
        let client = PeerInfo::parse("IV_PROTO=3038\nIV_NCP=2\nIV_MTU=1600\n");
        let mut lease = lease();
        lease.dns.search = (0..30).map(|n| format!("{n}.example")).collect();
        lease.dns.split = (0..9).map(|n| format!("{n}{}.example", "x".repeat(60))).collect();
        lease.dns.servers = (1..9)
            .map(|n| {
                format!("fd00:{}::{n}", "abcd:".repeat(5).trim_end_matches(':')).parse().unwrap()
            })
            .collect();

        let messages = push_reply(&lease, &[], &agreement(), &client, 10, 60, None);

        for option in messages.iter().flat_map(|message| message.split(',')) {
            assert!(option.len() <= 240 && option.split(' ').count() <= 12, "{option}");
        }
        assert_eq!(read(&messages).lease.dns, lease.dns);
        lease.dns.search = vec!["x".repeat(253), "home.example".to_owned()];
        let messages = push_reply(&lease, &[], &agreement(), &client, 10, 60, None).concat();
        assert!(messages.contains(",dns search-domains home.example,"), "{messages}");
    }

    #[test]
    fn an_old_client_is_not_told_what_it_would_choke_on() {
        let reply = push_reply(
            &lease(),
            &[],
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
            None,
        );
        for word in ["cipher", "peer-id", "protocol-flags", "tun-mtu", "dns server"] {
            assert!(!reply[0].contains(word), "{word} in {}", reply[0]);
        }
    }

    #[test]
    fn point_to_point_addresses_are_understood() {
        let mut net30 = Pushed::default();
        net30.read("ifconfig 10.8.0.6 10.8.0.5,route 10.8.0.1", &Pull::default());
        net30.finish(&Pull::default());
        assert_eq!(net30.lease.ipv4, Some((Ipv4Addr::new(10, 8, 0, 6), 30)));

        let mut p2p = Pushed::default();
        p2p.read("topology p2p,ifconfig 10.8.0.6 10.9.0.1", &Pull::default());
        p2p.finish(&Pull::default());
        assert_eq!(p2p.lease.ipv4, Some((Ipv4Addr::new(10, 8, 0, 6), 32)));
        assert_eq!(p2p.lease.routes, ["10.9.0.1/32".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn what_is_not_understood_is_said_and_what_is_dangerous_is_not_obeyed() {
        let mut pushed = Pushed::default();
        pushed.read(
            "up /bin/sh,dhcp-option DOMAIN $(reboot),route 10.0.0.0 255.0.255.0,peer-id 99999999",
            &Pull::default(),
        );
        pushed.finish(&Pull::default());

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
