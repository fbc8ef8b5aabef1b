use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::Secret;

use crate::profile::{AuthRetry, words};

#[cfg(test)]
mod tests;

/// The longest wait for somebody who decides elsewhere.
const MAX_PENDING: u64 = 600;
/// The longest text for a client, in bytes: it has to fit into one control message.
const MAX_TEXT: usize = 900;

/// What a management client wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// The list of commands.
    Help,
    /// Names the version that the other end speaks, or asks for ours.
    Version(Option<u32>),
    /// The process id.
    Pid,
    /// Where we stand, and news of it.
    State(Feed),
    /// Clients and routes, in one of three formats.
    Status(u8),
    /// Traffic, every so many seconds; 0 for never.
    ByteCount(u32),
    /// The log.
    Log(Feed),
    /// What was pushed for the other end to see.
    Echo(Feed),
    /// The hold flag.
    Hold(Hold),
    /// Ends all sessions of a common name.
    KillName(String),
    /// Ends the session of the client at this address.
    KillAddress(SocketAddr),
    /// Ends a session.
    ClientKill {
        /// Which one.
        cid: u64,
        /// Whether it is told not to come back.
        is_final: bool,
    },
    /// Clients and bytes in one line.
    LoadStats,
    /// How much is logged, 0 to 15.
    Verb(Option<u8>),
    /// After how many of a kind log messages are left out; 0 for never.
    Mute(Option<u32>),
    /// As if the process had got this signal.
    Signal(SignalName),
    /// Lets a client in; its [`Block`](super::Block) follows, up to a line `END`.
    ClientAuth {
        /// Which session.
        cid: u64,
        /// Which of its logins.
        kid: u32,
    },
    /// Lets a client in.
    ClientAuthNt {
        /// Which session.
        cid: u64,
        /// Which of its logins.
        kid: u32,
    },
    /// Refuses a client.
    ClientDeny {
        /// Which session.
        cid: u64,
        /// Which of its logins.
        kid: u32,
        /// For the log.
        reason: String,
        /// For the client; `CRV1:…` asks it another question.
        client_reason: Option<String>,
    },
    /// Tells a client that its login takes a while.
    ClientPendingAuth {
        /// Which session.
        cid: u64,
        /// Which of its logins.
        kid: u32,
        /// For the client, as `WEB_AUTH::https://…` or `CR_TEXT:R:…`.
        extra: String,
        /// How long that may take.
        timeout: Duration,
    },
    /// How much of a client's environment is shown.
    EnvFilter(u32),
    /// What was typed is forgotten.
    ForgetPasswords,
    /// What becomes of a client whose login is refused; `None` asks.
    AuthRetry(Option<AuthRetry>),
    /// The answer to a question for a confirmation.
    NeedOk,
    /// The answer to a question for a text.
    NeedStr,
    /// The network as Windows sees it.
    Net,
    /// How many servers a client's profile names.
    RemoteEntryCount,
    /// Some of them, counted from 0.
    RemoteEntryGet {
        /// The first.
        from: usize,
        /// The one behind the last; `None` for all that follow.
        to: Option<usize>,
    },
    /// What becomes of the server that a client is about to connect to.
    Remote(RemoteAnswer),
    /// What a client goes through on its way.
    Proxy(ProxyAnswer),
    /// The answer to the server's question, decoded.
    CrResponse(Secret),
    /// How many keys a token holds.
    Pkcs11IdCount,
    /// A user name that was asked for.
    Username {
        /// What it is for: `Auth`.
        kind: String,
        /// The name.
        value: String,
    },
    /// A password that was asked for.
    Password {
        /// What it is for: `Auth` or `Private Key`.
        kind: String,
        /// The password.
        value: Secret,
    },
    /// The end.
    Quit,
}

/// What becomes of the server that a client is about to connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RemoteAnswer {
    /// It is the one.
    Accept,
    /// Another takes its place.
    Mod {
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// It, and others after it, are passed over.
    Skip(usize),
}

/// What a client goes through on its way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProxyAnswer {
    /// Nothing.
    None,
    /// A proxy.
    Proxy {
        /// SOCKS 5; otherwise it speaks HTTP.
        is_socks: bool,
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
        /// Passwords must not travel in the clear (`nct`).
        is_careful: bool,
    },
}

