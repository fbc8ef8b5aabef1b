//! The program under test, by its documented command line only.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::PATIENCE;
use crate::namespace::Namespace;
use crate::openvpn::{is_wire, write_config};
use crate::peer::{Mark, Output, Peer};
use crate::probe::eventually;

/// What a short command of Warren's may take, hashing a password included.
const COMMAND_PATIENCE: Duration = Duration::from_secs(20);

/// The server's own address in the tests' network.
pub const GATEWAY4: &str = "10.86.0.1";
/// The same, IPv6.
pub const GATEWAY6: &str = "fd86::1";

/// The binary under test: `$WARREN_BIN`, or the workspace's release build.
///
/// # Errors
/// If it is not there.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("WARREN_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
                || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
                PathBuf::from,
            );
            target.join("release/warren")
        }
    };
    ensure!(
        path.is_file(),
        "no warren binary at {}: run `cargo build --release -p warren`, or set WARREN_BIN",
        path.display()
    );
    path.canonicalize().with_context(|| format!("resolve {}", path.display()))
}

/// A configuration with fixed networks and these extra lines in `[network]` and
/// `[doors.openvpn]`. Members keep their default routes unless `network` says otherwise.
#[must_use]
pub fn config(network: &[&str], door: &[&str]) -> String {
    let mut lines = vec!["[network]"];
    lines.extend_from_slice(network);
    for (key, default) in [
        ("ipv4", "ipv4 = \"10.86.0.0/16\""),
        ("ipv6", "ipv6 = \"fd86::/64\""),
        ("redirect_gateway", "redirect_gateway = false"),
    ] {
        if !network.iter().any(|line| line.starts_with(key)) {
            lines.push(default);
        }
    }
    lines.push("[doors.openvpn]");
    lines.extend_from_slice(door);
    lines.join("\n") + "\n"
}

/// One object of `sessions --json`. Missing fields fail the parse: their names are a contract.
#[derive(Clone, Debug, Deserialize)]
pub struct Session {
    /// Names the session for `kick`.
    pub id: serde_json::Value,
    /// The user's name.
    pub user: String,
    /// Which door it came in by.
    pub door: String,
    /// Outer address and port.
    pub remote: String,
    /// Inner address.
    pub address4: Option<IpAddr>,
    /// Inner address.
    pub address6: Option<IpAddr>,
    /// When it began.
    pub since: String,
    /// Bytes from the client.
    pub rx_bytes: u64,
    /// Bytes to the client.
    pub tx_bytes: u64,
    /// Packets from the client.
    pub rx_packets: u64,
    /// Packets to the client.
    pub tx_packets: u64,
}

/// What the first start announces.
#[derive(Clone, Debug)]
pub struct FirstUser {
    /// The user's name.
    pub name: String,
    /// The password.
    pub password: String,
    /// Where the profile is.
    pub profile: PathBuf,
}

/// A running server and its state folder.
#[derive(Debug)]
pub struct Warren {
    peer: Peer,
    home: Home,
}

/// A state folder and what can be done to it whether a server runs or not.
#[derive(Clone, Debug)]
pub struct Home {
    namespace: Namespace,
    binary: PathBuf,
    state: PathBuf,
    config: PathBuf,
}

impl Home {
    /// Names a state folder in the lab's folder and writes the configuration beside it.
    ///
    /// # Errors
    /// If there is no binary, or the file cannot be written.
    pub fn new(namespace: &Namespace, name: &str, config: &str) -> Result<Self> {
        let home = Self {
            namespace: namespace.clone(),
            binary: binary()?,
            state: namespace.folder().join(format!("state-{name}")),
            config: namespace.folder().join(format!("{name}.toml")),
        };
        home.write_config(config)?;
        Ok(home)
    }

