//! Which key of which token: PKCS #11 URIs (RFC 7512), and the form that OpenVPN prints.

use std::fmt::{self, Write as _};

/// Tokens have labels of 32 bytes and paths some thousand: more is a mistake.
const MAX_NAME: usize = 4096;

/// The name of a private key in a token; what is `None` may be anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyName {
    /// The token's label.
    pub token: Option<String>,
    /// Who made the token.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The key's label (CKA_LABEL).
    pub object: Option<String>,
    /// The key's number (CKA_ID).
    pub id: Option<Vec<u8>>,
    /// The library that knows the token.
    pub module: Option<String>,
    /// The file whose first line is the PIN.
    pub pin_file: Option<String>,
}

/// Why a name is none; the sentence has no place in it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeyName(String);

fn bad(what: impl Into<String>) -> BadKeyName {
    BadKeyName(what.into())
}

impl KeyName {
    /// Reads `pkcs11:token=…;id=…?module-path=…`, or `MANUFACTURER/MODEL/SERIAL/LABEL/ID` as
    /// `openvpn --show-pkcs11-ids` prints it.
    ///
    /// # Errors
    ///
    /// The text is neither, or says what cannot be obeyed.
    pub fn parse(text: &str) -> Result<Self, BadKeyName> {
        if text.len() > MAX_NAME {
            return Err(bad("too long for the name of a key"));
        }
        let scheme = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("pkcs11:"));
        let name = match scheme.and_then(|_| text.get(7..)) {
            Some(rest) => Self::parse_uri(rest)?,
            None => Self::parse_serialized(text)?,
        };
        if name.object.is_none() && name.id.is_none() {
            return Err(bad("names no key; add id=… or object=…"));
        }
        Ok(name)
    }

    /// Reads a URI that names a token, and perhaps no key in it.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    fn parse_uri(text: &str) -> Result<Self, BadKeyName> {
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let mut name = Self::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (key, value) = pair(attribute)?;
            let slot = match key {
                "token" => &mut name.token,
                "manufacturer" => &mut name.manufacturer,
                "model" => &mut name.model,
                "serial" => &mut name.serial,
                "object" => &mut name.object,
                "id" => {
                    once(&mut name.id, key, unescaped(value, '%')?)?;
                    continue;
                }
                // A certificate has the number of its key.
                "type" if matches!(value, "private" | "cert") => continue,
                "type" => return Err(bad(format!("type={value} is not a private key"))),
                _ => return Err(unknown(key)),
            };
            once(slot, key, text_of(value, '%')?)?;
        }
        for attribute in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = pair(attribute)?;
            match key {
                "module-path" => once(&mut name.module, key, text_of(value, '%')?)?,
                "pin-source" => {
                    let source = text_of(value, '%')?;
                    let file = source.strip_prefix("file:").unwrap_or(&source);
                    let file = file.strip_prefix("//").unwrap_or(file);
                    if !file.starts_with('/') {
                        return Err(bad("pin-source needs the absolute path of a file"));
                    }
                    once(&mut name.pin_file, key, file.to_owned())?;
                }
                "pin-value" => return Err(bad("pin-value: a PIN does not belong into a name")),
                _ => return Err(unknown(key)),
            }
        }
        Ok(name)
    }

    /// The form of pkcs11-helper, in which `\xHH` stands for a byte.
    fn parse_serialized(text: &str) -> Result<Self, BadKeyName> {
        let parts = text.split('/').collect::<Vec<_>>();
        let [manufacturer, model, serial, label, id] = parts.as_slice() else {
            return Err(bad(
                "neither a URI (pkcs11:token=…;id=…) nor MANUFACTURER/MODEL/SERIAL/LABEL/ID",
            ));
        };
        let id = (0..id.len()).step_by(2).map(|at| byte(id.get(at..at + 2)?));
        let id = id.collect::<Option<Vec<_>>>().filter(|id| !id.is_empty());
        Ok(Self {
            manufacturer: Some(text_of(manufacturer, '\\')?),
            model: Some(text_of(model, '\\')?),
            serial: Some(text_of(serial, '\\')?),
            token: Some(text_of(label, '\\')?),
            id: Some(id.ok_or_else(|| bad("the id at the end is not hexadecimal"))?),
            ..Self::default()
        })
    }

    /// Whether a token that says this of itself is meant.
    #[must_use]
    pub fn fits(&self, token: &str, manufacturer: &str, model: &str, serial: &str) -> bool {
        let is_like = |wanted: &Option<String>, is: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.trim_end() == is.trim_end())
        };
        is_like(&self.token, token)
            && is_like(&self.manufacturer, manufacturer)
            && is_like(&self.model, model)
            && is_like(&self.serial, serial)
    }
}

/// The URI, without the parts that name files.
impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let texts = [
            ("model", &self.model),
            ("manufacturer", &self.manufacturer),
            ("serial", &self.serial),
            ("token", &self.token),
            ("object", &self.object),
        ];
        let texts = texts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let texts = texts.map(|(key, value)| (key, value.as_bytes()));
        let id = self.id.iter().map(|id| ("id", id.as_slice()));
        for (at, (key, value)) in texts.chain(id).enumerate() {
            let semicolon = if at > 0 { ";" } else { "" };
            write!(f, "{semicolon}{key}=")?;
            for byte in value {
                match byte {
                    // Every byte of an id is escaped, as RFC 7512, 2.3 recommends.
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
                        if key != "id" =>
                    {
                        f.write_char(char::from(*byte))?;
                    }
                    _ => write!(f, "%{byte:02X}")?,
                }
            }
        }
        Ok(())
    }
}

