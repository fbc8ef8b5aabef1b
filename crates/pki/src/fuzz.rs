//! Bodies of fuzz targets: names of keys; certificates and revocation lists of strangers.

use std::sync::Arc;

use contract::WallClock;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::{
    CertificateFacts, KeyName, MAX_USER_NAME_LEN, OutsideCas, OutsideRules, UserNameFields,
};

/// Inside the validity of the corpus.
const NOW: u64 = 1_800_000_000;

fn rules(certificate: &[u8], list: Option<&[u8]>) -> Option<OutsideRules> {
    let outside = OutsideCas {
        certificates: vec![CertificateDer::from(certificate.to_vec())],
        lists: list.map(|list| vec![CertificateRevocationListDer::from(list.to_vec())]),
        ..OutsideCas::default()
    };
    let clock = Arc::new(WallClock::new(NOW));
    OutsideRules::new(outside, clock, &crypto::tls::provider()).ok()
}

/// A client's certificate, or what is said to be a CA's.
pub fn certificate(data: &[u8]) {
    for written in
        ["CN", "emailAddress", "UID serialNumber", "ext:subjectAltName", "ext:issuerAltName"]
    {
        let fields: UserNameFields = written.parse().unwrap_or_default();
        if let Some(name) = fields.read(data) {
            assert!((1..=MAX_USER_NAME_LEN).contains(&name.len()));
            assert!(!name.chars().any(char::is_control));
        }
    }
    let Ok(facts) = CertificateFacts::read(data) else { return };
    let leaf = CertificateDer::from(data);
    if let Some(rules) = rules(data, None) {
        let _ = rules.judge(&facts, &leaf, std::slice::from_ref(&leaf));
    }
}

/// A CA's revocation list, behind the CA's certificate and two bytes with its length.
pub fn revocation_list(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let len = usize::from(u16::from_be_bytes(*len));
    let Some((certificate, list)) = rest.split_at_checked(len) else { return };
    if let Some(rules) = rules(certificate, Some(list)) {
        assert_eq!(rules.counts(), (1, 1));
    }
}

/// Names of keys, as operators and profiles give them.
pub fn key_name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(name) = KeyName::parse(text) else { return };

    let shown = name.to_string();
    let bare = KeyName { module: None, pin_file: None, ..name };
    // Escapes make it longer than what may be read.
    if shown.len() <= 4096 {
        assert_eq!(KeyName::parse(&shown), Ok(bare), "{shown}");
    }
}
