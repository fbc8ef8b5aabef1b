//! SoftEther VPN Server, whose OpenVPN side is the other server in wide use.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::peer::Peer;
use crate::probe::eventually;

/// The server's administration port, inside its namespace.
const ADMIN: &str = "localhost:5555";

/// A running server with one virtual hub, one user, and addresses by its own DHCP.
#[derive(Debug)]
pub struct SoftEther {
    peer: Peer,
    profiles: [String; 2],
}

/// Which of the server's two sample profiles.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// `dev tun`.
    Ip,
    /// `dev tap`.
    Ethernet,
}

impl SoftEther {
    /// The server's own address inside the tunnel; clients get others of 192.168.30.0/24.
    pub const GATEWAY4: &str = "192.168.30.1";
    /// The user it knows, with the hub's name.
    pub const USER: &str = "alice@lab";
    /// That user's password.
    pub const PASSWORD: &str = "correct horse battery";

    /// Starts it; ready when this returns.
    ///
    /// # Errors
    /// If it does not start, or does not take its settings.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let folder = namespace.folder();
        // It keeps its state where its package says, so it gets mounts of its own there.
        let script = folder.join("softether.sh");
        fs::write(
            &script,
            "set -e\nfor at in /run /var/log /var/lib; do mount -t tmpfs tmpfs $at; done\n\
             mkdir /run/softether /var/log/softether /var/lib/softether\n\
             exec /usr/libexec/softether/vpnserver/vpnserver execsvc\n",
        )?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh"]).arg(&script);
        let peer = namespace.spawn("softether", command)?;

        let settings = folder.join("softether.txt");
        fs::write(
            &settings,
            format!(
                "HubCreate lab /PASSWORD:hub\nHub lab\nUserCreate alice /GROUP:none /REALNAME:none /NOTE:none\n\
                 UserPasswordSet alice /PASSWORD:\"{}\"\nSecureNatEnable\n",
                Self::PASSWORD
            ),
        )?;
        let order = |orders: &std::path::Path| {
            let mut command = Command::new("vpncmd");
            command.current_dir(folder).args([ADMIN, "/SERVER"]);
            command.arg(format!("/IN:{}", orders.display()));
            let output = namespace.output(command, PATIENCE)?;
            anyhow::ensure!(output.success(), "vpncmd: {output}");
            Ok(())
        };
        eventually(PATIENCE, || {
            namespace.run("sh", &["-c", "ss -ltn | grep -q :5555"])?;
            Ok(())
        })?;
        order(&settings)?;
        let samples = folder.join("samples.txt");
        fs::write(&samples, "OpenVpnMakeConfig samples.zip\n")?;
        order(&samples)?;
        let sample = |kind: &str| {
            let text = namespace.run(
                "unzip",
                &[
                    "-p",
                    &folder.join("samples.zip").display().to_string(),
                    &format!("*_{kind}.ovpn"),
                ],
            )?;
            Ok::<_, anyhow::Error>(text.replace('\r', ""))
        };
        let profiles = [sample("l3")?, sample("l2").context("the sample for dev tap")?];
        Ok(Self { peer, profiles })
    }

    /// The server's sample profile, with another address, cipher, digest and protocol in it.
    #[must_use]
    pub fn profile(
        &self,
        mode: Mode,
        remote: &str,
        proto: &str,
        cipher: &str,
        digest: &str,
    ) -> String {
        let sample = match mode {
            Mode::Ip => &self.profiles[0],
            Mode::Ethernet => &self.profiles[1],
        };
        let mut text = String::new();
        for line in sample.lines() {
            let line = match line.split_whitespace().next() {
                Some("remote") => format!("remote {remote} 1194"),
                Some("proto") => format!("proto {proto}"),
                Some("cipher") => format!("cipher {cipher}"),
                Some("auth") => format!("auth {digest}"),
                _ => line.to_owned(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The process.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<()> {
        // It tidies up for longer than anybody here needs.
        self.peer.kill()?;
        self.peer.wait_exit(Duration::from_secs(10))?;
        Ok(())
    }
}
