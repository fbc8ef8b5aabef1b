//! Directives of links between two peers: `tls-client` and `tls-server` without `pull`, `secret`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use contract::Lease;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::directive::{direction, seconds, static_key};
use super::{Family, Line, ProfileError, Proto, ReadFile};
use crate::cipher::Cipher;
use crate::static_key::StaticKey;

/// A link between two peers of which neither gives the other an address.
#[derive(Debug)]
pub struct Point {
    /// What we are on it.
    pub end: End,
    /// `ifconfig` and `ifconfig-ipv6`.
    pub lease: Lease,
    /// `proto udp4` or `udp6`: only this family.
    pub family: Option<Family>,
    /// Where the peer's packets arrive; `None` with `nobind`.
    pub local_port: Option<u16>,
    /// `ping`, if it is there.
    pub ping: Option<Duration>,
    /// `ping-restart` or `ping-exit`, if one is there.
    pub silence: Option<Duration>,
    /// It is `ping-exit`.
    pub exits: bool,
    /// `float`.
    pub floats: bool,
}

/// One end of a link.
#[derive(Debug)]
pub enum End {
    /// `tls-client`: calls.
    TlsClient,
    /// `tls-server`: waits to be called.
    TlsServer,
    /// `secret`: no handshake at all.
    Fixed {
        /// The key.
        key: Box<StaticKey>,
        /// Which half is for sending; without one, both directions use the first.
        direction: Option<bool>,
    },
}

impl Point {
    /// Whether the keys are fixed.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        matches!(self.end, End::Fixed { .. })
    }

    /// Whether the peer begins.
    #[must_use]
    pub fn answers(&self) -> bool {
        matches!(self.end, End::TlsServer)
    }
}

/// What has been read about it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pulls: bool,
    is_client: bool,
    is_server: bool,
    secret: Option<(StaticKey, Option<bool>)>,
    allows_secret: bool,
    pair: Option<(Ipv4Addr, Ipv4Addr)>,
    pair6: Option<(Ipv6Net, Ipv6Addr)>,
    nobind: bool,
    /// `port`, which is both ends'.
    port: Option<u16>,
    ping: Option<Duration>,
    silence: Option<Duration>,
    exits: bool,
    floats: bool,
    pub(super) requires_client_usage: bool,
}

