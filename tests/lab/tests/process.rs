//! What is left of root once Warren runs: nothing but what the network takes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lab::warren::{Client, GATEWAY4, Home, Warren, binary, config};
use lab::{HostState, PATIENCE, Peer, World, eventually, ping, scenario};

const PASSWORD: &str = "long enough for a test";
const FULL: [&str; 3] = ["redirect_gateway = true", "nat = true", "dns = [\"10.86.0.53\"]"];
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
const CAP_NET_ADMIN: u64 = 1 << 12;
/// Kept only where the limit of locked memory cannot be lifted.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// One thread's lines of `/proc/PID/task/TID/status`.
struct Status(String);

impl Status {
    fn line(&self, name: &str) -> Result<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("no {name} in {}", self.0))
    }

    fn set(&self, name: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.line(name)?, 16)?)
    }

    fn uids(&self) -> Result<BTreeSet<u32>> {
        let line = format!("{} {}", self.line("Uid")?, self.line("Gid")?);
        Ok(line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

fn threads(peer: &Peer) -> Result<Vec<Status>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", peer.pid()))?;
    tasks.map(|task| Ok(Status(fs::read_to_string(task?.path().join("status"))?))).collect()
}

/// Checks every thread; returns the user.
fn has_given_up_root(peer: &Peer, may_keep: u64) -> Result<u32> {
    let threads = threads(peer)?;
    ensure!(threads.len() > 2, "the workers are missing");
    let mut users = BTreeSet::new();
    for thread in &threads {
        users.extend(thread.uids()?);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let kept = thread.set(set)? & !CAP_IPC_LOCK;
            ensure!(kept == may_keep, "{set}: {kept:x} in {}", thread.0);
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(thread.set(set)? == 0, "{set} in {}", thread.0);
        }
        ensure!(thread.line("NoNewPrivs")? == "1", "{}", thread.0);
        ensure!(thread.line("Groups")?.is_empty(), "{}", thread.0);
    }
    let [user] = users.iter().copied().collect::<Vec<_>>()[..] else {
        anyhow::bail!("several users: {users:?}");
    };
    ensure!(user != 0 && user != 65_534, "user {user}");
    // Locked memory and no core files.
    let limits = fs::read_to_string(format!("/proc/{}/limits", peer.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    ensure!(threads[0].line("VmLck")? != "0 kB", "{}", threads[0].0);
    Ok(user)
}

/// The process's own root, as root of the host sees it.
fn root_of(peer: &Peer) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", peer.pid()))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn owner(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path).with_context(|| path.display().to_string())?.uid())
}

#[test]
fn a_server_keeps_the_network_and_nothing_else_in_every_thread() {
    scenario("server process", |lab| {
        let world = World::new(lab, 1)?;
        let before = HostState::of(&world.server)?;
        let warren = Warren::up(&world.server, "warren", &config(&FULL, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let client = Client::connect(&world.clients[0], &profile, Some(("alice", PASSWORD)))?;
        assert_eq!(ping(&world.clients[0], GATEWAY4.parse()?, 2)?.lost(), 0);

        let user = has_given_up_root(warren.peer(), CAP_NET_ADMIN | CAP_NET_BIND_SERVICE)?;
        let root = root_of(warren.peer());
        for gone in ["etc", "root", "home", "usr", "var", "bin", "boot"] {
            assert!(!root.join(gone).exists(), "{gone} is there");
        }
        assert_eq!(names(&root.join("dev"))?.join(" "), "net null random tty urandom zero");
        assert_eq!(owner(warren.home().state())?, user);
        for file in ["warren.db", "lock", "api.sock", "profiles"] {
            assert_eq!(owner(&warren.home().state().join(file))?, user, "{file}");
        }
        assert_eq!(fs::metadata(warren.home().state())?.permissions().mode() & 0o777, 0o700);

        client.stop()?;
        warren.stop()?;
        before.check_unchanged(&world.server)
    });
}

#[test]
fn a_client_keeps_the_network_only_and_still_changes_name_servers_and_routes() {
    scenario("client process", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&FULL, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let host = &world.clients[0];
        let before = HostState::of(host)?;

        let client = Client::connect(host, &profile, Some(("alice", PASSWORD)))?;
        has_given_up_root(client.peer(), CAP_NET_ADMIN)?;
        let root = root_of(client.peer());
        assert!(!root.join("etc/shadow").exists() && !root.join("etc/passwd").exists());
        assert!(!root.join("root").exists() && !root.join("home").exists());
        let resolver = host.run("cat", &["/etc/resolv.conf"])?;
        assert!(resolver.contains("10.86.0.53"), "{resolver}");
        assert_eq!(ping(host, World::OUTSIDE4, 2)?.lost(), 0);

        client.stop()?;
        before.check_unchanged(host)
    });
}

#[test]
fn a_name_resolves_inside_the_sandbox_as_it_does_outside_at_that_moment() {
    scenario("names", |lab| {
        let world = World::new(lab, 1)?;
        let warren =
            Warren::up(&world.server, "warren", &config(&[], &["ping = 1", "ping_restart = 3"]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, "vpn.lab")?;
        let host = &world.clients[0];
        let known = |address: &str| {
            let line = format!("127.0.0.1 localhost\n{address} vpn.lab\n");
            host.enter(move || fs::write("/etc/hosts", line))
        };
        // Nobody is there.
        known("203.0.113.77")?;
        let client = Client::start(host, &profile, Some(("alice", PASSWORD)))?;
        client.peer().wait_for("no connection", PATIENCE * 3)?;

        known("203.0.113.1")?;

        client.wait_connected_since(client.peer().mark_start())?;
        client.stop()?;
        Ok(())
    });
}

#[test]
fn systemd_resolved_is_told_by_root_and_with_the_tunnels_name_servers_only() {
    scenario("resolved", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&FULL, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let host = &world.clients[0];
        let script = "mkdir -p /run/systemd/resolve /run/upper /run/work && \
             mount -t overlay overlay \
                 -o lowerdir=/usr/bin,upperdir=/run/upper,workdir=/run/work /usr/bin && \
             printf '#!/bin/sh\necho $(id -u) \"$@\" >> /run/said\n' > /usr/bin/resolvectl && \
             chmod 755 /usr/bin/resolvectl";
        host.run("sh", &["-c", script])?;
        let before = HostState::of(host)?;

        let client = Client::connect(host, &profile, Some(("alice", PASSWORD)))?;
        let said = host.run("cat", &["/run/said"])?;
        assert_eq!(said, "0 dns warren0 10.86.0.53\n0 domain warren0 ~.\n");
        client.stop()?;

        let said = host.run("cat", &["/run/said"])?;
        assert!(said.ends_with("\n0 revert warren0\n"), "{said}");
        before.check_unchanged(host)
    });
}

#[test]
fn what_a_killed_client_changed_is_repaired_by_the_next() {
    scenario("client killed", |lab| {
        let world = World::new(lab, 1)?;
        let warren = Warren::up(&world.server, "warren", &config(&FULL, &[]))?;
        let profile = warren.user_with_profile("alice", PASSWORD, &World::SERVER4.to_string())?;
        let host = &world.clients[0];
        let before = HostState::of(host)?;
        let credentials = Some(("alice", PASSWORD));

        Client::connect(host, &profile, credentials)?.peer().kill()?;
        let resolver = host.run("cat", &["/etc/resolv.conf"])?;
        assert!(resolver.contains("10.86.0.53"), "a killed client cannot tidy up: {resolver}");
        Client::connect(host, &profile, credentials)?.stop()?;

        before.check_unchanged(host)
    });
}

#[test]
fn a_configuration_that_only_root_can_read_is_read_again_on_reload() {
    scenario("private config", |lab| {
        let world = World::new(lab, 0)?;
        let home = Home::new(&world.server, "warren", &config(&FULL, &[]))?;
        fs::set_permissions(home.config_path(), fs::Permissions::from_mode(0o600))?;
        let warren = Warren::start(&home)?;

        // A port that only root may open, and a change of the host, after root is gone.
        let changed = config(
            &["redirect_gateway = true", "nat = false"],
            &["listen = [\"0.0.0.0:1194\", \"0.0.0.0:443\"]"],
        );
        let fresh = lab.file("fresh.toml", &changed)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, home.config_path())?;
        let said = home.run(&["reload"])?;
        assert!(said.contains("doors.openvpn") && said.contains("network.nat"), "{said}");
        let status = home.run(&["status", "--json"])?;
        assert!(status.contains("0.0.0.0:443/udp"), "{status}");

        home.write_config("[network]\nmtu = \"large\"\n")?;
        let refused = home.try_run(&["reload"])?;
        assert_eq!(refused.status.code(), Some(2), "{refused}");
        assert!(refused.stderr.contains(":2"), "{refused}");
        fs::remove_file(home.config_path())?;
        let refused = home.try_run(&["reload"])?;
        assert!(refused.stderr.contains("no such file"), "{refused}");
        warren.stop()?;
        Ok(())
    });
}

#[test]
fn roots_own_commands_work_on_the_state_before_during_and_after_a_run() {
    scenario("root commands", |lab| {
        let world = World::new(lab, 1)?;
        let home = Home::new(&world.server, "warren", &config(&[], &[]))?;
        // Made by root, in a folder of root's: an installation of before.
        home.add_user("early", PASSWORD)?;
        assert_eq!(owner(&home.state().join("warren.db"))?, 0);

        let warren = Warren::start(&home)?;
        let user = owner(home.state())?;
        assert_ne!(user, 0);
        home.add_user("live", PASSWORD)?;
        let home = warren.stop()?;

        home.add_user("late", PASSWORD)?;
        for name in names(home.state())? {
            assert_eq!(owner(&home.state().join(&name))?, user, "{name}");
        }
        let out = lab.folder().join("late.ovpn").to_string_lossy().into_owned();
        let remote = World::SERVER4.to_string();
        let profile = ["profile", "late", "--door", "openvpn", "--remote", &remote];
        home.run(&[&profile[..], &["--out", &out]].concat())?;
        assert_eq!(owner(Path::new(&out))?, 0, "it is root's who asked");

        let warren = Warren::start(&home)?;
        let listed = home.run(&["user", "list"])?;
        for name in ["early", "live", "late"] {
            assert!(listed.contains(name), "no {name}: {listed}");
        }
        let client = Client::connect(
            &world.clients[0],
            &fs::read_to_string(out)?,
            Some(("late", PASSWORD)),
        )?;
        client.stop()?;
        warren.stop()?;
        Ok(())
    });
}

#[test]
fn without_mount_namespaces_root_is_given_up_all_the_same_and_one_line_says_so() {
    scenario("no mounts", |lab| {
        let world = World::new(lab, 0)?;
        let before = HostState::of(&world.server)?;
        let home = Home::new(&world.server, "warren", &config(&FULL, &[]))?;
        // A container may not mount, but has a device that everybody may open.
        let up = home.up_command();
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                      exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin \"$0\" \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(up.get_program()).args(up.get_args());
        let peer = world.server.spawn("contained", command)?;
        peer.wait_for("ready", PATIENCE)?;

        has_given_up_root(&peer, CAP_NET_ADMIN | CAP_NET_BIND_SERVICE)?;
        assert_eq!(peer.said("no sandbox").len(), 1, "{:?}", peer.said(""));
        assert!(peer.stop(PATIENCE)?.success());
        before.check_unchanged(&world.server)
    });
}

#[test]
fn a_device_for_root_only_and_no_sandbox_leave_roots_number_without_roots_powers() {
    scenario("private tun", |lab| {
        let world = World::new(lab, 0)?;
        let home = Home::new(&world.server, "warren", &config(&[], &[]))?;
        let up = home.up_command();
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 && \
                      exec \"$0\" \"$@\" --no-sandbox";
        command.args(["-m", "sh", "-c", script]).arg(up.get_program()).args(up.get_args());
        let peer = world.server.spawn("private-tun", command)?;
        peer.wait_for("ready", PATIENCE)?;

        for thread in threads(&peer)? {
            let kept = thread.set("CapEff")? & !CAP_IPC_LOCK;
            assert_eq!(kept, CAP_NET_ADMIN | CAP_NET_BIND_SERVICE);
        }
        assert_eq!(peer.said("is for root only").len(), 1);
        assert!(peer.stop(PATIENCE)?.success());
        Ok(())
    });
}

#[test]
fn a_state_folder_that_only_root_reaches_is_no_obstacle_in_the_sandbox_and_one_without_it() {
    scenario("hidden state", |lab| {
        let world = World::new(lab, 0)?;
        let vault = lab.folder().join("vault");
        fs::create_dir(&vault)?;
        fs::set_permissions(&vault, fs::Permissions::from_mode(0o700))?;
        let state = vault.join("state");
        let up = |script: &str| -> Result<Peer> {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", script]).arg(binary()?).arg(&state);
            let peer = world.server.spawn("hidden", command)?;
            peer.wait_for("ready", PATIENCE)?;
            Ok(peer)
        };

        let peer = up("exec \"$0\" up --state \"$1\"")?;
        has_given_up_root(&peer, CAP_NET_ADMIN | CAP_NET_BIND_SERVICE)?;
        assert!(peer.stop(PATIENCE)?.success());
        let mut command = Command::new(binary()?);
        command.args(["user", "list", "--state"]).arg(&state);
        let listed = world.server.output(command, PATIENCE)?;
        assert!(listed.success() && listed.stdout.contains("warren"), "{listed}");

        let peer = up("mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                       exec \"$0\" up --no-sandbox --state \"$1\"")?;
        assert_eq!(peer.said("may not pass").len(), 1);
        assert_eq!(owner(&state)?, 0);
        assert!(peer.stop(PATIENCE)?.success());
        Ok(())
    });
}

#[test]
fn started_without_root_but_with_the_capabilities_it_works() {
    const SOMEBODY: u32 = 61_200;
    scenario("ambient", |lab| {
        let world = World::new(lab, 0)?;
        let before = HostState::of(&world.server)?;
        let home = Home::new(&world.server, "warren", &config(&FULL, &[]))?;
        let copy = lab.folder().join("warren");
        fs::copy(binary()?, &copy)?;
        fs::set_permissions(lab.folder(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(home.state())?;
        fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700))?;
        chown(home.state(), Some(SOMEBODY), Some(SOMEBODY))?;
        // As systemd does it for packaging/warren.service.
        let up = home.up_command();
        let mut command = Command::new("unshare");
        let id = SOMEBODY.to_string();
        let caps = "-all,+net_admin,+net_bind_service";
        let script = format!(
            "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
             mkdir -p /run/warren && chown {id} /run/warren && \
             exec setpriv --reuid {id} --regid {id} --clear-groups --inh-caps {caps} \
             --ambient-caps {caps} --bounding-set {caps} \"$0\" \"$@\""
        );
        command.args(["-m", "sh", "-c", &script]).arg(copy).args(up.get_args());
        let peer = world.server.spawn("ambient", command)?;
        peer.wait_for("ready", PATIENCE)?;

        for thread in threads(&peer)? {
            assert_eq!(thread.uids()?, BTreeSet::from([SOMEBODY]));
            assert_eq!(thread.set("CapEff")?, CAP_NET_ADMIN | CAP_NET_BIND_SERVICE);
            assert_eq!((thread.set("CapAmb")?, thread.line("NoNewPrivs")?), (0, "1"));
        }
        // /proc/sys/net asks for the capability, not for root.
        assert_eq!(world.server.run("cat", &["/proc/sys/net/ipv4/ip_forward"])?, "1\n");
        assert!(peer.stop(PATIENCE)?.success());
        before.check_unchanged(&world.server)
    });
}

#[test]
fn a_server_cannot_make_itself_root_by_its_own_configuration() {
    scenario("self promotion", |lab| {
        let world = World::new(lab, 0)?;
        let home = Warren::up(&world.server, "warren", &config(&[], &[]))?.stop()?;
        let text = config(&[], &["[server]", "user = \"root\""]);
        let planted = home.state().join("warren.toml");
        fs::write(&planted, text)?;
        chown(&planted, Some(owner(home.state())?), None)?;

        let output = world.server.output(home.command(&["up"]), PATIENCE)?;

        assert_eq!(output.status.code(), Some(2), "{output}");
        assert!(output.stderr.contains("server.user"), "{output}");
        Ok(())
    });
}

#[test]
fn staying_root_takes_a_file_of_roots_and_is_said_aloud() {
    scenario("stay root", |lab| {
        let world = World::new(lab, 0)?;
        let home = Warren::up(&world.server, "warren", &config(&[], &[]))?.stop()?;
        home.write_config(&config(&[], &["[server]", "user = \"root\""]))?;

        let warren = Warren::start(&home)?;

        assert_eq!(owner(home.state())?, 0);
        for thread in threads(warren.peer())? {
            assert_eq!(thread.uids()?, BTreeSet::from([0]));
            assert_eq!(thread.set("CapEff")? & 1, 0, "root's number, not root's powers");
        }
        assert_eq!(warren.peer().said("the user is root").len(), 1);
        warren.stop()?;
        Ok(())
    });
}

#[test]
fn the_service_manager_hears_of_start_and_stop_from_inside_the_sandbox() {
    scenario("notify", |lab| {
        let world = World::new(lab, 0)?;
        let home = Home::new(&world.server, "warren", &config(&[], &[]))?;
        let socket = lab.folder().join("notify");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(PATIENCE))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
        let mut command = home.up_command();
        command.env("NOTIFY_SOCKET", &socket);
        let peer = world.server.spawn("notifies", command)?;

        let mut heard = [0; 64];
        let len = manager.recv(&mut heard)?;
        assert_eq!(heard[..len].trim_ascii_end(), b"READY=1");
        peer.signal(nix::sys::signal::Signal::SIGTERM)?;
        let len = manager.recv(&mut heard)?;
        assert_eq!(heard[..len].trim_ascii_end(), b"STOPPING=1");

        assert!(peer.wait_exit(PATIENCE)?.success());
        Ok(())
    });
}

