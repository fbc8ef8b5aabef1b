//! Stock OpenVPN, as client and as server.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::{Mark, Output, Peer};
use crate::pki::{Identity, Pki};
use crate::probe::ping_every;
use crate::traffic::Iperf;

/// What openvpn says when a tunnel is up, at either end.
pub const UP: &str = "Initialization Sequence Completed";

/// How the control channel is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// Encrypted and authenticated with the pre-shared key.
    TlsCrypt,
    /// Authenticated with it.
    TlsAuth,
}

impl Wrapping {
    /// Both.
    pub const ALL: [Self; 2] = [Self::TlsCrypt, Self::TlsAuth];

    /// The directive's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsCrypt => "tls-crypt",
            Self::TlsAuth => "tls-auth",
        }
    }
}

/// What a client has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A certificate of the CA.
    Certificate,
    /// A user name and password.
    Password,
    /// Both.
    Both,
}

impl Proof {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Certificate, Self::Password, Self::Both];

    /// The word for it in Warren's configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Password => "password",
            Self::Both => "both",
        }
    }

    /// Whether a password is asked for.
    #[must_use]
    pub fn asks_password(self) -> bool {
        self != Self::Certificate
    }

    /// Whether a certificate is asked for.
    #[must_use]
    pub fn asks_certificate(self) -> bool {
        self != Self::Password
    }
}

/// Settings that both ends of a stock server's tunnel share.
#[derive(Clone, Debug)]
pub struct Server {
    /// How the control channel is wrapped.
    pub wrapping: Wrapping,
    /// What clients have to show.
    pub proof: Proof,
    /// `data-ciphers`, colon-separated.
    pub ciphers: String,
    /// `auth`: the digest of tls-auth and of CBC data packets.
    pub digest: String,
    /// Its port.
    pub port: u16,
    /// Whether that is TCP's.
    pub tcp: bool,
    /// More lines for its configuration. With `server-bridge` among them, clients get addresses of
    /// that network and none of the usual.
    pub extra: Vec<String>,
    /// What it shows, if that is not a certificate for the name "server".
    pub identity: Option<Identity>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            wrapping: Wrapping::TlsCrypt,
            proof: Proof::Certificate,
            ciphers: "AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305".to_owned(),
            digest: "SHA256".to_owned(),
            port: 1194,
            tcp: false,
            extra: Vec::new(),
            identity: None,
        }
    }
}

impl Server {
    /// The server's own address inside the tunnel; clients get others of 10.8.0.0/24.
    pub const GATEWAY4: &str = "10.8.0.1";
    /// The same in fd08::/64.
    pub const GATEWAY6: &str = "fd08::1";
    /// The user it knows.
    pub const USER: &str = "alice";
    /// That user's password.
    pub const PASSWORD: &str = "correct horse battery";