fn pair(attribute: &str) -> Result<(&str, &str), BadKeyName> {
    let pair = attribute.split_once('=');
    pair.ok_or_else(|| bad(format!("{attribute:?} is no attribute; expected NAME=VALUE")))
}

fn unknown(key: &str) -> BadKeyName {
    bad(format!(
        "attribute {key:?} is not supported; token, manufacturer, model, serial, object, id, \
         type, module-path and pin-source are"
    ))
}

/// An attribute stands only once (RFC 7512, 2.3).
fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), BadKeyName> {
    if slot.replace(value).is_some() {
        return Err(bad(format!("{key} stands twice")));
    }
    Ok(())
}

fn text_of(value: &str, escape: char) -> Result<String, BadKeyName> {
    let text = String::from_utf8(unescaped(value, escape)?).ok();
    let text = text.filter(|text| !text.chars().any(char::is_control));
    text.ok_or_else(|| bad(format!("{value:?} is not text")))
}

/// Replaces `%HH` or `\xHH` by the byte that it stands for.
fn unescaped(value: &str, escape: char) -> Result<Vec<u8>, BadKeyName> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut parts = value.split(escape);
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let digits = if escape == '\\' { part.strip_prefix('x') } else { Some(part) };
        let digits = digits.and_then(|digits| digits.split_at_checked(2));
        let decoded = digits.and_then(|(digits, rest)| Some((byte(digits)?, rest)));
        let (byte, rest) =
            decoded.ok_or_else(|| bad(format!("{value:?} has a broken escape sequence")))?;
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes)
}

fn byte(digits: &str) -> Option<u8> {
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIALIZED: &str =
        r"SoftHSM\x20project/SoftHSM\x20v2/cfe350e908725741/my\x20tok\x2Fen/01aF";
    const URI: &str = "pkcs11:token=my%20tok%2Fen;manufacturer=SoftHSM%20project;\
        model=SoftHSM%20v2;serial=cfe350e908725741;id=%01%AF";

    #[test]
    fn both_forms_name_the_same_key() {
        let name = KeyName::parse(SERIALIZED).unwrap();

        assert_eq!(name, KeyName::parse(URI).unwrap());
        assert_eq!(name.token.as_deref(), Some("my tok/en"));
        assert_eq!(name.id.as_deref(), Some(&[0x01, 0xaf][..]));
        assert!(name.fits("my tok/en", "SoftHSM project", "SoftHSM v2", "cfe350e908725741  "));
        assert!(!name.fits("my tok", "SoftHSM project", "SoftHSM v2", "cfe350e908725741"));
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let name = KeyName::parse("PKCS11:object=d%c3%a9j%C3%A0;id=%00%2f;type=private").unwrap();

        assert_eq!(name.to_string(), "pkcs11:object=d%C3%A9j%C3%A0;id=%00%2F");
        assert_eq!(KeyName::parse(&name.to_string()), Ok(name));
    }

    #[test]
    fn a_uri_names_the_module_and_the_file_of_the_pin() {
        let name = KeyName::parse("pkcs11:id=a?module-path=/usr/lib/m.so&pin-source=file:/etc/pin")
            .unwrap();

        assert_eq!(name.module.as_deref(), Some("/usr/lib/m.so"));
        assert_eq!(name.pin_file.as_deref(), Some("/etc/pin"));
        assert_eq!(name.id.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        for (text, word) in [
            ("pkcs11:token=a", "names no key"),
            ("pkcs11:id=%01;id=%02", "id stands twice"),
            ("pkcs11:id=%0", "broken escape"),
            ("pkcs11:id=%+1", "broken escape"),
            ("pkcs11:object=%ff", "is not text"),
            ("pkcs11:object=a%0Ab", "is not text"),
            ("pkcs11:slot-id=1;id=a", "\"slot-id\" is not supported"),
            ("pkcs11:id=a;type=data", "is not a private key"),
            ("pkcs11:id=a?pin-value=1234", "does not belong"),
            ("pkcs11:id=a?pin-source=pin", "absolute path"),
            ("pkcs11:id", "expected NAME=VALUE"),
            ("a/b/c/d", "neither a URI"),
            ("a/b/c/d/0", "not hexadecimal"),
            ("a/b/c/d/", "not hexadecimal"),
            ("a/b/c/d/é", "not hexadecimal"),
            (r"a\20/b/c/d/01", "broken escape"),
            ("", "neither a URI"),
        ] {
            let error = KeyName::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(KeyName::parse(&format!("pkcs11:id={}", "a".repeat(MAX_NAME))).is_err());
    }

    #[test]
    fn a_damaged_name_is_refused_or_another_name() {
        for text in [SERIALIZED, URI] {
            let whole = KeyName::parse(text).unwrap();
            for len in 0..text.len() {
                assert_ne!(KeyName::parse(&text[..len]).ok(), Some(whole.clone()), "{len}");
            }
            for at in 0..text.len() {
                for byte in [b'/', b'\\', b'%', b';', b'0', b'z', 0, 0x7f] {
                    let mut damaged = text.as_bytes().to_vec();
                    damaged[at] = byte;
                    let _ = KeyName::parse(std::str::from_utf8(&damaged).unwrap());
                }
            }
        }
    }
}
