use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeTable;

use crate::bridge;
use crate::error::{ConfigError, Source};
use crate::example;
use crate::file::{LogTable, NetworkTable, OpenVpnTable, SECTIONS, ServerTable};
use crate::management::{self, Management};
use crate::outside::{self, OutsideCa};
use crate::table::{List, refuse_strangers};
use crate::text::{
    AuthMode, Cipher, Compression, ControlWrap, CookiePolicy, Digest, Ipv4Pool, Ipv6Pool, Level,
    Remote, RunAs, TlsVersion,
};
use crate::token::TokenPlace;

/// Every IPv6 link carries this much (RFC 8200, 5), so the tunnel must.
const IPV6_MIN_MTU: u16 = 1280;

/// A whole configuration; holds only what fits together.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `[network]`
    pub network: Network,
    /// `[doors.*]`
    pub doors: Doors,
    /// `[log]`
    pub log: Log,
    /// `[server]`
    pub server: Server,
}

/// The virtual network.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Network {
    /// Its name: 1 to 12 of `a-z0-9-_`, a letter first.
    pub name: String,
    /// Members' IPv4 addresses; `None` for no IPv4. At least one family is on.
    pub ipv4: Option<Ipv4Net>,
    /// Members' IPv6 addresses.
    pub ipv6: Ipv6Pool,
    /// Resolvers for members, best first.
    pub dns: Vec<IpAddr>,
    /// Search domains for members.
    pub search: Vec<String>,
    /// Networks behind the server; overlap neither the pools nor each other.
    pub routes: Vec<IpNet>,
    /// Members send everything through the tunnel.
    pub redirect_gateway: bool,
    /// Members reach each other.
    pub client_to_client: bool,
    /// Broadcast and discovery of one member reach all.
    pub relay_broadcast: bool,
    /// Multicast groups relayed besides the usual ones; each is one.
    pub relay_groups: Vec<IpAddr>,
    /// The interface whose network the members that carry Ethernet are on.
    pub bridge: Option<String>,
    /// Networks of the hosts there; none is a part of a pool, and none of another.
    pub bridge_networks: Vec<IpNet>,
    /// Members are masqueraded.
    pub nat: bool,
    /// The largest IP packet inside the tunnel, in bytes; at least 1280 if IPv6 is on.
    pub mtu: u16,
}

/// The doors.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Doors {
    /// `[doors.openvpn]`
    pub openvpn: OpenVpn,
}

/// Tokens that take the password's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tokens {
    /// So long after the password was shown; `None` for as long as the token is renewed.
    pub lifetime: Option<Duration>,
    /// A token is good for twice this.
    pub renewal: Duration,
}

/// The OpenVPN door.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct OpenVpn {
    /// Whether the door is open at all.
    pub enabled: bool,
    /// UDP addresses; none twice, none covered by another, and at least one here or in
    /// [`listen_tcp`](Self::listen_tcp).
    pub listen: Vec<SocketAddr>,
    /// TCP addresses; none twice, none covered by another.
    pub listen_tcp: Vec<SocketAddr>,
    /// Host and port of the server that gets what is not OpenVPN on a TCP port.
    pub port_share: Option<(String, u16)>,
    /// What profiles point to, if the operator said so.
    pub remote: Option<Remote>,
    /// What a member must prove.
    pub auth: AuthMode,
    /// Other CAs whose certificates let members in.
    pub outside: Option<OutsideCa>,
    /// How control packets are wrapped in profiles written from now on.
    pub control: ControlWrap,
    /// Profiles that share one key are let in, too; true unless `control` is tls-crypt-v2.
    pub shared_key: bool,
    /// How old a profile's own key may be.
    pub client_key_max_age: Option<Duration>,
    /// Whether clients with a key of their own must show that they are where they say.
    pub tls_crypt_v2_cookie: CookiePolicy,
    /// Data ciphers, best first; at least one.
    pub ciphers: Vec<Cipher>,
    /// The hash of tls-auth and the CBC ciphers.
    pub digest: Digest,
    /// The oldest TLS accepted.
    pub tls_min: TlsVersion,
    /// Tokens that take the password's place, if members get any.
    pub tokens: Option<Tokens>,
    /// What is done about clients that compress.
    pub compression: Compression,
    /// Datagrams' payloads are cut to this, in bytes.
    pub fragment: Option<u16>,
    /// TCP segments are held to what fits payloads of this size, in bytes.
    pub mssfix: Option<u16>,
    /// Fresh keys after this long; `None` leaves it to the client.
    pub renegotiate: Option<Duration>,
    /// A sign of life after this much silence.
    pub ping: Duration,
    /// A client gives up after this much silence; more than `ping`.
    pub ping_restart: Duration,
    /// Options for every client, besides those of the network.
    pub push: Vec<String>,
    /// An unfinished handshake is dropped after this long.
    pub handshake_timeout: Duration,
    /// Clients may carry Ethernet.
    pub tap: bool,
    /// How many clients at once.
    pub max_sessions: usize,
    /// Replies to strangers' first packets, per second.
    pub handshakes_per_second: u32,
    /// The server's private key, if it is in a token.
    pub server_key: Option<TokenPlace>,
    /// OpenVPN's management protocol, if it is spoken.
    pub management: Option<Management>,
}

