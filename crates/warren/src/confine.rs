//! Giving up root: what `up` and `connect` do before anything faces the network.
//!
//! The order matters. Capabilities belong to threads, so all of this comes before the first
//! thread; and each step needs something that a later one gives up.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use backends::StateDir;
use config::{Config, RunAs};
use host::{Keeper, is_roots_alone};
use nix::unistd::{Gid, Group, Uid, User};
use sys::limits::{forbid_core_dumps, lift_locked_memory, lock_memory};
use sys::{Account, Capability, Sandbox, privileges};
use tracing::{info, warn};

use crate::failure::Usage;

/// The account that is taken if there is one.
const ACCOUNT: &str = "warren";
/// Accounts of the system are below (login.defs); one of that name above is a person.
const FIRST_PERSON: u32 = 1000;
/// Numbers that no account has and no distribution gives out (systemd's UIDS-GIDS.md calls 60578
/// to 61183 unused). Not nobody (65534), whom the kernel takes for everyone it does not know and
/// many daemons share: each of those could touch what is ours.
const NUMBERS: std::ops::Range<u32> = 61_086..61_096;
const TUN: &str = "/dev/net/tun";
const SHARED: &str = "/run/warren";

/// What the process will be.
#[derive(Debug)]
pub(crate) enum Role {
    /// Reads this file again when it is told to and these when they change, and leaves none of
    /// these sockets behind.
    Server { config: Option<PathBuf>, watched: Vec<PathBuf>, sockets: Vec<PathBuf> },
    /// Resolves names; with a port below 1024 of its own or not; leaves none of these sockets
    /// behind.
    Client { has_low_port: bool, sockets: Vec<PathBuf> },
}

/// What to give up, and what to keep.
#[derive(Debug)]
pub(crate) struct Confinement<'c> {
    /// Whom to turn into.
    pub(crate) user: &'c RunAs,
    /// Whether to leave the host's file system behind.
    pub(crate) sandbox: bool,
    /// The state folder.
    pub(crate) state: &'c Path,
    /// What for.
    pub(crate) role: Role,
}

/// Where things are afterwards.
#[derive(Debug)]
pub(crate) struct Confined {
    /// The state folder, by a path that leads there wherever the process is.
    pub(crate) state: PathBuf,
    /// For what only root can do.
    pub(crate) keeper: Option<Keeper>,
}

