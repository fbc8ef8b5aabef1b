//! `management` and what belongs to it: the user interface that a client is run by.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use contract::Secret;

use super::directive::{content, number};
use super::{Line, ProfileError, ReadFile};

#[cfg(test)]
mod tests;

/// The longest path of a unix socket that the kernel takes, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// The most lines of the log that are kept.
const MAX_LOG_LINES: u64 = 10_000;

/// Where the management protocol is spoken, and what its console has to say.
#[derive(Debug, Default)]
pub struct Management {
    /// Where; `None` for nowhere.
    pub place: Option<ManagementPlace>,
    /// What a console has to say first.
    pub password: Option<Secret>,
    /// `management-client`: the console listens, and we call.
    pub calls: bool,
    /// `management-hold`.
    pub holds: bool,
    /// `management-query-passwords`.
    pub asks_passwords: bool,
    /// `management-query-remote`.
    pub asks_remote: bool,
    /// `management-query-proxy`.
    pub asks_proxy: bool,
    /// `management-signal`.
    pub restarts_alone: bool,
    /// `management-forget-disconnect`.
    pub forgets_alone: bool,
    /// `management-up-down`.
    pub tells_up_down: bool,
    /// `management-log-cache`, in lines.
    pub log_lines: Option<usize>,
    /// `management-client-user`.
    pub user: Option<String>,
    /// `management-client-group`.
    pub group: Option<String>,
}

/// A unix socket or a TCP address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ManagementPlace {
    /// A path.
    Unix(PathBuf),
    /// An address with a port.
    Tcp(SocketAddr),
}

impl ManagementPlace {
    /// Reads `SOCKET unix` or `HOST PORT`.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong.
    pub fn parse(host: &str, port: &str) -> Result<Self, String> {
        if port == "unix" {
            if host.is_empty() || host.len() > MAX_SOCKET_PATH || host.contains('\0') {
                return Err(format!("the path of a unix socket has 1 to {MAX_SOCKET_PATH} bytes"));
            }
            return Ok(Self::Unix(host.into()));
        }
        let address = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => host.parse().map_err(|_| {
                "needs SOCKET unix, or an IP address and a port, as in 127.0.0.1 7505".to_owned()
            })?,
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| "the port is a number from 1 to 65535".to_owned())?;
        Ok(Self::Tcp(SocketAddr::new(address, port)))
    }
}

impl Management {
    /// Whether anything is said that means nothing without a place.
    #[must_use]
    pub fn is_homeless(&self) -> bool {
        let says = self.calls
            || self.holds
            || self.asks_passwords
            || self.asks_remote
            || self.asks_proxy
            || self.restarts_alone
            || self.forgets_alone
            || self.tells_up_down
            || self.log_lines.is_some()
            || self.user.is_some()
            || self.group.is_some();
        says && self.place.is_none()
    }

    /// The password in a file: its first line, if there is something on it.
    #[must_use]
    pub fn password_in(text: &Secret) -> Option<Secret> {
        let first = text.expose().split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = first.strip_suffix(b"\r").unwrap_or(first);
        (!first.is_empty()).then(|| Secret::new(first))
    }

    /// Why the place must not be used as it is; one line.
    ///
    /// What is said there is not encrypted, and whoever says it runs the client.
    #[must_use]
    pub fn danger(&self) -> Option<&'static str> {
        let Some(ManagementPlace::Tcp(address)) = &self.place else { return None };
        if address.ip().is_loopback() {
            return None;
        }
        match (self.calls, &self.password) {
            (true, _) => Some("passwords would leave this machine in the clear; use 127.0.0.1"),
            (false, None) => Some("others can reach it; name a password file, or use 127.0.0.1"),
            (false, Some(_)) => None,
        }
    }
}

/// Obeys one of these directives; whether it is one.
pub(super) fn apply(
    management: &mut Management,
    line: &Line,
    read: ReadFile<'_>,
) -> Result<bool, ProfileError> {
    match line.name.as_str() {
        "management" => {
            let (Some(host), Some(port)) = (line.word(0), line.word(1)) else {
                return Err(line.error("needs SOCKET unix [FILE], or HOST PORT [FILE]"));
            };
            let place = ManagementPlace::parse(host, port).map_err(|why| line.error(why))?;
            management.place = Some(place);
            management.password =
                line.word(2).map(|file| password(line, file, read)).transpose()?;
        }
        "management-client" => management.calls = true,
        "management-hold" => management.holds = true,
        "management-query-passwords" => management.asks_passwords = true,
        "management-query-remote" => management.asks_remote = true,
        "management-query-proxy" => management.asks_proxy = true,
        "management-signal" => management.restarts_alone = true,
        "management-forget-disconnect" => management.forgets_alone = true,
        "management-up-down" => management.tells_up_down = true,
        "management-log-cache" => {
            management.log_lines = Some(number(line, 0, 1, MAX_LOG_LINES)? as usize);
        }
        "management-client-user" => management.user = Some(account(line)?),
        "management-client-group" => management.group = Some(account(line)?),
        _ => return Ok(false),
    }
    if let Some(danger) = management.danger() {
        return Err(line.error(danger));
    }
    Ok(true)
}

/// The first line of a file.
fn password(line: &Line, file: &str, read: ReadFile<'_>) -> Result<Secret, ProfileError> {
    let named = Line {
        number: line.number,
        name: line.name.clone(),
        words: vec![file.to_owned()],
        block: None,
    };
    let text = Secret::new(content(&named, read)?);
    Management::password_in(&text).ok_or_else(|| {
        line.error(format_args!("{file}: its first line, which is the password, is empty"))
    })
}

fn account(line: &Line) -> Result<String, ProfileError> {
    line.word(0).map(str::to_owned).ok_or_else(|| line.error("needs the name of an account"))
}
