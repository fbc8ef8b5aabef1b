use contract::Secret;
use pki::{CertificateFacts, PkiError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::random::random_bytes;

/// The common name of every server certificate: profiles pin it (`verify-x509-name`).
pub const SERVER_NAME: &str = "warren-server";

/// How long a client certificate is good for if nobody says otherwise; it is ended earlier by
/// revoking it in the user list, so a short life would only lock people out.
pub const CLIENT_CERTIFICATE_DAYS: u32 = 3650;

const AUTHORITY_DAYS: u32 = 20 * 365;
const SERVER_CERTIFICATE_DAYS: u32 = 10 * 365;

/// A client's clock may be behind ours; everything is valid from a day ago.
const BACKDATED: Duration = Duration::days(1);

/// The embedded certificate authority: ECDSA P-256.
#[derive(Debug)]
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as given out once.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS #8 in PEM.
    pub key_pem: Secret,
    /// What it says.
    pub facts: CertificateFacts,
}

/// Why a certificate cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// What is stored is damaged.
    #[error("{0}")]
    Pki(#[from] PkiError),
    /// The library refuses.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// Makes a new authority, valid for 20 years from `now` (seconds since 1970); returns its
    /// certificate and key in one PEM text, for [`from_pem`](Self::from_pem).
    ///
    /// # Errors
    ///
    /// Fails if the library refuses.
    pub fn create(now: u64) -> Result<Secret, CertificateError> {
        let key = KeyPair::generate()?;
        // The number tells the authorities of two Warrens apart where their names are shown.
        let name = format!("Warren CA {}", hex::encode(random_bytes::<4>()));
        let mut params = params(&name, now, AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(joined(&certificate.pem(), &Zeroizing::new(key.serialize_pem())))
    }

    /// Reads a certificate and its key from one PEM text.
    ///
    /// # Errors
    ///
    /// Fails if either is missing or damaged.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let certificate = pki::certificates(pem)?.swap_remove(0);
        let key = pki::private_key(pem)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(key.secret_der()),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate_pem: first_certificate(pem), certificate, issuer })
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's own certificate, for profiles.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues the server's certificate, valid for 10 years from `now`.
    ///
    /// # Errors
    ///
    /// Fails if the library refuses.
    pub fn issue_server(&self, now: u64) -> Result<Issued, CertificateError> {
        self.issue(server_params(now)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues the server's certificate for a key that is elsewhere: `public_key` is its
    /// SubjectPublicKeyInfo in DER. Returns the certificate in PEM.
    ///
    /// # Errors
    ///
    /// Fails if the key is none, or of a kind that is not supported.
    pub fn certify_server(&self, public_key: &[u8], now: u64) -> Result<String, CertificateError> {
        let key = SubjectPublicKeyInfo::from_der(public_key)?;
        let params = for_purpose(server_params(now)?, ExtendedKeyUsagePurpose::ServerAuth);
        Ok(params.signed_by(&key, &self.issuer)?.pem())
    }

    /// Issues a certificate for one of the user's devices, valid for `days` from `now`.
    ///
    /// # Errors
    ///
    /// Fails if the library refuses.
    pub fn issue_client(
        &self,
        user: &str,
        now: u64,
        days: u32,
    ) -> Result<Issued, CertificateError> {
        self.issue(params(user, now, days)?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        params: CertificateParams,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate()?;
        let certificate = for_purpose(params, purpose).signed_by(&key, &self.issuer)?;
        Ok(Issued {
            facts: CertificateFacts::read(certificate.der())?,
            certificate_pem: certificate.pem(),
            key_pem: Secret::new(key.serialize_pem()),
        })
    }
}

impl Issued {
    /// Certificate and key in one PEM text.
    #[must_use]
    pub fn to_pem(&self) -> Secret {
        let mut pem = Zeroizing::new(self.certificate_pem.clone().into_bytes());
        pem.extend_from_slice(self.key_pem.expose());
        Secret::new(pem.as_slice())
    }
}

fn server_params(now: u64) -> Result<CertificateParams, CertificateError> {
    let mut params = params(SERVER_NAME, now, SERVER_CERTIFICATE_DAYS)?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName("warren".try_into()?)];
    Ok(params)
}

fn for_purpose(
    mut params: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
) -> CertificateParams {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(name: &str, now: u64, days: u32) -> Result<CertificateParams, CertificateError> {
    let now = i64::try_from(now)
        .ok()
        .and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days.into());
    Ok(params)
}

/// 126 random bits, positive and always 16 bytes long (RFC 5280, 4.1.2.2 asks for at most 20).
fn serial() -> [u8; 16] {
    let mut serial = random_bytes::<16>();
    serial[0] = (serial[0] & 0x3f) | 0x40;
    serial
}

fn joined(certificate: &str, key: &str) -> Secret {
    Secret::new(format!("{certificate}{key}"))
}

fn first_certificate(pem: &[u8]) -> String {
    const END: &str = "-----END CERTIFICATE-----\n";
    let text = String::from_utf8_lossy(pem);
    let end = text.find(END).map_or(0, |at| at + END.len());
    let start = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(end);
    text.get(start..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contract::WallClock;
    use pki::{ClientCertificate, ClientChainVerifier, NameRule, ServerChainVerifier, ServerRules};
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::server::danger::ClientCertVerifier as _;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    /// 2026-06-01.
    const NOW: u64 = 1_780_272_000;
    const DAY: u64 = 86_400;

    fn authority() -> Authority {
        Authority::from_pem(Authority::create(NOW).unwrap().expose()).unwrap()
    }

    fn client_is_good(authority: &Authority, issued: &Issued, at: u64) -> bool {
        let verifier = ClientChainVerifier::new(
            &[authority.certificate().clone()],
            ClientCertificate::Required,
            Arc::new(WallClock::new(at)),
            &default_provider(),
        )
        .unwrap();
        let chain = pki::certificates(issued.certificate_pem.as_bytes()).unwrap();
        verifier.verify_client_cert(&chain[0], &[], UnixTime::now()).is_ok()
    }

    fn server_is_good(authority: &Authority, issued: &Issued, at: u64) -> bool {
        let rules = ServerRules {
            require_eku_server: true,
            name: Some(NameRule::CommonName(SERVER_NAME.to_owned())),
            ..ServerRules::default()
        };
        let verifier = ServerChainVerifier::new(
            &[authority.certificate().clone()],
            rules,
            Arc::new(WallClock::new(at)),
            &default_provider(),
        )
        .unwrap();
        let chain = pki::certificates(issued.certificate_pem.as_bytes()).unwrap();
        let name = ServerName::try_from("unused.invalid").unwrap();
        verifier.verify_server_cert(&chain[0], &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_client_certificate_is_good_for_a_client_and_nothing_else() {
        let authority = authority();

        let issued = authority.issue_client("alice", NOW, CLIENT_CERTIFICATE_DAYS).unwrap();

        assert_eq!(issued.facts.common_name.as_deref(), Some("alice"));
        assert_eq!(issued.facts.serial.len(), 32);
        assert!(client_is_good(&authority, &issued, NOW));
        assert!(client_is_good(&authority, &issued, NOW + 3649 * DAY));
        assert!(!client_is_good(&authority, &issued, NOW + 3651 * DAY));
        assert!(!server_is_good(&authority, &issued, NOW));
        assert!(!client_is_good(&self::authority(), &issued, NOW));
    }

    #[test]
    fn a_server_certificate_is_good_for_a_server_and_nothing_else() {
        let authority = authority();

        let issued = authority.issue_server(NOW).unwrap();

        assert!(server_is_good(&authority, &issued, NOW));
        assert!(!client_is_good(&authority, &issued, NOW));
        let key = pki::private_key(issued.to_pem().expose()).unwrap();
        let chain = pki::certificates(issued.to_pem().expose()).unwrap();
        pki::certified_key(chain, key, &default_provider()).unwrap();
    }

    #[test]
    fn every_certificate_has_a_serial_number_of_its_own() {
        let authority = authority();

        let one = authority.issue_client("alice", NOW, 1).unwrap();
        let two = authority.issue_client("alice", NOW, 1).unwrap();

        assert_ne!(one.facts.serial, two.facts.serial);
        assert_ne!(one.facts.fingerprint, two.facts.fingerprint);
        assert!(!format!("{one:?}").contains("PRIVATE KEY"), "the key is printed");
    }

    #[test]
    fn the_authoritys_certificate_is_given_out_without_its_key() {
        let authority = authority();

        let pem = authority.certificate_pem();

        assert!(!pem.contains("PRIVATE"), "{pem}");
        assert_eq!(&pki::certificates(pem.as_bytes()).unwrap()[0], authority.certificate());
    }
}
