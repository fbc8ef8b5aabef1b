use std::sync::Arc;

use contract::WallClock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder,
};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::{CertificateFacts, fingerprint};
use crate::clock::FixedTime;
use crate::describe::{Refusal, refuse};
use crate::error::PkiError;
use crate::name::NameRule;
use crate::username::UserNameFields;

/// id-kp-serverAuth (RFC 5280, 4.2.1.12), as DER contents.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth (RFC 5280, 4.2.1.12), as DER contents.
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Whether a peer may come without a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientCertificate {
    /// No certificate, no session.
    Required,
    /// It may; one that it does present must be good.
    Optional,
}

/// Verifies that a client's chain leads to one of our roots, is in date and is meant for clients.
///
/// Names and revocation are left to the authenticator, who knows the certificate by fingerprint.
#[derive(Debug)]
pub struct ClientChainVerifier {
    chain: Chain,
    hints: Vec<DistinguishedName>,
    presence: ClientCertificate,
}

impl ClientChainVerifier {
    /// Trusts whom `roots` have signed.
    ///
    /// # Errors
    ///
    /// Fails if there is no root, or one is not a certificate.
    pub fn new(
        roots: &[CertificateDer<'_>],
        presence: ClientCertificate,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        if roots.is_empty() {
            return Err(PkiError::NothingTrusted);
        }
        let chain = Chain::new(roots, Usage::required(CLIENT_AUTH), &[], clock, provider)?;
        let hints = chain
            .anchors
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
            .collect();
        Ok(Self { chain, hints, presence })
    }
}

impl ClientCertVerifier for ClientChainVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.presence == ClientCertificate::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.verify(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}

/// What else a server's certificate must satisfy, as a profile says it.
#[derive(Clone, Debug, Default)]
pub struct ServerRules {
    /// `remote-cert-tls server`: the certificate says that it is a server's. Without it, a
    /// certificate may leave its purpose open, but one that names others is refused all the same.
    pub require_eku_server: bool,
    /// `verify-x509-name`.
    pub name: Option<NameRule>,
    /// `x509-username-field`: what stands for the common name in the rule above. A certificate in
    /// which it cannot be read is refused, rule or not.
    pub name_fields: Option<UserNameFields>,
    /// `peer-fingerprint`: SHA-256; empty accepts any. With fingerprints and no roots, the
    /// fingerprint alone decides, and the certificate may be self-signed.
    pub fingerprints: Vec<[u8; 32]>,
    /// `crl-verify`: if there are any, they must cover the whole chain and be in date.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// `crl-verify DIR dir`: serial numbers that no certificate of the chain may have, in the form
    /// of [`CertificateFacts::serial`].
    pub revoked_serials: Vec<String>,
    /// `verify-hash`: SHA-256 of certificates, one of which must have signed the server's; empty
    /// accepts any.
    pub issuers: Vec<[u8; 32]>,
    /// `remote-cert-ku`: in the form of [`CertificateFacts::key_usage`]. The certificate must say
    /// what its key is for, and that must include all of one of these, if there are any.
    pub key_usages: Option<Vec<u8>>,
}

impl ServerRules {
    /// Whether nothing is asked but that the chain leads to a root; names apart.
    fn is_chain_enough(&self) -> bool {
        !self.require_eku_server
            && self.crls.is_empty()
            && self.revoked_serials.is_empty()
            && self.issuers.is_empty()
            && self.key_usages.is_none()
    }

