//! The OpenVPN door of a running server: opened, changed and closed while packets flow.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use backends::random_bytes;
use config::{Config, OpenVpn};
use contract::SocketId;
use dataplane::{SocketKind, StreamKind};
use openvpn::Door;
use pki::OutsideRules;
use sys::{UdpIo, UdpOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::{
    Changed, FAREWELL_TIME, Listening, MAX_EVENTS, ReloadError, Server, StartError, cannot, keep,
    lock,
};
use crate::door::{Surroundings, responder};
use crate::driver::{Change, Driver, Order, Which};
use crate::front::{Front, FrontSettings, Listener};
use crate::workers::WorkerOp;

/// The OpenVPN door while it is open.
#[derive(Debug)]
pub(super) struct OpenDoor {
    pub(super) orders: mpsc::Sender<Order<Door>>,
    sockets: Vec<(SocketAddr, SocketId)>,
    front: Arc<Front>,
    pub(super) listeners: Vec<Listener>,
    pub(super) task: AbortHandle,
}

impl Server {
    async fn open_door(
        &self,
        config: &Config,
        outside: Option<&OutsideRules>,
        bound: AllBound,
    ) -> Result<(), StartError> {
        let ready = bound.ready(|| self.next_socket())?;
        let responder = self.responder(config, outside)?;
        let mut acceptor = Door::new(Instant::now(), Arc::new(responder), random_bytes());
        let revoked = self.revoked_keys().map_err(|error| cannot("client keys")(&error))?;
        acceptor.refuse_keys(revoked);
        let (events, heard) = mpsc::channel(MAX_EVENTS);
        let (orders, received) = mpsc::channel(16);
        let (driver, answered) = Driver::new("openvpn", acceptor, Arc::clone(&self.0.services));
        let task = tokio::spawn(driver.run(answered, heard, received));
        let (inner, gone) = (Arc::downgrade(&self.0), task.abort_handle());
        let watch = tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
                && let Some(inner) = inner.upgrade()
            {
                error!("the OpenVPN door broke; this is a bug, please report it: {error}");
                inner.broken.notify_one();
            }
        });
        lock(&self.0.tasks).push(watch);
        lock(&self.0.routes).door = Some(events);
        let services = &self.0.services;
        let front = Front::new(
            Arc::clone(&services.lobby),
            services.workers.clone(),
            openvpn::claims,
            front_settings(config),
        );
        let (sockets, listeners) = (Vec::new(), Vec::new());
        let mut door = OpenDoor { orders, sockets, front, listeners, task: gone };
        self.add_sockets(&mut door, ready).await;
        *self.0.door.lock().await = Some(door);
        Ok(())
    }

    fn responder(
        &self,
        config: &Config,
        outside: Option<&OutsideRules>,
    ) -> Result<openvpn::ResponderConfig, StartError> {
        let around = Surroundings {
            identity: &self.0.identity,
            token: self.0.token.as_ref(),
            members: Arc::clone(&self.0.members),
            outside,
            clock: Arc::clone(&self.0.clock),
            network: config.network.name.clone(),
            mtu: config.network.mtu,
        };
        responder(&config.doors.openvpn, &around).map_err(|error| cannot("doors.openvpn")(&error))
    }

    /// The same for a server that has read the files of outside CAs a moment ago.
    pub(super) async fn open_first_door(
        &self,
        config: &Config,
        bound: AllBound,
    ) -> Result<(), StartError> {
        let outside = self.0.members.outside();
        self.open_door(config, outside.as_deref(), bound).await
    }

    fn next_socket(&self) -> SocketId {
        let number = self.0.next_socket.fetch_add(1, Ordering::Relaxed);
        SocketId(u16::try_from(number).unwrap_or(u16::MAX))
    }

    async fn add_sockets(&self, door: &mut OpenDoor, ready: AllReady) {
        for (address, id, listener) in ready.tcp {
            door.listeners.push(door.front.listen(id, address, listener));
            lock(&self.0.listening).push(Listening::Tcp(address));
        }
        for (address, id, sockets) in ready.udp {
            lock(&self.0.routes).sockets.insert(id);
            let kind = SocketKind::OpenVpnResponder;
            let workers = &self.0.services.workers;
            let epoch =
                workers.submit(vec![WorkerOp::AddSocket { id, kind, sockets, prefix: None }]);
            workers.wait_applied(epoch).await;
            door.sockets.push((address, id));
            lock(&self.0.listening).push(Listening::Udp(address));
        }
        // UDP first, as everybody shows and tries it.
        lock(&self.0.listening).sort_by_key(|at| matches!(at, Listening::Tcp(_)));
    }

    /// Opens, closes or changes the door; on an error it is as it was. Clients are told of the CAs
    /// of `outside`, which is put in force afterwards.
    pub(super) async fn change_door(
        &self,
        next: &Config,
        outside: Option<&OutsideRules>,
    ) -> Result<(), ReloadError> {
        let wanted = &next.doors.openvpn;
        let now = lock(&self.0.listening).clone();
        let bound = if wanted.enabled {
            bind_all(wanted, &now, self.0.services.workers.count())
                .map_err(|error| ReloadError::Host(error.to_string()))?
        } else {
            AllBound::default()
        };
        let responder =
            self.responder(next, outside).map_err(|error| ReloadError::Host(error.to_string()))?;

        if !wanted.enabled {
            self.close_sockets(&now).await;
            if let Some(door) = self.0.door.lock().await.take() {
                let (done, stopped) = oneshot::channel();
                let _ = door.orders.send(Order::Stop(done)).await;
                let _ = tokio::time::timeout(FAREWELL_TIME, stopped).await;
                door.task.abort();
            }
            return Ok(());
        }
        if self.0.door.lock().await.is_none() {
            return self
                .open_door(next, outside, bound)
                .await
                .map_err(|error| ReloadError::Host(error.to_string()));
        }
        // The last thing that may fail, before the first that cannot be taken back.
        let ready = bound
            .ready(|| self.next_socket())
            .map_err(|error| ReloadError::Host(error.to_string()))?;
        let is_stale = |at: &Listening| match at {
            Listening::Udp(address) => !wanted.listen.contains(address),
            Listening::Tcp(address) => !wanted.listen_tcp.contains(address),
        };
        let stale = now.into_iter().filter(is_stale).collect::<Vec<_>>();
        self.close_sockets(&stale).await;
        let mut door = self.0.door.lock().await;
        if let Some(door) = &mut *door {
            door.front.change(front_settings(next));
            let responder = Arc::new(responder);
            let change: Change<Door> = Box::new(move |now, acceptor| {
                acceptor.reconfigure(now, responder);
                Vec::new()
            });
            let _ = door.orders.send(Order::Change(change)).await;
            self.add_sockets(door, ready).await;
        }
        Ok(())
    }

    /// Ends the sessions on these addresses, then stops listening there.
    async fn close_sockets(&self, stale: &[Listening]) {
        let (closing, listeners) = {
            let mut door = self.0.door.lock().await;
            let Some(door) = &mut *door else { return };
            let is_stale = |address: &SocketAddr| stale.contains(&Listening::Udp(*address));
            let (closing, open): (Vec<_>, Vec<_>) =
                door.sockets.drain(..).partition(|(address, _)| is_stale(address));
            door.sockets = open;
            let is_stale = |at: &Listener| stale.contains(&Listening::Tcp(at.address));
            let (listeners, open): (Vec<_>, Vec<_>) = door.listeners.drain(..).partition(is_stale);
            door.listeners = open;
            // Dropped here: nobody else comes in while the others say goodbye.
            (closing, listeners.iter().map(|at| at.id).collect::<Vec<_>>())
        };
        // The farewells leave through the sockets that are to be closed.
        for id in closing.iter().map(|(_, id)| id).chain(&listeners) {
            let Some(orders) = self.orders().await else { continue };
            let (done, drained) = oneshot::channel();
            let _ = orders.send(Order::Drain(Which::Socket(*id), done)).await;
            let _ = tokio::time::timeout(FAREWELL_TIME, drained).await;
        }
        for (address, id) in closing {
            self.0.services.workers.submit(vec![WorkerOp::RemoveSocket(id)]);
            lock(&self.0.routes).sockets.remove(&id);
            lock(&self.0.listening).retain(|open| *open != Listening::Udp(address));
        }
        let is_open = |at: &Listening| matches!(at, Listening::Udp(_)) || !stale.contains(at);
        lock(&self.0.listening).retain(is_open);
    }
}

