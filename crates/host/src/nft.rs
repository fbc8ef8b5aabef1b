//! One nf_tables table of our own, replaced and removed as a whole.
//!
//! ```text
//!   batch: begin | add table | delete table | add table, chains, rules | end
//! ```
//!
//! The first two orders make "delete" work whether or not the table exists, on every kernel that
//! has nf_tables. The kernel carries out a batch as a whole or not at all, so no packet sees half
//! a ruleset.

use std::io;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use crate::netlink::{
    Attributes, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Netlink, attributes, text,
};
use crate::route::octets;

/// What every Warren's interfaces begin with, unless the operator named them otherwise.
const OUR_INTERFACES: &str = "warren";
/// What bridges of ours are called, on which this host is not.
pub(crate) const OUR_BRIDGES: &str = "br-warren";

const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u8 = 0;
const NFT_MSG_GETTABLE: u8 = 1;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_GETCHAIN: u8 = 4;
const NFT_MSG_NEWRULE: u8 = 6;

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_MARK: u32 = 3;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_MARK: u32 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const CT_ESTABLISHED: u32 = 1 << 1;
const CT_RELATED: u32 = 1 << 2;
const DNS_PORT: u16 = 53;
/// RFC 7858; and RFC 9250, for QUIC.
const DNS_OVER_TLS_PORT: u16 = 853;
/// Interface names are compared in registers of this size (`IFNAMSIZ`).
const NAME_LEN: usize = 16;

/// What a table of ours does.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Ruleset {
    /// Members reach the outside; the outside reaches members only in answer, and sends nothing
    /// in their names.
    Server {
        tun: String,
        /// Members' IPv4 network.
        pool4: Option<Ipv4Net>,
        /// Members' IPv6 network.
        pool6: Option<Ipv6Net>,
        /// Subnets behind members.
        #[serde(default)]
        behind: Vec<IpNet>,
        /// Members reach the outside under the host's address.
        masquerade: bool,
        /// The host was no IPv4 router before: what is not Warren's is not forwarded.
        guard4: bool,
        /// The same for IPv6.
        guard6: bool,
        /// The bridge on which members are as well, and its own hardware address.
        #[serde(default)]
        bridge: Option<(String, [u8; 6])>,
    },
    /// Answers to marked datagrams bear the mark too, so that a strict reverse path filter finds
    /// the way they came; and nobody outside the tunnel speaks to the tunnel's addresses.
    Client { tun: String, mark: u32, addresses: Vec<IpAddr> },
    /// Nobody but the tunnel itself asks a resolver past the tunnel.
    OnlyTunnelDns {
        tun: String,
        /// What the tunnel's own datagrams bear, if anything.
        mark: Option<u32>,
        /// Where they go.
        servers: Vec<IpAddr>,
    },
}

impl Ruleset {
    /// Puts the table in force in place of one of the same name.
    pub(crate) fn install(&self, table: &str) -> io::Result<()> {
        let mut batch = deletion(table);
        batch.push(new_table(table));
        let chains = match self {
            Self::Server { tun, pool4, pool6, behind, masquerade, guard4, guard6, bridge } => {
                let pools = [pool4.map(IpNet::V4), pool6.map(IpNet::V6)];
                let pools: Vec<_> = pools.into_iter().flatten().chain(behind.clone()).collect();
                let guard = (*guard4, *guard6);
                server_chains(tun, &pools, *masquerade, guard, bridge.as_ref())
            }
            Self::Client { tun, mark, addresses } => client_chains(tun, *mark, addresses),
            Self::OnlyTunnelDns { tun, mark, servers } => resolver_chains(tun, *mark, servers),
        };
        for chain in &chains {
            batch.push(chain.message(table));
            batch.extend(chain.rules.iter().map(|rule| rule.message(table, chain.name)));
        }
        commit(batch)
    }
}

/// Removes the table; returns whether it was there.
pub(crate) fn remove(table: &str) -> io::Result<bool> {
    if !tables()?.iter().any(|name| name == table) {
        return Ok(false);
    }
    commit(deletion(table)).map(|()| true)
}

