//! Name resolution for the client role: systemd-resolved where it runs, else `/etc/resolv.conf`.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use contract::{DnsSettings, Dnssec};
use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};

use crate::error::HostError;
use crate::place::{read_public, remove_file};

pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where `/etc/resolv.conf` may lead, from `/`: what systemd-resolved, resolvconf, NetworkManager,
/// netconfig and ConnMan keep for everybody to read.
const RESOLVERS_FILES: [&str; 9] = [
    "run/systemd/resolve/stub-resolv.conf",
    "run/systemd/resolve/resolv.conf",
    "usr/lib/systemd/resolv.conf",
    "lib/systemd/resolv.conf",
    "run/resolvconf/resolv.conf",
    "run/NetworkManager/resolv.conf",
    "run/NetworkManager/no-stub-resolv.conf",
    "run/netconfig/resolv.conf",
    "run/connman/resolv.conf",
];
const RESOLVED: &str = "/run/systemd/resolve";
/// systemd's own limit for a call on the bus is 25 s; nobody waits that long for a name server.
const RESOLVECTL_PATIENCE: Duration = Duration::from_secs(5);
const RESOLVECTL_POLL: Duration = Duration::from_millis(10);
/// glibc ignores the others (resolv.conf(5), `MAXNS`).
const MAX_SERVERS: usize = 3;
/// `IFNAMSIZ` without the terminating zero (linux/if.h).
const MAX_LINK_NAME: usize = 15;
const HEADER: &str = "# Written by Warren while it is connected; the former content comes back.\n";

/// Finds `resolvectl`, if systemd-resolved runs.
pub(crate) fn resolvectl() -> Option<PathBuf> {
    if !Path::new(RESOLVED).exists() {
        return None;
    }
    ["/usr/bin/resolvectl", "/bin/resolvectl"].iter().map(PathBuf::from).find(|path| path.exists())
}

/// The domains that are host names, so that they can neither break the file nor pass for options.
pub(crate) fn valid_domains(domains: &[String]) -> Vec<String> {
    let (valid, invalid): (Vec<_>, Vec<_>) =
        domains.iter().cloned().partition(|domain| is_host_name(domain));
    for domain in invalid {
        tracing::warn!(?domain, "the server's domain is not a host name; left out");
    }
    valid
}

/// Why `/etc/resolv.conf` cannot say what the settings do. Half of it would send names to
/// resolvers that have no business with them, or send them in the clear.
pub(crate) fn beyond_resolv_conf(settings: &DnsSettings) -> Option<&'static str> {
    if !settings.split.is_empty() {
        return Some(
            "they are for some domains only, which takes systemd-resolved; names in those domains \
             are resolved as all others are",
        );
    }
    if settings.tls.is_some() {
        return Some("they are to be asked inside TLS, which takes systemd-resolved");
    }
    if settings.dnssec == Some(Dnssec::Yes) {
        return Some("their answers must be signed, which takes systemd-resolved");
    }
    None
}

/// RFC 1123, 2.1, and the underscore that names in use have.
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What systemd-resolved is told about the tunnel's interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct LinkDns {
    pub(crate) link: String,
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) domains: Vec<String>,
    /// As `resolvectl dnssec` calls it.
    #[serde(default)]
    pub(crate) dnssec: Option<String>,
    /// Questions inside TLS only.
    #[serde(default)]
    pub(crate) tls: bool,
    /// The name in the resolvers' certificate.
    #[serde(default)]
    pub(crate) sni: Option<String>,
}

impl LinkDns {
    /// The settings of the interface; with `exclusive`, every name is resolved there, unless the
    /// settings name the domains that are.
    pub(crate) fn new(link: &str, settings: &DnsSettings, exclusive: bool) -> Self {
        let mut domains = valid_domains(&settings.search);
        if settings.split.is_empty() {
            if exclusive || domains.is_empty() {
                domains.push("~.".to_owned());
            }
        } else {
            // The tilde: resolved there, and not completed with it.
            domains
                .extend(valid_domains(&settings.split).iter().map(|domain| format!("~{domain}")));
        }
        let dnssec = settings.dnssec.map(|dnssec| match dnssec {
            Dnssec::Yes => "yes".to_owned(),
            Dnssec::Optional => "allow-downgrade".to_owned(),
            Dnssec::No => "no".to_owned(),
        });
        Self {
            link: link.to_owned(),
            servers: settings.servers.clone(),
            domains,
            dnssec,
            tls: settings.tls.is_some(),
            sni: settings
                .tls
                .as_ref()
                .and_then(|tls| tls.name.clone())
                .filter(|it| is_host_name(it)),
        }
    }