    /// Starts it; ready when this returns. Addresses survive restarts in the lab's folder.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self, namespace: &Namespace, pki: &Pki) -> Result<Peer> {
        let folder = namespace.folder();
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => pki.server("server")?,
        };
        let checker = folder.join("check-password.sh");
        fs::write(
            &checker,
            format!(
                "#!/bin/sh\n{{ read -r user; read -r password; }} < \"$1\"\n[ \"$user\" = '{}' ] && [ \"$password\" = '{}' ]\n",
                Self::USER,
                Self::PASSWORD
            ),
        )?;
        make_executable(&checker)?;

        let transport = if self.tcp { "tcp6-server" } else { "udp6\nexplicit-exit-notify 1" };
        let pools = match self.extra.iter().any(|line| line.starts_with("server-bridge ")) {
            true => "",
            false => "server 10.8.0.0 255.255.255.0\nserver-ipv6 fd08::/64\n",
        };
        let mut text = format!(
            "dev tun\nproto {transport}\nport {}\ntopology subnet\n{pools}keepalive 2 8\ndh none\nverb 4\n\
             ifconfig-pool-persist {} 1\ndata-ciphers {}\nauth {}\nkey-direction 0\ndisable-dco\n",
            self.port,
            folder.join(format!("pool-{}", self.port)).display(),
            self.ciphers,
            self.digest,
        );
        if self.proof.asks_password() {
            writeln!(
                text,
                "script-security 2\nauth-user-pass-verify {} via-file",
                checker.display()
            )?;
        }
        if !self.proof.asks_certificate() {
            text.push_str("verify-client-cert none\nusername-as-common-name\n");
        }
        for line in &self.extra {
            writeln!(text, "{line}")?;
        }
        inline(&mut text, "ca", &pki.ca);
        inline(&mut text, "cert", &identity.certificate);
        inline(&mut text, "key", &identity.key);
        inline(&mut text, self.wrapping.name(), &pki.static_key);

        let config = write_config(namespace, &text)?;
        let mut command = Command::new("openvpn");
        command.arg("--config").arg(config);
        let peer = namespace.spawn(&format!("openvpn-{}", namespace.name()), command)?;
        peer.wait_for(UP, PATIENCE)?;
        Ok(peer)
    }

    /// The profile of a client of this server; `remotes` are `HOST PORT` pairs, tried in order.
    #[must_use]
    pub fn profile(&self, pki: &Pki, identity: &Identity, remotes: &[(IpAddr, u16)]) -> String {
        let mut text = String::from("client\ndev tun\nnobind\nremote-cert-tls server\nverb 4\n");
        for (host, port) in remotes {
            let protocol = if self.tcp { "tcp" } else { "udp" };
            let family = if host.is_ipv4() { 4 } else { 6 };
            text.push_str(&format!("remote {host} {port} {protocol}{family}\n"));
        }
        text.push_str(&format!("data-ciphers {}\nauth {}\n", self.ciphers, self.digest));
        if self.proof.asks_password() {
            text.push_str("auth-user-pass\n");
        }
        inline(&mut text, "ca", &pki.ca);
        if self.proof.asks_certificate() {
            inline(&mut text, "cert", &identity.certificate);
            inline(&mut text, "key", &identity.key);
        }
        if self.wrapping == Wrapping::TlsAuth {
            text.push_str("key-direction 1\n");
        }
        inline(&mut text, self.wrapping.name(), &pki.static_key);
        text
    }
}

/// A profile with other content in one of its inline blocks.
///
/// # Errors
/// If it has no such block.
pub fn with_block(profile: &str, tag: &str, content: &str) -> Result<String> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let (before, rest) =
        profile.split_once(&open).ok_or_else(|| anyhow!("the profile has no {open}"))?;
    let (_, after) = rest.split_once(&close).ok_or_else(|| anyhow!("{open} does not end"))?;
    Ok(format!("{before}{open}\n{}\n{close}{after}", content.trim_end()))
}

/// A profile with other lines in place of the one that begins with `name`: options of connections
/// count only if they stand before the blocks, so none on the command line would do.
///
/// # Errors
/// If it has no such line.
pub fn with_lines(profile: &str, name: &str, lines: &str) -> Result<String> {
    let is_it = |line: &&str| line.split(' ').next() == Some(name);
    let line = profile.lines().find(is_it);
    let line = line.ok_or_else(|| anyhow!("the profile has no {name}"))?;
    Ok(profile.replacen(&format!("\n{line}\n"), &format!("\n{lines}\n"), 1))
}

/// Forty seconds of pings, with a stream beside them, while keys are renewed every ten: none is
/// lost. `stock` is the end that is OpenVPN, which says when it has new keys.
///
/// # Errors
/// If a ping is lost, or more of the stream than a moment of a busy machine, or if there are no new
/// keys.
pub fn renews_under_load(
    server: &Namespace,
    client: &Namespace,
    gateway: IpAddr,
    stock: &Peer,
) -> Result<()> {
    let load = Iperf { udp_bps: Some(10_000_000), ..Iperf::tcp(gateway, 40) };
    let load = load.start(server, client)?;
    let pings = ping_every(Duration::from_millis(100), client, gateway)?;
    let load = load.finish()?;
    let pings = pings.finish()?;

    ensure!(pings.sent >= 350 && pings.lost() == 0, "{pings:?}");
    ensure!(load.lost_percent < 0.5, "{} % of the stream was lost", load.lost_percent);
    let keys = stock.said("Outgoing Data Channel: Cipher").len();
    ensure!(keys >= 4, "{keys} sets of keys in 40 seconds");
    Ok(())
}

/// A profile without what it says of where the server is.
#[must_use]
pub fn without_remotes(profile: &str) -> String {
    let names = ["remote", "proto", "remote-random", "<connection>", "</connection>"];
    let is_other = |line: &&str| !names.contains(&line.split(' ').next().unwrap_or_default());
    profile.lines().filter(is_other).collect::<Vec<_>>().join("\n")
}

