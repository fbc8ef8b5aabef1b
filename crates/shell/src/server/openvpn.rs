//! The OpenVPN door of a running server.

use std::sync::Arc;
use std::time::Instant;

use backends::random_bytes;
use config::Config;
use dataplane::{SocketKind, StreamKind};
use openvpn::Door;
use pki::OutsideRules;

use super::doors::{AllBound, Places, bind_all};
use super::{Changed, ReloadError, Server, StartError, cannot, keep};
use crate::door::{Surroundings, responder};
use crate::driver::{Change, Order};
use crate::front::{Front, FrontSettings};
use crate::kind::DoorKind;

const KIND: DoorKind = DoorKind::OpenVpn;

impl Server {
    async fn open_openvpn(
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
        let services = &self.0.services;
        let front = Front::new(
            KIND,
            Arc::clone(&services.lobby),
            services.workers.clone(),
            openvpn::claims,
            front_settings(config),
        );
        let (mut door, orders) = self.drive(KIND, acceptor, front);
        self.add_sockets(&mut door, ready).await;
        let mut doors = self.0.doors.lock().await;
        doors.open.insert(KIND, door);
        doors.openvpn = Some(orders);
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
    pub(super) async fn open_first_openvpn(
        &self,
        config: &Config,
        bound: AllBound,
    ) -> Result<(), StartError> {
        let outside = self.0.members.outside();
        self.open_openvpn(config, outside.as_deref(), bound).await
    }

    /// Opens, closes or changes the door; on an error it is as it was. Clients are told of the CAs
    /// of `outside`, which is put in force afterwards.
    pub(super) async fn change_openvpn(
        &self,
        next: &Config,
        outside: Option<&OutsideRules>,
    ) -> Result<(), ReloadError> {
        let now = self.listening(KIND);
        let bound = bind_first(next, &now, self.0.services.workers.count())
            .map_err(|error| ReloadError::Host(error.to_string()))?;
        let responder =
            self.responder(next, outside).map_err(|error| ReloadError::Host(error.to_string()))?;

        if !next.doors.openvpn.enabled {
            self.0.doors.lock().await.openvpn = None;
            self.close_door(KIND).await;
            return Ok(());
        }
        let Some(orders) = self.0.doors.lock().await.openvpn.clone() else {
            return self
                .open_openvpn(next, outside, bound)
                .await
                .map_err(|error| ReloadError::Host(error.to_string()));
        };
        // The last thing that may fail, before the first that cannot be taken back.
        let ready = bound
            .ready(|| self.next_socket())
            .map_err(|error| ReloadError::Host(error.to_string()))?;
        self.close_sockets(KIND, &places(next).stale(now)).await;
        let mut doors = self.0.doors.lock().await;
        if let Some(door) = doors.open.get_mut(&KIND) {
            door.front.change(front_settings(next));
            let responder = Arc::new(responder);
            let change: Change<Door> = Box::new(move |now, acceptor| {
                acceptor.reconfigure(now, responder);
                Vec::new()
            });
            let _ = orders.send(Order::Change(change)).await;
            self.add_sockets(door, ready).await;
        }
        Ok(())
    }
}

/// Binds what is not open already; nothing for a door that is to be shut.
pub(super) fn bind_first(
    config: &Config,
    open: &[super::Listening],
    workers: usize,
) -> Result<AllBound, StartError> {
    if config.doors.openvpn.enabled {
        bind_all(&places(config), open, workers)
    } else {
        Ok(AllBound::default())
    }
}

fn places(config: &Config) -> Places<'_> {
    let door = &config.doors.openvpn;
    Places {
        udp_kind: SocketKind::OpenVpnResponder,
        udp: ("doors.openvpn.listen", &door.listen),
        tcp: ("doors.openvpn.listen_tcp", &door.listen_tcp),
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
