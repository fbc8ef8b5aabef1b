use std::fmt::Write as _;

use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::error::PkiError;
use crate::name;

/// What a certificate says about itself; proof of nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// The subject in the form of OpenVPN's `verify-x509-name`: `C=DE, O=Burrow, CN=alice`.
    pub subject: String,
    /// The last common name of the subject, as the issuer wrote it: it may hold any character.
    pub common_name: Option<String>,
    /// The serial number in lower-case hexadecimal, two digits a byte, without leading zero bytes.
    pub serial: String,
    /// Valid from this second since 1970.
    pub not_before: i64,
    /// Valid until this second since 1970.
    pub not_after: i64,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
    /// What the key is for (RFC 5280, 4.2.1.3), as OpenVPN counts: digitalSignature is 0x80,
    /// encipherOnly is 0x01. `None` if the certificate does not say.
    pub key_usage: Option<u8>,
}

impl CertificateFacts {
    /// Reads a DER certificate.
    ///
    /// # Errors
    ///
    /// [`PkiError::BadCertificate`] if it is none, or bytes follow it.
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PkiError::BadCertificate(1))?;
        if !rest.is_empty() {
            return Err(PkiError::BadCertificate(1));
        }

        Ok(Self {
            subject: name::openvpn_subject(certificate.subject()),
            common_name: last_common_name(certificate.subject()),
            serial: serial_hex(certificate.raw_serial()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            fingerprint: fingerprint(der),
            key_usage: key_usage(&certificate),
        })
    }

    /// Checks the dates against `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`PkiError::Expired`] or [`PkiError::NotYetValid`], with the day.
    pub fn check_dates(&self, now: u64) -> Result<(), PkiError> {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let subject = || self.subject.clone();
        if now < self.not_before {
            return Err(PkiError::NotYetValid { subject: subject(), date: day(self.not_before) });
        }
        if now > self.not_after {
            return Err(PkiError::Expired { subject: subject(), date: day(self.not_after) });
        }
        Ok(())
    }
}

/// The SHA-256 fingerprint of a DER certificate.
#[must_use]
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    crypto::digest::sha256(&[der])
}

/// A serial number as people and OpenVPN's `crl-verify DIR dir` write it, in decimal, in the form
/// of [`CertificateFacts::serial`]; `None` if it is no number of up to 20 bytes (RFC 5280,
/// 4.1.2.2).
#[must_use]
pub fn serial_from_decimal(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut bytes = [0_u8; 20];
    for digit in text.chars() {
        let mut carry = digit.to_digit(10)?;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 10;
            let [low, ..] = carry.to_le_bytes();
            *byte = low;
            carry >>= 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(serial_hex(&bytes))
}

fn key_usage(certificate: &X509Certificate<'_>) -> Option<u8> {
    let usage = certificate.key_usage().ok().flatten()?;
    let [low, _] = usage.value.flags.to_le_bytes();
    Some(low.reverse_bits())
}

/// OpenVPN, too, takes the last where there are several.
fn last_common_name(subject: &X509Name<'_>) -> Option<String> {
    let attribute = subject.iter_common_name().last()?;
    name::attribute_text(attribute)
}

pub(crate) fn serial_hex(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    let digits = &bytes[significant..];
    if digits.is_empty() {
        return "00".to_owned();
    }
    digits.iter().fold(String::with_capacity(digits.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

pub(crate) fn day(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| format!("second {seconds}"), |time| time.to_datetime().date().to_string())
}
