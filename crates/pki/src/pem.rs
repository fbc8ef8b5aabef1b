use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::certificate::CertificateFacts;
use crate::error::PkiError;

/// Reads every certificate of a PEM text, in order; other blocks and free text are skipped.
///
/// # Errors
///
/// Fails if there is none, or one is damaged.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let mut found = Vec::new();
    for der in CertificateDer::pem_slice_iter(text) {
        let der = der.map_err(|e| sentence(e, PkiError::NoCertificate))?;
        CertificateFacts::read(&der).map_err(|_| PkiError::BadCertificate(found.len() + 1))?;
        found.push(der);
    }
    if found.is_empty() { Err(PkiError::NoCertificate) } else { Ok(found) }
}

/// Reads the first private key of a PEM text: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
///
/// Fails if there is none, or it is damaged or encrypted.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PkiError> {
    // PKCS #8 says so in the block's label, the older forms in a header line (RFC 1421, 4.6.1.1).
    const MARKS: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];
    let contains = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    if MARKS.iter().any(|mark| contains(mark)) {
        return Err(PkiError::EncryptedKey);
    }

    PrivateKeyDer::from_pem_slice(text).map_err(|e| sentence(e, PkiError::NoPrivateKey))
}

/// Reads every certificate revocation list of a PEM text.
///
/// # Errors
///
/// Fails if there is none, or one is damaged.
pub fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PkiError> {
    let mut found = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(text) {
        let der = der.map_err(|e| sentence(e, PkiError::NoRevocationList))?;
        webpki::BorrowedCertRevocationList::from_der(&der)
            .map_err(|_| PkiError::BadRevocationList)?;
        found.push(der);
    }
    if found.is_empty() { Err(PkiError::NoRevocationList) } else { Ok(found) }
}

fn sentence(error: pem::Error, none: PkiError) -> PkiError {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            PkiError::Truncated(String::from_utf8_lossy(&end_marker).escape_debug().to_string())
        }
        pem::Error::IllegalSectionStart { .. } => PkiError::BrokenStart,
        pem::Error::NoItemsFound => none,
        _ => PkiError::BadBase64,
    }
}