fn front_settings(config: &Config) -> FrontSettings {
    let door = &config.doors.openvpn;
    FrontSettings {
        port_share: door.port_share.clone(),
        handshake: door.handshake_timeout,
        kind: StreamKind::OpenVpn { mtu: config.network.mtu },
    }
}

/// Everything that a door listens on, before it is open.
#[derive(Debug, Default)]
pub(super) struct AllBound {
    udp: Vec<Bound>,
    tcp: Vec<(SocketAddr, TcpListener)>,
}

/// One address, with a socket for each worker.
#[derive(Debug)]
pub(super) struct Bound {
    address: SocketAddr,
    sockets: Vec<std::net::UdpSocket>,
}

/// What listens and only has to be given to those who serve it.
#[derive(Debug)]
struct AllReady {
    udp: Vec<(SocketAddr, SocketId, Vec<UdpIo>)>,
    tcp: Vec<(SocketAddr, SocketId, tokio::net::TcpListener)>,
}

impl AllBound {
    /// Does what may still fail; `next` numbers the sockets.
    fn ready(self, mut next: impl FnMut() -> SocketId) -> Result<AllReady, StartError> {
        let mut ready = AllReady { udp: Vec::new(), tcp: Vec::new() };
        for (address, listener) in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)
                .map_err(|error| cannot("doors.openvpn.listen_tcp")(&error))?;
            ready.tcp.push((address, next(), listener));
        }
        for Bound { address, sockets } in self.udp {
            let id = next();
            let sockets = sockets.into_iter().map(|socket| UdpIo::new(id, socket));
            let sockets = sockets
                .collect::<io::Result<Vec<_>>>()
                .map_err(|error| cannot("doors.openvpn.listen")(&error))?;
            ready.udp.push((address, id, sockets));
        }
        Ok(ready)
    }
}

