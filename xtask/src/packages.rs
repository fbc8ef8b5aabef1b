//! The Debian packages that the tests need beside Rust and a C compiler.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// What the lab runs as peers and observers, and `g++` for the fuzzer's runtime.
const PACKAGES: &[&str] = &[
    "avahi-daemon",
    "avahi-utils",
    "ca-certificates",
    "dante-server",
    "dbus",
    "dnsmasq-base",
    "g++",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "microsocks",
    "minidlna",
    "nftables",
    "opensc",
    "openssl",
    "openvpn",
    "procps",
    "python3",
    "socat",
    "softether-vpncmd",
    "softether-vpnserver",
    "softhsm2",
    "systemd",
    "tcpdump",
    "tinyproxy-bin",
    "tshark",
    "udhcpc",
    "unzip",
];

/// Installs what is missing.
///
/// # Errors
///
/// Something is missing and this is not root on Debian, or apt fails.
pub(crate) fn install() -> Result<()> {
    let Some(present) = present() else {
        println!("not a Debian system; the tests expect the programs of: {}", PACKAGES.join(" "));
        return Ok(());
    };
    let missing: Vec<_> =
        PACKAGES.iter().copied().filter(|package| !present.contains(*package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "packages are missing: run `apt-get install --no-install-recommends {}` as root",
            missing.join(" ")
        );
    }
    println!("installing {}", missing.join(" "));
    process::run(apt().args(["update", "--quiet"]))?;
    process::run(
        apt().args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(&missing),
    )
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"]);
    // tshark asks whether users other than root may capture; nobody is there to answer.
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The packages of [`PACKAGES`] that are installed, or `None` if there is no dpkg to ask.
fn present() -> Option<HashSet<String>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${binary:Package} ${db:Status-Status}\n"])
        .args(PACKAGES)
        .stdin(Stdio::null())
        .stderr(Stdio::null()) // one complaint for every package that was never installed
        .output()
        .ok()?;
    Some(installed(&String::from_utf8_lossy(&output.stdout)))
}

fn installed(listing: &str) -> HashSet<String> {
    listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect()
}

fn is_root() -> bool {
    fs::metadata(Path::new("/proc/self")).is_ok_and(|process| process.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_left_only_its_settings_behind_is_missing() {
        let listing = "openvpn config-files\nlibc6:amd64 installed\ng++ installed\n";

        let present = installed(listing);

        assert!(!present.contains("openvpn"));
        assert!(present.contains("libc6") && present.contains("g++"));
    }
}
