//! The types that keys have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;
use toml::de::DeValue;

use crate::nearest::nearest;
use crate::table::{At, FromToml, List, Wrong, article};

/// A type that is written as a text in quotes.
pub(crate) trait Text: Sized {
    /// What is accepted, in words.
    fn form() -> String;

    /// Reads the text.
    ///
    /// # Errors
    ///
    /// What is wrong and what to do.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<T: Text> FromToml for T {
    fn wants() -> String {
        T::form()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let at = value.span().start;
        let Some(text) = value.get_ref().as_str() else {
            return Err(wrong_type::<T>(value));
        };
        T::from_text(text).map_err(|what| Wrong { at, what })
    }
}

impl<T: Text + PartialEq> FromToml for List<T> {
    fn wants() -> String {
        format!("a list, each {}", T::form())
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let items = value.get_ref().as_array().ok_or_else(|| wrong_type::<Self>(value))?;
        let mut list = Self::with_capacity(items.len());
        for item in items.iter() {
            let (read, at) = (T::read(item)?, item.span().start);
            if list.iter().any(|earlier| earlier.value == read) {
                let text = item.get_ref().as_str().unwrap_or_default();
                return Err(Wrong {
                    at,
                    what: format!("{text:?} is in the list twice; remove one"),
                });
            }
            list.push(At { value: read, at: Some(at) });
        }
        Ok(list)
    }
}

impl FromToml for bool {
    fn wants() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        value.get_ref().as_bool().ok_or_else(|| wrong_type::<Self>(value))
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Whole<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> FromToml for Whole<MIN, MAX> {
    fn wants() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Wrong> {
        let Some(integer) = value.get_ref().as_integer() else {
            return Err(wrong_type::<Self>(value));
        };
        u32::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| Wrong {
                at: value.span().start,
                what: format!("{integer} is out of range; write {}", Self::wants()),
            })
    }
}

fn wrong_type<T: FromToml>(value: &Spanned<DeValue<'_>>) -> Wrong {
    Wrong {
        at: value.span().start,
        what: format!(
            "{} cannot stand here; write {}",
            article(value.get_ref().type_str()),
            T::wants()
        ),
    }
}

/// Declares an enum whose variants are written as words.
macro_rules! words {
    (
        $(#[$about:meta])*
        $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal, )* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name {
            $( $(#[$doc])* $variant, )*
        }

        impl $name {
            /// Every variant, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),*];

            /// The word in the file; for algorithms also the protocol's name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Text for $name {
            fn form() -> String {
                one_of(Self::ALL.iter().map(|word| word.as_str()))
            }

            fn from_text(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                found.ok_or_else(|| {
                    match nearest(text, Self::ALL.iter().map(|word| word.as_str())) {
                        Some(close) => format!("{text:?} is unknown; did you mean {close:?}?"),
                        None => format!("{text:?} is unknown; write {}", Self::form()),
                    }
                })
            }
        }
    };
}

fn one_of<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let mut words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

words! {
    /// What a member must prove.
    AuthMode {
        /// That it holds its certificate's key.
        Certificate = "certificate",
        /// That it knows its password.
        Password = "password",
        /// Both, of the same user.
        Both = "both",
    }
}

words! {
    /// How OpenVPN's control packets are wrapped.
    ControlWrap {
        /// Encrypted and authenticated with a key of each profile's own.
        TlsCryptV2 = "tls-crypt-v2",
        /// Encrypted and authenticated with a key that all clients share.
        TlsCrypt = "tls-crypt",
        /// Authenticated with such a key.
        TlsAuth = "tls-auth",
    }
}

words! {
    /// Whether a client must show that it is where it says before anything is kept about it.
    CookiePolicy {
        /// If it can.
        Preferred = "preferred",
        /// Always.
        Required = "required",
    }
}

words! {
    /// What is done about clients that compress.
    Compression {
        /// They are turned away.
        Refuse = "refuse",
        /// Their packets are expanded; nothing is ever compressed.
        Decompress = "decompress",
    }
}

words! {
    /// OpenVPN's data ciphers.
    Cipher {
        /// AEAD.
        Aes256Gcm = "AES-256-GCM",
        /// AEAD.
        Aes128Gcm = "AES-128-GCM",
        /// AEAD, fast without AES instructions.
        Chacha20Poly1305 = "CHACHA20-POLY1305",
        /// With an HMAC, for old clients.
        Aes256Cbc = "AES-256-CBC",
        /// With an HMAC, for old clients.
        Aes128Cbc = "AES-128-CBC",
    }
}

words! {
    /// Hashes for HMACs.
    Digest {
        /// 160 bits; sound in an HMAC, and what old clients default to.
        Sha1 = "SHA1",
        /// 256 bits.
        Sha256 = "SHA256",
        /// 512 bits.
        Sha512 = "SHA512",
    }
}

words! {
    /// Versions of TLS.
    TlsVersion {
        /// RFC 5246.
        Tls12 = "1.2",
        /// RFC 8446.
        Tls13 = "1.3",
    }
}

words! {
    /// How much is logged.
    Level {
        /// What a human must see to.
        Error = "error",
        /// What someone should look at.
        Warn = "warn",
        /// Sessions coming and going.
        Info = "info",
        /// Messages of the protocols.
        Debug = "debug",
        /// Single packets.
        Trace = "trace",
    }
}

/// The network's name: short and plain, so that devices and files can be called by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NetworkName(pub(crate) String);

impl Text for NetworkName {
    fn form() -> String {
        "1 to 12 lower-case letters, digits, \"-\" or \"_\", beginning with a letter".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        let good = text.len() <= 12
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.chars().all(plain);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} cannot be a network's name; write {}", Self::form()))
        }
    }
}

