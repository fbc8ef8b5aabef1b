//! UDP sockets that move many datagrams with one system call.

use std::ffi::{c_int, c_void};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use contract::{Carrier, Discard, Path, SocketId};
use dataplane::{Batch, Received};
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Socket, Type};

/// What the kernel may hold for us in each direction: 10 milliseconds at 6 Gbit/s.
const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

/// Fits every path that IPv6 allows, whatever is in front of it.
const FITS_EVERY_PATH: usize = 1200;

/// How many peers must be refused batches before it is not about their paths.
const MAX_REFUSED: usize = 8;

/// What the kernel's GRO makes of datagrams from one peer is never longer.
const RECEIVE_BUFFER: usize = 65_536;

/// How to open a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpOptions {
    /// Let several sockets share the address; the kernel spreads the peers over them.
    pub reuse_port: bool,
    /// Firewall mark of everything sent, for policy routing.
    pub mark: Option<u32>,
}

/// Binds a non-blocking socket with buffers for a fast link.
///
/// # Errors
///
/// Names the address and what to do about it.
pub fn bind(address: SocketAddr, options: UdpOptions) -> io::Result<UdpSocket> {
    try_bind(address, options).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has the port; choose another",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address",
            io::ErrorKind::PermissionDenied => "run as root, or choose a port above 1023",
            _ => "check the address",
        };
        io::Error::new(error.kind(), format!("cannot listen on UDP {address}: {error}; {advice}"))
    })
}

fn try_bind(address: SocketAddr, options: UdpOptions) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    // Only root may go past the sysctl; everybody else gets as much as it allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket as one worker uses it.
#[derive(Debug)]
pub struct UdpIo {
    sender: UdpSender,
}

/// The sending half of a socket, for whoever else has something to say through it.
#[derive(Clone, Debug)]
pub struct UdpSender(Arc<Endpoint>);

#[derive(Debug)]
struct Endpoint {
    id: SocketId,
    socket: UdpSocket,
    state: UdpSocketState,
    /// Whether the kernel still cuts batches for us.
    segments: AtomicBool,
    refused: Mutex<Refused>,
}

/// The peers that batches were refused for, for a reason that may be their path.
#[derive(Debug, Default)]
struct Refused(ArrayVec<IpAddr, MAX_REFUSED>);

impl Refused {
    /// Whether a batch that was refused, but whose datagrams were taken one by one, shows that the
    /// kernel cuts no batch at all.
    ///
    /// A driver without segmentation offload says so only when asked to send, with EIO. EINVAL may
    /// mean the same, but up to Linux 6.13 also that the datagrams are larger than the peer's path.
    fn is_for_good(&mut self, errno: c_int, segment: usize, peer: IpAddr) -> bool {
        match errno {
            libc::EIO => true,
            libc::EINVAL if segment <= FITS_EVERY_PATH => true,
            libc::EINVAL => {
                if !self.0.contains(&peer) {
                    // Full is the verdict itself, and stays it.
                    let _ = self.0.try_push(peer);
                }
                self.0.is_full()
            }
            _ => false,
        }
    }
}

/// Room for what one system call receives, shared by all sockets of a worker.
#[derive(Debug)]
pub struct ReceiveBuffers {
    bytes: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self {
            bytes: vec![0; BATCH_SIZE * RECEIVE_BUFFER].into(),
            metas: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl UdpIo {
    /// Prepares a bound socket: GRO, packet info, outer fragmentation left to the kernel, no extras.
    ///
    /// # Errors
    ///
    /// Fails if the socket is not one.
    pub fn new(id: SocketId, socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        allow_fragmentation(&socket)?;
        forgo_extras(&socket)?;
        let segments = AtomicBool::new(state.max_gso_segments() > 1);
        let endpoint = Endpoint { id, socket, state, segments, refused: Mutex::default() };

        Ok(Self { sender: UdpSender(Arc::new(endpoint)) })
    }

    /// The sending half.
    #[must_use]
    pub fn sender(&self) -> UdpSender {
        self.sender.clone()
    }

    /// The same socket for another worker, which sends through it but need not receive.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { sender: self.sender() }
    }

    /// Receives what has arrived, up to what the buffers hold.
    ///
    /// # Errors
    ///
    /// `WouldBlock` means empty. Errors that ICMP reports about earlier datagrams are not ours to
    /// judge and count as empty reads.
    pub fn recv<'b>(
        &self,
        buffers: &'b mut ReceiveBuffers,
    ) -> io::Result<impl Iterator<Item = Received<'b>> + use<'b>> {
        let Endpoint { id, socket, state, .. } = &*self.sender.0;
        let ReceiveBuffers { bytes, metas } = buffers;
        let count = {
            let mut slices = bytes
                .chunks_exact_mut(RECEIVE_BUFFER)
                .map(IoSliceMut::new)
                .collect::<ArrayVec<_, BATCH_SIZE>>();
            match state.recv(UdpSockRef::from(socket), &mut slices, metas) {
                Ok(count) => count,
                Err(error) if is_about_a_peer(&error) => 0,
                Err(error) => return Err(error),
            }
        };
        let carrier = Carrier::Udp(*id);
        let received = bytes.chunks_exact_mut(RECEIVE_BUFFER).zip(&metas[..count]);

        Ok(received.filter(|(_, meta)| meta.addr.port() != 0).map(move |(buffer, meta)| {
            let path = Path { local: meta.dst_ip, remote: meta.addr, carrier };
            Received { path, stride: meta.stride, bytes: &mut buffer[..meta.len] }
        }))
    }

