//! The running server, as the management API sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::Config;
use contract::{BoxFuture, Discard, Farewell};
use dataplane::PortTotals;
use ipnet::IpNet;
use mgmt::types::{
    Counters, DoorState, DoorStatus, NetworkStatus, Offloads, Reloaded, Session, Status, rfc3339,
};
use mgmt::{Control, Failure, Reason, Select};
use shell::{ReloadError, Server, SessionInfo, Which};

/// A server behind the API.
#[derive(Debug)]
pub(crate) struct Live(pub(crate) Server);

impl Control for Live {
    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async {
            let (totals, discards) = self.0.totals();
            let sessions = self.0.sessions().await;
            let summary = self.0.summary();
            let own = |is_ipv4: bool| {
                let mut own = summary.addresses.iter();
                own.find(|net| matches!(net, IpNet::V4(_)) == is_ipv4).map(ToString::to_string)
            };
            let doors = self.0.doors().into_iter().map(|door| DoorStatus {
                name: door.name.to_owned(),
                listen: door.listen.iter().map(ToString::to_string).collect(),
                sessions: sessions.iter().filter(|(info, _)| info.door == door.name).count() as u64,
                state: match (door.is_open, door.is_enabled) {
                    (true, _) => DoorState::Open,
                    (false, false) => DoorState::Disabled,
                    (false, true) => DoorState::Failed,
                },
            });
            let drops = Discard::ALL.iter().map(|why| {
                (why.name().to_owned(), discards.get(*why as usize).copied().unwrap_or_default())
            });
            Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_seconds: summary.started.elapsed().as_secs(),
                network: NetworkStatus {
                    name: summary.network.clone(),
                    device: summary.device.clone(),
                    address4: own(true),
                    address6: own(false),
                },
                doors: doors.collect(),
                counters: counters(&totals),
                drops: drops.collect::<BTreeMap<_, _>>(),
                workers: summary.workers as u32,
                offloads: Offloads {
                    tun_tso: summary.offloads.gso,
                    tun_uso: summary.offloads.uso,
                    udp_gso: self.0.segments(),
                    udp_gro: self.0.segments(),
                },
            }
        })
    }

    fn sessions(&self) -> BoxFuture<'_, Vec<Session>> {
        Box::pin(async {
            self.0
                .sessions()
                .await
                .into_iter()
                .map(|(info, totals)| session(info, &totals))
                .collect()
        })
    }

    fn end_sessions<'a>(&'a self, select: &'a Select, farewell: Farewell) -> BoxFuture<'a, u64> {
        let which = match select {
            Select::Id(id) => Which::Id(*id),
            Select::User(user) => Which::User(user.clone()),
            Select::Certificate(serial) => Which::Certificate(serial.clone()),
            Select::ClientKey(id) => Which::ClientKey(id.clone()),
        };
        Box::pin(self.0.end_sessions(which, farewell))
    }

    fn tell_registered(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.0.tell_registered().await;
        })
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, Failure>> {
        Box::pin(async {
            let changed = self.0.reload().await.map_err(|error| match error {
                ReloadError::Config(error) => Failure::config(error.to_string()),
                ReloadError::Host(error) => Failure::new(Reason::Conflict, error),
            })?;
            let names = |keys: Vec<&'static str>| keys.into_iter().map(str::to_owned).collect();
            Ok(Reloaded { applied: names(changed.applied), restart: names(changed.restart) })
        })
    }

    fn config(&self) -> Arc<Config> {
        self.0.config()
    }
}

fn counters(totals: &PortTotals) -> Counters {
    Counters {
        rx_bytes: totals.rx_bytes,
        tx_bytes: totals.tx_bytes,
        rx_packets: totals.rx_packets,
        tx_packets: totals.tx_packets,
    }
}

fn session(info: SessionInfo, totals: &PortTotals) -> Session {
    Session {
        id: info.id,
        user: info.user,
        door: info.door.to_owned(),
        remote: info.remote,
        address4: info.lease.ipv4.map(|(address, _)| address),
        address6: info.lease.ipv6.map(|(address, _)| address),
        since: rfc3339(info.since),
        rx_bytes: totals.rx_bytes,
        tx_bytes: totals.tx_bytes,
        rx_packets: totals.rx_packets,
        tx_packets: totals.tx_packets,
        cipher: info.facts.cipher,
        control: info.facts.control,
        software: info.facts.software,
        device: info.device,
        certificate: info.certificate.map(|id| id.to_string()),
        client_key: info.facts.client_key.and_then(|key| key.id),
    }
}
