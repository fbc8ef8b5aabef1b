//! Where the server's private key is, if it is in a token.

use std::path::PathBuf;

use pki::KeyName;

use crate::text::Text;

/// A key in a token.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TokenPlace {
    /// The library that knows the token, by its absolute path.
    pub module: String,
    /// Which key.
    pub key: KeyName,
    /// A file whose first line is the PIN; a token without one wants none.
    pub pin_file: Option<PathBuf>,
}

/// A [`TokenPlace`], or nothing for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct TokenKeyUri(pub(crate) Option<TokenPlace>);

impl Text for TokenKeyUri {
    fn form() -> String {
        "a PKCS #11 URI with a module-path, as in \
         \"pkcs11:token=vpn;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so\""
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let mut key = KeyName::parse(text).map_err(|why| format!("{text:?}: {why}"))?;
        let pin_file = key.pin_file.take().map(PathBuf::from);
        match key.module.take() {
            Some(module) if module.starts_with('/') => {
                Ok(Self(Some(TokenPlace { module, key, pin_file })))
            }
            _ => Err(format!("{text:?} does not name its library; write {}", Self::form())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_needs_a_library_and_its_pin_a_file() {
        let read = |text| TokenKeyUri::from_text(text).map(|uri| uri.0);

        let place = read("pkcs11:id=%01?module-path=/m.so&pin-source=/pin").unwrap().unwrap();
        assert_eq!((place.module.as_str(), place.pin_file), ("/m.so", Some("/pin".into())));
        assert_eq!(read(""), Ok(None));
        for (text, word) in [
            ("pkcs11:id=%01", "does not name its library"),
            ("pkcs11:id=%01?module-path=m.so", "does not name its library"),
            ("pkcs11:token=a?module-path=/m.so", "names no key"),
            ("/etc/key.pem", "neither a URI"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
