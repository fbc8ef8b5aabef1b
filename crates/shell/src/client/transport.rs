//! What carries one attempt: made here, whatever is on the way to the server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use contract::{Carrier, Path, SocketId, StreamId};
use dataplane::{Prefix, SocketKind, StreamKind};
use openvpn::Transport as Protocol;
use sys::{TcpIo, UdpIo, UdpOptions};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::workers::{WorkerOp, Workers};

/// The largest packet that a server may ask us to take, in bytes.
const MAX_MTU: u16 = 9200;

/// Which way, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The number that the attempt's socket or stream gets.
    pub(super) number: u16,
    pub(super) server: SocketAddr,
    pub(super) protocol: Protocol,
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
    },
    /// A connection that is made, with what has been read from it already.
    Stream { id: StreamId, io: TcpIo, local: IpAddr, remote: SocketAddr, first: Vec<u8> },
}

/// Makes what carries an attempt; the error is one line for the operator.
pub(super) async fn open(wanted: &Wanted) -> Result<Transport, String> {
    let opened = match wanted.protocol {
        Protocol::Udp => datagrams(wanted, wanted.server, None),
        Protocol::Tcp => match connect(wanted, wanted.server).await {
            Ok(connection) => stream(wanted, connection, Vec::new()),
            Err(error) => Err(error),
        },
    };
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => "the server does not answer".to_owned(),
        _ => error.to_string(),
    })
}

/// Datagrams to `to`, which is the server or a relay on the way there.
fn datagrams(wanted: &Wanted, to: SocketAddr, prefix: Option<Prefix>) -> io::Result<Transport> {
    let id = SocketId(wanted.number);
    let local = SocketAddr::new(unspecified(to), wanted.local_port.unwrap_or(0));
    let bound = sys::udp::bind(local, UdpOptions { reuse_port: false, mark: wanted.mark })?;
    Ok(Transport::Datagrams { id, io: UdpIo::new(id, bound)?, to, prefix })
}

/// A connection to `to`, which is the server or a proxy on the way there.
async fn connect(wanted: &Wanted, to: SocketAddr) -> io::Result<TcpStream> {
    let local = SocketAddr::new(unspecified(to), wanted.local_port.unwrap_or(0));
    let socket = TcpSocket::from_std_stream(sys::tcp::unconnected(local, wanted.mark)?);
    timeout(wanted.patience, socket.connect(to)).await?
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
    /// Gives it to the workers: the path that it is from now on, and the order that ends it.
    pub(super) fn serve(self, workers: &Workers) -> (Path, WorkerOp) {
        match self {
            Self::Datagrams { id, io, to, prefix } => {
                let (kind, sockets) = (SocketKind::OpenVpnInitiator, vec![io]);
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
