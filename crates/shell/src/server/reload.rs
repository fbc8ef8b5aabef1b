//! A changed configuration, applied to a server that runs.

use std::fmt;
use std::sync::Arc;

use config::{Config, ConfigError};
use tracing::error;

use super::outside::ReadOutside;
use super::{Server, lock, network_settings, openvpn};

/// Reads the configuration again, from wherever it came.
#[derive(Clone)]
pub struct ConfigReader(Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>);

impl ConfigReader {
    /// Reads by `read`, which may block.
    pub fn new(read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads on a thread that only this waits for: a keeper may take its time.
    async fn read(&self) -> Result<Config, ReloadError> {
        let read = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || read()).await {
            Ok(config) => config.map_err(ReloadError::Config),
            Err(error) => Err(ReloadError::Host(format!("the configuration is not read: {error}"))),
        }
    }
}

impl fmt::Debug for ConfigReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigReader")
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changed {
    /// Keys in force now.
    pub applied: Vec<&'static str>,
    /// Keys that need a restart.
    pub restart: Vec<&'static str>,
}

impl Server {
    /// Reads the configuration again and applies what changed; sessions that are not concerned go
    /// on.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub async fn reload(&self) -> Result<Changed, ReloadError> {
        let _alone = self.0.reloading.lock().await;
        let fresh = self.0.config_reader.read().await?;
        let former = self.config();
        let (mut next, mut changed) = (fresh.clone(), Changed::default());
        keep(&mut changed, "network.name", &former.network.name, &mut next.network.name);
        keep(&mut changed, "network.ipv4", &former.network.ipv4, &mut next.network.ipv4);
        keep(&mut changed, "network.ipv6", &former.network.ipv6, &mut next.network.ipv6);
        keep(&mut changed, "network.mtu", &former.network.mtu, &mut next.network.mtu);
        let groups = &former.network.relay_groups;
        keep(&mut changed, "network.relay_groups", groups, &mut next.network.relay_groups);
        keep(&mut changed, "network.bridge", &former.network.bridge, &mut next.network.bridge);
        let bridged = &former.network.bridge_networks;
        keep(&mut changed, "network.bridge_networks", bridged, &mut next.network.bridge_networks);
        keep(&mut changed, "server.workers", &former.server.workers, &mut next.server.workers);
        keep(&mut changed, "server.user", &former.server.user, &mut next.server.user);
        openvpn::keep_what_needs_root(&mut changed, &former, &mut next);
        keep(&mut changed, "log.level", &former.log.level, &mut next.log.level);

        let (old, new) = (&former.network, &next.network);
        let network = [
            ("network.dns", old.dns != new.dns),
            ("network.search", old.search != new.search),
            ("network.routes", old.routes != new.routes),
            ("network.redirect_gateway", old.redirect_gateway != new.redirect_gateway),
        ];
        let policy = old.client_to_client != new.client_to_client;
        let relay = old.relay_broadcast != new.relay_broadcast;
        let nat = old.nat != new.nat;
        // The names of CAs are told to clients by the door.
        let is_as_before = former.doors.openvpn.outside == next.doors.openvpn.outside;
        let outside = match self.read_outside(&next).await {
            Ok(read) => Some(read),
            // It has been told, and nothing else depends on it.
            Err(unusable) if unusable.is_out_of_date && is_as_before => None,
            Err(unusable) => return Err(ReloadError::Host(unusable.line)),
        };
        let has_other_cas = outside.as_ref().is_some_and(|read| self.has_other_cas(read));
        let door = former.doors.openvpn != next.doors.openvpn || has_other_cas;

        // What may fail comes first.
        if nat {
            self.update_host(&next).await?;
            changed.applied.push("network.nat");
        }
        if door {
            let present = self.0.members.outside();
            let rules = outside.as_ref().map_or(present.as_deref(), ReadOutside::rules);
            let outcome = self.change_openvpn(&next, rules).await;
            if outcome.is_err() && nat {
                self.update_host(&former).await?;
            }
            outcome?;
            changed.applied.push("doors.openvpn");
        }
        if let Some(outside) = outside {
            self.accept_outside(outside);
        }
        let settings = network_settings(&next, self.0.ipv6);
        // The ranges are as before, so nobody falls out of them and nothing can be refused.
        if let Err(error) = self.0.services.network.update_settings(settings) {
            error!(%error, "the network's settings");
        }
        changed.applied.extend(network.iter().filter(|(_, is)| *is).map(|(key, _)| key));
        if policy {
            self.0.policy.set_client_to_client(next.network.client_to_client);
            changed.applied.push("network.client_to_client");
        }
        if relay {
            self.0.policy.set_relay_broadcast(next.network.relay_broadcast);
            changed.applied.push("network.relay_broadcast");
        }
        *lock(&self.0.config) = Arc::new(next);
        Ok(changed)
    }
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is unusable.
    Config(ConfigError),
    /// The machine refuses what it asks for.
    Host(String),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Host(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for ReloadError {}

/// A key that cannot change while the server runs keeps its value.
pub(super) fn keep<T: Clone + PartialEq>(
    changed: &mut Changed,
    key: &'static str,
    old: &T,
    new: &mut T,
) {
    if old != new {
        changed.restart.push(key);
        new.clone_from(old);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_configuration_that_is_read_slowly_keeps_nobody_waiting() {
        let (others_go_on, heard) = mpsc::channel();
        let heard = Mutex::new(heard);
        let reader = ConfigReader::new(move || {
            lock(&heard).recv_timeout(Duration::from_secs(20)).expect("the others wait for us");
            Ok(Config::default())
        });

        let others = async { others_go_on.send(()).unwrap() };
        let (read, ()) = tokio::join!(reader.read(), others);

        assert_eq!(read.unwrap(), Config::default());
    }
}