/// The names of all tables of the `inet` family.
pub(crate) fn tables() -> io::Result<Vec<String>> {
    let request =
        Message::new(kind(NFT_MSG_GETTABLE), NLM_F_DUMP, &fixed(NFPROTO_INET), Attributes::new());
    let replies = Netlink::open(SockProtocol::NetlinkNetFilter)?.ask(request)?;
    Ok(replies
        .iter()
        .filter_map(|reply| {
            let mut found = attributes(reply.body.get(4..)?);
            found.find(|&(kind, _)| kind == NFTA_TABLE_NAME).map(|(_, name)| text(name))
        })
        .collect())
}

/// Tables of others whose chains drop forwarded packets that they do not know.
pub(crate) fn forward_droppers() -> io::Result<Vec<String>> {
    let request = Message::new(kind(NFT_MSG_GETCHAIN), NLM_F_DUMP, &fixed(0), Attributes::new());
    let replies = Netlink::open(SockProtocol::NetlinkNetFilter)?.ask(request)?;
    Ok(replies.iter().filter_map(|reply| dropper(&reply.body)).collect())
}

fn dropper(body: &[u8]) -> Option<String> {
    let (mut table, mut chain, mut hook, mut policy) = (None, None, None, None);
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            NFTA_CHAIN_TABLE => table = Some(text(value)),
            NFTA_CHAIN_NAME => chain = Some(text(value)),
            NFTA_CHAIN_POLICY => policy = value.first_chunk().map(|v| u32::from_be_bytes(*v)),
            NFTA_CHAIN_HOOK => {
                hook = attributes(value)
                    .find(|&(kind, _)| kind == NFTA_HOOK_HOOKNUM)
                    .and_then(|(_, number)| number.first_chunk())
                    .map(|number| u32::from_be_bytes(*number));
            }
            _ => {}
        }
    }
    (hook == Some(Hook::Forward as u32) && policy == Some(NF_DROP))
        .then_some(format!("{} {}", table?, chain?))
}

fn commit(orders: Vec<Message>) -> io::Result<()> {
    let mark = |kind| {
        let mut fixed = fixed(0);
        fixed[2..].copy_from_slice(&u16::from(NFNL_SUBSYS_NFTABLES).to_be_bytes());
        Message::new(kind, 0, &fixed, Attributes::new())
    };
    let mut batch = vec![mark(NFNL_MSG_BATCH_BEGIN)];
    batch.extend(orders);
    batch.push(mark(NFNL_MSG_BATCH_END));
    Netlink::open(SockProtocol::NetlinkNetFilter)?.ask_all(batch)
}

fn kind(message: u8) -> u16 {
    u16::from(NFNL_SUBSYS_NFTABLES) << 8 | u16::from(message)
}