/// What is wanted of something that has a past and a present.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Feed {
    /// Whether news are wanted from now on; `None` leaves it as it is.
    pub live: Option<bool>,
    /// What is wanted of the past.
    pub show: Option<Show>,
    /// Whether the past was asked for first.
    pub is_past_first: bool,
}

/// How much of the past.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Show {
    /// All that is remembered.
    All,
    /// The last so many.
    Last(usize),
}

/// What is done about the hold flag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// It is shown.
    Show,
    /// The next start waits, or does not.
    Set(bool),
    /// What waits goes on.
    Release,
}

/// A signal that can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignalName {
    /// Read the configuration again.
    Hup,
    /// Stop.
    Term,
    /// Stop, as from a keyboard.
    Int,
    /// Connect again.
    Usr1,
    /// Write the status to the log.
    Usr2,
}

impl SignalName {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hup => "SIGHUP",
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
        }
    }
}

/// Why a line is no command; one line, free of what was in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(why.into()))
}

impl Command {
    /// Reads one line; an empty one is no command and no mistake.
    ///
    /// # Errors
    ///
    /// What to answer after `ERROR: `.
    pub fn parse(line: &str) -> Result<Option<Self>, Refusal> {
        let words = words(line.trim()).map_err(Refusal)?;
        let mut words = words.iter().map(String::as_str);
        let Some(name) = words.next() else { return Ok(None) };
        let arguments = words.collect::<Vec<_>>();
        let arguments = arguments.as_slice();
        let command = match name {
            "help" => Self::Help,
            "version" => Self::Version(optional(name, arguments)?),
            "pid" => Self::Pid,
            "state" => Self::State(match arguments {
                [] => Feed { show: Some(Show::Last(1)), ..Feed::default() },
                _ => feed(name, arguments)?,
            }),
            "status" => match arguments {
                [] | ["1"] => Self::Status(1),
                ["2"] => Self::Status(2),
                ["3"] => Self::Status(3),
                _ => return refuse("bad status format version number"),
            },
            "bytecount" => Self::ByteCount(number(name, one(name, arguments)?)?),
            "log" => Self::Log(feed(name, arguments)?),
            "echo" => Self::Echo(feed(name, arguments)?),
            "hold" => Self::Hold(match arguments {
                [] => Hold::Show,
                ["on"] => Hold::Set(true),
                ["off"] => Hold::Set(false),
                ["release"] => Hold::Release,
                _ => return refuse("bad hold command parameter"),
            }),
            "kill" => kill(one(name, arguments)?),
            "client-kill" => client_kill(arguments)?,
            "load-stats" => Self::LoadStats,
            "verb" => match optional(name, arguments)? {
                Some(verb) if verb > 15 => return refuse("verb level is out of range"),
                verb => Self::Verb(verb.and_then(|verb| u8::try_from(verb).ok())),
            },
            "mute" => Self::Mute(optional(name, arguments)?),
            "signal" => Self::Signal(match one(name, arguments)? {
                "SIGHUP" => SignalName::Hup,
                "SIGTERM" => SignalName::Term,
                "SIGINT" => SignalName::Int,
                "SIGUSR1" => SignalName::Usr1,
                "SIGUSR2" => SignalName::Usr2,
                _ => return refuse("that is not a known signal type"),
            }),
            "client-auth" | "client-auth-nt" => {
                let [cid, kid] = arguments else {
                    return refuse(format!("the '{name}' command requires 2 parameters"));
                };
                let (cid, kid) = (cid_of(cid)?, kid_of(kid)?);
                if name == "client-auth" {
                    Self::ClientAuth { cid, kid }
                } else {
                    Self::ClientAuthNt { cid, kid }
                }
            }
            "client-deny" => client_deny(arguments)?,
            "client-pending-auth" => client_pending_auth(arguments)?,
            "env-filter" => Self::EnvFilter(optional(name, arguments)?.unwrap_or(0)),
            "forget-passwords" => Self::ForgetPasswords,
            "username" | "password" => {
                let [kind, value] = arguments else {
                    return refuse(format!("the '{name}' command requires 2 parameters"));
                };
                let kind = (*kind).to_owned();
                if name == "username" {
                    Self::Username { kind, value: (*value).to_owned() }
                } else {
                    Self::Password { kind, value: Secret::new(value.as_bytes()) }
                }
            }
            "auth-retry" => Self::AuthRetry(match arguments {
                [] => None,
                ["none"] => Some(AuthRetry::None),
                ["nointeract"] => Some(AuthRetry::Same),
                ["interact"] => Some(AuthRetry::Ask),
                _ => return refuse("bad auth-retry parameter"),
            }),
            "needok" | "needstr" => match (name, arguments) {
                ("needok", [_, _]) => Self::NeedOk,
                (_, [_, _]) => Self::NeedStr,
                _ => return refuse(format!("the '{name}' command requires 2 parameters")),
            },
            "net" => Self::Net,
            "remote-entry-count" => Self::RemoteEntryCount,
            "remote-entry-get" => remote_entries(arguments)?,
            "remote" => Self::Remote(remote(arguments)?),
            "proxy" => Self::Proxy(proxy(arguments)?),
            "cr-response" => {
                let answer = STANDARD.decode(one(name, arguments)?).ok();
                let answer = answer.ok_or_else(|| Refusal("the answer is not base64".into()))?;
                Self::CrResponse(Secret::new(answer))
            }
            "pkcs11-id-count" => Self::Pkcs11IdCount,
            "pk-sig" | "rsa-sig" | "certificate" => {
                return refuse(format!("The {name} command is not currently available"));
            }
            "exit" | "quit" => Self::Quit,
            _ => return refuse("unknown command, enter 'help' for more options"),
        };
        Ok(Some(command))
    }
}

