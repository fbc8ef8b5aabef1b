//! Where consoles connect.

use std::fmt;
use std::fs::{File, remove_file};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use config::{AuthMode, ManagementListen, OpenVpn};
use contract::{Authenticator, Secret};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use openvpn::management::Hold;
use shell::{Heard, News, SessionNews};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::attendant::Attendant;
use crate::connection::{self, Ended, talk};
use crate::decisions::{Decision, Decisions, Settings, established};
use crate::house::House;
use crate::log::LogTap;
use crate::notice::{self, Notices, ServerFacts};
use crate::seats::{MAX_CONSOLES, Seats};
use crate::states::States;

#[cfg(test)]
mod tests;

/// The largest password file that is read, in bytes.
const MAX_PASSWORD_FILE: u64 = 4096;
/// How long the last words to consoles may take.
pub(crate) const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// After an error that concerns no single connection, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the protocol is not spoken; one line.
#[derive(Debug)]
pub struct ManagementError(pub(crate) String);

impl fmt::Display for ManagementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManagementError {}

/// What connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) notices: Arc<Notices>,
    pub(crate) states: Arc<States>,
    pub(crate) log: LogTap,
    pub(crate) password: Option<Secret>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) seats: Seats,
    /// How long a console waits for a seat.
    pub(crate) patience: Duration,
}

/// Whose console it is.
#[derive(Debug)]
pub(crate) enum Role {
    /// A server's.
    Server(Desk),
    /// A client's.
    Client(Arc<Attendant>),
}

/// A server's side of its consoles.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) house: Arc<dyn House>,
    pub(crate) decisions: Option<Arc<Decisions>>,
    pub(crate) has_user_names: bool,
    pub(crate) facts: ServerFacts,
    pub(crate) states: Arc<States>,
    pub(crate) holds: AtomicBool,
}

impl Desk {
    pub(crate) fn decide(&self, key: (u64, u32), decision: Decision) -> bool {
        self.decisions.as_ref().is_some_and(|decisions| decisions.decide(key, decision))
    }

    pub(crate) fn hold(&self, hold: Hold) -> String {
        connection::hold(&self.holds, hold)
    }

    /// The server is in another state.
    pub(crate) fn enter(&self, name: &str, why: &str) {
        let addresses = if name == "CONNECTED" { &self.facts } else { &ServerFacts::default() };
        self.states.enter(notice::state(crate::now(), name, why, addresses));
    }
}

impl Shared {
    /// The server's side, if it is one.
    pub(crate) fn desk(&self) -> Option<&Desk> {
        match &self.role {
            Role::Server(desk) => Some(desk),
            Role::Client(_) => None,
        }
    }
}

/// The protocol, listening, for a server that is about to start.
#[derive(Debug)]
pub struct Management {
    listener: Listener,
    password: Option<Secret>,
    has_user_names: bool,
    notices: Arc<Notices>,
    decisions: Option<Arc<Decisions>>,
    log: LogTap,
    started: u64,
}

/// The socket, listening, and the password: what may take rights that the server gives up.
#[derive(Debug)]
pub struct Entrance {
    listener: Bound,
    password: Option<Secret>,
    client_auth: bool,
}

impl Entrance {
    /// Listens where `door` says; `None` if it says nowhere.
    ///
    /// # Errors
    ///
    /// One line: the address or the password file cannot be used.
    pub fn open(door: &OpenVpn) -> Result<Option<Self>, ManagementError> {
        let Some(management) = &door.management else { return Ok(None) };
        let password = management.password_file.as_deref().map(read_password).transpose()?;
        let listener = Bound::bind(&management.listen)?;
        Ok(Some(Self { listener, password, client_auth: management.client_auth }))
    }

    /// The unix socket, which is to be removed at the end.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.listener.path()
    }
}

impl Management {
    /// Takes up the protocol of `door`. Logins that a console is to decide about are judged by
    /// `local` as far as certificates and known users go.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// One line: the runtime refuses the socket.
    pub fn open(
        door: &OpenVpn,
        entrance: Entrance,
        log: LogTap,
        local: impl FnOnce() -> Arc<dyn Authenticator>,
    ) -> Result<Self, ManagementError> {
        let Entrance { listener, password, client_auth } = entrance;
        let listener = Listener::new(listener)
            .map_err(|error| ManagementError(format!("doors.openvpn.management: {error}")))?;
        let notices = Arc::new(Notices::new());
        let decisions = client_auth.then(|| {
            let settings = Settings {
                // The handshake has taken some of its time when the question comes up.
                patience: door.handshake_timeout * 3 / 4,
                ends_with_certificate: door.auth == AuthMode::Certificate,
            };
            Arc::new(Decisions::new(local(), Arc::clone(&notices), settings))
        });
        Ok(Self {
            listener,
            password,
            has_user_names: door.auth != AuthMode::Certificate,
            notices,
            decisions,
            log,
            started: crate::now(),
        })
    }