    /// Whether each word is a name or an address, as in everything that [`new`](Self::new) makes:
    /// none can pass for an option.
    pub(crate) fn is_harmless(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_link = (1..=MAX_LINK_NAME).contains(&self.link.len())
            && !self.link.starts_with(['-', '.'])
            && self.link.bytes().all(plain);
        let is_domain = |domain: &String| {
            domain == "~." || is_host_name(domain.strip_prefix('~').unwrap_or(domain))
        };
        let is_dnssec = |word: &String| ["yes", "no", "allow-downgrade"].contains(&word.as_str());
        is_link
            && self.domains.iter().all(is_domain)
            && self.sni.as_deref().is_none_or(is_host_name)
            && self.dnssec.iter().all(is_dnssec)
    }

    /// That it [is harmless](Self::is_harmless).
    pub(crate) fn check(&self) -> Result<(), HostError> {
        if self.is_harmless() { Ok(()) } else { Err(HostError::OddLinkDns(self.link.clone())) }
    }

    /// Tells systemd-resolved; all or nothing.
    pub(crate) fn make(&self) -> Result<(), HostError> {
        let program = resolvectl().ok_or_else(|| HostError::Resolvectl("not found".to_owned()))?;
        self.orders().iter().try_for_each(|order| run(&program, order)).inspect_err(|_| {
            // The first error is the one to report.
            let _ = run(&program, &["revert".to_owned(), self.link.clone()]);
        })
    }

    /// The arguments of `resolvectl`, one call after the other.
    fn orders(&self) -> Vec<Vec<String>> {
        let order = |verb: &str, values: Vec<String>| {
            let mut words = vec![verb.to_owned(), self.link.clone()];
            words.extend(values);
            words
        };
        let server = |server: &IpAddr| match &self.sni {
            Some(name) => format!("{server}#{name}"),
            None => server.to_string(),
        };
        let mut orders = vec![
            order("dns", self.servers.iter().map(server).collect()),
            order("domain", self.domains.clone()),
        ];
        if self.tls {
            orders.insert(0, order("dnsovertls", vec!["yes".to_owned()]));
        }
        orders.extend(self.dnssec.iter().map(|dnssec| order("dnssec", vec![dnssec.clone()])));
        orders
    }

    /// Makes systemd-resolved forget the interface's settings.
    pub(crate) fn undo(&self) -> Result<(), HostError> {
        match resolvectl() {
            Some(program) => run(&program, &["revert".to_owned(), self.link.clone()]),
            None => Ok(()),
        }
    }
}

fn run(program: &Path, arguments: &[String]) -> Result<(), HostError> {
    let failed = |what: &dyn std::fmt::Display| {
        HostError::Resolvectl(format!("`{}`: {what}", arguments.join(" ")))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error))?;
    match wait(&mut child).map_err(|error| failed(&error))? {
        status if status.success() => Ok(()),
        status => Err(failed(&status)),
    }
}

fn wait(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let deadline = Instant::now() + RESOLVECTL_PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(RESOLVECTL_POLL);
    }
}

