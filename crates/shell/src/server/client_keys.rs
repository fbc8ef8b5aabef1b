//! Client keys (tls-crypt-v2) that open no door any more, and the sessions that they opened.

use std::collections::HashSet;
use std::time::Duration;

use backends::StoreError;
use contract::Farewell;
use openvpn::{ClientKeyId, Door, is_young};
use tracing::{error, info};

use super::Server;
use super::watch::WATCH_EVERY;
use crate::clock;
use crate::driver::{Change, Order, Which};

/// How often live sessions are looked at for keys that have become too old.
pub(super) const AGE_EVERY: Duration = WATCH_EVERY.saturating_mul(4);

impl Server {
    /// Client keys that were revoked, as the door wants them.
    pub(super) fn revoked_keys(&self) -> Result<HashSet<ClientKeyId>, StoreError> {
        Ok(self.0.store.revoked_client_keys()?.into_iter().collect())
    }

    /// Tells the door which keys are revoked, which ends handshakes that began with one; returns
    /// their names, or `None` if the list cannot be read.
    pub(super) async fn tell_revoked_keys(&self) -> Option<HashSet<String>> {
        let server = self.clone();
        let revoked = match self.ask_store(move |_| server.revoked_keys()).await {
            Ok(revoked) => revoked,
            Err(error) => {
                error!(%error, "the list of client keys cannot be read");
                return None;
            }
        };
        let names = revoked.iter().map(ToString::to_string).collect();
        let orders = self.0.doors.lock().await.openvpn.clone();
        if let Some(orders) = orders {
            let change: Change<Door> = Box::new(move |_, door| door.refuse_keys(revoked));
            let _ = orders.send(Order::Change(change)).await;
        }
        Some(names)
    }

    /// Tells the door which keys are revoked, and ends the sessions that came with one of them.
    /// Says whether that could be done.
    pub(super) async fn refuse_revoked_keys(&self) -> bool {
        let Some(names) = self.tell_revoked_keys().await else { return false };
        if !names.is_empty() {
            let is_revoked = |id: Option<&str>, _| id.is_some_and(|id| names.contains(id));
            self.end_keys(is_revoked, "client key revoked").await;
        }
        true
    }

    /// Ends the sessions whose keys have become too old meanwhile.
    pub(super) async fn end_old_keys(&self) {
        let max_age = self.config().doors.openvpn.client_key_max_age;
        if max_age.is_some() {
            let now = clock::now();
            let is_old = |_: Option<&str>, issued| !is_young(issued, max_age, now);
            self.end_keys(is_old, "client key too old").await;
        }
    }

    async fn end_keys(&self, is_bad: impl Fn(Option<&str>, Option<u64>) -> bool, why: &str) {
        for (session, _) in self.sessions().await {
            let Some(key) = &session.facts.client_key else { continue };
            if is_bad(key.id.as_deref(), key.issued) {
                info!(user = %session.user, key = key.id.as_deref(), "{why}");
                self.end(Which::Id(session.id), Farewell::Revoked).await;
            }
        }
    }
}
