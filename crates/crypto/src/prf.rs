//! The TLS 1.0 pseudo-random function (RFC 2246, 5), which OpenVPN's key method 2 is built on.

use zeroize::Zeroizing;

use crate::digest::{Hash, HmacKey, MAX_OUTPUT};

/// Fills `out` with `PRF(secret, seed)`, the seed given in parts (the label is the first of them).
pub fn tls1_prf(secret: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let half = secret.len().div_ceil(2);
    let (first, second) = (&secret[..half], &secret[secret.len() - half..]);

    out.fill(0);
    xor_p_hash(Hash::DangerousMd5, first, seed, out);
    xor_p_hash(Hash::Sha1, second, seed, out);
}

fn xor_p_hash(hash: Hash, secret: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let key = HmacKey::new(hash, secret);
    let len = hash.output_len();
    let mut a = Zeroizing::new([0; MAX_OUTPUT]);
    key.sign_into(seed, &mut a[..len]);

    for chunk in out.chunks_mut(len) {
        let mut parts = vec![&a[..len]];
        parts.extend_from_slice(seed);
        let mut block = Zeroizing::new([0; MAX_OUTPUT]);
        key.sign_into(&parts, &mut block[..len]);
        for (byte, mask) in chunk.iter_mut().zip(block.iter()) {
            *byte ^= mask;
        }

        let mut next = Zeroizing::new([0; MAX_OUTPUT]);
        key.sign_into(&[&a[..len]], &mut next[..len]);
        a = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answer that OpenVPN's own unit tests hold for its PRF.
    #[test]
    fn the_known_answer_comes_out() {
        let secret = b"Lorem ipsum dolor sit amet, consectetur adipisici elit, sed eiusmod tempor incidunt ut labore et dolore magna aliqua.";
        let seed = b"Quis aute iure reprehenderit in voluptate velit esse cillum dolore";
        let mut out = [0; 32];

        tls1_prf(secret, &[&seed[..10], &seed[10..]], &mut out);

        assert_eq!(
            hex::encode(out),
            "d98c8518c85e946927916acfc2d592fbb1567e4b4b1459e6a904ac2ddab72d67"
        );
    }
}
