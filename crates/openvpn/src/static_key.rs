//! The 2048-bit pre-shared key file, and which part of it serves which direction.

use std::fmt;

use zeroize::Zeroizing;

/// Length of a key file's content, in bytes.
pub const STATIC_KEY_LEN: usize = 256;

const BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
const END: &str = "-----END OpenVPN Static key V1-----";

/// Two pairs of a cipher key (64 bytes) and an HMAC key (64 bytes).
#[derive(Clone)]
pub struct StaticKey(Zeroizing<[u8; STATIC_KEY_LEN]>);

/// One of the two pairs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    /// Bytes 0 to 127.
    K0,
    /// Bytes 128 to 255.
    K1,
}

impl Half {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::K0 => Self::K1,
            Self::K1 => Self::K0,
        }
    }
}

/// Why a key file cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadStaticKey {
    /// The BEGIN or END line is missing.
    NoKey,
    /// Something between the two lines is not hexadecimal.
    NotHex,
    /// There are not 256 bytes.
    WrongLength(usize),
}

impl fmt::Display for BadStaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => write!(f, "no \"{BEGIN}\" … \"{END}\" in it"),
            Self::NotHex => f.write_str("a character that is not hexadecimal in it"),
            Self::WrongLength(len) => {
                write!(
                    f,
                    "{len} bytes of key instead of {STATIC_KEY_LEN}: it is truncated or damaged"
                )
            }
        }
    }
}

impl std::error::Error for BadStaticKey {}

impl StaticKey {
    /// Takes raw key material.
    #[must_use]
    pub fn from_bytes(bytes: [u8; STATIC_KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a key file; whatever stands outside the two marker lines is ignored.
    ///
    /// # Errors
    ///
    /// If the markers, the digits or the length are not right.
    pub fn parse(text: &str) -> Result<Self, BadStaticKey> {
        let (_, after) = text.split_once(BEGIN).ok_or(BadStaticKey::NoKey)?;
        let (body, _) = after.split_once(END).ok_or(BadStaticKey::NoKey)?;
        let mut digits = Zeroizing::new(Vec::with_capacity(2 * STATIC_KEY_LEN));
        for byte in body.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
            let digit = char::from(byte).to_digit(16).ok_or(BadStaticKey::NotHex)?;
            digits.push(digit as u8);
        }
        if digits.len() != 2 * STATIC_KEY_LEN {
            return Err(BadStaticKey::WrongLength(digits.len() / 2));
        }
        let mut bytes = Zeroizing::new([0; STATIC_KEY_LEN]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8; STATIC_KEY_LEN] {
        &self.0
    }

    /// The cipher slot of one half.
    #[must_use]
    pub fn cipher(&self, half: Half) -> &[u8; 64] {
        self.slot(half, 0)
    }

    /// The HMAC slot of one half.
    #[must_use]
    pub fn hmac(&self, half: Half) -> &[u8; 64] {
        self.slot(half, 64)
    }

    /// Byte-wise exclusive or, which mixes exported keying material into a key.
    #[must_use]
    pub fn xor(&self, other: &Self) -> Self {
        let mut bytes = self.0.clone();
        for (byte, mask) in bytes.iter_mut().zip(other.0.iter()) {
            *byte ^= mask;
        }
        Self(bytes)
    }

    fn slot(&self, half: Half, offset: usize) -> &[u8; 64] {
        let start = offset + if half == Half::K0 { 0 } else { 128 };
        self.0[start..]
            .first_chunk()
            .expect("every slot of 64 bytes lies inside the 256 bytes of the key")
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: usize) -> String {
        let body = (0..lines).map(|n| format!("{:032x}\n", n)).collect::<String>();
        format!("#\n# a comment\n#\n{BEGIN}\n{body}{END}\n")
    }

    #[test]
    fn a_key_file_reads_whatever_its_line_width() {
        let narrow = StaticKey::parse(&file(16)).unwrap();
        let wide =
            StaticKey::parse(&file(16).replace('\n', "\r\n").replacen("0\r\n0", "00", 3)).unwrap();

        assert_eq!(narrow.cipher(Half::K0)[15], 0);
        assert_eq!(narrow.cipher(Half::K0)[31], 1);
        assert_eq!(narrow.hmac(Half::K1)[63], 15);
        assert_eq!(wide.hmac(Half::K1), narrow.hmac(Half::K1));
    }

    #[test]
    fn a_damaged_file_says_what_is_wrong() {
        assert_eq!(StaticKey::parse(&file(15)).err(), Some(BadStaticKey::WrongLength(240)));
        assert_eq!(StaticKey::parse("hello").err(), Some(BadStaticKey::NoKey));
        assert_eq!(
            StaticKey::parse(&file(16).replace("0f", "0x")).err(),
            Some(BadStaticKey::NotHex)
        );
        let text = file(16);
        assert_eq!(StaticKey::parse(&text[..text.len() - 20]).err(), Some(BadStaticKey::NoKey));
    }
}