#[test]
fn the_management_protocol_is_spoken_where_only_root_could_listen_and_its_socket_goes_away() {
    scenario("management", |lab| {
        let world = World::new(lab, 0)?;
        let vault = lab.folder().join("vault");
        fs::create_dir(&vault)?;
        fs::set_permissions(&vault, fs::Permissions::from_mode(0o700))?;
        let socket = vault.join("management");
        let key = format!("management = \"{}\"", socket.display());
        let warren = Warren::up(&world.server, "warren", &config(&[], &[&key]))?;
        has_given_up_root(warren.peer(), CAP_NET_ADMIN | CAP_NET_BIND_SERVICE)?;

        let console = UnixStream::connect(&socket)?;
        console.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = String::new();
        BufReader::new(console).read_line(&mut greeting)?;
        assert!(greeting.starts_with(">INFO:"), "{greeting}");
        let home = warren.stop()?;
        assert!(!socket.exists(), "the socket stays behind");

        // After a kill, the keeper is still there to tidy up.
        let warren = Warren::start(&home)?;
        warren.peer().signal(nix::sys::signal::Signal::SIGKILL)?;
        eventually(PATIENCE, || {
            ensure!(!socket.exists(), "the socket stays behind");
            Ok(())
        })
    });
}

#[test]
fn the_helper_that_keeps_roots_rights_ends_with_its_process_however_that_ends() {
    scenario("keeper", |lab| {
        let world = World::new(lab, 0)?;
        let warren = Warren::up(&world.server, "warren", &config(&[], &[]))?;
        let children = format!("/proc/{0}/task/{0}/children", warren.peer().pid());
        let keeper: i32 = fs::read_to_string(children)?.trim().parse()?;
        let status = Status(fs::read_to_string(format!("/proc/{keeper}/status"))?);
        assert_eq!(status.line("Name")?, "warren-keeper");
        // CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_FOWNER.
        assert_eq!(status.set("CapEff")?, 0b1101);
        assert_eq!(status.line("NoNewPrivs")?, "1");

        warren.peer().signal(nix::sys::signal::Signal::SIGKILL)?;

        eventually(PATIENCE, || {
            let gone = !Path::new(&format!("/proc/{keeper}")).exists();
            ensure!(gone, "it still runs");
            Ok(())
        })
    });
}
