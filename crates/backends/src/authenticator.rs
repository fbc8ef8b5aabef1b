use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aaa::{Limiter, Limits, Rate};
use contract::{
    AuthContext, AuthVerdict, Authenticator, BoxFuture, CertificateId, Credentials, DenyReason,
    Grant, Secret,
};
use pki::{Holder, Members};
use tokio::sync::Semaphore;

use crate::challenges::Challenges;
use crate::store::{Account, Standing, Store, StoreError, StoredCertificate};
use crate::{clock, password, random_bytes, totp};

#[cfg(test)]
mod tests;

/// Each takes 19 MiB and about 30 ms of a core: two leave the other cores to the packets. Who has
/// to wait is an engine with an open question, so the doors' `max_sessions` bounds the queue.
const HASHES_AT_ONCE: usize = 2;

/// What a user with a second factor is asked.
const QUESTION: &str = "Enter the code of your authenticator app";

/// Codes are short, and who guesses them knows the password already: one user's wrong codes from
/// everywhere a day are fewer than a hundredth of all codes.
const CODE_RATE: Rate = Rate { burst: 10, forget_every: Duration::from_secs(30) };

/// Judges by the store's own user list.
#[derive(Debug)]
pub struct LocalAuthenticator {
    judge: Arc<Judge>,
    hashing: Arc<Semaphore>,
}

