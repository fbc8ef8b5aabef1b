//! Options that an operator gives a server to push.

use super::{HostOptions, Outcome};

/// The longest option: several fit into one message.
const MAX_LEN: usize = 250;

/// What the server itself decides for each client.
const OURS: &[&str] = &[
    "topology",
    "ifconfig",
    "ifconfig-ipv6",
    "route-gateway",
    "peer-id",
    "cipher",
    "key-derivation",
    "protocol-flags",
    "auth-token",
    "auth-token-user",
    "push-continuation",
    "tun-mtu",
    "comp-lzo",
    "compress",
];

/// What stock clients take from a server, and we as one pass over.
const FOR_OTHERS: &[&str] = &[
    "ping",
    "ping-restart",
    "ping-exit",
    "explicit-exit-notify",
    "register-dns",
    "sndbuf",
    "rcvbuf",
    "socket-flags",
    "persist-tun",
    "persist-key",
    "echo",
    "setenv-safe",
];

/// Checks an option that is to be pushed to clients, as in `route 10.0.0.0 255.0.0.0`.
///
/// # Errors
///
/// What is wrong with it, to follow the option itself.
pub fn check_option(option: &str) -> Result<(), String> {
    if option.len() > MAX_LEN {
        return Err("longer than 250 characters".to_owned());
    }
    if !option.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || option.contains([',', '"']) {
        return Err("options have printable ASCII characters, and neither commas nor quotes".into());
    }
    let words = option.split_ascii_whitespace().collect::<Vec<_>>();
    let Some(name) = words.first() else { return Err("empty".to_owned()) };
    if OURS.contains(name) {
        return Err(format!("{name} is what the server decides for each client itself"));
    }
    if FOR_OTHERS.contains(name) {
        return Ok(());
    }
    match HostOptions::default().option(&words) {
        Outcome::Done | Outcome::Noted(_) => Ok(()),
        Outcome::Bad(why) => Err(why.to_owned()),
        Outcome::Unknown => Err(format!("{name} is nothing that clients take from a server")),
    }
}
