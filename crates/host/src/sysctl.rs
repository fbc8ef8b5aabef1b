//! Kernel settings that several Warrens of one namespace share.
//!
//! The first holder of a setting changes it, the last one restores what was found. Who holds what
//! and what was found is kept in one file under a lock; holders whose process is gone do not
//! count, whoever comes next removes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::HostError;
use crate::place::{Place, remove_file, replace_file};

const SYSCTLS: &str = "/proc/sys";

/// A setting.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Setting {
    /// IPv4 packets are forwarded.
    Forward4,
    /// IPv6 packets are forwarded.
    Forward6,
    /// The reverse path filter looks at marks.
    ValidMark,
}

impl Setting {
    /// What turns it on, by writing 1.
    fn switch(self) -> &'static str {
        match self {
            Self::Forward4 => "net/ipv4/ip_forward",
            Self::Forward6 => "net/ipv6/conf/all/forwarding",
            Self::ValidMark => "net/ipv4/conf/all/src_valid_mark",
        }
    }

    /// What the kernel changes of its own accord when the switch is written: the forwarding of
    /// every interface, and whether redirects are believed (RFC 1122 for hosts, RFC 1812 for
    /// routers).
    fn side_effects(self) -> io::Result<Vec<String>> {
        match self {
            Self::Forward4 => {
                let mut paths = per_interface("net/ipv4", "forwarding")?;
                paths.retain(|path| path != "net/ipv4/conf/all/forwarding");
                paths.push("net/ipv4/conf/all/accept_redirects".to_owned());
                Ok(paths)
            }
            Self::Forward6 => {
                let mut paths = per_interface("net/ipv6", "forwarding")?;
                paths.retain(|path| path != self.switch());
                Ok(paths)
            }
            Self::ValidMark => Ok(Vec::new()),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward4 => "net.ipv4.ip_forward",
            Self::Forward6 => "net.ipv6.conf.all.forwarding",
            Self::ValidMark => "net.ipv4.conf.all.src_valid_mark",
        })
    }
}

/// The value now; `None` if the kernel has no such setting.
pub(crate) fn read(path: &str) -> Option<String> {
    let value = fs::read_to_string(Path::new(SYSCTLS).join(path)).ok()?;
    Some(value.trim().to_owned())
}

/// Whether the setting is on; `None` if the kernel has no such setting.
pub(crate) fn is_on(setting: Setting) -> Option<bool> {
    read(setting.switch()).map(|value| value != "0")
}

/// Writes the value unless it is there already, so that a read-only `/proc/sys` with the right
/// values is good enough.
pub(crate) fn write(path: &str, value: &str) -> Result<(), HostError> {
    if read(path).as_deref() == Some(value) {
        return Ok(());
    }
    let path = Path::new(SYSCTLS).join(path);
    fs::write(&path, value).map_err(HostError::file(&path, "write"))
}

fn per_interface(family: &str, name: &str) -> io::Result<Vec<String>> {
    let folder = format!("{family}/conf");
    let mut paths = Vec::new();
    for entry in fs::read_dir(Path::new(SYSCTLS).join(&folder))? {
        let entry = entry?.file_name();
        paths.push(format!("{folder}/{}/{name}", entry.to_string_lossy()));
    }
    paths.sort();
    Ok(paths)
}

/// One who needs a setting: the Warren whose state is in this folder, as long as its process is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Holder {
    state: PathBuf,
    pid: u32,
    /// In clock ticks since boot, to tell the process from a later one with its number.
    started: u64,
}

impl Holder {
    fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }
}

/// When the process started; `None` if there is none.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; field 22 is the 20th after it (proc(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A setting that is held, and how it was before.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Held {
    /// What the switch said.
    found: String,
    /// What the kernel changed along with it.
    side_effects: BTreeMap<String, String>,
    /// Interfaces that took router advertisements only as hosts.
    hosts: Vec<String>,
    holders: Vec<Holder>,
}

/// Everything held in one namespace.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Register {
    boot: String,
    held: BTreeMap<Setting, Held>,
}

/// The register, locked.
struct Session {
    path: PathBuf,
    register: Register,
    _lock: File,
}

impl Session {
    fn open(place: &Place, state: &Path) -> Result<Self, HostError> {
        let folder = place.shared_folder();
        let usable = fs::create_dir_all(&folder).and_then(|()| {
            let probe = folder.join("probe");
            fs::write(&probe, []).and_then(|()| remove_file(&probe))
        });
        match usable {
            Ok(()) => Self::open_in(&folder, "sysctl.json", place),
            Err(_) => Self::open_in(state, &format!("sysctl-{}.json", place.netns), place),
        }
    }