/// An interface of the host's, or none for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Interface(pub(crate) Option<String>);

impl Text for Interface {
    fn form() -> String {
        "the name of an interface as in \"eth1\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        // What Linux takes (dev_valid_name), without what would be hard to read in a message.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:\"\\".contains(&byte);
        match text {
            "" => Ok(Self(None)),
            "." | ".." => Err(not_a::<Self>(text)),
            _ if text.len() <= 15 && text.bytes().all(plain) => Ok(Self(Some(text.to_owned()))),
            _ => Err(not_a::<Self>(text)),
        }
    }
}

/// Whom a server that is started as root turns into.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RunAs {
    /// The account `warren`, or a number that no account has.
    #[default]
    Auto,
    /// Nobody else: it stays root.
    Root,
    /// This account.
    Account(String),
}

impl Text for RunAs {
    fn form() -> String {
        "\"auto\", \"root\" or the name of an account".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "root" => return Ok(Self::Root),
            _ => {}
        }
        // useradd(8), and the dots that other systems allow.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let good = (1..=32).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && text.bytes().all(plain);
        if good {
            Ok(Self::Account(text.to_owned()))
        } else {
            Err(format!("{text:?} cannot be an account; write {}", Self::form()))
        }
    }
}

impl FromStr for RunAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }
}

/// Where members' IPv4 addresses come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ipv4Pool(pub(crate) Option<Ipv4Net>);

impl Text for Ipv4Pool {
    fn form() -> String {
        "an IPv4 network of /8 to /30 as in \"10.86.0.0/16\", or \"off\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let net: Ipv4Net = network(text).ok_or_else(|| not_a::<Self>(text))?;
        if net.network() != net.addr() {
            return Err(host_bits(text, &net.trunc()));
        }
        if !(8..=30).contains(&net.prefix_len()) {
            return Err(format!("{text:?} is too large or too small; write {}", Self::form()));
        }
        if !is_usable4(net.addr()) || !is_usable4(net.broadcast()) {
            return Err(format!(
                "members cannot have addresses of {text:?}; take a private network"
            ));
        }
        Ok(Self(Some(net)))
    }
}

/// Where members' IPv6 addresses come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ipv6Pool {
    /// A random private /64 that the state folder remembers.
    Auto,
    /// This network, /64 to /112.
    Prefix(Ipv6Net),
    /// Members have no IPv6.
    Off,
}

impl Text for Ipv6Pool {
    fn form() -> String {
        "\"auto\", an IPv6 network of /64 to /112 as in \"fd12:3456:789a::/64\", or \"off\""
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let net: Ipv6Net = network(text).ok_or_else(|| not_a::<Self>(text))?;
        if net.network() != net.addr() {
            return Err(host_bits(text, &net.trunc()));
        }
        if !(64..=112).contains(&net.prefix_len()) {
            return Err(format!("{text:?} is too large or too small; write {}", Self::form()));
        }
        if !is_usable6(net.addr()) {
            return Err(format!("members cannot have addresses of {text:?}; write \"auto\""));
        }
        Ok(Self::Prefix(net))
    }
}

impl Text for IpNet {
    fn form() -> String {
        "a network as in \"192.168.7.0/24\" or \"fd00:7::/48\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let net: Self = network(text).ok_or_else(|| not_a::<Self>(text))?;
        if net.network() != net.addr() {
            return Err(host_bits(text, &net.trunc()));
        }
        if net.prefix_len() == 0 {
            return Err(format!("{text:?} is everything; set redirect_gateway = true"));
        }
        let usable = match net {
            Self::V4(net) => is_usable4(net.addr()) && is_usable4(net.broadcast()),
            Self::V6(net) => is_usable6(net.addr()),
        };
        if !usable {
            return Err(format!("{text:?} cannot be routed; remove it"));
        }
        Ok(net)
    }
}

