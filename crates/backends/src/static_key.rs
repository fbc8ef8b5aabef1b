use std::fmt;

use contract::Secret;
use zeroize::Zeroizing;

use crate::random::random_bytes;

/// 2048 bits, as every OpenVPN static key.
const KEY_LEN: usize = 256;
const LINE_LEN: usize = 16;
const BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
const END: &str = "-----END OpenVPN Static key V1-----";

/// The key that all clients of an OpenVPN door share, for tls-crypt or tls-auth.
#[derive(Clone, Debug)]
pub struct StaticKey(Secret);

/// Why a text is not an OpenVPN static key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StaticKeyError {
    /// The first or last line is missing.
    #[error("no OpenVPN static key here; expected lines between {BEGIN} and {END}")]
    Missing,
    /// Something that is not hexadecimal.
    #[error("the OpenVPN static key has a character that is not hexadecimal; copy it again")]
    NotHex,
    /// Too short or too long.
    #[error("the OpenVPN static key is cut off or too long; it has 16 lines of 32 digits")]
    Length,
}

impl StaticKey {
    /// Makes a random key.
    #[must_use]
    pub fn generate() -> Self {
        let bytes = Zeroizing::new(random_bytes::<KEY_LEN>());
        Self(Secret::new(bytes.as_slice()))
    }

    /// Reads the text form; lines outside the block are skipped.
    ///
    /// # Errors
    ///
    /// Fails if the block is missing, damaged or of another length.
    pub fn from_pem(text: &str) -> Result<Self, StaticKeyError> {
        let (_, rest) = text.split_once(BEGIN).ok_or(StaticKeyError::Missing)?;
        let (body, _) = rest.split_once(END).ok_or(StaticKeyError::Missing)?;
        let digits: Zeroizing<String> =
            Zeroizing::new(body.chars().filter(|c| !c.is_whitespace()).collect());
        let bytes = hex::decode(digits.as_str()).map_err(|e| match e {
            hex::FromHexError::InvalidHexCharacter { .. } => StaticKeyError::NotHex,
            hex::FromHexError::OddLength | hex::FromHexError::InvalidStringLength => {
                StaticKeyError::Length
            }
        })?;
        if bytes.len() == KEY_LEN {
            Ok(Self(Secret::new(bytes)))
        } else {
            Err(StaticKeyError::Length)
        }
    }

    /// The text form: what `openvpn --genkey` writes.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.lines().to_string())
    }

    /// The 256 bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    fn lines(&self) -> impl fmt::Display + '_ {
        struct Lines<'k>(&'k [u8]);
        impl fmt::Display for Lines<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                writeln!(f, "{BEGIN}")?;
                for line in self.0.chunks(LINE_LEN) {
                    for byte in line {
                        write!(f, "{byte:02x}")?;
                    }
                    writeln!(f)?;
                }
                writeln!(f, "{END}")
            }
        }
        Lines(self.0.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key = StaticKey::generate();
        let text = key.to_pem();

        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 18);
        assert!(lines[1..17].iter().all(|line| line.len() == 32));
        let commented = format!("#\n# 2048 bit OpenVPN static key\n#\n{}", *text);
        assert_eq!(StaticKey::from_pem(&commented).unwrap().expose(), key.expose());
        assert_ne!(StaticKey::generate().expose(), key.expose());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text = StaticKey::generate().to_pem();
        let whole = text.trim_end();

        for len in 0..whole.len() {
            assert!(StaticKey::from_pem(&whole[..len]).is_err(), "accepted {len} bytes");
        }
        let damaged = text.replacen("\n", "\nxy", 1);
        assert_eq!(StaticKey::from_pem(&damaged).unwrap_err(), StaticKeyError::NotHex);
        let fifth = text.lines().nth(5).unwrap();
        let shorter = text.replacen(&format!("{fifth}\n"), "", 1);
        assert_eq!(StaticKey::from_pem(&shorter).unwrap_err(), StaticKeyError::Length);
        let longer = text.replacen("\n", "\n00", 1);
        assert_eq!(StaticKey::from_pem(&longer).unwrap_err(), StaticKeyError::Length);
    }
}
