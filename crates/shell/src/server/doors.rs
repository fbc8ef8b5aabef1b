//! The OpenVPN door of a running server: opened, changed and closed while packets flow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use backends::random_bytes;
use config::{Config, OpenVpn};
use contract::SocketId;
use dataplane::SocketKind;
use openvpn::Door;
use sys::{UdpIo, UdpOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::{
    Changed, FAREWELL_TIME, MAX_EVENTS, ReloadError, Server, StartError, cannot, keep, lock,
};
use crate::door::{Surroundings, responder};
use crate::driver::{Change, Driver, Order, Which};
use crate::workers::WorkerOp;

/// The OpenVPN door while it is open.
#[derive(Debug)]
pub(super) struct OpenDoor {
    pub(super) orders: mpsc::Sender<Order<Door>>,
    sockets: Vec<(SocketAddr, SocketId)>,
    pub(super) task: AbortHandle,
}

impl Server {
    pub(super) async fn open_door(
        &self,
        config: &Config,
        bound: Vec<Bound>,
    ) -> Result<(), StartError> {
        let responder = self.responder(config)?;
        let acceptor = Door::new(Instant::now(), Arc::new(responder), random_bytes());
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
        let mut door = OpenDoor { orders, sockets: Vec::new(), task: gone };
        let added = self.add_sockets(&mut door, bound).await;
        *self.0.door.lock().await = Some(door);
        added
    }

    fn responder(&self, config: &Config) -> Result<openvpn::ResponderConfig, StartError> {
        let around = Surroundings {
            identity: &self.0.identity,
            clock: Arc::clone(&self.0.clock),
            network: config.network.name.clone(),
            mtu: config.network.mtu,
        };
        responder(&config.doors.openvpn, &around).map_err(|error| cannot("doors.openvpn")(&error))
    }

    async fn add_sockets(&self, door: &mut OpenDoor, bound: Vec<Bound>) -> Result<(), StartError> {
        for Bound { address, sockets } in bound {
            let number = self.0.next_socket.fetch_add(1, Ordering::Relaxed);
            let id = SocketId(u16::try_from(number).unwrap_or(u16::MAX));
            let sockets = sockets
                .into_iter()
                .map(|socket| UdpIo::new(id, socket))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|error| cannot("doors.openvpn.listen")(&error))?;
            lock(&self.0.routes).sockets.insert(id);
            let kind = SocketKind::OpenVpnResponder;
            let workers = &self.0.services.workers;
            let epoch = workers.submit(vec![WorkerOp::AddSocket { id, kind, sockets }]);
            workers.wait_applied(epoch).await;
            door.sockets.push((address, id));
            lock(&self.0.listening).push(address);
        }
        Ok(())
    }

    /// Opens, closes or changes the door; on an error it is as it was.
    pub(super) async fn change_door(&self, next: &Config) -> Result<(), ReloadError> {
        let wanted = &next.doors.openvpn;
        let now = lock(&self.0.listening).clone();
        let mut missing = wanted.clone();
        missing.listen.retain(|address| !now.contains(address));
        let bound = if wanted.enabled && !missing.listen.is_empty() {
            bind_all(&missing, wanted.listen.len(), self.0.services.workers.count())
                .map_err(|error| ReloadError::Host(error.to_string()))?
        } else {
            Vec::new()
        };
        let responder =
            self.responder(next).map_err(|error| ReloadError::Host(error.to_string()))?;

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
                .open_door(next, bound)
                .await
                .map_err(|error| ReloadError::Host(error.to_string()));
        }
        let stale = now.into_iter().filter(|at| !wanted.listen.contains(at)).collect::<Vec<_>>();
        self.close_sockets(&stale).await;
        let mut door = self.0.door.lock().await;
        if let Some(door) = &mut *door {
            let responder = Arc::new(responder);
            let change: Change<Door> =
                Box::new(move |now, acceptor| acceptor.reconfigure(now, responder));
            let _ = door.orders.send(Order::Change(change)).await;
            self.add_sockets(door, bound)
                .await
                .map_err(|error| ReloadError::Host(error.to_string()))?;
        }
        Ok(())
    }

    /// Ends the sessions on these addresses, then stops listening there.
    async fn close_sockets(&self, stale: &[SocketAddr]) {
        let closing = {
            let mut door = self.0.door.lock().await;
            let Some(door) = &mut *door else { return };
            let (closing, open): (Vec<_>, Vec<_>) =
                door.sockets.drain(..).partition(|(address, _)| stale.contains(address));
            door.sockets = open;
            closing
        };
        // The farewells leave through the sockets that are to be closed.
        for (_, id) in &closing {
            let Some(orders) = self.orders().await else { continue };
            let (done, drained) = oneshot::channel();
            let _ = orders.send(Order::Drain(Which::Socket(*id), done)).await;
            let _ = tokio::time::timeout(FAREWELL_TIME, drained).await;
        }
        for (address, id) in closing {
            self.0.services.workers.submit(vec![WorkerOp::RemoveSocket(id)]);
            lock(&self.0.routes).sockets.remove(&id);
            lock(&self.0.listening).retain(|open| *open != address);
        }
    }
}

/// One address, with a socket for each worker.
#[derive(Debug)]
pub(super) struct Bound {
    address: SocketAddr,
    sockets: Vec<std::net::UdpSocket>,
}

/// Binds the addresses of `door`, which are some or all of the `wanted` ones.
pub(super) fn bind_all(
    door: &OpenVpn,
    wanted: usize,
    workers: usize,
) -> Result<Vec<Bound>, StartError> {
    let mut bound = Vec::new();
    for &address in &door.listen {
        match bind(address, workers) {
            Ok(sockets) => bound.push(Bound { address, sockets }),
            // The default listens on both families; a kernel without one still has the other.
            Err(error) if is_family_missing(&error, address) && wanted > 1 => {
                warn!(%address, "this kernel has no IPv6: not listening there");
            }
            Err(error) => return Err(StartError(format!("doors.openvpn.listen: {error}"))),
        }
    }
    Ok(bound)
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

/// Who listens and who judges is settled when the server starts.
pub(super) fn keep_management(changed: &mut Changed, former: &Config, next: &mut Config) {
    let (old, new) = (&former.doors.openvpn.management, &mut next.doors.openvpn.management);
    keep(changed, "doors.openvpn.management", old, new);
}
