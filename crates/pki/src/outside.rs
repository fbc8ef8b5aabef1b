//! What certificates of outside CAs must satisfy: OpenVPN's `ca`, `crl-verify`,
//! `x509-username-field`, `verify-x509-name` and `remote-cert-tls client`.

use std::cmp::Reverse;
use std::sync::Arc;

use contract::WallClock;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{DistinguishedName, Error};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::certificate::{CertificateFacts, day};
use crate::describe::Refusal;
use crate::error::PkiError;
use crate::members::Holder;
use crate::name::{NameRule, openvpn_subject};
use crate::username::UserNameFields;
use crate::verifier::{CLIENT_AUTH, Chain, Usage};

/// Uses of a key that prove in TLS that one has it (RFC 5280, 4.2.1.3): digitalSignature and
/// keyAgreement, as OpenSSL asks of clients.
const PROVING: u8 = 0x80 | 0x08;

/// What an operator says of outside CAs.
#[derive(Clone, Debug, Default)]
pub struct OutsideCas {
    /// CAs: those whose issuer is not among them are trusted as roots, the others only help to
    /// build chains.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Revocation lists, if any are asked for: then every CA above must have one, and every
    /// certificate of a chain must be covered by one that is in date.
    pub lists: Option<Vec<CertificateRevocationListDer<'static>>>,
    /// What of a certificate is the user's name.
    pub user_name: UserNameFields,
    /// Whom of all those to take.
    pub names: Option<NameRule>,
    /// Certificates must say that they are for clients (`remote-cert-tls client`). Without it, they
    /// may leave their purpose open.
    pub require_client_usage: bool,
}

/// Which of the operator's files is to blame, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OutsideError {
    /// That with the CAs.
    Cas(PkiError),
    /// That with the revocation lists.
    Lists(PkiError),
}

impl OutsideError {
    /// Whether nothing is wrong but the time: something is too old, or too new.
    #[must_use]
    pub fn is_out_of_date(&self) -> bool {
        let (Self::Cas(error) | Self::Lists(error)) = self;
        matches!(
            error,
            PkiError::Expired { .. } | PkiError::NotYetValid { .. } | PkiError::ListExpired { .. }
        )
    }
}

/// The same, checked.
#[derive(Debug)]
pub struct OutsideRules {
    chain: Chain,
    intermediates: Vec<CertificateDer<'static>>,
    user_name: UserNameFields,
    names: Option<NameRule>,
    require_client_usage: bool,
    cas: Vec<Ca>,
    /// The newest of each CA.
    lists: Vec<List>,
    clock: Arc<WallClock>,
}

#[derive(Debug)]
struct Ca {
    facts: CertificateFacts,
    /// DER.
    name: Vec<u8>,
    issuer: Vec<u8>,
    /// What its signatures are verified with.
    key: Vec<u8>,
}

#[derive(Debug)]
struct List {
    /// As it is shown.
    issuer: String,
    name: Vec<u8>,
    this_update: i64,
    next_update: i64,
}

impl OutsideRules {
    /// Checks all that can be wrong with CAs and lists, signatures and dates included.
    ///
    /// # Errors
    ///
    /// Fails if nobody or somebody who is no CA is named, if something is damaged or not in date,
    /// or if a CA has no list where there must be one.
    pub fn new(
        outside: OutsideCas,
        clock: Arc<WallClock>,
        provider: &CryptoProvider,
    ) -> Result<Self, OutsideError> {
        let OutsideCas { certificates, lists, user_name, names, require_client_usage } = outside;
        let cas = certificates.iter().enumerate().map(|(at, der)| ca(at + 1, der));
        let cas = cas.collect::<Result<Vec<_>, _>>().map_err(OutsideError::Cas)?;
        let is_signed_here =
            |ca: &Ca| ca.name != ca.issuer && cas.iter().any(|other| other.name == ca.issuer);
        let (intermediates, roots): (Vec<_>, Vec<_>) =
            certificates.into_iter().zip(&cas).partition(|(_, ca)| is_signed_here(ca));
        let [intermediates, roots] =
            [intermediates, roots].map(|some| some.into_iter().map(|(der, _)| der).collect());
        let roots: Vec<_> = roots;
        if roots.is_empty() {
            return Err(OutsideError::Cas(PkiError::NothingTrusted));
        }

        let algorithms = provider.signature_verification_algorithms;
        let (lists, facts) = read_lists(lists.as_deref(), &cas, &algorithms)?;
        let usage = Usage { oid: CLIENT_AUTH, is_required: require_client_usage };
        let chain = Chain::new(&roots, usage, &lists, Arc::clone(&clock), provider)
            .map_err(OutsideError::Cas)?;
        let lists = facts;
        let rules = Self {
            chain,
            intermediates,
            user_name,
            names,
            require_client_usage,
            cas,
            lists,
            clock,
        };
        rules.check_dates()?;
        Ok(rules)
    }