    fn check_usage(&self, facts: &CertificateFacts) -> Result<(), Refusal> {
        let Some(wanted) = &self.key_usages else { return Ok(()) };
        let usage = facts.key_usage.ok_or(Refusal::WrongKeyUsage)?;
        let is_met = wanted.is_empty() || wanted.iter().any(|wanted| usage & wanted == *wanted);
        if is_met { Ok(()) } else { Err(Refusal::WrongKeyUsage) }
    }
}

/// Verifies a server's chain by the rules of a profile; host names play no part.
#[derive(Debug)]
pub struct ServerChainVerifier {
    chain: Chain,
    /// Certificates that are trusted as they are: servers that show the very certificate that
    /// their profile calls the authority (SoftEther does). Whoever has its key could sign any
    /// other. Empty if rules say more than that the chain must lead to a root.
    pinned: Vec<CertificateDer<'static>>,
    rules: ServerRules,
}

impl ServerChainVerifier {
    /// Trusts whom `roots` have signed, within `rules`.
    ///
    /// # Errors
    ///
    /// Fails if there is neither root nor fingerprint, a revocation list without a root, or a
    /// root or revocation list that is damaged.
    pub fn new(
        roots: &[CertificateDer<'_>],
        rules: ServerRules,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        Self::for_usage(SERVER_AUTH, roots, rules, clock, provider)
    }

    /// The same for a peer whose certificate is for something else.
    fn for_usage(
        usage: &'static [u8],
        roots: &[CertificateDer<'_>],
        rules: ServerRules,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        if roots.is_empty() && rules.fingerprints.is_empty() {
            return Err(PkiError::NothingTrusted);
        }
        let needs_chain =
            [rules.crls.is_empty(), rules.revoked_serials.is_empty(), rules.issuers.is_empty()];
        if roots.is_empty() && needs_chain.contains(&false) {
            return Err(PkiError::RevocationWithoutCa);
        }
        let usage = Usage { oid: usage, is_required: rules.require_eku_server };
        let chain = Chain::new(roots, usage, &rules.crls, clock, provider)?;
        let pinned = if rules.is_chain_enough() { chain.roots.clone() } else { Vec::new() };
        Ok(Self { chain, pinned, rules })
    }
}

impl ServerChainVerifier {
    /// The rules that are about more than the server's own certificate.
    fn check_above(&self, facts: &CertificateFacts, above: &Above<'_>) -> Result<(), Error> {
        let rules = &self.rules;
        let is_known = |issuer: &CertificateDer<'_>| rules.issuers.contains(&fingerprint(issuer));
        let is_issuer_known = match above.intermediates.first() {
            Some(nearest) => is_known(nearest),
            None => above.roots.iter().any(|root| is_known(root)),
        };
        if !rules.issuers.is_empty() && !is_issuer_known {
            return Err(Refusal::WrongIssuer.into());
        }
        if rules.revoked_serials.is_empty() {
            return Ok(());
        }
        let is_revoked = |serial: &String| rules.revoked_serials.contains(serial);
        let is_any_above = above.intermediates.iter().any(|certificate| {
            CertificateFacts::read(certificate).is_ok_and(|facts| is_revoked(&facts.serial))
        });
        if is_revoked(&facts.serial) || is_any_above {
            return Err(Error::InvalidCertificate(rustls::CertificateError::Revoked));
        }
        Ok(())
    }
}

impl ServerChainVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let facts = CertificateFacts::read(end_entity)
            .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        if self.chain.anchors.is_empty() || self.pinned.contains(end_entity) {
            self.chain.verify_alone(&facts)?;
        } else {
            let above = self.chain.verify(end_entity, intermediates)?;
            self.check_above(&facts, &above)?;
        }

        let rules = &self.rules;
        if !rules.fingerprints.is_empty() && !rules.fingerprints.contains(&facts.fingerprint) {
            return Err(Refusal::WrongFingerprint.into());
        }
        rules.check_usage(&facts)?;
        let name = match &rules.name_fields {
            Some(fields) => Some(fields.read(end_entity).ok_or(Refusal::NoUserName)?),
            None => facts.common_name.clone(),
        };
        if rules.name.as_ref().is_some_and(|rule| !rule.admits(&facts, name.as_deref())) {
            return Err(Refusal::WrongName.into());
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServerChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}

/// Verifies the peer that calls us on a link between two, by the rules of a profile: what
/// [`ServerChainVerifier`] is to the end that calls. "Server" in the rules means the peer.
#[derive(Debug)]
pub struct CallingPeerVerifier {
    peer: ServerChainVerifier,
    hints: Vec<DistinguishedName>,
}

impl CallingPeerVerifier {
    /// Trusts whom `roots` have signed, within `rules`; the certificate must be for clients where
    /// the rules or the certificate itself ask for a purpose.
    ///
    /// # Errors
    ///
    /// As [`ServerChainVerifier::new`].
    pub fn new(
        roots: &[CertificateDer<'_>],
        rules: ServerRules,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        let peer = ServerChainVerifier::for_usage(CLIENT_AUTH, roots, rules, clock, provider)?;
        let anchors = peer.chain.anchors.iter();
        let hints = anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect();
        Ok(Self { peer, hints })
    }
}

impl ClientCertVerifier for CallingPeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peer.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peer.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peer.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peer.supported_verify_schemes()
    }
}

/// What a leaf's chain consists of.
pub(crate) struct Above<'c> {
    /// The nearest first.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    /// Certificates of the root that the chain ends at.
    pub(crate) roots: Vec<&'c CertificateDer<'static>>,
}

/// What a certificate must be for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// DER contents.
    pub(crate) oid: &'static [u8],
    /// Whether it must say so. If it names purposes, this must be one of them in any case; that
    /// goes for the authorities above it, too, which need not say anything.
    pub(crate) is_required: bool,
}

