//! The network of the host's that the segment is joined to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::{BRIDGE_PORT, FabricOp, Layer, Plug};
use host::{BridgeHost, Journal, OnBridge};
use ipnet::IpNet;
use sys::{Tun, TunQueue};
use tracing::{debug, error, info};

use super::{StartError, cannot};
use crate::driver::Services;
use crate::workers::WorkerOp;

/// How often the host is looked for on a bridge of its own: leases come and go.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A device for frames that is joined to an interface of the host's; leaves that as it was found
/// if the start fails.
#[derive(Debug)]
pub(super) struct Joined {
    host: Option<BridgeHost>,
    plug: Plug,
}

/// Makes the device and joins it; `device` is the one for packets.
pub(super) async fn join(
    journal: &Journal,
    network: &config::Network,
    device: &str,
    queues: usize,
) -> Result<(Option<Joined>, Vec<TunQueue>), StartError> {
    let Some(interface) = network.bridge.clone() else { return Ok((None, Vec::new())) };
    let (tap, tun) = (format!("{device}-tap"), device.to_owned());
    let device = Tun::open_tap(&tap, queues).map_err(|error| StartError(error.to_string()))?;
    let journal = journal.clone();
    let join = move || BridgeHost::join(&journal, &interface, &tap, &tun);
    let host = tokio::task::spawn_blocking(join)
        .await
        .map_err(|error| cannot("network.bridge")(&error))?
        .map_err(|error| StartError(error.to_string()))?;
    info!(bridge = host.name(), mtu = host.mtu(), "the segment is joined to a bridge");
    let plug = Plug {
        port: BRIDGE_PORT,
        prefixes: network.bridge_networks.clone(),
        mtu: host.mtu(),
        layer: Layer::Ethernet,
        user: Arc::default(),
    };
    Ok((Some(Joined { host: Some(host), plug }), device.queues()))
}

impl Joined {
    /// Puts the joined network into every worker's fabric.
    pub(super) fn plug(&self) -> WorkerOp {
        WorkerOp::Fabric(FabricOp::Plug(self.plug.clone()))
    }

    /// What this host reaches through the device for packets, because it is not on that network
    /// itself.
    pub(super) fn behind(&self) -> impl Iterator<Item = IpNet> {
        let is_own = self.host.as_ref().is_some_and(BridgeHost::is_own);
        let networks = if is_own { &self.plug.prefixes[..] } else { &[] };
        networks.iter().copied()
    }

    /// What the bridge is called.
    pub(super) fn name(&self) -> Option<String> {
        self.host.as_ref().map(|host| host.name().to_owned())
    }

    /// This host's own addresses on it.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.host.as_ref().map_or(&[], BridgeHost::addresses)
    }

    /// The bridge that the host itself is on, if it is.
    pub(super) fn with_host(&self) -> Option<String> {
        self.host.as_ref().filter(|host| !host.is_own()).map(|host| host.name().to_owned())
    }

    /// Leaves the host as it was found; returns what could not be undone.
    pub(super) fn undo(mut self) -> Vec<String> {
        self.host.take().map(BridgeHost::undo).unwrap_or_default()
    }
}

/// Tells the workers and the table of the host's when the host is on its bridge under other
/// addresses, for as long as the future lives.
pub(super) async fn keep_known(bridge: String, services: Arc<Services>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut known = None;
    loop {
        every.tick().await;
        let name = bridge.clone();
        let now = match tokio::task::spawn_blocking(move || OnBridge::read(&name)).await {
            Ok(Ok(now)) => now,
            Ok(Err(error)) => {
                debug!("{error}");
                continue;
            }
            Err(_) => continue,
        };
        if known.as_ref() == Some(&now) {
            continue;
        }
        let addresses = now.addresses.clone();
        services.workers.submit(vec![WorkerOp::Fabric(FabricOp::HostOnBridge(addresses))]);
        // The table names the hardware address.
        services.subnets.notify_one();
        known = Some(now);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        for line in self.host.take().map(BridgeHost::undo).unwrap_or_default() {
            error!("{line}");
        }
    }
}