/// Logging.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Log {
    /// How much.
    pub level: Level,
}

/// The program itself.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Server {
    /// Packet threads; `None` for one per core but one.
    pub workers: Option<NonZeroUsize>,
    /// Whom a server that is started as root turns into.
    pub user: RunAs,
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("", "defaults").expect("the defaults fit together: a test reads them")
    }
}

impl Config {
    /// Reads the file, or takes the defaults where there is none.
    ///
    /// # Errors
    ///
    /// One line that says where, what is wrong and what to do.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        path.map_or_else(
            || Ok(Self::default()),
            |path| Self::load_with(path, || std::fs::read_to_string(path)),
        )
    }

    /// As [`load`](Self::load), where somebody else has to read the file.
    ///
    /// # Errors
    ///
    /// One line that says where, what is wrong and what to do.
    pub fn load_with(
        path: &Path,
        read: impl FnOnce() -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let name = path.display().to_string().escape_debug().to_string();
        let text = read().map_err(|e| {
            let what = match e.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no such file; `warren config example` writes one".to_owned()
                }
                std::io::ErrorKind::InvalidData => {
                    "this is not text (UTF-8); is it the right file?".to_owned()
                }
                _ => format!("cannot be read ({e}); check the path and its permissions"),
            };
            Source { name: &name, text: "" }.error(None, None, what)
        })?;
        Self::parse(&text, &name)
    }

    /// Reads `text`; `name` stands for the file in errors.
    ///
    /// # Errors
    ///
    /// One line that says where, what is wrong and what to do.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let source = Source { name, text };
        let root = DeTable::parse(text).map_err(|e| {
            let message = e.message().replace('\n', ", ");
            source.error(
                e.span().map(|span| span.start),
                None,
                format!("not valid TOML: {message}"),
            )
        })?;
        let root = root.get_ref();
        refuse_strangers(root, &source, SECTIONS)?;

        let log = LogTable::read(root, &source)?;
        let server = ServerTable::read(root, &source)?;
        let workers = usize::try_from(server.workers.value.0).unwrap_or(usize::MAX);
        Ok(Self {
            network: network(NetworkTable::read(root, &source)?, &source)?,
            doors: Doors { openvpn: openvpn(OpenVpnTable::read(root, &source)?, &source)? },
            log: Log { level: log.level.value },
            server: Server { workers: NonZeroUsize::new(workers), user: server.user.value },
        })
    }

    /// A file with every key: its default, unit and reason.
    #[must_use]
    pub fn example() -> String {
        example::example()
    }
}

