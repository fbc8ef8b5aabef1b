//! The protocol beside a client: where its console connects, or is called.

use std::io;
use std::net::TcpStream as BlockingTcpStream;
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::ManagementListen;
use contract::Secret;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Group, User};
use openvpn::{Login, ManagementPlace, Profile};
use shell::Desk;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::attendant::{Attendant, Rules, shown, this_process};
use crate::log::LogTap;
use crate::notice::Notices;
use crate::seats::Seats;
use crate::server::{
    Bound, Callers, FAREWELL_TIME, Listener, ManagementError, Role, Shared, attend, attend_all,
};
use crate::states::States;

/// How long a console waits while another is leaving; there is one at a time.
const SEAT_PATIENCE: Duration = Duration::from_secs(5);

/// The socket of a client's console, and what may take rights that the client gives up.
#[derive(Debug)]
pub struct ClientEntrance {
    way: Way<Bound, Called>,
    password: Option<Secret>,
}

/// Who calls whom.
#[derive(Debug)]
enum Way<L, C> {
    Listens(L),
    Calls(C),
}

#[derive(Debug)]
enum Called {
    Unix(BlockingUnixStream),
    Tcp(BlockingTcpStream),
}

impl ClientEntrance {
    /// Listens where `profile` says, or calls; `None` if it says nothing of a console.
    ///
    /// # Errors
    ///
    /// One line: nobody can be reached there, or the place must not be used.
    pub fn open(profile: &mut Profile) -> Result<Option<Self>, ManagementError> {
        let management = &mut profile.management;
        if management.is_homeless() {
            return Err(ManagementError(
                "there are management directives, but no \"management\" that says where".to_owned(),
            ));
        }
        let Some(place) = &management.place else { return Ok(None) };
        if let Some(danger) = management.danger() {
            return Err(ManagementError(format!("management: {danger}")));
        }
        let (shown, listen) = match place {
            ManagementPlace::Unix(path) => {
                (path.display().to_string(), ManagementListen::Unix(path.clone()))
            }
            ManagementPlace::Tcp(address) => (address.to_string(), ManagementListen::Tcp(*address)),
        };
        let callers = Callers {
            user: management.user.as_deref().map(user_id).transpose()?,
            group: management.group.as_deref().map(group_id).transpose()?,
        };
        let way = if management.calls {
            let called = match &listen {
                ManagementListen::Unix(path) => BlockingUnixStream::connect(path)
                    .and_then(|stream| check_called(&stream, callers).map(|()| stream))
                    .map(Called::Unix),
                ManagementListen::Tcp(address) => {
                    BlockingTcpStream::connect(address).map(Called::Tcp)
                }
            };
            Way::Calls(called.map_err(|error| {
                ManagementError(format!("management-client: cannot call {shown}: {error}"))
            })?)
        } else {
            Way::Listens(Bound::bind_for(&listen, callers).map_err(|error| {
                ManagementError(format!("management: cannot listen on {shown}: {error}"))
            })?)
        };
        Ok(Some(Self { way, password: management.password.take() }))
    }

    /// The unix socket, which is to be removed at the end.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match &self.way {
            Way::Listens(bound) => bound.path(),
            Way::Calls(_) => None,
        }
    }
}

/// Whoever answers decides what the client does: it must be one of those who were named.
fn check_called(stream: &BlockingUnixStream, callers: Callers) -> io::Result<()> {
    if callers.user.is_none() && callers.group.is_none() {
        return Ok(());
    }
    let peer = getsockopt(stream, PeerCredentials)?;
    if callers.admit(peer.uid(), peer.gid()) {
        return Ok(());
    }
    let what = format!("user {} listens there, who was not named", peer.uid());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

fn user_id(name: &str) -> Result<u32, ManagementError> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(ManagementError(format!("management-client-user: there is no account {name}"))),
    }
}

fn group_id(name: &str) -> Result<u32, ManagementError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(ManagementError(format!("management-client-group: there is no group {name}"))),
    }
}

/// The protocol beside a client.
#[derive(Debug)]
pub struct ClientManagement {
    way: Way<Listener, Stream>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl ClientManagement {
    /// Takes up the protocol for a client with this profile: who stands beside the client from
    /// now on, and when it is to connect anew. What the console is not asked, `other` is.
    ///
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// One line: the runtime refuses the socket.
    pub fn open(
        entrance: ClientEntrance,
        profile: &Profile,
        log: LogTap,
        other: Arc<dyn Desk>,
    ) -> Result<(Self, Arc<Attendant>, mpsc::UnboundedReceiver<&'static str>), ManagementError>
    {
        let ClientEntrance { way, password } = entrance;
        let way = way.open().map_err(|error| ManagementError(format!("management: {error}")))?;
        let calls = matches!(way, Way::Calls(_));
        let notices = Arc::new(Notices::new());
        let states = Arc::new(States::new(Arc::clone(&notices)));
        let (attendant, restarts) = Attendant::new(
            rules(profile, calls),
            Arc::clone(&notices),
            Arc::clone(&states),
            other,
            this_process(),
        );
        let shared = Arc::new(Shared {
            role: Role::Client(Arc::clone(&attendant)),
            notices,
            states,
            log,
            password,
            stop: watch::Sender::new(false),
            seats: Seats::new(1),
            patience: SEAT_PATIENCE,
        });
        Ok((Self { way, shared }, attendant, restarts))
    }

    /// Talks to consoles, one at a time, until `stop` is ready.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        match self.way {
            Way::Listens(listener) => attend_all(&listener, &self.shared, stop).await,
            Way::Calls(stream) => {
                let peer = "the management client that was called".to_owned();
                let shared = Arc::clone(&self.shared);
                let mut talking = match stream {
                    Stream::Unix(stream) => tokio::spawn(attend(stream, peer, shared)),
                    Stream::Tcp(stream) => tokio::spawn(attend(stream, peer, shared)),
                };
                stop.await;
                self.shared.stop.send_replace(true);
                let _ = timeout(FAREWELL_TIME, &mut talking).await;
            }
        }
    }
}

impl Way<Bound, Called> {
    fn open(self) -> io::Result<Way<Listener, Stream>> {
        Ok(match self {
            Self::Listens(bound) => Way::Listens(Listener::new(bound)?),
            Self::Calls(Called::Unix(stream)) => {
                stream.set_nonblocking(true)?;
                Way::Calls(Stream::Unix(UnixStream::from_std(stream)?))
            }
            Self::Calls(Called::Tcp(stream)) => {
                stream.set_nonblocking(true)?;
                Way::Calls(Stream::Tcp(TcpStream::from_std(stream)?))
            }
        })
    }
}

fn rules(profile: &Profile, calls: bool) -> Rules {
    let management = &profile.management;
    Rules {
        holds: management.holds,
        asks_passwords: management.asks_passwords,
        asks_remote: management.asks_remote,
        asks_proxy: management.asks_proxy,
        restarts_alone: management.restarts_alone,
        forgets_alone: management.forgets_alone,
        tells_up_down: management.tells_up_down,
        ends_alone: calls,
        retry: profile.auth_retry,
        user: match &profile.login {
            Login::AskPassword(user) => Some(user.clone()),
            Login::None | Login::Ask | Login::Given(..) => None,
        },
        remotes: profile
            .remotes
            .iter()
            .map(|remote| format!("{},enabled", shown(remote)))
            .collect(),
    }
}