    /// Replaces the configuration file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(&self, text: &str) -> Result<()> {
        fs::write(&self.config, text).with_context(|| format!("write {}", self.config.display()))
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// `warren ARGUMENTS --state DIR`, not started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--state").arg(&self.state);
        command
    }

    /// `warren up`, not started.
    #[must_use]
    pub fn up_command(&self) -> Command {
        let mut command = self.command(&["up"]);
        command.arg("--config").arg(&self.config);
        command
    }

    /// Runs `warren up` in the expectation that it ends by itself.
    ///
    /// # Errors
    /// If it goes on running.
    pub fn up_to_exit(&self) -> Result<Output> {
        self.namespace.output(self.up_command(), COMMAND_PATIENCE)
    }

    /// Runs a command and returns how it ended.
    ///
    /// # Errors
    /// If it does not end.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Output> {
        self.namespace.output(self.command(arguments), COMMAND_PATIENCE)
    }

    /// Runs a command and returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(arguments)?;
        ensure!(output.success(), "warren {}: {output}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// Runs a command with one line on its standard input.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_with_input(&self, arguments: &[&str], line: &str) -> Result<String> {
        let input = write_config(&self.namespace, &format!("{line}\n"))?;
        let warren = self.command(arguments);
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" < \"$0\""]).arg(input);
        command.arg(warren.get_program()).args(warren.get_args());
        let output = self.namespace.output(command, COMMAND_PATIENCE)?;
        ensure!(output.success(), "warren {}: {output}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// If the command fails.
    pub fn add_user(&self, name: &str, password: &str) -> Result<()> {
        self.run_with_input(&["user", "add", name, "--password-stdin"], password).map(drop)
    }

    /// Issues a profile that connects to `remote` (`HOST` or `HOST:PORT`).
    ///
    /// # Errors
    /// If the command fails.
    pub fn profile(&self, user: &str, remote: &str) -> Result<String> {
        self.run(&["profile", user, "--door", "openvpn", "--remote", remote])
    }
}

impl Warren {
    /// Starts a server with a new state folder and waits for `ready`.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn up(namespace: &Namespace, name: &str, config: &str) -> Result<Self> {
        Self::start(&Home::new(namespace, name, config)?)
    }

    /// Starts a server on a state folder that may have been used before.
    ///
    /// # Errors
    /// If it does not get ready.
    pub fn start(home: &Home) -> Result<Self> {
        let name = home.state.file_name().unwrap_or_default().to_string_lossy();
        let peer = home.namespace.spawn(&format!("warren-{name}"), home.up_command())?;
        // Log lines may contain the word; the announcement is a line of its own.
        eventually(PATIENCE, || {
            ensure!(peer.is_running(), "warren up ended: {}", peer.said("").join(" | "));
            ensure!(peer.stdout().lines().any(|line| line == "ready"), "warren up: not ready");
            Ok(())
        })?;
        Ok(Self { peer, home: home.clone() })
    }

    /// Its state folder.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The process.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The user that the first start makes, if this start was the first.
    ///
    /// # Errors
    /// If it announced only part of it.
    pub fn first_user(&self) -> Result<Option<FirstUser>> {
        let said = self.peer.stdout();
        let word = |label: &str| {
            let value = |line: &str| {
                line.trim().strip_prefix(label)?.split_whitespace().next().map(str::to_owned)
            };
            said.lines().find_map(value)
        };
        match (word("user "), word("password "), word("profile ")) {
            (None, None, None) => Ok(None),
            (Some(name), Some(password), Some(profile)) => {
                Ok(Some(FirstUser { name, password, profile: profile.into() }))
            }
            _ => Err(anyhow!("half an announcement: {said}")),
        }
    }

    /// Adds a user, then issues a profile.
    ///
    /// # Errors
    /// If either command fails.
    pub fn user_with_profile(&self, name: &str, password: &str, remote: &str) -> Result<String> {
        self.home.add_user(name, password)?;
        self.home.profile(name, remote)
    }

    /// The live sessions.
    ///
    /// # Errors
    /// If the command fails or a field is missing.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let text = self.home.run(&["sessions", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("sessions --json: {text}"))
    }

    /// The only live session of a user, as soon as there is exactly one.
    ///
    /// # Errors
    /// If there is not within [`PATIENCE`].
    pub fn session_of(&self, user: &str) -> Result<Session> {
        eventually(PATIENCE, || {
            let mut sessions = self.sessions()?;
            sessions.retain(|session| session.user == user);
            match <[Session; 1]>::try_from(sessions) {
                Ok([session]) => Ok(session),
                Err(sessions) => Err(anyhow!("{} sessions of {user}", sessions.len())),
            }
        })
    }

    /// Waits until there are this many sessions.
    ///
    /// # Errors
    /// If there are not in time.
    pub fn wait_sessions(&self, count: usize, timeout: Duration) -> Result<()> {
        eventually(timeout, || {
            let sessions = self.sessions()?.len();
            ensure!(sessions == count, "{sessions} sessions instead of {count}");
            Ok(())
        })
    }

    /// The name of its TUN device, found by the gateway's address.
    ///
    /// # Errors
    /// If no device has it.
    pub fn tun(&self) -> Result<String> {
        self.home.namespace.device_with(GATEWAY4.parse()?)
    }

    /// Ends it with SIGTERM and checks that it says it ended well.
    ///
    /// # Errors
    /// If it does not end, or not with 0.
    pub fn stop(self) -> Result<Home> {
        let output = self.peer.stop(PATIENCE)?;
        ensure!(output.success(), "warren up after SIGTERM: {output}");
        Ok(self.home)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If it does not go.
    pub fn kill(self) -> Result<Home> {
        self.peer.kill()?;
        Ok(self.home)
    }
}

