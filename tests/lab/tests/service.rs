//! The unit for systemd, under a real systemd.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lab::machine::{Install, Machine};
use lab::openvpn::Client;
use lab::warren::{binary, config};
use lab::{HostState, Lab, PATIENCE, World, eventually, reach, scenario};

const STATE: &str = "/var/lib/warren";
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
const CAP_NET_ADMIN: u64 = 1 << 12;

/// What the unit's first lines tell an operator to install.
fn install(lab: &Lab, world: &World) -> Result<Machine> {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    let settings = config(
        &["redirect_gateway = true"],
        &["auth = \"certificate\"", "ping = 1", "ping_restart = 10"],
    );
    let settings = lab.file("warren.toml", &settings)?;
    let files: [(PathBuf, &str, u32); 4] = [
        (binary()?, "/usr/local/bin/warren", 0o755),
        (packaging.join("warren.service"), "/etc/systemd/system/warren.service", 0o644),
        (packaging.join("warren.sysusers"), "/usr/lib/sysusers.d/warren.conf", 0o644),
        (settings, "/etc/warren.toml", 0o644),
    ];
    let files = files.each_ref().map(|(from, to, mode)| Install { from, to, mode: *mode });
    let machine = Machine::boot(&world.server, &files)?;
    machine.run("systemd-sysusers", &[])?;
    let folder = ["-d", "-m", "0700", "-o", "warren", "-g", "warren", STATE];
    machine.run("install", &folder)?;
    configure(&machine, "/etc/warren.toml")?;
    Ok(machine)
}

fn configure(machine: &Machine, from: &str) -> Result<String> {
    let to = format!("{STATE}/warren.toml");
    machine.run("install", &["-m", "0600", "-o", "warren", "-g", "warren", from, &to])
}

fn systemctl(machine: &Machine, command: &str) -> Result<()> {
    let output = machine.try_run("systemctl", &[command, "warren"])?;
    if !output.success() {
        let journal = machine.run("journalctl", &["--no-pager", "-u", "warren", "-n", "20"])?;
        anyhow::bail!("systemctl {command}: {output}\n{journal}");
    }
    Ok(())
}

fn main_process(machine: &Machine) -> Result<String> {
    let pid = machine.run("systemctl", &["show", "--property=MainPID", "--value", "warren"])?;
    let pid = pid.trim().to_owned();
    ensure!(pid != "0", "the service does not run");
    Ok(pid)
}

fn journal_has(machine: &Machine, text: &str) -> Result<()> {
    eventually(PATIENCE, || {
        let journal = machine.run("journalctl", &["--no-pager", "-u", "warren"])?;
        ensure!(journal.contains(text), "no `{text}` in {journal}");
        Ok(())
    })
}

#[test]
fn systemd_runs_it_without_root_reloads_it_restarts_it_and_finds_the_host_as_it_was() {
    scenario("service", |lab| {
        let world = World::new(lab, 1)?;
        let machine = install(lab, &world)?;
        let before = HostState::of(&world.server)?;
        systemctl(&machine, "start")?;

        // Neither root nor what the unit does not name, whatever root's system lets it see.
        let first = main_process(&machine)?;
        let status = machine.run("cat", &[&format!("/proc/{first}/status")])?;
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("no {name} in {status}"))
        };
        let account = machine.run("id", &["-u", "warren"])?;
        assert!(line("Uid:")?.split_whitespace().all(|uid| uid == account.trim()), "{status}");
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let kept = u64::from_str_radix(line(set)?, 16)?;
            assert_eq!(kept, CAP_NET_ADMIN | CAP_NET_BIND_SERVICE, "{set}");
        }
        assert_eq!((line("NoNewPrivs:")?, line("Seccomp:")?), ("1", "2"));

        let warren = |arguments: &[&str]| machine.run("warren", arguments);
        warren(&["user", "add", "alice"])?;
        let remote = World::SERVER4.to_string();
        let profile = warren(&["profile", "alice", "--door", "openvpn", "--remote", &remote])?;
        let host = &world.clients[0];
        let client = Client::connect(host, &profile, None, &[])?;
        reach(host, World::OUTSIDE4)?;

        // A file that is wrong changes nothing, and `systemctl reload` says so.
        machine.run("sh", &["-c", "echo 'no_such_key = 1' >> /etc/warren.toml"])?;
        configure(&machine, "/etc/warren.toml")?;
        assert!(systemctl(&machine, "reload").is_err());
        journal_has(&machine, "no_such_key")?;
        machine.run("sed", &["-i", "s/^no_such_key.*/mssfix = 1300/", "/etc/warren.toml"])?;
        configure(&machine, "/etc/warren.toml")?;
        systemctl(&machine, "reload")?;
        assert_eq!(main_process(&machine)?, first, "it was started again");
        reach(host, World::OUTSIDE4)?;

        let crash = client.peer().mark();
        machine.run("kill", &["-KILL", &first])?;
        client.wait_reconnected(crash)?;
        assert_ne!(main_process(&machine)?, first);
        reach(host, World::OUTSIDE4)?;

        client.stop()?;
        systemctl(&machine, "stop")?;
        before.check_unchanged(&world.server)?;
        machine.shut_down()
    });
}