fn network(table: NetworkTable, source: &Source<'_>) -> Result<Network, ConfigError> {
    let Ipv4Pool(ipv4) = table.ipv4.value;
    let ipv6 = table.ipv6.value;
    if ipv4.is_none() && ipv6 == Ipv6Pool::Off {
        let what = "both address families are off; turn on network.ipv4 or network.ipv6";
        return Err(source.error(table.ipv6.at.or(table.ipv4.at), Some("network.ipv6"), what));
    }

    let mtu = u16::try_from(table.mtu.value.0).unwrap_or(u16::MAX);
    if ipv6 != Ipv6Pool::Off && mtu < IPV6_MIN_MTU {
        let what = format!(
            "{mtu} is too small for IPv6; write at least {IPV6_MIN_MTU} or set ipv6 = \"off\""
        );
        return Err(source.error(table.mtu.at, Some("network.mtu"), what));
    }

    let pools = [
        ipv4.map(|net| ("ipv4", IpNet::V4(net))),
        match ipv6 {
            Ipv6Pool::Prefix(net) => Some(("ipv6", IpNet::V6(net))),
            Ipv6Pool::Auto | Ipv6Pool::Off => None,
        },
    ];
    check_routes(&table.routes.value, pools.into_iter().flatten(), source)?;
    bridge::check(&table, pools.into_iter().flatten(), source)?;

    Ok(Network {
        name: table.name.value.0,
        ipv4,
        ipv6,
        dns: values(table.dns.value),
        search: values(table.search.value).into_iter().map(|domain| domain.0).collect(),
        routes: values(table.routes.value),
        redirect_gateway: table.redirect_gateway.value,
        client_to_client: table.client_to_client.value,
        relay_broadcast: table.relay_broadcast.value,
        relay_groups: values(table.relay_groups.value).into_iter().map(|group| group.0).collect(),
        bridge: table.bridge.value.0,
        bridge_networks: values(table.bridge_networks.value),
        nat: table.nat.value,
        mtu,
    })
}

fn check_routes(
    routes: &List<IpNet>,
    pools: impl Iterator<Item = (&'static str, IpNet)> + Clone,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    for (index, route) in routes.iter().enumerate() {
        let error = |what: String| Err(source.error(route.at, Some("network.routes"), what));
        let net = route.value;
        if let Some((key, pool)) = pools.clone().find(|(_, pool)| overlap(pool, &net)) {
            return error(format!(
                "{net} overlaps network.{key} ({pool}); remove the route or take another pool"
            ));
        }
        if let Some(other) = routes[..index].iter().find(|other| overlap(&other.value, &net)) {
            return error(format!("{net} overlaps {}; remove the smaller one", other.value));
        }
    }
    Ok(())
}

fn overlap(left: &IpNet, right: &IpNet) -> bool {
    left.contains(right) || right.contains(left)
}

