//! The network of the host's that the segment is joined to.

use std::net::IpAddr;
use std::sync::Arc;

use contract::{BRIDGE_PORT, FabricOp, Layer, Plug};
use host::{BridgeHost, Journal};
use ipnet::IpNet;
use sys::{Tun, TunQueue};
use tracing::{error, info};

use super::{StartError, cannot};
use crate::workers::WorkerOp;

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

    /// Leaves the host as it was found; returns what could not be undone.
    pub(super) fn undo(mut self) -> Vec<String> {
        self.host.take().map(BridgeHost::undo).unwrap_or_default()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        for line in self.host.take().map(BridgeHost::undo).unwrap_or_default() {
            error!("{line}");
        }
    }
}
