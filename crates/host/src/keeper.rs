//! What only root can do after the program has stopped being root: a process of its own that does
//! these few things when asked, and nothing else.
//!
//! ```text
//!   server, client: no root, no file system    keeper: root's number, three capabilities,
//!   but its own, faces the network             reads no packet
//!            |                                        |
//!            |  Request  -- a pair of sockets -->     |  read the configuration file, and
//!            |                                        |  outside CAs with their lists
//!            |  <--  Reply                            |  name servers: resolv.conf, resolvectl
//! ```
//!
//! The keeper trusts nobody: it reads files whose names it was started with, as whoever could
//! have replaced them, besides what everybody may read of name resolution; in the end it
//! removes sockets whose names it was started with, too. It writes `/etc/resolv.conf` and no other
//! file, never with a mode that could run it and through no link, makes it a link to a resolver's
//! file only, and starts no program but `resolvectl`, with arguments that are names and addresses.
//! It ends with the process that started it.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::DnsSettings;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use serde::{Deserialize, Serialize};
use sys::Capability;
use sys::offspring::{self, Offspring};

use crate::dns::{LinkDns, ResolvConf, Restored};
use crate::error::HostError;
use crate::place::{read_public, replace_file};
use crate::trust::read_as_its_owner;
use crate::watched::{self, Snapshot};

/// As `ps` shows it.
const NAME: &CStr = c"warren-keeper";
/// The largest message: watched files of 1 MiB each, in which JSON may write every character with
/// two; configurations and `resolv.conf` are far smaller.
const MAX_MESSAGE: usize = 5 * 1024 * 1024;
/// `resolvectl` is called five times at most and cut off after five seconds each.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the resolver of the C library reads.
const NAME_FILES: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
];
/// Root's number owns `/etc` without any of them. The first is for a configuration file that
/// belongs to somebody else, the others for a `resolv.conf` that does.
const CAPABILITIES: [Capability; 3] =
    [Capability::DacReadSearch, Capability::Chown, Capability::Fowner];

#[derive(Debug, Deserialize, Serialize)]
enum Request {
    Config,
    Watched { seen: Option<u64> },
    NameFiles,
    Plan { servers: Vec<IpAddr>, search: Vec<String> },
    Replan { present: ResolvConf, servers: Vec<IpAddr>, search: Vec<String> },
    Write(ResolvConf),
    Restore(ResolvConf),
    SetLink(LinkDns),
    RevertLink(LinkDns),
}

#[derive(Debug, Deserialize, Serialize)]
enum Reply {
    Done,
    Text(String),
    Watched(Snapshot),
    Files(Vec<(PathBuf, Vec<u8>)>),
    Planned(ResolvConf),
    Restored(Restored),
    /// The system's answer by its number; `None` for a file that is not text.
    CannotRead(Option<i32>),
    /// One line for the operator.
    Failed(String),
}

/// A hold on the keeper; the last one to be dropped ends it.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    line: Mutex<UnixStream>,
    process: Option<Offspring>,
    /// Whether `/etc` is a folder of our own, which shall look like the host's.
    has_own_etc: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = line.shutdown(std::net::Shutdown::Both);
        if let Some(process) = &self.process {
            process.wait();
        }
    }
}

