//! Which words of a certificate are its holder's user name: OpenVPN's `x509-username-field`.

use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::serial_hex;
use crate::name::{attribute_number, attribute_text};

/// The longest user name, in bytes: as long as OpenVPN's, and as those of the user list.
pub const MAX_USER_NAME_LEN: usize = 64;
/// More would not fit into a user name.
const MAX_FIELDS: usize = 4;

/// The fields of a certificate that make up the user name, joined by `_`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserNameFields {
    fields: Vec<Field>,
    written: String,
}

/// This is no list of fields.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadUserNameFields {
    /// A word that names no field.
    #[error(
        "{0:?} is no field of a certificate; write CN, UID, emailAddress, another name or number \
         of OpenSSL's, serialNumber, ext:subjectAltName or ext:issuerAltName"
    )]
    Unknown(String),
    /// None at all, or too many.
    #[error("write one field such as \"CN\", or up to {MAX_FIELDS} with spaces between")]
    Number,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Field {
    /// Of the subject, by its number.
    Subject(String),
    SubjectAltName,
    IssuerAltName,
    /// The certificate's own number; OpenVPN knows no other of that name.
    Serial,
}

impl Default for UserNameFields {
    fn default() -> Self {
        let common_name = attribute_number("CN").unwrap_or_default();
        Self { fields: vec![Field::Subject(common_name.to_owned())], written: "CN".to_owned() }
    }
}

impl fmt::Display for UserNameFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl FromStr for UserNameFields {
    type Err = BadUserNameFields;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields = text.split_ascii_whitespace().map(field).collect::<Result<Vec<_>, _>>()?;
        if !(1..=MAX_FIELDS).contains(&fields.len()) {
            return Err(BadUserNameFields::Number);
        }
        Ok(Self { fields, written: text.to_owned() })
    }
}

fn field(word: &str) -> Result<Field, BadUserNameFields> {
    let unknown = || BadUserNameFields::Unknown(word.to_owned());
    match word {
        "serialNumber" => return Ok(Field::Serial),
        "ext:subjectAltName" => return Ok(Field::SubjectAltName),
        "ext:issuerAltName" => return Ok(Field::IssuerAltName),
        _ => {}
    }
    let is_number = word.contains('.')
        && word.len() <= MAX_USER_NAME_LEN
        && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if is_number {
        return Ok(Field::Subject(word.to_owned()));
    }
    // As OpenVPN does, for configurations from before it minded the case.
    let number = attribute_number(word).or_else(|| attribute_number(&word.to_ascii_uppercase()));
    number.map(|number| Field::Subject(number.to_owned())).ok_or_else(unknown)
}

impl UserNameFields {
    /// The user name in a DER certificate: of several values of a field the last, as OpenVPN takes
    /// it. `None` if a field is missing or empty, or if the name has a control character (a zero
    /// byte, say) or more than [`MAX_USER_NAME_LEN`] bytes; it is never shortened or mended, which
    /// could make it somebody else's.
    #[must_use]
    pub fn read(&self, der: &[u8]) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut name = String::new();
        for (at, field) in self.fields.iter().enumerate() {
            if at > 0 {
                name.push('_');
            }
            let value = field.read(&certificate).filter(|value| !value.is_empty())?;
            if name.len() + value.len() > MAX_USER_NAME_LEN || value.chars().any(char::is_control) {
                return None;
            }
            name.push_str(&value);
        }
        Some(name)
    }
}

impl Field {
    fn read(&self, certificate: &X509Certificate<'_>) -> Option<String> {
        match self {
            Self::Subject(number) => {
                let attributes = certificate.subject().iter_attributes();
                let same = attributes.filter(|at| at.attr_type().to_id_string() == *number);
                attribute_text(same.last()?)
            }
            Self::SubjectAltName => {
                let extension = certificate.subject_alternative_name().ok()??;
                last_mail(&extension.value.general_names)
            }
            Self::IssuerAltName => {
                let mut found = certificate.extensions().iter().filter_map(|extension| {
                    match extension.parsed_extension() {
                        ParsedExtension::IssuerAlternativeName(names) => Some(names),
                        _ => None,
                    }
                });
                let names = found.next().filter(|_| found.next().is_none())?;
                last_mail(&names.general_names)
            }
            // As OpenSSL writes it.
            Self::Serial => {
                let digits = serial_hex(certificate.raw_serial()).to_ascii_uppercase();
                Some(format!("0x{digits}"))
            }
        }
    }
}

fn last_mail(names: &[GeneralName<'_>]) -> Option<String> {
    names.iter().rev().find_map(|name| match name {
        GeneralName::RFC822Name(mail) => Some((*mail).to_owned()),
        _ => None,
    })
}
