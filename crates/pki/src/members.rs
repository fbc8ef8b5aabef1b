//! Whose certificates open a door: our own CA's, those of outside CAs, and single ones that are
//! known by their fingerprint.
//!
//! ```text
//!   issuer is called like our own CA -----> its chain, nothing else --> Holder::Own
//!   SHA-256 is registered ----------------> dates, purpose -----------> Holder::Registered
//!   else: outside CAs --> chain, purpose, lists, user name, name rule -> Holder::Outside
//! ```
//!
//! The same judgement is passed in the handshake, when the authenticator asks who it is, and on
//! live sessions when lists or CAs have changed.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use contract::WallClock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::CertificateFacts;
use crate::describe::Refusal;
use crate::error::PkiError;
use crate::outside::OutsideRules;
use crate::verifier::{CLIENT_AUTH, Chain, Usage};

/// Certificates in a client's chain; nobody's CA is deeper.
pub const MAX_CHAIN_LEN: usize = 8;
/// All of them together, in bytes: room for keys of 4096 bits.
pub const MAX_CHAIN_BYTES: usize = 24 * 1024;

/// Whose a certificate is.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Holder {
    /// Our own CA's: the user list knows which device has it, or refuses it.
    Own,
    /// The certificate with this SHA-256 is registered.
    Registered([u8; 32]),
    /// An outside CA's.
    Outside {
        /// What it calls the user.
        user: String,
        /// DER, leaf first, up to the last below the root.
        chain: Vec<Vec<u8>>,
    },
}

/// Everybody whose certificates are accepted at the moment; changes reach handshakes under way.
#[derive(Debug)]
pub struct Members {
    own: Chain,
    /// DER.
    own_name: Vec<u8>,
    clock: Arc<WallClock>,
    registered: RwLock<HashSet<[u8; 32]>>,
    outside: RwLock<Outside>,
}

/// What is thought of outside CAs.
#[derive(Clone, Debug)]
enum Outside {
    /// There are none.
    Nobody,
    Rules(Arc<OutsideRules>),
    /// There are some, but what is known of them cannot be used.
    Unusable,
}

impl Members {
    /// Accepts whom our own CA has signed, and nobody else yet.
    ///
    /// # Errors
    ///
    /// Fails if `own` is not a certificate.
    pub fn new(
        own: &CertificateDer<'_>,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, PkiError> {
        let (_, certificate) =
            X509Certificate::from_der(own).map_err(|_| PkiError::BadCertificate(1))?;
        let own_name = certificate.subject().as_raw().to_vec();
        let usage = Usage::required(CLIENT_AUTH);
        let own = Chain::new(std::slice::from_ref(own), usage, &[], Arc::clone(&clock), provider)?;
        let (registered, outside) = (RwLock::default(), RwLock::new(Outside::Nobody));
        Ok(Self { own, own_name, clock, registered, outside })
    }

    /// The clock that everything is judged by.
    #[must_use]
    pub fn clock(&self) -> &Arc<WallClock> {
        &self.clock
    }

    /// Accepts certificates with these SHA-256 fingerprints, instead of those before.
    pub fn register(&self, fingerprints: HashSet<[u8; 32]>) {
        *self.registered.write().unwrap_or_else(PoisonError::into_inner) = fingerprints;
    }

    /// Accepts outside CAs by these rules instead of those before; `None` accepts none.
    pub fn accept(&self, outside: Option<Arc<OutsideRules>>) {
        self.set(outside.map_or(Outside::Nobody, Outside::Rules));
    }

    /// Refuses outside CAs' certificates until they are [accepted](Self::accept) again: their
    /// files cannot be used.
    pub fn distrust(&self) {
        self.set(Outside::Unusable);
    }

    /// The rules for outside CAs, if there are any that can be used.
    #[must_use]
    pub fn outside(&self) -> Option<Arc<OutsideRules>> {
        match &*self.outside.read().unwrap_or_else(PoisonError::into_inner) {
            Outside::Rules(rules) => Some(Arc::clone(rules)),
            Outside::Nobody | Outside::Unusable => None,
        }
    }

    fn set(&self, outside: Outside) {
        *self.outside.write().unwrap_or_else(PoisonError::into_inner) = outside;
    }

    /// Says whose a chain is (DER, leaf first).
    ///
    /// # Errors
    ///
    /// Nobody's who may come in; [`describe`](crate::describe()) says why.
    pub fn judge(&self, chain: &[Vec<u8>]) -> Result<Holder, Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let rest: Vec<_> = rest.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        self.judge_der(&CertificateDer::from(leaf.as_slice()), &rest)
    }

    fn judge_der(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Holder, Error> {
        let len = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
        if intermediates.len() >= MAX_CHAIN_LEN || len > MAX_CHAIN_BYTES {
            return Err(Refusal::LongChain.into());
        }
        let malformed = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let facts = CertificateFacts::read(leaf).map_err(|_| malformed())?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| malformed())?;

        // Whatever else is said of it: what our CA has signed is judged as that alone.
        if certificate.issuer().as_raw() == self.own_name {
            self.own.verify(leaf, intermediates)?;
            return Ok(Holder::Own);
        }
        let registered = self.registered.read().unwrap_or_else(PoisonError::into_inner);
        if registered.contains(&facts.fingerprint) {
            drop(registered);
            self.own.verify_alone(&facts)?;
            check_purpose(&certificate)?;
            return Ok(Holder::Registered(facts.fingerprint));
        }
        drop(registered);
        let outside = self.outside.read().unwrap_or_else(PoisonError::into_inner).clone();
        match outside {
            Outside::Rules(rules) => rules.judge(&facts, leaf, intermediates),
            Outside::Unusable => Err(Refusal::Unusable.into()),
            Outside::Nobody => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    /// Says whether a session has to end that `user` began with this chain of an outside CA's.
    /// Lists that have expired or cannot be read say nothing about anybody: they keep people out,
    /// but end no session.
    #[must_use]
    pub fn has_lost(&self, user: &str, chain: &[Vec<u8>]) -> bool {
        match self.judge(chain) {
            Ok(Holder::Outside { user: name, .. }) => name != user,
            Ok(_) => true,
            Err(error) => !is_about_lists(&error),
        }
    }
}

/// A certificate that says what it is for must be for clients.
fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let usage = certificate.extended_key_usage().map_err(|_| Error::from(Refusal::WrongPurpose))?;
    match usage {
        Some(usage) if !usage.value.client_auth && !usage.value.any => {
            Err(Refusal::WrongPurpose.into())
        }
        _ => Ok(()),
    }
}

fn is_about_lists(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. }
            | CertificateError::UnknownRevocationStatus,
        ) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref() == Some(&Refusal::Unusable)
        }
        _ => false,
    }
}

/// Asks [`Members`] in the handshake.
#[derive(Debug)]
pub struct MemberVerifier {
    members: Arc<Members>,
    hints: Vec<DistinguishedName>,
}

impl MemberVerifier {
    /// Clients are told that they need a certificate of our own CA or of these; those that send
    /// another are judged as well.
    #[must_use]
    pub fn new(members: Arc<Members>, outside: Option<&OutsideRules>) -> Self {
        let own = members.own.anchors.iter();
        let hints = own.map(|anchor| DistinguishedName::in_sequence(&anchor.subject));
        let hints = hints.chain(outside.into_iter().flat_map(OutsideRules::names)).collect();
        Self { members, hints }
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.members.judge_der(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.members.own.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.members.own.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.members.own.algorithms.supported_schemes()
    }
}
