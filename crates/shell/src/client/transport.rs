//! What carries one attempt: made here, whatever is on the way to the server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ::proxy::{Head, Target};
use contract::{Carrier, Path, SocketId, StreamId};
use dataplane::{Prefix, SocketKind, StreamKind};
use openvpn::{Family, Proxy, Remote, Transport as Protocol};
use sys::{TcpIo, UdpIo, UdpOptions};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::proxy;
use crate::workers::{WorkerOp, Workers};

/// The largest packet that a server may ask us to take, in bytes.
const MAX_MTU: u16 = 9200;

/// Which way, and how.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The number that the attempt's socket or stream gets.
    pub(super) number: u16,
    /// Where to begin: the server, or the proxy in front of it.
    pub(super) first_hop: SocketAddr,
    /// What the profile says of the server.
    pub(super) remote: Remote,
    pub(super) local_port: Option<u16>,
    /// Firewall mark, so that the tunnel's own packets do not go through the tunnel.
    pub(super) mark: Option<u32>,
    /// How long a connection may take to be made.
    pub(super) patience: Duration,
}

/// What carries an attempt.
#[derive(Debug)]
pub(super) enum Transport {
    /// A socket of our own; behind a relay, with something in front of every datagram.
    Datagrams {
        id: SocketId,
        io: UdpIo,
        /// Where datagrams go: to the server, or to the relay.
        to: SocketAddr,
        prefix: Option<Prefix>,
        /// What keeps the relay going.
        association: Option<TcpStream>,
    },
    /// A connection that is made, with what has been read from it already.
    Stream { id: StreamId, io: TcpIo, local: IpAddr, remote: SocketAddr, first: Vec<u8> },
}

/// Makes what carries an attempt; the error is one line for the operator.
pub(super) async fn open(wanted: &Wanted) -> Result<Transport, String> {
    if let Some(proxy) = &wanted.remote.proxy {
        let patience = wanted.patience.min(proxy.timeout.unwrap_or(wanted.patience));
        return match timeout(patience, through(wanted, proxy)).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err("the proxy does not answer in time".to_owned()),
        };
    }
    let opened = match wanted.remote.transport {
        Protocol::Udp => datagrams(wanted, wanted.first_hop, None, None),
        Protocol::Tcp => match wanted.dial(wanted.local_port).connect().await {
            Ok(connection) => stream(wanted, connection, Vec::new()),
            Err(error) => Err(error),
        },
    };
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => "the server does not answer".to_owned(),
        _ => error.to_string(),
    })
}

/// The way through a proxy.
async fn through(wanted: &Wanted, proxy: &Proxy) -> Result<Transport, proxy::Failure> {
    // Another connection may have to follow the first, and one port cannot be had twice so soon.
    let dial = wanted.dial(None);
    let Remote { host, port, family, .. } = &wanted.remote;
    match wanted.remote.transport {
        Protocol::Tcp => {
            let target = Target::new(host, *port)?;
            let (connection, first) = proxy::stream(proxy, target, &dial).await?;
            Ok(stream(wanted, connection, first)?)
        }
        Protocol::Udp => {
            // The server's address stands in front of every datagram, so it has to be known here.
            let server = lookup(host, *port, *family).await?;
            let (relay, association) = proxy::association(proxy, &dial).await?;
            let head = Head::new(server);
            // What comes back has the same form; which address stands there is the relay's affair.
            let prefix = Prefix::new(head.as_slice(), 4);
            Ok(datagrams(wanted, relay, prefix, Some(association))?)
        }
    }
}

async fn lookup(host: &str, port: u16, family: Option<Family>) -> io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    let found = found.find(|at| match family {
        None => true,
        Some(Family::V4) => at.is_ipv4(),
        Some(Family::V6) => at.is_ipv6(),
    });
    found.ok_or_else(|| io::Error::other("the server has no address"))
}

/// Datagrams to `to`, which is the server or a relay on the way there.
fn datagrams(
    wanted: &Wanted,
    to: SocketAddr,
    prefix: Option<Prefix>,
    association: Option<TcpStream>,
) -> io::Result<Transport> {
    let id = SocketId(wanted.number);
    let local = SocketAddr::new(unspecified(to), wanted.local_port.unwrap_or(0));
    let bound = sys::udp::bind(local, UdpOptions { reuse_port: false, mark: wanted.mark })?;
    Ok(Transport::Datagrams { id, io: UdpIo::new(id, bound)?, to, prefix, association })
}

impl Wanted {
    fn dial(&self, local_port: Option<u16>) -> Dial {
        Dial { to: self.first_hop, local_port, mark: self.mark, patience: self.patience }
    }
}

/// How to connect to the server, or to a proxy on the way there.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) to: SocketAddr,
    pub(super) local_port: Option<u16>,
    pub(super) mark: Option<u32>,
    pub(super) patience: Duration,
}

impl Dial {
    /// A connection of its own.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let local = SocketAddr::new(unspecified(self.to), self.local_port.unwrap_or(0));
        let socket = TcpSocket::from_std_stream(sys::tcp::unconnected(local, self.mark)?);
        timeout(self.patience, socket.connect(self.to)).await?
    }
}

/// A connection for the workers; `first` is what has been read from it beyond what was expected.
fn stream(wanted: &Wanted, connection: TcpStream, first: Vec<u8>) -> io::Result<Transport> {
    let id = StreamId(wanted.number.into());
    let (local, remote) = (connection.local_addr()?.ip(), connection.peer_addr()?);
    let io = TcpIo::new(connection.into_std()?)?;
    Ok(Transport::Stream { id, io, local, remote, first })
}

fn unspecified(peer: SocketAddr) -> IpAddr {
    match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Transport {
    /// The connection that keeps a relay going, if there is one: whoever has it has to watch it.
    pub(super) fn take_association(&mut self) -> Option<TcpStream> {
        match self {
            Self::Datagrams { association, .. } => association.take(),
            Self::Stream { .. } => None,
        }
    }

    /// Gives it to the workers: the path that it is from now on, and the order that ends it.
    pub(super) fn serve(self, workers: &Workers, kind: SocketKind) -> (Path, WorkerOp) {
        match self {
            Self::Datagrams { id, io, to, prefix, .. } => {
                let sockets = vec![io];
                workers.submit(vec![WorkerOp::AddSocket { id, kind, sockets, prefix }]);
                let path = Path { local: None, remote: to, carrier: Carrier::Udp(id) };
                (path, WorkerOp::RemoveSocket(id))
            }
            Self::Stream { id, io, local, remote, first } => {
                let (kind, local) = (StreamKind::OpenVpn { mtu: MAX_MTU }, Some(local));
                workers.submit(vec![WorkerOp::AddStream { id, kind, io, local, remote, first }]);
                let path = Path { local, remote, carrier: Carrier::Stream(id) };
                (path, WorkerOp::RemoveStream(id))
            }
        }
    }
}