impl LocalAuthenticator {
    /// Judges by `store`, within `limits`. Without `members`, certificates are those that the store
    /// has issued and no others.
    #[must_use]
    pub fn new(store: Arc<Store>, limits: Limits, members: Option<Arc<Members>>) -> Self {
        // A password that nobody knows, so that unknown users cost as much time as known ones.
        let nobody = password::hash(&Secret::new(random_bytes::<16>()));
        let limiter = Mutex::new(Limiter::new(limits));
        let codes = Limits { source: CODE_RATE, user: CODE_RATE, ..limits };
        let codes = Mutex::new(Limiter::strict(codes));
        let challenges = Mutex::default();
        Self {
            judge: Arc::new(Judge { store, members, limiter, codes, challenges, nobody }),
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
                Credentials::Password { user, password, response } => {
                    let hashing = Arc::clone(&self.hashing);
                    let permit = hashing.acquire_owned().await.expect("it is never closed");
                    let source = context.remote;
                    tokio::task::spawn_blocking(move || {
                        // The hash is computed to its end even if the peer has gone meanwhile.
                        let _permit = permit;
                        judge.password(source, &user, &password, response.as_ref())
                    })
                    .await
                }
                Credentials::Response { user, state, response } => {
                    let source = context.remote;
                    tokio::task::spawn_blocking(move || {
                        judge.response(source, &user, &state, &response)
                    })
                    .await
                }
                Credentials::Known { user, since } => {
                    tokio::task::spawn_blocking(move || judge.known(&user, since)).await
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
                Ok(Err(Refusal::Question(state))) => AuthVerdict::Challenge {
                    state: state.to_vec(),
                    prompt: QUESTION.to_owned(),
                    echo: true,
                },
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
    members: Option<Arc<Members>>,
    limiter: Mutex<Limiter>,
    /// Wrong codes after the right password.
    codes: Mutex<Limiter>,
    challenges: Mutex<Challenges>,
    nobody: String,
}

enum Refusal {
    Deny(DenyReason),
    Store(StoreError),
    /// Not yet.
    Question([u8; 16]),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Judge {
    fn password(
        &self,
        source: IpAddr,
        user: &str,
        password: &Secret,
        response: Option<&Secret>,
    ) -> Result<Grant, Refusal> {
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

        if let Some(secret) = self.store.totp(user)? {
            // The attempt counts as failed until the code is right, too.
            let Some(response) = response else {
                let since = account.proof_since;
                let asked = lock(&self.challenges).ask(Instant::now(), user, since);
                return Err(Refusal::Question(asked));
            };
            self.code(source, user, &secret, response)?;
        }
        self.with_limiter(|limiter| limiter.succeeded(Instant::now(), source, user));
        welcome(user, account)
    }

    /// The answer to the question for a code. The attempt was counted with the password, and is
    /// taken back here.
    fn response(
        &self,
        source: IpAddr,
        user: &str,
        state: &[u8],
        response: &Secret,
    ) -> Result<Grant, Refusal> {
        let denied = || Refusal::Deny(DenyReason::BadCredentials);
        let asked = lock(&self.challenges).take(Instant::now(), user, state);
        let since = asked.ok_or_else(denied)?;
        let account = self.store.account(user)?.filter(|account| {
            // The password that was right may have been changed or taken away since.
            account.hash.is_some() && account.proof_since == since
        });
        let account = account.ok_or_else(denied)?;
        let secret = self.store.totp(user)?.ok_or_else(denied)?;
        self.code(source, user, &secret, response)?;
        self.with_limiter(|limiter| limiter.succeeded(Instant::now(), source, user));
        welcome(user, account)
    }

    /// Whether the code is right and has not been used.
    fn code(
        &self,
        source: IpAddr,
        user: &str,
        secret: &Secret,
        response: &Secret,
    ) -> Result<(), Refusal> {
        lock(&self.codes)
            .check(Instant::now(), source, user)
            .map_err(|_| Refusal::Deny(DenyReason::TooManyAttempts))?;
        let step = totp::matching_step(secret, clock::now(), response.expose());
        let step = step.ok_or(Refusal::Deny(DenyReason::BadCredentials))?;
        if !self.store.use_totp(user, step)? {
            return Err(Refusal::Deny(DenyReason::BadCredentials));
        }
        lock(&self.codes).succeeded(Instant::now(), source, user);
        Ok(())
    }

    /// Somebody who proved at `since` who they are.
    fn known(&self, user: &str, since: u64) -> Result<Grant, Refusal> {
        let account = self.store.account(user)?.filter(|account| account.hash.is_some());
        let account = account.ok_or(Refusal::Deny(DenyReason::BadCredentials))?;
        if since <= account.proof_since {
            return Err(Refusal::Deny(DenyReason::BadCredentials));
        }
        welcome(user, account)
    }

    /// There is nothing to guess about a certificate, so nothing is limited.
    ///
    /// Whatever the store has issued is judged by its list of devices alone. Of the others, those
    /// of our own CA are nobody's; what else may come in is said by [`Members`], which has judged
    /// the chain before, perhaps by older lists.
    fn certificate(&self, chain: &[Vec<u8>]) -> Result<Grant, Refusal> {
        let unknown = || Refusal::Deny(DenyReason::BadCredentials);
        let leaf = chain.first().ok_or_else(unknown)?;
        let fingerprint = pki::fingerprint(leaf);
        if let Some(certificate) = self.store.certificate_by_fingerprint(&fingerprint)? {
            return self.own_certificate(certificate);
        }
        let members = self.members.as_ref().ok_or_else(unknown)?;
        let holder = members.judge(chain).map_err(|error| {
            tracing::info!(why = pki::describe(&error), "a certificate is refused");
            match error {
                rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked) => {
                    Refusal::Deny(DenyReason::Revoked)
                }
                _ => unknown(),
            }
        })?;
        let (user, certificate) = match holder {
            Holder::Registered(fingerprint) => {
                let user = self.store.user_of_fingerprint(&fingerprint)?.ok_or_else(unknown)?;
                (user, CertificateId::Registered(fingerprint))
            }
            Holder::Outside { user, chain } => {
                (user, CertificateId::Outside { fingerprint, chain: chain.into() })
            }
            _ => return Err(unknown()),
        };
        let Some(account) = self.store.account(&user)? else {
            tracing::info!(%certificate, ?user, "a good certificate, but there is no such user");
            return Err(unknown());
        };
        let grant = welcome(&user, account)?;
        Ok(Grant { certificate: Some(certificate), ..grant })
    }

    /// One that the store has issued.
    fn own_certificate(&self, certificate: StoredCertificate) -> Result<Grant, Refusal> {
        if certificate.revoked.is_some() {
            return Err(Refusal::Deny(DenyReason::Revoked));
        }
        let id = CertificateId::Own(certificate.serial);
        match self.store.standing(&certificate.user, Some(&id))? {
            Standing::Welcome => {}
            Standing::Unwelcome(reason) => return Err(Refusal::Deny(reason)),
        }
        let account = self.store.account(&certificate.user)?;
        let account = account.ok_or(Refusal::Deny(DenyReason::BadCredentials))?;
        Ok(Grant {
            user: certificate.user,
            certificate: Some(id),
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
        work(&mut lock(&self.limiter))
    }
}

fn welcome(user: &str, account: Account) -> Result<Grant, Refusal> {
    if !account.enabled {
        return Err(Refusal::Deny(DenyReason::AccountDisabled));
    }
    Ok(Grant {
        user: user.to_owned(),
        fixed_addresses: account.fixed,
        proof_since: account.proof_since,
        ..Grant::default()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
