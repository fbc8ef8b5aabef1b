//! One-time codes of an authenticator app (RFC 6238): HMAC-SHA1, six digits, 30 seconds.

use contract::Secret;
use crypto::digest::{Hash, HmacKey};

/// Seconds that one code is shown for.
const STEP: u64 = 30;
/// Codes this many steps before and after are right, too: clocks differ, and people are slow.
const DRIFT: u64 = 1;
/// As long as the hash, which RFC 4226, 4 recommends.
pub(crate) const SECRET_LEN: usize = 20;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The step whose code was typed, if it is the code of one that may be.
///
/// Looks at every step that may be, whichever is right.
pub(crate) fn matching_step(secret: &Secret, now: u64, typed: &[u8]) -> Option<u64> {
    let current = now / STEP;
    let typed = typed.trim_ascii();
    let mut found = None;
    for step in current.saturating_sub(DRIFT)..=current.saturating_add(DRIFT) {
        let code = code(secret, step);
        let differs = code.iter().zip(typed).fold(0, |sum, (a, b)| sum | (a ^ b));
        if differs == 0 && typed.len() == code.len() {
            found = Some(step);
        }
    }
    found
}

/// The code of a step, in digits.
pub(crate) fn code(secret: &Secret, step: u64) -> [u8; 6] {
    let mut hash = [0; 20];
    HmacKey::new(Hash::Sha1, secret.expose()).sign_into(&[&step.to_be_bytes()], &mut hash);
    // RFC 4226, 5.3: the last nibble says where to read.
    let at = usize::from(hash[19] & 0x0f);
    let word = [hash[at] & 0x7f, hash[at + 1], hash[at + 2], hash[at + 3]];
    let mut rest = u32::from_be_bytes(word) % 1_000_000;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// The secret as people type it into an app: base32 without padding.
#[must_use]
pub fn totp_text(secret: &Secret) -> Secret {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let (mut bits, mut held) = (0_u32, 0);
    for byte in secret.expose() {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(BASE32[(bits >> held & 31) as usize]);
        }
    }
    if held > 0 {
        text.push(BASE32[(bits << (5 - held) & 31) as usize]);
    }
    Secret::new(text.as_slice())
}

/// The URI that an app reads from a QR code; both names are of characters that need no escaping.
#[must_use]
pub fn totp_uri(secret: &Secret, network: &str, user: &str) -> Secret {
    let text = totp_text(secret);
    let text = String::from_utf8_lossy(text.expose());
    let user = user.replace('@', "%40");
    Secret::new(format!("otpauth://totp/{network}:{user}?secret={text}&issuer={network}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc_secret() -> Secret {
        Secret::new("12345678901234567890")
    }

    /// RFC 6238, appendix B, the last six of its eight digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (now, expected) in [
            (59, b"287082"),
            (1_111_111_109, b"081804"),
            (1_111_111_111, b"050471"),
            (1_234_567_890, b"005924"),
            (2_000_000_000, b"279037"),
            (20_000_000_000_u64, b"353130"),
        ] {
            assert_eq!(code(&rfc_secret(), now / STEP), *expected, "at {now}");
            assert_eq!(matching_step(&rfc_secret(), now, expected), Some(now / STEP));
        }
    }

    #[test]
    fn a_code_is_right_one_step_early_and_late_and_no_more() {
        let now = 2_000_000_000;
        let is_right = |at| matching_step(&rfc_secret(), at, b"279037") == Some(now / STEP);

        assert!(is_right(now - 30) && is_right(now + 30));
        assert!(!is_right(now - 60) && !is_right(now + 60));
        assert!(matching_step(&rfc_secret(), 0, b"755224").is_some(), "at the beginning of time");
        assert!(matching_step(&rfc_secret(), u64::MAX, b"000000").is_none());
    }

    #[test]
    fn only_the_whole_code_is_right() {
        for typed in [&b""[..], b"279", b"27903", b"2790377", b"279 037", b"279038", b"\0"] {
            assert_eq!(matching_step(&rfc_secret(), 2_000_000_000, typed), None, "{typed:?}");
        }
        assert!(matching_step(&rfc_secret(), 2_000_000_000, b" 279037\n").is_some());
    }

    #[test]
    fn the_secret_is_written_as_apps_read_it() {
        let uri = totp_uri(&rfc_secret(), "warren", "ann@example.org");
        assert_eq!(
            String::from_utf8_lossy(uri.expose()),
            "otpauth://totp/warren:ann%40example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=warren"
        );
        assert_eq!(totp_text(&Secret::new("f")).expose(), b"MY");
    }
}