/// Binds the addresses of `door` that are not open already.
pub(super) fn bind_all(
    door: &OpenVpn,
    open: &[Listening],
    workers: usize,
) -> Result<AllBound, StartError> {
    let mut bound = AllBound::default();
    for &address in &door.listen {
        if open.contains(&Listening::Udp(address)) {
            continue;
        }
        match bind(address, workers) {
            Ok(sockets) => bound.udp.push(Bound { address, sockets }),
            Err(error) => skip(error, address, door.listen.len(), "listen")?,
        }
    }
    for &address in &door.listen_tcp {
        if open.contains(&Listening::Tcp(address)) {
            continue;
        }
        match sys::tcp::listen(address) {
            Ok(listener) => bound.tcp.push((address, listener)),
            Err(error) => skip(error, address, door.listen_tcp.len(), "listen_tcp")?,
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
        return Err(StartError(format!("doors.openvpn.{key}: {error}")));
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

/// Who listens, who judges and which files there are is settled when the server starts.
pub(super) fn keep_what_needs_root(changed: &mut Changed, former: &Config, next: &mut Config) {
    let (old, new) = (&former.doors.openvpn.management, &mut next.doors.openvpn.management);
    keep(changed, "doors.openvpn.management", old, new);
    let (old, new) = (&former.doors.openvpn.server_key, &mut next.doors.openvpn.server_key);
    keep(changed, "doors.openvpn.server_key", old, new);
    // Whoever may still read files was told their names at the start. A CA that is taken out is
    // trusted no longer, and what is asked of certificates applies, whatever else has to wait.
    let (old, new) = (&former.doors.openvpn.outside, &mut next.doors.openvpn.outside);
    match (old, &mut *new) {
        (_, None) => {}
        (None, Some(_)) => {
            changed.restart.push("doors.openvpn.client_ca");
            *new = None;
        }
        (Some(old), Some(new)) => {
            keep(changed, "doors.openvpn.client_ca", &old.client_ca, &mut new.client_ca);
            keep(changed, "doors.openvpn.crl", &old.crl, &mut new.crl);
        }
    }
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
        let udp = |socket| vec![Bound { address, sockets: vec![socket] }];
        let sound = AllBound {
            udp: udp(std::net::UdpSocket::bind(address).unwrap()),
            tcp: vec![(address, sys::tcp::listen(address).unwrap())],
        };
        let no_udp = AllBound { udp: udp(no_socket().into()), tcp: Vec::new() };
        let listener = TcpListener::from(no_socket());
        listener.set_nonblocking(true).unwrap();
        let no_tcp = AllBound { udp: Vec::new(), tcp: vec![(address, listener)] };

        let ready = sound.ready(numbers()).unwrap();
        assert_eq!((ready.tcp[0].1, ready.udp[0].1), (SocketId(1), SocketId(2)));
        let error = no_udp.ready(numbers()).unwrap_err().to_string();
        assert!(error.contains("doors.openvpn.listen:"), "{error}");
        let error = no_tcp.ready(numbers()).unwrap_err().to_string();
        assert!(error.contains("doors.openvpn.listen_tcp:"), "{error}");
    }
}