impl Usage {
    pub(crate) fn required(oid: &'static [u8]) -> Self {
        Self { oid, is_required: true }
    }
}

/// What both roles check alike.
#[derive(Debug)]
pub(crate) struct Chain {
    roots: Vec<CertificateDer<'static>>,
    /// The same in the same order, as the chain is built to them.
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    usage: Usage,
    crls: Vec<CertRevocationList<'static>>,
    clock: FixedTime,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    pub(crate) fn new(
        roots: &[CertificateDer<'_>],
        usage: Usage,
        crls: &[CertificateRevocationListDer<'_>],
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(at, root)| {
                webpki::anchor_from_trusted_cert(root)
                    .map(|anchor| anchor.to_owned())
                    .map_err(|_| PkiError::BadCertificate(at + 1))
            })
            .collect::<Result<_, _>>()?;
        let crls = crls
            .iter()
            .map(|crl| OwnedCertRevocationList::from_der(crl).map(CertRevocationList::from))
            .collect::<Result<_, _>>()
            .map_err(|_| PkiError::BadRevocationList)?;
        Ok(Self {
            roots: roots.iter().map(|root| root.clone().into_owned()).collect(),
            anchors,
            usage,
            crls,
            clock: FixedTime::new(clock),
            algorithms: provider.signature_verification_algorithms,
        })
    }

    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Above<'_>, Error> {
        let leaf = EndEntityCert::try_from(end_entity).map_err(refuse)?;
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let path = leaf
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                self.clock.now(),
                KeyUsage::required_if_present(self.usage.oid),
                revocation,
                None,
            )
            .map_err(refuse)?;
        if self.usage.is_required && !names_purposes(end_entity) {
            return Err(Refusal::WrongPurpose.into());
        }
        let intermediates = path.intermediate_certificates().map(|it| it.der().into_owned());
        let roots = self.anchors.iter().zip(&self.roots);
        Ok(Above {
            intermediates: intermediates.collect(),
            roots: roots.filter(|(it, _)| *it == path.anchor()).map(|(_, root)| root).collect(),
        })
    }

    /// The dates, of a certificate that is trusted for itself.
    pub(crate) fn verify_alone(&self, facts: &CertificateFacts) -> Result<(), Error> {
        let error = match facts.check_dates(self.clock.now().as_secs()) {
            Ok(()) => return Ok(()),
            Err(PkiError::NotYetValid { .. }) => rustls::CertificateError::NotValidYet,
            Err(_) => rustls::CertificateError::Expired,
        };
        Err(Error::InvalidCertificate(error))
    }
}

/// Whether there is an extended key usage.
fn names_purposes(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, it)| it.extended_key_usage().is_ok_and(|usage| usage.is_some()))
}