impl Keeper {
    /// Starts the keeper, which will read `config` and the files in `watched` when asked, and remove
    /// these unix sockets at the end. The process must still be root and have one thread.
    ///
    /// # Errors
    ///
    /// Fails if the system has no room for another process.
    pub fn start(
        config: Option<PathBuf>,
        watched: Vec<PathBuf>,
        sockets: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut ours = Some(ours);
        let process = offspring::spawn(|| {
            // As long as it is open anywhere, the line has two ends.
            drop(ours.take());
            let readable = Readable { config, watched };
            if let Err(error) = live(theirs, &readable) {
                tracing::error!("the process that keeps root's rights cannot work: {error}");
            }
            sockets.iter().for_each(|socket| remove_socket(socket));
        })?;
        let ours = ours.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self::with(ours, Some(process)))
    }

    fn with(line: UnixStream, process: Option<Offspring>) -> Self {
        let has_own_etc = AtomicBool::new(false);
        Self(Arc::new(Shared { line: Mutex::new(line), process, has_own_etc }))
    }

    /// Ends it, and waits until it has ended, whoever else has a hold on it.
    pub fn end(&self) {
        let line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = line.shutdown(std::net::Shutdown::Both);
        if let Some(process) = &self.0.process {
            process.wait();
        }
    }

    /// Reads the configuration file again.
    ///
    /// # Errors
    ///
    /// As reading the file by [`read_as_its_owner`] would.
    pub fn read_config(&self) -> io::Result<String> {
        match self.ask(&Request::Config)? {
            Reply::Text(text) => Ok(text),
            Reply::CannotRead(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Reply::Failed(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Reads the files that it was started with; `None` if they are as they were when this `seen`
    /// was the [`Snapshot::stamp`].
    pub(crate) fn read_watched(&self, seen: Option<u64>) -> io::Result<Option<Snapshot>> {
        match self.ask(&Request::Watched { seen })? {
            Reply::Done => Ok(None),
            Reply::Watched(snapshot) => Ok(Some(snapshot)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// From here on `/etc` is an empty folder of our own: fills it with what the C library's
    /// resolver reads.
    pub fn furnish_etc(&self) {
        self.0.has_own_etc.store(true, Ordering::Relaxed);
        self.refresh_names();
    }

    /// Brings what the resolver reads up to date with the host, where `/etc` is our own: the
    /// host's network may have changed.
    pub fn refresh_names(&self) {
        if !self.0.has_own_etc.load(Ordering::Relaxed) {
            return;
        }
        let files = match self.ask(&Request::NameFiles) {
            Ok(Reply::Files(files)) => files,
            Ok(reply) => return tracing::warn!(?reply, "the keeper does not say where names are"),
            Err(error) => return tracing::warn!("{error}: names may not resolve"),
        };
        for (path, content) in files {
            if fs::read(&path).is_ok_and(|present| present == content) {
                continue;
            }
            if let Err(error) = replace_file(&path, &content) {
                tracing::warn!("{}: cannot write: {error}", path.display());
            }
        }
    }

    fn ask(&self, request: &Request) -> io::Result<Reply> {
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = send(&mut line, request).and_then(|()| receive(&mut line));
        let answer =
            answered.and_then(|reply| reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        answer.map_err(|error: io::Error| {
            // An answer that comes late must not be taken for that to the next question.
            let _ = line.shutdown(std::net::Shutdown::Both);
            let what = "the process that keeps root's rights does not answer; restart Warren";
            io::Error::new(error.kind(), format!("{what} ({error})"))
        })
    }

    fn order(&self, request: &Request) -> Result<Reply, HostError> {
        match self.ask(request) {
            Ok(Reply::Failed(line)) => Err(HostError::Keeper(line)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(HostError::Keeper(error.to_string())),
        }
    }
}

/// Name servers, by the keeper if there is one, else by ourselves.
///
/// Both do the same things only. Root may find a journal of a run without root, and what is in
/// there is no better than an order to the keeper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'k>(pub(crate) Option<&'k Keeper>);

impl Names<'_> {
    pub(crate) fn plan(self, settings: &DnsSettings) -> Result<ResolvConf, HostError> {
        let Some(keeper) = self.0 else {
            return ResolvConf::plan(settings).and_then(checked);
        };
        let DnsSettings { servers, search, .. } = settings.clone();
        planned(keeper.order(&Request::Plan { servers, search })?)
    }

    pub(crate) fn replan(
        self,
        present: &ResolvConf,
        settings: &DnsSettings,
    ) -> Result<ResolvConf, HostError> {
        let Some(keeper) = self.0 else {
            present.check()?;
            return present.with(settings).and_then(checked);
        };
        let DnsSettings { servers, search, .. } = settings.clone();
        planned(keeper.order(&Request::Replan { present: present.clone(), servers, search })?)
    }

    pub(crate) fn write(self, file: &ResolvConf) -> Result<(), HostError> {
        let Some(keeper) = self.0 else { return file.check().and_then(|()| file.make()) };
        keeper.order(&Request::Write(file.clone())).map(drop)
    }

    pub(crate) fn restore(self, file: &ResolvConf) -> Result<Restored, HostError> {
        let Some(keeper) = self.0 else {
            return if file.is_harmless() { file.undo() } else { Ok(Restored::Harmful) };
        };
        match keeper.order(&Request::Restore(file.clone()))? {
            Reply::Restored(restored) => Ok(restored),
            reply => Err(unexpected(&reply)),
        }
    }

    pub(crate) fn set_link(self, dns: &LinkDns) -> Result<(), HostError> {
        let Some(keeper) = self.0 else { return dns.check().and_then(|()| dns.make()) };
        keeper.order(&Request::SetLink(dns.clone())).map(drop)
    }

    pub(crate) fn revert_link(self, dns: &LinkDns) -> Result<(), HostError> {
        let Some(keeper) = self.0 else { return dns.check().and_then(|()| dns.undo()) };
        keeper.order(&Request::RevertLink(dns.clone())).map(drop)
    }
}

fn checked(file: ResolvConf) -> Result<ResolvConf, HostError> {
    file.check().map(|()| file)
}

fn planned(reply: Reply) -> Result<ResolvConf, HostError> {
    match reply {
        Reply::Planned(file) => Ok(file),
        reply => Err(unexpected(&reply)),
    }
}

fn unexpected(reply: &Reply) -> HostError {
    HostError::Keeper(format!("unexpected answer: {reply:?}"))
}

/// What may be asked for.
#[derive(Debug, Default)]
struct Readable {
    config: Option<PathBuf>,
    watched: Vec<PathBuf>,
}

/// The keeper's life: until nobody is left to ask.
fn live(mut line: UnixStream, readable: &Readable) -> io::Result<()> {
    let _ = nix::sys::prctl::set_name(NAME);
    // Ctrl-C and the like go to everybody at the terminal; who asks us decides when it is over,
    // and may need name servers put back until then.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        ignored.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None)?;
    std::env::set_current_dir("/")?;
    sys::privileges::give_up(None, &CAPABILITIES)?;
    serve(&mut line, readable)
}

fn serve(line: &mut UnixStream, readable: &Readable) -> io::Result<()> {
    while let Some(request) = receive(line)? {
        send(line, &answer(request, readable))?;
    }
    Ok(())
}

fn answer(request: Request, readable: &Readable) -> Reply {
    let answered = match request {
        Request::Config => {
            return readable.config.as_deref().map_or(Reply::CannotRead(Some(0)), read_text);
        }
        Request::Watched { seen } => {
            return watched::read(&readable.watched, seen).map_or(Reply::Done, Reply::Watched);
        }
        Request::NameFiles => {
            let read = |path| Some((PathBuf::from(path), read_public(Path::new(path)).ok()?));
            return Reply::Files(NAME_FILES.into_iter().filter_map(read).collect());
        }
        Request::Plan { servers, search } => {
            ResolvConf::plan(&DnsSettings { servers, search, ..DnsSettings::default() })
                .map(plan_or_reason)
        }
        Request::Replan { present, servers, search } if present.is_harmless() => present
            .with(&DnsSettings { servers, search, ..DnsSettings::default() })
            .map(plan_or_reason),
        Request::Write(file) if file.is_harmless() => file.make().map(|()| Reply::Done),
        Request::Restore(file) if file.is_harmless() => file.undo().map(Reply::Restored),
        Request::SetLink(dns) if dns.is_harmless() => dns.make().map(|()| Reply::Done),
        Request::RevertLink(dns) if dns.is_harmless() => dns.undo().map(|()| Reply::Done),
        refused => {
            tracing::error!(?refused, "an order for name servers that Warren never gives");
            return Reply::Failed("refused: not an order that Warren gives".to_owned());
        }
    };
    answered.unwrap_or_else(|error| Reply::Failed(error.to_string()))
}

/// Only what may be written and restored later is of use.
fn plan_or_reason(plan: ResolvConf) -> Reply {
    checked(plan).map_or_else(|odd| Reply::Failed(odd.to_string()), Reply::Planned)
}

fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket()) {
        // One that stays is replaced by the next start.
        let _ = fs::remove_file(path);
    }
}

fn read_text(path: &Path) -> Reply {
    match read_as_its_owner(path) {
        Ok(text) => Reply::Text(text),
        Err(error) if error.raw_os_error().is_some() => Reply::CannotRead(error.raw_os_error()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Reply::CannotRead(None),
        Err(error) => Reply::Failed(error.to_string()),
    }
}

fn send(line: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
    let len = u32::try_from(body.len()).map_err(|_| too_long())?;
    line.write_all(&len.to_be_bytes())?;
    line.write_all(&body)
}

/// The next message; `None` if the other end has gone.
fn receive<T: for<'de> Deserialize<'de>>(line: &mut UnixStream) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match line.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; len];
    line.read_exact(&mut body)?;
    serde_json::from_slice(&body).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