    /// How many CAs and revocation lists there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.cas.len(), self.lists.len())
    }

    /// Whether every CA and every list is in date at this moment.
    ///
    /// # Errors
    ///
    /// The first that is not; those whom it concerns are refused.
    pub fn check_dates(&self) -> Result<(), OutsideError> {
        let now = self.clock.now();
        for ca in &self.cas {
            ca.facts.check_dates(now).map_err(OutsideError::Cas)?;
        }
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let old = self.lists.iter().find(|list| list.next_update < now);
        old.map_or(Ok(()), |list| {
            let (issuer, date) = (list.issuer.clone(), day(list.next_update));
            Err(OutsideError::Lists(PkiError::ListExpired { issuer, date }))
        })
    }

    /// The roots' names, for clients to choose a certificate by.
    pub fn names(&self) -> impl Iterator<Item = DistinguishedName> {
        let anchors = self.chain.anchors.iter();
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
    }

    pub(crate) fn judge(
        &self,
        facts: &CertificateFacts,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Holder, Error> {
        let sent = intermediates.iter().map(|der| CertificateDer::from(der.as_ref()));
        let known = self.intermediates.iter().map(|der| CertificateDer::from(der.as_ref()));
        let above = self.chain.verify(leaf, &sent.chain(known).collect::<Vec<_>>())?;
        // Webpki takes a root as it is, however old.
        let now = self.clock.now();
        let is_in_date = |ca: &&CertificateDer<'_>| {
            CertificateFacts::read(ca).is_ok_and(|facts| facts.check_dates(now).is_ok())
        };
        if !above.roots.iter().any(is_in_date) {
            return Err(Refusal::OldRoot.into());
        }

        let is_proving = facts.key_usage.map(|usage| usage & PROVING != 0);
        if !is_proving.unwrap_or(!self.require_client_usage) {
            return Err(Refusal::WrongKeyUsage.into());
        }
        let user = self.user_name.read(leaf).ok_or_else(|| Error::from(Refusal::NoUserName))?;
        if self.names.as_ref().is_some_and(|rule| !rule.admits(facts, Some(&user))) {
            return Err(Refusal::WrongName.into());
        }
        let chain = std::iter::once(leaf).chain(&above.intermediates);
        Ok(Holder::Outside { user, chain: chain.map(|der| der.to_vec()).collect() })
    }
}

fn ca(number: usize, der: &CertificateDer<'_>) -> Result<Ca, PkiError> {
    let facts = CertificateFacts::read(der).map_err(|_| PkiError::BadCertificate(number))?;
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| PkiError::BadCertificate(number))?;
    let constraints =
        certificate.basic_constraints().map_err(|_| PkiError::BadCertificate(number))?;
    // Certificates of version 1 cannot say it.
    let is_old_root = certificate.version.0 == 0 && certificate.subject() == certificate.issuer();
    if !constraints.map_or(is_old_root, |constraints| constraints.value.ca) {
        return Err(PkiError::NotCa { number, subject: facts.subject });
    }
    Ok(Ca {
        facts,
        name: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
        key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

type Lists<'l> = (Vec<CertificateRevocationListDer<'l>>, Vec<List>);

/// The lists, newest first, and the facts of the newest of each CA.
fn read_lists<'l>(
    lists: Option<&'l [CertificateRevocationListDer<'static>]>,
    cas: &[Ca],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<Lists<'l>, OutsideError> {
    let Some(lists) = lists else { return Ok((Vec::new(), Vec::new())) };
    let mut read = Vec::with_capacity(lists.len());
    for der in lists {
        let facts = list(der, cas, algorithms).map_err(OutsideError::Lists)?;
        read.push((facts, CertificateRevocationListDer::from(der.as_ref())));
    }
    // The first list of a CA is the one that counts.
    read.sort_by_key(|(facts, _)| Reverse(facts.this_update));
    let mut newest: Vec<List> = Vec::new();
    let mut ders = Vec::with_capacity(read.len());
    for (facts, der) in read {
        ders.push(der);
        if newest.iter().all(|other| other.name != facts.name) {
            newest.push(facts);
        }
    }
    let missing = cas.iter().find(|ca| newest.iter().all(|list| list.name != ca.name));
    match missing {
        Some(ca) => Err(OutsideError::Lists(PkiError::ListMissing(ca.facts.subject.clone()))),
        None => Ok((ders, newest)),
    }
}

/// Reads one list. That of a CA which only clients send is verified when they do.
fn list(der: &[u8], cas: &[Ca], algorithms: &WebPkiSupportedAlgorithms) -> Result<List, PkiError> {
    let (_, list) =
        CertificateRevocationList::from_der(der).map_err(|_| PkiError::BadRevocationList)?;
    let issuer = openvpn_subject(list.issuer());
    let name = list.issuer().as_raw().to_vec();
    let (signed, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
    let mut signers = cas.iter().filter(|ca| ca.name == name).peekable();
    let is_known = signers.peek().is_some();
    // Which algorithm it must be is up to the handshake; this tells the operator before.
    let is_signed = signers.any(|ca| {
        let mut all = algorithms.all.iter();
        all.any(|algorithm| algorithm.verify_signature(&ca.key, signed, signature).is_ok())
    });
    if is_known && !is_signed {
        return Err(PkiError::ListForged(issuer));
    }
    let next_update = list.next_update().ok_or(PkiError::BadRevocationList)?;
    let (this_update, next_update) = (list.last_update().timestamp(), next_update.timestamp());
    Ok(List { issuer, name, this_update, next_update })
}
