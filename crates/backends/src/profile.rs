use std::fmt::Write as _;

use zeroize::Zeroizing;

use crate::authority::SERVER_NAME;

#[cfg(test)]
mod tests;

/// What goes into an OpenVPN profile.
#[derive(Debug)]
pub struct ProfileInput<'a> {
    /// Whose; for the comment at the top.
    pub user: &'a str,
    /// The network's name; for the comment at the top.
    pub network: &'a str,
    /// Which program shall read it.
    pub client: ClientProgram,
    /// Where the server is, best first.
    pub remotes: &'a [ProfileRemote],
    /// The authority that has signed the server's certificate.
    pub ca_pem: &'a str,
    /// The device's certificate and private key, where the server asks for one.
    pub certificate: Option<(&'a str, &'a str)>,
    /// Whether the server asks for user name and password.
    pub ask_password: bool,
    /// The client asks its user for a one-time code beside the password.
    pub ask_code: bool,
    /// How control packets are wrapped.
    pub wrap: Wrap<'a>,
    /// Data ciphers, best first, by OpenVPN's names.
    pub ciphers: &'a [&'a str],
    /// The hash of tls-auth and the CBC ciphers, by OpenVPN's name.
    pub digest: &'a str,
    /// The oldest TLS: "1.2" or "1.3".
    pub tls_min: &'a str,
    /// The largest IP packet inside the tunnel, in bytes.
    pub mtu: u16,
    /// `tun` for packets, `tap` for Ethernet.
    pub device: &'a str,
    /// Datagrams' payloads are cut to this, in bytes: both ends must know.
    pub fragment: Option<u16>,
}

/// A program that reads profiles.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientProgram {
    /// OpenVPN from 2.5 on, and OpenVPN Connect.
    Any,
    /// OpenVPN 2.4.
    OpenVpn24,
    /// OpenVPN 2.5.
    OpenVpn25,
    /// OpenVPN from 2.6 on.
    OpenVpn26,
    /// OpenVPN Connect, and whatever else is made of the OpenVPN 3 library.
    Connect,
}

impl ClientProgram {
    /// The one that is called so on the command line and in the API.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "2.4" => Some(Self::OpenVpn24),
            "2.5" => Some(Self::OpenVpn25),
            "2.6" => Some(Self::OpenVpn26),
            "connect" => Some(Self::Connect),
            _ => None,
        }
    }
}

/// One way to the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProfileRemote {
    /// A domain name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Over what.
    pub transport: Transport,
}

/// What carries the tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// UDP over whichever IP the host has.
    Udp,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// TCP over whichever IP the host has: for networks that let no UDP through.
    Tcp,
}

/// The key around control packets, in the text form of
/// [`StaticKey::to_pem`](crate::StaticKey::to_pem) or [`openvpn::ClientKey::to_pem`].
#[derive(Clone, Copy)]
pub enum Wrap<'a> {
    /// Encrypted and authenticated with the profile's own key.
    TlsCryptV2(&'a str),
    /// Encrypted and authenticated with the key that all clients share.
    TlsCrypt(&'a str),
    /// Authenticated with such a key.
    TlsAuth(&'a str),
}

impl std::fmt::Debug for Wrap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TlsCryptV2(_) => f.write_str("TlsCryptV2(..)"),
            Self::TlsCrypt(_) => f.write_str("TlsCrypt(..)"),
            Self::TlsAuth(_) => f.write_str("TlsAuth(..)"),
        }
    }
}

/// Writes an inline profile: one file, all keys inside.
#[must_use]
pub fn openvpn_profile(input: &ProfileInput<'_>) -> Zeroizing<String> {
    // Large enough for everything, so that no half-written copy of the key stays behind.
    let mut text = Zeroizing::new(String::with_capacity(32 * 1024));
    write_profile(&mut text, input).expect("writing into a String does not fail");
    text
}

