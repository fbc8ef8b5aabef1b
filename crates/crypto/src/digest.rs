//! Hashes and HMAC (RFC 2104) with the key schedule computed once.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Which hash.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hash {
    /// MD5 (RFC 1321): only inside the TLS 1.0 PRF.
    DangerousMd5,
    /// SHA-1 (FIPS 180-4): only for HMAC with old peers.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Length of the output, in bytes.
    #[must_use]
    pub fn output_len(self) -> usize {
        match self {
            Self::DangerousMd5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// The longest output of any [`enum@Hash`], in bytes.
pub const MAX_OUTPUT: usize = 64;

/// SHA-256 of the parts, one after the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// SHA-384 of the parts, one after the other.
#[must_use]
pub fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    let mut hash = Sha384::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// SHA-512 of the parts, one after the other.
#[must_use]
pub fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// MD5 of the parts, one after the other: only for what an old protocol prescribes (RFC 7616).
#[must_use]
pub fn dangerous_md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// An HMAC key; cheap to use many times.
#[derive(Clone)]
pub struct HmacKey(Inner);

#[derive(Clone)]
enum Inner {
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

impl HmacKey {
    /// Prepares `key`, of any length.
    #[must_use]
    pub fn new(hash: Hash, key: &[u8]) -> Self {
        const ANY: &str = "HMAC takes keys of any length";
        Self(match hash {
            Hash::DangerousMd5 => Inner::Md5(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha1 => Inner::Sha1(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha256 => Inner::Sha256(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha512 => Inner::Sha512(Hmac::new_from_slice(key).expect(ANY)),
        })
    }

    /// Length of the output, in bytes.
    #[must_use]
    pub fn output_len(&self) -> usize {
        match &self.0 {
            Inner::Md5(_) => 16,
            Inner::Sha1(_) => 20,
            Inner::Sha256(_) => 32,
            Inner::Sha512(_) => 64,
        }
    }

    /// Writes the code of the parts into `out`, which it fills up to [`output_len`](Self::output_len)
    /// or its own length, whichever is less.
    pub fn sign_into(&self, parts: &[&[u8]], out: &mut [u8]) {
        let (code, len) = self.code(parts);
        let len = len.min(out.len());
        out[..len].copy_from_slice(&code[..len]);
    }

    /// Compares the code of the parts with `code`, in constant time; `code` is never truncated.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], code: &[u8]) -> bool {
        let (ours, len) = self.code(parts);
        crate::equal(&ours[..len], code)
    }

    fn code(&self, parts: &[&[u8]]) -> ([u8; MAX_OUTPUT], usize) {
        fn run<M: Mac + Clone>(key: &M, parts: &[&[u8]]) -> ([u8; MAX_OUTPUT], usize) {
            let mut mac = key.clone();
            for part in parts {
                mac.update(part);
            }
            let code = mac.finalize().into_bytes();
            let mut out = [0; MAX_OUTPUT];
            out[..code.len()].copy_from_slice(&code);
            (out, code.len())
        }
        match &self.0 {
            Inner::Md5(key) => run(key, parts),
            Inner::Sha1(key) => run(key, parts),
            Inner::Sha256(key) => run(key, parts),
            Inner::Sha512(key) => run(key, parts),
        }
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, 4.3 (test case 2), and RFC 2202, 3 (test case 2).
    #[test]
    fn published_codes_come_out() {
        let parts: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        for (hash, expected) in [
            (Hash::DangerousMd5, "750c783e6ab0b503eaa86e310a5db738"),
            (Hash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Hash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ] {
            let key = HmacKey::new(hash, b"Jefe");
            let mut code = vec![0; hash.output_len()];
            key.sign_into(&parts, &mut code);

            assert_eq!(hex::encode(&code), expected);
            assert!(key.verify(&parts, &code));
            code[0] ^= 1;
            assert!(!key.verify(&parts, &code));
        }
    }

    #[test]
    fn a_truncated_code_does_not_verify() {
        let key = HmacKey::new(Hash::Sha1, b"k");
        let mut code = [0; 20];
        key.sign_into(&[b"x"], &mut code);

        assert!(!key.verify(&[b"x"], &code[..10]));
        assert!(!key.verify(&[b"x"], &[]));
    }
}
