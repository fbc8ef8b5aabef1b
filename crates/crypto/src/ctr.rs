//! AES-256 in counter mode with a 128-bit big-endian counter, as tls-crypt uses it.

use ::ctr::cipher::{KeyIvInit, StreamCipher};

/// Encrypts or decrypts `text` in place.
pub fn aes256_ctr(key: &[u8; 32], iv: &[u8; 16], text: &mut [u8]) {
    ::ctr::Ctr128BE::<aes::Aes256>::new(key.into(), iv.into()).apply_keystream(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.5.5.
    #[test]
    fn the_published_first_block_comes_out() {
        let key = hex::decode("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
            .unwrap();
        let iv = hex::decode("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let mut text = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();

        aes256_ctr(&key.try_into().unwrap(), &iv.try_into().unwrap(), &mut text);

        assert_eq!(hex::encode(text), "601ec313775789a5b7a7f504bbf3d228");
    }
}
