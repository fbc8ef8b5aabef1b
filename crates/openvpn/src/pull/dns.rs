//! `dns` and the older `dhcp-option`: resolvers, and for which names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use contract::{DnsOverTls, DnsSettings, Dnssec};

use super::Outcome;

/// Resolvers of one entry: any host asks only the first few.
const MAX_SERVERS: usize = 16;
/// Domains of one list.
const MAX_DOMAINS: usize = 64;
/// `dns server` entries; one of them is used.
const MAX_ENTRIES: usize = 16;

const BAD_NAME: Outcome = Outcome::Bad("has a domain that is no host name");
const BAD_ADDRESS: Outcome = Outcome::Bad("needs an IP address");

/// Name resolution as it was asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct DnsOptions {
    /// By priority: the lowest number that can be used is.
    entries: BTreeMap<i8, Entry>,
    search: Vec<String>,
    /// `dhcp-option`: used where no `dns` says otherwise.
    old_servers: Vec<IpAddr>,
    old_search: Vec<String>,
    old_split: Vec<String>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Entry {
    servers: Vec<SocketAddr>,
    split: Vec<String>,
    dnssec: Option<Dnssec>,
    transport: Transport,
    sni: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Transport {
    #[default]
    Plain,
    Tls,
    Https,
}

impl Transport {
    fn port(self) -> u16 {
        match self {
            Self::Plain => 53,
            Self::Tls => 853,
            Self::Https => 443,
        }
    }
}

impl DnsOptions {
    pub(super) fn option(&mut self, name: &str, rest: &[&str]) -> Outcome {
        match (name, rest) {
            ("dns", ["search-domains", domains @ ..]) => add_domains(&mut self.search, domains),
            ("dns", ["server", priority, what, values @ ..]) => {
                let Ok(priority) = priority.parse::<i8>() else {
                    return Outcome::Bad("server needs a priority from -128 to 127");
                };
                if !self.entries.contains_key(&priority) && self.entries.len() >= MAX_ENTRIES {
                    return Outcome::Bad("server is one too many: 16 are looked at");
                }
                self.entries.entry(priority).or_default().set(what, values)
            }
            ("dns", _) => Outcome::Bad("needs \"server\" or \"search-domains\""),
            (_, ["DNS" | "DNS6", server]) => match server.parse() {
                Ok(server) => {
                    if !self.old_servers.contains(&server) && self.old_servers.len() < MAX_SERVERS {
                        self.old_servers.push(server);
                    }
                    Outcome::Done
                }
                Err(_) => BAD_ADDRESS,
            },
            (_, ["DOMAIN" | "DOMAIN-SEARCH" | "ADAPTER_DOMAIN_SUFFIX", domains @ ..]) => {
                add_domains(&mut self.old_search, domains)
            }
            (_, ["DOMAIN-ROUTE", domains @ ..]) => add_domains(&mut self.old_split, domains),
            (_, [_, ..]) => Outcome::Noted("of dhcp-option, only resolvers and domains are used"),
            (_, []) => Outcome::Bad("needs a type and a value"),
        }
    }

    /// What the host is told.
    pub(super) fn settings(&self, remarks: &mut Vec<String>) -> DnsSettings {
        let search = if self.search.is_empty() { &self.old_search } else { &self.search };
        for (priority, entry) in &self.entries {
            let usable = entry.usable();
            if entry.servers.is_empty() {
                continue;
            }
            if usable.is_empty() {
                remarks.push(format!(
                    "dns server {priority} left out: only resolvers on port 53, or 853 with TLS, can be used"
                ));
                continue;
            }
            return DnsSettings {
                servers: usable,
                search: search.clone(),
                split: split(&entry.split),
                dnssec: entry.dnssec,
                tls: (entry.transport == Transport::Tls)
                    .then(|| DnsOverTls { name: entry.sni.clone() }),
            };
        }
        DnsSettings {
            servers: self.old_servers.clone(),
            search: search.clone(),
            split: split(&self.old_split),
            dnssec: None,
            tls: None,
        }
    }
}

impl Entry {
    fn set(&mut self, what: &str, values: &[&str]) -> Outcome {
        match (what, values) {
            ("address", addresses) => {
                for word in addresses {
                    // Port 0 stands for the usual one.
                    let Some(address) = address(word) else { return BAD_ADDRESS };
                    if !self.servers.contains(&address) && self.servers.len() < MAX_SERVERS {
                        self.servers.push(address);
                    }
                }
                Outcome::Done
            }
            ("resolve-domains", domains) => add_domains(&mut self.split, domains),
            ("dnssec", [word]) => {
                self.dnssec = Some(match *word {
                    "yes" => Dnssec::Yes,
                    "optional" => Dnssec::Optional,
                    "no" => Dnssec::No,
                    _ => return Outcome::Bad("server dnssec is yes, optional or no"),
                });
                Outcome::Done
            }
            ("transport", [word]) => {
                self.transport = match *word {
                    "plain" => Transport::Plain,
                    "DoT" => Transport::Tls,
                    "DoH" => Transport::Https,
                    _ => return Outcome::Bad("server transport is plain, DoT or DoH"),
                };
                Outcome::Done
            }
            ("sni", [name]) if is_host_name(name) => {
                self.sni = Some((*name).to_owned());
                Outcome::Done
            }
            ("sni", _) => BAD_NAME,
            _ => Outcome::Bad("server has address, resolve-domains, dnssec, transport and sni"),
        }
    }

    fn usable(&self) -> Vec<IpAddr> {
        if self.transport == Transport::Https {
            return Vec::new();
        }
        let port = self.transport.port();
        let usable = self.servers.iter().filter(|at| [0, port].contains(&at.port()));
        usable.map(SocketAddr::ip).collect()
    }
}

/// An address, with or without a port.
fn address(word: &str) -> Option<SocketAddr> {
    let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, 0)),
        Err(_) => word.parse().ok(),
    }
}

/// Every name there is, is no split.
fn split(domains: &[String]) -> Vec<String> {
    if domains.iter().any(|domain| domain == ".") { Vec::new() } else { domains.to_vec() }
}

fn add_domains(list: &mut Vec<String>, domains: &[&str]) -> Outcome {
    if domains.is_empty() {
        return Outcome::Bad("needs a domain");
    }
    for domain in domains {
        if *domain != "." && !is_host_name(domain) {
            return BAD_NAME;
        }
        if !list.iter().any(|known| known == domain) && list.len() < MAX_DOMAINS {
            list.push((*domain).to_owned());
        }
    }
    Outcome::Done
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}
