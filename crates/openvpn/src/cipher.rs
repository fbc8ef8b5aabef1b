//! Data-channel ciphers: their names, and how two ends agree on one.

use std::fmt;

use crypto::aead;
use crypto::digest::Hash;

/// A data-channel cipher.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm,
    /// AES-128-GCM.
    Aes128Gcm,
    /// CHACHA20-POLY1305.
    ChaCha20Poly1305,
    /// AES-256-CBC with HMAC, for clients from before 2.4.
    Aes256Cbc,
    /// AES-128-CBC with HMAC.
    Aes128Cbc,
}

impl Cipher {
    const ALL: [Self; 5] = [
        Self::Aes256Gcm,
        Self::Aes128Gcm,
        Self::ChaCha20Poly1305,
        Self::Aes256Cbc,
        Self::Aes128Cbc,
    ];

    /// The protocol's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Aes128Gcm => "AES-128-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Self::Aes256Cbc => "AES-256-CBC",
            Self::Aes128Cbc => "AES-128-CBC",
        }
    }

    /// Finds a cipher by name, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name().eq_ignore_ascii_case(name))
    }

    /// The AEAD algorithm, unless it is a CBC cipher.
    #[must_use]
    pub fn aead(self) -> Option<aead::Algorithm> {
        match self {
            Self::Aes256Gcm => Some(aead::Algorithm::Aes256Gcm),
            Self::Aes128Gcm => Some(aead::Algorithm::Aes128Gcm),
            Self::ChaCha20Poly1305 => Some(aead::Algorithm::ChaCha20Poly1305),
            Self::Aes256Cbc | Self::Aes128Cbc => None,
        }
    }

    /// Length of the key, in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::ChaCha20Poly1305 | Self::Aes256Cbc => 32,
            Self::Aes128Gcm | Self::Aes128Cbc => 16,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The HMAC of `auth`, by the protocol's name for it.
#[must_use]
pub fn digest_named(name: &str) -> Option<Hash> {
    match name.to_ascii_uppercase().as_str() {
        "SHA1" => Some(Hash::Sha1),
        "SHA256" => Some(Hash::Sha256),
        "SHA512" => Some(Hash::Sha512),
        _ => None,
    }
}

/// The name of `auth`.
#[must_use]
pub fn digest_name(hash: Hash) -> &'static str {
    match hash {
        Hash::DangerousMd5 => "MD5",
        Hash::Sha1 => "SHA1",
        Hash::Sha256 => "SHA256",
        Hash::Sha512 => "SHA512",
    }
}

/// What a client says it can, as far as ciphers go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Offer<'a> {
    /// IV_CIPHERS, colon-separated.
    pub list: Option<&'a str>,
    /// IV_NCP of at least 2: AES-GCM of both sizes without a list (2.4).
    pub negotiates: bool,
    /// `cipher` of the options string, for clients that do not negotiate at all.
    pub fixed: Option<&'a str>,
}

/// The responder's choice: the first of its own list that the client can.
#[must_use]
pub(crate) fn choose(ours: &[Cipher], offer: &Offer<'_>) -> Option<Cipher> {
    let can = |cipher: Cipher| match (offer.list, offer.negotiates) {
        (Some(list), _) => list.split(':').any(|name| name.eq_ignore_ascii_case(cipher.name())),
        (None, true) => matches!(cipher, Cipher::Aes256Gcm | Cipher::Aes128Gcm),
        (None, false) => false,
    };
    let is_fixed =
        |cipher: Cipher| offer.fixed.is_some_and(|name| name.eq_ignore_ascii_case(cipher.name()));
    ours.iter()
        .copied()
        .find(|cipher| can(*cipher))
        .or_else(|| ours.iter().copied().find(|cipher| is_fixed(*cipher)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Cbc];

    #[test]
    fn our_order_decides() {
        let offer = Offer { list: Some("chacha20-poly1305:AES-256-GCM"), ..Offer::default() };
        assert_eq!(choose(&OURS, &offer), Some(Cipher::Aes256Gcm));
    }

    #[test]
    fn a_client_of_2_4_gets_gcm_without_a_list() {
        let offer = Offer { negotiates: true, fixed: Some("BF-CBC"), ..Offer::default() };
        assert_eq!(choose(&OURS, &offer), Some(Cipher::Aes256Gcm));
    }

    #[test]
    fn a_client_that_cannot_negotiate_keeps_its_cipher_if_we_allow_it() {
        let fixed = |name| Offer { fixed: Some(name), ..Offer::default() };
        assert_eq!(choose(&OURS, &fixed("AES-128-CBC")), Some(Cipher::Aes128Cbc));
        assert_eq!(choose(&OURS, &fixed("BF-CBC")), None);
    }

    #[test]
    fn nothing_in_common_is_no_cipher() {
        assert_eq!(choose(&OURS, &Offer { list: Some("BF-CBC"), ..Offer::default() }), None);
    }
}
