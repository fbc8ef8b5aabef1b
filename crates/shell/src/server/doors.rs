//! The doors of a running server: opened, changed and closed while packets flow.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use contract::{Acceptor, BoxFuture, Carrier, Farewell, SocketId};
use dataplane::SocketKind;
use sys::{UdpIo, UdpOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::{FAREWELL_TIME, Listening, MAX_EVENTS, Server, StartError, cannot, lock};
use crate::driver::{Driver, Order, SessionInfo, Which};
use crate::front::{Front, Listener};
use crate::kind::DoorKind;
use crate::workers::{WorkerEvent, WorkerOp};

/// What can be asked of every door's driver.
pub(super) trait TakesOrders: fmt::Debug + Send + Sync {
    /// Ends sessions; how many.
    fn end(&self, which: Which, farewell: Farewell) -> BoxFuture<'_, u64>;
    /// Every session.
    fn list(&self) -> BoxFuture<'_, Vec<SessionInfo>>;
    /// Ends sessions, and returns when they have said goodbye, or had time to.
    fn drain(&self, which: Which) -> BoxFuture<'_, ()>;
    /// Ends everything, likewise.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

impl<A: Acceptor + 'static> TakesOrders for mpsc::Sender<Order<A>> {
    fn end(&self, which: Which, farewell: Farewell) -> BoxFuture<'_, u64> {
        Box::pin(async move {
            let (reply, ended) = oneshot::channel();
            let _ = self.send(Order::End(which, farewell, reply)).await;
            ended.await.unwrap_or_default()
        })
    }

    fn list(&self) -> BoxFuture<'_, Vec<SessionInfo>> {
        Box::pin(async move {
            let (reply, list) = oneshot::channel();
            let _ = self.send(Order::List(reply)).await;
            list.await.unwrap_or_default()
        })
    }

    fn drain(&self, which: Which) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (done, drained) = oneshot::channel();
            let _ = self.send(Order::Drain(which, done)).await;
            let _ = tokio::time::timeout(FAREWELL_TIME, drained).await;
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (done, stopped) = oneshot::channel();
            let _ = self.send(Order::Stop(done)).await;
            let _ = tokio::time::timeout(FAREWELL_TIME, stopped).await;
        })
    }
}

/// A door while it is open.
#[derive(Debug)]
pub(super) struct OpenDoor {
    kind: DoorKind,
    pub(super) orders: Arc<dyn TakesOrders>,
    sockets: Vec<(SocketAddr, SocketId)>,
    pub(super) front: Arc<Front>,
    listeners: Vec<Listener>,
    task: AbortHandle,
}

impl OpenDoor {
    /// Lets nobody in any more, ends every session, and is gone.
    pub(super) async fn close(mut self) {
        self.listeners.clear();
        self.orders.stop().await;
        self.task.abort();
    }
}

/// Those that are open.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) open: BTreeMap<DoorKind, OpenDoor>,
    /// What only this one can be told.
    pub(super) openvpn: Option<mpsc::Sender<Order<openvpn::Door>>>,
}

/// Which door hears what.
#[derive(Debug, Default)]
pub(super) struct EventRoutes {
    sockets: BTreeMap<SocketId, DoorKind>,
    doors: BTreeMap<DoorKind, mpsc::Sender<WorkerEvent>>,
}

impl EventRoutes {
    /// Where it belongs, unless it is nobody's any more.
    pub(super) fn of(&self, event: &WorkerEvent) -> Option<mpsc::Sender<WorkerEvent>> {
        let kind = match event {
            WorkerEvent::Datagram { path, .. } => match path.carrier {
                Carrier::Udp(socket) => self.sockets.get(&socket).copied(),
                Carrier::Stream(stream) => DoorKind::of_stream(stream),
                Carrier::Ip { .. } => None,
            },
            WorkerEvent::Control { port, .. } | WorkerEvent::Notice { port, .. } => {
                DoorKind::of_port(*port)
            }
            WorkerEvent::StreamClosed { stream, .. } => DoorKind::of_stream(*stream),
            WorkerEvent::TunFailed(_) => None,
        };
        self.doors.get(&kind?).cloned()
    }
}