/// Obeys one line; false if it is not about links, or not only.
pub(super) fn apply(
    draft: &mut super::Draft,
    line: &Line,
    read: ReadFile<'_>,
) -> Result<bool, ProfileError> {
    let point = &mut draft.point;
    match line.name.as_str() {
        "client" => (point.pulls, point.is_client) = (true, true),
        "pull" => point.pulls = true,
        "tls-client" => point.is_client = true,
        "tls-server" => point.is_server = true,
        "mode" => match line.word(0) {
            Some("p2p") => {}
            _ => return Err(line.error("a server is configured in Warren's own file")),
        },
        "secret" => {
            let direction = line.word(1).map(|word| direction(line, word)).transpose()?;
            point.secret = Some((static_key(line, read)?, direction));
        }
        "allow-deprecated-insecure-static-crypto" => point.allows_secret = true,
        "ifconfig" => {
            let word = |at| line.word(at).and_then(|word| word.parse().ok());
            point.pair = word(0).zip(word(1));
            if point.pair.is_none() {
                return Err(line.error("needs LOCAL REMOTE, as IPv4 addresses"));
            }
        }
        "ifconfig-ipv6" => {
            let local = line.word(0).and_then(|word| word.parse().ok());
            point.pair6 = local.zip(line.word(1).and_then(|word| word.parse().ok()));
            if point.pair6.is_none() {
                return Err(line.error("needs LOCAL/LENGTH REMOTE, as IPv6 addresses"));
            }
        }
        "nobind" => point.nobind = true,
        "float" => point.floats = true,
        // The rest is everybody's: only what matters here is kept.
        "port" => {
            point.port = line.word(0).and_then(|word| word.parse().ok());
            return Ok(false);
        }
        "ping" => {
            point.ping = Some(seconds(line, 0, 1, 3600)?);
            return Ok(false);
        }
        "keepalive" => {
            point.ping = Some(seconds(line, 0, 1, 3600)?);
            point.silence = silence(line, 1)?;
            return Ok(false);
        }
        "ping-restart" | "ping-exit" => {
            point.silence = silence(line, 0)?;
            point.exits = line.name == "ping-exit";
            return Ok(false);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn silence(line: &Line, at: usize) -> Result<Option<Duration>, ProfileError> {
    let silence = seconds(line, at, 0, 86_400)?;
    Ok((!silence.is_zero()).then_some(silence))
}

/// Puts a link together, if the profile is of one.
pub(super) fn finish(draft: &mut super::Draft) -> Result<Option<Point>, ProfileError> {
    let whole = |what: &str| Err(ProfileError::whole(what));
    let mut point = std::mem::take(&mut draft.point);
    let end = match (point.secret.take(), point.is_client, point.is_server) {
        (Some(_), true, _) | (Some(_), _, true) => {
            return whole(
                "\"secret\" beside \"client\", \"tls-client\" or \"tls-server\"; keep one",
            );
        }
        (_, true, true) => return whole("both \"tls-client\" and \"tls-server\"; keep one"),
        (None, _, true) if point.pulls => {
            return whole("\"tls-server\" cannot \"pull\"; remove one of them");
        }
        (Some((key, direction)), ..) => {
            let direction = direction.or(draft.key_direction);
            End::Fixed { key: Box::new(key), direction }
        }
        (None, _, true) => End::TlsServer,
        (None, true, _) if !point.pulls => End::TlsClient,
        _ => {
            if point.requires_client_usage {
                return whole("\"remote-cert-tls client\": a client checks for \"server\"");
            }
            return Ok(None);
        }
    };
    match &end {
        End::TlsClient if point.requires_client_usage => {
            return whole("\"remote-cert-tls client\" is for \"tls-server\"; write \"server\"");
        }
        End::TlsServer if draft.requires_server_usage => {
            return whole("\"remote-cert-tls server\" is for \"tls-client\"; write \"client\"");
        }
        End::Fixed { .. } => check_fixed(draft, point.allows_secret)?,
        _ if draft.certificate.is_none() && draft.locked.is_none() => {
            return whole("no \"cert\" and \"key\": two peers know each other by certificates");
        }
        _ => {}
    }
    // From here on it means that the peer's certificate has to be for its part.
    draft.requires_server_usage |= point.requires_client_usage;
    let lease = lease(draft, &point);
    if lease.ipv4.is_none() && lease.ipv6.is_none() {
        return whole(
            "no \"ifconfig LOCAL REMOTE\"; to be given an address by a server, write \"client\"",
        );
    }
    let port = draft.local_port.or(point.port).unwrap_or(1194);
    Ok(Some(Point {
        end,
        lease,
        family: match draft.default_proto {
            Some(Proto::Udp4) => Some(Family::V4),
            Some(Proto::Udp6) => Some(Family::V6),
            _ => None,
        },
        local_port: (!point.nobind || draft.local_port.is_some()).then_some(port),
        ping: point.ping,
        silence: point.silence,
        exits: point.exits,
        floats: point.floats,
    }))
}

/// The link's addresses, and what else the profile asks of the host.
fn lease(draft: &mut super::Draft, point: &Draft) -> Lease {
    let mut host = draft.pull.host_options();
    let mut option = |words: &[String]| {
        // Made here from what was parsed: there is nothing that could be wrong with it.
        let _ = host.option(&words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    option(&["tun-mtu".to_owned(), draft.mtu.to_string()]);
    if let Some((local, remote)) = point.pair {
        option(&["ifconfig".to_owned(), local.to_string(), remote.to_string()]);
    }
    if let Some((local, remote)) = point.pair6 {
        option(&["ifconfig-ipv6".to_owned(), local.to_string(), remote.to_string()]);
    }
    let mut lease = host.lease(&draft.pull, &mut draft.notes);
    let mut peers = Vec::new();
    if let Some((local, remote)) = point.pair {
        lease.ipv4 = Some((local, 32));
        peers.push(IpNet::from(Ipv4Net::from(remote)));
    }
    if let Some((_, remote)) = point.pair6.filter(|(local, remote)| !local.contains(remote)) {
        peers.push(IpNet::from(Ipv6Net::from(remote)));
    }
    for peer in peers {
        if !lease.routes.contains(&peer) {
            lease.routes.push(peer);
        }
    }
    lease
}

fn check_fixed(draft: &mut super::Draft, is_allowed: bool) -> Result<(), ProfileError> {
    if !is_allowed {
        return Err(ProfileError::whole(
            "\"secret\": whoever learns the key reads everything ever sent (no forward secrecy); use \
             TLS, or add \"allow-deprecated-insecure-static-crypto\"",
        ));
    }
    match draft.fallback {
        Some(Cipher::Aes256Cbc | Cipher::Aes128Cbc) => {}
        _ => {
            return Err(ProfileError::whole(
                "\"secret\" needs \"cipher AES-256-CBC\" or \"cipher AES-128-CBC\" at both ends",
            ));
        }
    }
    draft.warnings.push(
        "static key: no forward secrecy, and a legacy that OpenVPN itself is about to drop; move \
         this link to TLS"
            .to_owned(),
    );
    Ok(())
}

#[cfg(test)]
mod tests;
