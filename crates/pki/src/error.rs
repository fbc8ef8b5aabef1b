/// What is wrong with a certificate, key or revocation list that the operator gave us.
///
/// Each is one sentence without the place; the caller knows the file or the profile's line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// No certificate in the text.
    #[error("no certificate here; expected a block -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// No private key in the text.
    #[error("no private key here; expected a block -----BEGIN PRIVATE KEY-----")]
    NoPrivateKey,
    /// No revocation list in the text.
    #[error("no revocation list here; expected a block -----BEGIN X509 CRL-----")]
    NoRevocationList,
    /// The private key is protected by a passphrase.
    #[error("the private key is encrypted; decrypt it first (openssl pkey -in OLD -out NEW)")]
    EncryptedKey,
    /// A key or a bundle is protected in a way that is not supported.
    #[error(
        "encrypted in a way that is not supported; encrypt it anew with AES (openssl pkey or \
         openssl pkcs12)"
    )]
    UnknownEncryption,
    /// A passphrase does not open what it should.
    #[error("the passphrase is wrong, or the file is damaged")]
    WrongPassphrase,
    /// This is not a PKCS #12 file.
    #[error("not a PKCS #12 file, or a damaged one; export it again")]
    BadBundle,
    /// A PKCS #12 file lacks a key, or the certificate that belongs to it.
    #[error("this PKCS #12 file has no private key with its certificate; export both")]
    NoKeyInBundle,
    /// The PEM block with this label has no end.
    #[error("cut off: the line -----END {0}----- is missing; copy the whole file again")]
    Truncated(String),
    /// A PEM block starts with a broken line.
    #[error("a -----BEGIN line is damaged; copy the whole file again")]
    BrokenStart,
    /// A PEM block's body is not base64.
    #[error("the text between -----BEGIN and -----END is damaged; copy the whole file again")]
    BadBase64,
    /// Certificate number so many (from 1) of the text is none.
    #[error("certificate {0} is damaged or cut off; copy it again")]
    BadCertificate(usize),
    /// The key cannot be used.
    #[error(
        "the private key is damaged or of a kind that is not supported (RSA from 2048 bits, \
         ECDSA P-256, P-384, P-521 and Ed25519 are)"
    )]
    BadPrivateKey,
    /// The revocation list cannot be used.
    #[error(
        "the revocation list is damaged or not of version 2 with a next update; make it again \
         (openssl ca -gencrl with crl_extensions)"
    )]
    BadRevocationList,
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate; give the key it was made with")]
    KeyMismatch,
    /// Too late.
    #[error("the certificate of {subject:?} expired on {date}; get a new one")]
    Expired {
        /// In OpenVPN's form.
        subject: String,
        /// Year, month and day, UTC.
        date: String,
    },
    /// Too early.
    #[error(
        "the certificate of {subject:?} is valid only from {date}; is this machine's clock right?"
    )]
    NotYetValid {
        /// In OpenVPN's form.
        subject: String,
        /// Year, month and day, UTC.
        date: String,
    },
    /// There is nothing to verify peers against.
    #[error("neither a CA certificate nor a fingerprint is given; nobody could be trusted")]
    NothingTrusted,
    /// Revocation lists are signed by a CA, and none is trusted.
    #[error("a revocation list is given, but no CA certificate to check it with; add the CA")]
    RevocationWithoutCa,
    /// A certificate that signs nobody stands where CAs are named.
    #[error(
        "certificate {number}, of {subject:?}, is not a CA's; give those that sign, not those that \
         were signed"
    )]
    NotCa {
        /// Counted from 1.
        number: usize,
        /// In OpenVPN's form.
        subject: String,
    },
    /// A CA without a revocation list.
    #[error("there is no revocation list of {0:?}; every CA must have one, or take the lists out")]
    ListMissing(String),
    /// A revocation list that its CA did not sign.
    #[error("the revocation list of {0:?} is not signed by that CA, or damaged; get a new one")]
    ListForged(String),
    /// A revocation list that is too old.
    #[error("the revocation list of {issuer:?} expired on {date}; get a new one")]
    ListExpired {
        /// In OpenVPN's form.
        issuer: String,
        /// Year, month and day, UTC.
        date: String,
    },
}
