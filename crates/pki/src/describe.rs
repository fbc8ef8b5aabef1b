use std::fmt;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// Why a chain that is otherwise sound was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// The name rule says no.
    WrongName,
    /// No fingerprint matches.
    WrongFingerprint,
    /// Signed by another than the one whose fingerprint is given.
    WrongIssuer,
    /// Its key is for other things.
    WrongKeyUsage,
    /// Not for this role.
    WrongPurpose,
    /// X.509 version 1 or 2.
    OldVersion,
    /// A CA's certificate in the place of a peer's.
    CaAsPeer,
    /// More or longer certificates than anybody needs.
    LongChain,
    /// The CA's own certificate is not in date.
    OldRoot,
    /// It does not say who its holder is, or not plainly.
    NoUserName,
    /// What is known of outside CAs cannot be used at the moment.
    Unusable,
    /// Something else about the chain.
    Chain,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl Refusal {
    fn sentence(self) -> &'static str {
        match self {
            Self::WrongName => "the peer's certificate carries another name than the one required",
            Self::WrongFingerprint => {
                "the peer's certificate is none of those whose fingerprints are given"
            }
            Self::WrongIssuer => {
                "the peer's certificate is not signed by the one whose fingerprint is given"
            }
            Self::WrongKeyUsage => {
                "the peer's certificate is not meant for what is asked of it (key usage)"
            }
            Self::WrongPurpose => {
                "the peer's certificate is not meant for its role (extended key usage)"
            }
            Self::OldVersion => {
                "the peer's certificate is of an old version; only X.509 version 3 is supported"
            }
            Self::CaAsPeer => "the peer's certificate is a CA's",
            Self::LongChain => "the peer sent more or longer certificates than anybody needs",
            Self::OldRoot => "the certificate of the peer's CA is not in date",
            Self::NoUserName => {
                "the peer's certificate has no usable user name in the field that must hold it"
            }
            Self::Unusable => {
                "the files of outside CAs cannot be used at the moment, so none of theirs gets in"
            }
            Self::Chain => "the peer's certificate chain breaks a rule",
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let other = OtherError(Arc::new(refusal));
        Self::InvalidCertificate(CertificateError::Other(other))
    }
}

/// Our own private key is somewhere else, and does not sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyUnusable;

impl std::error::Error for KeyUnusable {}

impl fmt::Display for KeyUnusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::SENTENCE)
    }
}

impl KeyUnusable {
    const SENTENCE: &str = "our private key does not sign; the log says why";
}

/// Translates what webpki found into what rustls tells the peer.
pub(crate) fn refuse(error: webpki::Error) -> Error {
    use webpki::Error as W;

    let known = match error {
        W::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        W::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        W::CertRevoked => CertificateError::Revoked,
        W::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        // A wrong signature under the right issuer's name: another CA that is called like ours.
        W::UnknownIssuer | W::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        W::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        W::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        W::InvalidCrlSignatureForPublicKey => CertificateError::UnknownRevocationStatus,
        W::BadDer | W::BadDerTime | W::TrailingData(_) => CertificateError::BadEncoding,
        W::RequiredEkuNotFoundContext(_) => return Refusal::WrongPurpose.into(),
        W::UnsupportedCertVersion => return Refusal::OldVersion.into(),
        W::CaUsedAsEndEntity => return Refusal::CaAsPeer.into(),
        _ => return Refusal::Chain.into(),
    };
    Error::InvalidCertificate(known)
}

/// Puts a TLS failure into words for the log: no peer bytes, no library jargon.
#[must_use]
pub fn describe(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(error) => describe_certificate(error),
        Error::NoCertificatesPresented => "the peer presented no certificate",
        Error::AlertReceived(alert) => describe_alert(*alert),
        Error::PeerIncompatible(_) => "the peer and we have no TLS version or algorithm in common",
        Error::PeerMisbehaved(_) => "the peer broke the rules of TLS",
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => "the peer sent a malformed TLS message",
        Error::DecryptError => "a TLS record could not be decrypted",
        Error::PeerSentOversizedRecord => "the peer sent an oversized TLS record",
        Error::Other(OtherError(error)) if error.is::<KeyUnusable>() => KeyUnusable::SENTENCE,
        _ => "the TLS handshake failed",
    }
}

fn describe_certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the peer's certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the peer's certificate is not valid yet; is a clock wrong?"
        }
        CertificateError::Revoked => "the peer's certificate has been revoked",
        CertificateError::UnknownIssuer => "the peer's certificate is not from our CA",
        CertificateError::UnknownRevocationStatus => {
            "no revocation list covers the peer's certificate"
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the certificate revocation list has expired"
        }
        CertificateError::BadSignature => "the peer does not hold its certificate's private key",
        CertificateError::BadEncoding => "the peer's certificate is malformed",
        CertificateError::UnhandledCriticalExtension => {
            "the peer's certificate has a critical extension that is not supported"
        }
        CertificateError::Other(other) => other
            .0
            .downcast_ref::<Refusal>()
            .map_or("the peer's certificate was refused", |refusal| refusal.sentence()),
        _ => "the peer's certificate was refused",
    }
}

fn describe_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => "the peer says our certificate has expired",
        AlertDescription::CertificateRevoked => "the peer says our certificate has been revoked",
        AlertDescription::UnknownCA => "the peer says our certificate is not from its CA",
        AlertDescription::CertificateRequired => "the peer wants a certificate and we gave none",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "the peer refused our certificate",
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            "the peer says we have no TLS version or algorithm in common"
        }
        _ => "the peer ended the TLS handshake",
    }
}