impl Confinement<'_> {
    /// Gives up root and everything else that the role does not need; nothing if root is not what
    /// the process is. What this machine does not allow is left out, with a line for each.
    ///
    /// # Errors
    ///
    /// Fails if there is no such account, or the state folder cannot be handed over.
    pub(crate) fn enter(self) -> anyhow::Result<Confined> {
        if let Err(error) = forbid_core_dumps() {
            warn!("a crash may write keys to a core file: {error}");
        }
        let _ = sys::limits::raise_open_files();
        if !privileges::is_root() {
            info!("not started as root: user and file system are as whoever started this chose");
            self.give_up(None, keep_memory())?;
            return Ok(Confined { state: self.state.to_owned(), keeper: None });
        }

        let account = self.account()?;
        let owner = account.unwrap_or(Account::ROOT);
        StateDir::hand_over(self.state, owner.uid, owner.gid)?;
        let state = self.state.canonicalize().context("the state folder")?;
        if let Some(other) = owner_of(Path::new(SHARED)).filter(|uid| ![0, owner.uid].contains(uid))
        {
            warn!(
                "user {other} ran a Warren here: run all that share a machine's settings as one \
                 user, or those may stay changed"
            );
        }
        // Where /run cannot be written, the state folder serves.
        let shared = match backends::hand_over_all(Path::new(SHARED), owner.uid, owner.gid) {
            Ok(()) => Some(Path::new(SHARED)),
            Err(_) => None,
        };
        let keeper = if account.is_some() || self.sandbox {
            let started = match &self.role {
                Role::Server { config, watched, sockets } => {
                    Keeper::start(config.clone(), watched.clone(), sockets.clone())
                }
                Role::Client { sockets, .. } => Keeper::start(None, Vec::new(), sockets.clone()),
            };
            Some(started.context("cannot start the process that keeps root's rights")?)
        } else {
            None
        };

        let is_sandboxed = self.sandbox && self.enter_sandbox(&state, shared, owner);
        if !self.sandbox {
            warn!("--no-sandbox: this process sees all of the file system");
        }
        if let (true, Role::Client { .. }, Some(keeper)) = (is_sandboxed, &self.role, &keeper) {
            keeper.furnish_etc();
        }
        let needs_ipc_lock = keep_memory();
        let obstacle = match account {
            Some(account) if !is_sandboxed => out_of_reach(account, &state),
            _ => None,
        };
        match obstacle {
            Some(obstacle) => {
                // In the sandbox there would be another device, and another way to the folder.
                warn!("stays root's number, without root's powers: {obstacle}");
                StateDir::hand_over(&state, 0, 0)?;
                let _ = backends::hand_over_all(Path::new(SHARED), 0, 0);
                self.give_up(None, needs_ipc_lock)?;
            }
            None => self.give_up(account, needs_ipc_lock)?,
        }
        info!(
            user = Uid::current().as_raw(),
            sandbox = is_sandboxed,
            "no longer has root's powers but those that it needs"
        );
        Ok(Confined { state, keeper })
    }

    /// Whom to turn into; nobody if that is not wanted or not possible.
    fn account(&self) -> anyhow::Result<Option<Account>> {
        let account = match self.user {
            RunAs::Root => {
                warn!("the user is root, as it was asked for: a mistake in this program is root's");
                return Ok(None);
            }
            RunAs::Auto => automatic()?,
            RunAs::Account(name) => {
                let Some(user) = User::from_name(name).context("cannot look up accounts")? else {
                    let what = format!("there is no account {name}; make it, or take \"auto\"");
                    return Err(Usage(what).into());
                };
                Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }
            }
        };
        let missing = missing([Capability::SetUid, Capability::SetGid, Capability::Chown]);
        if !missing.is_empty() {
            warn!("stays root: this container does not grant {missing}");
            return Ok(None);
        }
        if !privileges::is_mapped(account) {
            warn!(uid = account.uid, "stays root: this container does not have the user");
            return Ok(None);
        }
        Ok((account.uid != 0).then_some(account))
    }

    fn enter_sandbox(&self, state: &Path, shared: Option<&Path>, owner: Account) -> bool {
        let mut sandbox = Sandbox::new().writable(state).readable("/sys/fs/cgroup");
        if let Some(shared) = shared {
            sandbox = sandbox.writable(shared);
        }
        // A name that begins with @ is not in the file system.
        let notify = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
        if let Some(socket) = notify.filter(|path| path.is_absolute()) {
            sandbox = sandbox.readable(socket);
        }
        if matches!(self.role, Role::Client { .. }) {
            // The C library loads what nsswitch.conf names when the first name is resolved.
            for folder in ["/usr", "/lib", "/lib64", "/nix/store"] {
                sandbox = sandbox.code(folder);
            }
            sandbox = sandbox.private("/etc").readable("/run/systemd/resolve");
        }
        match sandbox.enter(owner) {
            Ok(()) => true,
            Err(error) => {
                warn!("no sandbox, all of the file system stays in sight: {error}");
                false
            }
        }
    }

    fn give_up(&self, account: Option<Account>, needs_ipc_lock: bool) -> anyhow::Result<()> {
        let mut keep = vec![Capability::NetAdmin];
        if matches!(self.role, Role::Server { .. } | Role::Client { has_low_port: true, .. }) {
            keep.push(Capability::NetBindService);
        }
        if needs_ipc_lock {
            keep.push(Capability::IpcLock);
        }
        privileges::give_up(account, &keep).context("cannot give up root's powers")
    }
}

/// Locks the memory; whether staying within the limit takes a capability.
fn keep_memory() -> bool {
    let is_unlimited = lift_locked_memory();
    let may_exceed = privileges::has(Capability::IpcLock);
    if !is_unlimited && !may_exceed {
        warn!("keys may be written to swap: raise the limit of locked memory (LimitMEMLOCK)");
        return false;
    }
    match lock_memory() {
        Ok(()) => !is_unlimited,
        Err(error) => {
            warn!("keys may be written to swap: {error}");
            false
        }
    }
}

