//! AES-CBC on whole blocks; padding and integrity are the protocol's.

use std::fmt;

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit};
use aes::{Aes128, Aes256};

use crate::NotAuthentic;

/// Length of a block and of an IV, in bytes.
pub const BLOCK_LEN: usize = 16;

/// An AES key ready for use in both directions.
pub struct Key(Inner);

enum Inner {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

impl Key {
    /// Prepares a key of 16 or 32 bytes; anything else is `None`.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(Self(match key.len() {
            16 => Inner::Aes128(Box::new(Aes128::new_from_slice(key).ok()?)),
            32 => Inner::Aes256(Box::new(Aes256::new_from_slice(key).ok()?)),
            _ => return None,
        }))
    }

    /// Encrypts whole blocks in place.
    ///
    /// # Errors
    ///
    /// If `text` is not a multiple of [`BLOCK_LEN`].
    pub fn encrypt(&self, iv: &[u8; BLOCK_LEN], text: &mut [u8]) -> Result<(), NotAuthentic> {
        let len = text.len();
        let done = match &self.0 {
            Inner::Aes128(key) => ::cbc::Encryptor::<&Aes128>::inner_iv_init(key, iv.into())
                .encrypt_padded::<NoPadding>(text, len)
                .is_ok(),
            Inner::Aes256(key) => ::cbc::Encryptor::<&Aes256>::inner_iv_init(key, iv.into())
                .encrypt_padded::<NoPadding>(text, len)
                .is_ok(),
        };
        if done { Ok(()) } else { Err(NotAuthentic) }
    }

    /// Decrypts whole blocks in place.
    ///
    /// # Errors
    ///
    /// If `text` is not a multiple of [`BLOCK_LEN`].
    pub fn decrypt(&self, iv: &[u8; BLOCK_LEN], text: &mut [u8]) -> Result<(), NotAuthentic> {
        let done = match &self.0 {
            Inner::Aes128(key) => ::cbc::Decryptor::<&Aes128>::inner_iv_init(key, iv.into())
                .decrypt_padded::<NoPadding>(text)
                .is_ok(),
            Inner::Aes256(key) => ::cbc::Decryptor::<&Aes256>::inner_iv_init(key, iv.into())
                .decrypt_padded::<NoPadding>(text)
                .is_ok(),
        };
        if done { Ok(()) } else { Err(NotAuthentic) }
    }

    /// Turns a counter into a value nobody without the key can predict: a single block, encrypted.
    #[must_use]
    pub fn scramble(&self, counter: u128) -> [u8; BLOCK_LEN] {
        let mut block = counter.to_be_bytes();
        match &self.0 {
            Inner::Aes128(key) => key.encrypt_block((&mut block).into()),
            Inner::Aes256(key) => key.encrypt_block((&mut block).into()),
        }
        block
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cbc::Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.2.1.
    #[test]
    fn the_published_first_block_comes_out() {
        let key = Key::new(&hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap()).unwrap();
        let iv: [u8; 16] =
            hex::decode("000102030405060708090a0b0c0d0e0f").unwrap().try_into().unwrap();
        let mut text = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();

        key.encrypt(&iv, &mut text).unwrap();

        assert_eq!(hex::encode(&text), "7649abac8119b246cee98e9b12e9197d");
        key.decrypt(&iv, &mut text).unwrap();
        assert_eq!(hex::encode(&text), "6bc1bee22e409f96e93d7e117393172a");
    }

    #[test]
    fn half_a_block_is_refused() {
        let key = Key::new(&[0; 32]).unwrap();
        assert_eq!(key.decrypt(&[0; 16], &mut [0; 8]), Err(NotAuthentic));
        assert_eq!(key.encrypt(&[0; 16], &mut [0; 8]), Err(NotAuthentic));
        assert!(Key::new(&[0; 24]).is_none());
    }
}
