use std::fmt::Write as _;

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::certificate::CertificateFacts;

/// What a peer's certificate must be called: OpenVPN's `verify-x509-name NAME TYPE`. Where another
/// field than the common name is the user's name, the rules about the common name are about that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NameRule {
    /// The whole subject, in OpenVPN's form (type `subject`, the default).
    Subject(String),
    /// The common name (type `name`).
    CommonName(String),
    /// How the common name begins (type `name-prefix`).
    CommonNamePrefix(String),
}

impl NameRule {
    /// Says whether the certificate is called so; case counts. `name` is the common name, or what
    /// stands for it.
    pub(crate) fn admits(&self, facts: &CertificateFacts, name: Option<&str>) -> bool {
        match self {
            Self::Subject(subject) => facts.subject == *subject,
            Self::CommonName(wanted) => name == Some(wanted),
            Self::CommonNamePrefix(prefix) => {
                name.is_some_and(|name| name.starts_with(prefix.as_str()))
            }
        }
    }
}

/// The subject as OpenVPN prints and compares it: short attribute names, comma and space between,
/// plus signs inside a multi-valued part, control characters escaped.
pub(crate) fn openvpn_subject(subject: &X509Name<'_>) -> String {
    let mut text = String::new();
    for part in subject.iter() {
        for (at, attribute) in part.iter().enumerate() {
            match (text.is_empty(), at) {
                (true, _) => {}
                (false, 0) => text.push_str(", "),
                (false, _) => text.push_str(" + "),
            }
            let oid = attribute.attr_type().to_id_string();
            text.push_str(short_name(&oid).unwrap_or(&oid));
            text.push('=');
            escape_into(&mut text, attribute);
        }
    }
    text
}

/// The attribute's value as text, whichever of the string types carries it.
pub(crate) fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        }
        // T.61 is read as Latin-1, as OpenSSL does.
        Tag::T61String => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().copied().map(u16::from_be_bytes).collect();
            if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
        }
        Tag::UniversalString => {
            let (quads, rest) = bytes.as_chunks::<4>();
            let text = quads.iter().map(|quad| char::from_u32(u32::from_be_bytes(*quad))).collect();
            if rest.is_empty() { text } else { None }
        }
        _ => None,
    }
}

fn escape_into(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let Some(value) = attribute_text(attribute) else {
        text.push('#');
        for byte in attribute.attr_value().data {
            let _ = write!(text, "{byte:02X}");
        }
        return;
    };
    for character in value.chars() {
        if character.is_ascii_control() {
            let _ = write!(text, "\\{:02X}", u32::from(character));
        } else {
            text.push(character);
        }
    }
}

/// OpenSSL's names for what stands in subjects: number, short name, long name.
const ATTRIBUTES: &[(&str, &str, &str)] = &[
    ("2.5.4.3", "CN", "commonName"),
    ("2.5.4.4", "SN", "surname"),
    ("2.5.4.5", "serialNumber", "serialNumber"),
    ("2.5.4.6", "C", "countryName"),
    ("2.5.4.7", "L", "localityName"),
    ("2.5.4.8", "ST", "stateOrProvinceName"),
    ("2.5.4.9", "street", "streetAddress"),
    ("2.5.4.10", "O", "organizationName"),
    ("2.5.4.11", "OU", "organizationalUnitName"),
    ("2.5.4.12", "title", "title"),
    ("2.5.4.13", "description", "description"),
    ("2.5.4.17", "postalCode", "postalCode"),
    ("2.5.4.41", "name", "name"),
    ("2.5.4.42", "GN", "givenName"),
    ("2.5.4.43", "initials", "initials"),
    ("2.5.4.44", "generationQualifier", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier", "dnQualifier"),
    ("2.5.4.65", "pseudonym", "pseudonym"),
    ("0.9.2342.19200300.100.1.1", "UID", "userId"),
    ("0.9.2342.19200300.100.1.25", "DC", "domainComponent"),
    ("1.2.840.113549.1.9.1", "emailAddress", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName", "unstructuredName"),
];

fn short_name(oid: &str) -> Option<&'static str> {
    ATTRIBUTES.iter().find(|(number, ..)| *number == oid).map(|(_, short, _)| *short)
}

/// The number of what has this short or long name.
pub(crate) fn attribute_number(name: &str) -> Option<&'static str> {
    let is_called = |(_, short, long): &&(&str, &str, &str)| *short == name || *long == name;
    ATTRIBUTES.iter().find(is_called).map(|(number, ..)| *number)
}
