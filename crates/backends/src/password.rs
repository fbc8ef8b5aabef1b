use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use contract::Secret;

use crate::random::random_bytes;

/// 19 MiB, two passes, one lane: what OWASP recommends for Argon2id, and what an attacker's guess
/// costs. Two at once stay below 40 MiB.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Letters and digits that nobody mistakes for each other: no 0 and O, no 1, l and I.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const GENERATED_LEN: usize = 20;

/// OpenVPN's USER_PASS_LEN is 128 with the terminating zero; a longer one would be cut off.
const MAX_LEN: usize = 127;

/// Makes a random password of 20 characters (115 bits) that can be read out and typed.
#[must_use]
pub fn generate_password() -> Secret {
    // Bytes at or above the largest multiple of the alphabet would favour its beginning.
    let fair = u8::MAX - (u8::MAX % u8::try_from(ALPHABET.len()).unwrap_or(u8::MAX));
    let mut password = Vec::with_capacity(GENERATED_LEN);
    while password.len() < GENERATED_LEN {
        let [byte] = random_bytes::<1>();
        if byte < fair {
            password.push(ALPHABET[usize::from(byte) % ALPHABET.len()]);
        }
    }
    Secret::new(password)
}

/// Says why a password cannot be set, if so.
pub(crate) fn refuse(password: &Secret) -> Option<&'static str> {
    match password.expose() {
        [] => Some("it is empty; write at least one character"),
        bytes if bytes.len() > MAX_LEN => {
            Some("it is too long; OpenVPN clients send at most 127 bytes")
        }
        bytes if bytes.iter().any(u8::is_ascii_control) => {
            Some("it contains a control character; write it on one line")
        }
        _ => None,
    }
}

/// Hashes with a fresh salt, into the PHC text form.
pub(crate) fn hash(password: &Secret) -> String {
    let salt = random_bytes::<16>();
    let hash: PasswordHash = argon2()
        .hash_password_with_salt(password.expose(), &salt)
        .expect("salt and parameters are within Argon2's bounds");
    hash.to_string()
}

/// Verifies; a text that is no hash verifies nothing.
pub(crate) fn verify(password: &Secret, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| argon2().verify_password(password.expose(), &hash).is_ok())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("the parameters are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_verifies_against_its_own_hash_only() {
        let password = Secret::new("correct horse");
        let stored = hash(&password);

        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify(&password, &stored));
        assert!(!verify(&Secret::new("correct horsf"), &stored));
        assert!(!verify(&Secret::new(""), &stored));
        assert!(!verify(&password, "not a hash"));
        assert_ne!(stored, hash(&password), "the salt is not fresh");
    }

    #[test]
    fn generated_passwords_are_long_plain_and_different() {
        let (one, two) = (generate_password(), generate_password());

        assert_ne!(one, two);
        assert_eq!(one.expose().len(), GENERATED_LEN);
        assert!(one.expose().iter().all(|byte| ALPHABET.contains(byte)));
        assert!(refuse(&one).is_none());
    }

    #[test]
    fn unusable_passwords_are_refused() {
        for bad in ["", "two\nlines", &"x".repeat(128)] {
            assert!(refuse(&Secret::new(bad)).is_some(), "{bad:?}");
        }
        assert!(refuse(&Secret::new("x".repeat(127))).is_none());
        assert!(refuse(&Secret::new("pässwörd mit Leerzeichen")).is_none());
    }
}
