use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::{
    AuthContext, AuthVerdict, Authenticator, BoxFuture, CertificateId, Credentials, DenyReason,
    Grant,
};

/// An authenticator whose users live in memory: a double for tests, and no more than that, since
/// it compares passwords in the clear and not in constant time.
#[derive(Debug, Default)]
pub struct MemoryAuthenticator {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: BTreeMap<String, User>,
    /// By leaf, in DER.
    certificates: BTreeMap<Vec<u8>, Certificate>,
    is_unavailable: bool,
}

#[derive(Debug, Default)]
struct User {
    password: Option<Vec<u8>>,
    is_disabled: bool,
    fixed_addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Certificate {
    user: String,
    serial: String,
    is_revoked: bool,
}

impl MemoryAuthenticator {
    /// Knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a user, or changes the user's password.
    #[must_use]
    pub fn with_user(self, name: &str, password: &str) -> Self {
        self.lock().user(name).password = Some(password.as_bytes().to_vec());
        self
    }

    /// Adds a certificate for a user, who is added without a password if there is none yet.
    #[must_use]
    pub fn with_certificate(self, leaf: impl Into<Vec<u8>>, user: &str, serial: &str) -> Self {
        let certificate =
            Certificate { user: user.into(), serial: serial.into(), is_revoked: false };
        let mut state = self.lock();
        state.user(user);
        state.certificates.insert(leaf.into(), certificate);
        drop(state);
        self
    }

    /// Fixes a user's addresses.
    #[must_use]
    pub fn with_addresses(self, user: &str, addresses: &[IpAddr]) -> Self {
        self.lock().user(user).fixed_addresses = addresses.to_vec();
        self
    }

    /// Disables a user from now on.
    pub fn disable(&self, user: &str) {
        self.lock().user(user).is_disabled = true;
    }

    /// Revokes every certificate with this serial number from now on.
    pub fn revoke(&self, serial: &str) {
        for certificate in self.lock().certificates.values_mut() {
            certificate.is_revoked |= certificate.serial == serial;
        }
    }

    /// From now on, the users can or cannot be asked.
    pub fn set_available(&self, is_available: bool) {
        self.lock().is_unavailable = !is_available;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn user(&mut self, name: &str) -> &mut User {
        self.users.entry(name.to_owned()).or_default()
    }

    fn judge(&self, credentials: &Credentials) -> Result<Grant, DenyReason> {
        if self.is_unavailable {
            return Err(DenyReason::BackendUnavailable);
        }
        let (name, certificate) = match credentials {
            Credentials::Password { user, password, .. } => {
                let known = self.users.get(user).and_then(|user| user.password.as_deref());
                if known != Some(password.expose()) {
                    return Err(DenyReason::BadCredentials);
                }
                (user, None)
            }
            Credentials::Certificate { chain } => {
                let certificate = chain.first().and_then(|leaf| self.certificates.get(leaf));
                let certificate = certificate.ok_or(DenyReason::BadCredentials)?;
                if certificate.is_revoked {
                    return Err(DenyReason::Revoked);
                }
                (&certificate.user, Some(CertificateId::Own(certificate.serial.clone())))
            }
            _ => return Err(DenyReason::BadCredentials),
        };
        let user = self.users.get(name).ok_or(DenyReason::BadCredentials)?;
        if user.is_disabled {
            return Err(DenyReason::AccountDisabled);
        }
        let fixed_addresses = user.fixed_addresses.clone();
        Ok(Grant { user: name.clone(), certificate, fixed_addresses, ..Grant::default() })
    }
}

impl Authenticator for MemoryAuthenticator {
    fn authenticate<'a>(
        &'a self,
        _: &'a AuthContext,
        credentials: Credentials,
    ) -> BoxFuture<'a, AuthVerdict> {
        let verdict = match self.lock().judge(&credentials) {
            Ok(grant) => AuthVerdict::Grant(Box::new(grant)),
            Err(reason) => AuthVerdict::Deny(reason),
        };
        Box::pin(std::future::ready(verdict))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::{Context, Poll, Waker};

    use contract::{Secret, SessionId};

    use super::*;

    fn ask(users: &MemoryAuthenticator, credentials: Credentials) -> Result<Grant, DenyReason> {
        let context = AuthContext {
            protocol: "test",
            network: String::new(),
            remote: Ipv4Addr::LOCALHOST.into(),
            port: 1194,
            session: SessionId(1),
            introduction: "".into(),
        };
        let mut future = users.authenticate(&context, credentials);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(AuthVerdict::Grant(grant)) => Ok(*grant),
            Poll::Ready(AuthVerdict::Deny(reason)) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.into(), password: Secret::new(password), response: None }
    }

    fn certificate(leaf: &[u8]) -> Credentials {
        Credentials::Certificate { chain: vec![leaf.to_vec(), b"ca".to_vec()] }
    }

    #[test]
    fn only_the_right_password_comes_in() {
        let address = Ipv4Addr::new(10, 86, 0, 9).into();
        let users = MemoryAuthenticator::new()
            .with_user("alice", "secret")
            .with_addresses("alice", &[address]);

        let grant = ask(&users, password("alice", "secret")).unwrap();

        assert_eq!((grant.user.as_str(), grant.fixed_addresses), ("alice", vec![address]));
        for wrong in [password("alice", "Secret"), password("alice", ""), password("bob", "")] {
            assert_eq!(ask(&users, wrong), Err(DenyReason::BadCredentials));
        }
    }

    #[test]
    fn a_certificate_names_its_user_and_device_until_it_is_revoked() {
        let users = MemoryAuthenticator::new().with_certificate("leaf", "alice", "01");

        let grant = ask(&users, certificate(b"leaf")).unwrap();
        assert_eq!(grant.user, "alice");
        assert_eq!(grant.certificate, Some(CertificateId::Own("01".to_owned())));
        assert_eq!(ask(&users, certificate(b"other")), Err(DenyReason::BadCredentials));
        assert_eq!(ask(&users, password("alice", "")), Err(DenyReason::BadCredentials));

        users.revoke("01");
        assert_eq!(ask(&users, certificate(b"leaf")), Err(DenyReason::Revoked));
    }

    #[test]
    fn a_disabled_user_is_told_so_only_with_the_right_password() {
        let users = MemoryAuthenticator::new().with_user("alice", "secret");
        users.disable("alice");

        assert_eq!(ask(&users, password("alice", "secret")), Err(DenyReason::AccountDisabled));
        assert_eq!(ask(&users, password("alice", "wrong")), Err(DenyReason::BadCredentials));
    }

    #[test]
    fn a_store_that_cannot_be_asked_lets_nobody_in() {
        let users = MemoryAuthenticator::new().with_user("alice", "secret");

        users.set_available(false);
        assert_eq!(ask(&users, password("alice", "secret")), Err(DenyReason::BackendUnavailable));

        users.set_available(true);
        assert!(ask(&users, password("alice", "secret")).is_ok());
    }
}