/// `/etc/resolv.conf` as it was, and as we write it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ResolvConf {
    original: Original,
    written: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Original {
    Missing,
    Symlink {
        target: PathBuf,
    },
    /// The mode is without the right to run it, which no such file needs and none gets back.
    File {
        content: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// What became of the file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Restored {
    /// It is as it was found.
    Yes,
    /// It was so already.
    NothingToDo,
    /// Somebody else wrote it since, so it stays.
    ChangedByOthers,
    /// What it was could be run, or leads to where names are not resolved, so it stays.
    Harmful,
}

impl ResolvConf {
    /// Looks at the file, and plans what to write instead.
    pub(crate) fn plan(settings: &DnsSettings) -> Result<Self, HostError> {
        let path = Path::new(RESOLV_CONF);
        let original = Original::look(path).map_err(HostError::file(path, "read"))?;
        let written = content(settings, &original.text());
        Ok(Self { original, written })
    }

    /// The same file with other content. If somebody else wrote it since, what they wrote is the
    /// original from now on; as long as the content stays, so does theirs.
    pub(crate) fn with(&self, settings: &DnsSettings) -> Result<Self, HostError> {
        let written = content(settings, &self.original.text());
        let changed = Self { original: self.original.clone(), written };
        let path = Path::new(RESOLV_CONF);
        let present = Original::look(path).map_err(HostError::file(path, "read"))?;
        if changed == *self || self.wrote(&present) { Ok(changed) } else { Self::plan(settings) }
    }

    /// That it [is harmless](Self::is_harmless), or what to do.
    pub(crate) fn check(&self) -> Result<(), HostError> {
        if self.is_harmless() { Ok(()) } else { Err(HostError::OddResolvConf) }
    }

    /// Whether neither writing nor restoring it can make a program of it, or a way to a file that
    /// is no resolver's.
    pub(crate) fn is_harmless(&self) -> bool {
        let is_plain = match &self.original {
            Original::Missing => true,
            Original::File { mode, .. } => mode & 0o7111 == 0,
            Original::Symlink { target } => is_resolvers(target),
        };
        is_plain && self.written.starts_with(HEADER)
    }

    fn wrote(&self, present: &Original) -> bool {
        matches!(present, Original::File { content, .. } if content == self.written.as_bytes())
    }

    /// Writes the file; all or nothing.
    pub(crate) fn make(&self) -> Result<(), HostError> {
        let path = Path::new(RESOLV_CONF);
        put(path, self.written.as_bytes(), None).map_err(HostError::file(path, "write"))
    }

    /// Puts back what was found, unless somebody else wrote the file since.
    pub(crate) fn undo(&self) -> Result<Restored, HostError> {
        let path = Path::new(RESOLV_CONF);
        let present = Original::look(path).map_err(HostError::file(path, "read"))?;
        if present == self.original {
            return Ok(Restored::NothingToDo);
        }
        if !self.wrote(&present) {
            return Ok(Restored::ChangedByOthers);
        }
        self.original.restore(path).map_err(HostError::file(path, "restore"))?;
        Ok(Restored::Yes)
    }
}

impl Original {
    fn look(path: &Path) -> io::Result<Self> {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Missing),
            metadata => metadata?,
        };
        if metadata.is_symlink() {
            return Ok(Self::Symlink { target: fs::read_link(path)? });
        }
        Ok(Self::File {
            content: fs::read(path)?,
            mode: metadata.mode() & 0o7666,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    /// What it says to whoever resolves names.
    fn text(&self) -> String {
        match self {
            Self::Missing => String::new(),
            Self::File { content, .. } => String::from_utf8_lossy(content).into_owned(),
            Self::Symlink { target } => {
                let content = read_public(&Path::new("/etc").join(target)).unwrap_or_default();
                String::from_utf8(content).unwrap_or_default()
            }
        }
    }

    fn restore(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Missing => fs::remove_file(path),
            Self::Symlink { target } => {
                let fresh = neighbour(path);
                remove_file(&fresh)?;
                symlink(target, &fresh)?;
                fs::rename(&fresh, path).inspect_err(|_| {
                    // The first error is the one to report.
                    let _ = remove_file(&fresh);
                })
            }
            Self::File { content, mode, uid, gid } => put(path, content, Some((*mode, *uid, *gid))),
        }
    }
}

/// Whether it is a name of a resolver's file, absolute or as seen from `/etc`.
fn is_resolvers(target: &Path) -> bool {
    let Some(name) = target.to_str() else { return false };
    let name = name.strip_prefix('/').or_else(|| name.strip_prefix("../"));
    name.is_some_and(|name| RESOLVERS_FILES.contains(&name))
}

/// Replaces the file in one step; where it is a mount of its own (containers), in place.
fn put(path: &Path, content: &[u8], owner: Option<(u32, u32, u32)>) -> io::Result<()> {
    let fresh = neighbour(path);
    remove_file(&fresh)?;
    let put = make_file(&fresh, content, owner).and_then(|()| fs::rename(&fresh, path));
    let Err(error) = put else { return Ok(()) };
    let removed = remove_file(&fresh);
    if error.raw_os_error() != Some(Errno::EBUSY as i32) {
        return Err(error);
    }
    removed?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).truncate(true).custom_flags(O_NOFOLLOW).open(path)?;
    file.write_all(content)
}

/// Makes a file where there is nothing, not even a link.
fn make_file(path: &Path, content: &[u8], owner: Option<(u32, u32, u32)>) -> io::Result<()> {
    let (mode, uid, gid) = owner.unwrap_or((0o644, 0, 0));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).custom_flags(O_NOFOLLOW).open(path)?;
    file.write_all(content)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fchown(&file, Some(uid), Some(gid))?;
    file.sync_all()
}

fn neighbour(path: &Path) -> PathBuf {
    path.with_file_name(".resolv.conf.warren")
}

/// Our file: the tunnel's resolvers and domains, and what else the former one said.
fn content(settings: &DnsSettings, former: &str) -> String {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut search = valid_domains(&settings.search);
    let mut servers: Vec<_> =
        settings.servers.iter().map(|server| format!("nameserver {server}")).collect();
    let mut options = Vec::new();
    for line in former.lines() {
        match words(line).first().map(String::as_str) {
            Some("nameserver") if settings.servers.is_empty() => servers.push(line.to_owned()),
            Some("search" | "domain") => {
                let known = search.clone();
                search.extend(words(line).into_iter().skip(1).filter(|it| !known.contains(it)));
            }
            Some("options" | "sortlist") => options.push(line.to_owned()),
            _ => {}
        }
    }

    let mut content = HEADER.to_owned();
    servers.truncate(MAX_SERVERS);
    if !search.is_empty() {
        servers.push(format!("search {}", search.join(" ")));
    }
    for line in servers.iter().chain(&options) {
        content.push_str(line);
        content.push('\n');
    }
    content
}

#[cfg(test)]
mod tests;
