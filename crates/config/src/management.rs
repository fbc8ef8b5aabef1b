//! OpenVPN's management protocol: where it is spoken, and what it may do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::error::{ConfigError, Source};
use crate::file::OpenVpnTable;
use crate::text::Text;

/// What the kernel takes as the path of a unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Where the management protocol is spoken, and what it may do.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Management {
    /// Where; a TCP address beyond the loopback only together with a password.
    pub listen: ManagementListen,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Whoever is connected decides about logins.
    pub client_auth: bool,
}

/// A unix socket or a TCP address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ManagementListen {
    /// A path, absolute.
    Unix(PathBuf),
    /// An address with a port.
    Tcp(SocketAddr),
}

/// A [`ManagementListen`], or nothing for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ManagementAddress(pub(crate) Option<ManagementListen>);

impl Text for ManagementAddress {
    fn form() -> String {
        "the whole path of a unix socket, or an address with a port as in \"127.0.0.1:7505\""
            .to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        if text.starts_with('/') {
            if text.len() > MAX_SOCKET_PATH || text.contains('\0') {
                return Err(format!(
                    "{text:?} is too long for the path of a unix socket ({MAX_SOCKET_PATH} bytes)"
                ));
            }
            return Ok(Self(Some(ManagementListen::Unix(text.into()))));
        }
        if !text.contains(':') {
            return Err(format!("{text:?} cannot be read; write {}", Self::form()));
        }
        SocketAddr::from_text(text).map(|address| Self(Some(ManagementListen::Tcp(address))))
    }
}

/// The whole path of a file, or nothing for the empty text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FilePath(pub(crate) Option<PathBuf>);

impl Text for FilePath {
    fn form() -> String {
        "the whole path of a file".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        if !Path::new(text).is_absolute() || text.contains('\0') {
            return Err(format!("{text:?} cannot be read; write {}", Self::form()));
        }
        Ok(Self(Some(text.into())))
    }
}

/// The three keys together.
pub(crate) fn checked(
    table: &OpenVpnTable,
    source: &Source<'_>,
) -> Result<Option<Management>, ConfigError> {
    let password_file = table.management_password_file.value.0.clone();
    let client_auth = table.management_client_auth.value;
    let Some(listen) = table.management.value.0.clone() else {
        let needless = [
            (table.management_client_auth.at, "management_client_auth", client_auth),
            (
                table.management_password_file.at,
                "management_password_file",
                password_file.is_some(),
            ),
        ];
        return match needless.into_iter().find(|(_, _, is_set)| *is_set) {
            Some((at, key, _)) => {
                let what = "there is nothing to connect to; write where in `management`, too";
                Err(source.error(at, Some(&format!("doors.openvpn.{key}")), what))
            }
            None => Ok(None),
        };
    };
    if let ManagementListen::Tcp(address) = &listen
        && !address.ip().is_loopback()
        && password_file.is_none()
    {
        let what = format!(
            "{address} can be reached by others; name a management_password_file, or take \
             127.0.0.1 or a unix socket"
        );
        return Err(source.error(table.management.at, Some("doors.openvpn.management"), what));
    }
    Ok(Some(Management { listen, password_file, client_auth }))
}
