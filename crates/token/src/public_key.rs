//! Public keys and signatures as tokens give them, in the forms that TLS wants: a little DER.

use crate::message::Kind;

/// `1.2.840.113549.1.1.1` and no parameters: the AlgorithmIdentifier of RSA (RFC 3279, 2.3.1).
const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// `1.2.840.10045.2.1`, an elliptic curve's key (RFC 5480, 2.1.1).
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `1.2.840.10045.3.1.7`
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// `1.3.132.0.34`
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// The curve that `CKA_EC_PARAMS` names.
pub(crate) fn curve(params: &[u8]) -> Option<Kind> {
    match params {
        P256 => Some(Kind::P256),
        P384 => Some(Kind::P384),
        _ => None,
    }
}

/// SubjectPublicKeyInfo of an RSA key; both numbers are big-endian.
pub(crate) fn from_modulus(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = element(SEQUENCE, &[integer(modulus), integer(exponent)].concat());
    element(SEQUENCE, &[RSA.to_vec(), bits(&key)].concat())
}

/// SubjectPublicKeyInfo of a key on a curve; `point` is as in `CKA_EC_POINT`: an OCTET STRING, or
/// what would be in it.
pub(crate) fn from_point(params: &[u8], point: &[u8]) -> Option<Vec<u8>> {
    let (curve, coordinate_len) = match curve(params)? {
        Kind::P256 => (P256, 32),
        Kind::P384 => (P384, 48),
        Kind::Rsa { .. } => return None,
    };
    let point_len = 1 + 2 * coordinate_len;
    let point = match point {
        [OCTET_STRING, len, point @ ..] if usize::from(*len) == point.len() => point,
        point => point,
    };
    // Uncompressed, the only form that TLS 1.3 has left (RFC 8446, 4.2.8.2).
    if point.len() != point_len || point.first() != Some(&4) {
        return None;
    }
    let algorithm = element(SEQUENCE, &[EC, curve].concat());
    Some(element(SEQUENCE, &[algorithm, bits(point)].concat()))
}

/// `r` and `s`, each half of the bytes, as TLS wants them (RFC 3279, 2.2.3).
pub(crate) fn ecdsa_signature(halves: &[u8]) -> Option<Vec<u8>> {
    if halves.is_empty() || !halves.len().is_multiple_of(2) || halves.len() > 2 * 66 {
        return None;
    }
    let (r, s) = halves.split_at(halves.len() / 2);
    Some(element(SEQUENCE, &[integer(r), integer(s)].concat()))
}

fn bits(content: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], content].concat())
}

/// A number that is not negative, in as few bytes as there may be.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let digits = bytes.get(first..).unwrap_or_default();
    let needs_zero = digits.first().is_none_or(|first| first & 0x80 != 0);
    let zero: &[u8] = if needs_zero { &[0] } else { &[] };
    element(INTEGER, &[zero, digits].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = content.len().to_be_bytes();
    let used = len.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    match used.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_neither_negative_nor_longer_than_they_must_be() {
        assert_eq!(integer(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn a_signature_of_two_equal_halves_becomes_a_sequence_of_two_numbers() {
        let halves = [[0x81; 32], [0x01; 32]].concat();

        let der = ecdsa_signature(&halves).unwrap();

        assert_eq!(der[..4], [0x30, 69, 2, 33]);
        assert_eq!(der[37..40], [2, 32, 1]);
        assert!(ecdsa_signature(&halves[..63]).is_none());
        assert!(ecdsa_signature(&[]).is_none());
    }

    #[test]
    fn a_point_is_taken_with_and_without_its_wrapping_and_only_if_it_is_whole() {
        let bare = [&[4][..], &[7; 64]].concat();
        let wrapped = [&[4, 65][..], &bare].concat();

        let key = from_point(P256, &bare).unwrap();

        assert_eq!(from_point(P256, &wrapped).unwrap(), key);
        assert_eq!(key.len(), 91);
        assert!(from_point(P384, &bare).is_none());
        assert!(from_point(&P256[..4], &bare).is_none());
        for len in 0..wrapped.len() {
            assert_ne!(from_point(P256, &wrapped[..len]), Some(key.clone()), "{len}");
        }
    }
}