fn one<'a>(name: &str, arguments: &[&'a str]) -> Result<&'a str, Refusal> {
    match arguments {
        [argument] => Ok(argument),
        _ => refuse(format!("the '{name}' command requires 1 parameter")),
    }
}

fn number(name: &str, argument: &str) -> Result<u32, Refusal> {
    argument.parse().or_else(|_| refuse(format!("the parameter of '{name}' is not a number")))
}

fn optional(name: &str, arguments: &[&str]) -> Result<Option<u32>, Refusal> {
    match arguments {
        [] => Ok(None),
        [argument] => number(name, argument).map(Some),
        _ => refuse(format!("the '{name}' command takes at most 1 parameter")),
    }
}

fn feed(name: &str, arguments: &[&str]) -> Result<Feed, Refusal> {
    let show = |argument: &str| match argument {
        "all" => Some(Show::All),
        count => count.parse().ok().map(Show::Last),
    };
    let with = |live, past, is_past_first| {
        show(past).map(|show| Feed { live, show: Some(show), is_past_first })
    };
    let read = match arguments {
        [] => return refuse(format!("the '{name}' command requires at least 1 parameter")),
        ["on"] => Some(Feed { live: Some(true), ..Feed::default() }),
        ["off"] => Some(Feed { live: Some(false), ..Feed::default() }),
        ["on", past] => with(Some(true), past, false),
        [past, "on"] => with(Some(true), past, true),
        [past] => with(None, past, false),
        _ => None,
    };
    read.ok_or_else(|| {
        Refusal(format!("{name} parameter must be 'on' or 'off' or some number n or 'all'"))
    })
}

fn remote(arguments: &[&str]) -> Result<RemoteAnswer, Refusal> {
    let answer = match arguments {
        [] => return refuse("the 'remote' command requires at least 1 parameter"),
        ["ACCEPT"] => Some(RemoteAnswer::Accept),
        ["SKIP"] => Some(RemoteAnswer::Skip(1)),
        ["SKIP", count] => count.parse().ok().filter(|count| *count > 0).map(RemoteAnswer::Skip),
        ["MOD", host, port] => {
            place(host, port).map(|(host, port)| RemoteAnswer::Mod { host, port })
        }
        _ => None,
    };
    answer.ok_or_else(|| Refusal("remote command failed".to_owned()))
}

fn proxy(arguments: &[&str]) -> Result<ProxyAnswer, Refusal> {
    let proxy = |is_socks, host, port, is_careful| {
        let (host, port) = place(host, port)?;
        Some(ProxyAnswer::Proxy { is_socks, host, port, is_careful })
    };
    let answer = match arguments {
        [] => return refuse("the 'proxy' command requires at least 1 parameter"),
        ["NONE"] => Some(ProxyAnswer::None),
        ["HTTP", host, port] => proxy(false, host, port, false),
        ["HTTP", host, port, "nct"] => proxy(false, host, port, true),
        ["SOCKS", host, port] | ["SOCKS", host, port, _] => proxy(true, host, port, false),
        _ => None,
    };
    answer.ok_or_else(|| Refusal("proxy command failed".to_owned()))
}

