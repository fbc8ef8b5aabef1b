//! Where the way leads, and who asks for it.

use std::fmt;
use std::net::IpAddr;

use contract::Secret;

use crate::ProxyError;

/// The longest name that SOCKS can carry, and that DNS can hold.
const MAX_NAME: usize = 253;

/// Where the proxy shall connect to. It resolves names itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

impl Target {
    /// A name or an address, and a port.
    ///
    /// # Errors
    ///
    /// A name that is none could smuggle a header into a request, so it is refused.
    pub fn new(host: &str, port: u16) -> Result<Self, ProxyError> {
        if let Ok(address) = host.parse() {
            return Ok(Self { host: Host::Address(address), port });
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if host.is_empty() || host.len() > MAX_NAME || !host.bytes().all(is_plain) {
            return Err(ProxyError::Unusable("the server's name is not a host name"));
        }
        Ok(Self { host: Host::Name(host.to_owned()), port })
    }
}

impl fmt::Display for Target {
    /// As the authority of a request: `name:1194`, `[2001:db8::1]:1194`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_carry_anything_else() {
        for bad in ["", "a b", "a\r\nX: y", "a:b", "a/b", "ä", &"x".repeat(254)] {
            assert!(Target::new(bad, 1).is_err(), "{bad:?}");
        }
        assert_eq!(Target::new("vpn.example.org", 443).unwrap().to_string(), "vpn.example.org:443");
        assert_eq!(Target::new("2001:db8::1", 443).unwrap().to_string(), "[2001:db8::1]:443");
    }
}