impl Server {
    /// Puts an acceptor to work. Whoever broke is told; the door takes no connections yet.
    pub(super) fn drive<A>(
        &self,
        kind: DoorKind,
        acceptor: A,
        front: Arc<Front>,
    ) -> (OpenDoor, mpsc::Sender<Order<A>>)
    where
        A: Acceptor + Send + 'static,
        A::Engine: Send,
    {
        let (events, heard) = mpsc::channel(MAX_EVENTS);
        let (orders, received) = mpsc::channel(16);
        let (driver, answered) = Driver::new(kind, acceptor, Arc::clone(&self.0.services));
        let task = tokio::spawn(driver.run(answered, heard, received));
        let (inner, gone) = (Arc::downgrade(&self.0), task.abort_handle());
        let watch = tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
                && let Some(inner) = inner.upgrade()
            {
                let door = kind.name();
                error!(door, "a door broke; this is a bug, please report it: {error}");
                inner.broken.notify_one();
            }
        });
        lock(&self.0.tasks).push(watch);
        lock(&self.0.routes).doors.insert(kind, events);
        let (sockets, listeners) = (Vec::new(), Vec::new());
        let taker = Arc::new(orders.clone());
        (OpenDoor { kind, orders: taker, sockets, front, listeners, task: gone }, orders)
    }

    pub(super) fn next_socket(&self) -> SocketId {
        let number = self.0.next_socket.fetch_add(1, Ordering::Relaxed);
        SocketId(u16::try_from(number).unwrap_or(u16::MAX))
    }

    /// What the doors' drivers can be asked.
    pub(super) async fn orders(&self) -> Vec<Arc<dyn TakesOrders>> {
        let doors = self.0.doors.lock().await;
        doors.open.values().map(|door| Arc::clone(&door.orders)).collect()
    }

    /// Where a door listens.
    pub(super) fn listening(&self, kind: DoorKind) -> Vec<Listening> {
        let all = lock(&self.0.listening);
        all.iter().filter(|(door, _)| *door == kind).map(|(_, at)| *at).collect()
    }

    pub(super) async fn add_sockets(&self, door: &mut OpenDoor, ready: AllReady) {
        let kind = door.kind;
        for (address, id, listener) in ready.tcp {
            door.listeners.push(door.front.listen(id, address, listener));
            lock(&self.0.listening).push((kind, Listening::Tcp(address)));
        }
        for (address, id, socket, sockets) in ready.udp {
            lock(&self.0.routes).sockets.insert(id, kind);
            let workers = &self.0.services.workers;
            let epoch = workers.submit(vec![WorkerOp::AddSocket {
                id,
                kind: socket,
                sockets,
                prefix: None,
            }]);
            workers.wait_applied(epoch).await;
            door.sockets.push((address, id));
            lock(&self.0.listening).push((kind, Listening::Udp(address)));
        }
        // UDP first, as everybody shows and tries it.
        let order = |(kind, at): &(DoorKind, Listening)| (*kind, matches!(at, Listening::Tcp(_)));
        lock(&self.0.listening).sort_by_key(order);
    }

    /// Ends the sessions on these addresses, then stops listening there.
    pub(super) async fn close_sockets(&self, kind: DoorKind, stale: &[Listening]) {
        let (closing, listeners, orders) = {
            let mut doors = self.0.doors.lock().await;
            let Some(door) = doors.open.get_mut(&kind) else { return };
            let is_stale = |address: &SocketAddr| stale.contains(&Listening::Udp(*address));
            let (closing, open): (Vec<_>, Vec<_>) =
                door.sockets.drain(..).partition(|(address, _)| is_stale(address));
            door.sockets = open;
            let is_stale = |at: &Listener| stale.contains(&Listening::Tcp(at.address));
            let (listeners, open): (Vec<_>, Vec<_>) = door.listeners.drain(..).partition(is_stale);
            door.listeners = open;
            // Dropped here: nobody else comes in while the others say goodbye.
            let listeners = listeners.iter().map(|at| at.id).collect::<Vec<_>>();
            (closing, listeners, Arc::clone(&door.orders))
        };
        // The farewells leave through the sockets that are to be closed.
        for id in closing.iter().map(|(_, id)| id).chain(&listeners) {
            orders.drain(Which::Socket(*id)).await;
        }
        for (_, id) in closing {
            self.0.services.workers.submit(vec![WorkerOp::RemoveSocket(id)]);
            lock(&self.0.routes).sockets.remove(&id);
        }
        let is_open = |(of, at): &(DoorKind, Listening)| *of != kind || !stale.contains(at);
        lock(&self.0.listening).retain(is_open);
    }

    /// Closes a door, if it is open.
    pub(super) async fn close_door(&self, kind: DoorKind) {
        self.close_sockets(kind, &self.listening(kind)).await;
        let door = self.0.doors.lock().await.open.remove(&kind);
        if let Some(door) = door {
            door.close().await;
        }
    }
}

/// Where a door is to listen, and the keys of the configuration that say so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'c> {
    /// What is spoken on the UDP sockets.
    pub(super) udp_kind: SocketKind,
    pub(super) udp: (&'static str, &'c [SocketAddr]),
    pub(super) tcp: (&'static str, &'c [SocketAddr]),
}

impl Places<'_> {
    /// Which of these addresses are not wanted any more.
    pub(super) fn stale(&self, now: Vec<Listening>) -> Vec<Listening> {
        let is_stale = |at: &Listening| match at {
            Listening::Udp(address) => !self.udp.1.contains(address),
            Listening::Tcp(address) => !self.tcp.1.contains(address),
        };
        now.into_iter().filter(is_stale).collect()
    }
}