/// `warren connect`.
#[derive(Debug)]
pub struct Client {
    peer: Peer,
}

impl Client {
    /// Starts it with a profile's text.
    ///
    /// # Errors
    /// If there is no binary, or it cannot be started.
    pub fn start(
        namespace: &Namespace,
        profile: &str,
        credentials: Option<(&str, &str)>,
    ) -> Result<Self> {
        match credentials {
            Some((user, password)) => {
                let file = write_config(namespace, &format!("{user}\n{password}\n"))?;
                let file = file.display().to_string();
                Self::start_with(namespace, profile, &["--auth-user-pass", &file])
            }
            None => Self::start_with(namespace, profile, &[]),
        }
    }

    /// Starts it with a profile's text and options.
    ///
    /// # Errors
    /// If there is no binary, or it cannot be started.
    pub fn start_with(namespace: &Namespace, profile: &str, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("connect").arg(write_config(namespace, profile)?);
        command.arg("--state").arg(namespace.folder().join(format!("state-{}", namespace.name())));
        command.args(options);
        Ok(Self { peer: namespace.spawn(&format!("connect-{}", namespace.name()), command)? })
    }

    /// Starts it and waits until its tunnel is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn connect(
        namespace: &Namespace,
        profile: &str,
        credentials: Option<(&str, &str)>,
    ) -> Result<Self> {
        let client = Self::start(namespace, profile, credentials)?;
        client.wait_connected_since(client.peer.mark_start())?;
        Ok(client)
    }

    /// Waits until it says that it is connected (again).
    ///
    /// # Errors
    /// If that takes longer than twice [`PATIENCE`]: it may have to notice a loss first.
    pub fn wait_connected_since(&self, mark: Mark) -> Result<()> {
        let deadline = PATIENCE * 2;
        // "disconnected" contains the word too.
        self.peer.wait_until(mark, "connected", deadline, |line| {
            line.contains("connected") && !line.contains("disconnected")
        })?;
        Ok(())
    }

    /// The process.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The first address of this family on a device that is none of the lab's.
    ///
    /// # Errors
    /// If there is none.
    pub fn address(&self, ipv4: bool) -> Result<IpAddr> {
        self.peer
            .namespace()
            .addresses()?
            .into_iter()
            .find_map(|(device, ip)| (!is_wire(&device) && ip.is_ipv4() == ipv4).then_some(ip))
            .ok_or_else(|| anyhow!("warren connect set no such address"))
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<Output> {
        self.peer.stop(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_lines_take_the_place_of_defaults() {
        let text = config(&["ipv4 = \"10.87.0.0/16\""], &["ping = 2"]);

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "[network]",
                "ipv4 = \"10.87.0.0/16\"",
                "ipv6 = \"fd86::/64\"",
                "redirect_gateway = false",
                "[doors.openvpn]",
                "ping = 2",
            ]
        );
    }
}
