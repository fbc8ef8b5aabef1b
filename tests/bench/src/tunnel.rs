//! The things that are compared, each as a way from one namespace to the other.

use std::net::IpAddr;

use anyhow::Result;
use lab::openvpn::Server;
use lab::warren::{GATEWAY4, Warren};
use lab::{PATIENCE, Peer, openvpn, warren};
use serde::Serialize;

use crate::arena::Arena;
use crate::limit::Limit;

/// The MTU inside every tunnel.
pub(crate) const MTU: u16 = 1420;

/// One line of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    Veth,
    Limit,
    OpenvpnOpenvpn,
    OpenvpnWarren,
    WarrenWarren,
    OpenvpnOpenvpnTcp,
    OpenvpnWarrenTcp,
    WarrenWarrenTcp,
    OpenvpnOpenvpnTap,
    WarrenWarrenTap,
}

impl Row {
    pub(crate) const ALL: [Self; 10] = [
        Self::Veth,
        Self::Limit,
        Self::OpenvpnOpenvpn,
        Self::OpenvpnWarren,
        Self::WarrenWarren,
        Self::OpenvpnOpenvpnTcp,
        Self::OpenvpnWarrenTcp,
        Self::WarrenWarrenTcp,
        Self::OpenvpnOpenvpnTap,
        Self::WarrenWarrenTap,
    ];

    /// Its name on the command line and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Limit => "limit",
            Self::OpenvpnOpenvpn => "openvpn-openvpn",
            Self::OpenvpnWarren => "openvpn-warren",
            Self::WarrenWarren => "warren-warren",
            Self::OpenvpnOpenvpnTcp => "openvpn-openvpn-tcp",
            Self::OpenvpnWarrenTcp => "openvpn-warren-tcp",
            Self::WarrenWarrenTcp => "warren-warren-tcp",
            Self::OpenvpnOpenvpnTap => "openvpn-openvpn-tap",
            Self::WarrenWarrenTap => "warren-warren-tap",
        }
    }

    /// Its name in the table: client, then server.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Veth => "plain veth",
            Self::Limit => "limit (no crypto)",
            Self::OpenvpnOpenvpn => "openvpn to openvpn",
            Self::OpenvpnWarren => "openvpn to Warren",
            Self::WarrenWarren => "Warren to Warren",
            Self::OpenvpnOpenvpnTcp => "openvpn to openvpn, TCP",
            Self::OpenvpnWarrenTcp => "openvpn to Warren, TCP",
            Self::WarrenWarrenTcp => "Warren to Warren, TCP",
            Self::OpenvpnOpenvpnTap => "openvpn to openvpn, tap",
            Self::WarrenWarrenTap => "Warren to Warren, tap",
        }
    }

    /// The directive that says what its device carries.
    fn device(self) -> &'static str {
        match self {
            Self::OpenvpnOpenvpnTap | Self::WarrenWarrenTap => "dev tap",
            _ => "dev tun",
        }
    }

    /// What it is a multiple of.
    pub(crate) fn yardstick(self) -> Self {
        if self.is_tcp() { Self::OpenvpnOpenvpnTcp } else { Self::OpenvpnOpenvpn }
    }

    fn is_tcp(self) -> bool {
        use Row::{OpenvpnOpenvpnTcp, OpenvpnWarrenTcp, WarrenWarrenTcp};
        matches!(self, OpenvpnOpenvpnTcp | OpenvpnWarrenTcp | WarrenWarrenTcp)
    }

    /// Brings it up.
    ///
    /// # Errors
    /// If one of its programs does not start.
    pub(crate) fn open(self, arena: &Arena) -> Result<Tunnel> {
        Ok(match self {
            Self::Veth => Tunnel { target: Arena::SERVER, ends: Ends::Cable },
            Self::Limit => {
                let limit = Limit::start(arena, MTU)?;
                Tunnel { target: Limit::target()?, ends: Ends::Limit(limit) }
            }
            Self::OpenvpnOpenvpn | Self::OpenvpnOpenvpnTcp | Self::OpenvpnOpenvpnTap => {
                let device = self.device();
                let options = [device.to_owned(), format!("tun-mtu {MTU}"), "verb 1".to_owned()];
                let server = Server {
                    ciphers: "AES-256-GCM".to_owned(),
                    extra: options.into(),
                    tcp: self.is_tcp(),
                    ..Server::default()
                };
                let running = server.start(&arena.server, &arena.pki)?;
                let identity = arena.pki.client(&arena.fresh_name("client"))?;
                let remotes = [(Arena::SERVER, server.port)];
                let profile = server.profile(&arena.pki, &identity, &remotes);
                let profile = profile.replace("dev tun", device);
                let mtu = MTU.to_string();
                let options = ["--tun-mtu", &mtu, "--verb", "1"];
                let client = openvpn::Client::connect(&arena.client, &profile, None, &options)?;
                let target = Server::GATEWAY4.parse()?;
                Tunnel { target, ends: Ends::OpenvpnOpenvpn(running, client) }
            }
            Self::OpenvpnWarren | Self::OpenvpnWarrenTcp => {
                let (server, profile) = warren_up(arena, &[])?;
                let profile = self.profile(&profile);
                let options = ["--verb", "1"];
                let client = openvpn::Client::connect(&arena.client, &profile, None, &options)?;
                Tunnel { target: GATEWAY4.parse()?, ends: Ends::OpenvpnWarren(server, client) }
            }
            Self::WarrenWarren | Self::WarrenWarrenTcp | Self::WarrenWarrenTap => {
                let (server, profile) = warren_up(arena, &[])?;
                let profile = self.profile(&profile).replace("dev tun", self.device());
                let client = warren::Client::connect(&arena.client, &profile, None)?;
                Tunnel { target: GATEWAY4.parse()?, ends: Ends::WarrenWarren(server, client) }
            }
        })
    }
}

