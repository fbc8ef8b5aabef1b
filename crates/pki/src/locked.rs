//! What a passphrase protects: private keys (PKCS #8) and bundles of key and certificates
//! (PKCS #12).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::Secret;
use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as BundleError;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::certified_key;
use crate::error::PkiError;

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// How often a passphrase may be hashed: ten times what anybody recommends, and seconds of work.
const MAX_ITERATIONS: u32 = 10_000_000;
/// What scrypt may take, in bytes.
const MAX_SCRYPT_MEMORY: u64 = 256 << 20;
const MAX_SCRYPT_LANES: u16 = 16;

/// What a PKCS #12 file holds, as PEM.
#[derive(Debug)]
pub struct Bundle {
    /// The private key.
    pub key: Secret,
    /// The key's own certificate.
    pub certificate: Vec<u8>,
    /// Others that somebody else has signed: what may stand between ours and the authority.
    pub intermediates: Vec<u8>,
    /// Others that are their own issuers.
    pub authorities: Vec<u8>,
}

/// Whether [`open_key`] has to open the private key of this PEM text first.
#[must_use]
pub fn is_locked(text: &[u8]) -> bool {
    text.windows(BEGIN.len()).any(|window| window == BEGIN.as_bytes())
}

/// Opens the encrypted private key (RFC 5958, 3) of a PEM text; returns it as PEM.
///
/// # Errors
///
/// Fails if there is none, the passphrase does not open it, or it is protected in a way that is
/// not supported.
pub fn open_key(text: &[u8], passphrase: &Secret) -> Result<Secret, PkiError> {
    let text = std::str::from_utf8(text).map_err(|_| PkiError::BadBase64)?;
    let (_, rest) = text.split_once(BEGIN).ok_or(PkiError::NoPrivateKey)?;
    let (body, _) = rest
        .split_once(END)
        .ok_or_else(|| PkiError::Truncated("ENCRYPTED PRIVATE KEY".to_owned()))?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(body).map_err(|_| PkiError::BadBase64)?;

    let locked = EncryptedPrivateKeyInfoRef::try_from(der.as_slice())
        .map_err(|_| PkiError::UnknownEncryption)?;
    if !is_bearable(&locked.encryption_algorithm) {
        return Err(PkiError::UnknownEncryption);
    }
    let key = locked.decrypt(passphrase.expose()).map_err(|_| PkiError::WrongPassphrase)?;
    Ok(key_pem(key.as_bytes()))
}

/// A file can ask for any amount of work to be opened.
fn is_bearable(scheme: &EncryptionScheme) -> bool {
    match scheme {
        EncryptionScheme::Pbes2(parameters) => match &parameters.kdf {
            Kdf::Pbkdf2(kdf) => kdf.iteration_count <= MAX_ITERATIONS,
            Kdf::Scrypt(kdf) => {
                let memory = kdf.cost_parameter.checked_mul(128 * u64::from(kdf.block_size));
                memory.is_some_and(|bytes| bytes <= MAX_SCRYPT_MEMORY)
                    && kdf.parallelization <= MAX_SCRYPT_LANES
            }
            _ => false,
        },
        _ => false,
    }
}

/// Opens a PKCS #12 file (RFC 7292); one without a passphrase has an empty one.
///
/// # Errors
///
/// Fails if it is none, the passphrase does not open it, it is protected in a way that is not
/// supported, or it has no key with its certificate.
pub fn open_bundle(der: &[u8], passphrase: &Secret) -> Result<Bundle, PkiError> {
    let passphrase =
        std::str::from_utf8(passphrase.expose()).map_err(|_| PkiError::WrongPassphrase)?;
    let archive = Pkcs12Archive::from_pkcs12(der, passphrase).map_err(|error| match error {
        BundleError::MacError(_) | BundleError::UnpadError | BundleError::Pkcs5Error(_) => {
            PkiError::WrongPassphrase
        }
        BundleError::UnsupportedEncryptionScheme
        | BundleError::UnsupportedMacAlgorithm
        | BundleError::InvalidParameters => PkiError::UnknownEncryption,
        _ => PkiError::BadBundle,
    })?;

    let key = archive.keys.first().ok_or(PkiError::NoKeyInBundle)?;
    let certificates: Vec<&[u8]> = archive.certs.iter().map(|it| it.cert.as_der()).collect();
    // Names and marks in the file may be missing or wrong; the key itself cannot be.
    let provider = crypto::tls::provider();
    let is_ours = |certificate: &[u8]| {
        let chain = vec![CertificateDer::from(certificate.to_vec())];
        let key = PrivateKeyDer::Pkcs8(key.key.as_der().to_vec().into());
        certified_key(chain, key, &provider).is_ok()
    };
    let ours = certificates.iter().position(|certificate| is_ours(certificate));
    let ours = ours.ok_or(PkiError::NoKeyInBundle)?;

    let mut bundle = Bundle {
        key: key_pem(key.key.as_der()),
        certificate: Vec::new(),
        intermediates: Vec::new(),
        authorities: Vec::new(),
    };
    for (at, certificate) in certificates.iter().enumerate() {
        let place = if at == ours {
            &mut bundle.certificate
        } else if is_its_own_issuer(certificate)? {
            &mut bundle.authorities
        } else {
            &mut bundle.intermediates
        };
        place.extend_from_slice(pem("CERTIFICATE", certificate).as_bytes());
    }
    Ok(bundle)
}

fn is_its_own_issuer(der: &[u8]) -> Result<bool, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PkiError::BadBundle)?;
    Ok(certificate.subject().as_raw() == certificate.issuer().as_raw())
}

fn key_pem(der: &[u8]) -> Secret {
    Secret::new(pem("PRIVATE KEY", der).as_bytes())
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Made large enough at once: growing would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 128));
    let _ = writeln!(text, "-----BEGIN {label}-----");
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

#[cfg(test)]
mod tests;