/// A stock client.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
}

impl Client {
    /// Starts a client with a profile's text, credentials if it asks for them, and more options
    /// after them. It retries every second.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        namespace: &Namespace,
        profile: &str,
        credentials: Option<(&str, &str)>,
        options: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("openvpn");
        command.arg("--config").arg(write_config(namespace, profile)?);
        command.args(["--verb", "4", "--connect-retry", "1", "1", "--disable-dco"]);
        if let Some((user, password)) = credentials {
            let file = write_config(namespace, &format!("{user}\n{password}\n"))?;
            command.arg("--auth-user-pass").arg(file);
        }
        command.args(options);
        Ok(Self { peer: namespace.spawn(&format!("openvpn-{}", namespace.name()), command)? })
    }

    /// Starts a client and waits until its tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn connect(
        namespace: &Namespace,
        profile: &str,
        credentials: Option<(&str, &str)>,
        options: &[&str],
    ) -> Result<Self> {
        let client = Self::start(namespace, profile, credentials, options)?;
        client.wait_connected()?;
        Ok(client)
    }

    /// Waits until the first tunnel is up.
    ///
    /// # Errors
    /// If that takes longer than [`PATIENCE`].
    pub fn wait_connected(&self) -> Result<()> {
        self.peer.wait_for(UP, PATIENCE).map(drop)
    }

    /// Waits until a tunnel comes up again.
    ///
    /// # Errors
    /// If that takes longer than twice [`PATIENCE`]: it may have to notice the loss first.
    pub fn wait_reconnected(&self, since: Mark) -> Result<()> {
        self.peer.wait_from(since, UP, PATIENCE * 2).map(drop)
    }

    /// The process.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where it runs.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        self.peer.namespace()
    }

    /// Its address inside the tunnel.
    ///
    /// # Errors
    /// If its TUN device has none.
    pub fn address4(&self) -> Result<IpAddr> {
        tunnel_address(self.namespace(), IpAddr::is_ipv4)
    }

    /// Its IPv6 address inside the tunnel.
    ///
    /// # Errors
    /// If its TUN device has none.
    pub fn address6(&self) -> Result<IpAddr> {
        tunnel_address(self.namespace(), IpAddr::is_ipv6)
    }

    /// The latest line that names the data channel's cipher.
    ///
    /// # Errors
    /// If there is none within [`PATIENCE`].
    pub fn data_channel(&self) -> Result<String> {
        const CIPHER: &str = "Data Channel: cipher";
        let first = self.peer.wait_for(CIPHER, PATIENCE)?;
        Ok(self.peer.said(CIPHER).pop().unwrap_or(first))
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<Output> {
        self.peer.stop(PATIENCE)
    }
}

fn tunnel_address(namespace: &Namespace, family: impl Fn(&IpAddr) -> bool) -> Result<IpAddr> {
    namespace
        .addresses()?
        .into_iter()
        .find_map(|(device, ip)| (!is_wire(&device) && family(&ip)).then_some(ip))
        .ok_or_else(|| anyhow!("{}: the tunnel device has no address", namespace.name()))
}

/// Whether a device is `lo` or one of the lab's cables, and so not a tunnel.
pub(crate) fn is_wire(device: &str) -> bool {
    device == "lo" || device == "bridge" || device.starts_with("eth")
}

fn inline(text: &mut String, tag: &str, content: &str) {
    text.push_str(&format!("<{tag}>\n{}\n</{tag}>\n", content.trim_end()));
}

pub(crate) fn write_config(namespace: &Namespace, text: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = namespace.folder().join(format!("{}-{number}.conf", namespace.name()));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("chmod {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_remote_goes_and_the_rest_stays() {
        let profile = "client\nproto udp\n<connection>\nremote a 1 udp\n</connection>\n\
                       remote-cert-tls server\n";

        assert_eq!(without_remotes(profile), "client\nremote-cert-tls server");
    }

    #[test]
    fn one_block_is_replaced_and_the_rest_kept() {
        let profile = "client\n<ca>\nold\n</ca>\n<key>\nsecret\n</key>\n";

        let other = with_block(profile, "ca", "new\n").unwrap();

        assert_eq!(other, "client\n<ca>\nnew\n</ca>\n<key>\nsecret\n</key>\n");
        assert!(with_block(profile, "cert", "new").is_err());
    }
}