impl Text for IpAddr {
    fn form() -> String {
        "an IP address in quotes".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let address: Self = text.parse().map_err(|_| not_a::<Self>(text))?;
        let usable = match address {
            Self::V4(address) => is_usable4(address),
            Self::V6(address) => is_usable6(address),
        };
        if usable {
            Ok(address)
        } else {
            Err(format!("members cannot reach {text:?}; write an address that they can"))
        }
    }
}

/// A multicast group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Group(pub(crate) IpAddr);

impl Text for Group {
    fn form() -> String {
        "a multicast group in quotes, such as \"239.1.2.3\" or \"ff02::1234\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let group: IpAddr = text.parse().map_err(|_| not_a::<Self>(text))?;
        if group.is_multicast() {
            Ok(Self(group))
        } else {
            Err(format!("{text:?} is not a multicast group; those begin at 224.0.0.0 and ff00::"))
        }
    }
}

impl Text for SocketAddr {
    fn form() -> String {
        "an address with a port as in \"0.0.0.0:1194\" or \"[::]:1194\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let address: Self = text.parse().map_err(|_| not_a::<Self>(text))?;
        if address.port() == 0 {
            return Err(format!("{text:?} has port 0; write a port from 1 to 65535"));
        }
        if let IpAddr::V6(ip) = address.ip()
            && let Some(ip) = ip.to_ipv4_mapped()
        {
            let port = address.port();
            return Err(format!("{text:?} is an IPv4 address in disguise; write \"{ip}:{port}\""));
        }
        if address.ip().is_multicast() {
            return Err(format!(
                "{text:?} is a multicast address; write one of this machine's own"
            ));
        }
        Ok(address)
    }
}

/// A domain name without a dot at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Domain(pub(crate) String);

impl Text for Domain {
    fn form() -> String {
        "a domain as in \"example.org\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if is_domain(text) { Ok(Self(text.to_owned())) } else { Err(not_a::<Self>(text)) }
    }
}

/// Where members find a door from outside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    /// A domain name or an IP address (IPv6 without brackets).
    pub host: String,
    /// The port outside, if it is not the door's own.
    pub port: Option<u16>,
}

/// Why a text is no [`Remote`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RemoteError;

impl std::error::Error for RemoteError {}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a host; write a name or address, as in vpn.example.org, 192.0.2.1:1194 or \
             [2001:db8::1]:1194",
        )
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|&port| port != 0).ok_or(RemoteError)?;
                (host, Some(port))
            }
            None => (text, None),
        };
        if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = inner.parse().map_err(|_| RemoteError)?;
            return Ok(Self { host: address.to_string(), port });
        }
        if host.parse::<Ipv4Addr>().is_ok() || is_domain(host) {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(RemoteError)
        }
    }
}

/// A [`Remote`], or nothing for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OptionalRemote(pub(crate) Option<Remote>);

impl Text for OptionalRemote {
    fn form() -> String {
        "a name or address, with or without a port".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|remote| Self(Some(remote))).map_err(|e| format!("{text:?} is {e}"))
    }
}

/// A host with its port, or nothing for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OptionalTarget(pub(crate) Option<(String, u16)>);

impl Text for OptionalTarget {
    fn form() -> String {
        "a name or address with a port, as in \"127.0.0.1:8443\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(Remote { host, port: Some(port) }) => Ok(Self(Some((host, port)))),
            Ok(Remote { port: None, .. }) | Err(RemoteError) => Err(not_a::<Self>(text)),
        }
    }
}

/// An option that OpenVPN clients take from a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PushOption(pub(crate) String);

impl Text for PushOption {
    fn form() -> String {
        "an option that clients take from a server, as in \"route 10.0.0.0 255.0.0.0\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match openvpn::check_option(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(why) => Err(format!("{text:?} cannot be pushed: {why}")),
        }
    }
}

fn not_a<T: Text>(text: &str) -> String {
    format!("{text:?} cannot be read; write {}", T::form())
}

fn host_bits(text: &str, net: &impl fmt::Display) -> String {
    format!("{text:?} is an address inside a network; write \"{net}\"")
}

/// Demands the slash, which [`ipnet`] would do without.
fn network<N: FromStr>(text: &str) -> Option<N> {
    if text.contains('/') { text.parse().ok() } else { None }
}

fn is_usable4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // "This network", loopback, link-local, and everything from multicast on.
    first != 0 && first != 127 && first < 224 && !address.is_link_local()
}

fn is_usable6(address: Ipv6Addr) -> bool {
    // The first /8 holds the unspecified, the loopback and the embedded IPv4 addresses.
    address.octets()[0] != 0 && !address.is_multicast() && !address.is_unicast_link_local()
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A last label of digits only would be read as an IPv4 address by some (RFC 3696, 2).
    let last_is_number =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253 && !last_is_number && text.split('.').all(label)
}