fn write_profile(text: &mut String, input: &ProfileInput<'_>) -> std::fmt::Result {
    writeln!(
        text,
        "# OpenVPN profile of {} for the network {}, by Warren.",
        input.user, input.network
    )?;
    if input.certificate.is_some() {
        writeln!(text, "# It contains a private key: keep it as you would keep a password.")?;
    }
    writeln!(text, "client\ndev {}", input.device)?;
    // A block takes what has been said of connections before it, and nothing of what follows.
    writeln!(text, "nobind\ntun-mtu {}", input.mtu)?;
    write_remotes(text, input)?;
    // OpenVPN Connect always does, and passes the words by with a remark.
    if input.client != ClientProgram::Connect {
        text.write_str("persist-tun\nresolv-retry infinite\n")?;
    }
    writeln!(text, "remote-cert-tls server\nverify-x509-name {SERVER_NAME} name")?;
    writeln!(text, "tls-version-min {}", input.tls_min)?;
    write_ciphers(text, input)?;
    if input.ask_password {
        writeln!(text, "auth-user-pass")?;
        if input.ask_code {
            writeln!(text, "static-challenge \"Code\" 1")?;
        }
    }
    if input.client != ClientProgram::Connect {
        text.write_str("push-peer-info\nverb 3\n")?;
    }

    write_block(text, "ca", input.ca_pem)?;
    match input.certificate {
        Some((certificate, key)) => {
            write_block(text, "cert", certificate)?;
            write_block(text, "key", key)?;
        }
        // OpenVPN Connect insists on a certificate unless told so; OpenVPN 2 passes it by.
        None => writeln!(text, "setenv CLIENT_CERT 0")?,
    }
    match input.wrap {
        Wrap::TlsCryptV2(key) => write_block(text, "tls-crypt-v2", key),
        Wrap::TlsCrypt(key) => write_block(text, "tls-crypt", key),
        Wrap::TlsAuth(key) => {
            writeln!(text, "key-direction 1")?;
            write_block(text, "tls-auth", key)
        }
    }
}

/// Best first. OpenVPN says goodbye over UDP only if it is told to, and before 2.6 refuses to be
/// told if any of the remotes is TCP, unless each has a block of its own; so it is with fragments.
fn write_remotes(text: &mut String, input: &ProfileInput<'_>) -> std::fmt::Result {
    const GOODBYE: &str = "explicit-exit-notify 1\n";
    let is_mixed = input.remotes.iter().any(|remote| remote.transport == Transport::Tcp);
    let says_goodbye = input.client != ClientProgram::Connect;
    let mut over_udp = String::new();
    if says_goodbye {
        over_udp.push_str(GOODBYE);
    }
    if let Some(fragment) = input.fragment {
        writeln!(over_udp, "fragment {fragment}")?;
    }
    if is_mixed && says_goodbye {
        // How long one remote is given before the next is tried; OpenVPN takes two minutes.
        text.write_str("server-poll-timeout 10\n")?;
    }
    for remote in input.remotes {
        let ProfileRemote { host, port, transport } = remote;
        let line = format!("remote {host} {port} {}\n", transport.name());
        if is_mixed && !over_udp.is_empty() {
            let own = if *transport == Transport::Tcp { "" } else { &over_udp };
            write!(text, "<connection>\n{line}{own}</connection>\n")?;
        } else {
            text.write_str(&line)?;
        }
    }
    if !is_mixed {
        text.write_str(&over_udp)?;
    }
    Ok(())
}

fn write_ciphers(text: &mut String, input: &ProfileInput<'_>) -> std::fmt::Result {
    // 2.4 does not know the option, and takes what the server pushes.
    if input.client == ClientProgram::OpenVpn24 {
        writeln!(text, "ignore-unknown-option data-ciphers")?;
    }
    writeln!(text, "data-ciphers {}", input.ciphers.join(":"))?;
    // The default of 2.4 is Blowfish, and 2.5 warns of its own; neither takes a list or ChaCha20
    // here. OpenVPN 3 offers what it says to servers that do not negotiate.
    if input.client != ClientProgram::OpenVpn26
        && let Some(cipher) = input.ciphers.iter().find(|cipher| cipher.starts_with("AES-"))
    {
        writeln!(text, "cipher {cipher}")?;
    }
    writeln!(text, "auth {}", input.digest)
}

fn write_block(text: &mut String, name: &str, body: &str) -> std::fmt::Result {
    writeln!(text, "<{name}>\n{}\n</{name}>", body.trim_end())
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
            Self::Tcp => "tcp-client",
        }
    }
}
