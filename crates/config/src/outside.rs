//! Certificates of CAs that are not Warren's own.

use std::path::PathBuf;

use pki::{NameRule, UserNameFields};

use crate::error::{ConfigError, Source};
use crate::file::OpenVpnTable;
use crate::text::{AuthMode, Text};

/// CAs whose certificates let members in, and what is asked of those.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct OutsideCa {
    /// The CAs, in PEM; absolute.
    pub client_ca: PathBuf,
    /// Their revocation lists, in PEM: a file, or a folder of files; absolute.
    pub crl: Option<PathBuf>,
    /// What in a certificate is the user's name.
    pub username_field: UserNameFields,
    /// Which certificates may come in, if not all.
    pub verify_x509_name: Option<NameRule>,
    /// Certificates must say that they are for clients.
    pub remote_cert_tls: bool,
}

/// Fields of a certificate, as OpenVPN writes them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct UserNameText(pub(crate) UserNameFields);

impl Text for UserNameText {
    fn form() -> String {
        "a field of certificates as in \"CN\" or \"ext:subjectAltName\"".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: pki::BadUserNameFields| error.to_string())
    }
}

/// A rule about names, as OpenVPN writes it, or none for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NameRuleText(pub(crate) Option<NameRule>);

impl Text for NameRuleText {
    fn form() -> String {
        "a whole subject as in \"C=DE, CN=anna\", or a name and what it is as in \"anna name\" or \
         \"office- name-prefix\""
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let (name, kind) = match text.rsplit_once(' ') {
            Some((name, kind @ ("subject" | "name" | "name-prefix"))) => (name.trim(), kind),
            _ => (text, "subject"),
        };
        let is_subject = kind == "subject";
        if name.is_empty() || (is_subject && !name.contains('=')) {
            return Err(format!("{text:?} cannot be read; write {}", Self::form()));
        }
        let name = name.to_owned();
        Ok(Self(Some(match kind {
            "name" => NameRule::CommonName(name),
            "name-prefix" => NameRule::CommonNamePrefix(name),
            _ => NameRule::Subject(name),
        })))
    }
}

/// The five keys together.
pub(crate) fn checked(
    table: &OpenVpnTable,
    source: &Source<'_>,
) -> Result<Option<OutsideCa>, ConfigError> {
    let error = |at, key: &str, what: &str| {
        Err(source.error(at, Some(&format!("doors.openvpn.{key}")), what))
    };
    let crl = table.crl.value.0.clone();
    let Some(client_ca) = table.client_ca.value.0.clone() else {
        let needless = [
            (table.crl.at, "crl", crl.is_some()),
            (
                table.username_field.at,
                "username_field",
                table.username_field.value.0.to_string() != "CN",
            ),
            (
                table.verify_x509_name.at,
                "verify_x509_name",
                table.verify_x509_name.value.0.is_some(),
            ),
            (table.remote_cert_tls.at, "remote_cert_tls", !table.remote_cert_tls.value),
        ];
        return match needless.into_iter().find(|(_, _, is_set)| *is_set) {
            Some((at, key, _)) => {
                error(at, key, "there are no certificates to ask this of; name their `client_ca`")
            }
            None => Ok(None),
        };
    };
    if table.auth.value == AuthMode::Password {
        let what = "with auth = \"password\" nobody is asked for a certificate; write \
                    \"certificate\" or \"both\", or take client_ca out";
        return error(table.client_ca.at, "client_ca", what);
    }
    Ok(Some(OutsideCa {
        client_ca,
        crl,
        username_field: table.username_field.value.0.clone(),
        verify_x509_name: table.verify_x509_name.value.0.clone(),
        remote_cert_tls: table.remote_cert_tls.value,
    }))
}