/// The account of the system, or else a number of our own.
fn automatic() -> anyhow::Result<Account> {
    let named = User::from_name(ACCOUNT).context("cannot look up accounts")?;
    if let Some(user) = named.filter(|user| (1..FIRST_PERSON).contains(&user.uid.as_raw())) {
        return Ok(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
    }
    let is_free = |number: &u32| {
        let user = User::from_uid(Uid::from_raw(*number));
        let group = Group::from_gid(Gid::from_raw(*number));
        matches!((user, group), (Ok(None), Ok(None)))
    };
    let mut numbers = NUMBERS;
    let Some(number) = numbers.find(is_free) else {
        let what = format!("{NUMBERS:?} all have accounts; name one as server.user or --run-as");
        return Err(Usage(what).into());
    };
    Ok(Account { uid: number, gid: number })
}

/// What the account cannot get at although it has to, and what to do.
fn out_of_reach(account: Account, state: &Path) -> Option<String> {
    // Without the device there is nothing to open, which the start says better.
    if fs::metadata(TUN).is_ok_and(|device| !allows(&device, account, 0o6)) {
        return Some(format!("{TUN} is for root only; chmod 666 {TUN} helps"));
    }
    let is_closed =
        |folder: &&Path| !fs::metadata(folder).is_ok_and(|folder| allows(&folder, account, 0o1));
    let closed = state.ancestors().skip(1).find(is_closed)?;
    let (closed, uid) = (closed.display(), account.uid);
    Some(format!("user {uid} may not pass {closed}; choose another folder with --state"))
}

/// Whether the account has all of these permission bits (4 to read, 2 to write, 1 to enter).
fn allows(file: &fs::Metadata, account: Account, bits: u32) -> bool {
    let shift = if file.uid() == account.uid {
        6
    } else if file.gid() == account.gid {
        3
    } else {
        0
    };
    file.permissions().mode() >> shift & bits == bits
}

fn owner_of(path: &Path) -> Option<u32> {
    Some(fs::symlink_metadata(path).ok()?.uid())
}

fn missing<const N: usize>(capabilities: [Capability; N]) -> String {
    let missing = capabilities.into_iter().filter(|one| !privileges::has(*one));
    missing.map(Capability::name).collect::<Vec<_>>().join(", ")
}

/// What this machine does not allow; empty if all is well. `user` as in the configuration.
pub(crate) fn obstacles(user: &RunAs) -> Vec<(&'static str, Result<String, String>)> {
    if !privileges::is_root() {
        let why = "only root can look; `warren up` as root does all of this".to_owned();
        return vec![("least privilege", Err(why))];
    }
    let unprivileged = match user {
        RunAs::Root => Err("server.user is \"root\": a mistake in this program is root's".into()),
        RunAs::Auto => automatic().map_err(|error| error.to_string()),
        RunAs::Account(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            _ => Err(format!("there is no account {name}")),
        },
    };
    let unprivileged = unprivileged.and_then(|account| {
        let missing = missing([Capability::SetUid, Capability::SetGid, Capability::Chown]);
        if !missing.is_empty() {
            Err(format!("the server stays root: this container does not grant {missing}"))
        } else if privileges::is_mapped(account) {
            Ok(format!("the server becomes user {}", account.uid))
        } else {
            Err(format!("the server stays root: no user {} in this container", account.uid))
        }
    });
    // Only the thread that asks is in the namespace that it makes.
    let may_mount = std::thread::spawn(sys::sandbox::is_possible).join().unwrap_or(false);
    let may_lock = privileges::has(Capability::IpcLock) || lift_locked_memory();
    let all = |is: bool, why: &str| if is { Ok(String::new()) } else { Err(why.to_owned()) };
    vec![
        ("unprivileged user", unprivileged),
        (
            "sandbox",
            all(
                may_mount,
                "no mount namespaces here (CAP_SYS_ADMIN): all of the file system stays in sight",
            ),
        ),
        ("locked memory", all(may_lock, "keys may be written to swap: raise RLIMIT_MEMLOCK")),
        (
            "bounding set",
            all(
                privileges::has(Capability::SetPcap),
                "CAP_SETPCAP is missing: programs that the server starts could have more powers",
            ),
        ),
    ]
}

/// Refuses what somebody else than root may have chosen and root would act on: a server that was
/// broken into could otherwise write itself a configuration that makes it root at the next start,
/// or has root read a file, or open a socket, for it.
pub(crate) fn check_trust(
    config: &Config,
    file: Option<&Path>,
    state: &Path,
) -> anyhow::Result<()> {
    let user = &config.server.user;
    let key = if *user != RunAs::Auto {
        "server.user"
    } else if config.doors.openvpn.management.is_some() {
        "doors.openvpn.management"
    } else if config.doors.openvpn.server_key.is_some() {
        "doors.openvpn.server_key"
    } else if config.doors.openvpn.outside.is_some() {
        "doors.openvpn.client_ca"
    } else {
        return Ok(());
    };
    let Some(file) = file.filter(|_| privileges::is_root()) else { return Ok(()) };
    // The folder is about to become somebody else's, if it is not yet; and so is a link in it.
    let is_in = |state: &Path| {
        let places = [Some(file), file.parent()];
        let mut real = places.into_iter().flatten().filter_map(|place| place.canonicalize().ok());
        real.any(|place| place.starts_with(state))
    };
    let is_in_state = *user != RunAs::Root && state.canonicalize().is_ok_and(|state| is_in(&state));
    let is_alone = is_roots_alone(file);
    if is_alone.with_context(|| format!("{}: cannot look", file.display()))? && !is_in_state {
        return Ok(());
    }
    let file = file.display();
    let what = format!(
        "{file}: {key}: others than root can write this; move the file out of the \
         state folder to one that only root can write, such as /etc/warren, and name it with \
         --config"
    );
    Err(Usage(what).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_account_the_number_is_one_that_nobody_has() {
        let account = automatic().expect("a number is free");

        let is_system = (1..FIRST_PERSON).contains(&account.uid);
        assert!(is_system || NUMBERS.contains(&account.uid), "{account:?}");
        assert!(![0, 65_534].contains(&account.uid));
    }

    #[test]
    fn a_file_that_others_can_replace_is_not_roots_alone() {
        if !privileges::is_root() {
            eprintln!("skipped: needs root to own files");
            return;
        }
        let folder = std::env::temp_dir().join(format!("warren-alone-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let file = folder.join("warren.toml");
        fs::write(&file, "").expect("a file");
        let is_alone = || is_roots_alone(&file).expect("it is there");
        let own = |path: &Path, uid| {
            std::os::unix::fs::chown(path, Some(uid), None).expect("root gives files away");
        };

        assert!(is_alone());
        own(&folder, 61_086);
        assert!(!is_alone(), "its folder is somebody else's");
        let elsewhere = Path::new("/");
        let [auto, root, other, management, server_key, outside] = [
            "",
            "[server]\nuser = \"root\"",
            "[server]\nuser = \"vpn\"",
            "[doors.openvpn]\nmanagement = \"/run/x\"",
            "[doors.openvpn]\nserver_key = \"pkcs11:id=a?module-path=/x\"",
            "[doors.openvpn]\nclient_ca = \"/etc/shadow\"",
        ]
        .map(|text| Config::parse(text, "warren.toml").expect("a configuration"));
        assert!(check_trust(&root, Some(&file), elsewhere).is_err());
        let refused = check_trust(&management, Some(&file), elsewhere).expect_err("not root's");
        assert!(refused.to_string().contains("doors.openvpn.management"), "{refused}");
        let refused = check_trust(&server_key, Some(&file), elsewhere).expect_err("not root's");
        assert!(refused.to_string().contains("doors.openvpn.server_key"), "{refused}");
        let refused = check_trust(&outside, Some(&file), elsewhere).expect_err("not root's");
        assert!(refused.to_string().contains("doors.openvpn.client_ca"), "{refused}");
        check_trust(&auto, Some(&file), elsewhere).expect("nothing to believe");
        own(&folder, 0);
        for config in [&other, &management, &outside] {
            check_trust(config, Some(&file), Path::new("/etc")).expect("root's alone");
            assert!(check_trust(config, Some(&file), &folder).is_err(), "it will be the server's");
        }
        let link = folder.join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).expect("a link");
        assert!(check_trust(&other, Some(&link), &folder).is_err(), "the link will be, too");
        check_trust(&root, Some(&file), &folder).expect("it stays root's");
        own(&folder, 61_086);
        assert!(check_trust(&root, Some(&link), elsewhere).is_err(), "a link of others");
        own(&folder, 0);
        own(&file, 61_086);
        assert!(!is_alone(), "it is somebody else's");
        own(&file, 0);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("its owner may");
        assert!(!is_alone(), "everybody can write it");

        fs::remove_dir_all(&folder).expect("it was made above");
    }
}