    /// Sends one batch.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the kernel has no room or no way to the peer.
    pub fn send(&self, batch: &Batch) -> Result<(), Discard> {
        self.sender.0.send(batch.path(), batch.bytes(), batch.segment_size())
    }

    /// Whether the kernel still cuts batches for us; false for good after the first refusal.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.sender.0.segments.load(Ordering::Relaxed)
    }
}

impl AsFd for UdpIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sender.0.socket.as_fd()
    }
}

impl UdpSender {
    /// Whether the kernel still cuts batches for us; false for good after the first refusal.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.0.segments.load(Ordering::Relaxed)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    ///
    /// [`Discard::NoBuffer`] if the kernel has no room or no way to the peer.
    pub fn send(&self, path: Path, datagram: &[u8]) -> Result<(), Discard> {
        self.0.send(path, datagram, datagram.len())
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// Fails like `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }
}

impl Endpoint {
    fn send(&self, path: Path, bytes: &[u8], segment: usize) -> Result<(), Discard> {
        if path.remote.port() == 0 {
            // The kernel would say EINVAL, which is not about segmentation, whoever asked for it.
            return Err(Discard::NoBuffer);
        }
        if bytes.len() <= segment {
            return self.send_one(path, bytes).map_err(|_| Discard::NoBuffer);
        }
        if !self.segments.load(Ordering::Relaxed) {
            return self.send_each(path, bytes, segment);
        }
        let Err(error) = self.transmit(path, bytes, Some(segment)) else { return Ok(()) };
        match error.raw_os_error() {
            // A source address that is gone is refused like this too: only if the same datagrams
            // are taken one by one was it about the batch.
            Some(errno @ (libc::EIO | libc::EINVAL)) => {
                self.send_each(path, bytes, segment)?;
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                if refused.is_for_good(errno, segment, path.remote.ip()) {
                    self.segments.store(false, Ordering::Relaxed);
                }
                Ok(())
            }
            // Larger than the path carries: the kernel fragments datagrams, but not batches.
            Some(libc::EMSGSIZE) => self.send_each(path, bytes, segment),
            _ => Err(Discard::NoBuffer),
        }
    }

    fn send_each(&self, path: Path, bytes: &[u8], segment: usize) -> Result<(), Discard> {
        let sent = bytes.chunks(segment).try_for_each(|one| self.send_one(path, one));
        sent.map_err(|_| Discard::NoBuffer)
    }

    /// An error that an earlier datagram caused is reported once; the next attempt is ours.
    fn send_one(&self, path: Path, datagram: &[u8]) -> io::Result<()> {
        match self.transmit(path, datagram, None) {
            Err(error) if is_about_a_peer(&error) => self.transmit(path, datagram, None),
            other => other,
        }
    }

    fn transmit(&self, path: Path, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: path.remote,
            ecn: None,
            contents: bytes,
            segment_size: segment,
            src_ip: path.local,
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }
}

/// Whether the kernel passes on what an ICMP message said about an earlier datagram.
fn is_about_a_peer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::ECONNRESET | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}

/// Lets the kernel fragment what is larger than the path: a tunnel cannot tell its peers' packets
/// to shrink at once, and losing them all until they do is worse.
fn allow_fragmentation(socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
        let (option, value) = (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
        set_option(socket, libc::IPPROTO_IPV6, option, value)
    }
}

/// Turns off what quinn-udp turns on and nobody here reads: a time stamp and the traffic class of
/// every datagram, which cost more than they look.
fn forgo_extras(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
    if socket.local_addr()?.is_ipv4() {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 0)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 0)
    }
}