/// `nfgenmsg`: family, version, resource.
fn fixed(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn new_table(table: &str) -> Message {
    let attributes = Attributes::new().string(NFTA_TABLE_NAME, table);
    Message::new(kind(NFT_MSG_NEWTABLE), NLM_F_CREATE, &fixed(NFPROTO_INET), attributes)
}

fn deletion(table: &str) -> Vec<Message> {
    let attributes = Attributes::new().string(NFTA_TABLE_NAME, table);
    let delete = Message::new(kind(NFT_MSG_DELTABLE), 0, &fixed(NFPROTO_INET), attributes);
    vec![new_table(table), delete]
}

fn server_chains(
    tun: &str,
    pools: &[IpNet],
    masquerade: bool,
    (guard4, guard6): (bool, bool),
    bridge: Option<&(String, [u8; 6])>,
) -> Vec<Chain> {
    let own = bridge.filter(|(name, _)| name.starts_with(OUR_BRIDGES)).map(|(name, _)| name);
    let theirs = bridge.filter(|(name, _)| !name.starts_with(OUR_BRIDGES));
    // Where bridged packets are shown to us (bridge-nf-call-iptables), those of members are neither
    // impostors nor to be masqueraded; but what this host takes for itself, or routes, is not
    // bridged. What it takes may be in a frame for everybody, so the frame does not tell.
    let forged = theirs.into_iter().flat_map(|(name, _)| {
        let to_us = || Rule::new().iifname(NFT_CMP_EQ, name).local_only();
        pools.iter().map(move |&pool| to_us().source_in(pool).verdict(NF_DROP))
    });
    let bridged = bridge.into_iter().flat_map(|(name, mac)| {
        let rule = move || {
            let rule = Rule::new().iifname(NFT_CMP_EQ, name);
            // Of a bridge of ours, nothing is taken or routed anyway.
            if own.is_some() { rule } else { rule.frame_to(NFT_CMP_NEQ, mac) }
        };
        pools.iter().flat_map(move |&pool| {
            [rule().source_in(pool), rule().destination_in(pool)]
                .map(|rule| rule.untracked().verdict(NF_ACCEPT))
        })
    });
    // Before anything trusts the source, connection tracking included.
    let impostors = pools.iter().map(|&pool| {
        Rule::new()
            .iifname(NFT_CMP_NEQ, tun)
            .iifname(NFT_CMP_NEQ, "lo")
            .source_in(pool)
            .verdict(NF_DROP)
    });
    let preraw = Chain {
        name: "preraw",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: libc::NF_IP_PRI_RAW,
        rules: forged.chain(bridged).chain(impostors).collect(),
    };
    let masqueraded = if masquerade { pools } else { &[] };
    let postrouting = Chain {
        name: "postrouting",
        kind: "nat",
        hook: Hook::Postrouting,
        priority: libc::NF_IP_PRI_NAT_SRC,
        rules: masqueraded
            .iter()
            .map(|&pool| Rule::new().source_in(pool).oifname(NFT_CMP_NEQ, tun).masquerade())
            .collect(),
    };

    let mut rules = Vec::new();
    if let Some((name, _)) = bridge {
        let within = Rule::new().iifname(NFT_CMP_EQ, name).oifname(NFT_CMP_EQ, name);
        rules.push(within.verdict(NF_ACCEPT));
        let from_there = || Rule::new().iifname(NFT_CMP_EQ, name);
        if own.is_some() {
            rules.push(from_there().verdict(NF_DROP));
        } else {
            // Members are routed from their tunnels.
            let forged = |&pool| from_there().source_in(pool).verdict(NF_DROP);
            rules.extend(pools.iter().map(forged));
        }
    }
    rules.extend([
        Rule::new().iifname(NFT_CMP_EQ, tun).verdict(NF_ACCEPT),
        Rule::new().oifname(NFT_CMP_EQ, tun).answers().verdict(NF_ACCEPT),
        Rule::new().oifname(NFT_CMP_EQ, tun).verdict(NF_DROP),
    ]);
    if guard4 || guard6 {
        rules.push(Rule::new().iifname_begins(OUR_INTERFACES).verdict(NF_ACCEPT));
        rules.push(Rule::new().oifname_begins(OUR_INTERFACES).verdict(NF_ACCEPT));
        // What other Warrens bridge.
        let bridged = Rule::new().iifname_begins(OUR_BRIDGES).oifname_begins(OUR_BRIDGES);
        rules.push(bridged.verdict(NF_ACCEPT));
    }
    if guard4 {
        rules.push(Rule::new().family(NFPROTO_IPV4).verdict(NF_DROP));
    }
    if guard6 {
        rules.push(Rule::new().family(NFPROTO_IPV6).verdict(NF_DROP));
    }
    let forward = Chain {
        name: "forward",
        kind: "filter",
        hook: Hook::Forward,
        priority: libc::NF_IP_PRI_FILTER,
        rules,
    };

    // This host is not on a bridge of ours, whatever is sent to it there.
    let input = own.map(|name| Chain {
        name: "input",
        kind: "filter",
        hook: Hook::Input,
        priority: libc::NF_IP_PRI_FILTER,
        rules: vec![Rule::new().iifname(NFT_CMP_EQ, name).verdict(NF_DROP)],
    });
    [preraw, postrouting, forward].into_iter().chain(input).collect()
}

fn client_chains(tun: &str, mark: u32, addresses: &[IpAddr]) -> Vec<Chain> {
    let refusals = addresses.iter().map(|&address| {
        Rule::new()
            .iifname(NFT_CMP_NEQ, tun)
            .iifname(NFT_CMP_NEQ, "lo")
            .destination_is(address)
            .verdict(NF_DROP)
    });
    vec![
        Chain {
            name: "preraw",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: libc::NF_IP_PRI_RAW,
            rules: refusals.collect(),
        },
        Chain {
            name: "premangle",
            kind: "filter",
            hook: Hook::Prerouting,
            priority: libc::NF_IP_PRI_MANGLE,
            rules: vec![Rule::new().connection_marked(mark).mark_packet(mark)],
        },
        Chain {
            name: "postmangle",
            kind: "filter",
            hook: Hook::Postrouting,
            priority: libc::NF_IP_PRI_MANGLE,
            rules: vec![Rule::new().packet_marked(mark).mark_connection(mark)],
        },
    ]
}

fn resolver_chains(tun: &str, mark: Option<u32>, servers: &[IpAddr]) -> Vec<Chain> {
    let rules = || {
        let mut rules = vec![
            Rule::new().oifname(NFT_CMP_EQ, tun).verdict(NF_ACCEPT),
            Rule::new().oifname(NFT_CMP_EQ, "lo").verdict(NF_ACCEPT),
        ];
        match mark {
            Some(mark) => rules.push(Rule::new().packet_marked(mark).verdict(NF_ACCEPT)),
            // A server may well be on the port of DNS.
            None => rules.extend(
                servers.iter().map(|&at| Rule::new().destination_is(at).verdict(NF_ACCEPT)),
            ),
        }
        for port in [DNS_PORT, DNS_OVER_TLS_PORT] {
            rules.push(Rule::new().destination_port(libc::IPPROTO_UDP, port).verdict(NF_DROP));
            rules.push(Rule::new().destination_port(libc::IPPROTO_TCP, port).verdict(NF_DROP));
        }
        rules
    };
    [("output", Hook::Output), ("forward", Hook::Forward)]
        .map(|(name, hook)| Chain {
            name,
            kind: "filter",
            hook,
            priority: libc::NF_IP_PRI_FILTER,
            rules: rules(),
        })
        .into()
}

/// Where a chain hangs (`NF_INET_*`).
#[derive(Clone, Copy, Debug)]
enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A base chain whose policy is to accept.
#[derive(Debug)]
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: Hook,
    priority: i32,
    rules: Vec<Rule>,
}

