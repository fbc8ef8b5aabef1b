//! Authenticated encryption under a 96-bit nonce, in place, with the tag kept apart.

use std::fmt;
use std::sync::LazyLock;

use crate::NotAuthentic;

/// Length of every tag, in bytes.
pub const TAG_LEN: usize = 16;
/// Length of every nonce, in bytes.
pub const NONCE_LEN: usize = 12;

/// Which cipher.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// AES-128-GCM (NIST SP 800-38D).
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Algorithm {
    /// Length of the key, in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// A key ready for use; the schedule is computed once.
pub struct Key(Library);

// Indirection would cost every packet; the bytes are there once per key.
#[allow(clippy::large_enum_variant)]
enum Library {
    Ring(ring::aead::LessSafeKey),
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

/// Only aws-lc has GCM code for AVX-512; on every other processor ring's (VAES with AVX2, or
/// AES-NI) is the faster of the two.
static WIDE_GCM: LazyLock<bool> = LazyLock::new(has_avx512_gcm);

#[cfg(target_arch = "x86_64")]
fn has_avx512_gcm() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("vaes")
        && std::is_x86_feature_detected!("vpclmulqdq")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_gcm() -> bool {
    false
}

impl Key {
    /// Prepares `key`.
    ///
    /// # Panics
    ///
    /// If `key` is not [`Algorithm::key_len`] bytes long; callers slice it out of key material.
    #[must_use]
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        assert_eq!(key.len(), algorithm.key_len(), "key material of the wrong length");
        if algorithm != Algorithm::ChaCha20Poly1305 && *WIDE_GCM {
            Self::aws_lc(algorithm, key)
        } else {
            Self::ring(algorithm, key)
        }
    }

    fn ring(algorithm: Algorithm, key: &[u8]) -> Self {
        use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &AES_128_GCM,
            Algorithm::Aes256Gcm => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("the length was checked");
        Self(Library::Ring(LessSafeKey::new(key)))
    }

    fn aws_lc(algorithm: Algorithm, key: &[u8]) -> Self {
        use aws_lc_rs::aead::{
            AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey,
        };
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &AES_128_GCM,
            Algorithm::Aes256Gcm => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("the length was checked");
        Self(Library::AwsLc(LessSafeKey::new(key)))
    }

    /// Encrypts `text` in place and returns its tag.
    ///
    /// The caller never uses a nonce twice.
    ///
    /// # Errors
    ///
    /// Only for texts far longer than any packet.
    pub fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_LEN], NotAuthentic> {
        let mut tag = [0; TAG_LEN];
        match &self.0 {
            Library::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key
                    .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
                    .map_err(|_| NotAuthentic)?;
                tag.copy_from_slice(sealed.as_ref());
            }
            Library::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let sealed = key
                    .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
                    .map_err(|_| NotAuthentic)?;
                tag.copy_from_slice(sealed.as_ref());
            }
        }
        Ok(tag)
    }

    /// Checks `tag` and decrypts `text` in place.
    ///
    /// # Errors
    ///
    /// If text, associated data, nonce and tag do not belong together; `text` is then unusable.
    pub fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        tag: &[u8; TAG_LEN],
        text: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        match &self.0 {
            Library::Ring(key) => {
                use ring::aead::{Aad, Nonce, Tag};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), text, 0..)
                    .map_err(|_| NotAuthentic)?;
            }
            Library::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text)
                    .map_err(|_| NotAuthentic)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aead::Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST GCM test case 14 (256-bit key of zeros, one block of zeros).
    #[test]
    fn aes_256_gcm_gives_the_published_ciphertext_with_either_library() {
        for key in
            [Key::ring(Algorithm::Aes256Gcm, &[0; 32]), Key::aws_lc(Algorithm::Aes256Gcm, &[0; 32])]
        {
            let mut text = [0; 16];
            let tag = key.seal([0; 12], &[], &mut text).unwrap();

            assert_eq!(hex::encode(text), "cea7403d4d606b6e074ec5d3baf39d18");
            assert_eq!(hex::encode(tag), "d0d1c8a799996bf0265b98b5d48ab919");
            key.open([0; 12], &[], &tag, &mut text).unwrap();
            assert_eq!(text, [0; 16]);
        }
    }

    #[test]
    fn what_one_library_seals_the_other_opens() {
        for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
            let secret = vec![7; algorithm.key_len()];
            let (a, b) = (Key::ring(algorithm, &secret), Key::aws_lc(algorithm, &secret));
            let mut text = *b"hello";

            let tag = a.seal([1; 12], b"head", &mut text).unwrap();
            b.open([1; 12], b"head", &tag, &mut text).unwrap();

            assert_eq!(&text, b"hello");
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_noticed() {
        let key = Key::new(Algorithm::Aes128Gcm, &[3; 16]);
        let mut text = *b"hello";
        let tag = key.seal([1; 12], b"head", &mut text).unwrap();

        for bit in 0..text.len() * 8 {
            let mut copy = text;
            copy[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open([1; 12], b"head", &tag, &mut copy), Err(NotAuthentic));
        }
        assert_eq!(key.open([1; 12], b"Head", &tag, &mut text.clone()), Err(NotAuthentic));
        assert_eq!(key.open([2; 12], b"head", &tag, &mut text.clone()), Err(NotAuthentic));
    }
}
