//! Who is not welcome any more: users, certificates and client keys of live sessions.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backends::Standing;
use contract::{DenyReason, Farewell};
use tracing::{error, info};

use super::Server;
use super::client_keys::AGE_EVERY;
use super::outside::FOLLOW_EVERY;
use crate::driver::{SessionInfo, Which};
use crate::news::{Heard, SessionNews};

/// How often the user list is looked at for changes by others.
pub(super) const WATCH_EVERY: Duration = Duration::from_secs(1);

impl Server {
    /// Ends sessions of users, certificates and client keys that are not welcome any more, whoever
    /// changed the list: the store tells that it changed, not what.
    ///
    /// A login may wait for minutes between being judged and coming up, so every session is looked
    /// at once more when it has.
    pub(super) async fn watch_users(&self) {
        let mut news = self.news();
        let mut seen = self.0.store.generation().ok();
        // Somebody may have come up before we listened.
        let mut has_missed = true;
        let (mut aged, mut followed) = (Instant::now(), Instant::now());
        let mut every = tokio::time::interval(WATCH_EVERY);
        loop {
            tokio::select! {
                heard = news.next() => {
                    match heard {
                        Some(Heard::News(SessionNews::Up(session))) => {
                            has_missed |= !self.end_if_unwelcome(&session, true).await;
                        }
                        Some(Heard::News(_)) => {}
                        Some(Heard::Lost(_)) => has_missed = true,
                        None => return,
                    }
                    continue;
                }
                _ = every.tick() => {}
            }
            let generation = self.ask_store(|store| store.generation().ok()).await;
            let is_new = generation != seen || generation.is_none();
            if aged.elapsed() >= AGE_EVERY {
                aged = Instant::now();
                self.end_old_keys().await;
            }
            if followed.elapsed() >= FOLLOW_EVERY {
                followed = Instant::now();
                self.follow_outside().await;
            }
            has_missed |= self.0.has_new_rules.swap(false, Ordering::Relaxed);
            if !is_new && !has_missed {
                continue;
            }
            let server = self.clone();
            self.ask_store(move |_| server.reserve_fixed()).await;
            let are_known = self.refuse_revoked_keys().await & self.tell_registered().await;
            if self.end_unwelcome(has_missed).await && are_known {
                (seen, has_missed) = (generation, false);
            }
        }
    }

    /// Says whether everybody could be looked at. Chains of outside CAs are verified again only if
    /// that may come out differently.
    async fn end_unwelcome(&self, are_rules_new: bool) -> bool {
        let mut all = true;
        for (session, _) in self.sessions().await {
            all &= self.end_if_unwelcome(&session, are_rules_new).await;
        }
        all
    }

    /// Says whether the session could be looked at.
    async fn end_if_unwelcome(&self, session: &SessionInfo, are_rules_new: bool) -> bool {
        if are_rules_new && self.has_lost_trust(session).await {
            info!(user = %session.user, "the certificate is not good any more");
            self.end(Which::Id(session.id), Farewell::Revoked).await;
            return true;
        }
        let (user, certificate) = (session.user.clone(), session.certificate.clone());
        let key = session.facts.client_key.as_ref().and_then(|key| key.id.clone());
        let standing = self.ask_store(move |store| {
            if let Some(key) = key
                && store.is_client_key_revoked(&key)?
            {
                return Ok(Standing::Unwelcome(DenyReason::Revoked));
            }
            store.standing(&user, certificate.as_ref())
        });
        match standing.await {
            Ok(Standing::Welcome) => {}
            // Somebody else knows this user, of whom we have seen no certificate.
            Ok(Standing::Unwelcome(DenyReason::BadCredentials))
                if self.0.knows_strangers && session.certificate.is_none() => {}
            Ok(Standing::Unwelcome(reason)) => {
                info!(user = %session.user, ?reason, "not welcome any more");
                self.end(Which::Id(session.id), Farewell::Revoked).await;
            }
            Err(error) => {
                error!(%error, "the user list cannot be read");
                return false;
            }
        }
        true
    }
}
