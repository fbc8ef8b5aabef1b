use contract::Secret;
use openvpn::ServerKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::Authority;
use crate::clock;
use crate::random::random_bytes;
use crate::static_key::StaticKey;
use crate::store::{Store, StoreError};

const AUTHORITY: &str = "identity.authority";
const SERVER: &str = "identity.server";
/// The certificate of a server whose key is in a token; its public key is in front, so that
/// another one gets another certificate.
const ELSEWHERE: &str = "identity.server-elsewhere";
const TOKEN_KEY: &str = "identity.openvpn-token-key";
const STATIC_KEY: &str = "identity.openvpn-static-key";
const CLIENT_KEYS: &str = "identity.openvpn-tls-crypt-v2";

/// The server's certificate is replaced when this much of its life is left; clients trust the
/// authority, so they notice nothing.
const RENEW_BEFORE: u64 = 90 * 86_400;

/// Who this server is: made once, at the first start, and kept in the store.
#[derive(Debug)]
pub struct Identity {
    /// Signs everything.
    pub authority: Authority,
    /// The server's certificate chain, leaf first.
    pub server_chain: Vec<CertificateDer<'static>>,
    /// The key of the server's certificate.
    pub server_key: PrivateKeyDer<'static>,
    /// Wraps the control packets of OpenVPN clients without a key of their own.
    pub static_key: StaticKey,
    /// Makes keys for OpenVPN clients, and recognises them.
    pub client_keys: ServerKey,
    /// Makes OpenVPN's tokens: those given out before a restart are good after it.
    pub token_key: Secret,
}

/// The length of [`Identity::token_key`], in bytes.
pub const TOKEN_KEY_LEN: usize = 32;

impl Identity {
    /// Reads the identity, and makes what is not there yet; two processes that do this at once
    /// get the same.
    ///
    /// # Errors
    ///
    /// Fails if the store does, or what it holds is damaged.
    pub fn load_or_create(store: &Store) -> Result<Self, StoreError> {
        let now = clock::now();
        let pem = store.setting_or(AUTHORITY, |_| true, || Ok(Authority::create(now)?))?;
        let authority = Authority::from_pem(pem.expose())?;
        let server = store.setting_or(
            SERVER,
            |pem| !wears_out(pem, now),
            || Ok(authority.issue_server(now)?.to_pem()),
        )?;
        let static_key = store.setting_or(
            STATIC_KEY,
            |_| true,
            || Ok(Secret::new(StaticKey::generate().to_pem().as_bytes())),
        )?;

        let client_keys = store.setting_or(
            CLIENT_KEYS,
            |_| true,
            || Ok(Secret::new(ServerKey::from_bytes(random_bytes()).to_pem().as_bytes())),
        )?;
        let token_key = store.setting_or(
            TOKEN_KEY,
            |key| key.expose().len() == TOKEN_KEY_LEN,
            || Ok(Secret::new(random_bytes::<TOKEN_KEY_LEN>())),
        )?;

        let text = String::from_utf8_lossy(static_key.expose());
        let client_keys = String::from_utf8_lossy(client_keys.expose());
        Ok(Self {
            server_chain: pki::certificates(server.expose())?,
            server_key: pki::private_key(server.expose())?,
            static_key: StaticKey::from_pem(&text)?,
            client_keys: ServerKey::parse(&client_keys)?,
            token_key,
            authority,
        })
    }
}

impl Identity {
    /// The certificate chain of a server whose key is elsewhere, such as in a token: the authority
    /// certifies it once, and again when that nears its end. `public_key` is its
    /// SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    ///
    /// Fails if the store does, or the key is of a kind that is not supported.
    pub fn certify_elsewhere(
        &self,
        store: &Store,
        public_key: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, StoreError> {
        let now = clock::now();
        let mark = format!("{}\n", hex::encode(public_key));
        let pem = store.setting_or(
            ELSEWHERE,
            |pem| pem.expose().starts_with(mark.as_bytes()) && !wears_out(pem, now),
            || {
                let certificate = self.authority.certify_server(public_key, now)?;
                Ok(Secret::new(format!("{mark}{certificate}")))
            },
        )?;
        Ok(pki::certificates(pem.expose())?)
    }
}

fn wears_out(pem: &Secret, now: u64) -> bool {
    pki::certificates(pem.expose())
        .ok()
        .and_then(|chain| pki::CertificateFacts::read(chain.first()?).ok())
        .is_none_or(|facts| facts.check_dates(now.saturating_add(RENEW_BEFORE)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let scratch = Scratch::new();

        let first = Identity::load_or_create(&scratch.store()).unwrap();
        let second = Identity::load_or_create(&scratch.store()).unwrap();

        assert_eq!(first.authority.certificate(), second.authority.certificate());
        assert_eq!(first.server_chain, second.server_chain);
        assert_eq!(first.server_key.secret_der(), second.server_key.secret_der());
        assert_eq!(first.static_key.expose(), second.static_key.expose());
        assert_eq!(first.client_keys.to_pem(), second.client_keys.to_pem());
        assert_eq!(first.token_key, second.token_key);
    }

    #[test]
    fn a_server_certificate_near_its_end_is_replaced_under_the_same_authority() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let first = Identity::load_or_create(&store).unwrap();
        let nearly_ten_years = (10 * 365 - 30) * 86_400;
        let old = first.authority.issue_server(clock::now() - nearly_ten_years).unwrap();
        store.set_setting(SERVER, &old.to_pem()).unwrap();

        let second = Identity::load_or_create(&store).unwrap();

        assert_eq!(first.authority.certificate(), second.authority.certificate());
        let facts = pki::CertificateFacts::read(&second.server_chain[0]).unwrap();
        assert_ne!(facts.serial, old.facts.serial);
        assert!(facts.check_dates(clock::now() + nearly_ten_years).is_ok());
    }

    #[test]
    fn a_key_that_is_elsewhere_is_certified_once_and_another_one_anew() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let identity = Identity::load_or_create(&store).unwrap();
        let public_key =
            || rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
        let (one, other) = (public_key(), public_key());

        let first = identity.certify_elsewhere(&store, &one).unwrap();
        let again = identity.certify_elsewhere(&store, &one).unwrap();
        let another = identity.certify_elsewhere(&store, &other).unwrap();

        assert_eq!(first, again);
        assert_ne!(first, another);
        let facts = pki::CertificateFacts::read(&first[0]).unwrap();
        assert_eq!(facts.common_name.as_deref(), Some(crate::authority::SERVER_NAME));
        let holds = |chain: &[CertificateDer<'_>], key: &[u8]| {
            chain[0].windows(key.len()).any(|window| window == key)
        };
        assert!(holds(&first, &one) && holds(&another, &other));
        assert!(identity.certify_elsewhere(&store, b"no key").is_err());
    }

    #[test]
    fn a_damaged_identity_is_an_error_not_a_new_identity() {
        let scratch = Scratch::new();
        let store = scratch.store();
        store.set_setting(AUTHORITY, &Secret::new("damaged")).unwrap();

        let refused = Identity::load_or_create(&store).unwrap_err();

        assert!(matches!(refused, StoreError::Identity(_)), "{refused}");
    }
}