impl Chain {
    fn message(&self, table: &str) -> Message {
        let hook = Attributes::new()
            .be32(NFTA_HOOK_HOOKNUM, self.hook as u32)
            .bytes(NFTA_HOOK_PRIORITY, &self.priority.to_be_bytes());
        let attributes = Attributes::new()
            .string(NFTA_CHAIN_TABLE, table)
            .string(NFTA_CHAIN_NAME, self.name)
            .nest(NFTA_CHAIN_HOOK, &hook)
            .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
            .string(NFTA_CHAIN_TYPE, self.kind);
        Message::new(kind(NFT_MSG_NEWCHAIN), NLM_F_CREATE, &fixed(NFPROTO_INET), attributes)
    }
}

/// A rule: expressions that load a register, compare it, and act, from left to right.
#[derive(Debug)]
struct Rule(Attributes);

impl Rule {
    fn new() -> Self {
        Self(Attributes::new())
    }

    fn message(&self, table: &str, chain: &str) -> Message {
        let attributes = Attributes::new()
            .string(NFTA_RULE_TABLE, table)
            .string(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, &self.0);
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        Message::new(kind(NFT_MSG_NEWRULE), flags, &fixed(NFPROTO_INET), attributes)
    }

    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().string(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        Self(self.0.nest(NFTA_LIST_ELEM, &expression))
    }

    fn iifname(self, comparison: u32, name: &str) -> Self {
        self.load_meta(NFT_META_IIFNAME).compare(comparison, &padded(name))
    }

    fn oifname(self, comparison: u32, name: &str) -> Self {
        self.load_meta(NFT_META_OIFNAME).compare(comparison, &padded(name))
    }