    /// Who judges logins, if consoles do.
    #[must_use]
    pub fn authenticator(&self) -> Option<Arc<dyn Authenticator>> {
        let decisions = self.decisions.clone()?;
        Some(decisions)
    }

    /// Talks to consoles until `stop` is ready.
    pub async fn serve(self, house: Arc<dyn House>, news: News, stop: impl Future<Output = ()>) {
        let facts = ServerFacts {
            started: self.started,
            device: house.device(),
            addresses: house.addresses().iter().map(ipnet::IpNet::addr).collect(),
        };
        if let Some(decisions) = &self.decisions {
            decisions.describe(facts.clone());
        }
        let states = Arc::new(States::new(Arc::clone(&self.notices)));
        let desk = Desk {
            house,
            decisions: self.decisions,
            has_user_names: self.has_user_names,
            facts,
            states: Arc::clone(&states),
            holds: AtomicBool::new(false),
        };
        desk.enter("CONNECTING", "");
        desk.enter("CONNECTED", "SUCCESS");
        let shared = Arc::new(Shared {
            role: Role::Server(desk),
            notices: self.notices,
            states,
            log: self.log,
            password: self.password,
            stop: watch::Sender::new(false),
            seats: Seats::new(MAX_CONSOLES),
            patience: Duration::ZERO,
        });
        let listening = tokio::spawn(listen_to(news, Arc::clone(&shared)));
        attend_all(&self.listener, &shared, stop).await;
        listening.abort();
    }
}

/// Talks to whoever comes until `stop` is ready, and lets all know that it is.
pub(crate) async fn attend_all(
    listener: &Listener,
    shared: &Arc<Shared>,
    stop: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => take(accepted, &mut connections, shared).await,
            Some(_) = connections.join_next() => {}
        }
    }
    if let Some(desk) = shared.desk().filter(|desk| !desk.states.is_in("EXITING")) {
        desk.enter("EXITING", "SIGTERM");
    }
    shared.stop.send_replace(true);
    let farewells = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(FAREWELL_TIME, farewells).await;
}

/// Tells consoles of sessions.
async fn listen_to(mut news: News, shared: Arc<Shared>) {
    let Some(desk) = shared.desk() else { return };
    while let Some(heard) = news.next().await {
        match (heard, &desk.decisions) {
            (Heard::News(SessionNews::Up(info)), Some(decisions)) => decisions.established(&info),
            (Heard::News(SessionNews::Up(info)), None) => {
                shared.notices.client(established(&info, Some(&desk.facts)));
            }
            (Heard::News(SessionNews::Ended { id, info, totals }), Some(decisions)) => {
                decisions.ended(id, info.as_deref(), &totals);
            }
            (Heard::Lost(count), Some(decisions)) => {
                warn!(count, "sessions come and go faster than the management client is told");
                let live = desk.house.sessions().await;
                decisions.resync(&live.iter().map(|(info, _)| info.id).collect::<Vec<_>>());
            }
            (
                Heard::News(SessionNews::Ended { .. } | SessionNews::Moved(_)) | Heard::Lost(_),
                _,
            ) => {}
        }
    }
}

/// The first line of a file that others cannot read.
fn read_password(path: &Path) -> Result<Secret, ManagementError> {
    let wrong = |what: &str| {
        Err(ManagementError(format!(
            "doors.openvpn.management_password_file: {}: {what}",
            path.display()
        )))
    };
    let facts = match std::fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) => return wrong(&error.to_string()),
    };
    if facts.mode() & 0o077 != 0 {
        return wrong("others may read it; run chmod 600 on it");
    }
    if facts.len() > MAX_PASSWORD_FILE {
        return wrong("too large for a password");
    }
    let text = match std::fs::read(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) => return wrong(&error.to_string()),
    };
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return wrong("its first line, which is the password, is empty");
    }
    Ok(Secret::new(line))
}

#[derive(Debug)]
pub(crate) enum Listener {
    Unix { listener: UnixListener, file: SocketFile },
    Tcp(TcpListener),
}

/// The same before there is a runtime.
#[derive(Debug)]
pub(crate) enum Bound {
    Unix { listener: std::os::unix::net::UnixListener, file: SocketFile },
    Tcp(std::net::TcpListener),
}

