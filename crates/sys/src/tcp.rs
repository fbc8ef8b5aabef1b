//! TCP connections that carry messages.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel has made and nobody has taken yet.
const BACKLOG: i32 = 1024;

/// What may wait in the kernel without having been sent even once, in bytes: enough to keep a fast
/// link busy between two turns of a worker, little enough that a packet is not late because of it
/// (10 milliseconds at 100 Mbit/s).
const UNSENT: u32 = 128 * 1024;

/// Listens on an address; IPv6 addresses are not IPv4's, too.
///
/// # Errors
///
/// Names the address and what to do about it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Connections of an earlier run that the kernel still remembers hold the port otherwise.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listener().map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has the port; choose another",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address",
            io::ErrorKind::PermissionDenied => "run as root, or choose a port above 1023",
            _ => "check the address",
        };
        io::Error::new(error.kind(), format!("cannot listen on TCP {address}: {error}; {advice}"))
    })
}

/// A non-blocking socket that is not connected yet; bound to `local` if that is more than nothing.
///
/// `mark` is the firewall mark of everything sent, for policy routing.
///
/// # Errors
///
/// Fails if there is no such local address, or no right to mark.
pub fn unconnected(local: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    if local.port() != 0 || !local.ip().is_unspecified() {
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Lets the kernel find out whether the other end of a silent connection is still there: after a
/// minute, every ten seconds, six times.
///
/// # Errors
///
/// Fails if the socket is none of TCP.
pub fn keep_alive(stream: &impl AsFd) -> io::Result<()> {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// A connection as a worker uses it; any thread may send.
#[derive(Debug)]
pub struct TcpIo(TcpStream);

impl TcpIo {
    /// Prepares a connection: nothing blocks, nothing waits to be joined by more, and the kernel
    /// keeps little.
    ///
    /// # Errors
    ///
    /// Fails if the socket is none.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        // Latency only: a kernel without it still works.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        Ok(Self(stream))
    }

    /// Reads what has arrived; zero bytes mean that the peer has nothing more to say.
    ///
    /// # Errors
    ///
    /// `WouldBlock` means empty; everything else that the connection is gone.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.0).read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Sends as much as the kernel has room for; how many bytes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` means full; everything else that the connection is gone.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&self.0).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Tells the peer that nothing more follows what has been sent.
    pub fn finish(&self) {
        // A connection that is gone needs no telling.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

impl AsFd for TcpIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpIo, TcpStream) {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (TcpIo::new(listener.accept().unwrap().0).unwrap(), peer)
    }

    #[test]
    fn bytes_travel_both_ways_and_the_end_is_seen() {
        let (io, mut peer) = pair();
        let mut buffer = [0; 8];
        assert_eq!(io.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        assert_eq!(io.send(b"out").unwrap(), 3);
        io.finish();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        peer.write_all(b"in").unwrap();
        drop(peer);

        let mut poller = crate::Poller::new().unwrap();
        poller.add(&io, 1).unwrap();
        poller.wait(None).unwrap();
        assert_eq!((&heard[..], io.recv(&mut buffer).unwrap()), (&b"out"[..], 2));
        poller.wait(None).unwrap();
        assert_eq!(io.recv(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn the_kernel_takes_only_so_much_for_a_peer_that_does_not_read() {
        let (io, _peer) = pair();
        let chunk = vec![0; 64 * 1024];

        let error = (0..10_000).find_map(|_| io.send(&chunk).err()).unwrap();

        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_kernel_looks_after_a_peer_that_is_gone() {
        let (_io, peer) = pair();

        keep_alive(&peer).unwrap();

        let socket = SockRef::from(&peer);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
    }

    #[test]
    fn a_port_in_use_is_said_in_one_line_with_advice() {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();

        let error = listen(listener.local_addr().unwrap()).unwrap_err().to_string();

        assert!(error.contains("another program has the port"), "{error}");
        assert!(!error.contains('\n'));
    }
}