fn set_option(socket: &UdpSocket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let value: *const c_int = &value;
    let len = size_of::<c_int>() as libc::socklen_t;

    // SAFETY: the option takes one `int`, which `value` points to during the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.cast::<c_void>(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: u16) -> (UdpIo, SocketAddr) {
        let socket = bind(([127, 0, 0, 1], 0).into(), UdpOptions::default()).unwrap();
        let address = socket.local_addr().unwrap();
        (UdpIo::new(SocketId(id), socket).unwrap(), address)
    }

    fn to(remote: SocketAddr) -> Path {
        Path { local: None, remote, carrier: Carrier::Udp(SocketId(0)) }
    }

    /// Receives `expected` bytes and returns them as datagrams.
    fn receive(io: &UdpIo, expected: usize) -> Vec<(Path, Vec<u8>)> {
        let mut poller = crate::Poller::new().unwrap();
        poller.add(io, 1).unwrap();
        let mut buffers = ReceiveBuffers::default();
        let mut datagrams = Vec::new();
        let mut total = 0;
        while total < expected {
            poller.wait(None).unwrap();
            for received in io.recv(&mut buffers).unwrap() {
                total += received.bytes.len();
                let chunks = received.bytes.chunks(received.stride);
                datagrams.extend(chunks.map(|chunk| (received.path, chunk.to_vec())));
            }
        }
        datagrams
    }

    #[test]
    fn a_batch_arrives_as_the_datagrams_it_was_made_of() {
        let (left, left_address) = endpoint(0);
        let (right, right_address) = endpoint(7);
        let bytes = (0..2500_u32).map(|n| n as u8).collect::<Vec<_>>();

        left.sender.0.send(to(right_address), &bytes, 1000).unwrap();

        let received = receive(&right, 2500);
        let sizes = received.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>();
        assert_eq!(sizes, [1000, 1000, 500]);
        assert_eq!(received.concat_bytes(), bytes);
        let (path, _) = &received[0];
        assert_eq!(path.remote, left_address);
        assert_eq!(path.local, Some([127, 0, 0, 1].into()));
        assert_eq!(path.carrier, Carrier::Udp(SocketId(7)));
    }

    #[test]
    fn a_kernel_that_does_not_cut_gets_every_datagram_by_itself() {
        let (left, _) = endpoint(0);
        let (right, address) = endpoint(0);
        left.sender.0.segments.store(false, Ordering::Relaxed);

        left.sender.0.send(to(address), &[5; 2500], 1000).unwrap();

        assert_eq!(receive(&right, 2500).concat_bytes(), [5; 2500]);
    }

    #[test]
    fn a_path_narrower_than_the_datagrams_fragments_them_and_costs_no_other_path_its_batches() {
        let narrow = ["link", "set", "lo", "mtu", "1300", "up"];
        let ip = || std::process::Command::new("ip").args(narrow).status();
        if !crate::netns::enter_fresh() || !ip().is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs iproute2");
            return;
        }
        let (left, _) = endpoint(0);
        let (right, address) = endpoint(0);

        left.sender.0.send(to(address), &[5; 2900], 1400).unwrap();

        assert_eq!(receive(&right, 2900).concat_bytes(), [5; 2900]);
        assert!(left.segments());
    }

    #[test]
    fn a_narrow_path_is_not_taken_for_a_kernel_that_does_not_cut() {
        let peer = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut refused = Refused::default();

        assert!((0..100).all(|_| !refused.is_for_good(libc::EINVAL, 1400, peer(1))));
        assert!(!refused.is_for_good(libc::EMSGSIZE, 1000, peer(1)));

        assert!(Refused::default().is_for_good(libc::EIO, 1400, peer(1)));
        assert!(Refused::default().is_for_good(libc::EINVAL, 1200, peer(1)));
        assert!((2..8).all(|n| !refused.is_for_good(libc::EINVAL, 1400, peer(n))));
        assert!(refused.is_for_good(libc::EINVAL, 1400, peer(8)));
        assert!(refused.is_for_good(libc::EINVAL, 1400, peer(9)));
    }

    #[test]
    fn an_impossible_destination_does_not_cost_segmentation() {
        let (left, address) = endpoint(0);
        let nowhere = Path { local: Some([192, 0, 2, 77].into()), ..to(address) };

        assert!(left.sender.0.send(to(([127, 0, 0, 1], 0).into()), &[5; 2500], 1000).is_err());
        assert!(left.sender.0.send(nowhere, &[5; 2500], 1000).is_err());

        assert!(left.segments());
    }

    #[test]
    fn a_peer_that_is_gone_does_not_disturb_the_next() {
        let (left, _) = endpoint(0);
        let (right, address) = endpoint(0);
        let (_, closed) = endpoint(0);

        for _ in 0..3 {
            let _ = left.sender().send(to(closed), b"anybody there?");
            left.sender().send(to(address), b"hello").unwrap();
        }

        assert_eq!(receive(&right, 15).len(), 3);
    }

    #[test]
    fn a_port_in_use_is_an_error_that_says_so() {
        let (_left, address) = endpoint(0);

        let error = bind(address, UdpOptions::default()).unwrap_err().to_string();

        assert!(error.contains(&address.to_string()) && error.contains("another program"));
    }

    #[test]
    fn ipv6_sockets_carry_only_ipv6() {
        let Ok(socket) = bind("[::1]:0".parse().unwrap(), UdpOptions::default()) else {
            eprintln!("skipped: no IPv6 on this machine");
            return;
        };
        let address = socket.local_addr().unwrap();
        let right = UdpIo::new(SocketId(0), socket).unwrap();
        let left = bind("[::1]:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let left = UdpIo::new(SocketId(0), left).unwrap();

        left.sender().send(to(address), b"six").unwrap();

        assert_eq!(receive(&right, 3).concat_bytes(), b"six");
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for Vec<(Path, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }
}
