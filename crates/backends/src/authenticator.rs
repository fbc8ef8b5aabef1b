use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aaa::{Limiter, Limits};
use contract::{
    AuthContext, AuthVerdict, Authenticator, BoxFuture, Credentials, DenyReason, Grant, Secret,
};
use tokio::sync::Semaphore;

use crate::store::{Standing, Store, StoreError};
use crate::{password, random_bytes};

#[cfg(test)]
mod tests;

/// Each takes 19 MiB and about 30 ms of a core: two leave the other cores to the packets. Who has
/// to wait is an engine with an open question, so the doors' `max_sessions` bounds the queue.
const HASHES_AT_ONCE: usize = 2;

/// Judges by the store's own user list.
#[derive(Debug)]
pub struct LocalAuthenticator {
    judge: Arc<Judge>,
    hashing: Arc<Semaphore>,
}

impl LocalAuthenticator {
    /// Judges by `store`, within `limits`.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits) -> Self {
        // A password that nobody knows, so that unknown users cost as much time as known ones.
        let nobody = password::hash(&Secret::new(random_bytes::<16>()));
        let limiter = Mutex::new(Limiter::new(limits));
        Self {
            judge: Arc::new(Judge { store, limiter, nobody }),
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
        }
    }
}

impl Authenticator for LocalAuthenticator {
    fn authenticate<'a>(
        &'a self,
        context: &'a AuthContext,
        credentials: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        Box::pin(async move {
            let judge = Arc::clone(&self.judge);
            let verdict = match credentials {
                Credentials::Password { user, password, .. } => {
                    let hashing = Arc::clone(&self.hashing);
                    let permit = hashing.acquire_owned().await.expect("it is never closed");
                    let source = context.remote;
                    tokio::task::spawn_blocking(move || {
                        // The hash is computed to its end even if the peer has gone meanwhile.
                        let _permit = permit;
                        judge.password(source, &user, &password)
                    })
                    .await
                }
                Credentials::Certificate { chain } => {
                    tokio::task::spawn_blocking(move || judge.certificate(&chain)).await
                }
                _ => return AuthVerdict::Deny(DenyReason::BadCredentials),
            };

            let judge = Arc::clone(&self.judge);
            let verdict = match verdict {
                Ok(Ok(grant)) => {
                    tokio::task::spawn_blocking(move || judge.with_settings(grant)).await
                }
                refused => refused,
            };
            match verdict {
                Ok(Ok(grant)) => AuthVerdict::Grant(Box::new(grant)),
                Ok(Err(Refusal::Deny(reason))) => AuthVerdict::Deny(reason),
                Ok(Err(Refusal::Store(error))) => {
                    tracing::error!(%error, "nobody can log in");
                    AuthVerdict::Deny(DenyReason::BackendUnavailable)
                }
                Err(error) => {
                    tracing::error!(%error, "a login could not be judged");
                    AuthVerdict::Deny(DenyReason::BackendUnavailable)
                }
            }
        })
    }
}

#[derive(Debug)]
struct Judge {
    store: Arc<Store>,
    limiter: Mutex<Limiter>,
    nobody: String,
}

enum Refusal {
    Deny(DenyReason),
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Judge {
    fn password(&self, source: IpAddr, user: &str, password: &Secret) -> Result<Grant, Refusal> {
        // Before the attempt is counted: a store that fails is not the user's failure.
        let account = self.store.account(user)?;
        // Asked only here, with a permit in hand: a crowd that reconnects through one NAT has no
        // more than a few attempts open at once, and those that succeed are taken back.
        self.with_limiter(|limiter| limiter.check(Instant::now(), source, user))
            .map_err(|_| Refusal::Deny(DenyReason::TooManyAttempts))?;

        let hash = account.as_ref().and_then(|account| account.hash.as_deref());
        let is_right = password::verify(password, hash.unwrap_or(&self.nobody));
        let Some(account) = account.filter(|account| is_right && account.hash.is_some()) else {
            return Err(Refusal::Deny(DenyReason::BadCredentials));
        };

        self.with_limiter(|limiter| limiter.succeeded(Instant::now(), source, user));
        if !account.enabled {
            return Err(Refusal::Deny(DenyReason::AccountDisabled));
        }
        Ok(Grant { user: user.to_owned(), fixed_addresses: account.fixed, ..Grant::default() })
    }

    /// There is nothing to guess about a certificate, so nothing is limited.
    fn certificate(&self, chain: &[Vec<u8>]) -> Result<Grant, Refusal> {
        let unknown = || Refusal::Deny(DenyReason::BadCredentials);
        let leaf = chain.first().ok_or_else(unknown)?;
        let certificate =
            self.store.certificate_by_fingerprint(&pki::fingerprint(leaf))?.ok_or_else(unknown)?;
        if certificate.revoked.is_some() {
            return Err(Refusal::Deny(DenyReason::Revoked));
        }
        match self.store.standing(&certificate.user, Some(&certificate.serial))? {
            Standing::Welcome => {}
            Standing::Unwelcome(reason) => return Err(Refusal::Deny(reason)),
        }
        let account = self.store.account(&certificate.user)?.ok_or_else(unknown)?;
        Ok(Grant {
            user: certificate.user,
            device: Some(certificate.serial),
            fixed_addresses: account.fixed,
            ..Grant::default()
        })
    }

    /// What the user has besides proofs.
    fn with_settings(&self, grant: Grant) -> Result<Grant, Refusal> {
        let settings = self.store.user_settings(&grant.user)?;
        Ok(Grant {
            behind: settings.behind,
            openvpn_options: settings.openvpn_options,
            session_limit: settings.session_limit,
            idle_limit: settings.idle_limit,
            ..grant
        })
    }

    fn with_limiter<T>(&self, work: impl FnOnce(&mut Limiter) -> T) -> T {
        work(&mut self.limiter.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