    fn iifname_begins(self, prefix: &str) -> Self {
        self.load_meta(NFT_META_IIFNAME).compare(NFT_CMP_EQ, prefix.as_bytes())
    }

    fn oifname_begins(self, prefix: &str) -> Self {
        self.load_meta(NFT_META_OIFNAME).compare(NFT_CMP_EQ, prefix.as_bytes())
    }

    fn family(self, family: u8) -> Self {
        self.load_meta(NFT_META_NFPROTO).compare(NFT_CMP_EQ, &[family])
    }

    /// Belongs to, or is about, a connection seen in the other direction before.
    fn answers(self) -> Self {
        let wanted = (CT_ESTABLISHED | CT_RELATED).to_ne_bytes();
        self.load_connection(NFT_CT_STATE).mask(&wanted).compare(NFT_CMP_NEQ, &[0; 4])
    }

    /// The frame's destination is this one, or another.
    fn frame_to(self, comparison: u32, mac: &[u8; 6]) -> Self {
        self.load_payload(NFT_PAYLOAD_LL_HEADER, 0, 6).compare(comparison, mac)
    }

    /// The packet's destination is an address of this host's, and of no group.
    fn local_only(self) -> Self {
        const NFTA_FIB_DREG: u16 = 1;
        const NFTA_FIB_RESULT: u16 = 2;
        const NFTA_FIB_FLAGS: u16 = 3;
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 1 << 1;
        self.expression(
            "fib",
            &Attributes::new()
                .be32(NFTA_FIB_DREG, NFT_REG_1)
                .be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)
                .be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
        )
        .compare(NFT_CMP_EQ, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// Connection tracking leaves it alone.
    fn untracked(self) -> Self {
        self.expression("notrack", &Attributes::new())
    }

    /// The source is in `net`.
    fn source_in(self, net: IpNet) -> Self {
        self.address_in(net, if net.addr().is_ipv6() { 8 } else { 12 })
    }

    /// The destination is in `net`.
    fn destination_in(self, net: IpNet) -> Self {
        self.address_in(net, if net.addr().is_ipv6() { 24 } else { 16 })
    }

    fn address_in(self, net: IpNet, offset: u32) -> Self {
        let rule = self.load_address(net.addr(), offset);
        let rule = if net.prefix_len() == net.max_prefix_len() {
            rule
        } else {
            rule.mask(&octets(net.netmask()))
        };
        rule.compare(NFT_CMP_EQ, &octets(net.network()))
    }

    /// The destination is `address`.
    fn destination_is(self, address: IpAddr) -> Self {
        let offset = if address.is_ipv6() { 24 } else { 16 };
        self.load_address(address, offset).compare(NFT_CMP_EQ, &octets(address))
    }

    /// Goes to this port of UDP or TCP.
    fn destination_port(self, protocol: i32, port: u16) -> Self {
        let protocol = u8::try_from(protocol).expect("numbers of IP protocols are bytes");
        self.load_meta(NFT_META_L4PROTO)
            .compare(NFT_CMP_EQ, &[protocol])
            .load_payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
            .compare(NFT_CMP_EQ, &port.to_be_bytes())
    }

    fn packet_marked(self, mark: u32) -> Self {
        self.load_meta(NFT_META_MARK).compare(NFT_CMP_EQ, &mark.to_ne_bytes())
    }

    fn connection_marked(self, mark: u32) -> Self {
        self.load_connection(NFT_CT_MARK).compare(NFT_CMP_EQ, &mark.to_ne_bytes())
    }

    fn mark_packet(self, mark: u32) -> Self {
        const NFTA_META_KEY: u16 = 2;
        const NFTA_META_SREG: u16 = 3;
        self.load_value(&mark.to_ne_bytes()).expression(
            "meta",
            &Attributes::new().be32(NFTA_META_KEY, NFT_META_MARK).be32(NFTA_META_SREG, NFT_REG_1),
        )
    }

    fn mark_connection(self, mark: u32) -> Self {
        const NFTA_CT_KEY: u16 = 2;
        const NFTA_CT_SREG: u16 = 4;
        self.load_value(&mark.to_ne_bytes()).expression(
            "ct",
            &Attributes::new().be32(NFTA_CT_KEY, NFT_CT_MARK).be32(NFTA_CT_SREG, NFT_REG_1),
        )
    }

    fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new())
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = Attributes::new().be32(NFTA_VERDICT_CODE, code);
        self.immediate(NFT_REG_VERDICT, &Attributes::new().nest(NFTA_DATA_VERDICT, &verdict))
    }

    fn load_value(self, value: &[u8]) -> Self {
        self.immediate(NFT_REG_1, &Attributes::new().bytes(NFTA_DATA_VALUE, value))
    }

    fn immediate(self, register: u32, data: &Attributes) -> Self {
        const NFTA_IMMEDIATE_DREG: u16 = 1;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        self.expression(
            "immediate",
            &Attributes::new().be32(NFTA_IMMEDIATE_DREG, register).nest(NFTA_IMMEDIATE_DATA, data),
        )
    }

    fn load_meta(self, key: u32) -> Self {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        self.expression(
            "meta",
            &Attributes::new().be32(NFTA_META_DREG, NFT_REG_1).be32(NFTA_META_KEY, key),
        )
    }

    fn load_connection(self, key: u32) -> Self {
        const NFTA_CT_DREG: u16 = 1;
        const NFTA_CT_KEY: u16 = 2;
        self.expression(
            "ct",
            &Attributes::new().be32(NFTA_CT_DREG, NFT_REG_1).be32(NFTA_CT_KEY, key),
        )
    }

    /// Loads the address at `offset` of the IP header, of packets of the family of `like` only.
    fn load_address(self, like: IpAddr, offset: u32) -> Self {
        let (family, len) = if like.is_ipv6() { (NFPROTO_IPV6, 16) } else { (NFPROTO_IPV4, 4) };
        self.family(family).load_payload(NFT_PAYLOAD_NETWORK_HEADER, offset, len)
    }

    fn load_payload(self, base: u32, offset: u32, len: u32) -> Self {
        const NFTA_PAYLOAD_DREG: u16 = 1;
        const NFTA_PAYLOAD_BASE: u16 = 2;
        const NFTA_PAYLOAD_OFFSET: u16 = 3;
        const NFTA_PAYLOAD_LEN: u16 = 4;
        self.expression(
            "payload",
            &Attributes::new()
                .be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
                .be32(NFTA_PAYLOAD_BASE, base)
                .be32(NFTA_PAYLOAD_OFFSET, offset)
                .be32(NFTA_PAYLOAD_LEN, len),
        )
    }

    fn mask(self, mask: &[u8]) -> Self {
        const NFTA_BITWISE_SREG: u16 = 1;
        const NFTA_BITWISE_DREG: u16 = 2;
        const NFTA_BITWISE_LEN: u16 = 3;
        const NFTA_BITWISE_MASK: u16 = 4;
        const NFTA_BITWISE_XOR: u16 = 5;
        let len = u32::try_from(mask.len()).expect("registers are short");
        let zero = vec![0; mask.len()];
        self.expression(
            "bitwise",
            &Attributes::new()
                .be32(NFTA_BITWISE_SREG, NFT_REG_1)
                .be32(NFTA_BITWISE_DREG, NFT_REG_1)
                .be32(NFTA_BITWISE_LEN, len)
                .nest(NFTA_BITWISE_MASK, &Attributes::new().bytes(NFTA_DATA_VALUE, mask))
                .nest(NFTA_BITWISE_XOR, &Attributes::new().bytes(NFTA_DATA_VALUE, &zero)),
        )
    }

    fn compare(self, comparison: u32, value: &[u8]) -> Self {
        const NFTA_CMP_SREG: u16 = 1;
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        self.expression(
            "cmp",
            &Attributes::new()
                .be32(NFTA_CMP_SREG, NFT_REG_1)
                .be32(NFTA_CMP_OP, comparison)
                .nest(NFTA_CMP_DATA, &Attributes::new().bytes(NFTA_DATA_VALUE, value)),
        )
    }
}

/// The name as the kernel's register holds it.
fn padded(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(NAME_LEN - 1)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests;