/// Everything that a door listens on, before it is open.
#[derive(Debug, Default)]
pub(super) struct AllBound {
    udp: Vec<Bound>,
    tcp: Vec<(SocketAddr, TcpListener, &'static str)>,
}

/// One address, with a socket for each worker.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    kind: SocketKind,
    key: &'static str,
    sockets: Vec<std::net::UdpSocket>,
}

/// What listens and only has to be given to those who serve it.
#[derive(Debug)]
pub(super) struct AllReady {
    udp: Vec<(SocketAddr, SocketId, SocketKind, Vec<UdpIo>)>,
    tcp: Vec<(SocketAddr, SocketId, tokio::net::TcpListener)>,
}

impl AllBound {
    /// Does what may still fail; `next` numbers the sockets.
    pub(super) fn ready(self, mut next: impl FnMut() -> SocketId) -> Result<AllReady, StartError> {
        let mut ready = AllReady { udp: Vec::new(), tcp: Vec::new() };
        for (address, listener, key) in self.tcp {
            let listener =
                tokio::net::TcpListener::from_std(listener).map_err(|error| cannot(key)(&error))?;
            ready.tcp.push((address, next(), listener));
        }
        for Bound { address, kind, key, sockets } in self.udp {
            let id = next();
            let sockets = sockets.into_iter().map(|socket| UdpIo::new(id, socket));
            let sockets =
                sockets.collect::<io::Result<Vec<_>>>().map_err(|error| cannot(key)(&error))?;
            ready.udp.push((address, id, kind, sockets));
        }
        Ok(ready)
    }
}

/// Binds the addresses of a door that are not open already.
pub(super) fn bind_all(
    places: &Places<'_>,
    open: &[Listening],
    workers: usize,
) -> Result<AllBound, StartError> {
    let mut bound = AllBound::default();
    let (key, udp) = places.udp;
    for &address in udp {
        if open.contains(&Listening::Udp(address)) {
            continue;
        }
        match bind(address, workers) {
            Ok(sockets) => {
                bound.udp.push(Bound { address, kind: places.udp_kind, key, sockets });
            }
            Err(error) => skip(error, address, udp.len(), key)?,
        }
    }
    let (key, tcp) = places.tcp;
    for &address in tcp {
        if open.contains(&Listening::Tcp(address)) {
            continue;
        }
        match sys::tcp::listen(address) {
            Ok(listener) => bound.tcp.push((address, listener, key)),
            Err(error) => skip(error, address, tcp.len(), key)?,
        }
    }
    Ok(bound)
}

/// The default listens on both families; a kernel without one still has the other.
fn skip(
    error: io::Error,
    address: SocketAddr,
    wanted: usize,
    key: &'static str,
) -> Result<(), StartError> {
    if !is_family_missing(&error, address) || wanted < 2 {
        return Err(cannot(key)(&error));
    }
    warn!(%address, "this kernel has no IPv6: not listening there");
    Ok(())
}

fn is_family_missing(error: &io::Error, address: SocketAddr) -> bool {
    address.is_ipv6()
        && address.ip().is_unspecified()
        && matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
}

fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::UdpSocket>> {
    // Sockets that share a port would also share it with another Warren: ask for it alone first.
    let alone = sys::udp::bind(address, UdpOptions { reuse_port: false, mark: None })?;
    if workers == 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    let options = UdpOptions { reuse_port: true, mark: None };
    (0..workers).map(|_| sys::udp::bind(address, options)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::*;

    fn numbers() -> impl FnMut() -> SocketId {
        let mut last = 0;
        move || {
            last += 1;
            SocketId(last)
        }
    }

    /// What is open, and no socket.
    fn no_socket() -> OwnedFd {
        File::open("Cargo.toml").unwrap().into()
    }

    #[tokio::test]
    async fn sockets_that_cannot_be_served_are_found_before_the_door_is_touched() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let udp = |socket| {
            let (kind, key) = (SocketKind::OpenVpnResponder, "doors.openvpn.listen");
            vec![Bound { address, kind, key, sockets: vec![socket] }]
        };
        let tcp = |listener| vec![(address, listener, "doors.openvpn.listen_tcp")];
        let sound = AllBound {
            udp: udp(std::net::UdpSocket::bind(address).unwrap()),
            tcp: tcp(sys::tcp::listen(address).unwrap()),
        };
        let no_udp = AllBound { udp: udp(no_socket().into()), tcp: Vec::new() };
        let listener = TcpListener::from(no_socket());
        listener.set_nonblocking(true).unwrap();
        let no_tcp = AllBound { udp: Vec::new(), tcp: tcp(listener) };

        let ready = sound.ready(numbers()).unwrap();
        assert_eq!((ready.tcp[0].1, ready.udp[0].1), (SocketId(1), SocketId(2)));
        let error = no_udp.ready(numbers()).unwrap_err().to_string();
        assert!(error.contains("doors.openvpn.listen:"), "{error}");
        let error = no_tcp.ready(numbers()).unwrap_err().to_string();
        assert!(error.contains("doors.openvpn.listen_tcp:"), "{error}");
    }
}