/// A host and a port that can be connected to.
fn place(host: &str, port: &str) -> Option<(String, u16)> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    ::proxy::Target::new(host, port).ok()?;
    Some((host.to_owned(), port))
}

fn remote_entries(arguments: &[&str]) -> Result<Command, Refusal> {
    let number = |text: &str| number("remote-entry-get", text).map(|number| number as usize);
    match arguments {
        ["all"] => Ok(Command::RemoteEntryGet { from: 0, to: None }),
        [from] => {
            let from = number(from)?;
            Ok(Command::RemoteEntryGet { from, to: Some(from.saturating_add(1)) })
        }
        [from, to] => Ok(Command::RemoteEntryGet { from: number(from)?, to: Some(number(to)?) }),
        _ => refuse("the 'remote-entry-get' command requires at least 1 parameter"),
    }
}

/// `1.2.3.4:4000`, `[2001:db8::1]:4000` or `udp4:1.2.3.4:4000`; everything else is a name.
fn kill(target: &str) -> Command {
    let without_protocol = target
        .split_once(':')
        .filter(|(protocol, _)| protocol.starts_with("udp") || protocol.starts_with("tcp"))
        .map_or(target, |(_, rest)| rest);
    match parse_address(without_protocol) {
        Some(address) => Command::KillAddress(address),
        None => Command::KillName(target.to_owned()),
    }
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    // As our own status shows IPv6, some write it back without brackets.
    let (host, port) = text.rsplit_once(':')?;
    let host = host.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?;
    Some(SocketAddr::new(host, port.parse().ok()?))
}

fn cid_of(text: &str) -> Result<u64, Refusal> {
    text.parse().or_else(|_| refuse("cannot parse CID"))
}

fn kid_of(text: &str) -> Result<u32, Refusal> {
    text.parse().or_else(|_| refuse("cannot parse KID"))
}

fn client_kill(arguments: &[&str]) -> Result<Command, Refusal> {
    let (cid, message) = match arguments {
        [cid] => (cid, "RESTART"),
        [cid, message] => (cid, *message),
        _ => return refuse("the 'client-kill' command requires 1 or 2 parameters"),
    };
    let cid = cid_of(cid)?;
    match message.split(',').next() {
        Some("RESTART") => Ok(Command::ClientKill { cid, is_final: false }),
        Some("HALT") => Ok(Command::ClientKill { cid, is_final: true }),
        _ => refuse("the message must begin with RESTART or HALT"),
    }
}

/// A text that goes to a client: one line, and not more than a control message holds.
fn text(text: &str) -> Result<String, Refusal> {
    if text.len() > MAX_TEXT {
        return refuse(format!("a text for a client has at most {MAX_TEXT} bytes"));
    }
    Ok(super::one_line(text))
}

fn client_deny(arguments: &[&str]) -> Result<Command, Refusal> {
    let (cid, kid, reason, client_reason) = match arguments {
        [cid, kid, reason] => (cid, kid, reason, None),
        [cid, kid, reason, client_reason] => (cid, kid, reason, Some(client_reason)),
        _ => return refuse("the 'client-deny' command requires at least 3 parameters"),
    };
    let (cid, kid) = (cid_of(cid)?, kid_of(kid)?);
    let client_reason = client_reason.filter(|text| !text.is_empty());
    Ok(Command::ClientDeny {
        cid,
        kid,
        reason: super::one_line(reason),
        client_reason: client_reason.map(|reason| text(reason)).transpose()?,
    })
}

fn client_pending_auth(arguments: &[&str]) -> Result<Command, Refusal> {
    let [cid, kid, extra, timeout] = arguments else {
        return refuse("the 'client-pending-auth' command requires 4 parameters");
    };
    let (cid, kid) = (cid_of(cid)?, kid_of(kid)?);
    match timeout.parse::<u64>() {
        Ok(seconds @ 1..=MAX_PENDING) => Ok(Command::ClientPendingAuth {
            cid,
            kid,
            extra: text(extra)?,
            timeout: Duration::from_secs(seconds),
        }),
        _ => refuse(format!("the timeout is a number of seconds from 1 to {MAX_PENDING}")),
    }
}