    fn open_in(folder: &Path, name: &str, place: &Place) -> Result<Self, HostError> {
        let lock = File::open(folder).map_err(HostError::file(folder, "open"))?;
        lock.lock().map_err(HostError::file(folder, "lock"))?;
        let path = folder.join(name);
        let register = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|cause| HostError::Register { path: path.clone(), cause })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Register::default(),
            Err(error) => return Err(HostError::file(&path, "read")(error)),
        };
        let register = if register.boot == place.boot {
            register
        } else {
            Register { boot: place.boot.clone(), held: BTreeMap::new() }
        };
        Ok(Self { path, register, _lock: lock })
    }

    fn save(&self) -> Result<(), HostError> {
        let saved = if self.register.held.is_empty() {
            remove_file(&self.path)
        } else {
            let bytes = serde_json::to_vec_pretty(&self.register).map_err(io::Error::other);
            bytes.and_then(|bytes| replace_file(&self.path, &bytes))
        };
        saved.map_err(HostError::file(&self.path, "write"))
    }

    /// Forgets the dead, and restores what only they held, but for `wanted`. Our own dead are
    /// left to our journal, which tells the operator.
    fn bury_the_dead(&mut self, state: &Path, wanted: Option<Setting>) -> Result<(), HostError> {
        let mut result = Ok(());
        self.register.held.retain(|&setting, held| {
            held.holders.retain(|holder| holder.state == state || holder.is_alive());
            if !held.holders.is_empty() || wanted == Some(setting) {
                return true;
            }
            match restore(setting, held) {
                Ok(()) => false,
                Err(error) => {
                    result = Err(error);
                    true
                }
            }
        });
        result
    }

    fn let_go(&mut self, setting: Setting, state: &Path) -> Result<bool, HostError> {
        let mine = self.register.held.get_mut(&setting).is_some_and(|held| {
            let before = held.holders.len();
            held.holders.retain(|holder| holder.state != state);
            held.holders.len() < before
        });
        let buried = self.bury_the_dead(state, None);
        self.save()?;
        buried.map(|()| mine)
    }
}

/// Turns the setting on for the Warren of the state folder.
///
/// All or nothing: after an error, nothing is held.
pub(crate) fn hold(setting: Setting, place: &Place, state: &Path) -> Result<(), HostError> {
    let mut session = Session::open(place, state)?;
    session.bury_the_dead(state, Some(setting))?;
    if !session.register.held.contains_key(&setting) {
        if is_on(setting) == Some(true) {
            return session.save();
        }
        let held = look(setting).map_err(HostError::kernel(format!("look at {setting}")))?;
        session.register.held.insert(setting, held);
    }
    let held = session.register.held.entry(setting).or_default();
    held.holders.retain(|holder| holder.state != state);
    held.holders.push(myself(state));
    let held = held.clone();
    session.save()?;

    turn_on(setting, &held).inspect_err(|_| {
        // The first error is the one to report; this undoes as much as can be.
        let _ = session.let_go(setting, state);
    })
}

/// Lets go of the setting; the last to do so restores it. Returns whether it was held.
pub(crate) fn release(setting: Setting, place: &Place, state: &Path) -> Result<bool, HostError> {
    Session::open(place, state)?.let_go(setting, state)
}

/// Whether the setting is off, or would be if no Warren had turned it on.
pub(crate) fn is_ours(setting: Setting, place: &Place, state: &Path) -> Result<bool, HostError> {
    let session = Session::open(place, state)?;
    let held = session.register.held.get(&setting);
    Ok(is_on(setting) == Some(false) || held.is_some_and(|held| held.found == "0"))
}

fn myself(state: &Path) -> Holder {
    let pid = std::process::id();
    Holder { state: state.to_path_buf(), pid, started: start_of(pid).unwrap_or(0) }
}

fn look(setting: Setting) -> io::Result<Held> {
    let value = |path: &String| read(path).map(|value| (path.clone(), value));
    let mut hosts = Vec::new();
    if setting == Setting::Forward6 {
        hosts = per_interface("net/ipv6", "accept_ra")?;
        hosts.retain(|path| read(path).as_deref() == Some("1"));
    }
    Ok(Held {
        found: read(setting.switch()).ok_or(io::ErrorKind::NotFound)?,
        side_effects: setting.side_effects()?.iter().filter_map(value).collect(),
        hosts,
        holders: Vec::new(),
    })
}

fn turn_on(setting: Setting, held: &Held) -> Result<(), HostError> {
    // A router ignores router advertisements, and forgets the routes it had from them the moment
    // it becomes one, unless told by 2 that it is a host as well: so this goes first.
    for path in &held.hosts {
        if read(path).as_deref() == Some("1") {
            write(path, "2")?;
        }
    }
    write(setting.switch(), "1")
}

/// Puts back what was found, if it is still as we set it: what others changed since is theirs.
fn restore(setting: Setting, held: &Held) -> Result<(), HostError> {
    if read(setting.switch()).as_deref() == Some("1") {
        write(setting.switch(), &held.found)?;
        for (path, value) in &held.side_effects {
            if read(path).is_some() {
                write(path, value)?;
            }
        }
    }
    for path in &held.hosts {
        if read(path).as_deref() == Some("2") {
            write(path, "1")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
