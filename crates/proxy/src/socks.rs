//! SOCKS 5 (RFC 1928) with user name and password (RFC 1929).
//!
//! ```text
//!   05 n methods            ->
//!                           <-  05 method
//!   01 user password        ->                     (method 2)
//!                           <-  01 00
//!   05 command 00 address   ->
//!                           <-  05 reply 00 address
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zeroize::Zeroizing;

use crate::target::{Host, Login, Target};
use crate::{ProxyError, printable};

#[cfg(test)]
mod tests;

const VERSION: u8 = 5;
/// Of the user name and password exchange.
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NONE_OF_THEM: u8 = 0xff;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// What the proxy shall do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Connect this stream to the target.
    Connect(Target),
    /// Relay datagrams for as long as this stream is open.
    Associate,
}

/// What to do next.
#[derive(Debug, Eq, PartialEq)]
pub enum SocksStep {
    /// Read more.
    More,
    /// Send this, then read more. It may hold a password.
    Send(Zeroizing<Vec<u8>>),
    /// Done; what came behind the reply is the server's.
    Through {
        /// Where the proxy says it acts for us: with [`Command::Associate`] its relay.
        bound: Bound,
        /// The first bytes from the target.
        rest: Vec<u8>,
    },
}

/// An address as the proxy names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bound {
    /// Unspecified means the proxy's own.
    Address(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

impl Bound {
    /// Where the relay of an association is; `proxy` is the address of the proxy itself.
    ///
    /// # Errors
    ///
    /// Says what is wrong with an address to which nothing can be sent, or should not: a proxy
    /// must not be able to aim our datagrams at this host, or at everybody.
    pub fn relay(&self, proxy: IpAddr) -> Result<SocketAddr, ProxyError> {
        let Self::Address(bound) = self else {
            return Err(ProxyError::Protocol("its relay has a name instead of an address"));
        };
        if bound.port() == 0 {
            return Err(ProxyError::Protocol("its relay has no port"));
        }
        let address = match bound.ip().to_canonical() {
            address if address.is_unspecified() => proxy,
            address => address,
        };
        let is_everybody = match address {
            IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        if is_everybody || (address.is_loopback() && !proxy.is_loopback()) {
            return Err(ProxyError::Protocol("its relay is at an address that cannot be its own"));
        }
        Ok(SocketAddr::new(address, bound.port()))
    }
}

/// One conversation with a proxy.
#[derive(Debug)]
pub struct Socks {
    command: Command,
    login: Option<Login>,
    awaits: Await,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Await {
    Method,
    Login,
    Reply,
}

impl Socks {
    /// Begins one; the second is what to send first.
    ///
    /// # Errors
    ///
    /// If user name or password are too long for the protocol, or empty.
    pub fn new(command: Command, login: Option<Login>) -> Result<(Self, Vec<u8>), ProxyError> {
        if let Some(Login { user, password }) = &login
            && [user.as_bytes(), password.expose()]
                .iter()
                .any(|word| !(1..=255).contains(&word.len()))
        {
            return Err(ProxyError::Unusable(
                "user name and password for a SOCKS proxy have 1 to 255 bytes each",
            ));
        }
        let greeting = match login {
            Some(_) => vec![VERSION, 2, NO_LOGIN, USER_AND_PASSWORD],
            None => vec![VERSION, 1, NO_LOGIN],
        };
        Ok((Self { command, login, awaits: Await::Method, buffer: Vec::new() }, greeting))
    }

    /// Takes in what the proxy sent.
    ///
    /// # Errors
    ///
    /// The conversation is over then.
    pub fn read(&mut self, bytes: &[u8]) -> Result<SocksStep, ProxyError> {
        self.buffer.extend_from_slice(bytes);
        match self.awaits {
            Await::Method => self.on_method(),
            Await::Login => self.on_login(),
            Await::Reply => self.on_reply(),
        }
    }

    fn on_method(&mut self) -> Result<SocksStep, ProxyError> {
        let method = match *self.buffer.as_slice() {
            [] | [VERSION] => return Ok(SocksStep::More),
            [VERSION, method] => method,
            [VERSION, _, ..] => return Err(ProxyError::Protocol("it talks before it is asked")),
            _ => return Err(ProxyError::Protocol("it is no SOCKS 5 proxy")),
        };
        self.buffer.clear();
        match (method, &self.login) {
            (NO_LOGIN, _) => Ok(self.ask()),
            (USER_AND_PASSWORD, Some(Login { user, password })) => {
                let mut message = Zeroizing::new(Vec::with_capacity(513));
                message.push(LOGIN_VERSION);
                for word in [user.as_bytes(), password.expose()] {
                    // Their lengths were looked at in the beginning.
                    message.push(u8::try_from(word.len()).unwrap_or(u8::MAX));
                    message.extend_from_slice(word);
                }
                self.awaits = Await::Login;
                Ok(SocksStep::Send(message))
            }
            (NONE_OF_THEM | USER_AND_PASSWORD, None) => Err(ProxyError::LoginNeeded),
            (NONE_OF_THEM, Some(_)) => {
                Err(ProxyError::Method("neither nothing nor a password".to_owned()))
            }
            (other, _) => Err(ProxyError::Method(format!("method {other}"))),
        }
    }

    fn on_login(&mut self) -> Result<SocksStep, ProxyError> {
        match *self.buffer.as_slice() {
            [] | [LOGIN_VERSION] => Ok(SocksStep::More),
            [LOGIN_VERSION, 0] => {
                self.buffer.clear();
                Ok(self.ask())
            }
            [LOGIN_VERSION, _] => Err(ProxyError::LoginRefused),
            _ => Err(ProxyError::Protocol("a reply to the password that is none")),
        }
    }

    fn ask(&mut self) -> SocksStep {
        self.awaits = Await::Reply;
        let mut message = vec![VERSION];
        match &self.command {
            Command::Connect(Target { host, port }) => {
                message.extend([CONNECT, 0]);
                match host {
                    Host::Address(IpAddr::V4(address)) => {
                        message.push(IPV4);
                        message.extend(address.octets());
                    }
                    Host::Address(IpAddr::V6(address)) => {
                        message.push(IPV6);
                        message.extend(address.octets());
                    }
                    Host::Name(name) => {
                        // A target's name has no more than 253 bytes.
                        message.extend([NAME, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
                        message.extend_from_slice(name.as_bytes());
                    }
                }
                message.extend(port.to_be_bytes());
            }
            // Whence our datagrams will come is not known to us: there may be a NAT.
            Command::Associate => message.extend([UDP_ASSOCIATE, 0, IPV4, 0, 0, 0, 0, 0, 0]),
        }
        SocksStep::Send(Zeroizing::new(message))
    }

    fn on_reply(&mut self) -> Result<SocksStep, ProxyError> {
        if self.buffer.first().is_some_and(|version| *version != VERSION) {
            return Err(ProxyError::Protocol("a reply of another version"));
        }
        // A refusal may be cut short behind its code.
        if let Some(code @ 1..) = self.buffer.get(1).copied() {
            return Err(ProxyError::Refused(refusal(code)));
        }
        let Some((kind, address)) = self.buffer.get(3..).and_then(<[u8]>::split_first) else {
            return Ok(SocksStep::More);
        };
        let Some((bound, rest)) = bound(*kind, address)? else { return Ok(SocksStep::More) };
        let step = SocksStep::Through { bound, rest: rest.to_vec() };
        self.buffer = Vec::new();
        Ok(step)
    }
}

/// The address in a reply and what follows it; `None` as long as it is not all there.
fn bound(kind: u8, bytes: &[u8]) -> Result<Option<(Bound, &[u8])>, ProxyError> {
    let found = match kind {
        IPV4 => bytes
            .split_first_chunk::<4>()
            .map(|(octets, rest)| (BoundHost::Address(Ipv4Addr::from(*octets).into()), rest)),
        IPV6 => bytes
            .split_first_chunk::<16>()
            .map(|(octets, rest)| (BoundHost::Address(Ipv6Addr::from(*octets).into()), rest)),
        NAME => bytes.split_first().and_then(|(len, rest)| {
            let (name, rest) = rest.split_at_checked(usize::from(*len))?;
            Some((BoundHost::Name(printable(name, 255)), rest))
        }),
        _ => return Err(ProxyError::Protocol("a reply with an address of an unknown kind")),
    };
    let Some((host, rest)) = found else { return Ok(None) };
    let Some((port, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
    let port = u16::from_be_bytes(*port);
    Ok(Some(match host {
        BoundHost::Address(address) => (Bound::Address(SocketAddr::new(address, port)), rest),
        BoundHost::Name(name) => (Bound::Name(name, port), rest),
    }))
}

enum BoundHost {
    Address(IpAddr),
    Name(String),
}

/// RFC 1928, section 6.
fn refusal(code: u8) -> String {
    match code {
        1 => "it failed".to_owned(),
        2 => "its rules do not allow it".to_owned(),
        3 => "the server's network is unreachable".to_owned(),
        4 => "the server is unreachable, or has no address".to_owned(),
        5 => "the server refuses the connection".to_owned(),
        6 => "the server is too far away".to_owned(),
        7 => {
            "it cannot do that (datagrams are something that many proxies cannot relay)".to_owned()
        }
        8 => "it does not know this kind of address".to_owned(),
        other => format!("reason {other}"),
    }
}

/// What stands in front of every datagram through a relay (RFC 1928, section 7): 10 bytes for
/// IPv4, 22 for IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    bytes: [u8; 22],
    len: usize,
}

impl Head {
    /// The head for datagrams to `server`; those from it have the same.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let mut head = Self { bytes: [0; 22], len: 3 };
        match server.ip().to_canonical() {
            IpAddr::V4(address) => {
                head.push(&[IPV4]);
                head.push(&address.octets());
            }
            IpAddr::V6(address) => {
                head.push(&[IPV6]);
                head.push(&address.octets());
            }
        }
        head.push(&server.port().to_be_bytes());
        head
    }

    fn push(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(bytes) {
            *to = *from;
        }
        self.len += bytes.len();
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}