/// A unix socket's file; it goes away with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) path: PathBuf,
    callers: Callers,
}

/// Who may come to a unix socket, beside root.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Callers {
    /// This user; whoever made the socket if neither is said.
    pub(crate) user: Option<u32>,
    /// Members of this group.
    pub(crate) group: Option<u32>,
}

impl Callers {
    pub(crate) fn admit(self, uid: u32, gid: u32) -> bool {
        uid == 0 || self.user == Some(uid) || self.group == Some(gid)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = remove_file(&self.path);
    }
}

impl Bound {
    fn bind(listen: &ManagementListen) -> Result<Self, ManagementError> {
        Self::bind_for(listen, Callers::default()).map_err(|error| {
            let place = match listen {
                ManagementListen::Unix(path) => path.display().to_string(),
                ManagementListen::Tcp(address) => address.to_string(),
            };
            ManagementError(format!("doors.openvpn.management: cannot listen on {place}: {error}"))
        })
    }

    pub(crate) fn bind_for(listen: &ManagementListen, callers: Callers) -> io::Result<Self> {
        match listen {
            ManagementListen::Unix(path) => Self::bind_unix(path, callers),
            ManagementListen::Tcp(address) => std::net::TcpListener::bind(address).map(Self::Tcp),
        }
    }

    /// The unix socket's file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix { file, .. } => Some(&file.path),
            Self::Tcp(_) => None,
        }
    }

    /// Whoever may write the folder, or one above it, must not lead us to anything elsewhere: all
    /// is done in the folder as it was found, and the rights given are those of a socket.
    fn bind_unix(path: &Path, callers: Callers) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let above = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(above.unwrap_or_else(|| Path::new(".")), flags, Mode::empty())?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        // What an earlier run left is a socket that nobody answers.
        match std::fs::symlink_metadata(&here) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(facts) if !facts.file_type().is_socket() => {
                return Err(io::Error::other("there is a file of this name; remove it"));
            }
            Ok(_) => match BlockingUnixStream::connect(&here) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir)?;
                }
                // Sockets that are no streams are somebody's, too.
                Ok(_) | Err(_) => return Err(io::Error::other("another program listens there")),
            },
        }
        let denied = if callers.group.is_some() { 0o117 } else { 0o177 };
        let before = umask(Mode::from_bits_truncate(denied));
        let listener = std::os::unix::net::UnixListener::bind(&here);
        umask(before);
        let listener = listener?;
        let mut file = SocketFile { path: path.to_owned(), callers };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = File::from(openat(&folder, name, flags, Mode::empty())?);
        let facts = made.metadata()?;
        if !facts.file_type().is_socket()
            || facts.nlink() != 1
            || facts.uid() != Uid::effective().as_raw()
        {
            return Err(Errno::EEXIST.into());
        }
        if callers.user.is_some() || callers.group.is_some() {
            let (user, group) = (callers.user.map(Uid::from_raw), callers.group.map(Gid::from_raw));
            fchownat(&made, "", user, group, AtFlags::AT_EMPTY_PATH)?;
        } else {
            file.callers.user = Some(facts.uid());
        }
        Ok(Self::Unix { listener, file })
    }
}

impl Listener {
    pub(crate) fn new(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Unix { listener, file } => {
                listener.set_nonblocking(true)?;
                Self::Unix { listener: UnixListener::from_std(listener)?, file }
            }
            Bound::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix { listener, file } => {
                let (stream, _) = listener.accept().await?;
                // Whoever came before the mode was set has no business here.
                let peer = stream.peer_cred()?;
                if !file.callers.admit(peer.uid(), peer.gid()) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                Ok(Accepted::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream, from))
            }
        }
    }
}

pub(crate) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

/// Gives a connection a task.
async fn take(accepted: io::Result<Accepted>, connections: &mut JoinSet<()>, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    match accepted {
        Ok(Accepted::Unix(stream)) => {
            connections.spawn(attend(stream, "the unix socket".to_owned(), shared));
        }
        Ok(Accepted::Tcp(stream, from)) => {
            connections.spawn(attend(stream, from.to_string(), shared));
        }
        Err(error) => {
            error!(%error, "doors.openvpn.management: a connection is lost");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

pub(crate) async fn attend<S>(stream: S, peer: String, shared: Arc<Shared>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    debug!(peer, "a management client connects");
    match talk(stream, shared).await {
        Ended::Left | Ended::Stopped => debug!(peer, "a management client left"),
        Ended::Cut(why) => info!(peer, why, "a management client is cut off"),
        Ended::Io(error) => debug!(peer, %error, "a management client is gone"),
    }
}
