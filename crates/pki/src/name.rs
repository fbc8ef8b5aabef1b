use std::fmt::Write as _;

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::certificate::CertificateFacts;

/// What a peer's certificate must be called: OpenVPN's `verify-x509-name NAME TYPE`.
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
    /// Says whether the certificate is called so; case counts.
    #[must_use]
    pub fn admits(&self, facts: &CertificateFacts) -> bool {
        let common_name = facts.common_name.as_deref();
        match self {
            Self::Subject(subject) => facts.subject == *subject,
            Self::CommonName(name) => common_name == Some(name),
            Self::CommonNamePrefix(prefix) => {
                common_name.is_some_and(|name| name.starts_with(prefix.as_str()))
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

/// OpenSSL's short names for what stands in subjects.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.2.840.113549.1.9.2" => "unstructuredName",
        _ => return None,
    })
}