impl Row {
    /// The profile with the row's transport in place of UDP.
    fn profile(self, profile: &str) -> String {
        if self.is_tcp() {
            profile.replace("proto udp", "proto tcp").replace(" 1194 udp", " 1194 tcp")
        } else {
            profile.to_owned()
        }
    }
}

/// Starts a server that asks for certificates, and issues a profile.
///
/// # Errors
/// If it does not get ready.
pub(crate) fn warren_up(arena: &Arena, door: &[&str]) -> Result<(Warren, String)> {
    let mtu = format!("mtu = {MTU}");
    let door = [&["auth = \"certificate\"", "ciphers = [\"AES-256-GCM\"]"], door].concat();
    let config = warren::config(&[&mtu], &door);
    let server = Warren::up(&arena.server, &arena.fresh_name("warren"), &config)?;
    let profile =
        server.user_with_profile("bench", "only certificates count", &Arena::SERVER.to_string())?;
    Ok((server, profile))
}

/// A running row.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The server's address at the far end.
    pub(crate) target: IpAddr,
    ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Cable,
    Limit(Limit),
    OpenvpnOpenvpn(Peer, openvpn::Client),
    OpenvpnWarren(Warren, openvpn::Client),
    WarrenWarren(Warren, warren::Client),
}

impl Tunnel {
    /// The server's process, if it is one.
    pub(crate) fn server_pid(&self) -> Option<i32> {
        match &self.ends {
            Ends::Cable | Ends::Limit(_) => None,
            Ends::OpenvpnOpenvpn(server, _) => Some(server.pid()),
            Ends::OpenvpnWarren(server, _) | Ends::WarrenWarren(server, _) => {
                Some(server.peer().pid())
            }
        }
    }

    /// Ends both programs and waits until they have put their namespaces back.
    ///
    /// # Errors
    /// If one of them does not end.
    pub(crate) fn close(self) -> Result<()> {
        match self.ends {
            Ends::Cable => {}
            Ends::Limit(limit) => drop(limit),
            Ends::OpenvpnOpenvpn(server, client) => {
                client.stop()?;
                server.stop(PATIENCE)?;
            }
            Ends::OpenvpnWarren(server, client) => {
                client.stop()?;
                server.stop()?;
            }
            Ends::WarrenWarren(server, client) => {
                client.stop()?;
                server.stop()?;
            }
        }
        Ok(())
    }
}