fn openvpn(table: OpenVpnTable, source: &Source<'_>) -> Result<OpenVpn, ConfigError> {
    if table.listen.value.is_empty() && table.listen_tcp.value.is_empty() {
        let what = "this list and listen_tcp are empty; name an address, or set enabled = false";
        return Err(source.error(table.listen.at, Some("doors.openvpn.listen"), what));
    }
    check_listen(&table.listen.value, "doors.openvpn.listen", source)?;
    check_listen(&table.listen_tcp.value, "doors.openvpn.listen_tcp", source)?;
    if table.ciphers.value.is_empty() {
        let what = "the list is empty; name at least one cipher, such as \"AES-256-GCM\"";
        return Err(source.error(table.ciphers.at, Some("doors.openvpn.ciphers"), what));
    }

    let management = management::checked(&table, source)?;
    let outside = outside::checked(&table, source)?;

    let renegotiate = table.renegotiate.value.0;
    if (1..5).contains(&renegotiate) {
        let what = format!("{renegotiate} is too often; write 0 for never, or at least 5");
        return Err(source.error(table.renegotiate.at, Some("doors.openvpn.renegotiate"), what));
    }
    let mut renewal = table.auth_token_renewal.value.0;
    if table.auth_token_renewal.at.is_none() {
        renewal = renewal.max(renegotiate);
    }
    if table.auth_token.value && renegotiate != 0 && 2 * renewal <= renegotiate {
        let what = format!(
            "twice {renewal} is not more than renegotiate ({renegotiate}): tokens would end before \
             they are renewed; write at least {}",
            renegotiate / 2 + 1
        );
        let at = table.auth_token_renewal.at;
        return Err(source.error(at, Some("doors.openvpn.auth_token_renewal"), what));
    }
    for (at, name, size) in [
        (table.fragment.at, "doors.openvpn.fragment", table.fragment.value.0),
        (table.mssfix.at, "doors.openvpn.mssfix", table.mssfix.value.0),
    ] {
        if (1..68).contains(&size) {
            let what = format!("{size} carries next to nothing; write 0 for off, or at least 68");
            return Err(source.error(at, Some(name), what));
        }
    }
    let size = |size: u32| u16::try_from(size).ok().filter(|size| *size != 0);
    let (ping, ping_restart) = (table.ping.value.0, table.ping_restart.value.0);
    if ping_restart <= ping {
        let what = format!(
            "{ping_restart} is not more than ping ({ping}): every pause would end the session; \
             write at least {}",
            ping * 2
        );
        let at = table.ping_restart.at.or(table.ping.at);
        return Err(source.error(at, Some("doors.openvpn.ping_restart"), what));
    }

    if !table.shared_key.value && table.control.value != ControlWrap::TlsCryptV2 {
        let what = format!(
            "false leaves profiles with control = \"{}\" no way in; write true, or set control to \
             \"tls-crypt-v2\"",
            table.control.value
        );
        let at = table.shared_key.at.or(table.control.at);
        return Err(source.error(at, Some("doors.openvpn.shared_key"), what));
    }

    let max_age = table.client_key_max_age.value.0;
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let lifetime = table.auth_token_lifetime.value.0;
    Ok(OpenVpn {
        enabled: table.enabled.value,
        listen: values(table.listen.value),
        listen_tcp: values(table.listen_tcp.value),
        port_share: table.port_share.value.0,
        remote: table.remote.value.0,
        auth: table.auth.value,
        outside,
        control: table.control.value,
        shared_key: table.shared_key.value,
        client_key_max_age: (max_age != 0).then(|| seconds(max_age * 86_400)),
        tls_crypt_v2_cookie: table.tls_crypt_v2_cookie.value,
        ciphers: values(table.ciphers.value),
        digest: table.digest.value,
        tls_min: table.tls_min.value,
        tokens: table.auth_token.value.then(|| Tokens {
            lifetime: (lifetime != 0).then(|| seconds(lifetime)),
            renewal: seconds(renewal),
        }),
        compression: table.compression.value,
        fragment: size(table.fragment.value.0),
        mssfix: size(table.mssfix.value.0).or_else(|| size(table.fragment.value.0)),
        renegotiate: (renegotiate != 0).then(|| seconds(renegotiate)),
        ping: seconds(ping),
        ping_restart: seconds(ping_restart),
        push: values(table.push.value).into_iter().map(|option| option.0).collect(),
        handshake_timeout: seconds(table.handshake_timeout.value.0),
        tap: table.tap.value,
        max_sessions: usize::try_from(table.max_sessions.value.0).unwrap_or(usize::MAX),
        handshakes_per_second: table.handshakes_per_second.value.0,
        server_key: table.server_key.value.0,
        management,
    })
}

/// "All addresses" beside one address of the same family and port would take each other's
/// packets.
fn check_listen(
    listen: &List<SocketAddr>,
    key: &'static str,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    for any in listen.iter().map(|any| any.value).filter(|any| any.ip().is_unspecified()) {
        let covered = listen.iter().find(|other| {
            let other = other.value;
            other != any && other.port() == any.port() && other.is_ipv4() == any.is_ipv4()
        });
        if let Some(covered) = covered {
            let what = format!("{} is part of {any}; remove one of them", covered.value);
            return Err(source.error(covered.at, Some(key), what));
        }
    }
    Ok(())
}

fn values<T>(list: List<T>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}
